//! A fake Tencent Cloud CI, as strict as its documentation says that the real one is: it verifies each signature with
//! code of its own, against what came over the wire and its own clock, and takes no path, parameter or header that the
//! pages do not name. Its workflows run until a test ends them, and it calls back then. Dropped, it fails the test if
//! anything came that a right client never sends.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use hmac::{Hmac, KeyInit, Mac};
use sha1::{Digest, Sha1};

use crate::daemon::{Connection, request};
use crate::wire::Answer;

pub(crate) const SECRET_ID: &str = "AKIDhunter2-secret-id";
pub(crate) const SECRET_KEY: &str = "hunter2-secret-key";
pub(crate) const BUCKET: &str = "media-1250000000";
pub(crate) const WORKFLOW: &str = "w4699c83bde714bfd8d7f5dbd9b680f79";

/// CI; takes no more connections when dropped.
pub(crate) struct FakeCi {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    stopped: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

/// One execution of a workflow.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Execution {
    pub(crate) run: String,
    pub(crate) workflow: String,
    pub(crate) object: String,
    /// Of what triggered it; empty for an upload.
    pub(crate) name: String,
    /// `Running`, `Success`, `Failed`, `Cancel`.
    pub(crate) state: String,
    pub(crate) created_s: i64,
    /// State and id of its one task.
    pub(crate) task: (String, String),
}

/// How CI misbehaves, once.
#[derive(Clone, Debug)]
pub(crate) enum Twist {
    /// It does what it is asked, and the connection breaks before an answer.
    LostAnswer,
    /// The connection breaks before anything is done.
    Broken,
    /// Another answer, and nothing done.
    Answer(u16, String),
    /// It does what it is asked, and says something else.
    Garbled(String),
}

#[derive(Default)]
struct State {
    executions: Vec<Execution>,
    requests: Vec<String>,
    faults: Vec<String>,
    twists: VecDeque<(String, Twist)>,
    /// The list's filter `name` is taken for the object's.
    names_are_objects: bool,
    token: Option<String>,
}

/// A reply: status and body.
type Reply = (u16, String);

impl FakeCi {
    pub(crate) fn start() -> FakeCi {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (state, stopped) = (Arc::<Mutex<State>>::default(), Arc::new(AtomicBool::new(false)));
        let accepting = thread::spawn({
            let (state, stopped) = (Arc::clone(&state), Arc::clone(&stopped));
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let state = Arc::clone(&state);
                    // How a connection ends is the daemon's to bear.
                    thread::spawn(move || serve(stream, &state).ok());
                }
            }
        });
        FakeCi { address, state, stopped, accepting: Some(accepting) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The options with which an adapter calls it.
    pub(crate) fn options(&self) -> String {
        format!(
            "url = \"{}\"\nbucket = {BUCKET:?}\nregion = \"ap-chongqing\"\nsecret_id = {SECRET_ID:?}\n\
             secret_key = {SECRET_KEY:?}\n",
            self.url()
        )
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic")
    }

    /// An execution that an upload began.
    pub(crate) fn uploaded(&self, object: &str) -> String {
        self.state().begin(WORKFLOW, object, "")
    }

    pub(crate) fn executions(&self) -> Vec<Execution> {
        self.state().executions.clone()
    }

    /// Method, path and query of what came.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.state().requests.clone()
    }

    /// How often that was asked: `POST /triggerworkflow`.
    pub(crate) fn asked(&self, begin: &str) -> usize {
        self.requests().iter().filter(|line| line.starts_with(begin)).count()
    }

    /// The next request that begins like this meets that.
    pub(crate) fn script(&self, begin: &str, twist: Twist) {
        self.state().twists.push_back((begin.to_owned(), twist));
    }

    /// The list takes `name` for the object's name, as an old page has it.
    pub(crate) fn take_names_for_objects(&self) {
        self.state().names_are_objects = true;
    }

    /// Only temporary credentials with this token are good from now on.
    pub(crate) fn want_token(&self, token: &str) {
        self.state().token = Some(token.to_owned());
    }

    /// The execution ends, and nobody is told.
    pub(crate) fn end(&self, run: &str, state: &str) -> Execution {
        let mut held = self.state();
        let execution = held.executions.iter_mut().find(|e| e.run == run).expect("an execution");
        (execution.state, execution.task.0) = (state.to_owned(), state.to_owned());
        execution.clone()
    }

    /// The execution ends, and CI calls back.
    pub(crate) fn finish(&self, run: &str, state: &str, listen: &str, path: &str) -> Answer {
        let body = self.end(run, state).callback();
        let headers = [("content-type", "application/xml")];
        let callback = request("POST", path, &headers, body.as_bytes());
        Connection::to(listen).ask(&callback).expect("an answer")
    }
}

