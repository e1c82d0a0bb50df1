//! Several stores, and several daemons, that share one PostgreSQL. `make postgres` starts it; without it nothing here runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use callbackd::config::{Config, Environment};
use callbackd::model::{ReceiptStatus, Status};
use callbackd::store::postgres::{Address, Durability, Options, PostgresStore};
use callbackd::store::{Fate, Filter, Item, Parsed, Queries as _, Store as _, StoreError};
use serde_json::Value;
use tempfile::TempDir;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Hook, Reply};
use crate::rig::until;
use crate::store::{at, claim, record, rules, settle, settlement, try_record, update};
use crate::stores::postgres::{address, ask, make, silence, try_open};

mod engine;
mod leases;
mod service;

fn server() -> String {
    crate::stores::postgres::server().expect("CALLBACKD_TEST_POSTGRES, which `make postgres` sets")
}

/// So many callbackds, as far as the store is one.
async fn replicas(server: &str, folder: &TempDir, count: usize) -> Vec<Arc<PostgresStore>> {
    make(server, folder);
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(try_open(server, folder, Options::default()).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_callback_at_two_replicas_at_one_instant_is_one_change() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    let stores = replicas(&server, &folder, 3).await;
    const KEYS: usize = 60;
    let mut tasks = Vec::new();
    for n in 0..KEYS {
        for store in &stores {
            let store = Arc::clone(store);
            tasks.push(tokio::spawn(async move {
                let recorded = record(&*store, "media", at(1), vec![update(&format!("i{n}"), Status::Failed)]).await;
                (n, recorded.outcome, recorded.executions)
            }));
        }
    }
    let (mut accepted, mut executions) = (BTreeMap::<usize, usize>::new(), BTreeMap::<usize, BTreeSet<i64>>::new());
    for task in tasks {
        let (n, outcome, ids) = task.await.expect("joined");
        *accepted.entry(n).or_default() += usize::from(outcome == ReceiptStatus::Accepted);
        executions.entry(n).or_default().extend(ids);
    }
    assert!(accepted.values().all(|count| *count == 1), "{accepted:?}");
    assert!(executions.values().all(|ids| ids.len() == 1), "{executions:?}");
    assert_eq!(stores[1].executions(Filter::default()).await.expect("listed").len(), KEYS);
    let to_a = Filter { sink: Some("a".to_owned()), ..Filter::default() };
    assert_eq!(stores[2].deliveries(to_a).await.expect("listed").len(), KEYS);
    assert_eq!(stores[0].receipts(Filter::default()).await.expect("listed").len(), 3 * KEYS);
}

/// What an execution goes through.
const COURSE: [Status; 4] = [Status::Pending, Status::Running, Status::Paused, Status::Succeeded];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_change_is_told_once_and_in_order_whoever_takes_and_whoever_tells() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    all_in_order(replicas(&server, &folder, 3).await, 30).await;
}

/// A pooler that gives each transaction another connection: no statement may be known by a name, and nothing by a session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_the_same_through_a_pooler_of_transactions() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let name = format!("pooled_{}", std::process::id());
    ask(&server, &folder, &format!("CREATE DATABASE {name}"));
    #[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
    let pooler = std::env::var("CALLBACKD_TEST_PGBOUNCER").expect("what `make postgres` sets");
    let mut stores = Vec::new();
    for _ in 0..2 {
        let address = Address::parse(&format!("{pooler}/{name}"), None, None).expect("an address");
        stores.push(Arc::new(PostgresStore::open(address, Options::default()).await.expect("opens")));
    }
    let cursor = stores[0].newest().await.expect("read");
    all_in_order(stores.clone(), 20).await;
    assert_eq!(stores[1].executions(Filter::default()).await.expect("listed").len(), 20);
    let (mut changes, mut from) = (0, cursor);
    loop {
        let news = stores[1].news(from).await.expect("read");
        changes += news.items.iter().filter(|(_, item)| matches!(item, Item::Change(_))).count();
        from = news.through;
        if !news.more {
            break;
        }
    }
    assert_eq!(changes, 20 * COURSE.len());
    for store in stores {
        store.close().await;
    }
}

