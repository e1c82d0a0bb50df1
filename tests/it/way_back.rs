//! The way back to Tencent, through the real source and the built daemon: what CI does not confirm dies, and what it
//! never told is asked for.

use serde_json::{Value, json};

use crate::daemon::{Daemon, soon};
use crate::peers::ci::{Execution, FakeCi, SECRET_KEY, Twist, WORKFLOW};

const PATH: &str = "/callbacks/media";
const ASKED: &str = "GET /workflowexecution/";

/// A daemon with one COS source, which may ask this CI.
fn daemon(ci: &FakeCi, options: &str) -> Daemon {
    Daemon::run(&config(ci, options))
}

fn config(ci: &FakeCi, options: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = {PATH:?}\nallow_unauthenticated = true\n{options}\n{}\
         [sinks.out]\nkind = \"stdout\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"out\"]\n",
        ci.options()
    )
}

fn execution(ci: &FakeCi, run: &str) -> Execution {
    ci.executions().into_iter().find(|e| e.run == run).expect("an execution")
}

/// The receipt of a callback, with what became of it.
fn post(daemon: &Daemon, body: &str) -> (String, String) {
    let answer = daemon.post(PATH, &[("content-type", "application/xml")], body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let said = answer.json();
    let text = |key: &str| said[key].as_str().expect("a text").to_owned();
    (text("receipt"), text("outcome"))
}

fn receipt(daemon: &Daemon, id: &str) -> Value {
    daemon.list(&["receipts", "list"]).into_iter().find(|row| row["id"] == id).expect("a receipt")
}

/// Waits until the receipt stands like this, and says why.
fn until_receipt(daemon: &Daemon, id: &str, status: &str) -> String {
    let mut last = Value::Null;
    soon(&format!("receipt {id} is {status}"), || {
        last = receipt(daemon, id);
        (last["status"] == status).then_some(())
    });
    last["reason"].as_str().unwrap_or_default().to_owned()
}

/// Waits until a reason is known why the receipt is still held.
fn until_held(daemon: &Daemon, id: &str, part: &str) {
    soon(&format!("receipt {id} is held: {part}"), || {
        let row = receipt(daemon, id);
        (row["status"] == "held" && row["reason"].as_str().is_some_and(|r| r.contains(part))).then_some(())
    });
}

fn executions(daemon: &Daemon) -> Vec<Value> {
    daemon.list(&["executions", "list"])
}

fn until_status(daemon: &Daemon, key: &str, status: &str) -> Value {
    let is_so = || executions(daemon).iter().any(|row| row["key"] == key && row["status"] == status);
    soon(&format!("{key} is {status}"), || is_so().then_some(()));
    daemon.execution(key)
}

#[test]
fn a_forged_callback_dies_and_a_true_one_is_recorded() {
    let ci = FakeCi::start();
    let daemon = daemon(&ci, "confirm = true");
    let run = ci.uploaded("in/a & b.mp4");
    // CI knows no such execution, and is given time to know it.
    let unknown = Execution { run: "i0000000000000000000000000000dead".to_owned(), ..execution(&ci, &run) };
    let (stranger, outcome) = post(&daemon, &unknown.callback().replace("Running", "Success"));
    assert_eq!(outcome, "held");
    until_held(&daemon, &stranger, "knows no execution");
    // Nothing that names another path is asked for.
    let path = Execution { run: "../../evil?x=1".to_owned(), ..unknown };
    let (path, _) = post(&daemon, &path.callback().replace("Running", "Success"));
    until_held(&daemon, &path, "knows no execution");
    assert!(ci.requests().iter().all(|line| !line.contains("evil")), "{:?}", ci.requests());

    // It knows another end.
    let truth = ci.end(&run, "Success");
    let (id, outcome) = post(&daemon, &truth.callback().replace("Success", "Failed"));
    assert_eq!(outcome, "held");
    let reason = until_receipt(&daemon, &id, "refused");
    assert!(reason.contains("succeeded") && reason.contains("failed"), "{reason}");
    assert!(executions(&daemon).is_empty(), "nothing of it is believed");

    // A true end under a false name is recorded under the true one.
    let renamed = Execution { object: "in/other.mp4".to_owned(), workflow: "w0".to_owned(), ..truth.clone() };
    let (id, outcome) = post(&daemon, &renamed.callback());
    assert_eq!(outcome, "held");
    let shown = until_status(&daemon, &run, "succeeded");
    assert_eq!(receipt(&daemon, &id)["status"], "accepted");
    assert_eq!(shown["execution"]["subject"], "media-1250000000/in/a & b.mp4");
    assert_eq!((&shown["execution"]["workflow"], &shown["execution"]["name"]), (&json!(WORKFLOW), &json!("ingest")));
    assert_eq!(shown["tasks"][0]["template"]["id"], "t1");
    assert_eq!(post(&daemon, &truth.callback()).1, "duplicate");
}

#[test]
fn a_ci_that_does_not_answer_refuses_nothing() {
    let ci = FakeCi::start();
    let daemon = daemon(&ci, "confirm = true");
    let run = ci.uploaded("a.mp4");
    let truth = ci.end(&run, "Failed");
    ci.script(ASKED, Twist::Answer(404, "<html>no such page</html>".to_owned()));
    ci.script(ASKED, Twist::Answer(503, "<html>busy</html>".to_owned()));
    assert_eq!(post(&daemon, &truth.callback()).1, "held");
    let failed = until_status(&daemon, &run, "failed");
    assert_eq!(failed["tasks"][0]["error"]["code"], "Failed");
    assert_eq!(ci.asked(ASKED), 3);
}

#[test]
fn a_refused_credential_holds_until_it_is_mended() {
    let ci = FakeCi::start();
    let wrong = config(&ci, "confirm = true").replace(SECRET_KEY, "hunter2-wrong");
    let daemon = Daemon::run(&wrong);
    let run = ci.uploaded("a.mp4");
    let truth = ci.end(&run, "Success");
    let (id, _) = post(&daemon, &truth.callback());
    until_held(&daemon, &id, "check secret_key");
    daemon.logged(|line| line["message"].as_str().is_some_and(|m| m.starts_with("the vendor refuses the credential")));
    daemon.configure(&config(&ci, "confirm = true"));
    daemon.hup();
    until_status(&daemon, &run, "succeeded");
    assert!(!daemon.log().contains("hunter2"), "{}", daemon.log());
    assert!(!String::from_utf8_lossy(&daemon.store_bytes()).contains("hunter2"));
}

#[test]
fn what_never_called_back_is_asked_for_and_recorded_as_if_it_had() {
    let ci = FakeCi::start();
    let daemon = daemon(&ci, "expect_within = \"1s\"");
    let (forgotten, slow) = (ci.uploaded("forgotten.mp4"), ci.uploaded("slow.mp4"));
    let begun = |run: &str| execution(&ci, run).callback().replace("WorkflowFinish", "WorkflowStart");
    let bodies = [&forgotten, &slow].map(|run| begun(run));
    // Before it can be asked about.
    let truth = ci.end(&forgotten, "Failed");
    for body in bodies {
        assert_eq!(post(&daemon, &body).1, "accepted");
    }
    let shown = until_status(&daemon, &forgotten, "failed");
    assert_eq!(shown["execution"]["vendor_status"], "Failed");
    assert_eq!(shown["tasks"][0]["error"], json!({ "code": "Failed", "message": null }));
    // What CI says goes on is marked, and told as such.
    let marked = |change: &Value| change["data"]["change"]["type"] == "callbackd.execution.overdue";
    let overdue = |key: &str| {
        let shown = daemon.execution(key);
        let changes = shown["changes"].as_array().expect("changes").clone();
        changes.into_iter().find(marked)
    };
    let change = soon("the slow one is overdue", || overdue(&slow));
    assert_eq!(change["data"]["change"]["overdue"], true);
    assert_eq!(change["data"]["execution"]["status"], "running");

    // The callback comes after all: it changes nothing that was told, and adds what only it knows.
    let before = daemon.execution(&forgotten)["changes"].as_array().map(Vec::len);
    let (_, outcome) = post(&daemon, &truth.callback());
    assert!(["accepted", "duplicate"].contains(&outcome.as_str()), "{outcome}");
    let shown = daemon.execution(&forgotten);
    assert_eq!(shown["execution"]["status"], "failed");
    assert_eq!(shown["tasks"][0]["template"]["id"], "t1");
    assert!(shown["changes"].as_array().map(Vec::len) <= before.map(|n| n + 1));
    assert_eq!(post(&daemon, &truth.callback()).1, "duplicate");
}
