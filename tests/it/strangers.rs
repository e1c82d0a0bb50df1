//! Who knows no credential and takes up what others need: places, files, memory, time. Good callbacks are acknowledged
//! all the while.

use std::fs;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::callbacks::{Step, cos, port, signed};
use crate::daemon::{Connection, Daemon, request, soon};
use crate::peers::hook::{Hook, Reply};

const MEDIA: &str = "/callbacks/media/hush-t0ken";
const SECRET: &str = "hush-secret";

/// Both sources; `top` goes before them, `more` behind.
fn run(top: &str, more: &str) -> Daemon {
    Daemon::run(&format!(
        "{top}\n[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"hush-t0ken\"\n\
         [sources.portal]\nkind = \"port_action\"\npath = \"/callbacks/portal\"\nsecret = \"{SECRET}\"\n{more}\n"
    ))
}

/// One callback of each source, on connections of their own, and both are acknowledged.
fn good(daemon: &Daemon, n: usize) {
    let answer = daemon.post(MEDIA, &[], cos(Step::Success, format_args!("good-{n}")));
    assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("accepted")), "{answer:?}");
    let body = port(format_args!("r_good{n}"));
    let signature = signed(SECRET, body.as_bytes(), 0);
    let headers = signature.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = daemon.post("/callbacks/portal", &headers, body);
    assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("accepted")), "{answer:?}");
}

/// What strangers begin and never end.
fn begun(kind: usize) -> Vec<u8> {
    let port_head = "POST /callbacks/portal HTTP/1.1\r\nHost: x\r\n";
    match kind % 6 {
        0 => Vec::new(),
        1 => b"POST /callbacks/por".to_vec(),
        2 => format!("{port_head}X-A: {}\r\nX-B: ", "a".repeat(8000)).into_bytes(),
        // Only its body tells whether a call is Port's, so that it is read.
        3 => format!("{port_head}Content-Length: 4000000\r\n\r\n{{\"a\":\"{}", "b".repeat(3000)).into_bytes(),
        4 => format!("{port_head}Transfer-Encoding: chunked\r\n\r\n{}", "1\r\n[\r\n".repeat(300)).into_bytes(),
        _ => [request("POST", "/callbacks/media/wrong", &[], b""), b"GET / HT".to_vec()].concat(),
    }
}

/// Opens connections and begins something on each for as long as it is told to; keeps the newest `held`.
fn occupy(address: &str, held: usize, on: &AtomicBool, opened: &AtomicUsize, begins: impl Fn(usize) -> Vec<u8>) {
    let mut crowd = std::collections::VecDeque::new();
    while on.load(Ordering::Relaxed) {
        // Who is thrown out, or finds no room, comes again.
        if let Ok(mut stranger) = Connection::try_to(address) {
            let _ = stranger.send(begins(opened.fetch_add(1, Ordering::Relaxed)));
            crowd.push_back(stranger);
        }
        if crowd.len() >= held {
            crowd.pop_front();
            thread::yield_now();
        }
    }
}

#[test]
fn who_takes_every_place_loses_it_to_who_comes() {
    let daemon = run("server.connections_max = 40", "");
    // Who had a callback kept stays, silent as it is.
    let mut welcome = daemon.connect();
    let ask = |n: u32| request("POST", MEDIA, &[], cos(Step::Success, format_args!("welcome-{n}")).as_bytes());
    assert_eq!(welcome.ask(&ask(1)).expect("an answer").status, 200);
    let strangers: Vec<_> = (0..39)
        .map(|kind| {
            let mut stranger = daemon.connect();
            stranger.send(begun(kind)).expect("sent");
            stranger
        })
        .collect();
    for n in 0..30 {
        good(&daemon, n);
    }
    assert_eq!(welcome.ask(&ask(2)).expect("an answer").status, 200);
    daemon.logged(|line| line["message"].as_str().is_some_and(|said| said.starts_with("all 40 connections are taken")));
    drop(strangers);
}

