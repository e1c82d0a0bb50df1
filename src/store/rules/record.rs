//! What a callback changes: identity, duplicate, conflict and order are decided here, inside the transaction, by the
//! pure rules of the model.

use std::sync::Arc;

use super::ready::{ReadyParsed, ReadyUpdate, Rendered, ready, ready_update, render};
use super::{Begins, Found, Kept, MovedHead, NewDelivery, NewHead, Tables, aside, inquire, link};
use crate::model::{Learned, Receipt, ReceiptStatus, Rules, State, Time, Trace, Verdict, text};
use crate::signature;
use crate::store::{Parsed, Recorded};

/// A receipt made ready off the writer's thread: all that can be rendered before the transaction is.
pub(crate) struct Ready {
    receipt: Receipt,
    headers: String,
    parsed: ReadyParsed,
    rules: Arc<Rules>,
}

/// What an update came to.
pub(crate) struct Applied {
    pub(crate) outcome: ReceiptStatus,
    pub(crate) execution: Option<i64>,
    pub(crate) reason: Option<String>,
}

impl Ready {
    pub(crate) fn new(receipt: Receipt, parsed: Parsed, rules: Arc<Rules>) -> Ready {
        let parsed = ready(&receipt.source, receipt.received_at, parsed, &rules).traced(receipt.trace());
        Ready { headers: text::pairs(&receipt.headers), receipt, parsed, rules }
    }

    /// Bytes that it holds while it waits for the writer.
    pub(crate) fn weight(&self) -> usize {
        self.receipt.body.len() + self.parsed.weight() + 1024
    }

    pub(crate) fn record<X: Tables>(&self, tx: &mut X) -> Result<Recorded, X::Fault> {
        let receipt = &self.receipt;
        let now = receipt.received_at;
        let id = tx.new_id(now);
        let done = apply_all(tx, &receipt.source, Some(id), now, &self.parsed, &self.rules)?;
        // A repeat's bytes are kept already.
        let again = done.recorded.outcome == ReceiptStatus::Duplicate;
        let digest = again.then(|| signature::hex(&signature::sha256(&receipt.body)));
        tx.insert_receipt(id, receipt, &self.headers, &done.kept(digest.as_deref()))?;
        Ok(Recorded { receipt: id, ..done.recorded })
    }

    /// The state of the execution that this has begun, with the length of its snapshot, for who tells of it in a moment.
    pub(crate) fn into_first(self, recorded: &Recorded) -> Option<(i64, (State, Option<Trace>), usize)> {
        let (ReadyParsed::Updates(mut updates), &[execution]) = (self.parsed, &recorded.executions[..]) else {
            return None;
        };
        let update = updates.pop()?;
        // One that was there before has a lower id than the receipt.
        let is_first = execution > recorded.receipt && updates.is_empty();
        is_first.then_some((execution, (update.says, update.trace), update.first.snapshot.len()))
    }
}

/// An update of no receipt: what a sink learned.
pub(crate) struct ReadyLearned {
    source: String,
    update: ReadyUpdate,
    linked: bool,
}

impl ReadyLearned {
    pub(crate) fn new(learned: Learned, rules: &Rules, now: Time) -> ReadyLearned {
        let update = ready_update(&learned.source, now, learned.update, rules);
        ReadyLearned { source: learned.source, update, linked: learned.linked }
    }

    /// `by` is the execution whose delivery taught it.
    pub(crate) fn record<X: Tables>(
        &self,
        tx: &mut X,
        by: i64,
        rules: &Rules,
        now: Time,
        wake: &mut Vec<String>,
    ) -> Result<(), X::Fault> {
        let applied = apply(tx, &self.source, None, now, &self.update, rules, wake)?;
        if applied.outcome == ReceiptStatus::Accepted {
            aside(tx, applied.execution, None, now)?;
        }
        match applied.execution.filter(|execution| self.linked && *execution != by) {
            Some(execution) => link::tie_started(tx, execution, by, now, wake),
            None => Ok(()),
        }
    }
}

