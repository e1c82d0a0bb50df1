//! What a callback changes: identity, duplicate, conflict and order are decided here, inside the transaction, by the
//! pure rules of the model.

use std::sync::Arc;

use rusqlite::{OptionalExtension, params};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::writer::{Fault, Tx};
use crate::model::{
    Accepted, Change, ChangeMeta, Receipt, ReceiptStatus, Rules, State, Status, Targets, Time, Update, Verdict,
};
use crate::store::{Parsed, Recorded, StoreError};

/// A receipt made ready off the writer's thread: all that can be rendered before the transaction is.
pub(super) struct Ready {
    receipt: Receipt,
    headers: String,
    parsed: ReadyParsed,
    rules: Arc<Rules>,
}

enum ReadyParsed {
    Updates(Vec<ReadyUpdate>),
    Quarantined(String),
}

/// An update, and what it would be as the first of its execution, which is the usual case.
pub(super) struct ReadyUpdate {
    update: Update,
    identity: i64,
    first: Rendered,
}

/// A change in the form that is stored.
struct Rendered {
    status: Status,
    previous_status: Option<Status>,
    kind: String,
    changed_tasks: String,
    snapshot: String,
    targets: Targets,
    known_by: Vec<KnownBy>,
    link_fault: Option<String>,
}

/// What an execution is known by under a link rule.
struct KnownBy {
    rule: String,
    /// The looking side (`of`), not the partner (`with`).
    looks: bool,
    key: String,
}

/// What an update came to.
struct Applied {
    outcome: ReceiptStatus,
    execution: Option<i64>,
    reason: Option<String>,
}

/// The hash under which an execution is looked up: FNV-1a, which is short and fixed for ever. Rows with the same hash
/// are told apart by their text, so a collision costs a comparison.
pub(super) fn identity_of(key: &str) -> i64 {
    let hash = key.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    i64::from_ne_bytes(hash.to_ne_bytes())
}

impl Ready {
    pub(super) fn new(receipt: Receipt, parsed: Parsed, rules: Arc<Rules>) -> Ready {
        let headers: serde_json::Map<String, Value> =
            receipt.headers.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
        let parsed = ready(&receipt.source, receipt.received_at, parsed, &rules);
        Ready { headers: Value::Object(headers).to_string(), receipt, parsed, rules }
    }

    /// Bytes that it holds while it waits for the writer.
    pub(super) fn weight(&self) -> usize {
        self.receipt.body.len() + 1024
    }

