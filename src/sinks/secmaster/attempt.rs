//! One try of one delivery: a workflow instance is started, or looked at.

use super::api::{Seen, Turn};
use super::instance::{self, Followed, Shown};
use super::said::Fault;
use super::{Following, Secmaster};
use crate::model::{Delivery, Learned, Outcome, Time, Update, WaitFor};

/// A first try follows its promise at once. One that comes later may not be the first: a daemon that is killed leaves
/// no trace of the try that it was at.
const LATE_MS: u64 = 1_000;
/// A started instance may take so long to be seen.
const UNSEEN_MS_MAX: u64 = 300_000;
/// An instance that runs for long is looked at after so much of the time that it runs already.
const PATIENCE: u64 = 10;

/// One try.
pub(super) struct Attempt<'a> {
    pub(super) sink: &'a Secmaster,
    pub(super) delivery: &'a Delivery,
    pub(super) turn: Turn,
    pub(super) seen: Seen,
}

impl Attempt<'_> {
    pub(super) async fn run(&mut self) -> Outcome {
        let id = instance::id_of(self.delivery);
        if let Some(followed) = Followed::of(self.delivery).or_else(|| self.linked(&id)) {
            return match self.sink.follow {
                Some(follow) => self.follow(follow, followed).await,
                None => self.give_up(&followed, "was started, and `follow` is off now"),
            };
        }
        let start = match self.sink.start(self.delivery, &id) {
            Ok(start) => start,
            Err(reason) => return Outcome::Reject { reason },
        };
        if self.in_doubt() {
            match self.look(&id).await {
                Ok(Some(shown)) => return self.started(&id, Some(shown)),
                // Whether SecMaster keeps to our ids is its own affair, and a user may start what it may not see.
                Ok(None) | Err(Fault::Missing { .. } | Fault::Refused { .. } | Fault::Forbidden { .. }) => {}
                Err(fault) => return failed(fault, None),
            }
        }
        match self.sink.api.call(&start, self.turn, &mut self.seen).await {
            Ok(answer) => self.started(&instance::echoed(&answer, &id), None),
            Err(fault) => failed(fault, None),
        }
    }

    fn now(&self) -> Time {
        self.turn.now
    }

    /// Whether an earlier try may have started the instance.
    fn in_doubt(&self) -> bool {
        self.delivery.attempts > 0 || self.now().ms_since(self.delivery.created_at) > LATE_MS
    }

    /// An instance that this delivery started once, and was given up on.
    fn linked(&self, id: &str) -> Option<Followed> {
        let is_ours = |link: &&crate::model::Link| link.source == self.sink.name && link.key == id;
        self.delivery.change.links.iter().find(is_ours)?;
        Some(Followed { instance: id.to_owned(), since: self.delivery.created_at, word: String::new() })
    }

    async fn look(&mut self, instance: &str) -> Result<Option<Shown>, Fault> {
        let answer = self.sink.api.call(&self.sink.show(instance), self.turn, &mut self.seen).await?;
        Ok(Shown::read(&answer))
    }

    /// The instance is there: by this try, or by an earlier one that was `shown`.
    fn started(&self, id: &str, shown: Option<Shown>) -> Outcome {
        let Some(follow) = self.sink.follow else {
            let how = if shown.is_some() { "was started before" } else { "is started" };
            let request = self.seen.request_id.as_ref().filter(|_| shown.is_none());
            let request = request.map_or(String::new(), |request| format!("; request {request}"));
            let note = Some(format!("workflow instance {id} {how}{request}"));
            return Outcome::Delivered { note, learned: Vec::new() };
        };
        let begun = instance::begun(id, &self.sink.workflow_id, self.delivery, &self.seen, self.now());
        let followed = Followed { instance: id.to_owned(), since: self.now(), word: "RUNNING".to_owned() };
        let mut outcome = match shown {
            Some(shown) => self.went_on(follow, followed, &shown),
            None => self.wait(follow, &followed, "RUNNING", Vec::new()),
        };
        if let Outcome::Wait { learned, .. } | Outcome::Delivered { learned, .. } = &mut outcome {
            learned.insert(0, self.learned(begun));
        }
        outcome
    }

    async fn follow(&mut self, follow: Following, followed: Followed) -> Outcome {
        match self.look(&followed.instance).await {
            Ok(Some(shown)) => self.went_on(follow, followed, &shown),
            Ok(None) => self.unseen(follow, &followed, "the answer is no instance", u64::MAX),
            Err(Fault::Refused { reason }) => self.unseen(follow, &followed, &reason, u64::MAX),
            Err(Fault::Missing { reason }) => self.unseen(follow, &followed, &reason, UNSEEN_MS_MAX),
            Err(fault) => failed(fault, followed.resume()),
        }
    }

    fn went_on(&self, follow: Following, followed: Followed, shown: &Shown) -> Outcome {
        let update = shown.update(&followed.instance, self.now());
        if shown.status().is_finished() {
            let note = Some(format!("workflow instance {} is {}", followed.instance, shown.word));
            return Outcome::Delivered { note, learned: vec![self.learned(update)] };
        }
        let is_news = shown.word != followed.word;
        let followed = Followed { word: shown.word.clone(), ..followed };
        if self.now() >= followed.since.plus_ms(follow.within.ms()) {
            return self.give_up(&followed, &format!("is still {} after {}", shown.word, follow.within));
        }
        let learned = if is_news { vec![self.learned(update)] } else { Vec::new() };
        self.wait(follow, &followed, &shown.word, learned)
    }

    /// The instance was not shown: for so long that is waited for.
    fn unseen(&self, follow: Following, followed: &Followed, reason: &str, patience_ms: u64) -> Outcome {
        if self.now() < followed.since.plus_ms(patience_ms.min(follow.within.ms())) {
            return self.wait(follow, followed, &format!("not to be seen: {reason}"), Vec::new());
        }
        self.give_up(followed, &format!("was started, and cannot be followed: {reason}"))
    }

    fn wait(&self, follow: Following, followed: &Followed, standing: &str, learned: Vec<Learned>) -> Outcome {
        let running_ms = self.now().ms_since(followed.since);
        let left_ms = follow.within.ms().saturating_sub(running_ms).max(1);
        let pause_ms = follow.every.ms().max(running_ms / PATIENCE).min(left_ms);
        Outcome::Wait {
            wait_for: WaitFor::Peer(format!("workflow instance {} is {standing}", followed.instance)),
            until: self.now().plus_ms(pause_ms),
            resume: followed.resume(),
            learned,
        }
    }

    /// What was to be started is started, so this is no failure; but how it ends is not known.
    fn give_up(&self, followed: &Followed, why: &str) -> Outcome {
        let note = Some(format!("workflow instance {} {why}; it is followed no longer", followed.instance));
        Outcome::Delivered { note, learned: vec![self.learned(instance::lost(followed))] }
    }

    fn learned(&self, update: Update) -> Learned {
        Learned { source: self.sink.name.clone(), update, linked: true }
    }
}

fn failed(fault: Fault, resume: Option<serde_json::Value>) -> Outcome {
    match fault {
        Fault::Retry { after_ms, reason } => Outcome::Retry { after_ms, reason, resume },
        Fault::Halt { reason } | Fault::Forbidden { reason } => Outcome::Halt { reason, resume },
        Fault::Missing { reason } | Fault::Refused { reason } => Outcome::Reject { reason },
    }
}
