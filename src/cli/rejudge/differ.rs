//! Where two readings of one receipt differ.

use std::collections::BTreeSet;

use serde::Serialize;
use serde_json::Value;

/// One place.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Difference {
    /// What is of this kind: `outcome`, `status`, `change`, `routes`, `requests`, or `version`: this callbackd judges otherwise
    /// than the one that took it.
    pub(super) kind: &'static str,
    /// Where: the execution's key, and the way to the value.
    pub(super) path: String,
    /// `null` where there was nothing.
    pub(super) before: Value,
    pub(super) after: Value,
}

/// All places, in order.
pub(super) fn differences(before: &Value, after: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    walk(&mut Vec::new(), before, after, &mut found);
    found
}

fn walk(path: &mut Vec<String>, before: &Value, after: &Value, found: &mut Vec<Difference>) {
    if before == after {
        return;
    }
    let steps: Option<BTreeSet<String>> = match (before, after) {
        (Value::Object(a), Value::Object(b)) => Some(a.keys().chain(b.keys()).cloned().collect()),
        (Value::Object(a), Value::Null) | (Value::Null, Value::Object(a)) if opens(path) => {
            Some(a.keys().cloned().collect())
        }
        // A list of texts says more as a whole.
        (Value::Array(a), Value::Array(b)) if !a.iter().chain(b).all(Value::is_string) => {
            Some((0..a.len().max(b.len())).map(|place| format!("{place:04}")).collect())
        }
        (Value::Array(a), Value::Null) | (Value::Null, Value::Array(a)) if opens(path) => {
            Some((0..a.len()).map(|place| format!("{place:04}")).collect())
        }
        _ => None,
    };
    let Some(steps) = steps else {
        let (kind, path) = named(path);
        return found.push(Difference { kind, path, before: before.clone(), after: after.clone() });
    };
    for step in steps {
        let (a, b) = (member(before, &step), member(after, &step));
        path.push(step);
        walk(path, &a, &b, found);
        path.pop();
    }
}

fn member(value: &Value, step: &str) -> Value {
    match value {
        Value::Array(all) => step.parse().ok().and_then(|place: usize| all.get(place)).cloned().unwrap_or_default(),
        other => other[step].clone(),
    }
}

/// Down to what was made of a change, one that only one of the two has is told part by part, so that each is of a kind.
fn opens(path: &[String]) -> bool {
    path.first().is_some_and(|first| first == "executions") && path.len() < 4
}

/// `executions`, KEY, PLACE, what …: a receipt that changes an execution once, as nearly all do, needs no place.
fn named(path: &[String]) -> (&'static str, String) {
    let steps = |from: &[String]| from.iter().map(|step| step.trim_start_matches("000")).collect::<Vec<_>>().join(".");
    match path {
        [first, key, place, rest @ ..] if first == "executions" => {
            let kind = match rest.first().map(String::as_str) {
                Some("status") => "status",
                Some("routes") => "routes",
                Some("requests") => "requests",
                _ => "change",
            };
            let nth = if place == "0000" { String::new() } else { format!("[{}]", place.trim_start_matches('0')) };
            (kind, format!("{key}{nth}: {}", steps(rest)))
        }
        [first, key] if first == "executions" => ("change", key.clone()),
        _ => ("outcome", steps(path)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_place_has_a_kind_and_a_name() {
        let change = |status, routes: Value, requests: Value| json!({ "status": status, "change": {"type": "t", "tasks": [{"key": "a"}]}, "routes": routes, "requests": requests });
        let before = json!({ "outcome": "accepted", "executions": { "r1": [change("failed", json!(["a"]), json!({"a": [{"body": {"x": 1}}]}))] } });
        let same = differences(&before, &before);
        assert!(same.is_empty(), "{same:?}");

        let after = json!({ "outcome": "accepted", "executions": { "r1": [change("succeeded", json!(["a", "b"]), json!({"a": [{"body": {"x": 2}}]}))] } });
        let found: Vec<_> =
            differences(&before, &after).into_iter().map(|one| (one.kind, one.path, one.before, one.after)).collect();
        assert_eq!(
            found,
            [
                ("requests", "r1: requests.a.0.body.x".to_owned(), json!(1), json!(2)),
                ("routes", "r1: routes".to_owned(), json!(["a"]), json!(["a", "b"])),
                ("status", "r1: status".to_owned(), json!("failed"), json!("succeeded")),
            ]
        );

        let nothing = json!({ "outcome": "quarantined", "executions": {} });
        let kinds: BTreeSet<_> = differences(&before, &nothing).into_iter().map(|one| one.kind).collect();
        assert_eq!(kinds, ["change", "outcome", "requests", "routes", "status"].into());
    }
}
