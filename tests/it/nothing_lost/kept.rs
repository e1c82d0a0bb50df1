//! What the store holds, row for row.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use super::judge::Findings;

/// A store's rows.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// By key: its status, and its number of changes.
    pub(super) executions: BTreeMap<String, (String, i64)>,
    /// By id: status, body.
    pub(super) receipts: HashMap<String, (String, Option<Vec<u8>>)>,
    /// By id: key, sequence, receipt.
    pub(super) changes: HashMap<String, (String, i64, Option<String>)>,
}

impl Kept {
    /// Reads a store that no daemon has open, and what is wrong on its face. Everything that was to be delivered has
    /// been, except what was discarded to `may_discard`.
    pub(super) fn read(path: &Path, may_discard: &str, findings: &mut Findings) -> Kept {
        let conn = rusqlite::Connection::open(path).expect("opens");
        let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
        if check != "ok" {
            findings.wrong.push(format!("the store is damaged: {check}"));
        }
        let mut kept = Kept::default();
        let each = |sql: &str, take: &mut dyn FnMut(&rusqlite::Row<'_>) -> rusqlite::Result<()>| {
            let mut statement = conn.prepare(sql).expect("prepared");
            let mut rows = statement.query([]).expect("queried");
            while let Some(row) = rows.next().expect("a row") {
                take(row).expect("columns");
            }
        };
        each("SELECT key, status, sequence FROM executions", &mut |row| {
            let key: String = row.get(0)?;
            if kept.executions.insert(key.clone(), (row.get(1)?, row.get(2)?)).is_some() {
                findings.twice.push(format!("the execution {key}"));
            }
            Ok(())
        });
        each("SELECT CAST(id AS TEXT), status, body FROM receipts", &mut |row| {
            kept.receipts.insert(row.get(0)?, (row.get(1)?, row.get(2)?));
            Ok(())
        });
        each(
            "SELECT CAST(c.id AS TEXT), e.key, c.sequence, CAST(c.receipt AS TEXT)
             FROM changes c JOIN executions e ON e.id = c.execution",
            &mut |row| {
                kept.changes.insert(row.get(0)?, (row.get(1)?, row.get(2)?, row.get(3)?));
                Ok(())
            },
        );
        each("SELECT CAST(change AS TEXT), sink, status, count(*) FROM deliveries GROUP BY change, sink", &mut |row| {
            let (change, sink, status, count): (String, String, String, i64) =
                (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
            if count != 1 {
                findings.twice.push(format!("{count} deliveries of change {change} to {sink}"));
            }
            if !(status == "delivered" || status == "discarded" && sink == may_discard) {
                findings.wrong.push(format!("the delivery of change {change} to {sink} is {status}"));
            }
            if !kept.changes.contains_key(&change) {
                findings.wrong.push(format!("a delivery of no change: {change} to {sink}"));
            }
            Ok(())
        });
        kept
    }
}
