//! Zabbix as each of its versions is, and the values that it is told.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use callbackd::app;
use callbackd::config::{Config, Environment};
use callbackd::model::{Change, ChangeMeta, Delivery, Outcome, State, Status, Time, Update};
use callbackd::outbound::{Client, Request, Settings};
use callbackd::secret::Secret;
use callbackd::sinks::zabbix::api::{Api, ApiError, Credential, read_url};
use callbackd::sinks::{Sink, Tried};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};

use crate::peers::hook::Closed;
use crate::peers::zabbix::{FakeZabbix, How, PASSWORD, Pushed, TOKEN, USER, no};
use crate::rig::{Rig, service};

const NOW: Time = Time::from_seconds(1_700_000_000);
/// Part of every secret.
const NEEDLE: &str = "hunter2";

fn token() -> Credential {
    Credential::Token(Secret::new(TOKEN))
}

fn login(password: &str) -> Credential {
    Credential::Login { user: USER.to_owned(), password: Secret::new(password) }
}

fn api(zabbix: &FakeZabbix, credential: Credential) -> Api {
    let client = Client::new(&Settings::default()).expect("a client");
    Api::new(client, read_url(&zabbix.url()).expect("a URL"), credential)
}

async fn ask(api: &Api) -> Result<Value, ApiError> {
    api.call("item.get", &json!({"output": ["itemid"], "host": "callbackd"}), NOW).await
}

pub(crate) fn sink(options: &str) -> Result<Box<dyn Sink>, String> {
    let text = format!("[sinks.it]\nkind = \"zabbix\"\n{options}\n");
    let built = Config::from_toml(&text, &Environment::default())
        .and_then(|config| app::sinks(&config, &Environment::default()));
    built.map(|mut sinks| sinks.pop().expect("a sink").1).map_err(|faults| faults.to_string())
}

fn by_trapper(zabbix: &FakeZabbix) -> Box<dyn Sink> {
    sink(&format!("trapper = \"{}\"", zabbix.trapper())).expect("a sink")
}

fn by_history(zabbix: &FakeZabbix) -> Box<dyn Sink> {
    sink(&format!("url = {:?}\ntoken = {TOKEN:?}", zabbix.url())).expect("a sink")
}

pub(crate) fn delivery(id: i64, status: Status) -> Delivery {
    let mut update = Update { key: "r1".to_owned(), ..Update::default() };
    update.execution.name = Some("Transcode".to_owned());
    update.execution.subject = Some("bucket/in/a b.mp4".to_owned());
    update.execution.status = Some(status);
    let accepted = State::begin("media", update);
    let meta = ChangeMeta {
        kind: Change::kind_of(&accepted).to_owned(),
        sequence: 1,
        previous_status: None,
        changed_tasks: Vec::new(),
        overdue: false,
        receipt: None,
        received_at: NOW,
    };
    let change = Change { id: 41, execution_id: 5, state: accepted.state, links: Vec::new(), meta };
    Delivery { id, change: Arc::new(change), attempts: 0, created_at: NOW, resume: None, trace: None }
}

async fn tell(sink: &dyn Sink, delivery: &Delivery) -> Tried {
    // Later than it was recorded, as a retry is.
    let tried = sink.deliver(delivery, NOW.plus_ms(3_600_000)).await;
    let said = format!("{tried:?} {:?}", sink.preview(delivery, NOW));
    assert!(!said.contains(NEEDLE), "{said}");
    tried
}

