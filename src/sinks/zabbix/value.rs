//! The value that a change becomes: one line of JSON for a text item, which triggers look into.
//!
//! A trigger finds what it needs with `find()`, and tags and names with `regsub()`, in the text as it stands. So its
//! beginning is fixed, and part of what callbackd promises:
//!
//! ```text
//! {"state":"failed","thing":"media/Transcode/bucket/in/a%20b.mp4","title":"Transcode: bucket/in/a b.mp4","status":…
//! ```
//!
//! - `state` is what this change says: the last word of its type (`failed`, `succeeded`, `running`, `overdue` …), so
//!   that it says `failed` once for each failure, and `updated` of what changes behind it. [`OPENS`] and [`CLOSES`] are
//!   the texts to look for. No other part of the value can hold them: in a text of JSON every quote is escaped.
//! - `thing` is what failed, the same for every run of it: source, workflow and subject, percent-encoded, at most
//!   [`THING_CHARS_MAX`] characters. It stands in a tag, and ties a success to the failures before it.
//! - `title` is the same for a person, without quotes and backslashes, for a problem's name.
//!
//! The rest follows in a fixed order, is for people and scripts, and is cut to bounds. Characters beyond Unicode's
//! first plane are escaped, which a database in MySQL's `utf8` needs.

use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::model::{Change, Execution, Status, Task, Time};
use crate::sinks::cut;

/// The host that holds the item, by default.
pub const HOST: &str = "callbackd";
/// The text item's key, by default.
pub const KEY: &str = "callbackd.execution";
/// A value that holds one of these opens a problem. A cancelled execution neither opens nor closes one.
pub const OPENS: [&str; 2] = [r#""state":"failed""#, r#""state":"overdue""#];
/// A value that holds this closes the problems of the same thing.
pub const CLOSES: &str = r#""state":"succeeded""#;
/// Captures the thing.
pub const THING_PATTERN: &str = r#""thing":"([^"]+)""#;
/// Captures the title.
pub const TITLE_PATTERN: &str = r#""title":"([^"]+)""#;
/// Captures the state.
pub const STATE_PATTERN: &str = r#""state":"([a-z]+)""#;
/// Captures the source.
pub const SOURCE_PATTERN: &str = r#""source":"([^"\\]+)"#;
/// As long as a tag's value may be.
pub const THING_CHARS_MAX: usize = 255;

const TITLE_CHARS_MAX: usize = 200;
const TEXT_CHARS_MAX: usize = 300;
const ERROR_CHARS_MAX: usize = 150;
const TASKS_MAX: usize = 10;

/// Serialized in this order.
#[derive(Serialize)]
struct Fields<'a> {
    state: &'a str,
    thing: String,
    title: String,
    status: Status,
    source: &'a str,
    workflow: Option<String>,
    name: Option<String>,
    subject: Option<String>,
    run: String,
    vendor_status: Option<String>,
    started_at: Option<Time>,
    finished_at: Option<Time>,
    execution: String,
    change: String,
    /// How many it has, and those of them that failed.
    tasks: usize,
    failed: Vec<Failed>,
}

#[derive(Serialize)]
struct Failed {
    task: String,
    status: Status,
    error: Option<String>,
}

/// The text of the value.
pub fn of(change: &Change) -> String {
    let execution = &change.state.execution;
    let short = |text: &Option<String>| text.as_deref().map(|text| cut(text, TEXT_CHARS_MAX));
    let failed = change.state.tasks.iter().filter(|task| task.status == Status::Failed);
    let fields = Fields {
        state: state(&change.meta.kind),
        thing: thing(execution),
        title: title(execution),
        status: execution.status,
        source: &execution.source,
        workflow: short(&execution.workflow),
        name: short(&execution.name),
        subject: short(&execution.subject),
        run: cut(&execution.key, TEXT_CHARS_MAX),
        vendor_status: short(&execution.vendor_status),
        started_at: execution.started_at,
        finished_at: execution.finished_at,
        execution: change.execution_id.to_string(),
        change: change.id.to_string(),
        tasks: change.state.tasks.len(),
        failed: failed.take(TASKS_MAX).map(failure).collect(),
    };
    first_plane(&serde_json::to_string(&fields).expect("texts and numbers only"))
}

/// The last word of a change's type, for a pattern to take whole.
fn state(kind: &str) -> &str {
    let word = kind.rsplit('.').next().unwrap_or_default();
    let is_word = (1..=32).contains(&word.len()) && word.bytes().all(|b| b.is_ascii_lowercase());
    if is_word { word } else { "unknown" }
}

