//! What an answer means. A 201 has to be read: it also comes when nothing was stored, and when only a part was.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::outbound::{Answer, Verdict};
use crate::sinks::cut;

const WORDS_CHARS_MAX: usize = 300;

/// What of an event was stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Stored {
    /// A report for each entity that matched.
    All,
    /// Nothing: no entity matched.
    Nothing,
    /// Not all reports, and why.
    NotAll(String),
    /// It does not say: this is not the API's answer.
    Unsaid,
}

/// `EventIngestResults`: any of it can be null, and new words for a status can come.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Results {
    report_count: Option<i64>,
    event_ingest_results: Option<Vec<Report>>,
}

#[derive(Deserialize)]
struct Report {
    status: Option<String>,
}

/// Reads the body of a 2xx.
pub(super) fn read(body: &[u8]) -> Stored {
    let known = ["reportCount", "eventIngestResults"];
    let answer = serde_json::from_slice::<Value>(body).ok().filter(|v| known.iter().any(|key| v.get(key).is_some()));
    let Some(answer) = answer else { return Stored::Unsaid };
    let Ok(results) = Results::deserialize(answer) else {
        return Stored::NotAll("answered with results that cannot be read".to_owned());
    };
    let reports = results.event_ingest_results.unwrap_or_default();
    let count = results.report_count.unwrap_or(reports.len() as i64);
    let stored = reports.iter().filter(|report| report.status.as_deref() == Some("OK")).count();
    let others: BTreeSet<_> = reports.iter().map(Report::meaning).filter(|said| said != "OK").collect();
    let others = cut(&others.into_iter().collect::<Vec<_>>().join(", "), WORDS_CHARS_MAX);
    if count == 0 && stored == reports.len() {
        return Stored::Nothing;
    }
    if others.is_empty() && stored > 0 && stored as i64 == count {
        return Stored::All;
    }
    let why = if others.is_empty() { "of the rest nothing is said" } else { &others };
    Stored::NotAll(match stored {
        0 if others.is_empty() => format!("answered with {count} reports, and not what became of them"),
        0 => format!("the event was refused: {others}"),
        _ => format!("stored in part, {stored} of {} reports: {why}", count.max(reports.len() as i64)),
    })
}

impl Report {
    fn meaning(&self) -> String {
        let status = self.status.as_deref().unwrap_or("without a status");
        let meaning = match status {
            "INVALID_ENTITY_TYPE" => " (the event's type does not fit the entity)",
            "INVALID_METADATA" => " (a property is refused)",
            "INVALID_TIMESTAMPS" => " (start or end is too far away)",
            "OK" | "without a status" => "",
            _ => " (a status that is not known here)",
        };
        format!("{}{meaning}", cut(status, 64).replace(char::is_control, " "))
    }
}

/// What an error says of itself, to be appended to a reason.
pub(super) fn words(answer: &Answer) -> String {
    let Some(error) = error(answer) else { return String::new() };
    let text = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let mut said = text(&error, "message").unwrap_or_default();
    for violation in error.get("constraintViolations").and_then(Value::as_array).into_iter().flatten().take(5) {
        let parts = ["path", "message"].map(|key| text(violation, key));
        said += &format!("; {}", parts.into_iter().flatten().collect::<Vec<_>>().join(": "));
    }
    let said = cut(&said, WORDS_CHARS_MAX).replace(char::is_control, " ");
    if said.is_empty() { said } else { format!(": {said}") }
}

/// The API's own form of an error: `{"error": {"code", "message", "constraintViolations"}}`.
fn error(answer: &Answer) -> Option<Value> {
    let mut body: Value = serde_json::from_slice(&answer.body).ok()?;
    body.get_mut("error").filter(|error| error.is_object()).map(Value::take)
}

/// What a read of the known properties says of the token.
pub(super) fn of_probe(verdict: Verdict, answer: Option<&Answer>) -> Result<String, String> {
    let said = answer.map(words).unwrap_or_default();
    match (verdict, answer) {
        (Verdict::Taken, Some(answer)) => {
            let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
            let Some(known) = body.get("eventProperties").and_then(Value::as_array) else {
                return Err(format!("answered {} with something that is not ASTROM's JSON", answer.status));
            };
            let complete = body.get("nextPageKey").is_none_or(Value::is_null);
            let writable = |key: &str| known.iter().any(|p| p["key"] == key && p["writable"] != Value::Bool(false));
            let lacking: Vec<_> = super::event::SWITCHES.into_iter().filter(|key| complete && !writable(key)).collect();
            let lacking = match lacking.is_empty() {
                true => String::new(),
                false => format!("; this server knows no writable {}", lacking.join(", ")),
            };
            Ok(format!("token accepted; whether it has events.ingest, only an event shows{lacking}"))
        }
        // Said in the API's own form, so it is not a proxy that refuses; and an unknown token is 401.
        (Verdict::Unauthorized { .. }, Some(answer)) if answer.status == 403 && error(answer).is_some() => Ok(format!(
            "token known; it may not read (events.read is missing), so whether it has events.ingest, only an event \
             shows{said}"
        )),
        (Verdict::Unauthorized { reason }, _) => Err(format!("ASTROM refuses the token: {reason}{said}")),
        (Verdict::Reject { reason }, Some(answer)) if answer.status == 404 => {
            Err(format!("{reason}{said}; check url and the environment's id in it"))
        }
        (Verdict::Taken, None) => Err("the answer is too large".to_owned()),
        (Verdict::Reject { reason } | Verdict::Retry { reason, .. }, _) => Err(reason + &said),
    }
}
