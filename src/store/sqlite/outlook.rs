//! What may be let go of, what has to stay, and why: looked at a page at a time, so that no snapshot lasts.

use std::collections::BTreeMap;

use rusqlite::Connection;

use super::super::rules::{MAY_GO, STAYS};
use super::read::{Readers, fault};
use super::room;
use crate::Boxed;
use crate::model::Time;
use crate::store::{MayGo, Outlook, StoreError};

/// Executions of one page.
const PAGE: usize = 1000;

/// Receipts that are no change's, of the execution `?1`.
const OTHERS: &str = "SELECT count(*), coalesce(sum(coalesce(octet_length(body), 0)), 0) FROM receipts
    WHERE status <> 'accepted' AND execution = ?1";

/// The earlier changes of the execution `?1`, with their receipts.
const EARLIER: &str = "WITH RECURSIVE chain (id) AS (
        SELECT previous FROM execution_heads WHERE id = ?1
        UNION ALL SELECT c.previous FROM chain JOIN earlier_changes c ON c.id = chain.id)
    SELECT count(*), coalesce(sum(octet_length(c.snapshot)
        + coalesce((SELECT octet_length(r.body) FROM receipts r WHERE r.id = c.receipt), 0)), 0)
    FROM chain CROSS JOIN earlier_changes c ON c.id = chain.id";

impl Readers {
    /// See [`crate::store::Queries::outlook`].
    pub(super) fn look_out(&self, from: i64) -> Boxed<'_, Result<Outlook, StoreError>> {
        let path = self.path();
        self.read(move |conn| {
            let mut outlook = page(conn, from).map_err(fault)?;
            outlook.extent = Some(room::extent(conn, &path)?);
            Ok(outlook)
        })
    }
}

fn page(conn: &Connection, from: i64) -> rusqlite::Result<Outlook> {
    // However old it is: that is for who asks.
    let before = i64::MAX;
    let mut heads = conn.prepare(&format!(
        "SELECT h.id, h.received_at, {MAY_GO}, {STAYS}, h.previous IS NOT NULL, octet_length(h.snapshot) + octet_length(h.seen)
                + coalesce((SELECT octet_length(r.body) FROM receipts r WHERE r.id = h.receipt), 0), h.receipt IS NOT NULL
         FROM execution_heads h WHERE h.id >= :from ORDER BY h.id LIMIT {PAGE}"
    ))?;
    let (mut others, mut earlier) = (conn.prepare(OTHERS)?, conn.prepare(EARLIER)?);
    let mut outlook = Outlook::default();
    let mut rows = heads.query(&[(":from", &from), (":before", &before)])?;
    let mut looked_at = 0;
    while let Some(row) = rows.next()? {
        let id: i64 = row.get(0)?;
        looked_at += 1;
        if looked_at == PAGE {
            outlook.next = Some(id + 1);
        }
        if !row.get::<_, bool>(2)? {
            *outlook.stay.entry(row.get(3)?).or_default() += 1;
            continue;
        }
        let both = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
        let (mut receipts, mut bytes) = others.query_row([id], both)?;
        if row.get(4)? {
            let (count, more) = earlier.query_row([id], both)?;
            (receipts, bytes) = (receipts + count, bytes + more);
        }
        outlook.may_go.push(MayGo {
            changed_at: Time::from_micros(row.get(1)?),
            receipts: (receipts + i64::from(row.get::<_, bool>(6)?)).unsigned_abs(),
            bytes: (bytes + row.get::<_, i64>(5)?).unsigned_abs(),
        });
    }
    if from == 0 {
        outlook.receipts = alone(conn)?;
    }
    Ok(outlook)
}

/// Receipts of no execution, by their statuses.
fn alone(conn: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    let mut counted = BTreeMap::new();
    for (status, also) in [("quarantined", ""), ("held", ""), ("refused", ""), ("conflict", " AND execution IS NULL")] {
        let sql = format!("SELECT count(*) FROM receipts WHERE status <> 'accepted' AND status = '{status}'{also}");
        let count: i64 = conn.query_row(&sql, [], |row| row.get(0))?;
        if count > 0 {
            counted.insert(status.to_owned(), count.unsigned_abs());
        }
    }
    Ok(counted)
}
