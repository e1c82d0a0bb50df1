//! When what of an execution went on: a bar for each task, from its start to its end, as the page draws it.

use std::io::{self, Write};

use serde_json::Value;

use crate::cli::print::{cell, plain, span, when};
use crate::model::Time;

/// Columns of a bar.
const WIDTH: u64 = 40;
/// A name longer than this is cut.
const NAME_CHARS_MAX: usize = 28;

/// One bar: what was waited, and what was worked.
struct Bar {
    name: String,
    status: String,
    created: Option<Time>,
    started: Option<Time>,
    ended: Option<Time>,
}

impl Bar {
    fn of(value: &Value, name: String) -> Bar {
        let time = |key: &str| value[key].as_str().and_then(Time::parse);
        let status = value["status"].as_str().unwrap_or_default().to_owned();
        Bar { name, status, created: time("created_at"), started: time("started_at"), ended: time("finished_at") }
    }

    fn begin(&self) -> Option<Time> {
        [self.created, self.started, self.ended].into_iter().flatten().min()
    }

    /// Where it ends: where it still goes on, now.
    fn end(&self, now: Time) -> Option<Time> {
        let goes_on = matches!(&*self.status, "running" | "paused" | "pending");
        self.ended.or_else(|| if goes_on { self.begin().map(|_| now) } else { self.started.or(self.created) })
    }
}

/// Writes it, with colours where somebody sees them. An execution without any time has none.
pub(super) fn write(out: &mut dyn Write, found: &Value, now: Time, colours: bool) -> io::Result<()> {
    let mut bars = vec![Bar::of(&found["execution"], "execution".to_owned())];
    for task in super::members(found, "tasks") {
        let name = ["name", "type", "key"].into_iter().find_map(|key| task[key].as_str()).unwrap_or_default();
        bars.push(Bar::of(task, name.to_owned()));
    }
    let from = bars.iter().filter_map(Bar::begin).min();
    let to = bars.iter().filter_map(|bar| bar.end(now)).max();
    let (Some(from), Some(to)) = (from, to) else { return Ok(()) };
    writeln!(out, "\nTimeline  {} to {}, {}", when(Some(from)), when(Some(to)), span(to.ms_since(from)))?;
    let names: Vec<String> = bars.iter().map(|bar| cut(&plain(&bar.name))).collect();
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0);
    for (bar, name) in bars.iter().zip(names) {
        let scale = Scale { from, all: to.ms_since(from).max(1) };
        let (waited, worked, rest) = scale.columns(bar, now);
        let colour = colour(&bar.status).filter(|_| colours && !worked.is_empty());
        let worked = colour.map_or(worked.clone(), |code| format!("\x1b[{code}m{worked}\x1b[0m"));
        let took = match (bar.started.or(bar.created), bar.end(now)) {
            (Some(start), Some(end)) => span(end.ms_since(start)),
            _ => cell(&Value::Null),
        };
        writeln!(out, "  {name:width$}  {waited}{worked}{rest}  {:9}  {took}", plain(&bar.status))?;
    }
    Ok(())
}

fn cut(name: &str) -> String {
    match name.chars().count() > NAME_CHARS_MAX {
        true => name.chars().take(NAME_CHARS_MAX - 1).chain(['…']).collect(),
        false => name.to_owned(),
    }
}

/// The colours of statuses, as terminals number them. The word stands beside the bar in any case.
fn colour(status: &str) -> Option<u8> {
    Some(match status {
        "succeeded" => 32,
        "failed" => 31,
        "running" => 36,
        "paused" => 33,
        "unknown" => 35,
        _ => return None,
    })
}

struct Scale {
    from: Time,
    all: u64,
}

impl Scale {
    fn column(&self, at: Time) -> u64 {
        (u128::from(at.ms_since(self.from)) * u128::from(WIDTH) / u128::from(self.all)).min(WIDTH.into()) as u64
    }

    /// What stands before it, itself, and what fills the line: together always of one width.
    fn columns(&self, bar: &Bar, now: Time) -> (String, String, String) {
        let fill = |what: &str, n: u64| what.repeat(usize::try_from(n).unwrap_or(0));
        let (Some(begin), Some(end)) = (bar.begin(), bar.end(now)) else {
            return (String::new(), String::new(), fill(" ", WIDTH));
        };
        // What is too short to be seen is seen all the same.
        let start = self.column(bar.started.unwrap_or(begin)).min(WIDTH - 1);
        let end = self.column(end).max(start + 1);
        let begin = self.column(begin).min(start);
        (fill(" ", begin) + &fill(".", start - begin), fill("#", end - start), fill(" ", WIDTH - end))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(found: &Value, colours: bool) -> Vec<String> {
        let mut out = Vec::new();
        write(&mut out, found, Time::parse("2026-11-21T10:02:00Z").expect("a time"), colours).expect("written");
        String::from_utf8(out).expect("UTF-8").lines().map(str::to_owned).collect()
    }

    #[test]
    fn bars_stand_where_the_work_was() {
        let found = json!({
            "execution": {"status": "running", "created_at": "2026-11-21T10:00:00Z", "started_at": "2026-11-21T10:00:00Z"},
            "tasks": [
                {"key": "a", "type": "Snapshot", "status": "succeeded", "created_at": "2026-11-21T10:00:00Z",
                 "started_at": "2026-11-21T10:00:30Z", "finished_at": "2026-11-21T10:01:00Z"},
                {"key": "b", "name": "x\u{1b}[31m", "status": "failed", "finished_at": "2026-11-21T10:02:00Z"},
                {"key": "c", "status": "pending"},
                {"key": "d", "status": "running", "started_at": "2026-11-21T10:01:00Z"},
            ],
        });
        let seen = lines(&found, false);
        assert_eq!(seen[1], "Timeline  2026-11-21 10:00:00 to 2026-11-21 10:02:00, 2m 00s");
        let bar = |parts: &[(&str, usize)]| parts.iter().map(|(text, n)| text.repeat(*n)).collect::<String>();
        for (line, (name, drawn, status, took)) in seen[2..].iter().zip([
            ("execution", bar(&[("#", 40)]), "running", "2m 00s"),
            ("Snapshot", bar(&[(".", 10), ("#", 10), (" ", 20)]), "succeeded", "30 s"),
            ("x\\u{1b}[31m", bar(&[(" ", 39), ("#", 1)]), "failed", "-"),
            ("c", bar(&[(" ", 40)]), "pending", "-"),
            ("d", bar(&[(" ", 20), ("#", 20)]), "running", "1m 00s"),
        ]) {
            assert_eq!(*line, format!("  {name:11}  {drawn}  {status:9}  {took}"));
        }
        let coloured = lines(&found, true);
        assert!(coloured[3].contains(&format!("\u{1b}[32m{}\u{1b}[0m", "#".repeat(10))), "{coloured:?}");
        assert!(!coloured[5].contains('\u{1b}'), "nothing to colour");
    }

    #[test]
    fn one_instant_is_a_bar_and_no_time_is_no_timeline() {
        let at = "2026-11-21T10:00:00Z";
        let found = json!({"execution": {"status": "succeeded", "started_at": at, "finished_at": at}, "tasks": []});
        assert!(lines(&found, false)[2].contains('#'));
        assert!(lines(&json!({"execution": {"status": "running"}, "tasks": []}), false).is_empty());
    }
}
