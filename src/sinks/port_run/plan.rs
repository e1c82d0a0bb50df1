//! What is to be said of one change, as requests in their order; pure.
//!
//! Port's words differ between an action's run and a workflow node's run, and a final status freezes both: so log
//! lines, entities and fields go first, and exactly one request, the last, is final.

use http::Method;
use serde_json::{Map, Value, json};

use crate::jq::Jq;
use crate::model::{Change, Delivery, Status, Task};

use super::Terminal;
use super::entity::{Entities, Made};
use super::lines::{self, Line};
use super::run::RunId;
use crate::sinks::cut;

const LINE_CHARS_MAX: usize = 2_000;
const SUMMARY_CHARS_MAX: usize = 10_000;
const LABEL_CHARS_MAX: usize = 200;
const LINKS_MAX: usize = 50;
const LINK_CHARS_MAX: usize = 2_000;
const FAILED_TASKS_SUMMED_MAX: usize = 5;

/// How the configuration wants reports to look.
pub(super) struct Shape {
    /// Whether anything is said of the run itself.
    pub(super) reports: bool,
    pub(super) terminal: Terminal,
    pub(super) summary: Option<Jq>,
    pub(super) link: Option<Jq>,
    pub(super) status_label: Option<Jq>,
    pub(super) progress: bool,
    pub(super) entities: Option<Entities>,
}

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) body: Value,
    pub(super) part: Part,
}

/// What a step is for: decides what a retry repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Fields of the run: sent again, they say the same.
    Fields,
    /// The final status: can be said once.
    End,
}

/// The final status to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct End {
    /// Ours.
    pub(super) status: Status,
    /// Port's.
    pub(super) word: &'static str,
}

/// Everything to be said of one change, in the order of the fields.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) run: RunId,
    /// At most one update.
    pub(super) first: Vec<Step>,
    /// Sent again, they stand there twice.
    pub(super) lines: Vec<Line>,
    pub(super) made: Made,
    /// The last is the final status, where there is one.
    pub(super) last: Vec<Step>,
    pub(super) end: Option<End>,
    /// What went wrong in making it, for a person.
    pub(super) notes: Vec<String>,
}

/// How far a delivery got: handed back at its next try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    /// Lines of its own that Port has taken.
    pub(super) lines: usize,
    /// Whether it has taken the fields,
    pub(super) patched: bool,
    /// every entity,
    pub(super) entities: bool,
    /// and the final status, so that only entities are left.
    pub(super) ended: bool,
    /// Whether the run waited for its approval.
    pub(super) unapproved: bool,
}

impl Progress {
    pub(super) fn of(delivery: &Delivery) -> Progress {
        delivery.resume.as_ref().and_then(|v| serde::Deserialize::deserialize(v).ok()).unwrap_or_default()
    }

    /// To be kept; nothing when there is nothing to remember.
    pub(super) fn resume(self) -> Option<Value> {
        (self != Progress::default()).then(|| json!(self))
    }
}

impl Plan {
    /// Plans the report of `change` to `run`. `data` is the change as programs see it.
    pub(super) fn of(shape: &Shape, run: RunId, change: &Change, data: &Value) -> Plan {
        let made = shape.entities.as_ref().map_or_else(Made::default, |entities| entities.make(data));
        let mut plan =
            Plan { run, first: Vec::new(), lines: Vec::new(), made, last: Vec::new(), end: None, notes: Vec::new() };
        if shape.reports {
            plan.report(shape, change, data);
        }
        plan
    }

    fn report(&mut self, shape: &Shape, change: &Change, data: &Value) {
        let (execution, notes) = (&change.state.execution, &mut self.notes);
        let is_node = self.run.is_node;
        self.end = End::of(execution.status, is_node);
        let label = text(shape.status_label.as_ref(), data, "status_label", notes).unwrap_or_else(|| label(change));
        let label = json!(cut(&label, LABEL_CHARS_MAX));
        let mut fields = Map::new();
        fields.insert("externalRunId".to_owned(), cut(&execution.key, LINK_CHARS_MAX).into());
        match links(shape.link.as_ref(), data, notes).as_slice() {
            [] => {}
            all if is_node => drop(fields.insert("links".to_owned(), json!(all))),
            [one] => drop(fields.insert("link".to_owned(), json!(one))),
            all => drop(fields.insert("link".to_owned(), json!(all))),
        }
        if shape.progress {
            let line = |task: &Task| Line { text: cut(&line(task), LINE_CHARS_MAX), status: task.status };
            self.lines.extend(finished_tasks(change).map(line));
        }
        let Some(end) = self.end else {
            let moved = change.meta.sequence == 1 || change.meta.previous_status != Some(execution.status);
            if moved {
                fields.insert("statusLabel".to_owned(), label);
                if is_node {
                    fields.insert("status".to_owned(), json!("IN_PROGRESS"));
                }
                self.first.push(self.patch(fields, Part::Fields));
            }
            return;
        };
        let own = text(shape.summary.as_ref(), data, "summary", notes);
        let summary = cut(&own.unwrap_or_else(|| summary(change)), SUMMARY_CHARS_MAX);
        if is_node {
            // A node's run has no summary.
            self.lines.push(Line { text: summary, status: end.status });
            fields.insert("status".to_owned(), json!("COMPLETED"));
            fields.insert("result".to_owned(), json!(end.word));
            fields.insert("statusLabel".to_owned(), label);
            self.last.push(self.patch(fields, Part::End));
            return;
        }
        fields.insert("summary".to_owned(), summary.into());
        match shape.terminal {
            Terminal::Log => {
                self.last.push(self.patch(fields, Part::Fields));
                let message = cut(&headline(change), LINE_CHARS_MAX);
                let body = json!({"message": message, "terminationStatus": end.word, "statusLabel": label});
                self.last.push(self.post(body, Part::End));
            }
            Terminal::Patch => {
                fields.insert("status".to_owned(), json!(end.word));
                fields.insert("statusLabel".to_owned(), label);
                self.last.push(self.patch(fields, Part::End));
            }
        }
    }

