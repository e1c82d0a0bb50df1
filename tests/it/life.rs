//! The daemon's life as operators see it: starts, stops, kills, new configurations, and the commands beside it.

use std::fs;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use serde_json::{Value, json};

use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, PATIENCE, request, soon};
use crate::peers::hook::{Closed, Hook, Reply};
use crate::wire::Answer;

const MEDIA: &str = "/callbacks/media/t0ken";

/// A source and a webhook that is told all of it; quick to try again.
fn config(url: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = {url:?}\nretry_first = \"20ms\"\nretry_longest = \"100ms\"\n\
         breaker_probe = \"50ms\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

#[track_caller]
fn accepted(answer: &Answer) -> Value {
    assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("accepted")), "{answer:?}");
    answer.json()
}

/// Keys and statuses, as [`Hook::taken`] tells them.
fn told<const N: usize>(pairs: [(&str, &str); N]) -> Vec<(String, String)> {
    pairs.map(|(key, status)| (key.to_owned(), status.to_owned())).into()
}

/// The ids of the deliveries in this status, oldest first.
fn deliveries(daemon: &Daemon, status: &str) -> Vec<String> {
    let rows = daemon.list(&["deliveries", "list", "--status", status]);
    rows.iter().rev().map(|row| row["id"].as_str().expect("an id").to_owned()).collect()
}

/// Waits until so many deliveries are in this status, and returns them.
fn settled(daemon: &Daemon, status: &str, count: usize) -> Vec<String> {
    soon(status, || Some(deliveries(daemon, status)).filter(|ids| ids.len() == count))
}

#[test]
fn what_was_not_delivered_goes_on_after_a_kill() {
    let closed = Closed::reserve();
    let mut daemon = Daemon::run(&config(&closed.url()));
    for step in [Step::Start, Step::TaskFinish, Step::Success] {
        accepted(&daemon.post(MEDIA, &[], cos(step, "run-1")));
    }
    accepted(&daemon.post(MEDIA, &[], cos(Step::Failed, "run-2")));
    soon("a try", || daemon.list(&["deliveries", "list"]).iter().any(|d| d["attempts"] != 0).then_some(()));
    daemon.restart();
    assert_eq!(daemon.list(&["executions", "list"]).len(), 2);
    let hook = closed.open(|| Reply::Status(200));
    soon("all told", || (hook.taken().len() >= 4).then_some(()));
    settled(&daemon, "delivered", 4);
    let of = |key: &str| hook.taken().into_iter().filter(|(k, _)| k == key).map(|(_, s)| s).collect::<Vec<_>>();
    assert_eq!(of("run-1"), ["running", "running", "succeeded"], "in order");
    assert_eq!(of("run-2"), ["failed"]);
}

#[test]
fn a_leased_delivery_is_taken_over_after_a_kill() {
    let (sender, came) = mpsc::channel();
    let first = AtomicU16::new(1);
    let hook = Hook::start(move || {
        sender.send(()).expect("the test waits");
        // The first try is never answered while its daemon lives.
        if first.swap(0, Ordering::Relaxed) == 1 { Reply::Slow(PATIENCE) } else { Reply::Status(200) }
    });
    let mut daemon = Daemon::run(&config(&hook.url()));
    accepted(&daemon.post(MEDIA, &[], cos(Step::Success, "run-1")));
    came.recv_timeout(PATIENCE).expect("a first try");
    soon("its lease", || (deliveries(&daemon, "leased").len() == 1).then_some(()));
    daemon.restart();
    let delivered = settled(&daemon, "delivered", 1);
    let ids: Vec<String> = hook.seen().into_iter().map(|s| s.id).collect();
    assert!(ids.len() >= 2 && ids.iter().all(|id| *id == delivered[0]), "the same id at every try: {ids:?}");
}

#[test]
fn who_hangs_up_after_the_last_byte_is_heard() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()));
    for run in 0..20 {
        let mut leaves = daemon.connect();
        leaves.send(request("POST", MEDIA, &[], cos(Step::Success, run).as_bytes())).expect("sent");
    }
    soon("all kept", || (daemon.list(&["executions", "list", "--status", "succeeded"]).len() == 20).then_some(()));
    settled(&daemon, "delivered", 20);
    assert_eq!(hook.taken().len(), 20);
}

