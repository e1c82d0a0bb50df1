//! What one of several does, the others go by: breakers, pauses, upkeep, and who is there.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use callbackd::measure::Open;
use callbackd::model::Status;
use callbackd::store::postgres::{Options, Word};
use callbackd::store::{Breaker, Claim, Export, Fate, Filter, Queries as _, Store as _};
use serde_json::Value;
use tempfile::TempDir;

use super::{MEDIA, beaten, config, replicas, server};
use crate::callbacks::{Step, cos};
use crate::clock::{Clock, faketime};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Hook, Reply};
use crate::rig::until;
use crate::store::{at, claim, record, settle, update};
use crate::stores::postgres::{address, ask, make, silence, try_open};

#[tokio::test]
async fn a_sink_that_fails_for_one_is_probed_by_one_at_a_time() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    for key in ["i1", "i2", "i3"] {
        record(&*stores[0], "media", at(0), vec![update(key, Status::Failed)]).await;
    }
    let claim = async |of: usize, by, now| -> Claim {
        stores[of].claim("a".to_owned(), 1, 30_000, at(by), at(now)).await.expect("claimed")
    };
    let open = |since, probe_at| Open { since: at(since), probe_at: at(probe_at) };
    let share = async |of: usize, open| stores[of].share_breaker("a".to_owned(), open).await.expect("shared");
    share(0, Some(open(1, 6))).await;
    let other = claim(1, 2, 2).await;
    assert!(other.deliveries.is_empty());
    assert_eq!(other.breaker, Breaker::Open(open(1, 6)));
    assert!(claim(1, 100, 5).await.deliveries.is_empty(), "too soon for a probe");
    let probe = claim(1, 100, 6).await;
    assert_eq!((probe.deliveries.len(), probe.breaker), (1, Breaker::Own));
    let meanwhile = claim(0, 100, 7).await;
    assert!(meanwhile.deliveries.is_empty(), "one at a time");
    assert_eq!(meanwhile.breaker, Breaker::Open(open(1, 36)), "until it is over, or should have been");

    // Not made after all.
    stores[1].release(vec![probe.deliveries[0].id], probe.until).await.expect("given back");
    let probe = claim(0, 100, 8).await;
    assert_eq!(probe.deliveries.len(), 1);
    // Another try, which was under way, fails too: the probe has the word.
    share(1, Some(open(8, 20))).await;
    assert_eq!(claim(1, 100, 9).await.breaker, Breaker::Open(open(1, 38)));
    settle(&*stores[0], &probe.deliveries[0], waits(100), at(9)).await;
    share(0, Some(open(1, 14))).await;
    assert!(claim(1, 100, 13).await.deliveries.is_empty());
    // Somebody was asked for more patience.
    share(1, Some(open(8, 20))).await;
    assert!(claim(0, 100, 14).await.deliveries.is_empty());

    // Who probes is killed.
    assert_eq!(claim(0, 100, 20).await.deliveries.len(), 1);
    silence(&server, &folder);
    let third = try_open(&server, &folder, Options::default()).await;
    let probe = third.claim("a".to_owned(), 1, 30_000, at(100), at(21)).await.expect("claimed");
    assert_eq!(probe.deliveries.len(), 1);
    settle(&*third, &probe.deliveries[0], Fate::Delivered, at(22)).await;
    third.share_breaker("a".to_owned(), None).await.expect("shared");
    let all = stores[1].claim("a".to_owned(), 10, 30_000, at(100), at(22)).await.expect("claimed");
    assert_eq!(all.deliveries.len(), 2, "as ever");
    assert_eq!(claim(1, 200, 22).await.breaker, Breaker::Closed, "said to who asks for a probe");
    assert_eq!(claim(1, 22, 22).await.breaker, Breaker::Own);
}

fn waits(seconds: u64) -> Fate {
    Fate::Waiting { due_at: at(seconds), until_linked: None, resume: None, free: false }
}

