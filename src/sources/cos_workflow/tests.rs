//! The whole source: every fixture, and what must not get through.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::model::{Accepted, ReceiptStatus, State, Status, Template, Verdict};
use crate::secret::Resolver;

fn build_with(options: Value) -> Result<Box<dyn Source>, Vec<Fault>> {
    let table: toml::Table = serde_json::from_value(options).expect("a table");
    let file = toml::to_string(&table).expect("TOML");
    let table = ::config::Config::builder()
        .add_source(::config::File::from_str(&format!("[it]\n{file}"), ::config::FileFormat::Toml))
        .build()
        .and_then(|c| c.get::<::config::Value>("it"))
        .expect("a section");
    let secrets = Resolver { env: &|_| None, warnings: RefCell::default() };
    let context = BuildContext {
        name: "media",
        instance: "test",
        secrets: &secrets,
        sources: &[],
        outbound: &crate::outbound::Settings::default(),
    };
    build(&Section { key: "sources.media".to_owned(), table }, &context)
}

fn open_source() -> Box<dyn Source> {
    build_with(json!({ "allow_unauthenticated": true })).expect("built")
}

fn raw(query: Option<&str>, rest: &str) -> RawRequest {
    RawRequest {
        method: Method::POST,
        rest: rest.to_owned(),
        query: query.map(str::to_owned),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"<Response/>"),
        peer: std::net::IpAddr::from([192, 0, 2, 7]),
    }
}

fn parse(body: impl Into<Bytes>) -> Result<Vec<Update>, ParseError> {
    let source = open_source();
    let receipt =
        source.authenticate(RawRequest { body: body.into(), ..raw(None, "") }, Time::default()).expect("authentic");
    source.parse(&receipt)
}

fn reason(body: impl Into<Bytes>) -> String {
    parse(body).expect_err("must not be understood").0
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/cos_workflow")
}

/// Every fixture in the order of the names.
fn fixtures() -> Vec<(String, Bytes)> {
    let mut found: Vec<_> = std::fs::read_dir(folder())
        .expect("the fixtures")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .filter(|name| !name.ends_with(".expect.json") && !name.ends_with(".headers"))
        .map(|name| (name.clone(), std::fs::read(folder().join(&name)).expect("read").into()))
        .collect();
    found.sort();
    found
}

fn fixture(name: &str) -> Bytes {
    std::fs::read(folder().join(name)).expect("the fixture").into()
}

/// What a store would hold of one execution.
struct Held {
    state: State,
    seen: Vec<String>,
}

/// Applies updates as a store does, with the same rules.
fn apply(held: &mut BTreeMap<String, Held>, updates: Vec<Update>) -> ReceiptStatus {
    ReceiptStatus::of_all(updates.into_iter().map(|update| {
        let (key, identity) = (update.key.clone(), update.identity.clone());
        let verdict = match held.get(&key) {
            Some(h) => h.state.judge(h.seen.iter().map(String::as_str), &update),
            None => Verdict::Accepted(Box::new(State::begin("media", update))),
        };
        match verdict {
            Verdict::Accepted(accepted) => {
                let Accepted { state, .. } = *accepted;
                let h = held.entry(key).or_insert_with(|| Held { state: state.clone(), seen: Vec::new() });
                h.state = state;
                h.seen.extend(identity);
                ReceiptStatus::Accepted
            }
            Verdict::Duplicate => ReceiptStatus::Duplicate,
            Verdict::Conflict(_) => ReceiptStatus::Conflict,
        }
    }))
}

fn normalized(held: &Held) -> Value {
    let mut execution = serde_json::to_value(&held.state.execution).expect("JSON");
    execution.as_object_mut().expect("an object").remove("source");
    json!({ "execution": execution, "tasks": held.state.tasks })
}

#[expect(clippy::disallowed_methods, reason = "BLESS=1 rewrites what the fixtures must become; no product code")]
fn blessing() -> bool {
    std::env::var("BLESS").is_ok_and(|v| v == "1")
}

