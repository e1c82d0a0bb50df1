//! The breakers of sinks, as rows that all who share the database go by: a sink that fails for one is left alone by all, but
//! for a probe by one of them at a time. The claim takes the probe, and looks at the rest ([`super::claim`]).

use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::PostgresStore;
use super::clocks::Apart;
use super::connect::fault;
use super::tx::Values;
use crate::measure::Open;
use crate::model::Time;
use crate::store::{Breaker, StoreError};

/// Whether the sink `$1` is paused, and its breaker.
pub(super) const STANDS: &str = "SELECT EXISTS (SELECT 1 FROM sink_pauses p WHERE p.sink = $1), b.opened_at, b.probe_at
    FROM (VALUES (1)) one LEFT JOIN sink_breakers b ON b.sink = $1";

/// Who probes says how it went; before that only patience that somebody else was asked for counts.
const AGAIN: &str = "UPDATE sink_breakers b SET holder = nullif(b.holder, $3),
        probe_at = CASE WHEN b.holder = $3 THEN $2 WHEN b.holder IS NULL THEN greatest(b.probe_at, $2) ELSE b.probe_at END
    WHERE b.sink = $1";

impl PostgresStore {
    pub(super) async fn share(&self, sink: String, open: Option<Open>) -> Result<(), StoreError> {
        let client = self.pool.get().await?;
        let of_sink = (&sink as &(dyn tokio_postgres::types::ToSql + Sync), Type::TEXT);
        let changed = match open {
            None => {
                let sql = "DELETE FROM sink_breakers WHERE sink = $1 RETURNING sink";
                client.query_typed(sql, &[of_sink]).await.map_err(fault)?
            }
            Some(Open { since, probe_at }) => {
                let apart = self.place.apart();
                let (since, probe_at) = (apart.of_server(since).micros(), apart.of_server(probe_at).micros());
                let opens = "INSERT INTO sink_breakers (sink, opened_at, probe_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING RETURNING sink";
                let values: &Values<'_> = &[of_sink.clone(), (&since, Type::INT8), (&probe_at, Type::INT8)];
                let opened = client.query_typed(opens, values).await.map_err(fault)?;
                if opened.is_empty() {
                    let values: &Values<'_> = &[of_sink, (&probe_at, Type::INT8), (&self.place.token(), Type::INT8)];
                    client.execute_typed(AGAIN, values).await.map_err(fault)?;
                }
                opened
            }
        };
        if !changed.is_empty() {
            self.herald.stopped(&[sink]);
        }
        Ok(())
    }
}

/// What [`STANDS`] says of the breaker; that it is closed is said to who asked for a probe.
pub(super) fn stands(row: &Row, apart: Apart, probes: bool) -> Breaker {
    let time = |at| row.get::<_, Option<i64>>(at).map(|us| apart.of_here(Time::from_micros(us)));
    match (time(1), time(2)) {
        (Some(since), Some(probe_at)) => Breaker::Open(Open { since, probe_at }),
        _ if probes => Breaker::Closed,
        _ => Breaker::Own,
    }
}
