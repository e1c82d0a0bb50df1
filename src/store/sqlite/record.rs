//! What a callback changes: identity, duplicate, conflict and order are decided here, inside the transaction, by the
//! pure rules of the model.

use std::sync::Arc;

use rusqlite::{Statement, params};

use super::fresh::Fresh;
use super::inquire;
use super::ready::{ReadyParsed, ReadyUpdate, Rendered, ready, ready_update, render};
use super::writer::{Fault, Tx};
use super::{link, news};
use crate::model::{Learned, Receipt, ReceiptStatus, Rules, State, Status, Time, Verdict, text};
use crate::signature;
use crate::store::{Parsed, Recorded};

/// A receipt made ready off the writer's thread: all that can be rendered before the transaction is.
pub(super) struct Ready {
    receipt: Receipt,
    headers: String,
    parsed: ReadyParsed,
    rules: Arc<Rules>,
}

/// What an update came to.
pub(super) struct Applied {
    outcome: ReceiptStatus,
    execution: Option<i64>,
    reason: Option<String>,
}

impl Ready {
    pub(super) fn new(receipt: Receipt, parsed: Parsed, rules: Arc<Rules>) -> Ready {
        let parsed = ready(&receipt.source, receipt.received_at, parsed, &rules).traced(receipt.trace());
        Ready { headers: text::pairs(&receipt.headers), receipt, parsed, rules }
    }

    /// Bytes that it holds while it waits for the writer.
    pub(super) fn weight(&self) -> usize {
        self.receipt.body.len() + self.parsed.weight() + 1024
    }

    pub(super) fn record(&self, tx: &mut Tx<'_>) -> Result<Recorded, Fault> {
        let receipt = &self.receipt;
        let now = receipt.received_at;
        let id = tx.new_id(now);
        let done = apply_all(tx, &receipt.source, Some(id), now, &self.parsed, &self.rules)?;
        if let (ReceiptStatus::Accepted, None, &[execution]) =
            (done.recorded.outcome, &done.reason, &done.recorded.executions[..])
        {
            let (source, body) = (&*receipt.source, &receipt.body[..]);
            tx.sql.insert_accepted.execute(params![
                id,
                source,
                now.micros(),
                receipt.peer,
                self.headers,
                body,
                execution
            ])?;
            return Ok(Recorded { receipt: id, ..done.recorded });
        }
        // A repeat's bytes are kept already.
        let again = done.recorded.outcome == ReceiptStatus::Duplicate;
        let digest = again.then(|| signature::hex(&signature::sha256(&receipt.body)));
        tx.sql.insert_receipt.execute(params![
            id,
            &*receipt.source,
            done.recorded.outcome.as_str(),
            now.micros(),
            receipt.peer,
            self.headers,
            (!again).then_some(&receipt.body[..]),
            receipt.body.len() as i64,
            digest,
            done.reason,
            done.recorded.executions.first(),
            done.several(),
        ])?;
        Ok(Recorded { receipt: id, ..done.recorded })
    }
}

impl Ready {
    /// Keeps the state of the execution that this has begun, for who tells of it in a moment.
    pub(super) fn keep_first(self, recorded: &Recorded, fresh: &Fresh) {
        if let (ReadyParsed::Updates(mut updates), &[execution]) = (self.parsed, &recorded.executions[..])
            // One that was there before has a lower id than the receipt.
            && execution > recorded.receipt
            && let (Some(update), true) = (updates.pop(), updates.is_empty())
        {
            fresh.keep(execution, (update.says, update.trace), update.first.snapshot.len());
        }
    }
}

/// An update of no receipt: what a sink learned.
pub(super) struct ReadyLearned {
    source: String,
    update: ReadyUpdate,
    linked: bool,
}

impl ReadyLearned {
    pub(super) fn new(learned: Learned, rules: &Rules, now: Time) -> ReadyLearned {
        let update = ready_update(&learned.source, now, learned.update, rules);
        ReadyLearned { source: learned.source, update, linked: learned.linked }
    }

