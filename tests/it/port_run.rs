//! The `port_run` sink against a Port that is as strict as the real one.

use std::cell::RefCell;
use std::sync::Arc;

use callbackd::model::{
    Change, ChangeMeta, Delivery, Execution, Learned, Link, Outcome, State, Status, Task, Time, WaitFor,
};
use callbackd::options::{BuildContext, Fault, Section};
use callbackd::secret::Resolver;
use callbackd::sinks::{KINDS, Sink, Tried};
use serde_json::{Map, Value, json};

use crate::peers::port::{self, CLIENT_ID, CLIENT_SECRET, FakePort, How, Run, TOKEN_PREFIX};
use crate::rig::PATIENCE;

pub(crate) const RUN: &str = "r_AbCdEfGh12345678";
pub(crate) const NODE: &str = "wfnr_AbCdEfGh12345678";
pub(crate) const PATCH: &str = "PATCH /v1/actions/runs/r_AbCdEfGh12345678";
pub(crate) const LOG: &str = "POST /v1/actions/runs/r_AbCdEfGh12345678/logs";
pub(crate) const GET: &str = "GET /v1/actions/runs/r_AbCdEfGh12345678?version=v2";

pub(crate) fn now() -> Time {
    Time::from_seconds(1_700_000_000)
}

pub(crate) fn build(url: &str, options: &str) -> Result<Box<dyn Sink>, Vec<Fault>> {
    let table = format!("url = {url:?}\nclient_id = {CLIENT_ID:?}\nclient_secret = {CLIENT_SECRET:?}\n{options}");
    let read = config::Config::builder().add_source(config::File::from_str(&table, config::FileFormat::Toml)).build();
    let section = Section { key: "sinks.portal".to_owned(), table: read.expect("TOML").cache };
    let secrets = Resolver { env: &|_| None, warnings: RefCell::default() };
    let sources = [("media".to_owned(), "cos_workflow".to_owned()), ("portal".to_owned(), "port_action".to_owned())];
    let context = BuildContext {
        name: "portal",
        instance: "test",
        secrets: &secrets,
        sources: &sources,
        outbound: &callbackd::outbound::Settings::default(),
    };
    let kind = KINDS.iter().find(|kind| kind.name == "port_run").expect("a kind");
    (kind.build)(&section, &context)
}

pub(crate) fn sink(port: &FakePort, options: &str) -> Box<dyn Sink> {
    build(&port.url(), options).unwrap_or_else(|faults| panic!("{faults:?}"))
}

pub(crate) fn port() -> FakePort {
    let port = FakePort::start();
    port.add_run(RUN);
    port.add_run(NODE);
    port
}

/// A change of a COS execution that is linked to `run`.
pub(crate) fn change(run: &str, status: Status, previous: Option<Status>) -> Change {
    let execution = Execution {
        source: "media".to_owned(),
        key: "i5f17a1fb".to_owned(),
        name: Some("Transcode".to_owned()),
        workflow: None,
        subject: Some("bucket/in/clip.mp4".to_owned()),
        status,
        vendor_status: Some("Vendor".to_owned() + status.as_str()),
        created_at: None,
        started_at: None,
        finished_at: status.is_finished().then(|| Time::from_seconds(1_699_999_990)),
        inputs: None,
        attributes: Map::new(),
    };
    let link = |key: &str| Link { source: "portal".to_owned(), key: key.to_owned(), execution: "7".to_owned() };
    let meta = ChangeMeta {
        kind: "callbackd.execution.updated".to_owned(),
        sequence: if previous.is_none() { 1 } else { 2 },
        previous_status: previous,
        changed_tasks: Vec::new(),
        overdue: false,
        receipt: None,
        received_at: now(),
    };
    Change { id: 1, execution_id: 1, state: State { execution, tasks: Vec::new() }, links: vec![link(run)], meta }
}

pub(crate) fn with_tasks(mut change: Change, tasks: impl IntoIterator<Item = Task>) -> Change {
    change.state.tasks = tasks.into_iter().collect();
    change.meta.changed_tasks = change.state.tasks.iter().map(|task| task.key.clone()).collect();
    change
}

pub(crate) fn task(key: &str, status: Status) -> Task {
    Task {
        name: Some(format!("{key}-name")),
        vendor_status: Some("Success".to_owned()),
        ..Task::new(key.to_owned(), status)
    }
}

pub(crate) fn delivery(change: Change) -> Delivery {
    Delivery { id: 1, change: Arc::new(change), attempts: 0, created_at: now(), resume: None, trace: None }
}

pub(crate) fn succeeded(run: &str) -> Delivery {
    delivery(change(run, Status::Succeeded, Some(Status::Running)))
}

/// Delivers, and makes sure that no credential is in anything that is kept.
pub(crate) async fn deliver(sink: &dyn Sink, delivery: &Delivery) -> Tried {
    deliver_at(sink, delivery, now()).await
}

pub(crate) async fn deliver_at(sink: &dyn Sink, delivery: &Delivery, now: Time) -> Tried {
    let tried = tokio::time::timeout(PATIENCE, sink.deliver(delivery, now)).await.expect("an end");
    let shown = format!("{tried:?}");
    assert!(!shown.contains("hunter2"), "a credential is kept: {shown}");
    tried
}

/// The next try of what has to be retried.
pub(crate) fn again(delivery: &Delivery, tried: &Tried) -> Delivery {
    let Outcome::Retry { resume, .. } = &tried.outcome else { panic!("to be retried: {tried:?}") };
    Delivery { attempts: delivery.attempts + 1, resume: resume.clone(), ..delivery.clone() }
}

