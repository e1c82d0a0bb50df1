//! Deliveries inside the transaction: settled, retried, discarded. Behind another of its execution and sink, a delivery's
//! `due_at` is NULL; the settling of that one sets it.

use serde_json::Value;

use super::record::ReadyLearned;
use super::{Settled, Tables, aside};
use crate::model::{Attempt, Rules, Time};
use crate::store::{DeliveryFilter, Fate, Settlement, StoreError};

/// What of a settlement was made ready off the writer's thread.
pub(crate) struct ReadySettlement {
    pub(crate) delivery: i64,
    pub(crate) lease: Time,
    pub(crate) attempt: Attempt,
    pub(crate) fate: Fate,
    pub(crate) learned: Vec<ReadyLearned>,
}

impl ReadySettlement {
    pub(crate) fn new(settlement: Settlement, rules: &Rules, now: Time) -> ReadySettlement {
        let Settlement { delivery, lease, attempt, fate, learned } = settlement;
        let learned = learned.into_iter().map(|learned| ReadyLearned::new(learned, rules, now)).collect();
        ReadySettlement { delivery, lease, attempt, fate, learned }
    }

    /// The end of a delivery whose change cannot be read.
    pub(crate) fn unreadable(delivery: i64, reason: String, lease: Time, now: Time) -> ReadySettlement {
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
pub(crate) fn settle_all<X: Tables>(
    tx: &mut X,
    settlements: &[ReadySettlement],
    rules: &Rules,
    now: Time,
) -> Result<Vec<String>, X::Fault> {
    let mut wake = Vec::new();
    for settlement in settlements {
        wake.append(&mut settle(tx, settlement, rules, now)?);
    }
    wake.sort_unstable();
    wake.dedup();
    Ok(wake)
}

pub(crate) fn settle<X: Tables>(
    tx: &mut X,
    settlement: &ReadySettlement,
    rules: &Rules,
    now: Time,
) -> Result<Vec<String>, X::Fault> {
    let attempt = &settlement.attempt;
    let mut until_linked = false;
    let (status, due_at, resume, counts) = match &settlement.fate {
        Fate::Delivered => ("delivered", None, None, true),
        Fate::Dead => ("dead", None, None, true),
        Fate::Discarded => ("discarded", None, None, false),
        Fate::Waiting { due_at, until_linked: known, resume, free } => {
            let mut due_at = *due_at;
            if let Some(known) = known {
                let links = match tx.delivery(settlement.delivery)? {
                    Some((execution, _)) => tx.links_of(execution)?,
                    None => 0,
                };
                // A link made during the try found nothing waiting for it.
                if links > *known {
                    due_at = now;
                } else {
                    until_linked = true;
                }
            }
            ("waiting", Some(due_at), resume.as_ref().map(Value::to_string), !free)
        }
    };
    let finished_at = due_at.is_none().then_some(now);
    let (delivery, lease, reason) = (settlement.delivery, settlement.lease, attempt.reason.as_deref());
    let settled = Settled { delivery, lease, status, due_at, counts, finished_at, until_linked, resume, reason };
    if !tx.settle(&settled)? {
        // The lease ran out, and somebody else has or had it since: their word stands.
        return Ok(Vec::new());
    }
    let id = tx.new_id(now);
    tx.insert_attempt(id, delivery, attempt)?;
    let mut wake = Vec::new();
    let hands_on = tx.hand_on(delivery, now)?;
    if !hands_on && settlement.learned.is_empty() {
        return Ok(wake);
    }
    let Some((execution, sink)) = tx.delivery(delivery)? else { return Ok(wake) };
    if hands_on {
        if finished_at.is_none() {
            // An older one was retried by an operator during the try, and goes first.
            tx.put_behind(delivery)?;
        }
        wake.push(sink);
    }
    for learned in &settlement.learned {
        learned.record(tx, execution, rules, now, &mut wake)?;
    }
    Ok(wake)
}

/// Deliveries that an operator's command meant.
pub(crate) struct Touched {
    /// Each with its execution and its sink.
    pub(crate) rows: Vec<(i64, i64, String)>,
    /// After which id the next chunk begins; `None` when there is none.
    pub(crate) next: Option<i64>,
}

/// What an operator may do to which deliveries.
pub(crate) struct Can {
    pub(crate) from: &'static [&'static str],
    done: &'static str,
}

pub(crate) const RETRIED: Can = Can { from: &["dead", "discarded", "waiting"], done: "retried" };
pub(crate) const DISCARDED: Can = Can { from: &["dead", "waiting"], done: "discarded" };

/// The filter as it is meant, unless it asks for what cannot be.
pub(crate) fn can_be(can: &Can, filter: &DeliveryFilter) -> Result<DeliveryFilter, StoreError> {
    let DeliveryFilter::All(filter) = filter else { return Ok(filter.clone()) };
    let mut filter = filter.clone();
    if filter.status.is_empty() {
        filter.status.push("dead".to_owned());
    }
    match filter.status.iter().find(|s| !can.from.contains(&s.as_str())) {
        Some(odd) => {
            let from = can.from.join(", ");
            let text = format!("a delivery that is {odd} cannot be {}; only {from} can", can.done);
            Err(StoreError::Refused(text))
        }
        None => Ok(DeliveryFilter::All(filter)),
    }
}

/// The one delivery that is meant, with its status, execution and sink as they are found.
pub(crate) fn one(can: &Can, id: i64, found: Option<(String, i64, String)>) -> Result<Touched, StoreError> {
    match found {
        Some((status, execution, sink)) if can.from.contains(&status.as_str()) => {
            Ok(Touched { rows: vec![(id, execution, sink)], next: None })
        }
        Some((status, _, _)) => {
            let from = can.from.join(", ");
            Err(StoreError::Refused(format!("delivery {id} is {status}; only {from} can be {}", can.done)))
        }
        None => Err(StoreError::NotFound(format!("there is no delivery {id}"))),
    }
}

/// Makes these deliveries due again.
pub(crate) fn retry<X: Tables>(tx: &mut X, touched: &Touched, now: Time) -> Result<(), X::Fault> {
    for (id, execution, sink) in &touched.rows {
        let (id, execution) = (*id, *execution);
        // Behind an older delivery, or one that is under way, it waits its turn.
        let behind = tx.is_behind_older(execution, sink, id)?;
        if !behind {
            // And what is newer waits for this one: an execution is told in order however its deliveries are retried.
            tx.put_newer_behind(execution, sink, id)?;
        }
        // Who gives up its turn hands it on; nobody else does, or two would be told at a time.
        let had_its_turn = tx.has_its_turn(id)?;
        // Attempts and age count anew, else it would be given up at once.
        tx.begin_anew(id, !behind, now)?;
        if behind && had_its_turn {
            tx.next_in_line(execution, sink, now)?;
        }
    }
    Ok(())
}

/// Drops these deliveries for good.
pub(crate) fn discard<X: Tables>(tx: &mut X, touched: &Touched, now: Time) -> Result<(), X::Fault> {
    for (id, execution, sink) in &touched.rows {
        let had_its_turn = tx.has_its_turn(*id)?;
        tx.discard_delivery(*id, "discarded by an operator", now)?;
        aside(tx, None, Some(*id), now)?;
        if had_its_turn {
            tx.next_in_line(*execution, sink, now)?;
        }
    }
    Ok(())
}
