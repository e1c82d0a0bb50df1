//! The promises once more, as plainly as they can be written: lists that are searched, and no rule of the product's.
//!
//! An execution and a sink have a *line* of deliveries that are still open, of which one has its *turn*: it alone may be
//! claimed, once it is due.

use callbackd::model::Status;

/// Microseconds since 1970.
pub(super) type Instant = i64;

pub(super) const SINKS: [&str; 3] = ["plain", "coalescing", "failures"];

/// What a callback says of one execution.
#[derive(Clone, Debug)]
pub(super) struct Says {
    pub(super) key: String,
    pub(super) status: Option<Status>,
    pub(super) tasks: Vec<(String, Status)>,
    pub(super) subject: Option<String>,
    pub(super) identity: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    Accepted,
    Duplicate,
    Conflict,
    Quarantined,
}

#[derive(Debug)]
pub(super) struct Receipt {
    pub(super) source: &'static str,
    pub(super) outcome: Outcome,
    /// In the order in which it speaks of them.
    pub(super) executions: Vec<usize>,
    pub(super) gone: bool,
}

#[derive(Debug)]
pub(super) struct Execution {
    pub(super) source: &'static str,
    pub(super) key: String,
    pub(super) status: Status,
    pub(super) tasks: Vec<(String, Status)>,
    pub(super) subject: Option<String>,
    /// Everything that it was ever about.
    subjects: Vec<String>,
    seen: Vec<String>,
    pub(super) changes: Vec<Change>,
    changed_at: Instant,
    pub(super) gone: bool,
}

#[derive(Debug)]
pub(super) struct Change {
    pub(super) previous: Option<Status>,
    pub(super) status: Status,
    pub(super) tasks: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    Waiting,
    /// Under this lease, which is known by its end.
    Leased(Instant),
    Delivered,
    Dead,
    Discarded,
}

#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) execution: usize,
    pub(super) sink: &'static str,
    /// Which of the execution's changes it tells.
    pub(super) change: usize,
    pub(super) standing: Standing,
    /// From when on it may be claimed; only of one that has its turn.
    pub(super) due: Option<Instant>,
    pub(super) attempts: u32,
    /// When it was promised, or an operator gave it another chance.
    since: Instant,
    waits_for_link: bool,
    pub(super) gone: bool,
}

/// What follows from a try.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    Delivered,
    Retry(u64),
    Waits(u64),
    WaitsForLink(u64),
    Dead,
    Discarded,
}

/// Two executions that belong together: an upload with the run that asked for it; or, `started`, what a try started with
/// what the try was of.
#[derive(Clone, Copy)]
pub(super) struct Tie {
    pub(super) of: usize,
    pub(super) with: usize,
    started: bool,
}

impl Tie {
    fn is_of(&self, execution: usize) -> bool {
        [self.of, self.with].contains(&execution)
    }
}

#[derive(Default)]
pub(super) struct Plain {
    pub(super) receipts: Vec<Receipt>,
    pub(super) executions: Vec<Execution>,
    pub(super) deliveries: Vec<Delivery>,
    pub(super) links: Vec<Tie>,
    pub(super) paused: Vec<&'static str>,
}

pub(super) fn is_finished(status: Status) -> bool {
    [Status::Succeeded, Status::Failed, Status::Cancelled].contains(&status)
}

/// Whether what finished in one way is said to have finished in another.
fn contradicts(held: Status, said: Status) -> bool {
    is_finished(held) && is_finished(said) && held != said
}

/// Time only goes forward: what is finished stays, and nothing that ran is pending again.
fn is_late(held: Status, said: Status) -> bool {
    held != said && (is_finished(held) || said == Status::Pending && [Status::Running, Status::Paused].contains(&held))
}

impl Delivery {
    pub(super) fn is_open(&self) -> bool {
        !self.gone && matches!(self.standing, Standing::Waiting | Standing::Leased(_))
    }
}

impl Plain {
    pub(super) fn callback(&mut self, source: &'static str, says: &[Says], now: Instant) {
        self.receipts.push(Receipt { source, outcome: Outcome::Quarantined, executions: Vec::new(), gone: false });
        self.understand(self.receipts.len() - 1, says, now);
    }

    pub(super) fn strange(&mut self, source: &'static str) {
        self.receipts.push(Receipt { source, outcome: Outcome::Quarantined, executions: Vec::new(), gone: false });
    }

