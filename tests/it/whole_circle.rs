//! The whole circle with the built daemon and the example's configuration: a Port action is posted, the workflow is
//! started at Tencent, calls back, is asked about, and everybody who must know is told.

use callbackd::{clock, signature};
use serde_json::{Value, json};

use crate::daemon::{Daemon, soon};
use crate::peers::astrom::{self, FakeAstrom};
use crate::peers::ci::{FakeCi, SECRET_ID, SECRET_KEY, Twist, WORKFLOW};
use crate::peers::port::{CLIENT_ID, CLIENT_SECRET, FakePort};
use crate::peers::zabbix::{self, FakeZabbix};

const RUN: &str = "r_AbCdEfGh12345678";
const OBJECT: &str = "in/游戏 1+2.mp4";
const TOKEN: &str = "hunter2-callback-token";
const CALLBACK: &str = "/callbacks/media?token=hunter2-callback-token";
const TRIGGER: &str = "POST /triggerworkflow";

/// The daemon and everybody around it.
struct Circle {
    daemon: Daemon,
    ci: FakeCi,
    port: FakePort,
    astrom: FakeAstrom,
    zabbix: FakeZabbix,
}

impl Circle {
    fn start() -> Circle {
        Circle::start_with(&[])
    }

    /// The example, with more in its environment.
    fn start_with(more: &[(&str, &str)]) -> Circle {
        let (ci, port) = (FakeCi::start(), FakePort::start());
        let (astrom, zabbix) = (FakeAstrom::start(), FakeZabbix::start("6.0.14"));
        port.add_run(RUN);
        port.add_blueprint("media_file", &["status", "workflow_run"]);
        let mut daemon = Daemon::prepare();
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/whole_circle.toml");
        daemon.write("callbackd.toml", &std::fs::read_to_string(example).expect("the example"));
        let environment = [
            ("MEDIA_TOKEN", TOKEN),
            ("PORT_CLIENT_ID", CLIENT_ID),
            ("PORT_CLIENT_SECRET", CLIENT_SECRET),
            ("TENCENT_SECRET_ID", SECRET_ID),
            ("TENCENT_SECRET_KEY", SECRET_KEY),
            ("CALLBACKD__SERVER__LISTEN", "127.0.0.1:0"),
            ("CALLBACKD__ADMIN__LISTEN", "127.0.0.1:0"),
            ("CALLBACKD__STORE__URL", "sqlite:callbackd.db"),
            ("CALLBACKD__LOG__FORMAT", "json"),
            ("CALLBACKD__SOURCES__MEDIA__URL", &ci.url()),
            ("CALLBACKD__SINKS__START__URL", &ci.url()),
            ("CALLBACKD__SINKS__START__RETRY_FIRST", "1ms"),
            ("CALLBACKD__SINKS__PORT__URL", &port.url()),
            ("CALLBACKD__SINKS__ASTROM__URL", &astrom.url()),
            ("CALLBACKD__SINKS__ZBX__URL", &zabbix.url()),
            ("CALLBACKD__SINKS__ZBX__TRAPPER", &zabbix.trapper().to_string()),
            ("ASTROM_TOKEN", astrom::TOKEN),
            ("ZABBIX_TOKEN", zabbix::TOKEN),
        ];
        let environment = environment.iter().chain(more).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        daemon.environment = environment.collect();
        daemon.start();
        Circle { daemon, ci, port, astrom, zabbix }
    }

    /// Port posts an action that asks for work on the object, signed.
    fn invoke(&self, run: &str, object: &str) {
        let body = json!({
            "action": "transcode_clip", "resourceType": "run", "status": "TRIGGERED",
            "context": {"entity": null, "blueprint": "media", "runId": run},
            "payload": {"properties": {"object": object}},
        });
        let body = body.to_string();
        let timestamp = clock::now().seconds().to_string();
        let parts = [timestamp.as_bytes(), b".", body.as_bytes()];
        let mac = signature::base64(&signature::hmac_sha256(CLIENT_SECRET.as_bytes(), &parts));
        let mac = format!("v1,{mac}");
        let headers =
            [("x-port-timestamp", &*timestamp), ("x-port-signature", &*mac), ("content-type", "application/json")];
        let answer = self.daemon.post("/callbacks/port", &headers, &body);
        assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("accepted")));
    }

    /// CI ends the execution and calls back; says what became of the callback.
    fn finish(&self, run: &str, state: &str) -> String {
        let answer = self.ci.finish(run, state, &self.daemon.listen, CALLBACK);
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()["outcome"].as_str().expect("a word").to_owned()
    }

    /// An execution, once it is there and its status is this.
    fn until(&self, key: &str, status: &str) -> Value {
        let known = |key: &str| {
            let listed = self.daemon.list(&["executions", "list"]);
            listed.iter().any(|row| row["key"] == key && row["status"] == status)
        };
        soon(&format!("{key} is {status}"), || known(key).then_some(()));
        self.daemon.execution(key)
    }

    fn all_delivered(&self) {
        let open = || self.daemon.list(&["deliveries", "list", "--status", "waiting,leased,dead"]);
        soon("everybody is told", || open().is_empty().then_some(()));
    }
}