impl Drop for FakeCi {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the one who accepts.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| woken) {
            let _ = accepting.join();
        }
        let state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if thread::panicking() {
            eprintln!("--- asked of CI\n{}", state.requests.join("\n"));
        } else {
            assert!(state.faults.is_empty(), "CI was sent what it never should be: {:#?}", state.faults);
            assert!(state.twists.is_empty(), "scripted, and never met: {:?}", state.twists);
        }
    }
}

impl Execution {
    /// As a callback says it.
    pub(crate) fn callback(&self) -> String {
        let (run, workflow, object) = (&self.run, &self.workflow, escaped(&self.object));
        let (at, (state, job)) = (written(self.created_s, ' '), &self.task);
        format!(
            "<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>{run}</RunId>\
             <BucketId>{BUCKET}</BucketId><Object>{object}</Object><WorkflowId>{workflow}</WorkflowId>\
             <WorkflowName>ingest</WorkflowName><CreateTime>{at}</CreateTime><State>{}</State><Tasks>\
             <Type>Transcode</Type><CreateTime>{at}</CreateTime><State>{state}</State><JobId>{job}</JobId>\
             <Name>Transcode_1</Name><TemplateId>t1</TemplateId></Tasks></WorkflowExecution></Response>",
            self.state
        )
    }

    /// As the answer to a question says it.
    fn details(&self) -> String {
        let (run, workflow, object) = (&self.run, &self.workflow, escaped(&self.object));
        let (at, (state, job)) = (written(self.created_s, 'T'), &self.task);
        format!(
            "<Response><RequestId>NjJm</RequestId><WorkflowExecution><WorkflowId>{workflow}</WorkflowId>\
             <Name>ingest</Name><RunId>{run}</RunId><CreateTime>{at}</CreateTime><Object>{object}</Object>\
             <State>{}</State><Topology><Dependencies><Start>Transcode_1</Start><Transcode_1>End</Transcode_1>\
             </Dependencies><Nodes><Transcode_1><Type>Transcode</Type></Transcode_1></Nodes></Topology><Tasks>\
             <Type>Transcode</Type><JobId>{job}</JobId><CreateTime>{at}</CreateTime><Name>Transcode_1</Name>\
             <State>{state}</State><Code>{state}</Code><Message></Message></Tasks></WorkflowExecution></Response>",
            self.state
        )
    }
}

