//! The `secmaster` sink against a Huawei Cloud that is as strict as the real one.

use std::cell::RefCell;
use std::sync::Arc;

use callbackd::model::{Change, ChangeMeta, Delivery, Execution, Learned, Link, Outcome, State, Status, Time, WaitFor};
use callbackd::options::{BuildContext, Fault, Section};
use callbackd::outbound::Settings;
use callbackd::secret::Resolver;
use callbackd::signature;
use callbackd::sinks::{KINDS, Sink, Tried};
use serde_json::{Map, Value, json};

use crate::daemon::{Daemon, PATIENCE, soon};
use crate::peers::port::{CLIENT_ID, CLIENT_SECRET, FakePort};
use crate::peers::secmaster::{
    ACCESS_KEY, FakeSecmaster, How, PASSWORD, PROJECT, REGION, REQUEST_ID, SECRET_KEY, SECURITY_TOKEN, WORKFLOW,
    WORKSPACE,
};

const RUN: &str = "r_AbCdEfGh12345678";

fn now() -> Time {
    Time::from_seconds(1_700_000_000)
}

fn start_line() -> String {
    format!("POST /workflows/{WORKFLOW}/instances")
}

fn build(options: &str) -> Result<Box<dyn Sink>, Vec<Fault>> {
    let read = config::Config::builder().add_source(config::File::from_str(options, config::FileFormat::Toml)).build();
    let section = Section { key: "sinks.soc".to_owned(), table: read.expect("TOML").cache };
    let secrets = Resolver { env: &|_| None, warnings: RefCell::default() };
    let context =
        BuildContext { name: "soc", instance: "test", secrets: &secrets, sources: &[], outbound: &Settings::default() };
    let kind = KINDS.iter().find(|kind| kind.name == "secmaster").expect("a kind");
    (kind.build)(&section, &context)
}

fn ids() -> String {
    format!("project_id = {PROJECT:?}\nworkspace_id = {WORKSPACE:?}\nworkflow_id = {WORKFLOW:?}\n")
}

fn key() -> String {
    format!("access_key = {ACCESS_KEY:?}\nsecret_key = {SECRET_KEY:?}\n")
}

fn password(cloud: &FakeSecmaster) -> String {
    let iam = cloud.url();
    format!(
        "region = {REGION:?}\niam_url = {iam:?}\ndomain = \"acme\"\nuser = \"callbackd\"\npassword = {PASSWORD:?}\n"
    )
}

fn sink_with(cloud: &FakeSecmaster, credentials: &str, options: &str) -> Arc<dyn Sink> {
    let url = cloud.url();
    let built = build(&format!("url = {url:?}\n{}{credentials}{options}", ids()));
    built.unwrap_or_else(|faults| panic!("{faults:?}")).into()
}

fn sink(cloud: &FakeSecmaster, options: &str) -> Arc<dyn Sink> {
    sink_with(cloud, &key(), options)
}

fn cloud() -> FakeSecmaster {
    let cloud = FakeSecmaster::start();
    cloud.set_clock(now());
    cloud
}

fn change() -> Change {
    let execution = Execution {
        source: "portal".to_owned(),
        key: RUN.to_owned(),
        name: Some("block".to_owned()),
        workflow: None,
        subject: Some("bucket/in/сбой 失败.mp4".to_owned()),
        status: Status::Running,
        vendor_status: None,
        created_at: None,
        started_at: None,
        finished_at: None,
        inputs: Some(json!({"address": "192.0.2.7"})),
        attributes: Map::new(),
    };
    let meta = ChangeMeta {
        kind: "callbackd.execution.running".to_owned(),
        sequence: 1,
        previous_status: None,
        changed_tasks: Vec::new(),
        overdue: false,
        receipt: None,
        received_at: now(),
    };
    Change { id: 41, execution_id: 5, state: State { execution, tasks: Vec::new() }, links: Vec::new(), meta }
}

fn delivery(id: i64) -> Delivery {
    Delivery { id, change: Arc::new(change()), attempts: 0, created_at: now(), resume: None, trace: None }
}

/// Delivers, and makes sure that no credential is in anything that is kept.
async fn deliver_at(sink: &dyn Sink, delivery: &Delivery, now: Time) -> Tried {
    let tried = tokio::time::timeout(PATIENCE, sink.deliver(delivery, now)).await.expect("an end");
    let shown = format!("{tried:?} {:?}", sink.preview(delivery, now));
    assert!(!shown.contains("hunter2") && !shown.contains("Signature="), "a credential is kept: {shown}");
    tried
}

async fn deliver(sink: &dyn Sink, delivery: &Delivery) -> Tried {
    deliver_at(sink, delivery, now()).await
}

/// The next try of what comes again.
fn again(delivery: &Delivery, tried: &Tried) -> Delivery {
    let (attempts, resume) = match &tried.outcome {
        Outcome::Retry { resume, .. } => (delivery.attempts + 1, resume),
        Outcome::Wait { resume, .. } | Outcome::Halt { resume, .. } => (delivery.attempts, resume),
        other => panic!("to come again: {other:?}"),
    };
    Delivery { attempts, resume: resume.clone(), ..delivery.clone() }
}

