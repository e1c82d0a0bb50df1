//! Hostile input: every input that is kept for the fuzz targets, through the same code that they run.
//!
//! Each is also run with a few changes that are made up (`CALLBACKD_TEST_CHANGES` says how many times, `CALLBACKD_TEST_SEED`
//! from which seed). `make fuzz` looks for new ones; `fuzz/corpus/TARGET/` holds the fewest that reach what was reached so far, and those
//! that once showed a fault.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[path = "../../fuzz/bodies/mod.rs"]
mod bodies;

fn fuzz() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz")
}

fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let names = entries.map(|entry| entry.expect("an entry").path());
    names.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
}

/// Says which input it was, should the test fail on it.
struct Running<'a>(&'a Path, &'a [u8]);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input, made of {}: \"{}\"", self.0.display(), self.1.escape_ascii());
        }
    }
}

/// The inputs that are kept for a target.
fn kept(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let entries = fs::read_dir(fuzz().join("corpus").join(target)).expect("a folder");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    assert!(!paths.is_empty(), "{target} has no inputs");
    paths.into_iter().map(|path| (path.clone(), fs::read(&path).expect("an input"))).collect()
}

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

/// One to four small changes: a bit, a byte that means something, a piece left out, repeated, or taken from another input.
fn changed(input: &[u8], other: &[u8], random: &mut fastrand::Rng) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.usize(1..5) {
        let at = random.usize(0..=bytes.len());
        let end = (at + random.usize(1..17)).min(bytes.len());
        match random.u8(0..6) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.u8(0..8),
            1 => bytes.insert(at, *random.choice(b"<>/&\"'{}[],:\\0019-+.= \n\0\xff").expect("some")),
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, input[at.min(input.len())..end.min(input.len())].to_vec())),
            4 if !other.is_empty() => {
                let from = random.usize(0..other.len());
                let to = (from + random.usize(1..33)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].to_vec()));
            }
            _ => bytes.truncate(at.max(1)),
        }
    }
    bytes
}

#[test]
fn every_target_is_run_and_has_inputs() {
    let named: BTreeSet<_> = bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("targets")), named);
    assert_eq!(names(&fuzz().join("corpus")), named);
    assert_eq!(names(&fuzz().join("words")), named);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    for name in named {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "fuzz/Cargo.toml names no {name}");
    }
}

#[test]
fn what_is_promised_holds_for_every_input_that_is_kept() {
    for (name, body) in bodies::TARGETS {
        for (path, input) in kept(name) {
            let running = Running(&path, &input);
            body(running.1);
        }
    }
}

#[test]
fn what_is_promised_holds_for_inputs_that_are_nearly_these() {
    let seed = setting("CALLBACKD_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    eprintln!("CALLBACKD_TEST_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    for (name, body) in bodies::TARGETS {
        let kept = kept(name);
        for (path, input) in &kept {
            for _ in 0..setting("CALLBACKD_TEST_CHANGES").unwrap_or(1) {
                let other = &kept[random.usize(0..kept.len())].1;
                let changed = changed(input, other, &mut random);
                let running = Running(path, &changed);
                body(running.1);
            }
        }
    }
}
