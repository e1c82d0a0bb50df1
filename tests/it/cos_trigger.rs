//! The `cos_trigger` sink against a CI that is as strict as the real one.

use std::cell::RefCell;
use std::sync::Arc;

use callbackd::clock;
use callbackd::model::{Change, ChangeMeta, Delivery, Execution, Learned, Outcome, State, Status};
use callbackd::options::{BuildContext, Fault, Section};
use callbackd::outbound::Settings;
use callbackd::secret::Resolver;
use callbackd::sinks::{KINDS, Sink, Tried};
use serde_json::{Map, Value, json};

use crate::peers::ci::{BUCKET, FakeCi, SECRET_ID, SECRET_KEY, Twist, WORKFLOW};
use crate::peers::hook::Closed;

const OBJECT: &str = "in/游戏 1+2 & \"<3>\".mp4";
const LIST: &str = "GET /workflowexecution";
const TRIGGER: &str = "POST /triggerworkflow";

fn build(options: &str) -> Result<Box<dyn Sink>, Vec<Fault>> {
    let read = config::Config::builder().add_source(config::File::from_str(options, config::FileFormat::Toml)).build();
    let section = Section { key: "sinks.start".to_owned(), table: read.expect("TOML").cache };
    let secrets = Resolver { env: &|_| None, warnings: RefCell::default() };
    let sources = [("media".to_owned(), "cos_workflow".to_owned()), ("portal".to_owned(), "port_action".to_owned())];
    let outbound = Settings::default();
    let (name, instance) = ("start", "edge.example");
    let context = BuildContext { name, instance, secrets: &secrets, sources: &sources, outbound: &outbound };
    let kind = KINDS.iter().find(|kind| kind.name == "cos_trigger").expect("a kind");
    (kind.build)(&section, &context)
}

/// A later key stands over an earlier one.
fn sink(ci: &FakeCi, options: &str) -> Box<dyn Sink> {
    let of_id = if options.contains("workflow_id") { String::new() } else { format!("workflow_id = {WORKFLOW:?}\n") };
    let lines = ci.options();
    let kept = lines.lines().filter(|line| !options.contains(line.split(' ').next().unwrap_or_default()));
    let text = format!("{of_id}{}\n{options}", kept.collect::<Vec<_>>().join("\n"));
    build(&text).unwrap_or_else(|faults| panic!("{faults:?}\n{text}"))
}

/// The change that begins a Port run.
fn delivery(inputs: Value) -> Delivery {
    let execution = Execution {
        source: "portal".to_owned(),
        key: "r_AbCdEfGh12345678".to_owned(),
        name: Some("transcode".to_owned()),
        workflow: Some("transcode".to_owned()),
        subject: None,
        status: Status::Running,
        vendor_status: None,
        created_at: None,
        started_at: None,
        finished_at: None,
        inputs: Some(inputs),
        attributes: Map::new(),
    };
    let now = clock::now();
    let meta = ChangeMeta {
        kind: "callbackd.execution.running".to_owned(),
        sequence: 1,
        previous_status: None,
        changed_tasks: Vec::new(),
        overdue: false,
        receipt: Some("1".to_owned()),
        received_at: now,
    };
    let state = State { execution, tasks: Vec::new() };
    let change = Change { id: 3, execution_id: 2, state, links: Vec::new(), meta };
    Delivery {
        id: 1_700_000_000_000_001,
        change: Arc::new(change),
        attempts: 0,
        created_at: now,
        resume: None,
        trace: None,
    }
}

fn asks_for(object: &str) -> Delivery {
    delivery(json!({ "object": object }))
}

fn changed(delivery: &Delivery, change: impl FnOnce(&mut Change)) -> Delivery {
    let mut changed = (*delivery.change).clone();
    change(&mut changed);
    Delivery { change: Arc::new(changed), ..delivery.clone() }
}

