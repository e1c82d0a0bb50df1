//! `/api/v1/`: what operators change while the daemon runs.
//!
//! Bodies are JSON both ways. What makes a delivery due wakes its forwarder, so an operator sees the effect at once.

use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{AdminState, bad_request};
use crate::clock;
use crate::server::respond::{self, Answer, Problem};
use crate::store::{DeliveryFilter, Filter, Recorded, StoreError};

/// What a path means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Path<'p> {
    Sinks,
    Sink(&'p str, SinkVerb),
    Deliveries(DeliveryVerb),
    Delivery(&'p str, DeliveryVerb),
    ReceiptReplay(&'p str),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum SinkVerb {
    Pause,
    Resume,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum DeliveryVerb {
    Retry,
    Discard,
}

/// What is at `path`, and the method it takes.
pub(super) fn find(path: &str) -> Option<(Path<'_>, Method)> {
    let mut segments = path.strip_prefix("/api/v1/")?.split('/');
    let segments = [segments.next(), segments.next(), segments.next(), segments.next()];
    let delivery_verb = |word| match word {
        "retry" => Some(DeliveryVerb::Retry),
        "discard" => Some(DeliveryVerb::Discard),
        _ => None,
    };
    Some(match segments {
        [Some("sinks"), None, ..] => (Path::Sinks, Method::GET),
        [Some("sinks"), Some(name), Some("pause"), None] => (Path::Sink(name, SinkVerb::Pause), Method::POST),
        [Some("sinks"), Some(name), Some("resume"), None] => (Path::Sink(name, SinkVerb::Resume), Method::POST),
        [Some("deliveries"), Some(verb), None, ..] => (Path::Deliveries(delivery_verb(verb)?), Method::POST),
        [Some("deliveries"), Some(id), Some(verb), None] => (Path::Delivery(id, delivery_verb(verb)?), Method::POST),
        [Some("receipts"), Some(id), Some("replay"), None] => (Path::ReceiptReplay(id), Method::POST),
        _ => return None,
    })
}

/// Does what the path says.
pub(super) async fn answer(state: &AdminState, path: Path<'_>, body: &[u8]) -> Result<Answer, Problem> {
    let answer = match path {
        Path::Sinks => json!({ "items": state.store.sinks().await? }),
        Path::Sink(name, SinkVerb::Pause) => {
            let reason =
                if body.is_empty() { Pause::default() } else { read(body, "{\"reason\": \"…\"}, or nothing")? };
            let reason = reason.reason.unwrap_or_else(|| "by an operator".to_owned());
            set_paused(state, name, Some(reason)).await?
        }
        Path::Sink(name, SinkVerb::Resume) => set_paused(state, name, None).await?,
        Path::Deliveries(verb) => {
            let filter: Filter =
                read(body, "a filter, like {\"status\": [\"dead\"], \"sink\": \"portal\"}; {} for all")?;
            settle(state, verb, DeliveryFilter::All(filter)).await?
        }
        Path::Delivery(id, verb) => settle(state, verb, DeliveryFilter::One(number("delivery", id)?)).await?,
        Path::ReceiptReplay(id) => {
            let recorded = state.ingest.load().take_again(number("receipt", id)?, clock::now()).await?;
            replayed(&recorded)
        }
    };
    Ok(respond::json(StatusCode::OK, answer.to_string()))
}

/// What is said of a receipt that was read again.
pub fn replayed(recorded: &Recorded) -> Value {
    json!({
        "receipt": recorded.receipt.to_string(),
        "outcome": recorded.outcome,
        "executions": recorded.executions.iter().map(i64::to_string).collect::<Vec<_>>(),
    })
}

/// The body of a pause.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    reason: Option<String>,
}

fn read<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, Problem> {
    serde_json::from_slice(body).map_err(|e| bad_request(format!("The body is not understood ({e}). Send {expected}.")))
}

/// The number behind an id. What is none is nothing that we ever named.
fn number(what: &str, id: &str) -> Result<i64, StoreError> {
    let unknown = || StoreError::NotFound(format!("no {what} has the id {id:?}"));
    id.parse().ok().filter(|&n: &i64| n > 0).ok_or_else(unknown)
}

async fn settle(state: &AdminState, verb: DeliveryVerb, filter: DeliveryFilter) -> Result<Value, StoreError> {
    let now = clock::now();
    let count = match verb {
        DeliveryVerb::Retry => state.store.retry(filter, now).await?,
        DeliveryVerb::Discard => state.store.discard(filter, now).await?,
    };
    // A discarded delivery lets the next one of its execution go.
    wake_all(state);
    Ok(json!({ "count": count }))
}

/// Pauses a sink, or lets it go on. It has to be one that is configured, or that the store knows of: a slip of the pen
/// would otherwise pause nothing, and look well.
async fn set_paused(state: &AdminState, name: &str, reason: Option<String>) -> Result<Value, StoreError> {
    let is_configured = state.ingest.load().rules().sinks.iter().any(|sink| sink.name == name);
    if !is_configured && !state.store.sinks().await?.iter().any(|sink| sink.name == name) {
        return Err(StoreError::NotFound(format!("no sink is called {name:?}")));
    }
    state.store.pause(name.to_owned(), reason.clone()).await?;
    wake_all(state);
    Ok(json!({ "name": name, "paused": reason }))
}

/// Wakes every forwarder there is: only configured sinks have one.
fn wake_all(state: &AdminState) {
    let ingest = state.ingest.load();
    let names: Vec<_> = ingest.rules().sinks.iter().map(|sink| &sink.name).collect();
    state.wake.sinks(&names);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_what_the_contract_says() {
        use DeliveryVerb::{Discard, Retry};
        for (path, expected) in [
            ("/api/v1/sinks", Some(Path::Sinks)),
            ("/api/v1/sinks/portal/pause", Some(Path::Sink("portal", SinkVerb::Pause))),
            ("/api/v1/sinks/portal/resume", Some(Path::Sink("portal", SinkVerb::Resume))),
            ("/api/v1/deliveries/retry", Some(Path::Deliveries(Retry))),
            ("/api/v1/deliveries/discard", Some(Path::Deliveries(Discard))),
            ("/api/v1/deliveries/7/retry", Some(Path::Delivery("7", Retry))),
            ("/api/v1/deliveries/7/discard", Some(Path::Delivery("7", Discard))),
            ("/api/v1/receipts/7/replay", Some(Path::ReceiptReplay("7"))),
            ("/api/v1/receipts/7/replay/x", None),
            ("/api/v1/sinks/portal/pause/", None),
            ("/api/v1/sinks/", None),
            ("/api/v1/deliveries/7", None),
            ("/api/v1/", None),
            ("/api/v2/sinks", None),
            ("/", None),
        ] {
            assert_eq!(find(path).map(|(path, _)| path), expected, "{path}");
        }
    }

    #[test]
    fn an_id_is_a_number_of_ours() {
        assert_eq!(number("receipt", "7").expect("an id"), 7);
        for bad in ["", "0", "-1", "x", "9223372036854775808"] {
            assert!(matches!(number("receipt", bad), Err(StoreError::NotFound(_))), "{bad}");
        }
    }
}