#[test]
fn a_stop_finishes_what_was_begun() {
    let (release, released) = mpsc::channel::<()>();
    let (sender, came) = mpsc::channel();
    let released = Mutex::new(released);
    let hook = Hook::start(move || {
        sender.send(()).expect("the test waits");
        released.lock().expect("sound").recv_timeout(PATIENCE).expect("released");
        Reply::Status(200)
    });
    let mut daemon = Daemon::run(&config(&hook.url()));
    accepted(&daemon.post(MEDIA, &[], cos(Step::Success, "delivered")));
    came.recv_timeout(PATIENCE).expect("a try under way");
    let bytes = request("POST", MEDIA, &[], cos(Step::Success, "half said").as_bytes());
    let (said, to_say) = bytes.split_at(bytes.len() - 10);
    let (mut half, mut idle) = (daemon.connect(), daemon.connect());
    half.send(said).expect("sent");
    accepted(&idle.ask(&request("POST", MEDIA, &[], cos(Step::Start, "whole").as_bytes())).expect("an answer"));

    daemon.signal("TERM");
    daemon.logged(|line| line["message"].as_str().is_some_and(|m| m.starts_with("stopping")));
    idle.closes();
    soon("nobody is let in", || Connection::try_to(&daemon.listen).err());
    half.send(to_say).expect("sent");
    let answer = half.answer().expect("an answer");
    accepted(&answer);
    assert_eq!(answer.header("connection"), Some("close"));
    // For this try, and for those that what was just kept may still begin.
    (0..3).for_each(|_| release.send(()).expect("the peer waits"));
    assert_eq!(daemon.ended().code(), Some(0));
    assert!(!daemon.log().contains("cut off"), "nothing was");
    let keys: Vec<_> = daemon.list(&["executions", "list"]).iter().map(|e| e["key"].clone()).collect();
    assert_eq!(keys, ["half said", "whole", "delivered"], "newest first");
    assert_eq!(daemon.execution("delivered")["deliveries"][0]["status"], "delivered");
    assert!(deliveries(&daemon, "leased").is_empty());

    daemon.start();
    settled(&daemon, "delivered", 3);
}

#[test]
fn a_paused_sink_is_told_no_more_than_what_is_under_way() {
    let (release, released) = mpsc::channel::<()>();
    let released = Mutex::new(released);
    let hook = Hook::start(move || {
        released.lock().expect("sound").recv_timeout(PATIENCE).expect("released");
        Reply::Status(200)
    });
    let daemon = Daemon::run(&config(&hook.url()).replace("retry_first", "concurrency = 2\nretry_first"));
    for run in 0..300 {
        accepted(&daemon.post(MEDIA, &[], cos(Step::Success, run)));
    }
    // Quick for a while, so that some is claimed ahead.
    let mut told = 0;
    soon("something claimed ahead", || {
        told += 15;
        (0..15).for_each(|_| release.send(()).expect("the peer waits"));
        settled(&daemon, "delivered", told);
        (deliveries(&daemon, "leased").len() > 2).then_some(())
    });
    assert_eq!(daemon.cli(&["sinks", "pause", "any"]).code, Some(0));
    settled(&daemon, "leased", 2);
    (told..300).for_each(|_| release.send(()).expect("the peer waits"));
    settled(&daemon, "leased", 0);
    assert_eq!((settled(&daemon, "delivered", told + 2).len(), hook.taken().len()), (told + 2, told + 2));
    assert_eq!(daemon.cli(&["sinks", "resume", "any"]).code, Some(0));
    settled(&daemon, "delivered", 300);
}

#[test]
fn a_signal_is_heard_from_the_first_moment() {
    let mut daemon = Daemon::run(&config("http://127.0.0.1:9/"));
    for _ in 0..3 {
        daemon.hup();
        assert_eq!(daemon.terminate().code(), Some(0));
        daemon.start();
        assert_eq!(daemon.terminate().code(), Some(0));
        daemon.start();
    }
    daemon.signal("INT");
    assert_eq!(daemon.ended().code(), Some(0));
}

