//! Writing down what is about to be let go of, in the transaction that has it locked: one line of JSON for each
//! execution, with all that goes with it, and one for each receipt that goes by itself. The same lines as SQLite's.
//!
//! A few rows at a time, so that an execution with thousands of changes takes no more memory than the largest of them.

use std::io;
use std::slice::from_ref;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_postgres::types::Type;
use tokio_postgres::{Row, Transaction};

use super::history::{CHAIN, change};
use super::read::{DELIVERY, EXECUTION, RECEIPT, ask, attempt, delivery_row, links, receipt_row, shown};
use crate::signature;
use crate::store::{Export, StoreError};

/// Rows that are in memory at one time.
const ROWS: usize = 16;
/// Bytes that are handed on at one time.
const BYTES: usize = 64 << 10;

/// The newest row of the execution `h`: whether something came since its line was written.
pub(super) const NEWEST: &str = "greatest(h.change,
    (SELECT max(r.id) FROM receipts r WHERE r.status <> 'accepted' AND r.execution = h.id),
    (SELECT max(d.id) FROM deliveries d WHERE d.execution = h.id),
    (SELECT max(a.id) FROM deliveries d JOIN attempts a ON a.delivery = d.id WHERE d.execution = h.id),
    (SELECT max(l.id) FROM links l WHERE l.execution = h.id),
    (SELECT max(l.id) FROM links l WHERE l.with_execution = h.id))";

/// Writes a line for each of these executions, and returns when they are on stable storage.
pub(super) async fn executions(tx: &Transaction<'_>, ids: &[i64], export: &Arc<dyn Export>) -> Result<(), StoreError> {
    let mut out = Out::begin(export);
    for id in ids {
        execution(tx, *id, &mut out).await?;
    }
    out.end().await
}

/// The same for receipts.
pub(super) async fn receipts(tx: &Transaction<'_>, ids: &[i64], export: &Arc<dyn Export>) -> Result<(), StoreError> {
    let mut out = Out::begin(export);
    for some in ids.chunks(ROWS) {
        for receipt in with_bodies(tx, some).await? {
            out.json(&json!({ "receipt": receipt })).await?;
            out.put("\n").await?;
        }
    }
    out.end().await
}

/// What `executions show --json` says of it, with the receipts' bodies and the deliveries' attempts.
async fn execution(tx: &Transaction<'_>, id: i64, out: &mut Out) -> Result<(), StoreError> {
    let of_it = (&id as &(dyn tokio_postgres::types::ToSql + Sync), Type::INT8);
    let rows = ask(tx, &format!("{EXECUTION} WHERE h.id = $1"), from_ref(&of_it)).await?;
    let Some(row) = rows.first() else { return Ok(()) };
    let (flat, tasks) = shown(tx, row).await?;
    out.put("{\"execution\":").await?;
    out.json(&flat).await?;
    out.put(",\"tasks\":").await?;
    out.json(&tasks).await?;

    // A receipt of several executions that none of this one's changes came from stands with the first of them.
    let sql = format!(
        "{CHAIN} SELECT id FROM receipts WHERE id IN (SELECT receipt FROM chain
             UNION SELECT id FROM receipts WHERE status <> 'accepted' AND execution = $1) ORDER BY id"
    );
    out.put(",\"receipts\":[").await?;
    let mut is_first = true;
    for some in ids(&ask(tx, &sql, from_ref(&of_it)).await?).chunks(ROWS) {
        for receipt in with_bodies(tx, some).await? {
            out.item(&mut is_first, &receipt).await?;
        }
    }

    let links = links(tx, id).await?;
    out.put("],\"changes\":[").await?;
    let sql =
        format!("{CHAIN} SELECT id, sequence, type, previous_status, receipt, received_at FROM chain ORDER BY id");
    let mut is_first = true;
    for some in ask(tx, &sql, from_ref(&of_it)).await?.chunks(ROWS) {
        let held = "SELECT change, changed_tasks, snapshot FROM execution_heads WHERE id = $2 AND change = ANY($1)
                    UNION ALL SELECT id, changed_tasks, snapshot FROM earlier_changes WHERE id = ANY($1)";
        let held = ask(tx, held, &[(&ids(some), Type::INT8_ARRAY), of_it.clone()]).await?;
        for row in some {
            let held = held.iter().find(|held| held.get::<_, i64>(0) == row.get::<_, i64>(0));
            out.item(&mut is_first, &change(row, id, held, &links)?).await?;
        }
    }

    out.put("],\"deliveries\":[").await?;
    let sql = format!("{DELIVERY} WHERE d.execution = $1 ORDER BY d.id");
    let mut is_first = true;
    for row in &ask(tx, &sql, &[of_it]).await? {
        let delivery: i64 = row.get(0);
        let sql = "SELECT started_at, duration_ms, outcome, status, reason, answer FROM attempts WHERE delivery = $1 ORDER BY id";
        let tried: Vec<_> = ask(tx, sql, &[(&delivery, Type::INT8)]).await?.iter().map(attempt).collect();
        out.item(&mut is_first, &with(&delivery_row(row)?, "tried", json!(tried))).await?;
    }
    out.put("]}\n").await
}

