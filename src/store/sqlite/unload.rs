//! Writing down what is about to be let go of: one line of JSON for each execution, with all that goes with it, and one
//! for each receipt that goes by itself.
//!
//! Row by row, so that an execution with thousands of changes takes no more memory than the largest of them; and not too
//! much in one snapshot, which keeps the log from being started anew.

use std::io::{self, Write};

use rusqlite::{Connection, OptionalExtension, params};
use serde::Serialize;
use serde_json::{Value, json};

use super::history::{self, CHAIN, CHANGE};
use super::prune::Going;
use super::read::{self, DELIVERY, EXECUTION, RECEIPT, fault};
use crate::model::ReceiptStatus;
use crate::signature;
use crate::store::StoreError;

/// So many bytes of lines are written under one snapshot; a line that is begun is ended.
const BYTES: usize = 16 << 20;

/// The newest row of the execution `:id`. What it was when a line was written tells whether the line still says all, but for
/// an old receipt that was read again.
pub(super) const NEWEST: &str = "SELECT max(h.change,
    coalesce((SELECT max(r.id) FROM receipts r WHERE r.status <> 'accepted' AND r.execution = h.id), 0),
    coalesce((SELECT max(d.id) FROM deliveries d WHERE d.execution = h.id), 0),
    coalesce((SELECT max(a.id) FROM deliveries d JOIN attempts a ON a.delivery = d.id WHERE d.execution = h.id), 0),
    coalesce((SELECT max(l.id) FROM links l WHERE l.execution = h.id), 0),
    coalesce((SELECT max(l.id) FROM links l WHERE l.with_execution = h.id), 0))
    FROM execution_heads h WHERE h.id = :id";

/// The newest of what was done to something older, like reading a receipt again.
const NEWEST_ASIDE: &str = "SELECT coalesce(max(id), 0) FROM asides";

/// How an execution stood when its line was written.
#[derive(Clone, Copy)]
pub(super) struct Exported {
    /// Its newest row.
    pub(super) newest: i64,
    /// The newest aside, of whatever.
    pub(super) aside: i64,
}

/// Writes lines for the first ones of `going`: for how many, and what each of them is known by from now on.
pub(super) fn unload(conn: &Connection, going: &[Going], out: &mut dyn Write) -> Result<Vec<Going>, StoreError> {
    let mut out = Counted { out, bytes: 0 };
    let mut unloaded = Vec::new();
    let aside = conn.query_row(NEWEST_ASIDE, [], |row| row.get(0)).map_err(fault)?;
    for one in going {
        if out.bytes >= BYTES {
            break;
        }
        unloaded.push(match *one {
            Going::Execution { id, .. } => {
                let newest: Option<i64> =
                    conn.query_row(NEWEST, &[(":id", &id)], |row| row.get(0)).optional().map_err(fault)?;
                if newest.is_some() {
                    execution(conn, id, &mut out)?;
                }
                Going::Execution { id, exported: newest.map(|newest| Exported { newest, aside }) }
            }
            Going::Receipt { id, .. } => {
                let sql = format!("{RECEIPT} WHERE id = ?1");
                let mut statement = conn.prepare(&sql).map_err(fault)?;
                let mut rows = statement.query([id]).map_err(fault)?;
                let mut exported = None;
                if let Some(row) = rows.next().map_err(fault)? {
                    put(&mut out, "{\"receipt\":")?;
                    exported = Some(receipt(conn, row, &mut out)?);
                    put(&mut out, "}\n")?;
                }
                Going::Receipt { id, exported }
            }
        });
    }
    Ok(unloaded)
}

