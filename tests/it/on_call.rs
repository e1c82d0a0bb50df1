//! What the person on call meets: a configuration that somebody broke, a reload that was refused, a sink that is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use serde_json::Value;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Hook, Reply};

const MEDIA: &str = "/callbacks/media";

fn config(url: &str) -> String {
    format!(
        "store.url = \"sqlite:callbackd.db\"\n\
         [sources.media]\nkind = \"cos_workflow\"\npath = \"{MEDIA}\"\nallow_unauthenticated = true\n\
         [sinks.any]\nkind = \"webhook\"\nurl = \"{url}\"\nbreaker_failures = 1\nbreaker_probe = \"50ms\"\n\
         retry_first = \"10ms\"\nretry_longest = \"10ms\"\n\
         [[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

/// A daemon with a sink that answers with a status that can be changed.
fn daemon(status: u16) -> (Daemon, Hook, Arc<AtomicU16>) {
    let status = Arc::new(AtomicU16::new(status));
    let answers = Arc::clone(&status);
    let hook = Hook::start(move || Reply::Status(answers.load(Ordering::Relaxed)));
    (Daemon::run(&config(&hook.url())), hook, status)
}

#[test]
fn a_broken_configuration_stops_no_command_that_only_needs_the_daemon() {
    let (daemon, hook, status) = daemon(400);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    soon("dead", || (daemon.list(&["deliveries", "list", "--status", "dead"]).len() == 1).then_some(()));
    status.store(200, Ordering::Relaxed);
    let sound = config(&hook.url());
    for broken in [
        sound.replace("kind = \"webhook\"", "kind = \"webhok\""),
        sound.replace("kind = \"webhook\"", "kind = \"webhook"),
        sound.replace("[[routes]]", "[[routes"),
    ] {
        daemon.configure(&broken);
        assert_eq!(daemon.cli(&["check"]).code, Some(78));
        for args in [
            &["sinks", "list"][..],
            &["executions", "list"],
            &["executions", "show", "run-1"],
            &["receipts", "list", "--source", "media"],
            &["deliveries", "list", "--sink", "any"],
            &["deliveries", "retry", "--sink", "any", "--dry-run"],
            &["sinks", "pause", "any"],
            &["sinks", "resume", "any"],
            &["backup", "/dev/null/none"],
        ] {
            let done = daemon.cli(args);
            let expected = if args[0] == "backup" { Some(1) } else { Some(0) };
            assert_eq!(done.code, expected, "{args:?}: {done:?}");
            assert!(done.stderr.contains("the configuration is broken, and this goes on"), "{args:?}: {}", done.stderr);
        }
        let doctor = daemon.cli(&["doctor"]);
        let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
        assert_eq!(doctor.code, Some(1));
        for part in ["WRONG  config", "and is ready", "checked in", "dead letter"] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
        assert!(!said.contains("not configured"), "{said}");
    }
    // What tells others takes all of it, and where daemon and store are is not guessed.
    assert_eq!(daemon.cli(&["sinks", "test", "any"]).code, Some(78));
    daemon.configure(&sound.replace("store.url = \"", "store.url = "));
    assert_eq!(daemon.cli(&["sinks", "list"]).code, Some(78));
    let doctor = daemon.cli(&["doctor"]);
    assert!(String::from_utf8_lossy(&doctor.stdout).contains("nothing was looked at there"), "{doctor:?}");
    daemon.configure(&sound);
    assert_eq!(daemon.cli(&["deliveries", "retry", "--sink", "any"]).code, Some(0));
    soon("told", || (daemon.list(&["deliveries", "list", "--status", "delivered"]).len() == 1).then_some(()));
}

#[test]
fn a_refused_reload_is_told_wherever_one_looks() {
    let (daemon, hook, _) = daemon(200);
    let status = |daemon: &Daemon| daemon.look("/api/v1/status").json()["configuration"].clone();
    let taken = status(&daemon);
    assert!(taken["file"].as_str().is_some_and(|file| file.starts_with('/') && file.ends_with("callbackd.toml")));
    assert!(taken["refused_at"].is_null() && taken["reason"].is_null(), "{taken}");
    let figure = |daemon: &Daemon, name: &str| -> f64 {
        let body = daemon.look("/metrics").body;
        let line = body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
        line.unwrap_or_else(|| panic!("{name} is not in\n{body}")).parse().expect("a figure")
    };
    let (is_taken, taken_at) =
        ("callbackd_config_last_reload_successful", "callbackd_config_last_reload_success_timestamp_seconds");
    let first = figure(&daemon, taken_at);
    assert!(figure(&daemon, is_taken) == 1.0 && first > 1e9);
    assert!(daemon.cli(&["doctor"]).said().contains("goes by the configuration that it read"));

    daemon.configure(&[&config(&hook.url()), "# changed\n"].concat());
    let changed = daemon.cli(&["doctor"]);
    assert!(
        changed.said().contains("note   config") && changed.said().contains("the file was changed "),
        "{changed:?}"
    );
    assert!(changed.said().contains("-> systemctl reload callbackd"), "{changed:?}");
    daemon.hup();
    assert!(daemon.cli(&["doctor"]).said().contains("goes by the configuration that it read"));
    let (taken, first) = (status(&daemon), figure(&daemon, taken_at));

    daemon.configure(&config(&hook.url()).replace("kind = \"webhook\"", "kind = \"webhok\""));
    daemon.hup();
    assert_eq!(daemon.list(&["sinks", "list"])[0]["name"], "any", "the daemon knows it");
    let refused = status(&daemon);
    assert_eq!(refused["read_at"], taken["read_at"]);
    assert!(refused["reason"].as_str().is_some_and(|why| why.contains("sinks.any.kind: no such kind")), "{refused}");
    assert_eq!((figure(&daemon, is_taken), figure(&daemon, taken_at)), (0.0, first));
    let page = daemon.look("/").body;
    for part in ["1 thing is wrong", "The configuration was read again", "no such kind", "callbackd check --config /"] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    let doctor = daemon.cli(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("WRONG  config") && said.contains("still holds, and a restart would fail"), "{said}");
    assert_eq!(said.matches("no such kind").count(), 1, "once is enough: {said}");

    // Mended, and all is well.
    daemon.configure(&config(&hook.url()));
    daemon.hup();
    assert!(status(&daemon)["refused_at"].is_null());
    assert!(figure(&daemon, is_taken) == 1.0 && figure(&daemon, taken_at) > first);
    assert!(daemon.look("/").body.contains("All is well"));
}

/// The breaker of the only sink, as the daemon tells it.
fn breaker(daemon: &Daemon) -> Value {
    daemon.look("/api/v1/sinks").json()["items"][0]["breaker"].clone()
}

#[test]
fn a_breaker_is_shown_and_a_reload_keeps_it_while_its_sink_stays_as_it_is() {
    let hook = Hook::start(|| Reply::Status(500));
    let sink = config(&hook.url()).replace("breaker_failures = 1", "breaker_failures = 4").replace("50ms", "1h");
    let daemon = Daemon::run(&sink);
    assert!(daemon.list(&["sinks", "list"])[0]["breaker"].is_null());
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    let open = soon("an open breaker", || Some(breaker(&daemon)).filter(|open| !open.is_null()));
    assert!(open["open_since"].is_string() && open["probe_at"].is_string(), "{open}");
    let tries = hook.seen().len();
    assert_eq!(tries, 4);
    let listed = &daemon.list(&["sinks", "list", "--status", "failing"])[0];
    assert_eq!((&listed["breaker"], &listed["status"]), (&open, &"failing".into()));
    daemon.configure(&["admin.token = { credential = \"systemds\" }\n", &sink].concat());
    assert!(daemon.list(&["sinks", "list"])[0]["breaker"].is_null(), "its token cannot be read from here");
    daemon.configure(&sink);
    let table = daemon.cli(&["sinks", "list"]);
    assert!(table.said().contains("BREAKER") && table.said().contains(", probe in "), "{}", table.said());

    // Something else is configured: the peer that is down is not tried anew.
    daemon.configure(&sink.replace("to = [\"any\"]", "to = [\"any\"]\nwhen = \".execution.status != null\""));
    daemon.hup();
    assert_eq!(breaker(&daemon), open);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-2")).status, 200);
    // The sink itself is: as if it had never failed.
    daemon.configure(&sink.replace("breaker_failures = 4", "breaker_failures = 3"));
    daemon.hup();
    soon("tries", || (hook.seen().len() >= tries + 3).then_some(()));
    let again = soon("an open breaker", || Some(breaker(&daemon)).filter(|open| !open.is_null()));
    assert!(again["open_since"].as_str() > open["open_since"].as_str(), "{again} {open}");
    // Between the two, nothing went out.
    assert!(hook.seen().len() <= tries + 4, "{}", hook.seen().len());
}

#[test]
fn a_breaker_with_nothing_to_probe_with_is_no_fault() {
    let (daemon, _hook, _) = daemon(500);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    soon("a sink that fails", || daemon.look("/").body.contains("The sink any fails").then_some(()));
    let open = || daemon.look("/metrics").body.contains("callbackd_breaker_open{sink=\"any\"} 1\n");
    soon("the figure", || open().then_some(()));
    assert_eq!(daemon.cli(&["doctor"]).code, Some(1));
    // Nothing is left to tell it, so that nobody asks it any more.
    assert_eq!(daemon.cli(&["deliveries", "discard", "--status", "waiting", "--sink", "any"]).code, Some(0));
    soon("nothing waits", || {
        let discarded = daemon.cli(&["deliveries", "discard", "--status", "waiting", "--sink", "any"]);
        (discarded.code == Some(0) && daemon.list(&["sinks", "list"])[0]["backlog"] == 0).then_some(())
    });
    soon("the figure", || (!open()).then_some(()));
    let left = breaker(&daemon);
    assert!(left["open_since"].is_string() && left["probe_at"].is_null(), "{left}");
    assert!(daemon.look("/").body.contains("All is well"));
    assert!(daemon.look("/sinks").body.contains("nothing waits, so the next delivery tells"));
    assert_eq!(daemon.list(&["sinks", "list"])[0]["status"], "active");
    assert!(daemon.cli(&["sinks", "list"]).said().contains("nothing waits"));
    assert_eq!(daemon.cli(&["doctor"]).code, Some(0), "doctor and page judge alike");
}

#[test]
fn a_peer_that_refuses_us_is_a_fault_on_the_page_and_for_the_doctor() {
    let (daemon, _hook, _) = daemon(410);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    let what = "The sink any is paused, because its peer refuses us; 1 delivery waits.";
    soon("the page", || daemon.look("/").body.contains(what).then_some(()));
    let doctor = daemon.cli(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert_eq!(doctor.code, Some(1));
    assert!(
        said.contains(&format!("WRONG  sinks.any  {what} Reason: the endpoint says that it is gone (410)\n")),
        "{said}"
    );
    assert!(said.contains("-> when that is delivered: callbackd sinks resume any --config "), "{said}");
}

#[test]
fn a_webhook_that_does_not_take_the_credential_is_paused_and_loses_nothing() {
    let (daemon, hook, status) = daemon(401);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    soon("a pause", || (daemon.list(&["sinks", "list"])[0]["status"] == "paused").then_some(()));
    for run in ["run-2", "run-3"] {
        assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, run)).status, 200);
    }
    let listed = daemon.cli(&["sinks", "list"]);
    assert!(listed.said().contains("halted: answered 401 Unauthorized: the endpoint does not take"), "{listed:?}");
    let page = daemon.look("/").body;
    for part in ["because its peer refuses us; 3 deliveries wait.", "answered 401", "callbackd sinks test any --config"]
    {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
    assert_eq!(daemon.list(&["deliveries", "list", "--status", "dead"]).len(), 0);
    // What cannot be tried gets no good word for it.
    let probed = daemon.cli(&["check", "--probe"]);
    let said = probed.said();
    assert!(said.contains("\nok: store: ") && said.contains("can be written; schema "), "{said}");
    assert!(said.contains("\nnot tried: sinks.any: nothing can be tried"), "{said}");
    // Mended at the peer or in the file: a reload tries again.
    status.store(200, Ordering::Relaxed);
    daemon.hup();
    soon("told", || (daemon.list(&["deliveries", "list", "--status", "delivered"]).len() == 3).then_some(()));
    assert_eq!(hook.seen().iter().filter(|seen| !seen.taken).count(), 4, "nobody was asked again and again");
}

#[test]
fn dead_letters_are_told_with_their_reason_wherever_one_looks() {
    let (daemon, _hook, status) = daemon(403);
    let dead = |count: usize| {
        soon("dead", || (daemon.list(&["deliveries", "list", "--status", "dead"]).len() == count).then_some(()));
    };
    for run in 0..3 {
        assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, run)).status, 200);
    }
    dead(3);
    status.store(422, Ordering::Relaxed);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, 3)).status, 200);
    dead(4);
    let why = "3 × answered 403 Forbidden";
    assert!(daemon.cli(&["sinks", "list"]).said().contains(&format!("dead: {why}")));
    assert_eq!(daemon.look("/api/v1/sinks").json()["items"][0]["dead_reason"]["count"], 3);
    for path in ["/", "/sinks"] {
        let page = daemon.look(path).body;
        assert!(page.contains(why), "{path}: {page}");
    }
    let doctor = String::from_utf8(daemon.cli(&["doctor"]).stdout).expect("UTF-8");
    let said = doctor.split_once(&format!("4 dead letters for any. Reason: {why}\n")).expect(&doctor).1;
    let steps: Vec<_> = said.lines().take(2).map(str::trim_start).collect();
    assert!(steps[0].starts_with("-> callbackd sinks test any --config "), "{doctor}");
    assert!(
        steps[1].starts_with("-> when that is delivered: callbackd deliveries retry --sink any --config "),
        "{doctor}"
    );
}

