//! How the store works with the server: round trips, retries, steps, the schema beside a newer one, names for people.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use callbackd::measure::Open;
use callbackd::model::{ReceiptStatus, Route, Rules, SinkRule, Status, Time};
use callbackd::store::postgres::{Address, Options, PostgresStore};
use callbackd::store::sqlite::SqliteStore;
use callbackd::store::{DeliveryFilter, Fate, Filter, Parsed, Queries as _, Store as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{beaten, replicas, server};
use crate::rig::{receipt, until};
use crate::store::{at, claim, prune, record, rules, settle, settlement, try_record, update};
use crate::stores::postgres::{address, ask, make, try_open};

/// Between a store and its server: counts round trips, which is how often the store sends something while it waits for no
/// answer, on the one connection that commits.
struct Line {
    address: String,
    trips: Arc<AtomicUsize>,
}

impl Line {
    async fn before(server: &str) -> Line {
        let (begin, path) = server.rsplit_once('/').expect("a path");
        let there = begin.rsplit_once('@').expect("a user").1.to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let here = listener.local_addr().expect("an address").to_string();
        let address = format!("{}/{path}", begin.replace(&there, &here));
        let trips = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&trips);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&there).await.expect("the server");
                client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).expect("set");
                tokio::spawn(relay(client, server, Arc::clone(&counted)));
            }
        });
        Line { address, trips }
    }
}

/// Complete messages of the protocol, by their first byte; what is there of the next one stays.
fn messages(bytes: &mut Vec<u8>) -> Vec<u8> {
    let mut kinds = Vec::new();
    while let Some(length) = bytes.get(1..5).map(|l| u32::from_be_bytes(l.try_into().expect("four")) as usize) {
        if bytes.len() < length + 1 {
            break;
        }
        kinds.push(bytes[0]);
        bytes.drain(..=length);
    }
    kinds
}

async fn relay(mut client: TcpStream, mut server: TcpStream, trips: Arc<AtomicUsize>) {
    // The first message has no kind.
    let (mut asked, mut said, mut unanswered, mut commits) = (Vec::new(), Vec::new(), 1_usize, false);
    let (mut from_client, mut from_server) = ([0; 16384], [0; 16384]);
    let mut is_first = true;
    loop {
        tokio::select! {
            read = client.read(&mut from_client) => {
                let Ok(bytes @ 1..) = read else { return };
                let bytes = &from_client[..bytes];
                let begins: &[u8] = b"BEGIN ISOLATION LEVEL READ COMMITTED";
                commits |= bytes.windows(begins.len()).any(|some| some == begins);
                if !std::mem::take(&mut is_first) {
                    asked.extend_from_slice(bytes);
                    // A query, or the end of a pipelined one: each is answered by `Z`.
                    for _ in messages(&mut asked).iter().filter(|kind| matches!(kind, b'Q' | b'S')) {
                        trips.fetch_add(usize::from(commits && unanswered == 0), Ordering::SeqCst);
                        unanswered += 1;
                    }
                }
                if server.write_all(bytes).await.is_err() { return }
            }
            read = server.read(&mut from_server) => {
                let Ok(bytes @ 1..) = read else { return };
                said.extend_from_slice(&from_server[..bytes]);
                let answers = messages(&mut said).iter().filter(|kind| **kind == b'Z').count();
                unanswered = unanswered.saturating_sub(answers);
                if client.write_all(&from_server[..bytes]).await.is_err() { return }
            }
        }
    }
}