fn note(tried: &Tried) -> &str {
    let Outcome::Delivered { note: Some(note), .. } = &tried.outcome else { panic!("with a note: {tried:?}") };
    note
}

fn halted(tried: &Tried) -> &str {
    let Outcome::Halt { reason, .. } = &tried.outcome else { panic!("to halt: {tried:?}") };
    reason
}

/// What it waits for, how long, and what was learned.
fn waits(tried: &Tried, since: Time) -> (&str, u64, &[Learned]) {
    let Outcome::Wait { wait_for: WaitFor::Peer(what), until, learned, .. } = &tried.outcome else {
        panic!("to wait: {tried:?}")
    };
    (what, until.ms_since(since), learned)
}

fn said(learned: &[Learned]) -> Vec<(Option<Status>, Option<&str>)> {
    assert!(learned.iter().all(|learned| learned.source == "soc" && learned.linked), "{learned:?}");
    learned.iter().map(|l| (l.update.execution.status, l.update.execution.vendor_status.as_deref())).collect()
}

#[tokio::test]
async fn a_change_starts_a_workflow_once_whatever_its_tries() {
    let cloud = cloud();
    let sink = sink(&cloud, "");
    let first = delivery(7);
    let tried = deliver(&*sink, &first).await;
    let ids = cloud.starts();
    let [id] = &ids[..] else { panic!("one start: {ids:?}") };
    assert_eq!(note(&tried), format!("workflow instance {id} is started; request {REQUEST_ID}"));
    assert_eq!(id.len(), 36);
    assert_eq!(&id[14..15], "8", "a UUID of version 8: {id}");

    let seen = cloud.requests().remove(0);
    assert_eq!(seen.line, start_line());
    let content = serde_json::to_value(change()).expect("JSON");
    let expected = json!({
        "command_type": "ActionInstanceRunCommand", "action_type": "workflow", "action_id": WORKFLOW,
        "action_instance_id": id,
        "playbook_context": {"data_object": {"dataclass": {"name": "Alert"}, "content": content}},
    });
    assert_eq!(seen.body, expected);

    // Tried again: it is there, and is not started again. Another delivery's is another.
    let late = Delivery { attempts: 1, ..first.clone() };
    let tried = deliver(&*sink, &late).await;
    assert_eq!(note(&tried), format!("workflow instance {id} was started before"));
    let tried = deliver_at(&*sink, &first, now().plus_ms(2_000)).await;
    assert_eq!(note(&tried), format!("workflow instance {id} was started before"), "its first try left no trace");
    deliver(&*sink, &delivery(8)).await;
    let ids = cloud.starts();
    assert!(ids.len() == 2 && ids[0] != ids[1], "{ids:?}");

    // A try whose fate is unknown, with SecMaster that never heard of it, starts it after all.
    cloud.forget_instances();
    deliver(&*sink, &late).await;
    assert_eq!(cloud.starts(), [&ids[0], &ids[1], &ids[0]].map(String::clone));
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_is_not_repeated() {
    for done in [true, false] {
        let cloud = cloud();
        let sink = sink(&cloud, "");
        cloud.script("POST", How::Broken { done });
        let first = delivery(7);
        let tried = deliver(&*sink, &first).await;
        let tried = deliver(&*sink, &again(&first, &tried)).await;
        assert!(matches!(tried.outcome, Outcome::Delivered { .. }), "{tried:?}");
        assert_eq!(cloud.starts().len(), 1);
    }
}

#[tokio::test]
async fn content_and_dataclass_are_the_operators() {
    let cloud = cloud();
    let options = "dataclass = \"Incident\"\ndataclass_id = \"d-1\"\n\
                   content = '{run_id: .execution.key, address: .execution.inputs.address}'";
    deliver(&*sink(&cloud, options), &delivery(1)).await;
    deliver(&*sink(&cloud, "dataclass = \"\""), &delivery(2)).await;
    let objects: Vec<_> =
        cloud.requests().into_iter().map(|seen| seen.body["playbook_context"]["data_object"].clone()).collect();
    let content = json!({"run_id": RUN, "address": "192.0.2.7"});
    assert_eq!(objects[0], json!({"dataclass": {"id": "d-1", "name": "Incident"}, "content": content}));
    assert!(objects[1].get("dataclass").is_none() && objects[1]["content"]["execution"].is_object());
    for (program, expected) in [
        (".execution.key", "content: the program's result is no object"),
        ("empty", "content: the program's result is no object"),
        ("error", "content: "),
    ] {
        let tried = deliver(&*sink(&cloud, &format!("content = {program:?}")), &delivery(3)).await;
        let Outcome::Reject { reason } = &tried.outcome else { panic!("{tried:?}") };
        assert!(reason.starts_with(expected), "{reason}");
    }
    let mut large = change();
    large.state.execution.inputs = Some(json!("x".repeat(13 << 20)));
    let tried = deliver(&*sink(&cloud, ""), &Delivery { change: Arc::new(large), ..delivery(4) }).await;
    let Outcome::Reject { reason } = &tried.outcome else { panic!("{tried:?}") };
    assert!(reason.contains("are more than SecMaster takes; write a `content` that says less"), "{reason}");
    assert_eq!(cloud.requests().len(), 2);
}

#[tokio::test]
async fn a_security_token_is_signed_too() {
    let cloud = cloud();
    cloud.want_security_token();
    let credentials = format!("{}security_token = {SECURITY_TOKEN:?}\n", key());
    let sink = sink_with(&cloud, &credentials, "");
    let tried = deliver(&*sink, &delivery(1)).await;
    assert!(matches!(tried.outcome, Outcome::Delivered { .. }), "{tried:?}");
    assert_eq!(cloud.requests()[0].headers["x-security-token"], SECURITY_TOKEN);
}

#[tokio::test]
async fn a_wrong_credential_is_tried_once_however_many_wait() {
    let texts = [
        (format!("access_key = \"hunter2-another\"\nsecret_key = {SECRET_KEY:?}\n"), "no such access_key"),
        (
            format!("access_key = {ACCESS_KEY:?}\nsecret_key = \"hunter2-another\"\n"),
            "the gateway saw the request as it was signed: secret_key is wrong",
        ),
    ];
    for (credentials, expected) in texts {
        let cloud = cloud();
        let sink = sink_with(&cloud, &credentials, "");
        let tries: Vec<_> = (0..20)
            .map(|id| {
                let sink = Arc::clone(&sink);
                tokio::spawn(async move { deliver(&*sink, &delivery(id)).await })
            })
            .collect();
        for tried in tries {
            let tried = tried.await.expect("no panic");
            assert!(halted(&tried).contains(expected), "{tried:?}");
        }
        assert_eq!(cloud.requests().len(), 1);
        // An operator resumes it: the next one tries again, alone.
        let tried = deliver(&*sink, &delivery(30)).await;
        assert!(halted(&tried).starts_with("the credential is refused: "), "{tried:?}");
        assert_eq!((cloud.requests().len(), tried.status), (2, Some(401)));
        let kept = tried.answer.expect("an answer");
        assert_eq!(
            serde_json::from_str::<Value>(&kept).expect("JSON"),
            json!({"error_code": "APIGW.0301", "request_id": REQUEST_ID,
                   "error_msg": "[left out: it may repeat the request]"})
        );
    }
}

#[tokio::test]
async fn a_key_that_stops_working_is_not_locked() {
    let cloud = cloud();
    let sink = sink(&cloud, "");
    let all = async || {
        let one = |id| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move { deliver(&*sink, &delivery(id)).await })
        };
        let tries: Vec<_> = (0..20).map(one).collect();
        let mut done = Vec::new();
        for tried in tries {
            done.push(tried.await.expect("no panic"));
        }
        done
    };
    assert!(all().await.iter().all(|tried| matches!(tried.outcome, Outcome::Delivered { .. })));
    assert_eq!(cloud.requests().len(), 20);
    assert!(cloud.most_in_flight() <= 3, "{}", cloud.most_in_flight());
    cloud.set_access_key("another");
    assert!(all().await.iter().all(|tried| matches!(tried.outcome, Outcome::Halt { .. })));
    let refused = cloud.requests().len() - 20;
    assert!(refused <= 3, "{refused} refusals");
}

