//! `sinks test`: tells one sink one made-up change, where its peer takes it without harm, and shows what was sent and what
//! came of it. It needs the configuration alone: nothing is stored, and no daemon is asked.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::{Value, json};

use super::super::print::{self, fields, json_line, or_none};
use super::super::reach::Context;
use super::super::{Failure, block_on};
use super::{One, known};
use crate::clock;
use crate::config::Config;
use crate::model::{Change, ChangeMeta, Delivery, Outcome, State, Status, Time, Update, WaitFor};
use crate::options::Fault;
use crate::sinks::{self, Preview, Sink, Tried};

/// The type of the change, and the name of its workflow and subject: whoever meets it knows what it is.
const MARK: &str = "callbackd.test";

#[derive(Args, Debug)]
pub(in crate::cli) struct Trial {
    #[command(flatten)]
    sink: One,
    /// As one JSON object
    #[arg(long)]
    json: bool,
}

/// What was tried, and what came of it.
struct Report {
    delivery: Option<i64>,
    sent: Vec<Preview>,
    outcome: &'static str,
    status: Option<u16>,
    reason: Option<String>,
    answer: Option<String>,
    took: Duration,
}

impl Trial {
    pub(in crate::cli) fn run(&self, context: &Context<'_>, config: &Config) -> Result<(), Failure> {
        let name = &self.sink.name;
        known("sink", Some(name), &config.sinks.iter().map(|s| s.name.as_str()).collect::<Vec<_>>())?;
        let entry = config.sinks.iter().find(|s| s.name == *name);
        let kind = entry.and_then(|entry| sinks::KINDS.iter().find(|kind| kind.name == entry.kind));
        let (Some(entry), Some(kind)) = (entry, kind) else {
            return Err(Failure::Failed(format!("sinks.{name} has no kind")));
        };
        // Of all secrets only this sink's are needed.
        let sink = config
            .of_sink(entry, context.env, |section, build| -> Result<_, Vec<Fault>> { (kind.build)(section, build) })?;
        let report = block_on(async { Ok(report(&*sink, &config.instance(), entry.common.timeout.0).await) })?;
        print::stdout(|out| match self.json {
            true => json_line(out, &report.as_json(name)),
            false => report.show(out, name, &entry.kind),
        })?;
        if report.outcome == "delivered" || report.outcome == "probed" { Ok(()) } else { Err(Failure::Told) }
    }
}

async fn report(sink: &dyn Sink, instance: &str, timeout: Duration) -> Report {
    let (now, begun) = (clock::now(), Instant::now());
    let nothing = Report {
        delivery: None,
        sent: Vec::new(),
        outcome: "retry",
        status: None,
        reason: Some(format!("no answer within {} s", timeout.as_secs_f64())),
        answer: None,
        took: timeout,
    };
    let Some(status) = sink.harmless() else {
        return match tokio::time::timeout(timeout, sink.probe()).await {
            Ok(Ok(found)) => Report { outcome: "probed", reason: Some(found), took: begun.elapsed(), ..nothing },
            Ok(Err(why)) => Report { outcome: "failed", reason: Some(why), took: begun.elapsed(), ..nothing },
            Err(_) => Report { outcome: "failed", ..nothing },
        };
    };
    let delivery = made_up(status, instance, now);
    let sent = sink.preview(&delivery, now);
    let nothing = Report { delivery: Some(delivery.id), sent, ..nothing };
    match tokio::time::timeout(timeout, sink.deliver(&delivery, now)).await {
        Ok(Tried { outcome, status, answer }) => {
            let (outcome, reason) = words(outcome.legible());
            Report { outcome, status, reason, answer, took: begun.elapsed(), ..nothing }
        }
        Err(_) => nothing,
    }
}

fn words(outcome: Outcome) -> (&'static str, Option<String>) {
    match outcome {
        Outcome::Delivered { note, .. } => ("delivered", note),
        Outcome::Retry { reason, .. } => ("retry", Some(reason)),
        Outcome::Wait { wait_for: WaitFor::Link, .. } => ("wait", Some("waits for a link".to_owned())),
        Outcome::Wait { wait_for: WaitFor::Peer(what), .. } => ("wait", Some(what)),
        Outcome::Halt { reason, .. } => ("halt", Some(reason)),
        Outcome::Reject { reason } => ("reject", Some(reason)),
        Outcome::Discard { reason } => ("discard", Some(reason)),
    }
}

/// A delivery of a change that nobody's callback made.
fn made_up(status: Status, instance: &str, now: Time) -> Delivery {
    let id = now.micros();
    let mut update = Update { key: format!("{MARK}-{id}"), ..Update::default() };
    let execution = &mut update.execution;
    for text in [&mut execution.name, &mut execution.workflow, &mut execution.subject] {
        *text = Some(MARK.to_owned());
    }
    execution.status = Some(status);
    for time in [&mut execution.created_at, &mut execution.started_at] {
        *time = Some(now);
    }
    execution.finished_at = status.is_finished().then_some(now);
    execution.inputs = Some(json!({ "test": true, "instance": instance }));
    let meta = ChangeMeta {
        kind: MARK.to_owned(),
        sequence: 1,
        previous_status: None,
        changed_tasks: Vec::new(),
        overdue: false,
        receipt: None,
        received_at: now,
    };
    let state: State = State::begin(MARK, update).state;
    let change = Change { id, execution_id: id, state, links: Vec::new(), meta };
    Delivery { id, change: change.into(), attempts: 0, created_at: now, resume: None }
}

impl Report {
    fn as_json(&self, name: &str) -> Value {
        json!({
            "sink": name, "delivery": self.delivery.map(|id| id.to_string()), "sent": self.sent, "outcome": self.outcome,
            "status": self.status, "reason": self.reason, "answer": self.answer,
            "duration_ms": u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX),
        })
    }

    fn show(&self, out: &mut dyn Write, name: &str, kind: &str) -> io::Result<()> {
        if self.delivery.is_none() {
            writeln!(
                out,
                "sinks.{name}: to {kind} every change is real: it would start, report or open something. So only its \
                 credentials are tried."
            )?;
        }
        for sent in &self.sent {
            writeln!(out, "{}\n  {}\n", print::plain(&sent.action), print::plain(&sent.body))?;
        }
        let took = print::span(u64::try_from(self.took.as_millis()).unwrap_or(u64::MAX));
        fields(
            out,
            &[
                ("sink", name.to_owned()),
                ("delivery", or_none(self.delivery)),
                ("outcome", self.outcome.to_owned()),
                ("status", or_none(self.status)),
                ("reason", or_none(self.reason.as_ref())),
                ("answer", or_none(self.answer.as_ref())),
                ("took", took),
            ],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_made_up_says_so_wherever_it_is_seen() {
        let delivery = made_up(Status::Succeeded, "edge", Time::from_seconds(1_700_000_000));
        let seen = json!(*delivery.change);
        assert_eq!(seen["change"]["type"], MARK);
        for key in ["source", "name", "workflow", "subject"] {
            assert_eq!(seen["execution"][key], MARK, "{key}");
        }
        assert!(seen["execution"]["key"].as_str().is_some_and(|key| key.starts_with(MARK)));
        assert_eq!(seen["execution"]["finished_at"], "2023-11-14T22:13:20Z");
    }
}
