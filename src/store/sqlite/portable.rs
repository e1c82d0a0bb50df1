//! The file as a move sees it: all its rows, in the shape that every store knows.
//!
//! Beside a daemon it is only read, a page at a time, so that no snapshot holds up the log. To be filled or ended it is
//! held by its lock, as by a daemon. What executions are found by, and what leads to changes that no receipt leads to, is
//! made here.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, OptionalExtension, Row as SqlRow, ToSql, params, params_from_iter};

use super::super::rules::{hash_of, short_key};
use super::open::{self, Lock};
use crate::Boxed;
use crate::store::StoreError;
use crate::store::moving::{
    BYTES, Cell, Ground, Kind, Mark, Name, Opened, Place, ROWS, Row, Standing, TABLES, Table, meanwhile,
};

/// Executions that are put into the index at once: by rising hashes, so that a page of it takes many.
const FOLD: i64 = 131_072;
/// A change so much later than the receipt that it came with did not come with it.
const APART: i64 = 1000;

struct File {
    place: Place,
    path: PathBuf,
    /// Opened when it is first needed: to read, until it is held.
    conn: Option<Connection>,
    lock: Option<Lock>,
    /// What it said of itself when it was last looked at, or what was said since.
    seen: Mark,
}

/// A store, to be read beside whoever uses it.
pub fn to_read(path: &Path) -> Result<Opened, StoreError> {
    let none = || StoreError::NotFound(format!("there is no store at {}", path.display()));
    glance(path)?.ok_or_else(none)?;
    to_fill(path)
}

/// A store to be filled, made when it is where there is none.
pub fn to_fill(path: &Path) -> Result<Opened, StoreError> {
    let place = place(path)?;
    Ok(Opened(Box::new(File { place, path: path.to_owned(), conn: None, lock: None, seen: Mark::Plain })))
}

/// Of two stores, one is at fault.
fn fault(path: &Path) -> impl Fn(rusqlite::Error) -> StoreError + use<> {
    let path = path.display().to_string();
    move |e| StoreError::Unavailable(format!("{path}: {e}"))
}

/// Refuses to begin on a store that was moved, or is being filled.
pub(super) fn refuse(conn: &Connection, path: &Path) -> Result<(), StoreError> {
    mark(conn).map_err(fault(path))?.refusal(&place(path)?)
}

/// By its canonical path, also where it is not there yet.
fn place(path: &Path) -> Result<Place, StoreError> {
    let said = |e: io::Error| StoreError::Unusable(format!("{}: {e}", path.display()));
    let whole = match path.canonicalize() {
        Err(e) if e.kind() == io::ErrorKind::NotFound && path.symlink_metadata().is_err() => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let name = path.file_name().ok_or(e).map_err(said)?;
            folder.canonicalize().map_err(said)?.join(name)
        }
        there => there.map_err(said)?,
    };
    let url = format!("sqlite:{}", whole.display());
    Ok(Place { store: url.clone(), formerly: url.clone(), url })
}

/// How a store stands; `None` where there is none yet. What is somebody else's is refused.
///
/// Looking leaves nothing behind: to read a file beside which there is no log, SQLite would make one.
fn glance(path: &Path) -> Result<Option<Standing>, StoreError> {
    let said = |e: io::Error| StoreError::Unusable(format!("{}: {e}", path.display()));
    let log = {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        PathBuf::from(log)
    };
    let has_log = log.try_exists().map_err(said)?;
    match path.metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(file) if file.len() == 0 && !has_log => return Ok(None),
        found => found.map_err(said)?,
    };
    open::has_one_name(path)?;
    let fault = fault(path);
    let conn = if has_log { open::reader_of_any(path)?.0 } else { open::glance(path)? };
    open::is_ours(&conn, path)?;
    let there = "SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = ?1)";
    let mut is_empty = true;
    for table in TABLES {
        // Older stores lack some.
        let any = format!("SELECT EXISTS (SELECT 1 FROM {})", table.name);
        let is =
            |sql: &str, values: &[&str]| conn.query_row(sql, params_from_iter(values), |row| row.get::<_, bool>(0));
        is_empty &= !(is(there, &[table.name]).map_err(&fault)? && is(&any, &[]).map_err(&fault)?);
    }
    Ok(Some(Standing { mark: mark(&conn).map_err(fault)?, is_empty }))
}

/// Checkpoints are its own: there is no thread for them.
fn writer(path: &Path) -> Result<Connection, StoreError> {
    let conn = open::writer(path)?;
    conn.execute_batch("PRAGMA wal_autocheckpoint = 2000; PRAGMA cache_size = -65536;").map_err(fault(path))?;
    Ok(conn)
}

fn mark(conn: &Connection) -> rusqlite::Result<Mark> {
    if !conn.query_row("SELECT EXISTS (SELECT 1 FROM sqlite_schema WHERE name = 'moves')", [], |row| row.get(0))? {
        return Ok(Mark::Plain);
    }
    let read = |row: &SqlRow<'_>| {
        // An older mark holds no more than state and place.
        let store = if row.as_ref().column_count() > 2 { row.get(2)? } else { None };
        Ok(Mark::of(&row.get::<_, String>(0)?, Name { url: row.get(1)?, store }))
    };
    Ok(conn.query_row("SELECT * FROM moves", [], read).optional()?.unwrap_or(Mark::Plain))
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

