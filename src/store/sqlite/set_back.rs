//! The clock was set back: what waits for a time waits no longer for that.
//!
//! Ids go on rising whatever the clock does, so they tell a new process, too, that it is behind what it was. A few tries that
//! come too early do no harm; retries that wait for a day would.

use rusqlite::params;

use super::SqliteStore;
use super::writer::{Fault, Tx};
use crate::model::Time;
use crate::store::StoreError;

/// Rows of one transaction.
const CHUNK: usize = 500;
/// Ids may be ahead of the clock by a little: each is at least one more than the last.
const AHEAD_MS: u64 = 5000;

/// How far one transaction came.
struct Step {
    /// Until when it was due, and the id, of the last one that was looked at; `None` at the end.
    last: Option<(i64, i64)>,
    moved: u64,
}

/// By how many microseconds it was set back, if so: by so much, or, where nobody saw it, as the ids tell.
pub(super) fn by_us(tx: &Tx<'_>, by_ms: Option<u64>, now: Time) -> Option<i64> {
    let by_ids = || Some(Time::from_micros(tx.last_id()).ms_since(now)).filter(|ms| *ms > AHEAD_MS);
    by_ms.or_else(by_ids).map(|ms| i64::try_from(ms.saturating_mul(1000)).unwrap_or(i64::MAX))
}

impl SqliteStore {
    /// See [`crate::store::Store::set_back`].
    pub(super) async fn move_back(&self, sink: String, by_ms: Option<u64>, now: Time) -> Result<u64, StoreError> {
        let Some(by_us) = self.call(move |tx| Ok(by_us(tx, by_ms, now))).await? else { return Ok(0) };
        let (mut after, mut moved) = ((now.micros(), i64::MAX), 0);
        loop {
            let sink = sink.clone();
            let step = self.call(move |tx| step(tx, &sink, by_us, after, now)).await?;
            moved += step.moved;
            match step.last {
                Some(last) => after = last,
                None => return Ok(moved),
            }
        }
    }
}

fn step(tx: &mut Tx<'_>, sink: &str, by_us: i64, after: (i64, i64), now: Time) -> Result<Step, Fault> {
    let mut waiting = tx.conn.prepare(
        "SELECT due_at, id FROM deliveries WHERE finished_at IS NULL AND status = 'waiting' AND sink = ?1
            AND due_at >= ?2 AND (due_at > ?2 OR id > ?3) ORDER BY due_at, id LIMIT ?4",
    )?;
    let rows =
        waiting.query_map(params![sink, after.0, after.1, CHUNK as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let rows: Vec<(i64, i64)> = rows.collect::<Result<_, _>>()?;
    let mut sooner = tx.conn.prepare("UPDATE deliveries SET due_at = max(?2, due_at - ?3) WHERE id = ?1")?;
    for (_, id) in &rows {
        sooner.execute(params![id, now.micros(), by_us])?;
    }
    let last = rows.last().copied().filter(|_| rows.len() == CHUNK);
    Ok(Step { last, moved: rows.len() as u64 })
}