/// So many executions go through their course at all of them, and are told by all of them.
async fn all_in_order(stores: Vec<Arc<PostgresStore>>, keys: usize) {
    let is_all_recorded = Arc::new(AtomicBool::new(false));
    let tellers: Vec<_> = stores
        .iter()
        .map(|store| {
            let (store, done) = (Arc::clone(store), Arc::clone(&is_all_recorded));
            tokio::spawn(async move {
                let mut told = Vec::new();
                loop {
                    let over = done.load(Ordering::Acquire);
                    let claimed = store.claim("a".to_owned(), 5, 60_000, at(200), at(200)).await.expect("claimed");
                    for delivery in &claimed.deliveries {
                        let key = delivery.change.state.execution.key.clone();
                        // Noted before it is settled: once it is, another may be told the next.
                        told.push((std::time::Instant::now(), key, delivery.change.meta.sequence));
                        let settled = settlement(delivery, claimed.until, Fate::Delivered, at(101));
                        store.settle(settled, Arc::new(rules()), at(101)).await.expect("settled");
                    }
                    if over && claimed.deliveries.is_empty() && claimed.next_due.is_none() {
                        return told;
                    }
                }
            })
        })
        .collect();
    let senders: Vec<_> = (0..keys)
        .map(|n| {
            let stores = stores.clone();
            tokio::spawn(async move {
                for (step, status) in COURSE.into_iter().enumerate() {
                    let store = &stores[(n + step) % stores.len()];
                    let recorded = record(&**store, "media", at(1), vec![update(&format!("i{n}"), status)]).await;
                    assert_eq!(recorded.outcome, ReceiptStatus::Accepted);
                }
            })
        })
        .collect();
    for sender in senders {
        sender.await.expect("joined");
    }
    is_all_recorded.store(true, Ordering::Release);
    let mut told = Vec::new();
    for teller in tellers {
        told.extend(teller.await.expect("joined"));
    }
    told.sort();
    let mut by_key = BTreeMap::<String, Vec<u32>>::new();
    for (_, key, sequence) in told {
        by_key.entry(key).or_default().push(sequence);
    }
    assert_eq!(by_key.len(), keys);
    let whole: Vec<u32> = (1..=COURSE.len() as u32).collect();
    assert!(by_key.values().all(|told| *told == whole), "{by_key:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_listens_misses_nothing_that_commits_late_under_a_smaller_id() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    let stores = replicas(&server, &folder, 2).await;
    record(&*stores[0], "portal", at(1), vec![update("held", Status::Pending)]).await;
    // The first replica's transaction takes its ids, and cannot end; the second goes on meanwhile.
    let address = address(&server, &folder);
    let (client, connection) = tokio_postgres::connect(&address, tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE earlier_changes IN EXCLUSIVE MODE").await.expect("locked");
    let late = tokio::spawn({
        let store = Arc::clone(&stores[0]);
        async move { record(&*store, "portal", at(2), vec![update("held", Status::Running)]).await }
    });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'INSERT INTO earlier_changes%'";
    until("it waits", async || (ask(&server, &folder, waits) > 0).then_some(())).await;
    for n in 0..20 {
        record(&*stores[1], "portal", at(3), vec![update(&format!("i{n}"), Status::Failed)]).await;
    }
    let listener = tokio::spawn({
        let store = Arc::clone(&stores[1]);
        async move {
            let (mut keys, mut cursor) = (Vec::new(), 0);
            while keys.len() < 22 {
                let news = store.news(cursor).await.expect("read");
                cursor = news.through;
                for (_, item) in news.items {
                    let Item::Change(row) = item else { continue };
                    keys.push(row.execution.execution.key);
                }
            }
            keys
        }
    });
    let asks = "SELECT count(*) FROM line WHERE floor >= (SELECT max(change) FROM execution_heads)";
    until("somebody wants to be told", async || (ask(&server, &folder, asks) == 1).then_some(())).await;
    client.batch_execute("COMMIT").await.expect("committed");
    assert_eq!(late.await.expect("joined").outcome, ReceiptStatus::Accepted);
    let keys = listener.await.expect("joined");
    let distinct: BTreeSet<&String> = keys.iter().collect();
    assert_eq!((keys.len(), distinct.len()), (22, 21), "{keys:?}");
}

#[tokio::test]
async fn what_somebody_had_leased_who_is_gone_is_taken_over() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    let stores = replicas(&server, &folder, 2).await;
    record(&*stores[0], "media", at(0), vec![update("i1", Status::Failed)]).await;
    let first = claim(&*stores[0], "a", at(1)).await;
    assert_eq!(first.len(), 1);
    assert!(claim(&*stores[1], "a", at(1)).await.is_empty(), "who is there keeps what it leased");
    assert_eq!(stores[1].replicas().await.expect("listed").iter().filter(|one| one.alive).count(), 2);
    silence(&server, &folder);
    let third = try_open(&server, &folder, Options::default()).await;
    let again = claim(&*third, "a", at(1)).await;
    assert_eq!(again.iter().map(|d| d.id).collect::<Vec<_>>(), [first[0].id]);
    settle(&*third, &again[0], Fate::Delivered, at(2)).await;
    // The first one's word comes late, or never: its place is another's, and it ends.
    let late = settlement(&first[0], at(1).plus_ms(30_000), Fate::Dead, at(3));
    let _ = stores[0].settle(late, Arc::new(rules()), at(3)).await;
    let (row, attempts) = third.delivery(first[0].id).await.expect("kept");
    assert_eq!((row.status.as_str(), attempts.len()), ("delivered", 1));
    until("who lost its place ends", async || stores[0].is_closed().then_some(())).await;
}

#[tokio::test]
async fn what_is_paused_at_one_is_paused_at_all() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    let stores = replicas(&server, &folder, 2).await;
    record(&*stores[0], "media", at(0), vec![update("i1", Status::Failed)]).await;
    stores[0].pause("a".to_owned(), Some("on purpose".to_owned())).await.expect("paused");
    let claimed = stores[1].claim("a".to_owned(), 10, 1000, at(1), at(1)).await.expect("asked");
    assert!(claimed.is_paused && claimed.deliveries.is_empty());
    stores[1].pause("a".to_owned(), None).await.expect("resumed");
    assert_eq!(claim(&*stores[0], "a", at(1)).await.len(), 1);
}

