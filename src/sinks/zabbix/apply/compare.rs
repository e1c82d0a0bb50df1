//! What differs between an object as it is wanted and as the server tells it.
//!
//! The server tells more than it takes: ids of its own, defaults that nobody wrote, numbers as texts, lists in another
//! order. So both sides are brought to one form first.

use serde_json::{Map, Value};

use crate::sinks::cut;

const SHOWN_CHARS_MAX: usize = 120;

/// What the server makes up, and takes from nobody.
const SERVERS_OWN: &[&str] =
    &["actionid", "operationid", "conditionid", "opconditionid", "opcommand_grpid", "opcommand_hstid", "eval_formula"];

/// What stands where nothing was written.
const DEFAULTS: &[(&str, &[&str])] = &[
    ("esc_period", &["0", "0s"]),
    ("esc_step_from", &["1"]),
    ("esc_step_to", &["1"]),
    ("evaltype", &["0"]),
    ("mediatypeid", &["0"]),
    ("operator", &["0"]),
    ("type", &["0"]),
    ("execute_on", &["0"]),
    ("authtype", &["0"]),
];

/// Shown to nobody.
const SECRET: &[&str] = &["password"];

/// Every difference, in words: `priority: 3 → 4`. Of the object itself only the members of `wanted` count: what is left
/// out of an update stays as it is.
pub(super) fn differences(wanted: &Map<String, Value>, found: &Value) -> Vec<String> {
    let mut out = Vec::new();
    for (name, wanted) in wanted {
        let found = found.get(name).unwrap_or(&Value::Null);
        differ(name, plain(name, wanted, has_formula(wanted)), plain(name, found, has_formula(found)), &mut out);
    }
    out
}

/// With a formula its letters are part of what was written; without, the server's own.
fn has_formula(filter: &Value) -> bool {
    filter.get("formula").and_then(Value::as_str).is_some_and(|formula| !formula.is_empty())
        && filter.get("evaltype").is_some_and(|e| matches!(text(e).as_deref(), Some("3")))
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(u8::from(*yes).to_string()),
        _ => None,
    }
}

/// The one form: texts only, nothing that is the server's own or a default, lists in an order of their own.
fn plain(name: &str, value: &Value, formula: bool) -> Value {
    match value {
        Value::Object(members) => {
            let kept = members
                .iter()
                .filter(|(name, _)| !SERVERS_OWN.contains(&name.as_str()) && (formula || name.as_str() != "formulaid"));
            let kept = kept.map(|(name, value)| (name.clone(), plain(name, value, formula)));
            let kept: Map<_, _> = kept.filter(|(_, value)| !value.is_null()).collect();
            if kept.is_empty() { Value::Null } else { Value::Object(kept) }
        }
        Value::Array(list) => {
            let mut list: Vec<_> = list.iter().map(|one| plain("", one, formula)).filter(|v| !v.is_null()).collect();
            list.sort_by_cached_key(Value::to_string);
            if list.is_empty() { Value::Null } else { Value::Array(list) }
        }
        scalar => match text(scalar) {
            Some(text) if text.is_empty() => Value::Null,
            Some(text) if DEFAULTS.iter().any(|(n, texts)| *n == name && texts.contains(&&*text)) => Value::Null,
            Some(text) => Value::String(text),
            None => Value::Null,
        },
    }
}

fn differ(path: &str, wanted: Value, found: Value, out: &mut Vec<String>) {
    match (wanted, found) {
        (wanted, found) if wanted == found => {}
        (Value::Object(wanted), Value::Object(mut found)) => {
            for (name, value) in wanted {
                let theirs = found.remove(&name).unwrap_or(Value::Null);
                differ(&format!("{path}.{name}"), value, theirs, out);
            }
            found.into_iter().for_each(|(name, value)| differ(&format!("{path}.{name}"), Value::Null, value, out));
        }
        (Value::Array(wanted), Value::Array(found)) => {
            let (mut more, mut gone) = (wanted.clone(), found.clone());
            more.retain(|one| !found.contains(one));
            gone.retain(|one| !wanted.contains(one));
            match (&*more, &*gone) {
                ([one], [other]) => differ(&format!("{path}[]"), one.clone(), other.clone(), out),
                _ => {
                    out.extend(gone.iter().map(|one| format!("{path}: without {}", shown(path, one))));
                    out.extend(more.iter().map(|one| format!("{path}: with {}", shown(path, one))));
                    if more.is_empty() && gone.is_empty() {
                        out.push(format!("{path}: {} → {} of them", found.len(), wanted.len()));
                    }
                }
            }
        }
        (wanted, found) => out.push(format!("{path}: {} → {}", shown(path, &found), shown(path, &wanted))),
    }
}

