//! Every order in which the store's threads and the pipeline's tasks may come: the commit queue, the writer, the
//! checkpointer, ingest and the forwarder, as they stand in `src/`, on a scheduler that decides who goes on.
//!
//! What is checked is the product's own text: its files are compiled here a second time, with [`std`] and [`tokio`]
//! replaced by stand-ins whose locks, threads and tasks shuttle schedules. The store is a real SQLite file; between two
//! of its statements anybody else may come. A poll never comes: what is not woken is stuck, which shuttle says.
//! Shuttle, not loom: loom tries all orders of a few steps, and what is to be tried here is the whole way of a
//! callback, hundreds of steps long.
//!
//! Each scenario runs under many random schedules. `CALLBACKD_TEST_SEED` repeats a run; `CALLBACKD_TEST_SCHEDULES` is how
//! many, in hundredths of the usual; scenarios are named as arguments. `run.sh` also breaks the product's text in the ways that
//! these scenarios are here to find, and wants each found.

#![allow(dead_code, unused_imports, reason = "only a part of what is compiled here is used")]

extern crate staged_std as std;
extern crate staged_tokio as tokio;

use callbackd::store::*;
pub use callbackd::{Boxed, jq, measure, model, options, shutdown, signature, sinks, sources};

mod alone;
mod scenarios;
mod stage;

mod store {
    pub use crate::moving;
    pub use callbackd::store::*;
}

#[path = "../../../src/store/moving/mod.rs"]
pub mod moving;

#[path = "../../../src/store/queue.rs"]
mod queue;

#[path = "../../../src/store/rules/mod.rs"]
mod rules;

#[path = "../../../src/store/sqlite/mod.rs"]
mod sqlite;

#[path = "../../../src/pipeline/mod.rs"]
mod pipeline;

mod clock {
    //! Goes on by a millisecond each time that it is read, or, where a scenario wants it so, now and then by far more.
    use std::cell::Cell;
    use std::time::{Duration, Instant};

    use callbackd::model::Time;
    use shuttle::rand::Rng;

    thread_local!(static READ: Cell<u64> = const { Cell::new(0) });
    thread_local!(static STEADY: (Instant, Cell<u64>) = (Instant::now(), Cell::new(0)));
    thread_local!(static JUMPS: Cell<bool> = const { Cell::new(false) });

    /// Past what a lease has to spare, and past any lease.
    const FAR_MS: [u64; 2] = [90_000, 3_600_000];

    pub fn now() -> Time {
        let mut passed = 1;
        if JUMPS.get() && shuttle::rand::thread_rng().gen_bool(0.1) {
            passed = FAR_MS[usize::from(shuttle::rand::thread_rng().gen_bool(0.5))];
            crate::stage::seen("jumps", 1);
        }
        READ.set(READ.get() + passed);
        STEADY.with(|(_, passed)| passed.set(passed.get() + 1));
        Time::from_seconds(1_700_000_000).plus_ms(READ.get())
    }

    /// Without the jumps.
    pub fn steady() -> Instant {
        STEADY.with(|(began, passed)| *began + Duration::from_millis(passed.get()))
    }

    /// From now on.
    pub fn jumps() {
        JUMPS.set(true);
    }

    pub fn has_jumped() -> bool {
        JUMPS.get()
    }

    /// So that a schedule can be repeated.
    pub fn reset() {
        READ.set(0);
        JUMPS.set(false);
    }
}

/// What the environment says, or what is usual.
fn number(name: &str, usual: impl FnOnce() -> u64) -> u64 {
    match std::env::var(name) {
        Ok(said) => said.parse().unwrap_or_else(|_| panic!("{name}: not a number")),
        Err(_) => usual(),
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let seed = number("CALLBACKD_TEST_SEED", || fastrand::u64(..));
    let share = number("CALLBACKD_TEST_SCHEDULES", || 100) as usize;
    println!("CALLBACKD_TEST_SEED={seed}");
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|w| w == name);
    for (name, schedules, scenario) in scenarios::ALL {
        if is_wanted(name) {
            let schedules = (schedules * share).div_ceil(100);
            let remark = stage::check(seed, schedules, *scenario);
            println!("{name}: {schedules} schedules{remark}");
        }
    }
}
