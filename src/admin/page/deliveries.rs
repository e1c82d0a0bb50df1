//! Deliveries: in a list, one with every attempt and the peer's words, and the dead letters' second chance.

use super::html::{Html, NONE, Url, several, took};
use super::layout::{button, careful, facts};
use crate::model::{Attempt, DeliveryStatus, Time};
use crate::store::DeliveryRow;

pub(super) fn table(h: &mut Html, rows: &[DeliveryRow], back: &Url, now: Time) {
    if rows.is_empty() {
        return h.leaf("p", &[("class", "none")], "None.");
    }
    super::layout::table(h, "Deliveries", &["Status", "To", "What", "Tries", "Promised", "Do"], |h| {
        for d in rows {
            h.el("tr", &[("id", &format!("delivery-{}", d.id))], |h| {
                h.el("td", &[], |h| h.badge(d.status.as_str()));
                h.leaf("td", &[], &d.sink);
                h.el("td", &[("class", "what")], |h| {
                    h.link(&Url::to(&["deliveries", &d.id]), &kind(d));
                    h.text(" of ");
                    h.link(&Url::to(&["executions", &d.execution]), &d.key);
                    if let Some(reason) = &d.reason {
                        h.leaf("small", &[("class", "said")], reason);
                    }
                });
                h.leaf("td", &[("class", "number")], &d.attempts.to_string());
                h.el("td", &[("class", "number")], |h| h.ago(Some(d.created_at), now));
                h.el("td", &[("class", "do")], |h| actions(h, d, back));
            });
        }
    });
}

/// The change that it tells, in short.
fn kind(d: &DeliveryRow) -> String {
    d.kind.strip_prefix("callbackd.execution.").unwrap_or(&d.kind).to_owned()
}

/// What can be done about it.
fn actions(h: &mut Html, d: &DeliveryRow, back: &Url) {
    let about = format!("the delivery to {} of {}", d.sink, d.key);
    if matches!(d.status, DeliveryStatus::Dead | DeliveryStatus::Discarded | DeliveryStatus::Waiting) {
        button(h, &Url::to(&["deliveries", &d.id, "retry"]), "Retry", &about, back);
    }
    if matches!(d.status, DeliveryStatus::Dead | DeliveryStatus::Waiting) {
        careful(h, &Url::to(&["deliveries", &d.id, "discard"]), "Discard", &about, back);
    }
}

/// One with its attempts, as a part of its execution's page.
pub(super) fn entry(h: &mut Html, d: &DeliveryRow, attempts: Option<&[Attempt]>, back: &Url, now: Time) {
    h.el("article", &[("class", "delivery")], |h| {
        h.el("header", &[], |h| {
            h.badge(d.status.as_str());
            h.el("h3", &[], |h| {
                h.link(&Url::to(&["deliveries", &d.id]), &format!("{} of {}", d.sink, kind(d)));
            });
            h.el("span", &[], |h| {
                h.text(&format!("{}, promised ", several(u64::from(d.attempts), "try")));
                h.ago(Some(d.created_at), now);
                if let Some(due) = d.due_at.filter(|_| d.finished_at.is_none() && d.status != DeliveryStatus::Dead) {
                    h.text(", due ");
                    h.ago(Some(due), now);
                }
            });
            h.el("span", &[("class", "do")], |h| actions(h, d, back));
        });
        match attempts {
            Some([]) | None => {
                if let Some(reason) = &d.reason {
                    h.leaf("p", &[("class", "said")], reason);
                }
            }
            Some(attempts) => tries(h, d, attempts),
        }
    });
}

/// Every try, and what the peer said.
fn tries(h: &mut Html, d: &DeliveryRow, attempts: &[Attempt]) {
    let name = format!("Tries of the delivery {}", d.id);
    super::layout::table(h, &name, &["When", "Took", "Outcome", "Status", "In whose words"], |h| {
        for a in attempts {
            h.el("tr", &[], |h| {
                h.el("td", &[], |h| h.at(Some(a.started_at)));
                h.leaf("td", &[("class", "number")], &took(a.duration_ms));
                h.el("td", &[], |h| h.badge(&a.outcome));
                h.leaf("td", &[("class", "number")], &a.status.map_or(NONE.to_owned(), |status| status.to_string()));
                h.el("td", &[("class", "what")], |h| {
                    h.leaf("span", &[], a.reason.as_deref().unwrap_or(NONE));
                    if let Some(answer) = &a.answer {
                        h.el("small", &[], |h| {
                            h.text("peer: ");
                            h.leaf("q", &[("class", "said")], super::bounded(answer));
                        });
                    }
                });
            });
        }
    });
}

/// One, on a page of its own.
pub(super) fn show(h: &mut Html, d: &DeliveryRow, attempts: &[Attempt], now: Time) {
    let back = Url::to(&["deliveries", &d.id]);
    h.leaf("p", &[("class", "over")], "Delivery");
    h.leaf("h1", &[], &format!("{} to {}", kind(d), d.sink));
    h.el("p", &[("class", "lead")], |h| {
        h.badge(d.status.as_str());
        h.text(" of ");
        h.link(&Url::to(&["executions", &d.execution]), &d.key);
    });
    if let Some(reason) = &d.reason {
        h.leaf("p", &[("class", "said")], reason);
    }
    h.el("div", &[("class", "do")], |h| actions(h, d, &back));
    facts(
        h,
        &[
            ("Id", &|h| h.text(&d.id)),
            ("Source", &|h| h.text(&d.source)),
            ("Change", &|h| h.text(&d.change)),
            ("Promised", &|h| h.ago(Some(d.created_at), now)),
            ("Due", &|h| h.ago(d.due_at, now)),
            ("Finished", &|h| h.ago(d.finished_at, now)),
        ],
    );
    super::layout::section(h, "tries", "Tries", |h| match attempts {
        [] => h.leaf("p", &[("class", "none")], "None yet."),
        attempts => tries(h, d, attempts),
    });
}

/// All dead letters that the list's filter means, at once.
pub(super) fn all_at_once(h: &mut Html, filter: &[(String, String)], back: &Url) {
    h.el("div", &[("class", "bulk")], |h| {
        let hidden = |h: &mut Html| {
            let back = [("back".to_owned(), back.as_str().to_owned())];
            for (name, value) in filter.iter().filter(|(name, _)| name != "cursor" && name != "limit").chain(&back) {
                h.void("input", &[("type", "hidden"), ("name", name), ("value", value)]);
            }
        };
        let post = |action: &'static str| [("method", "post"), ("action", action)];
        h.el("form", &post("/deliveries/retry"), |h| {
            hidden(h);
            h.leaf("button", &[("class", "first")], "Retry all that the filter shows");
        });
        h.el("details", &[("class", "careful")], |h| {
            h.leaf("summary", &[], "Discard all that the filter shows …");
            h.el("form", &post("/deliveries/discard"), |h| {
                hidden(h);
                h.leaf("button", &[("class", "danger")], "Discard all of them for good");
            });
        });
    });
}
