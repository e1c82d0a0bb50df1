//! `move`, as an operator runs it: a store with everything in it, or one that a daemon works on, becomes another one.
//!
//! Files always; where a PostgreSQL is there (`make postgres`), the same from a file into it, and back.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::callbacks::{Step, cos, port, signed};
use crate::daemon::{Daemon, Done, soon};
use crate::peers::ci::FakeCi;
use crate::peers::hook::{Closed, Hook, Reply};

mod careless;

const MEDIA: &str = "/callbacks/media/t0ken";
const SECRET: &str = "s3cret";
const FILE: &str = "sqlite:callbackd.db";

/// The other store: a file, or a schema of its own in the server that is there.
struct Other {
    url: String,
    folder: TempDir,
}

impl Other {
    fn new() -> Other {
        let folder = TempDir::new().expect("a folder");
        #[cfg(feature = "postgres")]
        if let Some(server) = crate::stores::postgres::server() {
            crate::stores::postgres::make(&server, &folder);
            return Other { url: crate::stores::postgres::address(&server, &folder), folder };
        }
        Other { url: format!("sqlite:{}", folder.path().join("other.db").display()), folder }
    }

    /// Writes a mark, as a move does.
    fn mark(&self, state: &str, place: &str) {
        #[cfg(feature = "postgres")]
        if crate::stores::postgres::server().is_some() {
            self.ask("DROP TABLE IF EXISTS callbackd_move");
            self.ask("CREATE TABLE callbackd_move (state TEXT NOT NULL, place TEXT NOT NULL)");
            self.ask(&format!("INSERT INTO callbackd_move VALUES ('{state}', '{place}')"));
            self.ask("ALTER TABLE IF EXISTS line RENAME TO line_of_another");
            return;
        }
        self.ask("DROP TABLE IF EXISTS moves");
        self.ask("CREATE TABLE moves (state TEXT NOT NULL, place TEXT NOT NULL) STRICT");
        self.ask(&format!("INSERT INTO moves VALUES ('{state}', '{place}')"));
    }

    /// As if who was killed had been silent for long.
    fn forget(&self) {
        if !self.url.starts_with("sqlite:") {
            self.ask("UPDATE replicas SET seen_at = clock_timestamp() - interval '1 hour'");
        }
    }

    /// Runs a statement in it; the number that it answers, and 0 where it cannot be asked yet.
    fn ask(&self, sql: &str) -> usize {
        #[cfg(feature = "postgres")]
        if let Some(server) = crate::stores::postgres::server() {
            return crate::stores::postgres::ask(&server, &self.folder, sql);
        }
        let path = self.folder.path().join("other.db");
        let Ok(conn) = rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_WRITE) else {
            return 0;
        };
        conn.busy_timeout(Duration::from_secs(5)).expect("set");
        match sql.starts_with("SELECT") {
            true => conn.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap_or(0) as usize,
            false => conn.execute(sql, []).expect("changed"),
        }
    }
}

/// What people see of a store, each list in its order.
fn shown(daemon: &Daemon) -> Vec<Vec<Value>> {
    let lists = [["executions", "list"], ["receipts", "list"], ["deliveries", "list"], ["sinks", "list"]];
    let mut shown: Vec<_> = lists.iter().map(|list| daemon.list(list)).collect();
    let keys: Vec<_> = shown[0].iter().map(|row| row["key"].as_str().expect("a key").to_owned()).collect();
    shown.push(keys.iter().map(|key| daemon.execution(key)).collect());
    let bodies = shown[1].iter().filter(|row| row["status"] != "duplicate").map(|row| {
        let id = row["id"].as_str().expect("an id");
        let body = daemon.cli(&["receipts", "body", id]);
        json!([id, String::from_utf8_lossy(&body.stdout)])
    });
    let bodies = bodies.collect();
    shown.push(bodies);
    shown
}

