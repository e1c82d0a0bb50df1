//! A clock was set back: what waits for a time waits no longer for that.
//!
//! All times that something waits for are the server's. So a machine's clock moves nothing of what all of them wait for, and
//! the server's, once it was set back, everything: by whoever notices it first ([`super::keeper`]). What a start finds that
//! nobody saw is told by the ids.

use std::sync::Arc;

use tokio_postgres::types::Type;

use super::PostgresStore;
use super::replicas::GONE;
use super::tx::{Done, Touches, Tx, Values};
use super::writer::{self, Commands};
use crate::model::Time;
use crate::store::StoreError;

/// How many rows one transaction moves to another time.
const STEP: i64 = 1000;
/// Ids may be ahead of the clock by a little: each is more than the last.
const AHEAD_MS: u64 = 5000;

/// What waits in a table, which column says for whom, and the condition.
pub(super) struct Waits(&'static str, &'static str, &'static str);

/// For a sink.
pub(super) const DELIVERIES: Waits = Waits("deliveries", "sink", "finished_at IS NULL AND status = 'waiting'");
/// What is held, of a source; and what is expected to end, which is not to be late too soon where the ids alone tell.
pub(super) const HELD: Waits = Waits("inquiries", "source", "NOT leased AND key IS NOT NULL");
const LATE: Waits = Waits("inquiries", "source", "NOT leased AND key IS NULL");

/// The server's clock was set back by so much, and says `now`: all that waits is due as much sooner.
pub(super) async fn all(queue: Arc<Commands>, by_us: i64, now: Time) {
    let mut count = 0;
    let moved = async {
        for of in [&DELIVERIES, &HELD, &LATE] {
            for name in names(&queue, of).await? {
                count += rows(&queue, of, &name, by_us, now).await?;
            }
        }
        probes(&queue, by_us, now).await
    };
    let moved: Result<(), StoreError> = moved.await;
    match moved {
        Ok(()) => tracing::warn!(
            clock.back_ms = by_us / 1000,
            rows = count,
            "the database's clock was set back: what waits is tried as much sooner"
        ),
        Err(e) => {
            tracing::warn!(clock.back_ms = by_us / 1000, error = %e, "the database's clock was set back, and what waits is tried later")
        }
    }
}

/// For whom something waits: one after the other by the index, not out of all that waits.
async fn names(queue: &Commands, &Waits(table, name, waits): &Waits) -> Result<Vec<String>, StoreError> {
    let sql = format!(
        "WITH RECURSIVE names (name) AS (
             SELECT min({name}) FROM {table} WHERE {waits}
             UNION ALL
             SELECT (SELECT min(t.{name}) FROM {table} t WHERE {waits} AND t.{name} > names.name) FROM names
             WHERE names.name IS NOT NULL)
         SELECT name FROM names WHERE name IS NOT NULL"
    );
    let ask = move |tx: &mut Tx<'_>| Ok(tx.rows(&sql, &[])?.iter().map(|row| row.get(0)).collect());
    writer::put(queue, 0, Touches::default(), ask).await
}

/// Moves what waits for this name, soonest first and in steps, so that callbacks are committed in between. What was moved is
/// due before what was not.
async fn rows(
    queue: &Commands,
    &Waits(table, of, waits): &Waits,
    name: &str,
    by_us: i64,
    now: Time,
) -> Result<u64, StoreError> {
    let (mut after, mut count) = ((now.micros(), i64::MAX), 0);
    let sql = format!(
        "WITH these AS (
             SELECT id, due_at FROM {table} WHERE {of} = $1 AND {waits} AND due_at >= $2 AND (due_at > $2 OR id > $3)
             ORDER BY due_at, id LIMIT {STEP} FOR UPDATE),
         moved AS (UPDATE {table} t SET due_at = greatest($4, t.due_at - $5) FROM these WHERE t.id = these.id)
         SELECT count(*), (SELECT due_at FROM these ORDER BY due_at DESC, id DESC LIMIT 1),
                (SELECT id FROM these ORDER BY due_at DESC, id DESC LIMIT 1) FROM these"
    );
    loop {
        let (sql, name, from) = (sql.clone(), name.to_owned(), after);
        let step = move |tx: &mut Tx<'_>| -> Done<(i64, Option<(i64, i64)>)> {
            let values: &Values<'_> = &[
                (&name, Type::TEXT),
                (&from.0, Type::INT8),
                (&from.1, Type::INT8),
                (&now.micros(), Type::INT8),
                (&by_us, Type::INT8),
            ];
            let rows = tx.change(&sql, values)?;
            let Some(row) = rows.first() else { return Ok((0, None)) };
            Ok((row.get(0), row.get::<_, Option<i64>>(1).zip(row.get(2))))
        };
        let (moved, last) = writer::put(queue, 0, Touches::default(), step).await?;
        count += moved.unsigned_abs();
        match last.filter(|_| moved == STEP) {
            Some(last) => after = last,
            None => return Ok(count),
        }
    }
}

/// When sinks are probed that fail, and when somebody who has the probe is given up.
async fn probes(queue: &Commands, by_us: i64, now: Time) -> Result<(), StoreError> {
    let sql = "UPDATE sink_breakers SET probe_at = greatest($2, probe_at - $1) WHERE probe_at > $2";
    let step = move |tx: &mut Tx<'_>| tx.rows(sql, &[(&by_us, Type::INT8), (&now.micros(), Type::INT8)]).map(drop);
    writer::put(queue, 0, Touches::default(), step).await
}

/// Whether somebody is there who goes by the clock of another machine than the holder `$1`.
const HAS_OTHERS: &str = "SELECT EXISTS (SELECT 1 FROM replicas o JOIN replicas h ON h.token = $1 AND h.name <> o.name
    WHERE o.seen_at > clock_timestamp() - make_interval(secs => $2))";

impl PostgresStore {
    /// Moves what waits for this name, where nobody saw that the clock was set, and the ids are ahead of the server's and of
    /// this machine's. Among several they tell nothing: the clock of another may be ahead.
    pub(super) async fn move_back(
        &self,
        of: Waits,
        name: String,
        by_ms: Option<u64>,
        now: Time,
    ) -> Result<u64, StoreError> {
        if by_ms.is_some() {
            return Ok(0);
        }
        let there = self.place.apart().of_server(now);
        let ask = move |tx: &mut Tx<'_>| {
            let ahead_ms = Time::from_micros(tx.last_id()).ms_since(now.max(there));
            let of_others: &Values<'_> = &[(&tx.holder, Type::INT8), (&f64::from(GONE), Type::FLOAT8)];
            if ahead_ms <= AHEAD_MS || tx.ask(HAS_OTHERS, of_others)?.first().is_some_and(|row| row.get(0)) {
                return Ok(None);
            }
            Ok(Some(i64::try_from(ahead_ms.saturating_mul(1000)).unwrap_or(i64::MAX)))
        };
        match self.call(Touches::default(), ask).await? {
            Some(by_us) => rows(&self.queue, &of, &name, by_us, there).await,
            None => Ok(0),
        }
    }
}
