//! The `klyuch_astrom` sink against an ASTROM that is as strict as its published description.

use std::sync::Arc;

use callbackd::app;
use callbackd::clock;
use callbackd::config::{Config, Environment};
use callbackd::model::{Change, ChangeMeta, Delivery, Outcome, State, Status, Task, Time, Update};
use callbackd::sinks::{Sink, Tried};
use serde_json::{Value, json};

use crate::daemon::{Daemon, soon};
use crate::peers::astrom::{ENVIRONMENT, Entity, FakeAstrom, TOKEN};
use crate::rig::{PATIENCE, Rig, SINK, service};

const HOST: Entity = Entity { kind: "HOST", id: "HOST-1", name: "media (prod), 1", tag: "video" };
const TWIN: Entity = Entity { kind: "HOST", id: "HOST-2", name: "media 2", tag: "video" };

fn sink_at(url: &str, token: &str, options: &str) -> Box<dyn Sink> {
    let text = format!("[sinks.astrom]\nkind = \"dynatrace\"\nurl = {url:?}\ntoken = {token:?}\n{options}\n");
    let env = Environment::default();
    let config = Config::from_toml(&text, &env).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
    app::sinks(&config, &env).unwrap_or_else(|faults| panic!("{faults}\n{text}")).pop().expect("a sink").1
}

fn sink(astrom: &FakeAstrom, options: &str) -> Box<dyn Sink> {
    sink_at(&astrom.url(), TOKEN, options)
}

/// A change of a run that ended so many seconds ago, if it has ended.
fn delivery(key: &str, status: Status, ago: i64) -> Delivery {
    let now = clock::now();
    let mut update = Update { key: key.to_owned(), ..Update::default() };
    update.execution.name = Some("Transcode".to_owned());
    update.execution.subject = Some("bucket/in/剪辑 1.mp4".to_owned());
    update.execution.status = Some(status);
    update.execution.started_at = Some(Time::from_seconds(now.seconds() - ago - 60));
    update.execution.finished_at = status.is_finished().then(|| Time::from_seconds(now.seconds() - ago));
    let error = Some(json!({"code": "404", "message": "no such object"}));
    update.tasks = vec![Task { error, ..Task::new("j1".to_owned(), status) }];
    let accepted = State::begin("media", update);
    let meta = ChangeMeta {
        kind: Change::kind_of(&accepted).to_owned(),
        sequence: 1,
        previous_status: None,
        changed_tasks: accepted.changed_tasks(),
        overdue: false,
        receipt: Some("7".to_owned()),
        received_at: now,
    };
    let change = Change { id: 41, execution_id: 5, state: accepted.state, links: Vec::new(), meta };
    Delivery { id: 99, change: Arc::new(change), attempts: 0, created_at: now, resume: None, trace: None }
}

/// One try; no part of the token is in anything that is kept.
async fn deliver(sink: &dyn Sink, delivery: &Delivery) -> Tried {
    let tried = tokio::time::timeout(PATIENCE, sink.deliver(delivery, clock::now())).await.expect("an end");
    let shown = format!("{tried:?}");
    assert!(!shown.contains("hunter2"), "the token is kept: {shown}");
    tried
}

fn note(tried: &Tried) -> Option<&str> {
    let Outcome::Delivered { note, learned } = &tried.outcome else { panic!("to be delivered: {tried:?}") };
    assert!(learned.is_empty());
    note.as_deref()
}

fn reason(tried: &Tried) -> (&'static str, &str) {
    match &tried.outcome {
        Outcome::Retry { reason, .. } => ("retry", reason),
        Outcome::Reject { reason } => ("reject", reason),
        Outcome::Halt { reason, .. } => ("halt", reason),
        Outcome::Discard { reason } => ("discard", reason),
        other => panic!("{other:?}"),
    }
}

fn is(tried: &Tried, word: &str, part: &str) {
    let (found, reason) = reason(tried);
    assert!(found == word && reason.contains(part), "{found}: {reason}, and not {word}: {part}");
}

/// How often each title stands there.
fn titles(astrom: &FakeAstrom) -> Vec<String> {
    astrom.events().iter().map(|event| event["title"].as_str().expect("a title").to_owned()).collect()
}