    pub(super) fn record(&self, tx: &mut Tx<'_>) -> Result<Recorded, Fault> {
        let receipt = &self.receipt;
        let now = receipt.received_at;
        let id = tx.new_id(now);
        let done = apply_all(tx, &receipt.source, Some(id), now, &self.parsed, &self.rules)?;
        // A repeat's bytes are kept already.
        let again = done.recorded.outcome == ReceiptStatus::Duplicate;
        let digest = again.then(|| hex(&Sha256::digest(&receipt.body)));
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

/// A stored receipt, read again.
pub(super) struct ReadyAgain {
    receipt: i64,
    parsed: ReadyParsed,
    rules: Arc<Rules>,
    source: Arc<str>,
    now: Time,
}

impl ReadyAgain {
    pub(super) fn new(receipt: i64, source: &str, parsed: Parsed, rules: Arc<Rules>, now: Time) -> ReadyAgain {
        let parsed = ready(source, now, parsed, &rules);
        ReadyAgain { receipt, parsed, rules, source: source.into(), now }
    }

    pub(super) fn record(&self, tx: &mut Tx<'_>) -> Result<Recorded, Fault> {
        let held: Option<String> = tx
            .conn
            .query_row("SELECT status FROM receipts WHERE id = ?1", [self.receipt], |row| row.get(0))
            .optional()?;
        match held.as_deref() {
            Some("quarantined") => {}
            Some(status) => {
                let text = format!("receipt {} is {status}; only a quarantined one is read again", self.receipt);
                return Err(Fault::Answer(StoreError::Refused(text)));
            }
            None => return Err(Fault::Answer(StoreError::NotFound(format!("there is no receipt {}", self.receipt)))),
        }
        let done = apply_all(tx, &self.source, Some(self.receipt), self.now, &self.parsed, &self.rules)?;
        tx.conn.execute(
            "UPDATE receipts SET status = ?2, reason = ?3, execution = ?4, executions = ?5 WHERE id = ?1",
            params![
                self.receipt,
                done.recorded.outcome.as_str(),
                done.reason,
                done.recorded.executions.first(),
                done.several()
            ],
        )?;
        Ok(Recorded { receipt: self.receipt, ..done.recorded })
    }
}

/// Updates of no receipt: what a sink learned.
pub(super) struct Learned {
    source: String,
    update: ReadyUpdate,
}

impl Learned {
    pub(super) fn new(source: String, update: Update, rules: &Rules, now: Time) -> Learned {
        let update = ready_update(&source, now, update, rules);
        Learned { source, update }
    }

    pub(super) fn record(
        &self,
        tx: &mut Tx<'_>,
        rules: &Rules,
        now: Time,
        wake: &mut Vec<String>,
    ) -> Result<(), Fault> {
        apply(tx, &self.source, None, now, &self.update, rules, wake).map(drop)
    }
}

struct Done {
    recorded: Recorded,
    reason: Option<String>,
}

impl Done {
    fn several(&self) -> Option<String> {
        let all = &self.recorded.executions;
        (all.len() > 1).then(|| serde_json::to_string(all).unwrap_or_default())
    }
}

fn ready(source: &str, now: Time, parsed: Parsed, rules: &Rules) -> ReadyParsed {
    match parsed {
        Parsed::Updates(updates) => {
            ReadyParsed::Updates(updates.into_iter().map(|u| ready_update(source, now, u, rules)).collect())
        }
        Parsed::Quarantined(reason) => ReadyParsed::Quarantined(reason),
    }
}

fn ready_update(source: &str, now: Time, update: Update, rules: &Rules) -> ReadyUpdate {
    let identity = identity_of(&update.key);
    let first = render(&State::begin(source, update.clone()), 0, 1, None, now, rules);
    ReadyUpdate { update, identity, first }
}

/// Renders an accepted change. Routes and links judge it without the ids that only the transaction gives: there, an
/// execution that is new has the id `"0"`.
fn render(accepted: &Accepted, id: i64, sequence: u32, receipt: Option<i64>, now: Time, rules: &Rules) -> Rendered {
    let source = accepted.state.execution.source.as_str();
    let kind = Change::kind_of(accepted);
    let mut rendered = Rendered {
        status: accepted.state.execution.status,
        previous_status: accepted.previous_status,
        changed_tasks: serde_json::to_string(&accepted.changed_tasks).unwrap_or_default(),
        snapshot: serde_json::to_string(&accepted.state).unwrap_or_default(),
        targets: Targets::default(),
        known_by: Vec::new(),
        link_fault: None,
        kind,
    };
    if !rules.looks_inside(source) {
        rendered.targets = rules.targets(source, &Value::Null);
        return rendered;
    }
    let change = Change {
        id: 0,
        execution_id: id,
        state: accepted.state.clone(),
        links: Vec::new(),
        meta: ChangeMeta {
            kind: rendered.kind.clone(),
            sequence,
            previous_status: accepted.previous_status,
            changed_tasks: accepted.changed_tasks.clone(),
            overdue: false,
            receipt: receipt.map(|r| r.to_string()),
            received_at: now,
        },
    };
    let data = serde_json::to_value(&change).unwrap_or_default();
    rendered.targets = rules.targets(source, &data);
    for (position, rule) in rules.links.iter().enumerate() {
        for (looks, program, side) in [(true, &rule.key, &rule.of), (false, &rule.with_key, &rule.with)] {
            if side != source {
                continue;
            }
            match program.text(&data) {
                Ok(Some(key)) => rendered.known_by.push(KnownBy { rule: rule.name(position), looks, key }),
                Ok(None) => {}
                Err(fault) => rendered.link_fault = Some(format!("links[{position}]: {fault}")),
            }
        }
    }
    rendered
}

fn apply_all(
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

struct Head {
    id: i64,
    sequence: u32,
    change: i64,
    seen: String,
}

fn find(tx: &mut Tx<'_>, source: &str, key: &str, identity: i64) -> rusqlite::Result<Option<Head>> {
    let mut rows = tx.sql.find_head.query([identity])?;
    while let Some(row) = rows.next()? {
        if row.get_ref(1)?.as_str()? == source && row.get_ref(2)?.as_str()? == key {
            return Ok(Some(Head { id: row.get(0)?, sequence: row.get(3)?, change: row.get(4)?, seen: row.get(5)? }));
        }
    }
    Ok(None)
}

fn apply(
    tx: &mut Tx<'_>,
    source: &str,
    receipt: Option<i64>,
    now: Time,
    ready: &ReadyUpdate,
    rules: &Rules,
    wake: &mut Vec<String>,
) -> Result<Applied, Fault> {
    let update = &ready.update;
    let Some(head) = find(tx, source, &update.key, ready.identity)? else {
        if update.known_only {
            return Ok(Applied { outcome: ReceiptStatus::Duplicate, execution: None, reason: None });
        }
        let execution = tx.new_id(now);
        let change = tx.new_id(now);
        let seen = update.identity.as_deref().unwrap_or_default();
        tx.sql.insert_head.execute(params![
            execution,
            ready.identity,
            source,
            update.key,
            ready.first.status.as_str(),
            change,
            seen
        ])?;
        let place = Place { execution, change, sequence: 1, previous: None, receipt, now };
        store_change(tx, &place, &ready.first, rules, wake)?;
        let reason = ready.first.link_fault.clone();
        return Ok(Applied { outcome: ReceiptStatus::Accepted, execution: Some(execution), reason });
    };
    let snapshot: String = tx.sql.snapshot.query_row([head.change], |row| row.get(0))?;
    let state: State = serde_json::from_str(&snapshot).map_err(|e| {
        Fault::Answer(StoreError::Unusable(format!("the snapshot of change {} cannot be read: {e}", head.change)))
    })?;
    let of = |outcome, reason| Applied { outcome, execution: Some(head.id), reason };
    let accepted = match state.judge(head.seen.lines(), update) {
        Verdict::Duplicate => return Ok(of(ReceiptStatus::Duplicate, None)),
        Verdict::Conflict(reason) => return Ok(of(ReceiptStatus::Conflict, Some(reason))),
        Verdict::Accepted(accepted) => accepted,
    };
    let sequence = head.sequence + 1;
    let rendered = render(&accepted, head.id, sequence, receipt, now, rules);
    let change = tx.new_id(now);
    let mut seen = head.seen;
    if let Some(identity) = &update.identity {
        if !seen.is_empty() {
            seen.push('\n');
        }
        seen.push_str(identity);
    }
    tx.sql.update_head.execute(params![head.id, rendered.status.as_str(), sequence, change, seen])?;
    let place = Place { execution: head.id, change, sequence, previous: Some(head.change), receipt, now };
    store_change(tx, &place, &rendered, rules, wake)?;
    Ok(of(ReceiptStatus::Accepted, rendered.link_fault))
}

/// Where a change belongs.
struct Place {
    execution: i64,
    change: i64,
    sequence: u32,
    previous: Option<i64>,
    receipt: Option<i64>,
    now: Time,
}

fn store_change(
    tx: &mut Tx<'_>,
    place: &Place,
    rendered: &Rendered,
    rules: &Rules,
    wake: &mut Vec<String>,
) -> Result<(), Fault> {
    tx.sql.insert_change.execute(params![
        place.change,
        place.execution,
        place.sequence,
        place.previous,
        rendered.kind,
        rendered.previous_status.map(Status::as_str),
        rendered.changed_tasks,
        place.receipt,
        place.now.micros(),
        rendered.snapshot,
    ])?;
    for known in &rendered.known_by {
        link(tx, place, rendered.status, known, wake)?;
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
        tx.conn.execute(
            "UPDATE deliveries SET status = 'discarded', reason = 'superseded', due_at = NULL, finished_at = ?3
             WHERE execution = ?1 AND sink = ?2 AND status = 'waiting'",
            params![place.execution, sink, now],
        )?;
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

/// Remembers what an execution is known by, and ties it to its partner if that is known already.
fn link(tx: &mut Tx<'_>, place: &Place, status: Status, known: &KnownBy, wake: &mut Vec<String>) -> Result<(), Fault> {
    let side = if known.looks { "of" } else { "with" };
    tx.conn.execute(
        "INSERT OR IGNORE INTO link_keys (rule, side, key, execution) VALUES (?1, ?2, ?3, ?4)",
        params![known.rule, side, known.key, place.execution],
    )?;
    let now = place.now.micros();
    let pair = if known.looks {
        // The newest unfinished partner, once.
        tx.conn
            .query_row(
                "SELECT k.execution FROM link_keys k JOIN execution_heads h ON h.id = k.execution
                 WHERE k.rule = ?1 AND k.side = 'with' AND k.key = ?2
                   AND h.status NOT IN ('succeeded', 'failed', 'cancelled')
                   AND NOT EXISTS (SELECT 1 FROM links l WHERE l.execution = ?3 AND l.rule = ?1)
                 ORDER BY k.execution DESC LIMIT 1",
                params![known.rule, known.key, place.execution],
                |row| row.get::<_, i64>(0),
            )
            .optional()?
            .map(|with| (place.execution, with))
    } else if status.is_finished() {
        None
    } else {
        // The newest that still looks: what has nothing left to tell was not waiting for this one.
        tx.conn
            .query_row(
                "SELECT k.execution FROM link_keys k
                 WHERE k.rule = ?1 AND k.side = 'of' AND k.key = ?2
                   AND EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = k.execution AND d.finished_at IS NULL)
                   AND NOT EXISTS (SELECT 1 FROM links l WHERE l.execution = k.execution AND l.rule = ?1)
                   AND NOT EXISTS (SELECT 1 FROM links l WHERE l.with_execution = ?3 AND l.rule = ?1)
                 ORDER BY k.execution DESC LIMIT 1",
                params![known.rule, known.key, place.execution],
                |row| row.get::<_, i64>(0),
            )
            .optional()?
            .map(|of| (of, place.execution))
    };
    let Some((of, with)) = pair else { return Ok(()) };
    let id = tx.new_id(place.now);
    tx.conn.execute(
        "INSERT INTO links (id, rule, execution, with_execution, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![id, known.rule, of, with, now],
    )?;
    let mut due = tx.conn.prepare(
        "UPDATE deliveries SET due_at = ?2, until_linked = 0
         WHERE execution = ?1 AND finished_at IS NULL AND until_linked = 1 RETURNING sink",
    )?;
    let mut rows = due.query(params![of, now])?;
    while let Some(row) = rows.next()? {
        wake.push(row.get(0)?);
    }
    Ok(())
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}
