//! Posting a fixture as its real sender would: signed now, over real HTTP.

use std::fs;
use std::time::Duration;

use http::Uri;
use serde_json::Value;

use super::fixture::Fixture;
use crate::app;
use crate::cli::Failure;
use crate::clock;
use crate::config::{Config, Environment};
use crate::model::ReceiptStatus;
use crate::outbound::{Answer, Client, Request, Settings};
use crate::sources::Source;

/// An answer takes no longer than this: the daemon's own limits are shorter.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What a fixture's sender needs of the configuration: for each kind of source, one that is registered.
pub(super) struct Senders {
    client: Client,
    senders: Vec<Sender>,
}

/// One configured source, seen from its sender's side.
pub(super) struct Sender {
    kind: String,
    /// Its configured name.
    pub(super) name: String,
    path: String,
    source: Box<dyn Source>,
}

/// Where to post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A daemon; each source's own path follows.
    Base(String),
    /// One source's whole URL.
    Whole(String),
}

/// What a fixture was answered.
#[derive(Debug)]
pub(super) struct Posted {
    pub(super) status: u16,
    /// The body's word; for a 422 without one, quarantined.
    pub(super) outcome: Option<ReceiptStatus>,
    pub(super) receipt: Option<i64>,
    /// The ids of its executions, each once.
    pub(super) executions: Vec<String>,
    /// What a problem says.
    pub(super) detail: Option<String>,
}

impl Senders {
    pub(super) fn of(config: &Config, env: &Environment) -> Result<Senders, Failure> {
        let mut senders = Vec::new();
        for (path, intake) in app::sources(config, env)? {
            let kind = config.sources.iter().find(|s| s.name == *intake.name).map(|s| s.kind.clone());
            let kind = kind.unwrap_or_default();
            senders.push(Sender { kind, name: intake.name.to_string(), path, source: intake.source });
        }
        senders.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Senders { client: Client::new(&Settings::default()).map_err(Failure::Failed)?, senders })
    }

    /// The first source of that kind, by name.
    pub(super) fn of_kind(&self, kind: &str) -> Result<&Sender, Failure> {
        self.senders
            .iter()
            .find(|s| s.kind == kind)
            .ok_or_else(|| Failure::Config(format!("sources: the configuration has no source of kind {kind:?}")))
    }

    pub(super) async fn post(&self, fixture: &Fixture, to: &Target) -> Result<Posted, Failure> {
        let shown = fixture.path.display();
        let body = fs::read(&fixture.path).map_err(|e| Failure::Failed(format!("{shown}: {e}")))?;
        let sender = self.of_kind(fixture.kind)?;
        let request = sender.source.as_sender(body.into(), fixture.headers.clone(), clock::now());
        let url = match to {
            Target::Base(base) => format!("{base}{}{}", sender.path, request.suffix),
            Target::Whole(url) => format!("{url}{}", request.suffix),
        };
        // The URL may hold the token: no error names it.
        let url: Uri = url.parse().map_err(|e| Failure::Failed(format!("{shown}: cannot be posted: {e}")))?;
        let request = Request { method: request.method, url, headers: request.headers, body: request.body };
        match tokio::time::timeout(ANSWER_TIMEOUT, self.client.send(request)).await {
            Ok(Ok(answer)) => Ok(Posted::of(&answer)),
            Ok(Err(e)) => Err(Failure::Failed(format!("{shown}: {e}"))),
            Err(_) => Err(Failure::Failed(format!("{shown}: no answer within {} s", ANSWER_TIMEOUT.as_secs()))),
        }
    }
}

impl Target {
    /// Reads `--to`.
    pub(super) fn parse(url: &str) -> Result<Target, String> {
        let uri: Uri = url.parse().map_err(|e| format!("{url:?} is no URL: {e}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.authority().is_none() {
            return Err(format!("{url:?} is no URL; write http://host:port or https://…"));
        }
        if uri.query().is_some() {
            return Err("leave the query out: the credential is taken from the configuration".to_owned());
        }
        let url = url.trim_end_matches('/').to_owned();
        Ok(if uri.path().len() > 1 { Target::Whole(url) } else { Target::Base(url) })
    }
}

impl Posted {
    fn of(answer: &Answer) -> Posted {
        let json: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        let text = |key: &str| json[key].as_str();
        let outcome = match (text("outcome").map(str::parse), answer.status) {
            (Some(Ok(outcome)), _) => Some(outcome),
            (_, 422) => Some(ReceiptStatus::Quarantined),
            _ => None,
        };
        let mut executions: Vec<String> = Vec::new();
        let listed = json["executions"].as_array().into_iter().flatten();
        for id in listed.chain([&json["execution"]]).filter_map(Value::as_str) {
            if !executions.iter().any(|known| known == id) {
                executions.push(id.to_owned());
            }
        }
        Posted {
            status: answer.status,
            outcome,
            receipt: text("receipt").and_then(|id| id.parse().ok()),
            executions,
            detail: text("detail").or(text("title")).map(ToOwned::to_owned),
        }
    }

    /// Whether a sender would take it for done.
    pub(super) fn is_2xx(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::*;

    #[test]
    fn a_url_with_a_path_is_taken_whole() {
        for (url, target) in [
            ("http://127.0.0.1:8480", Target::Base("http://127.0.0.1:8480".into())),
            ("https://cb.example/", Target::Base("https://cb.example".into())),
            ("https://cb.example/callbacks/media", Target::Whole("https://cb.example/callbacks/media".into())),
        ] {
            assert_eq!(Target::parse(url), Ok(target), "{url}");
        }
        for bad in ["", "cb.example", "/callbacks", "ftp://cb.example", "http://cb.example/a?token=x"] {
            Target::parse(bad).expect_err(bad);
        }
    }

    #[test]
    fn answers_are_read_as_far_as_they_say_something() {
        let posted = |status, body: &'static str| {
            Posted::of(&Answer { status, headers: HeaderMap::new(), body: Bytes::from_static(body.as_bytes()) })
        };
        let one = posted(200, r#"{"receipt":"3","outcome":"accepted","execution":"7"}"#);
        assert_eq!(
            (one.outcome, one.receipt, one.executions),
            (Some(ReceiptStatus::Accepted), Some(3), vec!["7".into()])
        );
        let two = posted(200, r#"{"receipt":"3","outcome":"conflict","execution":"7","executions":["7","8"]}"#);
        assert_eq!(two.executions, ["7", "8"]);
        let kept = posted(422, r#"{"title":"not understood","detail":"no run id"}"#);
        assert_eq!((kept.outcome, kept.detail), (Some(ReceiptStatus::Quarantined), Some("no run id".to_owned())));
        let refused = posted(401, "");
        assert_eq!((refused.outcome, refused.is_2xx()), (None, false));
    }
}
