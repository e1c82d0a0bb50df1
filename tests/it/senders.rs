//! What senders get from the daemon: each row of the contract's table, for Tencent and for Port.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::callbacks::{Step, cos, port, signed};
use crate::daemon::{Daemon, request, soon};
use crate::peers::hook::{Hook, Reply};
use crate::wire::Answer;

const TOKEN: &str = "hush-t0ken-of-media";
const SECRET: &str = "hush-secret-of-portal";
const MEDIA: &str = "/callbacks/media/hush-t0ken-of-media";
const PORTAL: &str = "/callbacks/portal";

/// Both sources; `top` goes before them, `media` and `portal` belong to each.
fn config(top: &str, media: &str, portal: &str) -> String {
    format!(
        "{top}\n[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = {{ file = \"token\" }}\n\
         {media}\n[sources.portal]\nkind = \"port_action\"\npath = {PORTAL:?}\nsecret = [{{ file = \"secret\" }}]\n{portal}\n"
    )
}

fn run(config: &str) -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.write("token", TOKEN);
    daemon.write("secret", SECRET);
    daemon.configure(config);
    daemon.start();
    daemon
}

/// As Port calls, with further headers.
fn call(daemon: &Daemon, body: impl AsRef<[u8]>, more: &[(&str, &str)]) -> Answer {
    let signature = signed(SECRET, body.as_ref(), 0);
    let headers: Vec<_> = signature.iter().map(|(n, v)| (*n, v.as_str())).chain(more.iter().copied()).collect();
    daemon.post(PORTAL, &headers, body)
}

/// The members of a 2xx, or of a quarantined receipt's 422, are these and no other.
#[track_caller]
fn is_kept(answer: &Answer, status: u16, outcome: &str) -> Value {
    assert_eq!((answer.status, answer.header("content-type")), (status, Some("application/json")), "{answer:?}");
    let body = answer.json();
    let text = |key: &str| body[key].as_str().unwrap_or_else(|| panic!("{key} in {answer:?}")).to_owned();
    let mut expected = json!({ "receipt": text("receipt"), "outcome": outcome });
    if outcome != "quarantined" {
        expected["execution"] = text("execution").into();
    }
    assert_eq!(body, expected);
    body
}

/// An RFC 9457 problem with this status.
#[track_caller]
fn is_problem(answer: &Answer, status: u16) {
    assert_eq!(
        (answer.status, answer.header("content-type")),
        (status, Some("application/problem+json")),
        "{answer:?}"
    );
    let body = answer.json();
    let members: Vec<&str> = body.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(members, ["detail", "status", "title", "type"]);
    assert_eq!(body["status"], status);
    for key in ["type", "title", "detail"] {
        assert!(body[key].as_str().is_some_and(|text| !text.is_empty()), "{key} in {answer:?}");
    }
}

#[track_caller]
fn says_later(answer: &Answer) {
    let after = answer.header("retry-after").unwrap_or_else(|| panic!("no Retry-After in {answer:?}"));
    assert!(after.parse::<u32>().is_ok_and(|s| (1..=60).contains(&s)), "{answer:?}");
}

fn head(path: &str, headers: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n")
}