    /// What a try found out: of an execution that we know, or that it started.
    pub(super) fn learned(&mut self, by: usize, source: &'static str, says: &Says, started: bool, now: Instant) {
        if !started && self.find(source, &says.key).is_none() {
            return;
        }
        let (_, of) = self.take(source, says, now);
        let with = self.deliveries[by].execution;
        let is_tied = self.links.iter().any(|tie| (tie.of, tie.with) == (of, with));
        if started && of != with && !is_tied {
            self.tie(Tie { of, with, started }, now);
        }
    }

    /// Reads a receipt, now or later.
    pub(super) fn understand(&mut self, receipt: usize, says: &[Says], now: Instant) {
        let source = self.receipts[receipt].source;
        let outcomes: Vec<_> = says.iter().map(|one| self.take(source, one, now)).collect();
        let worst = [Outcome::Conflict, Outcome::Accepted, Outcome::Duplicate];
        let outcome = worst.into_iter().find(|word| outcomes.iter().any(|(found, _)| found == word));
        let receipt = &mut self.receipts[receipt];
        receipt.outcome = outcome.expect("it says something");
        for (_, execution) in outcomes {
            if !receipt.executions.contains(&execution) {
                receipt.executions.push(execution);
            }
        }
    }

    pub(super) fn find(&self, source: &str, key: &str) -> Option<usize> {
        self.executions.iter().position(|e| !e.gone && e.source == source && e.key == key)
    }

    fn take(&mut self, source: &'static str, says: &Says, now: Instant) -> (Outcome, usize) {
        let Some(at) = self.find(source, &says.key) else {
            let status = says.status.unwrap_or(Status::Running);
            self.executions.push(Execution {
                source,
                key: says.key.clone(),
                status,
                tasks: says.tasks.clone(),
                subject: says.subject.clone(),
                subjects: Vec::new(),
                seen: says.identity.iter().cloned().collect(),
                changes: Vec::new(),
                changed_at: now,
                gone: false,
            });
            let at = self.executions.len() - 1;
            self.changed(at, None, says.tasks.iter().map(|(key, _)| key.clone()).collect(), now);
            return (Outcome::Accepted, at);
        };
        let held = &mut self.executions[at];
        if says.identity.as_ref().is_some_and(|identity| held.seen.contains(identity)) {
            return (Outcome::Duplicate, at);
        }
        let of = |key: &str| held.tasks.iter().find(|(known, _)| known == key).map(|(_, status)| *status);
        let is_wrong = says.status.is_some_and(|said| contradicts(held.status, said))
            || says.tasks.iter().any(|(key, said)| of(key).is_some_and(|held| contradicts(held, *said)));
        if is_wrong {
            return (Outcome::Conflict, at);
        }

        let before = held.status;
        let late = says.status.is_some_and(|said| is_late(before, said));
        if let Some(said) = says.status.filter(|_| !late) {
            held.status = said;
        }
        let mut news = held.status != before;
        // A late word fills a gap, and is never put over a newer one; the words of something finished stay.
        if says.subject.is_some()
            && held.subject != says.subject
            && (held.subject.is_none() || !late && !is_finished(before))
        {
            held.subject.clone_from(&says.subject);
            news = true;
        }
        let mut moved = Vec::new();
        for (key, said) in &says.tasks {
            match held.tasks.iter_mut().find(|(known, _)| known == key) {
                None => held.tasks.push((key.clone(), *said)),
                Some((_, held)) if *held != *said && !is_late(*held, *said) => *held = *said,
                Some(_) => continue,
            }
            moved.push(key.clone());
        }
        if !news && moved.is_empty() {
            return (Outcome::Duplicate, at);
        }
        held.seen.extend(says.identity.clone());
        self.changed(at, Some(before), moved, now);
        (Outcome::Accepted, at)
    }

    /// What follows from an accepted change: links, and a delivery to each of its sinks.
    fn changed(&mut self, at: usize, previous: Option<Status>, tasks: Vec<String>, now: Instant) {
        let execution = &mut self.executions[at];
        let (source, status) = (execution.source, execution.status);
        execution.changes.push(Change { previous, status, tasks });
        execution.changed_at = now;
        if let Some(subject) = execution.subject.clone() {
            if !execution.subjects.contains(&subject) {
                execution.subjects.push(subject.clone());
            }
            self.link(at, &subject, now);
        }
        let sinks: &[&str] = match (source, status) {
            ("media", Status::Failed) => &SINKS,
            ("media", _) => &SINKS[..2],
            _ => &SINKS[..1],
        };
        for sink in sinks {
            self.promise(at, sink, now);
        }
    }

