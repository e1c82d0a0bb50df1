//! A fake Zabbix, as strict as the version that it says it is: where credentials belong, what a request may hold, what a
//! method is called, and what the trapper counts. (Zabbix documentation, "API" and "Sender protocol"; Zabbix 6.0.14 as
//! it answered.) It runs on a thread of its own. What it knows beside the methods of this table, a test adds:
//! [`FakeZabbix::method`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) mod objects;
mod trapper;

use super::served::Served;
pub(crate) use trapper::Pushed;

/// Everything that is a secret begins like this, or is this.
pub(crate) const TOKEN: &str = "hunter2aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
pub(crate) const USER: &str = "Admin";
pub(crate) const PASSWORD: &str = "hunter2-zabbix \"quoted\"";
const BODY_BYTES_MAX: usize = 1 << 20;
const LOGINS_MAX: u32 = 5;
const NO_AUTH: [&str; 3] = ["apiinfo.version", "user.login", "user.checkAuthentication"];

/// A method's answer, or code, message and `data` of the error.
pub(crate) type Answered = Result<Value, No>;

/// Zabbix's no.
#[derive(Clone, Debug)]
pub(crate) struct No {
    pub(crate) code: i64,
    pub(crate) data: String,
}

pub(crate) fn no(code: i64, data: impl Into<String>) -> No {
    No { code, data: data.into() }
}

/// `Invalid parameter "/1": unexpected parameter "x".`
pub(crate) fn unexpected(at: &str, name: &str) -> No {
    no(-32602, format!("Invalid parameter \"{at}\": unexpected parameter \"{name}\"."))
}

/// Refuses what is not among these.
pub(crate) fn only(at: &str, params: &Value, names: &[&str]) -> Result<(), No> {
    let params =
        params.as_object().ok_or_else(|| no(-32602, format!("Invalid parameter \"{at}\": an array is expected.")))?;
    match params.keys().find(|name| !names.contains(&name.as_str())) {
        Some(name) => Err(unexpected(at, name)),
        None => Ok(()),
    }
}

type Act = dyn Fn(&mut State, &Value) -> Answered + Send + Sync;

/// Zabbix; gone when dropped.
pub(crate) struct FakeZabbix {
    api: Served,
    trapper: Served,
    state: Arc<Mutex<State>>,
}

/// One request that came.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) params: Value,
    /// Where credentials were: `body`, `header`, `both` or nothing.
    pub(crate) auth: &'static str,
    /// The code of the error, or 0.
    pub(crate) code: i64,
}

/// How Zabbix, or what stands before it, misbehaves, once.
#[derive(Clone, Debug)]
pub(crate) enum How {
    /// An HTTP answer of something else.
    Http(u16, &'static str, String),
    /// An error of its own.
    No(No),
}

/// An item that takes values.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    pub(crate) id: u32,
    pub(crate) host: String,
    pub(crate) key: String,
    /// 2 is a trapper item.
    pub(crate) kind: u8,
    /// 4 is text.
    pub(crate) value_type: u8,
    pub(crate) is_enabled: bool,
    /// Whether the server has read its configuration since the item was made.
    pub(crate) is_synced: bool,
}