/// A route to a sink that is told everything, and to one that is told the latest alone.
fn plain() -> Arc<Rules> {
    let sinks = [("a", false), ("b", true)].map(|(name, coalesce)| SinkRule { name: name.to_owned(), coalesce });
    let (from, to) = (vec!["media".to_owned()], sinks.iter().map(|sink| sink.name.clone()).collect());
    let (sinks, routes) = (sinks.to_vec(), vec![Route { from, when: None, to }]);
    Arc::new(Rules { routes, sinks, ..Rules::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_costs_two_round_trips_however_many_callbacks_are_in_it() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let line = Line::before(&server).await;
    let at_line = Address::parse(&address(&line.address, &folder), None, None).expect("an address");
    let store = Arc::new(PostgresStore::open(at_line, Options::default()).await.expect("opens"));
    let record = |seconds, key: String, status| {
        let parsed = Parsed::Updates(vec![update(&key, status)]);
        let recorded = store.record(receipt("media", at(seconds), "<the body/>"), parsed, plain());
        async move { assert_eq!(recorded.await.expect("recorded").outcome, ReceiptStatus::Accepted, "{key}") }
    };
    record(1, "first".to_owned(), Status::Running).await;
    let count = || line.trips.swap(0, Ordering::SeqCst);
    count();
    for n in 0..10 {
        record(1, format!("i{n}"), Status::Running).await;
    }
    assert_eq!(count(), 20, "new executions, one after the other");
    for n in 0..10 {
        record(2, format!("i{n}"), Status::Failed).await;
    }
    assert_eq!(count(), 20, "their ends");
    let overtaken = Filter { sink: Some("b".to_owned()), status: vec!["discarded".to_owned()], ..Filter::default() };
    assert_eq!(store.deliveries(overtaken).await.expect("listed").len(), 10);
    let claimed = store.claim("a".to_owned(), 10, 30_000, at(3), at(3)).await.expect("claimed");
    for delivery in &claimed.deliveries {
        let one = settlement(delivery, claimed.until, Fate::Delivered, at(3));
        store.settle(one, plain(), at(3)).await.expect("settled");
    }
    assert_eq!((claimed.deliveries.len(), count()), (10, 20), "and what they were told");
    let claimed = store.claim("a".to_owned(), 10, 30_000, at(4), at(4)).await.expect("claimed");
    let all = claimed.deliveries.iter().map(|one| settlement(one, claimed.until, Fate::Delivered, at(4))).collect();
    store.settle_all(all, plain(), at(4)).await.expect("settled");
    assert_eq!((claimed.deliveries.len(), count()), (10, 2), "or together");
    let many: Vec<_> = (0..400).map(|n| tokio::spawn(record(5, format!("m{n}"), Status::Running))).collect();
    for one in many {
        one.await.expect("joined");
    }
    let together = count();
    assert!(together < 200, "{together} for 400 that came at once");
    store.close().await;
}

#[tokio::test]
async fn queries_and_claims_have_so_many_connections_and_no_more() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let store = try_open(&server, &folder, Options { connections: 2, ..Options::default() }).await;
    let asking: Vec<_> = (0..60)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let sink = format!("s{}", n % 3);
                store.claim(sink, 5, 30_000, at(1), at(1)).await.expect("claimed");
                store.executions(Filter::default()).await.expect("listed");
            })
        })
        .collect();
    for one in asking {
        one.await.expect("joined");
    }
    // With those that commit, listen and say that it is there; for an instant one that looks who else answers; and the one
    // that asks this.
    let open = "SELECT count(*) FROM pg_stat_activity WHERE application_name = current_schema()";
    let open = ask(&server, &folder, open);
    assert!(open <= 2 + 3 + 1 + 1, "{open}");
}