    /// `by` is the execution whose delivery taught it.
    pub(super) fn record(
        &self,
        tx: &mut Tx<'_>,
        by: i64,
        rules: &Rules,
        now: Time,
        wake: &mut Vec<String>,
    ) -> Result<(), Fault> {
        let applied = apply(tx, &self.source, None, now, &self.update, rules, wake)?;
        if applied.outcome == ReceiptStatus::Accepted {
            news::aside(tx, applied.execution, None, now)?;
        }
        match applied.execution.filter(|execution| self.linked && *execution != by) {
            Some(execution) => link::tie_started(tx, execution, by, now, wake),
            None => Ok(()),
        }
    }
}

pub(super) struct Done {
    pub(super) recorded: Recorded,
    pub(super) reason: Option<String>,
}

impl Done {
    pub(super) fn several(&self) -> Option<String> {
        let all = &self.recorded.executions;
        (all.len() > 1).then(|| serde_json::to_string(all).unwrap_or_default())
    }
}

pub(super) fn apply_all(
    tx: &mut Tx<'_>,
    source: &str,
    receipt: Option<i64>,
    now: Time,
    parsed: &ReadyParsed,
    rules: &Rules,
) -> Result<Done, Fault> {
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

pub(super) struct Head {
    pub(super) id: i64,
    pub(super) seen: String,
    sequence: u32,
    pub(super) snapshot: String,
}

/// Executions whose keys have one hash. By chance there are never three; whoever can choose keys can make many, and every
/// one is looked at while all other senders wait.
const ALIKE_MAX: usize = 32;

/// An execution, looked for by its key.
pub(super) enum Found {
    Head(Head),
    Nothing,
    /// Too many look like it to tell, or to add one more.
    TooManyAlike,
}

pub(super) fn find(tx: &mut Tx<'_>, source: &str, key: &str, hash: i64) -> rusqlite::Result<Found> {
    let mut alike = 0;
    for execution in tx.recent.with(hash).take(ALIKE_MAX) {
        if let Some(head) = head(&mut tx.sql.find_head, execution, source, key)? {
            return Ok(Found::Head(head));
        }
        alike += 1;
    }
    let mut rows = tx.sql.identities.query([hash])?;
    while alike < ALIKE_MAX
        && let Some(row) = rows.next()?
    {
        if let Some(head) = head(&mut tx.sql.find_head, row.get(0)?, source, key)? {
            return Ok(Found::Head(head));
        }
        alike += 1;
    }
    Ok(if alike < ALIKE_MAX { Found::Nothing } else { Found::TooManyAlike })
}

/// The execution, if it is the one that is looked for and no other with the same hash.
fn head(find: &mut Statement<'_>, execution: i64, source: &str, key: &str) -> rusqlite::Result<Option<Head>> {
    let mut rows = find.query([execution])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    if row.get_ref(1)?.as_str()? != source || row.get_ref(2)?.as_str()? != key {
        return Ok(None);
    }
    Ok(Some(Head { id: row.get(0)?, seen: row.get(3)?, sequence: row.get(4)?, snapshot: row.get(5)? }))
}

pub(super) fn state_of(snapshot: &str) -> Result<State, Fault> {
    State::of_snapshot(snapshot).map_err(|e| {
        // Spoils the transaction: what was written before it in this command is not to stay.
        Fault::Sql(rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Text, Box::new(e)))
    })
}

pub(super) fn apply(
    tx: &mut Tx<'_>,
    source: &str,
    receipt: Option<i64>,
    now: Time,
    ready: &ReadyUpdate,
    rules: &Rules,
    wake: &mut Vec<String>,
) -> Result<Applied, Fault> {
    let key = &ready.says.execution.key;
    let found = find(tx, source, key, ready.hash)?;
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
        tx.sql.insert_head.execute(params![
            execution,
            source,
            key,
            seen,
            first.status.as_str(),
            change,
            first.kind,
            receipt,
            now.micros(),
            first.snapshot,
        ])?;
        tx.recent.add(ready.hash, execution);
        if let Some(by) = ready.expected_by {
            inquire::expect(tx, source, execution, by)?;
        }
        follow(tx, &Place { execution, change, sequence: 1, now }, first, rules, wake)?;
        let reason = ready.first.link_fault.clone();
        return Ok(Applied { outcome: ReceiptStatus::Accepted, execution: Some(execution), reason });
    };
    let state = state_of(&head.snapshot)?;
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
    tx.sql.set_aside.execute([head.id])?;
    tx.sql.update_head.execute(params![
        head.id,
        seen,
        rendered.status.as_str(),
        change,
        sequence,
        rendered.kind,
        rendered.previous_status.map(Status::as_str),
        rendered.changed_tasks,
        receipt,
        now.micros(),
        rendered.snapshot,
    ])?;
    if rendered.status.is_finished() && rules.expects(source) {
        inquire::forget(tx, head.id)?;
    }
    follow(tx, &Place { execution: head.id, change, sequence, now }, &rendered, rules, wake)?;
    Ok(of(ReceiptStatus::Accepted, rendered.link_fault))
}

