//! Opens what was found after a power cut as the daemon would, and holds it against what the world knows.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use callbackd::model::{Attempt, Rules, Time};
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{Fate, Queries, Settlement, Store};
use rusqlite::{Connection, OpenFlags, Row};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::callbacks::Step;
use crate::daemon::STORE;
use crate::known::{Known, Story};
use crate::load::{SINKS, body};

/// What a store that is as it should be held.
#[derive(Clone, Copy, Default)]
pub(crate) struct Held {
    /// Acknowledged callbacks.
    pub(crate) told: usize,
    /// Runs that retention may let go of: those it did, and those it did not yet.
    pub(crate) gone: usize,
    pub(crate) left: usize,
    /// Deliveries that were still to be made.
    pub(crate) open: usize,
}

/// Checks one store after another.
pub(crate) struct Verifier<'s> {
    story: &'s Story,
    runtime: Runtime,
    /// Changes that said what they should when they were seen first, as rows and as the queries say them: none is ever altered.
    right: HashMap<i64, (String, Value)>,
}

macro_rules! hold {
    ($holds:expr, $($otherwise:tt)+) => {
        if !$holds {
            return Err(format!($($otherwise)+));
        }
    };
}

struct Receipt {
    status: String,
    body: Option<Vec<u8>>,
}

struct Change {
    execution: i64,
    sequence: i64,
    receipt: i64,
    snapshot: String,
}

struct Delivery {
    execution: i64,
    sink: String,
    change: i64,
    status: String,
}

/// The store, row for row.
struct Rows {
    receipts: HashMap<i64, Receipt>,
    /// By key: id, status, sequence.
    executions: HashMap<String, (i64, String, i64)>,
    changes: BTreeMap<i64, Change>,
    deliveries: BTreeMap<i64, Delivery>,
    by_body: HashMap<Vec<u8>, i64>,
    /// Changes by theirs.
    by_receipt: HashMap<i64, i64>,
}

type Holds<T> = Result<T, String>;

impl<'s> Verifier<'s> {
    pub(crate) fn new(story: &'s Story) -> Verifier<'s> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Verifier { story, runtime, right: HashMap::new() }
    }

    /// `Err` says what is wrong with it.
    pub(crate) fn verify(&mut self, folder: &Path, known: &Known) -> Holds<Held> {
        let path = folder.join(STORE);
        let store = SqliteStore::open(&path, &Options::default()).map_err(|e| format!("it does not open: {e}"))?;
        let held = self.verify_open(&store, &path, known);
        self.runtime.block_on(store.close());
        held
    }

    fn verify_open(&mut self, store: &SqliteStore, path: &Path, known: &Known) -> Holds<Held> {
        let rows = Rows::read(path).map_err(|e| format!("it cannot be read: {e}"))?;
        let going: HashSet<i64> = rows
            .executions
            .iter()
            .filter(|(key, _)| self.story.may_be_gone(key, known))
            .map(|(_, row)| row.0)
            .collect();
        rows.belong_together(&going)?;
        self.changes_are_right(&rows, store)?;
        let mut held = self.acknowledged_is_there(&rows, &going, known)?;
        deliveries_are_right(&rows, known)?;
        held.open = self.runtime.block_on(the_rest_is_delivered_in_order(&rows, store))?;
        Ok(held)
    }

    /// Every change says what sinks were told of it; the product's own queries say it, and nothing else.
    fn changes_are_right(&mut self, rows: &Rows, store: &SqliteStore) -> Holds<()> {
        for (id, change) in &rows.changes {
            let right = self.right.get(id);
            if right.is_some_and(|(snapshot, _)| *snapshot == change.snapshot) {
                continue;
            }
            let execution = self.runtime.block_on(store.execution(change.execution.to_string()));
            let execution = execution.map_err(|e| format!("execution {} cannot be shown: {e}", change.execution))?;
            let changes = execution["changes"].as_array().ok_or("no changes")?;
            let shown = Value::from(id.to_string());
            let found = changes.iter().find(|found| found["id"] == shown);
            let said = &found.ok_or_else(|| format!("change {id} is not shown"))?["data"];
            let of_sinks = self.story.changes.get(id);
            // What no sink was told any more, because power went before, has no one to say what it was.
            hold!(of_sinks.is_none_or(|told| told.said == *said), "change {id} is shown as {said}");
            hold!(right.is_none_or(|(_, right)| right == said), "change {id} was altered, and is shown as {said}");
            let is_latest = changes.last() == found;
            hold!(!is_latest || execution["tasks"] == said["tasks"], "tasks of {} are not its own", change.execution);
            self.right.insert(*id, (change.snapshot.clone(), said.clone()));
        }
        Ok(())
    }

