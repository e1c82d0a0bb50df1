//! Inquiries that are claimed, and the times that they wait for.

use rusqlite::{OptionalExtension, params};

use super::super::rules::{Asked, InquiryRows, LINE_MAX};
use super::set_back;
use super::writer::{Fault, Tx};
use crate::model::{Status, Time};
use crate::store::Held;

pub(super) fn claim(
    tx: &mut Tx<'_>,
    source: &str,
    limit: usize,
    asks: bool,
    now: Time,
    until: Time,
) -> Result<(Vec<Asked>, Option<Time>), Fault> {
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
            claimed.push(Asked::Held(claim_held(tx, source, &key, now, until)?));
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
fn claim_late(tx: &mut Tx<'_>, execution: i64, until: Time) -> Result<Option<Asked>, Fault> {
    let head: Option<(String, String)> = tx
        .conn
        .prepare("SELECT status, snapshot FROM execution_heads WHERE id = ?1")?
        .query_row([execution], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    let open = head.filter(|(status, _)| !status.parse().is_ok_and(Status::is_finished));
    let Some((_, snapshot)) = open else {
        tx.delete_inquiry(execution)?;
        return Ok(None);
    };
    let mut lease = tx.conn.prepare(
        "UPDATE inquiries SET leased = 1, due_at = ?2 WHERE id = ?1 RETURNING overdue_at IS NOT NULL, asked, failures",
    )?;
    let late = lease.query_row(params![execution, until.micros()], |row| {
        let (is_marked, asked, failures) = (row.get(0)?, row.get(1)?, row.get(2)?);
        Ok(Asked::Late { execution, snapshot, is_marked, asked, failures })
    })?;
    Ok(Some(late))
}

/// Makes due what waits because there was no answer.
pub(super) fn hurry(tx: &Tx<'_>, source: &str, now: Time) -> Result<(), Fault> {
    tx.conn.execute(
        "UPDATE inquiries SET due_at = ?2 WHERE source = ?1 AND due_at > ?2 AND leased = 0 AND failures > 0",
        params![source, now.micros()],
    )?;
    Ok(())
}

/// The clock was set back: what waits is due sooner by as much. When nobody saw by how much, only what is held: an execution
/// that began since then is not to be late too soon.
pub(super) fn set_back(tx: &Tx<'_>, source: &str, by_ms: Option<u64>, now: Time) -> Result<(), Fault> {
    let waits = "UPDATE inquiries SET due_at = max(?2, due_at - ?3) WHERE source = ?1 AND due_at > ?2 AND leased = 0";
    let Some(by_us) = set_back::by_us(tx, by_ms, now) else { return Ok(()) };
    tx.conn.execute(&format!("{waits} AND key IS NOT NULL"), params![source, now.micros(), by_us])?;
    if by_ms.is_some() {
        tx.conn.execute(&format!("{waits} AND key IS NULL"), params![source, now.micros(), by_us])?;
    }
    Ok(())
}