/// A sink that is down, until it is said to be well.
fn down() -> (Hook, Arc<AtomicBool>) {
    let is_well = Arc::new(AtomicBool::new(false));
    let hook = Hook::start({
        let is_well = Arc::clone(&is_well);
        move || Reply::Status(if is_well.load(Ordering::Acquire) { 200 } else { 503 })
    });
    (hook, is_well)
}

/// How the daemon finds its only sink.
fn sink(daemon: &Daemon) -> Value {
    daemon.look("/api/v1/sinks").json()["items"][0].clone()
}

#[test]
fn what_is_down_for_one_daemon_is_not_tried_by_another_until_it_answers() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let (hook, is_well) = down();
    let text = config(&address(&server, &folder), &hook.url());
    // Nobody probes by himself in the time of this test.
    let first = Daemon::run(&text.replace("breaker_probe = \"50ms\"", "breaker_probe = \"2h\""));
    const RUNS: usize = 10;
    for run in 0..RUNS {
        assert_eq!(first.post(MEDIA, &[], cos(Step::Failed, run)).status, 200);
    }
    soon("it is given up for now", || sink(&first)["breaker"]["open_since"].as_str().map(str::to_owned));
    soon("the others know", || (ask(&server, &folder, "SELECT count(*) FROM sink_breakers") == 1).then_some(()));
    soon("what was under way is over", || {
        (ask(&server, &folder, "SELECT count(*) FROM deliveries WHERE status = 'leased'") == 0).then_some(())
    });
    let tried = hook.seen().len();
    // This one would probe twenty times a second.
    let second = Daemon::run(&text);
    soon("it knows", || sink(&second)["breaker"]["open_since"].as_str().map(str::to_owned));
    for run in RUNS..2 * RUNS {
        assert_eq!(second.post(MEDIA, &[], cos(Step::Failed, run)).status, 200);
    }
    soon("it says so", || (second.said("the sink fails at another callbackd") == 1).then_some(()));
    assert_eq!(hook.seen().len(), tried, "nobody has tried");
    is_well.store(true, Ordering::Release);
    // Two hours later.
    ask(&server, &folder, "UPDATE sink_breakers SET probe_at = 0");
    soon("all is told", || (hook.taken().len() == 2 * RUNS).then_some(()));
    soon("the first one knows, too", || sink(&first)["breaker"].is_null().then_some(()));
    assert_eq!(first.post(MEDIA, &[], cos(Step::Failed, "last")).status, 200);
    soon("told", || (hook.taken().len() == 2 * RUNS + 1).then_some(()));
}

#[test]
fn what_is_paused_at_one_daemon_is_told_by_none() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let is_held = Arc::new(AtomicBool::new(true));
    let hook = Hook::start({
        let is_held = Arc::clone(&is_held);
        move || {
            while is_held.load(Ordering::Acquire) {
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Reply::Status(200)
        }
    });
    let text = config(&address(&server, &folder), &hook.url()).replace("retry_first", "concurrency = 4\nretry_first");
    let first = Daemon::run(&text);
    let leased = "SELECT count(*) FROM deliveries WHERE status = 'leased'";
    for run in 0..8 {
        assert_eq!(first.post(MEDIA, &[], cos(Step::Failed, run)).status, 200);
    }
    soon("it has its hands full", || (ask(&server, &folder, leased) == 4).then_some(()));
    let second = Daemon::run(&text);
    soon("so has the other", || (ask(&server, &folder, leased) == 8).then_some(()));
    for run in 8..20 {
        assert_eq!(second.post(MEDIA, &[], cos(Step::Failed, run)).status, 200);
    }
    let paused = second.cli(&["sinks", "pause", "any", "--reason", "an upgrade"]);
    assert_eq!(paused.code, Some(0), "{paused:?}");
    is_held.store(false, Ordering::Release);
    soon("what was under way is told", || (ask(&server, &folder, leased) == 0).then_some(()));
    assert_eq!(hook.taken().len(), 8, "and nothing else");
    assert_eq!(sink(&first)["paused"], "an upgrade");
    assert_eq!(first.cli(&["sinks", "resume", "any"]).code, Some(0));
    soon("all is told", || (hook.taken().len() == 20).then_some(()));
}

