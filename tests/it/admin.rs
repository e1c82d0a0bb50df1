//! The operators' door, on the wire.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use callbackd::admin::{Admin, AdminState, Watch};
use callbackd::measure::Measures;
use callbackd::model::Time;
use callbackd::pipeline::Wake;
use callbackd::secret::Secret;
use callbackd::server::{Live, bind, serve};
use callbackd::shutdown::Shutdown;
use serde_json::{Value, json};

use crate::stub::{Shared, ingest};
use crate::wire::{Answer, connect, post};

struct Door {
    address: String,
    store: Shared,
    wake: Wake,
    stopping: Shutdown,
}

impl Door {
    async fn new(token: Option<&str>) -> Door {
        let bound = bind("127.0.0.1:0", None).await.expect("bound");
        let (store, wake, stopping) = (Shared::default(), Wake::default(), Shutdown::new());
        let address = bound.address().to_owned();
        let state = AdminState {
            store: Arc::new(store.clone()),
            ingest: Live::new(ingest(&store, "/callbacks/media", &[], None)),
            wake: wake.clone(),
            watch: Arc::new(Watch::new(Arc::new(store.clone()), Arc::new(Measures::new(Time::default())))),
            token: token.map(Secret::new),
            shutdown: stopping.clone(),
        };
        tokio::spawn(serve(bound, Arc::new(Admin::new(state)), Shutdown::new()));
        Door { address, store, wake, stopping }
    }