/// What the server says when it could not order two transactions: as others who speak its protocol do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_server_could_not_order_is_decided_anew() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 1).await;
    for (at_table, code) in [("receipts", "40001"), ("deliveries", "40P01")] {
        ask(
            &server,
            &folder,
            &format!(
                "CREATE SEQUENCE tries_{at_table};
                 CREATE FUNCTION refuse_{at_table}() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                     IF nextval('tries_{at_table}') <= 3 THEN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}'; END IF;
                     RETURN NULL; END $$;
                 CREATE TRIGGER refuse AFTER INSERT ON {at_table} FOR EACH STATEMENT EXECUTE FUNCTION refuse_{at_table}()"
            ),
        );
        let recorded = record(&*stores[0], "media", at(1), vec![update(at_table, Status::Failed)]).await;
        assert_eq!(recorded.outcome, ReceiptStatus::Accepted);
        assert_eq!(ask(&server, &folder, &format!("SELECT last_value FROM tries_{at_table}")), 4, "the fourth try");
        assert_eq!(stores[0].receipts(Filter::default()).await.expect("listed").len(), 1);
        ask(&server, &folder, &format!("DROP TRIGGER refuse ON {at_table}; DELETE FROM receipts"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_a_circle_lets_go_and_decides_anew() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 1).await;
    for key in ["x", "y"] {
        record(&*stores[0], "media", at(1), vec![update(key, Status::Running)]).await;
    }
    // Somebody who locks the other way round, and has all the time in the world: the store is the one to find the circle.
    let (client, connection) =
        tokio_postgres::connect(&address(&server, &folder), tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(connection);
    let lock = |key: &str| format!("SELECT 1 FROM execution_heads WHERE key = '{key}' FOR UPDATE");
    client.batch_execute("SET deadlock_timeout = '10min'; BEGIN").await.expect("begun");
    client.batch_execute(&lock("y")).await.expect("locked");
    let recorded = tokio::spawn({
        let store = Arc::clone(&stores[0]);
        let both = Parsed::Updates(vec![update("x", Status::Failed), update("y", Status::Failed)]);
        async move { try_record(&*store, "media", at(2), both).await.expect("recorded") }
    });
    let waits =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name = current_schema()";
    until("the store waits for y", async || (ask(&server, &folder, waits) == 1).then_some(())).await;
    // Is given x when the store lets go of it.
    client.batch_execute(&lock("x")).await.expect("the store was to let go");
    client.batch_execute("COMMIT").await.expect("committed");
    let recorded = recorded.await.expect("joined");
    assert_eq!((recorded.outcome, recorded.executions.len()), (ReceiptStatus::Accepted, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_record_crosswise_both_get_through() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    for key in ["x", "y"] {
        record(&*stores[0], "media", at(1), vec![update(key, Status::Running)]).await;
    }
    let crosswise = |of: usize, keys: [&'static str; 2]| {
        let store = Arc::clone(&stores[of]);
        tokio::spawn(async move {
            for _ in 0..100 {
                let both = keys.map(|key| update(key, Status::Running)).to_vec();
                try_record(&*store, "media", at(2), Parsed::Updates(both)).await.expect("recorded");
            }
        })
    };
    for one in [crosswise(0, ["x", "y"]), crosswise(1, ["y", "x"])] {
        one.await.expect("joined");
    }
    assert_eq!(stores[0].receipts(Filter::default()).await.expect("listed").len(), 202);
}

/// Links are looked for between a change and its deliveries: by then the execution's row is written, without their ids.
#[tokio::test]
async fn deliveries_rise_whoever_makes_them_also_where_links_are_looked_for_in_between() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    let record = async |of: usize, now, status, to: std::ops::Range<usize>| {
        let to = to.map(|n| format!("s{n}")).collect();
        let rules = Rules { routes: vec![Route { from: vec!["media".to_owned()], when: None, to }], ..rules() };
        let mut update = update("i1", status);
        update.execution.subject = Some("a key to link by".to_owned());
        let recorded = stores[of].record(receipt("media", now, "<a/>"), Parsed::Updates(vec![update]), Arc::new(rules));
        assert_eq!(recorded.await.expect("recorded").outcome, ReceiptStatus::Accepted);
    };
    record(0, at(1000), Status::Running, 0..9).await;
    // By another, whose clock is behind, to the last of the nine alone.
    record(1, at(1), Status::Failed, 8..9).await;
    let told = async |of: usize, now| -> Vec<(i64, u32)> {
        let claimed = claim(&*stores[of], "s8", now).await;
        claimed.iter().map(|delivery| (delivery.id, delivery.change.meta.sequence)).collect()
    };
    let first = claim(&*stores[0], "s8", at(1001)).await;
    assert_eq!(first[0].change.meta.sequence, 1);
    let again = Fate::Waiting { due_at: at(2000), until_linked: None, resume: None, free: false };
    settle(&*stores[0], &first[0], again, at(1001)).await;
    assert_eq!(told(1, at(1002)).await, [], "the second waits for the first");
    assert_eq!(told(1, at(2000)).await, [(first[0].id, 1)]);
}

/// Notes which transaction changed each row.
fn note_changes(server: &str, folder: &TempDir, table: &str, verb: &str) {
    ask(
        server,
        folder,
        &format!(
            "CREATE TABLE noted (tx BIGINT); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 INSERT INTO noted VALUES (txid_current()); RETURN NULL; END $$;
             CREATE TRIGGER note AFTER {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION note()"
        ),
    );
}

/// How many rows were changed, and in one transaction at most.
fn noted(server: &str, folder: &TempDir) -> (usize, usize) {
    let most = "SELECT max(n) FROM (SELECT count(*) AS n FROM noted GROUP BY tx) t";
    let found = (ask(server, folder, "SELECT count(*) FROM noted"), ask(server, folder, most));
    ask(server, folder, "DELETE FROM noted");
    found
}

#[tokio::test]
async fn another_ones_clock_that_is_ahead_is_not_this_one_set_back() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let begun =
        async |name: &str| try_open(&server, &folder, Options { name: name.to_owned(), ..Options::default() }).await;
    let ahead = begun("ahead").await;
    record(&*ahead, "media", at(1000), vec![update("i1", Status::Failed)]).await;
    let again = Fate::Waiting { due_at: at(2000), until_linked: None, resume: None, free: false };
    settle(&*ahead, &claim(&*ahead, "a", at(1000)).await[0], again, at(1000)).await;
    let behind = begun("behind").await;
    let set_back = async || behind.set_back("a".to_owned(), None, at(1)).await.expect("looked");
    assert_eq!(set_back().await, 0, "its retries are due when it says so");
    ahead.close().await;
    assert_eq!(set_back().await, 1, "nobody is there whose clock says so");
}

#[tokio::test]
async fn a_large_backlog_is_moved_in_steps() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 2).await;
    let store = &*stores[0];
    record(store, "media", at(0), vec![update("i1", Status::Running)]).await;
    // 2500 that wait, some at the same instant, and were tried.
    let now = callbackd::clock::now();
    let later = now.plus_ms(2_000_000).micros();
    let fill = format!(
        "INSERT INTO deliveries SELECT n * 16, h.id, 'c', h.change, 'waiting', {later} + (n / 50) * 1000000, 1, n, NULL, false, NULL, 'no', NULL
         FROM generate_series(1, 2500) n, execution_heads h"
    );
    ask(&server, &folder, &fill);
    note_changes(&server, &folder, "deliveries", "UPDATE");
    // A sink of which a probe is a long time away, what is held, and what is expected to end.
    let open = Open { since: now, probe_at: now.plus_ms(2_000_000) };
    store.share_breaker("c".to_owned(), Some(open)).await.expect("shared");
    let asks = format!(
        "INSERT INTO inquiries (id, source, key, due_at, leased, asked, failures)
         VALUES (1, 'media', 'k', {later}, FALSE, 0, 0), (2, 'media', NULL, {later}, FALSE, 0, 0)"
    );
    ask(&server, &folder, &asks);
    // One machine's clock is not the one that all go by.
    assert_eq!(store.set_back("c".to_owned(), Some(100_000), now).await.expect("looked"), 0);
    store.set_back_inquiries("media".to_owned(), Some(100_000), now).await.expect("looked");
    let moved = format!(
        "SELECT count(*) FROM (SELECT due_at FROM inquiries UNION ALL SELECT probe_at FROM sink_breakers) t
                         WHERE due_at < {later}"
    );
    assert_eq!((noted(&server, &folder).0, ask(&server, &folder, &moved)), (0, 0));
    // The server's was set back by a hundred seconds: so say they who were heard of later than now.
    ask(&server, &folder, "UPDATE replicas SET seen_at = clock_timestamp() + interval '100 seconds'");
    until("it is noticed", async || (ask(&server, &folder, &moved) == 3).then_some(())).await;
    let beaten = beaten(&server, &folder);
    until("both have looked again", async || (ask(&server, &folder, &beaten) == 2).then_some(())).await;
    assert_eq!(noted(&server, &folder), (2500, 1000));
    let by =
        format!("FROM (SELECT {later} + (id / 16 / 50) * 1000000 - due_at AS by FROM deliveries WHERE sink = 'c') t");
    let by = (
        ask(&server, &folder, &format!("SELECT min(by) {by}")),
        ask(&server, &folder, &format!("SELECT max(by) {by}")),
    );
    assert!(by.0 == by.1 && (90_000_000..=100_000_000).contains(&by.0), "each by as much, once: {by:?}");
    store.hurry("c".to_owned(), Time::from_micros(i64::MAX), now).await.expect("hurried");
    assert_eq!(noted(&server, &folder), (2500, 1000));
    let due = format!("SELECT count(*) FROM deliveries WHERE sink = 'c' AND due_at = {}", now.micros());
    assert_eq!(ask(&server, &folder, &due), 2500);

    // One behind many that are not meant: it is looked for in steps, too.
    let fill = "INSERT INTO deliveries SELECT n * 16, h.id, 'e', h.change, CASE WHEN n = 14000 THEN 'dead' ELSE 'delivered' END, NULL, 1, n, n, false, NULL, 'no', NULL
                FROM generate_series(2501, 14000) n, execution_heads h";
    ask(&server, &folder, fill);
    let to_e = Filter { sink: Some("e".to_owned()), ..Filter::default() };
    assert_eq!(store.retry(DeliveryFilter::All(to_e), now).await.expect("retried"), 1);
}

