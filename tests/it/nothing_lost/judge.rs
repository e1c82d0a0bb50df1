//! The judgement: what senders were told and what sinks took, held against what was meant and what the store holds.
//!
//! Pure functions over ledgers that others kept. What may legitimately come again is counted; what may not be is found.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::RangeInclusive;

use super::kept::Kept;
use super::story::{Means, Story};

/// An answer that a sender got.
#[derive(Clone, Debug)]
pub(super) struct Told {
    /// The execution's key.
    pub(super) key: String,
    /// Which of the execution's callbacks.
    pub(super) callback: String,
    pub(super) receipt: String,
    pub(super) outcome: String,
}

/// One step of a delivery, as its peer saw it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Step {
    /// The execution's key.
    pub(super) key: String,
    /// Which of the execution's changes, from 1.
    pub(super) place: i64,
    /// What the peer tells repeats by.
    pub(super) delivery: String,
    pub(super) end: End,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum End {
    /// It was read.
    Came,
    /// The peer has it, whether or not the daemon is going to hear of it.
    Taken,
    /// The peer said that it never will.
    Refused,
}

/// What a sink has to be told of an execution.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Rule {
    /// Each change, one after the other.
    Each,
    /// The newest; those before it may be left out.
    Newest,
}

/// What is wrong.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) lost: Vec<String>,
    pub(super) twice: Vec<String>,
    pub(super) disorder: Vec<String>,
    /// Anything else.
    pub(super) wrong: Vec<String>,
}

impl Findings {
    pub(super) fn are_none(&self) -> bool {
        self.all().iter().all(|(_, found)| found.is_empty())
    }

    fn all(&self) -> [(&'static str, &Vec<String>); 4] {
        [("lost", &self.lost), ("twice", &self.twice), ("out of order", &self.disorder), ("wrong", &self.wrong)]
    }
}

impl std::fmt::Display for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (what, found) in self.all() {
            writeln!(f, "{what}: {}", found.len())?;
            found.iter().take(20).try_for_each(|one| writeln!(f, "    {one}"))?;
        }
        Ok(())
    }
}

/// Holds the store against what senders meant and were told; returns how many different callbacks it has.
pub(super) fn store(stories: &[Story], told: &[Told], kept: &Kept, findings: &mut Findings) -> usize {
    let meant: HashMap<(&str, &str), _> = stories
        .iter()
        .flat_map(|story| &story.callbacks)
        .map(|callback| ((&*callback.key, &*callback.name), callback))
        .collect();
    let mut stored: HashSet<(&str, &str)> = HashSet::new();
    for told in told {
        let Some((status, body)) = kept.receipts.get(&told.receipt) else {
            findings.lost.push(format!("no receipt: {told:?}"));
            continue;
        };
        let Some(callback) = meant.get(&(&*told.key, &*told.callback)) else {
            findings.wrong.push(format!("nobody sent this: {told:?}"));
            continue;
        };
        let may_be: &[&str] = match callback.means {
            Means::News => &["accepted", "duplicate"],
            Means::Stale => &["duplicate"],
            Means::Contradiction => &["conflict"],
        };
        if *status != told.outcome || !may_be.contains(&&**status) {
            findings.wrong.push(format!("its receipt is {status}, and it is {:?}: {told:?}", callback.means));
        }
        // A duplicate's bytes are not kept again.
        if body.as_ref().is_some_and(|body| *body != callback.body.as_bytes()) {
            findings.wrong.push(format!("other bytes: {told:?}"));
        }
        stored.insert((&told.key, &told.callback));
    }
    let mut applied: HashMap<(&str, &[u8]), usize> = HashMap::new();
    let mut places: HashMap<&str, Vec<i64>> = HashMap::new();
    for (key, place, receipt) in kept.changes.values() {
        places.entry(key).or_default().push(*place);
        // What a sink has taught has no receipt.
        let Some(receipt) = receipt else { continue };
        match kept.receipts.get(receipt) {
            Some((status, Some(body))) if status == "accepted" => *applied.entry((key, body)).or_default() += 1,
            other => findings.wrong.push(format!("a change of {key} by receipt {receipt}: {other:?}")),
        }
    }
    let mut executions = 0;
    for story in stories {
        for callback in &story.callbacks {
            let times = applied.get(&(&*callback.key, callback.body.as_bytes())).copied().unwrap_or(0);
            match (callback.means, times) {
                (Means::News, 1) | (Means::Stale | Means::Contradiction, 0) => {}
                (Means::News, 0) => findings.lost.push(format!("never applied: {} {}", callback.key, callback.name)),
                _ => findings.twice.push(format!("applied {times} times: {} {}", callback.key, callback.name)),
            }
        }
        for (key, status, changes) in story.executions() {
            executions += 1;
            match kept.executions.get(key) {
                None => findings.lost.push(format!("no execution {key}")),
                Some(found) if (&*found.0, found.1) == (status, changes) => {}
                Some(found) => findings.wrong.push(format!("{key} is {found:?}, not {status} by {changes} changes")),
            }
            let mut found = places.remove(key).unwrap_or_default();
            found.sort_unstable();
            if !found.iter().copied().eq(1..=changes) {
                findings.wrong.push(format!("the changes of {key} are {found:?}, not 1 to {changes}"));
            }
        }
    }
    if kept.executions.len() != executions {
        findings.wrong.push(format!("{} executions, and {executions} were told of", kept.executions.len()));
    }
    findings.wrong.extend(places.into_keys().map(|key| format!("changes of {key}, which nobody told of")));
    stored.len()
}

