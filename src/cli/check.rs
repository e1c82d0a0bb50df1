//! `check`: is this configuration good? All faults at once, each where it is; with `--probe` also whether the store can be
//! used, and the sinks' credentials.

use std::time::Duration;

use clap::Args;

use super::reach::Context;
use super::{Failure, block_on, print};
use crate::app;
use crate::config::{self, Config, Environment};
use crate::sinks::{NOT_TRIED, Sink};
#[cfg(feature = "postgres")]
use crate::store::postgres;
use crate::store::{StoreError, sqlite};

/// A peer that is there answers its probe within this time.
const PROBE_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Args, Debug)]
pub(super) struct Check {
    /// Also try the store and each sink's credentials, without changing anything there
    #[arg(long)]
    probe: bool,
}

impl Check {
    pub(super) fn run(&self, context: &Context<'_>) -> Result<(), Failure> {
        let config::Report { config, adapters } = config::check(Some(context.file()), context.env)?;
        for warning in &adapters.warnings {
            print::complain(&format!("warning: {warning}"));
        }
        #[cfg(feature = "postgres")]
        if config.store.is_postgres() {
            let file = context.file().display();
            app::address(&config, None).map_err(|why| Failure::Config(format!("{file}: {why}")))?;
        }
        let (sources, sinks) = (config.sources.len(), config.sinks.len());
        let (routes, links) = (config.routes.len(), config.links.len());
        let file = context.file().display();
        print::stdout(|out| {
            writeln!(out, "ok: {file}: sources {sources}, sinks {sinks}, routes {routes}, links {links}")
        })?;
        if !self.probe {
            return Ok(());
        }
        let is_usable = block_on(probe_store(&config, context.env))?;
        block_on(probe(config.sinks.iter().map(|s| &*s.name).zip(adapters.sinks)))?;
        if is_usable { Ok(()) } else { Err(Failure::Told) }
    }
}

/// Whether a daemon would start on the store.
async fn probe_store(config: &Config, env: &Environment) -> Result<bool, Failure> {
    let found = match tokio::time::timeout(PROBE_TIMEOUT, look(config, env)).await {
        Ok(found) => found?.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())),
    };
    let word = if found.is_ok() { "ok" } else { "failed" };
    let (Ok(text) | Err(text)) = &found;
    print::stdout(|out| writeln!(out, "{word}: store: {}", print::plain(text)))?;
    Ok(found.is_ok())
}

#[cfg_attr(not(feature = "postgres"), expect(unused_variables, reason = "what only PostgreSQL needs"))]
async fn look(config: &Config, env: &Environment) -> Result<Result<String, StoreError>, Failure> {
    #[cfg(feature = "postgres")]
    if config.store.is_postgres() {
        let address = app::address(config, super::reach::password(config, env)?.as_ref())?;
        let found = postgres::probe(&address, config.store.may_lose.into()).await;
        let place = address.place();
        return Ok(found
            .map(|said| format!("{place}: {said}"))
            .map_err(|e| StoreError::Unusable(format!("{place}: {e}"))));
    }
    Ok(sqlite::probe(&app::store_path(config)))
}

async fn probe(sinks: impl Iterator<Item = (&str, Box<dyn Sink>)>) -> Result<(), Failure> {
    let mut failed = false;
    for (name, sink) in sinks {
        let found = tokio::time::timeout(PROBE_TIMEOUT, sink.probe()).await;
        let found = found.unwrap_or_else(|_| Err(format!("no answer within {} s", PROBE_TIMEOUT.as_secs())));
        let word = match &found {
            Ok(text) if text == NOT_TRIED => "not tried",
            Ok(_) => "ok",
            Err(_) => "failed",
        };
        failed |= found.is_err();
        let (Ok(text) | Err(text)) = &found;
        print::stdout(|out| writeln!(out, "{word}: sinks.{name}: {}", print::plain(text)))?;
    }
    if failed { Err(Failure::Told) } else { Ok(()) }
}
