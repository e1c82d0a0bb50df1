//! An accepted transition, as every sink is told of it: the normalized change.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::{Accepted, Execution, State, Status, Task, Time, told};

/// What changed, beside the snapshot of what is now true.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct ChangeMeta {
    /// The CloudEvents type: `callbackd.execution.<status>`; `.updated` when only tasks or details changed, `.overdue` when it is late.
    #[serde(rename = "type")]
    pub kind: String,
    /// Counts the changes of one execution, from 1.
    pub sequence: u32,
    /// The status before; `null` for a new execution.
    pub previous_status: Option<Status>,
    /// Keys of the tasks that are new or moved.
    pub changed_tasks: Vec<String>,
    /// Marks an execution that is late.
    pub overdue: bool,
    /// The receipt it came from.
    pub receipt: Option<String>,
    /// When that receipt was here.
    pub received_at: Time,
}

/// One execution tied to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Link {
    /// The other execution's source.
    pub source: String,
    /// The other execution's key.
    pub key: String,
    /// The other execution's id.
    pub execution: String,
}

/// One accepted transition. Serialized, it is the `data` of the normalized change.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Stable; rises with each change of the whole store.
    pub id: i64,
    /// The execution's id.
    pub execution_id: i64,
    /// What is true since.
    pub state: State,
    /// What the execution is tied to.
    pub links: Vec<Link>,
    /// What changed.
    pub meta: ChangeMeta,
}

impl Change {
    /// The type of the change that marks an execution as late.
    pub const OVERDUE: &'static str = "callbackd.execution.overdue";

    /// The CloudEvents type of an accepted update.
    pub fn kind_of(accepted: &Accepted) -> &'static str {
        let now = accepted.state.execution.status;
        if accepted.overdue {
            return Change::OVERDUE;
        }
        if accepted.previous_status == Some(now) {
            return "callbackd.execution.updated";
        }
        match now {
            Status::Pending => "callbackd.execution.pending",
            Status::Running => "callbackd.execution.running",
            Status::Paused => "callbackd.execution.paused",
            Status::Succeeded => "callbackd.execution.succeeded",
            Status::Failed => "callbackd.execution.failed",
            Status::Cancelled => "callbackd.execution.cancelled",
            Status::Unknown => "callbackd.execution.unknown",
        }
    }

    /// Writes the `data` of the normalized change: what serializing it would write, sooner.
    pub fn write(&self, out: &mut String) {
        told::change(out, self);
    }

    /// The task of that key.
    pub fn task(&self, key: &str) -> Option<&Task> {
        self.state.tasks.iter().find(|t| t.key == key)
    }
}

impl Serialize for Change {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut out = s.serialize_struct("Change", 3)?;
        let execution = ExecutionOut { id: self.execution_id, execution: &self.state.execution, links: &self.links };
        out.serialize_field("execution", &execution)?;
        out.serialize_field("tasks", &self.state.tasks)?;
        out.serialize_field("change", &self.meta)?;
        out.end()
    }
}

/// An execution as sinks see it: with our id, and what it is tied to.
struct ExecutionOut<'a> {
    id: i64,
    execution: &'a Execution,
    links: &'a [Link],
}

impl Serialize for ExecutionOut<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let e = self.execution;
        let mut out = s.serialize_struct("Execution", 14)?;
        out.serialize_field("id", &self.id.to_string())?;
        out.serialize_field("source", &e.source)?;
        out.serialize_field("key", &e.key)?;
        out.serialize_field("name", &e.name)?;
        out.serialize_field("workflow", &e.workflow)?;
        out.serialize_field("subject", &e.subject)?;
        out.serialize_field("status", &e.status)?;
        out.serialize_field("vendor_status", &e.vendor_status)?;
        out.serialize_field("created_at", &e.created_at)?;
        out.serialize_field("started_at", &e.started_at)?;
        out.serialize_field("finished_at", &e.finished_at)?;
        out.serialize_field("inputs", &e.inputs)?;
        out.serialize_field("attributes", &e.attributes)?;
        out.serialize_field("links", &self.links)?;
        out.end()
    }
}
