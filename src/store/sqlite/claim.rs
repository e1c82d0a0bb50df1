//! Deliveries claimed under a lease, many at once.
//!
//! `due_at` says from when a delivery may be claimed: a lease moves it to the lease's end, so one that was never
//! settled comes back by itself; behind another delivery of its execution and sink it is NULL, and the settling of
//! that one sets it. The order per execution and sink rests on this alone. What is due longest goes first, and what
//! becomes due by a settlement goes behind it: so executions take turns, whatever each of them has to tell.

use rusqlite::{Row, params};

use super::super::rules::{self, BYTES_MAX, Claimed};
use super::SqliteStore;
use super::writer::{Fault, Tx};
use crate::model::{Link, Rules, Time};
use crate::store::{Claim, StoreError};

impl SqliteStore {
    pub(super) async fn claim_window(
        &self,
        sink: String,
        limit: usize,
        lease_ms: u64,
        by: Time,
        now: Time,
    ) -> Result<Claim, StoreError> {
        let until = now.plus_ms(lease_ms);
        let window = self.call(move |tx| claim(tx, &sink, limit, by, now, until)).await?;
        let known = |one: &Claimed| (one.sequence == 1).then(|| self.fresh.take(one.execution)).flatten();
        let bury = |dead| self.call(move |tx| rules::settle(tx, &dead, &Rules::default(), now));
        let (deliveries, is_due) = rules::legible(window.claimed, (until, now), known, bury).await;
        let next_due = if is_due { Some(now) } else { window.next_due };
        Ok(Claim { deliveries, until, next_due, is_paused: window.is_paused, ..Claim::default() })
    }
}

/// What was claimed at once.
struct Window {
    claimed: Vec<Claimed>,
    next_due: Option<Time>,
    is_paused: bool,
}

fn read(row: &Row<'_>) -> rusqlite::Result<Claimed> {
    Ok(Claimed {
        id: row.get(0)?,
        execution: row.get(1)?,
        change: row.get(2)?,
        attempts: row.get(3)?,
        created_at: row.get(4)?,
        resume: row.get(5)?,
        sequence: row.get(6)?,
        kind: row.get(7)?,
        previous_status: row.get(8)?,
        changed_tasks: row.get(9)?,
        receipt: row.get(10)?,
        received_at: row.get(11)?,
        snapshot: row.get(12)?,
        links: Vec::new(),
    })
}

fn claim(tx: &mut Tx<'_>, sink: &str, limit: usize, by: Time, now: Time, until: Time) -> Result<Window, Fault> {
    if tx.sql.is_paused.query_row([sink], |row| row.get(0))? {
        return Ok(Window { claimed: Vec::new(), next_due: None, is_paused: true });
    }
    let (mut claimed, mut bytes) = (Vec::new(), 0);
    let mut rows = tx.sql.due.query(params![sink, by.micros(), limit as i64, now.micros()])?;
    while bytes < BYTES_MAX
        && let Some(row) = rows.next()?
    {
        let one = read(row)?;
        bytes += one.snapshot.len();
        claimed.push(one);
    }
    drop(rows);
    // Where no rule links anything, nothing is looked up for each.
    let is_linked = !claimed.is_empty() && tx.sql.is_linked.query_row([], |row| row.get(0))?;
    for delivery in &mut claimed {
        tx.sql.lease.execute(params![delivery.id, until.micros()])?;
        if is_linked {
            let links = tx.sql.links.query_map([delivery.execution], |row| {
                let id: i64 = row.get(2)?;
                Ok(Link { source: row.get(0)?, key: row.get(1)?, execution: id.to_string() })
            })?;
            delivery.links = links.collect::<Result<_, _>>()?;
        }
    }
    // A short answer means that nothing else is due now; only then does the caller need to know until when.
    let next_due = if claimed.len() < limit && bytes < BYTES_MAX {
        tx.sql.next_due.query_row([sink], |row| row.get::<_, Option<i64>>(0))?.map(Time::from_micros)
    } else {
        Some(by)
    };
    Ok(Window { claimed, next_due, is_paused: false })
}

/// Gives leases back before their end: what was not begun is due again, and first.
pub(super) fn release(tx: &mut Tx<'_>, deliveries: &[i64], lease: Time) -> Result<(), Fault> {
    for delivery in deliveries {
        tx.sql.release.execute([*delivery, lease.micros()])?;
    }
    Ok(())
}
