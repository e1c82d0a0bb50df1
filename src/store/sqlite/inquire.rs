//! Inquiries inside the transaction: receipts that are held until their vendor confirms them, and executions that are
//! not finished in time.

use rusqlite::{OptionalExtension, params};

use super::again::ReadyAgain;
use super::identity::hash_of;
use super::news;
use super::ready::{ReadyUpdate, ready_update, render};
use super::record::{Done, Found, Place, apply, find, follow, state_of};
use super::writer::{Fault, Tx};
use crate::model::{ReceiptStatus, Rules, State, Status, Time, Update, Verdict};
use crate::store::{Held, Inquiry, Late, Lateness, Recorded, UNASKED};

/// So many receipts of one execution are decided by one answer; what is beyond waits for the next.
const LINE_MAX: usize = 100;
/// What comes in while others of its execution wait, waits with them, but no longer than this: a forged callback that is
/// asked about ever more seldom is not to hold up a true one, nor are many repeats to be asked about one by one.
const LINE_PAUSE_MS: u64 = 10_000;

/// Holds a receipt until its vendor was asked. What says nothing that we do not hold already needs no confirmation: it
/// is a duplicate, and its vendor is not asked again.
pub(super) fn hold(tx: &mut Tx<'_>, source: &str, receipt: i64, now: Time, updates: &[Update]) -> Result<Done, Fault> {
    let mut known = Vec::new();
    for update in updates {
        known.push(says_nothing_new(tx, source, update)?);
    }
    let mut recorded =
        Recorded { receipt, outcome: ReceiptStatus::Duplicate, executions: Vec::new(), wake: Vec::new() };
    if let Some(executions) = known.into_iter().collect::<Option<Vec<i64>>>() {
        for execution in executions {
            if !recorded.executions.contains(&execution) {
                recorded.executions.push(execution);
            }
        }
        return Ok(Done { recorded, reason: None });
    }
    recorded.outcome = ReceiptStatus::Held;
    let (key, short) = updates.first().map_or(("", ""), |update| (update.key.as_str(), update.short_key()));
    tx.conn.execute(
        "INSERT INTO inquiries (id, source, key, due_at, leased, asked, failures)
         SELECT ?1, ?2, ?3,
                coalesce((SELECT min(min(due_at), ?5) FROM inquiries WHERE source = ?2 AND key = ?3 AND leased = 0), ?4), 0, 0, 0",
        params![receipt, source, key, now.micros(), now.plus_ms(LINE_PAUSE_MS).micros()],
    )?;
    Ok(Done { recorded, reason: Some([short, UNASKED].concat()) })
}

/// The execution that the update speaks of, when it tells us nothing of it.
fn says_nothing_new(tx: &mut Tx<'_>, source: &str, update: &Update) -> Result<Option<i64>, Fault> {
    let Found::Head(head) = find(tx, source, &update.key, hash_of(&update.key))? else { return Ok(None) };
    let verdict = state_of(&head.snapshot)?.judge(head.seen.lines(), update);
    Ok((verdict == Verdict::Duplicate).then_some(head.id))
}

/// Expects an execution that has just begun to be finished in time.
pub(super) fn expect(tx: &mut Tx<'_>, source: &str, execution: i64, by: Time) -> Result<(), Fault> {
    tx.sql.expect.execute(params![execution, source, by.micros()])?;
    Ok(())
}

/// An execution is finished, or a receipt decided: nothing is to be asked about it any more.
pub(super) fn forget(tx: &mut Tx<'_>, id: i64) -> Result<(), Fault> {
    tx.sql.answered.execute([id])?;
    Ok(())
}

/// A claimed inquiry as the rows have it.
pub(super) enum Claimed {
    Held(Vec<Held>),
    Late { execution: i64, snapshot: String, is_marked: bool, asked: u32, failures: u32 },
}

impl Claimed {
    /// `None` for an execution that cannot be read, which comes again when its lease is over.
    pub(super) fn into_inquiry(self) -> Option<Inquiry> {
        match self {
            Claimed::Held(receipts) => Some(Inquiry::Held(receipts)),
            Claimed::Late { execution, snapshot, is_marked, asked, failures } => match State::of_snapshot(&snapshot) {
                Ok(state) => Some(Inquiry::Late(Box::new(Late { execution, state, is_marked, asked, failures }))),
                Err(e) => {
                    tracing::error!(execution.id = execution, error = %e, "an execution that is late cannot be read");
                    None
                }
            },
        }
    }
}