    /// Every acknowledged callback is there with what it said, but for what retention may let go of.
    fn acknowledged_is_there(&self, rows: &Rows, going: &HashSet<i64>, known: &Known) -> Holds<Held> {
        let mut held = Held { told: known.told.len(), ..Held::default() };
        let mut runs = HashSet::new();
        for told in &known.told {
            if let (true, Some(_)) = (runs.insert(&told.run), told.step) {
                let is_there = rows.executions.contains_key(&told.run);
                let may_be_gone = match rows.executions.get(&told.run) {
                    Some((execution, ..)) => going.contains(execution),
                    None => self.story.may_be_gone(&told.run, known),
                };
                hold!(is_there || may_be_gone, "lost: {told:?}, with its execution");
                held.gone += usize::from(!is_there);
                held.left += usize::from(is_there && may_be_gone);
            }
            let bytes = body(told.step, &told.run).into_bytes();
            let receipt = told.receipt.or_else(|| rows.by_body.get(&bytes).copied());
            let is_there = receipt.is_some_and(|receipt| rows.receipts.contains_key(&receipt));
            match rows.executions.get(&told.run) {
                None if told.step.is_some() => {
                    hold!(!is_there, "{told:?} is left of what is gone");
                    continue;
                }
                // Gone by half: see `belong_together`.
                Some((execution, ..)) if !is_there && going.contains(execution) => continue,
                _ => {}
            }
            let receipt = receipt.ok_or_else(|| format!("lost: {told:?}"))?;
            let row = rows.receipts.get(&receipt).ok_or_else(|| format!("lost: {told:?}"))?;
            hold!(told.receipt.is_none() || row.status == told.outcome, "{told:?} is {}", row.status);
            match (&*row.status, told.step) {
                ("duplicate", Some(_)) => continue,
                ("quarantined", None) | ("accepted", Some(_)) => {}
                (status, _) => return Err(format!("{told:?} is {status}")),
            }
            hold!(row.body.as_ref() == Some(&bytes), "{told:?} has other bytes");
            let Some(step) = told.step else { continue };
            let change = rows.by_receipt.get(&receipt).ok_or_else(|| format!("lost: the change of {told:?}"))?;
            let (_, said) = &self.right[change];
            let status = match step {
                Step::Start | Step::TaskFinish => "running",
                Step::Success => "succeeded",
                Step::Failed => "failed",
            };
            hold!(said["execution"]["status"] == status, "{told:?} made {said}");
            let tasks = said["tasks"].as_array().map_or(0, Vec::len);
            hold!(tasks == usize::from(step != Step::Start) || tasks == 1, "{told:?} made {said}");
        }
        Ok(held)
    }
}

impl Rows {
    fn read(path: &Path) -> rusqlite::Result<Rows> {
        let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        if check != "ok" {
            return Err(rusqlite::Error::InvalidColumnName(check));
        }
        let orphans: i64 = conn.query_row(
            "SELECT count(*) FROM attempts WHERE delivery NOT IN (SELECT id FROM deliveries)",
            [],
            |row| row.get(0),
        )?;
        if orphans != 0 {
            return Err(rusqlite::Error::InvalidColumnName(format!("{orphans} attempts of no delivery")));
        }
        fn all<K, V>(
            conn: &Connection,
            sql: &str,
            read: impl Fn(&Row<'_>) -> rusqlite::Result<(K, V)>,
        ) -> rusqlite::Result<Vec<(K, V)>> {
            conn.prepare(sql)?.query_map([], |row| read(row))?.collect()
        }
        let receipts: HashMap<_, _> = all(&conn, "SELECT id, status, body FROM receipts", |row| {
            Ok((row.get(0)?, Receipt { status: row.get(1)?, body: row.get(2)? }))
        })?
        .into_iter()
        .collect();
        let executions = all(&conn, "SELECT key, id, status, sequence FROM executions", |row| {
            Ok((row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?)))
        })?;
        // As they are stored: the view says them in words, which takes its time.
        let sql = "SELECT change, id, sequence, receipt, snapshot FROM execution_heads
                   UNION ALL SELECT id, execution, sequence, receipt, snapshot FROM earlier_changes";
        let changes = all(&conn, sql, |row| {
            let (execution, sequence, receipt) = (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, Change { execution, sequence, receipt, snapshot: row.get(4)? }))
        })?;
        let deliveries = all(&conn, "SELECT id, execution, sink, change, status FROM deliveries", |row| {
            let (execution, sink, change) = (row.get(1)?, row.get(2)?, row.get(3)?);
            Ok((row.get(0)?, Delivery { execution, sink, change, status: row.get(4)? }))
        })?;
        let by_body = receipts.iter().filter(|(_, receipt)| receipt.status != "duplicate");
        let by_body =
            by_body.filter_map(|(id, receipt): (&i64, &Receipt)| Some((receipt.body.clone()?, *id))).collect();
        let by_receipt = changes.iter().map(|(id, change): &(i64, Change)| (change.receipt, *id)).collect();
        Ok(Rows {
            receipts,
            by_receipt,
            executions: executions.into_iter().collect(),
            changes: changes.into_iter().collect(),
            deliveries: deliveries.into_iter().collect(),
            by_body,
        })
    }

    /// No half of anything: each change has its execution and its receipt, counts on without a gap, and has one delivery
    /// for each sink. Of those that retention may let go of, it may have begun to: with one, and never with two.
    fn belong_together(&self, going: &HashSet<i64>) -> Holds<()> {
        let mut by_half = HashSet::new();
        let mut deliveries: HashMap<(i64, &str), usize> = HashMap::new();
        for (id, delivery) in &self.deliveries {
            *deliveries.entry((delivery.change, &delivery.sink)).or_default() += 1;
            let of = self.changes.get(&delivery.change).map(|change| change.execution);
            hold!(of == Some(delivery.execution), "delivery {id} of {} tells a change of {of:?}", delivery.execution);
        }
        let mut sequences: HashMap<i64, Vec<i64>> = HashMap::new();
        for (id, change) in &self.changes {
            sequences.entry(change.execution).or_default().push(change.sequence);
            let receipt = self.receipts.get(&change.receipt).map(|receipt| &*receipt.status);
            hold!(receipt == Some("accepted"), "the receipt of change {id} is {receipt:?}");
            for sink in SINKS {
                match deliveries.get(&(*id, sink)) {
                    Some(1) => {}
                    None if going.contains(&change.execution) => drop(by_half.insert(change.execution)),
                    count => return Err(format!("change {id} has {count:?} deliveries for {sink}")),
                }
            }
        }
        for (key, (id, _, sequence)) in &self.executions {
            let found = sequences.remove(id).unwrap_or_default();
            if !found.iter().copied().eq(1..=*sequence) {
                hold!(going.contains(id), "{key} is at {sequence}, and has the changes {found:?}");
                by_half.insert(*id);
            }
        }
        hold!(by_half.len() <= 1, "let go of by half: {by_half:?}");
        hold!(sequences.is_empty(), "changes of no execution: {sequences:?}");
        let accepted = self.receipts.values().filter(|receipt| receipt.status == "accepted").count();
        hold!(accepted == self.changes.len(), "{accepted} accepted receipts, {} changes", self.changes.len());
        Ok(())
    }
}