    fn patch(&self, fields: Map<String, Value>, part: Part) -> Step {
        Step { method: Method::PATCH, path: self.run.path(), body: Value::Object(fields), part }
    }

    fn post(&self, body: Value, part: Part) -> Step {
        Step { method: Method::POST, path: self.run.logs(), body, part }
    }

    /// Every request in its order, if nothing was said before and nothing goes wrong: method, path and body.
    pub(super) fn requests(&self, shape: &Shape) -> Vec<(Method, String, Option<Value>)> {
        let step = |step: &Step| (step.method.clone(), step.path.clone(), Some(step.body.clone()));
        let log = |some| (Method::POST, self.run.logs(), Some(lines::body(&self.run, some)));
        let mut all: Vec<_> = self.first.iter().map(step).collect();
        all.extend(lines::requests(&self.lines).into_iter().map(log));
        if let Some(entities) = &shape.entities {
            let calls = entities.calls(&self.made.entities, self.run.ties());
            all.extend(calls.into_iter().map(|call| (call.method, call.path, call.body)));
        }
        all.extend(self.last.iter().map(step));
        all
    }
}

impl End {
    fn of(status: Status, is_node: bool) -> Option<End> {
        let word = match (status, is_node) {
            (Status::Succeeded, _) => "SUCCESS",
            (Status::Failed | Status::Cancelled, false) => "FAILURE",
            (Status::Failed, true) => "FAILED",
            (Status::Cancelled, true) => "CANCELLED",
            (Status::Pending | Status::Running | Status::Paused | Status::Unknown, _) => return None,
        };
        Some(End { status, word })
    }
}

fn finished_tasks(change: &Change) -> impl Iterator<Item = &Task> {
    change.meta.changed_tasks.iter().filter_map(|key| change.task(key)).filter(|task| task.status.is_finished())
}

fn word(status: Status, vendor: Option<&str>) -> String {
    vendor.filter(|v| !v.is_empty()).map_or_else(|| status.to_string(), str::to_owned)
}

/// `Transcode_1655 finished: Failed (404: no such object)`.
fn line(task: &Task) -> String {
    let name = task.name.as_deref().unwrap_or(&task.key);
    let said: Vec<_> = ["code", "message"].iter().filter_map(|key| scalar(task.error.as_ref()?.get(key)?)).collect();
    let why = if said.is_empty() { String::new() } else { format!(" ({})", said.join(": ")) };
    format!("{name} finished: {}{why}", word(task.status, task.vendor_status.as_deref()))
}

fn headline(change: &Change) -> String {
    let e = &change.state.execution;
    format!("{} finished: {}", e.name.as_deref().unwrap_or(&e.key), word(e.status, e.vendor_status.as_deref()))
}

fn summary(change: &Change) -> String {
    let tasks = &change.state.tasks;
    let mut text = headline(change);
    if !tasks.is_empty() {
        let succeeded = tasks.iter().filter(|t| t.status == Status::Succeeded).count();
        text += &format!(", {succeeded} of {} tasks succeeded", tasks.len());
    }
    for task in tasks.iter().filter(|t| t.status == Status::Failed).take(FAILED_TASKS_SUMMED_MAX) {
        text += "\n";
        text += &line(task);
    }
    text
}

fn label(change: &Change) -> String {
    let e = &change.state.execution;
    match (e.status, e.name.as_deref()) {
        (Status::Succeeded, _) => "Succeeded".to_owned(),
        (Status::Failed, _) => "Failed".to_owned(),
        (Status::Cancelled, _) => "Cancelled".to_owned(),
        (status, Some(name)) => format!("{name}: {status}"),
        (status, None) => status.to_string(),
    }
}

fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => (!text.is_empty()).then(|| text.clone()),
        other => Some(other.to_string()),
    }
}

/// The program's first result as text. A fault costs the text, not the report.
fn text(program: Option<&Jq>, data: &Value, option: &str, notes: &mut Vec<String>) -> Option<String> {
    match program?.run(data) {
        Ok(results) => results.first().and_then(scalar),
        Err(fault) => {
            notes.push(format!("{option}: {fault}"));
            None
        }
    }
}

/// The program's results, lists taken apart.
fn links(program: Option<&Jq>, data: &Value, notes: &mut Vec<String>) -> Vec<String> {
    let Some(program) = program else { return Vec::new() };
    let results = program.run(data).unwrap_or_else(|fault| {
        notes.push(format!("link: {fault}"));
        Vec::new()
    });
    let flat = results.into_iter().flat_map(|result| match result {
        Value::Array(items) => items,
        one => vec![one],
    });
    let mut links = Vec::new();
    for value in flat {
        match value {
            Value::Null => {}
            Value::String(text) if text.is_empty() => {}
            Value::String(text) if links.len() < LINKS_MAX && text.len() <= LINK_CHARS_MAX => links.push(text),
            other => notes.push(format!("link: left out {}", cut(&other.to_string(), 64))),
        }
    }
    // One note says it; a thousand say no more.
    notes.truncate(8);
    links
}