fn ids(rows: &[Row]) -> Vec<i64> {
    rows.iter().map(|row| row.get(0)).collect()
}

/// Receipts with their bodies: as `text` where it is some, else as `base64`; none where it was not kept again.
async fn with_bodies(tx: &Transaction<'_>, ids: &[i64]) -> Result<Vec<Value>, StoreError> {
    let of_them = (&ids as &(dyn tokio_postgres::types::ToSql + Sync), Type::INT8_ARRAY);
    let rows = ask(tx, &format!("{RECEIPT} WHERE id = ANY($1) ORDER BY id"), from_ref(&of_them)).await?;
    let bodies = ask(tx, "SELECT id, body FROM receipts WHERE id = ANY($1)", &[of_them]).await?;
    let body = |id: i64| {
        let bytes = bodies.iter().find(|row| row.get::<_, i64>(0) == id)?.get::<_, Option<Vec<u8>>>(1)?;
        Some(match String::from_utf8(bytes) {
            Ok(text) => json!({ "text": text }),
            Err(e) => json!({ "base64": signature::base64(e.as_bytes()) }),
        })
    };
    rows.iter().map(|row| Ok(with(&receipt_row(row)?, "body", json!(body(row.get(0)))))).collect()
}

/// The same object with one more member.
fn with(row: &impl Serialize, name: &str, value: Value) -> Value {
    let mut object = json!(row);
    object[name] = value;
    object
}

/// Lines on their way to who writes them, which waits for a disk. Whoever does not end them has written nothing.
struct Out {
    text: Vec<u8>,
    pieces: mpsc::Sender<Piece>,
    writing: JoinHandle<io::Result<()>>,
}

enum Piece {
    Text(Vec<u8>),
    End,
}

impl Out {
    fn begin(export: &Arc<dyn Export>) -> Out {
        let (pieces, mut taken) = mpsc::channel(4);
        let export = Arc::clone(export);
        let writing = tokio::task::spawn_blocking(move || {
            export.take(&mut |out| {
                loop {
                    match taken.blocking_recv() {
                        Some(Piece::Text(text)) => out.write_all(&text)?,
                        Some(Piece::End) => return Ok(()),
                        None => return Err(io::Error::other("it was cut off")),
                    }
                }
            })
        });
        Out { text: Vec::new(), pieces, writing }
    }

    async fn put(&mut self, text: &str) -> Result<(), StoreError> {
        self.text.extend_from_slice(text.as_bytes());
        if self.text.len() >= BYTES {
            // Where nobody takes it, the end tells why.
            let _ = self.pieces.send(Piece::Text(std::mem::take(&mut self.text))).await;
        }
        Ok(())
    }

    async fn json(&mut self, value: &Value) -> Result<(), StoreError> {
        self.put(&value.to_string()).await
    }

    async fn item(&mut self, is_first: &mut bool, value: &Value) -> Result<(), StoreError> {
        if !std::mem::take(is_first) {
            self.put(",").await?;
        }
        self.json(value).await
    }

    async fn end(self) -> Result<(), StoreError> {
        let _ = self.pieces.send(Piece::Text(self.text)).await;
        let _ = self.pieces.send(Piece::End).await;
        let written = self.writing.await.unwrap_or_else(|e| Err(io::Error::other(e)));
        written.map_err(|e| StoreError::Unavailable(format!("store.export cannot be written: {e}")))
    }
}