pub(super) fn claim(
    tx: &mut Tx<'_>,
    source: &str,
    limit: usize,
    asks: bool,
    now: Time,
    until: Time,
) -> Result<(Vec<Claimed>, Option<Time>), Fault> {
    let (source_and_now, mut claimed) = (params![source, now.micros()], Vec::new());
    let mut due = tx.conn.prepare(
        "SELECT id FROM inquiries WHERE source = ?1 AND key IS NULL AND due_at <= ?2 ORDER BY due_at LIMIT ?3",
    )?;
    let rows = due.query_map(params![source, now.micros(), limit as i64], |row| row.get(0))?;
    for execution in rows.collect::<Result<Vec<i64>, _>>()? {
        claimed.extend(claim_late(tx, execution, until)?);
    }
    let next = |about: &str| -> rusqlite::Result<Option<i64>> {
        let sql = format!("SELECT min(due_at) FROM inquiries WHERE source = ?1 AND key IS {about} AND due_at > ?2");
        tx.conn.query_row(&sql, source_and_now, |row| row.get(0))
    };
    let mut next_due = next("NULL")?;
    if asks {
        // Of an execution about which a question is under way, another has to wait for the answer.
        let mut due = tx.conn.prepare(
            "SELECT i.key FROM inquiries i
             WHERE i.source = ?1 AND i.key IS NOT NULL AND i.due_at <= ?2
               AND NOT EXISTS (SELECT 1 FROM inquiries l WHERE l.source = ?1 AND l.key = i.key AND l.due_at > ?2 AND l.leased = 1)
             ORDER BY i.due_at LIMIT 1",
        )?;
        while claimed.len() < limit {
            let key: Option<String> = due.query_row(source_and_now, |row| row.get(0)).optional()?;
            let Some(key) = key else { break };
            claimed.push(Claimed::Held(claim_held(tx, source, &key, now, until)?));
        }
        let held = next("NOT NULL")?;
        next_due = next_due.into_iter().chain(held).min();
    }
    Ok((claimed, next_due.map(Time::from_micros)))
}

fn claim_held(tx: &Tx<'_>, source: &str, key: &str, now: Time, until: Time) -> Result<Vec<Held>, Fault> {
    let mut line = tx.conn.prepare(
        "UPDATE inquiries SET leased = 1, due_at = ?4
         WHERE id IN (SELECT id FROM inquiries WHERE source = ?1 AND key = ?2 AND due_at <= ?3 ORDER BY id LIMIT ?5)
         RETURNING id, asked, failures",
    )?;
    let held = line.query_map(params![source, key, now.micros(), until.micros(), LINE_MAX as i64], |row| {
        Ok(Held { receipt: row.get(0)?, asked: row.get(1)?, failures: row.get(2)? })
    })?;
    let mut held: Vec<Held> = held.collect::<Result<_, _>>()?;
    held.sort_by_key(|held| held.receipt);
    Ok(held)
}

/// `None` for one that is finished: it was noted while nobody expected anything of its source.
fn claim_late(tx: &mut Tx<'_>, execution: i64, until: Time) -> Result<Option<Claimed>, Fault> {
    let head: Option<(String, String)> = tx
        .conn
        .prepare("SELECT status, snapshot FROM execution_heads WHERE id = ?1")?
        .query_row([execution], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let open = head.filter(|(status, _)| !status.parse().is_ok_and(Status::is_finished));
    let Some((_, snapshot)) = open else {
        forget(tx, execution)?;
        return Ok(None);
    };
    let mut lease = tx.conn.prepare(
        "UPDATE inquiries SET leased = 1, due_at = ?2 WHERE id = ?1 RETURNING overdue_at IS NOT NULL, asked, failures",
    )?;
    let late = lease.query_row(params![execution, until.micros()], |row| {
        let (is_marked, asked, failures) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Claimed::Late { execution, snapshot, is_marked, asked, failures })
    })?;
    Ok(Some(late))
}

/// What follows for a held receipt, made ready off the writer's thread.
pub(super) enum ReadyRuling {
    Confirmed(ReadyAgain),
    Refused(String),
    Waits { due_at: Time, answered: bool, reason: String },
}