fn ids(hook: &Hook) -> Vec<String> {
    hook.seen().into_iter().filter(|seen| seen.taken).map(|seen| seen.id).collect()
}

fn is_once(ids: &[String]) -> bool {
    ids.iter().collect::<BTreeSet<_>>().len() == ids.len()
}

/// A daemon that everything can happen to.
fn everything(store: &str, ci: &FakeCi, hooks: [&str; 4]) -> String {
    let sinks: String = ["told", "refusing", "away", "paused"]
        .iter()
        .zip(hooks)
        .map(|(name, url)| {
            format!(
                "[sinks.{name}]\nkind = \"webhook\"\nurl = {url:?}\nretry_first = \"20ms\"\nretry_longest = \"100ms\"\n\
                 breaker_probe = \"50ms\"\n"
            )
        })
        .collect();
    format!(
        "[store]\nurl = {store:?}\n\
         [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sources.portal]\nkind = \"port_action\"\npath = \"/callbacks/port\"\nsecret = {SECRET:?}\n\
         [sources.asked]\nkind = \"cos_workflow\"\npath = \"/callbacks/asked\"\nallow_unauthenticated = true\nconfirm = true\n{}\
         {sinks}\
         [[routes]]\nfrom = [\"media\", \"portal\"]\nto = [\"told\", \"away\", \"paused\"]\n\
         [[routes]]\nfrom = [\"media\"]\nwhen = '.execution.status == \"failed\"'\nto = [\"refusing\"]\n\
         [[links]]\nof = \"media\"\nkey = '.execution.attributes.object'\nwith = \"portal\"\nwith_key = '.execution.inputs.object'\n",
        ci.options()
    )
}

/// Everything that a store may hold, with all in it at rest; what waits waits for `away`, or for the pause.
fn happen(daemon: &Daemon, told: &Hook, refusing: &Hook) {
    let done = daemon.cli(&["sinks", "pause", "paused", "--reason", "by the test"]);
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    let post = |body: String, expected: &str| {
        let answer = daemon.post(MEDIA, &[], body);
        assert_eq!(answer.json()["outcome"], expected, "{answer:?}");
    };
    for run in ["done-1", "done-2", "clip", "mended"] {
        post(cos(Step::Start, run), "accepted");
        post(cos(Step::TaskFinish, run), "accepted");
        post(cos(Step::Success, run), "accepted");
    }
    post(cos(Step::Start, "runs"), "accepted");
    post(cos(Step::Failed, "fails"), "accepted");
    post(cos(Step::Failed, "given-up"), "accepted");
    post(cos(Step::Success, "done-1"), "duplicate");
    post(cos(Step::Failed, "done-1"), "conflict");
    post("<Response><what/></Response>".to_owned(), "quarantined");
    let body = port("r_AbCdEfGh12345678");
    let headers = signed(SECRET, body.as_bytes(), 0);
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(daemon.post("/callbacks/port", &headers, &body).json()["outcome"], "accepted");
    // Another with the same object, which is its partner.
    post(cos(Step::Start, "linked").replace("in/linked.mp4", "in/clip.mp4"), "accepted");
    let held = daemon.post("/callbacks/asked", &[], cos(Step::Success, "i0000000000000000000000000000dead"));
    assert_eq!(held.json()["outcome"], "held");
    soon("what can be told is told", || (told.taken().len() == 17).then_some(()));
    soon("what is refused is dead", || {
        (daemon.list(&["deliveries", "list", "--status", "dead"]).len() == 2).then_some(())
    });
    assert_eq!(refusing.taken().len(), 0);
    let dead = daemon.list(&["deliveries", "list", "--status", "dead"]);
    let one = dead[0]["id"].as_str().expect("an id").to_owned();
    assert_eq!(daemon.cli(&["deliveries", "discard", &one]).code, Some(0));
    soon("nothing is under way that could be told", || {
        let waiting = daemon.list(&["deliveries", "list", "--sink", "told"]);
        waiting.iter().all(|row| row["status"] == "delivered").then_some(())
    });
    let links = daemon.execution("linked")["execution"]["links"].as_array().map(Vec::len);
    assert_eq!(links, Some(1), "the two are linked");
}

