//! What a form changes: the same as the API does, then back to where the form stood.

use super::html::{Url, several};
use super::{Page, Problem, bad_request, pairs};
use crate::admin::AdminState;
use crate::admin::api;
use crate::admin::operations::{DeliveryVerb, Noun, SinkVerb};
use crate::model::{DeliveryStatus, ReceiptStatus, Time};
use crate::store::DeliveryFilter;

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::admin) enum Act<'p> {
    Deliveries(DeliveryVerb),
    Delivery(&'p str, DeliveryVerb),
    Sink(&'p str, SinkVerb),
    Replay(&'p str),
}

impl Act<'_> {
    /// The change that is made under `path`: those of the API, without its prefix.
    pub(super) fn find(path: &str) -> Option<Act<'_>> {
        let mut segments = path.strip_prefix('/')?.split('/');
        let segments = [segments.next(), segments.next(), segments.next(), segments.next()];
        let delivery = |word| match word {
            "retry" => Some(DeliveryVerb::Retry),
            "discard" => Some(DeliveryVerb::Discard),
            _ => None,
        };
        Some(match segments {
            [Some("deliveries"), Some(verb), None, _] => Act::Deliveries(delivery(verb)?),
            [Some("deliveries"), Some(id), Some(verb), None] => Act::Delivery(id, delivery(verb)?),
            [Some("receipts"), Some(id), Some("replay"), None] => Act::Replay(id),
            [Some("sinks"), Some(name), Some("pause"), None] => Act::Sink(name, SinkVerb::Pause),
            [Some("sinks"), Some(name), Some("resume"), None] => Act::Sink(name, SinkVerb::Resume),
            _ => return None,
        })
    }
}

/// Does it. Returns where to go then.
pub(super) async fn act(state: &AdminState, act: Act<'_>, form: &[u8], now: Time) -> Result<Url, Problem> {
    let form = std::str::from_utf8(form).map_err(|_| bad_request("The form does not hold UTF-8. Send it so."))?;
    let form = pairs(Some(form))?;
    let word = |name: &str| form.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let (home, done) = match act {
        Act::Deliveries(verb) => {
            let filter = form.iter().filter(|(name, _)| name != "back");
            let url = filter.fold(Url::home(), |url, (name, value)| url.with(name, value));
            let query = url.as_str().split_once('?').map(|(_, query)| query);
            let mut filter = Page::read(query, Noun::Delivery, now)?.filter();
            filter.limit = None;
            if filter.status.is_empty() {
                filter.status.push(DeliveryStatus::Dead.to_string());
            }
            (Url::to(&["deliveries"]), settle(state, verb, DeliveryFilter::All(filter)).await?)
        }
        Act::Delivery(id, verb) => {
            let one = DeliveryFilter::One(api::number("delivery", id)?);
            (Url::to(&["deliveries", id]), settle(state, verb, one).await?)
        }
        Act::Sink(name, verb) => {
            let name = super::decoded(name)?;
            let (reason, done) = match verb {
                SinkVerb::Pause => (Some(api::said(word("reason").map(str::to_owned))?), "paused"),
                SinkVerb::Resume => (None, "resumed"),
            };
            api::set_paused(state, &name, reason).await?;
            (Url::to(&["sinks"]), done.to_owned())
        }
        Act::Replay(id) => {
            let recorded = state.ingest.load().take_again(api::number("receipt", id)?, now).await?;
            (Url::to(&["receipts", id]), format!("replayed.{}", recorded.outcome))
        }
    };
    Ok(word("back").and_then(Url::of_ours).unwrap_or(home).with("done", &done))
}

async fn settle(state: &AdminState, verb: DeliveryVerb, filter: DeliveryFilter) -> Result<String, Problem> {
    let done = match verb {
        DeliveryVerb::Retry => "retried",
        DeliveryVerb::Discard => "discarded",
    };
    let count = api::settle(state, verb, filter).await?["count"].as_u64().unwrap_or_default();
    Ok(format!("{done}.{count}"))
}

/// What the word behind `done` says; only words of ours say anything, whoever made the link.
pub(super) fn said(code: &str) -> Option<String> {
    let (done, rest) = code.split_once('.').unwrap_or((code, ""));
    let count = |verb: &str| rest.parse().ok().map(|n| format!("{} {verb}.", several(n, "delivery")));
    match done {
        "retried" => count("due again"),
        "discarded" => count("discarded"),
        "paused" => Some("Paused: it is told nothing, and what it is to be told waits.".to_owned()),
        "resumed" => Some("Resumed.".to_owned()),
        "replayed" => rest.parse::<ReceiptStatus>().ok().map(|outcome| format!("Read again: {outcome}.")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_have_the_api_s_paths_without_its_prefix() {
        for (path, expected) in [
            ("/deliveries/7/retry", Some(Act::Delivery("7", DeliveryVerb::Retry))),
            ("/deliveries/discard", Some(Act::Deliveries(DeliveryVerb::Discard))),
            ("/sinks/portal/pause", Some(Act::Sink("portal", SinkVerb::Pause))),
            ("/receipts/7/replay", Some(Act::Replay("7"))),
            ("/receipts/7/retry", None),
            ("/deliveries/7", None),
            ("/deliveries/7/retry/x", None),
            ("/sinks", None),
        ] {
            assert_eq!(Act::find(path), expected, "{path}");
        }
    }

    #[test]
    fn only_our_own_words_are_said() {
        for (code, expected) in [
            ("retried.1", Some("1 delivery due again.")),
            ("discarded.2000", Some("2,000 deliveries discarded.")),
            ("resumed", Some("Resumed.")),
            ("replayed.accepted", Some("Read again: accepted.")),
            ("replayed.<b>", None),
            ("retried.many", None),
            ("Call 555-1234", None),
        ] {
            assert_eq!(said(code).as_deref(), expected, "{code}");
        }
    }
}
