//! The stream of what happens, as a listener has it on the wire, from the real daemon.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::callbacks::{Step, cos, port, signed};
use crate::daemon::{Daemon, PATIENCE, soon};
use crate::peers::hook::{Hook, Reply};

const SECRET: &str = "hush";

fn config(url: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sources.portal]\nkind = \"port_action\"\npath = \"/callbacks/port\"\nsecret = \"{SECRET}\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = \"{url}\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

/// One thing that was told.
#[derive(Clone, Debug, PartialEq)]
struct Told {
    kind: String,
    id: Option<String>,
    data: Value,
}

impl Told {
    /// `change key status`, or `delivery key outcome`.
    fn line(&self) -> String {
        let (key, word) = match self.kind.as_str() {
            "change" => (&self.data["execution"]["key"], &self.data["execution"]["status"]),
            _ => (&self.data["key"], &self.data["outcome"]),
        };
        format!("{} {} {}", self.kind, key.as_str().expect("a key"), word.as_str().unwrap_or("-"))
    }
}

/// Who listens, in HTTP/1.0, so that what comes is told without chunks.
struct Listener {
    from: BufReader<TcpStream>,
    head: String,
    /// Where it began, or went on.
    cursor: String,
}

impl Listener {
    fn new(daemon: &Daemon, query: &str, last: Option<&str>) -> Listener {
        let mut listener = Listener::ask(daemon, query, last);
        assert!(listener.head.starts_with("HTTP/1.0 200"), "{}", listener.head);
        let opening = listener.block().expect("an opening");
        assert!(opening.contains("retry: 1000\n"), "{opening}");
        listener.cursor = field(&opening, "id").expect("a cursor");
        listener
    }

    fn ask(daemon: &Daemon, query: &str, last: Option<&str>) -> Listener {
        Listener::over(TcpStream::connect(&daemon.admin).expect("connected"), query, last)
    }

