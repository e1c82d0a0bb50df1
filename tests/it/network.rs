//! The daemon behind a bad line, to its sinks and to its senders: nothing acknowledged is lost, every change is taken in
//! order, and nothing is told twice unless the answer may have been lost.
//!
//! `tests/peers/network.sh` runs these, as root, in a network namespace of their own; each makes one more for its daemon,
//! with `tests/peers/line.py` between. `CALLBACKD_TEST_SEED` repeats the random choices of the lines.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::Ipv4Addr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, request, soon};
use crate::peers::hook::{Closed, Hook, Reply};

const MEDIA: &str = "/callbacks/media/t0ken";
const STEPS: [Step; 2] = [Step::Start, Step::Success];
/// TCP tries again and again on a bad line, further and further apart.
const PATIENCE: Duration = Duration::from_secs(75);

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn seed() -> u64 {
    std::env::var("CALLBACKD_TEST_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().expect("a number"))
}

/// `line.py`, and with it the namespace at its other end.
struct Line {
    number: u8,
    child: Child,
    told: ChildStdin,
    said: BufReader<ChildStdout>,
}

impl Line {
    fn new(number: u8) -> Line {
        let seed = seed();
        println!("line {number}: CALLBACKD_TEST_SEED={seed}");
        let program = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/peers/line.py");
        let mut command = Command::new("unshare");
        command.args(["--net", "python3", program, &number.to_string(), &seed.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a line");
        let (told, said) = (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let mut line = Line { number, child, told, said: BufReader::new(said) };
        line.answer();
        line
    }

    /// Says how it is from now on; returns what went over it until now.
    fn set(&mut self, weather: Value) -> Value {
        writeln!(self.told, "{weather}").expect("told");
        self.answer()
    }

    fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.said.read_line(&mut line).expect("read");
        serde_json::from_str(&line).expect("the line is there; tests/peers/network.sh makes what it needs")
    }

    /// The end of the senders and sinks.
    fn here(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.number, 1)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A daemon at the other end of a line, and its one sink at this one.
struct Scene {
    // Ends before the line does.
    daemon: Daemon,
    hook: Hook,
    line: Line,
}

impl Scene {
    fn new(number: u8, config: &str, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Scene {
        let line = Line::new(number);
        let hook = Closed::at(line.here()).open(reply);
        let mut daemon = Daemon::prepare();
        daemon.configure(&format!(
            "{config}\n[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
             [sinks.any]\nkind = \"webhook\"\nurl = {:?}\ntimeout = \"2s\"\nretry_first = \"50ms\"\nretry_longest = \"500ms\"\n\
             breaker_probe = \"200ms\"\nconcurrency = 8\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n",
            hook.url()
        ));
        daemon.within = vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", line.child.id())];
        daemon.environment.push(("CALLBACKD__SERVER__LISTEN".to_owned(), format!("10.77.{number}.2:0")));
        daemon.start();
        Scene { daemon, hook, line }
    }

    /// Posts every step of these runs, `senders` at a time, each until it is acknowledged.
    fn post_all(&self, senders: usize, runs: &[String], extra: usize) -> Ledger {
        let deadline = Instant::now() + PATIENCE;
        let acknowledged = thread::scope(|scope| {
            let share = runs.len().div_ceil(senders);
            let senders: Vec<_> =
                runs.chunks(share).map(|runs| scope.spawn(move || self.send(runs, extra, deadline))).collect();
            senders.into_iter().flat_map(|sender| sender.join().expect("a sender")).collect()
        });
        Ledger { runs: runs.to_vec(), acknowledged }
    }

    fn send(&self, runs: &[String], extra: usize, deadline: Instant) -> Vec<(String, String)> {
        let mut acknowledged = Vec::new();
        let mut connection = None;
        for run in runs {
            for step in STEPS {
                let bytes = request("POST", MEDIA, &[], body(step, run, extra).as_bytes());
                let answer = loop {
                    assert!(Instant::now() < deadline, "{run} {step:?} is not acknowledged");
                    let mut asked = match connection.take() {
                        Some(connection) => connection,
                        None => match Connection::try_to(&self.daemon.listen) {
                            Ok(fresh) => fresh,
                            Err(_) => continue,
                        },
                    };
                    if let Ok(answer) = asked.ask(&bytes) {
                        // A connection over which an answer came may go on.
                        connection = Some(asked);
                        assert!([200, 408, 503].contains(&answer.status), "{answer:?}");
                        if answer.status == 200 {
                            break answer.json();
                        }
                        connection = None;
                    }
                };
                let word = |of: &Value| of.as_str().expect("a text").to_owned();
                acknowledged.push((word(&answer["receipt"]), word(&answer["outcome"])));
            }
        }
        acknowledged
    }

    /// Waits until nothing is to be delivered any more, and holds store and sink against what was acknowledged. Returns
    /// what went over the line.
    fn settles(&mut self, ledger: &Ledger) -> Value {
        let deadline = Instant::now() + PATIENCE;
        while !self.daemon.list(&["deliveries", "list", "--status", "waiting,leased", "--limit", "1"]).is_empty() {
            assert!(Instant::now() < deadline, "still not delivered: {:?}", self.daemon.list(&["sinks", "list"]));
            thread::sleep(Duration::from_millis(50));
        }
        self.is_bounded();
        // Nothing in the way of the end.
        let over_it = self.line.set(json!({}));
        assert_eq!(self.daemon.terminate().code(), Some(0));
        let requests = ledger.holds(&self.daemon, &self.hook);
        println!(
            "line {}: {} acknowledged, {} changes taken at {requests} requests; {over_it}",
            self.line.number,
            ledger.acknowledged.len(),
            ledger.runs.len() * STEPS.len(),
        );
        over_it
    }

    /// That the daemon is no larger and holds no more connections than it may.
    fn is_bounded(&self) {
        let (_, most) = self.daemon.memory_kib();
        assert!(most < 96 << 10, "{most} KiB");
        let towards = self.connections_to_sink();
        assert!(towards <= 8 + 16, "{towards} connections to the sink");
    }

    /// Connections that the daemon has open to its sink: those under way, and those kept for the next.
    fn connections_to_sink(&self) -> usize {
        let port = format!(":{:04X}", self.hook.port());
        sockets(self.daemon.pid()).filter(|(_, to)| to.ends_with(&port)).count()
    }

    /// Connections that senders have open to the daemon, as it sees them.
    fn connections_from_senders(&self) -> usize {
        let port: u16 = self.daemon.listen.rsplit_once(':').expect("a port").1.parse().expect("a number");
        let port = format!(":{port:04X}");
        sockets(self.daemon.pid()).filter(|(from, _)| from.ends_with(&port)).count()
    }

    fn deliveries(&self, filter: &[&str]) -> Vec<Value> {
        self.daemon.list(&[&["deliveries", "list"], filter].concat())
    }

    fn kept(&self, run: &str) -> bool {
        self.daemon.list(&["executions", "list"]).iter().any(|row| row["key"] == run)
    }
}

/// Established TCP connections in the namespace of a process: local and remote address, in hexadecimal.
fn sockets(pid: u32) -> impl Iterator<Item = (String, String)> {
    const ESTABLISHED: &str = "01";
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp")).expect("a process");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
    let rows: Vec<_> = rows.filter(|row| row[3] == ESTABLISHED).map(|row| (row[1].clone(), row[2].clone())).collect();
    rows.into_iter()
}

fn body(step: Step, run: &str, extra: usize) -> String {
    cos(step, run).replace("</Response>", &format!("<Extra>{}</Extra></Response>", "x".repeat(extra)))
}

fn runs(word: &str, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{word}-{n}")).collect()
}

/// What senders were told.
struct Ledger {
    runs: Vec<String>,
    /// Receipt and outcome.
    acknowledged: Vec<(String, String)>,
}

impl Ledger {
    /// Returns how many requests the sink got.
    fn holds(&self, daemon: &Daemon, hook: &Hook) -> usize {
        let word = |of: &Value| of.as_str().unwrap_or_else(|| panic!("{of} is no text")).to_owned();
        let mut receipts: HashMap<String, String> = HashMap::new();
        for row in daemon.list(&["receipts", "list"]) {
            receipts.insert(word(&row["id"]), word(&row["status"]));
        }
        for (receipt, outcome) in &self.acknowledged {
            assert_eq!(receipts.get(receipt), Some(outcome), "receipt {receipt}");
        }
        let accepted = receipts.values().filter(|status| *status == "accepted").count();
        assert_eq!(accepted, self.runs.len() * STEPS.len(), "each changed something once");
        assert!(receipts.values().all(|status| status == "accepted" || status == "duplicate"), "{receipts:?}");
        let executions = daemon.list(&["executions", "list"]);
        let found: HashSet<String> = executions.iter().map(|row| word(&row["key"])).collect();
        assert_eq!(found, self.runs.iter().cloned().collect());
        assert!(executions.iter().all(|row| row["status"] == "succeeded"), "{executions:?}");

        let rows = daemon.list(&["deliveries", "list"]);
        assert_eq!(rows.len(), accepted);
        let mut tries: HashMap<String, u64> = HashMap::new();
        for row in &rows {
            assert_eq!(row["status"], "delivered", "{row}");
            tries.insert(word(&row["id"]), row["attempts"].as_u64().expect("a number"));
        }
        let (mut taken, mut came) = (BTreeMap::new(), HashMap::new());
        for step in hook.seen() {
            let sequence = step.change()["data"]["change"]["sequence"].as_u64().expect("a number");
            let before = taken.get(&step.key()).copied().unwrap_or(0);
            if step.taken {
                taken.insert(step.key(), before.max(sequence));
            } else {
                assert!(sequence <= before + 1, "{}: no. {sequence} after no. {before}", step.key());
                *came.entry(step.id).or_insert(0) += 1;
            }
        }
        assert!(taken.values().all(|last| *last == 2), "{taken:?}");
        assert_eq!((taken.len(), came.len()), (self.runs.len(), rows.len()), "every change was taken");
        for (id, came) in &came {
            // What was tried once came once: it came again only where no answer was heard.
            assert!(*came <= tries[id], "delivery {id} came {came} times at {} tries", tries[id]);
        }
        came.values().sum::<u64>() as usize
    }
}

/// What is let go by one and waited for by another.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn open(&self) {
        *self.open.lock().expect("sound") = true;
        self.opened.notify_all();
    }

    fn pass(&self) {
        let open = self.open.lock().expect("sound");
        drop(self.opened.wait_while(open, |open| !*open).expect("sound"));
    }
}

/// All that there is over a line that is like this from beginning to end.
fn bears(number: u8, weather: Value, count: usize, extra: usize) {
    let mut scene = Scene::new(number, "", || Reply::Status(200));
    scene.line.set(weather.clone());
    let ledger = scene.post_all(6, &runs("run", count), extra);
    let over_it = scene.settles(&ledger);
    for (way, fault) in [("in", "loss"), ("in", "twice"), ("out", "loss"), ("out", "twice")] {
        let counted = if fault == "loss" { "lost" } else { fault };
        assert!(weather[way][fault].is_null() || over_it[way][counted] != 0, "{way} had no {fault}: {over_it}");
    }
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn far_away_and_unsteady() {
    let way = json!({"delay": 100, "jitter": 150});
    bears(1, json!({"in": way, "out": way}), 24, 0);
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn a_tenth_of_all_packets_lost_others_twice_and_out_of_order() {
    let way = json!({"delay": 5, "jitter": 30, "loss": 10, "twice": 10});
    bears(2, json!({"in": way, "out": way}), 24, 0);
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn a_third_of_all_packets_lost() {
    let way = json!({"delay": 5, "jitter": 5, "loss": 30});
    bears(3, json!({"in": way, "out": way}), 12, 0);
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn a_narrow_line() {
    let way = json!({"rate": 100_000, "delay": 20});
    bears(4, json!({"in": way, "out": way}), 12, 20_000);
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn an_answer_that_is_lost_with_the_line_is_waited_for_no_longer_than_a_try() {
    let (gate, (here, arrived)) = (std::sync::Arc::new(Gate::default()), mpsc::channel());
    let (held, here) = (std::sync::Arc::clone(&gate), Mutex::new(here));
    let mut scene = Scene::new(5, "", move || {
        let _ = here.lock().expect("sound").send(());
        held.pass();
        Reply::Status(200)
    });
    let ledger = scene.post_all(1, &runs("run", 1), 0);
    arrived.recv().expect("a request");
    let sink = scene.hook.port();
    // The request is there, and from now on nothing: it is taken, and nobody hears of it.
    scene.line.set(json!({"in": {"loss": 100}, "out": {"loss": 100}, "port": sink}));
    gate.open();
    soon("the sink took it", || (!scene.hook.taken().is_empty()).then_some(()));
    let failed = soon("a try that ended", || {
        let row =
            scene.deliveries(&[]).into_iter().find(|row| row["attempts"].as_u64().is_some_and(|tries| tries > 0))?;
        let shown = scene.daemon.cli(&["deliveries", "show", row["id"].as_str()?, "--json"]);
        Some(serde_json::from_str::<Value>(shown.said()).expect("JSON")["attempts"][0].clone())
    });
    assert_eq!((&failed["outcome"], &failed["reason"]), (&json!("retry"), &json!("no answer within 2 s")), "{failed}");
    assert_eq!(scene.hook.taken().len(), 1, "the next of its execution waits");
    scene.line.set(json!({}));
    scene.settles(&ledger);
    let told: Vec<_> = scene.hook.taken().into_iter().map(|(_, status)| status).collect();
    assert_eq!(told, ["running", "running", "succeeded"]);
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn a_line_that_is_down_for_a_while() {
    let mut scene = Scene::new(6, "", || Reply::Status(200));
    let first = scene.post_all(4, &runs("before", 8), 0);
    let sink = scene.hook.port();
    scene.line.set(json!({"in": {"loss": 100}, "out": {"loss": 100}, "port": sink}));
    let mut ledger = scene.post_all(4, &runs("meanwhile", 16), 0);
    scene.daemon.logged(|line| line["message"].as_str().is_some_and(|m| m.starts_with("the sink fails again")));
    scene.line.set(json!({}));
    scene.daemon.logged(|line| line["message"] == "the sink answers again");
    ledger.runs.extend(first.runs);
    ledger.acknowledged.extend(first.acknowledged);
    scene.settles(&ledger);
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn a_peer_that_dies_without_a_word_and_returns() {
    let mut scene = Scene::new(7, "", || Reply::Status(200));
    let first = scene.post_all(4, &runs("before", 8), 0);
    soon("all delivered", || scene.deliveries(&["--status", "waiting,leased"]).is_empty().then_some(()));
    let sink = scene.hook.port();
    scene.line.set(json!({"in": {"loss": 100}, "out": {"loss": 100}, "port": sink}));
    // Its last words are lost, and then it knows of nothing.
    assert!(scene.hook.hang_up() > 0);
    let port = format!(":{sink:04X}");
    let table = || fs::read_to_string("/proc/self/net/tcp").expect("a table");
    soon("its connections are forgotten", || {
        let mut rows = table().lines().map(str::to_owned).collect::<Vec<_>>().into_iter().skip(1);
        let is_its = |row: &String| row.split_whitespace().nth(1).is_some_and(|local| local.ends_with(&port));
        // Other than the one that listens.
        rows.all(|row| !is_its(&row) || row.split_whitespace().nth(3) == Some("0A")).then_some(())
    });
    assert!(scene.connections_to_sink() > 0, "the daemon knows nothing of it");
    scene.line.set(json!({}));
    let mut ledger = scene.post_all(4, &runs("after", 8), 0);
    ledger.runs.extend(first.runs);
    ledger.acknowledged.extend(first.acknowledged);
    scene.settles(&ledger);
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn kept_connections_that_a_firewall_has_forgotten() {
    let mut scene = Scene::new(8, "", || Reply::Slow(Duration::from_millis(50)));
    let first = scene.post_all(8, &runs("before", 16), 0);
    soon("all delivered", || scene.deliveries(&["--status", "waiting,leased"]).is_empty().then_some(()));
    let dead = scene.connections_to_sink();
    assert!((1..=8).contains(&dead), "{dead} connections");
    scene.line.set(json!({"forget": true}));
    let mut ledger = scene.post_all(1, &runs("after", 2), 0);
    ledger.runs.extend(first.runs);
    ledger.acknowledged.extend(first.acknowledged);
    scene.settles(&ledger);
    for row in
        scene.deliveries(&[]).iter().filter(|row| row["key"].as_str().is_some_and(|key| key.starts_with("after")))
    {
        // Each dead one costs a try at most.
        assert!(row["attempts"].as_u64().is_some_and(|tries| tries <= dead as u64 + 1), "{row}");
    }
}

const SOON_GONE: &str = "server.head_timeout = \"1s\"\nserver.body_timeout = \"1s\"\nserver.idle_timeout = \"2s\"\n\
                         server.connections_max = 4\n";

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn a_sender_that_vanishes_after_its_last_byte() {
    let mut scene = Scene::new(9, SOON_GONE, || Reply::Status(200));
    let mut sender = scene.daemon.connect();
    // One round, so that the connection stands on both sides.
    let answer = sender.ask(&request("POST", MEDIA, &[], body(Step::Start, "run-0", 0).as_bytes())).expect("an answer");
    assert_eq!(answer.status, 200, "{answer:?}");
    let told = (answer.json()["receipt"].as_str().expect("an id").to_owned(), "accepted".to_owned());
    let door: u16 = scene.daemon.listen.rsplit_once(':').expect("a port").1.parse().expect("a number");
    scene.line.set(json!({"out": {"loss": 100}, "port": door}));
    sender.send(request("POST", MEDIA, &[], body(Step::Success, "run-0", 0).as_bytes())).expect("sent");
    soon("the sink was told", || (scene.hook.taken().len() == 2).then_some(()));
    scene.line.set(json!({"in": {"loss": 100}, "out": {"loss": 100}, "port": door}));
    drop(sender);
    soon("its place is given back", || (scene.connections_from_senders() == 0).then_some(()));
    assert!(scene.kept("run-0"));
    let ledger = Ledger { runs: runs("run", 1), acknowledged: vec![told] };
    scene.settles(&ledger);
}

#[test]
#[ignore = "needs a network namespace: tests/peers/network.sh"]
fn half_open_senders_give_their_places_back() {
    let mut scene = Scene::new(10, SOON_GONE, || Reply::Status(200));
    let whole = request("POST", MEDIA, &[], body(Step::Start, "run-0", 0).as_bytes());
    let head = whole.windows(4).position(|w| w == b"\r\n\r\n").expect("a head") + 4;
    let mut idle = scene.daemon.connect();
    assert_eq!(idle.ask(&whole).expect("an answer").status, 200);
    // As far as each came before it vanished: nothing, half a head, half a body.
    let others = [0, head / 2, head + 20].map(|bytes| {
        let mut sender = scene.daemon.connect();
        sender.send(&whole[..bytes]).expect("sent");
        sender
    });
    soon("all places are taken", || (scene.connections_from_senders() == 4).then_some(()));
    scene.line.set(json!({"forget": true}));
    // Who comes now finds no place at first, and waits no longer than the limits are.
    let ledger = scene.post_all(2, &runs("run", 4), 0);
    scene.line.set(json!({}));
    soon("the places are given back", || (scene.connections_from_senders() <= 2).then_some(()));
    drop((idle, others));
    // The first of them was acknowledged before, too: a repeat, which changes nothing.
    scene.settles(&ledger);
}
