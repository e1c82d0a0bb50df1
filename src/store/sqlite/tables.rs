//! The open transaction as the rules see it: a statement or two for each of their words.

use rusqlite::{OptionalExtension, Statement, params};

use super::super::rules::{
    ALIKE_MAX, Begins, Found, Head, InquiryRows, Kept, LOOKING_PARTNER, LinkRows, MarkedHead, MovedHead, NewDelivery,
    NewHead, Rows, Settled, UNFINISHED_PARTNER,
};
use super::writer::{Fault, Tx};
use crate::model::{Attempt, Receipt, ReceiptStatus, Status, Time};

type Done<T = ()> = Result<T, Fault>;

impl Rows for Tx<'_> {
    type Fault = Fault;

    fn unreadable(e: serde_json::Error) -> Fault {
        Fault::Sql(rusqlite::Error::FromSqlConversionFailure(5, rusqlite::types::Type::Text, Box::new(e)))
    }

    fn new_id(&mut self, now: Time) -> i64 {
        Tx::new_id(self, now)
    }

    fn insert_receipt(&mut self, id: i64, receipt: &Receipt, headers: &str, kept: &Kept<'_>) -> Done {
        let (source, body, now) = (&*receipt.source, &receipt.body[..], receipt.received_at.micros());
        let accepted = ReceiptStatus::Accepted;
        if let Kept { outcome, digest: None, reason: None, executions: &[execution] } = *kept
            && outcome == accepted
        {
            let row = params![id, source, now, receipt.peer, headers, body, execution];
            self.sql.insert_accepted.execute(row)?;
            return Ok(());
        }
        self.sql.insert_receipt.execute(params![
            id,
            source,
            kept.outcome.as_str(),
            now,
            receipt.peer,
            headers,
            kept.digest.is_none().then_some(body),
            body.len() as i64,
            kept.digest,
            kept.reason,
            kept.executions.first(),
            kept.several(),
        ])?;
        Ok(())
    }

    fn receipt_status(&mut self, receipt: i64) -> Done<Option<String>> {
        let sql = "SELECT status FROM receipts WHERE id = ?1";
        Ok(self.conn.query_row(sql, [receipt], |row| row.get(0)).optional()?)
    }

    fn update_receipt(&mut self, receipt: i64, kept: &Kept<'_>) -> Done {
        self.conn.execute(
            "UPDATE receipts SET status = ?2, reason = ?3, execution = ?4, executions = ?5,
                    body = iif(?6 IS NULL, body, NULL), digest = ?6 WHERE id = ?1",
            params![receipt, kept.outcome.as_str(), kept.reason, kept.executions.first(), kept.several(), kept.digest],
        )?;
        Ok(())
    }

    fn set_receipt(&mut self, receipt: i64, status: ReceiptStatus, reason: &str) -> Done {
        let sql = "UPDATE receipts SET status = ?2, reason = ?3 WHERE id = ?1";
        self.conn.execute(sql, params![receipt, status.as_str(), reason])?;
        Ok(())
    }

    fn find(&mut self, source: &str, key: &str, hash: i64) -> Done<Found> {
        let mut alike = 0;
        for execution in self.recent.with(hash).take(ALIKE_MAX) {
            if let Some(head) = head(&mut self.sql.find_head, execution, source, key)? {
                return Ok(Found::Head(head));
            }
            alike += 1;
        }
        let mut rows = self.sql.identities.query([hash])?;
        while alike < ALIKE_MAX
            && let Some(row) = rows.next()?
        {
            if let Some(head) = head(&mut self.sql.find_head, row.get(0)?, source, key)? {
                return Ok(Found::Head(head));
            }
            alike += 1;
        }
        Ok(if alike < ALIKE_MAX { Found::Nothing } else { Found::TooManyAlike })
    }

    fn insert_head(&mut self, head: &NewHead<'_>) -> Done {
        self.sql.insert_head.execute(params![
            head.id,
            head.source,
            head.key,
            head.seen,
            head.status.as_str(),
            head.change,
            head.kind,
            head.receipt,
            head.now.micros(),
            head.snapshot,
        ])?;
        self.recent.add(head.hash, head.id);
        Ok(())
    }

    fn move_head(&mut self, head: &MovedHead<'_>) -> Done {
        self.sql.set_aside.execute([head.id])?;
        self.sql.update_head.execute(params![
            head.id,
            head.seen,
            head.status.as_str(),
            head.change,
            head.sequence,
            head.kind,
            head.previous_status.map(Status::as_str),
            head.changed_tasks,
            head.receipt,
            head.now.micros(),
            head.snapshot,
        ])?;
        Ok(())
    }

    fn head(&mut self, execution: i64) -> Done<(u32, String)> {
        let sql = "SELECT sequence, snapshot FROM execution_heads WHERE id = ?1";
        Ok(self.conn.query_row(sql, [execution], |row| Ok((row.get(0)?, row.get(1)?)))?)
    }

    fn mark_head(&mut self, head: &MarkedHead<'_>) -> Done {
        self.sql.set_aside.execute([head.id])?;
        self.conn.execute(
            "UPDATE execution_heads SET previous = change, change = ?2, sequence = ?3, type = ?4, previous_status = status,
                    changed_tasks = ?5, receipt = NULL, received_at = ?6 WHERE id = ?1",
            params![head.id, head.change, head.sequence, head.kind, head.changed_tasks, head.now.micros()],
        )?;
        Ok(())
    }

    fn insert_delivery(&mut self, delivery: &NewDelivery<'_>) -> Done<bool> {
        let NewDelivery { id, execution, sink, change, now, begins } = *delivery;
        let now = now.micros();
        let (status, due_at, finished_at, reason) = match begins {
            Begins::Due => ("waiting", Some(now), None, None),
            Begins::Behind => ("waiting", None, None, None),
            Begins::Dead(reason) => ("dead", None, Some(now), Some(reason)),
        };
        let row = params![id, execution, sink, change, status, due_at, now, finished_at, reason];
        self.sql.insert_delivery.execute(row)?;
        Ok(true)
    }

    fn is_behind(&mut self, execution: i64, sink: &str) -> Done<bool> {
        Ok(self.sql.is_behind.query_row(params![execution, sink], |row| row.get(0))?)
    }

    fn supersede(&mut self, execution: i64, sink: &str, now: Time) -> Done {
        self.sql.supersede.execute(params![execution, sink, now.micros()])?;
        Ok(())
    }

    fn delivery(&mut self, delivery: i64) -> Done<Option<(i64, String)>> {
        let sql = "SELECT execution, sink FROM deliveries WHERE id = ?1";
        Ok(self.conn.query_row(sql, [delivery], |row| Ok((row.get(0)?, row.get(1)?))).optional()?)
    }

    fn settle(&mut self, settled: &Settled<'_>) -> Done<bool> {
        let rows = self.sql.settle.execute(params![
            settled.delivery,
            settled.lease.micros(),
            settled.status,
            settled.due_at.map(Time::micros),
            i64::from(settled.counts),
            settled.finished_at.map(Time::micros),
            i64::from(settled.until_linked),
            settled.resume,
            settled.reason
        ])?;
        Ok(rows > 0)
    }

    fn insert_attempt(&mut self, id: i64, delivery: i64, attempt: &Attempt) -> Done {
        self.sql.insert_attempt.execute(params![
            id,
            delivery,
            attempt.started_at.micros(),
            attempt.duration_ms as i64,
            attempt.outcome,
            attempt.status,
            attempt.reason,
            attempt.answer,
        ])?;
        Ok(())
    }

    fn hand_on(&mut self, delivery: i64, now: Time) -> Done<bool> {
        Ok(self.sql.hand_on.execute([delivery, now.micros()])? > 0)
    }

    fn next_in_line(&mut self, execution: i64, sink: &str, now: Time) -> Done {
        self.sql.next_in_line.execute(params![execution, sink, now.micros()])?;
        Ok(())
    }

    fn put_behind(&mut self, delivery: i64) -> Done {
        self.conn.execute("UPDATE deliveries SET due_at = NULL, until_linked = 0 WHERE id = ?1", [delivery])?;
        Ok(())
    }

    fn put_newer_behind(&mut self, execution: i64, sink: &str, delivery: i64) -> Done {
        self.conn.execute(
            "UPDATE deliveries SET due_at = NULL, until_linked = 0
             WHERE execution = ?1 AND sink = ?2 AND finished_at IS NULL AND id > ?3",
            params![execution, sink, delivery],
        )?;
        Ok(())
    }

    fn is_behind_older(&mut self, execution: i64, sink: &str, delivery: i64) -> Done<bool> {
        Ok(self.conn.query_row(
            "SELECT EXISTS (SELECT 1 FROM deliveries WHERE execution = ?1 AND sink = ?2 AND finished_at IS NULL
                            AND (id < ?3 OR id > ?3 AND status = 'leased'))",
            params![execution, sink, delivery],
            |row| row.get(0),
        )?)
    }

    fn has_its_turn(&mut self, delivery: i64) -> Done<bool> {
        let sql = "SELECT due_at IS NOT NULL AND finished_at IS NULL FROM deliveries WHERE id = ?1";
        Ok(self.conn.query_row(sql, [delivery], |row| row.get(0))?)
    }

    fn begin_anew(&mut self, delivery: i64, due: bool, now: Time) -> Done {
        self.conn.execute(
            "UPDATE deliveries SET status = 'waiting', due_at = ?2, finished_at = NULL, attempts = 0, created_at = ?3, until_linked = 0 WHERE id = ?1",
            params![delivery, due.then_some(now.micros()), now.micros()],
        )?;
        Ok(())
    }

    fn discard_delivery(&mut self, delivery: i64, reason: &str, now: Time) -> Done {
        self.conn.execute(
            "UPDATE deliveries SET status = 'discarded', reason = ?3, due_at = NULL, finished_at = ?2 WHERE id = ?1",
            params![delivery, now.micros(), reason],
        )?;
        Ok(())
    }

    fn insert_aside(&mut self, id: i64, execution: Option<i64>, delivery: Option<i64>) -> Done {
        let sql = "INSERT INTO asides (id, execution, delivery) VALUES (?1, ?2, ?3)";
        self.conn.execute(sql, params![id, execution, delivery])?;
        Ok(())
    }
}

