//! The whole circle in one process: Port asks, Tencent works and calls back, Port is told.

use std::path::Path;
use std::sync::Arc;

use callbackd::app::{self, Running};
use callbackd::clock;
use callbackd::config::{Config, Environment, check};
use callbackd::pipeline::ingest::Intake;
use callbackd::store::{DeliveryRow, Filter, Store};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use standardwebhooks::Webhook as Verifier;
use tempfile::TempDir;
use tokio::net::UnixStream;

use crate::peers::port::{CLIENT_ID, CLIENT_SECRET, FakePort, How, answer, bad_gateway};
use crate::peers::scripted::{Act, Scripted, send};
use crate::rig::until;
use crate::wire::{Wire, connect, post};

const RUN: &str = "r_AbCdEfGh12345678";
const NODE: &str = "wfnr_AbCdEfGh12345678";
const PATCH: &str = "PATCH /v1/actions/runs/r_AbCdEfGh12345678";
const LOG: &str = "POST /v1/actions/runs/r_AbCdEfGh12345678/logs";
const CLIP: &str = "in/clip.mp4";
/// The COS execution.
const KEY: &str = "i5f17a1fb";

/// A COS execution and a Port run belong together when they speak of the same object.
const LINKS: &str = r#"
[[links]]
of = "media"
key = ".execution.attributes.object"
with = "portal"
with_key = ".execution.inputs.object"
"#;
const TO_PORT: &str = "[[routes]]\nfrom = [\"media\"]\nto = [\"portal\"]\n";

/// A daemon, and the Port that it tells.
struct Circle {
    folder: TempDir,
    port: FakePort,
    daemon: Running,
    sources: Vec<(String, Intake)>,
}

