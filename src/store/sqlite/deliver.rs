//! Deliveries inside the transaction: settled, retried, discarded. Behind another of its execution and sink, a delivery's
//! `due_at` is NULL; the settling of that one sets it.

use rusqlite::{OptionalExtension, params, params_from_iter};
use serde_json::Value;

use super::filter::{DELIVERIES, conditions};
use super::news;
use super::record::ReadyLearned;
use super::writer::{Fault, Tx};
use crate::model::{Attempt, Rules, Time};
use crate::store::{DeliveryFilter, Fate, Settlement, StoreError};

/// What of a settlement was made ready off the writer's thread.
pub(super) struct ReadySettlement {
    pub(super) delivery: i64,
    pub(super) lease: Time,
    pub(super) attempt: Attempt,
    pub(super) fate: Fate,
    pub(super) learned: Vec<ReadyLearned>,
}

impl ReadySettlement {
    pub(super) fn new(settlement: Settlement, rules: &Rules, now: Time) -> ReadySettlement {
        let Settlement { delivery, lease, attempt, fate, learned } = settlement;
        let learned = learned.into_iter().map(|learned| ReadyLearned::new(learned, rules, now)).collect();
        ReadySettlement { delivery, lease, attempt, fate, learned }
    }

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

/// Settles many tries in one transaction: all of them, or none.
pub(super) fn settle_all(
    tx: &mut Tx<'_>,
    settlements: &[ReadySettlement],
    rules: &Rules,
    now: Time,
) -> Result<Vec<String>, Fault> {
    let mut wake = Vec::new();
    for settlement in settlements {
        wake.append(&mut settle(tx, settlement, rules, now)?);
    }
    wake.sort_unstable();
    wake.dedup();
    Ok(wake)
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
    let settled = tx.sql.settle.execute(params![
        settlement.delivery,
        settlement.lease.micros(),
        status,
        due_at,
        i64::from(counts),
        finished_at,
        i64::from(until_linked),
        resume,
        attempt.reason
    ])?;
    if settled == 0 {
        // The lease ran out, and somebody else has or had it since: their word stands.
        return Ok(Vec::new());
    }
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
    let hands_on = tx.sql.hand_on.execute([settlement.delivery, now.micros()])? > 0;
    if !hands_on && settlement.learned.is_empty() {
        return Ok(wake);
    }
    let sql = "SELECT execution, sink FROM deliveries WHERE id = ?1";
    let (execution, sink) =
        tx.conn.query_row(sql, [settlement.delivery], |row| Ok((row.get(0)?, row.get::<_, String>(1)?)))?;
    if hands_on {
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

/// Makes due what waits for a retry. What waits for a link until much later is not even looked at.
pub(super) fn hurry(tx: &mut Tx<'_>, sink: &str, by: Time, now: Time) -> Result<(), Fault> {
    tx.sql.hurry.execute(params![sink, now.micros(), by.micros()])?;
    Ok(())
}

/// How many deliveries one transaction of a mass change touches: more would hold up callbacks.
const CHUNK: usize = 500;
/// How many it looks at for that.
const LOOK: usize = 5000;

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
        news::aside(tx, None, Some(*id), now)?;
        if had_its_turn {
            tx.sql.next_in_line.execute(params![execution, sink, now.micros()])?;
        }
    }
    Ok(touched)
}

/// Deliveries that an operator's command meant.
pub(super) struct Touched {
    rows: Vec<(i64, i64, String)>,
    next: Option<i64>,
}

impl Touched {
    pub(super) fn count(&self) -> u64 {
        self.rows.len() as u64
    }

    /// After which id the next chunk begins; `None` when there is none.
    pub(super) fn next(&self) -> Option<i64> {
        self.next
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
                    Ok(Touched { rows: vec![(*id, execution, sink)], next: None })
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
            let limit = filter.limit.map_or(CHUNK, |limit| (limit as usize).min(CHUNK));
            let (looked_at, end): (i64, Option<i64>) = tx.conn.query_row(
                "SELECT count(*), max(id) FROM (SELECT id FROM deliveries WHERE id > ?1 ORDER BY id LIMIT ?2)",
                [after, LOOK as i64],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let end = end.unwrap_or(after);
            // A status is always there, and with it the WHERE.
            let (wheres, values) = conditions(&filter, &DELIVERIES);
            let sql = format!(
                "SELECT d.id, d.execution, d.sink FROM deliveries d JOIN execution_heads h ON h.id = d.execution
                 {wheres} AND d.id > {after} AND d.id <= {end} ORDER BY d.id LIMIT {limit}"
            );
            let mut statement = tx.conn.prepare(&sql)?;
            let rows =
                statement.query_map(params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
            let rows: Vec<(i64, i64, String)> = rows.collect::<Result<_, _>>()?;
            let next = match rows.last() {
                Some((id, _, _)) if rows.len() == limit => Some(*id),
                _ => (looked_at == LOOK as i64).then_some(end),
            };
            Ok(Touched { rows, next })
        }
    }
}
