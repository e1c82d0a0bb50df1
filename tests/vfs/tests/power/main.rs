//! Power cuts: whenever power goes, and whatever of the unsynced bytes the disk then holds, nothing acknowledged is lost.
//!
//! The real daemon lives a life under load on a disk that records ([`load`]). Then power goes, at many moments of the
//! recording: what the disk could hold is built ([`disk`]), opened by the product's own code, and held against
//! what senders and sinks had been told by then ([`verify`]). The same, done with a daemon that does not sync, and with
//! one that acknowledges before it commits, has to find the loss: else this test could not fail.
//!
//! `POWER_CUTS` says how often (default 1000), `POWER_SEED` repeats the random choices. A recording in which something was lost
//! is kept; `POWER_TAPE` tries it again.

#[path = "../../../it/callbacks.rs"]
#[expect(dead_code, reason = "the black-box tests use more of it")]
mod callbacks;
mod cuts;
mod daemon;
mod disk;
mod known;
mod load;
#[path = "../../../it/older.rs"]
mod older;
mod verify;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use callbackd_vfs::tape::Recorded;
use cuts::{Class, Cut, Outcome};
use fastrand::Rng;
use load::{Enough, Life, Wrong};

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn wanted(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u64> {
    wanted(name).map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

fn seed() -> u64 {
    let seed = number("POWER_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("POWER_SEED={seed}");
    seed
}

fn cut(tape: &Path, seed: u64, classes: &[Class], cuts: usize) -> Vec<(Cut, Outcome)> {
    cuts::try_all(&Recorded::read(tape).expect("a tape"), seed, classes, cuts)
}

/// Cuts of one recording; for more, there are more recordings.
const OF_ONE: usize = 1000;

#[test]
fn whenever_power_goes_nothing_acknowledged_is_lost() {
    let mut rng = Rng::with_seed(seed());
    let mut left = number("POWER_CUTS").map_or(OF_ONE, |cuts| cuts as usize);
    while left > 0 {
        let cuts = left.min(OF_ONE);
        let life = Life::begin(Wrong::Nothing, rng.u64(..));
        let tape = wanted("POWER_TAPE").map_or_else(|| life.live(500), PathBuf::from);
        nothing_is_lost(&tape, rng.u64(..), cuts);
        left -= cuts;
    }
}

fn nothing_is_lost(tape: &Path, seed: u64, cuts: usize) {
    let tried = cut(tape, seed, &Class::ALL, cuts);
    let wrong: Vec<_> = tried.iter().filter_map(|(cut, outcome)| Some((cut, outcome.as_ref().err()?))).collect();
    if !wrong.is_empty() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("power.tape");
        if kept != tape {
            std::fs::copy(tape, &kept).expect("kept");
        }
        for (cut, wrong) in wrong.iter().take(20) {
            println!("{cut:?}: {wrong}");
        }
        panic!("{} of {} power cuts did harm; POWER_TAPE={} has them", wrong.len(), tried.len(), kept.display());
    }
    let mut classes = Vec::new();
    for class in Class::ALL {
        let count = tried.iter().filter(|(cut, _)| cut.class == class).count();
        assert!(count >= cuts / 20, "hardly any in {class:?}: {count}");
        classes.push(format!("{count} in {class:?}"));
    }
    let held: Vec<_> = tried.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).collect();
    let open = held.iter().filter(|held| held.open > 0).count();
    let most = held.iter().map(|held| held.told).max().unwrap_or(0);
    // What retention lets go of goes in several transactions, and power went between them.
    let gone: BTreeSet<_> = held.iter().map(|held| held.gone).collect();
    println!(
        "{} power cuts ({}) with up to {most} callbacks acknowledged before, {open} with deliveries still to be made; runs let \
         go of by then: {gone:?}; lost 0",
        tried.len(),
        classes.join(", ")
    );
    assert!(gone.len() > 3 && open > 0, "little was left to be lost");
}

/// That what a daemon loses that does wrong is found: what it loses while it works, not only by its end.
fn finds(wrong: Wrong, enough: Enough, is_it: impl Fn(&str) -> bool) {
    let mut rng = Rng::with_seed(seed());
    let life = Life::begin(wrong, rng.u64(..));
    let at_work = [Class::Checkpoint, Class::Commit, Class::Rest];
    let tried = cut(&life.live_briefly(enough), rng.u64(..), &at_work, 100);
    let found: Vec<&String> = tried.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).collect();
    println!("{} of {} power cuts did harm: {:?}", found.len(), tried.len(), found.first());
    assert!(found.iter().any(|found| is_it(found)), "it went unnoticed: {found:?}");
}

fn is_harm(found: &str) -> bool {
    ["lost", "cannot be read", "does not open"].iter().any(|word| found.contains(word))
}

/// As with `synchronous=OFF`.
#[test]
fn without_syncs_the_loss_is_found() {
    finds(Wrong::Unsynced("any"), Enough::Told(100), is_harm);
}

#[test]
fn a_log_that_is_not_synced_is_found() {
    finds(Wrong::Unsynced("wal"), Enough::Told(100), |found| found.starts_with("lost: "));
}

#[test]
fn a_checkpoint_that_is_not_synced_is_found() {
    finds(Wrong::Unsynced("db"), Enough::ToldAfterCheckpoint(500), is_harm);
}

#[test]
fn an_acknowledgement_before_the_commit_is_found() {
    finds(Wrong::ToldEarly, Enough::Told(100), |found| found.starts_with("lost: "));
}
