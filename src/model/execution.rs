//! Executions and tasks, and the rule that turns an update into news, a repeat or a contradiction.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Advance, ExecutionPart, Status, Time, Update};

/// What we hold to be true of one execution. Absent is `null`, never an empty string.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Execution {
    /// The configured name of the source it came from.
    pub source: String,
    /// The vendor's own id.
    pub key: String,
    /// What a person calls this kind of execution.
    pub name: Option<String>,
    /// The vendor's id of what was executed.
    pub workflow: Option<String>,
    /// What it is about.
    pub subject: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// The vendor's word for it.
    pub vendor_status: Option<String>,
    /// When the vendor created it.
    pub created_at: Option<Time>,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// What was asked for.
    pub inputs: Option<Value>,
    /// The vendor's further words.
    pub attributes: Map<String, Value>,
}

/// One step of an execution.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Task {
    /// The vendor's own id.
    pub key: String,
    /// The step's name within its workflow.
    pub name: Option<String>,
    /// What kind of work it is.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Where it stands.
    pub status: Status,
    /// The vendor's word for it.
    pub vendor_status: Option<String>,
    /// When the vendor created it.
    pub created_at: Option<Time>,
    /// When it began.
    pub started_at: Option<Time>,
    /// When it ended.
    pub finished_at: Option<Time>,
    /// The template it used.
    pub template: Option<Template>,
    /// What it made. While unfinished, `{"progress": percent}` where the vendor tells.
    pub outputs: Option<Value>,
    /// Why it failed: `{"code", "message"}`.
    pub error: Option<Value>,
}

/// What a task was told to do.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Template {
    /// The vendor's own id.
    pub id: Option<String>,
    /// What a person calls it.
    pub name: Option<String>,
}

/// An execution with its tasks: what a change is a snapshot of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct State {
    /// The execution.
    pub execution: Execution,
    /// Its tasks, in the order in which we first heard of them.
    pub tasks: Vec<Task>,
}

/// Tasks that one execution may get to by one update after the other. They are compared with one another, and every change
/// holds them all.
const TASKS_MAX: usize = 1000;

/// An update that is news.
#[derive(Clone, PartialEq, Debug)]
pub struct Accepted {
    /// What we hold now.
    pub state: State,
    /// The status before; `None` for a new execution.
    pub previous_status: Option<Status>,
    /// Keys of the tasks that are new or moved; `None` for all of them, which every callback would have to copy.
    pub moved: Option<Vec<String>>,
    /// Nothing moved, and that is the news: it is not finished in time.
    pub overdue: bool,
}

impl Accepted {
    /// Keys of the tasks that are new or moved.
    pub fn changed_tasks(&self) -> Vec<String> {
        self.moved.clone().unwrap_or_else(|| self.state.tasks.iter().map(|task| task.key.clone()).collect())
    }
}

/// What an update is, beside what we hold.
#[derive(Clone, PartialEq, Debug)]
pub enum Verdict {
    /// News.
    Accepted(Box<Accepted>),
    /// A repeat, or older than what we hold.
    Duplicate,
    /// It contradicts what a finished execution or task said; the text names what.
    Conflict(String),
}

impl State {
    /// The state of an execution first heard of through `update`.
    pub fn begin(source: &str, update: Update) -> Accepted {
        let part = update.execution;
        let execution = Execution {
            source: source.to_owned(),
            key: update.key,
            name: part.name,
            workflow: part.workflow,
            subject: part.subject,
            status: part.status.unwrap_or(Status::Running),
            vendor_status: part.vendor_status,
            created_at: part.created_at,
            started_at: part.started_at,
            finished_at: part.finished_at,
            inputs: part.inputs,
            attributes: part.attributes,
        };
        let tasks = Task::each_once(update.tasks);
        Accepted { state: State { execution, tasks }, previous_status: None, moved: None, overdue: false }
    }

    /// The update again that this state was begun with, for when its execution turns out to be known already.
    pub fn as_update(&self, says_status: bool, identity: Option<String>) -> Update {
        let e = &self.execution;
        Update {
            key: e.key.clone(),
            identity,
            execution: ExecutionPart {
                name: e.name.clone(),
                workflow: e.workflow.clone(),
                subject: e.subject.clone(),
                status: says_status.then_some(e.status),
                vendor_status: e.vendor_status.clone(),
                created_at: e.created_at,
                started_at: e.started_at,
                finished_at: e.finished_at,
                inputs: e.inputs.clone(),
                attributes: e.attributes.clone(),
            },
            tasks: self.tasks.clone(),
            known_only: false,
        }
    }

    /// The form in which it is stored: lists without names.
    pub fn snapshot(&self) -> String {
        super::text::snapshot(self)
    }

    /// Reads what [`State::snapshot`] wrote.
    pub fn of_snapshot(snapshot: &str) -> serde_json::Result<State> {
        super::text::state(snapshot)
    }