/// Holds a sink's ledger against what it has to be told; returns how many changes it has, and how often one came again.
pub(super) fn sink(
    name: &str,
    rule: Rule,
    expected: &BTreeMap<String, RangeInclusive<i64>>,
    steps: &[Step],
    findings: &mut Findings,
) -> (usize, usize) {
    /// How far an execution has come.
    #[derive(Default)]
    struct Way {
        /// The latest change that is over and done with.
        before: i64,
        came: HashSet<i64>,
        taken: HashSet<i64>,
    }
    let mut ways: HashMap<&str, Way> = HashMap::new();
    let mut named: HashMap<&str, (&str, i64)> = HashMap::new();
    let mut names: HashMap<(&str, i64), &str> = HashMap::new();
    let mut arrivals = 0;
    for step in steps {
        let Step { key, place, delivery, end } = step;
        let Some(due) = expected.get(key) else {
            findings.wrong.push(format!("{name} was told of {key}, which is not its business"));
            continue;
        };
        let in_range = *place <= *due.end() && (*place >= *due.start() || rule == Rule::Newest);
        if !in_range {
            findings.wrong.push(format!("{name} was told no. {place} of {key}, which has {due:?}"));
            continue;
        }
        // The same delivery is the same change at every try, and the other way round.
        let (named, known) =
            (*named.entry(delivery).or_insert((key, *place)), *names.entry((key, *place)).or_insert(delivery));
        if named != (&**key, *place) || known != delivery {
            findings
                .wrong
                .push(format!("{name}: {key} no. {place} came as {delivery}, which is {named:?}, and as {known}"));
        }
        let way = ways.entry(key).or_insert_with(|| Way { before: due.start() - 1, ..Way::default() });
        let is_first = way.came.insert(*place);
        let early = rule == Rule::Each && *place > way.before + 1;
        let late = rule == Rule::Newest && is_first && *place < way.before;
        if early || late {
            findings.disorder.push(format!("{name}: no. {place} of {key} after no. {}", way.before));
        }
        match end {
            End::Came => arrivals += 1,
            End::Taken => {
                way.before = way.before.max(*place);
                way.taken.insert(*place);
            }
            End::Refused => way.before = way.before.max(*place),
        }
    }
    for (key, due) in expected {
        let due = match rule {
            Rule::Each => due.clone(),
            Rule::Newest => *due.end()..=*due.end(),
        };
        for place in due.filter(|place| !ways.get(&**key).is_some_and(|way| way.taken.contains(place))) {
            findings.lost.push(format!("{name} never had no. {place} of {key}"));
        }
    }
    let different: usize = ways.values().map(|way| way.came.len()).sum();
    (ways.values().map(|way| way.taken.len()).sum(), arrivals - different)
}

/// What a run at Port has to say in the end.
pub(super) struct Reported {
    pub(super) run: String,
    pub(super) status: &'static str,
    /// In the order in which they finished.
    pub(super) tasks: Vec<String>,
}

/// Holds Port's runs (status and all log lines) against what they have to say; returns how many reports there are, and
/// how many lines came again. Of a run in `doubted` a report was refused on purpose, so that its lines may be missing.
pub(super) fn runs(
    expected: &[Reported],
    runs: &HashMap<String, (String, String)>,
    doubted: &HashSet<String>,
    findings: &mut Findings,
) -> (usize, usize) {
    let (mut delivered, mut repeated) = (0, 0);
    for Reported { run, status, tasks } in expected {
        match runs.get(run) {
            Some((found, _)) if found == status => delivered += 1,
            found => findings.lost.push(format!("the run {run} is {:?}, not {status}", found.map(|(found, _)| found))),
        }
        let log = runs.get(run).map_or("", |(_, log)| log);
        let mut after = 0;
        for task in tasks {
            match log.find(task) {
                // Refused, it is missing, or late.
                None if doubted.contains(run) => {}
                None => findings.lost.push(format!("the run {run} says nothing of {task}")),
                Some(at) if at < after && !doubted.contains(run) => {
                    findings.disorder.push(format!("the run {run} says {task} too early"))
                }
                Some(at) => {
                    after = at;
                    delivered += 1;
                }
            }
            repeated += log.matches(&**task).count().saturating_sub(1);
        }
    }
    (delivered, repeated)
}

