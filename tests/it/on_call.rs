//! What the person on call meets: a configuration that somebody broke, a reload that was refused, a sink that is down.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

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
