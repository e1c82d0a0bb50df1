//! Asking vendors what is true: before a callback is believed (`confirm`), and of what is not finished in time
//! (`expect_within`).
//!
//! Each source that can be asked, or that expects anything, has its own inquirer, beside the forwarders and like them:
//! it claims from the store what is due, is woken by commits, registers for the wake-up *before* it looks, and looks
//! again from time to time. It alone retries, waits and counts; a source asks once.
//!
//! Promises: a callback that its vendor does not confirm is never recorded, and never lost; one answer decides all that
//! is held of an execution, however often it was repeated; a vendor that does not answer is asked for as long as it
//! takes, and one that refuses the credential now and then by a single question, until it is let in. However many
//! executions one body names, it takes no more questions than there is time for, and none after one is not confirmed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;

use super::Wake;
use super::breaker::Breaker;
use super::course::Course;
use super::ingest::Intake;
use crate::clock;
use crate::measure::Confirmation;
use crate::model::words::reason;
use crate::model::{Agreement, Next, ReceiptStatus, Rules, Time, Update};
use crate::shutdown::Shutdown;
use crate::sources::{Answer, Asked};
use crate::store::{Filter, Held, Inquiries, Inquiry, Late, Lateness, ReceiptRow, Ruling, Store, StoreError, UNASKED};

mod pace;

pub use pace::Pace;
use pace::{again, spread};

/// Asks the vendor of one source until it is told to stop.
pub struct Inquirer {
    /// The source.
    pub intake: Arc<Intake>,
    /// Where inquiries are claimed and settled.
    pub store: Arc<dyn Store>,
    /// For what is confirmed, and for what is overdue.
    pub rules: Arc<Rules>,
    /// Wakes this inquirer, and forwarders.
    pub wake: Wake,
    /// How it asks.
    pub pace: Pace,
}

/// A wake-up may be lost only through a fault of ours; and what is due soonest may have come in since the last look.
const POLL: Duration = Duration::from_secs(5);
/// A store that cannot be asked is asked again after this.
const STORE_PAUSE: Duration = Duration::from_secs(1);

impl Inquirer {
    /// Whether there is anything to do for this source.
    pub fn is_needed(intake: &Intake, rules: &Rules) -> bool {
        intake.source.inquire().is_some() || rules.expects(&intake.name)
    }

    /// Runs until `stop`, then waits for the questions under way.
    pub async fn run(self: Arc<Self>, stop: Shutdown) {
        let woken = self.wake.of_source(&self.intake.name);
        let is_askable = self.intake.source.inquire().is_some();
        let mut breaker = Breaker::new(self.pace.breaker_failures, self.pace.breaker_probe);
        let mut under_way: JoinSet<Report> = JoinSet::new();
        let mut course = Course::begin(clock::now(), clock::steady());
        self.set_back(None).await;
        while !stop.is_begun() {
            let mut wake_up = std::pin::pin!(woken.notified());
            wake_up.as_mut().enable();
            course.look(clock::now(), clock::steady());
            if let Some(by_ms) = course.take_back_ms() {
                breaker.set_back(by_ms);
                self.set_back(Some(by_ms)).await;
            }
            let now = clock::now();
            let free = self.pace.concurrency.saturating_sub(under_way.len());
            // What is late is looked at even when nobody can be asked.
            let (limit, asks) = match breaker.allows(now, under_way.is_empty()) {
                None => (free, is_askable),
                Some(true) => (free.min(1), is_askable),
                Some(false) => (free, false),
            };
            let mut pause = POLL;
            if limit > 0 {
                match self.claim(limit, asks, now).await {
                    Ok(claimed) => {
                        if let Some(due) = claimed.next_due {
                            pause = pause.min(Duration::from_millis(due.ms_since(now).max(1)));
                        }
                        for inquiry in claimed.due {
                            under_way.spawn(Arc::clone(&self).serve(inquiry, asks, stop.clone()));
                        }
                    }
                    Err(e) => {
                        tracing::warn!(source.name = %self.intake.name, error = %e, "nothing can be claimed to ask about");
                        pause = STORE_PAUSE;
                    }
                }
            }
            if let Some(until_probe) = breaker.pause(now, under_way.is_empty()) {
                pause = pause.min(until_probe);
            }
            tokio::select! {
                () = &mut wake_up => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.begun() => {}
                Some(done) = under_way.join_next(), if !under_way.is_empty() => {
                    self.note(&mut breaker, done, &stop).await;
                    while let Some(done) = under_way.try_join_next() {
                        self.note(&mut breaker, done, &stop).await;
                    }
                }
            }
        }
        // After a reload another one serves this source: a wake-up that came to this one meant that one, and so does what is to be asked again
        // that this one leaves behind.
        woken.notify_one();
        while under_way.join_next().await.is_some() {
            woken.notify_one();
        }
    }

