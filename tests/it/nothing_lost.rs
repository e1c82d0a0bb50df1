//! Nothing acknowledged is lost: the daemon is killed, stopped, reloaded, upgraded and started again under load, while
//! its sinks fail, stall, lie and go away. At the end, what senders were told and what sinks took (their own ledgers,
//! not the daemon's) is held against what was meant, and against the store.
//!
//! It goes in rounds, each with a store and peers of its own. `CALLBACKD_TEST_KILLS` says how many kills a round has
//! (default 50), `CALLBACKD_TEST_MINUTES` for how long there are rounds (default: one), and `CALLBACKD_TEST_SEED`
//! repeats the choices of a round that was seen to fail; the moments are never the same again.

mod front;
mod judge;
mod kept;
mod report;
mod senders;
mod sinks;
mod story;
mod trials;

use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;

use front::WHIMS;
use judge::Findings;
use kept::Kept;
use report::Report;
use senders::{Ledger, Sender, Whereabouts};
use sinks::{NEWEST, Sinks};
use story::Story;
use trials::Ground;

const SENDERS: u64 = 12;

/// What is left has to be delivered within this time at the end; it takes a few seconds.
const DRAIN: Duration = Duration::from_secs(120);

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn wanted(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|e| panic!("{name}: {e}")))
}

#[test]
fn by_fifty_kills_under_load() {
    let kills = wanted("CALLBACKD_TEST_KILLS").unwrap_or(50);
    let minutes = wanted("CALLBACKD_TEST_MINUTES");
    let mut seed = wanted("CALLBACKD_TEST_SEED").unwrap_or_else(|| fastrand::u64(..));
    let end = Instant::now() + Duration::from_secs(60 * minutes.unwrap_or(0));
    let mut report = Report::default();
    loop {
        println!("CALLBACKD_TEST_SEED={seed} CALLBACKD_TEST_KILLS={kills}");
        let one = round(seed, kills, minutes.is_some());
        if minutes.is_some() {
            println!("{}", one.line());
        }
        report.add(one);
        if Instant::now() >= end {
            break;
        }
        seed = Rng::with_seed(seed).u64(..);
    }
    println!("{report}");
}

/// A new store and new peers; kills and all that comes with them; then everything has to be delivered.
fn round(seed: u64, kills: u64, is_long: bool) -> Report {
    let (begun, mut rng) = (Instant::now(), Rng::with_seed(seed));
    let sinks = Sinks::start(&mut rng);
    let whereabouts = Whereabouts::default();
    let begins = |story: &Story| sinks.begins(story);
    let own = Sender::new("own".to_owned(), rng.fork(), &whereabouts, &begins);
    let mut ground = Ground::new(&sinks, &whereabouts, own, rng.fork());
    // Past the end of leases, only where there is time for that.
    let plan = trials::plan(kills, is_long && rng.u32(0..4) == 0, &mut rng);
    let ledgers: Vec<Ledger> = thread::scope(|scope| {
        let senders: Vec<_> = (0..SENDERS)
            .map(|name| (name, rng.fork()))
            .map(|(name, rng)| {
                let (whereabouts, begins) = (&whereabouts, &begins);
                scope.spawn(move || Sender::new(name.to_string(), rng, whereabouts, begins).run())
            })
            .collect();
        let over = Over(&whereabouts);
        plan.into_iter().for_each(|trial| ground.undergo(trial));
        // The last daemon stays, so that everyone who still waits for an answer gets it.
        drop(over);
        senders.into_iter().map(|sender| sender.join().expect("a sender")).collect()
    });

    sinks.fronts().iter().for_each(|(_, front)| front.be_well());
    let deadline = Instant::now() + DRAIN;
    let open = ["deliveries", "list", "--status", "waiting,leased", "--limit", "1"];
    while ground.mend() || !ground.daemon.list(&open).is_empty() {
        if Instant::now() > deadline {
            // The judgement goes on: what was lost may be what the rest waits for.
            println!("still not delivered: {:#?}", ground.daemon.list(&["sinks", "list"]));
            break;
        }
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(ground.daemon.terminate().code(), Some(0));

    let mut all = Ledger::default();
    for one in ledgers.into_iter().chain([ground.own_ledger()]) {
        all.stories.extend(one.stories);
        all.told.extend(one.told);
        all.strange.extend(one.strange);
        all.tries += one.tries;
    }
    let mut findings = Findings { wrong: all.strange, ..Findings::default() };
    let kept = Kept::read(&ground.daemon.path("callbackd.db"), NEWEST, &mut findings);
    let stored = judge::store(&all.stories, &all.told, &kept, &mut findings);
    let (delivered, repeated) = sinks.judge(&all.stories, &mut findings);
    if !findings.are_none() {
        // For whoever looks for the reason; everything else of it is deleted.
        let copy = format!("{}/nothing_lost-{seed}.db", env!("CARGO_TARGET_TMPDIR"));
        std::fs::copy(ground.daemon.path("callbackd.db"), &copy).expect("copied");
        panic!("{findings}the store is {copy}");
    }
    let (done, whims) = (&mut ground.done, sinks.whims());
    assert!(done.kills() >= kills, "{} kills", done.kills());
    assert!(all.told.len() as u64 > kills, "hardly any load: {}", all.told.len());
    assert_eq!(whims.len(), WHIMS, "sinks did not do everything that they can: {whims:?}");
    Report {
        rounds: 1,
        seconds: begun.elapsed().as_secs(),
        tries: all.tries,
        acknowledged: all.told.len() as u64,
        stored: stored as u64,
        executions: kept.executions.len() as u64,
        delivered: delivered as u64,
        repeated: repeated as u64,
        dead_letters: done.dead.len() as u64,
        kills: done.kills(),
        starts: done.starts,
        migrations_killed: done.migrations_killed,
        trials: std::mem::take(&mut done.trials),
        whims,
    }
}

/// Tells the senders, when dropped, that it is over; and not to wait where it has failed.
struct Over<'a>(&'a Whereabouts);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.end();
        if thread::panicking() {
            self.0.give_up();
        }
    }
}