#[test]
fn what_is_kept_is_told() {
    let daemon = run(&config("", "", ""));
    let accepted = is_kept(&daemon.post(MEDIA, &[], cos(Step::Success, "run-1")), 200, "accepted");
    let by_query = "/callbacks/media?token=hush-t0ken-of-media";
    let repeated = is_kept(&daemon.post(by_query, &[], cos(Step::Success, "run-1")), 200, "duplicate");
    let contradicts = is_kept(&daemon.post(MEDIA, &[], cos(Step::Failed, "run-1")), 200, "conflict");
    for later in [&repeated, &contradicts] {
        assert_eq!(later["execution"], accepted["execution"]);
        assert_ne!(later["receipt"], accepted["receipt"]);
    }
    let jobs = ["j1", "j2"].map(|id| format!("{{\"JobId\":\"{id}\",\"State\":\"Success\",\"Tag\":\"Transcode\"}}"));
    let several =
        daemon.post(MEDIA, &[], format!("{{\"EventName\":\"TaskFinish\",\"JobsDetail\":[{}]}}", jobs.join(",")));
    assert_eq!((several.status, &several.json()["outcome"]), (200, &json!("accepted")), "{several:?}");
    let executions = several.json()["executions"].as_array().expect("several").clone();
    assert_eq!((executions.len(), &executions[0]), (2, &several.json()["execution"]));

    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let body = port(format_args!("r_{method}"));
        let signature = signed(SECRET, body.as_bytes(), 0);
        let headers = signature.each_ref().map(|(n, v)| (*n, v.as_str()));
        is_kept(&daemon.request(method, PORTAL, &headers, body.as_bytes()), 200, "accepted");
    }
    is_kept(&call(&daemon, port("r_POST"), &[]), 200, "duplicate");
    assert_eq!(daemon.execution("run-1")["execution"]["status"], "succeeded", "a contradiction changes nothing");
}

#[test]
fn who_does_not_belong_is_refused() {
    let top = "server.trusted_proxies = [\"127.0.0.1\"]";
    let daemon = run(&config(top, "allow = [\"192.0.2.0/24\", \"127.0.0.1\"]", "allow = [\"192.0.2.0/24\"]"));
    let body = cos(Step::Success, "run-1");
    for path in
        ["/callbacks/media", "/callbacks/media/wrong", "/callbacks/media?token=wrong", "/callbacks/media?token="]
    {
        is_problem(&daemon.post(path, &[], &body), 401);
    }
    let from = |address| [("X-Forwarded-For", address)];
    is_problem(&daemon.post(MEDIA, &from("203.0.113.9"), &body), 403);
    is_problem(&daemon.post(MEDIA, &from("192.0.2.7, 203.0.113.9"), &body), 403);
    is_kept(&daemon.post(MEDIA, &from("203.0.113.9, 192.0.2.7"), &body), 200, "accepted");
    is_kept(&daemon.post(MEDIA, &[], &body), 200, "duplicate");

    let body = port("r_1");
    is_problem(&call(&daemon, &body, &[]), 403);
    is_problem(&call(&daemon, &body, &from("203.0.113.9")), 403);
    for (signature, what) in [
        (signed("another secret", body.as_bytes(), 0), "forged"),
        (signed(SECRET, b"another body", 0), "of another body"),
        (signed(SECRET, body.as_bytes(), -301), "stale"),
        (signed(SECRET, body.as_bytes(), 310), "of the future"),
        (signed(SECRET, body.as_bytes(), 0).map(|(n, v)| (n, v.replace("v1,", ""))), "of no version"),
    ] {
        let headers: Vec<_> =
            signature.iter().map(|(n, v)| (*n, v.as_str())).chain(from("192.0.2.7").iter().copied()).collect();
        let answer = daemon.post(PORTAL, &headers, &body);
        is_problem(&answer, 401);
        assert!(!answer.body.contains("v1,") || what == "of no version", "{what}: {}", answer.body);
    }
    is_problem(&daemon.post(PORTAL, &from("192.0.2.7"), &body), 401);
    is_kept(&call(&daemon, &body, &from("192.0.2.7")), 200, "accepted");
    assert_eq!(daemon.list(&["receipts", "list"]).len(), 3, "nothing else was kept");

    // Who is no proxy of ours is not believed.
    let alone = run(&config("", "allow = [\"192.0.2.0/24\"]", ""));
    is_problem(&alone.post(MEDIA, &from("192.0.2.7"), cos(Step::Success, "run-1")), 403);
}

