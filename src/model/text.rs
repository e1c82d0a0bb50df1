//! JSON written by hand, for the snapshot that every change stores, and read back.
//!
//! A general serializer looks at each byte of each text for something to escape and walks through generic layers for
//! each field; on the path of every callback that costs more than all of SQLite's b-trees. This writer knows its one
//! shape, asks of a text as a whole whether anything is to be escaped, and gives up the rest to serde.
//!
//! The shape is for the store alone, which shows it as objects in its views: lists whose places have a meaning, because
//! names, said again in each of millions of rows, would be a third of what is written. Times are microseconds; what is
//! absent is `null`, or left out at the end of a list.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Execution, State, Status, Task, Template, Time};

/// `[execution, [task, …]]`
pub(super) fn snapshot(state: &State) -> String {
    let mut out = String::with_capacity(512 + 384 * state.tasks.len());
    out.push('[');
    execution(&mut out, &state.execution);
    out.push_str(",[");
    for (position, held) in state.tasks.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        task(&mut out, held);
    }
    out.push_str("]]");
    out
}

/// `["…","…"]`
pub fn texts(list: &[String]) -> String {
    let mut out = String::with_capacity(2 + 40 * list.len());
    out.push('[');
    for (position, one) in list.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        text(&mut out, one);
    }
    out.push(']');
    out
}

/// `{"name":"value"}`
pub fn pairs(list: &[(String, String)]) -> String {
    let mut out = String::with_capacity(2 + 48 * list.len());
    out.push('{');
    for (position, (name, value)) in list.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        text(&mut out, name);
        out.push(':');
        text(&mut out, value);
    }
    out.push('}');
    out
}

/// `[source, key, name, workflow, subject, status, vendor_status, created_at, started_at, finished_at, inputs,
/// attributes]`
fn execution(out: &mut String, e: &Execution) {
    let mut row = Row::begin(out);
    row.text(&e.source);
    row.text(&e.key);
    row.maybe_text(e.name.as_ref());
    row.maybe_text(e.workflow.as_ref());
    row.maybe_text(e.subject.as_ref());
    row.status(e.status);
    row.maybe_text(e.vendor_status.as_ref());
    row.maybe_time(e.created_at);
    row.maybe_time(e.started_at);
    row.maybe_time(e.finished_at);
    row.maybe_value(e.inputs.as_ref());
    if !e.attributes.is_empty() {
        object(row.next(), &e.attributes);
    }
    row.end();
}

/// `[key, name, type, status, vendor_status, created_at, started_at, finished_at, [template.id, template.name], outputs,
/// error]`
fn task(out: &mut String, t: &Task) {
    let mut row = Row::begin(out);
    row.text(&t.key);
    row.maybe_text(t.name.as_ref());
    row.maybe_text(t.kind.as_ref());
    row.status(t.status);
    row.maybe_text(t.vendor_status.as_ref());
    row.maybe_time(t.created_at);
    row.maybe_time(t.started_at);
    row.maybe_time(t.finished_at);
    match &t.template {
        Some(template) => {
            let mut inner = Row::begin(row.next());
            inner.maybe_text(template.id.as_ref());
            inner.maybe_text(template.name.as_ref());
            inner.end();
        }
        None => row.absent += 1,
    }
    row.maybe_value(t.outputs.as_ref());
    row.maybe_value(t.error.as_ref());
    row.end();
}

/// A list that is being written. What is absent waits for something present behind it.
struct Row<'o> {
    out: &'o mut String,
    absent: usize,
    is_new: bool,
}

impl Row<'_> {
    fn begin(out: &mut String) -> Row<'_> {
        out.push('[');
        Row { out, absent: 0, is_new: true }
    }

    /// Where the next value is to be written.
    fn next(&mut self) -> &mut String {
        if !self.is_new {
            self.out.push(',');
        }
        for _ in 0..self.absent {
            self.out.push_str("null,");
        }
        (self.absent, self.is_new) = (0, false);
        self.out
    }

    fn text(&mut self, held: &str) {
        text(self.next(), held);
    }

    fn maybe_text(&mut self, held: Option<&String>) {
        match held {
            Some(held) => self.text(held),
            None => self.absent += 1,
        }
    }

    fn status(&mut self, status: Status) {
        plain_text(self.next(), status.as_str());
    }

    fn maybe_time(&mut self, held: Option<Time>) {
        match held {
            Some(held) => number(self.next(), held.micros()),
            None => self.absent += 1,
        }
    }

    fn maybe_value(&mut self, held: Option<&Value>) {
        match held {
            Some(held) => value(self.next(), held),
            None => self.absent += 1,
        }
    }

    fn end(self) {
        self.out.push(']');
    }
}

