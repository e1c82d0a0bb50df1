//! Deliveries claimed under a lease, many at once.
//!
//! `due_at` says from when a delivery may be claimed: a lease moves it to the lease's end, so one that was never
//! settled comes back by itself; behind another delivery of its execution and sink it is NULL, and the settling of
//! that one sets it. The order per execution and sink rests on this alone. What is due longest goes first, and what
//! becomes due by a settlement goes behind it: so executions take turns, whatever each of them has to tell.

use rusqlite::{Row, params};

use super::SqliteStore;
use super::deliver::{self, ReadySettlement};
use super::fresh::Fresh;
use super::writer::{Fault, Tx};
use crate::model::{Change, ChangeMeta, Delivery, Link, Rules, State, Status, Time};
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
        let (mut deliveries, mut next_due) = (Vec::with_capacity(window.claimed.len()), window.next_due);
        for one in window.claimed {
            let id = one.id;
            match one.into_delivery(&self.fresh) {
                Ok(delivery) => deliveries.push(delivery),
                // Not to hold up the others: a dead letter, which a later version may be able to read.
                Err(e) => {
                    let dead = ReadySettlement::unreadable(id, e.to_string(), until, now);
                    match self.call(move |tx| deliver::settle(tx, &dead, &Rules::default(), now)).await {
                        Ok(wake) if wake.is_empty() => {}
                        // The next one of its execution is due.
                        Ok(_) => next_due = Some(now),
                        Err(e) => {
                            tracing::warn!(delivery.id = id, error = %e, "cannot be read, and waits until its lease ends");
                        }
                    }
                }
            }
        }
        Ok(Claim { deliveries, until, next_due, is_paused: window.is_paused })
    }
}

/// A claimed delivery as the rows have it; made into a [`Delivery`] off the writer's thread.
struct Claimed {
    id: i64,
    execution: i64,
    change: i64,
    attempts: u32,
    created_at: i64,
    resume: Option<String>,
    sequence: u32,
    kind: String,
    previous_status: Option<String>,
    changed_tasks: Option<String>,
    receipt: Option<i64>,
    received_at: i64,
    snapshot: String,
    links: Vec<Link>,
}

/// What was claimed at once.
struct Window {
    claimed: Vec<Claimed>,
    next_due: Option<Time>,
    is_paused: bool,
}

/// A claim ends with the snapshot that reaches this: what is claimed is held in memory until it is delivered.
const BYTES_MAX: usize = 1 << 20;

impl Claimed {
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

    fn into_delivery(self, fresh: &Fresh) -> Result<Delivery, StoreError> {
        let unreadable =
            |e: String| StoreError::Unusable(format!("change {} cannot be read from the store: {e}", self.change));
        let state = match (self.sequence == 1).then(|| fresh.take(self.execution)).flatten() {
            Some(state) => state,
            None => State::of_snapshot(&self.snapshot).map_err(|e| unreadable(e.to_string()))?,
        };
        let previous_status =
            self.previous_status.as_deref().map(str::parse::<Status>).transpose().map_err(unreadable)?;
        let meta = ChangeMeta {
            overdue: self.kind == Change::OVERDUE,
            kind: self.kind,
            sequence: self.sequence,
            previous_status,
            changed_tasks: changed_tasks(self.changed_tasks.as_deref(), &state),
            receipt: self.receipt.map(|id| id.to_string()),
            received_at: Time::from_micros(self.received_at),
        };
        let change = Change { id: self.change, execution_id: self.execution, state, links: self.links, meta };
        Ok(Delivery {
            id: self.id,
            change: change.into(),
            attempts: self.attempts,
            created_at: Time::from_micros(self.created_at),
            resume: self.resume.and_then(|text| serde_json::from_str(&text).ok()),
        })
    }
}

/// The keys of the tasks that a change changed, as they are stored.
pub(super) fn changed_tasks(stored: Option<&str>, state: &State) -> Vec<String> {
    match stored {
        Some(keys) => serde_json::from_str(keys).unwrap_or_default(),
        None => state.tasks.iter().map(|task| task.key.clone()).collect(),
    }
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
        let one = Claimed::read(row)?;
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
