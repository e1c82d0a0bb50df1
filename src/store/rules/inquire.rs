//! Inquiries inside the transaction: receipts that are held until their vendor confirms them, and executions that are
//! not finished in time.

use super::again::ReadyAgain;
use super::ready::{ReadyUpdate, ready_update, render};
use super::record::{Done, Place, apply, follow, state_of};
use super::{Found, MarkedHead, Tables, aside, hash_of};
use crate::model::{ReceiptStatus, Rules, State, Time, Update, Verdict};
use crate::store::{Held, Inquiry, Late, Lateness, Recorded, UNASKED};

/// So many receipts of one execution are decided by one answer; what is beyond waits for the next.
pub(crate) const LINE_MAX: usize = 100;
/// What comes in while others of its execution wait, waits with them, but no longer than this: a forged callback that is
/// asked about ever more seldom is not to hold up a true one, nor are many repeats to be asked about one by one.
const LINE_PAUSE_MS: u64 = 10_000;

/// Holds a receipt until its vendor was asked. What says nothing that we do not hold already needs no confirmation: it
/// is a duplicate, and its vendor is not asked again.
pub(crate) fn hold<X: Tables>(
    tx: &mut X,
    source: &str,
    receipt: i64,
    now: Time,
    updates: &[Update],
) -> Result<Done, X::Fault> {
    let mut known = Vec::new();
    for update in updates {
        known.push(says_nothing_new(tx, source, update)?);
    }
    let mut recorded =
        Recorded { receipt, outcome: ReceiptStatus::Duplicate, executions: Vec::new(), wake: Vec::new() };
    if let Some(executions) = known.into_iter().collect::<Option<Vec<i64>>>() {
        for execution in executions {
            if !recorded.executions.contains(&execution) {
                recorded.executions.push(execution);
            }
        }
        return Ok(Done { recorded, reason: None });
    }
    recorded.outcome = ReceiptStatus::Held;
    let (key, short) = updates.first().map_or(("", ""), |update| (update.key.as_str(), update.short_key()));
    let due_at = tx.line_due(source, key)?.map_or(now, |due| due.min(now.plus_ms(LINE_PAUSE_MS)));
    tx.insert_held(receipt, source, key, due_at)?;
    Ok(Done { recorded, reason: Some([short, UNASKED].concat()) })
}

/// The execution that the update speaks of, when it tells us nothing of it.
fn says_nothing_new<X: Tables>(tx: &mut X, source: &str, update: &Update) -> Result<Option<i64>, X::Fault> {
    let Found::Head(head) = tx.find(source, &update.key, hash_of(&update.key))? else { return Ok(None) };
    let verdict = state_of::<X>(&head.snapshot)?.judge(head.seen.lines(), update);
    Ok((verdict == Verdict::Duplicate).then_some(head.id))
}

/// An execution is finished, or a receipt decided: nothing is to be asked about it any more.
pub(crate) fn forget<X: Tables>(tx: &mut X, id: i64) -> Result<(), X::Fault> {
    tx.delete_inquiry(id)
}

/// A claimed inquiry as the rows have it.
pub(crate) enum Asked {
    Held(Vec<Held>),
    Late { execution: i64, snapshot: String, is_marked: bool, asked: u32, failures: u32 },
}

impl Asked {
    /// `None` for an execution that cannot be read, which comes again when its lease is over.
    pub(crate) fn into_inquiry(self) -> Option<Inquiry> {
        match self {
            Asked::Held(receipts) => Some(Inquiry::Held(receipts)),
            Asked::Late { execution, snapshot, is_marked, asked, failures } => match State::of_snapshot(&snapshot) {
                Ok(state) => Some(Inquiry::Late(Box::new(Late { execution, state, is_marked, asked, failures }))),
                Err(e) => {
                    tracing::error!(execution.id = execution, error = %e, "an execution that is late cannot be read");
                    None
                }
            },
        }
    }
}

/// What follows for a held receipt, made ready off the writer's thread.
pub(crate) enum ReadyRuling {
    Confirmed(ReadyAgain),
    Refused(String),
    Waits { due_at: Time, answered: bool, reason: String },
}

impl ReadyRuling {
    /// Nothing follows when an operator has decided meanwhile.
    pub(crate) fn settle<X: Tables>(&self, tx: &mut X, receipt: i64, now: Time) -> Result<Vec<String>, X::Fault> {
        if tx.receipt_status(receipt)?.as_deref() != Some(ReceiptStatus::Held.as_str()) {
            return Ok(Vec::new());
        }
        let (status, reason) = match self {
            ReadyRuling::Confirmed(again) => return again.record(tx).map(|recorded| recorded.wake),
            ReadyRuling::Refused(reason) => {
                forget(tx, receipt)?;
                (ReceiptStatus::Refused, reason)
            }
            ReadyRuling::Waits { due_at, answered, reason } => {
                tx.asked(receipt, Some(*due_at), *answered, None)?;
                // And what came in during the question. Only what is due by now: each of the line is ruled so, a little
                // later than the one before, and all that waits would be written anew each time.
                tx.line_waits(receipt, (*due_at).min(now.plus_ms(LINE_PAUSE_MS)), now)?;
                (ReceiptStatus::Held, reason)
            }
        };
        tx.set_receipt(receipt, status, reason)?;
        Ok(Vec::new())
    }
}

/// What of a [`Lateness`] was made ready off the writer's thread.
pub(crate) struct ReadyLateness {
    source: String,
    truth: Option<ReadyUpdate>,
    lateness: Lateness,
}

impl ReadyLateness {
    pub(crate) fn new(source: String, mut lateness: Lateness, rules: &Rules, now: Time) -> ReadyLateness {
        let truth = lateness.truth.take().map(|update| ready_update(&source, now, update, rules));
        ReadyLateness { source, truth, lateness }
    }

    pub(crate) fn settle<X: Tables>(
        &self,
        tx: &mut X,
        execution: i64,
        rules: &Rules,
        now: Time,
    ) -> Result<Vec<String>, X::Fault> {
        let mut wake = Vec::new();
        if let Some(truth) = &self.truth {
            apply(tx, &self.source, None, now, truth, rules, &mut wake)?;
            aside(tx, Some(execution), None, now)?;
        }
        let Some(is_marked) = tx.is_marked(execution)? else {
            forget(tx, execution)?;
            return Ok(wake);
        };
        let marks = self.lateness.marks && !is_marked;
        tx.asked(execution, self.lateness.due_at, self.lateness.answered, marks.then_some(now))?;
        if marks {
            mark(tx, execution, rules, now, &mut wake)?;
        }
        wake.sort_unstable();
        wake.dedup();
        Ok(wake)
    }
}

/// The change that says an execution is overdue. What we hold to be true stays as it is.
fn mark<X: Tables>(
    tx: &mut X,
    execution: i64,
    rules: &Rules,
    now: Time,
    wake: &mut Vec<String>,
) -> Result<(), X::Fault> {
    let (sequence, snapshot) = tx.head(execution)?;
    let (sequence, accepted) = (sequence + 1, state_of::<X>(&snapshot)?.overdue());
    let rendered = render(&accepted, execution, sequence, None, now, rules);
    let change = tx.new_id(now);
    let changed_tasks = rendered.changed_tasks.as_deref();
    tx.mark_head(&MarkedHead { id: execution, change, sequence, kind: rendered.kind, changed_tasks, now })?;
    follow(tx, &Place { execution, change, sequence, now }, &rendered, rules, wake)?;
    aside(tx, Some(execution), None, now)
}