    /// Judges `update` against this state. `seen` holds the identities of the updates applied so far.
    ///
    /// An update is applied whole or not at all: one contradiction makes all of it a conflict.
    pub fn judge<'a>(&self, mut seen: impl Iterator<Item = &'a str>, update: &Update) -> Verdict {
        if let Some(identity) = &update.identity
            && seen.any(|s| s == identity)
        {
            return Verdict::Duplicate;
        }
        if let Some(text) = self.contradiction(update) {
            return Verdict::Conflict(text);
        }
        let mut next = self.clone();
        next.execution.merge(update);
        let mut changed_tasks = Vec::new();
        for task in &update.tasks {
            match next.tasks.iter_mut().find(|t| t.key == task.key) {
                Some(held) => {
                    if held.merge(task) {
                        changed_tasks.push(task.key.clone());
                    }
                }
                None => {
                    next.tasks.push(task.clone());
                    changed_tasks.push(task.key.clone());
                }
            }
        }
        if next == *self {
            return Verdict::Duplicate;
        }
        if next.tasks.len() > self.tasks.len().max(TASKS_MAX) {
            return Verdict::Conflict(format!("the execution would have more than {TASKS_MAX} tasks"));
        }
        Verdict::Accepted(Box::new(Accepted {
            state: next,
            previous_status: Some(self.execution.status),
            moved: Some(changed_tasks),
            overdue: false,
        }))
    }

    /// The mark of an execution that is not finished in time.
    pub fn overdue(self) -> Accepted {
        let previous_status = Some(self.execution.status);
        Accepted { state: self, previous_status, moved: Some(Vec::new()), overdue: true }
    }

    fn contradiction(&self, update: &Update) -> Option<String> {
        let held = self.execution.status;
        if let Some(next) = update.execution.status
            && held.advance(next) == Advance::Conflict
        {
            return Some(format!("the execution is {held}, this says {next}"));
        }
        update.tasks.iter().find_map(|task| {
            let held = self.tasks.iter().find(|t| t.key == task.key)?;
            (held.status.advance(task.status) == Advance::Conflict)
                .then(|| format!("task {} is {}, this says {}", task.key, held.status, task.status))
        })
    }
}

/// Takes `next` where it says something: always when `held` is empty, and over what is there when `newer`.
fn take<T: Clone>(held: &mut Option<T>, next: &Option<T>, newer: bool) {
    if next.is_some() && (newer || held.is_none()) {
        held.clone_from(next);
    }
}

impl Execution {
    fn merge(&mut self, update: &Update) {
        let part = &update.execution;
        let finished = self.status.is_finished();
        let advance = part.status.map_or(Advance::Same, |next| self.status.advance(next));
        // Of something finished only gaps are filled: its words are final.
        let newer = !finished && advance != Advance::Stale;
        if advance == Advance::Forward {
            self.status = part.status.unwrap_or(self.status);
        }
        take(&mut self.vendor_status, &part.vendor_status, newer);
        take(&mut self.name, &part.name, newer);
        take(&mut self.workflow, &part.workflow, newer);
        take(&mut self.subject, &part.subject, newer);
        take(&mut self.created_at, &part.created_at, newer);
        take(&mut self.started_at, &part.started_at, newer);
        if advance != Advance::Stale {
            take(&mut self.finished_at, &part.finished_at, newer);
        }
        take(&mut self.inputs, &part.inputs, newer);
        for (key, value) in &part.attributes {
            merge_value(self.attributes.entry(key).or_insert(Value::Null), value, newer);
        }
    }
}

/// Like [`take`] for JSON, key by key: what says `null` says nothing, and an object takes nothing away from another.
fn merge_value(held: &mut Value, next: &Value, newer: bool) {
    match (held, next) {
        (_, Value::Null) => {}
        (Value::Object(held), Value::Object(next)) => {
            for (key, value) in next {
                merge_value(held.entry(key).or_insert(Value::Null), value, newer);
            }
        }
        (held, next) if newer || held.is_null() => held.clone_from(next),
        _ => {}
    }
}

impl Task {
    /// A task of which only the key and the status are known.
    pub fn new(key: String, status: Status) -> Task {
        Task {
            key,
            name: None,
            kind: None,
            status,
            vendor_status: None,
            created_at: None,
            started_at: None,
            finished_at: None,
            template: None,
            outputs: None,
            error: None,
        }
    }

    /// The tasks that one body speaks of: of one that it names twice, the later and finished word stands.
    pub fn each_once(said: Vec<Task>) -> Vec<Task> {
        let mut tasks: Vec<Task> = Vec::with_capacity(said.len());
        for task in said {
            match tasks.iter_mut().find(|t| t.key == task.key) {
                Some(held) if held.status.advance(task.status) == Advance::Forward => *held = task,
                Some(_) => {}
                None => tasks.push(task),
            }
        }
        tasks
    }

    /// Takes over what `next` has to say; whether anything changed.
    fn merge(&mut self, next: &Task) -> bool {
        let before = self.clone();
        let advance = self.status.advance(next.status);
        let stale = advance == Advance::Stale || (advance == Advance::Same && next.progress() < self.progress());
        if stale {
            return false;
        }
        let newer = !self.status.is_finished();
        if advance == Advance::Forward {
            self.status = next.status;
        }
        take(&mut self.vendor_status, &next.vendor_status, newer);
        take(&mut self.name, &next.name, newer);
        take(&mut self.kind, &next.kind, newer);
        take(&mut self.created_at, &next.created_at, newer);
        take(&mut self.started_at, &next.started_at, newer);
        take(&mut self.finished_at, &next.finished_at, newer);
        take(&mut self.template, &next.template, newer);
        // Progress is no output: once finished, it goes.
        if newer && self.status.is_finished() {
            self.outputs = None;
        }
        take(&mut self.outputs, &next.outputs, newer);
        take(&mut self.error, &next.error, newer);
        *self != before
    }

    fn progress(&self) -> Option<i64> {
        if self.status.is_finished() {
            return None;
        }
        self.outputs.as_ref()?.get("progress")?.as_i64()
    }
}