#[tokio::test]
async fn a_large_execution_goes_in_steps_and_whole() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 1).await;
    record(&*stores[0], "portal", at(1), vec![update("large", Status::Failed)]).await;
    record(&*stores[0], "portal", at(1), vec![update("small", Status::Failed)]).await;
    // A thousand changes with their receipts, five thousand repeats.
    ask(
        &server,
        &folder,
        "INSERT INTO earlier_changes SELECT n * 16, h.id, n, CASE WHEN n > 1 THEN (n - 1) * 16 END, 't', NULL, NULL, n * 16 + 1, n, h.snapshot
         FROM generate_series(1, 1000) n, execution_heads h WHERE h.key = 'large';
         INSERT INTO receipts SELECT n * 16 + 1, 'portal', 'accepted', n, '', '{}', '', 0, NULL, NULL, NULL, NULL FROM generate_series(1, 1000) n;
         INSERT INTO receipts SELECT n * 16 + 2, 'portal', 'duplicate', n, '', '{}', NULL, 0, '', NULL, h.id, NULL
         FROM generate_series(1, 5000) n, execution_heads h WHERE h.key = 'large';
         UPDATE execution_heads SET previous = 16000 WHERE key = 'large'",
    );
    note_changes(&server, &folder, "receipts", "DELETE");
    assert_eq!(prune(&*stores[0], at(100)).await, 2);
    let (all, most) = noted(&server, &folder);
    assert!(all == 6002 && most <= 2200, "{all} receipts, {most} at once");
    for table in ["receipts", "execution_heads", "earlier_changes", "deliveries"] {
        assert_eq!(ask(&server, &folder, &format!("SELECT count(*) FROM {table}")), 0, "{table}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_that_start_at_once_make_one_schema() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let opening: Vec<_> = (0..6)
        .map(|_| {
            let address = Address::parse(&address(&server, &folder), None, None).expect("an address");
            tokio::spawn(PostgresStore::open(address, Options::default()))
        })
        .collect();
    let mut stores = Vec::new();
    for one in opening {
        stores.push(one.await.expect("joined").expect("opened"));
    }
    assert_eq!(ask(&server, &folder, "SELECT count(*) FROM callbackd_schema"), 2, "each step once");
    let places: BTreeSet<u16> = stores[0].replicas().await.expect("listed").iter().map(|one| one.place).collect();
    assert_eq!(places, (0..6).collect());
}

#[tokio::test]
async fn a_newer_schema_that_only_adds_is_gone_on_with_and_another_is_not() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 1).await;
    // A newer callbackd comes, while this one runs and after it: it adds.
    ask(
        &server,
        &folder,
        "ALTER TABLE deliveries ADD COLUMN weight INTEGER NOT NULL DEFAULT 1; ALTER TABLE receipts ADD COLUMN region TEXT;
         ALTER TABLE execution_heads ADD COLUMN region TEXT; CREATE TABLE regions (name TEXT);
         INSERT INTO callbackd_schema (version, oldest) VALUES (3, 1)",
    );
    let again = try_open(&server, &folder, Options::default()).await;
    for (store, key) in [(&stores[0], "i1"), (&again, "i2")] {
        record(&**store, "media", at(1), vec![update(key, Status::Failed)]).await;
        let claimed = claim(&**store, "a", at(1)).await;
        assert_eq!(claimed.len(), 1);
        let one = settlement(&claimed[0], at(31), Fate::Delivered, at(2));
        store.settle(one, Arc::new(rules()), at(2)).await.expect("settled");
    }
    assert!(!stores[0].is_closed());
    // And one that takes away what this one needs.
    ask(&server, &folder, "INSERT INTO callbackd_schema (version, oldest) VALUES (4, 3)");
    let address = Address::parse(&address(&server, &folder), None, None).expect("an address");
    let refused = PostgresStore::open(address, Options::default()).await.err().expect("refused").to_string();
    assert!(refused.contains("schema is 4") && refused.contains("has to know 3"), "{refused}");
    until("who runs ends", async || (stores[0].is_closed() && again.is_closed()).then_some(())).await;
}

