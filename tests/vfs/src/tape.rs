//! The tape: everything that was done to the store's files, in order, with marks in between.
//!
//! A file to which any number of processes append, each record with one `write`. The kernel puts appends one after
//! another, so the order on the tape is an order in which things happened: what a process had done before it wrote its
//! record was done before everything that stands behind it. A kill loses nothing that was appended.

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
        let mut record = Vec::with_capacity(HEAD + name.len() + bytes.len());
        record.push(what as u8);
        record.extend_from_slice(&at.to_le_bytes());
        record.extend_from_slice(&clock::now().micros().to_le_bytes());
        record.extend_from_slice(&(name.len() as u32).to_le_bytes());
        record.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
        record.extend_from_slice(name.as_bytes());
        record.extend_from_slice(bytes);
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

/// What, at, micros, and two lengths.
const HEAD: usize = 1 + 8 + 8 + 4 + 4;

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
        let garbled = || io::Error::new(io::ErrorKind::InvalidData, "this is no tape");
        let mut records = Vec::new();
        let mut next = 0;
        while next < tape.len() {
            let head: &[u8; HEAD] = tape.get(next..next + HEAD).and_then(|h| h.try_into().ok()).ok_or_else(garbled)?;
            let u64_at = |i: usize| u64::from_le_bytes(head[i..i + 8].try_into().expect("eight bytes"));
            let u32_at = |i: usize| u32::from_le_bytes(head[i..i + 4].try_into().expect("four bytes")) as usize;
            let what = What::ALL.into_iter().find(|what| *what as u8 == head[0]).ok_or_else(garbled)?;
            let named = next + HEAD..next + HEAD + u32_at(17);
            let bytes = named.end..named.end + u32_at(21);
            next = bytes.end;
            let name = tape.get(named).and_then(|name| std::str::from_utf8(name).ok()).ok_or_else(garbled)?;
            if next > tape.len() {
                return Err(garbled());
            }
            records.push(Record { what, name: name.to_owned(), at: u64_at(1), micros: u64_at(9) as i64, bytes });
        }
        Ok(Recorded { records, tape })
    }

    /// The bytes that a record carries.
    pub fn bytes(&self, record: &Record) -> &[u8] {
        &self.tape[record.bytes.clone()]
    }
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
        let whole = std::fs::read(&path).expect("read");
        std::fs::write(&path, &whole[..whole.len() - 1]).expect("cut");
        assert!(Recorded::read(&path).is_err(), "a cut tape is refused");
    }
}