/// In decimal digits, without the formatter, which takes three times as long.
pub fn number(out: &mut String, held: i64) {
    out.push_str(itoa::Buffer::new().format(held));
}

/// In RFC 3339, quoted.
pub fn time(out: &mut String, held: Time) {
    held.with_text(|text| plain_text(out, text));
}

pub(super) fn value(out: &mut String, held: &Value) {
    match held {
        Value::Null => out.push_str("null"),
        Value::String(held) => text(out, held),
        Value::Object(held) => object(out, held),
        Value::Array(held) => {
            out.push('[');
            for (position, one) in held.iter().enumerate() {
                if position > 0 {
                    out.push(',');
                }
                value(out, one);
            }
            out.push(']');
        }
        Value::Bool(_) | Value::Number(_) => out.push_str(&held.to_string()),
    }
}

pub(super) fn object(out: &mut String, held: &Map<String, Value>) {
    out.push('{');
    for (position, (key, one)) in held.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        text(out, key);
        out.push(':');
        value(out, one);
    }
    out.push('}');
}

/// A text of anybody's, quoted.
pub fn text(out: &mut String, held: &str) {
    if is_plain(held.as_bytes()) {
        plain_text(out, held);
    } else {
        // Serializing a text into memory cannot fail.
        out.push_str(&serde_json::to_string(held).unwrap_or_default());
    }
}

/// A word of ours, quoted: nothing in it is to be escaped.
pub fn plain_text(out: &mut String, held: &str) {
    out.reserve(held.len() + 2);
    out.push('"');
    out.push_str(held);
    out.push('"');
}

/// Whether nothing in it is to be escaped. Eight bytes are looked at in one step, the last eight once more where they
/// are no whole step; a borrow may take a plain byte for one that is not, behind one that is not.
fn is_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    let odd = |word: [u8; 8]| {
        let word = u64::from_le_bytes(word);
        let (quote, backslash) = (word ^ (ONES * b'"' as u64), word ^ (ONES * b'\\' as u64));
        let control = word.wrapping_sub(ONES * b' ' as u64) & !word;
        (control | quote.wrapping_sub(ONES) & !quote | backslash.wrapping_sub(ONES) & !backslash) & (ONES << 7)
    };
    match bytes.last_chunk::<8>() {
        Some(last) => bytes.as_chunks::<8>().0.iter().fold(odd(*last), |found, word| found | odd(*word)) == 0,
        None => bytes.iter().all(|&b| b >= b' ' && b != b'"' && b != b'\\'),
    }
}

/// What [`snapshot`] wrote.
pub(super) fn state(snapshot: &str) -> serde_json::Result<State> {
    let Stored(execution, tasks) = serde_json::from_str(snapshot)?;
    Ok(State { execution, tasks: tasks.into_iter().map(|StoredTask(task)| task).collect() })
}

