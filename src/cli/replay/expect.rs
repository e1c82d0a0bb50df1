//! What a fixture must become: `NAME.expect.json`, and how what became of it differs.
//!
//! An object expects its own keys and says nothing about others; an array expects exactly as many members, in order.
//! Absent and `null` are the same.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::ReceiptStatus;

/// What a fixture must become.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// The 2xx body's word.
    pub(super) outcome: ReceiptStatus,
    /// Part of the reason why it was quarantined or is a conflict.
    pub(super) reason: Option<String>,
    /// Its executions as they are after all fixtures, found by their keys; left out: not compared.
    pub(super) executions: Option<Vec<Expected>>,
}

/// One execution with its tasks.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Expected {
    execution: Map<String, Value>,
    tasks: Option<Vec<Value>>,
}

/// One place where two results differ.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Difference {
    pub(super) path: String,
    pub(super) expected: String,
    pub(super) got: String,
}

impl Difference {
    pub(super) fn new(path: &str, expected: impl fmt::Display, got: impl fmt::Display) -> Difference {
        Difference { path: path.to_owned(), expected: expected.to_string(), got: got.to_string() }
    }
}

impl Expect {
    pub(super) fn read(path: &Path) -> Result<Expect, String> {
        let fault = |e: &dyn fmt::Display| format!("{}: {e}", path.display());
        let text = fs::read_to_string(path).map_err(|e| fault(&e))?;
        let expect: Expect = serde_json::from_str(&text).map_err(|e| fault(&e))?;
        match expect.executions.iter().flatten().find(|e| e.key().is_none()) {
            Some(_) => Err(fault(&"every expected execution needs execution.key, to be found by")),
            None => Ok(expect),
        }
    }
}

impl Expected {
    /// The key it is found by.
    pub(super) fn key(&self) -> Option<&str> {
        self.execution.get("key")?.as_str()
    }

    /// How `got`, an execution with its tasks as the store shows it, differs.
    pub(super) fn differences(&self, path: &str, got: &Value) -> Vec<Difference> {
        let mut found = Vec::new();
        compare_object(&format!("{path}.execution"), &self.execution, &got["execution"], &mut found);
        if let Some(tasks) = &self.tasks {
            compare_array(&format!("{path}.tasks"), tasks, &got["tasks"], &mut found);
        }
        found
    }
}

fn compare(path: &str, expected: &Value, got: &Value, found: &mut Vec<Difference>) {
    match expected {
        Value::Object(object) => compare_object(path, object, got, found),
        Value::Array(array) => compare_array(path, array, got, found),
        _ if expected == got => {}
        _ => found.push(Difference::new(path, expected, got)),
    }
}

fn compare_object(path: &str, expected: &Map<String, Value>, got: &Value, found: &mut Vec<Difference>) {
    if !got.is_object() {
        return found.push(Difference::new(path, "an object", got));
    }
    for (key, value) in expected {
        compare(&format!("{path}.{key}"), value, &got[key], found);
    }
}

fn compare_array(path: &str, expected: &[Value], got: &Value, found: &mut Vec<Difference>) {
    let Some(members) = got.as_array() else {
        return found.push(Difference::new(path, "an array", got));
    };
    if members.len() != expected.len() {
        let count = |n| format!("{n} members");
        found.push(Difference::new(path, count(expected.len()), count(members.len())));
    }
    for (i, (expected, got)) in expected.iter().zip(members).enumerate() {
        compare(&format!("{path}[{i}]"), expected, got, found);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn differences(expected: Value, got: Value) -> Vec<(String, String, String)> {
        let expected: Expected = serde_json::from_value(expected).expect("an expectation");
        expected.differences("e[0]", &got).into_iter().map(|d| (d.path, d.expected, d.got)).collect()
    }

    #[test]
    fn objects_expect_their_own_keys_and_arrays_every_member() {
        let got = json!({
            "execution": {"key": "r1", "status": "failed", "name": null, "attributes": {"a": 1, "b": [1, {"c": 2, "d": 3}]}},
            "tasks": [{"key": "t1", "status": "failed"}, {"key": "t2", "status": "running"}],
            "receipts": []
        });
        let same = [
            json!({"execution": {"key": "r1"}}),
            json!({"execution": {"key": "r1", "name": null, "absent": null}}),
            json!({"execution": {"attributes": {"b": [1, {"c": 2}]}}, "tasks": [{"key": "t1"}, {}]}),
        ];
        for expected in same {
            assert_eq!(differences(expected.clone(), got.clone()), [], "{expected}");
        }
        let different = [
            (json!({"execution": {"status": "succeeded"}}), ("e[0].execution.status", "\"succeeded\"", "\"failed\"")),
            (json!({"execution": {"name": "n"}}), ("e[0].execution.name", "\"n\"", "null")),
            (json!({"execution": {"absent": 1}}), ("e[0].execution.absent", "1", "null")),
            (
                json!({"execution": {"attributes": {"b": [1]}}}),
                ("e[0].execution.attributes.b", "1 members", "2 members"),
            ),
            (
                json!({"execution": {"attributes": {"b": [1, {"c": 9}]}}}),
                ("e[0].execution.attributes.b[1].c", "9", "2"),
            ),
            (json!({"execution": {"status": {}}}), ("e[0].execution.status", "an object", "\"failed\"")),
            (json!({"execution": {}, "tasks": []}), ("e[0].tasks", "0 members", "2 members")),
            (
                json!({"execution": {}, "tasks": [{}, {"status": "failed"}]}),
                ("e[0].tasks[1].status", "\"failed\"", "\"running\""),
            ),
        ];
        for (expected, (path, wanted, found)) in different {
            assert_eq!(
                differences(expected.clone(), got.clone()),
                [(path.to_owned(), wanted.to_owned(), found.to_owned())],
                "{expected}"
            );
        }
    }

    #[test]
    fn a_mistyped_expectation_is_no_silent_success() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.expect.json");
        for (text, said) in [
            (r#"{"outcome": "fine"}"#, "fine"),
            (r#"{"executions": []}"#, "outcome"),
            (r#"{"outcome": "accepted", "execution": {}}"#, "execution"),
            (r#"{"outcome": "accepted", "executions": [{"execution": {"status": "failed"}}]}"#, "execution.key"),
            (r#"{"outcome": "accepted", "executions": [{"execution": {"key": "a"}, "task": []}]}"#, "task"),
        ] {
            fs::write(&path, text).expect("written");
            let fault = Expect::read(&path).expect_err(text);
            assert!(fault.contains("a.expect.json") && fault.contains(said), "{fault}");
        }
    }
}