pub(crate) fn reason(tried: &Tried) -> (&'static str, &str) {
    match &tried.outcome {
        Outcome::Delivered { .. } => ("delivered", ""),
        Outcome::Retry { reason, .. } => ("retry", reason),
        Outcome::Halt { reason, .. } => ("halt", reason),
        Outcome::Reject { reason } => ("reject", reason),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_token_stands_where_the_version_wants_it() {
    for (version, place) in [
        ("5.4.12", "body"),
        ("6.0.14", "body"),
        ("6.2.9", "body"),
        ("6.4.0", "header"),
        ("7.0.0rc1", "header"),
        ("7.2.3", "header"),
        ("7.4.1", "header"),
        ("7.10.0", "header"),
        ("10.0.0", "header"),
    ] {
        let zabbix = FakeZabbix::start(version);
        let api = api(&zabbix, token());
        for _ in 0..2 {
            assert_eq!(ask(&api).await.expect(version)[0]["itemid"], "10600");
        }
        let expected = [("apiinfo.version", ""), ("item.get", place), ("item.get", place)];
        assert_eq!(zabbix.calls(), expected.map(|(method, place)| (method.to_owned(), place)), "{version}");
        api.logout(NOW).await.expect("nothing to end");
        assert_eq!(zabbix.calls().len(), 3, "a token is no session");
    }
}

#[tokio::test]
async fn a_session_is_opened_as_the_version_wants_it_once_more_when_it_ends_and_closed() {
    for (version, name, place) in [
        ("5.0.30", "user", "body"),
        ("5.4.0", "username", "body"),
        ("6.0.14", "username", "body"),
        ("7.4.0", "username", "header"),
    ] {
        let zabbix = FakeZabbix::start(version);
        let api = api(&zabbix, login(PASSWORD));
        ask(&api).await.expect(version);
        ask(&api).await.expect(version);
        let login = zabbix.requests().into_iter().find(|seen| seen.method == "user.login").expect("a login");
        assert_eq!(login.params, json!({name: USER, "password": PASSWORD}));
        zabbix.end_sessions();
        ask(&api).await.expect(version);
        api.logout(NOW).await.expect(version);
        assert_eq!(zabbix.state().sessions(), 0, "{version}");
        let expected = [
            ("apiinfo.version", ""),
            ("user.login", ""),
            ("item.get", place),
            ("item.get", place),
            ("item.get", place),
            ("apiinfo.version", ""),
            ("user.login", ""),
            ("item.get", place),
            ("user.logout", place),
        ];
        assert_eq!(zabbix.calls(), expected.map(|(method, place)| (method.to_owned(), place)), "{version}");
    }
}

#[tokio::test]
async fn parameters_and_results_pass_as_they_are() {
    let zabbix = FakeZabbix::start("6.0.14");
    zabbix.method("action.get", |_, params| Ok(json!({"asked": params})));
    let params = json!({"filter": {"name": "a \"b\" 游"}, "limit": 1});
    let result = api(&zabbix, token()).call("action.get", &params, NOW).await;
    assert_eq!(result, Ok(json!({"asked": params})));
}

#[tokio::test]
async fn many_callers_share_one_session() {
    let zabbix = FakeZabbix::start("6.0.14");
    let api = api(&zabbix, login(PASSWORD));
    let (a, b, c) = tokio::join!(ask(&api), ask(&api), ask(&api));
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
    let logins = zabbix.calls().iter().filter(|(method, _)| method == "user.login").count();
    assert_eq!((logins, zabbix.state().sessions()), (1, 1));
}

#[tokio::test]
async fn a_refused_credential_is_not_tried_again_and_again() {
    let auth = |error: ApiError| match error {
        ApiError::Auth { reason } => {
            assert!(!reason.contains(NEEDLE), "{reason}");
            reason
        }
        other => panic!("{other:?}"),
    };
    for version in ["5.4.0", "6.0.14", "7.0.0", "7.4.0"] {
        let zabbix = FakeZabbix::start(version);
        zabbix.disable_token();
        let said = auth(ask(&api(&zabbix, token())).await.expect_err(version));
        assert!(said.contains("Not authorized.") && said.contains("Authorization"), "{said}");
        assert_eq!(zabbix.calls().len(), 3, "the version, the call, the version again: {:?}", zabbix.calls());
        let zabbix = FakeZabbix::start(version);
        zabbix.expire_token();
        let said = auth(ask(&api(&zabbix, token())).await.expect_err(version));
        assert!(said.contains("API token expired."), "{said}");
        let zabbix = FakeZabbix::start(version);
        let said = auth(ask(&api(&zabbix, login("hunter2-wrong"))).await.expect_err(version));
        assert!(said.contains("Incorrect user name or password"), "{said}");
        assert_eq!(zabbix.calls().len(), 2, "a few wrong passwords block the user: {:?}", zabbix.calls());
    }
    let zabbix = FakeZabbix::start("5.0.30");
    let said = auth(ask(&api(&zabbix, token())).await.expect_err("no tokens"));
    assert!(said.contains("user and password"), "{said}");
    // Both spellings, and a session that Zabbix does not stop ending.
    for text in ["Not authorised.", "Not authorized.", "Session terminated, re-login, please."] {
        let zabbix = FakeZabbix::start("6.0.14");
        zabbix.script("item.get", How::No(no(-32602, text)));
        zabbix.script("item.get", How::No(no(-32602, text)));
        let said = auth(ask(&api(&zabbix, login(PASSWORD))).await.expect_err(text));
        assert!(said.contains(text), "{said}");
        assert_eq!(zabbix.calls().len(), 6, "logged in again once: {:?}", zabbix.calls());
    }
}

#[tokio::test]
async fn an_upgrade_under_a_running_daemon_is_noticed() {
    for (before, after, place) in
        [("6.0.14", "7.2.0", "header"), ("6.0.14", "7.0.0", "body"), ("7.0.0", "6.0.14", "body")]
    {
        let zabbix = FakeZabbix::start(before);
        let api = api(&zabbix, token());
        ask(&api).await.expect(before);
        zabbix.state().version = after.to_owned();
        ask(&api).await.expect(after);
        assert_eq!(zabbix.calls().last(), Some(&("item.get".to_owned(), place)), "{before} to {after}");
    }
}

#[tokio::test]
async fn what_is_no_answer_of_zabbix_is_said() {
    let page = "<html>hunter2aaaa</html>".to_owned();
    let cases = [
        (How::Http(502, "text/html", page.clone()), "answered 502 Bad Gateway", "retry"),
        (How::Http(200, "text/html", page.clone()), "not Zabbix's JSON", "retry"),
        (How::Http(412, "text/html", String::new()), "412 Precondition Failed", "refused"),
        (How::Http(404, "text/html", page), "404 Not Found", "refused"),
        (How::Http(401, "text/html", String::new()), "in front of Zabbix", "auth"),
        (How::No(no(1, "Error connecting to database")), "in trouble", "retry"),
        (How::No(no(-32602, "No permissions to call \"item.get\".")), "role", "auth"),
        (How::No(no(-32500, format!("what is {TOKEN}?"))), "what is [secret]?", "refused"),
        (
            How::No(no(-32500, "SQL statement execution has failed \"INSERT INTO x\".")),
            "its SQL is left out",
            "refused",
        ),
    ];
    for (how, expected, kind) in cases {
        let zabbix = FakeZabbix::start("6.0.14");
        zabbix.script("item.get", how);
        let error = ask(&api(&zabbix, token())).await.expect_err(expected);
        let found = match &error {
            ApiError::Retry { .. } => "retry",
            ApiError::Auth { .. } => "auth",
            ApiError::Refused { .. } => "refused",
        };
        let said = error.to_string();
        assert!(said.contains(expected) && !said.contains("INSERT") && !said.contains(NEEDLE), "{said}");
        assert_eq!(found, kind, "{said}");
    }
}

/// What a request gets that is shaped for another version: the fake's own strictness.
#[tokio::test]
async fn each_version_refuses_what_the_real_one_refuses() {
    const HEADER: (&str, &str) =
        ("authorization", "Bearer hunter2aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    const LOWER: (&str, &str) =
        ("authorization", "bearer hunter2aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa");
    let version = json!({"method": "apiinfo.version", "params": []});
    let items = json!({"method": "item.get", "params": {"output": ["itemid"]}});
    let push = json!({"method": "history.push", "params": [{"host": "callbackd", "key": "callbackd.execution", "value": "v", "clock": 1, "ns": 1}]});
    let with = |request: &Value, more: Value| {
        let mut request = request.clone();
        request.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        request
    };
    let auth = |request: &Value| with(request, json!({"auth": TOKEN}));
    let logging_in = |params: Value| json!({"method": "user.login", "params": params});
    type Headers = &'static [(&'static str, &'static str)];
    type Case = (&'static [&'static str], Value, Headers, Option<(i64, &'static str)>);
    let cases: Vec<Case> = vec![
        (&["5.0.0", "6.0.14", "7.4.0"], version.clone(), &[], None),
        (&["5.0.0", "6.0.14", "7.0.0"], auth(&version), &[], Some((-32602, "must be called without"))),
        (&["7.2.0", "7.4.0"], auth(&version), &[], Some((-32600, "unexpected parameter \"auth\""))),
        (&["6.0.14"], version.clone(), &[HEADER], None),
        (&["7.0.0", "7.4.0"], version.clone(), &[HEADER], Some((-32602, "without authorization header"))),
        (&["5.4.0", "6.0.14", "6.4.0", "7.0.0"], auth(&items), &[], None),
        (&["7.2.0", "7.4.0"], auth(&items), &[], Some((-32600, "unexpected parameter \"auth\""))),
        (&["6.4.0", "7.0.0", "7.2.0", "7.4.0"], items.clone(), &[HEADER], None),
        (&["6.4.0", "7.4.0"], items.clone(), &[LOWER], Some((-32602, "Not authorized."))),
        (&["5.4.0", "6.0.14", "6.2.0"], items.clone(), &[HEADER], Some((-32602, "Not authorized."))),
        (&["6.0.14", "7.4.0"], items.clone(), &[], Some((-32602, "Not authorized."))),
        (&["5.0.0"], auth(&items), &[], Some((-32602, "Not authorised."))),
        (
            &["6.0.14"],
            with(&items, json!({"auth": "0123456789abcdef0123456789abcdef"})),
            &[],
            Some((-32602, "Session terminated")),
        ),
        (&["6.0.14"], with(&auth(&items), json!({"x": 1})), &[], Some((-32600, "unexpected parameter \"x\""))),
        (&["6.0.14", "7.4.0"], json!({"method": "apiinfo.version"}), &[], Some((-32600, "\"params\" is missing"))),
        (&["6.0.14"], json!({"method": "foo.bar", "params": []}), &[], Some((-32601, "Incorrect API \"foo\"."))),
        (&["5.0.0"], logging_in(json!({"user": USER, "password": PASSWORD})), &[], None),
        (
            &["5.0.0"],
            logging_in(json!({"username": USER, "password": PASSWORD})),
            &[],
            Some((-32602, "unexpected parameter \"username\"")),
        ),
        (&["5.4.0", "6.0.14"], logging_in(json!({"user": USER, "password": PASSWORD})), &[], None),
        (
            &["6.0.14"],
            logging_in(json!({"user": USER, "username": USER, "password": PASSWORD})),
            &[],
            Some((-32602, "unexpected parameter \"user\"")),
        ),
        (
            &["6.4.0", "7.4.0"],
            logging_in(json!({"user": USER, "password": PASSWORD})),
            &[],
            Some((-32602, "unexpected parameter \"user\"")),
        ),
        (&["7.0.0"], push.clone(), &[HEADER], None),
    ];
    let client = Client::new(&Settings::default()).expect("a client");
    let send = async |zabbix: &FakeZabbix, body: String, headers: Headers, kind: Option<&'static str>| {
        let mut sent = HeaderMap::new();
        for (name, value) in kind.map(|kind| ("content-type", kind)).iter().chain(headers) {
            sent.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let url = zabbix.url().parse().expect("a URL");
        let request = Request { method: Method::POST, url, headers: sent, body: Bytes::from(body) };
        client.send(request).await.expect("an answer")
    };
    for (versions, request, headers, expected) in cases {
        for version in versions {
            let zabbix = FakeZabbix::start(version);
            let body = with(&request, json!({"jsonrpc": "2.0", "id": 7})).to_string();
            let answer = send(&zabbix, body, headers, Some("application/json-rpc")).await;
            let said: Value = serde_json::from_slice(&answer.body).expect("JSON");
            assert_eq!((answer.status, &said["id"]), (200, &json!(7)), "{version}: {said}");
            match expected {
                None => assert!(said.get("result").is_some(), "{version} {request}: {said}"),
                Some((code, text)) => {
                    assert_eq!(said["error"]["code"], code, "{version} {request}: {said}");
                    assert!(
                        said["error"]["data"].as_str().expect("data").contains(text),
                        "{version} {request}: {said}"
                    );
                }
            }
        }
    }
    let zabbix = FakeZabbix::start("6.0.14");
    let body = with(&auth(&push), json!({"jsonrpc": "2.0", "id": 7})).to_string();
    let answer = send(&zabbix, body.clone(), &[], Some("application/json; charset=utf-8")).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("Incorrect method \\\"history.push"), "{answer:?}");
    for kind in [None, Some("text/plain"), Some("application/cloudevents+json")] {
        let answer = send(&zabbix, body.clone(), &[], kind).await;
        assert_eq!((answer.status, answer.body.len()), (412, 0), "{kind:?}");
    }
    let answer = send(&zabbix, "{".to_owned(), &[], Some("application/json-rpc")).await;
    assert!(String::from_utf8_lossy(&answer.body).contains("-32700"), "{answer:?}");
    let silent = json!({"jsonrpc": "2.0", "method": "apiinfo.version", "params": []}).to_string();
    assert!(send(&zabbix, silent, &[], Some("application/json-rpc")).await.body.is_empty(), "without an id");
}

const VALUE: &str = r#"{"state":"failed","thing":"media/Transcode/bucket/in/a%20b.mp4","title":"Transcode: bucket/in/a b.mp4","status":"failed","#;

fn expected(id: i64) -> Pushed {
    let value = format!(
        "{VALUE}\"source\":\"media\",\"workflow\":null,\"name\":\"Transcode\",\"subject\":\"bucket/in/a b.mp4\",\
         \"run\":\"r1\",\"vendor_status\":null,\"started_at\":null,\"finished_at\":null,\"execution\":\"5\",\
         \"change\":\"41\",\"tasks\":0,\"failed\":[]}}"
    );
    let (host, key) = ("callbackd".to_owned(), "callbackd.execution".to_owned());
    Pushed { host, key, value, clock: NOW.seconds(), ns: id % 1_000_000_000 }
}

#[tokio::test]
async fn a_value_is_kept_once_however_often_it_is_sent() {
    let id = 1_700_000_000_123_456;
    for version in ["6.0.14", "7.0.0", "7.4.2"] {
        let zabbix = FakeZabbix::start(version);
        let mut sinks = vec![by_trapper(&zabbix)];
        if version.starts_with('7') {
            sinks.push(by_history(&zabbix));
        }
        for sink in &sinks {
            for _ in 0..2 {
                let tried = tell(&**sink, &delivery(id, Status::Failed)).await;
                assert_eq!(reason(&tried).0, "delivered", "{version}: {tried:?}");
                assert!(tried.answer.is_some_and(|answer| answer.contains("success")), "{version}");
            }
        }
        assert_eq!(zabbix.pushed(), [expected(id)], "{version}");
        // The next delivery, of the same second, is another point in time.
        tell(&*sinks[0], &delivery(id + 1, Status::Succeeded)).await;
        let pushed = zabbix.pushed();
        assert_eq!((pushed.len(), pushed[1].clock, pushed[1].ns), (2, NOW.seconds(), 123_457), "{version}");
    }
}

#[tokio::test]
async fn history_push_is_one_request_with_the_header() {
    let zabbix = FakeZabbix::start("7.0.9");
    let tried = tell(&*by_history(&zabbix), &delivery(99, Status::Failed)).await;
    assert_eq!((reason(&tried).0, tried.status), ("delivered", Some(200)));
    let requests = zabbix.requests();
    assert_eq!(zabbix.calls(), [("apiinfo.version".to_owned(), ""), ("history.push".to_owned(), "header")]);
    let Pushed { host, key, value, clock, ns } = expected(99);
    assert_eq!(requests[1].params, json!([{"host": host, "key": key, "value": value, "clock": clock, "ns": ns}]));
}

#[tokio::test]
async fn an_item_that_is_not_known_yet_is_told_when_it_is() {
    for by in [by_trapper, by_history] {
        let zabbix = FakeZabbix::start("7.0.0");
        zabbix.change_item(|item| item.is_synced = false);
        let mut rig = Rig::new(by(&zabbix).into(), service());
        rig.forward();
        rig.record("r1", Status::Failed).await;
        let row = rig.until_status("r1", "waiting").await;
        let attempts =
            crate::rig::until("a try", async || Some(rig.attempts(&row).await).filter(|attempts| !attempts.is_empty()))
                .await;
        assert_eq!(attempts[0].outcome, "retry", "{attempts:?}");
        let reason = attempts[0].reason.as_deref().expect("a reason");
        assert!(reason.contains("callbackd zabbix apply"), "{reason}");
        zabbix.change_item(|item| item.is_synced = true);
        rig.until_status("r1", "delivered").await;
        assert_eq!(zabbix.pushed().len(), 1);
        rig.stop.begin();
        rig.ended().await;
    }
}

#[tokio::test]
async fn a_value_that_is_not_taken_is_not_delivered() {
    let frame = |json: &str| [b"ZBXD\x01", &(json.len() as u32).to_le_bytes()[..], &[0; 4], json.as_bytes()].concat();
    let cases = [
        (Vec::new(), "retry", "closed the connection"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "retry", "no Zabbix trapper"),
        (frame("{\"response\":\"success\",\"info\":\"processed: 0; failed: 1; total: 1\"}"), "retry", "took no value"),
        (frame("{\"response\":\"success\"}"), "retry", "counts no values"),
        (frame("{\"response\":\"failed\",\"info\":\"cannot find pair\"}"), "reject", "cannot find pair"),
        (
            frame("{\"response\":\"failed\",\"redirect\":{\"revision\":1,\"address\":\"192.0.2.7\"}}"),
            "retry",
            "192.0.2.7 monitors the host",
        ),
    ];
    for (answer, outcome, text) in cases {
        let zabbix = FakeZabbix::start("6.0.14");
        zabbix.script_trapper(&answer);
        let tried = tell(&*by_trapper(&zabbix), &delivery(99, Status::Failed)).await;
        let found = reason(&tried);
        assert!(found.0 == outcome && found.1.contains(text), "{found:?}");
    }
    let gone = Closed::reserve();
    let sink = sink(&format!("trapper = \"{}\"", gone.address())).expect("a sink");
    let tried = tell(&*sink, &delivery(99, Status::Failed)).await;
    assert!(matches!(reason(&tried), ("retry", said) if said.contains("cannot connect")), "{tried:?}");

    let old = FakeZabbix::start("6.0.14");
    let tried = tell(&*by_history(&old), &delivery(99, Status::Failed)).await;
    assert!(matches!(reason(&tried), ("halt", said) if said.contains("write trapper")), "{tried:?}");
    let zabbix = FakeZabbix::start("7.0.0");
    zabbix.disable_token();
    let tried = tell(&*by_history(&zabbix), &delivery(99, Status::Failed)).await;
    assert!(matches!(reason(&tried), ("halt", said) if said.contains("Not authorized.")), "{tried:?}");
    let zabbix = FakeZabbix::start("7.0.0");
    zabbix.change_item(|item| item.is_enabled = false);
    let tried = tell(&*by_history(&zabbix), &delivery(99, Status::Failed)).await;
    assert!(matches!(reason(&tried), ("retry", said) if said.contains("Item is disabled.")), "{tried:?}");
}

/// A certificate authority, and the files of one that it has signed for a name.
struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let (key, mut params) = (KeyPair::generate().expect("a key"), CertificateParams::default());
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let folder = tempfile::tempdir().expect("a folder");
        let own = params.self_signed(&key).expect("a certificate").pem();
        std::fs::write(folder.path().join("ca"), own).expect("written");
        Authority { folder, issuer: Issuer::new(params, key) }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn sign(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        std::fs::write(self.path(&format!("{name}.cert")), cert).expect("written");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    /// Serves TLS as `name` in front of a trapper, to those whose certificate this authority has signed.
    async fn serve(&self, name: &str, trapper: SocketAddr) -> SocketAddr {
        let certs =
            |path: &str| CertificateDer::pem_file_iter(path).expect("PEM").map(|one| one.expect("a certificate"));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certs(&self.path("ca")));
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let key = PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).expect("a key");
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_client_cert_verifier(verifier.expect("a verifier"))
            .with_single_cert(certs(&self.path(&format!("{name}.cert"))).collect(), key)
            .expect("a server");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut outside) = acceptor.accept(stream).await else { continue };
                let mut inside = TcpStream::connect(trapper).await.expect("the trapper");
                let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
            }
        });
        address
    }

    fn options(&self, trapper: SocketAddr, ca: &str, name: &str, more: &str) -> String {
        let (cert, key) = (self.path(&format!("{name}.cert")), self.path(&format!("{name}.key")));
        format!("trapper = \"{trapper}\"\ntrapper_tls = {{ ca = {ca:?}, cert = {cert:?}, key = {key:?}{more} }}")
    }
}