fn went_well(done: &Done) {
    assert_eq!(done.code, Some(0), "{}{}", String::from_utf8_lossy(&done.stdout), done.stderr);
}

#[test]
fn a_store_with_everything_in_it_goes_on_in_another_and_comes_back() {
    let (ci, other) = (FakeCi::start(), Other::new());
    let (told, refusing) = (Hook::start(|| Reply::Status(200)), Hook::start(|| Reply::Status(400)));
    let (away, paused) = (Closed::reserve(), Hook::start(|| Reply::Status(200)));
    let hooks = [told.url(), refusing.url(), away.url(), paused.url()];
    let hooks = hooks.each_ref().map(String::as_str);
    let mut daemon = Daemon::run(&everything(FILE, &ci, hooks));
    happen(&daemon, &told, &refusing);
    daemon.terminate();
    let before = shown(&daemon);

    let moved = daemon.cli(&["move", "--from", FILE, "--to", &other.url]);
    went_well(&moved);
    assert!(moved.said().contains("was moved to") && moved.said().contains("each compared"), "{}", moved.said());
    let verified = daemon.cli(&["move", "--verify", "--from", FILE, "--to", &other.url]);
    assert!(verified.said().contains("hold the same"), "{}", verified.said());
    let again = daemon.cli(&["move", "--from", FILE, "--to", &other.url]);
    assert!(again.code == Some(1) && again.stderr.contains("nothing is left to do"), "{}", again.stderr);
    // Nobody begins on the old one by mistake, and it says where it went.
    assert!(daemon.try_start().is_some_and(|status| !status.success()), "it was moved");
    assert!(daemon.log().contains("was moved to"), "{}", daemon.log());
    let doctor = daemon.cli(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.code == Some(1) && said.contains("was moved to"), "{said}");

    daemon.configure(&everything(&other.url, &ci, hooks));
    assert_eq!(shown(&daemon), before, "the same, with the same ids");
    let waiting: BTreeSet<_> = daemon
        .list(&["deliveries", "list", "--status", "waiting", "--sink", "away"])
        .iter()
        .map(|row| row["id"].as_str().expect("an id").to_owned())
        .collect();
    assert_eq!(waiting.len(), 17);
    let away = away.open(|| Reply::Status(200));
    daemon.start();
    soon("what waited is told", || (ids(&away).len() >= waiting.len()).then_some(()));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "done-2")).json()["outcome"], "duplicate");
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "runs")).json()["outcome"], "accepted");
    soon("it goes on", || (told.taken().len() == 18 && away.taken().len() == 18).then_some(()));
    daemon.terminate();
    let back = daemon.cli(&["move", "--from", &other.url, "--to", FILE]);
    went_well(&back);
    let verified = daemon.cli(&["move", "--verify", "--from", &other.url, "--to", FILE]);
    assert!(verified.said().contains("hold the same"), "{}", verified.said());
    let after = shown(&daemon);
    let doctor = daemon.cli(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout);
    assert!(doctor.code == Some(1) && said.contains("was moved to sqlite:"), "{said}");
    daemon.configure(&everything(FILE, &ci, hooks));
    assert_eq!(shown(&daemon), after, "the way back");
    daemon.start();
    assert_eq!(paused.seen().len(), 0, "a pause is a pause");
    assert_eq!(daemon.cli(&["sinks", "resume", "paused"]).code, Some(0));
    soon("what was paused is told", || (paused.taken().len() == 18).then_some(()));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Failed, "runs")).json()["outcome"], "conflict");
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "later")).json()["outcome"], "accepted");
    soon("it goes on", || (told.taken().len() == 19 && away.taken().len() == 19).then_some(()));
    soon("nothing waits", || daemon.list(&["deliveries", "list", "--status", "waiting"]).is_empty().then_some(()));
    for hook in [&told, &away, &paused] {
        assert!(is_once(&ids(hook)), "told twice: {:?}", hook.taken());
    }
    assert_eq!(refusing.seen().len(), 2, "what was given up stays so");
    assert!(
        waiting.iter().all(|id| away.seen().iter().any(|seen| seen.id.contains(id.as_str()))),
        "under the same ids"
    );
}

