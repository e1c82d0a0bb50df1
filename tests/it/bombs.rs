//! Requests that are made to cost more than they weigh: framing, encodings, and bodies of authentic senders that are large
//! in what they mean. Each is refused or kept with a reason, none costs out of proportion, and good callbacks go on.

use std::{fs, io};

use serde_json::json;

use crate::callbacks::{Step, cos, signed};
use crate::daemon::{Daemon, request};
use crate::wire::Answer;

const MEDIA: &str = "/callbacks/media/hush-t0ken";
const PORTAL: &str = "/callbacks/portal";
const SECRET: &str = "hush-secret";

fn run() -> Daemon {
    Daemon::run(&format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"hush-t0ken\"\n\
         [sources.portal]\nkind = \"port_action\"\npath = {PORTAL:?}\nsecret = \"{SECRET}\"\n\
         [sinks.out]\nkind = \"stdout\"\n\
         [[routes]]\nfrom = [\"media\"]\nwhen = '.execution.status == \"paused\"'\nto = [\"out\"]\n\
         [[links]]\nof = \"media\"\nkey = '.execution.attributes.object'\nwith = \"portal\"\nwith_key = '.execution.inputs.object'\n"
    ))
}

/// A callback as large as one can be. However busy the machine is, it is answered in a while; where what it costs grows
/// with the square of its size, it is not.
fn post(daemon: &Daemon, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut wire = daemon.connect();
    wire.send(request("POST", path, headers, body)).expect("sent");
    let mut patience = 4;
    loop {
        match wire.answer() {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && patience > 0 => patience -= 1,
            answer => return answer.expect("an answer"),
        }
    }
}

fn call(daemon: &Daemon, body: &[u8]) -> Answer {
    let signature = signed(SECRET, body, 0);
    post(daemon, PORTAL, &signature.each_ref().map(|(name, value)| (*name, value.as_str())), body)
}

#[track_caller]
fn good(daemon: &Daemon, run: &str) {
    let answer = daemon.post(MEDIA, &[], cos(Step::Success, run));
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("accepted")), "{answer:?}");
}

#[test]
fn no_request_hides_in_another() {
    let daemon = run();
    let hidden = cos(Step::Success, "hidden");
    let hidden = String::from_utf8(request("POST", MEDIA, &[], hidden.as_bytes())).expect("UTF-8");
    let chunked = "Transfer-Encoding: chunked\r\n";
    for (fields, body) in [
        (format!("Content-Length: 6\r\n{chunked}"), format!("0\r\n\r\n{hidden}")),
        (format!("{chunked}Content-Length: {}\r\n", hidden.len() + 5), format!("0\r\n\r\n{hidden}")),
        ("Content-Length: 0\r\nContent-Length: 5\r\n".to_owned(), hidden.clone()),
        ("Content-Length: +0\r\n".to_owned(), hidden.clone()),
        ("Content-Length: 0x0\r\n".to_owned(), hidden.clone()),
        ("Content-Length: 18446744073709551616\r\n".to_owned(), hidden.clone()),
        ("Transfer-Encoding: gzip, chunked\r\n".to_owned(), "0\r\n\r\n".to_owned()),
        ("Transfer-Encoding: chunked, identity\r\n".to_owned(), format!("0\r\n\r\n{hidden}")),
        ("Transfer-Encoding: xchunked\r\n".to_owned(), format!("0\r\n\r\n{hidden}")),
        ("Transfer-Encoding : chunked\r\n".to_owned(), format!("0\r\n\r\n{hidden}")),
        (chunked.to_owned(), format!("ffffffffffffffff1\r\n{hidden}")),
        (chunked.to_owned(), format!("-1\r\n{hidden}")),
        (format!("X: a\n{chunked}"), "zz\r\n".to_owned()),
    ] {
        let mut wire = daemon.connect();
        wire.send(format!("POST {MEDIA} HTTP/1.1\r\nHost: x\r\n{fields}\r\n{body}")).expect("sent");
        // An answer or an end: what matters is what was taken for a callback.
        let answer = wire.answer();
        assert!(!answer.as_ref().is_ok_and(|answer| answer.body.contains("accepted")), "{fields:?}: {answer:?}");
    }
    good(&daemon, "seen");
    let keys: Vec<_> = daemon.list(&["executions", "list"]).iter().map(|row| row["key"].clone()).collect();
    assert_eq!(keys, ["seen"]);
}

