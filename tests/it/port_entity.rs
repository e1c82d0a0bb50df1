//! Entities by way of the `port_run` sink: made before the run's end and tied to it, and none of them lost.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use callbackd::model::{Delivery, Outcome, Status, WaitFor};
use callbackd::sinks::{Sink, Tried};
use serde_json::{Value, json};

use crate::peers::port::{self, CLIENT_SECRET, FakePort, How};
use crate::port_run::{
    GET, LOG, NODE, PATCH, RUN, again, build, change, deliver, deliver_at, delivered, delivery, halted, now,
    port as runs, rejected, retried, run_ended, sink, succeeded, task, told, with_tasks,
};

const ENTITY: &str = "[entity]\nblueprint = \"media\"\nproperties = '{state: .execution.status}'\n";
const EACH_TASK: &str = "[entity]\nblueprint = \"media\"\neach = '.tasks[]'\nidentifier = '.key'\n\
                         properties = '{state: .status}'\n";
const QUERY: &str = "?upsert=true&merge=true";
/// The subject of every change here.
const SUBJECT: &str = "bucket/in/clip.mp4";

/// A Port whose organization has one blueprint.
fn port() -> FakePort {
    let port = runs();
    port.add_blueprint("media", &["state", "other", "parent"]);
    port
}

fn post(run: &str) -> String {
    let tie = if run.is_empty() { String::new() } else { format!("&run_id={run}") };
    format!("POST /v1/blueprints/media/entities{QUERY}{tie}")
}

fn bulk(run: &str) -> String {
    post(run).replace("/entities?", "/entities/bulk?")
}

fn state(port: &FakePort, id: &str) -> Value {
    port.entities().get(id).map_or(Value::Null, |entity| entity["properties"]["state"].clone())
}

/// The next try of what waits, at once.
fn woken(delivery: &Delivery, outcome: &Outcome, said: &str) -> Delivery {
    let Outcome::Wait { wait_for: WaitFor::Peer(reason), until, resume, .. } = outcome else {
        panic!("to wait: {outcome:?}")
    };
    assert!(*until == now() && reason.contains(said), "{reason}");
    Delivery { resume: resume.clone(), ..delivery.clone() }
}

