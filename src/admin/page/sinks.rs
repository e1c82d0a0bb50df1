//! Sinks: how far behind each is, whether it fails, and a way to hold one and let it go on.

use super::html::{Html, NONE, Url, age, count};
use super::layout::{self, button};
use super::standing::Sink;
use crate::model::Time;
use crate::pipeline::forward::HALTED;

pub(super) fn show(h: &mut Html, sinks: &[Sink], now: Time) {
    h.leaf("h1", &[], "Sinks");
    if sinks.is_empty() {
        return h.leaf("p", &[("class", "none")], "None is configured: what comes in is kept, and nobody is told.");
    }
    let head = ["Status", "Sink", "Backlog", "Oldest", "Dead letters", "Do"];
    layout::table(h, "Sinks", &head, |h| sinks.iter().for_each(|sink| row(h, sink, now)));
}

fn row(h: &mut Html, sink: &Sink, now: Time) {
    let (row, breaker) = (&sink.standing.row, sink.standing.breaker);
    let deliveries = |status: &str| Url::to(&["deliveries"]).with("status", status).with("sink", &row.name);
    // What waits does so for the reason of the pause.
    let is_halted = row.paused.as_ref().is_some_and(|reason| reason.starts_with(HALTED));
    let counted = |h: &mut Html, n: u64, status: &str| match n {
        0 => h.text("0"),
        n => h.link(&deliveries(status), &count(n)),
    };
    h.el("tr", &[("id", &format!("sink-{}", row.name))], |h| {
        h.el("td", &[], |h| h.badge(sink.standing.word()));
        h.el("td", &[("class", "what")], |h| {
            h.leaf("b", &[], &row.name);
            let notes = [
                (!sink.is_configured).then(|| "not configured any more".to_owned()),
                row.paused.as_ref().map(|reason| match reason.strip_prefix(HALTED) {
                    Some(refused) => format!("paused, because its peer refuses us: {refused}"),
                    None => format!("paused: {reason}"),
                }),
                breaker.map(|open| match open.probe_at {
                    Some(_) => format!("fails for {}: only a probe now and then", age(open.open_since, now)),
                    None => {
                        format!("failed {} ago; nothing waits, so the next delivery tells", age(open.open_since, now))
                    }
                }),
                row.reason.as_ref().filter(|_| !is_halted).map(|reason| format!("the oldest waits: {reason}")),
                row.dead_because().map(|reason| format!("dead: {reason}")),
            ];
            for note in notes.iter().flatten() {
                h.leaf("small", &[("class", "said")], note);
            }
        });
        h.el("td", &[("class", "number")], |h| counted(h, row.backlog, "waiting"));
        h.el("td", &[("class", "number")], |h| match row.oldest {
            Some(_) => h.ago(row.oldest, now),
            None => h.text(NONE),
        });
        h.el("td", &[("class", "number")], |h| counted(h, row.dead, "dead"));
        h.el("td", &[("class", "do")], |h| match row.paused {
            Some(_) => button(h, &Url::to(&["sinks", &row.name, "resume"]), "Resume", &row.name, &Url::to(&["sinks"])),
            None => pause(h, &row.name),
        });
    });
}

fn pause(h: &mut Html, name: &str) {
    h.el("details", &[("class", "careful"), ("id", &format!("pause-{name}"))], |h| {
        h.leaf("summary", &[("aria-label", &format!("Pause {name} …"))], "Pause …");
        h.el("form", &[("method", "post"), ("action", Url::to(&["sinks", name, "pause"]).as_str())], |h| {
            h.void("input", &[("type", "hidden"), ("name", "back"), ("value", "/sinks")]);
            layout::field(h, "reason", "Why", "", "for whoever reads this");
            h.leaf("button", &[("aria-label", &format!("Pause {name}"))], "Pause");
        });
    });
}
