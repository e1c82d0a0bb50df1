//! Pushing a value over the API: `history.push`, from Zabbix 7.0 on (Zabbix documentation, "history.push").
//!
//! An answer with `success` in it may refuse every value: each has an `error` of its own.

use serde_json::Value;

use super::api::{Api, ApiError, Seen, Version, words};
use crate::model::{Outcome, Time};

pub(super) const METHOD: &str = "history.push";

/// What is wrong with the item, its host or our address, and right again when somebody has mended it, or when Zabbix
/// has read its configuration again.
const MENDABLE: [&str; 7] = [
    "No permissions to referred object or it does not exist",
    "Item is disabled",
    "Host is not monitored",
    "Host is in maintenance without data collection",
    "allowed hosts list",
    "Unsupported item type",
    "HTTP agent item trapping is not enabled",
];

/// Pushes one value.
pub(super) async fn push(api: &Api, values: &Value, now: Time, seen: &mut Seen) -> Outcome {
    let version = match api.known_version(now, seen).await {
        Ok(version) => version,
        Err(error) => return outcome(error),
    };
    if version < Version::HISTORY_PUSH {
        return Outcome::Halt { reason: too_old(version), resume: None };
    }
    match api.call_seen(METHOD, values, now, seen).await {
        Ok(result) => judge(&result),
        Err(error) => outcome(error),
    }
}

/// What to do where there is no `history.push`.
pub(super) fn too_old(version: Version) -> String {
    format!("Zabbix {version} has no {METHOD}; write trapper = \"host:10051\"")
}

/// What follows from a call that has no result.
fn outcome(error: ApiError) -> Outcome {
    match error {
        ApiError::Retry { after_ms, reason } => Outcome::Retry { after_ms, reason, resume: None },
        ApiError::Auth { reason } => Outcome::Halt { reason, resume: None },
        // The frontend reaches the server no more, or the server is not ready: nothing is wrong with the value.
        ApiError::Refused { code: -32500, .. } => {
            Outcome::Retry { after_ms: None, reason: error.to_string(), resume: None }
        }
        ApiError::Refused { code: -32601, .. } => Outcome::Halt { reason: error.to_string(), resume: None },
        ApiError::Refused { .. } => Outcome::Reject { reason: error.to_string() },
    }
}

/// What follows from the result for one value.
fn judge(result: &Value) -> Outcome {
    let retry = |reason: String| Outcome::Retry { after_ms: None, reason, resume: None };
    let strange = || retry(format!("the answer to {METHOD} says nothing of the value"));
    if let Some(error) = result.get("error").and_then(Value::as_str) {
        return retry(format!("{METHOD}: {}", words(error)));
    }
    let Some(first) = result.pointer("/data/0").and_then(Value::as_object) else { return strange() };
    match first.get("error").and_then(Value::as_str) {
        None if first.contains_key("itemid") => Outcome::Delivered { note: None, learned: Vec::new() },
        None => strange(),
        Some(error) if MENDABLE.iter().any(|text| error.contains(text)) => {
            let hint = "mend it there, or run `callbackd zabbix apply`; a new item is known within a minute";
            retry(format!("Zabbix took no value: {} ({hint})", words(error)))
        }
        Some(error) => Outcome::Reject { reason: format!("Zabbix refuses the value: {}", words(error)) },
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn word(outcome: &Outcome) -> &'static str {
        match outcome {
            Outcome::Delivered { .. } => "delivered",
            Outcome::Retry { .. } => "retry",
            Outcome::Reject { .. } => "reject",
            Outcome::Halt { .. } => "halt",
            _ => "else",
        }
    }

    #[test]
    fn success_is_said_of_each_value() {
        let with = |first: Value| json!({"response": "success", "data": [first]});
        let cases = [
            (with(json!({"itemid": "10600"})), "delivered"),
            (with(json!({"itemid": 10_600})), "delivered"),
            (with(json!({"itemid": "10601", "error": "Item is disabled."})), "retry"),
            (with(json!({"error": "No permissions to referred object or it does not exist."})), "retry"),
            (with(json!({"itemid": "1", "error": "Host is not monitored."})), "retry"),
            (with(json!({"itemid": "1", "error": "Client IP is not in item's allowed hosts list."})), "retry"),
            (with(json!({"itemid": "1", "error": "Duplicate timestamp found."})), "reject"),
            (with(json!({"itemid": "1", "error": "a new text"})), "reject"),
            (with(json!({})), "retry"),
            (with(json!("10600")), "retry"),
            (json!({"response": "success", "data": []}), "retry"),
            (json!({"response": "failed", "error": "not now"}), "retry"),
            (json!(true), "retry"),
        ];
        for (result, expected) in cases {
            assert_eq!(word(&judge(&result)), expected, "{result}");
        }
        let refused = |code| ApiError::Refused { method: METHOD.to_owned(), code, data: "why".to_owned() };
        for (code, expected) in [(-32500, "retry"), (-32601, "halt"), (-32602, "reject"), (-32600, "reject")] {
            assert_eq!(word(&outcome(refused(code))), expected, "{code}");
        }
    }
}