#[test]
fn who_knows_the_token_may_be_slow_at_a_full_door() {
    let daemon = run("server.connections_max = 20", "");
    let whole = request("POST", MEDIA, &[], cos(Step::Success, "slow").as_bytes());
    let (said, left) = whole.split_at(whole.len() - 100);
    // The first that this connection asks, before all the others had their answers.
    let mut slow = daemon.connect();
    slow.send(said).expect("sent");
    let others: Vec<_> = (0..19)
        .map(|n| {
            let mut other = daemon.connect();
            let body = cos(Step::Success, format_args!("other-{n}"));
            assert_eq!(other.ask(&request("POST", MEDIA, &[], body.as_bytes())).expect("an answer").status, 200);
            other
        })
        .collect();
    for n in 0..4 {
        good(&daemon, n);
    }
    daemon.logged(|line| line["message"].as_str().is_some_and(|said| said.starts_with("all 20 connections are taken")));
    slow.send(left).expect("sent");
    let answer = slow.answer().expect("an answer");
    assert_eq!((answer.status, answer.json()["outcome"].as_str()), (200, Some("accepted")), "{answer:?}");
    drop(others);
}

#[test]
fn who_only_asks_whether_the_daemon_lives_takes_no_operators_place() {
    let daemon = run("admin.token = \"hush-adm1n\"", "");
    let probe = request("GET", "/livez", &[], b"");
    // All the places there are, and none of them is ever silent.
    let mut crowd: Vec<_> = (0..128).map(|_| Connection::to(&daemon.admin)).collect();
    let on = AtomicBool::new(true);
    let answer = thread::scope(|scope| {
        scope.spawn(|| {
            while on.load(Ordering::Relaxed) {
                crowd.retain_mut(|one| one.ask(&probe).is_ok());
            }
        });
        let credential = [("Authorization", "Bearer hush-adm1n")];
        let answer = Connection::to(&daemon.admin).ask(&request("GET", "/api/v1/sinks", &credential, b""));
        on.store(false, Ordering::Relaxed);
        answer
    });
    assert_eq!(answer.expect("an answer").status, 200);
}

#[test]
fn a_flood_of_connections_keeps_nobody_out() {
    let daemon = run("server.connections_max = 64", "");
    // Every place is taken before the flood: one that comes and goes at once may never take them all.
    let strangers: Vec<_> = (0..65)
        .map(|kind| {
            let mut stranger = daemon.connect();
            let _ = stranger.send(begun(kind));
            stranger
        })
        .collect();
    daemon.logged(|line| line["message"].as_str().is_some_and(|said| said.starts_with("all 64 connections are taken")));
    let (on, opened) = (AtomicBool::new(true), AtomicUsize::new(0));
    thread::scope(|scope| {
        let floods: Vec<_> = (0..2).map(|_| scope.spawn(|| occupy(&daemon.listen, 60, &on, &opened, begun))).collect();
        // Also when one of these fails, the floods have to end. They have to have come before.
        let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            soon("a flood", || (opened.load(Ordering::Relaxed) > 200).then_some(()));
            (0..3).for_each(|n| good(&daemon, n));
        }));
        on.store(false, Ordering::Relaxed);
        floods.into_iter().for_each(|flood| flood.join().expect("no panic"));
        served.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    drop(strangers);
    let lines = daemon.log().lines().count();
    assert!(lines < 1000, "{lines} lines were logged");
    assert_eq!(daemon.list(&["receipts", "list"]).len(), 6, "nothing of the strangers' was kept");
}

