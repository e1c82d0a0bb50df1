//! `/api/v1/`: what operators see and change while the daemon runs.
//!
//! Bodies are JSON both ways. A list is `{"items": [...], "next": CURSOR}`, newest first, with the objects that the
//! commands print with `--json` (`query` says what may be asked). What makes a delivery due wakes its forwarder, so an
//! operator sees the effect at once.

use http::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::query::{self, Page};
use super::{AdminState, bad_request};
use crate::clock;
use crate::server::respond::{self, Answer, Problem};
use crate::store::{DeliveryFilter, Filter, Recorded, StoreError};

/// What a path means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Path<'p> {
    List(Noun),
    Show(Noun, &'p str),
    ReceiptBody(&'p str),
    ReceiptReplay(&'p str),
    Sinks,
    Sink(&'p str, SinkVerb),
    Deliveries(DeliveryVerb),
    Delivery(&'p str, DeliveryVerb),
}

/// What is listed and shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Noun {
    Execution,
    Receipt,
    Delivery,
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

/// The methods of a path that only tells something, and of one that changes something.
const READS: &[Method] = &[Method::GET, Method::HEAD];
const CHANGES: &[Method] = &[Method::POST];

/// What is at `path`, and the methods it takes.
pub(super) fn find(path: &str) -> Option<(Path<'_>, &'static [Method])> {
    let mut segments = path.strip_prefix("/api/v1/")?.split('/');
    let segments = [segments.next(), segments.next(), segments.next(), segments.next()];
    let delivery_verb = |word| match word {
        "retry" => Some(DeliveryVerb::Retry),
        "discard" => Some(DeliveryVerb::Discard),
        _ => None,
    };
    let noun = match segments[0]? {
        "executions" => Some(Noun::Execution),
        "receipts" => Some(Noun::Receipt),
        "deliveries" => Some(Noun::Delivery),
        _ => None,
    };
    Some(match (noun, &segments[1..]) {
        (Some(Noun::Delivery), [Some(verb @ ("retry" | "discard")), None, _]) => {
            (Path::Deliveries(delivery_verb(verb)?), CHANGES)
        }
        (Some(noun), [None, ..]) => (Path::List(noun), READS),
        (Some(noun), [Some(id), None, _]) if !id.is_empty() => (Path::Show(noun, id), READS),
        (Some(Noun::Delivery), [Some(id), Some(verb), None]) => (Path::Delivery(id, delivery_verb(verb)?), CHANGES),
        (Some(Noun::Receipt), [Some(id), Some("body"), None]) => (Path::ReceiptBody(id), READS),
        (Some(Noun::Receipt), [Some(id), Some("replay"), None]) => (Path::ReceiptReplay(id), CHANGES),
        (None, rest) if segments[0] == Some("sinks") => match rest {
            [None, ..] => (Path::Sinks, READS),
            [Some(name), Some("pause"), None] => (Path::Sink(name, SinkVerb::Pause), CHANGES),
            [Some(name), Some("resume"), None] => (Path::Sink(name, SinkVerb::Resume), CHANGES),
            _ => return None,
        },
        _ => return None,
    })
}

/// Does what the path says.
pub(super) async fn answer(
    state: &AdminState,
    path: Path<'_>,
    query: Option<&str>,
    body: &[u8],
) -> Result<Answer, Problem> {
    let answer = match path {
        Path::List(noun) => list(state, noun, query).await?,
        Path::Show(noun, id) => show(state, noun, id).await?,
        Path::ReceiptBody(id) => {
            let (receipt, body) = state.store.receipt(number("receipt", id)?).await?;
            if body.is_empty() && receipt.body_bytes > 0 {
                let text = receipt.bodiless();
                return Err(StoreError::NotFound(text).into());
            }
            return Ok(respond::bytes(body));
        }
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

async fn list(state: &AdminState, noun: Noun, query: Option<&str>) -> Result<Value, Problem> {
    let page = Page::read(query, noun, clock::now())?;
    let (store, filter) = (&state.store, page.filter());
    let rows = match noun {
        Noun::Execution => store.executions(filter).await?,
        Noun::Receipt => values(store.receipts(filter).await?),
        Noun::Delivery => values(store.deliveries(filter).await?),
    };
    Ok(page.of(rows))
}

/// Everything that is known of one: an execution as `executions show --json` prints it, a delivery with its attempts.
async fn show(state: &AdminState, noun: Noun, id: &str) -> Result<Value, Problem> {
    let store = &state.store;
    Ok(match noun {
        Noun::Execution => store.execution(query::decoded(id)?).await?,
        Noun::Receipt => json!(store.receipt(number("receipt", id)?).await?.0),
        Noun::Delivery => {
            let (delivery, attempts) = store.delivery(number("delivery", id)?).await?;
            json!({ "delivery": delivery, "attempts": attempts })
        }
    })
}

fn values<T: Serialize>(rows: Vec<T>) -> Vec<Value> {
    rows.into_iter().map(|row| json!(row)).collect()
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
    state.wake.pauses(name);
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
            ("/api/v1/executions", Some(Path::List(Noun::Execution))),
            ("/api/v1/executions/i123", Some(Path::Show(Noun::Execution, "i123"))),
            ("/api/v1/executions/retry", Some(Path::Show(Noun::Execution, "retry"))),
            ("/api/v1/executions/i123/tasks", None),
            ("/api/v1/executions/", None),
            ("/api/v1/receipts", Some(Path::List(Noun::Receipt))),
            ("/api/v1/receipts/7", Some(Path::Show(Noun::Receipt, "7"))),
            ("/api/v1/receipts/7/body", Some(Path::ReceiptBody("7"))),
            ("/api/v1/deliveries", Some(Path::List(Noun::Delivery))),
            ("/api/v1/deliveries/7", Some(Path::Show(Noun::Delivery, "7"))),
            ("/api/v1/sinks", Some(Path::Sinks)),
            ("/api/v1/sinks/portal", None),
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
