//! The event that a change makes; pure. Every limit of the API is kept by cutting, never by failing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::entity::Entity;
use crate::jq::Jq;
use crate::model::{Change, Delivery, Status, Task, Time};
use crate::options::Span;
use crate::sinks::cut;

const PROPERTIES_MAX: usize = 100;
const KEY_CHARS_MAX: usize = 100;
const VALUE_CHARS_MAX: usize = 4096;
/// A body may have 1 MB; the properties are what makes it large.
const PROPERTIES_BYTES_MAX: usize = 900_000;
/// No limit is documented. A list shows less.
const TITLE_CHARS_MAX: usize = 500;
const NOTES_MAX: usize = 8;
/// A problem stays open no longer than this, whatever is asked for.
const OPEN_MINUTES_MAX: u64 = 360;
const MINUTE_MS: u64 = 60_000;

const DESCRIPTION: &str = "dt.event.description";
const ALLOW_MERGE: &str = "dt.event.allow_davis_merge";
/// Properties that mean something to the server.
pub(super) const SWITCHES: [&str; 2] = [DESCRIPTION, ALLOW_MERGE];
/// Below `dt.`, these alone can be written.
const WRITABLE: [&str; 3] = ["dt.event.", "dt.davis.", "dt.entity."];

/// `eventType`. `MARKED_FOR_TERMINATION` is not among them: it mutes a host's problems.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(super) enum EventType {
    AvailabilityEvent,
    ErrorEvent,
    PerformanceEvent,
    ResourceContentionEvent,
    CustomAlert,
    CustomInfo,
    CustomAnnotation,
    CustomConfiguration,
    CustomDeployment,
    Warning,
    /// No event at all.
    #[default]
    #[serde(rename = "none")]
    None,
}

/// What the server does with an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// Opens a problem, which a repetition refreshes.
    Problem,
    /// Shows a span of time.
    Span,
    /// Shows a point in time.
    Point,
}

impl EventType {
    fn class(self) -> Option<Class> {
        Some(match self {
            EventType::AvailabilityEvent
            | EventType::ErrorEvent
            | EventType::PerformanceEvent
            | EventType::ResourceContentionEvent
            | EventType::CustomAlert => Class::Problem,
            EventType::CustomInfo
            | EventType::CustomAnnotation
            | EventType::CustomConfiguration
            | EventType::CustomDeployment => Class::Span,
            EventType::Warning => Class::Point,
            EventType::None => return None,
        })
    }
}

/// Which event a change makes.
pub(super) struct Types {
    pub(super) failed: EventType,
    pub(super) succeeded: EventType,
    pub(super) cancelled: EventType,
    pub(super) overdue: EventType,
    pub(super) others: EventType,
}

impl Types {
    fn of(&self, change: &Change) -> EventType {
        match change.state.execution.status {
            _ if is_overdue(change) => self.overdue,
            Status::Failed => self.failed,
            Status::Succeeded => self.succeeded,
            Status::Cancelled => self.cancelled,
            Status::Pending | Status::Running | Status::Paused | Status::Unknown => self.others,
        }
    }
}

impl Types {
    /// The status of a change that makes an event, and no problem.
    pub(super) fn harmless(&self) -> Option<Status> {
        [(Status::Succeeded, self.succeeded), (Status::Cancelled, self.cancelled), (Status::Running, self.others)]
            .into_iter()
            .find(|(_, event)| event.class().is_some_and(|class| class != Class::Problem))
            .map(|(status, _)| status)
    }
}

/// That it is late is what this change says; a later one may still bear the mark.
fn is_overdue(change: &Change) -> bool {
    change.meta.kind == "callbackd.execution.overdue"
}

/// How long a problem stays open, in whole minutes as the API counts them.
pub(super) fn minutes(span: Span) -> Result<u64, String> {
    let minutes = span.ms() / MINUTE_MS;
    match span.ms().is_multiple_of(MINUTE_MS) && (1..=OPEN_MINUTES_MAX).contains(&minutes) {
        true => Ok(minutes),
        false => Err(format!("{span}: a problem stays open for whole minutes, at most 6h; write \"15m\" or \"1h\"")),
    }
}

/// `EventIngest`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Event {
    event_type: EventType,
    title: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    start_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end_time: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity_selector: Option<String>,
    properties: BTreeMap<String, String>,
}

/// How the configuration wants events to be.
pub(super) struct Shape {
    pub(super) types: Types,
    /// In minutes.
    pub(super) open_for: u64,
    pub(super) allow_davis_merge: bool,
    pub(super) entity: Option<Entity>,
    pub(super) title: Option<Jq>,
    pub(super) properties: Option<Jq>,
}