#[tokio::test]
async fn a_clock_that_is_off_is_corrected_once_and_remembered() {
    for ahead_s in [3_600, -86_400] {
        let cloud = cloud();
        let server = Time::from_seconds(now().seconds() + ahead_s);
        cloud.set_clock(server);
        let sink = sink(&cloud, "");
        for id in [1, 2] {
            let tried = deliver(&*sink, &delivery(id)).await;
            assert!(matches!(tried.outcome, Outcome::Delivered { .. }), "{tried:?}");
        }
        let statuses: Vec<_> = cloud.lines().into_iter().map(|(_, status)| status).collect();
        assert_eq!(statuses, [401, 200, 200]);
        // This machine's clock is set right: the correction is corrected.
        let tried = deliver_at(&*sink, &Delivery { created_at: server, ..delivery(3) }, server).await;
        assert!(matches!(tried.outcome, Outcome::Delivered { .. }), "{tried:?}");
        assert_eq!(cloud.requests().len(), 5);
    }
    // The date of the answer serves where the text has no time; and what does not help is not tried again.
    let cloud = cloud();
    cloud.set_clock(now().plus_ms(3_600_000));
    let sink = sink(&cloud, "");
    let expired = |text: &str| How::Answer(401, json!({"error_code": "APIGW.0301", "error_msg": text}).to_string());
    cloud.script("POST", expired("signature expired"));
    assert!(matches!(deliver(&*sink, &delivery(1)).await.outcome, Outcome::Delivered { .. }));
    cloud.script("POST", expired("signature expired, signature time:x,server time:20231114T231320Z"));
    let tried = deliver(&*sink, &delivery(2)).await;
    assert!(halted(&tried).contains("too far from the gateway's clock"), "{tried:?}");
    assert_eq!(cloud.requests().len(), 3);
}

