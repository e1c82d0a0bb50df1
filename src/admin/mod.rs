//! The operators' door: whether the daemon lives and is ready, and the API that the commands and the page use.
//!
//! It has its own address, limits and credential, and shares nothing with the senders' door but the code that serves
//! connections. Without a token it is for this machine only: a browser is then kept from being used as a bridge by
//! asking for a local `Host` (DNS rebinding) and no foreign `Origin` (cross-site requests).

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST, HeaderName, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use self::operations::Found;
use self::stream::Stream;
use crate::clock;
use crate::pipeline::Wake;
use crate::pipeline::ingest::Ingest;
use crate::secret::Secret;
use crate::server::respond::{Answer, Problem};
use crate::server::{Caller, Endpoint, Limits, Live, Pulse, Throttle};
use crate::shutdown::Shutdown;
use crate::signature;
use crate::store::Store;

mod api;
mod openapi;
mod operations;
mod query;
mod stream;

pub use api::replayed;

/// The largest body an operator's request may have, in bytes.
const BODY_BYTES_MAX: usize = 64 << 10;

/// An answer that is there whole, or that is made while it is sent.
type Reply = Response<UnsyncBoxBody<Bytes, Infallible>>;

/// A whole answer as one of either kind.
fn whole(answer: Answer) -> Reply {
    answer.map(BodyExt::boxed_unsync)
}

/// Which part of the door answers. Each has a `find`, and an `answer` for what it found.
enum Part<'p> {
    Api(Found<'p>),
}

/// What is at `path`, and the methods it takes.
fn find(path: &str) -> Option<(Part<'_>, &'static [Method])> {
    let api = || operations::find(path).map(|found| (found.methods(), found)).map(|(m, found)| (Part::Api(found), m));
    api()
}

/// What operators look at and change.
pub struct AdminState {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The receiving half, for what is read again.
    pub ingest: Live<Ingest>,
    /// Tells forwarders that they have something to do.
    pub wake: Wake,
    /// Asked for as `Authorization: Bearer …`, when there is one.
    pub token: Option<Secret>,
    /// Once it has begun, the daemon is not ready any more.
    pub shutdown: Shutdown,
}

/// The admin door: serve it with [`crate::server::serve`].
pub struct Admin {
    state: AdminState,
    limits: Arc<Limits>,
    refused: Throttle,
    stream: Stream,
}

impl Admin {
    /// A door to `state`.
    pub fn new(state: AdminState) -> Admin {
        let limits = Limits {
            trusted_proxies: Vec::new(),
            body_bytes_max: BODY_BYTES_MAX,
            head_bytes_max: 16 << 10,
            bodies_bytes_max: usize::MAX,
            connections_max: 128,
            connections_per_address_max: 0,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(75),
            idle_timeout: Duration::from_secs(75),
            drain_timeout: Duration::from_secs(5),
        };
        let stream = Stream::new(Arc::clone(&state.store), state.shutdown.clone());
        Admin { state, limits: Arc::new(limits), refused: Throttle::default(), stream }
    }

    async fn answered(&self, request: Request<Incoming>, pulse: &Pulse) -> Result<Reply, Problem> {
        let (head, body) = request.into_parts();
        let found = find(head.uri.path());
        if !matches!(&found, Some((Part::Api(found), _)) if found.is_open()) {
            self.admits(&head.headers)?;
            if self.state.token.is_some() {
                pulse.vouch();
            }
        }
        let (part, allowed) = found.ok_or_else(no_such_path)?;
        if !allowed.contains(&head.method) {
            return Err(Problem::method(allowed));
        }
        let body = read(body, self.limits.body_timeout).await?;
        let reply = match part {
            Part::Api(found) => {
                let does = found.does(&head.method).ok_or_else(no_such_path)?;
                let reply = api::answer(self, does, found.named, &head, &body).await?;
                if found.is_open() {
                    return Ok(reply);
                }
                reply
            }
        };
        pulse.vouch();
        Ok(reply)
    }

