//! Several callbackd on the engines that their users run, while those die: nothing acknowledged is lost or stored twice, and
//! every change is told in order.
//!
//! `tests/peers/cluster.sh` runs these, as root, in namespaces of their own, so ports are the same each time.
//! `CALLBACKD_TEST_MINUTES` says for how long there are rounds (default: one), `CALLBACKD_TEST_SEED` repeats whom a round
//! has hit.

mod engines;
mod load;

use std::io::Read as _;
use std::net::Ipv4Addr;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, request};
use crate::peers::hook::{Closed, Hook, Reply};
use engines::{Patroni, Process, Single, get, haproxy, sql};
use load::Load;

const MEDIA: &str = "/callbacks/media/t0ken";
const PROXY: &str = "127.0.0.1:8480";
/// Whoever of the nodes can be written, by callbackd's own choice.
const URL_OF_ALL: &str =
    "postgres://callbackd@127.0.0.1:7001,127.0.0.1:7002,127.0.0.1:7003/callbackd?target_session_attrs=read-write";
/// The same by HAProxy, which asks Patroni.
const URL_OF_PROXY: &str = "postgres://callbackd@127.0.0.1:5000/callbackd";

/// Looks until there is something to see.
fn within<T>(seconds: u64, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {seconds} s");
        thread::sleep(Duration::from_millis(20));
    }
}

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn wanted(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// Rounds of `undergo`, each with choices of its own.
fn rounds(mut undergo: impl FnMut(&mut Rng)) {
    let mut seed = wanted("CALLBACKD_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let end = Instant::now() + Duration::from_secs(60 * wanted("CALLBACKD_TEST_MINUTES").unwrap_or(0));
    loop {
        println!("CALLBACKD_TEST_SEED={seed}");
        undergo(&mut Rng::with_seed(seed));
        if Instant::now() >= end {
            return;
        }
        seed = Rng::with_seed(seed).u64(..);
    }
}

fn config(url: &str, hook: &str) -> String {
    format!(
        "server.answer_timeout = \"8s\"\nserver.drain_timeout = \"5s\"\n[store]\nurl = {url:?}\n\
         [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = {hook:?}\ntimeout = \"5s\"\nretry_first = \"50ms\"\nretry_longest = \"500ms\"\n\
         breaker_probe = \"200ms\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

/// A daemon at these addresses, however often it starts.
fn replica(config: &str, (listen, admin): (&str, &str), within: Vec<String>) -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.within = within;
    daemon.configure(config);
    for (name, at) in [("SERVER", listen), ("ADMIN", admin)] {
        daemon.environment.push((format!("CALLBACKD__{name}__LISTEN"), at.to_owned()));
    }
    daemon.start();
    daemon
}

/// Three replicas behind HAProxy, which has one for the database, too.
fn replicas(urls: [&str; 3], hook: &str) -> Vec<Daemon> {
    let one = |(at, url): (usize, &str)| {
        replica(&config(url, hook), (&format!("127.0.0.1:860{at}"), &format!("127.0.0.1:870{at}")), Vec::new())
    };
    urls.into_iter().enumerate().map(one).collect()
}

fn proxy(folder: &std::path::Path) -> Process {
    let servers: String = (0..3).map(|at| format!("  server r{at} 127.0.0.1:860{at} check port 870{at}\n")).collect();
    let nodes: String = (1..=3).map(|at| format!("  server n{at} 127.0.0.1:700{at} check port 800{at}\n")).collect();
    haproxy(
        folder,
        &format!(
            "global\n  maxconn 1000\ndefaults\n  timeout connect 2s\n  timeout client 60s\n  timeout server 20s\n  \
             option redispatch\n  default-server inter 300ms fall 2 rise 1\n\
             listen callbacks\n  mode http\n  bind {PROXY}\n  option httpchk GET /readyz\n{servers}\
             listen primary\n  mode tcp\n  timeout client 1h\n  timeout server 1h\n  bind 127.0.0.1:5000\n  \
             option httpchk GET /primary\n  http-check expect status 200\n  \
             default-server inter 500ms fall 2 rise 1 on-marked-down shutdown-sessions\n{nodes}"
        ),
    )
}

/// A sink that is well, or nearly always.
fn sink(at: Ipv4Addr) -> Hook {
    Closed::at(at).open(|| if fastrand::u32(0..50) == 0 { Reply::Status(503) } else { Reply::Status(200) })
}

/// Kills some of them, one after the other, and starts them again.
fn kill_replicas(daemons: &mut [Daemon], times: usize, load: &Load, rng: &mut Rng) {
    for _ in 0..times {
        let hit = rng.usize(..daemons.len());
        daemons[hit].kill9();
        load.goes_on(40);
        daemons[hit].start();
        within(60, "it is ready", || is_ready(&daemons[hit].admin).then_some(()));
    }
}

fn says(admin: &str, what: &str) -> bool {
    get(admin, "/readyz").is_some_and(|(_, said)| said.contains(what))
}

fn is_ready(admin: &str) -> bool {
    get(admin, "/readyz").is_some_and(|(status, _)| status == 200)
}

/// A namespace for a replica whose way to the database is another one than that to its senders and its sink, and can be cut.
struct Lines(Child);

impl Lines {
    const HERE: Ipv4Addr = Ipv4Addr::new(10, 79, 1, 1);
    const LISTEN: &str = "10.79.1.2:8600";
    const ADMIN: &str = "10.79.1.2:8700";

    fn ip(before: &[&str], args: &str) {
        let line: Vec<_> = before.iter().copied().chain(["ip"]).chain(args.split(' ')).collect();
        assert!(Command::new(line[0]).args(&line[1..]).status().expect("ip").success(), "{line:?}");
    }

    fn new() -> Lines {
        let mut holds = Command::new("unshare");
        holds.args(["--net", "sh", "-c", "ip link set lo up; echo; exec cat"]);
        let mut holds = holds.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("unshare");
        holds.stdout.as_mut().expect("piped").read_exact(&mut [0]).expect("it is there");
        let net = format!("--net=/proc/{}/ns/net", holds.id());
        let there = ["nsenter", &net];
        for (number, name) in [(1, "door"), (2, "base")] {
            Lines::ip(&[], &format!("link add {name} type veth peer name {name} netns {}", holds.id()));
            Lines::ip(&[], &format!("addr add 10.79.{number}.1/24 dev {name}"));
            Lines::ip(&there, &format!("addr add 10.79.{number}.2/24 dev {name}"));
            Lines::ip(&[], &format!("link set {name} up"));
            Lines::ip(&there, &format!("link set {name} up"));
        }
        Lines(holds)
    }

    /// A replica at their other end.
    fn replica(&self, hook: &str) -> Daemon {
        let url = URL_OF_ALL.replace("127.0.0.1", "10.79.2.1") + "&sslmode=disable";
        let within = vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.0.id())];
        replica(&format!("admin.token = \"apart\"\n{}", config(&url, hook)), (Lines::LISTEN, Lines::ADMIN), within)
    }

    /// What is sent to the database is dropped without a word.
    fn cut(&self) {
        Lines::ip(&[], "link set base down");
    }

    fn mend(&self) {
        Lines::ip(&[], "link set base up");
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a sender is told there, who comes without HAProxy.
fn asked(listen: &str, run: &str) -> u16 {
    asked_at(listen, run).unwrap_or_else(|e| panic!("{listen}: {e}"))
}

fn asked_at(listen: &str, run: &str) -> std::io::Result<u16> {
    let bytes = request("POST", MEDIA, &[], cos(Step::Start, run).as_bytes());
    Connection::try_within(listen, Duration::from_secs(20))?.ask(&bytes).map(|answer| answer.status)
}

/// Senders all the while, `undergo` in the midst of it; then the judgement.
fn under_load(to: &[String], daemons: &mut Vec<Daemon>, hook: &Hook, undergo: impl FnOnce(&Load, &mut Vec<Daemon>)) {
    let load = Load::default();
    thread::scope(|scope| {
        let senders = load.begin(scope, to);
        let over = Over(&load);
        load.goes_on(60);
        undergo(&load, daemons);
        drop(over);
        senders.into_iter().for_each(|sender| sender.join().expect("a sender"));
    });
    println!("  {}", load.judge(&daemons[0], hook));
}

/// Tells the senders, when dropped, that it is over.
struct Over<'a>(&'a Load);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

/// Prints what was done to them, and how long callbacks were not taken after.
fn teller(began: Instant) -> impl Fn(&str, Duration) {
    move |what, first| {
        let (at, first) = (began.elapsed().as_secs(), first.as_millis());
        println!("  at {at:>3} s  {what}; the next callback was taken after {first} ms");
    }
}

#[test]
#[ignore = "needs Patroni and namespaces: tests/peers/cluster.sh"]
fn on_a_patroni_cluster_whose_leader_is_killed_and_switched_over_and_whose_etcd_is_lost() {
    rounds(|rng| {
        let began = Instant::now();
        let mut patroni = Patroni::start();
        println!("  at {:>3} s  a cluster", began.elapsed().as_secs());
        let (folder, lines) = (tempfile::tempdir().expect("a folder"), Lines::new());
        let hook = sink(Lines::HERE);
        let apart = lines.replica(&hook.url());
        let _proxy = proxy(folder.path());
        // It takes everybody for well until it has asked them.
        within(30, "HAProxy knows the leader", || {
            let leads = || sql(URL_OF_PROXY, "SELECT 1 WHERE NOT pg_is_in_recovery()") == Ok(Some(1));
            (0..6).all(|_| leads()).then_some(())
        });
        let mut daemons = replicas([URL_OF_ALL, URL_OF_ALL, URL_OF_PROXY], &hook.url());
        within(30, "HAProxy", || get(PROXY, "/").filter(|(status, _)| *status == 404));
        let to = [PROXY.to_owned(), Lines::LISTEN.to_owned()];
        under_load(&to, &mut daemons, &hook, |load, daemons| {
            let told = teller(began);
            kill_replicas(daemons, 3, load, rng);
            told("replicas were killed", load.goes_on(40));

            for _ in 0..3 {
                assert!(patroni.cut() > 0, "nobody was connected");
                told("every connection was cut", load.goes_on(40));
            }

            let leader = patroni.leader().expect("a leader");
            patroni.kill_node(leader);
            told("the leader's machine died", load.goes_on(60));
            patroni.start_node(leader);
            patroni.is_whole();

            let (leader, standby) = patroni.leader_and_synchronous();
            patroni.control(&["switchover", "callbackd", "--leader", &leader, "--candidate", &standby, "--force"]);
            told("the leader was switched over", load.goes_on(60));
            patroni.is_whole();

            patroni.kill_postgres(patroni.leader().expect("a leader"));
            told("the leader's PostgreSQL was killed", load.goes_on(60));
            patroni.is_whole();

            let leader = patroni.leader().expect("a leader");
            patroni.stop_node(leader, "STOP");
            told("the leader's machine stood still", load.goes_on(60));
            // Each by itself: one that waited for an answer of the former has given that up.
            for daemon in daemons.iter() {
                within(60, "it writes to the new leader", || {
                    (asked_at(&daemon.listen, "run-0-0").ok()? == 200).then_some(())
                });
            }
            assert!(
                daemons[0].said("another server answers for the database") > 0,
                "it was not waiting for the former"
            );
            patroni.stop_node(leader, "CONT");
            patroni.is_whole();

            lines.cut();
            within(60, "a replica without its database says so", || (!is_ready(Lines::ADMIN)).then_some(()));
            assert_eq!(asked(Lines::LISTEN, "run-0-0"), 503);
            told("a replica was cut off", load.goes_on(60));
            lines.mend();
            within(60, "it takes callbacks again", || (asked(Lines::LISTEN, "run-0-0") == 200).then_some(()));
            assert!(is_ready(Lines::ADMIN));

            patroni.kill_etcd();
            within(60, "nobody leads without etcd", || patroni.leader().is_none().then_some(()));
            within(60, "senders are told", || (asked("127.0.0.1:8600", "run-0-0") == 503).then_some(()));
            patroni.start_etcd();
            told("etcd was lost, and is back", load.goes_on(60));
            patroni.is_whole();

            // Nothing is acknowledged that one server alone has, where that is not enough.
            patroni.control(&["edit-config", "callbackd", "--force", "--set", "synchronous_mode_strict=true"]);
            let (_, standby) = patroni.leader_and_synchronous();
            let means = format!("on the primary's disk, and on the disk of the synchronous standby ({standby})");
            within(60, "what a 2xx means is said", || says(&daemons[0].admin, &means).then_some(()));
            let leader = patroni.leader().expect("a leader");
            let standbys: Vec<_> = (0..3).filter(|node| *node != leader).collect();
            standbys.iter().for_each(|node| patroni.kill_node(*node));
            within(60, "it is not ready", || (!is_ready(&daemons[0].admin)).then_some(()));
            within(60, "senders are told", || (asked("127.0.0.1:8600", "run-0-0") == 503).then_some(()));
            // Whoever ends the waiting has not replicated anything.
            let before = load.acknowledged();
            assert!(patroni.end_waiting(leader) > 0, "nobody waited");
            within(60, "they wait again", || (patroni.end_waiting(leader) > 0).then_some(()));
            assert_eq!(load.acknowledged(), before, "acknowledged without a standby");
            // The one that has it all takes over from who is gone; what was never acknowledged is sent again.
            standbys.iter().for_each(|node| patroni.start_node(*node));
            told("no standby was there, and they are back", load.goes_on(60));
            patroni.is_whole();
        });
        assert_eq!(apart.said("taken for gone"), 0, "it was not away for so long");
    });
}

#[test]
#[ignore = "needs PgBouncer and namespaces: tests/peers/cluster.sh"]
fn on_one_server_behind_pgbouncer_both_of_which_are_killed() {
    rounds(|rng| {
        let began = Instant::now();
        let mut single = Single::start();
        let (folder, hook) = (tempfile::tempdir().expect("a folder"), sink(Ipv4Addr::LOCALHOST));
        let _proxy = proxy(folder.path());
        let mut daemons = replicas([Single::URL, Single::URL, Single::DIRECT_AS_CALLBACKD], &hook.url());
        let to = [PROXY.to_owned()];
        under_load(&to, &mut daemons, &hook, |load, daemons| {
            let told = teller(began);
            kill_replicas(daemons, 2, load, rng);
            told("replicas were killed", load.goes_on(40));
            for _ in 0..3 {
                single.kill_postgres();
                single.start_postgres();
                told("PostgreSQL was killed", load.goes_on(40));
            }
            for _ in 0..2 {
                single.restart_pgbouncer();
                told("PgBouncer was restarted", load.goes_on(40));
                assert!(single.cut() > 0, "nobody was connected");
                told("every connection was cut", load.goes_on(40));
            }
            a_stopped_replica_holds_nobody(&daemons[2], &daemons[0], &single);
            told("a replica was stopped in the midst of a transaction", load.goes_on(40));
        });
    });
}

/// What one has locked that is stopped, or cut off, in the midst of a transaction is anybody's after a while.
fn a_stopped_replica_holds_nobody(stopped: &Daemon, other: &Daemon, single: &Single) {
    // Both write the same row, again and again.
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Acquire) {
                let _ = asked_at(&stopped.listen, "run-0-0");
            }
        });
        within(60, "it is stopped in a transaction", || {
            stopped.signal("STOP");
            let holds = single.is_held("run-0-0");
            if !holds {
                stopped.signal("CONT");
            }
            holds.then_some(())
        });
        within(60, "another one takes the same", || (asked_at(&other.listen, "run-0-0").ok()? == 200).then_some(()));
        stopped.signal("CONT");
        is_over.store(true, Ordering::Release);
    });
    within(60, "it goes on", || (asked_at(&stopped.listen, "run-0-0").ok()? == 200).then_some(()));
}
