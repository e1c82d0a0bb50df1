use std::cell::RefCell;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::model::{Change, ChangeMeta, State, Status, Task, Update};
use crate::secret::Resolver;

/// Tuesday, 14 November 2023, 22:13:20 UTC.
const NOW: Time = Time::from_seconds(1_700_000_000);
const NOW_MS: i64 = 1_700_000_000_000;
const TOKEN: &str = "dt0c01.ST2EY72KQINMH574WMNVI7YN.G3DFPBEJYMODIDAEX454";

fn build(url: &str, options: &str) -> Result<Astrom, String> {
    let text = format!("url = {url:?}\ntoken = {TOKEN:?}\n{options}");
    let file = ::config::File::from_str(&text, ::config::FileFormat::Toml);
    let table = ::config::Config::builder().add_source(file).build().expect("TOML").cache;
    let secrets = Resolver { env: &|_| None, warnings: RefCell::default() };
    let context = BuildContext {
        name: "astrom",
        instance: "edge",
        secrets: &secrets,
        sources: &[],
        outbound: &Settings::default(),
    };
    Astrom::new(&Section { key: "sinks.astrom".to_owned(), table }, &context)
        .map_err(|faults| faults.iter().map(|f| f.to_string()).collect::<Vec<_>>().join("\n"))
}

fn sink(options: &str) -> Astrom {
    build("https://astrom.example.com/e/abc", options).unwrap_or_else(|fault| panic!("{fault}"))
}

fn seconds(before_now: i64) -> Time {
    Time::from_seconds(1_700_000_000 - before_now)
}

/// A run that began ten minutes ago and ended five minutes ago, unless it runs.
fn change(status: Status) -> Change {
    let mut update = Update { key: "i5f17a1fb".to_owned(), ..Update::default() };
    update.execution.name = Some("Transcode".to_owned());
    update.execution.workflow = Some("w1".to_owned());
    update.execution.subject = Some("bucket/in/剪辑 1.mp4".to_owned());
    update.execution.status = Some(status);
    update.execution.vendor_status = Some("Vendors".to_owned());
    update.execution.started_at = Some(seconds(600));
    update.execution.finished_at = status.is_finished().then(|| seconds(300));
    update.execution.attributes = serde_json::from_value(json!({
        "bucket": "bucket", "object": "in/剪辑 1.mp4", "size": 7, "headers": {"a": "b"}, "region": null,
    }))
    .expect("an object");
    let error = json!({"code": "404", "message": "no such object"});
    let failed =
        Task { name: Some("Snapshot_1".to_owned()), error: Some(error), ..Task::new("j2".to_owned(), Status::Failed) };
    update.tasks = vec![Task::new("j1".to_owned(), Status::Succeeded), failed];
    let accepted = State::begin("media", update);
    let meta = ChangeMeta {
        kind: Change::kind_of(&accepted).to_owned(),
        sequence: 1,
        previous_status: None,
        changed_tasks: accepted.changed_tasks(),
        overdue: false,
        receipt: Some("7".to_owned()),
        received_at: seconds(10),
    };
    Change { id: 41, execution_id: 5, state: accepted.state, links: Vec::new(), meta }
}

fn delivery(change: Change) -> Delivery {
    Delivery { id: 99, change: Arc::new(change), attempts: 0, created_at: NOW, resume: None, trace: None }
}

/// The event as it is sent, and the notes.
fn event(options: &str, change: Change) -> (Value, Vec<String>) {
    let (event, notes) = sink(options).shape.event(&delivery(change), NOW).expect("an event");
    (json!(event), notes)
}

fn nothing(options: &str, change: Change) -> String {
    sink(options).shape.event(&delivery(change), NOW).map(|(event, _)| json!(event).to_string()).expect_err("none")
}

fn overdue() -> Change {
    let mut change = change(Status::Running);
    change.meta.kind = "callbackd.execution.overdue".to_owned();
    change.meta.overdue = true;
    change.meta.previous_status = Some(Status::Running);
    change
}

