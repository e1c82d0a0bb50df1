//! Deliveries inside the transaction: claimed under a lease, settled, retried, discarded.
//!
//! `due_at` says from when a delivery may be claimed: a lease moves it to the lease's end, so one that was never
//! settled comes back by itself; behind another delivery of its execution and sink it is NULL, and the settling of
//! that one sets it. The order per execution and sink rests on this alone.

use rusqlite::{OptionalExtension, params, params_from_iter};
use serde_json::Value;

use super::filter::{DELIVERIES, conditions};
use super::record::ReadyLearned;
use super::writer::{Fault, Tx};
use crate::model::{Attempt, Change, ChangeMeta, Delivery, Link, Rules, State, Status, Time};
use crate::store::{DeliveryFilter, Fate, StoreError};

/// A claimed delivery as the rows have it; made into a [`Delivery`] off the writer's thread.
pub(super) struct Claimed {
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

impl Claimed {
    pub(super) fn id(&self) -> i64 {
        self.id
    }

    pub(super) fn into_delivery(self) -> Result<Delivery, StoreError> {
        let unreadable =
            |e: String| StoreError::Unusable(format!("change {} cannot be read from the store: {e}", self.change));
        let state: State = serde_json::from_str(&self.snapshot).map_err(|e| unreadable(e.to_string()))?;
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

pub(super) fn claim(
    tx: &mut Tx<'_>,
    sink: &str,
    limit: usize,
    by: Time,
    now: Time,
    until: Time,
) -> Result<(Vec<Claimed>, Option<Time>), Fault> {
    if tx.conn.query_row("SELECT EXISTS (SELECT 1 FROM sink_pauses WHERE sink = ?1)", [sink], |row| row.get(0))? {
        return Ok((Vec::new(), None));
    }
    let mut claimed: Vec<Claimed> = tx
        .sql
        .due
        .query_map(params![sink, by.micros(), limit as i64, now.micros()], |row| {
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
        })?
        .collect::<Result<_, _>>()?;
    for delivery in &mut claimed {
        tx.sql.lease.execute(params![delivery.id, until.micros()])?;
        let links = tx.sql.links.query_map([delivery.execution], |row| {
            let id: i64 = row.get(2)?;
            Ok(Link { source: row.get(0)?, key: row.get(1)?, execution: id.to_string() })
        })?;
        delivery.links = links.collect::<Result<_, _>>()?;
    }
    // A short answer means that nothing else is due now; only then does the caller need to know until when.
    let next_due = if claimed.len() < limit {
        tx.sql.next_due.query_row([sink], |row| row.get::<_, Option<i64>>(0))?.map(Time::from_micros)
    } else {
        Some(by)
    };
    Ok((claimed, next_due))
}

/// What of a settlement was made ready off the writer's thread.
pub(super) struct ReadySettlement {
    pub(super) delivery: i64,
    pub(super) lease: Time,
    pub(super) attempt: Attempt,
    pub(super) fate: Fate,
    pub(super) learned: Vec<ReadyLearned>,
}

impl ReadySettlement {
    /// The end of a delivery whose change cannot be read.
    pub(super) fn unreadable(delivery: i64, reason: String, lease: Time, now: Time) -> ReadySettlement {
        let attempt = Attempt {
            started_at: now,
            duration_ms: 0,
            outcome: "reject".to_owned(),
            status: None,
            reason: Some(reason),
            answer: None,
        };
        ReadySettlement { delivery, lease, attempt, fate: Fate::Dead, learned: Vec::new() }
    }
}

pub(super) fn settle(
    tx: &mut Tx<'_>,
    settlement: &ReadySettlement,
    rules: &Rules,
    now: Time,
) -> Result<Vec<String>, Fault> {
    let attempt = &settlement.attempt;
    let mut until_linked = false;
    let (status, due_at, resume, counts) = match &settlement.fate {
        Fate::Delivered => ("delivered", None, None, true),
        Fate::Dead => ("dead", None, None, true),
        Fate::Discarded => ("discarded", None, None, false),
        Fate::Waiting { due_at, until_linked: known, resume, free } => {
            let mut due_at = *due_at;
            if let Some(known) = known {
                let execution: Option<i64> = tx
                    .conn
                    .query_row("SELECT execution FROM deliveries WHERE id = ?1", [settlement.delivery], |row| {
                        row.get(0)
                    })
                    .optional()?;
                // A link made during the try found nothing waiting for it.
                let links: i64 = tx.conn.query_row(
                    "SELECT (SELECT count(*) FROM links WHERE execution = ?1) + (SELECT count(*) FROM links WHERE with_execution = ?1)",
                    [execution],
                    |row| row.get(0),
                )?;
                if links > *known as i64 {
                    due_at = now;
                } else {
                    until_linked = true;
                }
            }
            ("waiting", Some(due_at.micros()), resume.as_ref().map(Value::to_string), !free)
        }
    };
    let finished_at = due_at.is_none().then_some(now.micros());
    let settled: Option<(i64, String)> = tx
        .sql
        .settle
        .query_row(
            params![
                settlement.delivery,
                status,
                due_at,
                i64::from(counts),
                finished_at,
                i64::from(until_linked),
                resume,
                attempt.reason,
                settlement.lease.micros()
            ],
            |row| Ok((row.get(0)?, row.get(1)?)),
        )
        .optional()?;
    // The lease ran out, and somebody else has or had it since: their word stands.
    let Some((execution, sink)) = settled else { return Ok(Vec::new()) };
    let id = tx.new_id(now);
    tx.sql.insert_attempt.execute(params![
        id,
        settlement.delivery,
        attempt.started_at.micros(),
        attempt.duration_ms as i64,
        attempt.outcome,
        attempt.status,
        attempt.reason,
        attempt.answer,
    ])?;
    let mut wake = Vec::new();
    if tx.sql.next_in_line.execute(params![execution, sink, now.micros()])? > 0 {
        if finished_at.is_none() {
            // An older one was retried by an operator during the try, and goes first.
            tx.conn.execute(
                "UPDATE deliveries SET due_at = NULL, until_linked = 0 WHERE id = ?1",
                [settlement.delivery],
            )?;
        }
        wake.push(sink);
    }
    for learned in &settlement.learned {
        learned.record(tx, execution, rules, now, &mut wake)?;
    }
    Ok(wake)
}

/// Makes due what waits for a retry.
pub(super) fn hurry(tx: &mut Tx<'_>, sink: &str, now: Time) -> Result<(), Fault> {
    tx.conn.execute(
        "UPDATE deliveries SET due_at = ?2
         WHERE sink = ?1 AND finished_at IS NULL AND due_at > ?2 AND status = 'waiting' AND attempts > 0 AND until_linked = 0",
        params![sink, now.micros()],
    )?;
    Ok(())
}

/// How many deliveries one transaction of a mass change touches: more would hold up callbacks.
pub(super) const CHUNK: usize = 500;

/// Makes up to [`CHUNK`] deliveries due again.
pub(super) fn retry(tx: &mut Tx<'_>, filter: &DeliveryFilter, after: i64, now: Time) -> Result<Touched, Fault> {
    let touched = select(tx, filter, after, &["dead", "discarded", "waiting"], "retried")?;
    for (id, execution, sink) in &touched.rows {
        // Behind an older delivery, or one that is under way, it waits its turn.
        let behind: bool = tx.conn.query_row(
            "SELECT EXISTS (SELECT 1 FROM deliveries WHERE execution = ?1 AND sink = ?2 AND finished_at IS NULL
                            AND (id < ?3 OR id > ?3 AND status = 'leased'))",
            params![execution, sink, id],
            |row| row.get(0),
        )?;
        if !behind {
            // And what is newer waits for this one: an execution is told in order however its deliveries are retried.
            tx.conn.execute(
                "UPDATE deliveries SET due_at = NULL, until_linked = 0
                 WHERE execution = ?1 AND sink = ?2 AND finished_at IS NULL AND id > ?3",
                params![execution, sink, id],
            )?;
        }
        let had_its_turn = has_its_turn(tx, *id)?;
        // Attempts and age count anew, else it would be given up at once.
        tx.conn.execute(
            "UPDATE deliveries SET status = 'waiting', due_at = ?2, finished_at = NULL, attempts = 0, created_at = ?3, until_linked = 0 WHERE id = ?1",
            params![id, (!behind).then_some(now.micros()), now.micros()],
        )?;
        if behind && had_its_turn {
            tx.sql.next_in_line.execute(params![execution, sink, now.micros()])?;
        }
    }
    Ok(touched)
}

/// Whether it is the one of its execution and sink that may be claimed, now or later. Who gives up its turn hands it on;
/// nobody else does, or two would be told at a time.
fn has_its_turn(tx: &Tx<'_>, delivery: i64) -> rusqlite::Result<bool> {
    let sql = "SELECT due_at IS NOT NULL AND finished_at IS NULL FROM deliveries WHERE id = ?1";
    tx.conn.query_row(sql, [delivery], |row| row.get(0))
}

/// Drops up to [`CHUNK`] dead or waiting deliveries.
pub(super) fn discard(tx: &mut Tx<'_>, filter: &DeliveryFilter, after: i64, now: Time) -> Result<Touched, Fault> {
    let touched = select(tx, filter, after, &["dead", "waiting"], "discarded")?;
    for (id, execution, sink) in &touched.rows {
        let had_its_turn = has_its_turn(tx, *id)?;
        tx.conn.execute(
            "UPDATE deliveries SET status = 'discarded', reason = 'discarded by an operator', due_at = NULL, finished_at = ?2 WHERE id = ?1",
            params![id, now.micros()],
        )?;
        if had_its_turn {
            tx.sql.next_in_line.execute(params![execution, sink, now.micros()])?;
        }
    }
    Ok(touched)
}

/// Deliveries that an operator's command meant.
pub(super) struct Touched {
    rows: Vec<(i64, i64, String)>,
}

impl Touched {
    pub(super) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// Where the next chunk begins.
    pub(super) fn newest(&self) -> Option<i64> {
        self.rows.iter().map(|(id, _, _)| *id).max()
    }
}

fn select(
    tx: &mut Tx<'_>,
    filter: &DeliveryFilter,
    after: i64,
    from: &[&'static str],
    done: &str,
) -> Result<Touched, Fault> {
    match filter {
        DeliveryFilter::One(id) => {
            let row = tx
                .conn
                .query_row("SELECT status, execution, sink FROM deliveries WHERE id = ?1", [id], |row| {
                    Ok((row.get::<_, String>(0)?, row.get(1)?, row.get(2)?))
                })
                .optional()?;
            match row {
                Some((status, execution, sink)) if from.contains(&status.as_str()) => {
                    Ok(Touched { rows: vec![(*id, execution, sink)] })
                }
                Some((status, _, _)) => {
                    let text = format!("delivery {id} is {status}; only {} can be {done}", from.join(", "));
                    Err(Fault::Answer(StoreError::Refused(text)))
                }
                None => Err(Fault::Answer(StoreError::NotFound(format!("there is no delivery {id}")))),
            }
        }
        DeliveryFilter::All(filter) => {
            let mut filter = filter.clone();
            if filter.status.is_empty() {
                filter.status.push("dead".to_owned());
            }
            if let Some(odd) = filter.status.iter().find(|s| !from.contains(&s.as_str())) {
                let text = format!("a delivery that is {odd} cannot be {done}; only {} can", from.join(", "));
                return Err(Fault::Answer(StoreError::Refused(text)));
            }
            filter.limit = Some(filter.limit.unwrap_or(u64::MAX).min(CHUNK as u64));
            // A status is always there, and with it the WHERE.
            let (wheres, values) = conditions(&filter, &DELIVERIES);
            let sql = format!(
                "SELECT d.id, d.execution, d.sink FROM deliveries d JOIN execution_heads h ON h.id = d.execution
                 {wheres} AND d.id > {after} ORDER BY d.id LIMIT {CHUNK}"
            );
            let mut statement = tx.conn.prepare(&sql)?;
            let rows =
                statement.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let mut rows: Vec<_> = rows.collect::<Result<_, _>>()?;
            rows.truncate(filter.limit.map_or(CHUNK, |limit| limit as usize));
            Ok(Touched { rows })
        }
    }
}
