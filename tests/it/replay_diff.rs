//! Stored receipts, judged again by another configuration: what would differ is shown, and nothing is changed.

use std::io::Read;
use std::process::Command;

use serde_json::Value;

use crate::callbacks::{Step, cos, port, signed};
use crate::daemon::{Daemon, Done, soon};
use crate::peers::hook::{Hook, Reply};

const MEDIA: &str = "/callbacks/media/t0ken";

fn config(hook: &str, rest: &str) -> String {
    format!(
        "server.instance = \"here\"\n[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sources.portal]\nkind = \"port_action\"\npath = \"/callbacks/portal\"\nsecret = \"hush\"\n\
         [sinks.hook]\nkind = \"webhook\"\nurl = \"{hook}\"\n[sinks.out]\nkind = \"stdout\"\n{rest}"
    )
}

const ROUTE: &str = "[[routes]]\nfrom = [\"media\"]\nto = [\"hook\"]\n";

struct Scene {
    daemon: Daemon,
    hook: Hook,
}

impl Scene {
    fn new() -> Scene {
        let hook = Hook::start(|| Reply::Status(200));
        let daemon = Daemon::run(&config(&hook.url(), ROUTE));
        for (run, end) in [("well", Step::Success), ("ill", Step::Failed)] {
            for step in [Step::Start, end, end] {
                assert_eq!(daemon.post(MEDIA, &[], cos(step, run)).status, 200);
            }
        }
        let body = port("p1").replace("runId", "ticket");
        let signature = signed("hush", body.as_bytes(), 0);
        let headers: Vec<_> = signature.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(daemon.post("/callbacks/portal", &headers, body).json()["outcome"], "quarantined");
        soon("all told", || (hook.taken().len() == 4).then_some(()));
        soon("settled", || daemon.list(&["deliveries", "list", "--status", "waiting,leased"]).is_empty().then_some(()));
        Scene { daemon, hook }
    }

    /// Compares with this configuration; the store has to be what it was.
    fn diff(&self, new: &str, more: &[&str]) -> Done {
        self.daemon.write("new.toml", new);
        let before = (self.daemon.list(&["receipts", "list"]), self.hook.seen().len());
        let args = ["receipts", "replay", "--diff", "--config", "new.toml", "--against", "callbackd.toml"];
        let done = self.daemon.cli_alone(&[&args[..], more].concat());
        assert_eq!((self.daemon.list(&["receipts", "list"]), self.hook.seen().len()), before);
        done
    }
}

