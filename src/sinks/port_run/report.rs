//! One try of one report: the plan's requests in their order, and what follows when Port says no.
//!
//! An entity that Port refuses does not hold up the run: it is reported, and then the delivery is a dead letter that
//! names the entity. Entities that come when the run is over are made all the same, without it.

use http::Method;
use serde_json::Value;

use super::api::{Fault, Refusal, Seen};
use super::plan::{Part, Plan, Progress, Step};
use super::run::{self, RunState};
use super::{PortRun, entity, lines};
use crate::model::{Delivery, ExecutionPart, Learned, Outcome, Status, Time, Update, WaitFor};

/// How often a run that waits for its approval is looked at: people approve.
const APPROVAL_MS: u64 = 60_000;

/// One try of one report.
pub(super) struct Report<'a> {
    sink: &'a PortRun,
    delivery: &'a Delivery,
    plan: Plan,
    progress: Progress,
    /// Port's word for the end of the run, where it has ended otherwise than by this try.
    over: Option<String>,
    /// Why some entities were not taken, each with its own reason.
    refused: Vec<String>,
    now: Time,
}

impl<'a> Report<'a> {
    pub(super) fn new(sink: &'a PortRun, delivery: &'a Delivery, plan: Plan, now: Time) -> Report<'a> {
        Report { sink, delivery, progress: Progress::of(delivery), plan, over: None, refused: Vec::new(), now }
    }

    /// Says what is left to be said.
    pub(super) async fn run(mut self, seen: &mut Seen) -> Outcome {
        let outcome = self.say(seen).await.unwrap_or_else(|early| early);
        self.with_notes(outcome)
    }

    async fn say(&mut self, seen: &mut Seen) -> Result<Outcome, Outcome> {
        if self.progress.ended {
            self.over = Some(String::new());
            self.make_entities(seen).await?;
            let note = "the run was reported before; its entities are made without it";
            return Ok(self.finish(Some(note.to_owned()), Vec::new()));
        }
        if self.in_doubt() {
            match self.look(seen).await {
                Ok(RunState::Open) => self.progress.unapproved = false,
                Ok(state) => return self.settle(state, seen).await,
                // Whether a node's run can be read is not documented, so that it cannot says nothing.
                Err(Fault::Missing { .. } | Fault::Refused(_)) if self.plan.run.is_node => {}
                Err(fault) => return Err(self.failed(fault)),
            }
        }
        let held_until = self.sink.api.scarce_until(self.now).filter(|_| self.plan.end.is_none());
        if held_until.is_none() {
            self.tell(self.plan.first.clone(), seen).await?;
            self.log(seen).await?;
        }
        self.make_entities(seen).await?;
        if let Some(word) = self.over.clone() {
            return Ok(self.over_as(&word));
        }
        self.tell(self.plan.last.clone(), seen).await?;
        if let Some(until) = held_until {
            self.hold(until);
        }
        let learned = self.plan.end.map_or(Vec::new(), |end| self.learned(end.status, end.word));
        Ok(self.finish(None, learned))
    }

    async fn tell(&mut self, steps: Vec<Step>, seen: &mut Seen) -> Result<(), Outcome> {
        for step in steps {
            if step.part == Part::Fields && self.progress.patched {
                continue;
            }
            self.call(&step.method, &step.path, &step.body, seen).await?;
            self.progress.patched |= step.part == Part::Fields;
        }
        Ok(())
    }

    /// Its own log lines, and those that were held back.
    async fn log(&mut self, seen: &mut Seen) -> Result<(), Outcome> {
        let run = self.plan.run.clone();
        let mut all = self.sink.held.of(&run);
        let mut held = all.len();
        all.extend(self.plan.lines.iter().skip(self.progress.lines).cloned());
        for some in lines::requests(&all) {
            self.call(&Method::POST, &run.logs(), &lines::body(&run, some), seen).await?;
            let of_held = some.len().min(held);
            self.sink.held.drop_first(&run, of_held);
            held -= of_held;
            self.progress.lines += some.len() - of_held;
        }
        Ok(())
    }

    /// Leaves what is left of its lines to the run's next report.
    fn hold(&mut self, until: Time) {
        let lines = &self.plan.lines[self.progress.lines.min(self.plan.lines.len())..];
        self.sink.held.hold(&self.plan.run, lines);
        if !(lines.is_empty() && self.plan.first.is_empty()) {
            self.plan.notes.push(format!("progress is held back: Port's rate limit is nearly used up until {until}"));
        }
    }

    /// The entities, once in a try: tied to the run while it takes that.
    async fn make_entities(&mut self, seen: &mut Seen) -> Result<(), Outcome> {
        let Some(entities) = self.sink.shape.entities.as_ref().filter(|_| !self.progress.entities) else {
            return Ok(());
        };
        let made = std::mem::take(&mut self.plan.made);
        self.refused.extend(made.refused);
        let mut looked = false;
        let tied = entities.calls(&made.entities, self.plan.run.ties());
        for (tied, untied) in tied.iter().zip(entities.calls(&made.entities, None)) {
            let is_tied = self.over.is_none() && !self.plan.run.is_node;
            let mut answered = self.send(if is_tied { tied } else { &untied }, seen).await?;
            if is_tied && !looked && !answered.is_whole() {
                looked = true;
                match self.look(seen).await {
                    Ok(RunState::Open) => {}
                    Ok(RunState::WaitingForApproval) => return Err(self.unapproved()),
                    Ok(RunState::Ended(word)) => {
                        self.over = Some(word);
                        answered = self.send(&untied, seen).await?;
                    }
                    Err(Fault::Refused(_)) if answered.forbidden => {
                        return Err(self.failed(Fault::Halt { reason: entity::reasons(&answered.reasons()) }));
                    }
                    Err(fault) => return Err(self.failed(fault)),
                }
            }
            self.refused.extend(answered.reasons());
        }
        self.progress.entities = self.refused.is_empty();
        Ok(())
    }

    async fn send(&self, call: &entity::Call<'_>, seen: &mut Seen) -> Result<entity::Answered, Outcome> {
        entity::send(&self.sink.api, call, self.now, seen).await.map_err(|fault| self.failed(fault))
    }

    /// Says one thing of the run. Where Port says no, the run tells whether that matters.
    async fn call(&mut self, method: &Method, path: &str, body: &Value, seen: &mut Seen) -> Result<(), Outcome> {
        match self.sink.api.call(method, path, Some(body), self.now, seen).await {
            Ok(_) => Ok(()),
            Err(Fault::Refused(refusal)) => Err(self.refused(refusal, seen).await),
            Err(fault) => Err(self.failed(fault)),
        }
    }

    /// Whether the final report may have arrived already: at an earlier try, whose fate is unknown, or with an earlier
    /// change. What waits for its approval looks, too, before it says anything.
    fn in_doubt(&self) -> bool {
        let ended_before = self.delivery.change.meta.previous_status.is_some_and(Status::is_finished);
        self.progress.unapproved || self.plan.end.is_some() && (self.delivery.attempts > 0 || ended_before)
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

    async fn refused(&mut self, refusal: Refusal, seen: &mut Seen) -> Outcome {
        if refusal.error.as_deref() == Some("run_synchronized_error") {
            self.over = Some(String::new());
            let note = "the run is synchronous: it ended with Port's call, and takes no reports".to_owned();
            return match self.make_entities(seen).await {
                Ok(()) => self.finish(Some(note), Vec::new()),
                Err(early) => early,
            };
        }
        match self.look(seen).await {
            Ok(RunState::Open) => Outcome::Reject { reason: refusal.reason },
            Ok(state) => self.settle(state, seen).await.unwrap_or_else(|early| early),
            Err(Fault::Refused(_)) if refusal.status == 403 => self.failed(Fault::Halt { reason: refusal.reason }),
            Err(Fault::Refused(_) | Fault::Missing { .. }) => Outcome::Reject { reason: refusal.reason },
            Err(fault) => self.failed(fault),
        }
    }

    /// The run takes no reports: its entities are made all the same.
    async fn settle(&mut self, state: RunState, seen: &mut Seen) -> Result<Outcome, Outcome> {
        let RunState::Ended(word) = state else { return Ok(self.unapproved()) };
        self.over = Some(word.clone());
        self.make_entities(seen).await?;
        Ok(self.over_as(&word))
    }

    fn unapproved(&mut self) -> Outcome {
        self.progress.unapproved = true;
        Outcome::Wait {
            wait_for: WaitFor::Peer(format!("run {} waits for approval", self.plan.run.as_str())),
            until: self.now.plus_ms(APPROVAL_MS),
            resume: self.progress.resume(),
            learned: Vec::new(),
        }
    }

    fn over_as(&mut self, word: &str) -> Outcome {
        // Nothing more can be said of it.
        self.sink.held.drop_first(&self.plan.run, usize::MAX);
        // A cancelled execution is reported as a failure: between our word and Port's, ours says more.
        let ours = self.plan.end.filter(|end| end.word == word);
        let note = match ours {
            Some(_) => format!("the run ended as {word} already: reported before"),
            None => format!("the run ended as {word} already, and takes no more reports"),
        };
        let status = ours.map(|end| end.status).or_else(|| run::status_of(word));
        let learned = status.map_or(Vec::new(), |status| self.learned(status, word));
        self.finish(Some(note), learned)
    }

    /// All was said. What Port refused of the entities is a dead letter; but first is kept what was learned.
    fn finish(&mut self, note: Option<String>, learned: Vec<Learned>) -> Outcome {
        if self.refused.is_empty() {
            return Outcome::Delivered { note, learned };
        }
        let reason = entity::reasons(&self.refused);
        if learned.is_empty() {
            return Outcome::Reject { reason };
        }
        self.progress.ended = true;
        let wait_for = WaitFor::Peer(format!("the run is over; once more without it: {reason}"));
        Outcome::Wait { wait_for, until: self.now, resume: self.progress.resume(), learned }
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