impl Circle {
    /// `options` are the sink's, `rest` is what follows.
    async fn start(options: &str, rest: &str) -> Circle {
        let (folder, port) = Circle::peers();
        let (at, url) = (folder.path().display(), port.url());
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\ninstance = \"edge\"\n\
             [admin]\nlisten = \"unix:{at}/admin.sock\"\n\
             [store]\nurl = \"sqlite:{at}/callbackd.db\"\n\
             [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"a token\"\n\
             [sources.portal]\nkind = \"port_action\"\npath = \"/callbacks/port\"\nsecret = \"a secret\"\n\
             [sinks.portal]\nkind = \"port_run\"\nurl = {url:?}\nclient_id = {CLIENT_ID:?}\n\
             client_secret = {CLIENT_SECRET:?}\nretry_first = \"1ms\"\nretry_longest = \"5ms\"\n{options}\n{rest}"
        );
        let env = Environment::default();
        let config = Config::from_toml(&text, &env).unwrap_or_else(|faults| panic!("{faults}\n{text}"));
        Circle::run(folder, port, &config, &env).await
    }

    /// The example of that name, with nothing changed but where everything is.
    async fn start_example(name: &str, secrets: &[(&str, &str)]) -> Circle {
        let (folder, port) = Circle::peers();
        let at = folder.path().display();
        let (admin, store) = (format!("unix:{at}/admin.sock"), format!("sqlite:{at}/callbackd.db"));
        let places = [
            ("CALLBACKD__SERVER__LISTEN", "127.0.0.1:0"),
            ("CALLBACKD__ADMIN__LISTEN", &admin),
            ("CALLBACKD__STORE__URL", &store),
            ("CALLBACKD__SINKS__PORT__URL", &port.url()),
        ];
        let env: Environment = places.iter().chain(secrets).copied().collect();
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples").join(name);
        let checked = check(Some(&file), &env).unwrap_or_else(|faults| panic!("{faults}"));
        Circle::run(folder, port, &checked.config, &env).await
    }

    fn peers() -> (TempDir, FakePort) {
        let port = FakePort::start();
        port.add_run(RUN);
        port.add_run(NODE);
        (tempfile::tempdir().expect("a folder"), port)
    }

    async fn run(folder: TempDir, port: FakePort, config: &Config, env: &Environment) -> Circle {
        let sources = app::sources(config, env).unwrap_or_else(|faults| panic!("{faults}"));
        let adapters = config.adapters(env).unwrap_or_else(|faults| panic!("{faults}"));
        let daemon = Running::start(config, adapters).await.unwrap_or_else(|e| panic!("{e}"));
        Circle { folder, port, daemon, sources }
    }

    fn store(&self) -> Arc<dyn Store> {
        self.daemon.store()
    }

    /// Calls back as the sender of that path does, and says what became of it.
    async fn call_back(&self, path: &str, body: &str) -> Value {
        let (_, intake) = self.sources.iter().find(|(p, _)| p == path).expect("a source");
        let sent = intake.source.as_sender(body.to_owned().into(), HeaderMap::new(), clock::now());
        let mut head = format!("{} {path}{} HTTP/1.1\r\nhost: localhost\r\n", sent.method, sent.suffix);
        for (name, value) in &sent.headers {
            head += &format!("{name}: {}\r\n", value.to_str().expect("ASCII"));
        }
        let request = format!("{head}content-length: {}\r\n\r\n{body}", body.len());
        let answer = connect(self.daemon.address()).await.ask(request).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let said = answer.json();
        assert_eq!(said["outcome"], "accepted", "{body}");
        said
    }

    async fn tencent(&self, body: &str) -> Value {
        self.call_back("/callbacks/media", body).await
    }

    /// Port asks for work on an object; it asks of nothing when there is none.
    async fn invoke(&self, run: &str, object: Option<&str>) -> Value {
        let body = json!({
            "action": "transcode_clip", "resourceType": "run", "status": "TRIGGERED",
            "context": {"entity": null, "blueprint": "media", "runId": run},
            "payload": {"properties": object.map_or(json!({}), |object| json!({"object": object}))},
        });
        self.call_back("/callbacks/port", &body.to_string()).await
    }

    /// What `executions show` prints.
    async fn execution(&self, key: &str) -> Value {
        self.store().execution(key.to_owned()).await.expect("an execution")
    }

    async fn until_execution(&self, key: &str, status: &str) {
        until(&format!("{key} is {status}"), async || {
            (self.execution(key).await["execution"]["status"] == status).then_some(())
        })
        .await;
    }

    /// Oldest first.
    async fn deliveries(&self) -> Vec<DeliveryRow> {
        let mut rows = self.store().deliveries(Filter::default()).await.expect("deliveries");
        rows.reverse();
        rows
    }

    /// Sink, status and reason of each delivery.
    async fn standing(&self) -> Vec<(String, &'static str, Option<String>)> {
        self.deliveries().await.into_iter().map(|row| (row.sink, row.status.as_str(), row.reason)).collect()
    }

    /// Waits until every delivery stands like this, oldest first: its status, and a part of its reason.
    async fn until_standing(&self, expected: &[(&str, &str)]) {
        let holds = |standing: &[(String, &'static str, Option<String>)]| {
            let alike = |((_, status, reason), (expected, part)): (&(_, &str, Option<String>), &(&str, &str))| {
                status == expected && reason.as_deref().unwrap_or_default().contains(part)
            };
            standing.len() == expected.len() && standing.iter().zip(expected).all(alike)
        };
        let mut last = Vec::new();
        let wait = until("the deliveries stand as expected", async || {
            last = self.standing().await;
            holds(&last).then_some(())
        });
        if tokio::time::timeout(crate::rig::PATIENCE / 2, wait).await.is_err() {
            panic!("{:#?} instead of {expected:?}", self.standing().await);
        }
    }

    /// What an operator's command asks the running daemon.
    async fn admin(&self, path: &str, body: &str) -> Value {
        let door = UnixStream::connect(self.folder.path().join("admin.sock")).await.expect("connected");
        let answer = Wire::new(door).ask(post(path, body)).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    async fn stop(self) -> FakePort {
        self.daemon.stop().await;
        self.port
    }
}

/// One finished job of the workflow.
fn task_finish(job: &str, state: &str) -> String {
    format!(
        "<Response><EventName>TaskFinish</EventName><JobsDetail><Code>{state}</Code><JobId>{job}</JobId>\
         <State>{state}</State><Tag>Transcode</Tag><Input><BucketId>bucket</BucketId><Object>{CLIP}</Object></Input>\
         <Workflow><Name>step-{job}</Name><RunId>{KEY}</RunId><WorkflowName>Transcode</WorkflowName></Workflow>\
         </JobsDetail></Response>"
    )
}

/// The workflow has ended, with a job for each word.
fn workflow_finish(key: &str, object: &str, state: &str, more: &str, jobs: &[(&str, &str)]) -> String {
    let job = |(job, state): &(&str, &str)| {
        format!(
            "<Tasks><Type>Transcode</Type><State>{state}</State><JobId>{job}</JobId><Name>step-{job}</Name></Tasks>"
        )
    };
    let object = if object.is_empty() { String::new() } else { format!("<Object>{object}</Object>") };
    format!(
        "<Response><EventName>WorkflowFinish</EventName><WorkflowExecution><RunId>{key}</RunId>\
         <WorkflowName>Transcode</WorkflowName><BucketId>bucket</BucketId>{object}{more}<State>{state}</State>{}\
         </WorkflowExecution></Response>",
        jobs.iter().map(job).collect::<String>()
    )
}

fn succeeded(object: &str) -> String {
    workflow_finish(KEY, object, "Success", "", &[])
}

#[tokio::test]
async fn port_asks_tencent_works_and_port_is_told() {
    let circle = Circle::start("", &format!("{TO_PORT}{LINKS}")).await;
    circle.invoke(RUN, Some(CLIP)).await;
    assert_eq!(circle.execution(RUN).await["execution"]["status"], "running");
    circle.tencent(&task_finish("j1", "Success")).await;
    circle.tencent(&task_finish("j2", "Failed")).await;
    circle.tencent(&workflow_finish(KEY, CLIP, "Success", "", &[("j1", "Success"), ("j2", "Failed")])).await;
    circle.until_execution(RUN, "succeeded").await;
    circle.daemon.idle().await.expect("idle");

    let run = circle.port.run(RUN);
    assert_eq!(run.status, "SUCCESS");
    assert_eq!(
        run.logs,
        ["step-j1 finished: Success", "step-j2 finished: Failed (Failed)", "Transcode finished: Success"]
    );
    let summary = "Transcode finished: Success, 1 of 2 tasks succeeded\nstep-j2 finished: Failed (Failed)";
    let fields = json!({"externalRunId": KEY, "summary": summary, "statusLabel": "Succeeded"});
    assert_eq!(Value::Object(run.fields), fields);
    assert_eq!(circle.port.lines(), [PATCH, LOG, LOG, PATCH, LOG]);
    let ends = circle.port.requests().into_iter().filter(|seen| seen.body.get("terminationStatus").is_some()).count();
    assert_eq!((ends, circle.port.tokens_issued()), (1, 1));

    assert_eq!(circle.standing().await, vec![("portal".to_owned(), "delivered", None); 3]);
    let shown = circle.execution(RUN).await;
    let said = [&shown["execution"]["vendor_status"], &shown["execution"]["key"]];
    assert_eq!(said, [&json!("SUCCESS"), &json!(RUN)]);
    let links = &circle.execution(KEY).await["execution"]["links"];
    assert_eq!((&links[0]["source"], &links[0]["key"]), (&json!("portal"), &json!(RUN)));
    circle.stop().await;
}

#[tokio::test]
async fn what_port_asks_late_is_told_all_the_same() {
    let circle = Circle::start("", &format!("{TO_PORT}{LINKS}")).await;
    circle.tencent(&task_finish("j1", "Success")).await;
    circle.until_standing(&[("waiting", "waits for a link")]).await;
    circle.tencent(&succeeded(CLIP)).await;
    // The second waits for its turn, and so says nothing.
    circle.until_standing(&[("waiting", "waits for a link"), ("waiting", "")]).await;
    circle.daemon.idle().await.expect("what waits for somebody is not busy");
    let rows = circle.deliveries().await;
    assert!(rows[0].attempts == 0 && rows[0].due_at.is_some() && rows[1].due_at.is_none(), "{rows:?}");
    assert!(circle.port.requests().is_empty());

    circle.invoke(RUN, Some("in/another.mp4")).await;
    assert_eq!(circle.execution(KEY).await["execution"]["links"], json!([]));
    circle.port.add_run("r_late");
    circle.invoke("r_late", Some(CLIP)).await;
    circle.until_execution("r_late", "succeeded").await;
    circle.until_standing(&[("delivered", ""), ("delivered", "")]).await;
    let late = circle.port.run("r_late");
    assert_eq!(late.status, "SUCCESS");
    assert_eq!(late.logs, ["step-j1 finished: Success", "Transcode finished: Success"]);
    assert_eq!(circle.port.run(RUN).status, "IN_PROGRESS");
    circle.stop().await;
}

/// An entity for the object, and where it goes.
const ENTITY: &str = "[sinks.portal.entity]\nblueprint = \"media\"\nproperties = '{state: .execution.status}'\n";
const TIED: &str = "POST /v1/blueprints/media/entities?upsert=true&merge=true&run_id=r_AbCdEfGh12345678";
const GET: &str = "GET /v1/actions/runs/r_AbCdEfGh12345678?version=v2";

#[tokio::test]
async fn the_entity_is_updated_and_tied_before_the_run_ends() {
    let circle = Circle::start("", &format!("{ENTITY}{TO_PORT}{LINKS}")).await;
    circle.port.add_blueprint("media", &["state"]);
    circle.invoke(RUN, Some(CLIP)).await;
    circle.tencent(&task_finish("j1", "Success")).await;
    circle.tencent(&workflow_finish(KEY, CLIP, "Success", "", &[("j1", "Success")])).await;
    circle.until_execution(RUN, "succeeded").await;
    circle.until_standing(&[("delivered", ""), ("delivered", "")]).await;
    assert_eq!(circle.port.lines(), [PATCH, LOG, TIED, TIED, PATCH, LOG]);
    let subject = format!("bucket/{CLIP}");
    assert_eq!(circle.port.entities()[&subject]["properties"], json!({"state": "succeeded"}));
    assert_eq!(circle.port.ties(), vec![(RUN.to_owned(), subject); 2]);
    assert_eq!(circle.port.run(RUN).status, "SUCCESS");
    circle.stop().await;
}

#[tokio::test]
async fn an_entity_that_port_refuses_is_a_dead_letter_of_a_run_that_ended() {
    let circle = Circle::start("", &format!("{ENTITY}{TO_PORT}{LINKS}")).await;
    circle.port.add_blueprint("media", &[]);
    circle.invoke(RUN, Some(CLIP)).await;
    circle.tencent(&succeeded(CLIP)).await;
    circle.until_standing(&[("dead", "entity bucket/in/clip.mp4: answered 422")]).await;
    circle.until_execution(RUN, "succeeded").await;
    assert_eq!(circle.port.run(RUN).status, "SUCCESS");
    assert!(circle.port.entities().is_empty());

    circle.port.add_blueprint("media", &["state"]);
    circle.admin("/api/v1/deliveries/retry", "{}").await;
    circle.until_standing(&[("delivered", "the run ended as SUCCESS already")]).await;
    assert_eq!(circle.port.entities().len(), 1);
    assert_eq!(circle.port.run(RUN).logs, ["Transcode finished: Success"], "told once");
    circle.stop().await;
}

#[tokio::test]
async fn a_sink_that_is_halted_midway_goes_on_where_it_was() {
    let circle = Circle::start("", &format!("{ENTITY}{TO_PORT}{LINKS}")).await;
    circle.port.add_blueprint("media", &["state"]);
    let no = json!({"ok": false, "error": "forbidden", "message": "IP not whitelisted 192.0.2.1"});
    circle.port.script("PATCH", answer(403, &no), false);
    circle.port.script("GET", answer(403, &no), false);
    circle.invoke(RUN, Some(CLIP)).await;
    circle.tencent(&workflow_finish(KEY, CLIP, "Success", "", &[("j1", "Success")])).await;
    circle.until_standing(&[("waiting", "IP not whitelisted")]).await;
    assert_eq!(circle.port.lines(), [LOG, TIED, PATCH, GET]);
    let row = circle.deliveries().await.remove(0);
    circle.admin("/api/v1/sinks/portal/resume", "").await;
    circle.admin(&format!("/api/v1/deliveries/{}/retry", row.id), "").await;
    circle.until_standing(&[("delivered", "")]).await;
    assert_eq!(circle.port.lines()[4..], [PATCH, LOG], "neither lines nor entities again");
    assert_eq!(circle.port.run(RUN).logs, ["step-j1 finished: Success", "Transcode finished: Success"]);
    circle.stop().await;
}

#[tokio::test]
async fn a_run_that_nobody_approved_yet_is_waited_for() {
    let circle = Circle::start("", &format!("{TO_PORT}{LINKS}")).await;
    circle.port.change_run(RUN, |run| run.status = "WAITING_FOR_APPROVAL".to_owned());
    circle.invoke(RUN, Some(CLIP)).await;
    circle.tencent(&succeeded(CLIP)).await;
    circle.until_standing(&[("waiting", "waits for approval")]).await;
    circle.daemon.idle().await.expect("what waits for somebody is not busy");
    let row = circle.deliveries().await.remove(0);
    assert_eq!((row.attempts, circle.port.lines()), (0, vec![PATCH.to_owned(), GET.to_owned()]));
    circle.port.change_run(RUN, |run| run.status = "IN_PROGRESS".to_owned());
    circle.admin(&format!("/api/v1/deliveries/{}/retry", row.id), "").await;
    circle.until_execution(RUN, "succeeded").await;
    assert_eq!(circle.port.run(RUN).status, "SUCCESS");
    circle.stop().await;
}

#[tokio::test]
async fn the_example_from_tencent_to_port_works() {
    let secrets = [("MEDIA_TOKEN", "a token"), ("PORT_CLIENT_ID", CLIENT_ID), ("PORT_CLIENT_SECRET", CLIENT_SECRET)];
    let circle = Circle::start_example("tencent_to_port.toml", &secrets).await;
    circle.port.add_blueprint("media_file", &["status", "workflow_run"]);
    circle.invoke(RUN, Some("in/剪辑 1.mp4")).await;
    circle.tencent(&workflow_finish(KEY, "in/剪辑 1.mp4", "Success", "", &[("j1", "Success")])).await;
    circle.until_execution(RUN, "succeeded").await;
    circle.until_standing(&[("delivered", "")]).await;
    let entities = circle.port.entities();
    let (id, entity) = entities.first_key_value().expect("an entity");
    assert!(id.starts_with("bucket/in/剪辑-1.mp4-"), "{id}");
    assert_eq!(entity["title"], "in/剪辑 1.mp4");
    assert_eq!(entity["properties"], json!({"status": "succeeded", "workflow_run": KEY}));
    assert_eq!(circle.port.ties(), [(RUN.to_owned(), id.clone())]);
    assert_eq!(circle.port.run(RUN).status, "SUCCESS");
    circle.stop().await;
}

#[tokio::test]
async fn a_header_of_the_upload_names_the_run() {
    let circle = Circle::start("terminal = \"patch\"", TO_PORT).await;
    let header = format!("<CosHeaders><Key>x-cos-meta-port-run-id</Key><Value>{RUN}</Value></CosHeaders>");
    circle.tencent(&workflow_finish(KEY, CLIP, "Cancel", &header, &[])).await;
    circle.until_standing(&[("delivered", "")]).await;
    assert_eq!(circle.port.lines(), [PATCH]);
    let run = circle.port.run(RUN);
    assert_eq!((run.status.as_str(), &run.fields["statusLabel"]), ("FAILURE", &json!("Cancelled")));
    circle.stop().await;
}

#[tokio::test]
async fn an_upload_that_nobody_asked_for_is_dropped_or_kept_as_a_dead_letter() {
    for (options, status) in [("", "discarded"), ("unlinked = \"dead\"", "dead")] {
        let circle = Circle::start(&format!("link_within = \"1ms\"\n{options}"), &format!("{TO_PORT}{LINKS}")).await;
        circle.tencent(&task_finish("j1", "Success")).await;
        circle.tencent(&succeeded(CLIP)).await;
        circle.until_standing(&[(status, "no Port run"), (status, "no Port run")]).await;
        assert!(circle.port.requests().is_empty());
        circle.stop().await;
    }
}

#[tokio::test]
async fn what_says_nothing_belongs_to_nothing() {
    let circle = Circle::start("", &format!("{TO_PORT}{LINKS}")).await;
    circle.invoke(RUN, None).await;
    circle.tencent(&succeeded("")).await;
    circle.invoke("r_another", None).await;
    circle.until_standing(&[("waiting", "waits for a link")]).await;
    for key in [RUN, KEY, "r_another"] {
        assert_eq!(circle.execution(key).await["execution"]["links"], json!([]), "{key}");
    }
    assert!(circle.port.requests().is_empty());
    circle.stop().await;
}

#[tokio::test]
async fn a_workflow_node_is_told_in_its_own_words() {
    for (state, result) in [("Success", "SUCCESS"), ("Failed", "FAILED"), ("Cancel", "CANCELLED")] {
        let circle = Circle::start("", &format!("{TO_PORT}{LINKS}")).await;
        circle.invoke(NODE, Some(CLIP)).await;
        circle.tencent(&task_finish("j1", "Success")).await;
        circle.tencent(&workflow_finish(KEY, CLIP, state, "", &[])).await;
        circle.until_standing(&[("delivered", ""), ("delivered", "")]).await;
        let node = circle.port.run(NODE);
        assert_eq!((node.status.as_str(), &node.fields["result"]), ("COMPLETED", &json!(result)));
        assert_eq!(node.logs[0], json!({"level": "INFO", "message": "step-j1 finished: Success"}));
        let ours = match state {
            "Success" => "succeeded",
            "Failed" => "failed",
            _ => "cancelled",
        };
        circle.until_execution(NODE, ours).await;
        circle.stop().await;
    }
}

#[tokio::test]
async fn a_run_that_port_does_not_know_is_a_dead_letter() {
    let circle = Circle::start("", &format!("{TO_PORT}{LINKS}")).await;
    circle.invoke("r_gone", Some(CLIP)).await;
    circle.tencent(&task_finish("j1", "Success")).await;
    circle.tencent(&succeeded(CLIP)).await;
    let gone = ("dead", "Port knows no run r_gone");
    circle.until_standing(&[gone, gone]).await;
    assert_eq!(circle.execution("r_gone").await["execution"]["status"], "running");

    // Port knows it after all.
    circle.port.add_run("r_gone");
    let retried = circle.admin("/api/v1/deliveries/retry", "{}").await;
    assert_eq!(retried["count"], 2);
    circle.until_standing(&[("delivered", ""), ("delivered", "")]).await;
    assert_eq!(circle.port.run("r_gone").logs, ["step-j1 finished: Success", "Transcode finished: Success"]);
    circle.until_execution("r_gone", "succeeded").await;
    circle.stop().await;
}

#[tokio::test]
async fn a_run_that_takes_no_reports_is_delivered_with_a_note() {
    let cases = [
        ("SUCCESS", "the run ended as SUCCESS already", "succeeded"),
        ("FAILURE", "the run ended as FAILURE already", "failed"),
        ("DECLINED", "the run ended as DECLINED already", "cancelled"),
        ("synchronized", "the run is synchronous", "running"),
    ];
    for (word, note, ours) in cases {
        let circle = Circle::start("", &format!("{TO_PORT}{LINKS}")).await;
        circle.port.change_run(RUN, |run| match word {
            "synchronized" => run.synchronized = true,
            word => run.status = word.to_owned(),
        });
        circle.invoke(RUN, Some(CLIP)).await;
        circle.tencent(&succeeded(CLIP)).await;
        circle.until_standing(&[("delivered", note)]).await;
        assert_eq!(circle.execution(RUN).await["execution"]["status"], ours, "{word}");
        let lines = circle.port.lines();
        assert!(lines.len() <= 2, "no storm: {lines:?}");
        circle.stop().await;
    }
}

#[tokio::test]
async fn a_token_that_ends_midway_is_renewed() {
    let circle = Circle::start("", &format!("{TO_PORT}{LINKS}")).await;
    circle.invoke(RUN, Some(CLIP)).await;
    circle.tencent(&task_finish("j1", "Success")).await;
    circle.until_standing(&[("delivered", "")]).await;
    circle.port.expire_tokens();
    circle.tencent(&succeeded(CLIP)).await;
    circle.until_standing(&[("delivered", ""), ("delivered", "")]).await;
    assert_eq!((circle.port.tokens_issued(), circle.port.run(RUN).status.as_str()), (2, "SUCCESS"));
    for row in circle.deliveries().await {
        let (_, attempts) = circle.store().delivery(row.id.parse().expect("an id")).await.expect("a delivery");
        assert_eq!(attempts.len(), 1, "the renewal is part of the try: {attempts:?}");
        assert!(!format!("{attempts:?}").contains("hunter2"), "{attempts:?}");
    }
    circle.stop().await;
}

#[tokio::test]
async fn the_end_is_reported_once_whatever_becomes_of_the_answer() {
    for (how, applied) in [(How::Closed, true), (How::Torn, true), (bad_gateway(), true), (bad_gateway(), false)] {
        let circle = Circle::start("progress = false", &format!("{TO_PORT}{LINKS}")).await;
        circle.port.script("/logs", how.clone(), applied);
        circle.invoke(RUN, Some(CLIP)).await;
        circle.tencent(&succeeded(CLIP)).await;
        circle.until_execution(RUN, "succeeded").await;
        circle.until_standing(&[("delivered", if applied { "reported before" } else { "" })]).await;
        let run = circle.port.run(RUN);
        assert_eq!((run.status.as_str(), run.logs), ("SUCCESS", vec![json!("Transcode finished: Success")]), "{how:?}");
        circle.stop().await;
    }
}

/// A peer of the webhook's that takes so many changes, one a connection.
async fn hook(changes: usize) -> Scripted {
    let taken = vec![Act::Read, send("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"), Act::Close];
    Scripted::start(vec![taken; changes]).await
}

#[tokio::test]
async fn a_route_takes_what_its_condition_holds_for() {
    let peer = hook(1).await;
    let rest = format!(
        "[sinks.hook]\nkind = \"webhook\"\nurl = \"http://{}/\"\n\
         [[routes]]\nfrom = [\"media\", \"portal\"]\nwhen = '.execution.status == \"failed\"'\nto = [\"hook\"]\n",
        peer.address()
    );
    let circle = Circle::start("", &rest).await;
    circle.tencent(&workflow_finish("i1", CLIP, "Success", "", &[])).await;
    circle.tencent(&workflow_finish("i2", CLIP, "Failed", "", &[])).await;
    circle.invoke(RUN, Some(CLIP)).await;
    circle.until_standing(&[("delivered", "")]).await;
    let requests = peer.requests();
    assert!(requests.len() == 1 && requests[0].contains("\"subject\":\"i2\""), "{requests:?}");
    // What no route wants is kept all the same.
    assert_eq!(circle.execution("i1").await["execution"]["status"], "succeeded");
    assert!(circle.port.requests().is_empty());
    circle.stop().await;
}

#[tokio::test]
async fn a_condition_that_fails_is_a_dead_letter_that_can_be_delivered() {
    let peer = hook(2).await;
    let rest = format!(
        "[sinks.hook]\nkind = \"webhook\"\nurl = \"http://{}/\"\n\
         [[routes]]\nfrom = [\"media\"]\nwhen = '.execution.attributes.object | startswith(\"in/\")'\nto = [\"hook\"]\n",
        peer.address()
    );
    let circle = Circle::start("", &rest).await;
    circle.tencent(&workflow_finish("i1", "", "Success", "", &[])).await;
    circle.until_standing(&[("dead", "routes[0].when: ")]).await;
    circle.tencent(&workflow_finish("i2", CLIP, "Success", "", &[])).await;
    circle.tencent(&workflow_finish("i3", "out/clip.mp4", "Success", "", &[])).await;
    circle.until_standing(&[("dead", "routes[0].when: "), ("delivered", "")]).await;

    let dead = circle.deliveries().await.remove(0);
    assert_eq!((dead.key.as_str(), dead.attempts), ("i1", 0));
    let retried = circle.admin(&format!("/api/v1/deliveries/{}/retry", dead.id), "").await;
    assert_eq!(retried["count"], 1);
    circle.until_standing(&[("delivered", ""), ("delivered", "")]).await;
    let told: Vec<_> = peer.requests().iter().map(|request| subject_of(request)).collect();
    assert_eq!(told, ["i2", "i1"]);
    circle.stop().await;
}

/// The headers and the body of a request, as they came over the wire.
fn taken_apart(request: &str) -> (HeaderMap, &str) {
    let (head, body) = request.split_once("\r\n\r\n").expect("a head");
    let header = |line: &str| {
        let (name, value) = line.split_once(": ").expect("a header");
        (name.parse::<HeaderName>().expect(name), value.parse::<HeaderValue>().expect(value))
    };
    (head.lines().skip(1).map(header).collect(), body)
}

fn subject_of(request: &str) -> String {
    let envelope: Value = serde_json::from_str(taken_apart(request).1).expect("JSON");
    envelope["subject"].as_str().expect("a subject").to_owned()
}

#[tokio::test]
async fn a_webhook_is_signed_with_both_secrets_and_wrapped_as_a_cloudevent() {
    const NEW: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const OLD: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    let (structured, binary) = (hook(1).await, hook(1).await);
    let sink = |name: &str, peer: &Scripted, mode: &str| {
        let url = format!("http://{}/", peer.address());
        format!("[sinks.{name}]\nkind = \"webhook\"\nurl = {url:?}\nmode = {mode:?}\nsecret = [{NEW:?}, {OLD:?}]\n")
    };
    let rest = sink("one", &structured, "structured")
        + &sink("two", &binary, "binary")
        + "[[routes]]\nfrom = [\"media\"]\nto = [\"one\", \"two\"]\n";
    let circle = Circle::start("", &rest).await;
    let before = clock::now();
    circle.tencent(&workflow_finish("游戏-1", "in/剪辑 1.mp4", "Success", "", &[("j1", "Success")])).await;
    circle.until_standing(&[("delivered", ""), ("delivered", "")]).await;
    let change = circle.execution("游戏-1").await["changes"][0].clone();
    let rows = circle.deliveries().await;
    circle.stop().await;

    let (structured, binary) = (structured.requests().remove(0), binary.requests().remove(0));
    for (request, row) in [(&structured, &rows[0]), (&binary, &rows[1])] {
        let (headers, body) = taken_apart(request);
        for secret in [NEW, OLD] {
            Verifier::new(secret).expect("a key").verify(body.as_bytes(), &headers).expect(secret);
        }
        Verifier::new(OTHER).expect("a key").verify(body.as_bytes(), &headers).expect_err("another secret");
        let changed = body.replacen("succeeded", "succeedet", 1);
        assert_ne!(changed, body);
        Verifier::new(NEW).expect("a key").verify(changed.as_bytes(), &headers).expect_err("another body");
        assert_eq!(headers["webhook-id"], row.id, "what a peer deduplicates on");
    }

    // CloudEvents 1.0: what an envelope must have, and may have, in either form.
    let (headers, body) = taken_apart(&structured);
    assert_eq!(headers["content-type"], "application/cloudevents+json; charset=utf-8");
    let mut envelope: Value = serde_json::from_str(body).expect("JSON");
    let data = envelope.as_object_mut().expect("an object").remove("data").expect("data");
    let text = |name: &str| envelope[name].as_str().unwrap_or_else(|| panic!("{name} in {envelope}"));
    let names: Vec<_> = envelope.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["datacontenttype", "id", "source", "specversion", "subject", "time", "type"]);
    assert_eq!(text("specversion"), "1.0");
    assert_eq!(text("type"), "callbackd.execution.succeeded");
    assert_eq!(text("source"), "callbackd/edge/media");
    assert_eq!(text("subject"), "游戏-1");
    assert_eq!(text("datacontenttype"), "application/json");
    assert_eq!(text("id"), rows[0].change);
    let time = callbackd::model::Time::parse(text("time")).expect("RFC 3339");
    assert!(time >= before && time <= clock::now() && text("time").ends_with('Z'), "{time}");
    assert_eq!(data["execution"]["attributes"]["object"], "in/剪辑 1.mp4");
    assert_eq!(data["tasks"][0]["status"], "succeeded");
    assert_eq!(data["change"]["sequence"], 1);
    assert_eq!(data, change["data"], "what is shown is what was told");

    let (headers, body) = taken_apart(&binary);
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(serde_json::from_str::<Value>(body).expect("JSON"), data);
    for name in ["specversion", "id", "source", "type", "time"] {
        assert_eq!(headers[format!("ce-{name}")], text(name), "{name}");
    }
    assert_eq!(headers["ce-subject"], "%E6%B8%B8%E6%88%8F-1");
}