/// What `executions show --json` says of it, with the receipts' bodies and the deliveries' attempts.
fn execution(conn: &Connection, id: i64, out: &mut Counted<'_>) -> Result<(), StoreError> {
    let (flat, tasks) = conn
        .prepare(&format!("{EXECUTION} WHERE h.id = ?1"))
        .and_then(|mut statement| statement.query_row([id], |row| Ok(read::execution(conn, row))))
        .map_err(fault)??;
    put(out, "{\"execution\":")?;
    write_json(out, &flat)?;
    put(out, ",\"tasks\":")?;
    write_json(out, &tasks)?;

    // A receipt of several executions that none of this one's changes came from stands with the first of them.
    let of_it = "SELECT receipt FROM chain UNION SELECT id FROM receipts WHERE status <> 'accepted' AND execution = ?1";
    let sql = format!("{CHAIN} {RECEIPT} WHERE id IN ({of_it}) ORDER BY id");
    list(conn, out, "receipts", &sql, id, |row, out| receipt(conn, row, out).map(|_| ()))?;

    let links = read::links(conn, id).map_err(fault)?;
    put(out, ",\"changes\":[")?;
    let mut chain = conn.prepare(&format!("{CHAIN} SELECT id FROM chain ORDER BY id")).map_err(fault)?;
    let ids: Vec<i64> =
        chain.query_map([id], |row| row.get(0)).and_then(|rows| rows.collect::<Result<_, _>>()).map_err(fault)?;
    let mut by_id = conn.prepare(CHANGE).map_err(fault)?;
    for (place, change) in ids.into_iter().enumerate() {
        put(out, if place > 0 { "," } else { "" })?;
        let change = by_id.query_row(params![change, id], |row| history::change(row, &links)).map_err(fault)?;
        write_json(out, &change)?;
    }
    put(out, "]")?;

    let sql = format!("{DELIVERY} WHERE d.execution = ?1 ORDER BY d.id");
    list(conn, out, "deliveries", &sql, id, |row, out| {
        let row = read::delivery(row).map_err(fault)?;
        let delivery = row.id.parse().unwrap_or_default();
        let tried = history::attempts(conn, delivery)?;
        write_json(out, &with(&row, "tried", json!(tried)))
    })?;
    put(out, "}\n")
}

/// A member that is a list, written a row at a time.
fn list(
    conn: &Connection,
    out: &mut Counted<'_>,
    name: &str,
    sql: &str,
    id: i64,
    mut write: impl FnMut(&rusqlite::Row<'_>, &mut Counted<'_>) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    put(out, &format!(",\"{name}\":["))?;
    let mut statement = conn.prepare(sql).map_err(fault)?;
    let mut rows = statement.query([id]).map_err(fault)?;
    let mut is_first = true;
    while let Some(row) = rows.next().map_err(fault)? {
        put(out, if is_first { "" } else { "," })?;
        is_first = false;
        write(row, out)?;
    }
    put(out, "]")
}

/// A receipt with its body: as `text` where it is some, else as `base64`; none where it was not kept again. Its status.
fn receipt(conn: &Connection, row: &rusqlite::Row<'_>, out: &mut Counted<'_>) -> Result<ReceiptStatus, StoreError> {
    let flat = read::receipt(row).map_err(fault)?;
    let id: i64 = row.get(0).map_err(fault)?;
    let body = conn.query_row("SELECT body FROM receipts WHERE id = ?1", [id], |row| row.get(0));
    let body = match body.map_err(fault)? {
        None => Value::Null,
        Some(bytes) => match String::from_utf8(bytes) {
            Ok(text) => json!({ "text": text }),
            Err(e) => json!({ "base64": signature::base64(e.as_bytes()) }),
        },
    };
    write_json(out, &with(&flat, "body", body))?;
    Ok(flat.status)
}

/// The same object with one more member.
fn with(row: &impl Serialize, name: &str, value: Value) -> Value {
    let mut object = json!(row);
    object[name] = value;
    object
}

struct Counted<'w> {
    out: &'w mut dyn Write,
    bytes: usize,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn put(out: &mut Counted<'_>, text: &str) -> Result<(), StoreError> {
    out.write_all(text.as_bytes()).map_err(unwritable)
}

fn write_json(out: &mut Counted<'_>, value: &impl Serialize) -> Result<(), StoreError> {
    serde_json::to_writer(out, value).map_err(|e| unwritable(e.into()))
}

fn unwritable(e: io::Error) -> StoreError {
    StoreError::Unavailable(e.to_string())
}