#[tokio::test]
async fn a_server_that_may_lose_what_it_keeps_is_refused_unless_the_operator_says_so() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    make(&server, &folder);
    let url = format!("{}%20-csynchronous_commit%3Doff", address(&server, &folder));
    let at = || Address::parse(&url, None, None).expect("an address");
    let refused = PostgresStore::open(at(), Options::default()).await.err().expect("refused").to_string();
    assert!(refused.contains("synchronous_commit = off") && refused.contains("may_lose"), "{refused}");
    let options = Options { durability: Durability::MayLose, ..Options::default() };
    let store = PostgresStore::open(at(), options).await.expect("opens");
    store.close().await;
    let url = format!("{}%20-cdefault_transaction_read_only%3Don", address(&server, &folder));
    let at = Address::parse(&url, None, None).expect("an address");
    let refused = PostgresStore::open(at, Options::default()).await.err().expect("refused").to_string();
    assert!(refused.contains("read-only"), "{refused}");
}

#[tokio::test]
async fn over_tls_the_server_is_believed_by_its_certificate_alone() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let url = address(&server, &folder).replace("127.0.0.1", "localhost") + "&sslmode=require";
    #[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
    let ca_file = std::env::var("CALLBACKD_TEST_POSTGRES_CA").expect("what `make postgres` sets");
    let stranger = Address::parse(&url, None, None).expect("an address");
    let refused = PostgresStore::open(stranger, Options::default()).await.err().expect("refused").to_string();
    assert!(
        refused.contains("cannot be reached: error performing TLS handshake: invalid peer certificate"),
        "{refused}"
    );
    let known = Address::parse(&url, None, Some(ca_file.as_ref())).expect("an address");
    let store = PostgresStore::open(known, Options::default()).await.expect("opens");
    record(&store, "media", at(0), vec![update("i1", Status::Failed)]).await;
    let plain = "SELECT count(*) FROM pg_stat_activity JOIN pg_stat_ssl USING (pid)
                 WHERE application_name = current_schema() AND NOT ssl AND pid <> pg_backend_pid()";
    assert_eq!(ask(&server, &folder, plain), 0);
    store.close().await;
}