fn rows(done: &Done) -> Vec<Value> {
    let text = std::str::from_utf8(&done.stdout).expect("UTF-8");
    text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

#[test]
fn the_same_configuration_differs_in_nothing() {
    let scene = Scene::new();
    let done = scene.diff(&config(&scene.hook.url(), ROUTE), &["--since", "2h"]);
    assert_eq!(
        done.said(),
        "5 receipts judged again, 0 differ\n2 repeats were left out: their bytes are not kept again\n"
    );
}

#[test]
fn what_would_be_different_is_shown_and_nothing_is_changed() {
    let scene = Scene::new();
    let more = "[[routes]]\nfrom = [\"media\"]\nwhen = '.execution.status == \"failed\"'\nto = [\"out\"]\n";
    let new = config(&scene.hook.url(), &[ROUTE, more].concat())
        .replace("secret = \"hush\"", "secret = \"hush\"\nrun_id = \"/context/ticket\"");
    let done = scene.diff(&new, &["--since", "2h", "--json"]);
    assert_eq!(done.code, Some(1), "{}", done.stderr);
    let rows = rows(&done);
    let [failed, ticket, summary] = &rows[..] else { panic!("{rows:?}") };
    assert_eq!((&failed["status"], &failed["source"]), (&"accepted".into(), &"media".into()));
    let found = failed["differences"].as_array().expect("differences");
    let routes = found.iter().find(|one| one["kind"] == "routes").expect("routes");
    assert_eq!(
        (&routes["path"], &routes["before"], &routes["after"]),
        (&"ill: routes".into(), &serde_json::json!(["hook"]), &serde_json::json!(["hook", "out"]))
    );
    let requests: Vec<_> = found.iter().filter(|one| one["kind"] == "requests").collect();
    assert!(requests.len() == 1 && requests[0]["path"] == "ill: requests.out", "{requests:?}");
    assert_eq!(found.len(), 2);
    let outcome = ticket["differences"].as_array().expect("differences").iter().find(|one| one["kind"] == "outcome");
    let outcome = outcome.expect("an outcome");
    assert_eq!((&outcome["before"], &outcome["after"]), (&"quarantined".into(), &"accepted".into()));
    let summary = &summary["summary"];
    assert_eq!((&summary["receipts"], &summary["differ"], &summary["left_out"]), (&5.into(), &2.into(), &2.into()));

    let table = scene.diff(&new, &["--source", "media"]);
    let said = String::from_utf8(table.stdout).expect("UTF-8");
    assert!(said.contains("  ill: routes: hook → hook out\n"), "{said}");
    assert!(said.contains("4 receipts judged again, 1 differ: 1 in requests, 1 in routes\n"), "{said}");
}

#[test]
fn what_came_before_is_judged_along_and_another_address_is_another_request() {
    let scene = Scene::new();
    let ill = scene.daemon.execution("ill");
    let last = ill["changes"][1]["data"]["change"]["receipt"].as_str().expect("a receipt").to_owned();
    let new = config("http://127.0.0.1:9/elsewhere", ROUTE);
    let done = scene.diff(&new, &[&last, "--json"]);
    let rows = rows(&done);
    assert_eq!(rows[0]["differences"].as_array().map(Vec::len), Some(1), "{rows:?}");
    let one = &rows[0]["differences"][0];
    assert_eq!((&one["kind"], &one["path"]), (&"requests".into(), &"ill: requests.hook.0.action".into()));
    assert_eq!(one["after"], "POST http://127.0.0.1:9/elsewhere");
    assert_eq!((&rows[1]["summary"]["receipts"], &rows[1]["summary"]["earlier"]), (&1.into(), &1.into()));
}

#[test]
fn nothing_is_recorded_again_without_being_named() {
    let scene = Scene::new();
    let before = scene.daemon.list(&["receipts", "list"]);
    for args in [&["--since", "2h"][..], &["--source", "portal"], &[], &["--status", "quarantined"]] {
        let done = scene.daemon.cli(&[&["receipts", "replay"], args].concat());
        assert_eq!(done.code, Some(2), "{args:?}: {done:?}");
    }
    assert_eq!(scene.daemon.list(&["receipts", "list"]), before);
    let done = scene.daemon.cli_alone(&["receipts", "replay", "--diff", "--since", "2h", "--config", "callbackd.toml"]);
    assert_eq!(done.code, Some(78), "what it is compared with is nowhere: {done:?}");
    assert!(done.stderr.contains("--against"), "{done:?}");
}

#[test]
fn what_is_understood_by_now_is_shown_though_the_configurations_agree() {
    let scene = Scene::new();
    let reads = config(&scene.hook.url(), ROUTE)
        .replace("secret = \"hush\"", "secret = \"hush\"\nrun_id = \"/context/ticket\"");
    scene.daemon.write("new.toml", &reads);
    let args = ["receipts", "replay", "--diff", "--status", "quarantined", "--json", "--config", "new.toml"];
    let done = scene.daemon.cli_alone(&[&args[..], &["--against", "new.toml"]].concat());
    assert_eq!(done.code, Some(1), "{done:?}");
    let rows = rows(&done);
    let found = rows[0]["differences"].as_array().expect("differences");
    assert_eq!((found.len(), &found[0]["kind"], &found[0]["after"]), (1, &"version".into(), &"accepted".into()));
}

/// What it works in goes with it, also when somebody ends it halfway.
#[test]
fn who_is_told_to_end_leaves_nothing_behind() {
    let daemon = Daemon::run(&config("http://127.0.0.1:9", ""));
    for run in 0..300 {
        assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, run)).status, 200);
    }
    let folder = daemon.path("scratch");
    std::fs::create_dir(&folder).expect("made");
    let works_in = || std::fs::read_dir(&folder).expect("a folder").next().map(|entry| entry.expect("an entry").path());
    for (signal, said) in [("TERM", "told to end"), ("INT", "interrupted"), ("HUP", "the terminal has gone")] {
        let args = ["receipts", "replay", "--diff", "--config", "callbackd.toml", "--against", "callbackd.toml"];
        let mut going = daemon.cli_in(&folder, &args);
        soon("it works", || works_in().and_then(|path| path.join("after.db").exists().then_some(())));
        let pid = going.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().expect("kill").success());
        let status = soon("its end", || going.try_wait().expect("waited for"));
        let mut stderr = String::new();
        going.stderr.take().expect("piped").read_to_string(&mut stderr).expect("read");
        assert_eq!((status.code(), stderr.contains(said)), (Some(1), true), "{signal}: {stderr}");
        assert_eq!(works_in(), None, "{signal}");
    }
}
