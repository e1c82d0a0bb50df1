//! What Port takes: its request schemas, and nothing beside them.

use http::HeaderMap;
use serde_json::{Map, Value};

use super::No;

/// The body as the JSON object that every request has to be.
pub(super) fn object(headers: &HeaderMap, body: &[u8]) -> Result<Map<String, Value>, No> {
    let no = |what: &str| (422, "invalid_request", what.to_owned());
    if headers.get("content-type").is_none_or(|v| !v.as_bytes().starts_with(b"application/json")) {
        return Err(no("no content-type: application/json"));
    }
    serde_json::from_slice(body).map_err(|_| no("the body is no JSON object"))
}

/// A key, and the form of its value.
pub(super) type Rule = (&'static str, fn(&Value) -> bool);

pub(super) const ACTION_FIELDS: [Rule; 6] = [
    ("status", is_final),
    ("statusLabel", is_text),
    ("link", |v| is_text(v) || is_texts(v)),
    ("summary", is_text),
    ("externalRunId", is_text),
    ("message", Value::is_object),
];
pub(super) const ACTION_LOG: [Rule; 3] =
    [("message", is_text), ("terminationStatus", is_final), ("statusLabel", is_text)];
pub(super) const TOKEN: [Rule; 2] = [("clientId", is_text), ("clientSecret", is_text)];
pub(super) const NODE_LOG: [Rule; 1] = [("logs", is_node_logs)];
pub(super) const NODE_FIELDS: [Rule; 6] = [
    ("status", |v| v == "IN_PROGRESS" || v == "COMPLETED"),
    ("result", |v| v == "SUCCESS" || v == "FAILED" || v == "CANCELLED"),
    ("output", Value::is_object),
    ("links", is_texts),
    ("externalRunId", is_text),
    ("statusLabel", is_text),
];

/// Required keys are there, others are not, and each has its form: one fault refuses the lot.
pub(super) fn check(body: &Map<String, Value>, required: &[&str], rules: &[Rule]) -> Result<(), No> {
    let missing = required.iter().find(|key| !body.contains_key(**key)).map(|key| format!("{key} is missing"));
    let wrong = || {
        body.iter().find_map(|(key, value)| match rules.iter().find(|(name, _)| name == key) {
            None => Some(format!("{key} is not known")),
            Some((_, holds)) => (!holds(value)).then(|| format!("{key} cannot be {value}")),
        })
    };
    missing.or_else(wrong).map_or(Ok(()), |what| Err((422, "invalid_request", what)))
}

fn is_text(value: &Value) -> bool {
    value.is_string()
}

fn is_texts(value: &Value) -> bool {
    value.as_array().is_some_and(|all| all.iter().all(Value::is_string))
}

fn is_final(value: &Value) -> bool {
    value == "SUCCESS" || value == "FAILURE"
}

fn is_node_logs(value: &Value) -> bool {
    let keys: [Rule; 2] =
        [("message", is_text), ("level", |v| v == "INFO" || v == "WARN" || v == "ERROR" || v == "DEBUG")];
    let is_line = |v: &Value| v.as_object().is_some_and(|line| check(line, &["message", "level"], &keys).is_ok());
    value.as_array().is_some_and(|lines| !lines.is_empty() && lines.iter().all(is_line))
}
