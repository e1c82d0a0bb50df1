//! What peers answer: to deliveries, to questions, to `zabbix apply`.
//!
//! An input is a line that chooses what is delivered, and then answers, with `---` on a line of its own between them:
//! the status on a line, lines of headers, an empty line, and the body.

use std::sync::Arc;

use callbackd::config::Environment;
use callbackd::model::{
    Change, ChangeMeta, Delivery, Execution, Link, Outcome, State, Status, Task, Template, WaitFor,
};
use callbackd::sinks::Tried;
use callbackd::sinks::zabbix::Zabbix;
use callbackd::sources::{Answer, Asked};
use http::{HeaderName, HeaderValue};
use serde_json::{Map, Value, json};

use super::{NOW, configuration, must_be_fit_to_say, peer, read, sink_of, source_of, text};

const SOURCES: &str = "[server]\ninstance = \"edge\"\n\
    [sources.media]\nkind = \"cos_workflow\"\npath = \"/media\"\nallow_unauthenticated = true\n\
    [sources.portal]\nkind = \"port_action\"\npath = \"/portal\"\nallow_unauthenticated = true\n[sinks.it]\n";

/// What secrets the sinks here have: all of them hold the needle, which an answer has to leave out to be judged by it.
const NEEDLE: &[u8] = super::NEEDLE.as_bytes();

pub(super) fn webhook(input: &[u8]) {
    told(input, |url| {
        format!("kind = \"webhook\"\nurl = \"{url}/hook?key=hunter2-query\"\nsecret = [\"hunter2-a\", \"hunter2-b\"]\n")
    });
}

pub(super) fn port(input: &[u8]) {
    told(input, |url| {
        format!(
            "kind = \"port_run\"\nurl = \"{url}\"\nclient_id = \"client\"\nclient_secret = \"hunter2-secret\"\n\
             [sinks.it.entity]\nblueprint = \"media_file\"\nidentifier = \".execution.subject\"\n\
             each = \".tasks[]? // .\"\nproperties = \"{{ status: .execution.status }}\"\n"
        )
    });
}

pub(super) fn astrom(input: &[u8]) {
    told(input, |url| {
        format!(
            "kind = \"klyuch_astrom\"\nurl = \"{url}/e/19a63b03\"\ntoken = \"dt0c01.ST2EY72K.hunter2\"\nothers = \"CUSTOM_INFO\"\n"
        )
    });
}

pub(super) fn secmaster(input: &[u8]) {
    let by_key =
        "access_key = \"hunter2-access\"\nsecret_key = \"hunter2-secret\"\nsecurity_token = \"hunter2-session\"\n";
    told(input, |url| {
        let credential = match input.first() {
            Some(b'a'..=b'm') => by_key.to_owned(),
            _ => format!(
                "domain = \"acme\"\nuser = \"callbackd\"\npassword = \"hunter2-word\"\nproject = \"p\"\niam_url = \"{url}\"\n"
            ),
        };
        format!(
            "kind = \"secmaster\"\nurl = \"{url}\"\nproject_id = \"p1\"\nworkspace_id = \"w1\"\nworkflow_id = \"f1\"\n\
             follow = true\n{credential}"
        )
    });
}

pub(super) fn tencent(input: &[u8]) {
    told(input, |url| {
        format!(
            "kind = \"cos_trigger\"\nurl = \"{url}\"\nworkflow_id = \"w4699c83b\"\nbucket = \"media-1250000000\"\n\
             object = '.execution.key'\nwhen = 'true'\nsecret_id = \"hunter2-id\"\nsecret_key = \"hunter2-key\"\n\
             security_token = \"hunter2-session\"\n"
        )
    });
}

pub(super) fn zabbix(input: &[u8]) {
    told(input, |url| format!("kind = \"zabbix\"\nurl = \"{url}\"\n{}", login(input)));
}

/// As versions before 5.4 want it, or by a token.
fn login(input: &[u8]) -> &'static str {
    match input.first() {
        Some(b'a'..=b'm') => "token = \"hunter2-api-token\"\n",
        _ => "user = \"callbackd\"\npassword = \"hunter2-word\"\n",
    }
}

pub(super) fn trapper(input: &[u8]) {
    let answer = input.to_vec();
    let tried = peer::ask(vec![answer], async |address| {
        let sink = sink_of(&format!("{SOURCES}kind = \"zabbix\"\ntrapper = \"{address}\"\n"));
        sink.deliver(&delivery(b'f', None), NOW).await
    });
    is_judged(&tried, holds_the_needle(input));
    if matches!(tried.outcome, Outcome::Delivered { .. }) {
        assert!(input.starts_with(b"ZBXD"), "no trapper's answer");
        assert!(text_of(input).contains("processed: "), "nothing is processed");
    }
}