/// In the zone of Beijing, as CI does.
fn written(seconds: i64, between: char) -> String {
    let text = callbackd::model::Time::from_seconds(seconds + 8 * 3600).to_string();
    let zone = if between == ' ' { "+0800" } else { "+08:00" };
    text.replace('T', &between.to_string()).replace('Z', zone)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

fn error(status: u16, code: &str, more: &str) -> Reply {
    let body = format!(
        "<?xml version='1.0' encoding='utf-8' ?>\n<Error>\n\t<Code>{code}</Code>\n\t<Message>{code}, says the fake</Message>\
         {more}\n\t<Resource>r</Resource>\n\t<RequestId>NjJm</RequestId>\n\t<TraceId>t</TraceId>\n</Error>\n\n"
    );
    (status, body)
}

/// A request as it came.
struct Asked {
    method: String,
    path: String,
    /// As they stood in the query, decoded.
    parameters: Vec<(String, String)>,
    headers: BTreeMap<String, String>,
}

impl State {
    fn begin(&mut self, workflow: &str, object: &str, name: &str) -> String {
        let run = format!("i{:032x}", self.executions.len() + 1);
        let job = format!("j{:032x}", self.executions.len() + 1);
        self.executions.push(Execution {
            run: run.clone(),
            workflow: workflow.to_owned(),
            object: object.to_owned(),
            name: name.to_owned(),
            state: "Running".to_owned(),
            created_s: now_s(),
            task: ("Running".to_owned(), job),
        });
        run
    }

    fn fault(&mut self, text: String) -> Reply {
        self.faults.push(text);
        error(400, "InvalidArgument", "")
    }

    fn answer(&mut self, asked: &Asked) -> Reply {
        if let Err(refusal) = self.verify(asked) {
            return refusal;
        }
        let known: &[(&str, bool)] = match (asked.method.as_str(), asked.path.as_str()) {
            ("POST", "/triggerworkflow") => &[("workflowId", true), ("object", true), ("name", false)],
            ("GET", "/workflowexecution") => &[
                ("workflowId", true),
                ("name", false),
                ("orderByTime", false),
                ("size", false),
                ("states", false),
                ("startCreationTime", false),
                ("endCreationTime", false),
                ("nextToken", false),
            ],
            ("GET", path) if path.strip_prefix("/workflowexecution/").is_some_and(|id| !id.contains('/')) => &[],
            ("GET", path) if path.starts_with("/jobs/") => &[],
            _ => return self.fault(format!("no such call: {} {}", asked.method, asked.path)),
        };
        let strange = asked
            .parameters
            .iter()
            .find(|(name, value)| !known.iter().any(|(known, _)| known == name) || value.is_empty());
        let missing = known.iter().find(|(name, must)| *must && asked.parameter(name).is_none());
        if strange.is_some() || missing.is_some() {
            return self.fault(format!("{strange:?} is strange, {missing:?} is missing in {}", asked.path));
        }
        match (asked.path.as_str(), asked.path.strip_prefix("/workflowexecution/")) {
            ("/triggerworkflow", _) => self.trigger(asked),
            ("/workflowexecution", _) => self.list(asked),
            (_, Some(run)) => match self.executions.iter().find(|e| e.run == run) {
                Some(execution) => (200, execution.details()),
                None => error(404, "NoSuchWorkflowExecution", ""),
            },
            (path, None) => {
                let job = path.rsplit('/').next().unwrap_or_default();
                (200, format!("<Response><JobsDetail></JobsDetail><NonExistJobIds>{job}</NonExistJobIds></Response>"))
            }
        }
    }

    fn trigger(&mut self, asked: &Asked) -> Reply {
        let (workflow, object) = (asked.parameter("workflowId").expect("it"), asked.parameter("object").expect("it"));
        let name = asked.parameter("name").unwrap_or_default();
        let is_plain = name.chars().all(|c| c.is_alphanumeric() || c == '-' || c == '_');
        if !is_plain || name.chars().count() > 128 {
            return self.fault(format!("no name of a trigger: {name}"));
        }
        if workflow != WORKFLOW {
            return error(404, "NoSuchWorkflow", "");
        }
        let run = self.begin(workflow, object, name);
        // The page's own slip: the root is opened once more.
        (200, format!("<Response>\n<RequestId>NjA0</RequestId>\n<InstanceId>{run}</InstanceId>\n<Response>"))
    }

    fn list(&mut self, asked: &Asked) -> Reply {
        let size: usize = asked.parameter("size").map_or(Ok(10), str::parse).unwrap_or(0);
        let order = asked.parameter("orderByTime").unwrap_or("Desc");
        let since = asked.parameter("startCreationTime").map(|text| {
            // `%Y-%m-%dT%H:%M:%S%z`, and nothing else.
            text.strip_suffix("+0000").filter(|t| t.len() == 19).map(|t| format!("{t}Z"))
        });
        let since = match since {
            None => 0,
            Some(text) => match text.and_then(|text| callbackd::model::Time::parse(&text)) {
                Some(time) => time.seconds(),
                None => return self.fault("startCreationTime is no time".to_owned()),
            },
        };
        if !(1..=100).contains(&size) || !["Asc", "Desc"].contains(&order) {
            return self.fault(format!("size {size}, orderByTime {order}"));
        }
        let (workflow, name) = (asked.parameter("workflowId"), asked.parameter("name"));
        let named = |e: &Execution| match name {
            Some(name) if self.names_are_objects => e.object == name,
            Some(name) => e.name == name,
            None => true,
        };
        let mut found: Vec<_> = self
            .executions
            .iter()
            .filter(|e| Some(e.workflow.as_str()) == workflow && e.created_s >= since && named(e))
            .collect();
        if order == "Desc" {
            found.reverse();
        }
        let from: usize = asked.parameter("nextToken").map_or(Ok(0), str::parse).unwrap_or(usize::MAX).min(found.len());
        let page = &found[from..found.len().min(from + size)];
        let next = from + page.len();
        let next = if next < found.len() { format!("<NextToken>{next}</NextToken>") } else { String::new() };
        let entry = |e: &&Execution| {
            format!(
                "<WorkflowExecutionList><RunId>{}</RunId><WorkflowId>{}</WorkflowId><State>{}</State>\
                 <CreateTime>{}</CreateTime><Object>{}</Object></WorkflowExecutionList>",
                e.run,
                e.workflow,
                e.state,
                written(e.created_s, 'T'),
                escaped(&e.object)
            )
        };
        let entries: String = page.iter().map(entry).collect();
        (200, format!("<Response><RequestId>NjJm</RequestId>{entries}{next}</Response>"))
    }

    /// The request signature, built again from what came.
    fn verify(&self, asked: &Asked) -> Result<(), Reply> {
        let denied = |code: &str, more: &str| Err(error(403, code, more));
        let Some(authorization) = asked.headers.get("authorization") else { return denied("AccessDenied", "") };
        let fields: BTreeMap<_, _> = authorization.split('&').filter_map(|field| field.split_once('=')).collect();
        let field = |name: &str| fields.get(name).copied().unwrap_or_default();
        if fields.len() != 7 || field("q-sign-algorithm") != "sha1" || field("q-sign-time") != field("q-key-time") {
            return denied("InvalidArgument", "");
        }
        if field("q-ak") != SECRET_ID {
            return denied("InvalidAccessKeyId", &format!("<AccessKeyId>{}</AccessKeyId>", field("q-ak")));
        }
        let token = asked.headers.get("x-cos-security-token");
        if self.token.as_ref() != token {
            return denied("InvalidToken", &format!("<Token>{token:?}</Token>"));
        }
        let times: Vec<i64> = field("q-key-time").split(';').filter_map(|t| t.parse().ok()).collect();
        if !matches!(times[..], [from, until] if from <= now_s() && now_s() <= until && until - from <= 3600) {
            return denied("RequestTimeTooSkewed", "");
        }
        let line = |pairs: Vec<(String, String)>| {
            let mut pairs: Vec<_> = pairs.iter().map(|(n, v)| (percent(n).to_lowercase(), percent(v))).collect();
            pairs.sort();
            let names: Vec<_> = pairs.iter().map(|(name, _)| name.clone()).collect();
            let pairs: Vec<_> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
            (pairs.join("&"), names.join(";"))
        };
        let listed = field("q-header-list").split(';').map(str::to_owned);
        let headers = listed.map(|name| asked.headers.get(&name).map(|value| (name, value.clone())));
        let Some(headers) = headers.collect::<Option<Vec<_>>>() else { return denied("SignatureDoesNotMatch", "") };
        // The host is what a signature is worth nothing without, and a token is to be signed.
        let must = 1 + usize::from(token.is_some());
        let (parameters, parameter_names) = line(asked.parameters.clone());
        let (header_line, header_names) = line(headers);
        let is_listed = header_names.split(';').filter(|n| ["host", "x-cos-security-token"].contains(n)).count()
            == must
            && field("q-url-param-list") == parameter_names
            && field("q-header-list") == header_names;
        let format = format!("{}\n{}\n{parameters}\n{header_line}\n", asked.method.to_lowercase(), asked.path);
        let sign = format!("sha1\n{}\n{}\n", field("q-key-time"), hex(&Sha1::digest(&format)));
        let signature = hmac(&hmac(SECRET_KEY, field("q-key-time")), &sign);
        if !is_listed || signature != field("q-signature") {
            // Repeated as it is: a peer as careless as one can be.
            let more = format!(
                "<StringToSign>{sign}</StringToSign><FormatString>{format}</FormatString>\
                 <Authorization>{}</Authorization>",
                escaped(authorization)
            );
            return denied("SignatureDoesNotMatch", &more);
        }
        Ok(())
    }
}

impl Asked {
    fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

fn now_s() -> i64 {
    callbackd::clock::now().seconds()
}

fn percent(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            _ => format!("%{b:02X}"),
        })
        .collect()
}