#[test]
fn what_no_source_takes_is_refused() {
    let daemon = run(&config("", "", ""));
    for path in
        ["/", "/callbacks", "/callbacks/medai", "/callbacks/media/a/b", "/CALLBACKS/media", "/callbacks/portal/below"]
    {
        is_problem(&daemon.post(path, &[], "x"), 404);
    }
    for method in ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = daemon.request(method, MEDIA, &[], b"");
        is_problem(&answer, 405);
        assert_eq!(answer.header("allow"), Some("POST"));
    }
    let answer = daemon.request("GET", PORTAL, &[], b"");
    is_problem(&answer, 405);
    assert_eq!(answer.header("allow"), Some("POST, PUT, PATCH, DELETE"));
    assert_eq!(daemon.list(&["receipts", "list"]), [] as [Value; 0]);
}

#[test]
fn what_is_too_large_is_cut_off() {
    let daemon = run(&config("", "", ""));
    for path in [MEDIA, PORTAL] {
        let mut declares = daemon.connect();
        is_problem(&declares.ask(head(path, "Content-Length: 2147483648\r\n").as_bytes()).expect("an answer"), 413);

        let mut never_ends = daemon.connect();
        never_ends.send(head(path, "Transfer-Encoding: chunked\r\n")).expect("sent");
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
        let sent = (0..100).take_while(|_| never_ends.send(&chunk).is_ok()).count();
        assert!(sent >= 64, "cut off after {sent} chunks, which is within the limit");
        is_problem(&never_ends.answer().expect("an answer"), 413);
        soon("cut off", || never_ends.send(&chunk).err());

        let mut long_head = daemon.connect();
        long_head.send(head(path, "").trim_end()).expect("sent");
        let field = format!("\r\nX-Long: {}", "x".repeat(1000));
        assert!((0..1000).all(|_| long_head.send(&field).is_ok()));
        assert_eq!(long_head.answer().expect("an answer").status, 431);
    }
    let largest = vec![b'x'; 4 << 20];
    is_kept(&daemon.post(MEDIA, &[], &largest), 200, "quarantined");
    is_problem(&daemon.post(MEDIA, &[], [&largest[..], b"x"].concat()), 413);
}

#[test]
fn who_is_slow_is_cut_off() {
    // A head has to be sent in time by who is slow with its body, too.
    let daemon = run(&config("server.body_timeout = \"200ms\"\nserver.head_timeout = \"2s\"", "", ""));
    let began = Instant::now();
    for path in [MEDIA, PORTAL] {
        let mut slow = daemon.connect();
        slow.send(head(path, "Content-Length: 10\r\n") + "hel").expect("sent");
        is_problem(&slow.answer().expect("an answer"), 408);
        slow.closes();
    }
    let begun = ["", "POST /callb", "POST /callbacks/portal HTTP/1.1\r\nHost: localhost\r\n"].map(|begun| {
        let mut slow = daemon.connect();
        slow.send(begun).expect("sent");
        slow
    });
    begun.into_iter().for_each(|mut slow| slow.closes());
    // A byte now and then does not help.
    let mut drips = daemon.connect();
    drips.send(head(MEDIA, "Content-Length: 1000000\r\n")).expect("sent");
    soon("an end", || drips.send("x").err());
    assert!(began.elapsed() < Duration::from_secs(30), "by what is configured, and not by what is usual");
}