fn text_of(input: &[u8]) -> String {
    String::from_utf8_lossy(input).into_owned()
}

/// A delivery is tried, and once more with what the first try handed back.
fn told(input: &[u8], options: impl Fn(&str) -> String) {
    let (what, answers) = read_answers(input);
    let (statuses, wire): (Vec<u16>, Vec<Vec<u8>>) = answers.into_iter().unzip();
    peer::ask(wire, async |address| {
        let sink = sink_of(&format!("{SOURCES}{}", options(&format!("http://{address}"))));
        let mut resume = None;
        for _ in 0..3 {
            let delivery = delivery(what, resume);
            for preview in sink.preview(&delivery, NOW) {
                assert!(!format!("{preview:?}").contains(super::NEEDLE), "a secret is shown: {preview:?}");
            }
            let tried = sink.deliver(&delivery, NOW).await;
            is_judged(&tried, holds_the_needle(input));
            if matches!(tried.outcome, Outcome::Delivered { .. }) {
                assert!(statuses.iter().any(|status| (200..300).contains(status)), "nobody has taken it: {statuses:?}");
            }
            resume = match tried.outcome {
                Outcome::Retry { resume: Some(resume), .. } | Outcome::Wait { resume: Some(resume), .. } => {
                    Some(resume)
                }
                _ => return,
            };
            let kept = resume.as_ref().map_or(0, |resume: &Value| resume.to_string().len());
            assert!(kept <= 64 << 10, "{kept} bytes are handed back");
        }
    });
}

fn holds_the_needle(input: &[u8]) -> bool {
    input.windows(NEEDLE.len()).any(|window| window == NEEDLE) || input.contains(&b'\\')
}

/// What holds of any try.
fn is_judged(tried: &Tried, holds_the_needle: bool) {
    let fit = |said: &str| {
        if holds_the_needle {
            assert!(said.len() <= 4096, "{} bytes are said", said.len())
        } else {
            must_be_fit_to_say(said)
        }
    };
    tried.answer.iter().for_each(|answer| {
        assert!(answer.chars().count() <= 1000, "{} characters are kept", answer.chars().count());
        fit(answer);
    });
    let learned = match &tried.outcome {
        Outcome::Delivered { note, learned } => {
            note.iter().for_each(|note| fit(note));
            &learned[..]
        }
        Outcome::Wait { wait_for, learned, until, .. } => {
            if let WaitFor::Peer(reason) = wait_for {
                fit(reason);
            }
            assert!(*until >= NOW && *until <= NOW.plus_ms(8 * 86_400_000), "waits until {until}");
            &learned[..]
        }
        Outcome::Retry { reason, .. }
        | Outcome::Halt { reason, .. }
        | Outcome::Reject { reason }
        | Outcome::Discard { reason } => {
            fit(reason);
            &[]
        }
    };
    for one in learned {
        let bytes = read::holds(&one.update);
        assert!(bytes <= 4 << 20, "{bytes} bytes are learned");
    }
}

/// What CI answers when it is asked about an execution; the first line is its key.
pub(super) fn ci(input: &[u8]) {
    let (what, answers) = read_answers(input);
    let key = if what == b'j' { "j1" } else { "i1" };
    let wire = answers.into_iter().map(|(_, wire)| wire).collect();
    let answer = peer::ask(wire, async |address| {
        let source = source_of(&format!(
            "[sources.it]\nkind = \"cos_workflow\"\npath = \"/it\"\ntoken = \"hunter2-token\"\n\
             url = \"http://{address}\"\nregion = \"ap-chongqing\"\nbucket = \"media-1250000000\"\n\
             secret_id = \"hunter2-id\"\nsecret_key = \"hunter2-key\"\nelements_max = 2000\n"
        ));
        let workflow = (what != b'j').then(|| "w1".to_owned());
        let asked = Asked { key: key.to_owned(), workflow, attributes: Map::new() };
        source.inquire().expect("one that asks").ask(&asked, NOW).await
    });
    match answer {
        Answer::Known(update) => {
            assert_eq!(update.key, key, "an answer about another execution");
            read::holds(&update);
        }
        Answer::Unknown => {}
        Answer::Unanswerable { reason } | Answer::Later { reason, .. } | Answer::Halt { reason } => {
            if !holds_the_needle(input) {
                must_be_fit_to_say(&reason);
            }
        }
    }
}