/// Several tries at one time.
async fn together(sink: &dyn Sink, deliveries: &[Delivery]) -> Vec<Tried> {
    let mut tries: Vec<_> = deliveries.iter().map(|delivery| Some(Box::pin(deliver(sink, delivery)))).collect();
    let mut tried: Vec<Option<Tried>> = deliveries.iter().map(|_| None).collect();
    poll_fn(|context| {
        for (one, tried) in tries.iter_mut().zip(&mut tried) {
            if let Some(future) = one
                && let Poll::Ready(done) = future.as_mut().poll(context)
            {
                *tried = Some(done);
                *one = None;
            }
        }
        if tries.iter().all(Option::is_none) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    tried.into_iter().map(|tried| tried.expect("done")).collect()
}

/// A change of an execution that no run is known for.
fn unlinked(key: &str) -> Delivery {
    let mut change = change(RUN, Status::Running, None);
    change.links.clear();
    change.state.execution.subject = Some(key.to_owned());
    delivery(change)
}

#[tokio::test]
async fn an_entity_is_tied_to_the_run_before_its_end() {
    for (terminal, last) in [("log", vec![PATCH, LOG]), ("patch", vec![PATCH])] {
        let port = port();
        // What others wrote stays.
        port.add_entity("media", json!({"identifier": SUBJECT, "properties": {"other": 1, "state": "new"}}));
        let sink = sink(&port, &format!("terminal = {terminal:?}\n{ENTITY}"));
        let running = with_tasks(change(RUN, Status::Running, None), [task("a", Status::Succeeded)]);
        delivered(&deliver(&*sink, &delivery(running)).await);
        assert_eq!(state(&port, SUBJECT), "running");
        let tried = deliver(&*sink, &succeeded(RUN)).await;
        assert!(run_ended(delivered(&tried).1, Status::Succeeded, "SUCCESS"), "{tried:?}");
        let first = [PATCH.to_owned(), LOG.to_owned(), post(RUN), post(RUN)];
        let expected: Vec<_> = first.into_iter().chain(last.into_iter().map(str::to_owned)).collect();
        assert_eq!(port.lines(), expected);
        let properties = &port.entities()[SUBJECT]["properties"];
        assert_eq!(*properties, json!({"other": 1, "state": "succeeded"}));
        assert_eq!(port.ties(), vec![(RUN.to_owned(), SUBJECT.to_owned()); 2]);
    }
}

#[tokio::test]
async fn an_entity_is_replaced_or_deleted_where_the_sink_says_so() {
    let port = port();
    port.add_entity("media", json!({"identifier": "in/游戏-1", "properties": {"other": 1}}));
    let options = |action: &str| format!("{ENTITY}identifier = '\"in/游戏-1\"'\naction = {action:?}\n");
    delivered(&deliver(&*sink(&port, &options("replace")), &delivery(change(RUN, Status::Running, None))).await);
    assert_eq!(port.entities()["in/游戏-1"]["properties"], json!({"state": "running"}));
    delivered(&deliver(&*sink(&port, &options("delete")), &succeeded(RUN)).await);
    assert!(port.entities().is_empty());
    let gone =
        format!("DELETE /v1/blueprints/media/entities/in%2F%E6%B8%B8%E6%88%8F-1?delete_dependents=false&run_id={RUN}");
    assert_eq!(port.lines()[2..], [&gone, PATCH, LOG].map(str::to_owned));
    assert_eq!((port.run(RUN).status.as_str(), port.ties().len()), ("SUCCESS", 2));
    // What is gone already is as it should be.
    port.add_run(RUN);
    delivered(&deliver(&*sink(&port, &options("delete")), &succeeded(RUN)).await);
}

#[tokio::test]
async fn several_entities_of_one_change_share_a_call() {
    let port = port();
    let sink = sink(&port, EACH_TASK);
    let tasks = (0..25).map(|n| task(&format!("t{n}"), Status::Succeeded));
    let end = with_tasks(change(RUN, Status::Succeeded, Some(Status::Running)), tasks);
    delivered(&deliver(&*sink, &delivery(end)).await);
    assert_eq!(port.lines(), [LOG.to_owned(), bulk(RUN), bulk(RUN), PATCH.to_owned(), LOG.to_owned()]);
    assert_eq!((port.entities().len(), port.ties().len(), state(&port, "t24")), (25, 25, json!("succeeded")));
}

#[tokio::test]
async fn what_port_refuses_of_many_is_named_and_does_not_hold_up_the_run() {
    let port = port();
    let options =
        EACH_TASK.replace("'{state: .status}'", "'{state: .status} + if .key == \"b\" then {strange: 1} else {} end'");
    let sink = sink(&port, &options);
    let tasks = ["a", "b", "c"].map(|key| task(key, Status::Succeeded));
    let end = delivery(with_tasks(change(RUN, Status::Succeeded, Some(Status::Running)), tasks));
    let tried = deliver(&*sink, &end).await;
    assert_eq!((port.run(RUN).status.as_str(), port.entities().len()), ("SUCCESS", 2));
    let Outcome::Wait { learned, .. } = &tried.outcome else { panic!("{tried:?}") };
    assert!(run_ended(learned, Status::Succeeded, "SUCCESS"), "what was learned is kept: {learned:?}");
    let before = port.lines().len();
    let again = deliver(&*sink, &woken(&end, &tried.outcome, "the run is over")).await;
    assert_eq!(rejected(&again), "entity b: answered 422: validation_error: media has no strange");
    // Once more without the run, and nothing else.
    assert_eq!(port.lines()[before..], [bulk("")]);

    // An operator has mended the blueprint, and delivers the dead letter again.
    port.add_blueprint("media", &["state", "strange"]);
    let note = deliver(&*sink, &end).await;
    assert!(delivered(&note).0.expect("a note").contains("ended as SUCCESS already"), "{note:?}");
    assert_eq!(port.entities().len(), 3);
}

#[tokio::test]
async fn a_refused_entity_of_something_unfinished_is_a_dead_letter() {
    for (blueprint, said) in
        [("gone", "404 Not Found: not_found: blueprint gone was not found"), ("bare", "bare has no state")]
    {
        let port = port();
        port.add_blueprint("bare", &[]);
        let sink = sink(&port, &ENTITY.replace("media", blueprint));
        let tried = deliver(&*sink, &delivery(change(RUN, Status::Running, None))).await;
        let reason = rejected(&tried);
        assert!(reason.starts_with(&format!("entity {SUBJECT}: answered ")) && reason.ends_with(said), "{reason}");
        assert_eq!(port.run(RUN).fields["statusLabel"], "Transcode: running");
    }
}

#[tokio::test]
async fn a_related_entity_that_is_missing_is_made_only_if_wanted() {
    let options = format!("{ENTITY}relations = '{{parent: \"a b\"}}'\n");
    let port = port();
    let tried = deliver(&*sink(&port, &options), &delivery(change(RUN, Status::Running, None))).await;
    assert!(rejected(&tried).contains("related entity a-b-"), "{tried:?}");
    let options = format!("{options}create_missing_related_entities = true\n");
    delivered(&deliver(&*sink(&port, &options), &delivery(change(RUN, Status::Running, None))).await);
}

#[tokio::test]
async fn one_that_may_be_taken_later_is_tried_again() {
    let port = port();
    let sink = sink(&port, EACH_TASK);
    let tasks = ["a", "b"].map(|key| task(key, Status::Succeeded));
    let end = delivery(with_tasks(change(RUN, Status::Succeeded, Some(Status::Running)), tasks));
    let some = json!({"ok": false, "entities": [{"identifier": "a", "index": 0, "created": true}], "errors": [
        {"identifier": "b", "index": 1, "statusCode": 503, "error": "busy", "message": format!("not with {CLIENT_SECRET}")},
    ]});
    port.script("bulk", port::answer(207, &some), false);
    let tried = deliver(&*sink, &end).await;
    assert_eq!(retried(&tried).1, "answered 503: busy: not with [secret]");
    assert_eq!(port.run(RUN).status, "IN_PROGRESS", "entities go first");
    delivered(&deliver(&*sink, &again(&end, &tried)).await);
    assert_eq!(
        told(&port),
        ["a-name finished: Success", "b-name finished: Success", "Transcode finished: Vendorsucceeded"]
    );
    assert_eq!((port.entities().len(), port.run(RUN).status.as_str()), (2, "SUCCESS"));
}

#[tokio::test]
async fn an_entity_is_not_tied_to_what_takes_none() {
    // A node's run.
    let port = port();
    delivered(&deliver(&*sink(&port, ENTITY), &succeeded(NODE)).await);
    assert_eq!((port.run(NODE).status.as_str(), state(&port, SUBJECT)), ("COMPLETED", json!("succeeded")));
    // A run that has ended: by others, by Port's call, or with an earlier change.
    for status in ["SUCCESS", "DECLINED", "synchronized"] {
        for previous in [Status::Running, Status::Succeeded] {
            port.add_run(RUN);
            port.change_run(RUN, |run| match status {
                "synchronized" => run.synchronized = true,
                word => run.status = word.to_owned(),
            });
            let late = delivery(change(RUN, Status::Succeeded, Some(previous)));
            let tried = deliver(&*sink(&port, ENTITY), &late).await;
            delivered(&tried).0.expect("a note");
        }
    }
    let ties = port.ties();
    assert!(ties.iter().all(|(run, _)| run == RUN) && ties.len() <= 2, "a synchronized run may be tied: {ties:?}");
    // One that nobody looked at before the entity is refused.
    port.add_run(RUN);
    port.change_run(RUN, |run| run.status = "FAILURE".to_owned());
    let before = port.lines().len();
    let quiet = delivery(change(RUN, Status::Running, Some(Status::Running)));
    let tried = deliver(&*sink(&port, ENTITY), &quiet).await;
    assert!(delivered(&tried).0.expect("a note").contains("ended as FAILURE already"));
    assert_eq!(port.lines()[before..], [post(RUN), GET.to_owned(), post("")]);
    // One that waits for its approval is waited for.
    port.change_run(RUN, |run| run.status = "WAITING_FOR_APPROVAL".to_owned());
    let tried = deliver(&*sink(&port, ENTITY), &quiet).await;
    assert!(matches!(&tried.outcome, Outcome::Wait { wait_for: WaitFor::Peer(_), .. }), "{tried:?}");
}

#[tokio::test]
async fn a_sink_of_entities_alone_says_nothing_of_the_run() {
    let port = port();
    let sink = sink(&port, &format!("reports = false\n{ENTITY}"));
    let tried = deliver(&*sink, &succeeded(RUN)).await;
    assert_eq!(delivered(&tried), (None, &[][..]));
    assert_eq!((port.lines(), port.run(RUN).status.as_str()), (vec![post(RUN)], "IN_PROGRESS"));
    // What has no run is not waited for.
    let tried = deliver(&*sink, &unlinked("a/b")).await;
    assert_eq!(delivered(&tried).0, Some("no Port run; its entities only"));
    assert_eq!((port.lines().pop(), state(&port, "a/b")), (Some(post("")), json!("running")));
    let mut nothing = unlinked("");
    Arc::make_mut(&mut nothing.change).state.execution.subject = None;
    assert_eq!(delivered(&deliver(&*sink, &nothing).await).0, Some("no Port run, and no entity"));
    let no = json!({"ok": false, "error": "forbidden", "message": "no such permission"});
    port.script("entities", port::answer(403, &no), false);
    assert!(halted(&deliver(&*sink, &unlinked("a/b")).await).contains("no such permission"));
}

#[tokio::test]
async fn what_has_no_run_in_time_can_make_its_entities() {
    let port = port();
    let sink = sink(&port, &format!("link_within = \"5m\"\nunlinked = \"entity\"\n{ENTITY}"));
    let first = unlinked("a/b");
    let before = deliver_at(&*sink, &first, now().plus_ms(299_999)).await;
    assert!(matches!(before.outcome, Outcome::Wait { wait_for: WaitFor::Link, .. }), "{before:?}");
    assert!(port.requests().is_empty());
    assert_eq!(sink.preview(&first, now())[0].action, "wait for a link to a Port run");
    let shown = sink.preview(&first, now().plus_ms(300_000));
    delivered(&deliver_at(&*sink, &first, now().plus_ms(300_000)).await);
    assert_eq!(shown[0].action, post("").replace(" /", &format!(" {}/", port.url())));
    assert_eq!(state(&port, "a/b"), "running");
}

#[tokio::test]
async fn entities_of_many_executions_share_calls() {
    let port = port();
    let sink = sink(&port, &format!("reports = false\n{ENTITY}"));
    let many: Vec<_> = (0..45).map(|n| unlinked(&format!("clip-{n}"))).collect();
    for tried in together(&*sink, &many).await {
        assert_eq!((delivered(&tried).0, tried.status.is_some()), (Some("no Port run; its entities only"), true));
    }
    // The first goes at once, the others while it is under way; and none of them alone.
    assert_eq!(port.entities().len(), 45);
    assert_eq!(port.lines(), [post(""), bulk(""), bulk(""), bulk("")][..port.lines().len()]);
    assert!(port.lines().len() <= 4, "{:?}", port.lines());

    // Each hears of its own: one has no such blueprint's property, one is named twice, all others are taken.
    port.add_blueprint("media", &[]);
    let refused = together(&*sink, &many[..3]).await;
    for (n, tried) in refused.iter().enumerate() {
        assert_eq!(rejected(tried).matches("entity clip-").count(), 1, "{tried:?}");
        assert!(rejected(tried).contains(&format!("entity clip-{n}: ")), "{tried:?}");
    }
    port.add_blueprint("media", &["state"]);
    let twice = [unlinked("twice"), unlinked("x"), unlinked("twice"), unlinked("twice")];
    for tried in together(&*sink, &twice).await {
        delivered(&tried);
    }
}

#[tokio::test]
async fn a_call_that_is_cut_off_costs_those_that_went_with_it_a_try() {
    let port = port();
    let sink = sink(&port, &format!("reports = false\n{ENTITY}"));
    delivered(&deliver(&*sink, &unlinked("first")).await);
    port.script("entities?", How::Silent, false);
    let (a, b, c) = (unlinked("a"), unlinked("b"), unlinked("c"));
    {
        let cut = sink.deliver(&a, now());
        tokio::pin!(cut);
        tokio::select! {
            biased;
            tried = &mut cut => panic!("nobody answers, but {tried:?}"),
            () = async { while port.lines().len() < 2 { tokio::task::yield_now().await } } => {}
        }
    }
    // Whoever comes next is not held up.
    for delivery in [&a, &b, &c] {
        delivered(&deliver(&*sink, delivery).await);
    }
    assert_eq!(port.entities().len(), 4);
}

#[tokio::test]
async fn a_halt_midway_repeats_nothing() {
    let port = port();
    let sink = sink(&port, ENTITY);
    let end =
        delivery(with_tasks(change(RUN, Status::Succeeded, Some(Status::Running)), [task("a", Status::Succeeded)]));
    let no = json!({"ok": false, "error": "forbidden", "message": "IP not whitelisted 192.0.2.1"});
    port.script(PATCH, port::answer(403, &no), false);
    port.script("GET", port::answer(403, &no), false);
    let tried = deliver(&*sink, &end).await;
    assert!(halted(&tried).contains("IP not whitelisted"));
    let Outcome::Halt { resume, .. } = tried.outcome else { unreachable!("checked") };
    delivered(&deliver(&*sink, &Delivery { resume, ..end }).await);
    assert_eq!(
        port.lines(),
        [LOG.to_owned(), post(RUN), PATCH.to_owned(), GET.to_owned(), PATCH.to_owned(), LOG.to_owned()]
    );
    assert_eq!(told(&port), ["a-name finished: Success", "Transcode finished: Vendorsucceeded"]);
}

#[tokio::test]
async fn progress_is_held_back_while_little_is_left_of_the_limit() {
    let port = port();
    port.add_run("r_other");
    let sink = sink(&port, ENTITY);
    let reset = now().plus_ms(120_000);
    // Of 15000.
    port.limit(1_500, reset.seconds());
    let step = |keys: &[&str], status| {
        let mut change = change(RUN, status, Some(Status::Running));
        change = with_tasks(change, keys.iter().map(|key| task(key, Status::Succeeded)));
        delivery(change)
    };
    delivered(&deliver(&*sink, &step(&["a"], Status::Running)).await);
    assert_eq!(told(&port), ["a-name finished: Success"]);
    // Of runs; entities have a limit of their own.
    for key in ["b", "c"] {
        let tried = deliver(&*sink, &step(&[key], Status::Running)).await;
        assert_eq!(
            delivered(&tried).0,
            Some("progress is held back: Port's rate limit is nearly used up until 2023-11-14T22:15:20Z")
        );
    }
    assert_eq!(port.lines(), [LOG.to_owned(), post(RUN), post(RUN), post(RUN)]);
    // The end goes all the same, and takes along what was held back in one line.
    delivered(&deliver(&*sink, &step(&["d"], Status::Succeeded)).await);
    let held = ["b", "c", "d"].map(|key| format!("{key}-name finished: Success")).join("\n");
    assert_eq!(port.run(RUN).logs[1..], [json!(held), json!("Transcode finished: Vendorsucceeded")]);
    // With the new limit, progress is told again.
    let tasks = [task("x", Status::Succeeded)];
    let other = delivery(with_tasks(change("r_other", Status::Running, Some(Status::Running)), tasks));
    port.unlimit();
    delivered(&deliver_at(&*sink, &other, reset).await);
    assert_eq!(port.run("r_other").logs, ["x-name finished: Success"]);
}

#[tokio::test]
async fn a_preview_is_what_is_sent() {
    let port = port();
    let tasks = ["a", "b"].map(|key| task(key, Status::Succeeded));
    let end = delivery(with_tasks(change(RUN, Status::Succeeded, Some(Status::Running)), tasks));
    for options in [ENTITY, EACH_TASK, &format!("{EACH_TASK}action = \"delete\"\n")] {
        port.add_run(RUN);
        let before = port.lines().len();
        let sink = sink(&port, options);
        let shown = sink.preview(&end, now());
        delivered(&deliver(&*sink, &end).await);
        let sent = port.requests().into_iter().filter(|seen| !seen.line.ends_with("access_token")).skip(before);
        let sent: Vec<_> =
            sent.map(|seen| (seen.line.replace(" /", &format!(" {}/", port.url())), seen.body)).collect();
        let read = |body: &str| if body.is_empty() { Value::Null } else { serde_json::from_str(body).expect("JSON") };
        let shown: Vec<_> = shown.iter().map(|p| (p.action.clone(), read(&p.body))).collect();
        assert_eq!(shown, sent);
    }
}

#[test]
fn every_fault_of_the_entitys_options_is_said_at_once() {
    let faults = |options: &str| build("https://api.port.io", options).err().expect("faults");
    let keys = |options: &str| faults(options).into_iter().map(|fault| fault.key).collect::<Vec<_>>();
    let programs: Vec<_> = ["each", "title", "icon", "team", "properties", "relations", "identifier"].into();
    let all: String = programs.iter().map(|key| format!("{key} = '.['\n")).collect();
    let expected: Vec<_> = ["blueprint", "delete_dependents"]
        .iter()
        .chain(&programs)
        .map(|key| format!("sinks.portal.entity.{key}"))
        .collect();
    assert_eq!(keys(&format!("[entity]\nblueprint = \"a b\"\ndelete_dependents = true\n{all}")), expected);
    assert_eq!(keys("reports = false"), ["sinks.portal.reports"]);
    assert_eq!(keys("unlinked = \"entity\""), ["sinks.portal.unlinked"]);
    for bad in
        ["[entity]", "[entity]\nblueprint = \"a\"\naction = \"merge\"", "[entity]\nblueprint = \"a\"\nrun = true"]
    {
        faults(bad);
    }
    build("https://api.port.io", "reports = false\n[entity]\nblueprint = \"a\"").map(drop).expect("fine");
}

/// What the fake is worth: it refuses what Port refuses, and does not forget it.
#[tokio::test]
async fn the_fake_catalog_is_strict() {
    use callbackd::outbound::{Client, Request, Settings};
    let port = port();
    let client = Client::new(&Settings::default()).expect("a client");
    delivered(&deliver(&*sink(&port, ""), &delivery(change(RUN, Status::Running, None))).await);
    let call = async |method: &str, path: &str, body: &Value| {
        let mut headers = http::HeaderMap::new();
        headers.insert("content-type", "application/json".parse().expect("a header"));
        headers.insert("authorization", format!("Bearer {}1", port::TOKEN_PREFIX).parse().expect("a header"));
        let url = format!("{}/v1/blueprints/media/entities{path}", port.url()).parse().expect("a URL");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = Request { method: method.parse().expect("a method"), url, headers, body: body.into() };
        let answer = client.send(request).await.expect("an answer");
        (answer.status, serde_json::from_slice::<Value>(&answer.body).expect("JSON"))
    };
    let ok = json!({"identifier": "a", "properties": {"state": 1}});
    let many =
        |count: usize| json!({"entities": (0..count).map(|n| json!({"identifier": n.to_string()})).collect::<Value>()});
    let wrong: [(&str, &str, Value); 17] = [
        ("POST", "", ok.clone()),
        ("POST", "?merge=true", ok.clone()),
        ("POST", "?upsert=yes", ok.clone()),
        ("POST", "?upsert=true&mrege=true", ok.clone()),
        ("POST", "?upsert=true&run_id=wfnr_1", ok.clone()),
        ("POST", "?upsert=true", json!({"properties": {}})),
        ("POST", "?upsert=true", json!({"identifier": "a b"})),
        ("POST", "?upsert=true", json!({"identifier": ".."})),
        ("POST", "?upsert=true", json!({"identifier": "é".repeat(1001)})),
        ("POST", "?upsert=true", json!({"identifier": "a", "state": 1})),
        ("POST", "?upsert=true", json!({"identifier": "a", "properties": {"a.b": 1}})),
        ("POST", "?upsert=true", json!({"identifier": "a", "relations": {"parent": "a b"}})),
        ("POST", "/bulk?upsert=true", many(0)),
        ("POST", "/bulk?upsert=true", many(21)),
        ("POST", "/bulk?upsert=true", json!([])),
        ("DELETE", "/a", Value::Null),
        ("DELETE", "/a?delete_dependents=false", json!({})),
    ];
    for (method, path, body) in &wrong {
        let (status, _) = call(method, path, body).await;
        assert_eq!((status, port.take_faults().len()), (422, 1), "{method} {path} {body}");
    }
    assert!(port.entities().is_empty());
    assert_eq!(call("POST", "?upsert=false", &ok).await.0, 201);
    assert_eq!(call("POST", "?upsert=false", &ok).await.0, 409);
    // Without merge, what is not said is gone.
    assert_eq!(call("POST", "?upsert=true", &json!({"identifier": "a", "title": "A"})).await.0, 201);
    assert_eq!(port.entities()["a"]["properties"], json!({}));
    port.change_run(RUN, |run| run.status = "SUCCESS".to_owned());
    let (status, answer) = call("POST", &format!("?upsert=true&run_id={RUN}"), &ok).await;
    assert_eq!((status, &answer["error"]), (422, &json!("run_status_error")));
    assert_eq!(call("POST", "/bulk?upsert=true", &many(20)).await.0, 200);
    assert_eq!(call("DELETE", "/a?delete_dependents=false", &Value::Null).await.0, 200);
    assert_eq!(call("DELETE", "/a?delete_dependents=false", &Value::Null).await.0, 404);
}
