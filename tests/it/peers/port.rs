//! A fake Port, as strict as its OpenAPI document says that the real one is (port-labs/port-docs,
//! `static/apispec.yaml`), with workflow node runs as Port's own clients use them. It runs on a thread of its own, so
//! tests with and without a runtime can use it. Dropped, it fails the test if anything came that a right client never
//! sends; that a run has ended, or that a token has expired, nobody can know, and is only refused.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

mod catalog;
mod rules;

use super::served::Served;
use catalog::Catalog;
use rules::{ACTION_FIELDS, ACTION_LOG, NODE_FIELDS, NODE_LOG, TOKEN, check, object};

pub(crate) const CLIENT_ID: &str = "client-one";
pub(crate) const CLIENT_SECRET: &str = "hunter2-client-secret";
/// Every token begins with this.
pub(crate) const TOKEN_PREFIX: &str = "hunter2-token-";

const BODY_BYTES_MAX: usize = 1 << 20;

/// Port; gone when dropped.
pub(crate) struct FakePort {
    served: Served,
    state: Arc<Mutex<State>>,
}

/// One request that came, and the status that it got; 0 when it got none.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    /// `PATCH /v1/actions/runs/r_1`.
    pub(crate) line: String,
    pub(crate) body: Value,
    pub(crate) status: u16,
}

/// One run.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Run {
    /// An action's: `IN_PROGRESS`, `SUCCESS` …; a node's: `IN_PROGRESS`, `COMPLETED`.
    pub(crate) status: String,
    /// Ended with Port's own call: takes no reports.
    pub(crate) synchronized: bool,
    /// What PATCH and final logs have set.
    pub(crate) fields: Map<String, Value>,
    pub(crate) logs: Vec<Value>,
}

