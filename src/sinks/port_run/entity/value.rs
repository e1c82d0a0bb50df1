//! What programs make, as Port takes it: none where it cannot be taken; pure.

use serde_json::{Map, Value};

use super::identifier::legal;
use crate::sinks::cut;

const NAME_CHARS_MAX: usize = 1_000;
/// Of any text in the properties.
const TEXT_CHARS_MAX: usize = 10_000;

/// What a program's result has to be.
pub(super) fn expected(key: &str) -> &'static str {
    match key {
        "team" => "has to be a text, or a list of them",
        "properties" => "has to be an object whose names have A-Z, a-z, 0-9, @, _, =, \\ and - only",
        "relations" => "has to be an object of texts, lists of texts, and null",
        _ => "has to be a text",
    }
}

pub(super) fn text(value: Value) -> Option<Value> {
    match value {
        Value::String(text) => Some(cut(&text, NAME_CHARS_MAX).into()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string().into()),
        _ => None,
    }
}

/// Port's own search, in place of a name: `{combinator, rules}`.
fn is_search(value: &Value) -> bool {
    value.as_object().is_some_and(|search| {
        search.len() == 2 && search.contains_key("combinator") && search.get("rules").is_some_and(Value::is_array)
    })
}

pub(super) fn team(value: Value) -> Option<Value> {
    match value {
        Value::Array(all) => all.into_iter().map(text).collect::<Option<Vec<_>>>().map(Value::Array),
        search if is_search(&search) => Some(search),
        one => text(one),
    }
}

pub(super) fn properties(value: Value) -> Option<Value> {
    let Value::Object(all) = value else { return None };
    let is_name =
        |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"@_=\\-".contains(&b));
    all.keys().all(is_name).then(|| bounded(Value::Object(all)))
}

/// With every text in it cut.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(text) => cut(&text, TEXT_CHARS_MAX).into(),
        Value::Array(all) => all.into_iter().map(bounded).collect(),
        Value::Object(all) => all.into_iter().map(|(name, value)| (name, bounded(value))).collect(),
        plain => plain,
    }
}

/// A relation names entities: they are made legal as identifiers are, so that both name the same.
pub(super) fn relations(value: Value) -> Option<Value> {
    let Value::Object(all) = value else { return None };
    let name = |value: Value| value.as_str().filter(|text| !text.is_empty()).map(|text| Value::from(legal(text)));
    let target = |value: Value| match value {
        Value::Null => Some(Value::Null),
        Value::Array(all) => all.into_iter().map(name).collect::<Option<Vec<_>>>().map(Value::Array),
        search if is_search(&search) => Some(search),
        one => name(one),
    };
    all.into_iter()
        .map(|(relation, value)| Some((relation, target(value)?)))
        .collect::<Option<Map<_, _>>>()
        .map(Value::Object)
}
