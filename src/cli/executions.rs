//! `executions`: what the vendors ran, as far as they told us.

use std::io::{self, Write};

use clap::Subcommand;
use clap::builder::PossibleValuesParser;
use serde_json::Value;

use super::list::{Form, Selection, list};
use super::print::{age, cell, fields, json_line, section, when_json};
use super::reach::{Context, queries};
use super::{Failure, block_on, print};
use crate::clock;
use crate::model::Time;
use crate::store::Filter;

mod timeline;

#[derive(Debug, Subcommand)]
pub(super) enum Executions {
    /// The newest first
    List {
        /// Only these; may be repeated, or a list with commas. `overdue` is what is not finished in time, whatever its
        /// status
        #[arg(long, value_delimiter = ',', value_parser = PossibleValuesParser::new(Filter::EXECUTION_WORDS))]
        status: Vec<String>,
        #[command(flatten)]
        selection: Selection,
        #[command(flatten)]
        form: Form,
    },
    /// One of them, with its tasks, receipts, changes and deliveries
    Show {
        /// Its id, or the vendor's key
        #[arg(value_name = "ID|KEY")]
        id: String,
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
}

impl Executions {
    pub(super) fn run(self, context: &Context<'_>) -> Result<(), Failure> {
        let config = context.places()?;
        let queries = queries(&config, context.env)?;
        let now = clock::now();
        block_on(async {
            match self {
                Executions::List { status, selection, form } => {
                    let filter = selection.filter(&status, now);
                    let id = |row: &Value| row["id"].as_str()?.parse().ok();
                    list(&config, &form, filter, |f| queries.executions(f), id, HEADER, |e| row(e, now)).await
                }
                Executions::Show { id, json } => {
                    let found = queries.execution(id).await?;
                    let colours = print::colours(context.env);
                    print::stdout(|out| if json { json_line(out, &found) } else { show(out, &found, now, colours) })
                }
            }
        })
    }
}

/// Its status, with the mark.
fn status(e: &Value) -> String {
    let status = cell(&e["status"]);
    if e["overdue"] == true { format!("{status}, overdue") } else { status }
}

pub(super) const HEADER: [&str; 10] =
    ["id", "source", "key", "status", "name", "subject", "created", "started", "finished", "changed"];

/// A flat execution as a row. It was changed so long ago as the last callback that said something new of it.
pub(super) fn row(e: &Value, now: Time) -> [String; 10] {
    let time = |key: &str| e[key].as_str().and_then(Time::parse);
    [
        cell(&e["id"]),
        cell(&e["source"]),
        cell(&e["key"]),
        status(e),
        cell(&e["name"]),
        cell(&e["subject"]),
        when_json(&e["created_at"]),
        when_json(&e["started_at"]),
        when_json(&e["finished_at"]),
        age(time("changed_at"), now),
    ]
}

pub(super) const TASK_HEADER: [&str; 8] = ["key", "name", "type", "status", "created", "started", "finished", "error"];

pub(super) fn task_row(t: &Value) -> [String; 8] {
    let error = &t["error"];
    let said = [&error["code"], &error["message"]].map(cell);
    [
        cell(&t["key"]),
        cell(&t["name"]),
        cell(&t["type"]),
        cell(&t["status"]),
        when_json(&t["created_at"]),
        when_json(&t["started_at"]),
        when_json(&t["finished_at"]),
        if error.is_null() { cell(error) } else { said.join(" ") },
    ]
}

/// The members of an array, or nothing.
pub(super) fn members<'v>(of: &'v Value, key: &str) -> &'v [Value] {
    of[key].as_array().map_or(&[], Vec::as_slice)
}