    /// What is to be asked is not to wait longer because the clock was set back.
    async fn set_back(&self, by_ms: Option<u64>) {
        let source = self.intake.name.to_string();
        if let Err(e) = self.store.set_back_inquiries(source, by_ms, clock::now()).await {
            tracing::warn!(source.name = %self.intake.name, error = %e, "should the clock have been set back, questions wait longer");
        }
    }

    async fn claim(&self, limit: usize, asks: bool, now: Time) -> Result<Inquiries, StoreError> {
        // The last question may begin when the time for all is over.
        let lease_ms = (self.pace.patience + self.pace.timeout).as_millis() as u64 + 60_000;
        self.store.claim_inquiries(self.intake.name.to_string(), limit, lease_ms, asks, now).await
    }

    async fn note(&self, breaker: &mut Breaker, report: Result<Report, tokio::task::JoinError>, stop: &Shutdown) {
        let (now, source) = (clock::now(), &*self.intake.name);
        match report {
            Ok(Report::Answered) => {
                if breaker.answered() {
                    tracing::info!(source.name = source, "the vendor answers again");
                    if let Err(e) = self.store.hurry_inquiries(source.to_owned(), now).await {
                        tracing::warn!(source.name = source, error = %e, "what is to be asked keeps its times");
                    }
                }
            }
            Ok(Report::Failed { after_ms, reason }) => {
                let after_ms = after_ms.map(|asked| asked.min(self.pace.unanswered.longest_ms));
                if breaker.failed(now, after_ms, fastrand::f64()) {
                    tracing::warn!(source.name = source, reason, "the vendor does not answer: only probes from now on");
                }
            }
            Ok(Report::Refused { reason }) => {
                // A refusal that a newer configuration has overtaken says nothing of the credential at hand.
                if breaker.halted(now, self.pace.refused_probe) && !stop.is_begun() {
                    tracing::error!(
                        source.name = source,
                        reason,
                        "the vendor refuses the credential: what is held waits; mend it, there or here, and reload"
                    );
                }
            }
            Ok(Report::Unclear) => {}
            Err(e) => tracing::error!(source.name = source, error = %e, "a question ended unexpectedly"),
        }
    }

    async fn serve(self: Arc<Self>, inquiry: Inquiry, asks: bool, stop: Shutdown) -> Report {
        let mut asking = Asking {
            inquirer: &self,
            answers: HashMap::new(),
            report: Report::Unclear,
            until: clock::steady() + self.pace.patience,
            decided: None,
            stop,
        };
        match inquiry {
            Inquiry::Held(line) => {
                for held in line {
                    if let Some(ruling) = asking.judge(held).await {
                        self.rule(held.receipt, ruling).await;
                    }
                }
            }
            Inquiry::Late(late) => {
                let lateness = asking.look_after(&late, asks).await;
                self.settle_late(&late, lateness).await;
            }
        }
        asking.report
    }

    async fn rule(&self, receipt: i64, mut ruling: Ruling) {
        // It may name what the callback or the vendor names.
        if let Ruling::Refused(said) | Ruling::Waits { reason: said, .. } = &mut ruling {
            *said = reason(said).into_owned();
        }
        match &ruling {
            Ruling::Refused(reason) => tracing::warn!(
                source.name = %self.intake.name, receipt.id = receipt, reason,
                "a callback is refused; `callbackd receipts replay {receipt}` records it all the same"
            ),
            Ruling::Waits { reason, .. } => tracing::debug!(receipt.id = receipt, reason, "stays held"),
            Ruling::Confirmed(_) => tracing::debug!(receipt.id = receipt, "confirmed"),
        }
        let confirmation = match &ruling {
            Ruling::Confirmed(_) => Some(Confirmation::Confirmed),
            Ruling::Refused(_) => Some(Confirmation::Refused),
            Ruling::Waits { .. } => None,
        };
        match self.store.rule(receipt, ruling, Arc::clone(&self.rules), clock::now()).await {
            Ok(wake) => {
                self.wake.sinks(&wake);
                if let Some(confirmation) = confirmation {
                    self.intake.measures.confirmations.add(confirmation);
                }
            }
            // It is still held, and is asked about again when its lease is over.
            Err(e) => tracing::warn!(receipt.id = receipt, error = %e, "an answer is not recorded"),
        }
    }