fn unpercent(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if c == '%' {
            bytes.push(u8::from_str_radix(rest.get(1..3)?, 16).ok()?);
            rest = &rest[3..];
        } else {
            bytes.extend(c.to_string().bytes());
            rest = &rest[c.len_utf8()..];
        }
    }
    String::from_utf8(bytes).ok()
}

fn hmac(key: &str, text: &str) -> String {
    let mut mac = Hmac::<Sha1>::new_from_slice(key.as_bytes()).expect("a key");
    mac.update(text.as_bytes());
    hex(&mac.finalize().into_bytes())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) -> io::Result<()> {
    let mut unread = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            let mut bytes = [0; 8192];
            match stream.read(&mut bytes)? {
                0 => return Ok(()),
                read => unread.extend_from_slice(&bytes[..read]),
            }
        };
        let head = String::from_utf8_lossy(&unread[..end]).into_owned();
        unread.drain(..end);
        let reply = {
            let mut state = state.lock().expect("no panic");
            match taken_apart(&head, !unread.is_empty()) {
                Err(fault) => Some(state.fault(format!("{fault}: {head}"))),
                Ok(asked) => {
                    let target = head.split(' ').nth(1).unwrap_or_default();
                    let line = format!("{} {target}", asked.method);
                    let met = state.twists.iter().position(|(begin, _)| line.starts_with(begin.as_str()));
                    let twist = met.and_then(|at| state.twists.remove(at)).map(|(_, twist)| twist);
                    state.requests.push(line);
                    match twist {
                        None => Some(state.answer(&asked)),
                        Some(Twist::LostAnswer) => {
                            state.answer(&asked);
                            None
                        }
                        Some(Twist::Garbled(text)) => {
                            state.answer(&asked);
                            Some((200, text))
                        }
                        Some(Twist::Broken) => None,
                        Some(Twist::Answer(status, text)) => Some((status, text)),
                    }
                }
            }
        };
        let Some((status, body)) = reply else { return Ok(()) };
        let head = format!(
            "HTTP/1.1 {status} So\r\nContent-Type: application/xml\r\nServer: tencent-ci\r\nx-ci-request-id: NjJm\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all(format!("{head}{body}").as_bytes())?;
    }
}

fn taken_apart(head: &str, has_body: bool) -> Result<Asked, &'static str> {
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    let (method, target) = (first.next().unwrap_or_default(), first.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    if target.contains('+') {
        return Err("a plus sign: a space is %20 and a plus sign %2B");
    }
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    if has_body || headers.get("content-length").is_some_and(|length| length != "0") {
        return Err("a body where none belongs");
    }
    let pairs = query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        Some((unpercent(name)?, unpercent(value)?))
    });
    let parameters = pairs.collect::<Option<Vec<_>>>().ok_or("a query that is not encoded")?;
    let path = unpercent(path).ok_or("a path that is not encoded")?;
    Ok(Asked { method: method.to_owned(), path, parameters, headers })
}
