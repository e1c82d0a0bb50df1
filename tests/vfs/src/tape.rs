//! The tape: everything that was done to the store's files, in order, with marks in between.
//!
//! A file to which any number of processes append, each record with one `write`. The kernel puts appends one after
//! another, so the order on the tape is an order in which things happened. A kill loses nothing that was appended; a record
//! in the middle of which it came is passed over: what it tells was not done yet.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use callbackd::clock;

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum What {
    /// A file was opened, and made if it was not there.
    Opened = 1,
    /// Bytes were written at an offset.
    Wrote,
    /// The size was set.
    Truncated,
    /// A sync begins. What was written before is on disk when it ends.
    SyncBegan,
    /// The sync of this number ended well.
    Synced,
    /// The file's name was taken out of its directory.
    Deleted,
    /// The directory was synced: what was made and deleted in it before stays so.
    DirectorySynced,
    /// A file as it stands on disk, put there by the test itself.
    Stands,
    /// A word of whoever tests.
    Mark,
    /// A sync that failed: what was written before it is in doubt.
    SyncFailed,
}

impl What {
    const ALL: [What; 10] = [
        What::Opened,
        What::Wrote,
        What::Truncated,
        What::SyncBegan,
        What::Synced,
        What::Deleted,
        What::DirectorySynced,
        What::Stands,
        What::Mark,
        What::SyncFailed,
    ];
}

/// One record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// What was done.
    pub what: What,
    /// To which file: its name without the directory; a mark's text.
    pub name: String,
    /// The offset, the new size, or the sync's number.
    pub at: u64,
    /// When it was done, in microseconds since 1970.
    pub micros: i64,
    /// What was written stands there in [`Recorded::bytes`].
    pub bytes: Range<usize>,
}

/// The end at which is written.
#[derive(Debug)]
pub struct Tape(File);

impl Tape {
    /// Opens or makes a tape.
    pub fn append_to(path: &Path) -> io::Result<Tape> {
        File::options().create(true).append(true).open(path).map(Tape)
    }

    /// Appends a record. A tape with a gap would prove nothing, so the process does not outlive a failure.
    pub fn put(&self, what: What, name: &str, at: u64, bytes: &[u8]) {
        let mut record = Vec::with_capacity(HEAD + name.len() + bytes.len() + END.len());
        record.extend_from_slice(&BEGIN);
        record.push(what as u8);
        record.extend_from_slice(&at.to_le_bytes());
        record.extend_from_slice(&clock::now().micros().to_le_bytes());
        record.extend_from_slice(&(name.len() as u32).to_le_bytes());
        record.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        record.extend_from_slice(name.as_bytes());
        record.extend_from_slice(bytes);
        record.extend_from_slice(&END);
        if !matches!((&self.0).write(&record), Ok(written) if written == record.len()) {
            eprintln!("the tape cannot be written");
            std::process::abort();
        }
    }

    /// Puts in a word.
    pub fn mark(&self, text: &str) {
        self.put(What::Mark, text, 0, &[]);
    }
}

/// What no store holds by chance.
const BEGIN: [u8; 8] = 0x9e37_79b9_7f4a_7c15_u64.to_le_bytes();
const END: [u8; 8] = 0xbf58_476d_1ce4_e5b9_u64.to_le_bytes();
/// The beginning, what, at, micros, and two lengths.
const HEAD: usize = 8 + 1 + 8 + 8 + 4 + 4;

/// A tape that was read back.
#[derive(Debug)]
pub struct Recorded {
    /// In order.
    pub records: Vec<Record>,
    tape: Vec<u8>,
}

impl Recorded {
    /// Reads a tape to its end.
    pub fn read(path: &Path) -> io::Result<Recorded> {
        let tape = std::fs::read(path)?;
        let (mut records, mut next) = (Vec::new(), 0);
        while next < tape.len() {
            if let Some(record) = record(&tape, next) {
                next = record.bytes.end + END.len();
                records.push(record);
            } else {
                // Cut off by a kill: what others appended goes on behind it.
                let begin = tape[next + 1..].windows(BEGIN.len()).position(|bytes| bytes == BEGIN);
                next = begin.map_or(tape.len(), |begin| next + 1 + begin);
            }
        }
        Ok(Recorded { records, tape })
    }

    /// The bytes that a record carries.
    pub fn bytes(&self, record: &Record) -> &[u8] {
        &self.tape[record.bytes.clone()]
    }
}

/// The record that begins there, if it is whole.
fn record(tape: &[u8], begin: usize) -> Option<Record> {
    let head: &[u8; HEAD] = tape.get(begin..begin + HEAD)?.try_into().ok()?;
    let u64_at = |i: usize| u64::from_le_bytes(head[i..i + 8].try_into().expect("eight bytes"));
    let u32_at = |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().expect("four bytes")) as usize;
    let what = What::ALL.into_iter().find(|what| *what as u8 == head[8])?;
    let named = begin + HEAD..begin + HEAD + u32_at(25);
    let bytes = named.end..named.end + u32_at(29);
    let name = std::str::from_utf8(tape.get(named)?).ok()?.to_owned();
    let is_whole = head[..8] == BEGIN && tape.get(bytes.end..bytes.end + END.len())? == END;
    is_whole.then(|| Record { what, name, at: u64_at(9), micros: u64_at(17) as i64, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_ends_append_is_read_in_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("tape");
        let (one, two) = (Tape::append_to(&path).expect("made"), Tape::append_to(&path).expect("opened"));
        one.put(What::Wrote, "store.db", 8192, b"page");
        two.mark("told");
        one.put(What::Synced, "store.db", 7, b"");
        let recorded = Recorded::read(&path).expect("read");
        let seen: Vec<_> =
            recorded.records.iter().map(|r| (r.what, &*r.name, r.at, recorded.bytes(r).to_vec())).collect();
        assert_eq!(
            seen,
            [
                (What::Wrote, "store.db", 8192, b"page".to_vec()),
                (What::Mark, "told", 0, vec![]),
                (What::Synced, "store.db", 7, vec![])
            ]
        );
        // Cut off in the middle, and others went on.
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() - 9]).expect("cut");
        two.mark("told again");
        let recorded = Recorded::read(&path).expect("read");
        assert_eq!(recorded.records.iter().map(|r| &*r.name).collect::<Vec<_>>(), ["store.db", "told", "told again"]);
    }
}
