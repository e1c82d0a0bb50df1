//! Every kind of sink: what it sends is exact, what a peer answers is taken for what it is, and no secret is kept.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use callbackd::model::{Change, ChangeMeta, Delivery, Execution, Link, Outcome, State, Status, Task, Time, Update};
use callbackd::pipeline::forward::Service;
use callbackd::signature;
use callbackd::sinks::{KINDS, Sink, Tried};
use serde_json::{Map, Value, json};

use super::{NEEDLE, sink_of};
use crate::peers::proxy::{FakeProxy, Policy};
use crate::peers::scripted::{Act, Scripted, send};
use crate::rig::{PATIENCE, Rig, service};

/// Tuesday, 14 November 2023, 22:13:20 UTC.
const NOW: Time = Time::from_seconds(1_700_000_000);
const RUN: &str = "r_AbCdEfGh12345678";

/// One kind that speaks HTTP, and what is its own about it.
struct Speaker {
    kind: &'static str,
    /// Its options, with the needle in every secret.
    options: fn(&str) -> String,
    /// Whether it asks for something before it tells anything (a token, or what is there already), and once more when it
    /// is refused.
    asks: bool,
    /// The secrets that its requests hold, as a peer would repeat them.
    sends: [&'static str; 2],
    /// A 2xx whose body is no answer of such a peer.
    strange_success: Expected,
    gone: Expected,
    unauthorized: Expected,
}

/// What follows from an answer.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Delivered,
    Retry(Option<u64>),
    Reject,
    Halt,
}

const SPEAKERS: &[Speaker] = &[
    Speaker {
        kind: "webhook",
        options: |url| {
            format!(
                "url = \"{url}/hook?key=hunter2-in-the-query\"\nsecret = [\"hunter2-signs\", \"hunter2-signed\"]\n\
                 headers = {{ authorization = \"Bearer hunter2-in-a-header\" }}"
            )
        },
        asks: false,
        sends: ["/hook?key=hunter2-in-the-query", "Bearer hunter2-in-a-header"],
        strange_success: Expected::Delivered,
        gone: Expected::Halt,
        unauthorized: Expected::Halt,
    },
    Speaker {
        kind: "port_run",
        options: |url| format!("url = {url:?}\nclient_id = \"client-one\"\nclient_secret = \"hunter2-client-secret\""),
        asks: true,
        sends: ["hunter2-client-secret", "Bearer hunter2-token"],
        // A login page or a proxy is not Port.
        strange_success: Expected::Retry(None),
        gone: Expected::Reject,
        unauthorized: Expected::Halt,
    },
    Speaker {
        kind: "klyuch_astrom",
        options: |url| {
            format!(
                "url = \"{url}/e/19a63b03\"\ntoken = \"dt0c01.ST2EY72KQINMH574.hunter2-secret-part\"\n\
                 others = \"CUSTOM_INFO\""
            )
        },
        asks: false,
        sends: ["Api-Token dt0c01.ST2EY72KQINMH574.hunter2-secret-part", "hunter2-secret-part"],
        strange_success: Expected::Retry(None),
        gone: Expected::Reject,
        unauthorized: Expected::Halt,
    },
    Speaker {
        kind: "secmaster",
        options: |url| {
            format!(
                "url = {url:?}\nproject_id = \"p1\"\nworkspace_id = \"w1\"\nworkflow_id = \"f1\"\n\
                 access_key = \"hunter2-access-key\"\nsecret_key = \"hunter2-secret-key\"\n\
                 security_token = \"hunter2-security-token\""
            )
        },
        asks: false,
        sends: ["hunter2-access-key", "hunter2-security-token"],
        // A page is not SecMaster's JSON.
        strange_success: Expected::Retry(None),
        gone: Expected::Reject,
        unauthorized: Expected::Halt,
    },
    Speaker {
        kind: "cos_trigger",
        options: |url| {
            format!(
                "url = {url:?}\nworkflow_id = \"w4699c83b\"\nbucket = \"media-1250000000\"\nobject = '.execution.key'\n\
                 when = 'true'\n\
                 secret_id = \"hunter2-secret-id\"\nsecret_key = \"hunter2-secret-key\"\n\
                 security_token = \"hunter2-security-token\""
            )
        },
        asks: true,
        sends: ["q-ak=hunter2-secret-id&", "hunter2-security-token"],
        strange_success: Expected::Retry(None),
        gone: Expected::Reject,
        unauthorized: Expected::Halt,
    },
    Speaker {
        kind: "zabbix",
        options: |url| format!("url = {url:?}\ntoken = \"hunter2-api-token\""),
        asks: true,
        sends: ["hunter2-api-token", "Bearer hunter2-api-token"],
        strange_success: Expected::Retry(None),
        gone: Expected::Reject,
        unauthorized: Expected::Halt,
    },
];

