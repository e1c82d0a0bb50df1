//! What is sent: ExportTraceServiceRequest in the JSON of OTLP 1 (opentelemetry.io/docs/specs/otlp, "JSON Protobuf
//! Encoding"): ids in hex, enums as numbers, whole numbers of 64 bits as text.

use serde_json::{Value, json};

use super::{Kind, Span};
use crate::model::Time;

/// The flags of a span say whether its parent is elsewhere.
const KNOWS_WHERE: u32 = 0x100;
const IS_ELSEWHERE: u32 = 0x200;
const STATUS_ERROR: u8 = 2;

/// The body of one request.
pub(super) fn request(instance: &str, spans: &[Span]) -> Value {
    let version = env!("CARGO_PKG_VERSION");
    let of_us = [
        ("service.name", Value::from("callbackd")),
        ("service.version", version.into()),
        ("service.instance.id", instance.into()),
    ];
    json!({ "resourceSpans": [{
        "resource": { "attributes": attributes(&of_us) },
        "scopeSpans": [{
            "scope": { "name": "callbackd", "version": version },
            "spans": spans.iter().map(one).collect::<Vec<_>>(),
        }],
    }] })
}

fn one(span: &Span) -> Value {
    let (parent, place) = match span.parent {
        Some(ours) => (hex(ours), KNOWS_WHERE),
        None => (span.trace.span_id().to_owned(), KNOWS_WHERE | IS_ELSEWHERE),
    };
    // A clock that is set back ends nothing before it began.
    let ended_at = span.ended_at.max(span.began_at);
    let kind = match span.kind {
        Kind::Server => 2,
        Kind::Client => 3,
    };
    let mut out = json!({
        "traceId": span.trace.trace_id(),
        "spanId": hex(span.id),
        "parentSpanId": parent,
        "flags": place | u32::from(span.trace.flags()),
        "name": span.name,
        "kind": kind,
        "startTimeUnixNano": nanos(span.began_at),
        "endTimeUnixNano": nanos(ended_at),
        "attributes": attributes(&span.attributes),
    });
    if let Some(state) = span.trace.state() {
        out["traceState"] = state.into();
    }
    if let Some(reason) = &span.failure {
        out["status"] = json!({ "code": STATUS_ERROR, "message": reason });
    }
    out
}

fn attributes(all: &[(&'static str, Value)]) -> Vec<Value> {
    let value = |value: &Value| match value {
        Value::String(text) => json!({ "stringValue": text }),
        number => json!({ "intValue": number.to_string() }),
    };
    all.iter().map(|(key, of)| json!({ "key": key, "value": value(of) })).collect()
}

fn hex(id: u64) -> String {
    format!("{id:016x}")
}

fn nanos(time: Time) -> String {
    (i128::from(time.micros().max(0)) * 1000).to_string()
}
