//! A fake Klyuch-ASTROM, as strict as the published description of its API (Dynatrace Environment API v2, `createEvent`
//! and `getEventProperties`; Managed documentation, "Events API v2"). It runs on a thread of its own. Dropped, it fails
//! the test if anything came that a right client never sends; what a client cannot know, it only refuses.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use callbackd::clock;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;

use super::served::Served;

pub(crate) const TOKEN: &str =
    "dt0c01.ST2EY72KQINMH574WMNVI7YN.hunter2G3DFPBEJYMODIDAEX454M7YWBUVEFOWKPRVMWFASS64NFH52PX6BNDVFFM572";
pub(crate) const ENVIRONMENT: &str = "19a63b03-9515-4f08-b3c1-8a1a3b9a1f0d";

const BODY_BYTES_MAX: usize = 1_000_000;
const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 1440 * MINUTE_MS;
const PROBLEMS: [&str; 5] =
    ["AVAILABILITY_EVENT", "CUSTOM_ALERT", "ERROR_EVENT", "PERFORMANCE_EVENT", "RESOURCE_CONTENTION_EVENT"];
const INFOS: [&str; 5] =
    ["CUSTOM_ANNOTATION", "CUSTOM_CONFIGURATION", "CUSTOM_DEPLOYMENT", "CUSTOM_INFO", "MARKED_FOR_TERMINATION"];
const CRITERIA: [&str; 6] = ["type", "entityId", "entityName", "entityName.equals", "entityName.startsWith", "tag"];

/// ASTROM; gone when dropped.
pub(crate) struct FakeAstrom {
    served: Served,
    state: Arc<Mutex<State>>,
}

/// One request that came, and the status that it got.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) line: String,
    pub(crate) body: Value,
    pub(crate) status: u16,
}

/// What is monitored.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entity {
    pub(crate) kind: &'static str,
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) tag: &'static str,
}