async fn deliver(sink: &dyn Sink, delivery: &Delivery) -> Tried {
    let tried = sink.deliver(delivery, clock::now()).await;
    let said = format!("{tried:?} {:?}", sink.preview(delivery, clock::now()));
    for secret in [SECRET_ID, SECRET_KEY, "hunter2"] {
        assert!(!said.contains(secret), "a secret is kept or shown: {said}");
    }
    tried
}

fn learned(tried: &Tried) -> (&str, &Learned) {
    match &tried.outcome {
        Outcome::Delivered { note: Some(note), learned } => (note, learned.first().expect("an execution")),
        other => panic!("{other:?}"),
    }
}

fn rejected(tried: &Tried) -> &str {
    match &tried.outcome {
        Outcome::Reject { reason } => reason,
        other => panic!("{other:?}"),
    }
}

/// The delivery as it comes again after that try.
fn again(delivery: &Delivery, tried: &Tried) -> Delivery {
    match &tried.outcome {
        Outcome::Retry { resume, .. } => {
            Delivery { attempts: delivery.attempts + 1, resume: resume.clone(), ..delivery.clone() }
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_starts_the_workflow_and_learns_the_execution() {
    let ci = FakeCi::start();
    let sink = sink(&ci, "");
    let asks = asks_for(OBJECT);
    let tried = deliver(&*sink, &asks).await;
    let run = ci.executions()[0].run.clone();
    let (note, learned) = learned(&tried);
    assert_eq!((note, tried.status), (format!("started as {run}").as_str(), Some(200)));
    assert_eq!((learned.source.as_str(), learned.linked), ("media", true));
    let update = &learned.update;
    assert_eq!((&update.key, &update.identity, update.known_only), (&run, &None, false));
    let e = &update.execution;
    assert_eq!((e.status, e.workflow.as_deref()), (Some(Status::Running), Some(WORKFLOW)));
    assert_eq!(e.subject, Some(format!("{BUCKET}/{OBJECT}")));
    let attributes = json!({ "bucket": BUCKET, "object": OBJECT, "region": "ap-chongqing" });
    assert_eq!(Value::Object(e.attributes.clone()), attributes);

    let execution = &ci.executions()[0];
    assert_eq!((execution.workflow.as_str(), execution.object.as_str()), (WORKFLOW, OBJECT));
    assert_eq!(execution.name, "callbackd-edge-example-1700000000000001");
    let encoded = "in%2F%E6%B8%B8%E6%88%8F%201%2B2%20%26%20%22%3C3%3E%22.mp4";
    let requests = ci.requests();
    assert_eq!(requests.len(), 2, "{requests:?}");
    assert!(requests[0].starts_with(LIST), "{requests:?}");
    let trigger = format!("{TRIGGER}?workflowId={WORKFLOW}&object={encoded}&name={}", execution.name);
    assert_eq!(requests[1], trigger);
    // What is shown beforehand is what is sent.
    let preview = sink.preview(&asks, clock::now());
    assert_eq!(preview[0].action, trigger.replacen("POST ", &format!("POST {}", ci.url()), 1));
}

#[tokio::test]
async fn only_the_beginning_starts_something_unless_told_otherwise() {
    let ci = FakeCi::start();
    let (plain, asked) = (sink(&ci, ""), sink(&ci, "when = '.execution.status == \"failed\"'"));
    let later = |sequence, status| {
        changed(&asks_for("a.mp4"), |change| {
            (change.meta.sequence, change.state.execution.status) = (sequence, status);
        })
    };
    for (sequence, status, starts, starts_when) in [
        (1, Status::Running, true, false),
        (1, Status::Pending, true, false),
        (1, Status::Failed, false, true),
        (1, Status::Unknown, false, false),
        (2, Status::Running, false, false),
        (3, Status::Failed, false, true),
    ] {
        for (sink, starts) in [(&plain, starts), (&asked, starts_when)] {
            let before = ci.requests().len();
            let tried = deliver(&**sink, &later(sequence, status)).await;
            match tried.outcome {
                Outcome::Delivered { .. } => assert!(starts, "{sequence} {status}"),
                Outcome::Discard { .. } => assert!(!starts && ci.requests().len() == before, "{sequence} {status}"),
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn what_it_started_starts_nothing_over_again() {
    let ci = FakeCi::start();
    let own = |workflow: &str| {
        changed(&asks_for("a.mp4"), |change| {
            let execution = &mut change.state.execution;
            execution.source = "media".to_owned();
            execution.workflow = Some(workflow.to_owned());
            execution.attributes.insert("object".to_owned(), json!("a.mp4"));
        })
    };
    let tried = deliver(&*sink(&ci, ""), &own(WORKFLOW)).await;
    assert!(matches!(tried.outcome, Outcome::Discard { .. }), "{tried:?}");
    let chained = sink(&ci, "when = 'true'");
    assert!(rejected(&deliver(&*chained, &own(WORKFLOW)).await).contains("without an end"));
    assert!(ci.requests().is_empty());
    // The next workflow of a chain.
    learned(&deliver(&*chained, &own("w-before")).await);
}

#[tokio::test]
async fn what_names_no_object_is_a_dead_letter_that_says_so() {
    let ci = FakeCi::start();
    let cases = [
        ("", json!({}), "object: this change names no object"),
        ("", json!({ "object": null }), "object: this change names no object"),
        ("", json!({ "object": "" }), "object: this change names no object"),
        ("", json!({ "object": ["a"] }), "object: a key must be a text"),
        ("", json!({ "object": "a".repeat(1025) }), "longer than 1024"),
        ("object = '.execution.inputs | error'", json!({}), "object: "),
        ("workflow_id = '.execution.inputs.workflow'", json!({ "object": "a" }), "workflow_id: this change names no"),
    ];
    for (options, inputs, reason) in cases {
        let tried = deliver(&*sink(&ci, options), &delivery(inputs)).await;
        assert!(rejected(&tried).contains(reason), "{tried:?}");
    }
    assert!(ci.requests().is_empty());
}

#[tokio::test]
async fn programs_choose_workflow_object_and_name() {
    let ci = FakeCi::start();
    let sink = sink(
        &ci,
        "workflow_id = '.execution.inputs.flow'\nobject = '.execution.inputs.dir + \"/a.mp4\"'\n\
         name = '.execution.inputs.label'\nsource = \"media\"",
    );
    let label = "Клип 1/".to_owned() + &"长".repeat(200);
    let tried = deliver(&*sink, &delivery(json!({ "flow": WORKFLOW, "dir": "d", "label": label }))).await;
    learned(&tried);
    let execution = &ci.executions()[0];
    assert_eq!(execution.object, "d/a.mp4");
    let name = &execution.name;
    assert!(name.starts_with("Клип-1-长长") && name.ends_with("长-1700000000000001"), "{name}");
    assert_eq!(name.chars().count(), 128);
}

#[tokio::test]
async fn a_lost_answer_starts_nothing_twice() {
    let no_id = "<Response><RequestId>r</RequestId></Response>".to_owned();
    for twist in [Twist::LostAnswer, Twist::Garbled("<html>ok</html>".to_owned()), Twist::Garbled(no_id)] {
        let ci = FakeCi::start();
        let sink = sink(&ci, "");
        ci.script(TRIGGER, twist);
        let first = asks_for(OBJECT);
        let lost = deliver(&*sink, &first).await;
        let found = deliver(&*sink, &again(&first, &lost)).await;
        let (note, learned) = learned(&found);
        assert_eq!((learned.update.key.as_str(), note.contains("already")), (ci.executions()[0].run.as_str(), true));
        assert_eq!((ci.executions().len(), ci.asked(TRIGGER)), (1, 1));
        // Even a daemon that died before it wrote down that it tried finds it.
        let found = deliver(&*sink, &first).await;
        assert_eq!((self::learned(&found).1, ci.executions().len()), (learned, 1));
    }
}

#[tokio::test]
async fn where_names_tell_nothing_an_operator_decides() {
    let ci = FakeCi::start();
    ci.take_names_for_objects();
    let sink = sink(&ci, "");
    for n in 0..150 {
        ci.uploaded(&format!("another-{n}.mp4"));
    }
    ci.script(TRIGGER, Twist::LostAnswer);
    let first = asks_for(OBJECT);
    let lost = deliver(&*sink, &first).await;
    let second = again(&first, &lost);
    let tried = deliver(&*sink, &second).await;
    let run = ci.executions()[150].run.clone();
    assert!(rejected(&tried).contains(&run), "found on the second page: {tried:?}");
    assert_eq!(ci.asked(TRIGGER), 1);
    // The operator says that it is another's: attempts count anew.
    let retried = Delivery { attempts: 0, ..second };
    let tried = deliver(&*sink, &retried).await;
    let (note, _) = learned(&tried);
    assert!(note.starts_with("started as"), "{note}");
    assert_eq!(ci.executions().len(), 152);
}

#[tokio::test]
async fn what_certainly_started_nothing_leaves_no_doubt() {
    let ci = FakeCi::start();
    ci.take_names_for_objects();
    let sink = sink(&ci, "");
    // Somebody else works on the same object all the while.
    ci.uploaded(OBJECT);
    let busy = || Twist::Answer(429, String::new());
    ci.script(LIST, Twist::Broken);
    let mut delivery = asks_for(OBJECT);
    let tried = deliver(&*sink, &delivery).await;
    delivery = again(&delivery, &tried);
    ci.script(TRIGGER, busy());
    let tried = deliver(&*sink, &delivery).await;
    delivery = again(&delivery, &tried);
    // And while it was away altogether.
    let closed = Closed::reserve();
    let away = build(&format!(
        "workflow_id = {WORKFLOW:?}\nbucket = {BUCKET:?}\nurl = \"{}\"\nsecret_id = \"id\"\nsecret_key = \"key\"",
        closed.url().trim_end_matches("/hooks")
    ));
    let tried = deliver(&*away.unwrap_or_else(|faults| panic!("{faults:?}")), &delivery).await;
    delivery = again(&delivery, &tried);
    let since = delivery.created_at.micros();
    assert_eq!((delivery.attempts, &delivery.resume), (3, &Some(json!({ "certain": 3, "since": since }))));
    // A try that was cut off could say nothing, and leaves its doubt.
    let cut_off = Delivery { attempts: 4, ..delivery.clone() };
    assert!(rejected(&deliver(&*sink, &cut_off).await).contains("an earlier try may have started"));
    learned(&deliver(&*sink, &delivery).await);
    assert_eq!(ci.executions().len(), 2);
}

/// Tries are counted anew after an operator's retry; what earlier ones certainly did not start is not.
#[tokio::test]
async fn a_lost_answer_after_an_operators_retry_leaves_its_doubt() {
    let ci = FakeCi::start();
    ci.take_names_for_objects();
    let sink = sink(&ci, "");
    let mut delivery = asks_for(OBJECT);
    for _ in 0..3 {
        ci.script(TRIGGER, Twist::Answer(429, String::new()));
        let tried = deliver(&*sink, &delivery).await;
        delivery = again(&delivery, &tried);
    }
    let retried = Delivery { attempts: 0, created_at: delivery.created_at.plus_ms(1), ..delivery };
    ci.script(TRIGGER, Twist::LostAnswer);
    let lost = deliver(&*sink, &retried).await;
    let tried = deliver(&*sink, &again(&retried, &lost)).await;
    assert!(rejected(&tried).contains("an earlier try may have started"), "{tried:?}");
    assert_eq!(ci.executions().len(), 1);
}

#[tokio::test]
async fn a_list_too_long_to_look_through_leaves_its_doubt() {
    let ci = FakeCi::start();
    ci.take_names_for_objects();
    let sink = sink(&ci, "");
    for n in 0..1000 {
        ci.uploaded(&format!("another-{n}.mp4"));
    }
    ci.script(TRIGGER, Twist::LostAnswer);
    let first = asks_for(OBJECT);
    let lost = deliver(&*sink, &first).await;
    let tried = deliver(&*sink, &again(&first, &lost)).await;
    assert!(rejected(&tried).contains("too many began since"), "{tried:?}");
    assert_eq!(ci.asked(TRIGGER), 1);
}

#[tokio::test]
async fn a_request_that_never_arrived_is_made_again() {
    let ci = FakeCi::start();
    let sink = sink(&ci, "");
    ci.script(TRIGGER, Twist::Broken);
    let first = asks_for(OBJECT);
    let lost = deliver(&*sink, &first).await;
    learned(&deliver(&*sink, &again(&first, &lost)).await);
    assert_eq!((ci.executions().len(), ci.asked(TRIGGER)), (1, 2));
}

#[tokio::test]
async fn a_refused_credential_halts_and_a_refused_workflow_is_a_dead_letter() {
    let ci = FakeCi::start();
    ci.want_token("hunter2-token");
    let halts = [
        ("secret_key = \"hunter2-wrong\"", "check secret_key"),
        ("secret_id = \"hunter2-other\"", "check secret_id"),
        ("security_token = \"hunter2-expired\"", "InvalidToken"),
        ("", "InvalidToken"),
    ];
    for (options, reason) in halts {
        let with_token =
            if options.contains("token") || options.is_empty() { "" } else { "\nsecurity_token = \"hunter2-token\"" };
        let tried = deliver(&*sink(&ci, &format!("{options}{with_token}")), &asks_for(OBJECT)).await;
        let Outcome::Halt { reason: said, resume: None } = &tried.outcome else { panic!("{options}: {tried:?}") };
        assert!(said.contains(reason) && tried.status == Some(403), "{options}: {said}");
        let kept = tried.answer.expect("an answer");
        assert!(!kept.contains("sha1") && !kept.contains("host="), "what was signed is not kept: {kept}");
    }
    let token = "security_token = \"hunter2-token\"";
    learned(&deliver(&*sink(&ci, token), &asks_for(OBJECT)).await);
    let unknown = sink(&ci, &format!("workflow_id = \"w0\"\n{token}"));
    assert!(rejected(&deliver(&*unknown, &asks_for(OBJECT)).await).contains("NoSuchWorkflow"));
    assert_eq!(ci.executions().len(), 1);
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_waited_for() {
    let ci = FakeCi::start();
    let sink = sink(&ci, "");
    let asks = asks_for(OBJECT);
    for away_ms in [0, 3_600_000] {
        let now = callbackd::model::Time::from_micros(clock::now().micros() - 1000 * away_ms);
        let tried = sink.deliver(&asks, now).await;
        match tried.outcome {
            Outcome::Delivered { .. } => assert_eq!(away_ms, 0),
            Outcome::Retry { reason, .. } => assert!(away_ms > 0 && reason.contains("clock"), "{reason}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_probe_reads_and_changes_nothing() {
    let ci = FakeCi::start();
    let said = sink(&ci, "").probe().await.expect("fine");
    assert!(said.contains(WORKFLOW), "{said}");
    let refused = sink(&ci, "secret_key = \"hunter2-wrong\"").probe().await.expect_err("refused");
    assert!(refused.contains("SignatureDoesNotMatch") && !refused.contains("hunter2"), "{refused}");
    let either = sink(&ci, "workflow_id = '.execution.inputs.flow'").probe().await.expect("nothing to do");
    assert!(either.contains("nothing to probe"), "{either}");
    assert_eq!((ci.asked(LIST), ci.executions().len()), (2, 0));
}