#[tokio::test]
async fn every_shape_of_a_refusal_is_read_and_said_in_words() {
    use Expected::{Halt, Reject, Retry};
    #[derive(Debug, PartialEq)]
    enum Expected {
        Halt,
        Reject,
        Retry(Option<u64>),
    }
    let gateway =
        |code: &str, text: &str| json!({"error_code": code, "error_msg": text, "request_id": "q1"}).to_string();
    let secmaster = |code: &str, text: &str| json!({"code": code, "message": text}).to_string();
    let throttling = "The throttling threshold has been reached: policy user over ratelimit,limit:60,time:1 minute";
    let cases = [
        (
            400,
            gateway("APIGW.0201", "Bad request"),
            Reject,
            "APIGW.0201: the gateway could not pass the request on: Bad request",
        ),
        (401, gateway("APIGW.0301", "decrypt token fail"), Halt, "the credential is refused: the signature is wrong"),
        (401, secmaster("SecMaster.1", "no"), Halt, "the credential is refused: SecMaster.1: no"),
        (403, gateway("APIGW.0302", "not allowed"), Halt, "this IAM user may not do this"),
        (403, secmaster("SecMaster.20010001", "no workspace"), Halt, "there is no such workspace"),
        (400, secmaster("SecMaster.20011003", "no workspace"), Halt, "there is no such workspace"),
        (
            400,
            secmaster("SecMaster.20030005", "not found"),
            Reject,
            "there is no such object (SecMaster says so with 400); check workflow_id: not found",
        ),
        (400, secmaster("SecMaster.20048004", "no rule"), Reject, "no such version or rule of a playbook"),
        (404, gateway("APIGW.0101", "no"), Halt, "region or url is wrong"),
        (413, gateway("APIGW.0201", "too large"), Reject, "413"),
        (494, gateway("APIGW.0201", "too large"), Reject, "494"),
        (429, gateway("APIGW.0308", throttling), Retry(Some(2_000)), "limit:60,time:1 minute"),
        (502, gateway("APIGW.0201", "Backend unavailable"), Retry(None), "Backend unavailable; request "),
        (504, gateway("APIGW.0201", "Backend timeout"), Retry(None), "Backend timeout"),
        (400, json!({"errorCode": "E.1", "errorMsg": "one more shape"}).to_string(), Reject, "E.1: one more shape"),
        (
            400,
            json!({"error": {"code": 4001, "message": "one level down"}}).to_string(),
            Reject,
            "4001: one level down",
        ),
        (
            200,
            json!({"success": false, "code": "SecMaster.2", "message": "no"}).to_string(),
            Reject,
            "it is not taken: SecMaster.2: no",
        ),
        (200, gateway("SecMaster.00092013", "quota"), Reject, "SecMaster.00092013: quota"),
        (503, "<html>busy</html>".to_owned(), Retry(None), "<html>busy</html>"),
        (400, String::new(), Reject, "answered 400 Bad Request; request "),
    ];
    for (status, body, expected, words) in cases {
        let cloud = cloud();
        cloud.script("POST", How::Answer(status, body.clone()));
        let tried = deliver(&*sink(&cloud, ""), &delivery(1)).await;
        let (found, reason) = match &tried.outcome {
            Outcome::Halt { reason, .. } => (Halt, reason),
            Outcome::Reject { reason } => (Reject, reason),
            Outcome::Retry { after_ms, reason, .. } => (Retry(*after_ms), reason),
            other => panic!("{other:?}"),
        };
        assert_eq!(found, expected, "{status} {body}: {reason}");
        assert!(reason.contains(words) && reason.contains(REQUEST_ID), "{status} {body}: {reason}");
    }
}

#[tokio::test]
async fn a_token_is_fetched_once_for_all_and_renewed_before_it_ends() {
    let cloud = cloud();
    let sink = sink_with(&cloud, &password(&cloud), "");
    let one = |id, at: Time| {
        let sink = Arc::clone(&sink);
        tokio::spawn(async move { deliver_at(&*sink, &Delivery { created_at: at, ..delivery(id) }, at).await })
    };
    let tries: Vec<_> = (0..10).map(|id| one(id, now())).collect();
    for tried in tries {
        let tried = tried.await.expect("no panic");
        assert!(matches!(tried.outcome, Outcome::Delivered { .. }), "{tried:?}");
    }
    assert_eq!((cloud.tokens_issued(), cloud.starts().len()), (1, 10));
    let seen = cloud.requests();
    assert!(seen[1].headers["x-auth-token"].to_str().expect("ASCII").starts_with("hunter2-token-1"));
    assert!(!seen[1].headers.contains_key("authorization"));

    one(20, now().plus_ms(86_400_000 - 301_000)).await.expect("no panic");
    assert_eq!(cloud.tokens_issued(), 1);
    one(21, now().plus_ms(86_400_000 - 299_000)).await.expect("no panic");
    assert_eq!(cloud.tokens_issued(), 2, "five minutes before its end");

    // All of them meet an ended token; one fetch serves them all.
    cloud.end_tokens();
    let tries: Vec<_> = (30..40).map(|id| one(id, now())).collect();
    for tried in tries {
        let tried = tried.await.expect("no panic");
        assert!(matches!(tried.outcome, Outcome::Delivered { .. }), "{tried:?}");
    }
    assert_eq!(cloud.tokens_issued(), 3);
}