#[test]
fn a_failure_opens_a_problem_of_its_own() {
    let (event, notes) = event("", change(Status::Failed));
    assert_eq!(notes, Vec::<String>::new());
    let expected = json!({
        "eventType": "ERROR_EVENT",
        "title": "Transcode failed: bucket/in/剪辑 1.mp4 (i5f17a1fb)",
        "startTime": NOW_MS - 300_000,
        // An hour from now on.
        "timeout": 65,
        "properties": {
            "dt.event.allow_davis_merge": "false",
            "dt.event.description":
                "Transcode failed: bucket/in/剪辑 1.mp4; 1 of 2 tasks succeeded\nSnapshot_1: 404: no such object",
            "callbackd.run_id": "i5f17a1fb", "callbackd.status": "failed", "callbackd.vendor_status": "Vendors",
            "callbackd.workflow": "Transcode", "callbackd.workflow_id": "w1",
            "callbackd.subject": "bucket/in/剪辑 1.mp4", "callbackd.source": "media",
            "callbackd.failed_tasks": "Snapshot_1: 404: no such object",
            "callbackd.started_at": "2023-11-14T22:03:20Z", "callbackd.finished_at": "2023-11-14T22:08:20Z",
            "callbackd.execution": "5", "callbackd.delivery": "99", "callbackd.bucket": "bucket",
            "callbackd.object": "in/剪辑 1.mp4", "callbackd.size": "7",
        },
    });
    assert_eq!(event, expected);
}

#[test]
fn each_status_makes_its_event() {
    let (succeeded, notes) = event("", change(Status::Succeeded));
    assert_eq!((&succeeded["eventType"], notes.len()), (&json!("CUSTOM_INFO"), 0));
    assert_eq!((&succeeded["startTime"], &succeeded["endTime"]), (&json!(NOW_MS - 600_000), &json!(NOW_MS - 300_000)));
    assert!(succeeded.get("timeout").is_none() && succeeded["properties"].get("dt.event.allow_davis_merge").is_none());

    let (late, _) = event("", overdue());
    assert_eq!(late["eventType"], "AVAILABILITY_EVENT");
    assert_eq!(late["title"], "Transcode overdue: bucket/in/剪辑 1.mp4 (i5f17a1fb)");
    assert_eq!((&late["startTime"], &late["timeout"]), (&json!(NOW_MS - 10_000), &json!(60)));

    for status in [Status::Pending, Status::Running, Status::Paused, Status::Unknown, Status::Cancelled] {
        assert_eq!(nothing("", change(status)), format!("no event for {status}"));
    }
    assert_eq!(nothing("overdue = \"none\"", overdue()), "no event for overdue");
    assert_eq!(nothing("failed = \"none\"", change(Status::Failed)), "no event for failed");

    let others = "others = \"CUSTOM_ANNOTATION\"\ncancelled = \"CUSTOM_ALERT\"\nfailed = \"CUSTOM_INFO\"\nopen_for = \"15m\"\nallow_davis_merge = true";
    let (running, _) = event(others, change(Status::Running));
    assert_eq!((&running["eventType"], &running["startTime"]), (&json!("CUSTOM_ANNOTATION"), &json!(NOW_MS - 10_000)));
    assert!(running.get("endTime").is_none(), "it has no end yet");
    let (cancelled, _) = event(others, change(Status::Cancelled));
    assert_eq!((&cancelled["eventType"], &cancelled["timeout"]), (&json!("CUSTOM_ALERT"), &json!(20)));
    assert_eq!(cancelled["properties"]["dt.event.allow_davis_merge"], "true");
    let (failed, _) = event(others, change(Status::Failed));
    assert_eq!((&failed["eventType"], &failed["endTime"]), (&json!("CUSTOM_INFO"), &json!(NOW_MS - 300_000)));
}

#[test]
fn a_mere_update_refreshes_a_problem_and_tells_nothing_twice() {
    let mut failed = change(Status::Failed);
    failed.meta.previous_status = Some(Status::Failed);
    assert_eq!(event("", failed).0["title"], event("", change(Status::Failed)).0["title"]);
    let mut succeeded = change(Status::Succeeded);
    succeeded.meta.previous_status = Some(Status::Succeeded);
    assert_eq!(nothing("", succeeded), "no event for what is still succeeded");
}