fn failure(task: &Task) -> Failed {
    let error = task.error.as_ref().map(|error| match error.get("message").and_then(Value::as_str) {
        Some(message) => cut(message, ERROR_CHARS_MAX),
        None => cut(&error.to_string(), ERROR_CHARS_MAX),
    });
    let name = task.name.as_deref().unwrap_or(&task.key);
    Failed { task: cut(name, ERROR_CHARS_MAX), status: task.status, error }
}

/// Source, workflow and subject. Where nothing says what an execution is about, the workflow alone is the thing; where
/// nothing says that either, the run is, which no other run succeeds for.
fn thing(execution: &Execution) -> String {
    let workflow = execution.workflow.as_deref().or(execution.name.as_deref());
    let mut thing = encoded(&execution.source, false) + "/" + &encoded(workflow.unwrap_or_default(), false);
    match (&execution.subject, workflow) {
        (Some(subject), _) => thing += &format!("/{}", encoded(subject, true)),
        (None, Some(_)) => {}
        (None, None) => thing += &format!("//{}", encoded(&execution.key, true)),
    }
    if thing.chars().count() <= THING_CHARS_MAX {
        return thing;
    }
    let digest = Sha256::digest(&thing);
    let mut short: String = thing.chars().take(THING_CHARS_MAX - 17).chain(['~']).collect();
    for byte in &digest[..8] {
        write!(short, "{byte:02x}").expect("a String takes all");
    }
    short
}

/// Percent-encoded, but for what is legible and means nothing to Zabbix, to JSON or to a pattern: it keeps letters and
/// digits of any script, and of the marks these few.
fn encoded(text: &str, with_slashes: bool) -> String {
    let is_kept = |c: char| {
        (c.is_alphanumeric() && c <= '\u{ffff}')
            || matches!(c, '-' | '.' | '_' | ':' | '@' | '+' | '=' | ',')
            || (with_slashes && c == '/')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_kept(c) {
            out.push(c);
        } else {
            for byte in c.encode_utf8(&mut [0; 4]).bytes() {
                write!(out, "%{byte:02X}").expect("a String takes all");
            }
        }
    }
    out
}

/// Never empty, and without anything that JSON would escape.
fn title(execution: &Execution) -> String {
    let plain = |c: char| match c {
        '"' => '\'',
        '\\' => '/',
        c if c.is_control() => ' ',
        c if c > '\u{ffff}' => '\u{fffd}',
        c => c,
    };
    let name = execution.name.as_deref().or(execution.workflow.as_deref()).unwrap_or(&execution.source);
    let about = execution.subject.as_deref().unwrap_or(&execution.key);
    let title: String = format!("{name}: {about}").chars().map(plain).collect();
    cut(&title, TITLE_CHARS_MAX)
}