#[tokio::test]
async fn two_failures_are_two_problems_and_a_repetition_refreshes_its_own() {
    let astrom = FakeAstrom::start();
    let sink = sink(&astrom, "");
    for key in ["r1", "r2", "r1"] {
        let tried = deliver(&*sink, &delivery(key, Status::Failed, 5)).await;
        assert_eq!((note(&tried), tried.status), (None, Some(201)));
    }
    deliver(&*sink, &delivery("r3", Status::Succeeded, 5)).await;
    let title = |key: &str, word: &str| format!("Transcode {word}: bucket/in/剪辑 1.mp4 ({key})");
    assert_eq!(titles(&astrom), [title("r2", "failed"), title("r1", "failed"), title("r3", "succeeded")]);
    let running = deliver(&*sink, &delivery("r4", Status::Running, 0)).await;
    is(&running, "discard", "no event for running");
    assert_eq!(astrom.requests().len(), 4, "nothing is asked for nothing");
    let line = format!("POST /e/{ENVIRONMENT}/api/v2/events/ingest");
    assert!(astrom.requests().iter().all(|seen| seen.line == line));
}

#[tokio::test]
async fn old_and_future_runs_are_told_without_their_times() {
    const DAY: i64 = 86_400;
    let astrom = FakeAstrom::start();
    let sink = sink(&astrom, "others = \"CUSTOM_DEPLOYMENT\"");
    for (status, ago, noted) in [
        (Status::Failed, 5, false),
        (Status::Failed, 6 * 3600, true),
        (Status::Failed, 1200 * DAY, true),
        (Status::Failed, -3600, true),
        (Status::Succeeded, 29 * DAY, false),
        (Status::Succeeded, 30 * DAY, true),
        (Status::Succeeded, -6 * DAY, false),
        (Status::Succeeded, -8 * DAY, true),
        (Status::Running, 0, false),
    ] {
        let tried = deliver(&*sink, &delivery(&format!("r{ago}"), status, ago)).await;
        assert_eq!(note(&tried).is_some_and(|note| note.contains("left out")), noted, "{status} {ago}: {tried:?}");
    }
    assert_eq!(astrom.events().len(), 9);
}

#[tokio::test]
async fn an_entity_is_found_or_said_to_be_missing() {
    let astrom = FakeAstrom::start();
    astrom.add_entity(HOST);
    astrom.add_entity(TWIN);
    let failed = delivery("r1", Status::Failed, 5);
    for (options, found) in [
        ("entity = { type = \"HOST\", name = \"media (prod), 1\" }", vec!["HOST-1"]),
        ("entity = { id = \"HOST-2\" }", vec!["HOST-2"]),
        ("entity = '{type: \"HOST\", tag: \"video\"}'", vec!["HOST-1", "HOST-2"]),
        ("entity = '\"type(\\\"HOST\\\"),entityName.startsWith(\\\"media 2\\\")\"'", vec!["HOST-2"]),
    ] {
        let before = astrom.requests().len();
        assert_eq!(note(&deliver(&*sink(&astrom, options), &failed).await), None, "{options}");
        assert_eq!(astrom.requests().len(), before + 1);
        let events = astrom.events();
        let entities =
            events[events.len() - found.len()..].iter().map(|event| event["entity"].as_str().expect("an id"));
        assert_eq!(entities.collect::<Vec<_>>(), found, "{options}");
    }
}

#[tokio::test]
async fn what_nothing_was_stored_of_is_sent_three_times_again_and_then_dead() {
    let astrom = FakeAstrom::start();
    let options = "entity = { type = \"HOST\", name = \"idle\" }";
    let mut rig = Rig::new(sink(&astrom, options).into(), service());
    rig.forward();
    rig.record("r1", Status::Failed).await;
    let row = rig.until_status("r1", "dead").await;
    let attempts = rig.attempts(&row).await;
    let outcomes: Vec<_> = attempts.iter().map(|a| (a.outcome.as_str(), a.status)).collect();
    let again = ("retry", Some(201));
    assert_eq!(outcomes, [again, again, again, ("reject", Some(201))]);
    let reason = row.reason.expect("a reason");
    assert!(reason.contains("reportCount 0") && reason.ends_with("said 4 times"), "{reason}");
    assert_eq!(attempts[0].answer.as_deref(), Some("{\"eventIngestResults\":[],\"reportCount\":0}"));

    // One that is there at last has what waited for it; what failed otherwise in between does not count.
    let nothing = "{\"reportCount\":0,\"eventIngestResults\":[]}";
    for (status, body) in [(201, nothing), (503, "busy"), (201, nothing), (503, "busy"), (201, nothing)] {
        astrom.script(status, &[], body, false);
    }
    astrom.add_entity(Entity { name: "idle", ..HOST });
    rig.record("r2", Status::Failed).await;
    let row = rig.until_status("r2", "delivered").await;
    let statuses: Vec<_> = rig.attempts(&row).await.iter().filter_map(|a| a.status).collect();
    assert_eq!(statuses, [201, 503, 201, 503, 201, 201]);
    assert_eq!(rig.deliveries("r2").await[0].sink, SINK);
    rig.stop.begin();
    rig.ended().await;
}