#[test]
fn a_new_configuration_holds_whole_or_not_at_all() {
    let (old, new) = (Hook::start(|| Reply::Status(200)), Hook::start(|| Reply::Status(200)));
    let daemon = Daemon::run(&config(&old.url()));
    let mut stays = daemon.connect();
    let mut ask = |path: &str, run: &str| {
        stays.ask(&request("POST", path, &[], cos(Step::Success, run).as_bytes())).expect("an answer").status
    };
    assert_eq!(ask(MEDIA, "one"), 200);
    soon("one is told", || (old.taken() == told([("one", "succeeded")])).then_some(()));

    // Right in all but one place: nothing of it holds, and the log says where.
    let good = config(&new.url()).replace("t0ken", "n3w");
    for (bad, key) in [
        (good.replace("path =", "pfad ="), "sources.media.pfad"),
        (good.replace("\"any\"]", "\"nobody\"]"), "routes[0].to[0]"),
        (good.replace("token = \"n3w\"", "token = { file = \"not-there\" }"), "sources.media.token"),
        (good.replace("[[routes]]", "[[routes]"), "not TOML"),
    ] {
        daemon.configure(&bad);
        let said = daemon.hup();
        assert_eq!(said["level"], "ERROR", "{said}");
        assert!(said["error"].as_str().is_some_and(|e| e.contains(key)), "{key} in {said}");
        assert!(!said["error"].as_str().expect("a text").contains("n3w"), "{said}");
        assert_eq!((ask(MEDIA, "two"), ask("/callbacks/media/n3w", "two")), (200, 401), "{key}");
    }
    soon("told to the old one", || (old.taken() == told([("one", "succeeded"), ("two", "succeeded")])).then_some(()));

    daemon.configure(&good);
    let said = daemon.hup();
    assert_eq!(said["level"], "INFO", "{said}");
    assert_eq!((ask(MEDIA, "three"), ask("/callbacks/media/n3w", "three")), (401, 200));
    soon("told to the new one", || (new.taken() == told([("three", "succeeded")])).then_some(()));
    assert_eq!(old.taken().len(), 2);
}

#[test]
fn dead_letters_get_another_chance_with_a_daemon_and_without() {
    let status = Arc::new(AtomicU16::new(400));
    let answers = Arc::clone(&status);
    let hook = Hook::start(move || Reply::Status(answers.load(Ordering::Relaxed)));
    let mut daemon = Daemon::run(&config(&hook.url()));
    for run in 0..6 {
        accepted(&daemon.post(MEDIA, &[], cos(Step::Success, format_args!("run-{run}"))));
    }
    let dead = settled(&daemon, "dead", 6);
    let shown = &daemon.list(&["deliveries", "show", &dead[0]])[0];
    assert_eq!((&shown["delivery"]["status"], &shown["attempts"][0]["status"]), (&json!("dead"), &json!(400)));
    let count = |daemon: &Daemon, args: &[&str]| daemon.list(args)[0]["count"].clone();

    // The daemon does it at once.
    status.store(200, Ordering::Relaxed);
    assert_eq!(count(&daemon, &["deliveries", "retry", &dead[0]]), 1);
    assert_eq!(settled(&daemon, "delivered", 1), dead[..1]);
    assert_eq!(count(&daemon, &["deliveries", "discard", &dead[1]]), 1);
    assert_eq!(deliveries(&daemon, "discarded"), dead[1..2]);
    let refused = daemon.cli(&["deliveries", "retry", "17", &dead[2]]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("delivery 17"), "{refused:?}");
    settled(&daemon, "delivered", 2);

    // Without one, it is done in the store, and the next daemon goes on.
    assert!(daemon.terminate().success());
    assert_eq!(count(&daemon, &["deliveries", "retry", &dead[3]]), 1);
    assert_eq!(deliveries(&daemon, "waiting"), dead[3..4]);
    assert_eq!(count(&daemon, &["deliveries", "discard", &dead[4]]), 1);
    assert_eq!(
        count(&daemon, &["deliveries", "retry", "--sink", "any", "--since", "1h"]),
        1,
        "of the dead, one is left"
    );
    daemon.start();
    assert_eq!(settled(&daemon, "delivered", 4), [&dead[0], &dead[2], &dead[3], &dead[5]].map(String::clone));
    assert_eq!(deliveries(&daemon, "discarded"), [&dead[1], &dead[4]].map(String::clone));
}