/// What came to a sink was a promise before; what counts as delivered was taken; and nothing is open before something that
/// the sink was told already.
fn deliveries_are_right(rows: &Rows, known: &Known) -> Holds<()> {
    let mut told_later: HashMap<(i64, &str), i64> = HashMap::new();
    for (id, delivery) in rows.deliveries.iter().rev() {
        let is_open = match &*delivery.status {
            "delivered" => {
                hold!(known.took.contains(id), "delivery {id} counts as delivered, and was not");
                false
            }
            "waiting" => true,
            status => return Err(format!("delivery {id} is {status}")),
        };
        let line = (delivery.execution, &*delivery.sink);
        if let Some(later) = told_later.get(&line).filter(|_| is_open) {
            return Err(format!("delivery {id} would be told after {later}, which came after it"));
        }
        if known.came.contains(id) {
            told_later.insert(line, *id);
        }
    }
    Ok(())
}

/// Everything that is open can be claimed, once, in the order of its execution, and settled. Returns how many there were.
async fn the_rest_is_delivered_in_order(rows: &Rows, store: &SqliteStore) -> Holds<usize> {
    let mut open: HashMap<(&str, i64), Vec<i64>> = HashMap::new();
    for (id, delivery) in rows.deliveries.iter().rev().filter(|(_, delivery)| delivery.status == "waiting") {
        open.entry((&*delivery.sink, delivery.execution)).or_default().push(*id);
    }
    let count = open.values().map(Vec::len).sum();
    // Later than anything is due.
    let now = Time::from_micros(i64::MAX / 4);
    for sink in SINKS {
        loop {
            let claim = store.claim(sink.to_owned(), 1000, 60_000, now, now).await;
            let claim = claim.map_err(|e| format!("nothing can be claimed: {e}"))?;
            if claim.deliveries.is_empty() {
                break;
            }
            let mut settled = Vec::new();
            for delivery in claim.deliveries {
                let next = open.get_mut(&(sink, delivery.change.execution_id)).and_then(Vec::pop);
                hold!(next == Some(delivery.id), "delivery {} is due, and {next:?} is the next", delivery.id);
                let attempt = Attempt {
                    started_at: now,
                    duration_ms: 1,
                    outcome: "delivered".to_owned(),
                    status: Some(200),
                    reason: None,
                    answer: None,
                };
                let (fate, learned) = (Fate::Delivered, Vec::new());
                let settlement = Settlement { delivery: delivery.id, lease: claim.until, attempt, fate, learned };
                settled.push(store.settle(settlement, Rules::default().into(), now));
            }
            for settled in settled {
                settled.await.map_err(|e| format!("nothing can be settled: {e}"))?;
            }
        }
    }
    open.retain(|_, left| !left.is_empty());
    hold!(open.is_empty(), "never to be claimed: {open:?}");
    Ok(count)
}