/// What Zabbix holds already, when it is set up.
pub(super) fn zabbix_apply(input: &[u8]) {
    let (what, answers) = read_answers(input);
    let asked = answers.len();
    let wire = answers.into_iter().map(|(_, wire)| wire).collect();
    peer::ask(wire, async |address| {
        let config = configuration(&format!(
            "{SOURCES}kind = \"zabbix\"\nurl = \"http://{address}\"\n{}\
             [sinks.it.action]\nname = \"told\"\neventsource = \"trigger\"\n\
             operations = [{{ operationtype = \"message\", opmessage = {{ default_msg = 1 }}, opmessage_usr = [{{ userid = \"Admin\" }}] }}]\n",
            login(input)
        ));
        let sink = config.of_sink(&config.sinks[0], &Environment::default(), Zabbix::read).expect("a sink");
        let mut said = Vec::new();
        let done = sink.apply(what == b'd', NOW, &mut |step| said.push(format!("{step:?}"))).await;
        said.extend(done.err());
        for said in &said {
            if !holds_the_needle(input) {
                assert!(!said.contains(super::NEEDLE), "a secret is said: {said}");
            }
        }
        assert!(said.len() <= 64 + asked, "{} steps of {asked} answers", said.len());
    });
}

/// The letter of the first line, and each answer: its status, and the whole as HTTP.
fn read_answers(input: &[u8]) -> (u8, Vec<(u16, Vec<u8>)>) {
    let (first, rest) = split(input, b"\n").unwrap_or((input, b""));
    let (mut answers, mut left) = (Vec::new(), Some(rest));
    while let Some(part) = left.filter(|_| answers.len() < 40) {
        let (one, after) = split(part, b"\n---\n").map_or((part, None), |(one, after)| (one, Some(after)));
        answers.push(answer(one));
        left = after;
    }
    (first.first().copied().unwrap_or(b'r'), answers)
}

fn answer(written: &[u8]) -> (u16, Vec<u8>) {
    let (head, body) = split(written, b"\n\n").unwrap_or((written, b""));
    let mut lines = text(head).lines();
    let status = lines.next().and_then(|line| line.parse().ok()).filter(|status| (200..=599).contains(status));
    let status = status.unwrap_or(200);
    let body = if matches!(status, 204 | 304) { b"" } else { body };
    let mut wire = format!("HTTP/1.1 {status} Word\r\n").into_bytes();
    for (name, value) in lines.take(20).filter_map(|line| line.split_once(':')) {
        let value = HeaderValue::from_bytes(value.trim().as_bytes());
        if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value)
            && !["content-length", "transfer-encoding", "connection"].contains(&name.as_str())
        {
            wire.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
    }
    wire.extend(format!("content-length: {}\r\n\r\n", body.len()).into_bytes());
    wire.extend_from_slice(body);
    (status, wire)
}

fn split<'a>(bytes: &'a [u8], by: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes.windows(by.len()).position(|window| window == by)?;
    Some((&bytes[..at], &bytes[at + by.len()..]))
}

/// A change of an execution that runs, or (f, F) has failed, or (s, S) succeeded; (u) is tied to no run of Port.
fn delivery(what: u8, resume: Option<Value>) -> Delivery {
    let status = match what {
        b'f' | b'F' => Status::Failed,
        b's' | b'S' => Status::Succeeded,
        _ => Status::Running,
    };
    let execution = Execution {
        source: "media".to_owned(),
        key: "i5f17a1fb".to_owned(),
        name: Some("Transcode".to_owned()),
        workflow: Some("w1".to_owned()),
        subject: Some("bucket/in/剪辑 1.mp4".to_owned()),
        status,
        vendor_status: None,
        created_at: None,
        started_at: Some(NOW),
        finished_at: status.is_finished().then_some(NOW),
        inputs: None,
        attributes: Map::from_iter([("bucket".to_owned(), json!("bucket"))]),
    };
    let template = Some(Template { id: Some("t1".to_owned()), name: None });
    let task = Task { name: Some("Transcode_1".to_owned()), template, ..Task::new("j1".to_owned(), status) };
    let link = Link { source: "portal".to_owned(), key: "r_AbCdEfGh12345678".to_owned(), execution: "8".to_owned() };
    let meta = ChangeMeta {
        kind: format!("callbackd.execution.{status}"),
        sequence: 1,
        previous_status: None,
        changed_tasks: vec!["j1".to_owned()],
        overdue: what == b'o',
        receipt: Some("7".to_owned()),
        received_at: NOW,
    };
    let links = if what == b'u' { Vec::new() } else { vec![link] };
    let change = Change { id: 41, execution_id: 5, state: State { execution, tasks: vec![task] }, links, meta };
    Delivery { id: 99, change: Arc::new(change), attempts: 0, created_at: NOW, resume, trace: None }
}
