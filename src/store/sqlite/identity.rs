//! Finding an execution by its key, without an index that every callback has to keep up.
//!
//! Vendors' run ids come in random order, and in an index each would dirty a page of its own: of all that a callback
//! writes, that would be the most. So the newest executions are looked up in memory, and folded into the index behind:
//! many at a time, in the order of their hashes, a few with each commit, so that no commit is long. What is in memory
//! can be read again from the rows after a crash, because the index says up to which execution it is complete.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use rusqlite::Connection;

use super::super::rules::hash_of;

/// Executions in memory before they are folded. In an index of millions each would dirty a page by itself: the more there
/// are, the more of them share one. A start reads up to twice as many, so a small store begins with the least.
const YOUNG: RangeInclusive<usize> = 65_536..=196_608;
/// In between, it is one for so many pages of the file: eight or so share a page of the index, whatever its size.
const YOUNG_PAGES: usize = 16;
/// Executions folded with one commit, at least: a commit that folds many is one that many senders wait for.
const FOLD: usize = 64;

fn enough(conn: &Connection) -> rusqlite::Result<usize> {
    let pages: i64 = conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    Ok((usize::try_from(pages).unwrap_or(0) / YOUNG_PAGES).clamp(*YOUNG.start(), *YOUNG.end()))
}

type Entry = (i64, i64);

/// The executions that are not in the index yet, by hash and id.
pub(super) struct Recent {
    young: BTreeSet<Entry>,
    /// Being folded; all of them are older than every young one.
    old: BTreeSet<Entry>,
    /// The newest of the old ones.
    through: i64,
    /// So many young ones are folded.
    enough: usize,
    /// What the open transaction added, folded and took out (of the young, of the old), to be undone with it.
    added: Vec<Entry>,
    folded: Vec<Entry>,
    forgotten: [Vec<Entry>; 2],
}