#[test]
fn a_row_that_was_altered_is_found_and_named() {
    let (ci, other) = (FakeCi::start(), Other::new());
    let (told, refusing) = (Hook::start(|| Reply::Status(200)), Hook::start(|| Reply::Status(400)));
    let (away, paused) = (Closed::reserve(), Hook::start(|| Reply::Status(200)));
    let hooks = [told.url(), refusing.url(), away.url(), paused.url()];
    let mut daemon = Daemon::run(&everything(FILE, &ci, hooks.each_ref().map(String::as_str)));
    happen(&daemon, &told, &refusing);
    daemon.terminate();
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", &other.url]));
    let verify = || daemon.cli(&["move", "--verify", "--from", FILE, "--to", &other.url, "--json"]);
    let first = |done: &Done| serde_json::from_slice::<Value>(&done.stdout).expect("JSON")["first"].clone();
    let verified = verify();
    assert_eq!((verified.code, first(&verified)), (Some(0), Value::Null));
    let is_found = |table: &str, id: usize, how: &str| {
        let found = verify();
        let expected = json!({ "table": table, "id": id.to_string(), "how": how });
        assert_eq!((found.code, first(&found)), (Some(1), expected));
        let text = daemon.cli(&["move", "--verify", "--from", FILE, "--to", &other.url]);
        let text = String::from_utf8_lossy(&text.stdout).into_owned();
        assert!(text.contains(&format!("differ; the first: {table} {id} of ")), "{text}");
    };
    for (table, column) in [
        ("receipts", "received_at"),
        ("execution_heads", "change"),
        ("earlier_changes", "sequence"),
        ("deliveries", "attempts"),
        ("attempts", "duration_ms"),
        ("links", "created_at"),
        ("inquiries", "asked"),
    ] {
        let id = other.ask(&format!("SELECT max(id) FROM {table}"));
        assert!(id > 0, "{table} is empty");
        let add = |more: i32| other.ask(&format!("UPDATE {table} SET {column} = {column} + {more} WHERE id = {id}"));
        add(1);
        is_found(table, id, &format!("is another in {column}"));
        add(-1);
        assert_eq!(verify().code, Some(0), "{table}");
    }
    // From the last table to the first, so that each is the first that differs.
    other.ask("INSERT INTO sink_pauses (sink, reason) VALUES ('another', 'nobody knows')");
    is_found("sink_pauses", 1, "has 2 rows, and they are not the same as these 1");
    let id = other.ask("SELECT max(id) FROM attempts");
    other.ask(&format!("DELETE FROM attempts WHERE id = {id}"));
    is_found("attempts", id, "is missing");
    let id = other.ask("SELECT max(id) FROM receipts WHERE body IS NOT NULL");
    other.ask(&format!("UPDATE receipts SET body = NULL WHERE id = {id}"));
    is_found("receipts", id, "is another in body");
    // Below all, and above: rows that nothing has brought.
    let insert = "INSERT INTO links (id, rule, execution, with_execution, created_at) VALUES";
    other.ask(&format!("{insert} (1, 'r', 1, 2, 3), (9000000000000000, 'r', 1, 2, 3)"));
    let found = verify();
    let differ = |name: &str| {
        let said: Value = serde_json::from_slice(&found.stdout).expect("JSON");
        let tables = said["tables"].as_array().expect("a list").clone();
        tables.iter().find(|table| table["name"] == name).expect("a table")["differ"].clone()
    };
    assert_eq!((differ("links"), differ("receipts"), differ("deliveries")), (json!(2), json!(1), json!(0)));
}

