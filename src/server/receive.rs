//! Callbacks at the door: from a request's head to the answer, by way of [`Ingest`].
//!
//! The order matters: what can be refused by the head alone is refused before a byte of the body is read; the body is
//! read under its limits of size, time and memory; and between its last byte and the store nothing waits, so a sender
//! that hangs up then cancels nothing. A body that comes in one piece is never copied, any other once.
//!
//! Logs name the source, or the first segment of an unknown path: the rest, and the query, may hold a token.

use std::collections::HashMap;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use tracing::Level;

use super::bodies::{Bodies, Charge};
use super::respond::{self, Answer, Problem};
use super::{Caller, Endpoint, Limits, Live, Pulse, Throttle, peer};
use crate::clock;
use crate::measure::{Asked, Measures};
use crate::model::words::reason;
use crate::pipeline::ingest::{Ingest, Intake, Kept, Refusal};
use crate::sources::{AuthError, RawRequest};

/// The most that is set aside for a body on its declared length alone, in bytes.
const SET_ASIDE_MAX: usize = 256 << 10;

/// Where callbacks arrive.
pub struct Reception {
    ingest: Live<Ingest>,
    limits: Live<Limits>,
    bodies: Bodies,
    measures: Arc<Measures>,
    /// Where traces are told.
    #[cfg(feature = "otlp")]
    spans: Option<crate::otlp::Spans>,
    /// How often the operator is told of refusals, by source and reason.
    refusals: Mutex<HashMap<(Box<str>, &'static str), Throttle>>,
}

impl Reception {
    /// Takes callbacks in for `ingest`, within `limits`.
    pub fn new(ingest: Live<Ingest>, limits: Live<Limits>, measures: Arc<Measures>) -> Reception {
        Reception {
            ingest,
            limits,
            bodies: Bodies::default(),
            measures,
            #[cfg(feature = "otlp")]
            spans: None,
            refusals: Mutex::default(),
        }
    }

    /// The same, and what is kept is told in its sender's trace.
    #[cfg(feature = "otlp")]
    #[must_use]
    pub fn traced(self, spans: Option<crate::otlp::Spans>) -> Reception {
        Reception { spans, ..self }
    }

    /// From the head to the store. `raw` is still without its body.
    async fn receive(
        &self,
        ingest: &Ingest,
        limits: &Limits,
        intake: &Intake,
        (mut raw, body): (RawRequest, &mut Incoming),
        pulse: &Pulse,
        asked: &mut Asked<'_>,
    ) -> Result<Kept, Refusal> {
        #[cfg(feature = "otlp")]
        let traced = self.spans.as_ref().and_then(|spans| {
            let trace = crate::pipeline::ingest::trace(&raw.headers).filter(|trace| trace.is_sampled())?;
            Some((spans, trace, clock::now()))
        });
        intake.admits(&raw, clock::now())?;
        let is_vouched_for = intake.source.screens_strangers();
        if is_vouched_for {
            pulse.vouch();
        }
        if is_encoded(&raw.headers) {
            return Err(Refusal::Encoded);
        }
        if body.size_hint().lower() > limits.body_bytes_max as u64 {
            return Err(Refusal::TooLarge(limits.body_bytes_max));
        }
        // Held until the store has answered: until then the bytes are in memory.
        let stranger = (!is_vouched_for).then(|| peer::holder(raw.peer));
        let mut charge = self.bodies.charge(limits.bodies_bytes_max, limits.body_bytes_max, stranger);
        raw.body = {
            let mut reading = pin!(read(body, limits.body_bytes_max, &mut charge));
            // Most bodies are here already, and cost no timer.
            match std::future::poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
                Poll::Ready(whole) => whole?,
                Poll::Pending => {
                    tokio::time::timeout(limits.body_timeout, reading).await.unwrap_or(Err(Refusal::Slow))?
                }
            }
        };
        let now = clock::now();
        asked.is_whole(Instant::now(), now);
        let kept = tokio::time::timeout(limits.answer_timeout, ingest.take(intake, raw, now));
        let kept = kept
            .await
            .unwrap_or_else(|_| Err(Refusal::Unavailable("the store does not answer in time (answer_timeout)".into())));
        #[cfg(feature = "otlp")]
        if let (Some((spans, trace, began_at)), Ok(kept)) = (traced, &kept) {
            crate::pipeline::traced::receipt(spans, intake, trace, began_at, kept);
        }
        kept
    }

    /// Tells the operator what only an operator can mend.
    fn report(&self, refusal: &Refusal, source: Option<&str>, peer: IpAddr) {
        let (Some(name), reason) = (
            source,
            match refusal {
                Refusal::Auth(AuthError::Missing(_)) => "missing",
                Refusal::Auth(AuthError::Wrong(_)) => "wrong",
                Refusal::Auth(AuthError::Stale(_)) => "stale",
                Refusal::Address => "address",
                Refusal::Rate => "rate",
                Refusal::Unavailable(_) => "unavailable",
                _ => return,
            },
        ) else {
            return;
        };
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = refusals.entry((name.into(), reason)).or_default().passes(clock::now());
        drop(refusals);
        if let Some(suppressed) = passed {
            tracing::warn!(source.name = source, %peer, reason = %refusal, suppressed, "refused a callback");
        }
    }
}

impl Endpoint for Reception {
    type Body = Full<Bytes>;

    fn limits(&self) -> Arc<Limits> {
        self.limits.load()
    }

