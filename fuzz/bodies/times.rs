//! Times and spans, as vendors and people write them.

use callbackd::model::{Next, RetryPolicy, Time};
use callbackd::options::Span;
use callbackd::outbound::asked_pause_ms;
use http::{HeaderMap, HeaderName, HeaderValue};

use super::{NOW, read, text};

pub(super) fn times(bytes: &[u8]) {
    let written = text(bytes);
    if let Some(time) = Time::parse(written) {
        let said = time.to_string();
        assert_eq!(Time::parse(&said), Some(time), "{written:?} is said as {said}");
    }
    match Span::parse(written) {
        Ok(span) => assert_eq!(Span::parse(&span.to_string()), Ok(span), "{written:?}"),
        Err(e) => assert!(e.len() <= 4096 + 4 * written.len(), "{e}"),
    }
    // As a callback says it.
    let callback = format!(
        "<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>i1</RunId><State>Success</State>\
         <CreationTime><![CDATA[{}]]></CreationTime></WorkflowExecution></Response>",
        written.replace("]]>", "")
    );
    read::cos_xml(callback.as_bytes());
    read::port_action(serde_json::json!({"runId": "r_1", "trigger": {"at": written}}).to_string().as_bytes());
    asked_for(bytes);
}

/// A line each for `Retry-After` and the headers of an exhausted window.
fn asked_for(bytes: &[u8]) {
    let names = ["retry-after", "x-ratelimit-remaining", "x-ratelimit-reset"];
    let values = bytes.split(|byte| *byte == b'\n').map(HeaderValue::from_bytes);
    let mut headers = HeaderMap::new();
    for (name, value) in names.into_iter().zip(values) {
        if let Ok(value) = value {
            headers.append(HeaderName::from_static(name), value);
        }
    }
    let asked = asked_pause_ms(&headers, NOW);
    let policy = RetryPolicy::default();
    match policy.next(1, NOW, NOW, asked, 1.0) {
        Next::At(at) => assert!(at > NOW && at <= NOW.plus_ms(policy.longest_ms), "{asked:?} makes it {at}"),
        Next::Dead(reason) => panic!("nobody makes a delivery dead by asking for patience: {reason}"),
    }
}