    async fn settle_late(&self, late: &Late, lateness: Lateness) {
        let (source, rules) = (self.intake.name.to_string(), Arc::clone(&self.rules));
        match self.store.settle_late(source, late.execution, lateness, rules, clock::now()).await {
            Ok(wake) => self.wake.sinks(&wake),
            Err(e) => tracing::warn!(execution.id = late.execution, error = %e, "a late execution is looked at again"),
        }
    }
}

/// One claimed inquiry: every execution is asked about once, whatever hangs on the answer.
struct Asking<'i> {
    inquirer: &'i Inquirer,
    answers: HashMap<String, Answer>,
    report: Report,
    /// No further question after this, whatever clock is set.
    until: Instant,
    /// When the first receipt of a line was decided, and what spreads its next question: the same for all of the line,
    /// so that they stay together.
    decided: Option<(Time, f64)>,
    stop: Shutdown,
}

impl Asking<'_> {
    /// What follows for a held receipt; `None` when it cannot be read now.
    async fn judge(&mut self, held: Held) -> Option<Ruling> {
        let Inquirer { intake, store, pace, .. } = self.inquirer;
        let receipt = match store.receipt(held.receipt).await {
            Ok((row, body)) => row.into_receipt(body),
            Err(e) => {
                tracing::warn!(receipt.id = held.receipt, error = %e, "a held receipt cannot be read");
                return None;
            }
        };
        let updates = match intake.source.parse(&receipt) {
            Ok(updates) => updates,
            Err(e) => return Some(Ruling::Refused(format!("not understood any more: {e}"))),
        };
        let mut confirmed = Vec::with_capacity(updates.len());
        let (mut not_yet, mut unanswered) = (None, None);
        let (is_in_time, count) = (clock::steady() < self.until, updates.len());
        for update in updates {
            // What is not confirmed whole is not recorded, so that the rest need not be asked about: a forged body may
            // name any number of executions, and each question is the account's.
            if not_yet.is_some() || unanswered.is_some() {
                break;
            }
            let key = update.short_key();
            let asked = Asked::from(&update);
            if !self.answers.contains_key(&asked.key) && (self.stop.is_begun() || clock::steady() >= self.until) {
                match is_in_time && !self.stop.is_begun() {
                    true => {
                        let asked = confirmed.len();
                        not_yet = Some(format!("of {count} executions, only {asked} could be asked about"));
                    }
                    // The others of its line took the time, or there is none any more.
                    false => unanswered = Some((None, [key, UNASKED].concat())),
                }
                break;
            }
            match self.answer(asked).await {
                Answer::Known(truth) => match update.agrees_with(truth) {
                    Agreement::Agrees => confirmed.push(update.in_words_of(truth)),
                    Agreement::NotYet(reason) => not_yet = Some(format!("{key}: {reason}")),
                    Agreement::Contradicts(reason) => return Some(Ruling::Refused(format!("{key}: {reason}"))),
                },
                Answer::Unknown => not_yet = Some(format!("{key}: the vendor knows no execution of this id")),
                Answer::Unanswerable { reason } => {
                    return Some(Ruling::Refused(format!("{key}: cannot be confirmed: {reason}")));
                }
                Answer::Later { after_ms, reason } => unanswered = Some((*after_ms, format!("{key}: {reason}"))),
                Answer::Halt { reason } => unanswered = Some((None, format!("{key}: {reason}"))),
            }
        }
        let (now, spread) = *self.decided.get_or_insert_with(|| (clock::now(), spread()));
        if let Some((after_ms, reason)) = unanswered {
            let due_at = again(&pace.unanswered, held.failures, after_ms, now, spread)?;
            return Some(Ruling::Waits { due_at, answered: false, reason });
        }
        Some(match not_yet {
            None => Ruling::Confirmed(confirmed),
            // In full: a vendor's copies are given time to catch up.
            Some(reason) => match pace.unconfirmed.next(held.asked + 1, now, now, None, 1.0) {
                Next::At(due_at) => Ruling::Waits { due_at, answered: true, reason },
                Next::Dead(_) => Ruling::Refused(format!("{reason}; it was asked {} times", held.asked + 1)),
            },
        })
    }

    /// What follows for an execution that is not finished in time. Without `asks`, nobody can be asked now.
    async fn look_after(&mut self, late: &Late, asks: bool) -> Lateness {
        let Inquirer { intake, pace, .. } = self.inquirer;
        let now = clock::now();
        let goes_on = Lateness { truth: None, marks: true, due_at: None, answered: true };
        if intake.source.inquire().is_none() {
            return goes_on;
        }
        let next = match pace.going_on.next(late.asked + 1, now, now, None, 1.0) {
            Next::At(due_at) => Some(due_at),
            Next::Dead(_) => None,
        };
        let after_ms = if asks {
            match self.answer(Asked::from(&late.state.execution)).await {
                Answer::Known(truth) => {
                    let truth = Update { identity: None, ..(**truth).clone() };
                    return Lateness { truth: Some(truth), due_at: next, ..goes_on };
                }
                Answer::Unknown => return Lateness { due_at: next, ..goes_on },
                Answer::Unanswerable { .. } => return goes_on,
                Answer::Later { after_ms, .. } => *after_ms,
                Answer::Halt { .. } => None,
            }
        } else {
            None
        };
        let marks = late.failures + 1 >= pace.grace;
        Lateness {
            truth: None,
            marks,
            due_at: again(&pace.unanswered, late.failures, after_ms, now, spread()),
            answered: false,
        }
    }

    /// The vendor's answer about this execution, asked for once.
    async fn answer(&mut self, asked: Asked) -> &Answer {
        if !self.answers.contains_key(&asked.key) {
            let answer = self.inquirer.ask(&asked).await.legible();
            let report = match &answer {
                Answer::Later { after_ms, reason } => Report::Failed { after_ms: *after_ms, reason: reason.clone() },
                Answer::Halt { reason } => Report::Refused { reason: reason.clone() },
                Answer::Known(_) | Answer::Unknown => Report::Answered,
                Answer::Unanswerable { .. } => Report::Unclear,
            };
            self.report = report;
            self.answers.insert(asked.key.clone(), answer);
        }
        self.answers.get(&asked.key).expect("it was asked about")
    }
}