#[tokio::test]
async fn others_hear_of_what_is_due_and_of_what_is_stopped() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let woken = {
        let heard = Arc::clone(&heard);
        Arc::new(move |word: Word<'_>| heard.lock().expect("sound").push(format!("{word:?}")))
    };
    let first = try_open(&server, &folder, Options::default()).await;
    let _second = try_open(&server, &folder, Options { woken, ..Options::default() }).await;
    let has_heard = async |word: &str| {
        until(word, async || heard.lock().expect("sound").iter().any(|one| one == word).then_some(())).await;
    };
    // It listens from a moment after it was opened on; whoever tells it sooner is found by looking.
    let mut n = 0;
    until("it listens", async || {
        n += 1;
        record(&*first, "media", at(1), vec![update(&format!("i{n}"), Status::Failed)]).await;
        (!heard.lock().expect("sound").is_empty()).then_some(())
    })
    .await;
    has_heard("Due(\"a\")").await;
    for (sink, stop) in [("p", 0), ("b", 1)] {
        match stop {
            0 => first.pause(sink.to_owned(), Some("why".to_owned())).await.expect("paused"),
            _ => {
                let open = Some(Open { since: at(1), probe_at: at(2) });
                assert!(first.share_breaker(sink.to_owned(), open).await.expect("shared"));
            }
        }
        has_heard(&format!("Stopped(\"{sink}\")")).await;
    }
    // A word that is lost: what changes without one is seen by looking, once a beat. So two beats have to pass first.
    let beat =
        || ask(&server, &folder, "SELECT (extract(epoch FROM seen_at) * 1000)::bigint FROM replicas WHERE slot = 1");
    for _ in 0..2 {
        let last = beat();
        until("its next beat", async || (beat() != last).then_some(())).await;
    }
    let times = || heard.lock().expect("sound").iter().filter(|word| *word == "Stopped(\"p\")").count();
    let before = times();
    ask(&server, &folder, "DELETE FROM sink_pauses");
    until("it is seen", async || (times() > before).then_some(())).await;
}

/// Keeps lines in memory.
#[derive(Default)]
struct Lines(Mutex<Vec<u8>>);

impl Export for Lines {
    fn take(&self, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut lines = Vec::new();
        fill(&mut lines)?;
        self.0.lock().expect("sound").extend(lines);
        Ok(())
    }
}