pub(crate) struct Done {
    pub(crate) recorded: Recorded,
    pub(crate) reason: Option<String>,
}

impl Done {
    /// What is kept of the receipt, with the digest in place of its body.
    pub(crate) fn kept<'a>(&'a self, digest: Option<&'a str>) -> Kept<'a> {
        let Recorded { outcome, executions, .. } = &self.recorded;
        Kept { outcome: *outcome, digest, reason: self.reason.as_deref(), executions }
    }
}

pub(crate) fn apply_all<X: Tables>(
    tx: &mut X,
    source: &str,
    receipt: Option<i64>,
    now: Time,
    parsed: &ReadyParsed,
    rules: &Rules,
) -> Result<Done, X::Fault> {
    let mut recorded =
        Recorded { receipt: 0, outcome: ReceiptStatus::Quarantined, executions: Vec::new(), wake: Vec::new() };
    let updates = match parsed {
        ReadyParsed::Quarantined(reason) => return Ok(Done { recorded, reason: Some(reason.clone()) }),
        ReadyParsed::Held(updates) => {
            return inquire::hold(tx, source, receipt.unwrap_or_default(), now, updates);
        }
        ReadyParsed::Updates(updates) => updates,
    };
    let mut outcomes = Vec::with_capacity(updates.len());
    let mut reasons = Vec::new();
    for update in updates {
        let applied = apply(tx, source, receipt, now, update, rules, &mut recorded.wake)?;
        outcomes.push(applied.outcome);
        reasons.extend(applied.reason);
        if let Some(id) = applied.execution
            && !recorded.executions.contains(&id)
        {
            recorded.executions.push(id);
        }
    }
    recorded.outcome = ReceiptStatus::of_all(outcomes);
    recorded.wake.sort_unstable();
    recorded.wake.dedup();
    Ok(Done { recorded, reason: (!reasons.is_empty()).then(|| reasons.join("; ")) })
}

/// What an execution may grow to by one callback after the other: every change holds all of it. A first one may hold as much
/// as a body can, and its end is heard all the same.
const SNAPSHOT_BYTES_MAX: usize = 8 << 20;

/// Executions whose keys have one hash. By chance there are never three; whoever can choose keys can make many, and every
/// one is looked at while all other senders wait.
pub(crate) const ALIKE_MAX: usize = 32;

/// What cannot be read spoils the transaction: what was written before it in this command is not to stay.
pub(crate) fn state_of<X: Tables>(snapshot: &str) -> Result<State, X::Fault> {
    State::of_snapshot(snapshot).map_err(X::unreadable)
}

