//! The normalized change as text, written by hand like the snapshot (`text`): it is written for every delivery at every
//! try, and a general serializer takes three times as long. It is what `Change` serializes to, byte for byte.

use serde_json::{Map, Value};

use super::text::{number, object, plain_text, text, time, value};
use super::{Change, ChangeMeta, Execution, Link, Status, Task, Template, Time};

/// The `data` of the normalized change.
pub(super) fn change(out: &mut String, change: &Change) {
    let state = &change.state;
    out.push_str("{\"execution\":");
    execution(out, change.execution_id, &state.execution, &change.links);
    out.push_str(",\"tasks\":");
    list(out, &state.tasks, task);
    out.push_str(",\"change\":");
    meta(out, &change.meta);
    out.push('}');
}

fn execution(out: &mut String, id: i64, e: &Execution, links: &[Link]) {
    out.push_str("{\"id\":\"");
    number(out, id);
    out.push('"');
    let mut fields = Fields(out);
    fields.text("source", &e.source);
    fields.text("key", &e.key);
    fields.maybe_text("name", e.name.as_deref());
    fields.maybe_text("workflow", e.workflow.as_deref());
    fields.maybe_text("subject", e.subject.as_deref());
    fields.word("status", e.status.as_str());
    fields.maybe_text("vendor_status", e.vendor_status.as_deref());
    fields.maybe_time("created_at", e.created_at);
    fields.maybe_time("started_at", e.started_at);
    fields.maybe_time("finished_at", e.finished_at);
    fields.maybe_value("inputs", e.inputs.as_ref());
    fields.object("attributes", &e.attributes);
    list(fields.name("links"), links, link);
    out.push('}');
}

fn task(out: &mut String, t: &Task) {
    out.push_str("{\"key\":");
    text(out, &t.key);
    let mut fields = Fields(out);
    fields.maybe_text("name", t.name.as_deref());
    fields.maybe_text("type", t.kind.as_deref());
    fields.word("status", t.status.as_str());
    fields.maybe_text("vendor_status", t.vendor_status.as_deref());
    fields.maybe_time("created_at", t.created_at);
    fields.maybe_time("started_at", t.started_at);
    fields.maybe_time("finished_at", t.finished_at);
    template(fields.name("template"), t.template.as_ref());
    fields.maybe_value("outputs", t.outputs.as_ref());
    fields.maybe_value("error", t.error.as_ref());
    out.push('}');
}

fn template(out: &mut String, held: Option<&Template>) {
    let Some(held) = held else { return out.push_str("null") };
    out.push_str("{\"id\":");
    maybe_text(out, held.id.as_deref());
    Fields(out).maybe_text("name", held.name.as_deref());
    out.push('}');
}

fn link(out: &mut String, link: &Link) {
    out.push_str("{\"source\":");
    text(out, &link.source);
    let mut fields = Fields(out);
    fields.text("key", &link.key);
    fields.text("execution", &link.execution);
    out.push('}');
}

fn meta(out: &mut String, meta: &ChangeMeta) {
    out.push_str("{\"type\":");
    text(out, &meta.kind);
    let mut fields = Fields(out);
    number(fields.name("sequence"), meta.sequence.into());
    fields.maybe_word("previous_status", meta.previous_status.map(Status::as_str));
    list(fields.name("changed_tasks"), &meta.changed_tasks, |out, key| text(out, key));
    fields.name("overdue").push_str(if meta.overdue { "true" } else { "false" });
    fields.maybe_text("receipt", meta.receipt.as_deref());
    time(fields.name("received_at"), meta.received_at);
    out.push('}');
}

fn list<T>(out: &mut String, list: &[T], one: impl Fn(&mut String, &T)) {
    out.push('[');
    for (position, each) in list.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        one(out, each);
    }
    out.push(']');
}

fn maybe_text(out: &mut String, held: Option<&str>) {
    match held {
        Some(held) => text(out, held),
        None => out.push_str("null"),
    }
}

/// The fields of an object behind its first.
struct Fields<'o>(&'o mut String);