#[test]
fn a_move_that_was_killed_between_its_last_two_words_is_ended() {
    let (other, closed) = (Other::new(), Closed::reserve());
    let mut daemon = Daemon::prepare();
    daemon.configure(&config(FILE, &closed.url()));
    many(&mut daemon, 3);
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", &other.url]));
    // The one is moved, and the other is not whole yet.
    let file = daemon.path("callbackd.db").canonicalize().expect("there");
    other.mark("filling", &format!("sqlite:{}", file.display()));
    assert!(daemon.try_start().is_some_and(|status| !status.success()), "it was moved");
    daemon.configure(&config(&other.url, &closed.url()));
    assert!(daemon.try_start().is_some_and(|status| !status.success()), "it is not whole");
    let ended = daemon.cli(&["move", "--from", FILE, "--to", &other.url]);
    went_well(&ended);
    assert!(ended.stderr.contains("was begun before, and goes on"), "{}", ended.stderr);
    daemon.start();
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Start, "run-0")).json()["outcome"], "duplicate");
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-0")).json()["outcome"], "accepted");
}

/// A store with so many executions, which nobody was told of.
fn many(daemon: &mut Daemon, count: usize) {
    daemon.start();
    for n in 0..count {
        assert_eq!(daemon.post(MEDIA, &[], cos(Step::Start, format!("run-{n}"))).status, 200);
    }
    daemon.terminate();
}

