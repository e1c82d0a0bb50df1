//! W3C Trace Context, from the sender to the endpoint that is told, by way of the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Hook, Reply, Seen};

const MEDIA: &str = "/callbacks/media/t0ken";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

fn config(hook: &Hook) -> String {
    format!(
        "store.url = \"sqlite:callbackd.db\"\n\
         sources.media = {{ kind = \"cos_workflow\", path = \"/callbacks/media\", token = \"t0ken\" }}\n\
         sinks.hook = {{ kind = \"webhook\", url = \"{}\", retry_first = \"10ms\", retry_longest = \"50ms\" }}\n\
         routes = [{{ from = [\"media\"], to = [\"hook\"] }}]\n",
        hook.url()
    )
}

fn told(hook: &Hook, key: &str) -> Vec<Seen> {
    hook.seen().into_iter().filter(|seen| !seen.taken && seen.key() == key).collect()
}

#[test]
fn a_trace_goes_on_to_who_is_told_across_retries_and_a_restart() {
    let status = Arc::new(AtomicU16::new(503));
    let replies = Arc::clone(&status);
    let hook = Hook::start(move || Reply::Status(replies.load(Ordering::Relaxed)));
    let mut daemon = Daemon::run(&config(&hook));
    let parent = format!("00-{TRACE}-{SPAN}-01");
    let headers = [("traceparent", parent.as_str()), ("tracestate", "congo=t61rcWkgMzE, rojo=1")];
    assert_eq!(daemon.post(MEDIA, &headers, cos(Step::Start, "one")).status, 200);
    // A second change of the same execution, in a trace of its own.
    let other = format!("00-{}-{SPAN}-00", "c".repeat(32));
    assert_eq!(daemon.post(MEDIA, &[("traceparent", &other)], cos(Step::Success, "one")).status, 200);
    soon("some tries", || (told(&hook, "one").len() > 2).then_some(()));
    daemon.signal("TERM");
    assert!(daemon.ended().success());
    let before = told(&hook, "one").len();
    status.store(200, Ordering::Relaxed);
    daemon.start();
    let all = soon("both are taken", || (hook.taken().len() == 2).then(|| told(&hook, "one")));

    let parents: Vec<_> = all.iter().map(|seen| seen.header("traceparent").expect("a trace").to_owned()).collect();
    let (first, second): (Vec<_>, Vec<_>) = parents.iter().partition(|parent| parent.contains(TRACE));
    assert!(first.len() > before && second.len() == 1, "{parents:?}");
    for parent in &first {
        let parts: Vec<_> = parent.split('-').collect();
        assert_eq!((parts[0], parts[1], parts[2].len(), parts[3]), ("00", TRACE, 16, "01"), "{parent}");
        assert_ne!(parts[2], SPAN, "a span of its own");
    }
    let spans: std::collections::HashSet<_> = first.iter().collect();
    assert_eq!(spans.len(), first.len(), "each try is a span");
    assert!(second[0].starts_with(&other[..36]) && second[0].ends_with("-00"), "{second:?}");
    assert_eq!(all[0].header("tracestate"), Some("congo=t61rcWkgMzE,rojo=1"));
    assert_eq!(all.last().and_then(|seen| seen.header("tracestate")), None);
    let kept = daemon.list(&["receipts", "list"]);
    assert!(kept.iter().any(|row| row["headers"]["traceparent"] == parent.as_str()), "{kept:?}");
}

#[test]
fn what_is_no_trace_goes_no_further() {
    let hook = Hook::start(|| Reply::Status(200));
    let daemon = Daemon::run(&config(&hook));
    let zero = format!("00-{}-{SPAN}-01", "0".repeat(32));
    let parent = format!("00-{TRACE}-{SPAN}-01");
    for (run, headers) in [
        ("none", &[][..]),
        ("garbage", &[("traceparent", "x"), ("tracestate", "congo=1")]),
        ("zero", &[("traceparent", &zero)]),
        ("state", &[("tracestate", "congo=1")]),
        ("twice", &[("traceparent", &parent), ("traceparent", &parent)]),
    ] {
        assert_eq!(daemon.post(MEDIA, headers, cos(Step::Success, run)).status, 200, "{run}");
        let seen = soon("it is told", || told(&hook, run).pop());
        assert_eq!((seen.header("traceparent"), seen.header("tracestate")), (None, None), "{run}");
    }
    let kept = daemon.list(&["receipts", "list"]);
    assert!(kept.iter().all(|row| row["headers"].get("traceparent").is_none()), "{kept:?}");
    // A trace makes no news of a repeat.
    let again = daemon.post(MEDIA, &[("traceparent", &parent)], cos(Step::Success, "none"));
    assert_eq!(again.json()["outcome"], "duplicate");
}
