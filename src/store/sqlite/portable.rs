//! The file as a move sees it: all its rows, in the shape that every store knows.
//!
//! Beside a daemon it is only read, a page at a time, so that no snapshot holds up the log. To be filled or ended it is
//! held by its lock, as by a daemon. What executions are found by, and what leads to changes that no receipt leads to, is
//! made here.

use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, ToSql, params, params_from_iter};

use super::super::rules::{hash_of, short_key};
use super::open::{self, Lock};
use super::read::fault;
use crate::Boxed;
use crate::store::StoreError;
use crate::store::moving::{BYTES, Cell, Ground, Kind, Mark, Opened, ROWS, Row, TABLES, Table};

/// Executions that are put into the index at once: by rising hashes, so that a page of it takes many.
const FOLD: i64 = 131_072;
/// A change so much later than the receipt that it came with did not come with it.
const APART: i64 = 1000;

struct File {
    place: String,
    path: PathBuf,
    conn: Connection,
    lock: Option<Lock>,
}

/// A store, to be read beside whoever uses it.
pub fn to_read(path: &Path) -> Result<Opened, StoreError> {
    super::find(path)?;
    let conn = open::reader(path)?;
    Ok(Opened(Box::new(File { place: place(path)?, path: path.to_owned(), conn, lock: None })))
}

/// A store to be filled, made where there is none.
pub fn to_fill(path: &Path) -> Result<Opened, StoreError> {
    let lock = Lock::take(path)?;
    let conn = writer(path)?;
    Ok(Opened(Box::new(File { place: place(path)?, path: path.to_owned(), conn, lock: Some(lock) })))
}

/// Refuses to begin on a store that was moved, or is being filled.
pub(super) fn refuse(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    mark(conn).map_err(fault)?.refusal(&place(path)?)
}

fn place(path: &Path) -> Result<String, StoreError> {
    let whole = path.canonicalize().map_err(|e| StoreError::Unusable(format!("{}: {e}", path.display())))?;
    Ok(format!("sqlite:{}", whole.display()))
}

/// Checkpoints are its own: there is no thread for them.
fn writer(path: &Path) -> Result<Connection, StoreError> {
    let conn = open::writer(path)?;
    conn.execute_batch("PRAGMA wal_autocheckpoint = 2000; PRAGMA cache_size = -65536;").map_err(fault)?;
    Ok(conn)
}

fn mark(conn: &Connection) -> rusqlite::Result<Mark> {
    if !conn.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'moves')", [], |row| row.get(0))? {
        return Ok(Mark::Plain);
    }
    let read = |row: &SqlRow<'_>| Ok(Mark::of(&row.get::<_, String>(0)?, row.get(1)?));
    Ok(conn.query_row("SELECT state, place FROM moves", [], read).optional()?.unwrap_or(Mark::Plain))
}