pub(crate) fn delivered(tried: &Tried) -> (Option<&str>, &[Learned]) {
    let Outcome::Delivered { note, learned } = &tried.outcome else { panic!("to be delivered: {tried:?}") };
    (note.as_deref(), learned)
}

/// Whether what was learned is that the run ended so.
pub(crate) fn run_ended(updates: &[Learned], status: Status, word: &str) -> bool {
    matches!(updates, [Learned { source, update: u, linked: false }] if source == "portal" && u.key == RUN && u.known_only
        && u.identity == Some(format!("reported/{status}")) && u.execution.status == Some(status)
        && u.execution.vendor_status.as_deref() == Some(word)
        && u.execution.finished_at == Some(Time::from_seconds(1_699_999_990)))
}

pub(crate) fn retried(tried: &Tried) -> (Option<u64>, &str) {
    let Outcome::Retry { after_ms, reason, .. } = &tried.outcome else { panic!("to be retried: {tried:?}") };
    (*after_ms, reason)
}

pub(crate) fn rejected(tried: &Tried) -> &str {
    let Outcome::Reject { reason } = &tried.outcome else { panic!("to be rejected: {tried:?}") };
    reason
}

pub(crate) fn halted(tried: &Tried) -> &str {
    let Outcome::Halt { reason, .. } = &tried.outcome else { panic!("to be halted: {tried:?}") };
    reason
}

fn bodies(port: &FakePort, line: &str) -> Vec<Value> {
    port.requests().into_iter().filter(|seen| seen.line == line).map(|seen| seen.body).collect()
}

#[tokio::test]
async fn a_run_is_told_its_progress_and_then_its_end_once() {
    let port = port();
    let sink = sink(&port, "");

    let tried = deliver(&*sink, &delivery(change(RUN, Status::Running, None))).await;
    assert_eq!(delivered(&tried), (None, &[][..]));
    assert_eq!((tried.status, tried.answer.is_some()), (Some(200), true));
    let fields = json!({"externalRunId": "i5f17a1fb", "statusLabel": "Transcode: running"});
    assert_eq!(bodies(&port, PATCH), [fields]);

    let failed = Task {
        vendor_status: Some("Failed".to_owned()),
        error: Some(json!({"code": 404, "message": "no such object"})),
        ..task("b", Status::Failed)
    };
    let tasks = [task("a", Status::Succeeded), failed, task("c", Status::Running)];
    let middle = with_tasks(change(RUN, Status::Running, Some(Status::Running)), tasks.clone());
    delivered(&deliver(&*sink, &delivery(middle)).await);
    // What has finished since the last report is one line of the log.
    let lines = "a-name finished: Success\nb-name finished: Failed (404: no such object)";
    assert_eq!(bodies(&port, LOG), [json!({"message": lines})]);

    let mut end = with_tasks(change(RUN, Status::Failed, Some(Status::Running)), tasks);
    end.meta.changed_tasks = vec!["c".to_owned()];
    let tried = deliver(&*sink, &delivery(end)).await;
    let (note, updates) = delivered(&tried);
    assert!(note.is_none() && run_ended(updates, Status::Failed, "FAILURE"), "{tried:?}");
    let summary =
        "Transcode finished: Vendorfailed, 1 of 3 tasks succeeded\nb-name finished: Failed (404: no such object)";
    assert_eq!(bodies(&port, PATCH)[1..], [json!({"externalRunId": "i5f17a1fb", "summary": summary})]);
    let last =
        json!({"message": "Transcode finished: Vendorfailed", "terminationStatus": "FAILURE", "statusLabel": "Failed"});
    assert_eq!(bodies(&port, LOG)[1..], [last]);
    assert_eq!(port.lines(), [PATCH, LOG, PATCH, LOG]);
    assert_eq!(port.run(RUN).status, "FAILURE");
    assert_eq!(port.tokens_issued(), 1);
}

#[tokio::test]
async fn the_end_can_be_told_by_patch() {
    for (status, word, label) in [
        (Status::Succeeded, "SUCCESS", "Succeeded"),
        (Status::Failed, "FAILURE", "Failed"),
        (Status::Cancelled, "FAILURE", "Cancelled"),
    ] {
        let port = port();
        let tried =
            deliver(&*sink(&port, "terminal = \"patch\""), &delivery(change(RUN, status, Some(Status::Running)))).await;
        assert!(run_ended(delivered(&tried).1, status, word), "{tried:?}");
        let body = json!({"status": word, "statusLabel": label, "externalRunId": "i5f17a1fb",
            "summary": format!("Transcode finished: Vendor{status}")});
        assert_eq!((port.lines(), bodies(&port, PATCH)), (vec![PATCH.to_owned()], vec![body]));
    }
}

#[tokio::test]
async fn what_has_not_ended_is_never_told_as_an_end() {
    for status in [Status::Pending, Status::Running, Status::Paused, Status::Unknown] {
        let port = port();
        let tried = deliver(&*sink(&port, ""), &delivery(change(RUN, status, Some(Status::Pending)))).await;
        assert!(delivered(&tried).1.is_empty());
        assert_eq!(port.run(RUN).status, "IN_PROGRESS", "{status}");
    }
}