    /// Uploads and runs that are about the same belong together. Of several the newest is taken.
    fn link(&mut self, at: usize, subject: &String, now: Instant) {
        let known_by = |e: &Execution| !e.gone && e.subjects.contains(subject);
        let linked_upload = |at: usize| self.links.iter().any(|tie| !tie.started && tie.of == at);
        let linked_run = |at: usize| self.links.iter().any(|tie| !tie.started && tie.with == at);
        let mut newest = self.executions.iter().enumerate().rev();
        let pair = if self.executions[at].source == "media" {
            let run = newest.find(|(_, e)| e.source == "portal" && known_by(e) && !is_finished(e.status));
            run.filter(|_| !linked_upload(at)).map(|(run, _)| (at, run))
        } else if is_finished(self.executions[at].status) || linked_run(at) {
            None
        } else {
            let waits = |at| self.deliveries.iter().any(|d| d.is_open() && d.execution == at);
            let upload = newest.find(|(at, e)| e.source == "media" && known_by(e) && waits(*at) && !linked_upload(*at));
            upload.map(|(upload, _)| (upload, at))
        };
        if let Some((of, with)) = pair {
            self.tie(Tie { of, with, started: false }, now);
        }
    }

    fn tie(&mut self, tie: Tie, now: Instant) {
        self.links.push(tie);
        let waits = |d: &Delivery| d.standing == Standing::Waiting && d.waits_for_link;
        for delivery in self.deliveries.iter_mut().filter(|d| d.execution == tie.of && waits(d)) {
            (delivery.due, delivery.waits_for_link) = (Some(now), false);
        }
    }

    fn promise(&mut self, execution: usize, sink: &'static str, now: Instant) {
        if sink == "coalescing" {
            for delivery in self.deliveries.iter_mut().filter(|d| d.execution == execution && d.sink == sink) {
                if delivery.standing == Standing::Waiting {
                    (delivery.standing, delivery.due) = (Standing::Discarded, None);
                    delivery.waits_for_link = false;
                }
            }
        }
        let is_first = self.line(execution, sink).next().is_none();
        let change = self.executions[execution].changes.len() - 1;
        self.deliveries.push(Delivery {
            execution,
            sink,
            change,
            standing: Standing::Waiting,
            due: is_first.then_some(now),
            attempts: 0,
            since: now,
            waits_for_link: false,
            gone: false,
        });
    }

    fn line(&self, execution: usize, sink: &'static str) -> impl Iterator<Item = usize> {
        let is_of = move |d: &Delivery| d.is_open() && d.execution == execution && d.sink == sink;
        self.deliveries.iter().enumerate().filter(move |(_, d)| is_of(d)).map(|(at, _)| at)
    }

    /// The oldest of the line has its turn next.
    fn next_in_line(&mut self, of: usize, now: Instant) {
        let (execution, sink) = (self.deliveries[of].execution, self.deliveries[of].sink);
        let Some(first) = self.line(execution, sink).next() else { return };
        if self.deliveries[first].due.is_none() {
            let others: Vec<_> = self.line(execution, sink).collect();
            for other in others {
                self.deliveries[other].due = None;
                self.deliveries[other].waits_for_link = false;
            }
            self.deliveries[first].due = Some(now);
        }
    }

    /// Which may be claimed, of those that wait until `by`.
    pub(super) fn due(&self, sink: &str, by: Instant, now: Instant) -> Vec<usize> {
        let until = |d: &Delivery| if d.standing == Standing::Waiting { by } else { now };
        let is_due = |d: &Delivery| d.is_open() && d.sink == sink && d.due.is_some_and(|due| due <= until(d));
        if self.paused.contains(&sink) {
            return Vec::new();
        }
        self.deliveries.iter().enumerate().filter(|(_, d)| is_due(d)).map(|(at, _)| at).collect()
    }

    pub(super) fn claimed(&mut self, at: usize, until: Instant) {
        let delivery = &mut self.deliveries[at];
        (delivery.standing, delivery.due) = (Standing::Leased(until), Some(until));
    }

    /// What was claimed is given back, and goes before what became due since.
    pub(super) fn release(&mut self, at: usize, lease: Instant) {
        let delivery = &mut self.deliveries[at];
        if !delivery.gone && delivery.standing == Standing::Leased(lease) {
            (delivery.standing, delivery.due) = (Standing::Waiting, Some(delivery.since));
        }
    }

