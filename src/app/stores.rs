//! The store that the configuration names, opened.

use std::sync::Arc;

use super::{Error, store_path};
use crate::config::Config;
use crate::measure::Measures;
use crate::pipeline::Wake;
use crate::secret::Secret;
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{Queries, Store, StoreError};

/// To write.
#[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "what only PostgreSQL needs"))]
pub(super) async fn open(
    config: &Config,
    password: Option<&Secret>,
    measures: &Measures,
    wake: &Wake,
) -> Result<Arc<dyn Store>, Error> {
    let measures = Arc::clone(&measures.store);
    #[cfg(feature = "postgres")]
    if config.store.is_postgres() {
        use crate::store::postgres::{Options, PostgresStore, Word};
        let wake = wake.clone();
        let options = Options {
            queue_max: config.store.queue_max,
            connections: config.store.connections,
            durability: config.store.may_lose.into(),
            name: config.instance(),
            listens: config.server.listen.clone(),
            woken: Arc::new(move |word| match word {
                Word::Due(sink) => wake.sinks(&[sink]),
                Word::Stopped(sink) => wake.pauses(sink),
            }),
            measures,
            ..Options::default()
        };
        return Ok(Arc::new(PostgresStore::open(address(config, password)?, options).await?));
    }
    let options = sqlite::Options {
        queue_max: config.store.queue_max,
        readers: config.store.readers,
        log_bytes: config.store.log_bytes,
        measures,
        ..sqlite::Options::default()
    };
    Ok(Arc::new(SqliteStore::open(&store_path(config), &options)?))
}

/// To read, beside a daemon or alone.
#[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "what only PostgreSQL needs"))]
pub fn queries(config: &Config, password: Option<&Secret>) -> Result<Box<dyn Queries>, StoreError> {
    #[cfg(feature = "postgres")]
    if config.store.is_postgres() {
        return Ok(crate::store::postgres::open_read_only(address(config, password)?));
    }
    sqlite::open_read_only(&store_path(config))
}

/// Where the database is.
#[cfg(feature = "postgres")]
pub fn address(config: &Config, password: Option<&Secret>) -> Result<crate::store::postgres::Address, StoreError> {
    let ca_file = config.store.ca_file.as_deref();
    crate::store::postgres::Address::parse(&config.store.url, password.map(Secret::expose), ca_file)
        .map_err(|why| StoreError::Unusable(format!("store.url: {why}")))
}
