//! The moments at which power goes, chosen so that every kind of moment is among them, and what became of each.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use callbackd_vfs::tape::{Record, Recorded, What};
use fastrand::Rng;

use crate::daemon::STORE;
use crate::disk::Disk;
use crate::known::{Known, Story};
use crate::verify::{Held, Verifier};

/// What the store was doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// The file and its schema were being made.
    Creation,
    /// An older schema was being brought up to date.
    Migration,
    /// It was being opened after a stop or a kill.
    Start,
    /// What is old was being let go of.
    Retention,
    /// Room was being given back: pages moved to the front, the file made shorter.
    Vacuum,
    /// The log was being copied into the file.
    Checkpoint,
    /// A commit was being written.
    Commit,
    /// Nothing was at stake.
    Rest,
}

impl Class {
    pub(crate) const ALL: [Class; 8] = [
        Class::Creation,
        Class::Migration,
        Class::Start,
        Class::Retention,
        Class::Vacuum,
        Class::Checkpoint,
        Class::Commit,
        Class::Rest,
    ];
}

/// Power goes after so many records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cut {
    pub(crate) class: Class,
    after: usize,
    seed: u64,
}

pub(crate) type Outcome = Result<Held, String>;

/// The kind of the moment after each record; `None` while the file is exchanged for an older one, which no daemon does.
fn classes(tape: &Recorded) -> Vec<Option<Class>> {
    let wal = [STORE, "-wal"].concat();
    let mut disk = Disk::new(tape);
    let (mut phase, mut vacuum, mut by_hand) = (None, Vacuum::default(), false);
    let mut classes = Vec::with_capacity(tape.records.len());
    while let Some(record) = disk.step() {
        if record.what == What::Mark {
            let words: Vec<&str> = record.name.split(' ').collect();
            match words[..] {
                ["start", "new", _] => phase = Some(Class::Creation),
                ["start", "again", _] => phase = Some(Class::Start),
                ["start", "upgrade", _] => phase = Some(Class::Migration),
                ["start", "retention", _] => phase = Some(Class::Retention),
                ["runs"] if phase != Some(Class::Retention) => phase = None,
                ["let", "go"] => phase = None,
                ["by", "hand"] => by_hand = true,
                _ => {}
            }
        }
        by_hand &= record.what != What::Stands;
        let stakes = (disk.at_stake(STORE), disk.at_stake(&wal));
        let class = phase.unwrap_or(match stakes {
            (1.., _) => Class::Checkpoint,
            (0, 1..) => Class::Commit,
            (0, 0) => Class::Rest,
        });
        classes.push((!by_hand).then_some(class));
        if let Some(since) = vacuum.since(record, tape.bytes(record), classes.len() - 1, stakes) {
            classes[since..].fill(Some(Class::Vacuum));
        }
    }
    classes
}

/// Finds the commits that make the file shorter, and the checkpoints that then do it.
#[derive(Default)]
struct Vacuum {
    /// Where the open transaction began in the log.
    begun: Option<usize>,
    /// Pages of the file after the last commit.
    pages: u32,
    shorter: bool,
    /// Bytes of the file.
    length: u64,
    truncated: bool,
}

impl Vacuum {
    /// From which record on it is one, if it is one after this record.
    fn since(&mut self, record: &Record, bytes: &[u8], index: usize, stakes: (usize, usize)) -> Option<usize> {
        let (in_file, in_log) = stakes;
        let length = match record.what {
            _ if record.name != STORE => self.length,
            What::Wrote => self.length.max(record.at + bytes.len() as u64),
            What::Truncated => record.at,
            What::Stands => bytes.len() as u64,
            _ => self.length,
        };
        // Most checkpoints set the size that it has anyway.
        self.truncated = in_file > 0 && (self.truncated || length < self.length);
        self.length = length;
        self.shorter &= in_log > 0;
        // The head of a page in the log; in a transaction's last one stands how long the file is then.
        if let (What::Wrote, 24, 32..) = (record.what, bytes.len(), record.at) {
            let begun = *self.begun.get_or_insert(index);
            let pages = u32::from_be_bytes(bytes[4..8].try_into().expect("four bytes"));
            if pages > 0 {
                self.begun = None;
                self.shorter = pages < std::mem::replace(&mut self.pages, pages);
                return self.shorter.then_some(begun);
            }
        }
        (self.truncated || self.shorter).then_some(index)
    }
}

/// As many of each of these kinds as there is of any; the moment itself is a random one.
fn choose(tape: &Recorded, rng: &mut Rng, these: &[Class], count: usize) -> Vec<Cut> {
    let classes = classes(tape);
    let of = |class| (0..classes.len()).filter(|at| classes[*at] == Some(class)).collect::<Vec<_>>();
    let there: Vec<_> = these.iter().map(|class| (*class, of(*class))).filter(|(_, at)| !at.is_empty()).collect();
    let mut cuts: Vec<_> = (0..count)
        .map(|number| {
            let (class, at) = &there[number % there.len()];
            Cut { class: *class, after: at[rng.usize(0..at.len())] + 1, seed: rng.u64(..) }
        })
        .collect();
    cuts.sort_by_key(|cut| cut.after);
    cuts
}

/// Cuts power at so many moments of these kinds.
pub(crate) fn try_all(tape: &Recorded, seed: u64, classes: &[Class], count: usize) -> Vec<(Cut, Outcome)> {
    let story = Story::read(tape);
    let cuts = choose(tape, &mut Rng::with_seed(seed), classes, count);
    let (next, tried) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let workers = thread::available_parallelism().map_or(1, |n| n.get().min(8));
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let (mut disk, mut known, mut done) = (Disk::new(tape), Known::default(), 0);
                let mut verifier = Verifier::new(&story);
                // Each takes the next one; they lie in order, so a disk only ever goes forward.
                while let Some(cut) = cuts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    while done < cut.after {
                        known.hear(disk.step().expect("a record"));
                        done += 1;
                    }
                    let folder = crate::load::folder();
                    disk.found(&mut Rng::with_seed(cut.seed), folder.path()).expect("written");
                    let outcome = verifier.verify(folder.path(), &known);
                    tried.lock().expect("sound").push((*cut, outcome));
                }
            });
        }
    });
    let mut tried = tried.into_inner().expect("sound");
    tried.sort_by_key(|(cut, _)| cut.after);
    tried
}