#[derive(Deserialize)]
struct Stored(#[serde(with = "ExecutionList")] Execution, Vec<StoredTask>);

#[derive(Deserialize)]
struct StoredTask(#[serde(with = "TaskList")] Task);

/// As [`execution`] writes it: serde reads a list into fields, place by place. What may be left out at its end has a
/// default.
#[derive(Deserialize)]
#[serde(remote = "Execution")]
struct ExecutionList {
    source: String,
    key: String,
    name: Option<String>,
    workflow: Option<String>,
    subject: Option<String>,
    status: Status,
    #[serde(default)]
    vendor_status: Option<String>,
    #[serde(default, deserialize_with = "micros")]
    created_at: Option<Time>,
    #[serde(default, deserialize_with = "micros")]
    started_at: Option<Time>,
    #[serde(default, deserialize_with = "micros")]
    finished_at: Option<Time>,
    #[serde(default)]
    inputs: Option<Value>,
    #[serde(default)]
    attributes: Map<String, Value>,
}

/// As [`task`] writes it.
#[derive(Deserialize)]
#[serde(remote = "Task")]
struct TaskList {
    key: String,
    name: Option<String>,
    kind: Option<String>,
    status: Status,
    #[serde(default)]
    vendor_status: Option<String>,
    #[serde(default, deserialize_with = "micros")]
    created_at: Option<Time>,
    #[serde(default, deserialize_with = "micros")]
    started_at: Option<Time>,
    #[serde(default, deserialize_with = "micros")]
    finished_at: Option<Time>,
    #[serde(default, deserialize_with = "template")]
    template: Option<Template>,
    #[serde(default)]
    outputs: Option<Value>,
    #[serde(default)]
    error: Option<Value>,
}

fn micros<'de, D: Deserializer<'de>>(held: D) -> Result<Option<Time>, D::Error> {
    Ok(Option::deserialize(held)?.map(Time::from_micros))
}

fn template<'de, D: Deserializer<'de>>(held: D) -> Result<Option<Template>, D::Error> {
    #[derive(Deserialize)]
    struct List(#[serde(default)] Option<String>, #[serde(default)] Option<String>);

    Ok(Option::deserialize(held)?.map(|List(id, name)| Template { id, name }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Template, Update};
    use super::*;

    #[test]
    fn every_byte_that_is_to_be_escaped_is_found_wherever_it_stands() {
        for length in 1..=40 {
            for at in 0..length {
                for byte in 0..=255_u8 {
                    let mut bytes = vec![b'a'; length];
                    bytes[at] = byte;
                    let expected = byte >= b' ' && byte != b'"' && byte != b'\\';
                    assert_eq!(is_plain(&bytes), expected, "{byte} at {at} of {length}");
                }
            }
        }
        assert!(is_plain(b""));
    }

    #[test]
    fn is_read_back_as_it_was_and_escaped_as_serde_would() {
        let odd = "quote \" backslash \\ newline \n tab \t nul \0 del \x7f 第1集 🎬 </script>";
        let mut full = Task::new(odd.to_owned(), Status::Failed);
        full.name = Some("Transcode".to_owned());
        full.kind = Some(String::new());
        full.vendor_status = Some(odd.to_owned());
        full.created_at = Some(Time::from_micros(1_606_791_641_000_000));
        full.started_at = Some(Time::from_micros(1_606_791_641_120_000));
        full.finished_at = Some(Time::from_micros(1_606_791_641_120_007));
        full.template = Some(Template { id: Some(odd.to_owned()), name: None });
        full.outputs = Some(json!([1, -2.5, 1e300, u64::MAX, true, false, null, [], {}, [[{"a": odd}]]]));
        full.error = Some(json!({"code": odd, "message": "m"}));
        let mut update = Update { key: odd.to_owned(), ..Update::default() };
        update.execution.inputs = Some(json!({ odd: odd }));
        update.execution.attributes.insert(odd.to_owned(), json!(odd));
        update.execution.attributes.insert("absent".to_owned(), Value::Null);
        update.tasks = vec![full, Task::new("bare".to_owned(), Status::Pending)];
        for update in [update, Update::default()] {
            let state = State::begin("media", update).state;
            assert_eq!(super::state(&snapshot(&state)).expect("read back"), state);
        }
        let mut bare = State::begin("media", Update { key: "r-1".to_owned(), ..Update::default() }).state;
        assert_eq!(snapshot(&bare), r#"[["media","r-1",null,null,null,"running"],[]]"#);
        bare.execution.finished_at = Some(Time::from_micros(-1_050));
        bare.tasks = vec![Task::new("j-1".to_owned(), Status::Pending)];
        let expected =
            r#"[["media","r-1",null,null,null,"running",null,null,null,-1050],[["j-1",null,null,"pending"]]]"#;
        assert_eq!(snapshot(&bare), expected);
        for list in [vec![], vec![odd.to_owned()], vec!["a".to_owned(), "b".to_owned()]] {
            assert_eq!(texts(&list), serde_json::to_string(&list).expect("serialized"));
        }
        let list = vec![("a".to_owned(), odd.to_owned()), ("b".to_owned(), String::new())];
        assert_eq!(pairs(&list), json!({"a": odd, "b": ""}).to_string());
    }
}
