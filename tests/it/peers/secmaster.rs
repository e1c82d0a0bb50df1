//! A fake Huawei Cloud: SecMaster behind its gateway, and IAM, as strict as "SecMaster API Reference", "API Request
//! Signing Guide" and "Identity and Access Management API Reference" say that the real ones are. Signatures are
//! verified by code of its own. It runs on a thread of its own, so tests with and without a runtime can use it.
//! Dropped, it fails the test if anything came that a right client never sends, or if an access key was locked.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use callbackd::clock;
use callbackd::model::Time;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tokio::net::TcpListener;

use super::served::Served;

pub(crate) const ACCESS_KEY: &str = "hunter2ACCESSKEY0000";
pub(crate) const SECRET_KEY: &str = "hunter2-secret-key-00000000000000000000";
pub(crate) const SECURITY_TOKEN: &str = "hunter2-security-token";
pub(crate) const PASSWORD: &str = "hunter2-password";
pub(crate) const PROJECT: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const WORKSPACE: &str = "11111111-2222-3333-4444-555555555555";
pub(crate) const WORKFLOW: &str = "66666666-7777-8888-9999-aaaaaaaaaaaa";
pub(crate) const REGION: &str = "cn-north-4";

const BODY_BYTES_MAX: usize = 12 << 20;
const DATE_WINDOW_S: i64 = 15 * 60;
/// So many refused signatures in a row lock a key.
const REFUSALS_MAX: u32 = 5;

/// Huawei Cloud; gone when dropped.
pub(crate) struct FakeSecmaster {
    served: Served,
    state: Arc<Mutex<State>>,
}

/// One request that came, and the status that it got; 0 when it got none.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `POST …/instances`: below the workspace.
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    pub(crate) status: u16,
}

/// What the next request meets whose method and path contain a text.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// This answer.
    Answer(u16, String),
    /// The connection breaks, after the request was done, or instead of it.
    Broken { done: bool },
}

#[derive(Default)]
struct State {
    requests: Vec<Seen>,
    faults: Vec<String>,
    script: VecDeque<(String, How)>,
    /// What each instance shows, request after request; the last word stays.
    instances: BTreeMap<String, VecDeque<String>>,
    /// The words of instances to come.
    course: Vec<String>,
    /// Every start, by the id that it asked for.
    starts: Vec<String>,
    /// Gives every instance an id of its own, whatever was asked for.
    own_ids: bool,
    /// The clock stands still at this time.
    clock: Option<Time>,
    access_key: String,
    wants_security_token: bool,
    refused_in_a_row: u32,
    most_in_flight: usize,
    in_flight: usize,
    token: Option<String>,
    tokens_issued: u32,
    token_ends: Option<Time>,
    workflows: Vec<Value>,
}