    async fn answer(&self, request: Request<Incoming>, caller: Caller, pulse: &Arc<Pulse>) -> Answer {
        let began = tracing::enabled!(Level::DEBUG).then(Instant::now);
        let (ingest, limits) = (self.ingest.load(), self.limits.load());
        let (Parts { method, uri, headers, .. }, mut body) = request.into_parts();
        let peer = peer::sender(caller.address, &headers, &limits.trusted_proxies);
        let found = ingest.find(uri.path());
        let outcome = match found {
            None => {
                self.measures.no_such_path.add();
                Err(Refusal::NoSuchPath)
            }
            Some((intake, rest)) => {
                let (rest, query) = (rest.to_owned(), uri.query().map(str::to_owned));
                let raw = RawRequest { method, rest, query, headers, body: Bytes::new(), peer };
                let mut asked = intake.measures.asked();
                let outcome = self.receive(&ingest, &limits, intake, (raw, &mut body), pulse, &mut asked).await;
                match &outcome {
                    Ok(kept) => asked.is_answered(kept.counted()),
                    Err(refusal) => asked.is_answered(refusal.counted()),
                }
                outcome
            }
        };
        let source = found.map(|(intake, _)| &*intake.name);
        let answer = match &outcome {
            Ok(kept) => {
                pulse.vouch();
                respond::kept(kept)
            }
            Err(refusal) => {
                self.report(refusal, source, peer);
                let mut answer = Problem::from(refusal).answer();
                if is_unread(&mut body).await {
                    // Nobody is going to read the rest, however slow or long it is.
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                answer
            }
        };
        if let Some(began) = began {
            let recorded = outcome.as_ref().ok().map(|kept| &kept.recorded);
            tracing::debug!(
                source.name = source,
                http.path = source.is_none().then(|| reason(first_segment(uri.path()))).as_deref(),
                receipt.id = recorded.map(|r| r.receipt),
                receipt.outcome = recorded.map(|r| r.outcome.as_str()),
                reason = outcome.as_ref().err().map(tracing::field::display),
                http.status = answer.status().as_u16(),
                duration_ms = began.elapsed().as_secs_f64() * 1000.0,
                %peer,
                "answered a callback"
            );
        }
        answer
    }
}

/// What may be logged of a path that no source has: its first segment, and nothing of a path with one alone.
fn first_segment(path: &str) -> &str {
    path.get(1..).and_then(|rest| rest.find('/')).map_or("/", |end| &path[..=end])
}

/// Whether the body is compressed, or otherwise not what its sender signed.
fn is_encoded(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    codings.any(|coding| !coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity"))
}

/// The whole body.
async fn read(body: &mut Incoming, max: usize, charge: &mut Charge<'_>) -> Result<Bytes, Refusal> {
    let declared = body.size_hint().exact().unwrap_or(0);
    let Some(first) = piece(body, max, charge).await? else { return Ok(Bytes::new()) };
    if body.is_end_stream() {
        return Ok(first);
    }
    let Some(second) = piece(body, max, charge).await? else { return Ok(first) };
    // Each piece is copied as it comes: a small one may keep a whole buffer of hyper's alive.
    let set_aside = usize::try_from(declared).unwrap_or(usize::MAX).min(SET_ASIDE_MAX);
    let mut whole = Vec::with_capacity(set_aside.max(first.len() + second.len()));
    whole.extend_from_slice(&first);
    drop(first);
    whole.extend_from_slice(&second);
    drop(second);
    while let Some(next) = piece(body, max, charge).await? {
        whole.extend_from_slice(&next);
    }
    Ok(whole.into())
}

/// The next bytes of a body, charged; `None` at its end. Trailers say nothing to us.
async fn piece(body: &mut Incoming, max: usize, charge: &mut Charge<'_>) -> Result<Option<Bytes>, Refusal> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| {
            Refusal::Malformed("The body ended early, or its chunks are malformed. Send it whole.".to_owned())
        })?;
        if let Ok(bytes) = frame.into_data() {
            charge.add(bytes.len())?;
            if charge.bytes > max {
                return Err(Refusal::TooLarge(max));
            }
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

/// Whether a part of the body has not come yet. Only looks, so a sender that waits for 100 Continue is not told to go
/// on: hyper tells it when the body is waited for.
async fn is_unread(body: &mut Incoming) -> bool {
    while !body.is_end_stream() {
        match std::future::poll_fn(|cx| Poll::Ready(std::pin::Pin::new(&mut *body).poll_frame(cx))).await {
            Poll::Ready(Some(Ok(_))) => {}
            Poll::Ready(None) => return false,
            Poll::Ready(Some(Err(_))) | Poll::Pending => return true,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_tail_of_a_path_is_logged() {
        for (path, logged) in [
            ("/callbacks/media/t0ken", "/callbacks"),
            ("/callbacks/", "/callbacks"),
            ("/t0ken", "/"),
            ("/", "/"),
            ("", "/"),
            ("*", "/"),
            ("//t0ken", "/"),
            ("/é/t0ken", "/é"),
        ] {
            assert_eq!(first_segment(path), logged, "{path}");
        }
    }

    #[test]
    fn only_identity_is_no_encoding() {
        for (coding, expected) in [("identity", false), (" Identity ", false), ("gzip", true), ("identity, br", true)] {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_ENCODING, coding.parse().expect("a value"));
            assert_eq!(is_encoded(&headers), expected, "{coding}");
        }
        assert!(!is_encoded(&HeaderMap::new()));
    }
}
