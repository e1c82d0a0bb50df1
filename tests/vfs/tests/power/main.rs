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
mod verify;

use std::path::{Path, PathBuf};

use callbackd_vfs::tape::Recorded;
use cuts::{Class, Cut, Outcome};
use load::{Life, Wrong};

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

fn cut(tape: &Path, seed: u64, cuts: usize) -> Vec<(Cut, Outcome)> {
    cuts::try_all(&Recorded::read(tape).expect("a tape"), seed, cuts)
}

#[test]
fn whenever_power_goes_nothing_acknowledged_is_lost() {
    let (seed, cuts) = (seed(), number("POWER_CUTS").unwrap_or(1000) as usize);
    let mut life = Life::begin(Wrong::Nothing, seed);
    let tape = wanted("POWER_TAPE").map(PathBuf::from).unwrap_or_else(|| {
        life.live(500);
        life.tape()
    });
    println!("recorded: {} MB", std::fs::metadata(&tape).expect("a tape").len() >> 20);
    let tried = cut(&tape, seed, cuts);
    let wrong: Vec<_> = tried.iter().filter_map(|(cut, outcome)| Some((cut, outcome.as_ref().err()?))).collect();
    if !wrong.is_empty() {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("power.tape");
        std::fs::copy(&tape, &kept).expect("kept");
        for (cut, wrong) in wrong.iter().take(20) {
            println!("{cut:?}: {wrong}");
        }
        panic!(
            "{} of {} power cuts did harm; POWER_SEED={seed} POWER_TAPE={}",
            wrong.len(),
            tried.len(),
            kept.display()
        );
    }
    for class in Class::ALL {
        let count = tried.iter().filter(|(cut, _)| cut.class == class).count();
        println!("{count} power cuts in {class:?}");
        assert!(count >= cuts / 20, "hardly any in {class:?}: {count}");
    }
    let held: Vec<_> = tried.iter().filter_map(|(_, outcome)| outcome.as_ref().ok()).collect();
    let by_half = held.iter().filter(|held| held.gone > 0 && held.left > 0).count();
    let open = held.iter().filter(|held| held.open > 0).count();
    let most = held.iter().map(|held| held.told).max().unwrap_or(0);
    println!(
        "{} power cuts, up to {most} callbacks acknowledged before; {by_half} while old ones were being let go of, {open} with \
         deliveries to be made; lost 0",
        tried.len()
    );
    assert!(by_half > 0 && open > 0, "nothing was left to be done");
}

/// That a test of this kind finds what `wrong` loses.
fn finds(wrong: Wrong, is_it: impl Fn(&str) -> bool) {
    let seed = seed();
    let mut life = Life::begin(wrong, seed);
    life.live_briefly(60);
    let tried = cut(&life.tape(), seed, 60);
    let found: Vec<&String> = tried.iter().filter_map(|(_, outcome)| outcome.as_ref().err()).collect();
    println!("{} of {} power cuts did harm: {:?}", found.len(), tried.len(), found.first());
    assert!(found.iter().any(|found| is_it(found)), "it went unnoticed: {found:?}");
}

#[test]
fn without_syncs_the_loss_is_found() {
    finds(Wrong::NoSync, |found| ["lost", "cannot be read", "does not open"].iter().any(|word| found.contains(word)));
}

#[test]
fn an_acknowledgement_before_the_commit_is_found() {
    finds(Wrong::ToldEarly, |found| found.starts_with("lost: "));
}