#[test]
fn times_outside_of_the_windows_are_left_out_with_a_note() {
    const HOUR: i64 = 3600;
    const DAY: i64 = 24 * HOUR;
    // Start and end in seconds before now, and which of them are sent.
    let cases = [
        ("failed", 4 * HOUR, 4 * HOUR, (true, false)),
        // It is to be open for an hour, and no event is open for more than six.
        ("failed", 5 * HOUR - 31, 5 * HOUR - 31, (true, false)),
        ("failed", 5 * HOUR, 5 * HOUR, (false, false)),
        ("failed", 53 * 365 * DAY, 53 * 365 * DAY, (false, false)),
        ("failed", -299, -299, (true, false)),
        ("failed", -301, -301, (false, false)),
        ("succeeded", 29 * DAY, 28 * DAY, (true, true)),
        ("succeeded", 31 * DAY, 28 * DAY, (false, false)),
        ("succeeded", DAY, -6 * DAY, (true, true)),
        ("succeeded", DAY, -8 * DAY, (true, false)),
        ("succeeded", -8 * DAY, -9 * DAY, (false, false)),
    ];
    for (status, start, end, (has_start, has_end)) in cases {
        let mut change = change(if status == "failed" { Status::Failed } else { Status::Succeeded });
        change.state.execution.started_at = Some(seconds(start));
        change.state.execution.finished_at = Some(seconds(end));
        let (event, notes) = event("", change);
        let sent = (event.get("startTime").is_some(), event.get("endTime").is_some());
        assert_eq!(sent, (has_start, has_end), "{status} {start} {end}");
        if status == "failed" {
            let open_for = event["timeout"].as_i64().expect("minutes") * 60;
            assert!(open_for - if has_start { start.max(0) } else { 0 } > HOUR - 60 && open_for <= 6 * HOUR, "{event}");
        }
        let whole = has_start && (has_end || status == "failed");
        assert_eq!(notes.len(), usize::from(!whole), "{status} {start} {end}: {notes:?}");
        assert!(
            notes.iter().all(|note| note.ends_with("is too far from now for such an event, and left out")),
            "{notes:?}"
        );
    }
}

#[test]
fn a_span_has_a_length_and_a_beginning() {
    let times = |start: Option<Time>, end: Option<Time>| {
        let mut change = change(Status::Succeeded);
        change.state.execution.started_at = start;
        change.state.execution.finished_at = end;
        let (event, notes) = event("", change);
        assert!(notes.is_empty(), "{notes:?}");
        (event["startTime"].as_i64().map(|t| t - NOW_MS), event["endTime"].as_i64().map(|t| t - NOW_MS))
    };
    assert_eq!(times(Some(seconds(5)), Some(seconds(5))), (Some(-5000), Some(-4999)), "within one second");
    assert_eq!(times(Some(seconds(5)), Some(seconds(9))), (Some(-9000), Some(-8999)), "an end before the start");
    assert_eq!(times(None, Some(seconds(9))), (Some(-9000), Some(-8999)));
    assert_eq!(times(Some(seconds(9)), None), (Some(-10_000), None), "when we heard of it");
}

#[test]
fn every_limit_is_kept_on_character_boundaries() {
    let mut long = change(Status::Failed);
    let text = "剪".repeat(9000);
    long.state.execution.subject = Some(text.clone());
    long.state.execution.name = Some(text.clone());
    long.state.execution.attributes.insert("键".repeat(200), json!(text));
    for n in 0..300 {
        long.state.execution.attributes.insert(format!("a{n}"), json!("\u{1}".repeat(5000)));
    }
    let (cut, notes) =
        event(r#"properties = '{("k" * 300): ("v" * 9000), "my.one": 1, "callbackd.run_id": null}'"#, long.clone());
    assert!(cut.to_string().len() <= 1_000_000, "{}", cut.to_string().len());
    assert!(cut["title"].as_str().expect("a title").ends_with("… (i5f17a1fb)"), "the run stays: {}", cut["title"]);
    let properties = cut["properties"].as_object().expect("an object");
    let longest = properties.iter().map(|(k, v)| (k.chars().count(), v.as_str().expect("a text").chars().count()));
    assert!(longest.clone().all(|(key, value)| key <= 100 && value <= 4096));
    assert_eq!(longest.map(|(_, value)| value).max(), Some(4096));
    assert_eq!(properties["my.one"], "1");
    assert!(!properties.contains_key("callbackd.run_id") && properties.contains_key("dt.event.allow_davis_merge"));
    assert!(notes[0].ends_with("properties are more than there is room for, and left out"), "{notes:?}");

    long.state.execution.attributes.values_mut().for_each(|value| *value = json!("short"));
    let (many, _) = event("", long);
    assert_eq!(many["properties"].as_object().expect("an object").len(), 100);
}

#[test]
fn programs_shape_title_and_properties_and_their_faults_cost_no_event() {
    let options = r#"
        title = '"\(.execution.name)\n\(.execution.attributes.bucket)"'
        properties = '{team: "video", n: 5, ok: true, list: [1, "a"], gone: null, "": "x",
                       "dt.entity.host": "HOST-1", "dt.secret": "x", "dt.event.allow_davis_merge": "true",
                       "callbackd.status": "broken", "callbackd.bucket": null}'"#;
    let (shaped, notes) = event(&options.replace("\n                       ", " "), change(Status::Failed));
    assert_eq!(shaped["title"], "Transcode bucket");
    let properties = shaped["properties"].as_object().expect("an object");
    for (key, value) in [
        ("team", json!("video")),
        ("n", json!("5")),
        ("ok", json!("true")),
        ("list", json!("[1,\"a\"]")),
        ("dt.entity.host", json!("HOST-1")),
        ("dt.event.allow_davis_merge", json!("true")),
        ("callbackd.status", json!("broken")),
        ("callbackd.run_id", json!("i5f17a1fb")),
    ] {
        assert_eq!(properties[key], value, "{key}");
    }
    for key in ["gone", "", "dt.secret", "callbackd.bucket"] {
        assert!(!properties.contains_key(key), "{key}");
    }
    assert_eq!(notes, ["properties: dt.secret is the server's own, and left out"]);

    let plain = event("", change(Status::Failed)).0;
    let (kept, notes) =
        event("title = '.tasks.x'\nproperties = '.tasks.x'\nentity = '.tasks.x'", change(Status::Failed));
    assert_eq!(kept, plain);
    let options: Vec<_> = notes.iter().map(|note| note.split(':').next().unwrap_or_default()).collect();
    assert_eq!(options, ["entity", "title", "properties"]);
    let (kept, notes) = event("title = 'null'\nproperties = '[1]'\nentity = 'null'", change(Status::Failed));
    assert_eq!((kept, notes), (plain, vec!["properties: the result is no object, so it adds nothing".to_owned()]));
}

