//! Which calls fail, and how: a small file that is read before each call.
//!
//! One rule a line, `CALL FILE FAULT [from N] [for N]`; the first that matches is followed, `#` begins a comment:
//!
//! ```text
//! write wal full               # every write to the log finds the disk full
//! sync any slow 2000           # every sync takes two seconds
//! write db ioerr from 57 for 1 # the 57th write to the database fails, no other
//! ```
//!
//! - CALL: `open`, `read`, `write`, `truncate`, `sync`, `size`, `delete`, `access`, `shm`, `any`.
//! - FILE: `db`, `wal`, `journal`, `any`.
//! - FAULT: `ioerr`, SQLite's I/O error of that call; `full`, a full disk; `short`, half of the bytes are written, then the
//!   disk is full; `slow MS`, it takes so long; `skip`, it says that it did what it did not do.
//! - `from N`: not before the Nth call that matches, counted from one; `for N`: for so many of them.
//!
//! A file whose text changed is counted from one again. Put it there by renaming, so that no half of it is read.

use std::fs;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What SQLite asks of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the rules")]
pub enum Call {
    Open,
    Read,
    Write,
    Truncate,
    Sync,
    Size,
    Delete,
    Access,
    Shm,
}

/// Which of a store's files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the rules")]
pub enum Kind {
    Db,
    Wal,
    Journal,
}

impl Kind {
    /// By the file's name.
    pub fn of(name: &str) -> Kind {
        match name {
            name if name.ends_with("-wal") => Kind::Wal,
            name if name.ends_with("-journal") => Kind::Journal,
            _ => Kind::Db,
        }
    }
}

/// How a call goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the words of the rules")]
pub enum Fault {
    IoErr,
    Full,
    Short,
    Slow(Duration),
    Skip,
}

#[derive(Debug)]
struct Rule {
    call: Option<Call>,
    kind: Option<Kind>,
    fault: Fault,
    from: u64,
    count: u64,
    seen: u64,
}

/// The rules, and how often each matched.
#[derive(Debug)]
pub struct Faults {
    path: PathBuf,
    rules: Mutex<(String, Vec<Rule>)>,
}

impl Faults {
    /// The rules that stand in this file; none while there is no such file.
    pub fn read_from(path: PathBuf) -> Faults {
        Faults { path, rules: Mutex::default() }
    }

    /// What is to become of this call.
    pub fn of(&self, call: Call, kind: Kind) -> Option<Fault> {
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let mut rules = self.rules.lock().unwrap_or_else(PoisonError::into_inner);
        if rules.0 != text {
            // A rule that nobody understands must not pass for one that does nothing.
            let read = read(&text).unwrap_or_else(|line| {
                eprintln!("{}: not a rule: {line}", self.path.display());
                std::process::abort()
            });
            *rules = (text, read);
        }
        for rule in &mut rules.1 {
            if rule.call.is_none_or(|of| of == call) && rule.kind.is_none_or(|of| of == kind) {
                rule.seen += 1;
                if rule.seen >= rule.from && rule.seen - rule.from < rule.count {
                    return Some(rule.fault);
                }
            }
        }
        None
    }
}

fn read(text: &str) -> Result<Vec<Rule>, String> {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines.filter(|line| !line.trim().is_empty()).map(|line| rule(line).ok_or_else(|| line.to_owned())).collect()
}

fn rule(line: &str) -> Option<Rule> {
    let mut words = line.split_whitespace();
    let call = match words.next()? {
        "open" => Some(Call::Open),
        "read" => Some(Call::Read),
        "write" => Some(Call::Write),
        "truncate" => Some(Call::Truncate),
        "sync" => Some(Call::Sync),
        "size" => Some(Call::Size),
        "delete" => Some(Call::Delete),
        "access" => Some(Call::Access),
        "shm" => Some(Call::Shm),
        "any" => None,
        _ => return None,
    };
    let kind = match words.next()? {
        "db" => Some(Kind::Db),
        "wal" => Some(Kind::Wal),
        "journal" => Some(Kind::Journal),
        "any" => None,
        _ => return None,
    };
    let fault = match words.next()? {
        "ioerr" => Fault::IoErr,
        "full" => Fault::Full,
        "short" => Fault::Short,
        "slow" => Fault::Slow(Duration::from_millis(words.next()?.parse().ok()?)),
        "skip" => Fault::Skip,
        _ => return None,
    };
    let mut rule = Rule { call, kind, fault, from: 1, count: u64::MAX, seen: 0 };
    while let Some(word) = words.next() {
        let number = words.next()?.parse().ok()?;
        match word {
            "from" => rule.from = number,
            "for" => rule.count = number,
            _ => return None,
        }
    }
    Some(rule)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_followed_in_turn_counted_and_read_again() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("faults");
        let faults = Faults::read_from(path.clone());
        assert_eq!(faults.of(Call::Write, Kind::Db), None, "no file, no fault");
        fs::write(&path, "write db ioerr from 2 for 1\nsync any slow 5 # as a comment says\nany wal full\n")
            .expect("written");
        let said = [
            (Call::Write, Kind::Db, None),
            (Call::Write, Kind::Db, Some(Fault::IoErr)),
            (Call::Write, Kind::Db, None),
            (Call::Sync, Kind::Wal, Some(Fault::Slow(Duration::from_millis(5)))),
            (Call::Write, Kind::Wal, Some(Fault::Full)),
            (Call::Read, Kind::Journal, None),
        ];
        for (call, kind, fault) in said {
            assert_eq!(faults.of(call, kind), fault, "{call:?} {kind:?}");
        }
        fs::write(&path, "write db skip").expect("written");
        assert_eq!(faults.of(Call::Write, Kind::Db), Some(Fault::Skip));
    }

    #[test]
    fn what_is_no_rule_is_not_taken_for_one() {
        for line in
            ["write", "write db", "write db ioerr from", "write disk ioerr", "sync any slow", "sync any full now 1"]
        {
            assert!(rule(line).is_none(), "{line}");
        }
    }
}