#[test]
fn chunks_cost_what_they_carry() {
    let daemon = run();
    let head = format!("POST {MEDIA} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    // Every byte in a chunk of its own is the same callback.
    let body: String = cos(Step::Success, "drop by drop").chars().map(|c| format!("1\r\n{c}\r\n")).collect();
    let answer = daemon.connect().ask(format!("{head}{body}0\r\n\r\n").as_bytes()).expect("an answer");
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("accepted")), "{answer:?}");
    let (before, _) = daemon.memory_kib();
    // What stands beside the body is bounded, too.
    let extension = format!("{head}1;{}", "x".repeat(1 << 20));
    let extensions = head.clone() + &format!("1;{}\r\nx\r\n", "x".repeat(1000)).repeat(1000);
    let trailers = format!("{head}1\r\nx\r\n0\r\n{}", format!("X-T: {}\r\n", "x".repeat(1000)).repeat(1000));
    for bomb in [extension, extensions, trailers] {
        let mut wire = daemon.connect();
        // It may be cut off before it has sent everything.
        let _ = wire.send(&bomb);
        if let Ok(answer) = wire.answer() {
            assert!((400..500).contains(&answer.status), "{answer:?}");
        }
        good(&daemon, &format!("after {}", bomb.len()));
    }
    let (_, most) = daemon.memory_kib();
    assert!(most - before < 8 << 10, "{} KiB for what is no body", most - before);
}

#[test]
fn what_is_compressed_is_refused_before_it_is_read() {
    let daemon = run();
    for coding in ["gzip", "deflate", "br", "zstd", "x-gzip", "identity, gzip", "gzip, identity"] {
        for path in [MEDIA, PORTAL] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Encoding: {coding}\r\nContent-Length: 4000000\r\n\r\n"
            );
            let answer = daemon.connect().ask(head.as_bytes()).expect("an answer");
            assert_eq!((answer.status, answer.header("accept-encoding")), (415, Some("identity")), "{coding}");
        }
    }
    assert!(daemon.list(&["receipts", "list"]).is_empty());
}

/// As much of `part` as fits into the largest body, between `before` and `after`.
fn filled(before: &str, part: impl Fn(usize) -> String, after: &str) -> Vec<u8> {
    let mut body = before.to_owned();
    let mut n = 0;
    loop {
        let part = part(n);
        if body.len() + part.len() + after.len() > 4 << 20 {
            return (body + after).into_bytes();
        }
        body += &part;
        n += 1;
    }
}