impl LinkRows for Tx<'_> {
    fn insert_link_key(&mut self, rule: &str, side: &str, key: &str, execution: i64) -> Done {
        self.conn.execute(
            "INSERT OR IGNORE INTO link_keys (rule, side, key, execution) VALUES (?1, ?2, ?3, ?4)",
            params![rule, side, key, execution],
        )?;
        Ok(())
    }

    fn unfinished_partner(&mut self, rule: &str, key: &str, of: i64) -> Done<Option<i64>> {
        let found = self.conn.query_row(UNFINISHED_PARTNER, params![rule, key, of], |row| row.get(0));
        Ok(found.optional()?)
    }

    fn looking_partner(&mut self, rule: &str, key: &str, with: i64) -> Done<Option<i64>> {
        let found = self.conn.query_row(LOOKING_PARTNER, params![rule, key, with], |row| row.get(0));
        Ok(found.optional()?)
    }

    fn is_tied(&mut self, of: i64, with: i64) -> Done<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM links WHERE execution = ?1 AND with_execution = ?2)";
        Ok(self.conn.query_row(sql, [of, with], |row| row.get(0))?)
    }

    fn links_of(&mut self, execution: i64) -> Done<usize> {
        let links: i64 = self.conn.query_row(
            "SELECT (SELECT count(*) FROM links WHERE execution = ?1) + (SELECT count(*) FROM links WHERE with_execution = ?1)",
            [execution],
            |row| row.get(0),
        )?;
        Ok(usize::try_from(links).unwrap_or(0))
    }

    fn insert_link(&mut self, id: i64, rule: &str, of: i64, with: i64, now: Time) -> Done {
        self.conn.execute(
            "INSERT INTO links (id, rule, execution, with_execution, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
            params![id, rule, of, with, now.micros()],
        )?;
        Ok(())
    }

    fn wake_linked(&mut self, of: i64, now: Time, wake: &mut Vec<String>) -> Done {
        let mut due = self.conn.prepare(
            "UPDATE deliveries SET due_at = ?2, until_linked = 0
             WHERE execution = ?1 AND finished_at IS NULL AND status = 'waiting' AND until_linked = 1 RETURNING sink",
        )?;
        let mut rows = due.query(params![of, now.micros()])?;
        while let Some(row) = rows.next()? {
            wake.push(row.get(0)?);
        }
        Ok(())
    }
}