#[tokio::test]
async fn a_node_run_has_its_own_paths_and_words() {
    let port = port();
    let sink = sink(&port, "");
    let first =
        with_tasks(change(NODE, Status::Running, None), [task("a", Status::Succeeded), task("b", Status::Failed)]);
    delivered(&deliver(&*sink, &delivery(first)).await);
    let tried = deliver(&*sink, &delivery(change(NODE, Status::Cancelled, Some(Status::Running)))).await;
    let update = &delivered(&tried).1[0].update;
    assert_eq!((update.key.as_str(), update.execution.status), (NODE, Some(Status::Cancelled)));
    let patch = format!("PATCH /v1/workflows/nodes/runs/{NODE}");
    let log = format!("POST /v1/workflows/nodes/runs/{NODE}/logs");
    assert_eq!(port.lines(), [&patch, &log, &log, &patch].map(String::as_str));
    assert_eq!(
        bodies(&port, &patch),
        [
            json!({"status": "IN_PROGRESS", "externalRunId": "i5f17a1fb", "statusLabel": "Transcode: running"}),
            json!({"status": "COMPLETED", "result": "CANCELLED", "externalRunId": "i5f17a1fb", "statusLabel": "Cancelled"}),
        ]
    );
    assert_eq!(
        port.run(NODE).logs,
        [
            json!({"level": "INFO", "message": "a-name finished: Success"}),
            json!({"level": "ERROR", "message": "b-name finished: Success"}),
            json!({"level": "WARN", "message": "Transcode finished: Vendorcancelled"}),
        ]
    );
    for (status, result) in [(Status::Succeeded, "SUCCESS"), (Status::Failed, "FAILED")] {
        port.add_run(NODE);
        delivered(&deliver(&*sink, &delivery(change(NODE, status, Some(Status::Running)))).await);
        assert_eq!(port.run(NODE).fields["result"], result);
    }
}

/// Tasks whose lines need so many requests.
fn loud_tasks(requests: usize) -> impl Iterator<Item = Task> {
    (0..requests * 49).map(|n| Task {
        error: Some(json!({"message": format!("{n} {}", "é".repeat(3_000))})),
        ..task(&format!("t{n}"), Status::Failed)
    })
}

#[tokio::test]
async fn a_retry_goes_on_where_the_last_try_stopped() {
    let port = port();
    let sink = sink(&port, "");
    let first = delivery(with_tasks(change(RUN, Status::Running, None), loud_tasks(3)));
    port.script("/logs", port::answer(201, &json!({"ok": true})), true);
    port.script("/logs", port::bad_gateway(), false);
    let tried = deliver(&*sink, &first).await;
    assert_eq!((retried(&tried).0, tried.status), (None, Some(502)));
    let second = again(&first, &tried);
    delivered(&deliver(&*sink, &second).await);
    assert_eq!(told(&port).len(), 3 * 49);
    assert!(told(&port).iter().enumerate().all(|(n, line)| line.starts_with(&format!("t{n}-name finished"))));
    assert_eq!(port.lines(), [PATCH, LOG, LOG, LOG, LOG]);
}

/// The lines in the log of the action's run.
pub(crate) fn told(port: &FakePort) -> Vec<String> {
    let logs = port.run(RUN).logs;
    logs.iter().flat_map(|log| log.as_str().expect("a text").lines().map(str::to_owned)).collect()
}

#[tokio::test]
async fn many_tasks_share_few_requests() {
    let port = port();
    let tasks = (0..1000).map(|n| task(&format!("t{n}"), Status::Succeeded));
    delivered(&deliver(&*sink(&port, ""), &delivery(with_tasks(change(RUN, Status::Running, None), tasks))).await);
    assert_eq!((port.run(RUN).logs.len(), told(&port).len()), (1, 1000));

    let mut loud = task("loud", Status::Failed);
    loud.error = Some(json!({"message": "é".repeat(2_000_000)}));
    let tasks = with_tasks(change(RUN, Status::Failed, Some(Status::Running)), [loud]);
    delivered(&deliver(&*sink(&port, ""), &delivery(tasks)).await);
    assert_eq!(told(&port)[1000].chars().count(), 2_000);
}

#[tokio::test]
async fn without_progress_only_the_end_is_logged() {
    let port = port();
    let end = with_tasks(change(RUN, Status::Succeeded, Some(Status::Running)), [task("a", Status::Succeeded)]);
    delivered(&deliver(&*sink(&port, "progress = false"), &delivery(end)).await);
    assert_eq!(port.lines(), [PATCH, LOG]);
}

#[tokio::test]
async fn an_end_whose_fate_is_unknown_is_settled_by_reading_the_run() {
    let cases = [("log", LOG), ("patch", PATCH)];
    let fates = [How::Closed, How::Torn, port::bad_gateway(), port::answer(504, &json!({"ok": false}))];
    for (terminal, end) in cases {
        for (applied, how) in fates.iter().flat_map(|how| [(true, how), (false, how)]) {
            let port = port();
            let sink = sink(&port, &format!("terminal = {terminal:?}"));
            let first = succeeded(RUN);
            port.script(end, how.clone(), applied);
            let tried = deliver(&*sink, &first).await;
            let tried = deliver(&*sink, &again(&first, &tried)).await;
            let (note, updates) = delivered(&tried);
            assert!(run_ended(updates, Status::Succeeded, "SUCCESS"), "{tried:?}");
            assert_eq!(note.is_some_and(|note| note.contains("reported before")), applied, "{terminal} {how:?}");
            let ends = port.lines().iter().filter(|line| *line == end).count();
            assert_eq!(ends, if applied { 1 } else { 2 }, "{terminal} {how:?}");
            assert!(port.lines().iter().any(|line| line == GET));
            assert_eq!(port.run(RUN).status, "SUCCESS");
        }
    }
}