#[test]
fn no_value_becomes_a_part_of_the_selectors_grammar() {
    let selector = |options: &str| {
        let mut change = change(Status::Failed);
        change.state.execution.subject = Some("x\"),type(\"HOST".to_owned());
        let (event, notes) = event(options, change);
        (event.get("entitySelector").cloned().unwrap_or_default(), notes.len())
    };
    for (options, expected) in [
        (
            "entity = { type = \"HOST\", name = \"media (prod), 1\" }",
            "type(\"HOST\"),entityName.equals(\"media (prod), 1\")",
        ),
        ("entity = { id = \"HOST-1\" }", "entityId(\"HOST-1\")"),
        (
            "entity = '{type: \"HOST\", tag: \"bucket:\\(.execution.attributes.bucket)\"}'",
            "type(\"HOST\"),tag(\"bucket:bucket\")",
        ),
        ("entity = '\"type(\\\"HOST\\\"),healthState(\\\"HEALTHY\\\")\"'", "type(\"HOST\"),healthState(\"HEALTHY\")"),
    ] {
        assert_eq!(selector(options), (json!(expected), 0), "{options}");
    }
    // What cannot be said is told of the environment, with a note.
    for options in [
        "entity = '{type: \"HOST\", name: .execution.subject}'",
        "entity = '{type: \"HOST\", name: \"a~\"}'",
        "entity = '{type: \"HOST\", name: \"a\\\\\"}'",
        "entity = '{type: \"HOST\", name: \"\"}'",
        "entity = '{type: \"HOST\", name: 5}'",
        "entity = '{type: \"HOST\", nmae: \"x\"}'",
        "entity = '{name: \"x\"}'",
        "entity = '{type: \"HOST\", name: (\"x\" * 2001)}'",
        "entity = '\"x\" * 2001'",
        "entity = '[]'",
    ] {
        assert_eq!(selector(options), (Value::Null, 1), "{options}");
    }
    assert_eq!(selector("entity = '\"\"'"), (Value::Null, 0));
}