#[tokio::test]
async fn the_trapper_is_told_over_tls_with_certificates_on_both_sides() {
    let (authority, stranger) = (Authority::new(), Authority::new());
    for name in ["zabbix.test", "callbackd.test"] {
        authority.sign(name);
        stranger.sign(name);
    }
    let zabbix = FakeZabbix::start("6.0.14");
    let at = authority.serve("zabbix.test", zabbix.trapper()).await;
    let named = ", name = \"zabbix.test\"";
    let told = async |of: &Authority, ca: &str, more: &str| {
        let sink = sink(&of.options(at, ca, "callbackd.test", more)).expect("a sink");
        let tried = tell(&*sink, &delivery(99, Status::Failed)).await;
        let (outcome, reason) = reason(&tried);
        (outcome, reason.to_owned())
    };
    let ca = authority.path("ca");
    assert_eq!(told(&authority, &ca, named).await.0, "delivered");
    assert_eq!(zabbix.pushed(), [expected(99)]);
    // Called by its address, which its certificate does not name; signed by somebody else; ourselves unknown to it.
    for (of, ca, more) in [(&authority, &ca, ""), (&authority, &stranger.path("ca"), named), (&stranger, &ca, named)] {
        let (outcome, reason) = told(of, ca, more).await;
        assert_eq!(outcome, "retry", "{reason}");
        assert!(reason.contains("TLS") || reason.contains("broke"), "{reason}");
    }
    assert_eq!(zabbix.pushed().len(), 1);
}

