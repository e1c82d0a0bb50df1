//! Moving a store into another: all rows, as both kinds of store can give and take them.
//!
//! A `Ground` is a store as the move sees it: tables of `Row`s in the order of their ids, in the one shape that is
//! written down here, whatever a store makes of it. Leases are nobody's in it. The move itself is [`Move`]: it copies
//! while the store is used, and once nobody uses it any more, compares all rows of both by their digests, writes what
//! differs, and marks the one as moved and the other as whole (`mark`; `undo` is the way back without the rows). Nothing that it needs to go on after it was killed is
//! anywhere but in the two stores.

use crate::Boxed;
use crate::signature;
use crate::store::StoreError;

mod mark;
mod pass;
mod steps;
mod undo;

pub(crate) use mark::{Mark, Name, Place};
pub use pass::{Counted, Difference, Tally};
pub use steps::{Begun, Move, Opened};
pub use undo::{Other, Undone};

/// What is said where two work on one store.
pub(crate) fn meanwhile(place: &Place) -> StoreError {
    let url = &place.url;
    StoreError::Refused(format!(
        "another `callbackd move`, or a callbackd, has worked on {url} meanwhile; this one has given nothing up: see what it says \
         now, and run this again"
    ))
}

/// Rows that are read at once, at most.
pub(crate) const ROWS: usize = 2000;
/// The long column of those has no more bytes than this, or there is but one row.
pub(crate) const BYTES: usize = 4 << 20;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Number,
    /// 0 or 1.
    YesNo,
    Text,
    Bytes,
    /// A text by which something is looked up: see [`crate::store::rules::short_key`].
    Key,
}

/// A table, by the names that its columns have in every store.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// What rows are read by, in its order; `None` where they are few, and all read at once.
    pub(crate) id: Option<&'static str>,
    pub(crate) columns: &'static [(&'static str, Kind)],
    /// The column that may be long.
    pub(crate) long: Option<&'static str>,
    /// Which of the rows, where it is not all of them.
    pub(crate) only: Option<&'static str>,
}

macro_rules! tables {
    ($($name:ident $([$id:ident])? { $($column:ident: $kind:ident),* $(,)? } $(long $long:ident)? $(only $only:literal)?;)*) => {
        /// Everything that is moved. What a store finds its rows by is its own to make.
        pub(crate) static TABLES: &[Table] = &[$(Table {
            name: stringify!($name),
            id: tables!(@one $(stringify!($id))?),
            columns: &[$((tables!(@name $column), Kind::$kind)),*],
            long: tables!(@one $(stringify!($long))?),
            only: tables!(@one $($only)?),
        },)*];
    };
    (@one) => { None };
    (@one $one:expr) => { Some($one) };
    (@name kind) => { "type" };
    (@name $column:ident) => { stringify!($column) };
}

tables! {
    receipts [id] {
        source: Text, status: Text, received_at: Number, peer: Text, headers: Text, body: Bytes, body_bytes: Number, digest: Text,
        reason: Text, execution: Number, executions: Text,
    } long body;
    execution_heads [id] {
        source: Text, key: Text, seen: Text, status: Text, change: Number, sequence: Number, previous: Number, kind: Text,
        previous_status: Text, changed_tasks: Text, receipt: Number, received_at: Number, snapshot: Text,
    } long snapshot;
    earlier_changes [id] {
        execution: Number, sequence: Number, previous: Number, kind: Text, previous_status: Text, changed_tasks: Text,
        receipt: Number, received_at: Number, snapshot: Text,
    } long snapshot;
    deliveries [id] {
        execution: Number, sink: Text, change: Number, status: Text, due_at: Number, attempts: Number, created_at: Number,
        finished_at: Number, until_linked: YesNo, resume: Text, reason: Text,
    };
    attempts [id] {
        delivery: Number, started_at: Number, duration_ms: Number, outcome: Text, status: Number, reason: Text, answer: Text,
    };
    links [id] { rule: Text, execution: Number, with_execution: Number, created_at: Number };
    link_keys [execution] { rule: Text, side: Text, key: Key };
    inquiries [id] {
        source: Text, key: Text, due_at: Number, leased: YesNo, asked: Number, failures: Number, overdue_at: Number,
    };
    asides [id] { delivery: Number } only "delivery IS NOT NULL";
    sink_pauses { sink: Text, reason: Text };
}

impl Table {
    /// Its place among those that have it.
    pub(crate) fn position(&self, column: &str) -> Option<usize> {
        self.columns.iter().position(|(name, _)| *name == column)
    }