/// What Zabbix knows.
pub(crate) struct State {
    pub(crate) version: String,
    pub(crate) items: Vec<Item>,
    /// What was kept, in order.
    pub(crate) pushed: Vec<Pushed>,
    methods: BTreeMap<&'static str, Arc<Act>>,
    requests: Vec<Seen>,
    twists: VecDeque<(&'static str, How)>,
    trapper_twists: VecDeque<Vec<u8>>,
    sessions: BTreeSet<String>,
    sessions_opened: u32,
    logins_failed: u32,
    is_token_expired: bool,
    is_token_known: bool,
}

impl State {
    /// As numbers.
    pub(crate) fn is_from(&self, major: u32, minor: u32) -> bool {
        let mut parts = self.version.split(['.', 'r', 'a', 'b']).map(|part| part.parse::<u32>().unwrap_or(0));
        (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= (major, minor)
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.len()
    }
}

impl FakeZabbix {
    /// One of that version, which knows the host `callbackd` with its item.
    pub(crate) fn start(version: &str) -> FakeZabbix {
        let item = Item {
            id: 10_600,
            host: "callbackd".to_owned(),
            key: "callbackd.execution".to_owned(),
            kind: 2,
            value_type: 4,
            is_enabled: true,
            is_synced: true,
        };
        let state = State {
            version: version.to_owned(),
            items: vec![item],
            pushed: Vec::new(),
            methods: METHODS.iter().map(|&(name, act)| (name, Arc::new(act) as Arc<Act>)).collect(),
            requests: Vec::new(),
            twists: VecDeque::new(),
            trapper_twists: VecDeque::new(),
            sessions: BTreeSet::new(),
            sessions_opened: 0,
            logins_failed: 0,
            is_token_expired: false,
            is_token_known: true,
        };
        let state = Arc::new(Mutex::new(state));
        let (asked, told) = (Arc::clone(&state), Arc::clone(&state));
        let api = Served::by(|listener| serve(listener, asked));
        let trapper = Served::by(|listener| trapper::serve(listener, told));
        FakeZabbix { api, trapper, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/zabbix/api_jsonrpc.php", self.api.address)
    }

    /// Where it listens for values.
    pub(crate) fn trapper(&self) -> SocketAddr {
        self.trapper.address
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// Adds a method, or replaces one.
    pub(crate) fn method(
        &self,
        name: &'static str,
        act: impl Fn(&mut State, &Value) -> Answered + Send + Sync + 'static,
    ) {
        self.state().methods.insert(name, Arc::new(act));
    }

    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.state().requests.clone()
    }

    /// Method and place of the credentials of everything that came.
    pub(crate) fn calls(&self) -> Vec<(String, &'static str)> {
        self.requests().into_iter().map(|seen| (seen.method, seen.auth)).collect()
    }

    pub(crate) fn pushed(&self) -> Vec<Pushed> {
        self.state().pushed.clone()
    }

    /// The next call of that method meets this.
    pub(crate) fn script(&self, method: &'static str, how: How) {
        self.state().twists.push_back((method, how));
    }

    /// The next connection to the trapper is answered with these bytes, and closed.
    pub(crate) fn script_trapper(&self, answer: &[u8]) {
        self.state().trapper_twists.push_back(answer.to_vec());
    }

    /// Every session ends.
    pub(crate) fn end_sessions(&self) {
        self.state().sessions.clear();
    }

    pub(crate) fn expire_token(&self) {
        self.state().is_token_expired = true;
    }

    pub(crate) fn disable_token(&self) {
        self.state().is_token_known = false;
    }

    pub(crate) fn change_item(&self, change: impl FnOnce(&mut Item)) {
        change(&mut self.state().items[0]);
    }
}

impl Drop for FakeZabbix {
    fn drop(&mut self) {
        self.api.end();
        self.trapper.end();
        if !std::thread::panicking() {
            let state = self.state();
            assert!(state.twists.is_empty(), "scripted, and never met: {:?}", state.twists);
            assert!(state.trapper_twists.is_empty(), "scripted, and never met: {:?}", state.trapper_twists);
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

async fn respond(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
) -> Result<Response<Full<Bytes>>, std::convert::Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, BODY_BYTES_MAX).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, kind, text) = if head.uri.path() == "/zabbix/api_jsonrpc.php" {
        state.lock().expect("no panic").answer(&head.method, &head.headers, &body)
    } else {
        (404, "text/html", "<html>404 Not Found</html>".to_owned())
    };
    let answer = Response::builder().status(status).header("content-type", kind);
    Ok(answer.body(Full::new(Bytes::from(text))).expect("a response"))
}

impl State {
    fn answer(&mut self, method: &Method, headers: &HeaderMap, body: &[u8]) -> (u16, &'static str, String) {
        let kind = headers.get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default();
        let kinds = ["application/json-rpc", "application/json", "application/jsonrequest"];
        if method == Method::POST && !kinds.contains(&kind) {
            return (412, "text/html", String::new());
        }
        let json = |body: Value| (200, "application/json", body.to_string());
        let Ok(request) = serde_json::from_slice::<Value>(if method == Method::POST { body } else { b"" }) else {
            let said = no(-32700, "Invalid JSON. An error occurred on the server while parsing the JSON text.");
            return json(refusal(&said, &Value::Null));
        };
        let id = request.get("id").cloned();
        let name = request.get("method").and_then(Value::as_str).unwrap_or_default().to_owned();
        let twist = self.twists.iter().position(|(method, _)| *method == name).and_then(|at| self.twists.remove(at));
        let bearer = headers.get("authorization").and_then(|v| v.to_str().ok());
        let answered = match twist {
            Some((_, How::Http(status, kind, text))) => {
                self.see(&request, bearer, status.into());
                return (status, kind, text);
            }
            Some((_, How::No(no))) => Err(no),
            None => self.call(&request, bearer),
        };
        self.see(&request, bearer, answered.as_ref().err().map_or(0, |no| no.code));
        match (id, answered) {
            // Nobody wants to know.
            (None, _) => (200, "application/json", String::new()),
            (Some(id), Ok(result)) => json(json!({"jsonrpc": "2.0", "result": result, "id": id})),
            (Some(id), Err(no)) => json(refusal(&no, &id)),
        }
    }

