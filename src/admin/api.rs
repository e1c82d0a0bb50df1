//! `/api/v1/`: what operators see and change while the daemon runs.
//!
//! Bodies are JSON both ways. A list is `{"items": [...], "next": CURSOR}`, newest first, with the objects that the
//! commands print with `--json` (`query` says what may be asked). What makes a delivery due wakes its forwarder, so an
//! operator sees the effect at once.

use std::sync::Arc;

use http::StatusCode;
use http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::judgement::BY_AN_OPERATOR;
use super::operations::Does;
pub(super) use super::operations::{DeliveryVerb, Noun, SinkVerb};
use super::query::{self, Page, Wanted};
use super::room::Size;
use super::{
    Admin, AdminState, Reply, SinkStanding, bad_request, metrics, no_such_path, openapi, pieces, status, whole,
};
use crate::clock;
use crate::model::DeliveryStatus;
use crate::server::Pulse;
use crate::server::respond::{self, Answer, Problem};
use crate::store::{DeliveryFilter, Filter, PAUSE_CHARS_MAX, Recorded, SinkRow, StoreError};

/// Does it. `named` is what the path names, as it came.
pub(super) async fn answer(
    admin: &Admin,
    does: Does,
    named: &str,
    head: &Parts,
    body: &[u8],
    pulse: &Arc<Pulse>,
) -> Result<Reply, Problem> {
    let (state, query) = (&admin.state, head.uri.query());
    match does {
        Does::Lives => Ok(whole(respond::text(StatusCode::OK, "ok"))),
        Does::IsReady => {
            let (status, said) = match admin.ready() {
                Ok(word) => (StatusCode::OK, word),
                Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, reason),
            };
            Ok(whole(respond::text(status, said)))
        }
        Does::Measure => {
            state.watch.look().await;
            let is_ready = admin.ready().is_ok();
            Ok(whole(metrics::answer(&state.watch.measures, is_ready, &head.headers, clock::now())))
        }
        Does::Describe => Ok(whole(respond::json(StatusCode::OK, openapi::DOCUMENT))),
        Does::Stream => {
            let wanted = Wanted::read(query, clock::now())?;
            admin.stream.answer(wanted, head).await
        }
        Does::List(noun) => {
            let made = async { Ok(respond::json(StatusCode::OK, list(state, noun, query).await?.to_string())) };
            admin.room.api.make(pulse, size(noun), made).await
        }
        Does::Status => {
            query::read(query, does)?;
            Ok(whole(respond::json(StatusCode::OK, json!(status::status(admin, clock::now()).await).to_string())))
        }
        does => {
            // Where nothing can be asked with, what is asked with is a slip: `retry?sink=a` is not to retry all.
            query::read(query, does)?;
            let made = one(state, does, named, body);
            match does {
                Does::Show(noun) => admin.room.api.make(pulse, size(noun), made).await,
                Does::ReceiptBody => admin.room.api.make(pulse, Size::Large, made).await,
                _ => made.await.map(whole),
            }
        }
    }
}

/// Of a delivery little is told; what senders said may be much.
pub(super) fn size(noun: Noun) -> Size {
    match noun {
        Noun::Delivery => Size::Small,
        Noun::Execution | Noun::Receipt => Size::Large,
    }
}

