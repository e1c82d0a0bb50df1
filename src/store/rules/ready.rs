//! What is made ready before the transaction, on the caller's thread: the commit is what limits everyone, so nothing is
//! rendered in it that could be rendered before.

use serde_json::{Map, Value};

use super::hash_of;
use super::link::{self, KnownBy};
use crate::model::{Accepted, Change, ChangeMeta, Rules, State, Status, Targets, Task, Time, Trace, Update, text};
use crate::store::Parsed;

pub(crate) enum ReadyParsed {
    Updates(Vec<ReadyUpdate>),
    /// Rendered when it is confirmed: who knows what is true by then.
    Held(Vec<Update>),
    Quarantined(String),
}

impl ReadyParsed {
    /// Bytes that it holds, about: lists and objects take many times what they take in a body.
    pub(crate) fn weight(&self) -> usize {
        let state = |inputs: &Option<Value>, attributes: &Map<String, Value>, tasks: &[Task]| {
            let outputs = tasks.iter().flat_map(|task| &task.outputs);
            let values = inputs.iter().chain(attributes.values()).chain(outputs);
            256 * tasks.len() + values.map(weight).sum::<usize>()
        };
        match self {
            ReadyParsed::Updates(updates) => updates
                .iter()
                .map(|u| {
                    let e = &u.says.execution;
                    1024 + u.first.snapshot.len() + state(&e.inputs, &e.attributes, &u.says.tasks)
                })
                .sum(),
            ReadyParsed::Held(updates) => {
                let of = |u: &Update| 1024 + state(&u.execution.inputs, &u.execution.attributes, &u.tasks);
                updates.iter().map(of).sum()
            }
            ReadyParsed::Quarantined(reason) => reason.len(),
        }
    }
}

/// A node of serde_json's objects has room for so many members, whether they are there or not.
const NODE: (usize, usize) = (6, 640);

fn weight(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 32,
        Value::String(text) => 32 + text.len(),
        Value::Array(list) => 32 + list.iter().map(weight).sum::<usize>(),
        Value::Object(map) => {
            let nodes = map.len().div_ceil(NODE.0) * NODE.1;
            32 + nodes + map.iter().map(|(key, value)| key.len() + weight(value)).sum::<usize>()
        }
    }
}

/// An update, and what it would be as the first of its execution, which is the usual case.
pub(crate) struct ReadyUpdate {
    pub(crate) hash: i64,
    pub(crate) says: State,
    pub(crate) says_status: bool,
    pub(crate) identity: Option<String>,
    pub(crate) known_only: bool,
    /// By when an execution that begins with it is expected to be finished.
    pub(crate) expected_by: Option<Time>,
    pub(crate) first: Rendered,
    /// What its callback was sent in; rendered with `first` already.
    pub(crate) trace: Option<Trace>,
}

impl ReadyParsed {
    /// The same, of a callback that was sent in this trace.
    pub(crate) fn traced(mut self, trace: Option<Trace>) -> ReadyParsed {
        if let (ReadyParsed::Updates(updates), Some(trace)) = (&mut self, trace) {
            for update in updates {
                text::traced(&mut update.first.snapshot, &trace);
                update.trace = Some(trace.clone());
            }
        }
        self
    }
}

/// A change in the form that is stored.
pub(crate) struct Rendered {
    pub(crate) status: Status,
    pub(crate) previous_status: Option<Status>,
    pub(crate) kind: &'static str,
    /// `None` when all of them are.
    pub(crate) changed_tasks: Option<String>,
    pub(crate) snapshot: String,
    pub(crate) targets: Targets,
    pub(crate) known_by: Vec<KnownBy>,
    pub(crate) link_fault: Option<String>,
}

pub(crate) fn ready(source: &str, now: Time, parsed: Parsed, rules: &Rules) -> ReadyParsed {
    match parsed {
        Parsed::Updates(updates) => {
            ReadyParsed::Updates(updates.into_iter().map(|u| ready_update(source, now, u, rules)).collect())
        }
        Parsed::Held(updates) => ReadyParsed::Held(updates),
        Parsed::Quarantined(reason) => ReadyParsed::Quarantined(reason),
    }
}

pub(crate) fn ready_update(source: &str, now: Time, mut update: Update, rules: &Rules) -> ReadyUpdate {
    let hash = hash_of(&update.key);
    let says_status = update.execution.status.is_some();
    let (identity, known_only) = (update.identity.take(), update.known_only);
    let accepted = State::begin(source, update);
    let first = render(&accepted, 0, 1, None, now, rules);
    let expected_by = rules.expected_by(&accepted.state.execution, now);
    ReadyUpdate { hash, says: accepted.state, says_status, identity, known_only, expected_by, first, trace: None }
}

/// Renders an accepted change. Routes and links judge it without the ids that only the transaction gives: there, an
/// execution that is new has the id `"0"`.
pub(crate) fn render(
    accepted: &Accepted,
    id: i64,
    sequence: u32,
    receipt: Option<i64>,
    now: Time,
    rules: &Rules,
) -> Rendered {
    let source = accepted.state.execution.source.as_str();
    let kind = Change::kind_of(accepted);
    let mut rendered = Rendered {
        status: accepted.state.execution.status,
        previous_status: accepted.previous_status,
        changed_tasks: accepted.moved.as_deref().map(text::texts),
        snapshot: accepted.state.snapshot(),
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
            kind: rendered.kind.to_owned(),
            sequence,
            previous_status: accepted.previous_status,
            changed_tasks: accepted.changed_tasks(),
            overdue: accepted.overdue,
            receipt: receipt.map(|r| r.to_string()),
            received_at: now,
        },
    };
    let data = serde_json::to_value(&change).unwrap_or_default();
    rendered.targets = rules.targets(source, &data);
    (rendered.known_by, rendered.link_fault) = link::known_by(source, &data, rules);
    rendered
}