#[tokio::test]
async fn no_201_is_a_success_that_is_none() {
    let astrom = FakeAstrom::start();
    let sink = sink(&astrom, "");
    let failed = delivery("r1", Status::Failed, 5);
    for (body, word, part) in [
        ("{\"reportCount\":0,\"eventIngestResults\":[]}", "retry", "stored nothing"),
        ("{\"reportCount\":null,\"eventIngestResults\":null}", "retry", "stored nothing"),
        ("{\"reportCount\":1,\"eventIngestResults\":null}", "reject", "not what became of them"),
        (
            "{\"reportCount\":2,\"eventIngestResults\":[{\"status\":\"OK\"},{\"status\":\"INVALID_ENTITY_TYPE\"}]}",
            "reject",
            "stored in part, 1 of 2 reports",
        ),
        (
            "{\"reportCount\":1,\"eventIngestResults\":[{\"status\":\"INVALID_METADATA\"}]}",
            "reject",
            "a property is refused",
        ),
        ("{\"reportCount\":1,\"eventIngestResults\":[{\"status\":\"NEW_WORD\"}]}", "reject", "NEW_WORD"),
        ("", "retry", "not ASTROM's JSON"),
        ("<html>sign in</html>", "retry", "not ASTROM's JSON"),
    ] {
        astrom.script(201, &[], body, true);
        let tried = deliver(&*sink, &failed).await;
        is(&tried, word, part);
        assert_eq!((tried.status, tried.answer.as_deref()), (Some(201), Some(body)));
    }
    // How far it got with nothing stored is kept beside other faults.
    let mut third = failed.clone();
    third.resume = Some(json!({"unmatched": 2}));
    astrom.script(502, &[], "<html>bad gateway</html>", false);
    let Outcome::Retry { resume, .. } = deliver(&*sink, &third).await.outcome else { panic!("to be retried") };
    assert_eq!(resume, third.resume);
}

#[tokio::test]
async fn errors_are_told_in_their_own_words() {
    let astrom = FakeAstrom::start();
    let sink = sink(&astrom, "");
    let failed = delivery("r1", Status::Failed, 5);
    let error = |code: u16| {
        let violation = json!({"path": "entitySelector", "message": "is wrong", "parameterLocation": "PAYLOAD_BODY"});
        json!({"error": {"code": code, "message": "Constraints violated.", "constraintViolations": [violation]}})
    };
    for (status, word, part) in [
        (400, "reject", "answered 400 Bad Request: Constraints violated.; entitySelector: is wrong"),
        (401, "halt", "ASTROM refuses the token: answered 401 Unauthorized: Constraints violated."),
        (403, "halt", "ASTROM lets the token send no events: answered 403 Forbidden"),
        (404, "reject", "check url and the environment's id in it"),
        (413, "reject", "answered 413"),
        (500, "retry", "answered 500 Internal Server Error: Constraints violated."),
    ] {
        astrom.script(status, &[], &error(status).to_string(), false);
        is(&deliver(&*sink, &failed).await, word, part);
    }
    let reset = (clock::now().plus_ms(42_000).micros()).to_string();
    let headers = [("x-ratelimit-limit", "50"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset.as_str())];
    astrom.script(429, &headers, "", false);
    let Outcome::Retry { after_ms, .. } = deliver(&*sink, &failed).await.outcome else { panic!("to be retried") };
    assert!((1_000..=42_000).contains(&after_ms.expect("a pause")), "{after_ms:?}");
}