/// What a peer answers that has taken a change, where neither a bare `ok` nor [`yes`] is it: kind, status, body.
const SUCCESS: &[(&str, u16, &str)] = &[
    (
        "klyuch_astrom",
        201,
        "{\"reportCount\": 1, \"eventIngestResults\": [{\"correlationId\": \"cef\", \"status\": \"OK\"}]}",
    ),
    ("secmaster", 200, "{\"action_type\": \"workflow\", \"action_instance_id\": \"i1\"}"),
    ("cos_trigger", 200, "<Response><InstanceId>i166ee19</InstanceId></Response>"),
    (
        "zabbix",
        200,
        "{\"jsonrpc\": \"2.0\", \"result\": {\"response\": \"success\", \"data\": [{\"itemid\": \"10600\"}]}, \"id\": 1}",
    ),
];

/// Where a kind takes an answer for something else than the others do: the kind, the case, and what follows there.
const APART: &[(&str, &str, Expected)] = &[
    // Only its own words say that anything was stored.
    ("klyuch_astrom", "created", Expected::Retry(None)),
    ("klyuch_astrom", "no content", Expected::Retry(None)),
    ("klyuch_astrom", "a huge success", Expected::Reject),
    // The token lacks the scope: no event gets through.
    ("klyuch_astrom", "403", Expected::Halt),
    // What was started has to be found first.
    ("cos_trigger", "created", Expected::Retry(None)),
    ("cos_trigger", "no content", Expected::Retry(None)),
    ("cos_trigger", "a huge success", Expected::Retry(None)),
    // Zabbix says in the body whether it took a value, and a value sent twice is kept once.
    ("zabbix", "created", Expected::Retry(None)),
    ("zabbix", "no content", Expected::Retry(None)),
    ("zabbix", "a huge success", Expected::Retry(None)),
];

/// What each kind makes of a success that is none, or only half of one: the kind, the case, status and body.
const HALF: &[(&str, &str, u16, &str, Expected)] = &[
    ("klyuch_astrom", "nothing stored", 201, "{\"reportCount\": 0, \"eventIngestResults\": []}", Expected::Retry(None)),
    (
        "klyuch_astrom",
        "stored in part",
        201,
        "{\"reportCount\": 2, \"eventIngestResults\": [{\"status\": \"OK\"}, {\"status\": \"INVALID_METADATA\"}]}",
        Expected::Reject,
    ),
    (
        "secmaster",
        "an error all the same",
        200,
        "{\"code\": \"SecMaster.20030005\", \"message\": \"no\"}",
        Expected::Reject,
    ),
    ("cos_trigger", "without an id", 200, "<Response><RequestId>r</RequestId></Response>", Expected::Retry(None)),
    (
        "zabbix",
        "a value that is not taken",
        200,
        "{\"jsonrpc\": \"2.0\", \"result\": {\"response\": \"success\", \"data\": [{\"error\": \"no such item\"}]}, \"id\": 1}",
        Expected::Reject,
    ),
    // Its receiver has no words for it.
    ("webhook", "of several", 207, "{\"failed\": 1}", Expected::Delivered),
    ("port_run", "not ok", 200, "{\"ok\": false, \"error\": \"half\"}", Expected::Reject),
];

fn speaker(kind: &str) -> &'static Speaker {
    SPEAKERS.iter().find(|speaker| speaker.kind == kind).expect("described")
}

/// Those that speak no HTTP.
const OTHERS: [&str; 1] = ["stdout"];

/// Everything that any of them could be answered with when all is well; it also is a token, and an open run.
fn yes() -> Act {
    let body = json!({
        "ok": true, "accessToken": "hunter2-token", "expiresIn": 10_800, "tokenType": "Bearer",
        "run": {"id": RUN, "status": "IN_PROGRESS"},
    });
    answer(200, "OK", "content-type: application/json\r\n", &body.to_string())
}

/// Zabbix's answer to whatever is not asked of its credential.
fn zabbix(result: &Value) -> Act {
    let body = json!({"jsonrpc": "2.0", "result": result, "id": 1}).to_string();
    answer(200, "OK", "content-type: application/json\r\n", &body)
}

