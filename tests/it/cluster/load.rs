//! Who sends callbacks all the time, and what they were told; and what is held against it at the end.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::{self, Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{MEDIA, within};
use crate::callbacks::{Step, cos};
use crate::daemon::{Connection, Daemon, request};
use crate::peers::hook::Hook;

const STEPS: [Step; 3] = [Step::Start, Step::TaskFinish, Step::Success];
const SENDERS: usize = 6;
/// Between two callbacks of one sender.
const REST: Duration = Duration::from_millis(25);
/// Whoever gets no answer for so long sends again.
const ANSWER: Duration = Duration::from_secs(15);

/// A callback that was answered 2xx.
struct Kept {
    run: String,
    receipt: String,
    execution: String,
    outcome: String,
}

/// What all senders were told.
#[derive(Default)]
pub(super) struct Load {
    kept: Mutex<Vec<Kept>>,
    /// Answers by status; 0 where there was none.
    answers: Mutex<BTreeMap<u16, u64>>,
    strange: Mutex<Vec<String>>,
    acknowledged: AtomicU64,
    is_over: AtomicBool,
}

impl Load {
    /// Everybody begins to send to one of these addresses; each goes to the next when it was refused.
    pub(super) fn begin<'s>(&'s self, scope: &'s Scope<'s, '_>, to: &'s [String]) -> Vec<ScopedJoinHandle<'s, ()>> {
        (0..SENDERS).map(|sender| scope.spawn(move || self.send(sender, to))).collect()
    }

    /// Everybody ends what was begun.
    pub(super) fn end(&self) {
        self.is_over.store(true, Ordering::Release);
    }

    /// How many were acknowledged until now.
    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Acquire)
    }

    /// Waits until so many more are acknowledged; says after how long the first one was.
    pub(super) fn goes_on(&self, count: u64) -> Duration {
        let (from, began) = (self.acknowledged(), Instant::now());
        within(120, "a callback that is taken", || (self.acknowledged() > from).then_some(()));
        let first = began.elapsed();
        within(120, "callbacks that are taken", || (self.acknowledged() >= from + count).then_some(()));
        first
    }

    fn send(&self, sender: usize, to: &[String]) {
        let (mut connection, mut at) = (None, sender);
        for run in 0.. {
            if self.is_over.load(Ordering::Acquire) || thread::panicking() {
                return;
            }
            let run = format!("run-{sender}-{run}");
            for step in STEPS {
                self.send_until_taken(&run, step, to, &mut at, &mut connection);
                thread::sleep(REST);
            }
        }
    }

    fn send_until_taken(&self, run: &str, step: Step, to: &[String], at: &mut usize, kept: &mut Option<Connection>) {
        let bytes = request("POST", MEDIA, &[], cos(step, run).as_bytes());
        loop {
            let place = &to[*at % to.len()];
            let asked = kept.take().map_or_else(|| Connection::try_within(place, ANSWER), Ok);
            let answer = asked.and_then(|mut connection| Ok((connection.ask(&bytes)?, connection)));
            let status = answer.as_ref().map_or(0, |(answer, _)| answer.status);
            *self.answers.lock().expect("sound").entry(status).or_default() += 1;
            match answer {
                Ok((answer, connection)) if answer.status == 200 => {
                    let said = answer.json();
                    let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
                    let (receipt, execution, outcome) = (text("receipt"), text("execution"), text("outcome"));
                    let run = run.to_owned();
                    self.kept.lock().expect("sound").push(Kept { run, receipt, execution, outcome });
                    self.acknowledged.fetch_add(1, Ordering::AcqRel);
                    *kept = Some(connection);
                    return;
                }
                // Its own 503, and what HAProxy says of one that died: send it again.
                Ok((answer, _)) if [502, 503, 504].contains(&answer.status) => {}
                Ok((answer, _)) => self.strange.lock().expect("sound").push(format!("{run} {step:?}: {answer:?}")),
                Err(_) => {}
            }
            *at += 1;
            thread::sleep(REST * 2);
        }
    }

    /// Waits until everything is told; then holds the store and what the sink took against what senders were told. The
    /// whole in figures.
    pub(super) fn judge(&self, daemon: &Daemon, hook: &Hook) -> String {
        let began = Instant::now();
        within(180, "all is delivered", || {
            daemon.list(&["deliveries", "list", "--status", "waiting,leased", "--limit", "1"]).is_empty().then_some(())
        });
        let drained = began.elapsed().as_secs();
        let strange = self.strange.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(strange.is_empty(), "{strange:#?}");
        let word = |of: &Value| of.as_str().unwrap_or_else(|| panic!("{of} is no text")).to_owned();
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut steps: HashMap<&str, usize> = HashMap::new();
        for one in kept.iter() {
            *steps.entry(&one.run).or_default() += 1;
        }
        assert!(steps.values().all(|count| *count == STEPS.len()), "a sender ended within a run");

        // Every acknowledged callback is stored, as what its sender was told that it is.
        let receipts: HashMap<String, Value> =
            daemon.list(&["receipts", "list"]).into_iter().map(|row| (word(&row["id"]), row)).collect();
        let lost: Vec<_> = kept.iter().filter(|one| !receipts.contains_key(&one.receipt)).collect();
        assert!(lost.is_empty(), "{} acknowledged callbacks are lost, {} first", lost.len(), lost[0].run);
        for one in kept.iter() {
            let row = &receipts[&one.receipt];
            let is_it = row["status"] == one.outcome && row["executions"][0] == one.execution;
            assert!(is_it, "{} was told {} of {}: {row}", one.run, one.outcome, one.execution);
        }
        // Once: what it changes is one row, however often it came.
        let mut accepted: HashMap<String, usize> = HashMap::new();
        for row in receipts.values() {
            match row["status"].as_str() {
                Some("accepted") => *accepted.entry(word(&row["executions"][0])).or_default() += 1,
                status => assert_eq!(status, Some("duplicate"), "{row}"),
            }
        }
        let executions = daemon.list(&["executions", "list"]);
        let keys: HashSet<String> = executions.iter().map(|row| word(&row["key"])).collect();
        assert_eq!((keys.len(), executions.len()), (steps.len(), steps.len()), "one execution for each run");
        for row in &executions {
            assert!(steps.contains_key(row["key"].as_str().unwrap_or_default()), "nobody sent {row}");
            assert!(row["status"] == "succeeded" && accepted.get(&word(&row["id"])) == Some(&STEPS.len()), "{row}");
        }

        // Every change was told, in order.
        let deliveries = daemon.list(&["deliveries", "list"]);
        assert_eq!(deliveries.len(), steps.len() * STEPS.len());
        let ids: HashSet<String> = deliveries.iter().map(|row| word(&row["id"])).collect();
        assert!(deliveries.iter().all(|row| row["status"] == "delivered"), "not all is delivered");
        let (mut taken, mut came) = (HashMap::<String, u64>::new(), HashMap::<String, u64>::new());
        for seen in hook.seen() {
            let change = seen.change();
            let sequence = change["data"]["change"]["sequence"].as_u64().expect("a number");
            let key = word(&change["subject"]);
            let before = taken.get(&key).copied().unwrap_or(0);
            if seen.taken {
                taken.insert(key, sequence.max(before));
            } else {
                // The next one, or once more the last: its answer may not have been kept.
                let is_next = sequence == before + 1 || sequence == before;
                assert!(is_next, "{key}: no. {sequence} came after no. {before}");
                *came.entry(seen.id).or_default() += 1;
            }
        }
        assert!(taken.values().all(|last| *last == STEPS.len() as u64), "not every change was taken");
        assert_eq!(came.keys().cloned().collect::<HashSet<_>>(), ids, "what came is what is stored");
        let tries: u64 = came.values().sum();
        format!(
            "{} callbacks of {} runs acknowledged (answers {:?}), {} receipts; {} changes told in {tries} requests, the last after {} s",
            kept.len(),
            steps.len(),
            self.answers.lock().expect("sound"),
            receipts.len(),
            deliveries.len(),
            drained,
        )
    }
}