#[tokio::test]
async fn a_token_is_renewed_once_and_a_wrong_password_is_told_once() {
    let cloud = cloud();
    let sink = sink_with(&cloud, &password(&cloud), "");
    let ended =
        || How::Answer(401, json!({"error_code": "APIGW.0307", "error_msg": "The token must be updated."}).to_string());
    cloud.script("POST /workflows", ended());
    cloud.script("POST /workflows", ended());
    let tried = deliver(&*sink, &delivery(1)).await;
    assert!(halted(&tried).contains("the token has ended, or is of another region"), "{tried:?}");
    assert_eq!(cloud.tokens_issued(), 2);

    let wrong = password(&cloud).replace(PASSWORD, "hunter2-wrong");
    let sink = sink_with(&cloud, &wrong, "");
    let before = cloud.requests().len();
    let tries: Vec<_> = (0..10)
        .map(|id| {
            let sink = Arc::clone(&sink);
            tokio::spawn(async move { deliver(&*sink, &delivery(id)).await })
        })
        .collect();
    for tried in tries {
        let tried = tried.await.expect("no panic");
        assert!(halted(&tried).contains("IAM refuses domain, user and password"), "{tried:?}");
    }
    assert_eq!(cloud.requests().len() - before, 1);
    assert_eq!(cloud.take_faults(), Vec::<String>::new());
}

#[tokio::test]
async fn a_token_of_a_short_life_is_used_for_most_of_it() {
    let cloud = cloud();
    let sink = sink_with(&cloud, &password(&cloud), "");
    cloud.set_token_ends(now().plus_ms(10_000));
    deliver(&*sink, &delivery(1)).await;
    deliver(&*sink, &delivery(2)).await;
    assert_eq!(cloud.tokens_issued(), 1);
    deliver_at(&*sink, &delivery(3), now().plus_ms(9_500)).await;
    assert_eq!(cloud.tokens_issued(), 2);
}

#[tokio::test]
async fn an_instance_is_followed_to_its_end() {
    for (word, status) in
        [("FINISHED", Status::Succeeded), ("FAILED", Status::Failed), ("TERMINATED", Status::Cancelled)]
    {
        let cloud = cloud();
        cloud.set_course(&["RUNNING", "RETRYING", "SOMETHING", word]);
        let sink = sink(&cloud, "follow = true");
        let first = delivery(1);
        let mut tried = deliver(&*sink, &first).await;
        let id = cloud.starts().remove(0);
        let (what, pause_ms, learned) = waits(&tried, now());
        assert_eq!((what, pause_ms), (&*format!("workflow instance {id} is RUNNING"), 10_000));
        assert_eq!(said(learned), [(Some(Status::Running), Some("RUNNING"))]);
        let update = &learned[0].update;
        assert_eq!((&update.key, update.execution.workflow.as_deref()), (&id, Some(WORKFLOW)));
        assert_eq!(update.execution.subject.as_deref(), Some("bucket/in/сбой 失败.mp4"));
        assert_eq!(update.execution.attributes["request_id"], REQUEST_ID);

        // The longer it runs, the longer the pause.
        let mut next = again(&first, &tried);
        for (after_ms, pause_ms, expected) in [
            (10_000, 10_000, vec![]),
            (20_000, 10_000, vec![(Some(Status::Running), Some("RETRYING"))]),
            (600_000, 60_000, vec![(Some(Status::Unknown), Some("SOMETHING"))]),
        ] {
            let at = now().plus_ms(after_ms);
            tried = deliver_at(&*sink, &next, at).await;
            let (_, pause, learned) = waits(&tried, at);
            assert_eq!((pause, said(learned)), (pause_ms, expected));
            next = again(&next, &tried);
        }
        let tried = deliver_at(&*sink, &next, now().plus_ms(660_000)).await;
        assert_eq!(note(&tried), format!("workflow instance {id} is {word}"));
        let Outcome::Delivered { learned, .. } = &tried.outcome else { panic!("{tried:?}") };
        assert_eq!(said(learned), [(Some(status), Some(word))]);
        let ended = &learned[0].update.execution;
        assert_eq!(ended.finished_at, Time::parse("2023-11-14T22:14:00Z"));
        assert_eq!((ended.name.as_deref(), ended.started_at), (Some("Block"), Some(now())));
        assert_eq!(cloud.starts().len(), 1);
    }
}

