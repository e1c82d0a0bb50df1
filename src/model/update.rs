//! What one callback says happened: a source's output, and a sink's when it learned something.

use serde_json::{Map, Value};

use super::{Status, Task, Time};

/// What a callback says of one execution and some of its tasks. Fields that the callback does not mention are `None`
/// and leave what we hold alone.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Update {
    /// The vendor's own id of the execution (COS: RunId, or JobId of a job of no workflow; Port: run id).
    pub key: String,
    /// What makes two callbacks the same, for example `WorkflowFinish/Success`; within one execution. A second update
    /// with the same identity is a duplicate whatever else it says. `None` for progress of something unfinished, which
    /// is news as long as it changes anything.
    pub identity: Option<String>,
    /// What it says of the execution itself.
    pub execution: ExecutionPart,
    /// What it says of tasks; each has the key that the vendor gave it (COS: JobId), and stands there once.
    pub tasks: Vec<Task>,
    /// Applies only to an execution that we hold already, and is dropped silently otherwise. Sinks set it when they
    /// report on an execution that may have come through callbackd or not.
    pub known_only: bool,
}

impl Update {
    /// Its key, cut to what a reason has room for: nobody has vouched for what a held callback says.
    pub fn short_key(&self) -> &str {
        short(&self.key)
    }
}

/// The beginning of a vendor's id, which is whole where it is one.
pub(super) fn short(key: &str) -> &str {
    key.char_indices().nth(100).map_or(key, |(end, _)| &key[..end])
}

/// The execution's share of an [`Update`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ExecutionPart {
    /// What a person calls this kind of execution (COS: workflow name; Port: action).
    pub name: Option<String>,
    /// The vendor's id of what was executed (COS: WorkflowId; Port: action).
    pub workflow: Option<String>,
    /// What it is about: `<bucket>/<object>`, or the entity.
    pub subject: Option<String>,
    /// Where it stands. `None` when the callback speaks of a task only; a new execution is then running.
    pub status: Option<Status>,
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
    /// The vendor's further words. Merged key by key.
    pub attributes: Map<String, Value>,
}
