//! Hostile input: every input that is kept for the fuzz targets, through the same code that they run.
//!
//! `make fuzz` looks for new ones; `fuzz/corpus/TARGET/` holds the fewest that reach what was reached so far, and those
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
struct Running(PathBuf);

impl Drop for Running {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the input is {}", self.0.display());
        }
    }
}

#[test]
fn every_target_is_run_and_has_inputs() {
    let named: BTreeSet<_> = bodies::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("targets")), named);
    assert_eq!(names(&fuzz().join("corpus")), named);
    let manifest = fs::read_to_string(fuzz().join("Cargo.toml")).expect("a manifest");
    for name in named {
        assert!(manifest.contains(&format!("name = \"{name}\"\n")), "fuzz/Cargo.toml names no {name}");
    }
}

#[test]
fn what_is_promised_holds_for_every_input_that_is_kept() {
    for (name, body) in bodies::TARGETS {
        let folder = fuzz().join("corpus").join(name);
        let mut count = 0;
        for entry in fs::read_dir(&folder).expect("a folder") {
            let running = Running(entry.expect("an entry").path());
            body(&fs::read(&running.0).expect("an input"));
            count += 1;
        }
        assert!(count > 0, "{name} has no inputs");
    }
}
