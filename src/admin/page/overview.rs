//! The first view: whether anything is wrong, what, and which command mends it; then figures, and what came last.

use super::executions::{self, Row};
use super::html::{Html, NONE, Url, age, count, several, when};
use super::layout::section;
use super::plot::{self, DAY, HOUR};
use super::replicas;
use super::standing::{Standing, findings, place};
use crate::admin::judgement::{Finding, Weight};
use crate::measure::Minute;
use crate::model::Time;

/// Figures are kept for so long.
const DAY_MS: u64 = 86_400_000;

pub(super) fn show(h: &mut Html, standing: &Standing, history: &[Minute], latest: &[Row], now: Time) {
    let found = findings(standing, now);
    h.leaf("h1", &[("class", "unseen")], "Overview");
    verdict(h, standing, &found);
    line(h, standing, now);
    if !found.is_empty() {
        section(h, "wrong", "What is wrong", |h| {
            h.el("ul", &[("class", "findings")], |h| found.iter().for_each(|f| finding(h, f)))
        });
    }
    if !standing.replicas.is_empty() {
        section(h, "replicas", "Who shares the store", |h| replicas::table(h, &standing.replicas, now));
    }
    section(h, "figures", "The last hour and day", |h| {
        if standing.replicas.len() > 1 {
            let apart = "These count what this callbackd alone took and told; the rest of the page is of all that share the store.";
            h.leaf("p", &[("class", "none")], apart);
        }
        if now.ms_since(standing.since) < DAY_MS {
            let since = format!(
                "Counted since {}, when this process began: what was before is in the lists.",
                when(standing.since)
            );
            h.leaf("p", &[("class", "none")], &since);
        }
        h.el("div", &[("class", "spans")], |h| {
            for span in [HOUR, DAY] {
                h.el("div", &[], |h| {
                    h.leaf("h3", &[], span.title);
                    plot::plots(h, span, history, now);
                });
            }
        });
    });
    section(h, "latest", "Latest executions", |h| {
        executions::table(h, latest, now);
        h.el("p", &[], |h| h.link(&Url::to(&["executions"]), "All executions"));
    });
}

fn verdict(h: &mut Html, standing: &Standing, found: &[Finding]) {
    let bad = found.iter().filter(|finding| finding.weight == Weight::Bad).count() as u64;
    let (class, said) = match (bad, found.len() as u64) {
        _ if standing.receiving.is_err() => ("verdict bad", "Callbacks are not being kept".to_owned()),
        (0, 0) => ("verdict good", "All is well".to_owned()),
        (0, wary) => ("verdict wary", format!("{} worth a look", several(wary, "thing"))),
        (1, _) => ("verdict bad", "1 thing is wrong".to_owned()),
        (bad, _) => ("verdict bad", format!("{} are wrong", several(bad, "thing"))),
    };
    h.leaf("p", &[("class", class), ("id", "verdict")], &said);
}

/// The state in one line.
fn line(h: &mut Html, standing: &Standing, now: Time) {
    let sinks: Vec<_> = standing.sinks.iter().filter(|sink| sink.is_configured).collect();
    let well = sinks.iter().filter(|sink| sink.standing.word() == "active").count();
    let backlog: u64 = standing.sinks.iter().map(|sink| sink.standing.row.backlog).sum();
    let oldest = standing.sinks.iter().filter_map(|sink| sink.standing.row.oldest).min();
    let dead: u64 = standing.sinks.iter().map(|sink| sink.standing.row.dead).sum();
    let forwarding = match (well, sinks.len()) {
        (_, 0) => "to no".to_owned(),
        (well, all) if well == all => format!("to all {all}"),
        (well, all) => format!("to {well} of {all}"),
    };
    let receiving = if standing.receiving.is_ok() { "yes" } else { "no" };
    let since = oldest.map_or(NONE.to_owned(), |oldest| age(oldest, now));
    let (backlog, gone) = (count(backlog), count(dead));
    let mut cells: Vec<(&str, &str, String, &str)> = vec![
        (
            "Receiving",
            receiving,
            format!("{} in 2 min", count(standing.lately)),
            if standing.receiving.is_ok() { "good" } else { "bad" },
        ),
        ("Forwarding", &forwarding, "sinks".to_owned(), if well == sinks.len() { "good" } else { "bad" }),
        ("Backlog", &backlog, "wait to be told".to_owned(), ""),
        ("Oldest undelivered", &since, String::new(), ""),
        ("Dead letters", &gone, "given up".to_owned(), if dead > 0 { "bad" } else { "" }),
    ];
    h.el("dl", &[("class", "line"), ("aria-label", "State")], |h| {
        if let Some(refused) = &standing.configuration.refused {
            cells.push(("Configuration", "refused", format!("{} ago", age(refused.at, now)), "bad"));
        }
        for (name, value, beside, class) in cells {
            h.el("div", &[("class", class)], |h| {
                h.leaf("dt", &[], name);
                h.el("dd", &[], |h| {
                    h.leaf("b", &[], value);
                    h.text(" ");
                    h.leaf("small", &[], &beside);
                });
            });
        }
        h.el("div", &[("class", "sources")], |h| {
            h.leaf("dt", &[], "Last callback");
            for source in &standing.sources {
                h.el("dd", &[], |h| {
                    h.link(&Url::to(&["executions"]).with("source", &source.name), &source.name);
                    h.text(" ");
                    match source.last_at {
                        Some(_) => h.ago(source.last_at, now),
                        None => h.leaf("small", &[], "not lately"),
                    }
                });
            }
            if standing.sources.is_empty() {
                h.leaf("dd", &[], "no sources");
            }
        });
    });
}

fn finding(h: &mut Html, finding: &Finding) {
    let class = match finding.weight {
        Weight::Bad => "bad",
        Weight::Wary => "wary",
    };
    h.el("li", &[("class", class)], |h| {
        h.el("p", &[], |h| {
            h.leaf("b", &[], &finding.what);
            if let Some(reason) = &finding.reason {
                h.text(" ");
                h.leaf("span", &[("class", "said")], reason);
            }
        });
        let shown = place(&finding.about);
        for (at, mend) in finding.mends.iter().enumerate() {
            h.el("p", &[], |h| {
                if !mend.when.is_empty() {
                    h.leaf("span", &[("class", "said")], &mend.when);
                    h.text(" ");
                }
                h.leaf("code", &[], &mend.command);
                if let Some(to) = shown.as_ref().filter(|_| at + 1 == finding.mends.len()) {
                    h.text(" ");
                    let label = format!("Show: {}", finding.what);
                    h.leaf("a", &[("href", to.as_str()), ("aria-label", &label)], "Show");
                }
            });
        }
    });
}
