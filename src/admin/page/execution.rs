//! One execution in full: its tasks on a line of time, what came in, what changed, and who was told, try by try.

use serde_json::Value;

use super::deliveries;
use super::executions::{badges, lasted, status, text, time, title};
use super::html::{Html, NONE, Url, several, took};
use super::layout::{facts, section, table};
use super::receipts;
use super::timeline::{self, Lasted};
use crate::admin::judgement::Commands;
use crate::model::{Attempt, Task, Time};
use crate::store::{DeliveryRow, ReceiptRow};

/// No more deliveries, changes and receipts of one are shown.
pub(super) const SHOWN: usize = 200;
/// With so many tries shown, the earlier deliveries are told without theirs.
pub(super) const TRIES: usize = 1000;

/// Everything that is known of it.
pub(super) struct Whole {
    pub(super) flat: Value,
    pub(super) tasks: Vec<Task>,
    pub(super) receipts: Vec<ReceiptRow>,
    pub(super) changes: Vec<Value>,
    /// Each with its attempts, as far as they were read.
    pub(super) deliveries: Vec<(DeliveryRow, Option<Vec<Attempt>>)>,
}

impl Whole {
    /// Out of what the store tells of it, without attempts yet.
    pub(super) fn of(mut found: Value) -> Option<Whole> {
        fn read<T: serde::de::DeserializeOwned>(value: Value) -> Option<T> {
            serde_json::from_value(value).ok()
        }
        let deliveries: Vec<DeliveryRow> = read(found["deliveries"].take())?;
        Some(Whole {
            flat: found["execution"].take(),
            tasks: read(found["tasks"].take())?,
            receipts: read(found["receipts"].take())?,
            changes: read(found["changes"].take())?,
            deliveries: deliveries.into_iter().map(|row| (row, None)).collect(),
        })
    }
}

pub(super) fn show(h: &mut Html, whole: &Whole, commands: &Commands, now: Time) {
    let e = &whole.flat;
    let all = commands.say(&format!("executions show {}", text(e, "id")));
    let back = Url::to(&["executions", text(e, "id")]);
    let over: Vec<_> = [text(e, "source"), text(e, "name")].into_iter().filter(|word| !word.is_empty()).collect();
    h.leaf("p", &[("class", "over")], &over.join(" · "));
    h.leaf("h1", &[], title(e));
    h.el("p", &[("class", "lead")], |h| {
        badges(h, e);
        h.text(" ");
        let words = lasted(e, &whole.tasks, now).map_or(String::new(), |all| format!("{} · ", took(all.ms())));
        h.text(&format!("{words}{} · last word ", timeline::said(&whole.tasks)));
        h.ago(time(e, "changed_at"), now);
    });
    section(h, "tasks", "Tasks", |h| line_of_time(h, whole, now));
    section(h, "told", "Who was told", |h| {
        if whole.deliveries.is_empty() {
            h.leaf("p", &[("class", "none")], "Nobody: no route leads from it to a sink.");
        }
        for (row, attempts) in latest(h, &whole.deliveries, &all) {
            deliveries::entry(h, row, attempts.as_deref(), &back, now);
        }
    });
    section(h, "changes", "What changed", |h| {
        if let Some(without) = whole.changes.iter().rposition(|change| change["data"]["execution"].is_null()) {
            let word = format!("What the first {} held is left out of what is told at once", without + 1);
            h.leaf("p", &[("class", "none")], &format!("{word}: their receipts have it."));
        }
        let changed = latest(h, &whole.changes, &all);
        changes(h, changed);
    });
    section(h, "receipts", "What came in", |h| {
        let came = latest(h, &whole.receipts, &all);
        receipts::table(h, came, &back, now);
    });
    section(h, "facts", "What is known of it", |h| known(h, e));
}

/// The end of a list that may be long, and a word of what is left out.
fn latest<'r, T>(h: &mut Html, rows: &'r [T], all: &str) -> &'r [T] {
    let hidden = rows.len().saturating_sub(SHOWN);
    if hidden > 0 {
        h.el("p", &[("class", "none")], |h| {
            h.text(&format!("The latest {SHOWN}. All of them: "));
            h.leaf("code", &[], all);
        });
    }
    &rows[hidden..]
}