impl Shape {
    /// The event, with what an operator should know of it; or why there is none.
    pub(super) fn event(&self, delivery: &Delivery, now: Time) -> Result<(Event, Vec<String>), String> {
        let change = &*delivery.change;
        let status = change.state.execution.status;
        let event_type = self.types.of(change);
        let class = event_type.class().ok_or_else(|| format!("no event for {}", word(change)))?;
        let moved = is_overdue(change) || change.meta.previous_status != Some(status);
        // What is still learned of a failure refreshes its problem; anything else would be told twice.
        if !moved && class != Class::Problem {
            return Err(format!("no event for what is still {status}"));
        }
        let mut notes = Vec::new();
        let programs = self.entity.is_some() || self.title.is_some() || self.properties.is_some();
        let data = if programs { serde_json::to_value(change).map_err(|e| e.to_string())? } else { Value::Null };
        let open_minutes = if class == Class::Problem { self.open_for } else { 0 };
        let (start_time, end_time) = times(class, change, now, open_minutes, &mut notes);
        let entity_selector = self.entity.as_ref().and_then(|entity| {
            entity.selector(&data).unwrap_or_else(|fault| {
                notes.push(format!("entity: {fault}; told of the environment instead"));
                None
            })
        });
        let own = self.title.as_ref().and_then(|program| first("title", program, &data, &mut notes)).and_then(text);
        let title = cut(&own.unwrap_or_else(|| title(change)), TITLE_CHARS_MAX).replace(char::is_control, " ");
        let properties = self.properties(class, delivery, &data, &mut notes);
        // One note says it; a hundred say no more.
        notes.truncate(NOTES_MAX);
        // It is counted from the start: what began a while ago would be open for less than it should.
        let age_ms = start_time.map_or(0, |start| (now.micros() / 1000 - start).max(0) as u64);
        let timeout = (class == Class::Problem).then(|| (self.open_for + age_ms / MINUTE_MS).min(OPEN_MINUTES_MAX));
        Ok((Event { event_type, title, start_time, end_time, timeout, entity_selector, properties }, notes))
    }

    /// The configured ones over the default ones. Where there are too many, the last of the default ones go.
    fn properties(
        &self,
        class: Class,
        delivery: &Delivery,
        data: &Value,
        notes: &mut Vec<String>,
    ) -> BTreeMap<String, String> {
        let program = self.properties.as_ref();
        let own = match program.and_then(|program| first("properties", program, data, notes)) {
            Some(Value::Object(own)) => own,
            None => Map::new(),
            Some(_) => {
                notes.push("properties: the result is no object, so it adds nothing".to_owned());
                Map::new()
            }
        };
        let allow_merge = (class == Class::Problem).then(|| self.allow_davis_merge.to_string());
        let switches = [(DESCRIPTION, Some(description(&delivery.change))), (ALLOW_MERGE, allow_merge)];
        let mut all = Properties::default();
        for (key, value) in switches {
            all.put(key, own.get(key).map_or(value, |own| text(own.clone())));
        }
        for (key, value) in &own {
            if key.starts_with("dt.") && !WRITABLE.iter().any(|writable| key.starts_with(writable)) {
                notes.push(format!("properties: {} is the server's own, and left out", cut(key, 64)));
            } else {
                all.put(key, text(value.clone()));
            }
        }
        for (key, value) in defaults(delivery) {
            // null takes a default one away.
            if !own.contains_key(&key) {
                all.put(&key, value);
            }
        }
        if all.left_out > 0 {
            notes.push(format!("{} properties are more than there is room for, and left out", all.left_out));
        }
        all.taken
    }
}

#[derive(Default)]
struct Properties {
    taken: BTreeMap<String, String>,
    bytes: usize,
    left_out: usize,
}

impl Properties {
    /// The first of a key stays.
    fn put(&mut self, key: &str, value: Option<String>) {
        let (key, Some(value)) = (cut(key, KEY_CHARS_MAX), value) else { return };
        if key.is_empty() || self.taken.contains_key(&key) {
            return;
        }
        let value = cut(&value, VALUE_CHARS_MAX);
        // As it is written: a control character takes six bytes.
        let bytes = Value::String(value.clone()).to_string().len() + Value::String(key.clone()).to_string().len() + 2;
        if self.taken.len() == PROPERTIES_MAX || self.bytes + bytes > PROPERTIES_BYTES_MAX {
            self.left_out += 1;
            return;
        }
        self.bytes += bytes;
        self.taken.insert(key, value);
    }
}

/// The first result, unless it is null. A fault costs what it is for, not the event.
fn first(option: &str, program: &Jq, data: &Value, notes: &mut Vec<String>) -> Option<Value> {
    match program.run(data) {
        Ok(results) => results.into_iter().next().filter(|result| !result.is_null()),
        Err(fault) => {
            notes.push(format!("{option}: {fault}"));
            None
        }
    }
}

/// As a text, because properties are nothing else; what is empty says nothing.
fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then_some(text),
        other => Some(other.to_string()),
    }
}

fn word(change: &Change) -> String {
    if is_overdue(change) { "overdue".to_owned() } else { change.state.execution.status.to_string() }
}