fn config(store: &str, hook: &str) -> String {
    format!(
        "[store]\nurl = {store:?}\n[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = {hook:?}\nretry_first = \"20ms\"\nretry_longest = \"100ms\"\n\
         breaker_probe = \"50ms\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

/// Waits for its end, and what it said on stderr.
fn ended(mut child: Child) -> (Option<i32>, String) {
    let status = soon("the move's end", || child.try_wait().expect("waited for"));
    let mut said = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
    }
    (status.code(), said)
}

#[test]
fn a_move_that_was_killed_goes_on_when_it_is_run_again() {
    const RUNS: usize = 1200;
    let other = Other::new();
    let closed = Closed::reserve();
    let mut daemon = Daemon::prepare();
    daemon.configure(&config(FILE, &closed.url()));
    many(&mut daemon, RUNS);
    let began = || daemon.cli_going_on(&["move", "--from", FILE, "--to", &other.url]);
    let mut killed = 0;
    for (table, rows) in [("receipts", 1), ("execution_heads", 1), ("deliveries", 1), ("deliveries", RUNS)] {
        let mut child = began();
        soon("it is as far", || {
            let is_over = child.try_wait().expect("waited for").is_some();
            (is_over || other.ask(&there(table)) == 1 && other.ask(&format!("SELECT count(*) FROM {table}")) >= rows)
                .then_some(())
        });
        killed += usize::from(child.try_wait().expect("waited for").is_none());
        child.kill().expect("killed");
        child.wait().expect("waited for");
    }
    assert!(killed > 0, "it was over each time");
    let (code, said) = ended(began());
    assert!(code == Some(0) || said.contains("nothing is left to do"), "{said}");
    let verified = daemon.cli(&["move", "--verify", "--from", FILE, "--to", &other.url]);
    assert!(verified.said().contains("hold the same"), "{}", verified.said());
    let hook = closed.open(|| Reply::Status(200));
    daemon.configure(&config(&other.url, &hook.url()));
    daemon.start();
    soon("all is told", || (hook.taken().len() >= RUNS).then_some(()));
    soon("nothing waits", || daemon.list(&["deliveries", "list", "--status", "waiting"]).is_empty().then_some(()));
    assert!(is_once(&ids(&hook)));
    assert_eq!(hook.taken().into_iter().collect::<BTreeMap<_, _>>().len(), RUNS);
}

/// Whether the table is there: a statement that can be asked before.
fn there(table: &str) -> String {
    #[cfg(feature = "postgres")]
    if crate::stores::postgres::server().is_some() {
        return format!("SELECT CASE WHEN to_regclass('{table}') IS NULL THEN 0 ELSE 1 END");
    }
    format!("SELECT count(*) FROM sqlite_schema WHERE name = '{table}'")
}

/// Sends runs one after the other, each until it has ended, until it is told to stop; which steps were acknowledged.
fn send(daemon: &Daemon, from: &str, stop: &AtomicBool, acknowledged: &AtomicUsize) -> Vec<(String, Step)> {
    let mut kept = Vec::new();
    for n in 0.. {
        for step in [Step::Start, Step::TaskFinish, Step::Success] {
            if stop.load(Ordering::Acquire) {
                return kept;
            }
            let run = format!("{from}-{n}");
            assert_eq!(daemon.post(MEDIA, &[], cos(step, &run)).status, 200);
            acknowledged.fetch_add(1, Ordering::AcqRel);
            kept.push((run, step));
        }
    }
    kept
}

#[test]
fn a_daemon_works_while_its_store_is_copied_and_nothing_is_lost_told_twice_or_out_of_order() {
    let other = Other::new();
    let count = Arc::new(AtomicUsize::new(0));
    // Some take their time, and some fail: at every moment something is under way, waits, or waits behind another.
    let hook = Hook::start({
        let count = Arc::clone(&count);
        move || match count.fetch_add(1, Ordering::Relaxed) % 7 {
            3 => Reply::Status(500),
            5 => Reply::Slow(Duration::from_millis(30)),
            _ => Reply::Status(200),
        }
    });
    let mut daemon = Daemon::run(&config(FILE, &hook.url()));
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let so_many = |more: usize| {
        let from = acknowledged.load(Ordering::Acquire);
        soon("more is taken", || (acknowledged.load(Ordering::Acquire) >= from + more).then_some(()));
    };
    let (kept, child) = thread::scope(|scope| {
        let (to, stopped, count) = (&daemon, &stop, &acknowledged);
        let senders = ["a", "b", "c"].map(|name| scope.spawn(move || send(to, name, stopped, count)));
        so_many(150);
        let mut child = daemon.cli_going_on(&["move", "--from", FILE, "--to", &other.url]);
        let mut said = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
        let waits = said.next().expect("a line");
        assert!(waits.contains("stop every callbackd that uses"), "{waits}");
        thread::spawn(move || said.for_each(drop));
        so_many(150);
        stop.store(true, Ordering::Release);
        let kept: Vec<_> = senders.into_iter().flat_map(|sender| sender.join().expect("no panic")).collect();
        (kept, child)
    });
    // What is not whole is nobody's to begin on.
    let mut early = Daemon::prepare();
    early.configure(&config(&other.url, &hook.url()));
    assert!(early.try_start().is_some_and(|status| !status.success()), "it is not whole");
    assert!(early.log().contains("in use") || early.log().contains("is being filled out of"), "{}", early.log());

    daemon.terminate();
    let (code, said) = ended(child);
    assert_eq!(code, Some(0), "{said}");
    daemon.configure(&config(&other.url, &hook.url()));
    daemon.start();
    soon("all is told", || (hook.taken().len() >= kept.len()).then_some(()));
    soon("nothing waits", || daemon.list(&["deliveries", "list", "--status", "waiting"]).is_empty().then_some(()));
    let mut expected = BTreeMap::<String, Vec<&str>>::new();
    for (run, step) in &kept {
        let status = if *step == Step::Success { "succeeded" } else { "running" };
        expected.entry(run.clone()).or_default().push(status);
    }
    assert!(kept.len() > 300);
    let mut told = BTreeMap::<String, Vec<String>>::new();
    for (run, status) in hook.taken() {
        told.entry(run).or_default().push(status);
    }
    assert_eq!(
        told,
        expected.into_iter().map(|(run, all)| (run, all.into_iter().map(str::to_owned).collect())).collect()
    );
    assert!(is_once(&ids(&hook)), "told twice");
    assert_eq!(daemon.list(&["deliveries", "list", "--status", "delivered", "--limit", "100000"]).len(), kept.len());
}

#[test]
fn what_cannot_be_moved_is_said() {
    let mut daemon = Daemon::prepare();
    let closed = Closed::reserve();
    daemon.configure(&config(FILE, &closed.url()));
    many(&mut daemon, 3);
    let moved = |daemon: &Daemon, args: &[&str]| daemon.cli(&[&["move"], args].concat());
    let said = |daemon: &Daemon, args: &[&str]| {
        let done = moved(daemon, args);
        assert_ne!(done.code, Some(0), "{args:?}");
        done.stderr
    };
    assert!(
        said(&daemon, &["--from", "sqlite:none.db", "--to", "sqlite:b.db"]).contains("there is no store at none.db")
    );
    assert!(said(&daemon, &["--from", FILE, "--to", FILE]).contains("both where from and where to"));
    assert_eq!(moved(&daemon, &["--from", FILE]).code, Some(2));
    assert_eq!(moved(&daemon, &["--from", FILE, "--to", "mysql://u:s3cret@h/d"]).code, Some(2));
    assert!(!said(&daemon, &["--from", FILE, "--to", "mysql://u:s3cret@h/d"]).contains("s3cret"));
    assert!(said(&daemon, &["--undo", "--from", FILE]).contains("was not moved"));
    #[cfg(not(feature = "postgres"))]
    assert!(said(&daemon, &["--from", FILE, "--to", "postgres://h/d"]).contains("is not built into this callbackd"));
    went_well(&moved(&daemon, &["--from", FILE, "--to", "sqlite:b.db"]));
    // Another one that was left, in use, or not whole.
    went_well(&moved(&daemon, &["--undo", "--from", FILE]));
    assert!(said(&daemon, &["--from", FILE, "--to", "sqlite:b.db"]).contains("with rows of its own"));
    went_well(&moved(&daemon, &["--from", FILE, "--to", "sqlite:e.db"]));
    assert!(said(&daemon, &["--undo", "--from", "sqlite:b.db"]).contains("went on to"));
    assert!(said(&daemon, &["--from", FILE, "--to", "sqlite:f.db"]).contains("was moved to"));
    went_well(&moved(&daemon, &["--undo", "--from", FILE, "--to", "sqlite:e.db"]));
    let mut other = Daemon::prepare();
    other.configure(&config(FILE, &closed.url()));
    many(&mut other, 1);
    let in_use = format!("sqlite:{}", other.path("callbackd.db").display());
    assert!(said(&daemon, &["--from", FILE, "--to", &in_use]).contains("no move has brought"));
    daemon.start();
    let mut child = daemon.cli_going_on(&["move", "--from", FILE, "--to", "sqlite:c.db"]);
    soon("it waits for the daemon", || daemon.path("c.db").exists().then_some(()));
    let line = BufReader::new(child.stderr.take().expect("piped")).lines().next().expect("a line").expect("read");
    assert!(line.contains("stop every callbackd"), "{line}");
    child.kill().expect("killed");
    child.wait().expect("waited for");
    assert!(said(&daemon, &["--from", &in_use, "--to", "sqlite:c.db"]).contains("is being filled out of"));
    assert!(said(&daemon, &["--from", "sqlite:b.db", "--to", "sqlite:g.db"]).contains("was left for"));
    assert!(said(&daemon, &["--from", "sqlite:c.db", "--to", "sqlite:d.db"]).contains("is not whole"));
    assert!(said(&daemon, &["--undo", "--from", "sqlite:c.db"]).contains("is not whole"));
    daemon.terminate();
    // A terminal sees how far it is.
    let done = daemon.cli_at_a_terminal(&["move", "--from", FILE, "--to", "sqlite:c.db"]);
    let shown = String::from_utf8_lossy(&done.stdout);
    assert!(done.code == Some(0) && shown.contains("comparing [") && shown.contains("was moved to"), "{shown}");
}

/// What is only so where several share the store.
#[cfg(feature = "postgres")]
mod postgres {
    use callbackd::model::Status;
    use callbackd::store::moving::{Move, Other};
    use callbackd::store::postgres::{Address, Options, PostgresStore, portable};
    use callbackd::store::sqlite::portable as file;
    use callbackd::store::sqlite::{self, SqliteStore};
    use callbackd::store::{Filter, Parsed, Queries as _, Store as _, StoreError};
    use tempfile::TempDir;

    use crate::store::{at, record, try_record, update};
    use crate::stores::postgres::{address, ask, make, server, silence, try_open};

    #[tokio::test]
    async fn who_uses_it_is_waited_for_and_who_was_taken_for_gone_stores_nothing_more() {
        let server = server().expect("CALLBACKD_TEST_POSTGRES, which `make postgres` sets");
        let folder = TempDir::new().expect("a folder");
        make(&server, &folder);
        let url = || Address::parse(&address(&server, &folder), None, None).expect("an address");
        let path = folder.path().join("store.db");
        let silent = try_open(&server, &folder, Options::default()).await;
        record(&*silent, "media", at(1), vec![update("i1", Status::Failed)]).await;
        let opened =
            async || Move::of(portable::to_read(url()).await.expect("opens"), file::to_fill(&path).expect("opens"));
        let mut stores = opened().await;
        stores.begin().await.expect("begins");
        stores.fill(&mut |_, _| {}).await.expect("filled");
        assert!(!stores.hold().await.expect("asked"), "somebody uses it");
        record(&*silent, "media", at(2), vec![update("i2", Status::Failed)]).await;
        silence(&server, &folder);
        assert!(stores.hold().await.expect("held"));
        let late = try_record(&*silent, "media", at(3), Parsed::Updates(vec![update("i3", Status::Failed)])).await;
        assert!(matches!(late, Err(StoreError::Unavailable(_))), "{late:?}");
        drop(stores);
        let refused = PostgresStore::open(url(), Options::default()).await.err().expect("refused").to_string();
        assert!(refused.contains("is being moved to sqlite:"), "{refused}");
        let mut stores = opened().await;
        stores.begin().await.expect("goes on");
        assert!(stores.hold().await.expect("held"));
        let tally = stores.end(&mut |_, _| {}).await.expect("moved");
        assert_eq!(tally.tables.iter().find(|table| table.name == "execution_heads").map(|table| table.rows), Some(2));
        drop(stores);
        let moved = SqliteStore::open(&path, &sqlite::Options::default()).expect("opens");
        assert_eq!(moved.executions(Filter::default()).await.expect("listed").len(), 2);
        moved.close().await;
        let refused = PostgresStore::open(url(), Options::default()).await.err().expect("refused").to_string();
        assert!(refused.contains("was moved to sqlite:"), "{refused}");
        assert_eq!(
            ask(&server, &folder, "SELECT count(*) FROM replicas WHERE seen_at > clock_timestamp() - interval '30 s'"),
            0
        );
        let other = Other::There(file::to_read(&path).expect("opens"));
        let undone = portable::to_read(url()).await.expect("opens").undo(Some(other)).await.expect("undone");
        assert_eq!(undone.went, format!("sqlite:{}", path.canonicalize().expect("there").display()));
        let refused = SqliteStore::open(&path, &sqlite::Options::default()).err().expect("refused").to_string();
        assert!(refused.contains("was left for postgres://"), "{refused}");
        let again = try_open(&server, &folder, Options::default()).await;
        record(&*again, "media", at(4), vec![update("i4", Status::Failed)]).await;
    }
}
