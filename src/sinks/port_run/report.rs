//! One try of one report: the plan's requests in their order, and what follows when Port says no.

use http::Method;

use super::PortRun;
use super::api::{Fault, Refusal, Seen};
use super::plan::{Plan, Progress};
use super::run::{self, RunState};
use crate::model::{Delivery, ExecutionPart, Learned, Outcome, Status, Time, Update};

/// One try of one report.
pub(super) struct Report<'a> {
    sink: &'a PortRun,
    delivery: &'a Delivery,
    plan: Plan,
    progress: Progress,
    now: Time,
}

impl<'a> Report<'a> {
    pub(super) fn new(sink: &'a PortRun, delivery: &'a Delivery, plan: Plan, now: Time) -> Report<'a> {
        Report { sink, delivery, progress: Progress::of(delivery), plan, now }
    }

    /// Says what is left to be said.
    pub(super) async fn run(mut self, seen: &mut Seen) -> Outcome {
        let outcome = self.say(seen).await;
        self.with_notes(outcome)
    }

    async fn say(&mut self, seen: &mut Seen) -> Outcome {
        if self.in_doubt() {
            match self.look(seen).await {
                Ok(RunState::Open) => {}
                Ok(state) => return self.settled(&state),
                // Whether a node's run can be read is not documented, so that it cannot says nothing.
                Err(Fault::Missing { .. } | Fault::Refused(_)) if self.plan.run.is_node => {}
                Err(fault) => return self.failed(fault),
            }
        }
        let todo: Vec<_> = self.progress.rest(&self.plan.steps).cloned().collect();
        for step in todo {
            match self.sink.api.call(&step.method, &step.path, Some(&step.body), self.now, seen).await {
                Ok(_) => self.progress.took(&step),
                Err(Fault::Refused(refusal)) => return self.refused(refusal, seen).await,
                Err(fault) => return self.failed(fault),
            }
        }
        let learned = self.plan.end.map_or(Vec::new(), |end| self.learned(end.status, end.word));
        Outcome::Delivered { note: None, learned }
    }

    /// Whether the final report may have arrived already: at an earlier try, whose fate is unknown, or with an earlier
    /// change.
    fn in_doubt(&self) -> bool {
        let ended_before = self.delivery.change.meta.previous_status.is_some_and(Status::is_finished);
        self.plan.end.is_some() && (self.delivery.attempts > 0 || ended_before)
    }

    async fn look(&self, seen: &mut Seen) -> Result<RunState, Fault> {
        // v2 has the documented shape; both have the status.
        let version = if self.plan.run.is_node { "" } else { "?version=v2" };
        let path = format!("{}{version}", self.plan.run.path());
        let answer = self.sink.api.call(&Method::GET, &path, None, self.now, seen).await?;
        if answer.is_null() {
            let reason = "the run cannot be read: the answer is empty or too large".to_owned();
            return Err(Fault::Retry { after_ms: None, reason });
        }
        Ok(RunState::read(&answer))
    }

    /// Port said no: the run tells whether that matters.
    async fn refused(&self, refusal: Refusal, seen: &mut Seen) -> Outcome {
        if refusal.error.as_deref() == Some("run_synchronized_error") {
            let note = "the run is synchronous: it ended with Port's call, and takes no reports".to_owned();
            return Outcome::Delivered { note: Some(note), learned: Vec::new() };
        }
        match self.look(seen).await {
            Ok(RunState::Open) => Outcome::Reject { reason: refusal.reason },
            Ok(state) => self.settled(&state),
            Err(Fault::Refused(_)) if refusal.status == 403 => {
                Outcome::Halt { reason: refusal.reason, resume: self.progress.resume() }
            }
            Err(Fault::Refused(_) | Fault::Missing { .. }) => Outcome::Reject { reason: refusal.reason },
            Err(fault) => self.failed(fault),
        }
    }

    fn settled(&self, state: &RunState) -> Outcome {
        let RunState::Ended(word) = state else {
            let reason = format!("run {} waits for approval", self.plan.run.as_str());
            return Outcome::Retry { after_ms: None, reason, resume: self.progress.resume() };
        };
        // A cancelled execution is reported as a failure: between our word and Port's, ours says more.
        let ours = self.plan.end.filter(|end| end.word == word);
        let note = match ours {
            Some(_) => format!("the run ended as {word} already: reported before"),
            None => format!("the run ended as {word} already, and takes no more reports"),
        };
        let status = ours.map(|end| end.status).or_else(|| run::status_of(word));
        let learned = status.map_or(Vec::new(), |status| self.learned(status, word));
        Outcome::Delivered { note: Some(note), learned }
    }

    fn failed(&self, fault: Fault) -> Outcome {
        match fault {
            Fault::Retry { after_ms, reason } => Outcome::Retry { after_ms, reason, resume: self.progress.resume() },
            Fault::Halt { reason } => Outcome::Halt { reason, resume: self.progress.resume() },
            Fault::Missing { reason } => {
                Outcome::Reject { reason: format!("Port knows no run {}: {reason}", self.plan.run.as_str()) }
            }
            Fault::Refused(refusal) => Outcome::Reject { reason: refusal.reason },
        }
    }

    /// The run has ended: so has its own execution, if it is one of ours.
    fn learned(&self, status: Status, word: &str) -> Vec<Learned> {
        let finished_at = self.delivery.change.state.execution.finished_at.unwrap_or(self.now);
        let update = Update {
            key: self.plan.run.as_str().to_owned(),
            identity: Some(format!("reported/{status}")),
            execution: ExecutionPart {
                status: Some(status),
                vendor_status: Some(word.to_owned()),
                finished_at: Some(finished_at),
                ..ExecutionPart::default()
            },
            tasks: Vec::new(),
            known_only: true,
        };
        let of = |source: &String| Learned { source: source.clone(), update: update.clone(), linked: false };
        self.sink.sources.iter().map(of).collect()
    }

    fn with_notes(&self, outcome: Outcome) -> Outcome {
        match outcome {
            Outcome::Delivered { note, learned } => {
                let notes: Vec<_> = note.into_iter().chain(self.plan.notes.iter().cloned()).collect();
                Outcome::Delivered { note: (!notes.is_empty()).then(|| notes.join("; ")), learned }
            }
            other => other,
        }
    }
}
