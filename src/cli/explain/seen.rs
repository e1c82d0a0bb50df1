//! What `explain` found out, for people and for programs.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::cli::executions::{TASK_HEADER, members, task_row};
use crate::cli::print::{self, cell, plain};
use crate::sinks::Preview;

/// All of it.
#[derive(Serialize)]
pub(super) struct Seen<'a> {
    pub(super) sources: &'a [Reading],
}

/// The callback as one source takes it.
#[derive(Default, Serialize)]
pub(super) struct Reading {
    pub(super) source: String,
    pub(super) kind: String,
    pub(super) path: String,
    /// What vouches for it; empty when it would be refused.
    pub(super) verified: String,
    /// Why it would be refused, and with what.
    pub(super) refused: Option<String>,
    pub(super) refused_with: u16,
    /// What is to be said of its credential.
    pub(super) remarks: Vec<String>,
    /// Why it is not understood.
    pub(super) quarantined: Option<String>,
    /// What its sender would get then.
    pub(super) status: Option<u16>,
    /// Whether it would wait until its vendor confirms it.
    pub(super) held: bool,
    /// What is kept of its head.
    pub(super) headers: Map<String, Value>,
    /// What follows, in the body's order.
    pub(super) updates: Vec<Told>,
}

/// What follows from one update.
#[derive(Serialize)]
pub(super) struct Told {
    pub(super) key: String,
    pub(super) outcome: &'static str,
    pub(super) reason: Option<String>,
    /// The `data` of the normalized change.
    pub(super) change: Option<Value>,
    pub(super) routes: Vec<Route>,
    pub(super) links: Vec<Link>,
    pub(super) sinks: Vec<Asked>,
}

/// One route from this source.
#[derive(Serialize)]
pub(super) struct Route {
    /// Its position in the configuration.
    pub(super) route: usize,
    pub(super) when: Option<String>,
    pub(super) to: Vec<String>,
    pub(super) matches: bool,
    pub(super) fault: Option<String>,
}

/// One link rule of this source.
#[derive(Serialize)]
pub(super) struct Link {
    /// Its position in the configuration.
    pub(super) link: usize,
    pub(super) with: String,
    pub(super) known_by: Option<String>,
    pub(super) fault: Option<String>,
}

/// What one sink would do.
#[derive(Serialize)]
pub(super) struct Asked {
    pub(super) sink: String,
    pub(super) requests: Vec<Preview>,
}

impl Told {
    /// An outcome from which nothing follows.
    pub(super) fn nothing(key: &str, outcome: &'static str, reason: Option<String>) -> Told {
        let (routes, links, sinks) = (Vec::new(), Vec::new(), Vec::new());
        Told { key: key.to_owned(), outcome, reason, change: None, routes, links, sinks }
    }
}

/// For people: first the sources that understand it, then why the others do not.
pub(super) fn show(out: &mut dyn Write, read: &[Reading]) -> io::Result<()> {
    let understood = |r: &&Reading| r.quarantined.is_none() && !(r.refused.is_some() && r.updates.is_empty());
    for (i, reading) in read.iter().filter(understood).chain(read.iter().filter(|r| !understood(r))).enumerate() {
        if i > 0 {
            writeln!(out)?;
        }
        show_reading(out, reading)?;
    }
    Ok(())
}

fn show_reading(out: &mut dyn Write, reading: &Reading) -> io::Result<()> {
    let Reading { source, kind, path, .. } = reading;
    writeln!(out, "source {} ({kind}) at {}", plain(source), plain(path))?;
    match &reading.refused {
        Some(why) => writeln!(out, "  would be refused with {}: {}", reading.refused_with, plain(why))?,
        None => writeln!(out, "  verified: {}", reading.verified)?,
    }
    for remark in &reading.remarks {
        writeln!(out, "    {}", plain(remark))?;
    }
    if let Some(why) = &reading.quarantined {
        let status = reading.status.unwrap_or(200);
        return writeln!(out, "  would be kept as quarantined, answered {status}: {}", plain(why));
    }
    if reading.held {
        writeln!(out, "  would be held until its vendor confirms it; then:")?;
    }
    for told in &reading.updates {
        show_told(out, told)?;
    }
    Ok(())
}

