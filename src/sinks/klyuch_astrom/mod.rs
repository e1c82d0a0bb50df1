//! `klyuch_astrom` (also `dynatrace`): Klyuch-ASTROM shows what became of an execution, as an event of its own.
//!
//! The API is the Dynatrace Managed API, "Events API v2", `POST /api/v2/events/ingest` with `Authorization: Api-Token`
//! and the scope `events.ingest`; Klyuch-ASTROM documents the same call. One change makes at most one event: what it
//! says is `event`'s, whom it is about is `entity`'s, and what the answer means is `answer`'s, because 201 alone does
//! not say that anything was stored.
//!
//! An event that opens a problem is refreshed by its repetition, as it has the same title and entity. One that only
//! informs is not: if the answer to one is lost, the retry makes a second, which bears the same `callbackd.delivery`.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Method};
use serde::Deserialize;
use serde_json::json;

use super::{Kind, Preview, Sink, Tried, starts_nothing};
use crate::Boxed;
use crate::jq::Jq;
use crate::model::{Delivery, Outcome, Status, Time};
use crate::options::{self, BuildContext, Fault, Faults, Section, Span};
use crate::outbound::{self, Answer, Client, Request, Settings, Verdict};
use crate::secret::{Secret, SecretSpec};

mod answer;
mod entity;
mod event;
#[cfg(test)]
mod tests;

use answer::Stored;
use entity::{Entity, EntityOption};
use event::{Event, EventType, Shape, Types};