impl Inquirer {
    async fn ask(&self, asked: &Asked) -> Answer {
        let Some(vendor) = self.intake.source.inquire() else {
            return Answer::Unanswerable { reason: "the source has no credential to ask with".to_owned() };
        };
        let later = |reason| Answer::Later { after_ms: None, reason };
        match tokio::time::timeout(self.pace.timeout, vendor.ask(asked, clock::now())).await {
            Ok(Answer::Known(truth)) if truth.key != asked.key => {
                later("the vendor answers about another execution".to_owned())
            }
            Ok(answer) => answer,
            Err(_) => later(format!("no answer within {} s", self.pace.timeout.as_secs_f64())),
        }
    }
}

/// Whether no vendor is still to be asked for the first time about something that is held. One that was not asked for a
/// while will not be asked soon: it is down, or refuses us.
pub async fn is_idle(store: &dyn Store, now: Time) -> Result<bool, StoreError> {
    let held = Filter { status: vec![ReceiptStatus::Held.to_string()], ..Filter::default() };
    let is_unasked = |row: &ReceiptRow| row.reason.as_ref().is_some_and(|reason| reason.ends_with(UNASKED));
    let held = store.receipts(held).await?;
    Ok(!held.iter().any(|row| is_unasked(row) && now.ms_since(row.received_at) < 30_000))
}

/// What one inquiry says of the vendor's health.
enum Report {
    Answered,
    Failed { after_ms: Option<u64>, reason: String },
    Refused { reason: String },
    Unclear,
}
