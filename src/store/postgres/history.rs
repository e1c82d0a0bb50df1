//! Everything that is known of one execution: of each list the latest, up to a number of bytes, because an execution may
//! hold megabytes, have thousands of changes and be repeated for ever.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

use super::read::{DELIVERY, RECEIPT, Read, ask, at, count, delivery_row, links, receipt_row, word};
use super::tx::Values;
use crate::model::{Change, ChangeMeta, State};
use crate::store::rules::{CONTENT_BYTES, LIST_BYTES, changed_tasks, without_content};

/// The changes of the execution `$1`, by each one's predecessor. Without what they hold, but for how much that is.
pub(super) const CHAIN: &str = "WITH RECURSIVE chain (id, sequence, type, previous_status, receipt, received_at, bytes, previous) AS (
        SELECT change, sequence, type, previous_status, receipt, received_at, octet_length(snapshot), previous
        FROM execution_heads WHERE id = $1
        UNION ALL
        SELECT c.id, c.sequence, c.type, c.previous_status, c.receipt, c.received_at, octet_length(c.snapshot), c.previous
        FROM chain JOIN earlier_changes c ON c.id = chain.previous)";

/// What is small of a change takes about so many bytes.
const SMALL: usize = 400;

/// All of it, as `executions show --json` prints it.
pub(super) async fn of(snapshot: &Transaction<'_>, id: i64, execution: Value, tasks: Value) -> Read<Value> {
    // Accepted receipts by their changes, the others by their indexes; and of both lists as many as fit, newest first.
    let receipts = format!(
        "{CHAIN}, mine AS (SELECT r.id, sum(octet_length(r.headers) + 400) OVER (ORDER BY r.id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
              FROM receipts r WHERE r.id IN (SELECT receipt FROM chain
                  UNION SELECT id FROM receipts WHERE status <> 'accepted' AND execution = $1
                  UNION SELECT s.id FROM receipts s WHERE s.status <> 'accepted' AND s.executions IS NOT NULL
                        AND $1::text IN (SELECT json_array_elements_text(s.executions::json))))
         {RECEIPT} WHERE id IN (SELECT id FROM mine WHERE before IS NULL OR before < {LIST_BYTES}) ORDER BY id"
    );
    let deliveries = format!(
        "WITH mine AS (SELECT d.id, sum(octet_length(coalesce(d.reason, '')) + 400) OVER (ORDER BY d.id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS before
              FROM deliveries d WHERE d.execution = $1)
         {DELIVERY} WHERE d.id IN (SELECT id FROM mine WHERE before IS NULL OR before < {LIST_BYTES}) ORDER BY d.id"
    );
    let of_it: &Values<'_> = &[(&id, Type::INT8)];
    let receipts: Vec<_> = ask(snapshot, &receipts, of_it).await?.iter().map(receipt_row).collect::<Read<_>>()?;
    let deliveries: Vec<_> = ask(snapshot, &deliveries, of_it).await?.iter().map(delivery_row).collect::<Read<_>>()?;
    let changes = changes(snapshot, id).await?;
    Ok(
        json!({ "execution": execution, "tasks": tasks, "receipts": receipts, "changes": changes, "deliveries": deliveries }),
    )
}

/// Its changes: the latest ones whole, of the ones before what is small.
async fn changes(snapshot: &Transaction<'_>, id: i64) -> Read<Vec<Value>> {
    let links = links(snapshot, id).await?;
    let links_bytes: usize = links.iter().map(|link| link.source.len() + link.key.len() + 64).sum();
    let newest_first = format!(
        "{CHAIN} SELECT id, sequence, type, previous_status, receipt, received_at, bytes FROM chain ORDER BY id DESC LIMIT {}",
        LIST_BYTES / SMALL
    );
    let rows = ask(snapshot, &newest_first, &[(&id, Type::INT8)]).await?;
    let mut content = 0;
    let whole: Vec<i64> = rows
        .iter()
        .take_while(|row| {
            let fits = content < CONTENT_BYTES;
            content += usize::try_from(row.get::<_, i32>(6)).unwrap_or(0) + links_bytes;
            fits
        })
        .map(|row| row.get(0))
        .collect();
    let held = "SELECT change, changed_tasks, snapshot FROM execution_heads WHERE id = $2 AND change = ANY($1)
                UNION ALL SELECT id, changed_tasks, snapshot FROM earlier_changes WHERE id = ANY($1)";
    let held = ask(snapshot, held, &[(&whole, Type::INT8_ARRAY), (&id, Type::INT8)]).await?;
    let held: HashMap<i64, &Row> = held.iter().map(|row| (row.get(0), row)).collect();
    rows.iter().rev().map(|row| change(row, id, held.get(&row.get(0)).copied(), &links)).collect()
}

pub(super) fn change(row: &Row, execution: i64, held: Option<&Row>, links: &[crate::model::Link]) -> Read<Value> {
    let kind: String = row.get(2);
    let mut meta = ChangeMeta {
        overdue: kind == Change::OVERDUE,
        kind,
        sequence: count(row, 1),
        previous_status: row.get::<_, Option<&str>>(3).map(|_| word(row, 3)).transpose()?,
        changed_tasks: Vec::new(),
        receipt: row.get::<_, Option<i64>>(4).map(|id| id.to_string()),
        received_at: at(row, 5),
    };
    let id: i64 = row.get(0);
    let Some(held) = held else { return Ok(without_content(id, &meta)) };
    let Ok(state) = State::of_snapshot(held.get(2)) else { return Ok(Value::Null) };
    meta.changed_tasks = changed_tasks(held.get(1), &state);
    let change = Change { id, execution_id: execution, state, links: links.to_vec(), meta };
    Ok(json!({ "id": id.to_string(), "data": change }))
}