#[test]
fn every_form_of_the_address_is_joined_right() {
    let cases = [
        ("https://astrom.example.com/e/abc", "https://astrom.example.com/e/abc"),
        ("https://astrom.example.com/e/abc//", "https://astrom.example.com/e/abc"),
        ("https://gate.example.com:9999/e/abc/", "https://gate.example.com:9999/e/abc"),
        ("https://abc.live.example.com", "https://abc.live.example.com"),
        ("https://abc.live.example.com/api/v2/", "https://abc.live.example.com"),
        ("https://astrom.example.com/e/abc/api", "https://astrom.example.com/e/abc"),
        ("http://127.0.0.1:80/e/abc/api/v2/events/ingest", "http://127.0.0.1:80/e/abc"),
    ];
    for (url, base) in cases {
        let preview = build(url, "").expect(url).preview(&delivery(change(Status::Failed)), NOW);
        assert_eq!(preview[0].action, format!("POST {base}/api/v2/events/ingest"), "{url}");
    }
    for (url, said) in [
        ("astrom.example.com/e/abc", "has to be an http or https URL"),
        ("https://me:secret@astrom.example.com/e/abc", "has to be an http or https URL"),
        ("https://astrom.example.com/e/abc?x=1", "has to be an http or https URL"),
        ("https://astrom.example.com/e/abc#problems", "has to be an http or https URL"),
        ("https://astrom.example.com/e/", "lacks the environment's id"),
        ("https://gate.example.com:9999", "lacks the environment's id"),
    ] {
        let fault = build(url, "").err().expect(url);
        assert!(fault.starts_with("sinks.astrom.url: ") && fault.contains(said), "{url}: {fault}");
    }
}

#[test]
fn what_is_wrong_with_the_options_is_said_at_once() {
    let wrong = "open_for = \"7h\"\nentity = { name = \"x\" }\ntitle = '.execution | nmae'\nca_file = \"/nonexistent\"";
    let faults = build("https://astrom.example.com/e/abc", wrong).err().expect("faults");
    let keys: Vec<_> = faults.lines().map(|line| line.split(':').next().unwrap_or_default()).collect();
    assert_eq!(keys, ["ca_file", "open_for", "entity", "title"].map(|key| format!("sinks.astrom.{key}")), "{faults}");
    for (span, is_right) in [("1m", true), ("6h", true), ("361m", false), ("90s", false), ("0m", false)] {
        let built = build("https://astrom.example.com/e/abc", &format!("open_for = {span:?}"));
        assert_eq!(built.is_ok(), is_right, "{span}");
    }
}

#[test]
fn a_201_is_read() {
    let not_all = |reason: &str| Stored::NotAll(reason.to_owned());
    for (body, expected) in [
        (r#"{"reportCount":1,"eventIngestResults":[{"correlationId":"c","status":"OK"}]}"#, Stored::All),
        (r#"{"reportCount":2,"eventIngestResults":[{"status":"OK"},{"status":"OK","new":1}],"new":1}"#, Stored::All),
        (r#"{"eventIngestResults":[{"status":"OK"}]}"#, Stored::All),
        (r#"{"reportCount":0,"eventIngestResults":[]}"#, Stored::Nothing),
        (r#"{"reportCount":null,"eventIngestResults":null}"#, Stored::Nothing),
        (r#"{"reportCount":0}"#, Stored::Nothing),
        (
            r#"{"reportCount":2,"eventIngestResults":null}"#,
            not_all("answered with 2 reports, and not what became of them"),
        ),
        (r#"{"reportCount":"x"}"#, not_all("answered with results that cannot be read")),
        (
            r#"{"reportCount":3,"eventIngestResults":[{"status":"OK"},{"status":"INVALID_ENTITY_TYPE"},{"status":"OK"}]}"#,
            not_all("stored in part, 2 of 3 reports: INVALID_ENTITY_TYPE (the event's type does not fit the entity)"),
        ),
        (
            r#"{"reportCount":2,"eventIngestResults":[{"status":"OK"}]}"#,
            not_all("stored in part, 1 of 2 reports: of the rest nothing is said"),
        ),
        (
            r#"{"reportCount":1,"eventIngestResults":[{"status":"INVALID_METADATA"}]}"#,
            not_all("the event was refused: INVALID_METADATA (a property is refused)"),
        ),
        (
            r#"{"reportCount":1,"eventIngestResults":[{"status":"INVALID_TIMESTAMPS"}]}"#,
            not_all("the event was refused: INVALID_TIMESTAMPS (start or end is too far away)"),
        ),
        (
            r#"{"reportCount":1,"eventIngestResults":[{"status":"THROTTLED"}]}"#,
            not_all("the event was refused: THROTTLED (a status that is not known here)"),
        ),
        (
            r#"{"reportCount":1,"eventIngestResults":[{"correlationId":"c"}]}"#,
            not_all("the event was refused: without a status"),
        ),
        ("", Stored::Unsaid),
        ("{}", Stored::Unsaid),
        ("[]", Stored::Unsaid),
        ("<html>", Stored::Unsaid),
    ] {
        assert_eq!(answer::read(body.as_bytes()), expected, "{body}");
    }
}