impl InquiryRows for Tx<'_> {
    fn expect(&mut self, source: &str, execution: i64, by: Time) -> Done {
        self.sql.expect.execute(params![execution, source, by.micros()])?;
        Ok(())
    }

    fn insert_held(&mut self, receipt: i64, source: &str, key: &str, due_at: Time) -> Done {
        self.conn.execute(
            "INSERT INTO inquiries (id, source, key, due_at, leased, asked, failures) VALUES (?1, ?2, ?3, ?4, 0, 0, 0)",
            params![receipt, source, key, due_at.micros()],
        )?;
        Ok(())
    }

    fn line_due(&mut self, source: &str, key: &str) -> Done<Option<Time>> {
        let sql = "SELECT min(due_at) FROM inquiries WHERE source = ?1 AND key = ?2 AND leased = 0";
        let due: Option<i64> = self.conn.query_row(sql, [source, key], |row| row.get(0))?;
        Ok(due.map(Time::from_micros))
    }

    fn line_waits(&mut self, receipt: i64, due_at: Time, now: Time) -> Done {
        self.conn.execute(
            "UPDATE inquiries SET due_at = ?2
             WHERE source = (SELECT source FROM inquiries WHERE id = ?1) AND key = (SELECT key FROM inquiries WHERE id = ?1)
               AND due_at <= ?3 AND due_at < ?2 AND leased = 0",
            params![receipt, due_at.micros(), now.micros()],
        )?;
        Ok(())
    }

    fn asked(&mut self, id: i64, due_at: Option<Time>, answered: bool, marked: Option<Time>) -> Done {
        self.conn.execute(
            "UPDATE inquiries SET leased = 0, due_at = ?2, asked = asked + ?3, failures = iif(?3, 0, failures + 1),
                    overdue_at = coalesce(overdue_at, ?4) WHERE id = ?1",
            params![id, due_at.map(Time::micros), answered, marked.map(Time::micros)],
        )?;
        Ok(())
    }

    fn delete_inquiry(&mut self, id: i64) -> Done {
        self.sql.answered.execute([id])?;
        Ok(())
    }

    fn is_marked(&mut self, execution: i64) -> Done<Option<bool>> {
        let found = self.conn.query_row(
            "SELECT i.overdue_at IS NOT NULL FROM inquiries i JOIN execution_heads h ON h.id = i.id
             WHERE i.id = ?1 AND h.status NOT IN ('succeeded', 'failed', 'cancelled')",
            [execution],
            |row| row.get(0),
        );
        Ok(found.optional()?)
    }
}