    /// What is read for a column: nobody holds a lease in another store.
    pub(crate) fn read(&self, column: &str) -> Option<&'static str> {
        match (self.name, column) {
            ("deliveries", "status") => Some("CASE WHEN status = 'leased' THEN 'waiting' ELSE status END"),
            ("deliveries", "due_at") => Some("CASE WHEN status = 'leased' THEN 0 ELSE due_at END"),
            ("inquiries", "due_at") => Some("CASE WHEN CAST(leased AS INTEGER) = 1 THEN 0 ELSE due_at END"),
            ("inquiries", "leased") => Some("0"),
            _ => None,
        }
    }
}

/// A value of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    Null,
    Number(i64),
    Text(String),
    Bytes(Vec<u8>),
}

impl Cell {
    pub(crate) fn number(&self) -> Option<i64> {
        match self {
            Cell::Number(number) => Some(*number),
            _ => None,
        }
    }

    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Cell::Text(text) => Some(text),
            _ => None,
        }
    }
}

/// A row, with its id: of a table without ids, that is 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) id: i64,
    pub(crate) cells: Vec<Cell>,
}

/// SHA-256.
pub(crate) type Digest = [u8; 32];

impl Row {
    /// Of all its values, as every store gives them: PostgreSQL's texts hold no zeros (`postgres/rows.rs`).
    pub(crate) fn digest(&self) -> Digest {
        let mut form = self.id.to_be_bytes().to_vec();
        let mut put = |tag: u8, bytes: &[u8]| {
            form.push(tag);
            form.extend((bytes.len() as u64).to_be_bytes());
            form.extend(bytes);
        };
        for cell in &self.cells {
            match cell {
                Cell::Null => put(0, &[]),
                Cell::Number(number) => put(1, &number.to_be_bytes()),
                Cell::Text(text) if text.contains('\0') => put(2, text.replace('\0', "\u{2400}").as_bytes()),
                Cell::Text(text) => put(2, text.as_bytes()),
                Cell::Bytes(bytes) => put(3, bytes),
            }
        }
        signature::sha256(&form)
    }
}

/// How a store stands before anything is done to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) mark: Mark,
    /// It holds no row, or is not there yet.
    pub(crate) is_empty: bool,
}

/// A store as the move sees it.
pub(crate) trait Ground: Send {
    /// Where it is, without secrets.
    fn place(&self) -> &Place;

    /// How it stands. Looking makes and changes nothing: where there is none yet, there is none afterwards.
    fn stand(&mut self) -> Boxed<'_, Result<Standing, StoreError>>;

    /// Says of itself, on stable storage, what it is from now on; refused where somebody else has changed what it said since
    /// this one looked, or said it.
    fn set_mark(&mut self, mark: Mark) -> Boxed<'_, Result<(), StoreError>>;

    /// Keeps everybody else from using it, from now on until the mark says that it may be: whether nobody does. Where that
    /// takes a mark, it is this one. A store to be filled is made now, where there is none. Refused like `set_mark`.
    fn hold(&mut self, mark: Mark) -> Boxed<'_, Result<bool, StoreError>>;

    /// How many rows there are, about.
    fn count(&mut self) -> Boxed<'_, Result<u64, StoreError>>;

    /// The greatest id of a table; 0 where it is empty.
    fn last(&mut self, table: &'static Table) -> Boxed<'_, Result<i64, StoreError>>;

    /// Rows after an id, in the order of their ids: some, and all of the last one's id. None means that there are none.
    fn page(&mut self, table: &'static Table, after: i64) -> Boxed<'_, Result<Vec<Row>, StoreError>>;

    /// In one transaction: rows of the ids `gone` go, and these come.
    fn put(&mut self, table: &'static Table, gone: Vec<i64>, rows: Vec<Row>) -> Boxed<'_, Result<(), StoreError>>;

    /// All rows are there: makes what the store needs to find them.
    fn settle(&mut self) -> Boxed<'_, Result<(), StoreError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_values_apart_and_is_the_same_where_zeros_cannot_be_kept() {
        let of = |cells: &[Cell]| Row { id: 1, cells: cells.to_vec() }.digest();
        let text = |text: &str| Cell::Text(text.to_owned());
        assert_ne!(of(&[text("ab"), text("c")]), of(&[text("a"), text("bc")]));
        assert_ne!(of(&[Cell::Null]), of(&[text("")]));
        assert_ne!(of(&[Cell::Number(1)]), of(&[Cell::Number(2)]));
        assert_ne!(of(&[text("a")]), of(&[Cell::Bytes(b"a".to_vec())]));
        assert_eq!(of(&[text("a\0b")]), of(&[text("a\u{2400}b")]));
        assert_ne!(Row { id: 1, cells: Vec::new() }.digest(), Row { id: 2, cells: Vec::new() }.digest());
    }
}