impl ReadyRuling {
    /// Nothing follows when an operator has decided meanwhile.
    pub(super) fn settle(&self, tx: &mut Tx<'_>, receipt: i64, now: Time) -> Result<Vec<String>, Fault> {
        let is_held: bool = tx.conn.query_row(
            "SELECT EXISTS (SELECT 1 FROM receipts WHERE id = ?1 AND status = 'held')",
            [receipt],
            |row| row.get(0),
        )?;
        if !is_held {
            return Ok(Vec::new());
        }
        let (status, reason) = match self {
            ReadyRuling::Confirmed(again) => return again.record(tx).map(|recorded| recorded.wake),
            ReadyRuling::Refused(reason) => {
                forget(tx, receipt)?;
                ("refused", reason)
            }
            ReadyRuling::Waits { due_at, answered, reason } => {
                tx.conn.execute(
                    "UPDATE inquiries SET leased = 0, due_at = ?2, asked = asked + ?3, failures = iif(?3, 0, failures + 1) WHERE id = ?1",
                    params![receipt, due_at.micros(), answered],
                )?;
                // And what came in during the question. Only what is due by now: each of the line is ruled so, a little
                // later than the one before, and all that waits would be written anew each time.
                tx.conn.execute(
                    "UPDATE inquiries SET due_at = ?2
                     WHERE source = (SELECT source FROM inquiries WHERE id = ?1) AND key = (SELECT key FROM inquiries WHERE id = ?1)
                       AND due_at <= ?3 AND due_at < ?2 AND leased = 0",
                    params![receipt, (*due_at).min(now.plus_ms(LINE_PAUSE_MS)).micros(), now.micros()],
                )?;
                ("held", reason)
            }
        };
        tx.conn
            .execute("UPDATE receipts SET status = ?2, reason = ?3 WHERE id = ?1", params![receipt, status, reason])?;
        Ok(Vec::new())
    }
}

/// Makes due what waits because there was no answer.
pub(super) fn hurry(tx: &Tx<'_>, source: &str, now: Time) -> Result<(), Fault> {
    tx.conn.execute(
        "UPDATE inquiries SET due_at = ?2 WHERE source = ?1 AND due_at > ?2 AND leased = 0 AND failures > 0",
        params![source, now.micros()],
    )?;
    Ok(())
}

/// What of a [`Lateness`] was made ready off the writer's thread.
pub(super) struct ReadyLateness {
    source: String,
    truth: Option<ReadyUpdate>,
    lateness: Lateness,
}

impl ReadyLateness {
    pub(super) fn new(source: String, mut lateness: Lateness, rules: &Rules, now: Time) -> ReadyLateness {
        let truth = lateness.truth.take().map(|update| ready_update(&source, now, update, rules));
        ReadyLateness { source, truth, lateness }
    }

    pub(super) fn settle(
        &self,
        tx: &mut Tx<'_>,
        execution: i64,
        rules: &Rules,
        now: Time,
    ) -> Result<Vec<String>, Fault> {
        let mut wake = Vec::new();
        if let Some(truth) = &self.truth {
            apply(tx, &self.source, None, now, truth, rules, &mut wake)?;
            news::aside(tx, Some(execution), None, now)?;
        }
        let open: Option<bool> = tx
            .conn
            .query_row(
                "SELECT i.overdue_at IS NOT NULL FROM inquiries i JOIN execution_heads h ON h.id = i.id
                 WHERE i.id = ?1 AND h.status NOT IN ('succeeded', 'failed', 'cancelled')",
                [execution],
                |row| row.get(0),
            )
            .optional()?;
        let Some(is_marked) = open else {
            forget(tx, execution)?;
            return Ok(wake);
        };
        let marks = self.lateness.marks && !is_marked;
        tx.conn.execute(
            "UPDATE inquiries SET leased = 0, due_at = ?2, asked = asked + ?3, failures = iif(?3, 0, failures + 1),
                    overdue_at = coalesce(overdue_at, ?4) WHERE id = ?1",
            params![
                execution,
                self.lateness.due_at.map(Time::micros),
                self.lateness.answered,
                marks.then_some(now.micros())
            ],
        )?;
        if marks {
            mark(tx, execution, rules, now, &mut wake)?;
        }
        wake.sort_unstable();
        wake.dedup();
        Ok(wake)
    }
}

/// The change that says an execution is overdue. What we hold to be true stays as it is.
fn mark(tx: &mut Tx<'_>, execution: i64, rules: &Rules, now: Time, wake: &mut Vec<String>) -> Result<(), Fault> {
    let (sequence, snapshot): (u32, String) =
        tx.conn.query_row("SELECT sequence + 1, snapshot FROM execution_heads WHERE id = ?1", [execution], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    let accepted = state_of(&snapshot)?.overdue();
    let rendered = render(&accepted, execution, sequence, None, now, rules);
    let change = tx.new_id(now);
    tx.sql.set_aside.execute([execution])?;
    tx.conn.execute(
        "UPDATE execution_heads SET previous = change, change = ?2, sequence = ?3, type = ?4, previous_status = status,
                changed_tasks = ?5, receipt = NULL, received_at = ?6 WHERE id = ?1",
        params![execution, change, sequence, rendered.kind, rendered.changed_tasks, now.micros()],
    )?;
    follow(tx, &Place { execution, change, sequence, now }, &rendered, rules, wake)?;
    Ok(news::aside(tx, Some(execution), None, now)?)
}