fn show(out: &mut dyn Write, found: &Value, now: Time, colours: bool) -> io::Result<()> {
    let e = &found["execution"];
    let text = |key: &str| cell(&e[key]);
    let time = |key: &str| when_json(&e[key]);
    fields(
        out,
        &[
            ("id", text("id")),
            ("source", text("source")),
            ("key", text("key")),
            ("status", status(e)),
            ("vendor status", text("vendor_status")),
            ("name", text("name")),
            ("workflow", text("workflow")),
            ("subject", text("subject")),
            ("created", time("created_at")),
            ("started", time("started_at")),
            ("finished", time("finished_at")),
            ("inputs", text("inputs")),
            ("attributes", text("attributes")),
            ("links", text("links")),
        ],
    )?;
    timeline::write(out, found, now, colours)?;
    section(out, "Tasks", TASK_HEADER, members(found, "tasks").iter().map(task_row).collect())?;
    let receipts = members(found, "receipts").iter();
    let receipts = receipts.map(|r| {
        [cell(&r["id"]), cell(&r["status"]), when_json(&r["received_at"]), cell(&r["peer"]), cell(&r["reason"])]
    });
    section(out, "Receipts", ["id", "status", "received", "peer", "reason"], receipts.collect())?;
    let changes = members(found, "changes").iter().map(|c| {
        // What changed is what matters here, not the whole snapshot.
        let meta = &c["data"]["change"];
        [
            cell(&meta["sequence"]),
            cell(&meta["type"]),
            cell(&meta["previous_status"]),
            cell(&meta["changed_tasks"]),
            cell(&meta["receipt"]),
            when_json(&meta["received_at"]),
        ]
    });
    section(out, "Changes", ["no.", "type", "before", "tasks", "receipt", "received"], changes.collect())?;
    let without = members(found, "changes").iter().filter(|change| change["data"]["execution"].is_null()).count();
    if without > 0 {
        writeln!(out, "What the first {without} held is left out, for it is much: `receipts body` has what came.")?;
    }
    let deliveries = members(found, "deliveries").iter().map(|d| {
        [
            cell(&d["id"]),
            cell(&d["sink"]),
            cell(&d["status"]),
            cell(&d["type"]),
            cell(&d["attempts"]),
            when_json(&d["created_at"]),
            when_json(&d["due_at"]),
            when_json(&d["finished_at"]),
            cell(&d["reason"]),
        ]
    });
    let header = ["id", "sink", "status", "type", "attempts", "promised", "due", "finished", "reason"];
    section(out, "Deliveries", header, deliveries.collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_list_tells_when_each_changed_last_and_not_when_it_was_finished() {
        let finished = json!({"id": "7", "finished_at": "2026-11-21T10:31:07Z", "changed_at": "2026-11-21T10:32:00Z"});
        let row = row(&finished, Time::parse("2026-11-21T10:33:30Z").expect("a time"));
        assert_eq!((HEADER[9], row[9].as_str()), ("changed", "1m"));
        assert_eq!(row[8], "2026-11-21 10:31:07");
    }

    #[test]
    fn everything_known_of_an_execution_is_shown() {
        let found = json!({
            "execution": {
                "id": "7", "source": "media", "key": "r1", "status": "running", "overdue": true, "vendor_status": "Running",
                "name": null, "subject": "bucket/a\u{1b}[31m.mp4", "attributes": {"region": "ap-beijing"},
                "links": [], "started_at": "2026-11-21T10:31:07.250Z", "finished_at": null
            },
            "tasks": [{"key": "t1", "type": "Transcode", "status": "failed", "error": {"code": "E1", "message": "bad"}}],
            "receipts": [{"id": "3", "status": "accepted", "received_at": "2026-11-21T10:31:08Z", "peer": "::1"}],
            "changes": [
                {"id": "5", "data": {"execution": null, "tasks": null, "change": {
                    "sequence": 1, "type": "callbackd.execution.running", "changed_tasks": null, "receipt": "4"
                }}},
                {"id": "8", "data": {"execution": {}, "change": {
                    "sequence": 2, "type": "callbackd.execution.failed", "changed_tasks": ["t1"]
                }}},
            ],
            "deliveries": [{"id": "9", "sink": "portal", "status": "dead", "attempts": 4, "reason": "404"}],
        });
        let mut out = Vec::new();
        show(&mut out, &found, Time::from_seconds(1_795_257_080), false).expect("written");
        let out = String::from_utf8(out).expect("UTF-8");
        for part in [
            "key            r1\n",
            "status         running, overdue\n",
            "subject        bucket/a\\u{1b}[31m.mp4\n",
            "started        2026-11-21 10:31:07\n",
            "attributes     {\"region\":\"ap-beijing\"}\n",
            "E1 bad",
            "2026-11-21 10:31:08",
            "callbackd.execution.failed   -       t1",
            "callbackd.execution.running  -       -      4",
            "\nWhat the first 1 held is left out, for it is much: `receipts body` has what came.\n",
            "portal",
        ] {
            assert!(out.contains(part), "{part:?} is missing in\n{out}");
        }
        for absent in ["name ", "links", "\u{1b}"] {
            assert!(!out.split("\nTimeline").next().expect("fields").contains(absent), "{absent:?} is in\n{out}");
        }
    }
}