#[test]
fn who_is_over_the_rate_or_finds_no_room_is_told_when_to_come_again() {
    let daemon = run(&config("", "rate = 1", "rate = 1"));
    let over_rate = |ask: &dyn Fn(u32) -> Answer| {
        // More than one a second: at least one of a few in a row is over it.
        let answers: Vec<_> = (0..10).map(ask).collect();
        is_kept(&answers[0], 200, "accepted");
        let over = answers.iter().find(|a| a.status != 200).expect("one over the rate");
        is_problem(over, 429);
        says_later(over);
    };
    over_rate(&|n| daemon.post(MEDIA, &[], cos(Step::Start, format_args!("run-{n}"))));
    over_rate(&|n| call(&daemon, port(format_args!("r_{n}")), &[]));
    // The operator is told of each source, however much another is refused.
    for source in ["media", "portal"] {
        daemon.logged(|line| line["source.name"] == source && line["reason"] == "over the source's rate");
    }

    let daemon = run(&config("server.body_bytes_max = 40000\nserver.bodies_bytes_max = 40000", "", ""));
    let large = |body: String| body.replacen("in/", &"x".repeat(35_000), 1);
    let no_room = |ask: &dyn Fn(u32) -> Answer, small: &dyn Fn(u32) -> Answer| {
        let mut n = 0;
        let (answer, mut fills) = soon("no room", || {
            // Whichever of the two comes first finds room: the other one is refused.
            n += 1;
            let mut fills = daemon.connect();
            fills.send(head(MEDIA, "Content-Length: 39999\r\n") + &"x".repeat(39_900)).expect("sent");
            assert_eq!(daemon.look("/livez").status, 200);
            Some((ask(n), fills)).filter(|(answer, _)| answer.status != 200)
        });
        is_problem(&answer, 503);
        says_later(&answer);
        is_kept(&small(n), 200, "accepted");
        fills.send("x".repeat(99)).expect("sent");
        is_kept(&fills.answer().expect("an answer"), 200, "quarantined");
    };
    no_room(&|n| daemon.post(MEDIA, &[], large(cos(Step::Start, format_args!("run-{n}")))), &|n| {
        daemon.post(MEDIA, &[], cos(Step::Start, format_args!("small-{n}")))
    });
    no_room(&|n| call(&daemon, large(port(format_args!("r_{n}"))), &[]), &|n| {
        call(&daemon, port(format_args!("r_small{n}")), &[])
    });
    is_kept(&daemon.post(MEDIA, &[], cos(Step::Start, "again")), 200, "accepted");
}

/// Bodies that Tencent's source does not understand, each with a part of the reason.
fn not_understood() -> Vec<(Vec<u8>, &'static str)> {
    let whole = cos(Step::Success, "run-1");
    let bomb = format!(
        "<?xml version=\"1.0\"?><!DOCTYPE r [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;\">\
         <!ENTITY x SYSTEM \"file:///etc/passwd\">]>{}",
        whole.replace("run-1", "&b;&x;")
    );
    vec![
        (b"\x00\x01 garbage \xf0\x9f".to_vec(), "UTF-8"),
        (b"hello".to_vec(), "neither XML nor JSON"),
        (Vec::new(), "empty"),
        (whole.as_bytes()[..whole.len() / 2].to_vec(), ""),
        (whole.replace("test", "te\u{0}st").into_bytes(), ""),
        ([&whole.as_bytes()[..200], b"\xff\xfe", &whole.as_bytes()[200..]].concat(), "UTF-8"),
        (bomb.into_bytes(), "document type"),
        (["<a>".repeat(100_000), "</a>".repeat(100_000)].concat().into_bytes(), "inside each other"),
        ("[".repeat(100_000).into_bytes(), "inside each other"),
        (whole.replace("WorkflowFinish", "WorkflowExploded").into_bytes(), "WorkflowExploded"),
        (b"{\"EventName\":\"ReviewImage\",\"JobsDetail\":{}}".to_vec(), "ReviewImage"),
    ]
}

