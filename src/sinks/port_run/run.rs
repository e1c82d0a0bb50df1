//! Which Port run a change is reported to, and where the run stands.

use serde_json::Value;

use crate::jq::Jq;
use crate::model::{Change, Status};

use crate::sinks::cut;

/// A custom header of the uploaded object; COS hands it on with every callback.
const HEADER: &str = "x-cos-meta-port-run-id";
const ID_CHARS_MAX: usize = 128;

/// The id of a run; its text is safe in a URL's path as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RunId {
    text: String,
    /// A workflow node's run (`wfnr_…`): other paths, other words.
    pub(super) is_node: bool,
}

impl RunId {
    /// Reads `r_…` or `wfnr_…`.
    pub(super) fn parse(text: &str) -> Result<RunId, String> {
        let (is_node, rest) = match (text.strip_prefix("wfnr_"), text.strip_prefix("r_")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (false, ""),
        };
        if rest.is_empty() || text.len() > ID_CHARS_MAX || !rest.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return Err(format!("{:?} is no Port run id; it looks like r_… or wfnr_…", cut(text, 64)));
        }
        Ok(RunId { text: text.to_owned(), is_node })
    }

    pub(super) fn as_str(&self) -> &str {
        &self.text
    }

    /// The run that entities can be tied to: Port ties none to a node's run.
    pub(super) fn ties(&self) -> Option<&RunId> {
        (!self.is_node).then_some(self)
    }

    /// Where its log lines go.
    pub(super) fn logs(&self) -> String {
        format!("{}/logs", self.path())
    }

    /// Where the run is read and patched. That a node's run can also be read there is not documented: it is only
    /// ever asked in doubt, and a 404 then settles nothing.
    pub(super) fn path(&self) -> String {
        format!("/v1/{}/runs/{}", if self.is_node { "workflows/nodes" } else { "actions" }, self.text)
    }
}

/// What a change belongs to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// This run; somebody else does its work.
    Run(RunId),
    /// It is the run's own execution, as Port's callback began it.
    Own,
    /// No run that we know of.
    Nothing,
}

/// The run of a change: the one that `program` names (without one, the header), else the last link to an execution of
/// `sources`, else the execution itself when it is of `sources`. An `Err` is a fault of the program or of what it found.
pub(super) fn find(program: Option<&Jq>, sources: &[String], change: &Change, data: &Value) -> Result<Found, String> {
    let named = match program {
        Some(jq) => jq.run(data).map_err(|fault| format!("run_id: {fault}"))?.into_iter().next(),
        None => header(change).cloned(),
    };
    match named {
        Some(Value::String(text)) if !text.is_empty() => return RunId::parse(&text).map(Found::Run),
        None | Some(Value::Null | Value::String(_)) => {}
        Some(other) => return Err(format!("run_id: {} is no Port run id", cut(&other.to_string(), 64))),
    }
    if let Some(link) = change.links.iter().rev().find(|link| sources.contains(&link.source)) {
        return RunId::parse(&link.key).map(Found::Run);
    }
    Ok(if sources.contains(&change.state.execution.source) { Found::Own } else { Found::Nothing })
}

fn header(change: &Change) -> Option<&Value> {
    let headers = change.state.execution.attributes.get("headers")?.as_object()?;
    headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(HEADER)).map(|(_, value)| value)
}

/// Where a run stands at Port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum RunState {
    /// It takes reports; so does one in a status that we do not know.
    Open,
    /// Nobody has approved it yet: it takes no reports.
    WaitingForApproval,
    /// It is final, with this word: `SUCCESS`, `FAILURE`, `DECLINED`; a node's `SUCCESS`, `FAILED`, `CANCELLED`.
    Ended(String),
}

impl RunState {
    /// Reads the answer to a GET. Port has `run`; how it names a node's run is not documented.
    pub(super) fn read(answer: &Value) -> RunState {
        let run = ["run", "nodeRun", "workflowNodeRun"].iter().find_map(|key| answer.get(key)).unwrap_or(answer);
        let word = |key: &str| run.get(key).and_then(Value::as_str);
        match word("status") {
            Some(ended @ ("SUCCESS" | "FAILURE" | "DECLINED")) => RunState::Ended(ended.to_owned()),
            Some("COMPLETED") => RunState::Ended(word("result").unwrap_or("COMPLETED").to_owned()),
            Some("WAITING_FOR_APPROVAL") => RunState::WaitingForApproval,
            _ => RunState::Open,
        }
    }
}

/// Our word for Port's word of a final run; none for a word that we do not know.
pub(super) fn status_of(word: &str) -> Option<Status> {
    match word {
        "SUCCESS" => Some(Status::Succeeded),
        "FAILURE" | "FAILED" => Some(Status::Failed),
        "DECLINED" | "CANCELLED" => Some(Status::Cancelled),
        _ => None,
    }
}
