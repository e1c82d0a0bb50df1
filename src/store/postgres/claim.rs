//! Deliveries claimed under a lease, many at once, by several callbackds: what one has locked, the next passes over.
//!
//! A sink's breaker is looked at in the same statement ([`super::breaker`]): while it is open, whoever is first takes the probe,
//! and nobody else anything.
//!
//! Order rests on `due_at` alone, as with SQLite: behind another of its execution and sink it is NULL.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use tokio_postgres::types::Type;
use tokio_postgres::{Client, Row};

use super::connect::fault;
use super::tx::Touches;
use super::{PostgresStore, breaker, rules};
use crate::model::{Delivery, Link, Rules, Time};
use crate::store::rules::{BYTES_MAX, Claimed, ReadySettlement};
use crate::store::{Breaker, Claim, StoreError};

/// Those that are due longest, leased or waiting; of them as many as their snapshots allow; leased in the same statement.
const CLAIM: &str = "WITH leased AS MATERIALIZED (
        SELECT id, due_at FROM deliveries WHERE finished_at IS NULL AND status = 'leased' AND sink = $1 AND due_at <= $4
        ORDER BY due_at, id LIMIT $3 FOR UPDATE SKIP LOCKED),
    waiting AS MATERIALIZED (
        SELECT id, due_at FROM deliveries WHERE finished_at IS NULL AND status = 'waiting' AND sink = $1 AND due_at <= $2
        ORDER BY due_at, id LIMIT $3 FOR UPDATE SKIP LOCKED),
    due AS (SELECT * FROM leased UNION ALL SELECT * FROM waiting ORDER BY due_at, id LIMIT $3),
    told AS (
        SELECT due.id, due.due_at, c.id IS NULL AS is_latest, coalesce(c.sequence, h.sequence) AS sequence, coalesce(c.type, h.type) AS type,
               CASE WHEN c.id IS NULL THEN h.previous_status ELSE c.previous_status END AS previous_status,
               CASE WHEN c.id IS NULL THEN h.changed_tasks ELSE c.changed_tasks END AS changed_tasks,
               CASE WHEN c.id IS NULL THEN h.receipt ELSE c.receipt END AS receipt,
               coalesce(c.received_at, h.received_at) AS received_at, coalesce(c.snapshot, h.snapshot) AS snapshot
        FROM due JOIN deliveries d ON d.id = due.id JOIN execution_heads h ON h.id = d.execution LEFT JOIN earlier_changes c ON c.id = d.change),
    fits AS (
        SELECT *, sum(octet_length(snapshot)) OVER (ORDER BY due_at, id ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
        FROM told),
    probe AS (
        UPDATE sink_breakers b SET probe_at = $5, holder = $6
        WHERE b.sink = $1 AND $8 AND b.probe_at <= $4 AND EXISTS (SELECT 1 FROM fits)
            AND NOT EXISTS (SELECT 1 FROM sink_pauses p WHERE p.sink = $1)
        RETURNING b.sink)
    UPDATE deliveries d SET status = 'leased', due_at = $5, holder = $6 FROM fits f
    WHERE d.id = f.id AND (f.before IS NULL OR f.before < $7) AND NOT EXISTS (SELECT 1 FROM sink_pauses p WHERE p.sink = $1)
        AND (NOT EXISTS (SELECT 1 FROM sink_breakers b WHERE b.sink = $1) OR EXISTS (SELECT 1 FROM probe))
    RETURNING d.id, d.execution, d.change, d.attempts, d.created_at, d.resume, f.sequence, f.type, f.previous_status, f.changed_tasks,
              f.receipt, f.received_at, f.snapshot, f.due_at";

const NEXT_DUE: &str =
    "SELECT least((SELECT min(due_at) FROM deliveries WHERE finished_at IS NULL AND status = 'leased' AND sink = $1),
                  (SELECT min(due_at) FROM deliveries WHERE finished_at IS NULL AND status = 'waiting' AND sink = $1))";
const LINKS: &str =
    "SELECT l.execution, h.source, h.key, h.id FROM links l JOIN execution_heads h ON h.id = l.with_execution
    WHERE l.execution = ANY($1)
    UNION ALL
    SELECT l.with_execution, h.source, h.key, h.id FROM links l JOIN execution_heads h ON h.id = l.execution
    WHERE l.with_execution = ANY($1)";