#[tokio::test]
async fn an_instance_that_secmaster_names_itself_is_followed_under_that_name() {
    let cloud = cloud();
    cloud.give_own_ids();
    let sink = sink(&cloud, "follow = true");
    let first = delivery(1);
    let tried = deliver(&*sink, &first).await;
    assert_eq!(waits(&tried, now()).2[0].update.key, "own-1");
    let tried = deliver(&*sink, &again(&first, &tried)).await;
    assert!(waits(&tried, now()).0.contains("own-1"));
    assert_eq!(cloud.lines()[1].0, "GET /workflows/instances/own-1");
}

#[tokio::test]
async fn a_followed_instance_survives_what_happens_on_the_way() {
    let cloud = cloud();
    let sink = sink(&cloud, "follow = true");
    let first = delivery(1);
    let tried = deliver(&*sink, &first).await;
    let waiting = again(&first, &tried);
    let id = cloud.starts().remove(0);
    let forbidden = json!({"error_code": "APIGW.0302", "error_msg": "no"}).to_string();
    for how in [
        How::Answer(503, String::new()),
        How::Answer(401, "{}".to_owned()),
        How::Answer(403, forbidden),
        How::Broken { done: true },
    ] {
        cloud.script("GET", how);
        let tried = deliver(&*sink, &waiting).await;
        assert_eq!(again(&waiting, &tried).resume, waiting.resume, "{tried:?}");
    }
    // Given up on while SecMaster was away, and retried by an operator: what it had started is known by the link.
    let link = Link { source: "soc".to_owned(), key: id.clone(), execution: "9".to_owned() };
    let change = Change { links: vec![link], ..change() };
    let retried = Delivery { change: Arc::new(change), ..delivery(1) };
    cloud.set_instance(&id, &["FINISHED"]);
    let tried = deliver(&*sink, &retried).await;
    assert_eq!(note(&tried), format!("workflow instance {id} is FINISHED"));
    // A try that started it and left no trace: learned is both, in order.
    let tried = deliver(&*sink, &Delivery { attempts: 1, ..delivery(1) }).await;
    let Outcome::Delivered { learned, .. } = &tried.outcome else { panic!("{tried:?}") };
    assert_eq!(said(learned), [(Some(Status::Running), Some("RUNNING")), (Some(Status::Succeeded), Some("FINISHED"))]);
    assert_eq!(cloud.starts().len(), 1);
}

#[tokio::test]
async fn an_instance_is_not_followed_for_ever() {
    let cloud = cloud();
    let sink = sink(&cloud, "follow = true\nfollow_within = \"1h\"");
    let first = delivery(1);
    let started = deliver(&*sink, &first).await;
    let id = cloud.starts().remove(0);
    let waiting = again(&first, &started);
    let at = now().plus_ms(3_590_000);
    let tried = deliver_at(&*sink, &waiting, at).await;
    assert_eq!(waits(&tried, at).1, 10_000, "the last look is at the end");
    let given_up = |tried: &Tried, expected: &str| {
        assert_eq!(note(tried), format!("workflow instance {id} {expected}; it is followed no longer"));
        let Outcome::Delivered { learned, .. } = &tried.outcome else { panic!("{tried:?}") };
        assert_eq!(said(learned), [(Some(Status::Unknown), Some("RUNNING"))]);
    };
    let tried = deliver_at(&*sink, &waiting, now().plus_ms(3_600_000)).await;
    given_up(&tried, "is still RUNNING after 1h");
    // It may not be seen at once; but not for long.
    cloud.forget_instances();
    let at = now().plus_ms(20_000);
    let tried = deliver_at(&*sink, &waiting, at).await;
    assert!(waits(&tried, at).0.starts_with(&format!("workflow instance {id} is not to be seen: answered 400")));
    let tried = deliver_at(&*sink, &waiting, now().plus_ms(300_000)).await;
    assert!(note(&tried).contains("was started, and cannot be followed: answered 400"), "{tried:?}");
    // What does not say that there is no such instance says nothing: it is followed to the last.
    for how in [How::Answer(403, "<html>a proxy</html>".to_owned()), How::Answer(200, "{}".to_owned())] {
        cloud.script("GET", how.clone());
        let at = now().plus_ms(3_599_000);
        let tried = deliver_at(&*sink, &waiting, at).await;
        assert!(waits(&tried, at).0.contains("is not to be seen: "), "{tried:?}");
        cloud.script("GET", how);
        let tried = deliver_at(&*sink, &waiting, now().plus_ms(3_600_000)).await;
        assert!(note(&tried).contains("was started, and cannot be followed: "), "{tried:?}");
    }
    // A configuration that follows nothing does not start it again.
    let off = self::sink(&cloud, "");
    given_up(&deliver(&*off, &waiting).await, "was started, and `follow` is off now");
    assert_eq!(cloud.starts().len(), 1);
}

