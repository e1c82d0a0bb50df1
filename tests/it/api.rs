//! The operators' API, as a program uses it: what the commands list, page by page, over HTTP.

use serde_json::{Value, json};

use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, soon};
use crate::peers::hook::{Hook, Reply};

fn config(url: &str) -> String {
    format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sources.other]\nkind = \"cos_workflow\"\npath = \"/callbacks/other\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = \"{url}\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n"
    )
}

/// Every page of a list, one after the other.
fn pages(daemon: &Daemon, list: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let separator = if list.contains('?') { '&' } else { '?' };
        let mut page = daemon.look(&format!("/api/v1/{list}{separator}limit=2{cursor}")).json();
        let Some(Value::Array(rows)) = page.get_mut("items").map(Value::take) else { panic!("{list}: {page}") };
        assert!(rows.len() <= 2, "{rows:?}");
        items.extend(rows);
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

/// Whoever lists executions gets no more at once than fits into the daemon's memory many times, and all of them in turn.
#[test]
fn a_page_of_large_executions_is_short() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url()));
    for run in 0..20 {
        let body = cos(Step::Success, run).replace("<BucketId>media", &format!("<BucketId>{}", "m".repeat(900_000)));
        assert_eq!(daemon.post("/callbacks/other/t0ken", &[], &body).status, 200);
    }
    for path in ["api/v1/executions?limit=1000", "executions?limit=1000"] {
        let answer = daemon.look(&format!("/{path}"));
        assert!(answer.body.len() < 8 << 20, "{path}: {} bytes", answer.body.len());
    }
    let (mut keys, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.look(&format!("/api/v1/executions?limit=1000{cursor}")).json();
        let items = page["items"].as_array().expect("a list");
        assert!(items.len() < 8, "{}", items.len());
        keys.extend(items.iter().map(|item| item["key"].as_str().expect("a key").to_owned()));
        match page["next"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(keys, (0..20).rev().map(|run| run.to_string()).collect::<Vec<_>>());
}

/// Of a sender's long headers, too.
#[test]
fn a_page_of_receipts_with_long_headers_is_short() {
    let daemon = Daemon::run(&config("http://127.0.0.1:9"));
    let long = "u".repeat(60_000);
    for run in 0..120 {
        let answer = daemon.post("/callbacks/other/t0ken", &[("user-agent", &long)], cos(Step::Success, run));
        assert_eq!(answer.status, 200);
    }
    for path in ["api/v1/receipts?limit=1000", "receipts?limit=1000"] {
        let answer = daemon.look(&format!("/{path}"));
        assert!(answer.body.len() < 5 << 20, "{path}: {} bytes", answer.body.len());
    }
    let page = daemon.look("/api/v1/receipts?limit=1000").json();
    let next = page["next"].as_str().expect("more of them");
    let rest = daemon.look(&format!("/api/v1/receipts?limit=1000&cursor={next}")).json();
    let count = |page: &Value| page["items"].as_array().map_or(0, Vec::len);
    assert_eq!((count(&page) + count(&rest), &rest["next"]), (120, &Value::Null));
}

/// Whoever looks at one execution with many large changes gets no more at once than that.
#[test]
fn an_execution_of_many_large_changes_is_told_in_short() {
    let daemon = Daemon::run(&config("http://127.0.0.1:9"));
    for job in 0..40 {
        let body = cos(Step::TaskFinish, "r1").replace("<JobId>", &format!("<JobId>{job}"));
        let body = body.replace("<BucketId>media", &format!("<BucketId>{}", "m".repeat(900_000)));
        assert_eq!(daemon.post("/callbacks/other/t0ken", &[], &body).json()["outcome"], "accepted", "{job}");
    }
    let shown = daemon.look("/api/v1/executions/r1").json();
    let changes = shown["changes"].as_array().expect("changes");
    let short = changes.iter().filter(|change| change["data"]["execution"].is_null()).count();
    assert!(changes.len() == 40 && (30..40).contains(&short), "{short} of {}", changes.len());
    for path in ["api/v1/executions/r1", "executions/r1"] {
        let answer = daemon.look(&format!("/{path}"));
        assert!(answer.body.len() < 8 << 20, "{path}: {} bytes", answer.body.len());
    }
    let page = daemon.look("/executions/r1");
    let said = format!("What the first {short} held is left out");
    assert!(page.body.contains(&said), "a person is told");
    assert!(daemon.cli(&["executions", "show", "r1"]).said().contains(&said), "here, too");
}

/// Who asks for much and does not read it gets only so much of the memory; who asks for little is answered.
#[test]
fn slow_readers_of_large_answers_share_a_bounded_memory() {
    let daemon = Daemon::run(&config("http://127.0.0.1:9"));
    for run in 0..6 {
        let body = cos(Step::Success, run).replace("<BucketId>media", &format!("<BucketId>{}", "m".repeat(900_000)));
        assert_eq!(daemon.post("/callbacks/other/t0ken", &[], &body).status, 200);
    }
    let list = "/api/v1/executions?limit=1000";
    let bytes = daemon.look(list).body.len();
    assert!(bytes > 5 << 20, "more than a socket takes that nobody reads: {bytes}");
    // Another one is made while what is held leaves a quarter of the room.
    let most = (18 << 20) / bytes + 1;
    let request = format!("GET {list} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let mut asked: Vec<_> = (0..most + 8).map(|_| Connection::to(&daemon.admin)).collect();
    asked.iter_mut().for_each(|connection| connection.send(&request).expect("sent"));
    // The head of each, and nothing of what follows.
    let answered: Vec<_> = asked.iter_mut().map(|connection| connection.head().expect("a head")).collect();
    let count = |status| answered.iter().filter(|(answered, _)| *answered == status).count();
    assert_eq!((count(200), count(503)), (most, 8), "{answered:#?}");
    assert!(answered.iter().all(|(status, head)| (*status == 503) == head.contains("\r\nretry-after: ")));
    for path in ["/livez", "/api/v1/sinks", "/api/v1/deliveries"] {
        assert_eq!(daemon.look(path).status, 200, "{path}");
    }
    drop(asked);
    soon("room again", || (daemon.look(list).status == 200).then_some(()));
}

#[test]
fn a_program_sees_what_the_commands_show() {
    let hook = Hook::start(|| Reply::Status(400));
    let daemon = Daemon::run(&config(&hook.url()));
    for run in 0..5 {
        let body = cos(Step::Success, format_args!("run/{run}"));
        assert_eq!(daemon.post("/callbacks/media/t0ken", &[], &body).status, 200);
    }
    assert_eq!(daemon.post("/callbacks/media/t0ken", &[], cos(Step::Success, "run/0")).status, 200);
    assert_eq!(daemon.post("/callbacks/other/t0ken", &[], cos(Step::Failed, "run 6")).status, 200);
    assert_eq!(daemon.post("/callbacks/other/t0ken", &[], "not XML").status, 200);
    soon("all are given up", || (daemon.list(&["deliveries", "list", "--status", "dead"]).len() == 5).then_some(()));

    for (list, args, rows) in [
        ("executions", &["executions", "list"][..], 6),
        ("executions?status=failed,running", &["executions", "list", "--status", "failed,running"], 1),
        ("executions?source=media&since=1h", &["executions", "list", "--source", "media"], 5),
        ("executions?since=2999-01-01T00:00:00Z", &["executions", "list", "--since", "2999-01-01T00:00:00Z"], 0),
        ("receipts", &["receipts", "list"], 8),
        ("receipts?status=quarantined&status=duplicate", &["receipts", "list", "--status", "quarantined,duplicate"], 2),
        ("deliveries?sink=any&status=dead", &["deliveries", "list", "--sink", "any", "--status", "dead"], 5),
    ] {
        let items = pages(&daemon, list);
        assert_eq!(items, daemon.list(args), "{list}");
        assert_eq!(items.len(), rows, "{list}");
    }

    let key = "run/3";
    let shown = daemon.look("/api/v1/executions/run%2F3").json();
    assert_eq!(shown, daemon.execution(key));
    let id = shown["execution"]["id"].as_str().expect("an id");
    assert_eq!(daemon.look(&format!("/api/v1/executions/{id}")).json(), shown);
    assert_eq!(pages(&daemon, &format!("deliveries?execution={id}")).len(), 1);

    let delivery = shown["deliveries"][0]["id"].as_str().expect("an id");
    let told = daemon.look(&format!("/api/v1/deliveries/{delivery}")).json();
    assert_eq!(told, daemon.list(&["deliveries", "show", delivery])[0]);
    assert_eq!(told["attempts"][0]["status"], 400);

    let receipt = shown["receipts"][0]["id"].as_str().expect("an id");
    let kept = daemon.look(&format!("/api/v1/receipts/{receipt}")).json();
    assert_eq!((&kept["id"], &kept["status"]), (&json!(receipt), &json!("accepted")));
    let body = daemon.look(&format!("/api/v1/receipts/{receipt}/body"));
    assert_eq!((body.status, body.body.as_str()), (200, cos(Step::Success, key).as_str()));
    // Whatever a sender wrote, no browser takes it for a page of ours.
    assert_eq!(body.header("content-type"), Some("application/octet-stream"));
    assert_eq!(body.header("x-content-type-options"), Some("nosniff"));
    let again = pages(&daemon, "receipts?status=duplicate")[0]["id"].as_str().expect("an id").to_owned();

    for (path, status) in [
        (format!("/api/v1/receipts/{again}/body"), 404),
        ("/api/v1/executions/none".to_owned(), 404),
        ("/api/v1/executions/%FF".to_owned(), 400),
        ("/api/v1/deliveries/none".to_owned(), 404),
        ("/api/v1/receipts/1".to_owned(), 404),
        ("/api/v1/deliveries?status=ded".to_owned(), 400),
        ("/api/v1/executions?cursor=x".to_owned(), 400),
    ] {
        let answer = daemon.look(&path);
        assert_eq!(answer.status, status, "{path}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{path}");
        assert!(answer.json()["detail"].is_string(), "{path}");
    }
}