impl PostgresStore {
    pub(super) async fn claim_window(
        &self,
        sink: String,
        limit: usize,
        lease_ms: u64,
        by: Time,
        now: Time,
    ) -> Result<Claim, StoreError> {
        // At once: a clock may be set while a connection is waited for.
        let apart = self.place.apart();
        let until = apart.of_server(now.plus_ms(lease_ms));
        let client = self.pool.get().await?;
        let (most, bytes) = (i64::try_from(limit).unwrap_or(i64::MAX), BYTES_MAX as i64);
        let of_sink: &super::tx::Values<'_> = &[(&sink, Type::TEXT)];
        self.call_back(&client, &sink).await?;
        let (by_us, holder, probes) = (apart.of_server(by).micros(), self.place.token(), by > now);
        let (now_us, until_us) = (apart.of_server(now).micros(), until.micros());
        let claim: &super::tx::Values<'_> = &[
            (&sink, Type::TEXT),
            (&by_us, Type::INT8),
            (&most, Type::INT8),
            (&now_us, Type::INT8),
            (&until_us, Type::INT8),
            (&holder, Type::INT8),
            (&bytes, Type::INT8),
            (&probes, Type::BOOL),
        ];
        let lost = Lost { astray: &self.astray, sink: &sink, until: until_us, is_heard: false };
        let (rows, stands, next) = tokio::try_join!(
            biased;
            client.query_typed(CLAIM, claim),
            client.query_typed(breaker::STANDS, of_sink),
            client.query_typed(NEXT_DUE, of_sink),
        )
        .map_err(fault)?;
        let stands = stands.first();
        if stands.is_some_and(|row| row.get(0)) {
            self.give_back_leases(rows.iter().map(|row| row.get(0)).collect(), until).await?;
            return Ok(Claim { until, is_paused: true, ..Claim::default() });
        }
        // Who was given something may try it, whatever was said a moment later.
        let stands = stands.filter(|_| rows.is_empty());
        let breaker = stands.map_or(Breaker::Own, |row| breaker::stands(row, apart, probes));
        let size: usize = rows.iter().map(|row| row.get::<_, &str>(12).len()).sum();
        let mut next_due = match rows.len() < limit && size < BYTES_MAX {
            true => next
                .first()
                .and_then(|row| row.get::<_, Option<i64>>(0))
                .map(|due| apart.of_here(Time::from_micros(due))),
            false => Some(by),
        };
        let mut claimed: Vec<(i64, Claimed)> = rows.iter().map(|row| (row.get(13), read(row))).collect();
        claimed.sort_by_key(|(due, one)| (*due, one.id));
        if !claimed.is_empty() {
            let executions: Vec<i64> = claimed.iter().map(|(_, one)| one.execution).collect();
            let links = client.query_typed(LINKS, &[(&executions, Type::INT8_ARRAY)]).await.map_err(fault)?;
            for row in &links {
                let (of, link) = (row.get::<_, i64>(0), link(row, 1));
                for (_, one) in claimed.iter_mut().filter(|(_, one)| one.execution == of) {
                    one.links.push(link.clone());
                }
            }
        }
        drop(client);
        lost.hear();
        let mut deliveries: Vec<Delivery> = Vec::with_capacity(claimed.len());
        for (_, one) in claimed {
            let id = one.id;
            match one.into_delivery(None) {
                Ok(delivery) => deliveries.push(delivery),
                // Not to hold up the others: a dead letter, which a later version may be able to read.
                Err(e) => {
                    let dead = ReadySettlement::unreadable(id, e.to_string(), until, now);
                    let touches = Touches { deliveries: vec![id], ..Touches::default() };
                    match self.call_waking(touches, move |tx| rules::settle(tx, &dead, &Rules::default(), now)).await {
                        Ok(wake) if wake.is_empty() => {}
                        // The next one of its execution is due.
                        Ok(_) => next_due = Some(now),
                        Err(e) => {
                            tracing::warn!(delivery.id = id, error = %e, "cannot be read, and waits until its lease ends");
                        }
                    }
                }
            }
        }
        Ok(Claim { deliveries, until, next_due, is_paused: false, breaker })
    }

    /// Gives back what was leased to this one by claims whose answers were lost, and what could not be given back before.
    async fn call_back(&self, client: &Client, sink: &str) -> Result<(), StoreError> {
        while let Some((deliveries, lease)) = self.astray.let_go() {
            self.give_back_these(client, deliveries, lease).await?;
        }
        let lost = self.astray.of(sink);
        if lost.is_empty() {
            return Ok(());
        }
        let sql = "WITH back AS (
                       UPDATE deliveries SET status = 'waiting', due_at = least(created_at, $4), holder = NULL
                       WHERE finished_at IS NULL AND status = 'leased' AND sink = $1 AND due_at = ANY($2) AND holder = $3)
                   UPDATE sink_breakers SET holder = NULL, probe_at = 0 WHERE sink = $1 AND probe_at = ANY($2) AND holder = $3";
        let holder = self.place.token();
        let now = self.place.now().micros();
        let values: &super::tx::Values<'_> =
            &[(&sink, Type::TEXT), (&lost, Type::INT8_ARRAY), (&holder, Type::INT8), (&now, Type::INT8)];
        client.execute_typed(sql, values).await.map_err(fault)?;
        self.astray.forget(sink, &lost);
        Ok(())
    }

    /// Gives leases back before their end: what was not begun is due again, and first.
    pub(super) async fn give_back_leases(&self, deliveries: Vec<i64>, lease: Time) -> Result<(), StoreError> {
        let lease = lease.micros();
        match self.pool.get().await {
            Ok(client) => self.give_back_these(&client, deliveries, lease).await,
            Err(e) => {
                self.astray.keep(deliveries, lease);
                Err(e)
            }
        }
    }

    async fn give_back_these(&self, client: &Client, deliveries: Vec<i64>, lease: i64) -> Result<(), StoreError> {
        // With a probe that was not made.
        let sql = "WITH back AS (
                       UPDATE deliveries SET status = 'waiting', due_at = least(created_at, $4), holder = NULL
                       WHERE id = ANY($1) AND status = 'leased' AND due_at = $2 RETURNING sink)
                   UPDATE sink_breakers SET holder = NULL, probe_at = 0 WHERE holder = $3 AND sink IN (SELECT sink FROM back)";
        let holder = self.place.token();
        let now = self.place.now().micros();
        let values: &super::tx::Values<'_> =
            &[(&deliveries, Type::INT8_ARRAY), (&lease, Type::INT8), (&holder, Type::INT8), (&now, Type::INT8)];
        let done = client.execute_typed(sql, values).await;
        done.map(drop).map_err(|e| {
            self.astray.keep(deliveries, lease);
            fault(e)
        })
    }
}