#[cfg(test)]
mod tests {
    use super::super::story::Callback;
    use super::*;

    /// An execution of two changes and a late word, all of which was told and kept.
    fn sound() -> (Vec<Story>, Vec<Told>, Kept) {
        let callback = |name: &str, means| Callback {
            key: "run".to_owned(),
            name: name.to_owned(),
            body: format!("body of {name}"),
            signed: false,
            means,
        };
        let callbacks =
            vec![callback("start", Means::News), callback("end", Means::News), callback("late", Means::Stale)];
        let story =
            Story { key: "run".to_owned(), callbacks, succeeds: true, asked: None, tasks: vec![], starts: true };
        let outcomes = ["accepted", "accepted", "duplicate"];
        let told = (0..3).map(|n| Told {
            key: "run".to_owned(),
            callback: story.callbacks[n].name.clone(),
            receipt: n.to_string(),
            outcome: outcomes[n].to_owned(),
        });
        let told: Vec<Told> = told.collect();
        let receipt = |n: usize| {
            let body = (n < 2).then(|| story.callbacks[n].body.clone().into_bytes());
            (n.to_string(), (outcomes[n].to_owned(), body))
        };
        let change = |n: i64| (format!("c{n}"), ("run".to_owned(), n + 1, Some(n.to_string())));
        let kept = Kept {
            executions: [("run".to_owned(), ("succeeded".to_owned(), 2))].into(),
            receipts: (0..3).map(receipt).collect(),
            changes: (0..2).map(change).collect(),
        };
        (vec![story], told, kept)
    }

    /// How many are lost, twice, out of order and wrong.
    fn counts(findings: &Findings) -> [usize; 4] {
        findings.all().map(|(_, found)| found.len())
    }

    fn judged(change: impl FnOnce(&mut Vec<Story>, &mut Vec<Told>, &mut Kept)) -> [usize; 4] {
        let (mut stories, mut told, mut kept) = sound();
        change(&mut stories, &mut told, &mut kept);
        let mut findings = Findings::default();
        store(&stories, &told, &kept, &mut findings);
        counts(&findings)
    }

    #[test]
    fn a_store_that_lacks_or_doubles_something_is_found_out() {
        assert_eq!(judged(|_, _, _| {}), [0, 0, 0, 0]);
        let one_more = Told {
            key: "run".to_owned(),
            callback: "end".to_owned(),
            receipt: "9".to_owned(),
            outcome: "duplicate".to_owned(),
        };
        assert_eq!(judged(|_, told, _| told.push(one_more)), [1, 0, 0, 0], "one more was acknowledged");
        assert_eq!(judged(|_, _, kept| drop(kept.receipts.remove("2"))), [1, 0, 0, 0], "a receipt is gone");
        let [lost, ..] = judged(|_, _, kept| drop(kept.changes.remove("c1")));
        assert_eq!(lost, 1, "a change is gone");
        let [lost, ..] = judged(|_, _, kept| kept.executions.clear());
        assert_eq!(lost, 1, "an execution is gone");
        let again = ("run".to_owned(), 3, Some("1".to_owned()));
        let [_, twice, ..] = judged(|_, _, kept| drop(kept.changes.insert("c2".to_owned(), again)));
        assert_eq!(twice, 1, "a callback was applied again");
        let [_, twice, ..] = judged(|stories, _, kept| {
            stories[0].callbacks[2].means = Means::News;
            stories[0].callbacks[2].body = stories[0].callbacks[1].body.clone();
            kept.changes.insert("c2".to_owned(), ("run".to_owned(), 3, Some("1".to_owned())));
        });
        assert!(twice > 0, "the same bytes were applied twice");
        let body = |kept: &mut Kept| kept.receipts.get_mut("0").expect("kept").1 = Some(b"other".to_vec());
        assert_eq!(judged(|_, _, kept| body(kept))[0], 1, "bytes are not what was sent");
        assert_eq!(judged(|_, told, _| told[1].outcome = "conflict".to_owned())[3], 1, "told otherwise than kept");
        let failed = |kept: &mut Kept| kept.executions.get_mut("run").expect("kept").0 = "failed".to_owned();
        assert_eq!(judged(|_, _, kept| failed(kept)), [0, 0, 0, 1], "another end");
        let stranger = ("stranger".to_owned(), ("pending".to_owned(), 0));
        assert_eq!(judged(|_, _, kept| kept.executions.extend([stranger])), [0, 0, 0, 1], "a stranger's");
    }

