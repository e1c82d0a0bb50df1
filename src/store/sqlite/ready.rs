//! What is made ready before the transaction, on the caller's thread: the commit is what limits everyone, so nothing is
//! rendered in it that could be rendered before.

use serde_json::Value;

use super::identity::hash_of;
use super::link::{self, KnownBy};
use crate::model::{Accepted, Change, ChangeMeta, Rules, State, Status, Targets, Time, Update, text};
use crate::store::Parsed;

pub(super) enum ReadyParsed {
    Updates(Vec<ReadyUpdate>),
    /// Rendered when it is confirmed: who knows what is true by then.
    Held(Vec<Update>),
    Quarantined(String),
}

/// An update, and what it would be as the first of its execution, which is the usual case.
pub(super) struct ReadyUpdate {
    pub(super) hash: i64,
    pub(super) says: State,
    pub(super) says_status: bool,
    pub(super) identity: Option<String>,
    pub(super) known_only: bool,
    /// By when an execution that begins with it is expected to be finished.
    pub(super) expected_by: Option<Time>,
    pub(super) first: Rendered,
}

/// A change in the form that is stored.
pub(super) struct Rendered {
    pub(super) status: Status,
    pub(super) previous_status: Option<Status>,
    pub(super) kind: &'static str,
    /// `None` when all of them are.
    pub(super) changed_tasks: Option<String>,
    pub(super) snapshot: String,
    pub(super) targets: Targets,
    pub(super) known_by: Vec<KnownBy>,
    pub(super) link_fault: Option<String>,
}

pub(super) fn ready(source: &str, now: Time, parsed: Parsed, rules: &Rules) -> ReadyParsed {
    match parsed {
        Parsed::Updates(updates) => {
            ReadyParsed::Updates(updates.into_iter().map(|u| ready_update(source, now, u, rules)).collect())
        }
        Parsed::Held(updates) => ReadyParsed::Held(updates),
        Parsed::Quarantined(reason) => ReadyParsed::Quarantined(reason),
    }
}

pub(super) fn ready_update(source: &str, now: Time, update: Update, rules: &Rules) -> ReadyUpdate {
    let hash = hash_of(&update.key);
    let says_status = update.execution.status.is_some();
    let (identity, known_only) = (update.identity.clone(), update.known_only);
    let accepted = State::begin(source, update);
    let first = render(&accepted, 0, 1, None, now, rules);
    let expected_by = rules.expected_by(&accepted.state.execution, now);
    ReadyUpdate { hash, says: accepted.state, says_status, identity, known_only, expected_by, first }
}

/// Renders an accepted change. Routes and links judge it without the ids that only the transaction gives: there, an
/// execution that is new has the id `"0"`.
pub(super) fn render(
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
        changed_tasks: (sequence > 1).then(|| text::texts(&accepted.changed_tasks)),
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
            changed_tasks: accepted.changed_tasks.clone(),
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