impl Recent {
    /// Reads what the index does not hold.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Recent> {
        let mut rows = conn.prepare("SELECT id, key FROM execution_heads WHERE id > (SELECT through FROM folded)")?;
        let entry = |row: &rusqlite::Row<'_>| Ok((hash_of(row.get_ref(1)?.as_str()?), row.get(0)?));
        let young = rows.query_map([], entry)?.collect::<Result<_, _>>()?;
        Ok(Recent {
            young,
            old: BTreeSet::new(),
            through: 0,
            enough: enough(conn)?,
            added: Vec::new(),
            folded: Vec::new(),
            forgotten: Default::default(),
        })
    }

    /// The executions with this hash that are not in the index.
    pub(super) fn with(&self, hash: i64) -> impl Iterator<Item = i64> {
        let range = (hash, i64::MIN)..=(hash, i64::MAX);
        self.young.range(range.clone()).chain(self.old.range(range)).map(|(_, execution)| *execution)
    }

    /// Takes note of a new execution.
    pub(super) fn add(&mut self, hash: i64, execution: i64) {
        self.young.insert((hash, execution));
        self.added.push((hash, execution));
    }

    /// Takes out an execution that is let go of: it is not to come into the index any more.
    pub(super) fn forget(&mut self, hash: i64, execution: i64) {
        for (held, forgotten) in [&mut self.young, &mut self.old].into_iter().zip(&mut self.forgotten) {
            if held.remove(&(hash, execution)) {
                forgotten.push((hash, execution));
            }
        }
    }

    /// Folds a few into the index, within the open transaction.
    pub(super) fn fold(&mut self, conn: &Connection, insert: &mut rusqlite::Statement<'_>) -> rusqlite::Result<()> {
        if self.old.is_empty() {
            if self.young.len() < self.enough {
                return Ok(());
            }
            self.old = std::mem::take(&mut self.young);
            self.through = self.old.iter().map(|(_, execution)| *execution).max().unwrap_or(self.through);
        }
        // More than came in, else a burst of large commits would leave ever more in memory.
        for _ in 0..FOLD.max(2 * self.added.len()) {
            let Some(entry) = self.old.pop_first() else { break };
            self.folded.push(entry);
            insert.execute([entry.0, entry.1])?;
        }
        if self.old.is_empty() {
            conn.execute("UPDATE folded SET through = ?1", [self.through])?;
            self.enough = enough(conn)?;
        }
        Ok(())
    }

    /// The transaction is on disk.
    pub(super) fn committed(&mut self) {
        self.added.clear();
        self.folded.clear();
        self.forgotten = Default::default();
    }

    /// The transaction was rolled back: nothing of it happened.
    pub(super) fn rolled_back(&mut self) {
        // In this order: what was added and folded in the same transaction has to go again.
        let [young, old] = &mut self.forgotten;
        self.young.extend(young.drain(..));
        self.old.extend(old.drain(..));
        self.old.extend(self.folded.drain(..));
        for entry in self.added.drain(..) {
            self.young.remove(&entry);
            self.old.remove(&entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> Connection {
        let conn = Connection::open_in_memory().expect("opens");
        conn.execute_batch(include_str!("../migrations/0001_initial.sql")).expect("made");
        conn
    }

    fn insert(conn: &Connection) -> rusqlite::Statement<'_> {
        conn.prepare("INSERT OR IGNORE INTO identities (hash, execution) VALUES (?1, ?2)").expect("prepared")
    }

    fn indexed(conn: &Connection) -> i64 {
        conn.query_row("SELECT count(*) FROM identities", [], |row| row.get(0)).expect("counted")
    }

    fn through(conn: &Connection) -> i64 {
        conn.query_row("SELECT through FROM folded", [], |row| row.get(0)).expect("read")
    }

    #[test]
    fn every_execution_is_in_memory_or_in_the_index_and_the_index_says_up_to_which() {
        let conn = store();
        let mut insert = insert(&conn);
        let mut recent = Recent::load(&conn).expect("loads");
        let all = *YOUNG.start() as i64 + 1000;
        for id in 1..=all {
            recent.add(hash_of(&id.to_string()), id);
            if id % 64 == 0 {
                recent.fold(&conn, &mut insert).expect("folds");
                recent.committed();
            }
        }
        let found = |recent: &Recent, id: i64| {
            let hash = hash_of(&id.to_string());
            let query = "SELECT count(*) FROM identities WHERE hash = ?1 AND execution = ?2";
            let in_index: i64 = conn.query_row(query, [hash, id], |row| row.get(0)).expect("asked");
            usize::from(recent.with(hash).any(|e| e == id)) + in_index as usize
        };
        assert!((1..=all).all(|id| found(&recent, id) == 1));
        assert!(indexed(&conn) > 0 && through(&conn) == 0, "folding, and not complete yet");
        while through(&conn) == 0 {
            recent.fold(&conn, &mut insert).expect("folds");
            recent.committed();
        }
        assert!((1..=all).all(|id| found(&recent, id) == 1));
        assert_eq!(through(&conn), indexed(&conn), "complete up to there");
    }

    #[test]
    fn a_rollback_undoes_what_the_transaction_added_and_folded() {
        let conn = store();
        let mut insert = insert(&conn);
        let mut recent = Recent::load(&conn).expect("loads");
        for id in 1..*YOUNG.start() as i64 {
            recent.add(id, id);
        }
        recent.committed();
        conn.execute_batch("BEGIN").expect("begun");
        recent.add(0, 1_000_000);
        recent.fold(&conn, &mut insert).expect("folds");
        assert_eq!(indexed(&conn), FOLD as i64);
        conn.execute_batch("ROLLBACK").expect("rolled back");
        // Of those being folded, and not yet.
        recent.forget(*YOUNG.start() as i64 - 1, *YOUNG.start() as i64 - 1);
        recent.add(-1, 1_000_001);
        recent.forget(-1, 1_000_001);
        assert_eq!(recent.with(*YOUNG.start() as i64 - 1).chain(recent.with(-1)).count(), 0, "forgotten");
        recent.rolled_back();
        assert_eq!(recent.with(0).chain(recent.with(-1)).count(), 0, "what was added is gone");
        assert!((1..*YOUNG.start() as i64).all(|id| recent.with(id).eq([id])), "what was folded is back");
    }
}