fn rows(conn: &Connection, table: &Table, after: i64) -> rusqlite::Result<Vec<Row>> {
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
    let mut statement = conn.prepare(&sql)?;
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

fn write(conn: &mut Connection, table: &Table, gone: &[i64], rows: &[Row]) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
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
fn fold(conn: &mut Connection) -> rusqlite::Result<()> {
    loop {
        let tx = conn.transaction()?;
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

fn set(conn: &mut Connection, mark: &Mark) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    tx.execute_batch("DROP TABLE IF EXISTS moves")?;
    if let Some((state, name)) = mark.parts() {
        tx.execute_batch("CREATE TABLE moves (state TEXT NOT NULL, place TEXT NOT NULL, store TEXT) STRICT")?;
        tx.execute(
            "INSERT INTO moves (state, place, store) VALUES (?1, ?2, ?3)",
            params![state, name.url, name.store],
        )?;
    }
    tx.commit()
}

fn counted(conn: &Connection) -> rusqlite::Result<u64> {
    let count = |table: &Table| {
        let only = table.only.map(|only| format!(" WHERE {only}")).unwrap_or_default();
        let sql = format!("SELECT count(*) FROM {}{only}", table.name);
        conn.query_row(&sql, [], |row| row.get(0).map(i64::unsigned_abs))
    };
    TABLES.iter().map(count).sum()
}

impl File {
    fn conn(&mut self) -> Result<&mut Connection, StoreError> {
        match &mut self.conn {
            Some(conn) => Ok(conn),
            none => {
                super::find(&self.path)?;
                Ok(none.insert(open::reader(&self.path)?))
            }
        }
    }

    /// What it does with the file, on this thread: nobody else is on it.
    fn work<'a, T: Send + 'a>(
        &'a mut self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T>,
    ) -> Boxed<'a, Result<T, StoreError>> {
        let fault = fault(&self.path);
        done(self.conn().and_then(|conn| work(conn).map_err(fault)))
    }

    fn look(&mut self) -> Result<Standing, StoreError> {
        let fault = fault(&self.path);
        let standing = match &self.conn {
            Some(conn) if self.lock.is_some() => {
                Standing { mark: mark(conn).map_err(&fault)?, is_empty: counted(conn).map_err(&fault)? == 0 }
            }
            _ => glance(&self.path)?.unwrap_or(Standing { mark: Mark::Plain, is_empty: true }),
        };
        self.seen = standing.mark.clone();
        Ok(standing)
    }

    fn say(&mut self, mark: Mark) -> Result<(), StoreError> {
        let fault = fault(&self.path);
        set(self.conn()?, &mark).map_err(fault)?;
        self.seen = mark;
        Ok(())
    }

    /// Its lock is enough: nobody writes without it, nor marks it.
    fn take(&mut self) -> Result<bool, StoreError> {
        if self.lock.is_none() {
            let Some(lock) = Lock::try_take(&self.path)? else { return Ok(false) };
            let conn = writer(&self.path)?;
            if mark(&conn).map_err(fault(&self.path))? != self.seen {
                return Err(meanwhile(&self.place));
            }
            (self.conn, self.lock) = (Some(conn), Some(lock));
        }
        Ok(true)
    }
}

/// What was asked of it is done: nobody else is on this thread.
fn done<'a, T: Send + 'a>(value: Result<T, StoreError>) -> Boxed<'a, Result<T, StoreError>> {
    Box::pin(std::future::ready(value))
}

impl Ground for File {
    fn place(&self) -> &Place {
        &self.place
    }

    fn stand(&mut self) -> Boxed<'_, Result<Standing, StoreError>> {
        done(self.look())
    }

    fn set_mark(&mut self, mark: Mark) -> Boxed<'_, Result<(), StoreError>> {
        done(self.say(mark))
    }

    fn hold(&mut self, _mark: Mark) -> Boxed<'_, Result<bool, StoreError>> {
        done(self.take())
    }

    fn count(&mut self) -> Boxed<'_, Result<u64, StoreError>> {
        self.work(|conn| counted(conn))
    }

    fn last(&mut self, table: &'static Table) -> Boxed<'_, Result<i64, StoreError>> {
        let sql = format!("SELECT coalesce(max({}), 0) FROM {}", table.id.unwrap_or("1"), table.name);
        self.work(|conn| conn.query_row(&sql, [], |row| row.get(0)))
    }

    fn page(&mut self, table: &'static Table, after: i64) -> Boxed<'_, Result<Vec<Row>, StoreError>> {
        self.work(|conn| rows(conn, table, after))
    }

    fn put(&mut self, table: &'static Table, gone: Vec<i64>, rows: Vec<Row>) -> Boxed<'_, Result<(), StoreError>> {
        self.work(|conn| write(conn, table, &gone, &rows))
    }

    fn settle(&mut self) -> Boxed<'_, Result<(), StoreError>> {
        self.work(fold)
    }
}
