//! `/metrics` of the built daemon: that it tells what happened, to those who may know, and that the dashboard and the
//! rules name nothing else. `tests/peers/prometheus.sh` has a real Prometheus read it.

use std::collections::{BTreeSet, HashMap};
use std::fs;

use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, request, soon};
use crate::peers::hook::{Closed, Hook, Reply};
use crate::wire::Answer;

const MEDIA: &str = "/callbacks/media/t0ken";

fn config(hook: &str, gone: &str) -> String {
    format!(
        "store.url = \"sqlite:callbackd.db\"\n\
         sources.media = {{ kind = \"cos_workflow\", path = \"/callbacks/media\", token = \"t0ken\" }}\n\
         sinks.hook = {{ kind = \"webhook\", url = \"{hook}\" }}\n\
         sinks.gone = {{ kind = \"webhook\", url = \"{gone}\", breaker_failures = 1 }}\n\
         routes = [{{ from = [\"media\"], to = [\"hook\", \"gone\"] }}]\n"
    )
}

fn look(daemon: &Daemon, accept: &str, headers: &[(&str, &str)]) -> Answer {
    let headers = [&[("Accept", accept)], headers].concat();
    Connection::to(&daemon.admin).ask(&request("GET", "/metrics", &headers, b"")).expect("an answer")
}

/// Every sample by its name with its labels.
fn samples(daemon: &Daemon) -> HashMap<String, f64> {
    let answer = look(daemon, "*/*", &[]);
    assert_eq!(answer.status, 200);
    let of = |line: &str| {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        (series.to_owned(), value.parse().expect("a number"))
    };
    answer.body.lines().filter(|line| !line.starts_with('#')).map(of).collect()
}

#[test]
fn what_happened_is_told_in_figures() {
    let (hook, gone) = (Hook::start(|| Reply::Status(200)), Closed::reserve());
    let daemon = Daemon::run(&config(&hook.url(), &gone.url()));
    for (path, body, status) in [
        (MEDIA, cos(Step::Start, "one"), 200),
        (MEDIA, cos(Step::Success, "one"), 200),
        (MEDIA, cos(Step::Success, "one"), 200),
        (MEDIA, cos(Step::Failed, "one"), 200),
        (MEDIA, "<Response>".to_owned(), 200),
        ("/callbacks/media/wrong", cos(Step::Start, "two"), 401),
        ("/callbacks/nobody/t0ken", cos(Step::Start, "two"), 404),
    ] {
        assert_eq!(daemon.post(path, &[], body).status, status, "{path}");
    }
    let is = |series: &str, value: f64| (series.to_owned(), value);
    let expected = [
        is("callbackd_receipts_total{source=\"media\",outcome=\"accepted\"}", 2.0),
        is("callbackd_receipts_total{source=\"media\",outcome=\"duplicate\"}", 1.0),
        is("callbackd_receipts_total{source=\"media\",outcome=\"conflict\"}", 1.0),
        is("callbackd_receipts_total{source=\"media\",outcome=\"quarantined\"}", 1.0),
        is("callbackd_receipts_total{source=\"media\",outcome=\"held\"}", 0.0),
        is("callbackd_refusals_total{source=\"media\",reason=\"unauthorized\"}", 1.0),
        is("callbackd_refusals_total{source=\"\",reason=\"no_such_path\"}", 1.0),
        is("callbackd_ingest_seconds_count{source=\"media\"}", 5.0),
        is("callbackd_ingest_seconds_bucket{source=\"media\",le=\"+Inf\"}", 5.0),
        is("callbackd_attempts_total{sink=\"hook\",outcome=\"delivered\"}", 2.0),
        is("callbackd_delivery_delay_seconds_count{sink=\"hook\"}", 2.0),
        is("callbackd_backlog{sink=\"hook\"}", 0.0),
        is("callbackd_backlog{sink=\"gone\"}", 2.0),
        is("callbackd_breaker_open{sink=\"hook\"}", 0.0),
        is("callbackd_breaker_open{sink=\"gone\"}", 1.0),
        is("callbackd_sink_paused{sink=\"gone\"}", 0.0),
        is("callbackd_commit_failures_total", 0.0),
        is("callbackd_ready", 1.0),
    ];
    let at_last = soon("the figures", || {
        let now = samples(&daemon);
        expected.iter().all(|(series, value)| now.get(series) == Some(value)).then_some(now)
    });
    let above = |series: &str| at_last.get(series).copied().unwrap_or_default() > 0.0;
    for series in [
        "callbackd_attempts_total{sink=\"gone\",outcome=\"retry\"}",
        "callbackd_oldest_undelivered_seconds{sink=\"gone\"}",
        "callbackd_last_receipt_timestamp_seconds{source=\"media\"}",
        "callbackd_commit_seconds_count",
        "callbackd_commit_commands_sum",
        "callbackd_store_held_bytes",
        "callbackd_store_log_bytes",
        "callbackd_store_disk_bytes",
        "callbackd_start_time_seconds",
    ] {
        assert!(above(series), "{series}: {at_last:#?}");
    }

    // Counted on across a reload.
    assert_eq!(daemon.cli(&["sinks", "pause", "gone"]).code, Some(0));
    let more = "sources.portal = { kind = \"port_action\", path = \"/callbacks/port\", secret = \"s3cret\" }\n";
    daemon.configure(&[config(&hook.url(), &gone.url()).as_str(), more].concat());
    daemon.signal("HUP");
    let portal = "callbackd_receipts_total{source=\"portal\",outcome=\"accepted\"}";
    let now = soon("a reload adds its series, and the pause is told", || {
        let now = samples(&daemon);
        (now.contains_key(portal) && now["callbackd_sink_paused{sink=\"gone\"}"] == 1.0).then_some(now)
    });
    assert_eq!(now["callbackd_receipts_total{source=\"media\",outcome=\"accepted\"}"], 2.0);
}