#[test]
fn every_fixture_becomes_what_it_must() {
    let mut held = BTreeMap::new();
    let mut outcomes = Vec::new();
    for (name, body) in fixtures() {
        let outcome = parse(body).map(|updates| {
            let keys: Vec<_> = updates.iter().map(|u| u.key.clone()).collect();
            (apply(&mut held, updates), keys)
        });
        outcomes.push((name, outcome));
    }
    assert!(outcomes.len() >= 20, "only {} fixtures", outcomes.len());
    let mut wrong = String::new();
    for (name, outcome) in outcomes {
        let path = folder().join(&name).with_extension("expect.json");
        let is = match outcome {
            Ok((status, mut keys)) => {
                keys.dedup();
                let executions: Vec<_> = keys.iter().map(|key| normalized(&held[key])).collect();
                json!({ "outcome": status, "executions": executions })
            }
            Err(e) => json!({ "outcome": "quarantined", "reason": e.0 }),
        };
        if blessing() {
            std::fs::write(&path, serde_json::to_string_pretty(&is).expect("JSON") + "\n").expect("written");
        }
        let must = std::fs::read_to_string(&path).unwrap_or_else(|_| "null".to_owned());
        let must: Value = serde_json::from_str(&must).expect("JSON");
        if is != must {
            let _ = writeln!(wrong, "{name} became {is:#}\nbut must be {must:#}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[test]
fn the_seed_is_two_finished_tasks_of_one_execution() {
    let updates = parse(fixture("seed_workflow.xml")).expect("understood");
    let [update] = &updates[..] else { panic!("{updates:?}") };
    assert_eq!(update.key, "ie4d9187d35dc11eb9cec525400860000");
    assert_eq!(update.identity.as_deref(), Some("WorkflowFinish/Success"));
    let execution = &update.execution;
    assert_eq!(execution.subject.as_deref(), Some("examplebucket-1250000000/0000.mp4"));
    assert_eq!(execution.status, Some(Status::Succeeded));
    assert_eq!(execution.attributes["create_time"], "2020-12-01 11:00:41+0800");
    assert_eq!(execution.attributes["headers"], json!({ "x-cos-meta-id": "testid" }));
    assert_eq!(execution.finished_at, Time::parse("2020-12-01T03:00:45Z"));
    assert_eq!(update.tasks.len(), 2);
    assert_eq!(
        update.tasks[1].template,
        Some(Template { id: Some("t182c0ca7d91ca40969a3fc97c5559091b".to_owned()), name: Some("example".to_owned()) })
    );
}

#[test]
fn xml_and_json_of_the_same_jobs_mean_the_same() {
    let xml = parse(fixture("task_finish_several.xml")).expect("understood");
    let json = parse(fixture("task_finish_several_in_json.json")).expect("understood");
    assert_eq!(format!("{xml:#?}").replace("00010", "n"), format!("{json:#?}").replace("00011", "n"));
    assert_eq!(xml.len(), 3);
}

#[test]
fn a_job_and_its_workflow_are_one_execution_in_either_order() {
    let (job, run) = (fixture("run_1_task_finish.xml"), fixture("run_2_workflow_finish.xml"));
    let mut ends = Vec::new();
    for bodies in [[&job, &run], [&run, &job]] {
        let mut held = BTreeMap::new();
        for body in bodies {
            assert_eq!(apply(&mut held, parse(body.clone()).expect("understood")), ReceiptStatus::Accepted);
            assert_eq!(apply(&mut held, parse(body.clone()).expect("understood")), ReceiptStatus::Duplicate);
        }
        assert_eq!(held.len(), 1);
        ends.push(held.into_values().next().expect("one").state);
    }
    let mut tasks = ends.iter_mut().map(|end| {
        end.tasks.sort_by(|a, b| a.key.cmp(&b.key));
        end.tasks.len()
    });
    assert_eq!((tasks.next(), tasks.next()), (Some(2), Some(2)));
    drop(tasks);
    let execution = &ends[0].execution;
    assert_eq!(execution.status, Status::Succeeded);
    assert_eq!(execution.attributes["headers"]["x-cos-meta-port-run-id"], "r_Tq3kdWpVy0aBc9Zx");
    assert_eq!(execution.attributes["headers"]["EventName"], "cos:ObjectCreated:Put");
    assert_eq!(execution.attributes["region"], "ap-chongqing", "the end, which names none, takes it away");
    assert_eq!(execution.attributes, ends[1].execution.attributes);
    assert_eq!(ends[0].tasks[0].outputs, ends[1].tasks[0].outputs);
    assert!(ends[0].tasks[0].outputs.is_some());
}

#[test]
fn a_task_that_a_body_names_twice_is_one_and_its_repeat_is_no_news() {
    let task = |name: &str| format!("<Tasks><JobId>j1</JobId><State>Running</State><Name>{name}</Name></Tasks>");
    let body = format!(
        "<Response><EventName>TaskFinish</EventName><WorkflowExecution><RunId>i1</RunId><State>Running</State>{}{}\
         </WorkflowExecution></Response>",
        task("first"),
        task("second")
    );
    let update = parse(body).expect("understood").remove(0);
    assert_eq!(update.tasks.iter().map(|task| task.name.as_deref()).collect::<Vec<_>>(), [Some("first")]);
    let held = State::begin("media", update.clone()).state;
    assert_eq!(held.judge(std::iter::empty(), &update), Verdict::Duplicate);
}

#[test]
fn states_and_starts_are_what_they_say_and_never_more() {
    let cases = [
        ("WorkflowFinish", "Success", Status::Succeeded, true),
        ("WorkflowFinish", "Failed", Status::Failed, true),
        ("WorkflowFinish", "Cancel", Status::Cancelled, true),
        ("WorkflowFinish", "Pause", Status::Paused, false),
        ("WorkflowFinish", "Submitted", Status::Pending, false),
        ("WorkflowFinish", "Running", Status::Running, false),
        ("WorkflowFinish", "success", Status::Unknown, false),
        ("WorkflowFinish", "成功", Status::Unknown, false),
        ("WorkflowFinish", "", Status::Unknown, false),
        ("", "Success", Status::Succeeded, true),
        ("", "", Status::Unknown, false),
        ("TaskFinish", "Failed", Status::Failed, true),
        ("WorkflowStart", "Success", Status::Running, false),
        ("WorkflowStart", "Failed", Status::Running, false),
        ("WorkflowStart", "Submitted", Status::Pending, false),
        ("WorkflowStart", "Odd", Status::Unknown, false),
        ("WorkflowStart", "", Status::Running, false),
    ];
    for (name, state, status, finished) in cases {
        let body = format!(
            "<Response><EventName>{name}</EventName><WorkflowExecution><RunId>i1</RunId><State> {state}\n</State>\
             <Tasks><JobId>j1</JobId><State>{state}</State><EndTime>2020-12-01 11:00:45+0800</EndTime></Tasks>\
             </WorkflowExecution></Response>"
        );
        let updates = parse(body).expect("understood");
        let (execution, task) = (&updates[0].execution, &updates[0].tasks[0]);
        assert_eq!(execution.status, Some(status), "{name} {state}");
        assert_eq!(execution.vendor_status.as_deref(), (!state.is_empty()).then_some(state), "{name} {state}");
        assert_eq!(execution.finished_at.is_some(), finished, "{name} {state}");
        let identity = finished.then(|| format!("WorkflowFinish/{state}"));
        assert_eq!(updates[0].identity, identity, "{name} {state}");
        assert_eq!(task.status, super::meaning::status(state), "{name} {state}");
    }
}

#[test]
fn what_is_said_elsewhere_is_not_said_of_the_job() {
    let updates = parse(fixture("run_1_task_finish.xml")).expect("understood");
    let task = &updates[0].tasks[0];
    assert_eq!((task.status, &task.error), (Status::Succeeded, &None));
    assert_eq!(updates[0].identity.as_deref(), Some("TaskFinish/j06668dc0f86811ecb90d0b0326700003/Success"));
    assert_eq!(updates[0].execution.status, None);
    assert_eq!(updates[0].execution.attributes["headers"]["EventName"], "cos:ObjectCreated:Put");
    assert_eq!(
        task.outputs,
        Some(json!({ "objects": [{ "name": "out/demo.mp4", "url": null }], "bucket": "media-1250000000",
                     "region": "ap-chongqing" }))
    );
}

#[test]
fn failures_say_why_and_successes_never_do() {
    let error = |state: &str, inside: &str| {
        let body = format!(
            "<WorkflowExecution><RunId>i1</RunId><State>Failed</State><Tasks><Name>n</Name><State>{state}</State>\
             {inside}</Tasks></WorkflowExecution>"
        );
        parse(body).expect("understood").remove(0).tasks.remove(0).error
    };
    let objects = "<ResultInfo><ObjectInfo><Code>Success</Code><Message>fine</Message></ObjectInfo>\
                   <ObjectInfo><Code>Bad</Code><Message>worse</Message></ObjectInfo></ResultInfo>";
    let both = Some(json!({ "code": "Bad", "message": "worse" }));
    assert_eq!(error("Failed", objects), both);
    assert_eq!(error("Failed", "<Code>Bad</Code><Message>worse</Message>"), both);
    assert_eq!(error("Failed", &format!("<Code>Success</Code><Message/>{objects}")), both);
    assert_eq!(error("Failed", "<Message>worse</Message>"), Some(json!({ "code": null, "message": "worse" })));
    assert_eq!(error("Failed", ""), None);
    assert_eq!(error("Success", objects), None);
    assert_eq!(error("Success", "<Code>Bad</Code>"), None);
    assert_eq!(error("Odd", "<Code>Bad</Code>"), None);
}

#[test]
fn progress_is_told_of_what_is_unfinished() {
    let outputs = |state: &str, progress: &str| {
        let body = format!(
            r#"{{"JobsDetail": {{"JobId": "j1", "Tag": "Snapshot", "State": "{state}", "Progress": {progress},
                "Operation": {{"Output": {{"Object": "out/a.jpg"}}}}}}}}"#
        );
        parse(body).expect("understood").remove(0).tasks.remove(0).outputs
    };
    for (text, percent) in [("37", 37), ("\"37\"", 37), ("\"37%\"", 37), ("37.9", 37), ("0", 0), ("\"100\"", 100)] {
        assert_eq!(outputs("Running", text), Some(json!({ "progress": percent })), "{text}");
    }
    for text in ["\"\"", "null", "\"half\"", "-1", "101", "\"NaN\"", "1e300"] {
        assert_eq!(outputs("Running", text), None, "{text}");
    }
    assert_eq!(outputs("Success", "100"), Some(json!({ "objects": [{ "name": "out/a.jpg", "url": null }] })));
    assert_eq!(outputs("Failed", "50"), None, "what was asked for was not made");
}