#[tokio::test]
async fn a_probe_says_whether_the_workflow_is_there_and_enabled() {
    let cloud = FakeSecmaster::start();
    let probe = async || sink(&cloud, "").probe().await;
    assert_eq!(probe().await, Ok("workflow \"Block\" is there and enabled".to_owned()));
    let others: Vec<_> = (0..250).map(|n| json!({"id": format!("w-{n}"), "name": "x", "enabled": true})).collect();
    let with = |last: Value| [&others[..], &[last]].concat();
    cloud.set_workflows(with(json!({"id": WORKFLOW, "name": "Block", "enabled": false})));
    assert_eq!(probe().await, Err("workflow \"Block\" is there, but not enabled".to_owned()));
    let pages: Vec<_> = cloud.lines().into_iter().skip(1).map(|(line, _)| line).collect();
    let page = |offset| format!("GET /workflows?limit=100&offset={offset}");
    assert_eq!(pages, [page(0), page(100), page(200)]);
    cloud.set_workflows(others.clone());
    assert_eq!(probe().await, Err(format!("the workspace has no workflow {WORKFLOW}, but 250 others")));
    // However many there are.
    cloud.set_workflows(others.iter().cycle().take(20_000).cloned().collect());
    let said = probe().await.expect_err("not there");
    assert!(said.ends_with("but 10100 others"), "{said}");
    cloud.set_workflows(Vec::new());
    cloud.set_access_key("another");
    let said = probe().await.expect_err("refused");
    assert!(said.contains("no such access_key") && !said.contains("hunter2"), "{said}");
    cloud.set_access_key(ACCESS_KEY);
    cloud.set_clock(Time::from_seconds(callbackd::clock::now().seconds() + 3_600));
    cloud.set_workflows(vec![json!({"id": WORKFLOW, "name": "Block", "enabled": true})]);
    let said = probe().await.expect("corrected");
    assert!(said.contains("; this machine's clock is -3"), "{said}");
    assert!(cloud.starts().is_empty(), "nothing is changed there");
}

#[test]
fn wrong_options_are_named_with_what_to_write() {
    let ids = ids();
    let key = key();
    let cases = [
        (format!("{ids}{key}"), "sinks.soc.region: has to be written, like \"cn-north-4\"; or a url"),
        (format!("region = \"CN NORTH\"\n{ids}{key}"), "sinks.soc.region: is no region"),
        (format!("url = \"secmaster\"\n{ids}{key}"), "sinks.soc.url: has to be an http or https URL"),
        (format!("region = \"x\"\n{ids}"), "sinks.soc.access_key: has to be written, with secret_key; or domain"),
        (
            format!("region = \"x\"\n{ids}access_key = \"a\""),
            "sinks.soc.secret_key: has to be written: access_key and secret_key belong together",
        ),
        (format!("region = \"x\"\n{ids}{key}user = \"u\""), "sinks.soc.user: is another way to authenticate"),
        (
            format!("region = \"x\"\n{ids}access_key = \"hunter2 a\"\nsecret_key = \"s\""),
            "sinks.soc.access_key: has a blank",
        ),
        (format!("region = \"x\"\n{ids}user = \"u\"\ndomain = \"d\""), "sinks.soc.password: has to be written"),
        (
            format!(
                "url = \"https://a.example\"\nproject = \"p\"\n{ids}user = \"u\"\ndomain = \"d\"\npassword = \"p\""
            ),
            "sinks.soc.iam_url: has to be written",
        ),
        (
            format!(
                "url = \"https://a.example\"\niam_url = \"https://b.example\"\n{ids}user = \"u\"\ndomain = \"d\"\npassword = \"p\""
            ),
            "sinks.soc.project: has to be written: the project that the token is for",
        ),
        (format!("region = \"x\"\n{}{key}", ids.replace(WORKSPACE, "../x")), "sinks.soc.workspace_id: is no id"),
        (format!("region = \"x\"\n{ids}{key}content = \"(\""), "sinks.soc.content: "),
        (format!("region = \"x\"\n{ids}{key}follow_every = \"0s\""), "sinks.soc.follow_every: leaves no time"),
        (format!("region = \"x\"\n{ids}{key}ca_file = \"/nonexistent\""), "sinks.soc.ca_file: "),
    ];
    for (options, expected) in cases {
        let faults = build(&options).err().unwrap_or_else(|| panic!("nothing wrong with {options}"));
        let [fault] = &faults[..] else { panic!("one fault: {faults:?}") };
        assert!(fault.to_string().starts_with(expected), "{fault}");
        assert!(!fault.to_string().contains("hunter2"), "{fault}");
    }
    let preview =
        build(&format!("region = \"ap-southeast-3\"\n{ids}{key}")).expect("a sink").preview(&delivery(1), now());
    let at = "https://secmaster.ap-southeast-3.myhuaweicloud.com";
    let path = format!("/v1/{PROJECT}/workspaces/{WORKSPACE}/soc/workflows/{WORKFLOW}/instances");
    assert_eq!(preview[0].action, format!("POST {at}{path}"));
}

