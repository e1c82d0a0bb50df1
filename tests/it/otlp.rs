//! Traces as a collector is told them: a fake one, which checks the protocol to the letter and is no real collector.
//!
//! It takes what OTLP/HTTP with JSON is, and nothing else: known keys of the right types, ids of the right length, and the
//! right content type. What it refuses, it answers 400 and remembers: each test ends with nothing refused.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Map, Value, json};

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Closed, Hook, Reply, Seen};

const MEDIA: &str = "/callbacks/media/t0ken";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{SPAN}-{flags}")
}

fn config(hook: &str, collector: &str) -> String {
    format!(
        "store.url = \"sqlite:callbackd.db\"\nserver.instance = \"edge\"\n\
         otlp = {{ endpoint = \"{collector}\", headers = {{ authorization = \"Bearer hunter2\" }} }}\n\
         sources.media = {{ kind = \"cos_workflow\", path = \"/callbacks/media\", token = \"t0ken\" }}\n\
         sinks.hook = {{ kind = \"webhook\", url = \"{hook}\", retry_first = \"10ms\", retry_longest = \"50ms\" }}\n\
         routes = [{{ from = [\"media\"], to = [\"hook\"] }}]\n"
    )
}

/// What one message may hold: its keys, with what each has to be. Everything else is refused.
type Shape = &'static [(&'static str, fn(&Value) -> Result<(), String>)];

const REQUEST: Shape = &[("resourceSpans", |v| each(v, RESOURCE_SPANS))];
const RESOURCE_SPANS: Shape =
    &[("resource", |v| whole(v, RESOURCE)), ("scopeSpans", |v| each(v, SCOPE_SPANS)), ("schemaUrl", text)];
const RESOURCE: Shape = &[("attributes", |v| each(v, ATTRIBUTE)), ("droppedAttributesCount", number)];
const SCOPE_SPANS: Shape = &[("scope", |v| whole(v, SCOPE)), ("spans", |v| each(v, SPAN_SHAPE)), ("schemaUrl", text)];
const SCOPE: Shape = &[("name", text), ("version", text), ("attributes", |v| each(v, ATTRIBUTE))];
const SPAN_SHAPE: Shape = &[
    ("traceId", |v| hex(v, 32)),
    ("spanId", |v| hex(v, 16)),
    ("traceState", text),
    ("parentSpanId", |v| hex(v, 16)),
    ("flags", number),
    ("name", text),
    ("kind", |v| one_of(v, 1..=5)),
    ("startTimeUnixNano", number_64),
    ("endTimeUnixNano", number_64),
    ("attributes", |v| each(v, ATTRIBUTE)),
    ("status", |v| whole(v, STATUS)),
];
const STATUS: Shape = &[("message", text), ("code", |v| one_of(v, 0..=2))];
const ATTRIBUTE: Shape = &[("key", text), ("value", |v| whole(v, ANY))];
const ANY: Shape = &[("stringValue", text), ("intValue", number_64)];

fn whole(value: &Value, shape: Shape) -> Result<(), String> {
    let object = value.as_object().ok_or_else(|| format!("{value} is no object"))?;
    for (key, value) in object {
        let (_, judge) = shape.iter().find(|(known, _)| known == key).ok_or_else(|| format!("unknown key {key:?}"))?;
        judge(value).map_err(|e| format!("{key}: {e}"))?;
    }
    Ok(())
}

fn each(value: &Value, shape: Shape) -> Result<(), String> {
    value.as_array().ok_or_else(|| format!("{value} is no list"))?.iter().try_for_each(|item| whole(item, shape))
}

fn held(value: &Value, is: bool, what: &str) -> Result<(), String> {
    if is { Ok(()) } else { Err(format!("{value} is no {what}")) }
}

fn text(value: &Value) -> Result<(), String> {
    held(value, value.is_string(), "text")
}

fn number(value: &Value) -> Result<(), String> {
    held(value, value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()), "number of 32 bits")
}

/// The JSON of protobuf writes them as text.
fn number_64(value: &Value) -> Result<(), String> {
    held(value, value.as_str().is_some_and(|text| text.parse::<i64>().is_ok()), "number of 64 bits, as text")
}

fn one_of(value: &Value, numbers: std::ops::RangeInclusive<u64>) -> Result<(), String> {
    held(value, value.as_u64().is_some_and(|n| numbers.contains(&n)), "number of the enum")
}