impl FakeSecmaster {
    pub(crate) fn start() -> FakeSecmaster {
        let state = State {
            access_key: ACCESS_KEY.to_owned(),
            course: vec!["RUNNING".to_owned()],
            workflows: vec![json!({"id": WORKFLOW, "name": "Block", "enabled": true})],
            ..State::default()
        };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        let served = Served::by(|listener| serve(listener, shared));
        FakeSecmaster { served, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.served.address)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Its clock stands still.
    pub(crate) fn set_clock(&self, clock: Time) {
        self.state().clock = Some(clock);
    }

    /// What instances that are started from now on show, request after request.
    pub(crate) fn set_course(&self, words: &[&str]) {
        self.state().course = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// What this instance shows from now on.
    pub(crate) fn set_instance(&self, id: &str, words: &[&str]) {
        self.state().instances.insert(id.to_owned(), words.iter().map(|word| (*word).to_owned()).collect());
    }

    pub(crate) fn forget_instances(&self) {
        self.state().instances.clear();
    }

    pub(crate) fn give_own_ids(&self) {
        self.state().own_ids = true;
    }

    /// Another key is the right one from now on.
    pub(crate) fn set_access_key(&self, key: &str) {
        key.clone_into(&mut self.state().access_key);
    }

    pub(crate) fn want_security_token(&self) {
        self.state().wants_security_token = true;
    }

    /// Every token so far has ended.
    pub(crate) fn end_tokens(&self) {
        self.state().token = None;
    }

    pub(crate) fn set_token_ends(&self, at: Time) {
        self.state().token_ends = Some(at);
    }

    pub(crate) fn tokens_issued(&self) -> u32 {
        self.state().tokens_issued
    }

    pub(crate) fn set_workflows(&self, workflows: Vec<Value>) {
        self.state().workflows = workflows;
    }

    /// The next request whose method and path contain `part` meets this.
    pub(crate) fn script(&self, part: &str, how: How) {
        self.state().script.push_back((part.to_owned(), how));
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.state().requests.clone()
    }

    /// Method and path of what came, and what it got.
    pub(crate) fn lines(&self) -> Vec<(String, u16)> {
        self.requests().into_iter().map(|seen| (seen.line, seen.status)).collect()
    }

    /// The ids that starts asked for.
    pub(crate) fn starts(&self) -> Vec<String> {
        self.state().starts.clone()
    }

    /// Requests under way at one time, at the most so far.
    pub(crate) fn most_in_flight(&self) -> usize {
        self.state().most_in_flight
    }

    /// What came that a right client never sends; a test that provokes it takes it.
    pub(crate) fn take_faults(&self) -> Vec<String> {
        std::mem::take(&mut self.state().faults)
    }
}

impl Drop for FakeSecmaster {
    fn drop(&mut self) {
        self.served.end();
        if !std::thread::panicking() {
            let state = self.state();
            assert!(state.faults.is_empty(), "SecMaster was sent what it never should be: {:#?}", state.faults);
            assert!(state.script.is_empty(), "scripted, and never met: {:?}", state.script);
        }
    }
}

async fn serve(listener: TcpListener, state: Arc<Mutex<State>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        let service = service_fn(move |request| respond(request, Arc::clone(&state)));
        let mut server = hyper::server::conn::http1::Builder::new();
        tokio::spawn(server.auto_date_header(false).serve_connection(TokioIo::new(stream), service));
    }
}

async fn respond(request: Request<Incoming>, state: Arc<Mutex<State>>) -> Result<Response<Full<Bytes>>, io::Error> {
    let (head, body) = request.into_parts();
    {
        let mut state = state.lock().expect("no panic");
        state.in_flight += 1;
        state.most_in_flight = state.most_in_flight.max(state.in_flight);
    }
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    // Whoever else wants to come at the same time comes now.
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    let mut state = state.lock().expect("no panic");
    state.in_flight -= 1;
    let line = format!("{} {}", head.method, below_the_workspace(&head.uri));
    let met = state.script.iter().position(|(part, _)| line.contains(part.as_str()));
    let how = met.and_then(|at| state.script.remove(at)).map(|(_, how)| how);
    let answered = match &how {
        Some(How::Answer(status, body)) => Some((*status, Vec::new(), body.clone())),
        Some(How::Broken { done: false }) => None,
        Some(How::Broken { done: true }) => {
            let _ = state.answer(&head.method, &head.uri, &head.headers, &body);
            None
        }
        None => Some(state.answer(&head.method, &head.uri, &head.headers, &body)),
    };
    let status = answered.as_ref().map_or(0, |(status, ..)| *status);
    let body = serde_json::from_slice(&body).unwrap_or_default();
    state.requests.push(Seen { line, headers: head.headers, body, status });
    let (status, headers, text) = answered.ok_or_else(|| io::Error::other("broken on purpose"))?;
    let mut answer = Response::builder().status(status).header("content-type", "application/json");
    answer = answer.header("x-request-id", REQUEST_ID).header("date", imf_date(state.now()));
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    Ok(answer.body(Full::new(Bytes::from(text))).expect("a response"))
}

pub(crate) const REQUEST_ID: &str = "8080d377bffeb6d519b0567c09cebe6b";

fn below_the_workspace(uri: &Uri) -> String {
    let path = uri.path_and_query().map_or("", |path| path.as_str());
    path.strip_prefix(&format!("/v1/{PROJECT}/workspaces/{WORKSPACE}/soc")).unwrap_or(path).to_owned()
}

fn imf_date(at: Time) -> String {
    let at = jiff::Timestamp::from_second(at.seconds()).expect("a time");
    jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at).expect("a date")
}

