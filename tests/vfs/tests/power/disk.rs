//! What a disk could hold when power goes: built from the tape, up to any record.
//!
//! A file's bytes are safe once a sync that began after them has ended; a name that was made or deleted, once its directory
//! was synced. Of everything else each sector is there or not, by itself: kept, dropped, torn, or kept while what was
//! written before it is not; a file may have grown without what was to stand there, and then holds zeros.
//!
//! What is taken for granted is what SQLite takes for granted of a disk: a sector is written whole or not at all, and
//! what stands beside the written bytes stays as it was.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::{fs, io};

use callbackd_vfs::tape::{Record, Recorded, What};
use fastrand::Rng;

/// What the disk makes of the records of a file that are not safe.
#[derive(Clone, Copy)]
enum Mood {
    LoseAll,
    KeepAll,
    /// In order up to one that it tears.
    KeepFirst,
    /// The other way round.
    KeepLast,
    KeepHalf,
    KeepMost,
}

impl Mood {
    const ALL: [Mood; 6] =
        [Mood::LoseAll, Mood::KeepAll, Mood::KeepFirst, Mood::KeepLast, Mood::KeepHalf, Mood::KeepMost];
}

/// One file, whatever its name is by now.
#[derive(Default)]
struct File {
    /// What is on the disk for sure.
    safe: Vec<u8>,
    /// Records that are not, in order.
    unsafe_yet: Vec<usize>,
}

/// The disk after some of the tape's records.
pub(crate) struct Disk<'t> {
    tape: &'t Recorded,
    files: Vec<File>,
    /// As the running system sees them.
    names: BTreeMap<String, usize>,
    /// As they are on the disk for sure.
    safe_names: BTreeMap<String, usize>,
    /// Made, or deleted, since.
    unsafe_names: Vec<(String, Option<usize>)>,
    /// Syncs that have begun: of which file, and how many of its records they cover.
    syncs: HashMap<u64, (usize, usize)>,
    next: usize,
}

impl<'t> Disk<'t> {
    pub(crate) fn new(tape: &'t Recorded) -> Disk<'t> {
        Disk {
            tape,
            files: Vec::new(),
            names: BTreeMap::new(),
            safe_names: BTreeMap::new(),
            unsafe_names: Vec::new(),
            syncs: HashMap::new(),
            next: 0,
        }
    }

    /// Takes in the next record, which it returns.
    pub(crate) fn step(&mut self) -> Option<&'t Record> {
        let index = self.next;
        let record = self.tape.records.get(index)?;
        self.next += 1;
        match record.what {
            What::Mark | What::SyncFailed => {}
            What::Opened => drop(self.file(&record.name)),
            What::Wrote | What::Truncated => {
                let file = self.file(&record.name);
                self.files[file].unsafe_yet.push(index);
            }
            What::SyncBegan => {
                let file = self.file(&record.name);
                self.syncs.insert(record.at, (file, index));
            }
            What::Synced => {
                let (file, began) = self.syncs.remove(&record.at).expect("a sync begins before it ends");
                let file = &mut self.files[file];
                let covered = file.unsafe_yet.partition_point(|record| *record < began);
                for record in file.unsafe_yet.drain(..covered) {
                    apply(self.tape, &self.tape.records[record], &mut file.safe);
                }
            }
            What::Deleted => {
                self.names.remove(&record.name);
                self.unsafe_names.push((record.name.clone(), None));
            }
            What::DirectorySynced => {
                self.safe_names.clone_from(&self.names);
                self.unsafe_names.clear();
            }
            What::Stands => {
                let file = self.file(&record.name);
                self.files[file] = File { safe: self.tape.bytes(record).to_vec(), unsafe_yet: Vec::new() };
                self.safe_names.clone_from(&self.names);
                self.unsafe_names.clear();
            }
        }
        Some(record)
    }

    fn file(&mut self, name: &str) -> usize {
        if let Some(file) = self.names.get(name) {
            return *file;
        }
        self.files.push(File::default());
        let file = self.files.len() - 1;
        self.names.insert(name.to_owned(), file);
        self.unsafe_names.push((name.to_owned(), Some(file)));
        file
    }

    /// How many records of a file are not safe yet.
    pub(crate) fn at_stake(&self, name: &str) -> usize {
        self.names.get(name).map_or(0, |file| self.files[*file].unsafe_yet.len())
    }

    /// Power goes: puts into `folder` what could be found there afterwards.
    pub(crate) fn found(&self, rng: &mut Rng, folder: &Path) -> io::Result<()> {
        let mut names = self.safe_names.clone();
        let kept = match rng.bool() {
            true => vec![true; rng.usize(0..=self.unsafe_names.len())],
            false => self.unsafe_names.iter().map(|_| rng.bool()).collect(),
        };
        for ((name, file), _) in self.unsafe_names.iter().zip(kept).filter(|(_, kept)| *kept) {
            match file {
                Some(file) => drop(names.insert(name.clone(), *file)),
                None => drop(names.remove(name)),
            }
        }
        for (name, file) in names {
            fs::write(folder.join(name), self.left(&self.files[file], rng))?;
        }
        Ok(())
    }

    /// What is left of a file.
    fn left(&self, file: &File, rng: &mut Rng) -> Vec<u8> {
        let mut image = file.safe.clone();
        let sector = if rng.bool() { 512 } else { 4096 };
        let count = file.unsafe_yet.len();
        let (mood, some) = (Mood::ALL[rng.usize(0..Mood::ALL.len())], rng.usize(0..=count));
        for (position, record) in file.unsafe_yet.iter().enumerate() {
            let record = &self.tape.records[*record];
            // Of a thousand.
            let kept = match mood {
                Mood::LoseAll => 0,
                Mood::KeepAll => 1000,
                Mood::KeepFirst | Mood::KeepLast if position == some => 500,
                Mood::KeepFirst => 1000 * u32::from(position < some),
                Mood::KeepLast => 1000 * u32::from(position > some),
                Mood::KeepHalf => 500,
                Mood::KeepMost => 900,
            };
            match record.what {
                What::Wrote => tear(self.tape, record, sector, kept, rng, &mut image),
                _ if rng.u32(0..1000) < kept => apply(self.tape, record, &mut image),
                _ => {}
            }
        }
        image
    }
}

fn apply(tape: &Recorded, record: &Record, image: &mut Vec<u8>) {
    match record.what {
        What::Wrote => put(image, record.at as usize, tape.bytes(record)),
        _ => image.resize(record.at as usize, 0),
    }
}

fn put(image: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[at..end].copy_from_slice(bytes);
}

/// Keeps of a write each sector with a probability of `kept` in a thousand.
fn tear(tape: &Recorded, record: &Record, sector: usize, kept: u32, rng: &mut Rng, image: &mut Vec<u8>) {
    let (mut at, mut bytes) = (record.at as usize, tape.bytes(record));
    while !bytes.is_empty() {
        let here = bytes.len().min(sector - at % sector);
        if rng.u32(0..1000) < kept {
            put(image, at, &bytes[..here]);
        } else if image.len() < at + here && rng.bool() {
            image.resize(at + here, 0);
        }
        (at, bytes) = (at + here, &bytes[here..]);
    }
}