/// Where a change belongs.
pub(super) struct Place {
    pub(super) execution: i64,
    pub(super) change: i64,
    pub(super) sequence: u32,
    pub(super) now: Time,
}

/// What follows from a change: links, and a delivery to each of its sinks.
pub(super) fn follow(
    tx: &mut Tx<'_>,
    place: &Place,
    rendered: &Rendered,
    rules: &Rules,
    wake: &mut Vec<String>,
) -> Result<(), Fault> {
    for known in &rendered.known_by {
        link::link(tx, place, rendered.status, known, wake)?;
    }
    for sink in &rendered.targets.sinks {
        promise(tx, place, sink, rules.coalesces(sink))?;
        wake.push(sink.clone());
    }
    for (sink, fault) in &rendered.targets.faults {
        let now = place.now.micros();
        let (id, none) = (tx.new_id(place.now), None::<i64>);
        tx.sql.insert_delivery.execute(params![
            id,
            place.execution,
            sink,
            place.change,
            "dead",
            none,
            now,
            now,
            fault
        ])?;
    }
    Ok(())
}

/// Promises the change to a sink. Behind an unfinished delivery of the same execution and sink it waits its turn.
fn promise(tx: &mut Tx<'_>, place: &Place, sink: &str, coalesce: bool) -> Result<(), Fault> {
    let now = place.now.micros();
    // The first change of an execution has nobody before it.
    if coalesce && place.sequence > 1 {
        tx.sql.supersede.execute(params![place.execution, sink, now])?;
    }
    let behind = place.sequence > 1
        && tx.sql.is_behind.query_row(params![place.execution, sink], |row| row.get::<_, bool>(0))?;
    let id = tx.new_id(place.now);
    let due_at = (!behind).then_some(now);
    let none = None::<i64>;
    tx.sql.insert_delivery.execute(params![
        id,
        place.execution,
        sink,
        place.change,
        "waiting",
        due_at,
        now,
        none,
        none
    ])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::writer::prepare;
    use super::*;
    use crate::model::Update;

    #[test]
    fn keys_that_are_made_to_look_alike_end_in_conflicts() {
        let conn = rusqlite::Connection::open_in_memory().expect("opens");
        for step in [
            include_str!("../migrations/0001_initial.sql"),
            include_str!("../migrations/0002_inquiries.sql"),
            include_str!("../migrations/0005_asides.sql"),
        ] {
            conn.execute_batch(step).expect("made");
        }
        let mut tx = prepare(&conn).expect("prepared");
        let (now, rules) = (Time::from_seconds(1_700_000_000), Rules::default());
        let mut told = |key: &str, hash| {
            let update = Update { key: key.to_owned(), ..Update::default() };
            let ready = ReadyUpdate { hash, ..ready_update("media", now, update, &rules) };
            let applied = apply(&mut tx, "media", None, now, &ready, &rules, &mut Vec::new()).expect("applied");
            (applied.outcome, applied.execution.is_some())
        };
        for n in 0..ALIKE_MAX {
            assert_eq!(told(&format!("k{n}"), 7), (ReceiptStatus::Accepted, true), "{n}");
        }
        assert_eq!(told("one more", 7), (ReceiptStatus::Conflict, false));
        assert_eq!(
            told(&format!("k{}", ALIKE_MAX - 1), 7),
            (ReceiptStatus::Duplicate, true),
            "who was first stays known"
        );
        assert_eq!(told("one more", 8), (ReceiptStatus::Accepted, true));
    }
}