fn show_told(out: &mut dyn Write, told: &Told) -> io::Result<()> {
    write!(out, "\n  execution {}: {}", plain(&told.key), told.outcome)?;
    let Some(data) = &told.change else {
        return match &told.reason {
            Some(why) => writeln!(out, ": {}", plain(why)),
            None => writeln!(out, ": it says nothing new"),
        };
    };
    let (execution, change) = (&data["execution"], &data["change"]);
    let before = change["previous_status"].as_str().unwrap_or("new");
    let (kind, now) = (cell(&change["type"]), cell(&execution["status"]));
    writeln!(out, ": {before} → {now}, change {} {}", cell(&change["sequence"]), plain(&kind))?;
    for key in ["name", "workflow", "subject", "vendor_status", "inputs", "attributes"] {
        if !execution[key].is_null() {
            writeln!(out, "    {key}: {}", plain(&cell(&execution[key])))?;
        }
    }
    let changed = |key: &Value| members(change, "changed_tasks").contains(key);
    let tasks: Vec<_> = members(data, "tasks").iter().filter(|t| changed(&t["key"])).map(task_row).collect();
    print::section(out, "  Tasks that are new or moved", TASK_HEADER, tasks)?;
    writeln!(out)?;
    for route in &told.routes {
        let condition = route.when.as_deref().map(|when| format!(" when {when}")).unwrap_or_default();
        let verdict = match (&route.fault, route.matches) {
            (Some(fault), _) => format!("fails, and leaves a dead letter: {fault}"),
            (None, true) => "matches".to_owned(),
            (None, false) => "does not match".to_owned(),
        };
        let line = format!("routes[{}] to {}{condition}: {verdict}", route.route, route.to.join(", "));
        writeln!(out, "  {}", plain(&line))?;
    }
    for link in &told.links {
        let found = match (&link.fault, &link.known_by) {
            (Some(fault), _) => format!("fails: {fault}"),
            (None, Some(text)) => format!("known by {text:?}"),
            (None, None) => "known by nothing, never linked".to_owned(),
        };
        writeln!(out, "  {}", plain(&format!("links[{}] with {}: {found}", link.link, link.with)))?;
    }
    if told.sinks.is_empty() {
        writeln!(out, "  nobody would be told")?;
    }
    for asked in &told.sinks {
        writeln!(out, "\n  sink {}", plain(&asked.sink))?;
        if asked.requests.is_empty() {
            writeln!(out, "    nothing to send")?;
        }
        for request in &asked.requests {
            writeln!(out, "    {}", plain(&request.action))?;
            for line in request.body.lines() {
                writeln!(out, "      {}", plain(line))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn reading(source: &str) -> Reading {
        Reading { source: source.to_owned(), kind: "k".to_owned(), path: "/p".to_owned(), ..Reading::default() }
    }

    #[test]
    fn the_source_that_understands_it_comes_first_and_nothing_is_left_out() {
        let mut told = Told::nothing("r1", "accepted", None);
        told.change = Some(json!({
            "execution": {"status": "failed", "subject": "b/\u{1b}[2J.mp4", "name": null},
            "tasks": [{"key": "t1", "status": "failed"}, {"key": "t2", "status": "running"}],
            "change": {"type": "callbackd.execution.failed", "sequence": 3, "previous_status": "running",
                       "changed_tasks": ["t1"]},
        }));
        let routed = |route, matches, fault: Option<&str>| Route {
            route,
            when: Some(".a".to_owned()),
            to: vec!["hook".to_owned()],
            matches,
            fault: fault.map(ToOwned::to_owned),
        };
        told.routes = vec![routed(0, true, None), routed(1, false, None), routed(2, false, Some("no a"))];
        told.links.push(Link { link: 0, with: "portal".into(), known_by: Some("b/a".into()), fault: None });
        let request = Preview { action: "POST http://a/".to_owned(), body: "{}\n".to_owned() };
        told.sinks.push(Asked { sink: "hook".to_owned(), requests: vec![request] });
        let quarantined = Reading {
            quarantined: Some("not JSON".into()),
            status: Some(422),
            verified: "v".into(),
            ..reading("portal")
        };
        let refused = Reading {
            refused: Some("stale".into()),
            refused_with: 401,
            remarks: vec!["x-t: 9 s old".into()],
            held: true,
            updates: vec![told, Told::nothing("r2", "conflict", Some("it is failed".into()))],
            ..reading("media")
        };
        let mut out = Vec::new();
        show(&mut out, &[quarantined, refused]).expect("written");
        let out = String::from_utf8(out).expect("UTF-8");
        let parts = [
            "source media (k) at /p\n  would be refused with 401: stale\n    x-t: 9 s old\n",
            "would be held until its vendor confirms it; then:\n",
            "execution r1: accepted: running → failed, change 3 callbackd.execution.failed\n",
            "subject: b/\\u{1b}[2J.mp4\n",
            "\nt1 ",
            "routes[0] to hook when .a: matches\n",
            "routes[1] to hook when .a: does not match\n",
            "routes[2] to hook when .a: fails, and leaves a dead letter: no a\n",
            "links[0] with portal: known by \"b/a\"\n",
            "sink hook\n    POST http://a/\n      {}\n",
            "execution r2: conflict: it is failed\n",
            "source portal (k) at /p\n  verified: v\n  would be kept as quarantined, answered 422: not JSON\n",
        ];
        let mut rest = out.as_str();
        for part in parts {
            let at = rest.find(part).unwrap_or_else(|| panic!("{part:?} is missing or out of place in\n{out}"));
            rest = &rest[at + part.len()..];
        }
        assert!(!out.contains("t2"), "what did not change is not shown:\n{out}");
    }
}
