//! The operators' door: whether the daemon lives and is ready, and the API that the commands and the page use.
//!
//! It has its own address, limits and credential, and shares nothing with the senders' door but the code that serves
//! connections. Who gets in stands in `admit`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;

use self::operations::Found;
use self::room::Room;
use self::stream::Stream;
use crate::clock;
use crate::pipeline::Wake;
use crate::pipeline::ingest::Ingest;
use crate::secret::Secret;
use crate::server::respond::{Answer, Problem};
use crate::server::{Caller, Endpoint, Limits, Live, Pulse, Throttle};
use crate::shutdown::Shutdown;
use crate::store::Store;

mod admit;
mod api;
pub mod judgement;
mod metrics;
mod openapi;
mod operations;
mod page;
mod pieces;
mod query;
mod room;
mod sink;
mod status;
mod stream;
mod watch;

pub use api::replayed;
pub use sink::{Breaker, SinkStanding};
pub use status::{Configured, Refusing, Status};
pub use watch::Watch;

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
    Page(page::Path<'p>),
}

/// What is at `path`, and the methods it takes.
fn find(path: &str) -> Option<(Part<'_>, &'static [Method])> {
    let api = || operations::find(path).map(|found| (found.methods(), found)).map(|(m, found)| (Part::Api(found), m));
    let page = || page::find(path).map(|(path, methods)| (Part::Page(path), methods));
    api().or_else(page)
}

/// What operators look at and change.
pub struct AdminState {
    /// Where everything is kept.
    pub store: Arc<dyn Store>,
    /// The receiving half, for what is read again.
    pub ingest: Live<Ingest>,
    /// Tells forwarders that they have something to do.
    pub wake: Wake,
    /// What happened, in figures.
    pub watch: Arc<Watch>,
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
    room: Room,
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
        Admin { state, limits: Arc::new(limits), refused: Throttle::default(), stream, room: Room::new() }
    }

    async fn answered(&self, request: Request<Incoming>, pulse: &Arc<Pulse>) -> Result<Reply, Problem> {
        let (head, body) = request.into_parts();
        let found = find(head.uri.path());
        // Whoever watches over the daemon needs no credential, and shows none.
        let is_open = matches!(&found, Some((Part::Api(found), _)) if found.is_open());
        if !is_open {
            self.admits(&head)?;
            if self.state.token.is_some() {
                pulse.vouch();
            }
        }
        let (part, allowed) = found.ok_or_else(no_such_path)?;
        if !allowed.contains(&head.method) {
            return Err(Problem::method(allowed));
        }
        let body = if is_open { Bytes::new() } else { read(body, self.limits.body_timeout).await? };
        let reply = match part {
            Part::Page(path) => {
                let looks = path.looks();
                let page = page::answer(&self.state, path, head.uri.query(), &body);
                match looks {
                    Some(size) => self.room.pages.make(pulse, size, page).await?,
                    None => whole(page.await?),
                }
            }
            Part::Api(found) => {
                let does = found.does(&head.method).ok_or_else(no_such_path)?;
                api::answer(self, does, found.named, &head, &body, pulse).await?
            }
        };
        if !is_open {
            pulse.vouch();
        }
        Ok(reply)
    }

    /// What a 2xx means, or why there is none.
    fn ready(&self) -> Result<String, String> {
        if self.state.shutdown.is_begun() {
            return Err("the daemon stops".to_owned());
        }
        let store = &self.state.store;
        store.ready().map_err(|e| e.to_string())?;
        Ok(store.promise().map_or_else(|| "ready".to_owned(), |means| format!("ready; a 2xx means: {means}")))
    }

    /// Whether this is an operator; who knows no token is told of in the log.
    fn admits(&self, head: &Parts) -> Result<(), Problem> {
        let admitted = admit::admits(self.state.token.as_ref(), head);
        if admitted.as_ref().is_err_and(|problem| problem.status == StatusCode::UNAUTHORIZED)
            && let Some(suppressed) = self.refused.passes(clock::now())
        {
            let given = head.headers.contains_key(AUTHORIZATION);
            tracing::warn!(given, suppressed, "refused a request to the admin API: no right token");
        }
        admitted
    }
}

impl Endpoint for Admin {
    type Body = UnsyncBoxBody<Bytes, Infallible>;

    fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.limits)
    }

    async fn answer(&self, request: Request<Incoming>, _: Caller, pulse: &Arc<Pulse>) -> Reply {
        let is_for_people = page::is_for_people(request.uri().path(), request.headers().get(ACCEPT));
        let told = |problem: Problem| match is_for_people {
            true => page::problem(problem, &self.state),
            false => problem.answer(),
        };
        self.answered(request, pulse).await.unwrap_or_else(|problem| whole(told(problem)))
    }
}

fn no_such_path() -> Problem {
    let detail = "Nothing is here. What there is, /openapi.json describes.";
    Problem::new(StatusCode::NOT_FOUND, "no-such-path", "No such path", detail)
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