#[test]
fn a_repeat_changes_nothing_across_restarts() {
    let hook = Hook::start(|| Reply::Status(200));
    let mut daemon = Daemon::run(&config(&hook.url()));
    let first = accepted(&daemon.post(MEDIA, &[], cos(Step::Success, "run-1")));
    settled(&daemon, "delivered", 1);
    for stop in [Daemon::kill9, |daemon: &mut Daemon| assert!(daemon.terminate().success())] {
        stop(&mut daemon);
        daemon.start();
        let repeat = daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).json();
        assert_eq!((&repeat["outcome"], &repeat["execution"]), (&json!("duplicate"), &first["execution"]));
        let contradiction = daemon.post(MEDIA, &[], cos(Step::Failed, "run-1")).json();
        assert_eq!((&contradiction["outcome"], &contradiction["execution"]), (&json!("conflict"), &first["execution"]));
    }
    let shown = daemon.execution("run-1");
    let statuses: Vec<_> =
        shown["receipts"].as_array().expect("receipts").iter().map(|r| r["status"].clone()).collect();
    assert_eq!(statuses, ["accepted", "duplicate", "conflict", "duplicate", "conflict"]);
    assert_eq!(shown["changes"].as_array().map(Vec::len), Some(1));
    assert_eq!(hook.taken(), told([("run-1", "succeeded")]));
}

#[test]
fn an_execution_is_shown_with_all_that_belongs_to_it() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()));
    accepted(&daemon.post(MEDIA, &[], cos(Step::Start, "run-1")));
    let finish = accepted(&daemon.post(MEDIA, &[], cos(Step::Success, "run-1")));
    settled(&daemon, "delivered", 2);
    let shown = daemon.execution("run-1");
    assert_eq!(daemon.execution(finish["execution"].as_str().expect("an id")), shown, "by id and by key alike");
    let keys = |of: &Value| of.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&shown), ["changes", "deliveries", "execution", "receipts", "tasks"]);
    let execution = &shown["execution"];
    for (key, expected) in [
        ("id", finish["execution"].clone()),
        ("source", json!("media")),
        ("key", json!("run-1")),
        ("name", json!("test")),
        ("workflow", json!("w1")),
        ("subject", json!("media-1250000000/in/run-1.mp4")),
        ("status", json!("succeeded")),
        ("vendor_status", json!("Success")),
        ("created_at", json!("2020-12-01T03:00:41Z")),
        ("started_at", Value::Null),
        ("finished_at", json!("2020-12-01T03:00:45Z")),
        ("inputs", Value::Null),
        ("links", json!([])),
    ] {
        assert_eq!(execution[key], expected, "{key} of {execution}");
        assert!(execution.get(key).is_some(), "{key} of {execution}");
    }
    assert_eq!(execution["attributes"]["bucket"], "media-1250000000");
    let task = &shown["tasks"][0];
    assert_eq!(
        (&task["key"], &task["type"], &task["status"]),
        (&json!("j-run-1"), &json!("Transcode"), &json!("succeeded"))
    );
    for list in ["receipts", "changes", "deliveries"] {
        assert_eq!(shown[list].as_array().map(Vec::len), Some(2), "{list}");
    }
    assert_eq!(
        (&shown["receipts"][1]["id"], &shown["receipts"][1]["status"]),
        (&finish["receipt"], &json!("accepted"))
    );
    assert_eq!(
        (&shown["deliveries"][0]["sink"], &shown["deliveries"][0]["status"]),
        (&json!("any"), &json!("delivered"))
    );
    // A change is what the sinks were told.
    let changes = shown["changes"].as_array().expect("changes").iter();
    for (change, seen) in changes.zip(hook.seen().iter().filter(|s| s.taken)) {
        let told = seen.change();
        assert_eq!((&change["id"], &change["data"]), (&told["id"], &told["data"]));
    }
    let listed = daemon.list(&["executions", "list"]);
    assert_eq!(listed, std::slice::from_ref(execution), "flat, one a line");
    let nobody = daemon.cli(&["executions", "show", "run-2"]);
    assert!(nobody.code == Some(1) && nobody.stderr.contains("run-2") && nobody.stdout.is_empty(), "{nobody:?}");
}

