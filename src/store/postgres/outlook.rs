//! What may be let go of, what has to stay, and why: looked at a page at a time.

use std::collections::BTreeMap;

use tokio_postgres::Transaction;
use tokio_postgres::types::Type;

use super::prune;
use super::read::{Read, ask, at};
use crate::store::rules::{MAY_GO, STAYS};
use crate::store::{MayGo, Outlook};

/// Executions of one page.
const PAGE: usize = 1000;

pub(super) async fn page(snapshot: &Transaction<'_>, from: i64) -> Read<Outlook> {
    // However old it is: that is for who asks.
    let may_go = MAY_GO.replace(":before", "9223372036854775807");
    let bytes = |id: &str| format!("coalesce((SELECT octet_length(r.body) FROM receipts r WHERE r.id = {id}), 0)");
    let sql = format!(
        "SELECT h.id, h.received_at, {may_go}, {STAYS},
                octet_length(h.snapshot) + octet_length(h.seen) + {} + o.bytes + e.bytes, (h.receipt IS NOT NULL)::int + o.count + e.count
         FROM execution_heads h
         CROSS JOIN LATERAL (SELECT count(*) AS count, coalesce(sum(octet_length(r.body)), 0) AS bytes FROM receipts r
                             WHERE r.status <> 'accepted' AND r.execution = h.id) o
         CROSS JOIN LATERAL (
             WITH RECURSIVE chain (id) AS (
                 SELECT h.previous UNION ALL SELECT c.previous FROM chain JOIN earlier_changes c ON c.id = chain.id)
             SELECT count(*) AS count, coalesce(sum(octet_length(c.snapshot) + {}), 0) AS bytes
             FROM chain JOIN earlier_changes c ON c.id = chain.id) e
         WHERE h.id >= $1 ORDER BY h.id LIMIT {PAGE}",
        bytes("h.receipt"),
        bytes("c.receipt")
    );
    let mut outlook = Outlook::default();
    let rows = ask(snapshot, &sql, &[(&from, Type::INT8)]).await?;
    outlook.next = rows.get(PAGE - 1).map(|row| row.get::<_, i64>(0) + 1);
    for row in &rows {
        match row.get(2) {
            true => outlook.may_go.push(MayGo {
                changed_at: at(row, 1),
                receipts: row.get::<_, i64>(5).unsigned_abs(),
                bytes: row.get::<_, i64>(4).unsigned_abs(),
            }),
            false => *outlook.stay.entry(row.get(3)).or_default() += 1,
        }
    }
    if from == 0 {
        outlook.receipts = alone(snapshot).await?;
    }
    outlook.extent = Some(prune::extent(snapshot.client()).await?);
    Ok(outlook)
}

/// Receipts of no execution, by their statuses.
async fn alone(snapshot: &Transaction<'_>) -> Read<BTreeMap<String, u64>> {
    let sql = "SELECT status, count(*) FROM receipts WHERE status <> 'accepted'
               AND (status IN ('quarantined', 'held', 'refused') OR status = 'conflict' AND execution IS NULL) GROUP BY 1";
    let rows = ask(snapshot, sql, &[]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).unsigned_abs())).collect())
}