#[test]
fn an_emptied_configuration_is_what_is_wrong_and_not_what_follows_from_it() {
    let hook = Hook::start(|| Reply::Status(200));
    let mut daemon = Daemon::run(&config(&hook.url()).replace("sqlite:callbackd.db", "sqlite:elsewhere.db"));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    // Nothing but the file tells where it is.
    let admin = std::mem::take(&mut daemon.admin);
    let doctor = |daemon: &Daemon| {
        let done = daemon.cli(&["doctor"]);
        assert_eq!(done.code, Some(1));
        String::from_utf8(done.stdout).expect("UTF-8")
    };
    let runs = format!("process {} runs with this file, and goes on with what it read before", daemon.pid());
    for text in ["", "# nothing\n"] {
        daemon.write("callbackd.toml", text);
        let said = doctor(&daemon);
        let what = if text.is_empty() { "callbackd.toml is empty" } else { "callbackd.toml names no source" };
        for part in [what, "-> restore it from a backup, or add", &runs, "1 thing is wrong\n"] {
            assert!(said.contains(part), "{part} is not in\n{said}");
        }
        assert!(!said.contains("none listens") && !said.contains("there is no store"), "{said}");
        let list = daemon.cli(&["sinks", "list"]);
        assert!(list.stderr.contains("names no source, sink or store: was it emptied?"), "{list:?}");
    }
    std::fs::remove_file(daemon.path("callbackd.toml")).expect("removed");
    let said = doctor(&daemon);
    assert!(said.contains("-> restore callbackd.toml, or name the right one") && said.contains(&runs), "{said}");
    // Where daemon or store can be found all the same, they are looked at.
    daemon.admin = admin;
    daemon.write("callbackd.toml", "");
    let said = doctor(&daemon);
    assert!(said.contains("callbackd.toml is empty") && said.contains("and is ready"), "{said}");
    assert!(said.contains("the file may have named another place") && said.ends_with("\n1 thing is wrong\n"), "{said}");
}