/// How Port misbehaves, once.
#[derive(Clone, Debug)]
pub(crate) struct Twist {
    pub(crate) how: How,
    /// Whether the request is done all the same, before Port misbehaves.
    pub(crate) applied: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum How {
    /// Another answer.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// No answer, ever.
    Silent,
    /// The connection is closed instead of an answer.
    Closed,
    /// It is closed in the middle of the answer.
    Torn,
}

/// A proxy's idea of an answer.
pub(crate) fn bad_gateway() -> How {
    How::Answer(502, vec![("content-type", "text/html".to_owned())], "<html>502 Bad Gateway</html>".to_owned())
}

/// A JSON answer.
pub(crate) fn answer(status: u16, body: &Value) -> How {
    How::Answer(status, vec![("content-type", "application/json".to_owned())], body.to_string())
}

#[derive(Default)]
struct State {
    runs: BTreeMap<String, Run>,
    catalog: Catalog,
    requests: Vec<Seen>,
    faults: Vec<String>,
    twists: VecDeque<(String, Twist)>,
    token: Option<(String, Instant)>,
    token_seconds: f64,
    tokens_issued: u32,
    /// Requests that are left, and when there are new ones, in seconds since the epoch.
    limit: Option<(u64, i64)>,
}

impl FakePort {
    pub(crate) fn start() -> FakePort {
        let state = Arc::new(Mutex::new(State { token_seconds: 10_800.0, ..State::default() }));
        let shared = Arc::clone(&state);
        let served = Served::by(|listener| serve(listener, shared));
        FakePort { served, state }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.served.address
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// A new run, under way.
    pub(crate) fn add_run(&self, id: &str) {
        self.state().runs.insert(id.to_owned(), Run { status: "IN_PROGRESS".to_owned(), ..Run::default() });
    }

    /// A blueprint with the names of its properties and relations.
    pub(crate) fn add_blueprint(&self, name: &str, fields: &[&str]) {
        let fields = fields.iter().map(|field| (*field).to_owned()).collect();
        self.state().catalog.blueprints.insert(name.to_owned(), fields);
    }

    /// An entity that somebody else made.
    pub(crate) fn add_entity(&self, blueprint: &str, entity: Value) {
        let id = entity["identifier"].as_str().expect("an identifier").to_owned();
        self.state().catalog.entities.insert((blueprint.to_owned(), id), entity);
    }

    /// The entities by their identifiers.
    pub(crate) fn entities(&self) -> BTreeMap<String, Value> {
        self.state().catalog.entities.iter().map(|((_, id), entity)| (id.clone(), entity.clone())).collect()
    }

    /// Which run which entity was tied to, in order.
    pub(crate) fn ties(&self) -> Vec<(String, String)> {
        self.state().catalog.ties.clone()
    }

    /// Changes a run behind everybody's back.
    pub(crate) fn change_run(&self, id: &str, change: impl FnOnce(&mut Run)) {
        change(self.state().runs.get_mut(id).expect("a run"));
    }

    pub(crate) fn runs(&self) -> BTreeMap<String, Run> {
        self.state().runs.clone()
    }

    pub(crate) fn run(&self, id: &str) -> Run {
        self.state().runs.get(id).expect("a run").clone()
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.state().requests.clone()
    }

    /// Method and path of what came, without the token requests.
    pub(crate) fn lines(&self) -> Vec<String> {
        let lines = self.requests().into_iter().map(|seen| seen.line);
        lines.filter(|line| !line.ends_with("/access_token")).collect()
    }

    /// The next request whose method and path contain `part` meets this.
    pub(crate) fn script(&self, part: &str, how: How, applied: bool) {
        self.state().twists.push_back((part.to_owned(), Twist { how, applied }));
    }

    /// Every token so far is refused from now on.
    pub(crate) fn expire_tokens(&self) {
        self.state().token = None;
    }

    /// For how long tokens issued from now on are valid.
    pub(crate) fn set_token_seconds(&self, seconds: f64) {
        self.state().token_seconds = seconds;
    }

    pub(crate) fn tokens_issued(&self) -> u32 {
        self.state().tokens_issued
    }

    /// Sends rate limit headers from now on, and 429 when nothing remains.
    pub(crate) fn limit(&self, remaining: u64, reset_s: i64) {
        self.state().limit = Some((remaining, reset_s));
    }

    pub(crate) fn unlimit(&self) {
        self.state().limit = None;
    }

    /// What came that a right client never sends; a test that provokes it takes it.
    pub(crate) fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut self.state().faults)
    }
}

impl Drop for FakePort {
    fn drop(&mut self) {
        self.served.end();
        if !std::thread::panicking() {
            let state = self.state();
            assert!(state.faults.is_empty(), "Port was sent what it never should be: {:#?}", state.faults);
            assert!(state.twists.is_empty(), "scripted, and never met: {:?}", state.twists);
        }
    }
}

type AnswerBody = BoxBody<Bytes, io::Error>;

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| respond(request, Arc::clone(&state)));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn respond(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<AnswerBody>, io::Error> {
    let (head, body) = request.into_parts();
    let line = format!("{} {}", head.method, head.uri);
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes());
    let how = {
        let mut state = state.lock().expect("no panic");
        let met = state.twists.iter().position(|(part, _)| line.contains(part.as_str()));
        let twist = met.and_then(|at| state.twists.remove(at)).map(|(_, twist)| twist);
        let done = |state: &mut State| state.answer(&head.method, &head.uri, &head.headers, body.as_deref().ok());
        let how = match twist {
            None => done(&mut state),
            Some(Twist { how, applied }) => {
                if applied {
                    done(&mut state);
                }
                how
            }
        };
        let status = if let How::Answer(status, ..) = &how { *status } else { 0 };
        let body = body.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        state.requests.push(Seen { line, body, status });
        how
    };
    match how {
        How::Answer(status, headers, text) => {
            let mut answer = Response::builder().status(status);
            for (name, value) in headers {
                answer = answer.header(name, value);
            }
            let body = Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed();
            Ok(answer.body(body).expect("a response"))
        }
        How::Silent => std::future::pending().await,
        How::Closed => Err(io::Error::other("closed on purpose")),
        How::Torn => {
            let body = Torn(Some(Bytes::from_static(b"{\"ok\":"))).boxed();
            Ok(Response::builder().header("content-length", 100).body(body).expect("a response"))
        }
    }
}

