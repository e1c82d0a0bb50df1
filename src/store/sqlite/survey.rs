//! A look at the whole store, for `doctor`, `backup` and commands that touch many rows: read-only, beside a daemon or
//! alone, and of any schema that this callbackd knows.
//!
//! No statement here holds a snapshot for longer than it was given: as long as somebody reads an old state, the log
//! cannot begin anew.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, params_from_iter};

use super::super::rules::{DELIVERIES, conditions};
use super::read::fault;
use super::{open, portable, room};
use crate::model::Time;
use crate::store::{Extent, Filter, StoreError};

/// SQLite's steps between two looks at the watch.
const STEPS: i32 = 10_000;

/// A store that is looked at.
pub struct Survey {
    pub(super) conn: Connection,
    pub(super) path: PathBuf,
    version: usize,
}

/// What the schema is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    /// Its number.
    pub version: usize,
    /// The number that this callbackd writes.
    pub newest: usize,
    /// What is there and is not callbackd's, or is missing: `table x`.
    pub oddities: Vec<Oddity>,
}

/// One thing in the file that should not be there, or should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Oddity {
    /// Somebody else made it, or changed it.
    Foreign(String),
    /// It is not there.
    Missing(String),
}

/// What waits at large: receipts that need somebody.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Receipts of this status.
    pub count: u64,
    /// When the oldest of them came.
    pub oldest: Option<Time>,
    /// When the newest of them came.
    pub newest: Option<Time>,
}

/// What comes in, and what it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Traffic {
    /// Executions that are kept.
    pub executions: u64,
    /// Of these, begun in the last 24 hours.
    pub last_day: u64,
    /// When the oldest of them began.
    pub oldest: Option<Time>,
    /// The latest time that any id tells.
    pub latest: Option<Time>,
}

/// Some deliveries that a filter means, in the order of their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// How many.
    pub count: u64,
    /// The last of them.
    pub end: i64,
}

impl Survey {
    /// Opens the store at `path`.
    pub fn open(path: &Path) -> Result<Survey, StoreError> {
        if !path.exists() {
            return Err(StoreError::NotFound(format!("there is no store at {}", path.display())));
        }
        let (conn, version) = open::reader_of_any(path)?;
        Ok(Survey { conn, path: path.to_owned(), version })
    }

    /// Why no daemon begins on it, where it was moved, or is being filled.
    pub fn is_to_be_used(&self) -> Result<(), StoreError> {
        portable::refuse(&self.conn, &self.path)
    }

    /// Its schema, beside the one that callbackd makes.
    pub fn schema(&self) -> Result<Schema, StoreError> {
        let made = |conn: &Connection| -> rusqlite::Result<Vec<(String, String)>> {
            let sql = "SELECT type || ' ' || name, coalesce(sql, '') FROM sqlite_schema WHERE name NOT LIKE 'sqlite_%'";
            conn.prepare(sql)?.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        let expected = open::empty(self.version).and_then(|conn| made(&conn)).map_err(fault)?;
        let found = made(&self.conn).map_err(fault)?;
        let mut oddities: Vec<Oddity> =
            found.iter().filter(|one| !expected.contains(one)).map(|(name, _)| Oddity::Foreign(name.clone())).collect();
        let is_missing = |name: &str| !found.iter().any(|(there, _)| there == name);
        oddities.extend(
            expected.iter().filter(|(name, _)| is_missing(name)).map(|(name, _)| Oddity::Missing(name.clone())),
        );
        Ok(Schema { version: self.version, newest: open::MIGRATIONS.len(), oddities })
    }

    /// Has SQLite check every table, one after the other, each in a snapshot of its own: what is wrong (at most a few
    /// lines), and the table at which the time was up, if it was. `at` is told of each table as its turn comes.
    pub fn check(
        &mut self,
        within: Duration,
        mut at: impl FnMut(&str),
    ) -> Result<(Vec<String>, Option<String>), StoreError> {
        let until = Instant::now() + within;
        let tables: Vec<String> = {
            let sql = "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name";
            let mut statement = self.conn.prepare(sql).map_err(fault)?;
            let rows = statement.query_map([], |row| row.get(0)).map_err(fault)?;
            rows.collect::<Result<_, _>>().map_err(fault)?
        };
        self.conn.progress_handler(STEPS, Some(move || Instant::now() > until)).map_err(fault)?;
        let (mut wrong, mut unfinished) = (Vec::new(), None);
        for table in tables {
            at(&table);
            let checked = quick_check(&self.conn, &table);
            match checked {
                Ok(said) => wrong.extend(said),
                Err(e) if e.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) => {
                    unfinished = Some(table);
                    break;
                }
                Err(e) => wrong.push(format!("table {table}: {e}")),
            }
        }
        self.conn.progress_handler(STEPS, None::<fn() -> bool>).map_err(fault)?;
        Ok((wrong, unfinished))
    }

    /// How much room it takes.
    pub fn extent(&self) -> Result<Extent, StoreError> {
        room::extent(&self.conn, &self.path)
    }

    /// The size of the log, in bytes.
    pub fn log_bytes(&self) -> u64 {
        room::log_bytes(&self.path)
    }