#[test]
fn what_is_not_understood_is_kept_byte_for_byte() {
    let daemon = run(&config("", "", ""));
    let mut kept = Vec::new();
    for (body, reason) in not_understood() {
        let told = is_kept(&daemon.post(MEDIA, &[], &body), 200, "quarantined");
        kept.push((told["receipt"].clone(), body, reason, "media"));
    }
    for (body, reason) in [(&b"\xff{"[..], "UTF-8"), (b"{\"a\":", ""), (b"", "empty"), (b"[1]", ""), (b"{}", "run id")]
    {
        let told = is_kept(&call(&daemon, body, &[]), 422, "quarantined");
        kept.push((told["receipt"].clone(), body.to_vec(), reason, "portal"));
    }
    let listed = daemon.list(&["receipts", "list", "--status", "quarantined"]);
    assert_eq!(listed.len(), kept.len());
    for (row, (id, body, reason, source)) in listed.iter().rev().zip(&kept) {
        assert_eq!((&row["id"], &row["status"], &row["source"]), (id, &json!("quarantined"), &json!(source)));
        assert_eq!((&row["body_bytes"], &row["peer"]), (&json!(body.len()), &json!("127.0.0.1")));
        let said = row["reason"].as_str().expect("a reason");
        assert!(!said.is_empty() && said.contains(reason) && !said.contains("root:"), "{reason:?} in {said:?}");
        let id = id.as_str().expect("an id");
        assert_eq!(&daemon.cli(&["receipts", "body", id]).stdout, body, "{said}");
        let shown = daemon.cli(&["receipts", "show", id, "--json"]).rows();
        assert_eq!(shown, std::slice::from_ref(row));
    }
    let table = daemon.cli(&["receipts", "list", "--status", "quarantined"]);
    assert!(kept.iter().all(|(id, ..)| table.said().contains(id.as_str().expect("an id"))), "{}", table.said());
    assert_eq!(daemon.list(&["executions", "list"]), [] as [Value; 0]);
}

#[test]
fn what_is_understood_later_is_taken_in() {
    let hook = Hook::start(|| Reply::Status(204));
    let route = format!(
        "[sinks.any]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\nfrom = [\"media\", \"portal\"]\nto = [\"any\"]",
        hook.url()
    );
    let mut daemon = run(&config("", "depth_max = 8\nelements_max = 40", &route));
    let deep = ["<Extra>".repeat(20), "</Extra>".repeat(20), "</Response>".to_owned()].concat();
    let deep = cos(Step::Success, "deep").replace("</Response>", &deep);
    let wide = ["<Extra/>".repeat(50), "</Response>".to_owned()].concat();
    let wide = cos(Step::Failed, "wide").replace("</Response>", &wide);
    let mut ids = Vec::new();
    for body in [&*deep, &*wide, "garbage"] {
        let told = is_kept(&daemon.post(MEDIA, &[], body), 200, "quarantined");
        ids.push(told["receipt"].as_str().expect("an id").to_owned());
    }
    let [deep, wide, garbage] = &ids[..] else { panic!("three") };
    let outcome = |done: &[Value]| done.iter().map(|said| said["outcome"].clone()).collect::<Vec<_>>();
    let replay = |daemon: &Daemon, id: &str| daemon.list(&["receipts", "replay", id]);
    let in_vain = |daemon: &Daemon, id: &str| {
        let done = daemon.cli(&["receipts", "replay", id, "--json"]);
        let said: Value = serde_json::from_slice(&done.stdout).expect("JSON");
        assert_eq!((done.code, &said["outcome"]), (Some(1), &json!("quarantined")), "{done:?}");
        let listed = daemon.list(&["receipts", "show", id]);
        let reason = listed[0]["reason"].as_str().expect("a reason");
        let said = format!("error: receipt {id} is still not understood: {reason}\n");
        assert!(done.stderr.ends_with(&said), "{done:?}");
    };
    in_vain(&daemon, deep);

    daemon.configure(&config("", "depth_max = 30", &route));
    assert!(daemon.hup()["error"].is_null());
    assert_eq!(outcome(&replay(&daemon, deep)), ["accepted"]);
    soon("its delivery", || (hook.taken() == [("deep".to_owned(), "succeeded".to_owned())]).then_some(()));
    let again = daemon.cli(&["receipts", "replay", deep, "--json"]);
    assert_eq!(again.code, Some(1), "what is accepted is not read again: {again:?}");

    // With no daemon to ask, the same under the store's lock; the next daemon delivers it.
    assert!(daemon.terminate().success());
    assert_eq!(outcome(&replay(&daemon, wide)), ["accepted"]);
    in_vain(&daemon, garbage);
    assert_eq!(daemon.execution("wide")["deliveries"][0]["status"], "waiting");
    daemon.start();
    soon("its delivery", || hook.taken().contains(&("wide".to_owned(), "failed".to_owned())).then_some(()));
    let left = daemon.list(&["receipts", "list", "--status", "quarantined"]);
    assert_eq!(left.iter().map(|row| row["id"].as_str().expect("an id")).collect::<Vec<_>>(), [garbage]);
}