#[test]
fn what_is_not_there_with_postgresql_is_said_by_check() {
    let text = "[store]\nurl = \"postgres://callbackd@db/callbackd\"\nexport = \"out\"\ndisk_max = \"1GiB\"\n";
    let faults = Config::from_toml(text, &Environment::default()).err().expect("faults").to_string();
    assert!(faults.contains("store.disk_max: as a size") && !faults.contains("store.export"), "{faults}");
    let text = "[store]\nurl = \"postgres://callbackd@db/callbackd\"\n";
    assert!(Config::from_toml(text, &Environment::default()).is_ok());
}

/// How many have said, from now on, that they are there.
fn beaten(server: &str, folder: &TempDir) -> String {
    let now = ask(server, folder, "SELECT ceil(extract(epoch FROM clock_timestamp()))");
    format!("SELECT count(*) FROM replicas WHERE seen_at > to_timestamp({now})")
}

/// A command on a configuration of this store: whether it went well, and all that it said.
fn said(folder: &TempDir, url: &str, arguments: &[&str]) -> (Option<i32>, String) {
    let file = folder.path().join("callbackd.toml");
    std::fs::write(&file, config(url, "http://127.0.0.1:9/") + "[admin]\nlisten = \"127.0.0.1:9\"\n").expect("written");
    let callbackd =
        std::process::Command::new(env!("CARGO_BIN_EXE_callbackd")).args(arguments).arg("--config").arg(file).output();
    let callbackd = callbackd.expect("run");
    let text = [callbackd.stdout, callbackd.stderr].map(|text| String::from_utf8(text).expect("UTF-8")).concat();
    (callbackd.status.code(), text)
}

#[tokio::test]
async fn a_doctor_says_why_a_database_cannot_be_asked_and_goes_on() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let doctor = |url: &str| {
        let (code, text) = said(&folder, url, &["doctor"]);
        // What else there is to say is said all the same.
        assert!(code == Some(1) && text.contains("WRONG  daemon") && !text.contains("s3cret"), "{text}");
        text
    };
    for (url, why) in [
        (
            "postgres://nobody:s3cret@127.0.0.1:9/d",
            "WRONG  store   127.0.0.1:9/d: the database cannot be reached: error connecting",
        ),
        ("postgres://nobody:s3cret@127.0.0.1:port/d", "is no address of a PostgreSQL"),
    ] {
        let text = doctor(url);
        assert!(text.contains(why), "{text}");
    }
    let (code, text) = said(&folder, "postgres://nobody:s3cret@127.0.0.1:port/d", &["check"]);
    assert!(code == Some(78) && text.contains("store.url: is no address") && !text.contains("s3cret"), "{text}");
    // A database without tables is not one that refuses.
    make(&server, &folder);
    let url = address(&server, &folder);
    let text = doctor(&url);
    assert!(text.contains("holds no store yet"), "{text}");
    let (code, text) = said(&folder, &url, &["executions", "list"]);
    assert!(code == Some(1) && text.contains("holds no store yet"), "{text}");
    // What was not understood stands there as on the page.
    let store = try_open(&server, &folder, Options::default()).await;
    record(&*store, "media", at(1), vec![update("i1", Status::Failed)]).await;
    try_record(&*store, "media", at(2), Parsed::Quarantined("not XML".to_owned())).await.expect("kept");
    let text = doctor(&url);
    assert!(text.contains("1 callback was not understood"), "{text}");
    store.close().await;
}