#[test]
fn a_store_is_used_by_one_daemon_that_knows_it() {
    let mut daemon = Daemon::run(&config("http://127.0.0.1:9/"));
    accepted(&daemon.post(MEDIA, &[], cos(Step::Success, "run-1")));
    let second = daemon.cli(&["serve"]);
    assert_eq!(second.code, Some(1), "{second:?}");
    assert!(second.stderr.contains("in use by another callbackd"), "{}", second.stderr);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-2")).status, 200, "the first goes on");

    assert!(daemon.terminate().success());
    let conn = rusqlite::Connection::open(daemon.path("callbackd.db")).expect("opens");
    conn.execute_batch("PRAGMA user_version = 99").expect("set");
    drop(conn);
    for args in [&["serve"][..], &["executions", "list"], &["deliveries", "retry", "--all"]] {
        let newer = daemon.cli(args);
        assert_eq!(newer.code, Some(1), "{newer:?}");
        assert!(newer.stderr.contains("newer than this callbackd") && newer.stderr.contains("install"), "{newer:?}");
    }
}

#[test]
fn exit_codes_and_faults_are_for_scripts() {
    let daemon = Daemon::prepare();
    let bad = "[server]\nlisten = \"nowhere\"\n\n[sources.media]\nkind = \"cos_workflow\"\npfad = \"/callbacks/media\"\n\
               token = { file = \"not-there\" }\n\n[[routes]]\nfrom = [\"media\"]\nto = [\"nobody\"]\n";
    daemon.write("callbackd.toml", bad);
    daemon.write("empty.toml", "");
    for command in [&["check"][..], &["serve"], &["check", "--probe"]] {
        let done = daemon.cli(command);
        assert_eq!(done.code, Some(78), "{done:?}");
        assert!(done.stdout.is_empty(), "{done:?}");
        for (line, key) in [
            (2, "server.listen"),
            (4, "sources.media.path"),
            (6, "sources.media.pfad"),
            (7, "sources.media.token"),
            (11, "routes[0].to[0]"),
        ] {
            let place = format!("callbackd.toml:{line}: {key}: ");
            assert!(done.stderr.lines().any(|l| l.starts_with(&place)), "{place} in {}", done.stderr);
        }
    }
    let cases: [(&[&str], i32); 9] = [
        (&["check", "--config", "empty.toml"], 0),
        (&["--config", "empty.toml", "check"], 0),
        (&["check", "--config", "nowhere.toml"], 78),
        (&["executions", "list", "--config", "empty.toml"], 1),
        (&["deliveries", "retry", "--config", "empty.toml"], 2),
        (&["receipts", "list", "--status", "lost"], 2),
        (&["serve", "--fast"], 2),
        (&[], 2),
        (&["--version"], 0),
    ];
    for (args, code) in cases {
        let done = daemon.cli_alone(args);
        assert_eq!(done.code, Some(code), "{args:?}: {done:?}");
        assert!(code == 0 || !done.stderr.is_empty(), "{args:?}: {done:?}");
    }
    assert!(!daemon.path("callbackd.db").exists(), "reading makes no store");
}

#[test]
fn a_name_that_nothing_bears_is_said() {
    let mut daemon = Daemon::run(&config("http://127.0.0.1:9/"));
    accepted(&daemon.post(MEDIA, &[], cos(Step::Success, "run-1")));
    let sources = "error: no source is called \"medai\"; did you mean \"media\"? There are: media\n";
    let sinks = "error: no sink is called \"other\"; there are: any\n";
    for list in ["executions", "receipts", "deliveries", "sinks"] {
        for (args, said) in [(["--source", "medai"], sources), (["--sink", "other"], sinks)] {
            let done = daemon.cli(&[&[list, "list"], &args[..]].concat());
            assert_eq!((done.code, &*done.stdout, &*done.stderr), (Some(1), &b""[..], said), "{list} {args:?}");
        }
    }
    for act in ["retry", "discard"] {
        let done = daemon.cli(&["deliveries", act, "--sink", "other"]);
        assert_eq!((done.code, &*done.stderr), (Some(1), sinks), "{act}");
    }
    // A name that is right may have nothing; and one that is only kept is a name all the same.
    let nothing = |daemon: &Daemon| daemon.list(&["deliveries", "list", "--sink", "any", "--status", "delivered"]);
    assert_eq!(nothing(&daemon), [] as [Value; 0]);
    assert!(daemon.terminate().success());
    daemon.configure(&config("http://127.0.0.1:9/").replace("any", "new").replace("media", "film"));
    assert_eq!(nothing(&daemon), [] as [Value; 0]);
    assert_eq!(daemon.list(&["executions", "list", "--source", "media", "--sink", "any"]).len(), 1);
    assert_eq!(daemon.list(&["receipts", "list", "--source", "film"]), [] as [Value; 0]);
}