#[tokio::test]
async fn a_try_that_is_cut_off_is_settled_by_the_next() {
    let port = port();
    let sink = sink(&port, "terminal = \"patch\"");
    port.script(PATCH, How::Silent, true);
    let first = succeeded(RUN);
    tokio::select! {
        tried = sink.deliver(&first, now()) => panic!("nobody answered, but {tried:?}"),
        () = async { while port.run(RUN).status == "IN_PROGRESS" { tokio::task::yield_now().await } } => {}
    }
    let second = Delivery { attempts: 1, ..first };
    assert!(delivered(&deliver(&*sink, &second).await).0.expect("a note").contains("reported before"));
    assert_eq!(port.lines(), [PATCH, GET]);
}

#[tokio::test]
async fn a_run_that_takes_no_reports_is_a_note_and_not_a_storm() {
    type Prepare = fn(&mut Run);
    type Ended = Option<(Status, &'static str)>;
    let end_as = |word: &str| format!("ended as {word} already");
    let cases: [(Prepare, String, Ended); 4] = [
        (|run| run.status = "SUCCESS".to_owned(), end_as("SUCCESS"), Some((Status::Succeeded, "SUCCESS"))),
        (|run| run.status = "FAILURE".to_owned(), end_as("FAILURE"), Some((Status::Failed, "FAILURE"))),
        (|run| run.status = "DECLINED".to_owned(), end_as("DECLINED"), Some((Status::Cancelled, "DECLINED"))),
        (|run| run.synchronized = true, "synchronous".to_owned(), None),
    ];
    for (prepare, said, ended) in cases {
        for attempts in [0, 1] {
            let port = port();
            port.change_run(RUN, prepare);
            let tried = deliver(&*sink(&port, ""), &Delivery { attempts, ..succeeded(RUN) }).await;
            let (note, updates) = delivered(&tried);
            assert!(note.is_some_and(|note| note.contains(&said)), "{tried:?}");
            match ended {
                Some((status, word)) => assert!(run_ended(updates, status, word), "{tried:?}"),
                None => assert!(updates.is_empty(), "{tried:?}"),
            }
            assert!(port.run(RUN).logs.is_empty());
            // Neither refused twice nor asked twice.
            assert!(port.lines().len() <= 2, "{:?}", port.lines());
        }
    }
}

#[tokio::test]
async fn what_comes_after_the_end_looks_first() {
    let port = port();
    port.change_run(RUN, |run| run.status = "SUCCESS".to_owned());
    let late = delivery(change(RUN, Status::Succeeded, Some(Status::Succeeded)));
    delivered(&deliver(&*sink(&port, ""), &late).await);
    assert_eq!(port.lines(), [GET]);
}

#[tokio::test]
async fn a_run_that_waits_for_approval_is_waited_for() {
    for attempts in [0, 1] {
        let port = port();
        port.change_run(RUN, |run| run.status = "WAITING_FOR_APPROVAL".to_owned());
        let sink = sink(&port, "");
        let mut first = Delivery { attempts, ..succeeded(RUN) };
        for looks in 0..3 {
            let tried = deliver(&*sink, &first).await;
            let Outcome::Wait { wait_for: WaitFor::Peer(reason), until, resume, learned } = tried.outcome else {
                panic!("to wait: {tried:?}")
            };
            assert_eq!(
                (reason.as_str(), until, learned.len()),
                ("run r_AbCdEfGh12345678 waits for approval", now().plus_ms(60_000), 0)
            );
            first.resume = resume;
            // Refused once at most; from then on the run is only looked at.
            assert_eq!(port.lines().iter().filter(|line| *line == GET).count(), looks + 1, "{:?}", port.lines());
        }
        assert!(port.lines().len() <= 4 && port.run(RUN).fields.is_empty(), "{:?}", port.lines());
        port.change_run(RUN, |run| run.status = if attempts == 0 { "IN_PROGRESS" } else { "DECLINED" }.to_owned());
        let tried = deliver(&*sink, &first).await;
        let (note, updates) = delivered(&tried);
        if attempts == 0 {
            assert!(note.is_none() && run_ended(updates, Status::Succeeded, "SUCCESS"), "{tried:?}");
        } else {
            assert!(note.is_some_and(|note| note.contains("ended as DECLINED")), "{tried:?}");
            assert!(run_ended(updates, Status::Cancelled, "DECLINED"), "{tried:?}");
        }
    }
}

#[tokio::test]
async fn an_unknown_run_is_a_dead_letter() {
    for (run, attempts) in [("r_gone", 0), ("r_gone", 1), ("wfnr_gone", 0), ("wfnr_gone", 1)] {
        let port = port();
        let tried = deliver(&*sink(&port, ""), &Delivery { attempts, ..succeeded(run) }).await;
        let reason = rejected(&tried);
        assert!(reason.contains(&format!("Port knows no run {run}")) && reason.contains("not_found"), "{reason}");
    }
}

#[tokio::test]
async fn a_refusal_of_an_open_run_says_what_port_says() {
    let port = port();
    let sink = sink(&port, "");
    let no = json!({"ok": false, "error": "invalid_request", "message": format!("not with {CLIENT_SECRET}")});
    for status in [400, 409, 413, 422, 200, 201] {
        port.script(PATCH, port::answer(status, &no), false);
        let tried = deliver(&*sink, &succeeded(RUN)).await;
        let reason = rejected(&tried);
        assert!(
            reason.contains("invalid_request: not with [secret]") && reason.contains(&status.to_string()),
            "{reason}"
        );
    }
    // An error can also be an object, and a refusal can come without any words.
    port.script(PATCH, port::answer(422, &json!({"ok": false, "error": {"name": "bad", "message": "worse"}})), false);
    assert!(rejected(&deliver(&*sink, &succeeded(RUN)).await).contains("bad: worse"));
    port.script(PATCH, How::Answer(400, vec![], "<html>".to_owned()), false);
    assert!(rejected(&deliver(&*sink, &succeeded(RUN)).await).contains("answered 400"));
    assert_eq!(port.run(RUN).status, "IN_PROGRESS");
}

#[tokio::test]
async fn a_forbidden_organization_halts_and_a_forbidden_run_does_not() {
    let port = port();
    let sink = sink(&port, "");
    let no = json!({"ok": false, "error": "forbidden", "message": "IP not whitelisted 192.0.2.1"});
    port.script(PATCH, port::answer(403, &no), false);
    port.script("GET", port::answer(403, &no), false);
    assert!(halted(&deliver(&*sink, &succeeded(RUN)).await).contains("IP not whitelisted"));
    port.script(PATCH, port::answer(403, &no), false);
    assert!(rejected(&deliver(&*sink, &succeeded(RUN)).await).contains("403"));
}

#[tokio::test]
async fn a_success_that_is_not_ports_is_none() {
    let port = port();
    port.script(PATCH, How::Answer(200, vec![], "<html>Please log in</html>".to_owned()), false);
    assert!(retried(&deliver(&*sink(&port, ""), &succeeded(RUN)).await).1.contains("not Port's JSON"));
}

#[tokio::test]
async fn one_token_serves_all_until_it_nears_its_end() {
    let port = port();
    let sink = sink(&port, "");
    let ten: Vec<_> = (0..10).map(|_| delivery(change(RUN, Status::Running, None))).collect();
    let tries = ten.iter().map(|d| deliver(&*sink, d));
    for tried in futures(tries).await {
        delivered(&tried);
    }
    let fetches = || port.requests().iter().filter(|seen| seen.line.ends_with("/access_token")).count();
    assert_eq!(fetches(), 1);
    // Three hours, less a minute.
    for (seconds, expected) in [(10_739, 1), (10_741, 2)] {
        delivered(&deliver_at(&*sink, &ten[0], now().plus_ms(seconds * 1000)).await);
        assert_eq!(fetches(), expected, "after {seconds} s");
    }
}

/// All of them at once, on this thread.
async fn futures<F: Future>(all: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut all: Vec<_> = all.map(|f| (Box::pin(f), None)).collect();
    std::future::poll_fn(|cx| {
        for (future, output) in all.iter_mut().filter(|(_, output)| output.is_none()) {
            if let std::task::Poll::Ready(ready) = future.as_mut().poll(cx) {
                *output = Some(ready);
            }
        }
        if all.iter().all(|(_, output)| output.is_some()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    all.into_iter().filter_map(|(_, output)| output).collect()
}

#[tokio::test]
async fn a_refused_token_is_renewed_once() {
    let port = port();
    let sink = sink(&port, "");
    let first = delivery(change(RUN, Status::Running, None));
    delivered(&deliver(&*sink, &first).await);
    port.expire_tokens();
    // All are refused at the same time; one of them fetches for all.
    for tried in futures((0..5).map(|_| deliver(&*sink, &first))).await {
        delivered(&tried);
    }
    assert_eq!(port.tokens_issued(), 2);

    let no = json!({"ok": false, "error": "unauthorized", "message": format!("{TOKEN_PREFIX}2 is not welcome")});
    port.script(PATCH, port::answer(401, &no), false);
    port.script(PATCH, port::answer(401, &no), false);
    let tried = deliver(&*sink, &first).await;
    assert!(
        halted(&tried).contains("the token that it just issued: unauthorized: [secret] is not welcome"),
        "{tried:?}"
    );
    assert_eq!(tried.status, Some(401));
}

#[tokio::test]
async fn without_a_token_nothing_is_tried() {
    let first = succeeded(RUN);
    for (how, halts) in [
        (port::answer(401, &json!({"ok": false, "error": CLIENT_SECRET})), true),
        (port::answer(403, &json!({"ok": false, "error": "forbidden"})), true),
        (port::answer(404, &json!({"ok": false, "error": "not_found"})), true),
        (port::answer(422, &json!({"ok": false, "error": "invalid_request"})), true),
        (How::Answer(302, vec![("location", "https://example.com/".to_owned())], String::new()), true),
        (port::answer(429, &json!({})), false),
        (port::bad_gateway(), false),
        (How::Closed, false),
        (How::Torn, false),
        (port::answer(200, &json!({"ok": true})), false),
        (port::answer(200, &json!({"ok": true, "accessToken": "a\nb", "expiresIn": 1})), false),
        (How::Answer(200, vec![], "<html>".to_owned()), false),
    ] {
        let port = port();
        let sink = sink(&port, "");
        port.script("access_token", how.clone(), false);
        let tried = deliver(&*sink, &first).await;
        if halts {
            halted(&tried);
        } else {
            retried(&tried);
        }
        assert!(port.lines().is_empty(), "{how:?}");
        delivered(&deliver(&*sink, &first).await);
    }
}

#[tokio::test]
async fn wrong_credentials_halt_and_are_not_repeated() {
    let port = port();
    let wrong = build(&port.url(), "").expect("a sink");
    port.script(
        "access_token",
        port::answer(401, &json!({"ok": false, "error": "no", "message": CLIENT_SECRET})),
        false,
    );
    let tried = deliver(&*wrong, &succeeded(RUN)).await;
    assert!(halted(&tried).contains("refuses client_id and client_secret"), "{tried:?}");
    assert_eq!(tried.status, Some(401));
}

#[tokio::test]
async fn a_rate_limit_is_honoured_by_all() {
    let port = port();
    let sink = sink(&port, "");
    let retry_after = How::Answer(429, vec![("retry-after", "7".to_owned())], String::new());
    port.script(PATCH, retry_after, false);
    assert_eq!(retried(&deliver(&*sink, &succeeded(RUN)).await).0, Some(7000));
    // Another delivery is not even sent while it lasts.
    let before = port.requests().len();
    let waits = deliver_at(&*sink, &succeeded(NODE), now().plus_ms(3000)).await;
    assert_eq!((retried(&waits).0, waits.status, port.requests().len()), (Some(4000), None, before));

    // One request remains where two are needed: what was done is not done again.
    let later = now().plus_ms(7000);
    port.limit(1, later.seconds() + 60);
    let first = succeeded(RUN);
    let tried = deliver_at(&*sink, &first, later).await;
    assert_eq!(retried(&tried).0, Some(60_000));
    assert_eq!(port.lines().len(), 2, "{:?}", port.lines());
    port.unlimit();
    delivered(&deliver_at(&*sink, &again(&first, &tried), later.plus_ms(60_000)).await);
    assert_eq!(port.lines(), [PATCH, PATCH, GET, LOG]);
}

#[tokio::test]
async fn an_absurd_rate_limit_does_not_park_the_sink() {
    let port = port();
    let sink = sink(&port, "");
    // Milliseconds where seconds belong.
    port.limit(100, 0);
    let headers = vec![("x-ratelimit-remaining", "0".to_owned()), ("x-ratelimit-reset", "1700000000000".to_owned())];
    port.script(PATCH, How::Answer(429, headers, String::new()), false);
    retried(&deliver(&*sink, &succeeded(RUN)).await);
    delivered(&deliver_at(&*sink, &succeeded(RUN), now().plus_ms(600_000)).await);
}

#[tokio::test]
async fn a_change_finds_its_run_by_header_by_link_or_by_itself() {
    let port = port();
    port.add_run("r_other");
    let sink = sink(&port, "");
    let told = |before: usize| port.lines()[before..].first().cloned().unwrap_or_default();

    let mut by_header = change("r_other", Status::Running, None);
    by_header.state.execution.attributes.insert("headers".to_owned(), json!({"X-COS-Meta-Port-Run-Id": RUN}));
    delivered(&deliver(&*sink, &delivery(by_header)).await);
    assert_eq!(told(0), PATCH);

    let mut by_link = change("r_gone", Status::Running, None);
    by_link.links.push(Link { source: "portal".to_owned(), key: RUN.to_owned(), execution: "8".to_owned() });
    by_link.links.push(Link { source: "elsewhere".to_owned(), key: "r_other".to_owned(), execution: "9".to_owned() });
    delivered(&deliver(&*sink, &delivery(by_link)).await);
    assert_eq!(told(1), PATCH);

    for status in [Status::Running, Status::Succeeded] {
        let mut own = change(RUN, status, None);
        own.links.clear();
        own.state.execution.source = "portal".to_owned();
        assert!(delivered(&deliver(&*sink, &delivery(own)).await).0.expect("a note").contains("the run itself"));
    }
    assert_eq!(port.lines().len(), 2);
}

#[tokio::test]
async fn what_is_no_run_id_is_a_dead_letter_that_names_it() {
    let port = port();
    let sink = sink(&port, "");
    for bad in ["r_", "wfnr_", "run_1", "r_a/../../b", "r_a b", "R_abc", "r_é", &format!("r_{}", "a".repeat(200))] {
        let mut change = change(RUN, Status::Running, None);
        change.state.execution.attributes.insert("headers".to_owned(), json!({"x-cos-meta-port-run-id": bad}));
        let tried = deliver(&*sink, &delivery(change)).await;
        let reason = rejected(&tried);
        assert!(reason.contains("is no Port run id") && reason.len() < 200, "{reason}");
    }
    assert!(port.requests().is_empty());
}

#[tokio::test]
async fn what_has_no_run_waits_for_a_link_and_is_then_dropped() {
    let port = port();
    let mut alone = change(RUN, Status::Running, None);
    alone.links.clear();
    let alone = delivery(alone);
    for (options, minutes) in [("", 24 * 60), ("unlinked = \"dead\"\nlink_within = \"5m\"", 5)] {
        let sink = sink(&port, options);
        let deadline = now().plus_ms(minutes * 60_000);
        let before = deliver_at(&*sink, &alone, Time::from_micros(deadline.micros() - 1)).await;
        assert!(
            matches!(before.outcome, Outcome::Wait { wait_for: WaitFor::Link, until, .. } if until == deadline),
            "{before:?}"
        );
        let after = deliver_at(&*sink, &alone, deadline).await.outcome;
        let discarded = matches!(&after, Outcome::Discard { reason } if reason == "no Port run");
        let dead = matches!(&after, Outcome::Reject { reason } if reason == "no Port run");
        assert_eq!((discarded, dead), (options.is_empty(), !options.is_empty()), "{after:?}");
    }
    assert!(port.requests().is_empty());
}

#[tokio::test]
async fn a_preview_is_what_is_sent() {
    let port = port();
    let end = with_tasks(change(RUN, Status::Succeeded, Some(Status::Running)), [task("a", Status::Succeeded)]);
    let end = delivery(end);
    for terminal in ["log", "patch"] {
        port.add_run(RUN);
        let before = port.lines().len();
        let sink = sink(&port, &format!("terminal = {terminal:?}"));
        let preview = sink.preview(&end, now());
        delivered(&deliver(&*sink, &end).await);
        let sent = port.requests().into_iter().filter(|seen| !seen.line.ends_with("access_token")).skip(before);
        let sent: Vec<_> =
            sent.map(|seen| (seen.line.replace(" /", &format!(" {}/", port.url())), seen.body)).collect();
        let read = |body: &str| serde_json::from_str::<Value>(body).expect("JSON");
        let shown: Vec<_> = preview.iter().map(|p| (p.action.clone(), read(&p.body))).collect();
        assert_eq!(shown, sent);
    }
}

#[tokio::test]
async fn a_probe_fetches_a_token_and_nothing_else() {
    let port = port();
    port.set_token_seconds(900.0);
    assert_eq!(sink(&port, "").probe().await, Ok("token valid for 900 s".to_owned()));
    port.script("access_token", port::answer(401, &json!({"ok": false, "error": CLIENT_SECRET})), false);
    let said = sink(&port, "").probe().await.expect_err("refused");
    assert!(said.contains("client_secret") && !said.contains(CLIENT_SECRET), "{said}");
    assert_eq!(port.requests().len(), 2);
}

#[test]
fn every_fault_of_the_options_is_said_at_once() {
    let faults = |url: &str, options: &str| build(url, options).err().expect("faults");
    let said = faults("ftp://example.com", "source = [\"media\"]\nca_file = \"/nonexistent\"");
    let keys: Vec<_> = said.iter().map(|fault| fault.key.as_str()).collect();
    assert_eq!(keys, ["sinks.portal.url", "sinks.portal.ca_file", "sinks.portal.source"]);
    for url in ["https://user:hunter2@api.port.io", "https://api.port.io/?a=b", "/v1", ""] {
        let said = format!("{:?}", faults(url, ""));
        assert!(said.contains("sinks.portal.url") && !said.contains("hunter2"), "{said}");
    }
    for bad in ["ulr = \"x\"", "terminal = \"mail\"", "unlinked = \"maybe\"", "link_within = \"soon\""] {
        faults("https://api.port.io", bad);
    }
    build("https://api.port.io/", "source = [\"portal\"]").map(drop).expect("fine");
}

/// What the fake is worth: it refuses what Port refuses, and does not forget it.
#[tokio::test]
async fn the_fake_is_strict() {
    use callbackd::outbound::{Client, Request, Settings};
    let port = port();
    let client = Client::new(&Settings::default()).expect("a client");
    let call = async |method: &str, path: &str, token: &str, json: bool, body: String| {
        let mut headers = http::HeaderMap::new();
        if json {
            headers.insert("content-type", "application/json".parse().expect("a header"));
        }
        if !token.is_empty() {
            headers.insert("authorization", format!("Bearer {token}").parse().expect("a header"));
        }
        let url = format!("{}{path}", port.url()).parse().expect("a URL");
        let method = method.parse().expect("a method");
        let answer = client.send(Request { method, url, headers, body: body.into() }).await.expect("an answer");
        (answer.status, serde_json::from_slice::<Value>(&answer.body).expect("JSON"))
    };
    let credentials = json!({"clientId": CLIENT_ID, "clientSecret": CLIENT_SECRET}).to_string();
    let (status, issued) = call("POST", "/v1/auth/access_token", "", true, credentials).await;
    assert_eq!((status, &issued["expiresIn"]), (200, &json!(10_800.0)));
    let token = issued["accessToken"].as_str().expect("a token");

    let action = format!("/v1/actions/runs/{RUN}");
    let (logs, node) = (format!("{action}/logs"), format!("/v1/workflows/nodes/runs/{NODE}"));
    let node_logs = format!("{node}/logs");
    let wrong: [(&str, &str, Value); 15] = [
        ("PATCH", &action, json!({"status": "IN_PROGRESS"})),
        ("PATCH", &action, json!({"summary": "a", "unknown": 1})),
        ("PATCH", &action, json!({"message": "a text"})),
        ("PATCH", &action, json!({"links": ["a"]})),
        ("PATCH", &action, json!({"summary": null})),
        ("PATCH", &action, json!(["summary"])),
        ("POST", &logs, json!({"statusLabel": "no message"})),
        ("POST", &logs, json!({"message": "a", "status": "SUCCESS"})),
        ("PATCH", &node, json!({"status": "SUCCESS"})),
        ("PATCH", &node, json!({"status": "COMPLETED"})),
        ("PATCH", &node, json!({"status": "COMPLETED", "result": "FAILURE"})),
        ("PATCH", &node, json!({"link": "a"})),
        ("PATCH", &node, json!({"summary": "a"})),
        ("POST", &node_logs, json!({"message": "a"})),
        ("POST", &node_logs, json!({"logs": [{"level": "FATAL", "message": "a"}]})),
    ];
    for (method, path, body) in &wrong {
        let (status, answer) = call(method, path, token, true, body.to_string()).await;
        assert_eq!(
            (status, &answer["ok"], port.take_faults().len()),
            (422, &json!(false), 1),
            "{method} {path} {body}"
        );
    }
    let big = json!({"message": "a".repeat(1 << 20)}).to_string();
    assert_eq!(call("POST", &logs, token, true, big).await.0, 413);
    assert_eq!(call("PATCH", &action, token, false, "{}".to_owned()).await.0, 422);
    assert_eq!(call("PATCH", &action, "", true, "{}".to_owned()).await.0, 401);
    assert_eq!(call("PUT", &action, token, true, "{}".to_owned()).await.0, 404);
    assert_eq!(call("GET", "/v1/actions/runs", token, true, String::new()).await.0, 404);
    assert_eq!(port.take_faults().len(), 5);
    assert_eq!(call("PATCH", &action, "another", true, "{}".to_owned()).await.0, 401);
    assert_eq!(call("PATCH", "/v1/actions/runs/r_gone", token, true, "{}".to_owned()).await.0, 404);
    let untouched = Run { status: "IN_PROGRESS".to_owned(), ..Run::default() };
    assert!(port.runs().values().all(|run| *run == untouched));

    let end = json!({"message": "a", "terminationStatus": "SUCCESS"}).to_string();
    assert_eq!(call("POST", &logs, token, true, end.clone()).await.0, 201);
    assert_eq!(call("POST", &logs, token, true, end).await.1["error"], "run_status_error");
    assert_eq!(call("PATCH", &action, token, true, "{}".to_owned()).await.0, 422);
    assert_eq!(call("GET", &action, token, true, String::new()).await.1["run"]["status"], "SUCCESS");
    port.set_token_seconds(0.0);
    assert_eq!(call("GET", &action, token, true, String::new()).await.0, 401);
    assert!(port.take_faults().is_empty());
}

#[tokio::test]
async fn programs_shape_what_a_run_is_told() {
    let port = port();
    let shaped = |summary: &str, link: &str, label: &str| {
        sink(&port, &format!("terminal = \"patch\"\nsummary = '{summary}'\nlink = '{link}'\nstatus_label = '{label}'"))
    };
    let default = "Transcode finished: Vendorsucceeded";
    let (a, b) = ("https://a.example", "https://b.example");
    let cases = [
        (r#".execution.subject"#, r#""https://a.example""#, r#""Done""#, json!("bucket/in/clip.mp4"), json!(a), "Done"),
        (r#"{n: 1}"#, r#"["https://a.example", "https://b.example"]"#, "1", json!("{\"n\":1}"), json!([a, b]), "1"),
        (
            ".none",
            r#""https://a.example", null, "https://b.example""#,
            ".none",
            json!(default),
            json!([a, b]),
            "Succeeded",
        ),
        (r#""""#, ".none", "empty", json!(default), Value::Null, "Succeeded"),
    ];
    for (summary, link, label, told_summary, told_link, told_label) in cases {
        port.add_run(RUN);
        let tried = deliver(&*shaped(summary, link, label), &succeeded(RUN)).await;
        assert_eq!(delivered(&tried).0, None);
        let fields = port.run(RUN).fields;
        let told = |key: &str| fields.get(key).cloned().unwrap_or_default();
        assert_eq!((told("summary"), told("link"), told("statusLabel")), (told_summary, told_link, json!(told_label)));
    }
    // A node's links have another name, and are always a list.
    delivered(&deliver(&*shaped(".none", r#""https://a.example""#, ".none"), &succeeded(NODE)).await);
    assert_eq!(port.run(NODE).fields["links"], json!([a]));

    port.add_run(RUN);
    let faulty = shaped(r#"error("boom")"#, r#"1, error("bang")"#, r#"error("crash")"#);
    let tried = deliver(&*faulty, &succeeded(RUN)).await;
    let note = delivered(&tried).0.expect("a note");
    for fault in ["summary: ", "boom", "link: ", "bang", "status_label: ", "crash"] {
        assert!(note.contains(fault), "{note}");
    }
    assert_eq!(port.run(RUN).fields["summary"], default);
    assert_eq!(port.run(RUN).status, "SUCCESS");
}

#[tokio::test]
async fn a_program_can_name_the_run() {
    let port = port();
    let named = |program: &str| sink(&port, &format!("run_id = '{program}'"));
    let mut change = change("r_gone", Status::Running, None);
    change.state.execution.attributes.insert("run".to_owned(), json!(RUN));
    let first = delivery(change);
    delivered(&deliver(&*named(".execution.attributes.run"), &first).await);
    assert_eq!(port.lines(), [PATCH]);
    for nothing in [".none", "empty", r#""""#] {
        let tried = deliver(&*named(nothing), &first).await;
        assert!(rejected(&tried).contains("r_gone"), "the link counts: {tried:?}");
    }
    for (fault, said) in
        [(r#"error("boom")"#, "run_id: "), ("1", "run_id: 1 is no Port run id"), (r#""x""#, "\"x\" is no")]
    {
        let tried = deliver(&*named(fault), &first).await;
        assert!(rejected(&tried).contains(said), "{tried:?}");
    }
}

#[test]
fn a_program_that_does_not_compile_is_a_fault() {
    for key in ["run_id", "summary", "link", "status_label"] {
        let faults = build("https://api.port.io", &format!("{key} = '.['")).err().expect("a fault");
        assert_eq!(faults[0].key, format!("sinks.portal.{key}"));
    }
}