/// Status, headers, body.
type Answer = (u16, Vec<(&'static str, String)>, String);

#[derive(Default)]
struct State {
    entities: Vec<Entity>,
    may_read: bool,
    disabled: bool,
    /// Every event that is there, without those that a repetition only refreshed.
    events: Vec<Value>,
    requests: Vec<Seen>,
    faults: Vec<String>,
    /// What the next events are answered, and whether they are stored all the same.
    script: VecDeque<(Answer, bool)>,
}

impl FakeAstrom {
    pub(crate) fn start() -> FakeAstrom {
        let state = Arc::new(Mutex::new(State { may_read: true, ..State::default() }));
        let shared = Arc::clone(&state);
        let served = Served::by(|listener| serve(listener, shared));
        FakeAstrom { served, state }
    }

    /// As a Managed cluster has it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/e/{ENVIRONMENT}", self.served.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    pub(crate) fn add_entity(&self, entity: Entity) {
        self.state().entities.push(entity);
    }

    /// Takes the scope `events.read` from the token.
    pub(crate) fn forbid_reading(&self) {
        self.state().may_read = false;
    }

    /// The token is known no more.
    pub(crate) fn disable_token(&self, disabled: bool) {
        self.state().disabled = disabled;
    }

    /// The next event is answered like this, whether it is `stored` or not.
    pub(crate) fn script(&self, status: u16, headers: &[(&'static str, &str)], body: &str, stored: bool) {
        let headers = headers.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        self.state().script.push_back(((status, headers, body.to_owned()), stored));
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.state().events.clone()
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.state().requests.clone()
    }

    /// What came that a right client never sends; a test that provokes it takes it.
    pub(crate) fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut self.state().faults)
    }
}

impl Drop for FakeAstrom {
    fn drop(&mut self) {
        self.served.end();
        if !std::thread::panicking() {
            let state = self.state();
            assert!(state.faults.is_empty(), "ASTROM was sent what it never should be: {:#?}", state.faults);
            assert!(state.script.is_empty(), "scripted, and never met: {:?}", state.script);
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| respond(request, Arc::clone(&state)));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

async fn respond(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes());
    let line = format!("{} {}", head.method, head.uri);
    let (status, headers, text) = {
        let mut state = state.lock().expect("no panic");
        let answer = state.answer(&head.method, &head.uri, &head.headers, body.as_deref().ok());
        let body = body.ok().and_then(|body| serde_json::from_slice(&body).ok()).unwrap_or_default();
        state.requests.push(Seen { line, body, status: answer.0 });
        answer
    };
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    Ok(answer.body(Full::new(Bytes::from(text))).expect("a response"))
}

/// Status and text; `ours` is a fault that no right client makes.
struct No {
    status: u16,
    message: String,
    ours: bool,
}

fn bad(message: impl Into<String>) -> No {
    No { status: 400, message: message.into(), ours: true }
}

impl State {
    fn answer(&mut self, method: &Method, uri: &http::Uri, headers: &HeaderMap, body: Option<&[u8]>) -> Answer {
        let json =
            |body: &Value| (vec![("content-type", "application/json; charset=utf-8".to_owned())], body.to_string());
        let (status, body) = match self.admit(method, uri, headers, body) {
            Ok(Ok((status, body))) => (status, body),
            Ok(Err(scripted)) => return scripted,
            Err(no) => {
                if no.ours {
                    self.faults.push(format!("{method} {uri}: {}", no.message));
                }
                let violation = json!({"path": "?", "message": no.message, "parameterLocation": "PAYLOAD_BODY"});
                let error = json!({"code": no.status, "message": no.message, "constraintViolations": [violation]});
                (no.status, json!({"error": error}))
            }
        };
        let (headers, text) = json(&body);
        (status, headers, text)
    }

    fn admit(
        &mut self,
        method: &Method,
        uri: &http::Uri,
        headers: &HeaderMap,
        body: Option<&[u8]>,
    ) -> Result<Result<(u16, Value), Answer>, No> {
        let path = uri.path().strip_prefix(&format!("/e/{ENVIRONMENT}/api/v2"));
        let path = path.ok_or(No { status: 404, message: "HTTP 404 Not Found".to_owned(), ours: true })?;
        let given = headers.get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
        if !given.starts_with("Api-Token ") {
            return Err(No { status: 401, message: "Missing authorization parameter".to_owned(), ours: true });
        }
        if given != format!("Api-Token {TOKEN}") || self.disabled {
            // As tactless as a peer can be.
            let message = format!("Token Authentication failed: {given}");
            return Err(No { status: 401, message, ours: false });
        }
        match (method.as_str(), path) {
            ("GET", "/eventProperties") => {
                if !self.may_read {
                    let message = "Token is missing required scope. Use one of: events.read (Read events)".to_owned();
                    return Err(No { status: 403, message, ours: false });
                }
                let query = uri.query().unwrap_or_default();
                if !query.is_empty() && query.strip_prefix("pageSize=").is_none_or(|n| n.parse::<u16>().is_err()) {
                    return Err(bad(format!("unknown query {query}")));
                }
                let property =
                    |key: &str| json!({"key": key, "displayName": key, "description": key, "writable": true});
                let known = ["dt.event.description", "dt.event.allow_davis_merge", "dt.event.timeout"].map(property);
                Ok(Ok((200, json!({"totalCount": known.len(), "pageSize": 500, "eventProperties": known}))))
            }
            ("POST", "/events/ingest") => {
                let scripted = self.script.pop_front();
                if let Some((answer, false)) = scripted {
                    return Ok(Err(answer));
                }
                let body = body.ok_or_else(|| No { status: 413, message: "over 1 MB".to_owned(), ours: true })?;
                let results = self.ingest(headers, body)?;
                Ok(scripted.map_or(Ok((201, results)), |(answer, _)| Err(answer)))
            }
            _ => Err(No { status: 404, message: "no such call".to_owned(), ours: true }),
        }
    }

    fn ingest(&mut self, headers: &HeaderMap, body: &[u8]) -> Result<Value, No> {
        if headers.get("content-type").is_none_or(|v| v != "application/json; charset=utf-8") {
            return Err(No { status: 415, message: "no application/json; charset=utf-8".to_owned(), ours: true });
        }
        let event: Map<String, Value> = serde_json::from_slice(body).map_err(|e| bad(e.to_string()))?;
        check(&event)?;
        let selector = event.get("entitySelector").and_then(Value::as_str);
        let matched: Vec<String> = match selector {
            None => vec![format!("ENVIRONMENT-{ENVIRONMENT}")],
            Some(selector) => {
                let criteria = parsed(selector).map_err(|what| bad(format!("{selector}: {what}")))?;
                let all = self.entities.iter().filter(|entity| criteria.iter().all(|c| entity.meets(c)));
                all.map(|entity| entity.id.to_owned()).collect()
            }
        };
        let status = if in_time(&event) { "OK" } else { "INVALID_TIMESTAMPS" };
        let result = |id: &String| json!({"correlationId": correlation(&event, id), "status": status});
        let results: Vec<Value> = matched.iter().map(result).collect();
        if status == "OK" {
            for id in &matched {
                let is_open = PROBLEMS.contains(&event["eventType"].as_str().unwrap_or_default())
                    && self.events.iter().any(|e| e["correlationId"] == correlation(&event, id));
                let mut stored = event.clone();
                stored.insert("entity".to_owned(), json!(id));
                stored.insert("correlationId".to_owned(), json!(correlation(&event, id)));
                if is_open {
                    self.events.retain(|e| e["correlationId"] != stored["correlationId"]);
                }
                self.events.push(Value::Object(stored));
            }
        }
        Ok(json!({"reportCount": results.len(), "eventIngestResults": results}))
    }
}

/// The same event of the same entity is the same, and is refreshed.
fn correlation(event: &Map<String, Value>, entity: &str) -> String {
    format!("{}/{}/{entity}", event["eventType"], event["title"])
}

/// `EventIngest`, and the limits beside it.
fn check(event: &Map<String, Value>) -> Result<(), No> {
    for (key, value) in event {
        let holds = match key.as_str() {
            "eventType" => value.as_str().is_some_and(|t| PROBLEMS.contains(&t) || INFOS.contains(&t)),
            "title" => value.as_str().is_some_and(|title| !title.is_empty()),
            "startTime" | "endTime" => value.is_i64(),
            // More is capped in silence: nobody should ask for it.
            "timeout" => value.as_i64().is_some_and(|minutes| (1..=360).contains(&minutes)),
            "entitySelector" => value.as_str().is_some_and(|text| text.chars().count() <= 2000),
            "properties" => value.is_object(),
            _ => false,
        };
        if !holds {
            return Err(bad(format!("{key} cannot be {value}")));
        }
    }
    for key in ["eventType", "title"] {
        event.get(key).ok_or_else(|| bad(format!("{key} is missing")))?;
    }
    let properties = event.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
    if properties.len() > 100 {
        return Err(bad(format!("{} properties", properties.len())));
    }
    for (key, value) in &properties {
        let text = value.as_str().ok_or_else(|| bad(format!("{key} is no string: {value}")))?;
        let is_free = !key.starts_with("dt.");
        let writable = ["dt.event.", "dt.davis.", "dt.entity."].iter().any(|prefix| key.starts_with(prefix));
        if key.is_empty() || key.chars().count() > 100 || text.chars().count() > 4096 || !(is_free || writable) {
            return Err(bad(format!("the property {key} is refused")));
        }
    }
    Ok(())
}

fn in_time(event: &Map<String, Value>) -> bool {
    let now = clock::now().micros() / 1000;
    let time = |key: &str| event.get(key).and_then(Value::as_i64);
    let (past, future) = match event["eventType"].as_str() {
        Some(kind) if PROBLEMS.contains(&kind) => (6 * 60 * MINUTE_MS, 5 * MINUTE_MS),
        _ => (30 * DAY_MS, 7 * DAY_MS),
    };
    let start = time("startTime").unwrap_or(now);
    let is_near = |at: i64| (now - past..=now + future).contains(&at);
    is_near(start) && time("endTime").is_none_or(|end| is_near(end) && end > start)
}

/// `type("HOST"),entityName.equals("a, b")`: every text in quotes, none within.
fn parsed(selector: &str) -> Result<Vec<(String, String)>, &'static str> {
    let mut criteria = Vec::new();
    let mut rest = selector;
    loop {
        let (word, more) = rest.split_once("(\"").ok_or("a criterion needs a text in quotes")?;
        let (text, more) = more.split_once('"').ok_or("a text without an end")?;
        if !CRITERIA.contains(&word) || text.is_empty() {
            return Err("no such criterion");
        }
        criteria.push((word.to_owned(), text.to_owned()));
        rest = match more.strip_prefix(')').ok_or("a criterion without an end")? {
            "" => break,
            more => more.strip_prefix(',').ok_or("criteria have a comma between them")?,
        };
    }
    let count = |word: &str| criteria.iter().filter(|(w, _)| w == word).count();
    if count("type") > 1 || count("type") + count("entityId") == 0 {
        return Err("one type, or an id");
    }
    Ok(criteria)
}

impl Entity {
    fn meets(&self, (word, text): &(String, String)) -> bool {
        match word.as_str() {
            "type" => self.kind == text,
            "entityId" => self.id == text,
            "entityName" => self.name.contains(text),
            "entityName.equals" => self.name == text,
            "entityName.startsWith" => self.name.starts_with(text),
            _ => self.tag == text,
        }
    }
}