/// The largest bodies that a sender with the token can think of, and a part of the reason.
fn of_tencent() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let job = "<EventName>TaskFinish</EventName><JobsDetail><Tag>T</Tag><State>Success</State><JobId>j</JobId>";
    let run = "<WorkflowExecution><RunId>r</RunId><State>Success</State>";
    let many_runs = filled(
        &format!("<Response>{job}"),
        |n| match n {
            0..900 => format!("<Workflow><RunId>r{n}</RunId></Workflow>"),
            900 => "<Operation><MediaResult><OutputFile>".to_owned(),
            _ => "<ObjectName>o</ObjectName>".to_owned(),
        },
        "</OutputFile></MediaResult></Operation></JobsDetail></Response>",
    );
    let one_run = filled(
        "{\"EventName\":\"TaskFinish\",\"JobsDetail\":[",
        |n| match n {
            0..400 => {
                format!("{{\"JobId\":\"j{n}\",\"State\":\"Success\",\"Tag\":\"T\",\"Workflow\":{{\"RunId\":\"r\"}}}},")
            }
            _ => format!(
                "{{\"JobId\":\"p{n}\",\"Tag\":\"T\",\"Operation\":{{\"UserData\":\"{}\"}}}},",
                "x".repeat(200_000)
            ),
        },
        "{\"JobId\":\"j\",\"Tag\":\"T\"}]}",
    );
    vec![
        (
            "jobs",
            filled("<Response>", |n| format!("<JobsDetail><JobId>{n}</JobId><Tag>T</Tag></JobsDetail>"), "</Response>"),
            "1000 workflow runs, jobs",
        ),
        ("empty jobs", filled("{\"JobsDetail\":[", |_| "{},".to_owned(), "{}]}"), "1000 workflow runs, jobs"),
        (
            "tasks",
            filled(
                &format!("<Response>{run}"),
                |n| format!("<Tasks><JobId>{n}</JobId></Tasks>"),
                "</WorkflowExecution></Response>",
            ),
            "1000 workflow runs, jobs",
        ),
        ("runs of one job", many_runs, "16 workflow runs"),
        ("jobs of one run", one_run, "speaks 400 times of one execution"),
        ("a long id", cos(Step::Success, "r".repeat(1 << 20)).into_bytes(), "an id of 10485"),
        ("elements", filled("<Response>", |_| "<a/>".to_owned(), "</Response>"), "200000 elements"),
        ("open tags", filled("", |_| "<a>".to_owned(), ""), "inside each other"),
        ("lists", filled("", |_| "[".to_owned(), ""), "inside each other"),
        ("half a comment", filled("<Response><!--", |_| "-".to_owned(), ""), ""),
        ("half a section", filled("<Response><![CDATA[", |_| "]".to_owned(), ""), ""),
        ("half a tag", filled("<Response><a ", |n| format!("b{n}=\"<\" "), ""), ""),
        (
            "attributes",
            filled("<Response><a ", |n| format!("b{n}=\"1\" "), "/></Response>"),
            "neither WorkflowExecution",
        ),
        ("half an entity", filled("<Response><EventName>", |_| "&".to_owned(), ""), ""),
        ("declarations", filled("<!DOCTYPE a [", |n| format!("<!ENTITY e{n} \"&e;&e;\">"), "]>"), "document type"),
    ]
}

#[test]
fn a_hostile_holder_of_the_token_is_bounded_and_told_why() {
    let daemon = run();
    good(&daemon, "before");
    let (before, _) = daemon.memory_kib();
    let mut bytes = 0;
    for (what, body, reason) in of_tencent() {
        let answer = post(&daemon, MEDIA, &[], &body);
        assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("quarantined")), "{what}: {answer:?}");
        let id = answer.json()["receipt"].as_str().expect("an id").to_owned();
        let row = &daemon.cli(&["receipts", "show", &id, "--json"]).rows()[0];
        let said = row["reason"].as_str().expect("a reason");
        assert!(said.contains(reason) && said.len() < 500, "{what}: {said:?}");
        assert_eq!(row["body_bytes"], body.len());
        good(&daemon, what);
        bytes += body.len();
    }
    let (_, most) = daemon.memory_kib();
    println!("{before} KiB before, {most} KiB at most");
    assert!(most - before < 96 << 10, "{} KiB for bodies of 4 MiB, one at a time", most - before);
    let stored = fs::metadata(daemon.path("callbackd.db")).expect("a store").len() as usize;
    let logged = fs::metadata(daemon.path("callbackd.db-wal")).expect("its log").len() as usize;
    assert!(stored + logged < 4 * bytes, "{} bytes on disk for {bytes}", stored + logged);
}