#[test]
fn both_formats_are_spoken_and_the_token_is_asked_for() {
    let token = "admin.token = \"operators-token\"\n";
    let daemon = Daemon::run(&[token, &config("http://127.0.0.1:9/", "http://127.0.0.1:9/")].concat());
    let bearer = [("Authorization", "Bearer operators-token")];
    let prometheus = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let open = look(&daemon, prometheus, &bearer);
    assert_eq!(open.header("content-type"), Some("application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(open.body.ends_with("\n# EOF\n"), "{}", open.body);
    let classic = look(&daemon, "text/plain", &bearer);
    assert_eq!(classic.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
    assert!(!classic.body.contains("# EOF") && classic.body.contains("# TYPE callbackd_receipts_total counter\n"));
    assert_eq!(look(&daemon, "*/*", &[]).status, 401);
    let posted = request("POST", "/metrics", &bearer, b"");
    let answer = Connection::to(&daemon.admin).ask(&posted).expect("an answer");
    assert_eq!((answer.status, answer.header("allow")), (405, Some("GET, HEAD")));
    assert!(!open.body.contains("t0ken") && !open.body.contains("operators-token"));
}

/// The names of figures in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("callbackd_")).collect()
}

#[test]
fn the_dashboard_and_the_rules_name_what_there_is() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook.url(), &hook.url()));
    assert_eq!(daemon.post(MEDIA, &[], cos(Step::Success, "one")).status, 200);
    let body = look(&daemon, "*/*", &[]).body;
    let (there, mut seen) = (named(&body), BTreeSet::new());
    for file in ["config/grafana.json", "config/alerts.yml", "tests/peers/alerts.yml"] {
        let text = fs::read_to_string([env!("CARGO_MANIFEST_DIR"), "/", file].concat()).expect("a file");
        let named = named(&text);
        let strange: Vec<_> = named.difference(&there).collect();
        assert!(!named.is_empty() && strange.is_empty(), "{file} names {strange:?}, which is not in\n{body}");
        // The words that it tells figures apart by.
        for part in text.split(['{', ',']).filter(|part| part.contains("reason=") || part.contains("outcome=")) {
            let words = part.split(['"', '|', '\\', '\'']).skip(1);
            for word in
                words.filter(|word| !word.is_empty() && word.chars().all(|c| c.is_ascii_lowercase() || c == '_'))
            {
                assert!(body.contains(&format!("=\"{word}\"")), "{file}: {word}");
                seen.insert(word.to_owned());
            }
        }
    }
    assert!(
        ["unavailable", "unauthorized", "forbidden", "quarantined"].iter().all(|word| seen.contains(*word)),
        "{seen:?}"
    );
}
