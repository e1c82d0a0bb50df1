//! The open transaction as the rules see it. What nearly every batch asks for is answered out of what was read at its
//! beginning; the rest is a statement each.

use tokio_postgres::types::Type;

use super::rows::{Delivery, Execution, owned, text};
use super::tx::{Done, Fault, Tx, identity};
use crate::model::{Attempt, Receipt, ReceiptStatus, Time};
use crate::store::rules::{Begins, Found, Head, Kept, MarkedHead, MovedHead, NewDelivery, NewHead, Rows, Settled};

const NUMBER: Type = Type::INT8;
const TEXT: Type = Type::TEXT;
const BYTES: Type = Type::BYTEA;

/// A lock on executions, in the order of their ids.
const LOCK: &str = "SELECT id FROM execution_heads WHERE id = ANY($1) ORDER BY id FOR UPDATE";

impl Tx<'_> {
    /// Locks executions that the batch was not known to touch.
    pub(super) fn lock(&mut self, executions: &[i64]) -> Done {
        if executions.iter().all(|id| self.executions.contains_key(id)) {
            return Ok(());
        }
        // What was read without their locks may be old.
        self.change(LOCK, &[(&executions, Type::INT8_ARRAY)])?;
        Ok(())
    }

    /// An execution as this transaction has it, locked.
    fn execution(&mut self, execution: i64) -> Done<&mut Execution> {
        if !self.executions.contains_key(&execution) {
            let sql = format!("SELECT {} FROM execution_heads WHERE id = $1 FOR UPDATE", Execution::COLUMNS);
            for row in &self.rows(&sql, &[(&execution, NUMBER)])? {
                self.keep_execution(row);
            }
        }
        let gone = || Fault::Unreadable(format!("execution {execution} is gone"));
        self.executions.get_mut(&execution).ok_or_else(gone)
    }

    /// A delivery as this transaction has it, if it is there.
    fn held(&mut self, delivery: i64) -> Done<Option<&mut Delivery>> {
        if !self.deliveries.contains_key(&delivery) {
            let sql = format!("SELECT {} FROM deliveries d WHERE d.id = $1 FOR UPDATE", Delivery::COLUMNS);
            for row in &self.rows(&sql, &[(&delivery, NUMBER)])? {
                let held = Delivery::read(row, 0);
                self.deliveries.insert(held.id, held);
            }
        }
        Ok(self.deliveries.get_mut(&delivery))
    }

    /// The first that is open of this execution and sink, if it waits behind another: it is due now.
    fn first_in_line(&mut self, execution: i64, sink: &str, now: Time) -> Done<bool> {
        let Some(&first) = self.line(execution, sink)?.open.first() else { return Ok(false) };
        let due = self.at_once(now);
        match self.held(first)? {
            Some(held) if held.due_at.is_none() => {
                (held.due_at, held.is_moved) = (Some(due), true);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    pub(super) fn one<T>(&mut self, sql: &str, values: &super::tx::Values<'_>) -> Done<Option<T>>
    where
        T: for<'a> tokio_postgres::types::FromSql<'a>,
    {
        Ok(self.rows(sql, values)?.first().and_then(|row| row.get(0)))
    }
}

impl Rows for Tx<'_> {
    type Fault = Fault;

    fn unreadable(e: serde_json::Error) -> Fault {
        Fault::Unreadable(e.to_string())
    }

    fn new_id(&mut self, now: Time) -> i64 {
        Tx::new_id(self, now)
    }

    fn insert_receipt(&mut self, id: i64, receipt: &Receipt, headers: &str, kept: &Kept<'_>) -> Done {
        let to = &mut self.writes.receipts;
        to.id.push(id);
        to.source.push(receipt.source.to_string());
        to.status.push(kept.outcome.as_str());
        to.received_at.push(receipt.received_at.micros());
        to.peer.push(owned(&receipt.peer));
        to.headers.push(headers.to_owned());
        to.body.push(kept.digest.is_none().then(|| receipt.body.to_vec()));
        to.body_bytes.push(receipt.body.len() as i64);
        to.digest.push(kept.digest.map(str::to_owned));
        to.reason.push(kept.reason.map(owned));
        to.execution.push(kept.executions.first().copied());
        to.executions.push(kept.several());
        Ok(())
    }

    fn receipt_status(&mut self, receipt: i64) -> Done<Option<String>> {
        self.one("SELECT status FROM receipts WHERE id = $1 FOR UPDATE", &[(&receipt, NUMBER)])
    }

    fn update_receipt(&mut self, receipt: i64, kept: &Kept<'_>) -> Done {
        let (status, reason, several) = (kept.outcome.as_str(), kept.reason.map(text), kept.several());
        self.rows(
            "UPDATE receipts SET status = $2, reason = $3, execution = $4, executions = $5,
                    body = CASE WHEN $6 IS NULL THEN body END, digest = $6 WHERE id = $1",
            &[
                (&receipt, NUMBER),
                (&status, TEXT),
                (&reason.as_deref(), TEXT),
                (&kept.executions.first(), NUMBER),
                (&several, TEXT),
                (&kept.digest, TEXT),
            ],
        )?;
        Ok(())
    }

    fn set_receipt(&mut self, receipt: i64, status: ReceiptStatus, reason: &str) -> Done {
        let sql = "UPDATE receipts SET status = $2, reason = $3 WHERE id = $1";
        self.rows(sql, &[(&receipt, NUMBER), (&status.as_str(), TEXT), (&&*text(reason), TEXT)])?;
        Ok(())
    }

    fn find(&mut self, source: &str, key: &str, _hash: i64) -> Done<Found> {
        let identity = identity(source, key);
        if !self.known.contains_key(&identity) {
            let sql = format!("SELECT {} FROM execution_heads WHERE identity = $1 FOR UPDATE", Execution::COLUMNS);
            self.known.insert(identity.clone(), None);
            for row in &self.rows(&sql, &[(&identity, BYTES)])? {
                self.keep_execution(row);
            }
        }
        let found = self.known.get(&identity).copied().flatten().and_then(|id| self.executions.get(&id));
        Ok(match found {
            Some(e) if e.source == source && e.key == text(key) => Found::Head(Head {
                id: e.id,
                seen: e.seen.clone(),
                sequence: e.sequence.unsigned_abs(),
                snapshot: e.snapshot.clone(),
            }),
            Some(_) => Found::TooManyAlike,
            None => Found::Nothing,
        })
    }

    fn insert_head(&mut self, head: &NewHead<'_>) -> Done {
        let identity = identity(head.source, head.key);
        self.known.insert(identity.clone(), Some(head.id));
        let execution = Execution {
            id: head.id,
            identity,
            source: head.source.to_owned(),
            key: owned(head.key),
            seen: owned(head.seen),
            status: head.status.as_str().to_owned(),
            change: head.change,
            sequence: 1,
            previous: None,
            kind: head.kind.to_owned(),
            previous_status: None,
            changed_tasks: None,
            receipt: head.receipt,
            received_at: head.now.micros(),
            snapshot: head.snapshot.to_owned(),
            latest: 0,
            is_new: true,
            is_moved: false,
        };
        self.executions.insert(head.id, execution);
        Ok(())
    }

    fn move_head(&mut self, head: &MovedHead<'_>) -> Done {
        let before = self.execution(head.id)?.clone();
        self.writes.set_aside(&before);
        let moved = Execution {
            seen: owned(head.seen),
            status: head.status.as_str().to_owned(),
            change: head.change,
            sequence: head.sequence.cast_signed(),
            previous: Some(before.change),
            kind: head.kind.to_owned(),
            previous_status: head.previous_status.map(|status| status.as_str().to_owned()),
            changed_tasks: head.changed_tasks.map(str::to_owned),
            receipt: head.receipt,
            received_at: head.now.micros(),
            snapshot: head.snapshot.to_owned(),
            is_moved: true,
            ..before
        };
        self.executions.insert(head.id, moved);
        Ok(())
    }

    fn head(&mut self, execution: i64) -> Done<(u32, String)> {
        let head = self.execution(execution)?;
        Ok((head.sequence.unsigned_abs(), head.snapshot.clone()))
    }

    fn mark_head(&mut self, head: &MarkedHead<'_>) -> Done {
        let before = self.execution(head.id)?.clone();
        self.writes.set_aside(&before);
        let marked = Execution {
            change: head.change,
            sequence: head.sequence.cast_signed(),
            previous: Some(before.change),
            kind: head.kind.to_owned(),
            previous_status: Some(before.status.clone()),
            changed_tasks: head.changed_tasks.map(str::to_owned),
            receipt: None,
            received_at: head.now.micros(),
            is_moved: true,
            ..before
        };
        self.executions.insert(head.id, marked);
        Ok(())
    }

    fn insert_delivery(&mut self, delivery: &NewDelivery<'_>) -> Done {
        let NewDelivery { id, execution, sink, change, now, begins } = *delivery;
        let (now, due) = (now.micros(), self.at_once(now));
        let (status, due_at, finished_at, reason) = match begins {
            Begins::Due => ("waiting", Some(due), None, None),
            Begins::Behind => ("waiting", None, None, None),
            Begins::Dead(reason) => ("dead", None, Some(now), Some(owned(reason))),
        };
        if finished_at.is_none() {
            let is_first = self.executions.get(&execution).is_some_and(|e| e.is_new && e.sequence == 1);
            let line = self.lines.entry((execution, sink.to_owned())).or_default();
            // What nobody else sees yet, nobody leases.
            (line.is_all, line.is_locked) = (line.is_all || is_first, line.is_locked || is_first);
            // Behind those that were not read, it is read with them.
            if line.is_all {
                line.open.insert(id);
            }
        }
        let row = Delivery {
            id,
            execution,
            sink: sink.to_owned(),
            change,
            status: status.to_owned(),
            due_at,
            attempts: 0,
            created_at: now,
            finished_at,
            until_linked: false,
            resume: None,
            reason,
            is_new: true,
            is_moved: false,
        };
        self.deliveries.insert(id, row);
        Ok(())
    }

    fn is_behind(&mut self, execution: i64, sink: &str) -> Done<bool> {
        Ok(!self.line(execution, sink)?.open.is_empty())
    }

    fn supersede(&mut self, execution: i64, sink: &str, now: Time) -> Done {
        let line = self.line(execution, sink)?;
        if line.is_all && line.open.is_empty() {
            return Ok(());
        }
        if line.is_locked {
            for id in line.open.clone() {
                let held = self.deliveries.get_mut(&id).filter(|held| held.status == "waiting");
                let Some(held) = held else { continue };
                "discarded".clone_into(&mut held.status);
                (held.reason, held.due_at) = (Some("superseded".to_owned()), None);
                (held.finished_at, held.is_moved) = (Some(now.micros()), true);
                self.line(execution, sink)?.open.remove(&id);
            }
            return Ok(());
        }
        // Whether one is leased is seen by this statement alone, because it waits for who leases.
        self.change(
            "UPDATE deliveries SET status = 'discarded', reason = 'superseded', due_at = NULL, finished_at = $3
             WHERE execution = $1 AND sink = $2 AND finished_at IS NULL AND status = 'waiting'",
            &[(&execution, NUMBER), (&sink, TEXT), (&now.micros(), NUMBER)],
        )?;
        Ok(())
    }

    fn delivery(&mut self, delivery: i64) -> Done<Option<(i64, String)>> {
        Ok(self.held(delivery)?.map(|held| (held.execution, held.sink.clone())))
    }

    fn settle(&mut self, settled: &Settled<'_>) -> Done<bool> {
        let apart = self.apart;
        let Some(held) = self.held(settled.delivery)? else { return Ok(false) };
        if held.status != "leased" || held.due_at != Some(settled.lease.micros()) {
            return Ok(false);
        }
        let place = (held.execution, held.sink.clone());
        settled.status.clone_into(&mut held.status);
        held.due_at = settled.due_at.map(|due| apart.of_server(due).micros());
        held.attempts += i32::from(settled.counts);
        held.finished_at = settled.finished_at.map(Time::micros);
        held.until_linked = settled.until_linked;
        held.resume.clone_from(&settled.resume);
        held.reason = settled.reason.map(owned);
        held.is_moved = true;
        if settled.finished_at.is_some()
            && let Some(line) = self.lines.get_mut(&place)
        {
            line.open.remove(&settled.delivery);
        }
        Ok(true)
    }

    fn insert_attempt(&mut self, id: i64, delivery: i64, attempt: &Attempt) -> Done {
        let to = &mut self.writes.attempts;
        to.id.push(id);
        to.delivery.push(delivery);
        to.started_at.push(attempt.started_at.micros());
        to.duration_ms.push(attempt.duration_ms as i64);
        to.outcome.push(attempt.outcome.clone());
        to.status.push(attempt.status.map(i32::from));
        to.reason.push(attempt.reason.as_deref().map(owned));
        to.answer.push(attempt.answer.as_deref().map(owned));
        Ok(())
    }

    fn hand_on(&mut self, delivery: i64, now: Time) -> Done<bool> {
        let Some((execution, sink)) = self.delivery(delivery)? else { return Ok(false) };
        self.first_in_line(execution, &sink, now)
    }

    fn next_in_line(&mut self, execution: i64, sink: &str, now: Time) -> Done {
        self.first_in_line(execution, sink, now).map(drop)
    }

    fn put_behind(&mut self, delivery: i64) -> Done {
        if let Some(held) = self.held(delivery)? {
            (held.due_at, held.until_linked, held.is_moved) = (None, false, true);
        }
        Ok(())
    }

    fn put_newer_behind(&mut self, execution: i64, sink: &str, delivery: i64) -> Done {
        self.change(
            "UPDATE deliveries SET due_at = NULL, until_linked = FALSE
             WHERE execution = $1 AND sink = $2 AND finished_at IS NULL AND id > $3",
            &[(&execution, NUMBER), (&sink, TEXT), (&delivery, NUMBER)],
        )?;
        Ok(())
    }

    fn is_behind_older(&mut self, execution: i64, sink: &str, delivery: i64) -> Done<bool> {
        // Locked, so that nobody leases what is seen here as waiting.
        let sql = "SELECT id < $3 OR status = 'leased' FROM deliveries
                   WHERE execution = $1 AND sink = $2 AND finished_at IS NULL AND id <> $3 ORDER BY id FOR UPDATE";
        let rows = self.rows(sql, &[(&execution, NUMBER), (&sink, TEXT), (&delivery, NUMBER)])?;
        Ok(rows.iter().any(|row| row.get(0)))
    }

    fn has_its_turn(&mut self, delivery: i64) -> Done<bool> {
        Ok(self.held(delivery)?.is_some_and(|held| held.due_at.is_some() && held.finished_at.is_none()))
    }

    fn begin_anew(&mut self, delivery: i64, due: bool, now: Time) -> Done {
        let due_at = due.then(|| self.at_once(now));
        self.change(
            "UPDATE deliveries SET status = 'waiting', due_at = $2, finished_at = NULL, attempts = 0, created_at = $3,
                    until_linked = FALSE WHERE id = $1",
            &[(&delivery, NUMBER), (&due_at, NUMBER), (&now.micros(), NUMBER)],
        )?;
        Ok(())
    }

    fn discard_delivery(&mut self, delivery: i64, reason: &str, now: Time) -> Done {
        self.change(
            "UPDATE deliveries SET status = 'discarded', reason = $3, due_at = NULL, finished_at = $2 WHERE id = $1",
            &[(&delivery, NUMBER), (&now.micros(), NUMBER), (&reason, TEXT)],
        )?;
        Ok(())
    }

    /// A change is found by its own id.
    fn insert_aside(&mut self, id: i64, _execution: Option<i64>, delivery: Option<i64>) -> Done {
        if let Some(delivery) = delivery {
            self.writes.asides.id.push(id);
            self.writes.asides.delivery.push(delivery);
        }
        Ok(())
    }
}