#[test]
fn a_stranger_on_a_unix_socket_or_at_the_operators_door_is_no_better_off() {
    let mut daemon = Daemon::prepare();
    let socket = daemon.path("http.sock");
    daemon.write(
        "callbackd.toml",
        &format!(
            "server.listen = \"unix:{}\"\nadmin.listen = \"127.0.0.1:0\"\nlog.format = \"json\"\nserver.connections_max = 20\n\
             [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"hush-t0ken\"\n\
             [sources.portal]\nkind = \"port_action\"\npath = \"/callbacks/portal\"\nsecret = \"{SECRET}\"\n",
            socket.display()
        ),
    );
    daemon.start();
    let silent: Vec<_> = (0..20).map(|_| daemon.connect()).collect();
    // More than the operators' door has places for, and none of it is ended.
    let operators: Vec<_> = (0..300)
        .map(|n| {
            let mut stranger = Connection::to(&daemon.admin);
            let begun = match n % 3 {
                0 => "",
                1 => "POST /api/v1/deliveries/retry HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60000\r\n\r\n{",
                _ => "GET /livez HTTP/1.1\r\nHost: loc",
            };
            stranger.send(begun).expect("sent");
            stranger
        })
        .collect();
    (0..10).for_each(|n| good(&daemon, n));
    assert_eq!(daemon.look("/readyz").status, 200);
    let huge = request("POST", "/api/v1/deliveries/retry", &[], &vec![b' '; 1 << 20]);
    let mut asks = Connection::to(&daemon.admin);
    assert_eq!(asks.ask(&huge).map(|answer| answer.status).unwrap_or(413), 413);
    good(&daemon, 10);
    drop((silent, operators));
}