#[tokio::test]
async fn a_probe_says_what_is_missing() {
    for (version, old) in [("6.0.14", true), ("7.0.0", false)] {
        let zabbix = FakeZabbix::start(version);
        let both = format!("url = {:?}\ntrapper = \"{}\"\ntoken = {TOKEN:?}", zabbix.url(), zabbix.trapper());
        let both = sink(&both).expect("a sink");
        let said = both.probe().await.expect("all is there");
        assert!(said.contains(&version[..3]) && said.contains("is ready; the trapper at 127.0.0.1"), "{said}");
        let pushes = by_history(&zabbix).probe().await;
        assert_eq!(pushes.is_err(), old, "{pushes:?}");
        let said = by_trapper(&zabbix).probe().await.expect("a trapper");
        assert!(said.starts_with("the trapper at"), "{said}");
        for (change, expected) in [
            ((|item| item.value_type = 1) as fn(&mut crate::peers::zabbix::Item), "not of type Text"),
            (|item| item.value_type = 4, "is ready"),
            (|item| item.kind = 0, "no trapper item"),
            (|item| (item.kind, item.is_enabled) = (2, false), "is disabled"),
            (|item| item.key = "other".to_owned(), "is missing; run `callbackd zabbix apply`"),
            (|item| item.host = "other".to_owned(), "shows no host \"callbackd\""),
        ] {
            zabbix.change_item(change);
            let said = both.probe().await.unwrap_or_else(|said| said);
            assert!(said.contains(expected), "{said} instead of {expected}");
        }
        zabbix.disable_token();
        let said = both.probe().await.expect_err("no credential");
        assert!(said.contains("Not authorized."), "{said}");
        assert!(zabbix.pushed().is_empty(), "a probe changes nothing");
        drop(zabbix);
        both.probe().await.expect_err("nobody is there");
    }
    let zabbix = FakeZabbix::start("6.0.14");
    let user = format!(
        "url = {:?}\nuser = \"Admin\"\npassword = {PASSWORD:?}\ntrapper = \"{}\"",
        zabbix.url(),
        zabbix.trapper()
    );
    sink(&user).expect("a sink").probe().await.expect("all is there");
    assert_eq!(zabbix.state().sessions(), 0, "a probe leaves no session");
}