impl ToSql for Cell {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Cell::Null => ValueRef::Null,
            Cell::Number(number) => ValueRef::Integer(*number),
            Cell::Text(text) => ValueRef::Text(text.as_bytes()),
            Cell::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

fn cell(row: &SqlRow<'_>, at: usize, kind: Kind) -> rusqlite::Result<Cell> {
    let value = row.get_ref(at)?;
    Ok(match value {
        ValueRef::Null => Cell::Null,
        ValueRef::Integer(number) => Cell::Number(number),
        ValueRef::Blob(bytes) => Cell::Bytes(bytes.to_vec()),
        ValueRef::Text(_) if kind == Kind::Key => Cell::Text(short_key(value.as_str()?.to_owned())),
        ValueRef::Text(_) | ValueRef::Real(_) => Cell::Text(value.as_str()?.to_owned()),
    })
}

impl File {
    fn rows(&self, table: &Table, after: i64) -> rusqlite::Result<Vec<Row>> {
        let names = table.columns.iter().map(|(name, _)| table.read(name).unwrap_or(name));
        let names: Vec<_> = [table.id.unwrap_or("1")].into_iter().chain(names).collect();
        let id = table.id.unwrap_or("1");
        let mut sql = format!("SELECT {} FROM {} WHERE {id} > ?1", names.join(", "), table.name);
        if let Some(only) = table.only {
            sql.push_str(&format!(" AND {only}"));
        }
        if let Some(id) = table.id {
            sql.push_str(&format!(" ORDER BY {id}"));
        }
        let mut statement = self.conn.prepare(&sql)?;
        let mut found = statement.query([after])?;
        let long = table.long.and_then(|long| table.position(long));
        let (mut rows, mut bytes): (Vec<Row>, _) = (Vec::new(), 0);
        while let Some(row) = found.next()? {
            let id = row.get(0)?;
            let is_full = table.id.is_some() && (rows.len() >= ROWS || bytes >= BYTES);
            if is_full && rows.last().is_some_and(|last| last.id != id) {
                break;
            }
            let cells = table.columns.iter().enumerate().map(|(at, (_, kind))| cell(row, at + 1, *kind));
            let cells = cells.collect::<rusqlite::Result<Vec<_>>>()?;
            bytes += match long.and_then(|at| cells.get(at)) {
                Some(Cell::Text(text)) => text.len(),
                Some(Cell::Bytes(body)) => body.len(),
                _ => 0,
            };
            rows.push(Row { id, cells });
        }
        Ok(rows)
    }

    fn write(&mut self, table: &Table, gone: &[i64], rows: &[Row]) -> rusqlite::Result<()> {
        let tx = self.conn.transaction()?;
        let mut delete = tx.prepare(&match table.id {
            Some(id) => format!("DELETE FROM {} WHERE {id} = ?1", table.name),
            None => format!("DELETE FROM {} WHERE ?1 = 1", table.name),
        })?;
        if table.name == "execution_heads" {
            let mut key = tx.prepare("SELECT key FROM execution_heads WHERE id = ?1")?;
            let mut forget = tx.prepare("DELETE FROM identities WHERE hash = ?1 AND execution = ?2")?;
            for id in gone {
                let hash = key.query_row([id], |row| Ok(hash_of(row.get_ref(0)?.as_str()?))).optional()?;
                forget.execute(params![hash, id])?;
            }
        }
        for id in gone {
            delete.execute([id])?;
        }
        drop(delete);
        let names: Vec<_> = table.id.into_iter().chain(table.columns.iter().map(|(name, _)| *name)).collect();
        let places: Vec<_> = (1..=names.len()).map(|n| format!("?{n}")).collect();
        let mut insert =
            tx.prepare(&format!("INSERT INTO {} ({}) VALUES ({})", table.name, names.join(", "), places.join(", ")))?;
        let through: i64 = tx.query_row("SELECT through FROM folded", [], |row| row.get(0))?;
        let mut fold = tx.prepare("INSERT OR IGNORE INTO identities (hash, execution) VALUES (?1, ?2)")?;
        // Its own id is nobody else's, and leads to the change from every cursor before it.
        let mut aside = tx.prepare("INSERT OR IGNORE INTO asides (id, execution) VALUES (?1, ?2)")?;
        let number = |row: &Row, name| table.position(name).and_then(|at| row.cells[at].number());
        for row in rows {
            let id = table.id.map(|_| Cell::Number(row.id));
            insert.execute(params_from_iter(id.iter().chain(&row.cells)))?;
            let (change, execution) = match table.name {
                "execution_heads" => (number(row, "change"), Some(row.id)),
                "earlier_changes" => (Some(row.id), number(row, "execution")),
                _ => continue,
            };
            if let (Some(change), Some(execution)) = (change, execution)
                && number(row, "receipt").is_none_or(|receipt| change.abs_diff(receipt) > APART.unsigned_abs())
            {
                aside.execute([change, execution])?;
            }
            if table.name == "execution_heads" && row.id <= through {
                let key = table.position("key").and_then(|at| row.cells[at].text()).unwrap_or_default();
                fold.execute([hash_of(key), row.id])?;
            }
        }
        drop((insert, fold, aside));
        tx.commit()
    }