    fn see(&mut self, request: &Value, bearer: Option<&str>, code: i64) {
        let auth = match (request.get("auth").is_some(), bearer.is_some()) {
            (true, true) => "both",
            (true, false) => "body",
            (false, true) => "header",
            (false, false) => "",
        };
        let method = request["method"].as_str().unwrap_or_default().to_owned();
        self.requests.push(Seen { method, params: request["params"].clone(), auth, code });
    }

    fn call(&mut self, request: &Value, bearer: Option<&str>) -> Answered {
        let invalid = |what: &str| no(-32600, format!("Invalid parameter \"/\": {what}."));
        let members: &[&str] = if self.is_from(7, 2) {
            &["jsonrpc", "method", "params", "id"]
        } else {
            &["jsonrpc", "method", "params", "id", "auth"]
        };
        let request = request.as_object().ok_or_else(|| invalid("an array is expected"))?;
        if let Some(name) = request.keys().find(|name| !members.contains(&name.as_str())) {
            return Err(invalid(&format!("unexpected parameter \"{name}\"")));
        }
        if request.get("jsonrpc") != Some(&json!("2.0")) {
            return Err(no(-32600, "Invalid parameter \"/jsonrpc\": value must be \"2.0\"."));
        }
        let Some(params) = request.get("params").filter(|params| params.is_object() || params.is_array()) else {
            return Err(invalid("the parameter \"params\" is missing"));
        };
        let name = request
            .get("method")
            .and_then(Value::as_str)
            .ok_or_else(|| invalid("the parameter \"method\" is missing"))?;
        let is_push = name == "history.push" && !self.is_from(7, 0);
        let Some(act) = self.methods.get(name).filter(|_| !is_push).cloned() else {
            let (api, _) = name.split_once('.').unwrap_or((name, ""));
            let knows = |known: &&str| known.split_once('.').is_some_and(|(known, _)| known == api);
            return Err(match self.methods.keys().find(|known| knows(known)) {
                Some(_) => no(-32601, format!("Incorrect method \"{name}\".")),
                None => no(-32601, format!("Incorrect API \"{api}\".")),
            });
        };
        let in_body = request.get("auth").filter(|auth| !auth.is_null()).map(|auth| auth.as_str().unwrap_or_default());
        if NO_AUTH.contains(&name) {
            if in_body.is_some() {
                let text = format!("The \"{name}\" method must be called without the \"auth\" parameter.");
                return Err(no(-32602, text));
            }
            if self.is_from(6, 4) && bearer.is_some() {
                let text = format!("The \"{name}\" method must be called without authorization header.");
                return Err(no(-32602, text));
            }
        } else {
            let in_header = bearer.and_then(|header| header.strip_prefix("Bearer "));
            self.admit(if self.is_from(6, 4) { in_header.or(in_body) } else { in_body })?;
        }
        act(self, params)
    }