    /// The receipts of one status, which is not `accepted`.
    pub fn receipts(&self, status: &str) -> Result<Backlog, StoreError> {
        let sql = "SELECT count(*), min(received_at), max(received_at) FROM receipts
                   WHERE status <> 'accepted' AND status = ?1";
        let time = |at: Option<i64>| at.map(Time::from_micros);
        self.conn
            .query_row(sql, [status], |row| {
                let count: i64 = row.get(0)?;
                Ok(Backlog { count: count.unsigned_abs(), oldest: time(row.get(1)?), newest: time(row.get(2)?) })
            })
            .map_err(fault)
    }

    /// What came in.
    pub fn traffic(&self, now: Time) -> Result<Traffic, StoreError> {
        let day_ago = now.micros() - 86_400_000_000;
        let one = |sql: &str, value: i64| {
            self.conn.query_row(sql, [value], |row| row.get::<_, Option<i64>>(0)).optional().map_err(fault)
        };
        let number = |sql: &str, value: i64| one(sql, value).map(|n| n.flatten().map(i64::unsigned_abs).unwrap_or(0));
        let time = |sql: &str| one(sql, i64::MIN).map(|at| at.flatten().map(Time::from_micros));
        Ok(Traffic {
            executions: number("SELECT count(*) FROM execution_heads WHERE id > ?1", i64::MIN)?,
            last_day: number("SELECT count(*) FROM execution_heads WHERE id > ?1", day_ago)?,
            oldest: time("SELECT min(id) FROM execution_heads WHERE id > ?1")?,
            latest: time(
                "SELECT max(received_at) FROM (SELECT received_at FROM receipts WHERE id > ?1 ORDER BY id DESC LIMIT 1)",
            )?,
        })
    }

    /// The next deliveries behind `after` that `filter` means, `most` of them at the most: none when there are none.
    pub fn window(&self, filter: &Filter, after: i64, most: u64) -> Result<Option<Window>, StoreError> {
        let filter = Filter { after: Some(after.max(filter.after.unwrap_or(after))), ..filter.clone() };
        let (wheres, values) = conditions(&filter, &DELIVERIES, '?');
        let sql = format!(
            "SELECT count(*), max(id) FROM (SELECT d.id FROM deliveries d JOIN execution_heads h ON h.id = d.execution
             {wheres} ORDER BY d.id LIMIT {most})"
        );
        let found: (i64, Option<i64>) =
            self.conn.query_row(&sql, params_from_iter(values), |row| Ok((row.get(0)?, row.get(1)?))).map_err(fault)?;
        Ok(found.1.map(|end| Window { count: found.0.unsigned_abs(), end }))
    }
}

fn quick_check(conn: &Connection, table: &str) -> rusqlite::Result<Vec<String>> {
    let mut statement = conn.prepare(&format!("PRAGMA quick_check(\"{}\")", table.replace('"', "\"\"")))?;
    let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
    let said = rows.take(5).filter(|line| !matches!(line, Ok(text) if text == "ok"));
    said.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store(folder: &tempfile::TempDir, sql: &str) -> PathBuf {
        let path = folder.path().join("store.db");
        let conn = open::writer(&path).expect("made");
        conn.execute_batch(sql).expect("done");
        path
    }

    #[test]
    fn what_is_not_callbackds_is_named_and_what_is_missing_too() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = store(&folder, "");
        let schema = Survey::open(&path).expect("opens").schema().expect("read");
        assert_eq!((schema.version, schema.oddities), (schema.newest, Vec::new()));
        let path = store(&folder, "CREATE TABLE notes (text); DROP VIEW tasks");
        let oddities = Survey::open(&path).expect("opens").schema().expect("read").oddities;
        let expected = [Oddity::Foreign("table notes".to_owned()), Oddity::Missing("view tasks".to_owned())];
        assert_eq!(oddities, expected);
    }

    #[test]
    fn a_check_ends_when_its_time_is_up() {
        let folder = tempfile::tempdir().expect("a folder");
        let rows =
            "CREATE TABLE large AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100000)
                    SELECT i, hex(randomblob(20)) AS text FROM n";
        let mut survey = Survey::open(&store(&folder, rows)).expect("opens");
        let mut turns = Vec::new();
        let (wrong, unfinished) =
            survey.check(Duration::from_secs(600), |t| turns.push(t.to_owned())).expect("checked");
        assert_eq!((wrong, unfinished), (Vec::new(), None));
        assert!(turns.iter().any(|t| t == "large") && turns.iter().any(|t| t == "receipts"), "{turns:?}");
        let (wrong, unfinished) = survey.check(Duration::ZERO, |_| {}).expect("checked");
        assert_eq!((wrong, unfinished.as_deref()), (Vec::new(), Some("large")), "the first that takes many steps");
    }

    #[test]
    fn damage_is_found() {
        let folder = tempfile::tempdir().expect("a folder");
        let rows =
            "CREATE TABLE large AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)
                    SELECT i, hex(randomblob(20)) AS text FROM n; PRAGMA wal_checkpoint(TRUNCATE)";
        let path = store(&folder, rows);
        let mut bytes = std::fs::read(&path).expect("read");
        let (pages, page) = (bytes.len() / 8192, 8192);
        bytes[(pages - 20) * page..(pages - 10) * page].fill(0x5a);
        std::fs::write(&path, bytes).expect("written");
        let (wrong, _) = Survey::open(&path).expect("opens").check(Duration::from_secs(600), |_| {}).expect("checked");
        assert!(!wrong.is_empty());
    }
}