fn hex(value: &Value, digits: usize) -> Result<(), String> {
    let is_id = |id: &str| {
        let is_hex = id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        id.len() == digits && is_hex && id.bytes().any(|b| b != b'0')
    };
    held(value, value.as_str().is_some_and(is_id), "id in hex")
}

/// What the schema cannot say.
fn judge_spans(request: &Value) -> Result<(), String> {
    let told = spans(request);
    held(request, !told.is_empty(), "request with spans")?;
    for span in told {
        for key in ["traceId", "spanId", "name", "kind", "startTimeUnixNano", "endTimeUnixNano"] {
            held(&span, span.get(key).is_some(), "whole span")?;
        }
        let nanos = |key: &str| span[key].as_str().and_then(|text| text.parse::<u64>().ok());
        held(&span, nanos("startTimeUnixNano") <= nanos("endTimeUnixNano"), "span that ends after it began")?;
        let mut keys: Vec<_> =
            span["attributes"].as_array().into_iter().flatten().map(|a| a["key"].to_string()).collect();
        let count = keys.len();
        keys.sort();
        keys.dedup();
        held(&span, keys.len() == count, "span with each attribute once")?;
    }
    Ok(())
}

fn spans(request: &Value) -> Vec<Value> {
    let of = |value: &Value, key: &str| value[key].as_array().cloned().unwrap_or_default();
    let scopes = of(request, "resourceSpans").into_iter().flat_map(|resource| of(&resource, "scopeSpans"));
    scopes.flat_map(|scope| of(&scope, "spans")).collect()
}

#[derive(Default)]
struct Said {
    taken: Vec<Value>,
    /// How many requests came before, and what they were answered.
    put_off: usize,
    refused: Vec<String>,
    /// What is still to be answered instead: whole heads of answers.
    instead: VecDeque<&'static str>,
}

/// The fake collector, on threads of its own.
struct Collector {
    url: String,
    said: Arc<Mutex<Said>>,
}

impl Collector {
    fn start(instead: &[&'static str]) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let said = Arc::new(Mutex::new(Said { instead: instead.iter().copied().collect(), ..Said::default() }));
        let kept = Arc::clone(&said);
        // They end with the process: nothing is asked of them any more.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let said = Arc::clone(&kept);
                thread::spawn(move || while serve(&stream, &said).is_some() {});
            }
        });
        Collector { url, said }
    }

    /// Every span that was taken, once nothing is refused.
    fn spans(&self) -> Vec<Value> {
        let said = self.said.lock().expect("sound");
        assert!(said.refused.is_empty(), "{:#?}", said.refused);
        said.taken.iter().flat_map(spans).collect()
    }

    fn until(&self, count: usize) -> Vec<Value> {
        soon("all spans", || Some(self.spans()).filter(|spans| spans.len() >= count))
    }
}

fn serve(stream: &TcpStream, said: &Mutex<Said>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        match line.trim_end() {
            "" => break,
            line => head.push(line.to_owned()),
        }
    }
    let header = |name: &str| {
        let mut fields = head.iter().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    };
    let mut body = vec![0; header("content-length")?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let mut said = said.lock().expect("sound");
    let judged = (|| {
        let is = |is: bool, what: &str| if is { Ok(()) } else { Err(format!("{what}: {head:?}")) };
        is(head[0] == "POST /v1/traces HTTP/1.1", "not where traces are taken")?;
        is(header("content-type").as_deref() == Some("application/json"), "the wrong content type")?;
        is(header("content-encoding").is_none(), "encoded")?;
        is(header("authorization").as_deref() == Some("Bearer hunter2"), "a stranger")?;
        let request: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        whole(&request, REQUEST)?;
        judge_spans(&request).map(|()| request)
    })();
    let answer = match (judged, said.instead.pop_front()) {
        (Err(e), _) => {
            said.refused.push(e);
            "400 Bad Request\r\n"
        }
        (Ok(_), Some(instead)) => {
            said.put_off += 1;
            instead
        }
        (Ok(request), None) => {
            said.taken.push(request);
            "200 OK\r\n"
        }
    };
    drop(said);
    let answer = format!("HTTP/1.1 {answer}Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}");
    (&mut &*stream).write_all(answer.as_bytes()).ok()
}