fn name(change: &Change) -> &str {
    let e = &change.state.execution;
    e.name.as_deref().or(e.workflow.as_deref()).unwrap_or(&e.source)
}

/// It names the run: two failures with one title would be one problem.
fn title(change: &Change) -> String {
    let e = &change.state.execution;
    let subject = e.subject.as_deref().map_or(String::new(), |subject| format!(": {}", cut(subject, 200)));
    format!("{} {}{subject} ({})", cut(name(change), 80), word(change), cut(&e.key, 200))
}

fn description(change: &Change) -> String {
    let tasks = &change.state.tasks;
    let mut said = format!("{} {}", name(change), word(change));
    if let Some(subject) = &change.state.execution.subject {
        said += &format!(": {subject}");
    }
    if !tasks.is_empty() {
        let succeeded = tasks.iter().filter(|task| task.status == Status::Succeeded).count();
        said += &format!("; {succeeded} of {} tasks succeeded", tasks.len());
    }
    failed_tasks(change).map_or(said.clone(), |failed| format!("{said}\n{failed}"))
}

/// A line for each: `Snapshot_1: 404: no such object`.
fn failed_tasks(change: &Change) -> Option<String> {
    let line = |task: &Task| {
        let error = |key: &str| text(task.error.as_ref()?.get(key)?.clone());
        let name = task.name.as_ref().unwrap_or(&task.key).clone();
        [Some(name), error("code"), error("message")].into_iter().flatten().collect::<Vec<_>>().join(": ")
    };
    let lines: Vec<_> = change.state.tasks.iter().filter(|task| task.status == Status::Failed).map(line).collect();
    (!lines.is_empty()).then(|| lines.join("\n"))
}

fn defaults(delivery: &Delivery) -> Vec<(String, Option<String>)> {
    let change = &*delivery.change;
    let e = &change.state.execution;
    let time = |time: Option<Time>| time.map(|time| time.to_string());
    let mut all = vec![
        ("callbackd.run_id".to_owned(), Some(e.key.clone())),
        ("callbackd.status".to_owned(), Some(word(change))),
        ("callbackd.vendor_status".to_owned(), e.vendor_status.clone()),
        ("callbackd.workflow".to_owned(), e.name.clone()),
        ("callbackd.workflow_id".to_owned(), e.workflow.clone()),
        ("callbackd.subject".to_owned(), e.subject.clone()),
        ("callbackd.source".to_owned(), Some(e.source.clone())),
        ("callbackd.failed_tasks".to_owned(), failed_tasks(change)),
        ("callbackd.started_at".to_owned(), time(e.started_at)),
        ("callbackd.finished_at".to_owned(), time(e.finished_at)),
        ("callbackd.execution".to_owned(), Some(change.execution_id.to_string())),
        // What is there twice has this twice.
        ("callbackd.delivery".to_owned(), Some(delivery.id.to_string())),
    ];
    // Bucket, object, action and the like; what is nested is no property.
    let plain = e.attributes.iter().filter(|(_, value)| !value.is_object() && !value.is_array());
    all.extend(plain.map(|(key, value)| (format!("callbackd.{key}"), text(value.clone()))));
    all
}

/// Start and end in milliseconds. What the server would refuse for being too far away is left out, with a note, and so
/// is a start so long ago that its problem could not stay open for its time.
fn times(
    class: Class,
    change: &Change,
    now: Time,
    open_minutes: u64,
    notes: &mut Vec<String>,
) -> (Option<i64>, Option<i64>) {
    const DAY_MS: u64 = 1440 * MINUTE_MS;
    let (past, future) = match class {
        Class::Span => (30 * DAY_MS, 7 * DAY_MS),
        Class::Problem | Class::Point => ((OPEN_MINUTES_MAX - open_minutes) * MINUTE_MS, 5 * MINUTE_MS),
    };
    // It grows older on its way.
    let past = past.saturating_sub(MINUTE_MS / 2);
    let e = &change.state.execution;
    let finished = e.finished_at.filter(|_| e.status.is_finished());
    let mut inside = |what: &str, time: Time| {
        let is_inside = now.ms_since(time) <= past && time.ms_since(now) <= future;
        if !is_inside {
            notes.push(format!("{what} {time} is too far from now for such an event, and left out"));
        }
        is_inside.then_some(time.micros().div_euclid(1000))
    };
    let (start, end) = match (class, finished) {
        (Class::Span, Some(end)) => (e.started_at.or(e.created_at).filter(|start| *start <= end), Some(end)),
        (_, finished) => (finished, None),
    };
    // With no start of its own, an event begins when we heard of it; a span, when it ended.
    let start = inside("the start", start.or(end).unwrap_or(change.meta.received_at));
    // An end without its start would lie before the server's idea of it.
    let end = start.and_then(|start| Some(inside("the end", end?)?.max(start + 1)));
    (start, end)
}