#[tokio::test]
async fn a_probe_says_what_a_database_is_and_makes_nothing() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let url = address(&server, &folder);
    let probe = |url: &str, code: i32, expected: &str| {
        let (found, text) = said(&folder, url, &["check", "--probe"]);
        assert!(found == Some(code) && text.contains(expected) && !text.contains("s3cret"), "{text}");
        assert!(text.contains("sinks.any: "), "the sinks are tried all the same: {text}");
    };
    probe("postgres://u:s3cret@127.0.0.1:9/d", 1, "failed: store: 127.0.0.1:9/d: the database cannot be reached");
    let stranger = url.replace("127.0.0.1", "localhost") + "&sslmode=require";
    probe(&stranger, 1, "error performing TLS handshake: invalid peer certificate");
    probe(&url, 1, "no schema of its search_path is there");
    make(&server, &folder);
    probe(&url, 0, ": PostgreSQL 15");
    probe(
        &url,
        0,
        ", without TLS; no store yet, which the first start makes; a 2xx means: on the server's disk; nobody follows it",
    );
    let made = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace";
    assert_eq!(ask(&server, &folder, made), 0);
    // Somebody who may look, and nothing else.
    let name = format!("looks_{}", std::process::id());
    ask(
        &server,
        &folder,
        &format!(
            "CREATE ROLE {name} LOGIN; DO $$ BEGIN EXECUTE format('GRANT USAGE ON SCHEMA %I TO {name}', current_schema()); END $$"
        ),
    );
    let other = url.replace("postgres://callbackd@", &format!("postgres://{name}@"));
    probe(&other, 1, &format!("{name} may make no tables there; let its owner say: GRANT CREATE ON SCHEMA"));
    try_open(&server, &folder, Options::default()).await.close().await;
    probe(&url, 0, "; schema 2; ");
    ask(&server, &folder, "INSERT INTO callbackd_schema (version, oldest) VALUES (98, 1)");
    probe(&url, 0, "; schema 98, a newer callbackd's, beside which this one can go on; ");
    ask(&server, &folder, "INSERT INTO callbackd_schema (version, oldest) VALUES (99, 99)");
    probe(&url, 1, "the database's schema is 99, and who shares it has to know 99");
}

/// Ends every connection of those who share the folder's schema.
fn cut(server: &str, folder: &TempDir) {
    let sql = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
               WHERE application_name = current_schema() AND pid <> pg_backend_pid()";
    assert!(ask(server, folder, sql) > 0, "there was none");
}

#[tokio::test]
async fn cut_connections_lose_nothing_and_are_made_again() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    let stores = replicas(&server, &folder, 1).await;
    let store = &*stores[0];
    for n in 0..5 {
        let key = format!("i{n}");
        until("it is recorded", async || {
            let parsed = Parsed::Updates(vec![update(&key, Status::Failed)]);
            match try_record(store, "media", at(1), parsed).await {
                Ok(_) => Some(()),
                Err(StoreError::Unavailable(_)) => None,
                Err(e) => panic!("{e}"),
            }
        })
        .await;
        cut(&server, &folder);
    }
    until("it can be read", async || store.executions(Filter::default()).await.ok().filter(|all| all.len() == 5)).await;
    until("it is ready", async || store.ready().ok()).await;
}