#[test]
fn no_secret_is_written_down_or_said() {
    let daemon = run(&config("log.level = \"trace\"", "", ""));
    let body = port("r_1");
    let mut said = String::new();
    let mut signatures = Vec::new();
    for path in [
        MEDIA,
        "/callbacks/media?token=hush-t0ken-of-media",
        "/callbacks/media?token=hush-t0ken-of-media&x=y",
        "/callbacks/media?tokem=hush-t0ken-of-media",
        "/callbacks/medai/hush-t0ken-of-media",
        "/callbacks/medai?token=hush-t0ken-of-media",
        "/hush-t0ken-of-media",
        "/callbacks/media/hush-t0ken-of-media/more",
    ] {
        for body in [&cos(Step::Success, "run-1")[..], "garbage"] {
            let answer = daemon.post(path, &[("Authorization", TOKEN), ("Cookie", TOKEN)], body);
            said += &(answer.head + &answer.body);
        }
    }
    for (secret, seconds) in [(SECRET, 0), (SECRET, 0), (SECRET, -1000), ("guessed", 0)] {
        let signature = signed(secret, body.as_bytes(), seconds);
        let headers = signature.each_ref().map(|(n, v)| (*n, v.as_str()));
        let answer = daemon.post(PORTAL, &headers, &body);
        said += &(answer.head + &answer.body);
        signatures.push(signature[1].1.trim_start_matches("v1,").to_owned());
    }
    let mut refused = daemon.connect();
    let garbled = request("POST", &format!("{MEDIA} {TOKEN}"), &[], b"");
    said += &refused.ask(&garbled).expect("an answer").head;
    for args in [["receipts", "list"], ["executions", "list"], ["deliveries", "list"], ["check", "--probe"]] {
        let done = daemon.cli(&args);
        said += &(done.said().to_owned() + &done.stderr);
    }
    let (log, store) = (daemon.log(), daemon.store_bytes());
    assert!(log.contains("\"level\":\"DEBUG\""), "nothing was logged to look at");
    for secret in signatures.iter().map(String::as_str).chain([TOKEN, SECRET]) {
        let bytes = secret.as_bytes();
        assert!(!store.windows(bytes.len()).any(|w| w == bytes), "{secret:?} is in the store");
        assert!(!log.contains(secret), "{secret:?} is in the log");
        assert!(!said.contains(secret), "{secret:?} was said");
    }
}

#[test]
fn a_strangers_body_is_not_read_and_takes_nothing_of_the_rate() {
    let daemon = run(&config("", "rate = 1", "rate = 1"));
    for _ in 0..5 {
        // The body never comes: an answer shows that nobody waited for it, and that it is 401 that none is over the rate.
        let head = head("/callbacks/media?token=bad", "Content-Length: 1000000\r\nExpect: 100-continue\r\n");
        let mut stranger = daemon.connect();
        stranger.send(head).expect("sent");
        is_problem(&stranger.answer().expect("answered"), 401);
    }
    // Port's calls show only with their body whose they are.
    let forged = signed("another secret", b"{}", 0);
    let headers = forged.each_ref().map(|(name, value)| (*name, value.as_str()));
    for _ in 0..5 {
        is_problem(&daemon.post(PORTAL, &headers, "{}"), 401);
    }
    is_kept(&daemon.post(MEDIA, &[], cos(Step::Start, "run-1")), 200, "accepted");
    is_kept(&call(&daemon, port("r_1"), &[]), 200, "accepted");
}
