//! What senders get: each row of the contract's table, on the wire.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use callbackd::measure::Measures;
use callbackd::model::Time;
use callbackd::pipeline::ingest::Ingest;
use callbackd::server::{Bound, Caller, Certificate, Endpoint, Limits, Live, Pair, Pulse, Reception, bind, serve};
use callbackd::shutdown::Shutdown;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;

use crate::daemon::{Daemon, PATIENCE, soon};
use crate::stub::{Shared, ingest, limits};
use crate::wire::{Wire, connect, post};

const PATH: &str = "/callbacks/media/t0ken";

/// The senders' door, with a store that a test can look into.
struct Door {
    address: String,
    store: Shared,
    ingest: Live<Ingest>,
    shutdown: Shutdown,
    serving: JoinHandle<()>,
}

impl Door {
    async fn new(limits: Limits) -> Door {
        Door::at(bind("127.0.0.1:0", None).await.expect("bound"), limits, &[], None)
    }

    fn at(bound: Bound, limits: Limits, allow: &[&str], rate: Option<u32>) -> Door {
        let (store, shutdown, address) = (Shared::default(), Shutdown::new(), bound.address().to_owned());
        let ingest = Live::new(ingest(&store, "/callbacks/media", allow, rate));
        let reception =
            Arc::new(Reception::new(ingest.clone(), Live::new(limits), Arc::new(Measures::new(Time::default()))));
        let serving = tokio::spawn(serve(bound, reception, shutdown.clone()));
        Door { address, store, ingest, shutdown, serving }
    }

    async fn connect(&self) -> Wire<TcpStream> {
        connect(&self.address).await
    }
}

fn quick(limits: impl FnOnce(&mut Limits)) -> Limits {
    let mut quick = crate::stub::limits();
    limits(&mut quick);
    quick
}

/// What is cut off after it is; what is not has so long to say what it has to say.
const SOON: Duration = Duration::from_millis(400);

#[tokio::test]
async fn a_callback_is_kept_and_told_so() {
    let door = Door::new(limits()).await;
    let mut wire = door.connect().await;
    let answer = wire.ask(post(PATH, "hello")).await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    assert_eq!(answer.json(), serde_json::json!({"receipt": "1", "outcome": "accepted", "execution": "7"}));
    let answer = wire.ask(post("/callbacks/media?token=t0ken", "")).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let answer = wire.ask(post(PATH, "?")).await;
    assert_eq!(answer.status, 422, "{answer:?}");
    assert_eq!(answer.json(), serde_json::json!({"receipt": "3", "outcome": "quarantined"}));
    assert_eq!(door.store.0.bodies(), ["hello", "", "?"]);
    assert_eq!(door.store.0.receipts.lock().expect("sound")[0].peer, "127.0.0.1");
}

