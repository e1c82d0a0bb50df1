//! The envelope in which a change leaves: CloudEvents 1.0 (github.com/cloudevents/spec, "JSON Event Format" and "HTTP
//! Protocol Binding"). Shared by the sinks that pass changes on as they are.

use http::HeaderValue;

use crate::model::{Change, Time, text};

/// A change in its envelope.
pub(super) struct Envelope<'a> {
    specversion: &'static str,
    /// The change's: the same to every sink and at every try.
    id: String,
    /// `callbackd/<instance>/<source>`, a URI reference.
    source: String,
    kind: &'a str,
    subject: &'a str,
    time: Time,
    datacontenttype: &'static str,
    data: &'a Change,
}

impl<'a> Envelope<'a> {
    /// Wraps a change of this `instance` of callbackd.
    pub(super) fn new(change: &'a Change, instance: &str) -> Envelope<'a> {
        let execution = &change.state.execution;
        Envelope {
            specversion: "1.0",
            id: change.id.to_string(),
            source: format!("callbackd/{}/{}", segment(instance), segment(&execution.source)),
            kind: &change.meta.kind,
            subject: &execution.key,
            time: change.meta.received_at,
            datacontenttype: "application/json",
            data: change,
        }
    }

    /// Structured: the envelope with the data in it.
    pub(super) fn structured(&self) -> Vec<u8> {
        let mut out = String::with_capacity(self.length());
        out.push_str("{\"specversion\":");
        text::plain_text(&mut out, self.specversion);
        for (name, value) in [
            (",\"id\":", self.id.as_str()),
            (",\"source\":", &self.source),
            (",\"type\":", self.kind),
            (",\"subject\":", self.subject),
        ] {
            out.push_str(name);
            text::text(&mut out, value);
        }
        out.push_str(",\"time\":");
        text::time(&mut out, self.time);
        out.push_str(",\"datacontenttype\":");
        text::plain_text(&mut out, self.datacontenttype);
        out.push_str(",\"data\":");
        self.data.write(&mut out);
        out.push('}');
        out.into_bytes()
    }

    /// Binary: the data alone. The envelope travels in [`Envelope::headers`].
    pub(super) fn binary(&self) -> Vec<u8> {
        let mut out = String::with_capacity(self.length());
        self.data.write(&mut out);
        out.into_bytes()
    }

    /// About as long as it gets, so that it seldom has to be moved.
    fn length(&self) -> usize {
        1024 + 512 * self.data.state.tasks.len()
    }

    /// The envelope as HTTP headers. `datacontenttype` is not among them: that is `content-type`.
    pub(super) fn headers(&self) -> [(&'static str, HeaderValue); 6] {
        [
            ("ce-specversion", header_value(self.specversion)),
            ("ce-id", header_value(&self.id)),
            ("ce-source", header_value(&self.source)),
            ("ce-type", header_value(self.kind)),
            ("ce-subject", header_value(self.subject)),
            ("ce-time", header_value(&self.time.to_string())),
        ]
    }
}

/// HTTP Protocol Binding, 3.1.3.2: everything but printable ASCII, and also space, quote and percent, is encoded.
fn header_value(text: &str) -> HeaderValue {
    use std::fmt::Write;

    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%') {
            encoded.push(byte.into());
        } else {
            write!(encoded, "%{byte:02X}").expect("a String takes all");
        }
    }
    HeaderValue::try_from(encoded).expect("what is left is printable ASCII")
}

/// One segment of a URI's path.
fn segment(text: &str) -> String {
    urlencoding::encode(text).into_owned()
}

/// A delivery for the tests of this folder.
#[cfg(test)]
pub(super) fn delivery(key: &str) -> crate::model::Delivery {
    use serde_json::json;

    use crate::model::{ChangeMeta, Delivery, State, Status, Task, Update};

    let mut update = Update { key: key.to_owned(), ..Update::default() };
    update.execution.name = Some("transcode".to_owned());
    update.execution.subject = Some("wk-test/游戏 1.mp4".to_owned());
    update.execution.status = Some(Status::Failed);
    update.execution.inputs = Some(json!({"object": "in/clip.mp4"}));
    update.tasks = vec![Task::new("j1".to_owned(), Status::Succeeded), Task::new("j2".to_owned(), Status::Failed)];
    let accepted = State::begin("media", update);
    let received_at = Time::from_seconds(1_700_000_000);
    let meta = ChangeMeta {
        kind: Change::kind_of(&accepted).to_owned(),
        sequence: 1,
        previous_status: None,
        changed_tasks: accepted.changed_tasks(),
        overdue: false,
        receipt: Some("7".to_owned()),
        received_at,
    };
    let change = Change { id: 41, execution_id: 5, state: accepted.state, links: Vec::new(), meta };
    Delivery { id: 99, change: change.into(), attempts: 0, created_at: received_at, resume: None }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_envelope_is_complete_and_the_data_is_the_change() {
        let delivery = delivery("r_1");
        let envelope = Envelope::new(&delivery.change, "edge 1");
        let mut structured: Value = serde_json::from_slice(&envelope.structured()).expect("JSON");
        let data = structured.as_object_mut().expect("an object").remove("data").expect("data");
        let attributes = json!({
            "specversion": "1.0",
            "id": "41",
            "source": "callbackd/edge%201/media",
            "type": "callbackd.execution.failed",
            "subject": "r_1",
            "time": "2023-11-14T22:13:20Z",
            "datacontenttype": "application/json",
        });
        assert_eq!(structured, attributes);
        assert_eq!(data, json!(*delivery.change));
        assert_eq!(data["execution"]["id"], "5");
        assert_eq!(serde_json::from_slice::<Value>(&envelope.binary()).expect("JSON"), data);
        for (name, value) in envelope.headers() {
            let attribute = attributes[&name["ce-".len()..]].as_str().expect(name);
            assert_eq!(value, attribute.replace('%', "%25"), "{name}");
        }
    }

    #[test]
    fn header_values_are_encoded_as_the_binding_says() {
        let cases = [
            ("Euro € 😀", "Euro%20%E2%82%AC%20%F0%9F%98%80"),
            ("wk-test/游戏 1.mp4", "wk-test/%E6%B8%B8%E6%88%8F%201.mp4"),
            ("50% \"done\"", "50%25%20%22done%22"),
            ("a\r\nx-other: b\0\u{7f}", "a%0D%0Ax-other:%20b%00%7F"),
            ("!#$&'()*+,-./:;<=>?@[\\]^_`{|}~", "!#$&'()*+,-./:;<=>?@[\\]^_`{|}~"),
            ("", ""),
        ];
        for (text, expected) in cases {
            assert_eq!(header_value(text), expected);
        }
    }
}