#[test]
fn wrong_options_are_named_with_what_to_write() {
    let url = "url = \"https://example.com/zabbix\"\n";
    let cases = [
        (String::new(), "sinks.it.url: has to be written, or trapper"),
        (url.to_owned(), "sinks.it.token: has to be written, or user and password"),
        (format!("{url}token = \"hunter2\"\nuser = \"a\""), "sinks.it.token: stands beside user or password"),
        (format!("{url}user = \"a\""), "sinks.it.password: has to be written beside user"),
        (format!("{url}password = \"hunter2\""), "sinks.it.user: has to be written beside password"),
        (format!("{url}token = {{ file = \"/nonexistent\" }}"), "sinks.it.token: /nonexistent"),
        (format!("{url}token = \"hunter2\"\nvia = \"trapper\""), "sinks.it.trapper: has to be written"),
        ("trapper = \"z:1\"\nvia = \"history\"".to_owned(), "sinks.it.url: has to be written"),
        ("trapper = \"z:1\"\ntoken = \"hunter2\"".to_owned(), "sinks.it.token: means nothing without url"),
        ("trapper = \"tcp://z:1\"".to_owned(), "write it like \"host:10051\""),
        ("url = \"zabbix\"\ntoken = \"hunter2\"".to_owned(), "sinks.it.url: has to be an http or https URL"),
        ("trapper = \"z:1\"\nhost = \"\"".to_owned(), "sinks.it.host: write 1 to 128 characters"),
        ("trapper = \"z:1\"\nvia = \"snmp\"".to_owned(), "sinks.it.via: no such word; there are: trapper, history"),
        (
            "trapper = \"z:1\"\ntrapper_tls = { ca = \"/nonexistent\", cert = \"/c\", key = \"/k\" }".to_owned(),
            "sinks.it.trapper_tls.ca: /nonexistent",
        ),
        (
            format!("{url}token = \"hunter2\"\ntrapper_tls = {{ ca = \"/a\", cert = \"/c\", key = \"/k\" }}"),
            "sinks.it.trapper_tls: means nothing without trapper",
        ),
    ];
    for (options, expected) in cases {
        let faults = sink(&options).err().expect(&options);
        assert!(faults.contains(expected) && !faults.contains(NEEDLE), "{options}: {faults}");
    }
    sink(&format!("{url}token = \"hunter2\"")).expect("url and credential are enough");
    sink("trapper = \"zabbix.example.com\"").expect("so is a trapper");
}