    async fn ask(&self, request: &str) -> Answer {
        connect(&self.address).await.ask(request).await
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.store.0.asked.lock().expect("sound"))
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

#[tokio::test]
async fn says_whether_it_lives_and_is_ready() {
    let door = Door::new(Some("s3cret")).await;
    let probe = async |path| {
        let answer = door.ask(&get(path)).await;
        (answer.status, answer.body)
    };
    assert_eq!(probe("/livez").await, (200, "ok".to_owned()));
    assert_eq!(probe("/readyz").await, (200, "ready".to_owned()));
    door.store.0.refuses.store(true, Ordering::Relaxed);
    assert_eq!(probe("/readyz").await, (503, "the disk is full".to_owned()));
    door.store.0.refuses.store(false, Ordering::Relaxed);
    door.stopping.begin();
    assert_eq!(probe("/readyz").await, (503, "the daemon stops".to_owned()));
    assert_eq!(probe("/livez").await, (200, "ok".to_owned()));
    let answer = door.ask(&post("/livez", "")).await;
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
}

#[tokio::test]
async fn what_is_wrong_is_said_in_few_words() {
    let door = Door::new(None).await;
    let long = "x".repeat(15_000);
    for request in [
        post("/api/v1/deliveries/retry", &format!("{{\"{long}\\u001b\": 1}}")),
        post(&format!("/api/v1/sinks/{long}/pause"), ""),
        post(&format!("/api/v1/deliveries/{long}/retry"), ""),
    ] {
        let answer = door.ask(&request).await;
        assert!((400..500).contains(&answer.status), "{answer:?}");
        let detail = answer.json()["detail"].as_str().expect("a detail").to_owned();
        assert!(detail.contains("xxx") && detail.len() < 3000 && !detail.contains('\u{1b}'), "{detail}");
    }
}

#[tokio::test]
async fn does_what_operators_ask() {
    let door = Door::new(None).await;
    for (request, status, body, asked) in [
        (post("/api/v1/deliveries/7/retry", ""), 200, json!({"count": 3}), Some(r#"retry {"one":7}"#)),
        (post("/api/v1/deliveries/7/discard", ""), 409, Value::Null, Some(r#"discard {"one":7}"#)),
        (
            post("/api/v1/receipts/1/replay", ""),
            200,
            json!({"receipt": "1", "outcome": "accepted", "executions": ["8", "9"]}),
            None,
        ),
        (post("/api/v1/receipts/2/replay", ""), 404, Value::Null, None),
        (post("/api/v1/receipts/x/replay", ""), 404, Value::Null, None),
        (
            post("/api/v1/sinks/portal/pause", ""),
            200,
            json!({"name": "portal", "paused": "by an operator"}),
            Some(r#"pause portal Some("by an operator")"#),
        ),
        (
            post("/api/v1/sinks/portal/pause", r#"{"reason": "upgrade"}"#),
            200,
            json!({"name": "portal", "paused": "upgrade"}),
            Some(r#"pause portal Some("upgrade")"#),
        ),
        (post("/api/v1/sinks/portal/pause", r#"{"raison": "upgrade"}"#), 400, Value::Null, None),
        (post("/api/v1/sinks/gone/resume", ""), 200, json!({"name": "gone", "paused": null}), Some("pause gone None")),
        (post("/api/v1/sinks/prtal/pause", ""), 404, Value::Null, None),
        (post("/api/v1/deliveries/retry", ""), 400, Value::Null, None),
        (post("/api/v1/deliveries/retry", r#"{"sinc": "portal"}"#), 400, Value::Null, None),
        (post("/api/v1/deliveries/retry", r#"{"status": ["ded"]}"#), 400, Value::Null, None),
        // A list is no object, and what is asked with where nothing can be is a slip.
        (post("/api/v1/deliveries/retry", "[]"), 400, Value::Null, None),
        (post("/api/v1/deliveries/retry?sink=portal", "{}"), 400, Value::Null, None),
        (post("/api/v1/sinks", ""), 405, Value::Null, None),
        (get("/api/v1/deliveries/retry"), 405, Value::Null, None),
        (get("/api/v1/nothing"), 404, Value::Null, None),
        (
            get("/api/v1/sinks"),
            200,
            json!({"items": [
                {"name": "gone", "paused": null, "backlog": 2, "oldest": null, "reason": null, "dead": 1, "dead_reason": null, "breaker": null},
                {"name": "portal", "paused": null, "backlog": 0, "oldest": null, "reason": null, "dead": 0, "dead_reason": null, "breaker": null},
            ]}),
            None,
        ),
    ] {
        let answer = door.ask(&request).await;
        assert_eq!(answer.status, status, "{request} {answer:?}");
        if status == 200 {
            assert_eq!(answer.json(), body, "{request}");
        } else {
            assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{request}");
            assert_eq!(answer.json()["status"], status, "{request}");
        }
        assert_eq!(door.asked(), asked.into_iter().collect::<Vec<_>>(), "{request}");
    }

    let answer = door.ask(&post("/api/v1/deliveries/retry", r#"{"status": ["dead"], "sink": "portal"}"#)).await;
    assert_eq!((answer.status, answer.json()), (200, json!({"count": 3})));
    let asked = door.asked().concat();
    let filter: Value = serde_json::from_str(asked.strip_prefix("retry ").expect("asked")).expect("JSON");
    assert_eq!((&filter["all"]["status"], &filter["all"]["sink"]), (&json!(["dead"]), &json!("portal")));
}

#[tokio::test]
async fn a_retry_wakes_the_forwarders() {
    let door = Door::new(None).await;
    let portal = door.wake.of("portal");
    assert_eq!(door.ask(&post("/api/v1/deliveries/7/retry", "")).await.status, 200);
    portal.notified().await;
}

#[tokio::test]
async fn a_large_body_is_refused() {
    let door = Door::new(None).await;
    assert_eq!(door.ask(&post("/api/v1/deliveries/retry", &" ".repeat(70_000))).await.status, 413);
}

#[tokio::test]
async fn only_operators_are_let_in() {
    let request = |head: &str| format!("POST /api/v1/deliveries/7/retry HTTP/1.1\r\nContent-Length: 0\r\n{head}\r\n");
    let door = Door::new(Some("s3cret")).await;
    for (head, status) in [
        ("Host: localhost\r\n", 401),
        ("Host: localhost\r\nAuthorization: Bearer s3cre\r\n", 401),
        ("Host: localhost\r\nAuthorization: Bearer s3crets\r\n", 401),
        ("Host: localhost\r\nAuthorization: Basic s3cret\r\n", 401),
        ("Host: ops.example\r\nAuthorization: Bearer s3cret\r\n", 200),
    ] {
        let answer = door.ask(&request(head)).await;
        assert_eq!(answer.status, status, "{head}");
        let challenges = "Bearer, Basic realm=\"callbackd\", charset=\"UTF-8\"";
        assert_eq!(answer.header("www-authenticate"), (status == 401).then_some(challenges));
        assert!(!answer.body.contains("s3cret"));
    }
    assert_eq!(door.asked().len(), 1);

    let door = Door::new(None).await;
    for (head, status) in [
        ("Host: 127.0.0.1:8481\r\n", 200),
        ("Host: attacker.example\r\n", 403),
        ("Host: localhost\r\nOrigin: https://attacker.example\r\n", 403),
    ] {
        assert_eq!(door.ask(&request(head)).await.status, status, "{head}");
    }
    assert_eq!(door.asked().len(), 1);
}