#[test]
fn nothing_that_came_steers_a_terminal() {
    let daemon = Daemon::run(&config("http://127.0.0.1:9/"));
    let name = "gpj.\u{202e}\u{2067}\u{200f}\u{9b}31mexe";
    let body = cos(Step::Success, "run-1").replace("<WorkflowName>test", &format!("<WorkflowName>{name}"));
    accepted(&daemon.post(MEDIA, &[], body));
    assert_eq!(daemon.execution("run-1")["execution"]["name"], name, "a program reads what came");
    for args in [&["executions", "list"][..], &["executions", "list", "--json"], &["executions", "show", "run-1"]] {
        let done = daemon.cli(args);
        assert!(done.said().contains("gpj.\\u"), "{args:?}: {}", done.said());
        assert!(done.said().replace('\n', "").chars().all(|c| (' '..='~').contains(&c)), "{args:?}: {}", done.said());
    }
}

#[test]
fn config_stands_before_and_after_the_command() {
    let daemon = Daemon::run(&config("http://127.0.0.1:9/"));
    accepted(&daemon.post(MEDIA, &[], cos(Step::Success, "run-1")));
    let lines: [&[&str]; 3] = [
        &["--config", "callbackd.toml", "executions", "list", "--json"],
        &["executions", "--config", "callbackd.toml", "list", "--json"],
        &["executions", "list", "--json", "--config=callbackd.toml"],
    ];
    for line in lines {
        let rows = daemon.cli_alone(line).rows();
        assert_eq!((rows.len(), &rows[0]["key"]), (1, &json!("run-1")), "{line:?}");
    }
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    let daemon = Daemon::run(&config("http://127.0.0.1:9/"));
    for run in 0..100 {
        accepted(&daemon.post(MEDIA, &[], cos(Step::Success, run)));
    }
    for args in [&["executions", "list"][..], &["executions", "list", "--json"], &["deliveries", "list"], &["check"]] {
        let done = daemon.cli_unread(args);
        assert_eq!((done.code, &*done.stderr), (Some(0), ""), "{args:?}");
    }
}

#[test]
fn unix_sockets_are_doors_too() {
    let hook = Hook::start(|| Reply::Status(400));
    let mut daemon = Daemon::prepare();
    let (http, admin) = (daemon.path("http.sock"), daemon.path("admin.sock"));
    daemon.write(
        "callbackd.toml",
        &format!(
            "server.listen = \"unix:{}\"\nadmin.listen = \"unix:{}\"\nlog.format = \"json\"\n{}",
            http.display(),
            admin.display(),
            config(&hook.url())
        ),
    );
    daemon.start();
    accepted(&daemon.post(MEDIA, &[], cos(Step::Success, "run-1")));
    assert_eq!(daemon.look("/readyz").body, "ready");
    assert_eq!(daemon.list(&["receipts", "list"])[0]["peer"], "127.0.0.1");
    let dead = settled(&daemon, "dead", 1);
    assert_eq!(daemon.cli(&["deliveries", "discard", &dead[0]]).said(), "1 discarded\n");
    // What a killed one left behind is in nobody's way.
    daemon.kill9();
    assert!(http.exists());
    daemon.start();
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-2")).status, 200);
    assert_eq!(daemon.terminate().code(), Some(0));
    assert!(!http.exists() && !admin.exists());
    assert!(fs::read_dir(daemon.path("")).expect("a folder").count() > 0);
}