struct Torn(Option<Bytes>);

impl Body for Torn {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        Poll::Ready(Some(self.0.take().map(Frame::data).ok_or_else(|| io::Error::other("torn on purpose"))))
    }
}

/// Status, Port's word, and a text for a person.
type No = (u16, &'static str, String);

impl State {
    fn answer(&mut self, method: &Method, uri: &http::Uri, headers: &HeaderMap, body: Option<&[u8]>) -> How {
        let (status, body) = match self.admit(method, uri, headers, body) {
            Ok((status, body)) => (status, body),
            Err((status, error, message)) => {
                if matches!(error, "invalid_request" | "no_route" | "no_credential") {
                    self.faults.push(format!("{method} {uri}: {message}"));
                }
                (status, json!({"ok": false, "error": error, "message": message}))
            }
        };
        let mut headers = vec![("content-type", "application/json; charset=utf-8".to_owned())];
        if let Some((remaining, reset_s)) = self.limit {
            headers.push(("x-ratelimit-period", "300".to_owned()));
            headers.push(("x-ratelimit-limit", "15000".to_owned()));
            headers.push(("x-ratelimit-remaining", remaining.to_string()));
            headers.push(("x-ratelimit-reset", reset_s.to_string()));
        }
        How::Answer(status, headers, body.to_string())
    }

    fn admit(
        &mut self,
        method: &Method,
        uri: &http::Uri,
        headers: &HeaderMap,
        body: Option<&[u8]>,
    ) -> Result<(u16, Value), No> {
        if let Some((remaining, _)) = &mut self.limit {
            *remaining =
                remaining.checked_sub(1).ok_or_else(|| (429, "rate_limit_exceeded", "too many requests".to_owned()))?;
        }
        let body = body.ok_or_else(|| (413, "invalid_request", "over 1 MiB".to_owned()))?;
        let path: Vec<_> = uri.path().split('/').skip(1).collect();
        if path[..] == ["v1", "auth", "access_token"] && method == Method::POST {
            return self.issue(&object(headers, body)?);
        }
        self.check_token(headers)?;
        if let ["v1", "blueprints", _, ..] = path[..] {
            let runs = &self.runs;
            return self.catalog.admit(method, uri, headers, body, |run| Some(runs.get(run)?.status.clone()));
        }
        let (id, is_log) = match path[..] {
            ["v1", "actions", "runs", id] if id.starts_with("r_") => (id, false),
            ["v1", "actions", "runs", id, "logs"] if id.starts_with("r_") => (id, true),
            ["v1", "workflows", "nodes", "runs", id] if id.starts_with("wfnr_") => (id, false),
            ["v1", "workflows", "nodes", "runs", id, "logs"] if id.starts_with("wfnr_") => (id, true),
            _ => return Err((404, "no_route", "no such route".to_owned())),
        };
        let is_node = id.starts_with("wfnr_");
        let read = |run: &Run| json!({"ok": true, "run": run.read(id)});
        if *method == Method::GET && !is_log {
            return self.runs.get(id).map(|run| (200, read(run))).ok_or_else(|| not_found(id));
        }
        if *method != if is_log { Method::POST } else { Method::PATCH } {
            return Err((404, "no_route", "no such method".to_owned()));
        }
        let body = object(headers, body)?;
        match (is_node, is_log) {
            (false, false) => check(&body, &[], &ACTION_FIELDS)?,
            (false, true) => check(&body, &["message"], &ACTION_LOG)?,
            (true, false) => check(&body, &[], &NODE_FIELDS)?,
            (true, true) => check(&body, &["logs"], &NODE_LOG)?,
        }
        if body.get("status") == Some(&json!("COMPLETED")) && !body.contains_key("result") {
            return Err((422, "invalid_request", "COMPLETED without a result".to_owned()));
        }
        let run = self.runs.get_mut(id).ok_or_else(|| not_found(id))?;
        if run.synchronized {
            return Err((422, "run_synchronized_error", format!("{id} is synchronized")));
        }
        if run.status != "IN_PROGRESS" {
            return Err((422, "run_status_error", format!("{id} is {}", run.status)));
        }
        if is_log {
            return Ok((201, run.log(id, &body)));
        }
        run.take(&body);
        Ok((200, read(run)))
    }

    fn issue(&mut self, body: &Map<String, Value>) -> Result<(u16, Value), No> {
        check(body, &["clientId", "clientSecret"], &TOKEN)?;
        if body["clientId"] != CLIENT_ID || body["clientSecret"] != CLIENT_SECRET {
            // As tactless as a peer can be.
            return Err((401, "invalid_credentials", format!("no such credentials: {}", Value::Object(body.clone()))));
        }
        // The live token is handed out again until it ends.
        self.token = self.token.take().filter(|(_, at)| at.elapsed().as_secs_f64() < self.token_seconds);
        let (token, at) = self.token.get_or_insert_with(|| {
            self.tokens_issued += 1;
            (format!("{TOKEN_PREFIX}{}", self.tokens_issued), Instant::now())
        });
        let left = (self.token_seconds - at.elapsed().as_secs_f64()).ceil();
        Ok((200, json!({"ok": true, "accessToken": token, "expiresIn": left, "tokenType": "Bearer"})))
    }

    fn check_token(&self, headers: &HeaderMap) -> Result<(), No> {
        let given = headers.get("authorization").and_then(|v| v.to_str().ok()?.strip_prefix("Bearer "));
        let Some(given) = given else {
            return Err((401, "no_credential", "Authorization: Bearer is missing".to_owned()));
        };
        let live = |(token, at): &&(String, Instant)| token == given && at.elapsed().as_secs_f64() < self.token_seconds;
        match self.token.as_ref().filter(live) {
            Some(_) => Ok(()),
            None => Err((401, "unauthorized", format!("the token {given} is not valid"))),
        }
    }
}

impl Run {
    fn read(&self, id: &str) -> Value {
        let mut run = json!({
            "id": id, "action": {"identifier": "transcode"}, "properties": {}, "requiredApproval": false,
            "source": "UI", "createdBy": "dev",
        });
        let fields = run.as_object_mut().expect("an object");
        fields.extend(self.fields.clone());
        fields.insert("status".to_owned(), self.status.clone().into());
        run
    }

    fn take(&mut self, fields: &Map<String, Value>) {
        self.fields.extend(fields.clone());
        if let Some(Value::String(status)) = self.fields.remove("status") {
            self.status = status;
        }
    }

    fn log(&mut self, id: &str, body: &Map<String, Value>) -> Value {
        match body.get("logs").and_then(Value::as_array) {
            Some(lines) => self.logs.extend(lines.iter().cloned()),
            None => self.logs.push(body["message"].clone()),
        }
        if let Some(Value::String(status)) = body.get("terminationStatus") {
            self.status.clone_from(status);
        }
        if let Some(label) = body.get("statusLabel") {
            self.fields.insert("statusLabel".to_owned(), label.clone());
        }
        let log = json!({"id": format!("log_{}", self.logs.len()), "runId": id, "message": body.get("message"),
            "createdBy": "callbackd", "createdAt": "2024-03-01T10:00:00.000Z"});
        json!({"ok": true, "runLog": log})
    }
}

fn not_found(id: &str) -> No {
    (404, "not_found", format!("run {id} was not found"))
}