/// Queries of people's own go on working when they move.
#[tokio::test]
async fn what_people_read_has_the_names_that_it_has_in_sqlite() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let stores = replicas(&server, &folder, 1).await;
    let file = folder.path().join("store.db");
    SqliteStore::open(&file, &callbackd::store::sqlite::Options::default()).expect("opens").close().await;
    let sqlite = rusqlite::Connection::open(&file).expect("opens");
    for name in ["executions", "tasks", "changes", "receipts", "deliveries", "attempts", "links"] {
        let mut columns = sqlite.prepare("SELECT name FROM pragma_table_info(?1)").expect("prepared");
        let columns: Vec<String> =
            columns.query_map([name], |row| row.get(0)).and_then(Iterator::collect).expect("columns");
        assert!(columns.len() > 4, "{name}: {columns:?}");
        ask(&server, &folder, &format!("SELECT count(*) FROM (SELECT {} FROM {name}) t", columns.join(", ")));
    }
    let mut one = update("i1", Status::Failed);
    one.execution.name = Some("a name".to_owned());
    one.execution.started_at = Some(at(1));
    one.tasks = vec![callbackd::model::Task {
        finished_at: Some(at(2)),
        ..callbackd::model::Task::new("t1".to_owned(), Status::Failed)
    }];
    record(&*stores[0], "media", at(1), vec![update("i1", Status::Running)]).await;
    record(&*stores[0], "media", at(2), vec![one]).await;
    for (sql, expected) in [
        (
            "SELECT count(*) FROM executions WHERE key = 'i1' AND name = 'a name' AND status = 'failed' AND NOT overdue",
            1,
        ),
        (
            "SELECT count(*) FROM executions WHERE started_at = '2023-11-14T22:13:21.000Z' AND finished_at IS NULL AND inputs IS NULL",
            1,
        ),
        (
            "SELECT count(*) FROM tasks WHERE execution_key = 'i1' AND key = 't1' AND finished_at = '2023-11-14T22:13:22.000Z' AND error IS NULL",
            1,
        ),
        ("SELECT count(*) FROM changes WHERE changed_tasks = '[\"t1\"]' AND sequence = 2", 1),
        ("SELECT count(*) FROM changes c JOIN executions e ON e.id = c.execution", 2),
    ] {
        assert_eq!(ask(&server, &folder, sql), expected, "{sql}");
    }
}
