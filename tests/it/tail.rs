//! `callbackd tail`, beside the real daemon.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Command};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, PATIENCE, soon};
use crate::peers::hook::{Hook, Reply};

fn config(url: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = \"{url}\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

fn callback(daemon: &Daemon, step: Step, run: &str) {
    assert_eq!(daemon.post("/callbacks/media/t0ken", &[], cos(step, run)).status, 200);
}

/// The command, going on. It is killed when dropped.
struct Tail {
    child: Child,
    lines: Receiver<String>,
}

impl Tail {
    fn new(daemon: &Daemon, args: &[&str]) -> Tail {
        let mut child = daemon.cli_going_on(&[&["tail"], args].concat());
        let (said, lines) = channel();
        let stdout: ChildStdout = child.stdout.take().expect("piped");
        thread::spawn(move || {
            BufReader::new(stdout).lines().map_while(Result::ok).try_for_each(|line| said.send(line))
        });
        Tail { child, lines }
    }

    /// The next line, without the time at its beginning.
    fn next(&self) -> String {
        let line = self.lines.recv_timeout(PATIENCE).expect("a line");
        line.get(21..).unwrap_or_else(|| panic!("{line:?}")).split_whitespace().collect::<Vec<_>>().join(" ")
    }

    /// Exit code and standard error, at its end.
    fn ended(mut self) -> (Option<i32>, String) {
        let status = soon("its end", || self.child.try_wait().expect("waited for"));
        let mut stderr = String::new();
        self.child.stderr.take().expect("piped").read_to_string(&mut stderr).expect("read");
        (status.code(), stderr)
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn shows_what_happens_until_it_is_interrupted() {
    let hook = Hook::start(|| Reply::Status(400));
    let daemon = Daemon::run(&config(&hook.url()));
    callback(&daemon, Step::Start, "a");
    soon("given up", || (daemon.list(&["deliveries", "list", "--status", "dead"]).len() == 1).then_some(()));
    // With what was, so that it is known to listen.
    let tail = Tail::new(&daemon, &["--since", "1h"]);
    assert_eq!(tail.next(), "media running a media-1250000000/in/a.mp4");
    assert!(tail.next().starts_with("→ any dead a reject: "));
    callback(&daemon, Step::Success, "a");
    assert_eq!(tail.next(), "media succeeded a media-1250000000/in/a.mp4");
    assert!(tail.next().starts_with("→ any dead a reject: "));
    let pid = tail.child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().expect("kill").success());
    let ended = tail.ended();
    assert_eq!(ended, (Some(0), String::new()));
}

#[test]
fn shows_what_is_asked_for_as_lines_or_json() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()));
    for run in ["a", "b"] {
        callback(&daemon, Step::Start, run);
    }
    callback(&daemon, Step::Failed, "b");
    soon("delivered", || (daemon.list(&["deliveries", "list", "--status", "delivered"]).len() == 3).then_some(()));
    let rows = |args: &[&str]| daemon.cli(&[&["tail", "--json", "--since", "1h"], args].concat()).rows();
    let failed = rows(&["--status", "failed", "--limit", "1"]);
    let shown = daemon.execution("b");
    assert_eq!(failed[0]["change"]["execution"], shown["execution"]);
    let told = rows(&["--sink", "any", "--status", "delivered", "--limit", "3"]);
    let mut keys: Vec<_> = told.iter().map(|row| row["delivery"]["key"].as_str().expect("a key")).collect();
    // Of two executions, either may be told first.
    keys.sort_unstable();
    assert_eq!(keys, ["a", "b", "b"]);
    let done = daemon.cli(&["tail", "--since", "1h", "--source", "media", "--status", "running", "--limit", "2"]);
    assert_eq!(done.said().lines().count(), 2);
    assert!(!done.said().contains('\u{1b}'), "no colours beside a terminal");
    let done = daemon.cli(&["tail", "--status", "done"]);
    assert_eq!(done.code, Some(2));
    assert!(done.stderr.contains("there are pending"), "{}", done.stderr);
}

#[test]
fn says_that_no_daemon_runs_and_why_one_refuses() {
    let mut daemon =
        Daemon::run(&config("http://127.0.0.1:9/").replace("[sources", "admin.token = \"hush-adm1n\"\n[sources"));
    daemon.configure(&config("http://127.0.0.1:9/"));
    let refused = daemon.cli(&["tail"]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("does not take the admin.token of this configuration"), "{}", refused.stderr);
    assert!(daemon.terminate().success());
    let none = daemon.cli(&["tail"]);
    assert_eq!(none.code, Some(1));
    assert!(none.stderr.contains("no daemon listens at admin.listen"), "{}", none.stderr);
}

#[test]
fn goes_on_with_the_next_daemon_and_misses_nothing() {
    let hook = Hook::start(|| Reply::Status(200));
    let mut daemon = Daemon::prepare();
    let socket = daemon.path("admin.sock");
    let whole = format!(
        "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"unix:{}\"\nlog.format = \"json\"\n{}",
        socket.display(),
        config(&hook.url())
    );
    daemon.write("callbackd.toml", &whole);
    daemon.start();
    callback(&daemon, Step::Start, "a");
    let tail = Tail::new(&daemon, &["--since", "1h", "--source", "media", "--status", "running,succeeded,failed"]);
    assert_eq!(tail.next(), "media running a media-1250000000/in/a.mp4");
    assert!(daemon.terminate().success());
    daemon.start();
    let steps = [(Step::Success, "a", "succeeded"), (Step::Start, "b", "running"), (Step::Failed, "b", "failed")];
    for (step, run, _) in steps {
        callback(&daemon, step, run);
    }
    for (_, run, status) in steps {
        assert_eq!(tail.next(), format!("media {status} {run} media-1250000000/in/{run}.mp4"));
    }
    daemon.kill9();
    daemon.start();
    callback(&daemon, Step::Start, "c");
    assert_eq!(tail.next(), "media running c media-1250000000/in/c.mp4");
}

#[test]
fn a_name_that_nobody_has_is_not_waited_for() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()));
    for (args, said) in [
        (["tail", "--sink", "ani"], "no sink is called \"ani\"; did you mean \"any\"?"),
        (["tail", "--source", "medai"], "no source is called \"medai\"; did you mean \"media\"?"),
    ] {
        let done = daemon.cli(&args);
        assert_eq!(done.code, Some(1), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(said), "{args:?}: {}", done.stderr);
    }
}