pub(crate) fn apply<X: Tables>(
    tx: &mut X,
    source: &str,
    receipt: Option<i64>,
    now: Time,
    ready: &ReadyUpdate,
    rules: &Rules,
    wake: &mut Vec<String>,
) -> Result<Applied, X::Fault> {
    let key = &ready.says.execution.key;
    let found = tx.find(source, key, ready.hash)?;
    if let Found::TooManyAlike = found {
        let reason =
            format!("{ALIKE_MAX} executions have keys that only look different; this one was made to be another");
        return Ok(Applied { outcome: ReceiptStatus::Conflict, execution: None, reason: Some(reason) });
    }
    let Found::Head(head) = found else {
        if ready.known_only {
            return Ok(Applied { outcome: ReceiptStatus::Duplicate, execution: None, reason: None });
        }
        let execution = tx.new_id(now);
        let change = tx.new_id(now);
        let seen = ready.identity.as_deref().unwrap_or_default();
        let first = &ready.first;
        tx.insert_head(&NewHead {
            id: execution,
            source,
            key,
            hash: ready.hash,
            seen,
            status: first.status,
            change,
            kind: first.kind,
            receipt,
            now,
            snapshot: &first.snapshot,
        })?;
        if let Some(by) = ready.expected_by {
            tx.expect(source, execution, by)?;
        }
        follow(tx, &Place { execution, change, sequence: 1, now }, first, rules, wake)?;
        let reason = ready.first.link_fault.clone();
        return Ok(Applied { outcome: ReceiptStatus::Accepted, execution: Some(execution), reason });
    };
    let state = state_of::<X>(&head.snapshot)?;
    let of = |outcome, reason| Applied { outcome, execution: Some(head.id), reason };
    let update = ready.says.as_update(ready.says_status, ready.identity.clone());
    let accepted = match state.judge(head.seen.lines(), &update) {
        Verdict::Duplicate => return Ok(of(ReceiptStatus::Duplicate, None)),
        Verdict::Conflict(reason) => return Ok(of(ReceiptStatus::Conflict, Some(reason))),
        Verdict::Accepted(accepted) => accepted,
    };
    let sequence = head.sequence + 1;
    let mut rendered = render(&accepted, head.id, sequence, receipt, now, rules);
    if let Some(trace) = &ready.trace {
        text::traced(&mut rendered.snapshot, trace);
    }
    if rendered.snapshot.len() > (head.snapshot.len() + SNAPSHOT_BYTES_MAX / 128).max(SNAPSHOT_BYTES_MAX) {
        let reason = format!("the execution would take more than {SNAPSHOT_BYTES_MAX} bytes");
        return Ok(of(ReceiptStatus::Conflict, Some(reason)));
    }
    let change = tx.new_id(now);
    let mut seen = head.seen;
    if let Some(identity) = &ready.identity {
        if !seen.is_empty() {
            seen.push('\n');
        }
        seen.push_str(identity);
    }
    tx.move_head(&MovedHead {
        id: head.id,
        seen: &seen,
        status: rendered.status,
        change,
        sequence,
        kind: rendered.kind,
        previous_status: rendered.previous_status,
        changed_tasks: rendered.changed_tasks.as_deref(),
        receipt,
        now,
        snapshot: &rendered.snapshot,
    })?;
    if rendered.status.is_finished() && rules.expects(source) {
        inquire::forget(tx, head.id)?;
    }
    follow(tx, &Place { execution: head.id, change, sequence, now }, &rendered, rules, wake)?;
    Ok(of(ReceiptStatus::Accepted, rendered.link_fault))
}

/// Where a change belongs.
pub(crate) struct Place {
    pub(crate) execution: i64,
    pub(crate) change: i64,
    pub(crate) sequence: u32,
    pub(crate) now: Time,
}

/// What follows from a change: links, and a delivery to each of its sinks.
pub(crate) fn follow<X: Tables>(
    tx: &mut X,
    place: &Place,
    rendered: &Rendered,
    rules: &Rules,
    wake: &mut Vec<String>,
) -> Result<(), X::Fault> {
    for known in &rendered.known_by {
        link::link(tx, place, rendered.status, known, wake)?;
    }
    for sink in &rendered.targets.sinks {
        if promise(tx, place, sink, rules.coalesces(sink))? {
            wake.push(sink.clone());
        }
    }
    for (sink, fault) in &rendered.targets.faults {
        insert(tx, place, sink, Begins::Dead(fault))?;
    }
    Ok(())
}

/// Promises the change to a sink. Behind an unfinished delivery of the same execution and sink it waits its turn. Whether
/// it is to be claimed.
fn promise<X: Tables>(tx: &mut X, place: &Place, sink: &str, coalesce: bool) -> Result<bool, X::Fault> {
    // The first change of an execution has nobody before it.
    if coalesce && place.sequence > 1 {
        tx.supersede(place.execution, sink, place.now)?;
    }
    let behind = place.sequence > 1 && tx.is_behind(place.execution, sink)?;
    insert(tx, place, sink, if behind { Begins::Behind } else { Begins::Due })
}

fn insert<X: Tables>(tx: &mut X, place: &Place, sink: &str, begins: Begins<'_>) -> Result<bool, X::Fault> {
    let (id, &Place { execution, change, now, .. }) = (tx.new_id(place.now), place);
    tx.insert_delivery(&NewDelivery { id, execution, sink, change, now, begins })
}