fn shown(path: &str, value: &Value) -> String {
    if SECRET.iter().any(|name| path.ends_with(name)) {
        return "[secret]".to_owned();
    }
    let text = match value {
        Value::Null => "none".to_owned(),
        Value::String(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric()) => text.clone(),
        other => other.to_string(),
    };
    cut(&text, SHOWN_CHARS_MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(wanted: Value, found: Value) -> Vec<String> {
        let Value::Object(wanted) = wanted else { panic!("an object") };
        differences(&wanted, &found)
    }

    /// As 6.0 tells an action back.
    #[test]
    fn what_the_server_adds_is_no_difference() {
        let wanted = json!({
            "name": "a", "esc_period": "1m",
            "filter": {"evaltype": 1, "conditions": [
                {"conditiontype": 26, "operator": 0, "value": "x", "value2": "t"},
                {"conditiontype": 1, "operator": 0, "value": "10084"},
            ]},
            "operations": [{"operationtype": 0, "esc_period": "0s", "esc_step_from": 1, "esc_step_to": 2, "evaltype": 0,
                "opmessage": {"default_msg": 1, "mediatypeid": "1"}, "opmessage_grp": [{"usrgrpid": "7"}]}],
            "recovery_operations": [{"operationtype": 11, "opmessage": {"default_msg": 0, "subject": "s", "message": "m"}}],
            "update_operations": [],
        });
        let found = json!({
            "actionid": "7", "name": "a", "eventsource": "0", "status": "0", "esc_period": "1m", "pause_suppressed": "1",
            "filter": {"evaltype": "1", "formula": "", "eval_formula": "A and B", "conditions": [
                {"conditiontype": "1", "operator": "0", "value": "10084", "value2": "", "formulaid": "A"},
                {"conditiontype": "26", "operator": "0", "value": "x", "value2": "t", "formulaid": "B"},
            ]},
            "operations": [{"operationid": "1", "actionid": "7", "operationtype": "0", "esc_period": "0",
                "esc_step_from": "1", "esc_step_to": "2", "evaltype": "0", "opconditions": [],
                "opmessage": {"default_msg": "1", "subject": "", "message": "", "mediatypeid": "1"},
                "opmessage_grp": [{"usrgrpid": "7"}], "opmessage_usr": []}],
            "recovery_operations": [{"operationid": "2", "actionid": "7", "operationtype": "11", "evaltype": "0",
                "opconditions": [], "opmessage": {"default_msg": "0", "subject": "s", "message": "m", "mediatypeid": "0"}}],
            "update_operations": [],
        });
        assert_eq!(told(wanted, found), Vec::<String>::new());
    }

    #[test]
    fn differences_are_told_by_their_place() {
        let cases = [
            (json!({"priority": 4}), json!({"priority": "3"}), vec!["priority: 3 → 4"]),
            (json!({"tags": [{"tag": "a"}]}), json!({"tags": []}), vec!["tags: none → [{\"tag\":\"a\"}]"]),
            (json!({"ops": []}), json!({"ops": [{"x": 1}]}), vec!["ops: [{\"x\":\"1\"}] → none"]),
            (
                json!({"ops": [{"operationtype": 0, "opmessage": {"subject": "b"}}]}),
                json!({"ops": [{"operationtype": "0", "opmessage": {"subject": "a", "mediatypeid": "1"}}]}),
                vec!["ops[].opmessage.subject: a → b", "ops[].opmessage.mediatypeid: 1 → none"],
            ),
            (
                json!({"tags": [{"tag": "a"}, {"tag": "b"}]}),
                json!({"tags": [{"tag": "a"}]}),
                vec!["tags: with {\"tag\":\"b\"}"],
            ),
            (json!({"password": "hunter2"}), json!({"password": "hunter1"}), vec!["password: [secret] → [secret]"]),
            (json!({"name": "a"}), json!({"name": "a", "status": "1"}), vec![]),
            (
                json!({"filter": {"evaltype": 3, "formula": "A or B", "conditions": [{"formulaid": "A", "value": "x"}]}}),
                json!({"filter": {"evaltype": "3", "formula": "A or B", "conditions": [{"formulaid": "B", "value": "x"}]}}),
                vec!["filter.conditions[].formulaid: B → A"],
            ),
        ];
        for (wanted, found, expected) in cases {
            assert_eq!(told(wanted, found), expected);
        }
    }
}