#[tokio::test]
async fn a_refused_token_stops_the_sink_and_is_not_repeated_to_anybody() {
    let astrom = FakeAstrom::start();
    let wrong = TOKEN.replace("hunter2G3DF", "hunter2XXXX");
    let wrong = sink_at(&astrom.url(), &wrong, "");
    let tried = deliver(&*wrong, &delivery("r1", Status::Failed, 5)).await;
    is(&tried, "halt", "Token Authentication failed: Api-Token [secret]; it needs the scope events.ingest");
    let said = wrong.probe().await.expect_err("a wrong token");
    assert!(said.starts_with("ASTROM refuses the token: answered 401") && !said.contains("hunter2"), "{said}");
}

#[tokio::test]
async fn a_probe_reads_and_changes_nothing() {
    let astrom = FakeAstrom::start();
    let sink = sink(&astrom, "");
    let said = sink.probe().await.expect("a token that may read");
    assert_eq!(said, "token accepted; whether it has events.ingest, only an event shows");
    astrom.forbid_reading();
    let said = sink.probe().await.expect("a token that is known");
    assert!(said.starts_with("token known; it may not read (events.read is missing)"), "{said}");
    let line = format!("GET /e/{ENVIRONMENT}/api/v2/eventProperties?pageSize=500");
    assert!(astrom.requests().iter().all(|seen| seen.line == line && seen.body == Value::Null));
    assert_eq!(astrom.events(), Vec::<Value>::new());

    let elsewhere = sink_at(&astrom.url().replace("/e/", "/f/"), TOKEN, "");
    let said = elsewhere.probe().await.expect_err("no such environment");
    assert!(said.contains("check url"), "{said}");
    assert_eq!(astrom.take_faults().len(), 1);
}

/// The built binary, told by Tencent: a failed and a finished workflow, and what the operator sees of them.
#[test]
fn a_failed_workflow_is_a_problem_in_astrom() {
    let astrom = FakeAstrom::start();
    let daemon = Daemon::run(&format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"a token\"\n\
         [sinks.astrom]\nkind = \"klyuch_astrom\"\nurl = {:?}\ntoken = {TOKEN:?}\nretry_first = \"1ms\"\n\
         [[routes]]\nfrom = [\"media\"]\nto = [\"astrom\"]\n",
        astrom.url()
    ));
    let finish = |run: &str, state: &str| {
        let body = format!(
            "<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>{run}</RunId><BucketId>b-1</BucketId>\
             <Object>in/{run}.mp4</Object><WorkflowId>w1</WorkflowId><WorkflowName>Transcode</WorkflowName>\
             <State>{state}</State><Tasks><Type>Snapshot</Type><State>{state}</State><JobId>j-{run}</JobId>\
             <Name>Snapshot_1</Name><Code>NoSuchKey</Code><Message>gone</Message></Tasks></WorkflowExecution></Response>"
        );
        let answer = daemon.post("/callbacks/media?token=a%20token", &[], body);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    finish("run-1", "Failed");
    finish("run-2", "Failed");
    finish("run-3", "Success");
    soon("three events", || (astrom.events().len() == 3).then_some(()));
    let mut events = astrom.events();
    events.sort_by_key(|event| event["title"].to_string());
    let kinds: Vec<_> = events.iter().map(|event| event["eventType"].as_str().expect("a type")).collect();
    assert_eq!(kinds, ["ERROR_EVENT", "ERROR_EVENT", "CUSTOM_INFO"]);
    assert_eq!(events[0]["title"], "Transcode failed: b-1/in/run-1.mp4 (run-1)");
    assert_eq!(events[0]["properties"]["callbackd.bucket"], "b-1");
    assert_eq!(events[0]["properties"]["callbackd.failed_tasks"], "Snapshot_1: NoSuchKey: gone");
    soon("delivered", || (daemon.list(&["deliveries", "list", "--status", "delivered"]).len() == 3).then_some(()));

    let probe = daemon.cli(&["check", "--probe"]);
    assert!(probe.said().contains("token accepted"), "{probe:?}");
    astrom.disable_token(true);
    let probe = daemon.cli(&["check", "--probe"]);
    assert!(probe.code == Some(1), "{probe:?}");
    finish("run-4", "Failed");
    daemon.logged(|line| line["reason"].as_str().is_some_and(|reason| reason.starts_with("ASTROM refuses the token")));
    astrom.disable_token(false);
    daemon.cli(&["sinks", "resume", "astrom"]).said();
    soon("the fourth event", || (astrom.events().len() == 4).then_some(()));
    let kept = [daemon.log().into_bytes(), daemon.store_bytes()].concat();
    assert!(!kept.windows(7).any(|bytes| bytes == b"hunter2"), "a token is kept");
}