#[tokio::test]
async fn what_the_head_tells_is_refused_before_the_body() {
    let door = Door::new(limits()).await;
    let head = |start: &str, more: &str| format!("{start} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
    for (request, status, header) in [
        (head("POST /elsewhere", ""), 404, None),
        (head("POST /callbacks/media/t0ken/more", ""), 404, None),
        (head("POST *", ""), 404, None),
        (head("GET /callbacks/media", ""), 405, Some(("allow", "POST"))),
        (post("/callbacks/media/wrong", "hello"), 401, None),
        (head(&format!("POST {PATH}"), "Content-Length: 3\r\nContent-Encoding: gzip\r\n") + "abc", 415, None),
    ] {
        let mut wire = door.connect().await;
        let answer = wire.ask(&request).await;
        assert_eq!(answer.status, status, "{request}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        if let Some((name, value)) = header {
            assert_eq!(answer.header(name), Some(value), "{request}");
        }
        assert_eq!(answer.json()["status"], status);
        assert_eq!(answer.header("connection"), None, "the body was there, the connection can go on");
        assert_eq!(wire.ask(post(PATH, "next")).await.status, 200, "after {request}");
    }
    assert!(door.store.0.bodies().iter().all(|body| body == "next"));

    // With a body that has still to come, nobody waits for it.
    let mut wire = door.connect().await;
    let answer = wire.ask("POST /elsewhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n").await;
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    wire.closes().await;
}

#[tokio::test]
async fn address_and_rate_are_the_sources() {
    let bound = bind("127.0.0.1:0", None).await.expect("bound");
    let limits_with_proxy = quick(|l| l.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")]);
    let door = Door::at(bound, limits_with_proxy, &["192.0.2.0/24"], Some(1));
    let from = |address: &str| {
        format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: {address}\r\nContent-Length: 1\r\n\r\nx")
    };
    let mut wire = door.connect().await;
    assert_eq!(wire.ask(from("203.0.113.1")).await.status, 403);
    assert_eq!(wire.ask(from("192.0.2.1, 203.0.113.1")).await.status, 403);
    assert_eq!(wire.ask(from("203.0.113.1, 192.0.2.1")).await.status, 200);
    let over = wire.ask(from("192.0.2.1")).await;
    assert_eq!((over.status, over.header("retry-after")), (429, Some("1")));
    assert_eq!(door.store.0.receipts.lock().expect("sound")[0].peer, "192.0.2.1");
}

#[tokio::test]
async fn two_gigabytes_are_refused_by_their_declaration() {
    let door = Door::new(limits()).await;
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2147483648\r\n");
    let mut asks_first = door.connect().await;
    let answer = asks_first.ask(format!("{head}Expect: 100-continue\r\n\r\n")).await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")), "and no 100 before");
    asks_first.closes().await;

    let mut sends_at_once = door.connect().await;
    sends_at_once.send(format!("{head}\r\n")).await;
    sends_at_once.flood(&[b'x'; 16 << 10], 200).await;
    assert_eq!(sends_at_once.answer().await.status, 413, "the answer survives what was still sent");

    // Who asks first and may go on is told so.
    let mut may = door.connect().await;
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(may.ask(head).await.status, 100);
    assert_eq!(may.ask("hello").await.status, 200);
    assert_eq!(door.store.0.bodies(), ["hello"]);
}

#[tokio::test]
async fn chunks_are_counted_as_they_come() {
    let door = Door::new(quick(|l| l.body_bytes_max = 100_000)).await;
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut wire = door.connect().await;
    assert_eq!(wire.ask(format!("{head}5\r\nhello\r\n1\r\n \r\n5\r\nworld\r\n0\r\n\r\n")).await.status, 200);
    assert_eq!(wire.ask(format!("{head}5\r\nalone\r\n0\r\n\r\n")).await.status, 200);
    assert_eq!(wire.ask(format!("{head}0\r\n\r\n")).await.status, 200);
    assert_eq!(door.store.0.bodies(), ["hello world", "alone", ""]);

    wire.send(&head).await;
    let chunk = format!("4000\r\n{}\r\n", "x".repeat(0x4000));
    wire.flood(chunk.as_bytes(), 200).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (413, Some("close")));
    assert_eq!(door.store.0.bodies().len(), 3);
}

#[tokio::test]
async fn a_body_in_many_pieces_is_whole() {
    let door = Door::new(limits()).await;
    let body: String = (0..100_000).map(|n| char::from(b'a' + (n % 26) as u8)).collect();
    let request = post(PATH, &body);
    let mut wire = door.connect().await;
    for piece in request.as_bytes().chunks(9973) {
        wire.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(door.store.0.bodies(), [body]);
}

#[tokio::test]
async fn slow_senders_are_cut_off() {
    let door = Door::new(quick(|l| l.body_timeout = SOON)).await;
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\n");
    for slow in
        [format!("{head}Content-Length: 10\r\n\r\nhel"), format!("{head}Transfer-Encoding: chunked\r\n\r\n3\r\nhel")]
    {
        let mut wire = door.connect().await;
        let answer = wire.ask(&slow).await;
        assert_eq!((answer.status, answer.header("connection")), (408, Some("close")), "{slow}");
        wire.closes().await;
    }

    let door = Door::new(quick(|l| l.head_timeout = SOON)).await;
    for slow in ["", "POST /callb", "POST / HTTP/1.1\r\nHost: localhost\r\n"] {
        let mut wire = door.connect().await;
        wire.send(slow).await;
        wire.closes().await;
    }
    let mut wire = door.connect().await;
    assert_eq!(wire.ask(post(PATH, "in time")).await.status, 200);
    wire.send("POST /callb").await;
    wire.closes().await;

    let door = Door::new(quick(|l| l.idle_timeout = SOON)).await;
    let mut wire = door.connect().await;
    assert_eq!(wire.ask(post(PATH, "once")).await.status, 200);
    wire.closes().await;
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_unavailable() {
    let door = Door::new(quick(|l| l.answer_timeout = SOON)).await;
    door.store.0.slow.store(true, Ordering::Relaxed);
    let mut wire = door.connect().await;
    let answer = wire.ask(post(PATH, "hello")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{answer:?}");
    assert_eq!(door.store.0.bodies(), ["hello"], "it may be kept all the same");
    door.store.0.slow.store(false, Ordering::Relaxed);
    assert_eq!(wire.ask(post(PATH, "hello")).await.status, 200, "the connection goes on");
}

#[tokio::test]
async fn a_slow_store_is_no_slow_sender() {
    let in_a_hurry = quick(|l| (l.head_timeout, l.idle_timeout, l.body_timeout) = (SOON, SOON, SOON));
    let door = Door::new(in_a_hurry).await;
    door.store.0.slow.store(true, Ordering::Relaxed);
    let mut waits = door.connect().await;
    waits.send(post(PATH, "hello")).await;
    door.store.0.takes(1).await;
    // A silent connection, accepted later, measures the time.
    door.connect().await.closes().await;
    door.store.0.may_answer.add_permits(1);
    assert_eq!(waits.answer().await.status, 200);
}

#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let door = Door::new(limits()).await;
    let mut long = door.connect().await;
    long.send(format!("POST {PATH} HTTP/1.1\r\nX-Long: ")).await;
    long.flood(&[b'x'; 16 << 10], 200).await;
    assert_eq!(long.answer().await.status, 431, "the answer survives what was still sent");
    long.closes().await;

    let mut many = door.connect().await;
    let headers: String = (0..500).map(|n| format!("X-{n}: y\r\n")).collect();
    assert_eq!(many.ask(format!("POST {PATH} HTTP/1.1\r\n{headers}\r\n")).await.status, 431);
    let door_of_few = Door::new(quick(|l| l.head_bytes_max = 1000)).await;
    let head = |bytes: usize| format!("POST {PATH} HTTP/1.1\r\nContent-Length: 0\r\nX: {}\r\n\r\n", "y".repeat(bytes));
    assert_eq!(door_of_few.connect().await.ask(head(900)).await.status, 200);
    assert_eq!(door_of_few.connect().await.ask(head(1000)).await.status, 431, "even when it comes in one piece");
    assert_eq!(door.connect().await.ask("this is no HTTP\r\n\r\n").await.status, 400);
}

#[tokio::test]
async fn a_body_that_ends_early_or_is_garbled_is_not_kept() {
    let door = Door::new(limits()).await;
    let head = format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\n");
    for broken in [
        format!("{head}Content-Length: 10\r\n\r\nhel"),
        format!("{head}Content-Length: 10\r\n\r\n"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\nhel"),
        format!("{head}Transfer-Encoding: chunked\r\n\r\nxyz\r\nhel"),
    ] {
        let mut wire = door.connect().await;
        wire.send(&broken).await;
        wire.finish().await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 400, "{broken}");
        assert_eq!(answer.json()["type"], "urn:callbackd:malformed");
    }
    assert!(door.store.0.bodies().is_empty());
}

#[tokio::test]
async fn hanging_up_after_the_last_byte_cancels_nothing() {
    let door = Door::new(limits()).await;
    door.store.0.slow.store(true, Ordering::Relaxed);

    let mut waits = door.connect().await;
    waits.send(post(PATH, "half closed")).await;
    waits.finish().await;
    door.store.0.takes(1).await;
    door.store.0.may_answer.add_permits(1);
    assert_eq!(waits.answer().await.status, 200, "who has said all still gets the answer");

    let mut leaves = door.connect().await;
    leaves.send(post(PATH, "gone")).await;
    drop(leaves);
    door.store.0.takes(1).await;
    assert_eq!(door.store.0.bodies(), ["half closed", "gone"]);
}

#[tokio::test]
async fn what_cannot_be_kept_is_said() {
    let door = Door::new(quick(|l| l.bodies_bytes_max = 5000)).await;
    door.store.0.refuses.store(true, Ordering::Relaxed);
    let mut wire = door.connect().await;
    let answer = wire.ask(post(PATH, "hello")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    assert!(!answer.body.contains("disk"), "why is not the sender's: {}", answer.body);
    door.store.0.refuses.store(false, Ordering::Relaxed);
    assert_eq!(wire.ask(post(PATH, "hello")).await.status, 200, "on the same connection, once it can");

    // Bodies in hand share their memory: while a large one waits for the store, another one finds no
    // room, and a small one does.
    door.store.0.takes(1).await;
    door.store.0.slow.store(true, Ordering::Relaxed);
    let mut first = door.connect().await;
    first.send(post(PATH, &"x".repeat(20_000))).await;
    door.store.0.takes(1).await;
    let answer = wire.ask(post(PATH, &"y".repeat(20_000))).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")));
    let mut small = door.connect().await;
    small.send(post(PATH, "small")).await;
    door.store.0.takes(1).await;
    door.store.0.may_answer.add_permits(3);
    assert_eq!(small.answer().await.status, 200);
    assert_eq!(first.answer().await.status, 200);
    assert_eq!(wire.ask(post(PATH, &"y".repeat(20_000))).await.status, 200);
}

#[tokio::test]
async fn requests_may_follow_at_once() {
    let door = Door::new(limits()).await;
    let mut wire = door.connect().await;
    wire.send([post(PATH, "one"), post(PATH, "two"), post("/elsewhere", "three"), post(PATH, "four")].concat()).await;
    for status in [200, 200, 404, 200] {
        assert_eq!(wire.answer().await.status, status);
    }
    assert_eq!(door.store.0.bodies(), ["one", "two", "four"]);
}

#[tokio::test]
async fn connections_are_limited() {
    let door = Door::new(quick(|l| l.connections_per_address_max = 1)).await;
    let mut first = door.connect().await;
    assert_eq!(first.ask(post(PATH, "one")).await.status, 200);
    door.connect().await.closes().await;
    assert_eq!(first.ask(post(PATH, "two")).await.status, 200);

    let door = Door::new(quick(|l| l.connections_max = 1)).await;
    let mut first = door.connect().await;
    assert_eq!(first.ask(post(PATH, "one")).await.status, 200);
    let mut waits = door.connect().await;
    waits.send(post(PATH, "two")).await;
    assert_eq!(first.ask(post(PATH, "three")).await.status, 200);
    assert_eq!(door.store.0.bodies(), ["one", "three"]);
    drop(first);
    assert_eq!(waits.answer().await.status, 200, "a place became free");
}

const MEDIA: &str = "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n";

/// Waits until so many connections were put to rest.
fn rested(daemon: &Daemon, times: usize) {
    soon("at rest", || (daemon.said("a connection rests") >= times).then_some(()));
}

#[tokio::test]
async fn what_was_begun_or_ended_before_a_rest_or_during_it_is_not_lost() {
    let daemon = Daemon::run(&format!("log.level = \"trace\"\n{MEDIA}"));
    // The beginning of a second head came with the first request.
    let mut begins = connect(&daemon.listen).await;
    let (one, two) = (post(PATH, "one"), post(PATH, "two"));
    let (begun, left) = two.split_at(9);
    assert_eq!(begins.ask(one.clone() + begun).await.status, 200);
    rested(&daemon, 1);
    assert_eq!(begins.ask(left).await.status, 200);
    // It comes byte by byte.
    rested(&daemon, 2);
    for byte in post(PATH, "three").as_bytes().chunks(1) {
        begins.send(byte).await;
    }
    assert_eq!(begins.answer().await.status, 200);
    // A request, and the end right behind it.
    rested(&daemon, 3);
    begins.send(post(PATH, "four")).await;
    begins.finish().await;
    assert_eq!(begins.answer().await.status, 200);
    begins.closes().await;
    // Nothing but the end.
    let mut ends = connect(&daemon.listen).await;
    assert_eq!(ends.ask(post(PATH, "five")).await.status, 200);
    rested(&daemon, 4);
    ends.finish().await;
    ends.closes().await;
    // An end in the middle of a head.
    let mut breaks = connect(&daemon.listen).await;
    assert_eq!(breaks.ask(one + begun).await.status, 200);
    rested(&daemon, 5);
    breaks.finish().await;
    breaks.closes().await;
    let kept = daemon.list(&["receipts", "list"]);
    let bytes: Vec<_> = kept.iter().rev().map(|row| row["body_bytes"].clone()).collect();
    assert_eq!(bytes, [3, 3, 5, 4, 4, 3]);
}

#[tokio::test]
async fn a_head_begun_before_a_rest_has_its_time_and_no_more() {
    let daemon = Daemon::run(&format!("log.level = \"trace\"\nserver.head_timeout = \"2s\"\n{MEDIA}"));
    let mut begins = connect(&daemon.listen).await;
    assert_eq!(begins.ask(post(PATH, "one") + "POST /callb").await.status, 200);
    rested(&daemon, 1);
    begins.closes().await;
}

/// A door to one long answer.
struct Download(Limits, Bytes);

impl Endpoint for Download {
    type Body = Full<Bytes>;

    fn limits(&self) -> Arc<Limits> {
        Arc::new(self.0.clone())
    }

    async fn answer(&self, request: Request<Incoming>, _: Caller, pulse: &Arc<Pulse>) -> Response<Full<Bytes>> {
        pulse.vouch();
        let is_long = request.uri().path() == "/long";
        Response::new(Full::new(if is_long { self.1.clone() } else { Bytes::new() }))
    }
}

#[tokio::test]
async fn who_still_takes_its_answer_is_not_silent() {
    const LONG: usize = 64 << 20;
    let bound = bind("127.0.0.1:0", None).await.expect("bound");
    let address = bound.address().to_owned();
    let download = Download(quick(|l| l.connections_max = 2), vec![b'x'; LONG].into());
    tokio::spawn(serve(bound, Arc::new(download), Shutdown::new()));
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut takes = TcpStream::connect(&address).await.expect("connected");
    takes.write_all(ask("/long").as_bytes()).await.expect("sent");
    let mut part = vec![0; 128 << 10];
    takes.read_exact(&mut part).await.expect("its beginning");
    // Who came later, and is silent from now on.
    let mut silent = connect(&address).await;
    assert_eq!(silent.ask(ask("/")).await.status, 200);
    let mut next = connect(&address).await;
    next.send(ask("/")).await;
    let next = tokio::spawn(async move { next.answer().await.status });
    let mut taken = part.len();
    // Slow, until there is room for who waits.
    while !next.is_finished() {
        takes.read_exact(&mut part).await.expect("more of it");
        taken += part.len();
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(next.await.expect("no panic"), 200);
    assert!(taken < LONG, "all of it was taken before there was room");
    silent.closes().await;
    while taken < LONG {
        taken += takes.read(&mut part).await.ok().filter(|read| *read > 0).expect("the rest of it");
    }
}

#[tokio::test]
async fn a_reload_drops_no_connection() {
    let door = Door::new(limits()).await;
    let mut wire = door.connect().await;
    assert_eq!(wire.ask(post("/new/t0ken", "early")).await.status, 404);
    door.ingest.store(ingest(&door.store, "/new", &[], None));
    assert_eq!(wire.ask(post("/new/t0ken", "now")).await.status, 200);
    assert_eq!(wire.ask(post(PATH, "old")).await.status, 404);
}

#[tokio::test]
async fn a_stop_finishes_what_was_begun() {
    let door = Door::new(limits()).await;
    let mut idle = door.connect().await;
    assert_eq!(idle.ask(post(PATH, "before")).await.status, 200);
    door.store.0.takes(1).await;
    door.store.0.slow.store(true, Ordering::Relaxed);
    let mut begun = door.connect().await;
    begun.send(post(PATH, "begun")).await;
    door.store.0.takes(1).await;

    door.shutdown.begin();
    idle.closes().await;
    TcpStream::connect(&door.address).await.expect_err("nobody is let in any more");
    assert!(!door.serving.is_finished(), "a request is in hand");
    door.store.0.may_answer.add_permits(1);
    let answer = begun.answer().await;
    assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
    begun.closes().await;
    door.serving.await.expect("served to the end");
}

/// Its connection was accepted here and does not wait for the next daemon; not every sender tries again.
#[tokio::test]
async fn a_stop_hears_who_has_just_come() {
    let door = Door::new(Limits { drain_timeout: 20 * PATIENCE, ..limits() }).await;
    let mut new = door.connect().await;
    // Accepted after the new one, so that one is, too.
    let mut idle = door.connect().await;
    assert_eq!(idle.ask(post(PATH, "before")).await.status, 200);
    door.shutdown.begin();
    idle.closes().await;
    assert_eq!(new.ask(post(PATH, "just come")).await.status, 200);
    new.closes().await;
    door.serving.await.expect("served to the end");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let door = Door::new(quick(|l| l.drain_timeout = SOON)).await;
    let mut begun = door.connect().await;
    begun.send(format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhe")).await;
    let mut handed_over = door.connect().await;
    door.store.0.slow.store(true, Ordering::Relaxed);
    handed_over.send(post(PATH, "in the store's hands")).await;
    door.store.0.takes(1).await;
    door.shutdown.begin();
    door.serving.await.expect("served to the end");
    begun.closes().await;
    handed_over.closes().await;
}

#[tokio::test]
async fn a_unix_socket_is_a_door_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("http.sock");
    let bound = bind(&format!("unix:{}", path.display()), None).await.expect("bound");
    let door = Door::at(bound, limits(), &["127.0.0.1/32"], None);
    let mut wire = Wire::new(UnixStream::connect(&path).await.expect("connected"));
    assert_eq!(wire.ask(post(PATH, "hello")).await.status, 200);
    assert_eq!(door.store.0.receipts.lock().expect("sound")[0].peer, "127.0.0.1");
    door.shutdown.begin();
    door.serving.await.expect("served to the end");
    assert!(!path.exists());
}

/// What was logged.
#[derive(Clone, Default)]
struct Logged(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Logged {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("sound").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn no_token_gets_into_the_log() {
    let logged = Logged::default();
    let to = logged.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false);
    // For the whole process, as in the daemon: what other tests log is held to the same.
    tracing::subscriber::set_global_default(subscriber.with_writer(move || to.clone()).finish()).expect("the only one");
    tracing::callsite::rebuild_interest_cache();
    let door = Door::new(limits()).await;
    let mut wire = door.connect().await;
    for (path, status) in [
        (PATH, 200),
        ("/callbacks/media?token=t0ken", 200),
        ("/callbacks/media?token=t0ken2", 401),
        ("/callbacks/medai/t0ken", 404),
        ("/callbacks/medai/t0ken/", 404),
        ("/callbacks/medai?token=t0ken", 404),
        ("/t0ken", 404),
    ] {
        assert_eq!(wire.ask(post(path, "t0ken")).await.status, status, "{path}");
    }
    let text = String::from_utf8(logged.0.lock().expect("sound").clone()).expect("UTF-8");
    assert!(text.contains(r#"source.name="media""#) && text.contains(r#"http.path="/callbacks""#), "{text}");
    assert!(text.contains("refused a callback") && text.contains(r#"receipt.outcome="accepted""#), "{text}");
    assert!(!text.contains("t0ken"), "{text}");
}

mod tls {
    use std::path::Path;

    use tokio_rustls::TlsConnector;
    use tokio_rustls::client::TlsStream;
    use tokio_rustls::rustls::crypto::ring;
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
    use tokio_rustls::rustls::{ClientConfig, RootCertStore};

    use super::*;

    /// Writes a fresh pair, and returns the certificate.
    fn write_pair(cert: &Path, key: &Path) -> CertificateDer<'static> {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a pair");
        std::fs::write(key, made.signing_key.serialize_pem()).expect("written");
        std::fs::write(cert, made.cert.pem()).expect("written");
        CertificateDer::from_pem_slice(made.cert.pem().as_bytes()).expect("a certificate")
    }

    /// Connects, and trusts this certificate alone.
    async fn shake(address: &str, trusted: &CertificateDer<'static>) -> std::io::Result<Wire<TlsStream<TcpStream>>> {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.clone()).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(name, stream).await.map(Wire::new)
    }

    #[tokio::test]
    async fn is_served_and_its_certificate_can_be_renewed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let old = write_pair(&cert, &key);
        let pair = || Pair::read(cert.clone(), key.clone()).expect("read");
        let certificate = Arc::new(Certificate::new(pair()));
        let bound = bind("127.0.0.1:0", Some(Arc::clone(&certificate))).await.expect("bound");
        let door = Door::at(bound, limits(), &[], None);

        let mut wire = shake(&door.address, &old).await.expect("shaken");
        assert_eq!(wire.ask(post(PATH, "hello")).await.status, 200);

        let new = write_pair(&cert, &key);
        certificate.take(pair());
        assert!(shake(&door.address, &old).await.is_err(), "the old certificate is gone");
        let mut renewed = shake(&door.address, &new).await.expect("shaken");
        assert_eq!(renewed.ask(post(PATH, "again")).await.status, 200);
        assert_eq!(wire.ask(post(PATH, "still")).await.status, 200, "who is connected stays connected");
    }

    /// A daemon with a certificate of its own.
    fn run(level: &str) -> (Daemon, CertificateDer<'static>) {
        let mut daemon = Daemon::prepare();
        let trusted = write_pair(&daemon.path("cert.pem"), &daemon.path("key.pem"));
        daemon.configure(&config(level, "t0ken"));
        daemon.start();
        (daemon, trusted)
    }

    fn config(level: &str, token: &str) -> String {
        let tls = "server.tls = { cert = \"cert.pem\", key = \"key.pem\" }";
        format!("log.level = {level:?}\n{tls}\n{}", MEDIA.replace("t0ken", token))
    }

    #[tokio::test]
    async fn a_connection_rests_and_says_goodbye() {
        let (daemon, trusted) = run("trace");
        let mut wire = shake(&daemon.listen, &trusted).await.expect("shaken");
        for (n, body) in ["one", "two", "three"].into_iter().enumerate() {
            assert_eq!(wire.ask(post(PATH, body)).await.status, 200);
            rested(&daemon, n + 1);
        }
        // Several records at once, and the end behind them.
        wire.send(post(PATH, "four")).await;
        wire.send(post(PATH, "five")).await;
        wire.finish().await;
        assert_eq!((wire.answer().await.status, wire.answer().await.status), (200, 200));
        wire.says_goodbye().await;
        let mut ends = shake(&daemon.listen, &trusted).await.expect("shaken");
        assert_eq!(ends.ask(post(PATH, "six")).await.status, 200);
        rested(&daemon, 4);
        ends.finish().await;
        ends.says_goodbye().await;
        let mut stays = shake(&daemon.listen, &trusted).await.expect("shaken");
        assert_eq!(stays.ask(post(PATH, "seven")).await.status, 200);
        rested(&daemon, 5);
        daemon.signal("TERM");
        stays.says_goodbye().await;
    }

    #[tokio::test]
    async fn a_reload_with_a_certificate_that_cannot_be_used_changes_nothing() {
        let (daemon, trusted) = run("info");
        let mut wire = shake(&daemon.listen, &trusted).await.expect("shaken");
        assert_eq!(wire.ask(post(PATH, "hello")).await.status, 200);
        daemon.configure(&config("info", "n3w"));
        let new = "/callbacks/media/n3w";
        for spoil in [
            // Of two pairs the halves.
            (|daemon: &Daemon| drop(write_pair(&daemon.path("other.pem"), &daemon.path("key.pem")))) as fn(&Daemon),
            |daemon| daemon.write("key.pem", "nothing"),
        ] {
            spoil(&daemon);
            let said = daemon.hup();
            assert_eq!(said["level"], "ERROR", "{said}");
            assert!(
                said["error"].as_str().is_some_and(|e| e.contains("server.tls") && e.contains("key.pem")),
                "{said}"
            );
            for (path, status) in [(PATH, 200), (new, 401)] {
                assert_eq!(wire.ask(post(path, "hello")).await.status, status);
                let mut fresh = shake(&daemon.listen, &trusted).await.expect("the old certificate");
                assert_eq!(fresh.ask(post(path, "hello")).await.status, status);
            }
        }
        // Elsewhere, and all is well.
        let elsewhere = write_pair(&daemon.path("new.pem"), &daemon.path("new.key"));
        let config = config("info", "n3w").replace("cert.pem", "new.pem").replace("key.pem", "new.key");
        daemon.configure(&config);
        let said = daemon.hup();
        assert_eq!(said["level"], "INFO", "{said}");
        assert_eq!(wire.ask(post(new, "hello")).await.status, 200, "who is connected stays connected");
        assert!(shake(&daemon.listen, &trusted).await.is_err(), "the old certificate is gone");
        let mut fresh = shake(&daemon.listen, &elsewhere).await.expect("shaken");
        assert_eq!(fresh.ask(post(new, "hello")).await.status, 200);
        assert!(!daemon.log().contains("server.tls was changed"), "{}", daemon.log());
    }

    #[tokio::test]
    async fn who_never_shakes_hands_makes_room_for_who_does() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let trusted = write_pair(&cert, &key);
        let certificate = Arc::new(Certificate::new(Pair::read(cert, key).expect("read")));
        let bound = bind("127.0.0.1:0", Some(certificate)).await.expect("bound");
        let door = Door::at(bound, quick(|l| l.connections_max = 20), &[], None);
        let mut strangers = Vec::new();
        for n in 0..20_u8 {
            let mut stranger = door.connect().await;
            // Nothing, the first bytes of a handshake, or what is none.
            match n % 3 {
                0 => {}
                1 => stranger.send([22, 3, 1, 2, 0, 1, 0]).await,
                _ => stranger.send([22, 3, 1, 0]).await,
            }
            strangers.push(stranger);
        }
        for _ in 0..3 {
            let mut wire = shake(&door.address, &trusted).await.expect("shaken");
            assert_eq!(wire.ask(post(PATH, "hello")).await.status, 200);
            let garbage = "GET / HTTP/1.1\r\n\r\n".repeat(100);
            connect(&door.address).await.send(garbage).await;
        }
    }

    #[tokio::test]
    async fn a_slow_handshake_is_cut_off() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        write_pair(&cert, &key);
        let certificate = Arc::new(Certificate::new(Pair::read(cert, key).expect("read")));
        let bound = bind("127.0.0.1:0", Some(certificate)).await.expect("bound");
        let door = Door::at(bound, quick(|l| l.head_timeout = SOON), &[], None);
        door.connect().await.closes().await;
    }
}