#[test]
fn an_execution_does_not_grow_without_end() {
    let daemon = run();
    let jobs = |from: usize| {
        let job = |n: usize| format!("<Tasks><JobId>j{n}</JobId><State>Running</State></Tasks>");
        let tasks: String = (from..from + 600).map(job).collect();
        format!(
            "<Response><WorkflowExecution><RunId>r</RunId><State>Running</State>{tasks}</WorkflowExecution></Response>"
        )
    };
    let told = |body: String| {
        let answer = post(&daemon, MEDIA, &[], body.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["outcome"].as_str().expect("an outcome").to_owned()
    };
    assert_eq!(told(jobs(0)), "accepted");
    assert_eq!(told(jobs(600)), "conflict");
    assert_eq!(daemon.list(&["receipts", "list"])[0]["reason"], "the execution would have more than 1000 tasks");
    // By what is said of one task after the other.
    let mut outcomes: Vec<String> = (0..6)
        .map(|n| {
            let url = "x".repeat(3 << 20);
            told(format!(
                "<Response><WorkflowExecution><RunId>s</RunId><State>Running</State><Tasks><JobId>j{n}</JobId>\
                 <State>Success</State><Code>Success</Code><ResultInfo><ObjectInfo><ObjectUrl>{url}</ObjectUrl></ObjectInfo>\
                 </ResultInfo></Tasks></WorkflowExecution></Response>"
            ))
        })
        .collect();
    outcomes.dedup();
    assert_eq!(outcomes, ["accepted", "conflict"]);
    let last = &daemon.list(&["receipts", "list"])[0];
    assert_eq!(last["reason"], "the execution would take more than 8388608 bytes");
    // Its end is heard all the same.
    assert_eq!(told(cos(Step::Failed, "s").replace("<Tasks>", "<!--").replace("</Tasks>", "-->")), "accepted");
}

#[test]
fn what_port_sends_costs_what_it_weighs() {
    let daemon = run();
    let (before, _) = daemon.memory_kib();
    let half = "\"context\":{\"runId\":\"r_1\"},\"censoredProperties\":[";
    let names = filled(
        &format!("{{{half}"),
        |n| match n {
            0..90_000 => format!("\"secret{n}\","),
            90_000 => "\"\"],\"payload\":{\"properties\":{\"secret1\":\"hush\"".to_owned(),
            n => format!(",\"p{n:030}\":1"),
        },
        "}}}",
    );
    let answer = call(&daemon, &names);
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("accepted")), "{answer:?}");
    let shown = daemon.execution("r_1");
    assert_eq!(shown["execution"]["inputs"]["secret1"], "[censored]");
    for (what, body, reason) in [
        ("keys", filled("{", |n| format!("\"k{n}\":0,"), "\"k\":0}"), "more than 200000 values"),
        ("lists", filled("{\"a\":[", |_| "{\"\":0},".to_owned(), "0]}"), "more than 200000 values"),
        ("depth", filled("", |_| "{\"a\":".to_owned(), ""), "nested deeper"),
        ("blanks", filled("{", |_| " ".to_owned(), "}"), "no run id"),
        ("a quote", filled("\"", |_| "\\\\".to_owned(), ""), "not JSON"),
        ("a long id", format!("{{\"runId\":\"r_{}\"}}", "a".repeat(1 << 20)).into_bytes(), "no run id"),
    ] {
        let answer = call(&daemon, &body);
        assert_eq!((answer.status, &answer.json()["outcome"]), (422, &json!("quarantined")), "{what}: {answer:?}");
        let id = answer.json()["receipt"].as_str().expect("an id").to_owned();
        let said = daemon.cli(&["receipts", "show", &id, "--json"]).rows()[0]["reason"].clone();
        assert!(said.as_str().is_some_and(|said| said.contains(reason)), "{what}: {said}");
        good(&daemon, what);
    }
    let (_, most) = daemon.memory_kib();
    println!("{before} KiB before, {most} KiB at most");
    assert!(most - before < 128 << 10, "{} KiB for bodies of 4 MiB, one at a time", most - before);
}