/// Sets how many files a process may have open (prlimit(1), which every Debian has).
fn allow_files(pid: u32, files: usize) {
    let args = ["--pid", &pid.to_string(), &format!("--nofile={files}:")];
    let done = Command::new("prlimit").args(args).output().expect("prlimit");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

#[test]
fn who_opens_connections_takes_no_file_from_store_and_sinks() {
    let hook = Hook::start(|| Reply::Status(200));
    let sink = format!(
        "[sinks.any]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\nfrom = [\"media\", \"portal\"]\nto = [\"any\"]",
        hook.url()
    );
    let daemon = run("", &sink);
    // The daemon does not know of this limit: it meets it.
    let open = fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("open files").count();
    allow_files(daemon.pid(), open + 100);
    let mut here_before = daemon.connect();
    let ask = |n: u32| request("POST", MEDIA, &[], cos(Step::Success, format_args!("before-{n}")).as_bytes());
    assert_eq!(here_before.ask(&ask(0)).expect("an answer").status, 200);
    let crowd: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    daemon.logged(|line| line["message"].as_str().is_some_and(|said| said.starts_with("cannot accept connections")));
    for n in 1..20 {
        assert_eq!(here_before.ask(&ask(n)).expect("an answer").status, 200);
    }
    drop(crowd);
    daemon.logged(|line| line["message"] == "accepting connections again");
    good(&daemon, 0);
    let said = daemon.said("cannot accept connections");
    assert!(said < 20, "{said}");

    // Now it knows, and strangers get three quarters.
    assert!(daemon.hup()["error"].is_null());
    let crowd: Vec<_> = (0..200).map(|_| daemon.connect()).collect();
    (1..10).for_each(|n| good(&daemon, n));
    soon("all delivered", || (hook.taken().len() >= 40).then_some(()));
    drop(crowd);
}

/// Idle connections, and what each may cost: with what the daemon has in any case, 10,000 stay within 96 MiB.
const IDLE: usize = 10_000;
const IDLE_KIB: usize = 83 << 10;

#[test]
fn ten_thousand_idle_connections_cost_little() {
    allow_files(std::process::id(), IDLE + 5000);
    let daemon = run(
        "log.level = \"trace\"\nserver.connections_max = 11000\nserver.head_timeout = \"10m\"\nserver.idle_timeout = \"10m\"",
        "",
    );
    good(&daemon, 0);
    let (before, _) = daemon.memory_kib();
    let mut idle = Vec::with_capacity(IDLE);
    let mut spoke = 0;
    while idle.len() < IDLE {
        for _ in 0..500 {
            let mut silent = daemon.connect();
            // Some had an answer before they fell silent.
            if idle.len() % 5 == 0 {
                assert_eq!(silent.ask(&request("GET", "/elsewhere", &[], b"")).expect("an answer").status, 404);
                spoke += 1;
            }
            idle.push(silent);
        }
        good(&daemon, idle.len());
        // Who is still awake is not idle: on a busy machine they would be as many as came in the meantime.
        soon("at rest", || (daemon.said("a connection rests") >= spoke).then_some(()));
    }
    let sockets = || fs::read_dir(format!("/proc/{}/fd", daemon.pid())).expect("open files").count();
    soon("all of them accepted", || (sockets() >= IDLE).then_some(()));
    let (_, most) = daemon.memory_kib();
    let each = (most - before) as f64 / IDLE as f64;
    println!("{before} KiB before, {most} KiB at most with {IDLE} idle connections: {each:.2} KiB each");
    assert!(most - before <= IDLE_KIB, "{} KiB for {IDLE} idle connections, {IDLE_KIB} allowed", most - before);
    good(&daemon, IDLE + 1);
    assert_eq!(daemon.said("connections are taken"), 0, "some lost their place");
    // They were put to rest, not dropped.
    for (n, silent) in idle.iter_mut().enumerate().step_by(1000) {
        let body = cos(Step::Success, format_args!("idle-{n}"));
        assert_eq!(silent.ask(&request("POST", MEDIA, &[], body.as_bytes())).expect("an answer").status, 200);
    }
}

#[test]
fn memory_is_bounded_by_the_limits() {
    const CONNECTIONS: usize = 300;
    const HEAD: usize = 64 << 10;
    const BODIES: usize = 16 << 20;
    let daemon = run(&format!("server.connections_max = {CONNECTIONS}\nserver.bodies_bytes_max = {BODIES}"), "");
    good(&daemon, 0);
    let (before, _) = daemon.memory_kib();
    let long_head = format!("POST /callbacks/portal HTTP/1.1\r\nX-A: {}", "a".repeat(HEAD - 100));
    let bodies = ["wrong", "hush-t0ken"].map(|token| {
        let head = format!("POST /callbacks/media/{token} HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n");
        head + &"b".repeat(3_900_000)
    });
    // Who holds the token is not to take more than there is, either.
    let crowd: Vec<_> = (0..CONNECTIONS - 10)
        .map(|n| {
            let mut stranger = daemon.connect();
            // Whom there is no room for is cut off, maybe before all is sent.
            let _ = stranger.send(if n % 20 == 0 { &bodies[n / 20 % 2] } else { &long_head });
            stranger
        })
        .collect();
    (1..4).for_each(|n| good(&daemon, n));
    let (_, most) = daemon.memory_kib();
    let bound = (CONNECTIONS * (2 * HEAD + (48 << 10)) + 2 * BODIES) >> 10;
    println!("{before} KiB before, {most} KiB at most, {bound} KiB more allowed");
    assert!(most - before <= bound, "{} KiB, {bound} allowed", most - before);
    drop(crowd);
}

#[test]
fn refused_strangers_fill_no_log_and_no_store() {
    let daemon = run("", "");
    let mut stranger = daemon.connect();
    let requests = [
        request("POST", "/callbacks/media/guess", &[], b"a stranger's word"),
        request("POST", "/callbacks/media?token=guess", &[], b"a stranger's word"),
        request("POST", "/callbacks/portal", &[("X-Port-Signature", "v1,guess")], b"a stranger's word"),
        request("POST", "/somewhere/guess", &[], b"a stranger's word"),
        request("DELETE", "/callbacks/media/guess", &[], b"a stranger's word"),
    ];
    for n in 0..2000 {
        let answer = stranger.ask(&requests[n % requests.len()]).expect("an answer");
        assert!((400..500).contains(&answer.status), "{answer:?}");
    }
    let log = daemon.log();
    assert!(log.lines().count() < 400, "{} lines of 2,000 refusals", log.lines().count());
    assert!(!log.contains("guess") && !log.contains("stranger's word"), "{log}");
    assert!(daemon.list(&["receipts", "list"]).is_empty());
    good(&daemon, 0);
}