#[test]
fn a_sender_whose_credential_is_refused_is_seen_where_nobody_else_calls() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()).replace("allow_unauthenticated = true", "token = \"t0ken\""));
    for run in 0..3 {
        assert!(daemon.look("/").body.contains("All is well"));
        assert_eq!(daemon.post("/callbacks/media/old", &[], cos(Step::Success, run)).status, 401);
    }
    let what = "The source media refused 3 callbacks in the last hour, and kept 0";
    let page = daemon.look("/").body;
    assert!(page.contains("1 thing is wrong") && page.contains(what), "{page}");
    let doctor = daemon.cli(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains(&format!("WRONG  sources.media  {what}")) && doctor.code == Some(1), "{said}");
    assert!(said.contains("callbackd explain BODY --headers HEADERS --config "), "{said}");
    // Who is heard outweighs who guesses.
    for run in 0..3 {
        assert_eq!(daemon.post("/callbacks/media/t0ken", &[], cos(Step::Success, run)).status, 200);
    }
    soon("all is well", || daemon.look("/").body.contains("All is well").then_some(()));
}

#[test]
fn a_daemon_without_a_source_is_a_fault_on_the_page() {
    let daemon = Daemon::run("");
    let page = daemon.look("/").body;
    for part in ["1 thing is wrong", "No source is configured: nothing can come in.", "systemctl reload callbackd"] {
        assert!(page.contains(part), "{part} is not in\n{page}");
    }
}