fn line_of_time(h: &mut Html, whole: &Whole, now: Time) {
    let (e, tasks) = (&whole.flat, &whole.tasks);
    let Some(all) = lasted(e, tasks, now) else {
        return h.leaf("p", &[("class", "none")], "Nothing is known of when it ran.");
    };
    let own = Lasted::of(["created_at", "started_at", "finished_at"].map(|name| time(e, name)), status(e), now);
    table(h, "Tasks", &["Task", "Status", "From start to end", "After", "Took"], |h| {
        let row = |h: &mut Html, name: &dyn Fn(&mut Html), status, lasted: Option<Lasted>| {
            h.el("tr", &[], |h| {
                h.el("td", &[("class", "what")], name);
                h.el("td", &[], |h| h.badge(&format!("{status}")));
                h.el("td", &[("class", "line-of-time")], |h| timeline::bars(h, all, &[(lasted, status)]));
                let after = lasted.map_or(NONE.to_owned(), |one| took(one.from.ms_since(all.from)));
                h.leaf("td", &[("class", "number")], &after);
                h.leaf("td", &[("class", "number")], &lasted.map_or(NONE.to_owned(), |one| took(one.ms())));
            });
        };
        row(h, &|h| h.leaf("b", &[], "The whole"), status(e), own);
        for task in tasks {
            let name = |h: &mut Html| {
                let name = [&task.name, &task.kind].into_iter().flatten().next().unwrap_or(&task.key);
                h.text(name);
                let kind = task.kind.as_ref().filter(|kind| *kind != name);
                let words: Vec<_> = kind.into_iter().chain([&task.key]).map(String::as_str).collect();
                h.leaf("small", &[], &words.join(" · "));
                if let Some(error) = &task.error {
                    h.leaf("small", &[("class", "error")], &words_of(error));
                }
            };
            row(h, &name, task.status, Lasted::of_task(task, now));
        }
    });
}

/// An error's code and text, or whatever it is.
fn words_of(error: &Value) -> String {
    let said: Vec<_> = ["code", "message"].iter().filter_map(|name| error[name].as_str()).collect();
    if said.is_empty() { error.to_string() } else { said.join(": ") }
}

fn changes(h: &mut Html, changes: &[Value]) {
    table(h, "Changes", &["No.", "Change", "Tasks", "Receipt", "When"], |h| {
        for change in changes {
            let meta = &change["data"]["change"];
            h.el("tr", &[], |h| {
                h.leaf("td", &[("class", "number")], &meta["sequence"].to_string());
                h.el("td", &[], |h| {
                    let kind = text(meta, "type");
                    h.text(kind.strip_prefix("callbackd.execution.").unwrap_or(kind));
                    if let Some(before) = meta["previous_status"].as_str() {
                        h.leaf("small", &[], &format!("was {before}"));
                    }
                });
                let tasks = meta["changed_tasks"].as_array().map(|all| several(all.len() as u64, "task"));
                h.leaf("td", &[], tasks.as_deref().unwrap_or(NONE));
                h.el("td", &[], |h| match meta["receipt"].as_str() {
                    Some(id) => h.link(&Url::to(&["receipts", id]), id),
                    None => h.text(NONE),
                });
                h.el("td", &[("class", "number")], |h| h.at(time(meta, "received_at")));
            });
        }
    });
}

fn known(h: &mut Html, e: &Value) {
    let fact =
        |name: &'static str| move |h: &mut Html| h.text(Some(text(e, name)).filter(|t| !t.is_empty()).unwrap_or(NONE));
    let moment = |name: &'static str| move |h: &mut Html| h.at(time(e, name));
    let links = |h: &mut Html| {
        let links = e["links"].as_array().map_or(&[][..], Vec::as_slice);
        for link in links {
            h.link(
                &Url::to(&["executions", text(link, "execution")]),
                &[text(link, "source"), text(link, "key")].join(" "),
            );
            h.text(" ");
        }
        if links.is_empty() {
            h.text(NONE);
        }
    };
    facts(
        h,
        &[
            ("Id", &fact("id")),
            ("Key", &fact("key")),
            ("Workflow", &fact("workflow")),
            ("Vendor’s status", &fact("vendor_status")),
            ("Created", &moment("created_at")),
            ("Started", &moment("started_at")),
            ("Finished", &moment("finished_at")),
            ("Linked with", &links),
        ],
    );
    for (name, title) in [("inputs", "Inputs"), ("attributes", "Attributes")] {
        let value = &e[name];
        if !value.is_null() && value.as_object().is_none_or(|all| !all.is_empty()) {
            h.el("details", &[("id", name)], |h| {
                h.leaf("summary", &[], title);
                let text = serde_json::to_string_pretty(value).unwrap_or_default();
                h.el("pre", &[("tabindex", "0")], |h| h.lines(super::bounded(&text)));
            });
        }
    }
}
