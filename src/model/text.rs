//! JSON written by hand, for the snapshot that every change stores.
//!
//! A general serializer looks at each byte of each text for something to escape and walks through generic layers for
//! each field; on the path of every callback that costs more than all of SQLite's b-trees. This writer knows its one
//! shape, asks of a text as a whole whether anything is to be escaped, and gives up the rest to serde. What is absent is
//! not written: read back, it is absent again, and a tenth of the bytes need not be stored. A test holds it to what serde
//! would have written.

use serde_json::{Map, Value};

use super::{Execution, State, Status, Task, Time};

/// `{"execution": …, "tasks": […]}`, without what is absent.
pub(super) fn snapshot(state: &State) -> String {
    let mut out = String::with_capacity(1024 + 512 * state.tasks.len());
    out.push_str("{\"execution\":");
    execution(&mut out, &state.execution);
    out.push_str(",\"tasks\":[");
    for (position, held) in state.tasks.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        task(&mut out, held);
    }
    out.push_str("]}");
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

fn execution(out: &mut String, e: &Execution) {
    out.push_str("{\"source\":");
    text(out, &e.source);
    out.push_str(",\"key\":");
    text(out, &e.key);
    maybe_text(out, ",\"name\":", e.name.as_ref());
    maybe_text(out, ",\"workflow\":", e.workflow.as_ref());
    maybe_text(out, ",\"subject\":", e.subject.as_ref());
    status(out, e.status);
    maybe_text(out, ",\"vendor_status\":", e.vendor_status.as_ref());
    time(out, ",\"created_at\":", e.created_at);
    time(out, ",\"started_at\":", e.started_at);
    time(out, ",\"finished_at\":", e.finished_at);
    maybe_value(out, ",\"inputs\":", e.inputs.as_ref());
    out.push_str(",\"attributes\":");
    object(out, &e.attributes);
    out.push('}');
}

fn task(out: &mut String, t: &Task) {
    out.push_str("{\"key\":");
    text(out, &t.key);
    maybe_text(out, ",\"name\":", t.name.as_ref());
    maybe_text(out, ",\"type\":", t.kind.as_ref());
    status(out, t.status);
    maybe_text(out, ",\"vendor_status\":", t.vendor_status.as_ref());
    time(out, ",\"created_at\":", t.created_at);
    time(out, ",\"started_at\":", t.started_at);
    time(out, ",\"finished_at\":", t.finished_at);
    if let Some(held) = &t.template {
        out.push_str(",\"template\":{");
        let texts = [("\"id\":", &held.id), ("\"name\":", &held.name)];
        for (position, (key, one)) in texts.into_iter().filter_map(|(key, one)| Some((key, one.as_ref()?))).enumerate()
        {
            if position > 0 {
                out.push(',');
            }
            out.push_str(key);
            text(out, one);
        }
        out.push('}');
    }
    maybe_value(out, ",\"outputs\":", t.outputs.as_ref());
    maybe_value(out, ",\"error\":", t.error.as_ref());
    out.push('}');
}

fn status(out: &mut String, status: Status) {
    out.push_str(",\"status\":\"");
    out.push_str(status.as_str());
    out.push('"');
}

fn maybe_text(out: &mut String, key: &str, held: Option<&String>) {
    if let Some(held) = held {
        out.push_str(key);
        text(out, held);
    }
}

fn time(out: &mut String, key: &str, held: Option<Time>) {
    if let Some(held) = held {
        out.push_str(key);
        out.push('"');
        held.with_text(|text| out.push_str(text));
        out.push('"');
    }
}

fn maybe_value(out: &mut String, key: &str, held: Option<&Value>) {
    if let Some(held) = held {
        out.push_str(key);
        value(out, held);
    }
}

fn value(out: &mut String, held: &Value) {
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

fn object(out: &mut String, held: &Map<String, Value>) {
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

fn text(out: &mut String, held: &str) {
    if is_plain(held.as_bytes()) {
        out.push('"');
        out.push_str(held);
        out.push('"');
    } else {
        // Serializing a text into memory cannot fail.
        out.push_str(&serde_json::to_string(held).unwrap_or_default());
    }
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Template, Update};
    use super::*;

    fn leave_out_what_is_absent(of: &mut Value) {
        if let Value::Object(map) = of {
            map.retain(|_, value| !value.is_null());
        }
    }

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
    fn is_what_serde_would_write() {
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
            let mut full = serde_json::to_value(&state).expect("serialized");
            leave_out_what_is_absent(&mut full["execution"]);
            let tasks = full["tasks"].as_array_mut().expect("tasks");
            for task in tasks {
                leave_out_what_is_absent(&mut task["template"]);
                leave_out_what_is_absent(task);
            }
            assert_eq!(serde_json::from_str::<Value>(&snapshot(&state)).expect("JSON"), full);
            assert_eq!(serde_json::from_str::<State>(&snapshot(&state)).expect("read back"), state);
        }
        for list in [vec![], vec![odd.to_owned()], vec!["a".to_owned(), "b".to_owned()]] {
            assert_eq!(texts(&list), serde_json::to_string(&list).expect("serialized"));
        }
        let list = vec![("a".to_owned(), odd.to_owned()), ("b".to_owned(), String::new())];
        assert_eq!(pairs(&list), json!({"a": odd, "b": ""}).to_string());
    }
}