impl Lines {
    fn read(&self) -> Vec<Value> {
        let text = String::from_utf8(self.0.lock().expect("sound").clone()).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

/// Refuses what it is given.
struct Full;

impl Export for Full {
    fn take(&self, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        fill(&mut Vec::new())?;
        Err(io::Error::other("the disk is full"))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_let_go_at_once_export_each_execution_once_and_whole() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    const KEYS: usize = 250;
    let mut shown = BTreeMap::new();
    for n in 0..KEYS {
        let key = format!("i{n}");
        record(&*stores[n % 2], "portal", at(1), vec![update(&key, Status::Running)]).await;
        record(&*stores[n % 2], "portal", at(2), vec![update(&key, Status::Failed)]).await;
    }
    // Nothing is told to anybody of this source; one of them is, and stays until then.
    record(&*stores[0], "media", at(3), vec![update("told", Status::Failed)]).await;
    for n in [0, KEYS - 1] {
        shown.insert(format!("i{n}"), stores[0].execution(format!("i{n}")).await.expect("known"));
    }
    let refused = stores[0].prune(0, at(100), 1000, Some(Arc::new(Full))).await.expect_err("refused").to_string();
    assert!(refused.contains("store.export cannot be written: the disk is full"), "{refused}");
    assert_eq!(stores[0].executions(Filter::default()).await.expect("listed").len(), KEYS + 1, "nothing went");

    let lines = [Arc::new(Lines::default()), Arc::new(Lines::default())];
    let each = stores.iter().zip(&lines).map(|(store, lines)| {
        let (store, lines) = (Arc::clone(store), Arc::clone(lines));
        tokio::spawn(async move { store.prune(0, at(100), 1000, Some(lines)).await.expect("let go").executions })
    });
    let each: Vec<_> = each.collect();
    let mut gone = 0;
    for one in each {
        gone += one.await.expect("joined");
    }
    assert_eq!(gone, KEYS as u64);
    let mut by_key = BTreeMap::new();
    for mut line in lines.iter().flat_map(|lines| lines.read()) {
        for receipt in line["receipts"].as_array_mut().expect("receipts") {
            let body = receipt.as_object_mut().expect("an object").remove("body");
            assert_eq!(body.expect("a body")["text"], "<the body/>");
        }
        let key = line["execution"]["key"].as_str().expect("a key").to_owned();
        assert!(by_key.insert(key.clone(), line).is_none(), "{key} was exported twice");
    }
    assert_eq!(by_key.len(), KEYS);
    for (key, shown) in shown {
        assert_eq!(by_key[&key], shown, "what is shown, with the bodies");
    }
    assert_eq!(stores[1].executions(Filter::default()).await.expect("listed").len(), 1);
    for left in claim(&*stores[1], "a", at(101)).await.iter().chain(&claim(&*stores[1], "b", at(101)).await) {
        let delivered = stores[0].delivery(left.id).await.expect("kept").0;
        settle(&*stores[1], left, Fate::Delivered, at(102)).await;
        let lines = Arc::new(Lines::default());
        stores[0].prune(0, at(200), 1000, Some(Arc::clone(&lines) as Arc<dyn Export>)).await.expect("let go");
        let told: Vec<Value> =
            lines.read().iter().flat_map(|line| line["deliveries"].as_array().cloned()).flatten().collect();
        assert!(told.iter().all(|one| one["tried"][0]["answer"] == "ok"), "{told:?} of {delivered:?}");
    }
    assert!(stores[1].executions(Filter::default()).await.expect("listed").is_empty());
    assert!(stores[1].receipts(Filter::default()).await.expect("listed").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_killed_while_it_lets_go_is_replaced() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 1).await;
    record(&*stores[0], "portal", at(1), vec![update("i1", Status::Failed)]).await;
    // Another one is at it.
    let (client, connection) =
        tokio_postgres::connect(&address(&server, &folder), tokio_postgres::NoTls).await.expect("connects");
    let driven = tokio::spawn(connection);
    let lock = "BEGIN; SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' callbackd upkeep', 0))";
    client.batch_execute(lock).await.expect("locked");
    let pruned = tokio::spawn({
        let store = Arc::clone(&stores[0]);
        async move { store.prune(0, at(100), 1000, None).await.expect("let go").executions }
    });
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = current_schema() AND wait_event = 'advisory'";
    until("it waits", async || (ask(&server, &folder, waits) == 1).then_some(())).await;
    assert_eq!(stores[0].executions(Filter::default()).await.expect("listed").len(), 1);
    // And is killed: its connection ends.
    driven.abort();
    assert_eq!(pruned.await.expect("joined"), 1);
}

/// While configurations differ, each sink is told by who knows it, and what nobody here knows waits.
#[test]
fn a_sink_that_only_some_know_is_told_by_those() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let (hook, new) = (Hook::start(|| Reply::Status(200)), Hook::start(|| Reply::Status(200)));
    let text = config(&address(&server, &folder), &hook.url());
    let more = format!(
        "{text}[sinks.new]\nkind = \"webhook\"\nurl = {:?}\n[[routes]]\nfrom = [\"media\"]\nto = [\"new\"]\n",
        new.url()
    );
    let old = Daemon::run(&text);
    let mut newer = Daemon::run(&more);
    assert_eq!(old.post(MEDIA, &[], cos(Step::Start, "run-1")).status, 200);
    assert_eq!(newer.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    soon("both are told to the one, and one to the other", || {
        ((hook.taken().len(), new.taken().len()) == (2, 1)).then_some(())
    });
    assert_eq!(new.taken(), [("run-1".to_owned(), "succeeded".to_owned())], "what came by the routes that have it");
    newer.kill9();
    // Its routes were not reloaded here: what was promised by the other stays promised.
    ask(
        &server,
        &folder,
        "UPDATE deliveries SET status = 'waiting', finished_at = NULL, due_at = 1 WHERE sink = 'new'",
    );
    assert!(old.look("/").body.contains("The sink new is not configured any more; 1 delivery waits."));
    assert_eq!(old.post(MEDIA, &[], cos(Step::Start, "run-2")).status, 200);
    soon("its own goes on", || (hook.taken().len() == 3).then_some(()));
    assert_eq!(new.taken().len(), 1);
    newer.start();
    soon("it is told when somebody knows it again", || (new.taken().len() == 2).then_some(()));
}

#[test]
fn each_page_shows_who_is_there_and_who_is_gone() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let hook = Hook::start(|| Reply::Status(200));
    let text = config(&address(&server, &folder), &hook.url());
    let named = |name: &str| format!("server.instance = {name:?}\n{text}");
    let first = Daemon::run(&named("media-one"));
    let mut second = Daemon::run(&named("media-two"));
    for daemon in [&first, &second] {
        let page = daemon.look("/").body;
        assert!(page.contains("media-one") && page.contains("media-two") && !page.contains(">gone<"), "{page}");
        assert!(page.contains("what this callbackd alone took and told"), "{page}");
    }
    let replicas = |daemon: &Daemon| daemon.look("/api/v1/status").json()["replicas"].clone();
    let seen = replicas(&second);
    let flat = |one: &Value| (one["name"].clone(), one["alive"].as_bool(), one["here"].as_bool());
    let flat: Vec<_> = seen.as_array().expect("a list").iter().map(flat).collect();
    assert_eq!(flat, [("media-one".into(), Some(true), Some(false)), ("media-two".into(), Some(true), Some(true))]);
    assert!(seen[0]["since"].is_string() && seen[0]["seen_at"].is_string() && seen[0]["version"].is_string(), "{seen}");
    // What one takes is everybody's: each page shows it.
    assert_eq!(second.post(MEDIA, &[], cos(Step::Failed, "run-1")).status, 200);
    assert!(first.look("/").body.contains("run-1"));
    soon("it is counted", || first.look("/metrics").body.contains("callbackd_store_replicas 2").then_some(()));
    second.kill9();
    ask(
        &server,
        &folder,
        "UPDATE replicas SET seen_at = clock_timestamp() - interval '1 hour' WHERE name = 'media-two'",
    );
    let page = first.look("/").body;
    assert!(
        page.contains(">gone<") && page.contains("The callbackd media-two at 127.0.0.1:0 was not heard of for 1 h"),
        "{page}"
    );
    assert_eq!(replicas(&first)[1]["alive"], false);
    let doctor = first.cli(&["doctor", "--json"]);
    let found: Vec<Value> =
        String::from_utf8_lossy(&doctor.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let level = |about: &str| found.iter().find(|one| one["about"] == about).map(|one| one["level"].clone());
    assert_eq!((level("replicas.0"), level("replicas.1")), (Some("ok".into()), Some("note".into())), "{found:?}");
    second.start();
    assert_eq!(replicas(&second).as_array().map(Vec::len), Some(2), "its place is taken anew");
}

#[test]
fn what_would_be_retried_is_counted_and_then_retried_a_few_at_a_time() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let is_well = Arc::new(AtomicBool::new(false));
    let hook = Hook::start({
        let is_well = Arc::clone(&is_well);
        move || Reply::Status(if is_well.load(Ordering::Acquire) { 200 } else { 422 })
    });
    let daemon = Daemon::run(&config(&address(&server, &folder), &hook.url()));
    for run in 0..5 {
        assert_eq!(daemon.post(MEDIA, &[], cos(Step::Failed, run)).status, 200);
    }
    soon("all is given up", || (daemon.list(&["deliveries", "list", "--status", "dead"]).len() == 5).then_some(()));
    is_well.store(true, Ordering::Release);
    let count = |words: &[&str]| daemon.cli(&[&["deliveries"], words, &["--json"]].concat()).rows()[0]["count"].clone();
    assert_eq!(count(&["retry", "--sink", "any", "--dry-run"]), 5);
    assert_eq!(count(&["discard", "--status", "waiting", "--dry-run"]), 0);
    assert_eq!(hook.taken().len(), 0);
    assert_eq!(count(&["retry", "--sink", "any", "--rate", "100"]), 5);
    soon("all is told", || (hook.taken().len() == 5).then_some(()));
}

/// A lease ends by one clock, whoever took it: else who is ahead would keep it, and who is behind lose it at once.
#[test]
fn a_lease_ends_by_the_servers_clock() {
    let Some(library) = faketime() else { return };
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let hook = Hook::start(|| Reply::Slow(std::time::Duration::from_secs(20)));
    let mut clock = Clock::new(&library, &config(&address(&server, &folder), &hook.url()));
    let leased = "SELECT count(*) FROM deliveries WHERE status = 'leased' AND
                  due_at BETWEEN extract(epoch FROM clock_timestamp()) * 1000000 AND extract(epoch FROM clock_timestamp() + interval '5 min') * 1000000";
    clock.set(DAY);
    let ahead = "the database's clock is not this machine's";
    soon("it is seen", || (clock.daemon.said(ahead) == 1).then_some(()));
    assert_eq!(clock.daemon.post(MEDIA, &[], cos(Step::Failed, "run-1")).status, 200);
    soon("it is leased", || (hook.seen().len() == 1).then_some(()));
    assert_eq!(ask(&server, &folder, leased), 1);
    clock.set(-DAY);
    soon("that, too", || (clock.daemon.said(ahead) == 2).then_some(()));
    assert_eq!(clock.daemon.post(MEDIA, &[], cos(Step::Failed, "run-2")).status, 200);
    soon("it is leased", || (hook.seen().len() == 2).then_some(()));
    assert_eq!(ask(&server, &folder, leased), 2);
}

/// What a lease is known by is what the store wrote, whatever a clock says when its try has ended.
#[test]
fn a_clock_that_is_set_during_a_try_makes_nothing_be_told_again() {
    let Some(library) = faketime() else { return };
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let (answers, asked) = (Arc::new(Mutex::new(())), Arc::new(AtomicUsize::new(0)));
    let hook = Hook::start({
        let (answers, asked) = (Arc::clone(&answers), Arc::clone(&asked));
        move || {
            asked.fetch_add(1, Ordering::AcqRel);
            drop(answers.lock());
            Reply::Status(200)
        }
    });
    let mut clock = Clock::new(&library, &config(&address(&server, &folder), &hook.url()));
    let count = |status| ask(&server, &folder, &format!("SELECT count(*) FROM deliveries WHERE status = '{status}'"));
    for (tries, set) in [DAY, -DAY, 0].into_iter().enumerate() {
        let held = answers.lock().expect("sound");
        assert_eq!(clock.daemon.post(MEDIA, &[], cos(Step::Failed, format!("run-{tries}"))).status, 200);
        soon("it is under way", || (asked.load(Ordering::Acquire) == tries + 1).then_some(()));
        assert_eq!(count("leased"), 1);
        clock.set(set);
        // And beyond the next beat, when it looks at the server's clock.
        let beaten = beaten(&server, &folder);
        soon("it says that it is there", || (ask(&server, &folder, &beaten) == 1).then_some(()));
        drop(held);
        soon("its end is recorded", || (count("delivered") == tries + 1).then_some(()));
    }
    assert_eq!((count("leased"), hook.taken().len(), asked.load(Ordering::Acquire)), (0, 3, 3));
}

/// All that is waited for is due by the server's clock: who has a clock that is wrong, or is set, neither keeps it from the
/// others nor moves it.
#[test]
fn what_waits_is_due_by_the_servers_clock_whoevers_clock_is_set() {
    let Some(library) = faketime() else { return };
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let answer = Arc::new(AtomicU16::new(503));
    let hook = Hook::start({
        let answer = Arc::clone(&answer);
        move || Reply::Status(answer.load(Ordering::Acquire))
    });
    let config =
        config(&address(&server, &folder), &hook.url()).replace("\"20ms\"", "\"1h\"").replace("\"100ms\"", "\"1h\"");
    let mut clock = Clock::new(&library, &config);
    let within = "due_at BETWEEN extract(epoch FROM clock_timestamp()) * 1000000
                  AND extract(epoch FROM clock_timestamp() + interval '1 hour') * 1000000";
    let waiting = format!("SELECT count(*) FROM deliveries WHERE status = 'waiting' AND attempts = 1 AND {within}");
    for (tries, set) in [DAY, -DAY].into_iter().enumerate() {
        clock.set(set);
        assert_eq!(clock.daemon.post(MEDIA, &[], cos(Step::Failed, format!("run-{tries}"))).status, 200);
        soon("it waits for its retry", || (ask(&server, &folder, &waiting) == tries + 1).then_some(()));
    }
    let due = "SELECT sum(due_at / 1000000) FROM deliveries WHERE status = 'waiting'";
    let before = ask(&server, &folder, due);
    answer.store(200, Ordering::Release);
    clock.set(-2 * DAY);
    // The forwarder looks at its clock before it tells what comes now.
    assert_eq!(clock.daemon.post(MEDIA, &[], cos(Step::Failed, "run-2")).status, 200);
    soon("it is told", || (!hook.taken().is_empty()).then_some(()));
    clock.set(0);
    assert_eq!(clock.daemon.post(MEDIA, &[], cos(Step::Failed, "run-3")).status, 200);
    soon("that, too", || (hook.taken().len() == 2).then_some(()));
    assert_eq!((ask(&server, &folder, due), ask(&server, &folder, &waiting)), (before, 2));
}

/// Whoever is given another configuration of a sink knows nothing of it any more: so it is tried anew, by all of them.
#[test]
fn a_sink_that_is_configured_anew_at_one_is_tried_anew_by_all() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let (hook, is_well) = down();
    // Nothing is tried again, nor probed, while this test runs, but for what it is about.
    let config = config(&address(&server, &folder), &hook.url())
        .replace("retry_first = \"20ms\"\nretry_longest = \"100ms\"", "retry_first = \"24h\"\nretry_longest = \"24h\"")
        .replace("breaker_probe = \"50ms\"", "breaker_probe = \"24h\"\nbreaker_failures = 1");
    let (one, other) = (Daemon::run(&config), Daemon::run(&config));
    assert_eq!(one.post(MEDIA, &[], cos(Step::Failed, "run-1")).status, 200);
    let open = "SELECT count(*) FROM sink_breakers";
    soon("its breaker is open", || (ask(&server, &folder, open) == 1).then_some(()));
    soon("for both", || {
        let is_open = |daemon: &Daemon| daemon.said("only probes from now on") == 1;
        (is_open(&one) && is_open(&other)).then_some(())
    });
    // A word that is lost: what changes without one is seen by looking, once a beat. So two beats have to pass first.
    for _ in 0..2 {
        let beaten = beaten(&server, &folder);
        soon("both look", || (ask(&server, &folder, &beaten) == 2).then_some(()));
    }
    is_well.store(true, Ordering::Release);
    one.configure(&config.replace("[[routes]]", "timeout = \"7s\"\n[[routes]]"));
    one.hup();
    soon("it is told", || (hook.taken().len() == 1).then_some(()));
    soon("its breaker is closed", || (ask(&server, &folder, open) == 0).then_some(()));
}

const DAY: i64 = 86_400;
