//! A workflow instance: how it is asked for, where it stands, and what is learned of it. Pure.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::api::Seen;
use crate::model::{Delivery, ExecutionPart, Status, Time, Update};
use crate::signature::{hex, sha256};
use crate::sinks::cut;

const ID_CHARS_MAX: usize = 128;
const WORD_CHARS_MAX: usize = 64;

/// The id that a delivery's instance gets: the same at each try, whoever makes it, and no other delivery's. It has the
/// form of a UUID (RFC 9562, version 8).
pub(super) fn id_of(delivery: &Delivery) -> String {
    let (change, execution) = (&delivery.change, &delivery.change.state.execution);
    let parts = json!([delivery.id, change.id, execution.source, execution.key]);
    let mut bytes = sha256(parts.to_string().as_bytes());
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex(&bytes[..16]);
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}

/// Whether it can be an id as SecMaster has them: then it stands for itself in a URL.
pub(super) fn is_id(text: &str) -> bool {
    (1..=ID_CHARS_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// The id under which the answer to a start says that the instance runs; ours, where it says none.
pub(super) fn echoed(answer: &Value, ours: &str) -> String {
    let id = answer.get("action_instance_id").and_then(Value::as_str);
    id.filter(|id| is_id(id)).unwrap_or(ours).to_owned()
}

/// How far a delivery got whose instance is followed: handed back at its next try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Followed {
    pub(super) instance: String,
    /// When it was started.
    pub(super) since: Time,
    /// SecMaster's word for where it stood.
    pub(super) word: String,
}

impl Followed {
    pub(super) fn of(delivery: &Delivery) -> Option<Followed> {
        Followed::deserialize(delivery.resume.as_ref()?).ok()
    }

    pub(super) fn resume(&self) -> Option<Value> {
        Some(json!(self))
    }
}

/// An instance, as SecMaster shows it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    pub(super) word: String,
    name: Option<String>,
    started_at: Option<Time>,
    finished_at: Option<Time>,
}

impl Shown {
    /// Reads the answer of `ShowAopWorkflowInstance`; none, if it is no instance.
    pub(super) fn read(answer: &Value) -> Option<Shown> {
        let instance = answer.get("data").filter(|inner| inner.is_object()).unwrap_or(answer);
        let text = |at: &str| instance.pointer(at).and_then(Value::as_str).filter(|text| !text.is_empty());
        let name = text("/workflow/name").or_else(|| text("/name")).map(|name| cut(name, 200));
        let (started_at, finished_at) = (text("/start_time").and_then(time), text("/end_time").and_then(time));
        Some(Shown { word: cut(text("/status")?, WORD_CHARS_MAX), name, started_at, finished_at })
    }

    pub(super) fn status(&self) -> Status {
        match self.word.as_str() {
            "RUNNING" | "RETRYING" | "TERMINATING" => Status::Running,
            "FINISHED" => Status::Succeeded,
            "FAILED" => Status::Failed,
            "TERMINATED" => Status::Cancelled,
            _ => Status::Unknown,
        }
    }

    /// What it says of the instance's execution.
    pub(super) fn update(&self, instance: &str, now: Time) -> Update {
        let status = self.status();
        let finished_at = status.is_finished().then(|| self.finished_at.unwrap_or(now));
        let execution = ExecutionPart {
            name: self.name.clone(),
            status: Some(status),
            vendor_status: Some(self.word.clone()),
            started_at: self.started_at,
            finished_at,
            ..ExecutionPart::default()
        };
        let identity = status.is_finished().then(|| format!("ended/{}", self.word));
        Update { key: instance.to_owned(), identity, execution, ..Update::default() }
    }
}

/// What is learned from a start: an execution that runs.
pub(super) fn begun(instance: &str, workflow: &str, delivery: &Delivery, seen: &Seen, now: Time) -> Update {
    let mut attributes = Map::new();
    attributes.extend(seen.request_id.as_ref().map(|id| ("request_id".to_owned(), json!(id))));
    let execution = ExecutionPart {
        workflow: Some(workflow.to_owned()),
        subject: delivery.change.state.execution.subject.clone(),
        status: Some(Status::Running),
        vendor_status: Some("RUNNING".to_owned()),
        started_at: Some(now),
        attributes,
        ..ExecutionPart::default()
    };
    let identity = Some("started".to_owned());
    Update { key: instance.to_owned(), identity, execution, ..Update::default() }
}

/// What is learned of an instance that is followed no longer: nobody knows how it ends.
pub(super) fn lost(followed: &Followed) -> Update {
    let vendor_status = Some(followed.word.clone()).filter(|word| !word.is_empty());
    let execution = ExecutionPart { status: Some(Status::Unknown), vendor_status, ..ExecutionPart::default() };
    Update { key: followed.instance.clone(), execution, ..Update::default() }
}

/// A time as SecMaster writes it: RFC 3339, or with the zone behind a `Z` (`2021-01-30T23:00:00Z+0800`).
fn time(text: &str) -> Option<Time> {
    Time::parse(text).or_else(|| Time::parse(&text.replace("Z+", "+").replace("Z-", "-")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::cloudevent;

    #[test]
    fn an_id_is_its_deliverys_own() {
        let delivery = cloudevent::delivery("r_1");
        let id = id_of(&delivery);
        assert!(is_id(&id) && id.len() == 36, "{id}");
        assert_eq!((&id[14..15], "89ab".contains(&id[19..20])), ("8", true), "{id}");
        let again = Delivery { attempts: 5, resume: Some(json!({})), ..delivery.clone() };
        assert_eq!(id_of(&again), id);
        for other in [Delivery { id: 100, ..delivery.clone() }, cloudevent::delivery("r_2")] {
            assert_ne!(id_of(&other), id);
        }
        for text in ["", "a/b", "a b", "é", &"a".repeat(129)] {
            assert!(!is_id(text), "{text}");
            assert_eq!(echoed(&json!({"action_instance_id": text}), "ours"), "ours");
        }
        assert_eq!(echoed(&json!({"action_instance_id": "theirs"}), "ours"), "theirs");
        assert_eq!(echoed(&Value::Null, "ours"), "ours");
    }

    #[test]
    fn an_instance_is_read_whatever_its_words() {
        let read = |answer: Value| Shown::read(&answer);
        let cases = [
            ("RUNNING", Status::Running),
            ("RETRYING", Status::Running),
            ("TERMINATING", Status::Running),
            ("FINISHED", Status::Succeeded),
            ("FAILED", Status::Failed),
            ("TERMINATED", Status::Cancelled),
            ("running", Status::Unknown),
        ];
        let now = Time::from_seconds(1_700_000_000);
        for (word, status) in cases {
            let shown = read(json!({"status": word})).expect(word);
            let update = shown.update("i1", now);
            assert_eq!((shown.status(), update.execution.status), (status, Some(status)), "{word}");
            assert_eq!(update.execution.finished_at, status.is_finished().then_some(now));
            assert_eq!(update.identity.is_some(), status.is_finished());
            assert_eq!(read(json!({"data": {"status": word}})).expect(word), shown);
        }
        for odd in [json!(null), json!({}), json!({"status": 7}), json!({"status": ""}), json!([])] {
            assert_eq!(read(odd.clone()), None, "{odd}");
        }
        let midnight = Time::parse("2021-01-30T15:00:00Z");
        for text in ["2021-01-30T15:00:00Z", "2021-01-30T23:00:00+08:00", "2021-01-30T23:00:00Z+0800"] {
            assert_eq!(time(text), midnight, "{text}");
        }
        assert_eq!(time("yesterday"), None);
    }
}