fn attributes(span: &Value) -> Map<String, Value> {
    let all = span["attributes"].as_array().expect("attributes");
    let value = |of: &Value| of.as_object().and_then(|of| of.values().next()).expect("a value").clone();
    all.iter().map(|a| (a["key"].as_str().expect("a key").to_owned(), value(&a["value"]))).collect()
}

fn told(hook: &Hook, key: &str) -> Vec<Seen> {
    hook.seen().into_iter().filter(|seen| !seen.taken && seen.key() == key).collect()
}

#[test]
fn a_receipt_and_each_try_stand_in_the_senders_trace_under_the_ids_that_webhooks_see() {
    let fails = Mutex::new(2);
    let hook = Hook::start(move || {
        let mut fails = fails.lock().expect("sound");
        *fails -= i32::from(*fails > 0);
        Reply::Status(if *fails > 0 { 503 } else { 200 })
    });
    // The first request comes again when the collector wants it to.
    let collector = Collector::start(&["503 Busy\r\nRetry-After: 0\r\n", "429 Slow Down\r\nRetry-After: 1\r\n"]);
    let daemon = Daemon::run(&config(&hook.url(), &collector.url));
    let answer =
        daemon.post(MEDIA, &[("traceparent", &parent("01")), ("tracestate", "congo=1")], cos(Step::Success, "one"));
    assert_eq!(answer.status, 200);
    // The first requests are its own.
    soon("it was tried twice", || (told(&hook, "one").len() == 2).then_some(()));
    // Neither sampled nor in a trace: nobody is to hear of these.
    assert_eq!(daemon.post(MEDIA, &[("traceparent", &parent("00"))], cos(Step::Success, "unsampled")).status, 200);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "none")).status, 200);
    // A stranger with a sampled trace is none of ours to tell.
    let stranger = daemon.post("/callbacks/media/wrong", &[("traceparent", &parent("01"))], cos(Step::Success, "x"));
    assert_eq!(stranger.status, 401);
    soon("all are told", || (hook.taken().len() == 3).then_some(()));

    let spans = collector.until(3);
    let (receipts, tries): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span["kind"] == 2);
    assert_eq!((receipts.len(), tries.len()), (1, 2), "{spans:#?}");
    assert!(spans.iter().all(|span| span["traceId"] == TRACE && span["traceState"] == "congo=1"), "{spans:#?}");
    let receipt = receipts[0];
    let received = attributes(receipt);
    assert_eq!((&receipt["parentSpanId"], &receipt["name"]), (&json!(SPAN), &json!("receive media")));
    assert_eq!(receipt["flags"], json!(0x301), "sampled, and its parent is elsewhere");
    assert_eq!((&received["source.name"], &received["receipt.outcome"]), (&json!("media"), &json!("accepted")));
    assert_eq!(received["receipt.id"], answer.json()["receipt"]);
    assert_eq!((&received["http.response.status_code"], receipt.get("status")), (&json!("200"), None));

    let seen: Vec<_> =
        told(&hook, "one").iter().map(|s| s.header("traceparent").expect("a trace").to_owned()).collect();
    let sent: Vec<_> =
        tries.iter().map(|span| format!("00-{TRACE}-{}-01", span["spanId"].as_str().expect("an id"))).collect();
    assert_eq!(seen, sent, "the very spans that the receiver saw, in their order");
    let expected = [("retry", "503", json!({ "code": 2 })), ("delivered", "200", Value::Null)];
    for (span, (outcome, status, failure)) in tries.iter().zip(expected) {
        let tried = attributes(span);
        assert_eq!((&span["parentSpanId"], &span["flags"]), (&receipt["spanId"], &json!(0x101)), "below the receipt");
        assert_eq!(span["kind"], 3);
        assert_eq!((&tried["sink.name"], &tried["execution.key"]), (&json!("hook"), &json!("one")));
        assert_eq!((&tried["attempt.outcome"], &tried["http.response.status_code"]), (&json!(outcome), &json!(status)));
        assert_eq!(span["status"]["code"], failure["code"]);
        assert_eq!(tried.get("error.type"), (outcome == "retry").then(|| json!("503")).as_ref());
        assert!(told(&hook, "one").iter().all(|seen| tried["delivery.id"] == *seen.id));
    }
    assert_eq!(collector.said.lock().expect("sound").put_off, 2);
    assert!(!daemon.log().contains("hunter2"));
}