/// A daemon on the folder's schema that tells `hook`.
fn config(url: &str, hook: &str) -> String {
    format!(
        "[store]\nurl = {url:?}\n[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = {hook:?}\nretry_first = \"20ms\"\nretry_longest = \"100ms\"\n\
         breaker_probe = \"50ms\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

const MEDIA: &str = "/callbacks/media/t0ken";

#[test]
fn two_daemons_are_one_service() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    make(&server, &folder);
    let hook = Hook::start(|| Reply::Status(200));
    let config = config(&address(&server, &folder), &hook.url());
    let daemons = [Daemon::run(&config), Daemon::run(&config)];
    const RUNS: usize = 20;
    for n in 0..RUNS {
        for step in [Step::Start, Step::Success] {
            let body = cos(step, format!("run-{n}"));
            let answers: Vec<Value> = std::thread::scope(|scope| {
                let posts = daemons.each_ref().map(|daemon| scope.spawn(|| daemon.post(MEDIA, &[], &body)));
                posts.map(|post| post.join().expect("answered").json()).into()
            });
            let mut outcomes: Vec<_> = answers.iter().map(|answer| answer["outcome"].as_str()).collect();
            outcomes.sort_unstable();
            assert_eq!(outcomes, [Some("accepted"), Some("duplicate")], "{answers:?}");
            assert_eq!(answers[0]["execution"], answers[1]["execution"]);
        }
    }
    soon("all is told", || (hook.taken().len() >= 2 * RUNS).then_some(()));
    let mut told = BTreeMap::<String, Vec<String>>::new();
    for (key, status) in hook.taken() {
        told.entry(key).or_default().push(status);
    }
    assert!(told.len() == RUNS && told.values().all(|statuses| *statuses == ["running", "succeeded"]), "{told:?}");
    for daemon in &daemons {
        assert_eq!(daemon.list(&["executions", "list"]).len(), RUNS);
        assert_eq!(daemon.list(&["deliveries", "list", "--status", "delivered"]).len(), 2 * RUNS);
        let doctor = daemon.cli(&["doctor"]);
        assert!(doctor.said().contains("replicas.1"), "{}", doctor.said());
    }
}

#[test]
fn what_a_killed_daemon_had_under_way_is_told_by_another() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    make(&server, &folder);
    let is_mended = Arc::new(AtomicBool::new(false));
    let hook = Hook::start({
        let is_mended = Arc::clone(&is_mended);
        move || match is_mended.load(Ordering::Acquire) {
            true => Reply::Status(200),
            false => Reply::Slow(Duration::from_secs(60)),
        }
    });
    let config = config(&address(&server, &folder), &hook.url());
    let mut first = Daemon::run(&config);
    assert_eq!(first.post(MEDIA, &[], cos(Step::Failed, "run-1")).status, 200);
    soon("it is leased", || {
        let leased = "SELECT count(*) FROM deliveries WHERE status = 'leased'";
        (ask(&server, &folder, leased) == 1).then_some(())
    });
    first.kill9();
    is_mended.store(true, Ordering::Release);
    ask(&server, &folder, "UPDATE replicas SET seen_at = clock_timestamp() - interval '1 hour'");
    let second = Daemon::run(&config);
    soon("it is told", || second.list(&["deliveries", "list", "--status", "delivered"]).first().cloned());
}

#[test]
fn a_database_that_only_reads_is_503_until_it_can_be_written_again() {
    let server = server();
    let folder = TempDir::new().expect("a folder");
    make(&server, &folder);
    // A database of its own, because what is set of one holds for all in it.
    let name = format!("own_{}", std::process::id());
    let begin = server.strip_suffix("/postgres").expect("the database postgres");
    ask(&server, &folder, &format!("CREATE DATABASE {name}"));
    let own = format!("{begin}/{name}?application_name={name}");
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&own, &hook.url()));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Start, "run-1")).status, 200);
    let all_away =
        format!("SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = '{name}'");
    ask(&server, &folder, &format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    ask(&server, &folder, &all_away);
    soon("it says so", || {
        let answer = daemon.post(MEDIA, &[], cos(Step::Success, "run-1"));
        let ready = daemon.look("/readyz");
        (answer.status == 503 && ready.status == 503 && ready.body.contains("read-only")).then_some(())
    });
    ask(&server, &folder, &format!("ALTER DATABASE {name} RESET default_transaction_read_only"));
    ask(&server, &folder, &all_away);
    soon("it takes callbacks again", || {
        (daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status == 200).then_some(())
    });
    soon("all is told", || (hook.taken().len() == 2).then_some(()));
}