    /// A try ends that was made under the lease until `lease`: whoever has another one has the word.
    pub(super) fn settle(&mut self, at: usize, lease: Instant, known_links: usize, end: End, now: Instant) -> bool {
        let links = self.links.iter().filter(|tie| tie.is_of(self.deliveries[at].execution)).count();
        let delivery = &mut self.deliveries[at];
        if delivery.gone || delivery.standing != Standing::Leased(lease) {
            return false;
        }
        let later = |ms: u64| Some(now + ms as i64 * 1000);
        let is_linked = links > known_links;
        (delivery.standing, delivery.due) = match end {
            End::Delivered => (Standing::Delivered, None),
            End::Dead => (Standing::Dead, None),
            End::Discarded => (Standing::Discarded, None),
            End::WaitsForLink(_) if is_linked => (Standing::Waiting, Some(now)),
            End::Retry(ms) | End::Waits(ms) | End::WaitsForLink(ms) => (Standing::Waiting, later(ms)),
        };
        delivery.waits_for_link = matches!(end, End::WaitsForLink(_)) && !is_linked;
        if matches!(end, End::Delivered | End::Dead | End::Retry(_)) {
            delivery.attempts += 1;
        }
        self.next_in_line(at, now);
        true
    }

    /// An operator gives it another chance; `false` where that is refused.
    pub(super) fn retry(&mut self, at: usize, now: Instant) -> bool {
        let delivery = &mut self.deliveries[at];
        if !matches!(delivery.standing, Standing::Dead | Standing::Discarded | Standing::Waiting) {
            return false;
        }
        delivery.standing = Standing::Waiting;
        (delivery.attempts, delivery.since, delivery.waits_for_link) = (0, now, false);
        let (execution, sink) = (delivery.execution, delivery.sink);
        let is_leased = |&other: &usize| matches!(self.deliveries[other].standing, Standing::Leased(_));
        if self.line(execution, sink).any(|other| is_leased(&other)) {
            self.deliveries[at].due = None;
        } else if self.line(execution, sink).next() == Some(at) {
            self.deliveries[at].due = None;
            self.next_in_line(at, now);
        } else if self.deliveries[at].due.take().is_some() {
            self.next_in_line(at, now);
        }
        true
    }

    pub(super) fn discard(&mut self, at: usize, now: Instant) -> bool {
        let delivery = &mut self.deliveries[at];
        let had_turn = delivery.due.is_some();
        if !matches!(delivery.standing, Standing::Dead | Standing::Waiting) {
            return false;
        }
        (delivery.standing, delivery.due, delivery.waits_for_link) = (Standing::Discarded, None, false);
        if had_turn {
            self.next_in_line(at, now);
        }
        true
    }

    /// The dead letters of a sink, oldest first.
    pub(super) fn dead(&self, sink: &str) -> Vec<usize> {
        let is_dead = |d: &Delivery| !d.gone && d.sink == sink && d.standing == Standing::Dead;
        self.deliveries.iter().enumerate().filter(|(_, d)| is_dead(d)).map(|(at, _)| at).collect()
    }

    pub(super) fn hurry(&mut self, sink: &str, now: Instant) {
        for delivery in self.deliveries.iter_mut().filter(|d| d.is_open() && d.sink == sink) {
            let waits = delivery.standing == Standing::Waiting && delivery.attempts > 0 && !delivery.waits_for_link;
            delivery.due = delivery.due.map(|due| if waits { due.min(now) } else { due });
        }
    }

    /// Whoever had a lease is gone.
    pub(super) fn restarted(&mut self) {
        for delivery in &mut self.deliveries {
            if matches!(delivery.standing, Standing::Leased(_)) && delivery.is_open() {
                (delivery.standing, delivery.due) = (Standing::Waiting, Some(0));
            }
        }
    }

    fn is_told(&self, execution: usize) -> bool {
        let owed = |d: &Delivery| !d.gone && d.execution == execution && (d.is_open() || d.standing == Standing::Dead);
        is_finished(self.executions[execution].status) && !self.deliveries.iter().any(owed)
    }

    /// Lets go of what is finished, told, and old enough; not of what another is linked to that is not yet so far, which
    /// needs it to be told.
    pub(super) fn prune(&mut self, before: Instant) {
        for at in 0..self.executions.len() {
            let is_old = self.executions[at].changed_at < before;
            let linked = self.links.iter().filter(|tie| tie.is_of(at)).flat_map(|tie| [tie.of, tie.with]);
            if self.executions[at].gone || !is_old || !linked.chain([at]).all(|one| self.is_told(one)) {
                continue;
            }
            self.executions[at].gone = true;
            self.deliveries.iter_mut().filter(|d| d.execution == at).for_each(|d| d.gone = true);
            self.links.retain(|tie| !tie.is_of(at));
        }
        for receipt in &mut self.receipts {
            let is_empty = receipt.executions.iter().all(|at| self.executions[*at].gone);
            receipt.gone |= !receipt.executions.is_empty() && is_empty;
        }
    }
}