/// The execution, if it is the one that is looked for and no other with the same hash.
fn head(find: &mut Statement<'_>, execution: i64, source: &str, key: &str) -> rusqlite::Result<Option<Head>> {
    let mut rows = find.query([execution])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    if row.get_ref(1)?.as_str()? != source || row.get_ref(2)?.as_str()? != key {
        return Ok(None);
    }
    Ok(Some(Head { id: row.get(0)?, seen: row.get(3)?, sequence: row.get(4)?, snapshot: row.get(5)? }))
}

#[cfg(test)]
mod tests {
    use super::super::super::rules::{ReadyUpdate, apply, ready_update};
    use super::super::writer::prepare;
    use super::*;
    use crate::model::{Rules, Update};

    #[test]
    fn keys_that_are_made_to_look_alike_end_in_conflicts() {
        let conn = rusqlite::Connection::open_in_memory().expect("opens");
        for step in [
            include_str!("../migrations/0001_initial.sql"),
            include_str!("../migrations/0002_inquiries.sql"),
            include_str!("../migrations/0005_asides.sql"),
        ] {
            conn.execute_batch(step).expect("made");
        }
        let mut tx = prepare(&conn).expect("prepared");
        let (now, rules) = (Time::from_seconds(1_700_000_000), Rules::default());
        let mut told = |key: &str, hash| {
            let update = Update { key: key.to_owned(), ..Update::default() };
            let ready = ReadyUpdate { hash, ..ready_update("media", now, update, &rules) };
            let applied = apply(&mut tx, "media", None, now, &ready, &rules, &mut Vec::new()).expect("applied");
            (applied.outcome, applied.execution.is_some())
        };
        for n in 0..ALIKE_MAX {
            assert_eq!(told(&format!("k{n}"), 7), (ReceiptStatus::Accepted, true), "{n}");
        }
        assert_eq!(told("one more", 7), (ReceiptStatus::Conflict, false));
        assert_eq!(
            told(&format!("k{}", ALIKE_MAX - 1), 7),
            (ReceiptStatus::Duplicate, true),
            "who was first stays known"
        );
        assert_eq!(told("one more", 8), (ReceiptStatus::Accepted, true));
    }
}