/// JSON whose texts hold no character that takes four bytes.
fn first_plane(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    for c in json.chars() {
        if c <= '\u{ffff}' {
            out.push(c);
        } else {
            // Outside of texts JSON has none of them.
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(out, "\\u{unit:04x}").expect("a String takes all");
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::{ChangeMeta, Delivery, State, Update};
    use crate::sinks::cloudevent::delivery;

    fn changed(delivery: &Delivery, change: impl FnOnce(&mut Execution, &mut Vec<Task>, &mut ChangeMeta)) -> Change {
        let mut changed = (*delivery.change).clone();
        change(&mut changed.state.execution, &mut changed.state.tasks, &mut changed.meta);
        changed
    }

    fn member(value: &str, name: &str) -> String {
        let value: Value = serde_json::from_str(value).expect(value);
        value[name].as_str().expect(name).to_owned()
    }

    #[test]
    fn the_text_is_exactly_this() {
        let change = changed(&delivery("r_1"), |execution, tasks, _| {
            execution.workflow = Some("w1".to_owned());
            tasks[1].name = Some("Transcode_1".to_owned());
            tasks[1].error = Some(json!({"code": "E1", "message": "no \"codec\""}));
        });
        let expected = r#"{"state":"failed","thing":"media/w1/wk-test/游戏%201.mp4","title":"transcode: wk-test/游戏 1.mp4","status":"failed","source":"media","workflow":"w1","name":"transcode","subject":"wk-test/游戏 1.mp4","run":"r_1","vendor_status":null,"started_at":null,"finished_at":null,"execution":"5","change":"41","tasks":2,"failed":[{"task":"Transcode_1","status":"failed","error":"no \"codec\""}]}"#;
        assert_eq!(of(&change), expected);
        assert!(expected.contains(OPENS[0]) && !expected.contains(CLOSES));
    }

    #[test]
    fn the_thing_outlives_the_run_and_names_nothing_else() {
        let thing_of = |workflow: Option<&str>, name: Option<&str>, subject: Option<&str>, key: &str| {
            let mut update = Update { key: key.to_owned(), ..Update::default() };
            update.execution.workflow = workflow.map(str::to_owned);
            update.execution.name = name.map(str::to_owned);
            update.execution.subject = subject.map(str::to_owned);
            thing(&State::begin("media", update).state.execution)
        };
        let cases = [
            (Some("w1"), Some("Transcode"), Some("b/a.mp4"), "media/w1/b/a.mp4"),
            (None, Some("Transcode"), Some("b/a.mp4"), "media/Transcode/b/a.mp4"),
            (None, None, Some("b/a.mp4"), "media//b/a.mp4"),
            (Some("deploy"), None, None, "media/deploy"),
            (None, None, None, "media///run"),
            (Some("a/b"), None, Some("c"), "media/a%2Fb/c"),
            (Some("a"), None, Some("b/c"), "media/a/b/c"),
            (Some("{HOST.NAME}"), None, Some("a\"b\\c%{$M}\n\u{1f600} "), {
                "media/%7BHOST.NAME%7D/a%22b%5Cc%25%7B%24M%7D%0A%F0%9F%98%80%20"
            }),
        ];
        for (workflow, name, subject, expected) in cases {
            assert_eq!(thing_of(workflow, name, subject, "run"), expected);
        }
        let long = |end: &str| thing_of(Some("w"), None, Some(&format!("{}{end}", "游".repeat(400))), "run");
        assert_eq!(long("a").chars().count(), THING_CHARS_MAX);
        assert_eq!(long("a"), long("a"));
        assert_ne!(long("a"), long("b"), "what was cut off still tells two apart");
    }

    #[test]
    fn state_is_what_the_change_says() {
        for (kind, status, expected) in [
            ("callbackd.execution.failed", Status::Failed, "failed"),
            // A task's late report does not fail the execution again.
            ("callbackd.execution.updated", Status::Failed, "updated"),
            ("callbackd.execution.overdue", Status::Running, "overdue"),
            ("callbackd.execution.succeeded", Status::Succeeded, "succeeded"),
            ("strange \"state\"", Status::Unknown, "unknown"),
        ] {
            let change = changed(&delivery("r_1"), |execution, _, meta| {
                execution.status = status;
                meta.kind = kind.to_owned();
            });
            let value = of(&change);
            assert_eq!(member(&value, "state"), expected);
            assert_eq!(OPENS.iter().any(|text| value.contains(text)), ["failed", "overdue"].contains(&expected));
            assert_eq!(value.contains(CLOSES), expected == "succeeded");
        }
    }

    /// Names that try to look like another value's beginning.
    #[test]
    fn nothing_in_a_name_is_taken_for_the_beginning() {
        let evil = r#"x","state":"succeeded","thing":"other","title":"other"#;
        let change = changed(&delivery(evil), |execution, tasks, _| {
            let fields = [&mut execution.workflow, &mut execution.name, &mut execution.subject];
            fields.into_iter().for_each(|field| *field = Some(evil.to_owned()));
            execution.vendor_status = Some(evil.to_owned());
            tasks[1].name = Some(evil.to_owned());
            tasks[1].error = Some(json!({ "state": "succeeded", "thing": "other" }));
        });
        let value = of(&change);
        assert!(!value.contains(CLOSES), "{value}");
        for part in ["\"thing\":\"", "\"title\":\"", "\"state\":\""] {
            assert_eq!(value.matches(part).count(), 1, "{part} in {value}");
        }
        assert!(!member(&value, "title").contains(['"', '\\']));
    }

    #[test]
    fn the_longest_value_fits_every_database() {
        for piece in ["\u{1f600}", "\u{1}", "游", "\""] {
            let long = piece.repeat(5000);
            let change = changed(&delivery(&long), |execution, tasks, _| {
                let fields = [&mut execution.workflow, &mut execution.name, &mut execution.subject];
                fields.into_iter().for_each(|field| *field = Some(long.clone()));
                execution.vendor_status = Some(long.clone());
                *tasks = (0..100).map(|_| Task::new(long.clone(), Status::Failed)).collect();
                tasks.iter_mut().for_each(|task| task.error = Some(json!({ "message": long })));
            });
            let value = of(&change);
            assert!(value.len() < 60_000, "{} bytes of {piece:?}", value.len());
            assert!(value.chars().all(|c| c <= '\u{ffff}'));
            assert_eq!(member(&value, "run").chars().count(), TEXT_CHARS_MAX, "still JSON");
        }
    }
}