#[test]
fn what_is_not_understood_says_why() {
    let long = "x".repeat(5000);
    let run = |inside: &str| format!("<WorkflowExecution>{inside}</WorkflowExecution>");
    let cases = [
        (String::new(), "empty"),
        ("\u{feff} \n".to_owned(), "empty"),
        ("hello".to_owned(), "neither XML nor JSON"),
        ("a=b".to_owned(), "neither XML nor JSON"),
        ("<Response/>".to_owned(), "neither WorkflowExecution nor JobsDetail"),
        ("<html><body/></html>".to_owned(), "\"html\""),
        ("{}".to_owned(), "neither WorkflowExecution nor JobsDetail"),
        ("[]".to_owned(), "neither WorkflowExecution nor JobsDetail"),
        (format!("<Response><EventName>{long}</EventName></Response>"), "is not known"),
        (run("<State>Success</State>"), "without RunId"),
        (run("<RunId/>"), "without RunId"),
        (run("<RunId> </RunId>"), "without RunId"),
        (run("<RunId>1</RunId><Tasks><State>Success</State></Tasks>"), "neither JobId nor Name"),
        (run("<RunId>1</RunId><RunId>2</RunId>"), "\"1\" and \"2\""),
        (run("<RunId>1</RunId><State>Success</State><State>Failed</State>"), "\"Success\" and \"Failed\""),
        (run("<RunId>1<b/></RunId>"), "\"b\""),
        (run("<RunId>1</RunId>") + "x", "outside"),
        (run("<RunId>1</RunId>") + "{}", "outside"),
        (run("<RunId>1</RunId>") + "<Response/>", "beside the root"),
        (format!("<Response>{}</Response>", run("<RunId>1</RunId>")) + "<Response/>", "beside the root"),
        ("<Response><JobsDetail/></Response>".to_owned(), "without Tag"),
        (r#"{"JobsDetail": {"JobId": "j", "State": "Success", "Label": "Normal"}}"#.to_owned(), "without Tag"),
        (r#"{"JobsDetail": {"Tag": "Snapshot", "State": "Success"}}"#.to_owned(), "neither JobId nor Name"),
        (
            r#"{"EventName": "WorkflowStart", "JobsDetail": {"JobId": "j", "Tag": "T", "State": "Success"}}"#
                .to_owned(),
            "WorkflowStart with",
        ),
        (r#"{"WorkflowExecution": {"RunId": "1"}} x"#.to_owned(), "in JSON"),
        (r#"{"WorkflowExecution": {"RunId": "1",}}"#.to_owned(), "in JSON"),
        (r#"{"WorkflowExecution": {"RunId": "1\u0000"}}"#.to_owned(), "U+0000"),
        (r#"{"WorkflowExecution": {"RunId": {"a": 1}}}"#.to_owned(), "where a text has to be"),
        (r#"["x"]"#.to_owned(), "outside"),
        (run("<RunId>1</RunId></Response>"), "not well-formed"),
        (run("<RunId>1</State>"), "not well-formed"),
        ("<WorkflowExecution><RunId>1</RunId>".to_owned(), "ends inside"),
        (run("<RunId>1</RunId><>2</>"), "no name"),
        (run("<RunId>&unknown;</RunId>"), "none of XML's five"),
        (run("<Unknown>&unknown;</Unknown>"), "none of XML's five"),
        (run("<RunId>a&b</RunId>"), "not well-formed"),
        (run("<RunId>&#0;</RunId>"), "not well-formed"),
        (run("<RunId>&#1;</RunId>"), "control character"),
        (run("<RunId>\u{1}</RunId>"), "control character"),
        (run("<?xml version=\"1.0\"?><RunId>1</RunId>"), "in the middle"),
        ("<?xml version=\"1.0\" encoding=\"GBK\"?>".to_owned() + &run("<RunId>1</RunId>"), "GBK"),
        ("<!DOCTYPE Response>".to_owned() + &run("<RunId>1</RunId>"), "document type"),
        (
            "<!DOCTYPE a [<!ENTITY x SYSTEM \"file:///etc/passwd\">]>".to_owned() + &run("<RunId>&x;</RunId>"),
            "document",
        ),
    ];
    for (body, part) in cases {
        let reason = reason(body.clone());
        assert!(reason.contains(part), "{body}: {reason}");
        assert!(reason.len() < 300, "{body}: {reason}");
    }
    assert_eq!(reason(&b"<Response>\xff</Response>"[..]), "not UTF-8 from byte 10 on");
}

#[test]
fn a_mark_a_declaration_and_blanks_may_stand_before_the_root() {
    for before in ["\u{feff}", "\u{feff}<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n", "\n  ", "<!-- hello --><?pi?>"] {
        let body = format!("{before}<WorkflowExecution><RunId>1</RunId></WorkflowExecution>\n");
        assert_eq!(parse(body).expect(before)[0].key, "1");
    }
    assert_eq!(parse("\u{feff} {\"WorkflowExecution\": {\"RunId\": 1}}").expect("JSON")[0].key, "1");
    assert_eq!(parse("[{\"WorkflowExecution\": [{\"RunId\": [\"1\"]}]}]").expect("lists")[0].key, "1");
    assert_eq!(parse("{\"WorkflowExecution\": {\"RunId\": \"1\"}, \"JobsDetail\": null}").expect("null").len(), 1);
}

#[test]
fn a_byte_order_mark_is_one_at_the_beginning_only() {
    let run = "<WorkflowExecution><RunId>1</RunId><State>Success</State></WorkflowExecution>";
    assert_eq!(parse(format!("\u{feff}{run}")).expect("understood").len(), 1);
    let beside = reason(format!("<a></a>\u{feff}{run}"));
    assert!(beside.contains("outside of any element"), "{beside}");
    let named = reason("<Response><EventName>\u{feff}WorkflowFinish&amp;</EventName></Response>");
    assert!(named.contains("\\u{feff}WorkflowFinish&"), "{named}");
}

#[test]
fn a_plain_element_is_what_the_reader_makes_of_it() {
    let run = |inside: &str| format!("<WorkflowExecution><RunId>1</RunId>{inside}</WorkflowExecution>");
    let mut bodies: Vec<String> = [
        "<State>Success</State>",
        "<State></State>",
        "<State> \t\nSuccess </State>\n  <Object> a </Object>",
        "<Object>\u{3000}文件.mp4</Object><State>成功</State>",
        "<State>a&amp;b</State><WorkflowName>&lt;</WorkflowName>",
        "<State>a<!-- b -->c</State><WorkflowName><![CDATA[<d>]]></WorkflowName>",
        "<State>a</State><State>a</State>",
        "<State>a</State><State>b</State>",
        "<State>a</State>b<WorkflowName>c</WorkflowName>",
        "<State>a>b</State><Object>]]></Object>",
        "<State x='>'>a</State>",
        "<State>a</Stat>",
        "<State>a</States>",
        "<State>a</state>",
        "<State>a<State>",
        "<>a</>",
        "<Unknown>a</Unknown><Unknown><State>a</State></Unknown>",
        "<Unknown_of_a_name_that_is_longer_than_any_known>a</Unknown_of_a_name_that_is_longer_than_any_known>",
        "<Tasks>text</Tasks><Tasks></Tasks><Tasks><Name>n</Name>text</Tasks>",
        "<Tasks><Name>n</Name><ResultInfo></ResultInfo><State>Failed</State><Message> m </Message></Tasks>",
        "<CosHeaders><Key>a</Key><Key>b</Key><Value></Value><Value>2</Value></CosHeaders>",
        "<CosHeaders><Key>a</Key><Value/><Key>b</Key><Value> 2 </Value></CosHeaders>",
        "<Response>a</Response><WorkflowExecution>a</WorkflowExecution>",
    ]
    .map(run)
    .into();
    bodies.extend([
        format!("<EventName>WorkflowFinish</EventName>{}", run("")),
        format!("<Response><EventName>WorkflowFinish</EventName>{}</Response>", run("")),
        format!("<Response><Other>x</Other>{}<EventName>TaskFinish</EventName></Response>", run("")),
        "<Response></Response><Response></Response>".to_owned(),
        "<a>b</a>".to_owned(),
        format!("<Response>{}</Response>", "<EventName>WorkflowFinish</EventName>".repeat(200_000)),
    ]);
    bodies.extend(
        fixtures()
            .into_iter()
            .map(|(_, body)| String::from_utf8_lossy(&body).into_owned())
            .filter(|b| b.contains("</")),
    );
    for body in bodies {
        // A blank in an end tag means nothing, but is not plain.
        let mut pieces = body.split("</");
        let mut other = pieces.next().unwrap_or_default().to_owned();
        for piece in pieces {
            other += "</";
            other += &piece.replacen('>', " >", 1);
        }
        let (is, must) = (format!("{:?}", parse(body.clone())), format!("{:?}", parse(other)));
        assert_eq!(is, must, "{body}");
    }
}

#[test]
fn no_truncated_body_is_taken_for_a_whole_one() {
    for (name, body) in fixtures() {
        let whole = body.trim_ascii_end().len();
        for end in 0..whole {
            let cut = parse(body.slice(..end));
            assert!(cut.is_err(), "{name} cut at {end} of {whole} became {cut:?}");
        }
    }
}

#[test]
fn bombs_are_refused_before_they_cost_anything() {
    let laughs = (1..10).fold("<!ENTITY l0 \"ha\">".to_owned(), |all, n| {
        all + &format!("<!ENTITY l{n} \"{}\">", format!("&l{};", n - 1).repeat(10))
    });
    let mib = 4 << 20;
    let bombs = [
        (format!("<!DOCTYPE r [{laughs}]><Response><Object>&l9;</Object></Response>"), "document type"),
        ("<a>".repeat(mib / 3), "64 elements inside"),
        ("<a/>".repeat(mib / 4), "200000 elements"),
        (format!("<Response>{}</Response>", "<WorkflowExecution/>".repeat(mib / 20)), "1000 workflow runs"),
        ("[".repeat(mib), "inside each other"),
        ("{\"a\":".repeat(mib / 5), "inside each other"),
        (format!("[{}0]", "[],".repeat(mib / 3)), "200000 elements"),
        (format!("{{\"JobsDetail\":[{}{{}}]}}", "{},".repeat(mib / 3)), "1000 workflow runs"),
    ];
    for (bomb, part) in bombs {
        let begun = Instant::now();
        let reason = reason(bomb.clone());
        assert!(reason.contains(part), "{}: {reason}", &bomb[..20]);
        assert!(begun.elapsed() < Duration::from_secs(20), "{} took {:?}", &bomb[..20], begun.elapsed());
    }
    let deep = "<a>".repeat(63) + &"</a>".repeat(63);
    let body = format!("<WorkflowExecution>{deep}<RunId>1</RunId></WorkflowExecution>");
    assert_eq!(parse(body).expect("just deep enough").len(), 1);
}

#[test]
fn a_token_opens_from_either_place_and_nothing_else_does() {
    let source = build_with(json!({ "token": ["new/t+k 1%", "old-token"] })).expect("built");
    for (query, rest) in [
        (Some("token=new%2Ft%2Bk%201%25"), ""),
        (Some("token=new/t+k%201%"), ""),
        (Some("a=b&token=old-token&c=d"), ""),
        (Some("token=wrong"), "old-token"),
        (Some(""), "new%2ft%2bk%201%25"),
        (None, "old-token"),
    ] {
        let receipt = source.authenticate(raw(query, rest), Time::from_seconds(7)).expect("authentic");
        assert_eq!((&*receipt.source, receipt.received_at.seconds(), &*receipt.peer), ("media", 7, "192.0.2.7"));
    }
    for (query, rest) in
        [(None, ""), (Some(""), ""), (Some("token="), ""), (Some("token"), ""), (Some("Token=old-token"), "")]
    {
        let refused = source.authenticate(raw(query, rest), Time::default()).expect_err("no token");
        assert!(matches!(refused, AuthError::Missing(_)), "{query:?} {rest}: {refused:?}");
    }
    let mut wrong: Vec<String> =
        ["old-toke", "old-token0", "OLD-TOKEN", "%6fld%2", "%", "%zz", "%00", "%ff%ff", "new/t+k"]
            .map(str::to_owned)
            .into();
    for (at, bit) in (0..9).flat_map(|at| (0..7).map(move |bit| (at, bit))) {
        let mut flipped = b"old-token".to_vec();
        flipped[at] ^= 1 << bit;
        wrong.push(signature::cos::encoded(std::str::from_utf8(&flipped).expect("ASCII")));
    }
    for text in wrong {
        for (query, rest) in [(Some(format!("token={text}")), ""), (None, text.as_str())] {
            let refused = source.authenticate(raw(query.as_deref(), rest), Time::default()).expect_err(&text);
            assert!(matches!(refused, AuthError::Wrong(_)), "{text}: {refused:?}");
            assert!(!refused.to_string().contains("old-token"), "{refused}");
        }
    }
}

#[test]
fn a_receipt_keeps_what_matters_and_never_the_token() {
    let source = build_with(json!({ "token": "s3cret" })).expect("built");
    let mut request = raw(Some("token=s3cret"), "s3cret");
    for (name, value) in [
        ("content-type", "application/xml"),
        ("user-agent", "ci"),
        ("x-ci-request-id", "NjJm"),
        ("authorization", "Bearer s3cret"),
        ("cookie", "token=s3cret"),
        ("referer", "https://host/?token=s3cret"),
    ] {
        request.headers.insert(name, HeaderValue::from_static(value));
    }
    let receipt = source.authenticate(request, Time::default()).expect("authentic");
    assert!(!format!("{receipt:?}").contains("s3cret"), "{receipt:?}");
    assert_eq!(receipt.headers.len(), 3);
    assert_eq!(receipt.header("x-ci-request-id"), Some("NjJm"));
    assert_eq!(source.methods(), [Method::POST]);
    assert_eq!(source.quarantined(), 200);
}

#[test]
fn a_header_is_kept_once_and_an_address_is_written_as_the_formatter_would() {
    let mut request = raw(None, "");
    for value in ["application/xml", "text/plain"] {
        request.headers.append("content-type", HeaderValue::from_static(value));
    }
    let receipt = open_source().authenticate(request, Time::default()).expect("authentic");
    assert_eq!(receipt.headers, [("content-type".to_owned(), "application/xml".to_owned())]);
    for octet in 0..=u8::MAX {
        for peer in [IpAddr::from([octet, 0, 10, 255 - octet]), IpAddr::from([0, 0, 0, 0, 0, 0xffff, 1, octet.into()])]
        {
            assert_eq!(written(peer), peer.to_string());
        }
    }
}

#[test]
fn its_sender_is_let_in() {
    let source = build_with(json!({ "token": ["a&b=c d/é", "old"] })).expect("built");
    for (body, format) in
        [("\u{feff} <Response/>", "application/xml"), (" {}", "application/json"), ("[", "application/json")]
    {
        let sent = source.as_sender(Bytes::from_static(body.as_bytes()), HeaderMap::new(), Time::default());
        assert_eq!((sent.method, &*sent.suffix), (Method::POST, "?token=a%26b%3Dc%20d%2F%C3%A9"));
        assert_eq!(sent.headers["content-type"], format);
        let query = sent.suffix.strip_prefix('?');
        source.authenticate(raw(query, ""), Time::default()).expect("authentic");
    }
    let mut own = HeaderMap::new();
    own.insert("content-type", HeaderValue::from_static("text/plain"));
    let sent = open_source().as_sender(Bytes::new(), own, Time::default());
    assert_eq!((&*sent.suffix, &sent.headers["content-type"]), ("", &HeaderValue::from_static("text/plain")));
}

#[test]
fn options_are_judged_with_what_to_write() {
    let faults = |options: Value| build_with(options).map(drop).expect_err("a fault");
    let missing = faults(json!({}));
    assert_eq!(missing[0].key, "sources.media.token");
    assert!(missing[0].message.contains("allow_unauthenticated = true"), "{missing:?}");
    assert_eq!(faults(json!({ "token": [] })), missing);
    assert!(faults(json!({ "tokens": "x" }))[0].message.contains("tokens"));
    let both = faults(json!({ "token": { "env": "NONE" }, "depth_max": 0, "elements_max": 0 }));
    assert_eq!(both.len(), 3, "{both:?}");
    build_with(json!({ "token": "x", "elements_max": "1000" })).expect("a number written as text");
    let strict =
        build_with(json!({ "allow_unauthenticated": true, "elements_max": 5, "depth_max": 3 })).expect("built");
    let receipt = strict.authenticate(raw(None, ""), Time::default()).expect("authentic");
    let too_deep = Receipt { body: Bytes::from_static(b"<a><a><a><a/></a></a></a>"), ..receipt };
    assert!(strict.parse(&too_deep).expect_err("too deep").0.contains("more than 3"));
}