impl Fields<'_> {
    /// Where the value of that field is to be written.
    fn name(&mut self, name: &str) -> &mut String {
        self.0.reserve(name.len() + 4);
        self.0.push_str(",\"");
        self.0.push_str(name);
        self.0.push_str("\":");
        self.0
    }

    fn text(&mut self, name: &str, held: &str) {
        text(self.name(name), held);
    }

    fn maybe_text(&mut self, name: &str, held: Option<&str>) {
        maybe_text(self.name(name), held);
    }

    /// A word of ours.
    fn word(&mut self, name: &str, held: &str) {
        plain_text(self.name(name), held);
    }

    fn maybe_word(&mut self, name: &str, held: Option<&str>) {
        match held {
            Some(held) => self.word(name, held),
            None => self.name(name).push_str("null"),
        }
    }

    fn maybe_time(&mut self, name: &str, held: Option<Time>) {
        match held {
            Some(held) => time(self.name(name), held),
            None => self.name(name).push_str("null"),
        }
    }

    fn maybe_value(&mut self, name: &str, held: Option<&Value>) {
        match held {
            Some(held) => value(self.name(name), held),
            None => self.name(name).push_str("null"),
        }
    }

    fn object(&mut self, name: &str, held: &Map<String, Value>) {
        object(self.name(name), held);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{State, Update};
    use super::*;

    #[test]
    fn it_is_what_serde_would_write() {
        let odd = "quote \" backslash \\ newline \n nul \0 第1集 🎬".to_owned();
        let template = Template { id: None, name: Some(odd.clone()) };
        let mut full = Task::new(odd.clone(), Status::Failed);
        (full.name, full.kind, full.vendor_status) = (Some(odd.clone()), Some(String::new()), Some(odd.clone()));
        full.created_at = Some(Time::from_micros(1_606_791_641_000_000));
        (full.started_at, full.finished_at) = (full.created_at.map(|t| t.plus_ms(1)), Some(Time::from_micros(1)));
        (full.template, full.outputs) = (Some(template), Some(json!({ "progress": 37, odd.clone(): [odd.clone()] })));
        full.error = Some(json!(null));
        let execution = Execution {
            source: "media".to_owned(),
            key: odd.clone(),
            name: Some(odd.clone()),
            workflow: None,
            subject: Some("bucket/object".to_owned()),
            status: Status::Failed,
            vendor_status: Some("Failed".to_owned()),
            created_at: full.created_at,
            started_at: full.started_at,
            finished_at: full.finished_at,
            inputs: Some(json!([1, -2.5, true, null])),
            attributes: Map::from_iter([("region".to_owned(), Value::Null), (odd.clone(), json!(odd))]),
        };
        let bare = State::begin("media", Update { key: "r-1".to_owned(), ..Update::default() }).state;
        let meta = |changed_tasks: &[&str], previous_status, receipt: Option<&str>| ChangeMeta {
            kind: "callbackd.execution.failed".to_owned(),
            sequence: 7,
            previous_status,
            changed_tasks: changed_tasks.iter().map(|&key| key.to_owned()).collect(),
            overdue: receipt == Some("1"),
            receipt: receipt.map(str::to_owned),
            received_at: Time::from_micros(1_700_000_000_123_456),
        };
        let link = |n: i64| Link { source: "portal".to_owned(), key: odd.clone(), execution: n.to_string() };
        for held in [
            Change {
                id: 1,
                execution_id: i64::MAX,
                state: State { execution, tasks: vec![full, Task::new("bare".to_owned(), Status::Pending)] },
                links: vec![link(1), link(2)],
                meta: meta(&[&odd, "bare"], Some(Status::Running), Some("1")),
            },
            Change { id: 2, execution_id: 1, state: bare, links: Vec::new(), meta: meta(&[], None, None) },
        ] {
            let mut text = String::new();
            change(&mut text, &held);
            assert_eq!(text, serde_json::to_string(&held).expect("serialized"));
        }
    }
}