    fn over(mut stream: TcpStream, query: &str, last: Option<&str>) -> Listener {
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        let last = last.map(|last| format!("Last-Event-ID: {last}\r\n")).unwrap_or_default();
        let request = format!("GET /api/v1/stream{query} HTTP/1.0\r\nHost: localhost\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut listener = Listener { from: BufReader::new(stream), head: String::new(), cursor: String::new() };
        listener.head = listener.block().expect("a head");
        listener
    }

    /// Lines up to an empty one; `None` at the end.
    fn block(&mut self) -> Option<String> {
        let mut block = String::new();
        loop {
            let mut line = String::new();
            let read = self.from.read_line(&mut line).expect("read in time");
            if read == 0 {
                assert!(block.is_empty(), "cut off: {block}");
                return None;
            }
            if line.trim_end().is_empty() {
                return Some(block);
            }
            block.push_str(&line);
        }
    }

    fn next(&mut self) -> Option<Told> {
        loop {
            let block = self.block()?;
            if let Some(kind) = field(&block, "event") {
                let data = field(&block, "data").expect("data");
                let data = serde_json::from_str(&data).expect("JSON");
                return Some(Told { kind, id: field(&block, "id"), data });
            }
        }
    }

    fn take(&mut self, count: usize) -> Vec<Told> {
        (0..count).map(|_| self.next().expect("more")).collect()
    }

    fn rest(mut self) -> Vec<Told> {
        std::iter::from_fn(|| self.next()).collect()
    }
}

fn field(block: &str, name: &str) -> Option<String> {
    block.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
}

fn callback(daemon: &Daemon, step: Step, run: &str) {
    assert_eq!(daemon.post("/callbacks/media/t0ken", &[], cos(step, run)).status, 200);
}

#[test]
fn everything_is_told_once_and_in_order_and_from_any_place_again() {
    // Every third one fails at first.
    let count = AtomicUsize::new(0);
    let hook = Hook::start(move || match count.fetch_add(1, Ordering::Relaxed) % 3 {
        0 => Reply::Status(503),
        _ => Reply::Status(200),
    });
    let daemon = Daemon::run(&config(&hook.url()));
    callback(&daemon, Step::Start, "before");
    soon("told", || (daemon.list(&["deliveries", "list", "--status", "delivered"]).len() == 1).then_some(()));
    let before = daemon.look("/api/v1/executions/before").json();

    let mut listener = Listener::new(&daemon, "", None);
    assert!(listener.head.contains("content-type: text/event-stream\r\n"), "{}", listener.head);
    thread::scope(|scope| {
        for sender in 0..4 {
            let daemon = &daemon;
            scope.spawn(move || {
                for n in 0..5 {
                    for step in [Step::Start, Step::TaskFinish, Step::Success] {
                        callback(daemon, step, &format!("r{sender}-{n}"));
                    }
                }
            });
        }
    });
    soon("all are told", || (daemon.list(&["deliveries", "list", "--status", "delivered"]).len() == 61).then_some(()));

    let (mut changes, mut tries) = (0, 0);
    for row in daemon.list(&["executions", "list"]).iter().filter(|row| row["key"] != "before") {
        let shown = daemon.execution(row["key"].as_str().expect("a key"));
        changes += shown["changes"].as_array().expect("changes").len();
        let attempts = |d: &Value| d["attempts"].as_u64().expect("a number") as usize;
        tries += shown["deliveries"].as_array().expect("deliveries").iter().map(attempts).sum::<usize>();
    }
    assert!(changes == 60 && tries > 60, "{changes} changes, {tries} tries");
    let told = listener.take(changes + tries);
    let ids: Vec<i64> = told.iter().map(|t| t.id.as_deref().expect("an id").parse().expect("a number")).collect();
    assert!(ids.is_sorted() && ids.windows(2).all(|pair| pair[0] < pair[1]));
    assert_eq!(told.iter().filter(|t| t.kind == "change").count(), changes);
    for sender in 0..4 {
        for n in 0..5 {
            let key = format!("r{sender}-{n}");
            let of = |kind: &str| told.iter().filter(|t| t.kind == kind && t.line().contains(&key)).collect::<Vec<_>>();
            let shown = daemon.execution(&key);
            let known: Vec<_> = shown["changes"].as_array().expect("changes").iter().map(|c| c["id"].clone()).collect();
            assert_eq!(of("change").iter().map(|t| t.data["id"].clone()).collect::<Vec<_>>(), known, "{key}");
            let last = of("change").pop().expect("one").data["execution"].clone();
            assert_eq!(last, shown["execution"], "what a list shows is what is told");
            let outcomes: Vec<_> = of("delivery").iter().map(|t| t.data["outcome"].clone()).collect();
            assert_eq!(outcomes.iter().filter(|o| *o == "delivered").count(), 3, "{key}: {outcomes:?}");
        }
    }

    // From where it began, from the middle, and as a whole: the same again, and nothing else.
    let since = |last: &str| Listener::new(&daemon, "?for=0s", Some(last)).rest();
    assert_eq!(since(&listener.cursor).len(), told.len());
    let settled = |told: &[Told]| told.iter().map(|t| (t.line(), t.id.clone())).collect::<Vec<_>>();
    for middle in [0, told.len() / 2, told.len() - 1] {
        let rest = since(told[middle].id.as_deref().expect("an id"));
        assert_eq!(settled(&rest), settled(&told[middle + 1..]));
    }
    let whole = Listener::new(&daemon, "?for=0s&since=1h", None).rest();
    let first = before["changes"][0]["id"].as_str();
    assert_eq!(whole[0].id.as_deref(), first);
    assert_eq!(settled(&whole[whole.len() - told.len()..]), settled(&told));
}

#[test]
fn a_listener_is_told_what_it_wants_and_for_as_long() {
    let hook = Hook::start(|| Reply::Status(400));
    let daemon = Daemon::run(&config(&hook.url()));
    let body = port("r_1");
    let headers = signed(SECRET, body.as_bytes(), 0);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let mut live = Listener::new(&daemon, "?status=dead&limit=2", None);
    for (step, run) in [(Step::Start, "a"), (Step::Failed, "a"), (Step::Start, "b")] {
        callback(&daemon, step, run);
    }
    assert_eq!(daemon.post("/callbacks/port", &headers, &body).status, 200);
    // It ends by itself.
    let dead = live.take(2);
    assert!(dead.iter().all(|t| t.kind == "delivery" && t.data["status"] == "dead"), "{dead:?}");
    assert!(live.next().is_none());
    soon("all are given up", || (daemon.list(&["deliveries", "list", "--status", "dead"]).len() == 3).then_some(()));

    let told = |query: &str| {
        let told = Listener::new(&daemon, &format!("?for=0s&since=1h&{query}"), None).rest();
        told.iter().map(Told::line).collect::<Vec<_>>()
    };
    assert_eq!(told("source=portal"), ["change r_1 running"]);
    assert_eq!(told("status=failed"), ["change a failed"]);
    assert_eq!(told("status=failed,running&source=media").len(), 3);
    assert_eq!(told("sink=any").len(), 3);
    assert_eq!(told("sink=none").len(), 0);
    assert_eq!(told("limit=1"), ["change a running"]);
    assert_eq!(told("status=overdue").len(), 0);

    for (query, last, status) in [
        ("?status=held", None, 400),
        ("?for=ever", None, 400),
        ("?limit=0", None, 400),
        ("?cursor=1", None, 400),
        ("", Some("yesterday"), 400),
        ("", Some("-1"), 400),
    ] {
        let answer = Listener::ask(&daemon, query, last);
        assert!(answer.head.starts_with(&format!("HTTP/1.0 {status}")), "{query} {last:?}: {}", answer.head);
    }
    let head = daemon_head(&daemon);
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
}

/// What HEAD is answered, which opens no stream.
fn daemon_head(daemon: &Daemon) -> String {
    let mut stream = TcpStream::connect(&daemon.admin).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("set");
    stream.write_all(b"HEAD /api/v1/stream HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("sent");
    let mut head = String::new();
    stream.read_to_string(&mut head).expect("an end");
    head
}

#[test]
fn a_stream_outlives_a_reload_ends_with_the_daemon_and_goes_on_with_the_next() {
    let hook = Hook::start(|| Reply::Status(200));
    let mut daemon = Daemon::run(&config(&hook.url()));
    let mut listener = Listener::new(&daemon, "?sink=any", None);
    callback(&daemon, Step::Start, "a");
    assert_eq!(listener.next().expect("told").line(), "delivery a delivered");
    daemon.configure(&config(&hook.url()).replace("t0ken", "t1ken"));
    assert!(daemon.hup()["message"].as_str().is_some_and(|said| said.contains("read again")));
    assert_eq!(daemon.post("/callbacks/media/t1ken", &[], cos(Step::Success, "a")).status, 200);
    let last = listener.next().expect("told");
    assert_eq!(last.line(), "delivery a delivered");

    // The end of the daemon is the end of the stream, and waits for no listener.
    assert!(daemon.terminate().success());
    assert_eq!(listener.rest(), []);
    assert_eq!(daemon.said("the drain time is over"), 0);

    daemon.start();
    for n in 0..3 {
        assert_eq!(daemon.post("/callbacks/media/t1ken", &[], cos(Step::Start, format!("b{n}"))).status, 200);
    }
    let mut listener = Listener::new(&daemon, "?source=media&status=running", last.id.as_deref());
    let told: Vec<_> = listener.take(3).iter().map(Told::line).collect();
    assert_eq!(told, ["change b0 running", "change b1 running", "change b2 running"]);
}

#[test]
fn so_many_listen_and_no_more_and_callbacks_and_operators_do_not_mind() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()));
    let mut listeners: Vec<_> = (0..32).map(|_| Listener::new(&daemon, "", None)).collect();
    let mut refused = Listener::ask(&daemon, "", None);
    assert!(refused.head.starts_with("HTTP/1.0 503") && refused.head.contains("retry-after: 5"), "{}", refused.head);
    let mut problem = String::new();
    refused.from.read_to_string(&mut problem).expect("read");
    assert!(problem.contains("32 listen already"), "{problem}");

    for n in 0..20 {
        callback(&daemon, Step::Start, &format!("r{n}"));
    }
    assert_eq!(daemon.look("/api/v1/sinks").status, 200);
    for listener in &mut listeners {
        let mut keys: Vec<_> = listener.take(40).iter().filter(|t| t.kind == "change").map(Told::line).collect();
        keys.dedup();
        assert_eq!(keys.len(), 20);
    }
    // Who goes makes room.
    drop(listeners.pop());
    soon("a place", || Listener::ask(&daemon, "", None).head.starts_with("HTTP/1.0 200").then_some(()));
}