#[test]
fn port_asks_tencent_works_and_everybody_is_told() {
    let mut circle = Circle::start();
    let probed = circle.daemon.cli(&["check", "--probe"]);
    assert!(probed.said().contains(&format!("sinks.start: may list the executions of {WORKFLOW}")), "{probed:?}");

    // CI starts the workflow, and its answer is lost on the way: it is started once all the same.
    circle.ci.script(TRIGGER, Twist::LostAnswer);
    circle.invoke(RUN, OBJECT);
    let execution = soon("the workflow's start", || circle.ci.executions().pop());
    assert_eq!((execution.object.as_str(), execution.workflow.as_str()), (OBJECT, WORKFLOW));
    let started = circle.until(&execution.run, "running");
    assert_eq!((circle.ci.executions().len(), circle.ci.asked(TRIGGER)), (1, 1));
    let link = &started["execution"]["links"][0];
    assert_eq!((&link["source"], &link["key"]), (&json!("portal"), &json!(RUN)));
    assert_eq!(started["execution"]["subject"], json!(format!("media-1250000000/{OBJECT}")));
    soon("the run shows the execution", || {
        (circle.port.run(RUN).fields.get("externalRunId") == Some(&json!(execution.run))).then_some(())
    });

    // What it knows survives a power cut.
    circle.daemon.restart();

    assert_eq!(circle.finish(&execution.run, "Success"), "held");
    let ended = circle.until(&execution.run, "succeeded");
    assert_eq!(ended["tasks"][0]["template"]["id"], "t1", "the callback adds what the answer leaves out");
    circle.until(RUN, "succeeded");
    circle.all_delivered();
    let run = circle.port.run(RUN);
    assert_eq!(run.status, "SUCCESS");
    assert_eq!(run.fields["externalRunId"], json!(execution.run));
    let ends = circle.port.requests().into_iter().filter(|seen| seen.body.get("terminationStatus").is_some()).count();
    assert_eq!((ends, circle.ci.executions().len()), (1, 1));

    // The catalog, the monitoring and the alerting were told of the end, once each.
    let entities = circle.port.entities();
    let [entity] = &entities.values().collect::<Vec<_>>()[..] else { panic!("one entity: {entities:?}") };
    let properties = json!({ "status": "succeeded", "workflow_run": execution.run });
    assert_eq!((&entity["title"], &entity["properties"]), (&json!(OBJECT), &properties));
    let events = circle.astrom.events();
    let [event] = &events[..] else { panic!("one event: {events:?}") };
    assert_eq!(event["eventType"], "CUSTOM_INFO");
    assert_eq!(event["properties"]["callbackd.run_id"], json!(execution.run));
    let pushed = circle.zabbix.pushed();
    let [value] = &pushed[..] else { panic!("one value: {pushed:?}") };
    let value: Value = serde_json::from_str(&value.value).expect("JSON");
    assert_eq!((&value["status"], &value["run"]), (&json!("succeeded"), &json!(execution.run)));

    // Neither a repeat nor a forgery changes anything any more.
    let forged = execution.callback().replace("Running", "Failed");
    let answer = circle.daemon.post(CALLBACK, &[("content-type", "application/xml")], &forged);
    assert_eq!(answer.status, 200);
    assert_ne!(answer.json()["outcome"], "accepted");
    assert_eq!(circle.finish(&execution.run, "Success"), "duplicate");
    assert_eq!(circle.daemon.execution(&execution.run)["execution"]["status"], "succeeded");
    assert_eq!(circle.port.run(RUN).status, "SUCCESS");
    let log = circle.daemon.log();
    assert!(!log.contains("hunter2"), "{log}");
    assert!(!String::from_utf8_lossy(&circle.daemon.store_bytes()).contains("hunter2"), "a secret is in the store");
}

#[test]
fn two_runs_on_one_object_are_two_executions_each_with_its_own_end() {
    let circle = Circle::start();
    circle.port.add_run("r_second");
    circle.invoke(RUN, OBJECT);
    let first = soon("the first start", || circle.ci.executions().pop());
    circle.until(&first.run, "running");
    circle.invoke("r_second", OBJECT);
    soon("the second start", || (circle.ci.executions().len() == 2).then_some(()));
    let second = circle.ci.executions().pop().expect("two");
    circle.until(&second.run, "running");
    circle.finish(&second.run, "Failed");
    circle.until("r_second", "failed");
    assert_eq!(circle.port.run(RUN).status, "IN_PROGRESS");
    circle.finish(&first.run, "Success");
    circle.until(RUN, "succeeded");
    circle.all_delivered();
    assert_eq!(circle.port.run("r_second").status, "FAILURE");
}

#[test]
fn a_callback_that_comes_before_its_start_is_known_closes_the_run_all_the_same() {
    // By itself it comes again at a time that is drawn from two days.
    let pauses = ["FIRST", "LONGEST"].map(|which| format!("CALLBACKD__SINKS__START__RETRY_{which}"));
    let circle = Circle::start_with(&pauses.each_ref().map(|pause| (pause.as_str(), "2d")));
    circle.ci.script(TRIGGER, Twist::LostAnswer);
    circle.invoke(RUN, OBJECT);
    let execution = soon("the workflow's start", || circle.ci.executions().pop());
    let waiting = || circle.daemon.list(&["deliveries", "list", "--sink", "start", "--status", "waiting"]).pop();
    let start = soon("the answer is lost", || waiting().filter(|row| row["attempts"] == 1));
    circle.finish(&execution.run, "Failed");
    let ended = circle.until(&execution.run, "failed");
    assert_eq!(ended["execution"]["links"], json!([]), "nobody knows yet whose it is");
    assert_eq!(circle.port.run(RUN).status, "IN_PROGRESS");

    // The next try finds what the first one started.
    let retried = circle.daemon.cli(&["deliveries", "retry", start["id"].as_str().expect("an id")]);
    assert_eq!(retried.code, Some(0), "{retried:?}");
    circle.until(RUN, "failed");
    circle.all_delivered();
    assert_eq!((circle.port.run(RUN).status.as_str(), circle.ci.executions().len()), ("FAILURE", 1));
    assert_eq!(circle.daemon.execution(&execution.run)["execution"]["links"][0]["key"], json!(RUN));
}
