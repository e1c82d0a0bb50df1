//! Inquiries that are claimed, and the times that they wait for.

use tokio_postgres::types::Type;

use super::tx::{Done, Tx};
use crate::model::{Status, Time};
use crate::store::Held;
use crate::store::rules::{Asked, InquiryRows, LINE_MAX};

pub(super) fn claim(
    tx: &mut Tx<'_>,
    source: &str,
    limit: usize,
    asks: bool,
    now: Time,
    until: Time,
) -> Done<(Vec<Asked>, Option<Time>)> {
    let (now, until) = (tx.apart.of_server(now), tx.apart.of_server(until));
    let (now_us, most) = (now.micros(), i64::try_from(limit).unwrap_or(i64::MAX));
    let due = tx.rows(
        "SELECT id FROM inquiries WHERE source = $1 AND key IS NULL AND due_at <= $2 ORDER BY due_at LIMIT $3 FOR UPDATE SKIP LOCKED",
        &[(&source, Type::TEXT), (&now_us, Type::INT8), (&most, Type::INT8)],
    )?;
    let mut claimed = Vec::new();
    for row in &due {
        claimed.extend(claim_late(tx, row.get(0), until)?);
    }
    let next = |tx: &mut Tx<'_>, about: &str| -> Done<Option<i64>> {
        let sql = format!("SELECT min(due_at) FROM inquiries WHERE source = $1 AND key IS {about} AND due_at > $2");
        let rows = tx.rows(&sql, &[(&source, Type::TEXT), (&now_us, Type::INT8)])?;
        Ok(rows.first().and_then(|row| row.get(0)))
    };
    let mut next_due = next(tx, "NULL")?;
    if asks {
        // Two who ask at the same instant would ask about the same execution.
        let lock = format!(" callbackd inquiries {source}");
        tx.rows("SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || $1, 0))", &[(&lock, Type::TEXT)])?;
        // Of an execution about which a question is under way, another has to wait for the answer.
        let sql = "SELECT i.key FROM inquiries i
             WHERE i.source = $1 AND i.key IS NOT NULL AND i.due_at <= $2
               AND NOT EXISTS (SELECT 1 FROM inquiries l WHERE l.source = $1 AND l.key = i.key AND l.due_at > $2 AND l.leased)
             ORDER BY i.due_at LIMIT 1";
        while claimed.len() < limit {
            let found = tx.rows(sql, &[(&source, Type::TEXT), (&now_us, Type::INT8)])?;
            let Some(key) = found.first().map(|row| row.get::<_, String>(0)) else { break };
            claimed.push(Asked::Held(claim_held(tx, source, &key, now, until)?));
        }
        let held = next(tx, "NOT NULL")?;
        next_due = next_due.into_iter().chain(held).min();
    }
    Ok((claimed, next_due.map(|due| tx.apart.of_here(Time::from_micros(due)))))
}

fn claim_held(tx: &mut Tx<'_>, source: &str, key: &str, now: Time, until: Time) -> Done<Vec<Held>> {
    let (most, holder) = (LINE_MAX as i64, tx.holder);
    let rows = tx.rows(
        "UPDATE inquiries SET leased = TRUE, due_at = $4, holder = $6
         WHERE id IN (SELECT id FROM inquiries WHERE source = $1 AND key = $2 AND due_at <= $3 ORDER BY id LIMIT $5)
         RETURNING id, asked, failures",
        &[
            (&source, Type::TEXT),
            (&key, Type::TEXT),
            (&now.micros(), Type::INT8),
            (&until.micros(), Type::INT8),
            (&most, Type::INT8),
            (&holder, Type::INT8),
        ],
    )?;
    let count = |row: &tokio_postgres::Row, at| row.get::<_, i32>(at).unsigned_abs();
    let held = rows.iter().map(|row| Held { receipt: row.get(0), asked: count(row, 1), failures: count(row, 2) });
    let mut held: Vec<Held> = held.collect();
    held.sort_by_key(|held| held.receipt);
    Ok(held)
}

/// `None` for one that is finished: it was noted while nobody expected anything of its source.
fn claim_late(tx: &mut Tx<'_>, execution: i64, until: Time) -> Done<Option<Asked>> {
    let found = tx.rows("SELECT status, snapshot FROM execution_heads WHERE id = $1", &[(&execution, Type::INT8)])?;
    let head = found.first().map(|row| (row.get::<_, String>(0), row.get::<_, String>(1)));
    let open = head.filter(|(status, _)| !status.parse().is_ok_and(Status::is_finished));
    let Some((_, snapshot)) = open else {
        tx.delete_inquiry(execution)?;
        return Ok(None);
    };
    let holder = tx.holder;
    let rows = tx.rows(
        "UPDATE inquiries SET leased = TRUE, due_at = $2, holder = $3 WHERE id = $1
         RETURNING overdue_at IS NOT NULL, asked, failures",
        &[(&execution, Type::INT8), (&until.micros(), Type::INT8), (&holder, Type::INT8)],
    )?;
    Ok(rows.first().map(|row| Asked::Late {
        execution,
        snapshot,
        is_marked: row.get(0),
        asked: row.get::<_, i32>(1).unsigned_abs(),
        failures: row.get::<_, i32>(2).unsigned_abs(),
    }))
}

/// Makes due what waits because there was no answer.
pub(super) fn hurry(tx: &mut Tx<'_>, source: &str, now: Time) -> Done {
    let sql = "UPDATE inquiries SET due_at = $2 WHERE source = $1 AND due_at > $2 AND NOT leased AND failures > 0";
    let now = tx.apart.of_server(now).micros();
    tx.rows(sql, &[(&source, Type::TEXT), (&now, Type::INT8)]).map(drop)
}
