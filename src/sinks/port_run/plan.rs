//! What is to be said of one change, as requests in their order; pure.
//!
//! Port's words differ between an action's run and a workflow node's run, and a final status freezes both: so log
//! lines and fields go first, and exactly one request, the last, is final.

use http::Method;
use serde_json::{Map, Value, json};

use crate::jq::Jq;
use crate::model::{Change, Delivery, Status, Task};

use super::Terminal;
use super::run::RunId;
use crate::sinks::cut;

/// One change makes no more log requests than this: Port's rate limit is the whole organization's, and what is begun
/// has to end within one try. Beyond it, several tasks share a request.
const LOG_REQUESTS_MAX: usize = 20;
const LINE_CHARS_MAX: usize = 10_000;
const LABEL_CHARS_MAX: usize = 200;
const LINKS_MAX: usize = 50;
const LINK_CHARS_MAX: usize = 2_000;
const FAILED_TASKS_SUMMED_MAX: usize = 5;

/// How the configuration wants reports to look.
pub(super) struct Shape {
    pub(super) terminal: Terminal,
    pub(super) summary: Option<Jq>,
    pub(super) link: Option<Jq>,
    pub(super) status_label: Option<Jq>,
    pub(super) progress: bool,
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
    /// Log lines: sent again, they stand there twice.
    Lines,
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

/// Everything to be said of one change.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) run: RunId,
    pub(super) steps: Vec<Step>,
    pub(super) end: Option<End>,
    /// What went wrong in making it, for a person.
    pub(super) notes: Vec<String>,
}

/// How far a delivery got: handed back at its next try.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub(super) struct Progress {
    /// Log requests that Port has taken.
    logged: usize,
    /// Whether it has taken the fields.
    patched: bool,
}

impl Progress {
    pub(super) fn of(delivery: &Delivery) -> Progress {
        delivery.resume.as_ref().and_then(|v| serde::Deserialize::deserialize(v).ok()).unwrap_or_default()
    }

    /// What is left of `steps`.
    pub(super) fn rest(self, steps: &[Step]) -> impl Iterator<Item = &Step> {
        let mut lines = 0;
        steps.iter().filter(move |step| match step.part {
            Part::Lines => {
                lines += 1;
                lines > self.logged
            }
            Part::Fields => !self.patched,
            Part::End => true,
        })
    }

    /// Port has taken `step`.
    pub(super) fn took(&mut self, step: &Step) {
        match step.part {
            Part::Lines => self.logged += 1,
            Part::Fields => self.patched = true,
            Part::End => {}
        }
    }

    /// To be kept; nothing when there is nothing to remember.
    pub(super) fn resume(self) -> Option<Value> {
        (self != Progress::default()).then(|| json!(self))
    }
}

impl Plan {
    /// Plans the report of `change` to `run`. `data` is the change as programs see it.
    pub(super) fn of(shape: &Shape, run: RunId, change: &Change, data: &Value) -> Plan {
        let mut notes = Vec::new();
        let execution = &change.state.execution;
        let end = End::of(execution.status, run.is_node);
        let label =
            text(shape.status_label.as_ref(), data, "status_label", &mut notes).unwrap_or_else(|| label(change));
        let mut fields = Map::new();
        fields.insert("externalRunId".to_owned(), cut(&execution.key, LINK_CHARS_MAX).into());
        let links = links(shape.link.as_ref(), data, &mut notes);
        match links.as_slice() {
            [] => {}
            all if run.is_node => drop(fields.insert("links".to_owned(), json!(all))),
            [one] => drop(fields.insert("link".to_owned(), json!(one))),
            all => drop(fields.insert("link".to_owned(), json!(all))),
        }
        let label = json!(cut(&label, LABEL_CHARS_MAX));

        let mut steps = Steps { run: &run, steps: Vec::new() };
        let moved = change.meta.sequence == 1 || change.meta.previous_status != Some(execution.status);
        if end.is_none() && moved {
            let mut fields = fields.clone();
            fields.insert("statusLabel".to_owned(), label.clone());
            if run.is_node {
                fields.insert("status".to_owned(), json!("IN_PROGRESS"));
            }
            steps.patch(fields, Part::Fields);
        }
        if shape.progress {
            let finished: Vec<_> = finished_tasks(change).collect();
            for some in finished.chunks(finished.len().div_ceil(LOG_REQUESTS_MAX).max(1)) {
                let lines: Vec<_> = some.iter().map(|task| line(task)).collect();
                let worst = some.iter().map(|task| task.status).max_by_key(|&s| severity(s));
                steps.log(&lines.join("\n"), worst.unwrap_or(execution.status), None);
            }
        }
        if let Some(end) = end {
            let own = text(shape.summary.as_ref(), data, "summary", &mut notes);
            let summary = cut(&own.unwrap_or_else(|| summary(change)), LINE_CHARS_MAX);
            if run.is_node {
                // A node's run has no summary.
                steps.log(&summary, end.status, None);
                fields.insert("status".to_owned(), json!("COMPLETED"));
                fields.insert("result".to_owned(), json!(end.word));
                fields.insert("statusLabel".to_owned(), label);
                steps.patch(fields, Part::End);
            } else {
                fields.insert("summary".to_owned(), summary.into());
                match shape.terminal {
                    Terminal::Log => {
                        steps.patch(fields, Part::Fields);
                        steps.log(&headline(change), end.status, Some((end, label)));
                    }
                    Terminal::Patch => {
                        fields.insert("status".to_owned(), json!(end.word));
                        fields.insert("statusLabel".to_owned(), label);
                        steps.patch(fields, Part::End);
                    }
                }
            }
        }
        let steps = steps.steps;
        Plan { run, steps, end, notes }
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

struct Steps<'a> {
    run: &'a RunId,
    steps: Vec<Step>,
}

impl Steps<'_> {
    fn patch(&mut self, fields: Map<String, Value>, part: Part) {
        self.steps.push(Step { method: Method::PATCH, path: self.run.path(), body: Value::Object(fields), part });
    }

    fn log(&mut self, text: &str, status: Status, end: Option<(End, Value)>) {
        let text = cut(text, LINE_CHARS_MAX);
        let (body, part) = match end {
            Some((end, label)) => {
                (json!({"message": text, "terminationStatus": end.word, "statusLabel": label}), Part::End)
            }
            None if self.run.is_node => {
                let level = ["INFO", "WARN", "ERROR"][severity(status)];
                (json!({"logs": [{"level": level, "message": text}]}), Part::Lines)
            }
            None => (json!({"message": text}), Part::Lines),
        };
        self.steps.push(Step { method: Method::POST, path: format!("{}/logs", self.run.path()), body, part });
    }
}

fn severity(status: Status) -> usize {
    match status {
        Status::Failed => 2,
        Status::Cancelled => 1,
        _ => 0,
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