/// Status, code, and a text for a person, in the shape of who says so.
enum No {
    Gateway(u16, &'static str, String),
    Secmaster(u16, &'static str, String),
    Iam(u16, String),
}

type Yes = (u16, Vec<(&'static str, String)>, Value);

impl State {
    fn now(&self) -> Time {
        self.clock.unwrap_or_else(clock::now)
    }

    fn answer(
        &mut self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        body: &[u8],
    ) -> (u16, Vec<(&'static str, String)>, String) {
        let no = match self.admit(method, uri, headers, body) {
            Ok((status, headers, body)) => return (status, headers, body.to_string()),
            Err(no) => no,
        };
        let (status, body) = match no {
            No::Gateway(status, code, text) => {
                (status, json!({"error_msg": text, "error_code": code, "request_id": REQUEST_ID}))
            }
            No::Secmaster(status, code, text) => (status, json!({"code": code, "message": text})),
            No::Iam(status, text) => {
                (status, json!({"error": {"code": status, "message": text, "title": "Unauthorized"}}))
            }
        };
        (status, Vec::new(), body.to_string())
    }

    /// What a right client never sends.
    fn fault(&mut self, no: No) -> No {
        let (No::Gateway(_, _, text) | No::Secmaster(_, _, text) | No::Iam(_, text)) = &no;
        self.faults.push(text.clone());
        no
    }

    fn admit(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Yes, No> {
        if uri.path() == "/v3/auth/tokens" {
            return self.issue(method, uri, headers, body);
        }
        let path: Vec<_> = uri.path().split('/').skip(1).collect();
        let ["v1", project, "workspaces", workspace, "soc", "workflows", rest @ ..] = &path[..] else {
            return Err(self.fault(No::Gateway(404, "APIGW.0101", format!("no such API: {method} {uri}"))));
        };
        self.authenticate(method, uri, headers, body)?;
        if headers.get("x-project-id").is_none_or(|id| id != *project) {
            let text = "X-Project-Id is not the path's project".to_owned();
            return Err(self.fault(No::Gateway(400, "APIGW.0201", text)));
        }
        if *project != PROJECT || *workspace != WORKSPACE {
            return Err(No::Secmaster(403, "SecMaster.20010001", "workspace does not exist".to_owned()));
        }
        match (method.as_str(), rest) {
            ("POST", [workflow, "instances"]) => self.start_instance(workflow, headers, body),
            ("GET", ["instances", id]) if body.is_empty() => self.show(id),
            ("GET", []) if body.is_empty() => self.list(uri),
            _ => Err(self.fault(No::Gateway(404, "APIGW.0101", format!("no such API: {method} {uri}")))),
        }
    }

    fn authenticate(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<(), No> {
        if let Some(token) = headers.get("x-auth-token") {
            if headers.contains_key("authorization") {
                return Err(self.fault(No::Gateway(401, "APIGW.0301", "a token and a signature".to_owned())));
            }
            return match self.token.as_deref() == token.to_str().ok() {
                true => Ok(()),
                false => Err(No::Gateway(401, "APIGW.0307", "The token must be updated.".to_owned())),
            };
        }
        let refused = self.verify(method, uri, headers, body);
        self.refused_in_a_row = if refused.is_ok() { 0 } else { self.refused_in_a_row + 1 };
        if self.refused_in_a_row >= REFUSALS_MAX {
            self.faults.push("five refusals in a row lock the access key".to_owned());
        }
        refused
            .map_err(|text| No::Gateway(401, "APIGW.0301", format!("Incorrect IAM authentication information: {text}")))
    }

    /// SDK-HMAC-SHA256, from the signing guide's text.
    fn verify(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<(), String> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
        let authorization = text("authorization");
        let parts: Option<Vec<_>> =
            authorization.strip_prefix("SDK-HMAC-SHA256 ").map(|rest| rest.split(", ").collect());
        let Some([access, names, signature]) = parts.as_deref() else {
            return Err(format!("no such Authorization: {authorization}"));
        };
        let value = |part: &str, name: &str| part.strip_prefix(name).map(str::to_owned);
        let (Some(access), Some(names), Some(signature)) =
            (value(access, "Access="), value(names, "SignedHeaders="), value(signature, "Signature="))
        else {
            return Err(format!("no such Authorization: {authorization}"));
        };
        let names: Vec<_> = names.split(';').collect();
        let mut wanted = vec!["host", "x-project-id", "x-sdk-date"];
        wanted.extend((!body.is_empty()).then_some("content-type"));
        wanted.extend(self.wants_security_token.then_some("x-security-token"));
        wanted.sort_unstable();
        if names != wanted {
            self.faults.push(format!("signed are {names:?}, not {wanted:?}"));
        }
        if access != self.access_key {
            return Err(format!("ak {access} not exist"));
        }
        if self.wants_security_token && text("x-security-token") != SECURITY_TOKEN {
            return Err("the security token is wrong".to_owned());
        }
        let date = text("x-sdk-date");
        let at = jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", &date).map_err(|e| format!("{date}: {e}"))?;
        let at = at.to_zoned(jiff::tz::TimeZone::UTC).expect("in range").timestamp().as_second();
        let server = self.now().seconds();
        if (server - at).abs() > DATE_WINDOW_S {
            let server = jiff::Timestamp::from_second(server).expect("a time").strftime("%Y%m%dT%H%M%SZ");
            let times = format!("signature time:{date},server time:{server}");
            return Err(format!("calc aksk signature fail:signature expired, {times}"));
        }
        let mut query: Vec<_> = uri.query().unwrap_or_default().split('&').collect();
        query.sort_unstable();
        let path = uri.path();
        if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.~".contains(&b)) || path.ends_with('/') {
            self.faults.push(format!("the path needs no encoding and ends in no slash: {path}"));
        }
        let mut canonical = format!("{method}\n{path}/\n{}\n", query.join("&"));
        for name in &names {
            canonical += &format!("{name}:{}\n", text(name).trim());
        }
        canonical += &format!("\n{}\n{}", names.join(";"), hex(&Sha256::digest(body)));
        let to_sign = format!("SDK-HMAC-SHA256\n{date}\n{}", hex(&Sha256::digest(&canonical)));
        if hex(&hmac(SECRET_KEY.as_bytes(), to_sign.as_bytes())) != signature {
            let echo = canonical.replace('\n', "|");
            return Err(format!("verify aksk signature fail, canonicalRequest:{echo}"));
        }
        Ok(())
    }

    fn start_instance(&mut self, workflow: &str, headers: &HeaderMap, body: &[u8]) -> Result<Yes, No> {
        let asked = match started(headers, body) {
            Ok(asked) => asked,
            Err(text) => return Err(self.fault(No::Secmaster(400, "SecMaster.20030001", text))),
        };
        if workflow != WORKFLOW {
            return Err(No::Secmaster(400, "SecMaster.20030005", "workflow not found".to_owned()));
        }
        let mut answer = asked.clone();
        let id = asked["action_instance_id"].as_str().expect("checked").to_owned();
        self.starts.push(id.clone());
        let id = if self.own_ids { format!("own-{}", self.starts.len()) } else { id };
        answer["action_instance_id"] = json!(id);
        self.instances.insert(id, self.course.clone().into());
        Ok((200, Vec::new(), answer))
    }

    fn show(&mut self, id: &str) -> Result<Yes, No> {
        let Some(words) = self.instances.get_mut(id) else {
            return Err(No::Secmaster(400, "SecMaster.20030005", format!("instance {id} not found")));
        };
        let word = if words.len() > 1 { words.pop_front() } else { words.front().cloned() };
        let ends = matches!(word.as_deref(), Some("FINISHED" | "FAILED" | "TERMINATED"));
        let body = json!({
            "id": id, "name": "Block", "workflow": {"id": WORKFLOW, "name": "Block", "version": "v1"},
            "trigger_type": "EVENT", "status": word, "start_time": "2023-11-15T06:13:20Z+0800",
            "end_time": ends.then_some("2023-11-15T06:14:00Z+0800"), "retry_count": 0,
        });
        Ok((200, Vec::new(), body))
    }

    fn list(&mut self, uri: &Uri) -> Result<Yes, No> {
        let query: BTreeMap<_, _> =
            uri.query().unwrap_or_default().split('&').filter_map(|p| p.split_once('=')).collect();
        let number = |key: &str| query.get(key).and_then(|text| text.parse::<usize>().ok());
        let (Some(limit @ 1..=100), Some(offset @ 0..=10_000), 2) = (number("limit"), number("offset"), query.len())
        else {
            return Err(self.fault(No::Secmaster(400, "SecMaster.20030001", format!("no such page: {uri}"))));
        };
        let page: Vec<_> = self.workflows.iter().skip(offset).take(limit).cloned().collect();
        let body = json!({
            "code": "00000000", "message": "", "success": true, "request_id": REQUEST_ID,
            "total": self.workflows.len(), "offset": offset, "limit": limit, "data": page,
        });
        Ok((200, Vec::new(), body))
    }

    fn issue(&mut self, method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Result<Yes, No> {
        let asked: Value = serde_json::from_slice(body).unwrap_or_default();
        let json = "application/json;charset=utf8";
        let is_right_call = method == Method::POST
            && uri.query() == Some("nocatalog=true")
            && headers.get("content-type").is_some_and(|value| value == json);
        let user = |password: &Value| json!({"domain": {"name": "acme"}, "name": "callbackd", "password": password});
        let whole = |password: &Value| {
            json!({"auth": {
                "identity": {"methods": ["password"], "password": {"user": user(password)}},
                "scope": {"project": {"name": REGION}},
            }})
        };
        let password = &asked["auth"]["identity"]["password"]["user"]["password"];
        if !is_right_call || asked != whole(password) {
            return Err(self.fault(No::Iam(400, format!("no such request for a token: {method} {uri} {asked}"))));
        }
        if password != PASSWORD {
            // As tactless as a peer can be.
            return Err(No::Iam(401, format!("The username or password is wrong: {asked}")));
        }
        self.tokens_issued += 1;
        // Several kilobytes long, as the real ones are.
        let token = format!("hunter2-token-{}-{}", self.tokens_issued, "x".repeat(6_000));
        self.token = Some(token.clone());
        let ends = self.token_ends.unwrap_or_else(|| self.now().plus_ms(86_400_000));
        let body = json!({"token": {"expires_at": ends, "methods": ["password"], "issued_at": self.now()}});
        Ok((201, vec![("x-subject-token", token)], body))
    }
}

/// The body of CreateWorkflowInstance, if it is one: required keys are there, others are not.
fn started(headers: &HeaderMap, body: &[u8]) -> Result<Value, String> {
    if headers.get("content-type").is_none_or(|v| !v.as_bytes().starts_with(b"application/json")) {
        return Err("no content-type: application/json".to_owned());
    }
    let body: Map<String, Value> = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    let only =
        |object: &Map<String, Value>, known: &[&str]| match object.keys().find(|key| !known.contains(&key.as_str())) {
            Some(key) => Err(format!("{key} is not known")),
            None => Ok(()),
        };
    only(&body, &["command_type", "action_type", "action_id", "action_instance_id", "playbook_context"])?;
    let object = |value: &Value, name: &str| value.as_object().cloned().ok_or_else(|| format!("{name} is no object"));
    let context = object(&body["playbook_context"], "playbook_context")?;
    only(&context, &["data_object"])?;
    let data_object = object(&context["data_object"], "data_object")?;
    only(&data_object, &["content", "dataclass"])?;
    object(&data_object["content"], "content")?;
    if let Some(dataclass) = data_object.get("dataclass") {
        only(&object(dataclass, "dataclass")?, &["id", "name"])?;
    }
    let is = |key: &str, value: &str| body.get(key).is_some_and(|v| v == value);
    if !is("command_type", "ActionInstanceRunCommand") || !is("action_type", "workflow") {
        return Err("only ActionInstanceRunCommand of a workflow".to_owned());
    }
    for key in ["action_id", "action_instance_id"] {
        if !body.get(key).is_some_and(Value::is_string) {
            return Err(format!("{key} is no text"));
        }
    }
    Ok(Value::Object(body))
}

/// HMAC-SHA256 (RFC 2104), by hand.
fn hmac(key: &[u8], text: &[u8]) -> Vec<u8> {
    let mut block = [0_u8; 64];
    match key.len() {
        0..=64 => block[..key.len()].copy_from_slice(key),
        _ => block[..32].copy_from_slice(&Sha256::digest(key)),
    }
    let inner = Sha256::digest([&block.map(|b| b ^ 0x36), text].concat());
    Sha256::digest([&block.map(|b| b ^ 0x5c)[..], &inner].concat()).to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
