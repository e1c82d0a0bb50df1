//! JSON values to jq's and back, without a text between.

use jaq_json::{Map, Num, Val};
use serde_json::{Number, Value};

pub(super) fn from_json(value: &Value) -> Val {
    match value {
        Value::Null => Val::Null,
        Value::Bool(flag) => Val::Bool(*flag),
        Value::Number(number) => Val::Num(match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), _, _) => Num::from_integral(integer),
            (None, Some(integer), _) => Num::from_integral(integer),
            (None, None, float) => Num::Float(float.unwrap_or(f64::NAN)),
        }),
        Value::String(text) => text_of(text),
        Value::Array(items) => items.iter().map(from_json).collect(),
        Value::Object(entries) => {
            Val::obj(entries.iter().map(|(key, value)| (text_of(key), from_json(value))).collect::<Map>())
        }
    }
}

fn text_of(text: &str) -> Val {
    Val::utf8_str(text.as_bytes().to_vec())
}

/// As jq prints it: what JSON has no number for is `null`, and a key that is no text is its JSON text.
pub(super) fn into_json(value: &Val) -> Value {
    match value {
        Val::Null => Value::Null,
        Val::Bool(flag) => Value::Bool(*flag),
        Val::Num(Num::Int(integer)) => Value::from(*integer),
        Val::Num(Num::Float(float)) => Number::from_f64(*float).map_or(Value::Null, Value::Number),
        Val::Num(number) => {
            let text = number.to_string();
            let integer = text.parse::<u64>().map(Number::from).ok();
            let number = integer.or_else(|| text.parse().ok().and_then(Number::from_f64));
            number.map_or(Value::Null, Value::Number)
        }
        Val::BStr(bytes) | Val::TStr(bytes) => Value::String(String::from_utf8_lossy(bytes).into_owned()),
        Val::Arr(items) => Value::Array(items.iter().map(into_json).collect()),
        Val::Obj(entries) => {
            Value::Object(entries.iter().map(|(key, value)| (key_of(key), into_json(value))).collect())
        }
    }
}

fn key_of(key: &Val) -> String {
    match into_json(key) {
        Value::String(text) => text,
        other => other.to_string(),
    }
}