/// Leases that nobody here knows of, or wants, any more.
#[derive(Default)]
pub(super) struct Astray {
    /// Of claims whose answers were lost, by their sinks and ends: whether they were carried out nobody knows.
    unheard: Mutex<BTreeSet<(String, i64)>>,
    /// Those that could not be given back, with their ends.
    kept: Mutex<Vec<(Vec<i64>, i64)>>,
}

impl Astray {
    /// More than these wait until they end.
    const MOST: usize = 1000;

    fn add(&self, sink: &str, until: i64) {
        let mut all = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < Astray::MOST {
            all.insert((sink.to_owned(), until));
        }
    }

    fn keep(&self, deliveries: Vec<i64>, lease: i64) {
        let mut all = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < Astray::MOST {
            all.push((deliveries, lease));
        }
    }

    fn let_go(&self) -> Option<(Vec<i64>, i64)> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn of(&self, sink: &str) -> Vec<i64> {
        let all = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|(of, _)| of == sink).map(|(_, until)| *until).collect()
    }

    fn forget(&self, sink: &str, gone: &[i64]) {
        let mut all = self.unheard.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|(of, until)| of != sink || !gone.contains(until));
    }
}

/// One claim, which is astray if it ends before its answer was heard, however that comes.
struct Lost<'a> {
    astray: &'a Astray,
    sink: &'a str,
    until: i64,
    is_heard: bool,
}

impl Lost<'_> {
    fn hear(mut self) {
        self.is_heard = true;
    }
}

impl Drop for Lost<'_> {
    fn drop(&mut self) {
        if !self.is_heard {
            self.astray.add(self.sink, self.until);
        }
    }
}

fn read(row: &Row) -> Claimed {
    Claimed {
        id: row.get(0),
        execution: row.get(1),
        change: row.get(2),
        attempts: row.get::<_, i32>(3).unsigned_abs(),
        created_at: row.get(4),
        resume: row.get(5),
        sequence: row.get::<_, i32>(6).unsigned_abs(),
        kind: row.get(7),
        previous_status: row.get(8),
        changed_tasks: row.get(9),
        receipt: row.get(10),
        received_at: row.get(11),
        snapshot: row.get(12),
        links: Vec::new(),
    }
}

/// A link, from that column on.
pub(super) fn link(row: &Row, from: usize) -> Link {
    Link { source: row.get(from), key: row.get(from + 1), execution: row.get::<_, i64>(from + 2).to_string() }
}