    fn admit(&self, credential: Option<&str>) -> Result<(), No> {
        let refused = || no(-32602, if self.is_from(5, 4) { "Not authorized." } else { "Not authorised." });
        let credential = credential.ok_or_else(refused)?;
        // The two are told apart by their length.
        if credential.len() != 64 {
            let ended = || no(-32602, "Session terminated, re-login, please.");
            return self.sessions.contains(credential).then_some(()).ok_or_else(ended);
        }
        if credential != TOKEN || !self.is_from(5, 4) || !self.is_token_known {
            return Err(refused());
        }
        if self.is_token_expired { Err(no(-32500, "API token expired.")) } else { Ok(()) }
    }
}

fn refusal(no: &No, id: &Value) -> Value {
    let message = match no.code {
        -32700 => "Parse error",
        -32600 => "Invalid request.",
        -32601 => "Method not found.",
        -32602 => "Invalid params.",
        _ => "Application error.",
    };
    json!({"jsonrpc": "2.0", "error": {"code": no.code, "message": message, "data": no.data}, "id": id})
}

type Known = fn(&mut State, &Value) -> Answered;

/// The methods that every test has.
const METHODS: &[(&str, Known)] = &[
    ("apiinfo.version", |state, _| Ok(json!(state.version))),
    ("user.login", login),
    ("user.logout", |state, params| {
        if *params != json!([]) {
            return Err(no(-32602, "Invalid parameter \"/\": an empty array is expected."));
        }
        state.sessions.pop_last();
        Ok(json!(true))
    }),
    ("host.get", |state, params| {
        only("/", params, &["output", "filter"])?;
        let hosts: BTreeSet<_> = state.items.iter().map(|item| item.host.clone()).collect();
        let wanted = |host: &String| params["filter"]["host"].as_array().is_none_or(|all| all.contains(&json!(host)));
        Ok(hosts
            .into_iter()
            .filter(wanted)
            .map(|host| json!({"hostid": "10500", "host": host, "status": "0"}))
            .collect())
    }),
    ("item.get", |state, params| {
        only("/", params, &["output", "host", "filter"])?;
        let wanted = |item: &&Item| {
            params.get("host").is_none_or(|host| *host == item.host)
                && params["filter"].get("key_").is_none_or(|key| *key == item.key)
        };
        let show = |item: &Item| {
            json!({
                "itemid": item.id.to_string(), "type": item.kind.to_string(),
                "value_type": item.value_type.to_string(), "status": if item.is_enabled { "0" } else { "1" },
            })
        };
        Ok(state.items.iter().filter(wanted).map(show).collect())
    }),
    ("history.push", |state, params| {
        let list = params.as_array().cloned().unwrap_or_else(|| vec![params.clone()]);
        let answers: Result<Vec<Value>, No> =
            list.iter().enumerate().map(|(at, value)| state.push_one(&format!("/{}", at + 1), value)).collect();
        Ok(json!({"response": "success", "data": answers?}))
    }),
];

fn login(state: &mut State, params: &Value) -> Answered {
    let names: &[&str] = match () {
        () if state.is_from(6, 4) => &["username", "password", "userData"],
        () if state.is_from(5, 4) => &["username", "user", "password", "userData"],
        () => &["user", "password", "userData"],
    };
    only("/", params, names)?;
    if params.get("user").is_some() && params.get("username").is_some() {
        return Err(unexpected("/", "user"));
    }
    let name = params.get("username").or_else(|| params.get("user"));
    let is_right = name == Some(&json!(USER)) && params.get("password") == Some(&json!(PASSWORD));
    if !is_right || state.logins_failed >= LOGINS_MAX {
        state.logins_failed += 1;
        return Err(no(-32500, "Incorrect user name or password or account is temporarily blocked."));
    }
    state.sessions_opened += 1;
    let session = format!("hunter2{:025x}", state.sessions_opened);
    state.sessions.insert(session.clone());
    Ok(json!(session))
}

impl State {
    fn push_one(&mut self, at: &str, value: &Value) -> Answered {
        only(at, value, &["itemid", "host", "key", "value", "clock", "ns"])?;
        let missing =
            |name: &str| no(-32602, format!("Invalid parameter \"{at}\": the parameter \"{name}\" is missing."));
        let text = |name: &str| value.get(name).and_then(Value::as_str).ok_or_else(|| missing(name));
        let (host, key) = (text("host")?, text("key")?);
        text("value")?;
        let Some(item) = self.items.iter().find(|item| item.host == host && item.key == key && item.is_synced) else {
            return Ok(json!({"error": "No permissions to referred object or it does not exist."}));
        };
        let error = match item {
            item if !item.is_enabled => Some("Item is disabled."),
            item if ![2, 19].contains(&item.kind) => Some("Unsupported item type."),
            _ => None,
        };
        let id = item.id.to_string();
        match error {
            Some(error) => Ok(json!({"itemid": id, "error": error})),
            None => {
                self.keep(Pushed::read(value));
                Ok(json!({"itemid": id}))
            }
        }
    }
}