#[test]
fn a_sink_that_was_taken_out_is_to_be_put_back_before_anything_is_discarded() {
    let (daemon, hook, _) = daemon(500);
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    let without = config(&hook.url()).replace("[sinks.any]\nkind = \"webhook\"", "[sinks.other]\nkind = \"webhook\"");
    daemon.configure(&without.replace("to = [\"any\"]", "to = [\"other\"]"));
    daemon.hup();
    let (page, doctor) = (daemon.look("/").body, daemon.cli(&["doctor"]));
    let said = String::from_utf8_lossy(&doctor.stdout);
    for said in [&*page, &*said] {
        let back = said.find("put [sinks.any] back into the configuration, and:").expect("restored first");
        let discard = said.find("or, if nobody is to be told: callbackd deliveries discard");
        let discard = discard.or(said.find("callbackd deliveries discard --status waiting --sink any"));
        assert!(said.contains("The sink any is not configured any more; 1 delivery waits."), "{said}");
        assert!(back < discard.expect("discarded last"), "{said}");
    }
}

#[test]
fn a_store_that_cannot_become_small_enough_is_told_alike() {
    let hook = Hook::start(|| Reply::Status(400));
    let daemon = Daemon::run(&["store.disk_max = \"10KiB\"\n", &config(&hook.url())].concat());
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "run-1")).status, 200);
    let page = daemon.look("/").body;
    assert!(page.contains("and may take 10 KiB") && page.contains("callbackd upkeep --config /"), "{page}");
    let doctor = daemon.cli(&["doctor"]);
    let said = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(said.contains("WRONG  disk") && said.contains("and may take 10 KiB"), "{said}");
}