/// What speaks of one thing, or changes something.
async fn one(state: &AdminState, does: Does, named: &str, body: &[u8]) -> Result<Answer, Problem> {
    let answer = match does {
        Does::Show(noun) => show(state, noun, named).await?,
        Does::ReceiptBody => {
            let (receipt, body) = state.store.receipt(number("receipt", named)?).await?;
            if body.is_empty() && receipt.body_bytes > 0 {
                let text = receipt.bodiless();
                return Err(StoreError::NotFound(text).into());
            }
            return Ok(respond::bytes(body));
        }
        Does::Sinks => json!({ "items": sinks(state).await? }),
        Does::Sink(verb) => {
            let name = query::decoded(named)?;
            let reason = match verb {
                SinkVerb::Resume => None,
                SinkVerb::Pause if body.is_empty() => Some(Pause::default()),
                SinkVerb::Pause => Some(read::<Pause>(body, "{\"reason\": \"…\"}, or nothing")?),
            };
            let reason = reason.map(|pause| said(pause.reason)).transpose()?;
            set_paused(state, &name, reason).await?
        }
        Does::Deliveries(verb) => {
            let filter: Filter =
                read(body, "a filter, like {\"status\": [\"dead\"], \"sink\": \"portal\"}; {} for all")?;
            for word in &filter.status {
                word.parse::<DeliveryStatus>().map_err(bad_request)?;
            }
            settle(state, verb, DeliveryFilter::All(filter)).await?
        }
        Does::Delivery(verb) => settle(state, verb, DeliveryFilter::One(number("delivery", named)?)).await?,
        Does::ReceiptReplay => {
            let recorded = state.ingest.load().take_again(number("receipt", named)?, clock::now()).await?;
            replayed(&recorded)
        }
        Does::Lives | Does::IsReady | Does::Measure | Does::Describe | Does::Status | Does::Stream | Does::List(_) => {
            return Err(no_such_path());
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
    let (rows, cut) = match noun {
        Noun::Execution => pieces::executions(&**store, filter).await?,
        Noun::Receipt => {
            let (rows, cut) = pieces::receipts(&**store, filter).await?;
            (values(rows), cut)
        }
        Noun::Delivery => (values(store.deliveries(filter).await?), None),
    };
    Ok(page.of(rows, cut))
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Pause {
    /// Why, for whoever looks at it later.
    #[cfg_attr(test, schemars(length(max = 1000)))]
    reason: Option<String>,
}

/// Why a sink is paused, in the operator's words.
pub(super) fn said(reason: Option<String>) -> Result<String, Problem> {
    let reason = reason.unwrap_or_else(|| BY_AN_OPERATOR.to_owned());
    match reason.chars().count() {
        ..=PAUSE_CHARS_MAX => Ok(reason),
        long => Err(bad_request(format!("`reason` has {long} characters. Say it in {PAUSE_CHARS_MAX}."))),
    }
}

/// An object. (serde would take a list for one as well, its values in the order of the fields.) Where a whole number belongs,
/// `1.0` is one, as in JSON Schema.
fn read<T: DeserializeOwned>(body: &[u8], expected: &str) -> Result<T, Problem> {
    let object: Result<Map<String, Value>, _> = serde_json::from_slice(body);
    let read = object.and_then(|mut object| {
        for value in object.values_mut().filter(|value| value.is_f64()) {
            match value.as_f64() {
                Some(whole) if whole.fract() == 0.0 && whole.abs() < 9e18 => *value = (whole as i64).into(),
                _ => {}
            }
        }
        T::deserialize(Value::Object(object))
    });
    read.map_err(|e| bad_request(format!("The body is not understood ({e}). Send {expected}.")))
}

/// The number behind an id. What is none is nothing that we ever named.
pub(super) fn number(what: &str, id: &str) -> Result<i64, StoreError> {
    let unknown = || StoreError::NotFound(format!("no {what} has the id {id:?}"));
    id.parse().ok().filter(|&n: &i64| n > 0).ok_or_else(unknown)
}

pub(super) async fn settle(
    state: &AdminState,
    verb: DeliveryVerb,
    filter: DeliveryFilter,
) -> Result<Value, StoreError> {
    let now = clock::now();
    let count = match verb {
        DeliveryVerb::Retry => state.store.retry(filter, now).await?,
        DeliveryVerb::Discard => state.store.discard(filter, now).await?,
    };
    // A discarded delivery lets the next one of its execution go.
    wake_all(state);
    Ok(json!({ "count": count }))
}

/// Every sink that the configuration or the store knows, by name: who is not listed would seem not to be told at all.
pub(super) async fn sinks(state: &AdminState) -> Result<Vec<SinkStanding>, StoreError> {
    let mut rows = state.store.sinks().await?;
    for sink in &state.ingest.load().rules().sinks {
        if !rows.iter().any(|row| row.name == sink.name) {
            rows.push(SinkRow::of(&sink.name));
        }
    }
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let measured = state.watch.measures.sinks();
    let breaker = |name: &str| measured.iter().find(|of| *of.name == *name).and_then(|of| of.breaker());
    Ok(rows.into_iter().map(|row| (breaker(&row.name), row)).map(|(open, row)| SinkStanding::of(row, open)).collect())
}

/// Pauses a sink, or lets it go on. It has to be one that is configured, or that the store knows of: a slip of the pen
/// would otherwise pause nothing, and look well.
pub(super) async fn set_paused(state: &AdminState, name: &str, reason: Option<String>) -> Result<Value, StoreError> {
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
    fn a_reason_is_short() {
        let said = |count: usize| said(Some("é".repeat(count))).map_err(|problem| (problem.status, problem.detail));
        assert_eq!(said(PAUSE_CHARS_MAX).map(|reason| reason.chars().count()), Ok(1000));
        let refused = "`reason` has 1001 characters. Say it in 1000.".to_owned();
        assert_eq!(said(PAUSE_CHARS_MAX + 1), Err((StatusCode::BAD_REQUEST, refused)));
    }

    #[test]
    fn an_id_is_a_number_of_ours() {
        assert_eq!(number("receipt", "7").expect("an id"), 7);
        for bad in ["", "0", "-1", "x", "9223372036854775808"] {
            assert!(matches!(number("receipt", bad), Err(StoreError::NotFound(_))), "{bad}");
        }
    }
}
