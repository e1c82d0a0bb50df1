//! Executions in a list: each with its tasks on a line of time.

use serde_json::Value;

use super::html::{Html, Url, took};
use super::layout;
use super::timeline::{self, Lasted};
use crate::admin::{AdminState, pieces};
use crate::model::{Status, Task, Time};
use crate::store::{Filter, StoreError};

/// No more tasks are drawn in a list; their number is told all the same.
const BARS: usize = 24;

/// An execution, flat as the commands print it, with its tasks.
pub(super) struct Row {
    pub(super) flat: Value,
    pub(super) tasks: Vec<Task>,
}

/// The executions that a filter means; and where the next ones begin, if there are fewer than its limit only because they are
/// large or far between.
pub(super) async fn rows(state: &AdminState, filter: Filter) -> Result<(Vec<Row>, Option<i64>), StoreError> {
    let (flat, cut) = pieces::executions(&*state.store, filter).await?;
    let ids = flat.iter().map(|row| row["id"].as_str().and_then(|id| id.parse().ok()).unwrap_or_default()).collect();
    let tasks = state.store.tasks(ids).await?.into_iter().chain(std::iter::repeat_with(Vec::new));
    Ok((flat.into_iter().zip(tasks).map(|(flat, tasks)| Row { flat, tasks }).collect(), cut))
}

/// A member of a flat execution, as text.
pub(super) fn text<'v>(flat: &'v Value, name: &str) -> &'v str {
    flat[name].as_str().unwrap_or_default()
}

/// A time of a flat execution.
pub(super) fn time(flat: &Value, name: &str) -> Option<Time> {
    flat[name].as_str().and_then(Time::parse)
}

pub(super) fn status(flat: &Value) -> Status {
    text(flat, "status").parse().unwrap_or(Status::Unknown)
}

/// From its first to its last word, the tasks' included.
pub(super) fn lasted(flat: &Value, tasks: &[Task], now: Time) -> Option<Lasted> {
    let times = ["created_at", "started_at", "finished_at"].map(|name| time(flat, name));
    let own = Lasted::of(times, status(flat), now);
    Lasted::of_all(own.into_iter().chain(tasks.iter().filter_map(|task| Lasted::of_task(task, now))))
}

/// What it is called: its subject, else its name, else its key.
pub(super) fn title(flat: &Value) -> &str {
    ["subject", "name", "key"].map(|name| text(flat, name)).into_iter().find(|text| !text.is_empty()).unwrap_or("?")
}

/// Its status, and the mark of one that is late.
pub(super) fn badges(h: &mut Html, flat: &Value) {
    h.badge(text(flat, "status"));
    if flat["overdue"] == true {
        h.text(" ");
        h.badge("overdue");
    }
}

pub(super) fn table(h: &mut Html, rows: &[Row], now: Time) {
    if rows.is_empty() {
        return h.leaf("p", &[("class", "none")], "None.");
    }
    let head = ["Status", "What", "Source", "Tasks", "Took", "Last word"];
    layout::table(h, "Executions", &head, |h| rows.iter().for_each(|each| row(h, each, now)));
}

fn row(h: &mut Html, Row { flat, tasks }: &Row, now: Time) {
    let whole = lasted(flat, tasks, now);
    h.el("tr", &[], |h| {
        h.el("td", &[], |h| badges(h, flat));
        h.el("td", &[("class", "what")], |h| {
            h.link(&Url::to(&["executions", text(flat, "id")]), title(flat));
            let beside: Vec<_> =
                ["name", "key"].map(|name| text(flat, name)).into_iter().filter(|t| !t.is_empty()).collect();
            h.leaf("small", &[], &beside.join(" · "));
        });
        h.leaf("td", &[], text(flat, "source"));
        h.el("td", &[("class", "tasks")], |h| {
            let bars: Vec<_> = tasks.iter().take(BARS).map(|task| (Lasted::of_task(task, now), task.status)).collect();
            if let Some(whole) = whole.filter(|_| !bars.is_empty()) {
                timeline::bars(h, whole, &bars);
            }
            h.leaf("small", &[], &timeline::said(tasks));
        });
        h.leaf("td", &[("class", "number")], &whole.map_or(super::html::NONE.to_owned(), |whole| took(whole.ms())));
        h.el("td", &[("class", "number")], |h| h.ago(time(flat, "changed_at"), now));
    });
}