#[test]
fn what_waits_is_told_before_the_daemon_ends() {
    let hook = Hook::start(|| Reply::Status(200));
    let collector = Collector::start(&[]);
    let mut daemon = Daemon::run(&config(&hook.url(), &collector.url));
    for run in 0..3 {
        assert_eq!(daemon.post(MEDIA, &[("traceparent", &parent("01"))], cos(Step::Success, run)).status, 200);
    }
    soon("all are told", || (hook.taken().len() == 3).then_some(()));
    assert!(daemon.terminate().success());
    assert_eq!(collector.spans().len(), 6);
}

/// A try that a later process makes has its receipt's span for a parent, which an earlier one told of.
#[test]
fn a_span_has_its_parent_across_a_restart() {
    let closed = Closed::reserve();
    let collector = Collector::start(&[]);
    let mut daemon = Daemon::run(&config(&closed.url(), &collector.url));
    assert_eq!(daemon.post(MEDIA, &[("traceparent", &parent("01"))], cos(Step::Success, "one")).status, 200);
    assert!(daemon.terminate().success());
    let before = collector.spans();
    let receipt = before.iter().find(|span| span["kind"] == 2).expect("the receipt's").clone();
    let _hook = closed.open(|| Reply::Status(200));
    daemon.start();
    let delivered = soon("the last try", || {
        let spans = collector.spans();
        spans.into_iter().find(|span| span["kind"] == 3 && span.get("status").is_none())
    });
    assert_eq!(delivered["parentSpanId"], receipt["spanId"]);
    assert!(!before.contains(&delivered));
}

#[test]
fn a_collector_that_is_not_there_or_never_answers_delays_nobody() {
    let closed = Closed::reserve();
    // Takes connections, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent_url = format!("http://{}", silent.local_addr().expect("an address"));
    for collector in [closed.url().replace("/hooks", ""), silent_url] {
        let hook = Hook::start(|| Reply::Status(200));
        let mut daemon = Daemon::run(&config(&hook.url(), &collector));
        for run in 0..50 {
            assert_eq!(daemon.post(MEDIA, &[("traceparent", &parent("01"))], cos(Step::Success, run)).status, 200);
        }
        soon("all are told", || (hook.taken().len() == 50).then_some(()));
        // It ends while the collector still owes an answer, and says what was lost.
        assert!(daemon.terminate().success());
        let log = daemon.log();
        assert!(log.contains("the collector was not told") || log.contains("the last spans are not told"), "{log}");
    }
}

#[test]
fn what_a_collector_will_never_take_is_not_sent_again() {
    let hook = Hook::start(|| Reply::Status(200));
    let collector = Collector::start(&["400 No\r\n"]);
    let daemon = Daemon::run(&config(&hook.url(), &collector.url));
    assert_eq!(daemon.post(MEDIA, &[("traceparent", &parent("01"))], cos(Step::Success, "one")).status, 200);
    daemon.logged(|line| {
        line["fields"]["message"].as_str().or(line["message"].as_str()) == Some("the collector refuses spans")
    });
    assert_eq!(daemon.post(MEDIA, &[("traceparent", &parent("01"))], cos(Step::Success, "two")).status, 200);
    let spans = soon("the second's", || Some(collector.spans()).filter(|spans| !spans.is_empty()));
    let keys: Vec<_> = spans.iter().filter_map(|span| attributes(span).get("execution.key").cloned()).collect();
    assert!(!keys.contains(&json!("one")), "{spans:#?}");
}

#[test]
fn what_is_wrong_with_the_section_is_said() {
    let daemon = Daemon::prepare();
    let check = |otlp: &str| {
        daemon.configure(&format!("otlp = {otlp}\n"));
        let done = daemon.cli_alone(&["check", "--config", "callbackd.toml"]);
        assert_eq!(done.code, Some(78), "{done:?}");
        done.stderr
    };
    assert!(check("{ endpoint = \"127.0.0.1:4318\" }").contains("otlp.endpoint: "));
    assert!(check("{ }").contains("otlp.endpoint: has to be written"));
    let said = check("{ endpoint = \"http://a\", headers = { \"content-type\" = \"x\", a = \"hunter2\\n\" } }");
    assert!(said.contains("callbackd sets this header itself") && said.contains("line break"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    assert!(check("{ endpoint = \"http://a\", ca_file = \"nowhere.pem\" }").contains("otlp.ca_file: "));
}