    /// Puts all executions into the index.
    fn fold(&mut self) -> rusqlite::Result<()> {
        loop {
            let tx = self.conn.transaction()?;
            let mut young = tx.prepare(
                "SELECT id, key FROM execution_heads WHERE id > (SELECT through FROM folded) ORDER BY id LIMIT ?1",
            )?;
            let entry = |row: &SqlRow<'_>| Ok((hash_of(row.get_ref(1)?.as_str()?), row.get(0)?));
            let mut entries: Vec<(i64, i64)> = young.query_map([FOLD], entry)?.collect::<Result<_, _>>()?;
            let Some(&(_, through)) = entries.last() else { break };
            entries.sort_unstable();
            let mut insert = tx.prepare("INSERT OR IGNORE INTO identities (hash, execution) VALUES (?1, ?2)")?;
            for (hash, execution) in entries {
                insert.execute([hash, execution])?;
            }
            tx.execute("UPDATE folded SET through = ?1", [through])?;
            drop((young, insert));
            tx.commit()?;
        }
        Ok(())
    }

    fn set(&mut self, mark: &Mark) -> rusqlite::Result<()> {
        let tx = self.conn.transaction()?;
        tx.execute_batch("DROP TABLE IF EXISTS moves")?;
        if let Some((state, place)) = mark.parts() {
            tx.execute_batch("CREATE TABLE moves (state TEXT NOT NULL, place TEXT NOT NULL) STRICT")?;
            tx.execute("INSERT INTO moves (state, place) VALUES (?1, ?2)", params![state, place])?;
        }
        tx.commit()
    }

    fn counted(&self) -> rusqlite::Result<u64> {
        let count = |table: &Table| {
            let only = table.only.map(|only| format!(" WHERE {only}")).unwrap_or_default();
            let sql = format!("SELECT count(*) FROM {}{only}", table.name);
            self.conn.query_row(&sql, [], |row| row.get(0).map(i64::unsigned_abs))
        };
        TABLES.iter().map(count).sum()
    }
}

/// What was asked of it is done: nobody else is on this thread.
fn done<'a, T: Send + 'a>(value: Result<T, StoreError>) -> Boxed<'a, Result<T, StoreError>> {
    Box::pin(std::future::ready(value))
}

impl Ground for File {
    fn place(&self) -> &str {
        &self.place
    }

    fn mark(&mut self) -> Boxed<'_, Result<Mark, StoreError>> {
        done(mark(&self.conn).map_err(fault))
    }

    fn set_mark(&mut self, mark: Mark) -> Boxed<'_, Result<(), StoreError>> {
        done(self.set(&mark).map_err(fault))
    }

    fn hold(&mut self, _to: String) -> Boxed<'_, Result<bool, StoreError>> {
        let mut held = || {
            if self.lock.is_none() {
                let Some(lock) = Lock::try_take(&self.path)? else { return Ok(false) };
                self.conn = writer(&self.path)?;
                self.lock = Some(lock);
            }
            Ok(true)
        };
        done(held())
    }

    fn count(&mut self) -> Boxed<'_, Result<u64, StoreError>> {
        done(self.counted().map_err(fault))
    }

    fn last(&mut self, table: &'static Table) -> Boxed<'_, Result<i64, StoreError>> {
        let sql = format!("SELECT coalesce(max({}), 0) FROM {}", table.id.unwrap_or("1"), table.name);
        done(self.conn.query_row(&sql, [], |row| row.get(0)).map_err(fault))
    }

    fn page(&mut self, table: &'static Table, after: i64) -> Boxed<'_, Result<Vec<Row>, StoreError>> {
        done(self.rows(table, after).map_err(fault))
    }

    fn put(&mut self, table: &'static Table, gone: Vec<i64>, rows: Vec<Row>) -> Boxed<'_, Result<(), StoreError>> {
        done(self.write(table, &gone, &rows).map_err(fault))
    }

    fn settle(&mut self) -> Boxed<'_, Result<(), StoreError>> {
        done(self.fold().map_err(fault))
    }
}