/// `kind = "klyuch_astrom"`.
pub(super) const KIND: Kind = Kind {
    name: "klyuch_astrom",
    aliases: &["dynatrace"],
    build,
    examine: options::examine::<Options>,
    starts: starts_nothing,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Options {
    /// What the API's paths are appended to.
    url: String,
    /// An API token with the scope events.ingest.
    token: SecretSpec,
    /// A PEM file of certificates that are trusted beside this machine's.
    ca_file: Option<PathBuf>,
    /// The type of the event for what failed.
    #[serde(default = "error_event")]
    failed: EventType,
    /// The type of the event for what succeeded.
    #[serde(default = "custom_info")]
    succeeded: EventType,
    /// The type of the event for what was cancelled.
    #[serde(default)]
    cancelled: EventType,
    /// The type of the event for what is late.
    #[serde(default = "availability_event")]
    overdue: EventType,
    /// The type of the event for what is pending, running, paused or unknown.
    #[serde(default)]
    others: EventType,
    /// A problem closes after this time by itself: whole minutes, at most 6h.
    #[serde(default = "default_open_for")]
    open_for: Span,
    /// Lets the server merge the problem with others that it takes for the same.
    #[serde(default)]
    allow_davis_merge: bool,
    /// Whom an event is about; default: the environment.
    entity: Option<EntityOption>,
    /// jq over the change: the title.
    title: Option<String>,
    /// jq over the change: an object with further properties.
    properties: Option<String>,
}

fn error_event() -> EventType {
    EventType::ErrorEvent
}

fn custom_info() -> EventType {
    EventType::CustomInfo
}

fn availability_event() -> EventType {
    EventType::AvailabilityEvent
}

fn default_open_for() -> Span {
    Span::seconds(3600)
}

const EXAMPLE_URL: &str = "https://astrom.example.com/e/<environment-id>";
const INGEST: &str = "/api/v2/events/ingest";
/// The largest page that there is.
const PROPERTIES: &str = "/api/v2/eventProperties?pageSize=500";
/// What nothing was stored of is sent so often again; then nobody will ever match.
const UNMATCHED_RETRIES: u64 = 3;

struct Astrom {
    client: Client,
    base: String,
    token: Secret,
    /// `Api-Token …`.
    authorization: HeaderValue,
    shape: Shape,
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Sink>, Vec<Fault>> {
    Astrom::new(section, context).map(|astrom| Box::new(astrom) as Box<dyn Sink>)
}

/// The part before `/api/v2/…`: a Managed cluster and an ActiveGate have the environment's id in it, an environment's
/// own host has not. The whole address of a call is taken, too.
fn base_url(url: &str) -> Result<String, String> {
    let base = outbound::base_url(url, EXAMPLE_URL)?;
    let base = [INGEST, "/api/v2", "/api"].iter().find_map(|end| base.strip_suffix(end)).unwrap_or(&base);
    let base = base.trim_end_matches('/');
    let is_active_gate = base.ends_with(":9999");
    if is_active_gate || base.ends_with("/e") {
        return Err(format!("lacks the environment's id at its end; write it like {EXAMPLE_URL:?}"));
    }
    Ok(base.to_owned())
}

fn authorization(token: &Secret) -> Result<HeaderValue, String> {
    let value = HeaderValue::try_from(format!("Api-Token {}", token.expose()));
    let mut value = value.map_err(|_| "it has a line break or another character that no header may have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

impl Sink for Astrom {
    fn preview(&self, delivery: &Delivery, now: Time) -> Vec<Preview> {
        vec![match self.shape.event(delivery, now) {
            Ok((event, _)) => Preview { action: format!("POST {}{INGEST}", self.base), body: json!(event).to_string() },
            Err(nothing) => Preview { action: nothing, body: String::new() },
        }]
    }

    fn harmless(&self) -> Option<Status> {
        self.shape.types.harmless()
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            match self.shape.event(delivery, now) {
                Ok((event, notes)) => self.tell(&event, notes, delivery, now).await,
                Err(reason) => Outcome::Discard { reason }.into(),
            }
        })
    }

    fn probe(&self) -> Boxed<'_, Result<String, String>> {
        Box::pin(async {
            // Reading needs another scope than telling, and there is no way to try telling without an event.
            let request = self.request(Method::GET, PROPERTIES, Bytes::new());
            let sent = self.client.send(request).await.map(|answer| self.redacted(answer));
            answer::of_probe(outbound::judge(&sent, Time::default()), sent.ok().as_ref())
        })
    }
}

impl Astrom {
    fn new(section: &Section, context: &BuildContext<'_>) -> Result<Astrom, Vec<Fault>> {
        let options: Options = section.read()?;
        let mut faults = Faults::of(section);
        let base = faults.keep("url", base_url(&options.url));
        let token = context.secrets.resolve(&options.token).and_then(|token| Ok((authorization(&token)?, token)));
        let token = faults.keep("token", token);
        let settings = Settings { ca_file: options.ca_file, ..context.outbound.clone() };
        let client = faults.keep("ca_file", Client::new(&settings));
        let open_for = faults.keep("open_for", event::minutes(options.open_for));
        let entity = options.entity.and_then(|entity| faults.keep("entity", Entity::read(entity)));
        let mut program = |key, text: Option<String>| text.and_then(|text| faults.keep(key, Jq::compile(&text)));
        let (title, properties) = (program("title", options.title), program("properties", options.properties));
        let types = Types {
            failed: options.failed,
            succeeded: options.succeeded,
            cancelled: options.cancelled,
            overdue: options.overdue,
            others: options.others,
        };
        let built = || {
            let (authorization, token) = token?;
            let (open_for, allow_davis_merge) = (open_for?, options.allow_davis_merge);
            let shape = Shape { types, open_for, allow_davis_merge, entity, title, properties };
            Some(Astrom { client: client?, base: base?, token, authorization, shape })
        };
        faults.finish(built())
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Request {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json; charset=utf-8"));
        headers.insert(AUTHORIZATION, self.authorization.clone());
        if !body.is_empty() {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
        }
        let url = format!("{}{path}", self.base).parse().expect("a checked base makes a URL");
        Request { method, url, headers, body }
    }

    async fn tell(&self, event: &Event, notes: Vec<String>, delivery: &Delivery, now: Time) -> Tried {
        let request = self.request(Method::POST, INGEST, Bytes::from(json!(event).to_string()));
        let sent = self.client.send(request).await.map(|answer| self.redacted(answer));
        let status = sent.as_ref().map_or_else(|failure| failure.status(), |answer| Some(answer.status));
        let said = || sent.as_ref().map_or_else(|_| String::new(), answer::words);
        let resume = delivery.resume.clone();
        let outcome = match outbound::judge(&sent, now) {
            Verdict::Taken => match sent.as_ref().map(|answer| answer::read(&answer.body)) {
                Ok(Stored::All) => {
                    let note = (!notes.is_empty()).then(|| notes.join("; "));
                    Outcome::Delivered { note, learned: Vec::new() }
                }
                Ok(Stored::Nothing) => unmatched(delivery),
                Ok(Stored::NotAll(reason)) => Outcome::Reject { reason },
                Ok(Stored::Unsaid) => {
                    let status = status.unwrap_or_default();
                    let reason = format!("answered {status} with something that is not ASTROM's JSON");
                    Outcome::Retry { after_ms: None, reason, resume }
                }
                // Perhaps for very many entities: told again and again, each of them would have it as often.
                Err(failure) => Outcome::Reject { reason: format!("{failure}, so what it stored is not known") },
            },
            Verdict::Retry { after_ms, reason } => Outcome::Retry { after_ms, reason: reason + &said(), resume },
            Verdict::Unauthorized { reason } => {
                let what = if status == Some(401) { "refuses the token" } else { "lets the token send no events" };
                let reason = format!("ASTROM {what}: {reason}{}; it needs the scope events.ingest", said());
                Outcome::Halt { reason, resume }
            }
            Verdict::Reject { reason } if status == Some(404) => {
                Outcome::Reject { reason: format!("{reason}{}; check url and the environment's id in it", said()) }
            }
            Verdict::Reject { reason } => Outcome::Reject { reason: reason + &said() },
        };
        Tried { outcome, status, answer: sent.ok().map(|answer| outbound::answer_text(&answer)) }
    }

    /// The answer without the token, should it be repeated: whole, or the part behind its last dot, which is the
    /// secret one.
    fn redacted(&self, answer: Answer) -> Answer {
        let token = self.token.expose();
        let secret = token.rsplit('.').next().filter(|part| part.len() >= 8).unwrap_or(token);
        let mut text = String::from_utf8_lossy(&answer.body);
        for secret in [token, secret] {
            if text.contains(secret) {
                text = text.replace(secret, "[secret]").into();
            }
        }
        Answer { body: text.into_owned().into(), ..answer }
    }
}

/// An entity that did nothing for a day matches nothing, and may do something in a moment.
fn unmatched(delivery: &Delivery) -> Outcome {
    const KEY: &str = "unmatched";
    let before = delivery.resume.as_ref().and_then(|resume| resume.get(KEY)?.as_u64()).unwrap_or(0);
    let reason =
        "answered that it stored nothing (reportCount 0): no entity that was active in the last 24 hours matches";
    if before >= UNMATCHED_RETRIES {
        return Outcome::Reject { reason: format!("{reason}; said {} times", before + 1) };
    }
    Outcome::Retry { after_ms: None, reason: reason.to_owned(), resume: Some(json!({KEY: before + 1})) }
}