fn answer(status: u16, word: &str, headers: &str, body: &str) -> Act {
    send(&format!("HTTP/1.1 {status} {word}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()))
}

impl Speaker {
    fn sink(&self, url: &str) -> Box<dyn Sink> {
        sink(self.kind, &(self.options)(url))
    }

    /// What it is answered by a peer of its own that has taken a change.
    fn success(&self) -> Act {
        Act::Send(self.success_bytes())
    }

    fn success_bytes(&self) -> Vec<u8> {
        let own = SUCCESS.iter().find(|own| own.0 == self.kind);
        let act = match own {
            Some((_, status, body)) => answer(*status, "Word", "content-type: application/json\r\n", body),

            None if self.asks => yes(),
            None => answer(200, "OK", "", "ok"),
        };
        let Act::Send(bytes) = act else { unreachable!("it is sent") };
        bytes
    }

    /// What it is answered by such a peer before it tells anything.
    fn asked(&self) -> Act {
        match self.kind {
            "cos_trigger" => answer(200, "OK", "", "<Response><RequestId>r</RequestId></Response>"),
            "zabbix" => zabbix(&json!("7.0.9")),
            _ => yes(),
        }
    }

    /// A connection on which what tells the change meets `acts`, and so does its repetition.
    fn script(&self, acts: &[Act]) -> Vec<Act> {
        let met = [&[Act::Read], acts].concat();
        if !self.asks {
            return met;
        }
        let asked = [Act::Read, self.asked()];
        [&asked[..], &met, &asked, &met].concat()
    }

    /// One try against a peer that answers like this.
    async fn try_against(&self, acts: &[Act]) -> (Tried, Scripted) {
        let peer = Scripted::start(vec![self.script(acts)]).await;
        let sink = self.sink(&format!("http://{}", peer.address()));
        let delivery = delivery();
        let tried = tokio::time::timeout(PATIENCE, sink.deliver(&delivery, NOW)).await.expect("an end");
        let said = format!("{tried:?} {:?}", sink.preview(&delivery, NOW));
        assert!(!said.contains(NEEDLE), "{}: a secret is kept or shown: {said}", self.kind);
        (tried, peer)
    }
}

/// The sink of that kind, beside a source of each kind.
fn sink(kind: &str, options: &str) -> Box<dyn Sink> {
    sink_behind("", kind, options)
}

/// The same, where peers are reached as `outbound` says.
fn sink_behind(outbound: &str, kind: &str, options: &str) -> Box<dyn Sink> {
    sink_of(&format!(
        "[outbound]\n{outbound}\n[server]\ninstance = \"edge\"\n\
         [sources.media]\nkind = \"cos_workflow\"\npath = \"/media\"\nallow_unauthenticated = true\n\
         [sources.portal]\nkind = \"port_action\"\npath = \"/portal\"\nallow_unauthenticated = true\n\
         [sinks.it]\nkind = {kind:?}\n{options}\n"
    ))
}

/// A change of an execution that runs, linked to a Port run.
pub(crate) fn delivery() -> Delivery {
    let execution = Execution {
        source: "media".to_owned(),
        key: "i5f17a1fb".to_owned(),
        name: Some("Transcode".to_owned()),
        workflow: None,
        subject: Some("bucket/in/剪辑 1.mp4".to_owned()),
        status: Status::Running,
        vendor_status: Some("Running".to_owned()),
        created_at: None,
        started_at: Some(NOW),
        finished_at: None,
        inputs: None,
        attributes: Map::from_iter([("bucket".to_owned(), json!("bucket"))]),
    };
    let links = vec![Link { source: "portal".to_owned(), key: RUN.to_owned(), execution: "8".to_owned() }];
    let meta = ChangeMeta {
        kind: "callbackd.execution.running".to_owned(),
        sequence: 1,
        previous_status: None,
        changed_tasks: vec!["j1".to_owned()],
        overdue: false,
        receipt: Some("7".to_owned()),
        received_at: NOW,
    };
    let tasks = vec![Task::new("j1".to_owned(), Status::Running)];
    let change = Change { id: 41, execution_id: 5, state: State { execution, tasks }, links, meta };
    Delivery { id: 99, change: Arc::new(change), attempts: 0, created_at: NOW, resume: None, trace: None }
}

fn found(tried: &Tried) -> Expected {
    match &tried.outcome {
        Outcome::Delivered { .. } => Expected::Delivered,
        Outcome::Retry { after_ms, .. } => Expected::Retry(*after_ms),
        Outcome::Reject { .. } => Expected::Reject,
        Outcome::Halt { .. } => Expected::Halt,
        other => panic!("{other:?}"),
    }
}

/// A request as it came over the wire: its first line, its headers sorted, its body.
fn taken_apart(request: &str) -> (String, Vec<(String, String)>, Value) {
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    let mut lines = head.lines();
    let first = lines.next().expect("a request line").to_owned();
    let header = |line: &str| line.split_once(": ").map(|(n, v)| (n.to_owned(), v.to_owned())).expect("a header");
    let mut headers: Vec<_> = lines.map(header).collect();
    headers.sort();
    (first, headers, serde_json::from_str(body).expect("JSON"))
}

fn headers(all: &[(&str, &str)]) -> Vec<(String, String)> {
    all.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const AGENT: &str = concat!("callbackd/", env!("CARGO_PKG_VERSION"));

#[test]
fn every_kind_is_described_here() {
    let named: BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
    let described: BTreeSet<_> = SPEAKERS.iter().map(|s| s.kind).chain(OTHERS).collect();
    assert_eq!(named, described, "kinds, and what is said of them here");
    for speaker in SPEAKERS {
        assert!(HALF.iter().any(|half| half.0 == speaker.kind), "{}: say in HALF what half a success is", speaker.kind);
    }
}

#[tokio::test]
async fn a_webhook_sends_exactly_this() {
    let (tried, peer) = speaker("webhook").try_against(&[answer(202, "Accepted", "", "ok")]).await;
    assert_eq!((tried.status, tried.answer.as_deref()), (Some(202), Some("ok")));
    let requests = peer.requests();
    let [request] = &requests[..] else { panic!("one request: {requests:?}") };
    let (line, sent, body) = taken_apart(request);
    assert_eq!(line, "POST /hook?key=hunter2-in-the-query HTTP/1.1");
    let text = request.split_once("\r\n\r\n").expect("a body").1;
    let sign =
        |key: &str| signature::base64(&signature::hmac_sha256(key.as_bytes(), &[b"99.1700000000.", text.as_bytes()]));
    let signatures = format!("v1,{} v1,{}", sign("hunter2-signs"), sign("hunter2-signed"));
    assert_eq!(
        sent,
        headers(&[
            ("authorization", "Bearer hunter2-in-a-header"),
            ("content-length", &text.len().to_string()),
            ("content-type", "application/cloudevents+json; charset=utf-8"),
            ("host", &peer.address().to_string()),
            ("user-agent", AGENT),
            ("webhook-id", "99"),
            ("webhook-signature", &signatures),
            ("webhook-timestamp", "1700000000"),
        ])
    );
    let execution = json!({
        "id": "5", "source": "media", "key": "i5f17a1fb", "name": "Transcode", "workflow": null,
        "subject": "bucket/in/剪辑 1.mp4", "status": "running", "vendor_status": "Running", "created_at": null,
        "started_at": "2023-11-14T22:13:20Z", "finished_at": null, "inputs": null, "attributes": {"bucket": "bucket"},
        "links": [{"source": "portal", "key": RUN, "execution": "8"}],
    });
    let task = json!({
        "key": "j1", "name": null, "type": null, "status": "running", "vendor_status": null, "created_at": null,
        "started_at": null, "finished_at": null, "template": null, "outputs": null, "error": null,
    });
    let change = json!({
        "type": "callbackd.execution.running", "sequence": 1, "previous_status": null, "changed_tasks": ["j1"],
        "overdue": false, "receipt": "7", "received_at": "2023-11-14T22:13:20Z",
    });
    let envelope = json!({
        "specversion": "1.0", "id": "41", "source": "callbackd/edge/media", "type": "callbackd.execution.running",
        "subject": "i5f17a1fb", "time": "2023-11-14T22:13:20Z", "datacontenttype": "application/json",
        "data": {"execution": execution, "tasks": [task], "change": change},
    });
    assert_eq!(body, envelope);
}

#[tokio::test]
async fn port_run_sends_exactly_this() {
    let (tried, peer) = speaker("port_run").try_against(&[yes()]).await;
    assert_eq!((found(&tried), tried.status), (Expected::Delivered, Some(200)));
    let requests: Vec<_> = peer.requests().iter().map(|request| taken_apart(request)).collect();
    let host = peer.address().to_string();
    let always = [("accept", "application/json"), ("content-type", "application/json"), ("host", &host)];
    let expected = [
        (
            "POST /v1/auth/access_token HTTP/1.1".to_owned(),
            vec![("content-length", "64")],
            json!({"clientId": "client-one", "clientSecret": "hunter2-client-secret"}),
        ),
        (
            format!("PATCH /v1/actions/runs/{RUN} HTTP/1.1"),
            vec![("authorization", "Bearer hunter2-token"), ("content-length", "64")],
            json!({"externalRunId": "i5f17a1fb", "statusLabel": "Transcode: running"}),
        ),
    ];
    let expected = expected.map(|(line, own, body)| {
        let mut all = headers(&[&always[..], &own, &[("user-agent", AGENT)]].concat());
        all.sort();
        (line, all, body)
    });
    assert_eq!(requests, expected);
}

#[tokio::test]
async fn klyuch_astrom_sends_exactly_this() {
    let (tried, peer) = speaker("klyuch_astrom").try_against(&[speaker("klyuch_astrom").success()]).await;
    assert_eq!((found(&tried), tried.status), (Expected::Delivered, Some(201)));
    let requests = peer.requests();
    let [request] = &requests[..] else { panic!("one request: {requests:?}") };
    let (line, sent, body) = taken_apart(request);
    assert_eq!(line, "POST /e/19a63b03/api/v2/events/ingest HTTP/1.1");
    let text = request.split_once("\r\n\r\n").expect("a body").1;
    assert_eq!(
        sent,
        headers(&[
            ("accept", "application/json; charset=utf-8"),
            ("authorization", "Api-Token dt0c01.ST2EY72KQINMH574.hunter2-secret-part"),
            ("content-length", &text.len().to_string()),
            ("content-type", "application/json; charset=utf-8"),
            ("host", &peer.address().to_string()),
            ("user-agent", AGENT),
        ])
    );
    let properties = json!({
        "dt.event.description": "Transcode running: bucket/in/剪辑 1.mp4; 0 of 1 tasks succeeded",
        "callbackd.run_id": "i5f17a1fb", "callbackd.status": "running", "callbackd.vendor_status": "Running",
        "callbackd.workflow": "Transcode", "callbackd.subject": "bucket/in/剪辑 1.mp4", "callbackd.source": "media",
        "callbackd.started_at": "2023-11-14T22:13:20Z", "callbackd.execution": "5", "callbackd.delivery": "99",
        "callbackd.bucket": "bucket",
    });
    let event = json!({
        "eventType": "CUSTOM_INFO", "title": "Transcode running: bucket/in/剪辑 1.mp4 (i5f17a1fb)",
        "startTime": 1_700_000_000_000_i64, "properties": properties,
    });
    assert_eq!(body, event);
}

#[tokio::test]
async fn secmaster_sends_exactly_this() {
    let (tried, peer) = speaker("secmaster").try_against(&[speaker("secmaster").success()]).await;
    assert_eq!((found(&tried), tried.status), (Expected::Delivered, Some(200)));
    let requests = peer.requests();
    let [request] = &requests[..] else { panic!("one request: {requests:?}") };
    let (line, mut sent, body) = taken_apart(request);
    assert_eq!(line, "POST /v1/p1/workspaces/w1/soc/workflows/f1/instances HTTP/1.1");
    let text = request.split_once("\r\n\r\n").expect("a body").1;
    let (name, authorization) = sent.remove(0);
    let names = "content-type;host;x-project-id;x-sdk-date;x-security-token";
    let begins = format!("SDK-HMAC-SHA256 Access=hunter2-access-key, SignedHeaders={names}, Signature=");
    assert!(name == "authorization" && authorization.starts_with(&begins), "{name}: {authorization}");
    assert_eq!(
        sent,
        headers(&[
            ("content-length", &text.len().to_string()),
            ("content-type", "application/json"),
            ("host", &peer.address().to_string()),
            ("user-agent", AGENT),
            ("x-project-id", "p1"),
            ("x-sdk-date", "20231114T221320Z"),
            ("x-security-token", "hunter2-security-token"),
        ])
    );
    let content = serde_json::to_value(&*delivery().change).expect("JSON");
    let id = &body["action_instance_id"];
    assert_eq!(id.as_str().map(str::len), Some(36));
    let expected = json!({
        "command_type": "ActionInstanceRunCommand", "action_type": "workflow", "action_id": "f1",
        "action_instance_id": id,
        "playbook_context": {"data_object": {"dataclass": {"name": "Alert"}, "content": content}},
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn cos_trigger_sends_exactly_this() {
    let speaker = speaker("cos_trigger");
    let (tried, peer) = speaker.try_against(&[speaker.success()]).await;
    assert_eq!((found(&tried), tried.status), (Expected::Delivered, Some(200)));
    let (host, requests) = (peer.address().to_string(), peer.requests());
    let name = "name=callbackd-edge-99";
    let expected = [
        (
            format!(
                "GET /workflowexecution?workflowId=w4699c83b&{name}&startCreationTime=2023-11-14T22%3A12%3A20%2B0000"
            ),
            "name;startcreationtime;workflowid",
        ),
        (format!("POST /triggerworkflow?workflowId=w4699c83b&object=i5f17a1fb&{name}"), "name;object;workflowid"),
    ];
    assert_eq!(requests.len(), expected.len(), "{requests:?}");
    for (request, (line, parameters)) in requests.iter().zip(expected) {
        let (head, body) = request.split_once("\r\n\r\n").expect("a head");
        let (first, rest) = head.split_once("\r\n").expect("headers");
        assert_eq!((first, body), (format!("{line} HTTP/1.1").as_str(), ""));
        let mut sent: Vec<_> = rest.lines().filter(|header| *header != "content-length: 0").collect();
        sent.sort_unstable();
        // What the signature is, another program verifies: the fake CI.
        let time = "1699999940;1700000840";
        let begin = format!(
            "authorization: q-sign-algorithm=sha1&q-ak=hunter2-secret-id&q-sign-time={time}&q-key-time={time}\
             &q-header-list=host;x-cos-security-token&q-url-param-list={parameters}&q-signature="
        );
        assert!(sent.remove(0).strip_prefix(&begin).is_some_and(|signature| signature.len() == 40), "{request}");
        let rest = [
            format!("host: {host}"),
            format!("user-agent: {AGENT}"),
            "x-cos-security-token: hunter2-security-token".to_owned(),
        ];
        assert_eq!(sent, rest);
    }
}

#[tokio::test]
async fn zabbix_sends_exactly_this() {
    let (tried, peer) = speaker("zabbix").try_against(&[speaker("zabbix").success()]).await;
    assert_eq!((found(&tried), tried.status), (Expected::Delivered, Some(200)));
    let requests: Vec<_> = peer.requests().iter().map(|request| taken_apart(request)).collect();
    let value = "{\"state\":\"running\",\"thing\":\"media/Transcode/bucket/in/剪辑%201.mp4\",\
                 \"title\":\"Transcode: bucket/in/剪辑 1.mp4\",\"status\":\"running\",\"source\":\"media\",\
                 \"workflow\":null,\"name\":\"Transcode\",\"subject\":\"bucket/in/剪辑 1.mp4\",\"run\":\"i5f17a1fb\",\
                 \"vendor_status\":\"Running\",\"started_at\":\"2023-11-14T22:13:20Z\",\"finished_at\":null,\
                 \"execution\":\"5\",\"change\":\"41\",\"tasks\":1,\"failed\":[]}";
    let point = json!({
        "host": "callbackd", "key": "callbackd.execution", "value": value, "clock": 1_700_000_000, "ns": 99,
    });
    let host = peer.address().to_string();
    let body = |method: &str, params: Value| json!({"jsonrpc": "2.0", "method": method, "params": params, "id": 1});
    let sent = [body("apiinfo.version", json!([])), body("history.push", json!([point]))];
    let always = [
        ("accept", "application/json"),
        ("content-type", "application/json-rpc"),
        ("host", &host),
        ("user-agent", AGENT),
    ];
    // The version is asked for without any credential.
    let own = [&[][..], &[("authorization", "Bearer hunter2-api-token")]];
    let expected: Vec<_> = sent
        .into_iter()
        .zip(own)
        .map(|(body, own)| {
            let length = body.to_string().len().to_string();
            let mut all = headers(&[&always[..], own, &[("content-length", &length)]].concat());
            all.sort();
            ("POST /api_jsonrpc.php HTTP/1.1".to_owned(), all, body)
        })
        .collect();
    assert_eq!(requests, expected);
}

#[tokio::test]
async fn an_answer_is_taken_for_what_it_is() {
    use Expected::{Delivered, Reject, Retry};
    let html = "<html><body>hello</body></html>";
    let page = |status, word| vec![answer(status, word, "content-type: text/html\r\n", html)];
    let with = |status, headers: &str| vec![answer(status, "Word", headers, "")];
    let date = "retry-after: Tue, 14 Nov 2023 22:13:50 GMT\r\n";
    let window = "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1700000060\r\n";
    let in_ms = "x-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1700000060000\r\n";
    let in_us = "x-ratelimit-limit: 50\r\nx-ratelimit-remaining: 0\r\nx-ratelimit-reset: 1700000060000000\r\n";
    let reset_alone = "x-ratelimit-reset: 1700000060\r\n";
    let left = "x-ratelimit-remaining: 3\r\nx-ratelimit-reset: 1700000060\r\n";
    let chunked = "HTTP/1.1 500 Oops\r\ntransfer-encoding: chunked\r\n\r\n";
    let huge = format!("HTTP/1.1 503 Busy\r\ncontent-length: {}\r\n\r\n", (1 << 20) + 1);
    let mut met = BTreeSet::new();
    for speaker in SPEAKERS {
        let success = speaker.success_bytes();
        let slow = Act::Trickle(success.clone(), Duration::from_millis(1));
        let mislabelled = String::from_utf8_lossy(&success).replace("application/json", "text/plain");
        let mut cases: Vec<(String, Vec<Act>, Expected)> = [
            ("its own success", vec![speaker.success()], Delivered),
            ("its own success, byte by byte", vec![slow], Delivered),
            ("its own success, called something else", vec![send(&mislabelled)], Delivered),
            ("created", vec![answer(201, "Created", "", "{\"ok\": true}")], Delivered),
            ("no content", vec![send("HTTP/1.1 204 No Content\r\n\r\n")], Delivered),
            ("a success that is a page", page(200, "OK"), speaker.strange_success),
            ("a pause in seconds", with(429, "retry-after: 7\r\n"), Retry(Some(7_000))),
            ("a pause until a date", with(429, date), Retry(Some(30_000))),
            ("a window that is used up", with(429, window), Retry(Some(60_000))),
            ("a window in milliseconds", with(429, in_ms), Retry(Some(60_000))),
            ("a window in microseconds", with(429, in_us), Retry(Some(60_000))),
            ("a window's end alone", with(429, reset_alone), Retry(Some(60_000))),
            ("a limit of something else", with(429, left), Retry(None)),
            ("a limit without a word", with(429, ""), Retry(None)),
            ("a limit on a page", vec![answer(429, "Word", "retry-after: 7\r\n", html)], Retry(Some(7_000))),
            ("a pause for maintenance", with(503, "retry-after: 120\r\n"), Retry(Some(120_000))),
            ("a timeout", with(408, ""), Retry(None)),
            ("a proxy's page", page(502, "Bad Gateway"), Retry(None)),
            ("closed", vec![Act::Close], Retry(None)),
            ("half-closed", vec![Act::HalfClose, Act::Hang], Retry(None)),
            ("reset", vec![Act::Reset], Retry(None)),
            ("half a head", vec![send("HTTP/1.1 200 OK\r\ncontent-le"), Act::Close], Retry(None)),
            (
                "half a body",
                vec![send("HTTP/1.1 200 OK\r\ncontent-length: 50\r\n\r\n{\"ok\""), Act::Reset],
                Retry(None),
            ),
            ("no HTTP", vec![send("220 mail.example ESMTP\r\n\r\n"), Act::Hang], Retry(None)),
            ("an endless body", vec![send(chunked), Act::Flood(b"5\r\nabcde\r\n".to_vec())], Retry(None)),
            ("a huge body", vec![send(&huge), Act::Hang], Retry(None)),
            // It was taken; that the answer is too long to be read changes nothing.
            ("a huge success", vec![send("HTTP/1.1 200 OK\r\n\r\n"), Act::Flood(vec![b'a'; 65_536])], Delivered),
            ("a refused credential", with(401, ""), speaker.unauthorized),
            ("gone", with(410, ""), speaker.gone),
        ]
        .map(|(name, acts, expected)| (name.to_owned(), acts, expected))
        .into();
        cases.extend([500, 501, 504, 507, 599].map(|status| (status.to_string(), with(status, ""), Retry(None))));
        cases.extend(
            [400, 402, 403, 404, 405, 409, 413, 415, 422].map(|status| (status.to_string(), with(status, ""), Reject)),
        );
        let halves = HALF.iter().filter(|half| half.0 == speaker.kind);
        cases.extend(halves.map(|&(_, name, status, body, expected)| {
            (name.to_owned(), vec![answer(status, "Word", "content-type: application/json\r\n", body)], expected)
        }));
        for (name, acts, expected) in cases {
            let apart = APART.iter().find(|apart| (apart.0, apart.1) == (speaker.kind, &*name));
            let expected = apart.map_or(expected, |apart| apart.2);
            met.extend(apart.map(|apart| (apart.0, apart.1)));
            let (tried, _) = speaker.try_against(&acts).await;
            assert_eq!(found(&tried), expected, "{} meets {name}: {tried:?}", speaker.kind);
            if let Outcome::Retry { reason, .. } | Outcome::Reject { reason } | Outcome::Halt { reason, .. } =
                &tried.outcome
            {
                assert!(!reason.is_empty() && reason.len() < 500, "{}, {name}: {reason}", speaker.kind);
            }
            assert!(tried.answer.is_none_or(|answer| answer.chars().count() <= 500), "{}, {name}", speaker.kind);
        }
    }
    assert_eq!(met.len(), APART.len(), "cases of APART that there are: {met:?}");
}

#[tokio::test]
async fn a_redirect_is_never_followed() {
    for speaker in SPEAKERS {
        let elsewhere = Scripted::start(vec![vec![Act::Read, yes()]; 4]).await;
        for status in [301, 302, 303, 307, 308] {
            let location = format!("location: http://{}/hook\r\n", elsewhere.address());
            let (tried, _) = speaker.try_against(&[answer(status, "Elsewhere", &location, "")]).await;
            assert_eq!(found(&tried), Expected::Reject, "{} meets {status}: {tried:?}", speaker.kind);
        }
        assert_eq!(elsewhere.connections(), 0, "{}", speaker.kind);
    }
}

#[tokio::test]
async fn a_peer_that_repeats_what_it_was_sent_gets_no_secret_kept() {
    for speaker in SPEAKERS {
        let said = speaker.sends.map(|secret| format!("cannot take {secret}."));
        for status in [200, 400, 401, 403, 422, 429, 500] {
            let json = json!({"ok": false, "error": said[0], "message": said.join(" ")}).to_string();
            for body in [json, said.join("\n"), format!("{}{}", " ".repeat(460), said[0])] {
                // `try_against` looks for them.
                let (tried, _) = speaker.try_against(&[answer(status, "Word", "", &body)]).await;
                let kept = tried.answer.expect("an answer");
                assert!(kept.contains("[secret]"), "{} keeps {kept:?}", speaker.kind);
            }
        }
    }
}

#[tokio::test]
async fn every_sink_goes_through_the_proxy_and_loses_nothing_to_it() {
    const URL: &str = "http://peer.invalid:8080";
    let page = "<html>not with bWU6aHVudGVyMi1wYXNz of hunter2-pass</html>";
    let say = |status, word| match answer(status, word, "content-type: text/html\r\n", page) {
        Act::Send(bytes) => Policy::Say(String::from_utf8(bytes).expect("text")),
        other => unreachable!("{other:?}"),
    };
    for speaker in SPEAKERS {
        let one = |act: Act| vec![Act::Read, act];
        let scripts = if speaker.asks {
            vec![one(speaker.asked()), one(speaker.success())]
        } else {
            vec![one(speaker.success())]
        };
        let requests = scripts.len();
        let peer = Scripted::start(scripts).await;
        let credential = "Basic bWU6aHVudGVyMi1wYXNz";
        for (policy, expected) in [
            (Policy::Serve(peer.address(), credential), Expected::Delivered),
            (Policy::Serve(peer.address(), "Basic another"), Expected::Retry(None)),
            (say(502, "Bad Gateway"), Expected::Retry(None)),
            (say(504, "Gateway Timeout"), Expected::Retry(None)),
        ] {
            let proxy = FakeProxy::start(policy).await;
            let outbound = format!("proxy = \"http://me:hunter2-pass@{}\"", proxy.address());
            let sink = sink_behind(&outbound, speaker.kind, &(speaker.options)(URL));
            let tried = tokio::time::timeout(PATIENCE, sink.deliver(&delivery(), NOW)).await.expect("an end");
            assert_eq!(found(&tried), expected, "{}: {tried:?}", speaker.kind);
            let said = format!("{tried:?}");
            assert!(!said.contains(NEEDLE) && !said.contains("bWU6aHVudGVyMi1wYXNz"), "{}: {said}", speaker.kind);
            assert!(proxy.lines().iter().all(|line| line.contains(&format!(" {URL}/"))), "{:?}", proxy.lines());
        }
        let met = peer.requests();
        assert_eq!(met.len(), requests, "{}", speaker.kind);
        assert!(met.iter().all(|request| !request.to_ascii_lowercase().contains("proxy-authorization")), "{met:?}");
    }
}

#[test]
fn a_try_without_an_end_is_cut_off_and_comes_again() {
    // Each mostly waits: all of them do it at once.
    std::thread::scope(|scope| {
        for speaker in SPEAKERS {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            scope.spawn(move || runtime.block_on(is_cut_off(speaker)));
        }
    });
}

async fn is_cut_off(speaker: &Speaker) {
    let stuck = [
        ("no answer", vec![Act::Hang]),
        ("half a head", vec![send("HTTP/1.1 200 OK\r\ncontent-le"), Act::Hang]),
        ("a body that stops", vec![send("HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n{\"ok\": true"), Act::Hang]),
        (
            "a body that drips",
            vec![
                send("HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"),
                Act::Trickle(vec![b' '; 9999], Duration::from_millis(5)),
            ],
        ),
    ];
    for (name, acts) in &stuck {
        let name = format!("{} meets {name}", speaker.kind);
        // One that is in doubt asks twice; whoever else asked knows the answer still.
        let questions = if speaker.kind == "cos_trigger" { 2 } else { 0 };
        let well = [vec![speaker.asked(); questions], vec![speaker.success(); 4]].concat();
        let well = well.into_iter().flat_map(|act| [Act::Read, act]).collect();
        let peer = Scripted::start(vec![speaker.script(acts), well]).await;
        let sink = speaker.sink(&format!("http://{}", peer.address()));
        let mut rig = Rig::new(sink.into(), Service { timeout: Duration::from_millis(1500), ..service() });
        rig.forward();
        let mut update = Update { key: "i5f17a1fb".to_owned(), ..Update::default() };
        update.execution.attributes.insert("headers".to_owned(), json!({"x-cos-meta-port-run-id": RUN}));
        rig.record_update(update).await;
        let row = rig.until_status("i5f17a1fb", "delivered").await;
        let attempts = rig.attempts(&row).await;
        let outcomes: Vec<_> = attempts.iter().map(|a| (a.outcome.as_str(), a.reason.as_deref())).collect();
        assert_eq!(outcomes[0], ("retry", Some("no answer within 1.5 s")), "{name}");
        assert!(outcomes.len() == 2 && outcomes[1].0 == "delivered", "{name}: {outcomes:?}");
        assert!(attempts[0].duration_ms >= 1500, "{name}: {attempts:?}");
        // What was cut off holds no connection.
        tokio::time::timeout(PATIENCE, peer.ended(1)).await.expect(&name);
        rig.stop.begin();
        rig.ended().await;
    }
}

#[tokio::test]
async fn stdout_is_told_one_line_of_either_form() {
    for (options, begins) in
        [("", "{\"specversion\":\"1.0\""), ("format = \"text\"", "2023-11-14T22:13:20Z callbackd.")]
    {
        let preview = sink("stdout", options).preview(&delivery(), NOW);
        let [line] = &preview[..] else { panic!("{preview:?}") };
        assert!(line.body.starts_with(begins) && line.body.lines().count() == 1, "{line:?}");
    }
}