    fn ready(&self) -> Result<&'static str, String> {
        if self.state.shutdown.is_begun() {
            return Err("the daemon stops".to_owned());
        }
        self.state.store.ready().map(|()| "ready").map_err(|e| e.to_string())
    }

    /// Whether this is an operator.
    fn admits(&self, headers: &HeaderMap) -> Result<(), Problem> {
        let Some(token) = &self.state.token else { return is_local(headers) };
        let given = headers.get(AUTHORIZATION).and_then(|value| bearer(value.as_bytes()));
        if given.is_some_and(|given| signature::is_equal(given, token.expose().as_bytes())) {
            return Ok(());
        }
        if let Some(suppressed) = self.refused.passes(clock::now()) {
            tracing::warn!(given = given.is_some(), suppressed, "refused a request to the admin API: no right token");
        }
        let detail = "Send the token of [admin] as Authorization: Bearer <token>.";
        let problem = Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", "Not authenticated", detail);
        Err(problem.with("www-authenticate", "Bearer"))
    }
}

impl Endpoint for Admin {
    type Body = UnsyncBoxBody<Bytes, Infallible>;

    fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    async fn answer(&self, request: Request<Incoming>, _: Caller, pulse: &Pulse) -> Reply {
        self.answered(request, pulse).await.unwrap_or_else(|problem| whole(problem.answer()))
    }
}

fn no_such_path() -> Problem {
    let detail = "Nothing is here. What there is, /openapi.json describes.";
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", "No such path", detail)
}

/// The token in `Bearer <token>`; the scheme's case does not matter (RFC 9110, section 11.1).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Whether a request without a credential comes from a program on this machine, or from a page that we served.
fn is_local(headers: &HeaderMap) -> Result<(), Problem> {
    let foreign = |detail: &str| Err(Problem::new(StatusCode::FORBIDDEN, "foreign", "Not from here", detail));
    let host = headers.get(HOST).and_then(|h| h.to_str().ok()).unwrap_or_default();
    if !is_loopback(host) {
        return foreign("Without a `token` in [admin], the Host has to be localhost or a loopback address.");
    }
    let same = |origin: &HeaderValue| {
        let origin = origin.to_str().unwrap_or_default();
        ["http://", "https://"].iter().any(|scheme| origin.strip_prefix(scheme) == Some(host))
    };
    let crosses = headers.get(&FETCH_SITE).is_some_and(|site| site == "cross-site" || site == "same-site");
    if crosses || headers.get_all(ORIGIN).iter().any(|origin| !same(origin)) {
        return foreign("Another site's page may not use this API. Without a browser, leave out Origin.");
    }
    Ok(())
}

fn is_loopback(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse().is_ok_and(|a: std::net::IpAddr| a.is_loopback())
}

/// The whole body, within the limits.
async fn read(body: Incoming, timeout: Duration) -> Result<Bytes, Problem> {
    let reading = Limited::new(body, BODY_BYTES_MAX).collect();
    match tokio::time::timeout(timeout, reading).await {
        Ok(Ok(whole)) => Ok(whole.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(Problem::too_large(BODY_BYTES_MAX)),
        Ok(Err(_)) => Err(bad_request("The body ended early, or its chunks are malformed. Send it whole.")),
        Err(_) => Err(Problem::slow()),
    }
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "malformed", "Malformed request", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|&(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn only_this_machine_and_our_own_pages_need_no_token() {
        for (pairs, local) in [
            (&[("host", "localhost")][..], true),
            (&[("host", "LocalHost:8481")], true),
            (&[("host", "127.0.0.1:8481")], true),
            (&[("host", "127.9.9.9")], true),
            (&[("host", "[::1]:8481")], true),
            (&[("host", "localhost:8481"), ("origin", "http://localhost:8481")], true),
            (&[("host", "localhost:8481"), ("sec-fetch-site", "same-origin")], true),
            (&[], false),
            (&[("host", "")], false),
            (&[("host", "attacker.example")], false),
            (&[("host", "localhost.attacker.example")], false),
            (&[("host", "127.0.0.1.attacker.example")], false),
            (&[("host", "user@localhost:80@attacker.example")], false),
            (&[("host", "192.0.2.1:8481")], false),
            (&[("host", "localhost:8481"), ("origin", "http://localhost:3000")], false),
            (&[("host", "localhost:8481"), ("origin", "https://attacker.example")], false),
            (&[("host", "localhost:8481"), ("origin", "null")], false),
            (&[("host", "localhost:8481"), ("sec-fetch-site", "cross-site")], false),
        ] {
            assert_eq!(is_local(&headers(pairs)).is_ok(), local, "{pairs:?}");
        }
    }

    #[test]
    fn a_bearer_token_is_found() {
        for (value, token) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc ", Some("abc")),
            ("Basic abc", None),
            ("Bearer", None),
            ("", None),
        ] {
            assert_eq!(bearer(value.as_bytes()), token.map(str::as_bytes), "{value}");
        }
    }
}
