//! The commands, as an operator types them: with a daemon and without one, without a store, and with the wrong token.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Closed, Hook, Reply};

const MEDIA: &str = "/callbacks/media/t0ken";

fn config(url: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = {url:?}\nsecret = \"hunter22hunter22\"\nretry_first = \"20ms\"\n\
         retry_longest = \"100ms\"\nbreaker_failures = 100000\n\
         [[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

fn standing(daemon: &Daemon, status: &str) -> Vec<Value> {
    daemon.list(&["deliveries", "list", "--status", status])
}

fn id(rows: &[Value]) -> String {
    rows[0]["id"].as_str().expect("an id").to_owned()
}

/// How a command ends, and what it says then.
type End = (i32, &'static str);

#[test]
fn each_says_what_it_needs_and_lacks() {
    let hook = Hook::start(|| Reply::Status(200));
    let mut daemon = Daemon::run(&["admin.token = \"right\"\n", &config(&hook.url())].concat());
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    soon("told", || (standing(&daemon, "delivered").len() == 1).then_some(()));
    daemon.write("seed.xml", &cos(Step::Start, "run-2"));
    let (delivery, receipt) = (id(&standing(&daemon, "delivered")), id(&daemon.list(&["receipts", "list"])));

    const FINE: End = (0, "");
    const NO_STORE: End = (1, "there is no store at ");
    const ITSELF: End = (0, "no daemon listens at admin.listen");
    const NO_TOKEN: End = (1, "does not take the admin.token of this configuration");
    let (read, change) = ([FINE, FINE, NO_STORE, FINE], [FINE, ITSELF, NO_STORE, NO_TOKEN]);
    // With a daemon, without one, without a store, with the wrong token.
    let commands: Vec<(Vec<&str>, [End; 4])> = vec![
        (vec!["check"], [FINE; 4]),
        (vec!["schema", "config"], [FINE; 4]),
        (vec!["schema", "change"], [FINE; 4]),
        (vec!["explain", "seed.xml"], [FINE; 4]),
        (vec!["sinks", "test", "any"], [FINE; 4]),
        (vec!["executions", "list"], read),
        (vec!["executions", "show", "run-1"], read),
        (vec!["receipts", "list"], read),
        (vec!["receipts", "show", &receipt], read),
        (vec!["receipts", "body", &receipt], read),
        (vec!["deliveries", "list"], read),
        (vec!["deliveries", "show", &delivery], read),
        (vec!["deliveries", "retry", "--all", "--dry-run"], read),
        (vec!["sinks", "list"], read),
        (vec!["backup", "--force", "copy.db"], read),
        (vec!["doctor"], [FINE, (1, "none listens at admin.listen"), (1, "there is no store at "), NO_TOKEN]),
        (vec!["sinks", "pause", "any"], change),
        (vec!["sinks", "resume", "any"], change),
        // Delivered already: whoever is asked says so.
        (vec!["deliveries", "retry", &delivery], [(1, "is delivered"), (1, "is delivered"), NO_STORE, NO_TOKEN]),
        (vec!["deliveries", "discard", &delivery], [(1, "is delivered"), (1, "is delivered"), NO_STORE, NO_TOKEN]),
    ];
    let walk = |daemon: &Daemon, situation: usize| {
        for (command, ends) in &commands {
            let (code, text) = ends[situation];
            let done = daemon.cli(command);
            let said = String::from_utf8_lossy(&done.stdout).into_owned() + &done.stderr;
            assert_eq!(done.code, Some(code), "{command:?} in situation {situation}: {said}");
            assert!(said.contains(text), "{command:?} in situation {situation}: {said}");
            assert!(!said.contains("hunter22") && !said.contains("t0ken"), "{command:?}: {said}");
        }
    };
    walk(&daemon, 0);
    daemon.environment.push(("CALLBACKD__ADMIN__TOKEN".to_owned(), "wrong".to_owned()));
    walk(&daemon, 3);
    daemon.environment.clear();
    assert!(daemon.terminate().success());
    walk(&daemon, 1);
    for name in ["callbackd.db", "callbackd.db-wal", "callbackd.db-shm"] {
        let _ = fs::remove_file(daemon.path(name));
    }
    walk(&daemon, 2);
    assert!(!daemon.path("callbackd.db").exists(), "no command makes a store");
}

/// Whatever was acknowledged before the backup began is in it, while callbacks go on to come in.
#[test]
fn a_backup_under_load_holds_what_was_acknowledged() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()));
    let (over, acknowledged) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (before, backup) = std::thread::scope(|scope| {
        for sender in 0..4 {
            let (daemon, over, acknowledged) = (&daemon, &over, &acknowledged);
            scope.spawn(move || {
                for run in 0.. {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let answer = daemon.post(MEDIA, &[], cos(Step::Success, format_args!("{sender}-{run}")));
                    assert_eq!(answer.status, 200, "{answer:?}");
                    acknowledged.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        soon("some", || (acknowledged.load(Ordering::SeqCst) > 300).then_some(()));
        let before = acknowledged.load(Ordering::SeqCst);
        let backup = daemon.cli(&["backup", "copy.db", "--json"]);
        let after = acknowledged.load(Ordering::SeqCst);
        soon("more", || (acknowledged.load(Ordering::SeqCst) > after).then_some(()));
        over.store(true, Ordering::Relaxed);
        (before, backup)
    });
    let copied = &backup.rows()[0];
    assert!(copied["executions"].as_u64().is_some_and(|n| n >= before as u64), "{copied} of {before}");
    let meta = fs::metadata(daemon.path("copy.db")).expect("the copy");
    assert_eq!((Some(meta.len()), meta.permissions().mode() & 0o777), (copied["bytes"].as_u64(), 0o600));

    let again = daemon.cli(&["backup", "copy.db"]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("is there already; --force replaces it"), "{}", again.stderr);
    for file in ["./callbackd.db", "callbackd.db-wal", "./callbackd.db-shm"] {
        let itself = daemon.cli(&["backup", "--force", file]);
        assert_eq!(itself.code, Some(2), "{}", itself.stderr);
    }

    // Restored: a daemon serves it, and goes on.
    let mut restored = Daemon::prepare();
    restored.configure(&config(&hook.url()));
    fs::copy(daemon.path("copy.db"), restored.path("callbackd.db")).expect("restored");
    restored.start();
    let kept = restored.list(&["executions", "list"]).len();
    assert_eq!(Some(kept as u64), copied["executions"].as_u64());
    let repeat = restored.post(MEDIA, &[], cos(Step::Success, "0-0")).json();
    assert_eq!(repeat["outcome"], "duplicate", "{repeat}");
    assert_eq!(restored.post(MEDIA, &[], cos(Step::Success, "new")).json()["outcome"], "accepted");
}

#[test]
fn a_doctor_names_what_is_wrong_and_what_mends_it() {
    let status = Arc::new(AtomicU16::new(200));
    let answers = Arc::clone(&status);
    let hook = Hook::start(move || Reply::Status(answers.load(Ordering::Relaxed)));
    let mut daemon = Daemon::run(&config(&hook.url()));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    soon("told", || (standing(&daemon, "delivered").len() == 1).then_some(()));
    let well = daemon.cli(&["doctor"]);
    assert_eq!(well.code, Some(0), "{}", String::from_utf8_lossy(&well.stdout));
    assert!(well.said().ends_with("nothing is wrong\n"), "{}", well.said());

    // A dead letter, a quarantined receipt, a paused sink, a stranger's table, a file that others can read.
    status.store(400, Ordering::Relaxed);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-2")).status, 200);
    soon("dead", || (standing(&daemon, "dead").len() == 1).then_some(()));
    assert_eq!(daemon.post(MEDIA, &[], "<Response>").json()["outcome"], "quarantined");
    assert_eq!(daemon.cli(&["sinks", "pause", "any", "--reason", "an upgrade"]).code, Some(0));
    let store = daemon.path("callbackd.db");
    let stranger = rusqlite::Connection::open(&store).expect("opens");
    stranger.execute_batch("CREATE TABLE notes (text)").expect("made");
    drop(stranger);
    fs::set_permissions(&store, fs::Permissions::from_mode(0o644)).expect("set");
    let ill = daemon.cli(&["doctor", "--json"]);
    assert_eq!(ill.code, Some(1));
    let found: Vec<Value> =
        String::from_utf8_lossy(&ill.stdout).lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    for (level, about, finding, remedy) in [
        ("ok", "config", "valid: sources 1, sinks 1, routes 1", ""),
        ("ok", "daemon", "and is ready", ""),
        ("wrong", "store", "others can read", "chmod 600"),
        ("note", "store", "table notes", "take it out"),
        ("ok", "store", "checked in", ""),
        (
            "wrong",
            "receipts",
            "1 callback was not understood",
            "callbackd receipts list --status quarantined --config ",
        ),
        (
            "wrong",
            "sinks.any",
            "1 dead letter for any. Reason: answered 400 Bad Request",
            "callbackd sinks test any --config ",
        ),
        (
            "wrong",
            "sinks.any",
            "1 dead letter for any.",
            "when that is delivered: callbackd deliveries retry --sink any --config ",
        ),
        (
            "wrong",
            "sinks.any",
            "The sink any is paused by an operator; 0 deliveries wait. Reason: an upgrade",
            "callbackd sinks resume any",
        ),
        ("ok", "disk", "are left on its disk", ""),
    ] {
        let says = |one: &Value, what: &str| one.as_str().is_some_and(|text| text.contains(what));
        let mends = |one: &Value| one.as_array().expect("a list").iter().any(|step| says(step, remedy));
        assert!(
            found.iter().any(|one| {
                (one["level"] == level && one["about"] == about)
                    && says(&one["finding"], finding)
                    && (remedy.is_empty() || mends(&one["do"]))
            }),
            "{level} {about} {finding} {remedy} is not in {found:#?}"
        );
    }
    let alone: Vec<&str> = ill.stderr.lines().collect();
    assert!(alone.is_empty(), "{alone:?}");

    // One whose configuration is wrong, and one whose daemon does not run.
    assert!(daemon.terminate().success());
    let down = daemon.cli(&["doctor"]);
    assert!(String::from_utf8_lossy(&down.stdout).contains("systemctl start callbackd"));
    daemon.configure(&config(&hook.url()).replace("path =", "pfad ="));
    let wrong = daemon.cli(&["doctor"]);
    assert_eq!(wrong.code, Some(1));
    assert!(
        String::from_utf8_lossy(&wrong.stdout).contains("1 dead letter for any"),
        "all the rest is told, too: {wrong:?}"
    );
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("sources.media.pfad: no such key"), "{wrong:?}");
    assert!(String::from_utf8_lossy(&wrong.stdout).contains("-> callbackd check --config "), "{wrong:?}");
}

#[test]
fn a_doctor_sees_a_sink_that_fails_before_anything_is_late() {
    let hook = Hook::start(|| Reply::Status(500));
    let daemon = Daemon::run(&config(&hook.url()).replace("breaker_failures = 100000", "breaker_failures = 1"));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    // The reason is there when the first try is recorded, an instant after it has failed.
    let fails = "WRONG  sinks.any  The sink any fails, and is only probed; 1 delivery waits. Reason: answered 500";
    let said = soon("a sink that fails", || {
        let done = daemon.cli(&["doctor"]);
        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        (done.code == Some(1) && said.contains(fails)).then_some(said)
    });
    assert!(said.contains("-> callbackd sinks test any --config ") && said.ends_with("1 thing is wrong\n"), "{said}");
}

/// At a terminal there are colours and progress beside it: nothing that the same command does not say elsewhere.
#[test]
fn a_terminal_is_told_what_a_pipe_is() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    soon("told", || (standing(&daemon, "delivered").len() == 1).then_some(()));
    for command in [&["executions", "list"][..], &["sinks", "list"], &["check"], &["sinks", "pause", "any"]] {
        let (piped, shown) = (daemon.cli(command), daemon.cli_at_a_terminal(command));
        let shown_text = String::from_utf8_lossy(&shown.stdout).replace("\r\n", "\n");
        assert_eq!(shown.code, piped.code, "{command:?}: {shown_text}");
        assert_eq!(shown_text, piped.stderr.clone() + &String::from_utf8_lossy(&piped.stdout), "{command:?}");
    }
}

#[test]
fn a_sink_is_tested_by_a_change_that_says_so() {
    let status = Arc::new(AtomicU16::new(200));
    let answers = Arc::clone(&status);
    let hook = Hook::start(move || Reply::Status(answers.load(Ordering::Relaxed)));
    let closed = Closed::reserve();
    let daemon = Daemon::prepare();
    let more = format!(
        "[sinks.out]\nkind = \"stdout\"\n\
         [sinks.port]\nkind = \"port_run\"\nurl = {:?}\nclient_id = \"hunter22id\"\nclient_secret = \"hunter22secret\"\n\
         [sinks.secretless]\nkind = \"webhook\"\nurl = \"http://127.0.0.1:9/\"\nsecret = {{ env = \"NONE\" }}\n",
        closed.url()
    );
    daemon.configure(&[&config(&hook.url()), &*more].concat());
    let test = |name: &str| daemon.cli(&["sinks", "test", name, "--json"]);

    // Another sink's secret that is missing does not matter; no daemon and no store either.
    let done = test("any");
    let report = &done.rows()[0];
    assert_eq!((&report["outcome"], &report["status"]), (&json!("delivered"), &json!(200)), "{report}");
    let seen = hook.seen();
    let change = seen[0].change();
    assert_eq!(
        (seen[0].id.as_str(), &change["type"]),
        (report["delivery"].as_str().expect("an id"), &json!("callbackd.test"))
    );
    assert_eq!(change["data"]["execution"]["name"], "callbackd.test");
    let sent: Value = serde_json::from_str(report["sent"][0]["body"].as_str().expect("a body")).expect("JSON");
    assert_eq!(sent, change, "what is shown is what was sent");

    status.store(422, Ordering::Relaxed);
    let refused = daemon.cli(&["sinks", "test", "any"]);
    let said = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert_eq!(refused.code, Some(1), "{said}");
    assert!(said.contains("outcome   reject") && said.contains("status    422"), "{said}");

    let printed = test("out");
    assert_eq!(printed.code, Some(0));
    assert!(String::from_utf8_lossy(&printed.stdout).contains("\"type\":\"callbackd.test\""));

    // To Port every change is real.
    let port = daemon.cli(&["sinks", "test", "port"]);
    let said = String::from_utf8_lossy(&port.stdout).into_owned();
    assert_eq!(port.code, Some(1), "{said}");
    assert!(said.contains("only its credentials are tried") && said.contains("outcome  failed"), "{said}");
    assert!(!said.contains("hunter22"), "{said}");
    let unknown = test("prot");
    assert!(unknown.stderr.contains("did you mean \"port\"?"), "{unknown:?}");
    let secretless = test("secretless");
    assert_eq!(secretless.code, Some(78), "{secretless:?}");
    assert!(!daemon.path("callbackd.db").exists(), "nothing is stored");
}

#[test]
fn many_dead_letters_are_retried_at_a_rate_and_none_twice() {
    let hook = Hook::start(|| Reply::Status(400));
    let mut daemon = Daemon::run(&config(&hook.url()));
    const DEAD: usize = 60;
    for run in 0..DEAD {
        assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, run)).status, 200);
    }
    soon("dead", || (standing(&daemon, "dead").len() == DEAD).then_some(()));
    let count = |daemon: &Daemon, args: &[&str]| daemon.list(&[&["deliveries"], args].concat())[0]["count"].clone();
    assert_eq!(count(&daemon, &["retry", "--all", "--dry-run"]), DEAD);
    assert_eq!(count(&daemon, &["discard", "--sink", "any", "--dry-run"]), DEAD);
    assert_eq!(standing(&daemon, "dead").len(), DEAD, "only counted");
    assert_eq!(hook.seen().len(), DEAD);

    // They die again while others are still to be retried, and are not taken for new ones.
    let begun = Instant::now();
    assert_eq!(count(&daemon, &["retry", "--all", "--rate", "40/s"]), DEAD);
    assert!(begun.elapsed() >= Duration::from_secs(1), "sixty at forty a second");
    soon("dead again", || (standing(&daemon, "dead").len() == DEAD).then_some(()));
    assert_eq!(hook.seen().len(), 2 * DEAD);

    // The same without a daemon.
    assert!(daemon.terminate().success());
    assert_eq!(count(&daemon, &["discard", "--sink", "any", "--since", "1h", "--rate", "100/s"]), DEAD);
    assert_eq!(standing(&daemon, "discarded").len(), DEAD);
    let odd = daemon.cli(&["deliveries", "discard", "--status", "discarded"]);
    assert_eq!(odd.code, Some(2), "{odd:?}");
}

#[test]
fn an_execution_is_shown_with_its_timeline() {
    let closed = Closed::reserve();
    let daemon = Daemon::run(&config(&closed.url()));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    let done = daemon.cli(&["executions", "show", "run-1"]);
    let line = |what: &str| done.said().lines().find(|line| line.trim_start().starts_with(what)).expect(what);
    assert!(line("Timeline").contains("2020-12-01 03:00:41 to 2020-12-01 03:00:45, 4 s"), "{}", done.said());
    assert!(line("Transcode_1").contains('#') && line("Transcode_1").contains("succeeded"), "{}", done.said());
    assert!(!done.said().contains('\u{1b}'), "no colours where nobody sees them");
}