    fn step(place: i64, end: End) -> Step {
        Step { key: "run".to_owned(), place, delivery: format!("d{place}"), end }
    }

    /// What is found wrong with these steps of an execution of three changes; or how much was taken and repeated.
    fn walked(rule: Rule, steps: &[(i64, End)]) -> Result<(usize, usize), [usize; 4]> {
        let steps: Vec<Step> = steps.iter().map(|&(place, end)| step(place, end)).collect();
        let mut findings = Findings::default();
        let told = sink("one", rule, &[("run".to_owned(), 1..=3)].into(), &steps, &mut findings);
        if findings.are_none() { Ok(told) } else { Err(counts(&findings)) }
    }

    #[test]
    fn a_sink_that_was_told_too_little_or_out_of_order_is_found_out() {
        use End::{Came, Refused, Taken};
        let each = |steps: &[(i64, End)]| walked(Rule::Each, steps);
        let good = [(1, Came), (1, Taken), (2, Came), (2, Taken), (3, Came), (3, Taken)];
        assert_eq!(each(&good), Ok((3, 0)));
        let again = [&good[..4], &[(1, Came), (1, Taken), (2, Came)], &good[4..]].concat();
        assert_eq!(each(&again), Ok((3, 2)), "what comes again is counted");
        assert_eq!(each(&good[..4]), Err([1, 0, 0, 0]), "the last is missing");
        assert_eq!(each(&[&good[..5], &[(3, Refused)]].concat()), Err([1, 0, 0, 0]), "the last was never taken");
        let mut swapped = good;
        swapped.swap(0, 2);
        swapped.swap(1, 3);
        assert_eq!(each(&swapped), Err([0, 0, 2, 0]), "a swapped pair");
        let hasty = [(1, Came), (2, Came), (1, Taken), (2, Taken), (3, Came), (3, Taken)];
        assert_eq!(each(&hasty), Err([0, 0, 1, 0]), "the second while the first was under way");
        let given_up = [(1, Came), (1, Refused), (2, Came), (2, Taken), (3, Came), (3, Taken), (1, Came), (1, Taken)];
        assert_eq!(each(&given_up), Ok((3, 1)), "what was given up lets the next one go, and comes when retried");
        assert_eq!(each(&[&good[..], &[(4, Came)]].concat()), Err([0, 0, 0, 1]), "a change that is none");
        let newest = |steps: &[(i64, End)]| walked(Rule::Newest, steps);
        assert_eq!(newest(&[(1, Came), (1, Taken), (3, Came), (3, Taken)]), Ok((2, 0)));
        assert_eq!(newest(&good[..4]), Err([1, 0, 0, 0]), "the newest is missing");
        assert_eq!(newest(&[&good[4..], &good[2..4]].concat()), Err([0, 0, 1, 0]), "an older one after it");
        let mut findings = Findings::default();
        let strange = [step(1, Came), Step { delivery: "d9".to_owned(), ..step(1, Taken) }];
        sink("one", Rule::Each, &[("run".to_owned(), 1..=1)].into(), &strange, &mut findings);
        assert_eq!(counts(&findings), [0, 0, 0, 1], "one change under two ids");
    }

    #[test]
    fn a_run_that_was_not_reported_is_found_out() {
        let tasks = ["T1 ended", "T2 ended"].map(str::to_owned).to_vec();
        let expected = [Reported { run: "r_1".to_owned(), status: "SUCCESS", tasks }];
        let judged = |status: &str, log: &str, doubted: &[&str]| {
            let mut findings = Findings::default();
            let ledger = [("r_1".to_owned(), (status.to_owned(), log.to_owned()))].into();
            let doubted = doubted.iter().map(|&run| run.to_owned()).collect();
            let counted = runs(&expected, &ledger, &doubted, &mut findings);
            if findings.are_none() { Ok(counted) } else { Err(counts(&findings)) }
        };
        assert_eq!(judged("SUCCESS", "T1 ended\nT1 ended\nT2 ended", &[]), Ok((3, 1)));
        assert_eq!(judged("IN_PROGRESS", "T1 ended\nT2 ended", &[]), Err([1, 0, 0, 0]));
        assert_eq!(judged("SUCCESS", "T2 ended", &[]), Err([1, 0, 0, 0]));
        assert_eq!(judged("SUCCESS", "T2 ended", &["r_1"]), Ok((2, 0)));
        assert_eq!(judged("SUCCESS", "T2 ended\nT1 ended", &[]), Err([0, 0, 1, 0]));
    }
}