/// The example as it is shipped, run by the built daemon: only addresses and secrets come from outside.
#[test]
fn a_port_run_ends_as_the_workflow_that_it_started() {
    for (word, ended) in [("FINISHED", "SUCCESS"), ("FAILED", "FAILURE")] {
        let (cloud, port) = (FakeSecmaster::start(), FakePort::start());
        port.add_run(RUN);
        let mut daemon = Daemon::prepare();
        let example = concat!(env!("CARGO_MANIFEST_DIR"), "/config/examples/port_to_secmaster_to_port.toml");
        daemon.write("callbackd.toml", &std::fs::read_to_string(example).expect("the example"));
        daemon.environment = [
            ("PORT_CLIENT_ID", CLIENT_ID),
            ("PORT_CLIENT_SECRET", CLIENT_SECRET),
            ("SECMASTER_ACCESS_KEY", ACCESS_KEY),
            ("SECMASTER_SECRET_KEY", SECRET_KEY),
            ("CALLBACKD__SERVER__LISTEN", "127.0.0.1:0"),
            ("CALLBACKD__ADMIN__LISTEN", "127.0.0.1:0"),
            ("CALLBACKD__STORE__URL", "sqlite:callbackd.db"),
            ("CALLBACKD__LOG__FORMAT", "json"),
            ("CALLBACKD__SINKS__PORT__URL", &port.url()),
            ("CALLBACKD__SINKS__SOC__URL", &cloud.url()),
            ("CALLBACKD__SINKS__SOC__FOLLOW_EVERY", "50ms"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        daemon.start();
        let probed = daemon.cli(&["check", "--probe"]);
        assert!(probed.said().contains("ok: sinks.soc: workflow \"Block\" is there and enabled"), "{probed:?}");

        let body = json!({
            "action": "block_address", "resourceType": "run", "status": "TRIGGERED",
            "context": {"entity": null, "blueprint": "host", "runId": RUN},
            "payload": {"properties": {"address": "192.0.2.7"}},
        });
        let body = body.to_string();
        let timestamp = callbackd::clock::now().seconds().to_string();
        let parts = [timestamp.as_bytes(), b".", body.as_bytes()];
        let mac = signature::base64(&signature::hmac_sha256(CLIENT_SECRET.as_bytes(), &parts));
        let (timestamp, mac) = (timestamp.as_str(), format!("v1,{mac}"));
        let headers =
            [("x-port-timestamp", timestamp), ("x-port-signature", &*mac), ("content-type", "application/json")];
        let answer = daemon.post("/callbacks/port", &headers, &body);
        assert_eq!((answer.status, &answer.json()["outcome"]), (200, &json!("accepted")));

        // It is followed over the daemon's death.
        let waits = |row: &Value| row["reason"].as_str().is_some_and(|reason| reason.ends_with(" is RUNNING"));
        soon("a wait", || daemon.list(&["deliveries", "list"]).iter().any(waits).then_some(()));
        daemon.restart();
        cloud.set_instance(&cloud.starts()[0], &["RUNNING", word]);
        soon("the run's end", || (port.run(RUN).status == ended).then_some(()));
        let delivered = || daemon.list(&["deliveries", "list", "--status", "delivered"]).len();
        soon("all told", || (delivered() == 3).then_some(()));
        let starts = cloud.starts();
        let [id] = &starts[..] else { panic!("one start: {starts:?}") };
        let run = port.run(RUN);
        assert_eq!(run.fields["externalRunId"], json!(id));
        let seen = cloud.requests();
        let started = seen.iter().find(|seen| seen.line.starts_with("POST")).expect("a start");
        let content = json!({"run_id": RUN, "action": "block_address", "inputs": {"address": "192.0.2.7"}});
        assert_eq!(started.body["playbook_context"]["data_object"]["content"], content);

        // The instance is an execution of its own, linked to the run's; both have ended.
        let status = if word == "FINISHED" { "succeeded" } else { "failed" };
        let instance = daemon.execution(id);
        let said = ["source", "status", "vendor_status", "name"].map(|key| instance["execution"][key].clone());
        assert_eq!(said, [json!("soc"), json!(status), json!(word), json!("Block")]);
        assert_eq!(instance["execution"]["links"][0]["key"], RUN);
        assert_eq!(daemon.execution(RUN)["execution"]["status"], status);
        assert_eq!(daemon.list(&["executions", "list", "--source", "soc"]).len(), 1);
        assert!(daemon.terminate().success());
        let kept = [daemon.store_bytes(), daemon.log().into_bytes()].concat();
        for secret in [SECRET_KEY, ACCESS_KEY, CLIENT_SECRET, "Signature="] {
            assert!(!kept.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} is kept");
        }
    }
}
