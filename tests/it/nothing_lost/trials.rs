//! What is done to the daemon while it works: every way in which a process ends, waits, or begins again.

use std::collections::{BTreeMap, BTreeSet};
use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use super::senders::{Ledger, Sender, Whereabouts};
use super::sinks::Sinks;
use crate::daemon::{Daemon, PATIENCE};
use crate::older;

/// Longer than any lease of a delivery: a minute more than a try may take.
const PAST_LEASES: Duration = Duration::from_secs(65);

const STORE: &str = "callbackd.db";

/// One thing that is done to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Trial {
    /// SIGKILL at any moment.
    Kill,
    /// SIGKILL as soon as an answer is there.
    KillAnswered,
    /// SIGKILL while it is stopped.
    KillStopped,
    /// SIGKILL right behind a SIGHUP.
    KillReloading,
    /// SIGKILL before it says that it runs.
    KillStarting,
    /// SIGKILL in the middle of SIGTERM's work.
    KillEnding,
    /// SIGTERM, and another start.
    Terminate,
    /// SIGSTOP, and SIGCONT when what is under way may be over its time.
    Stop,
    /// The same, past the end of leases.
    StopLong,
    /// SIGHUP with another configuration.
    Reload,
    /// SIGHUP with a broken one.
    ReloadBroken,
    /// A start with another configuration.
    Reconfigure,
    /// A start with a broken one, which fails; then one that does not.
    StartBroken,
    /// The store is as the first release left it, when the daemon starts.
    Upgrade,
    /// The same, and the daemon is killed while it brings it up to date.
    UpgradeKilled,
    /// A sink is paused and goes on.
    Pause,
    /// A peer closes its port and comes back.
    Away,
    /// An operator resumes what is paused, and has dead letters tried again.
    Mend,
}

use Trial::{
    Away, Kill, KillAnswered, KillEnding, KillReloading, KillStarting, KillStopped, Mend, Pause, Reconfigure, Reload,
    ReloadBroken, StartBroken, Stop, StopLong, Terminate, Upgrade, UpgradeKilled,
};

/// Of fifty kills, and what comes with them.
const OF_FIFTY: [(Trial, u64); 17] = [
    (Kill, 20),
    (KillAnswered, 14),
    (KillStopped, 4),
    (KillReloading, 4),
    (KillStarting, 3),
    (KillEnding, 3),
    (UpgradeKilled, 2),
    (Terminate, 5),
    (Stop, 5),
    (Reload, 4),
    (ReloadBroken, 3),
    (Reconfigure, 4),
    (StartBroken, 2),
    (Upgrade, 2),
    (Pause, 3),
    (Away, 6),
    (Mend, 4),
];

/// In any order: at least so many kills, and all that belongs to them.
pub(super) fn plan(kills: u64, long_stop: bool, rng: &mut Rng) -> Vec<Trial> {
    let mut plan: Vec<Trial> = OF_FIFTY
        .iter()
        .flat_map(|&(trial, times)| std::iter::repeat_n(trial, (times * kills).div_ceil(50) as usize))
        .chain(long_stop.then_some(StopLong))
        .collect();
    rng.shuffle(&mut plan);
    plan
}

/// The daemon, and all that is around it.
pub(super) struct Ground<'a> {
    pub(super) daemon: Daemon,
    pub(super) sinks: &'a Sinks,
    pub(super) whereabouts: &'a Whereabouts,
    pub(super) rng: Rng,
    pub(super) done: Done,
    /// Tells what is to be answered at a moment that is known.
    own: Option<Sender<'a>>,
    /// Of the configuration that holds.
    variant: u32,
}

/// What was done.
#[derive(Default)]
pub(super) struct Done {
    pub(super) trials: BTreeMap<Trial, u64>,
    pub(super) starts: u64,
    /// Migrations that were killed before they were kept, and after.
    pub(super) migrations_killed: (u64, u64),
    /// Deliveries that had been given up.
    pub(super) dead: BTreeSet<String>,
}

impl Done {
    pub(super) fn kills(&self) -> u64 {
        let kills = [Kill, KillAnswered, KillStopped, KillReloading, KillStarting, KillEnding, UpgradeKilled];
        kills.iter().filter_map(|trial| self.trials.get(trial)).sum()
    }
}

impl<'a> Ground<'a> {
    pub(super) fn new(sinks: &'a Sinks, whereabouts: &'a Whereabouts, own: Sender<'a>, rng: Rng) -> Ground<'a> {
        let daemon = Daemon::prepare();
        daemon.configure(&sinks.config(0));
        let mut ground = Ground { daemon, sinks, whereabouts, rng, done: Done::default(), own: Some(own), variant: 0 };
        ground.start();
        ground
    }

    /// What was told and answered here.
    pub(super) fn own_ledger(&mut self) -> Ledger {
        self.own.take().expect("given back each time").into_ledger()
    }

    fn start(&mut self) {
        self.daemon.start();
        self.done.starts += 1;
        self.whereabouts.set(Some(self.daemon.listen.clone()));
    }

    fn kill(&mut self) {
        self.daemon.kill9();
        self.whereabouts.set(None);
    }

    fn terminate(&mut self) {
        let ended = self.daemon.terminate();
        self.whereabouts.set(None);
        assert_eq!(ended.code(), Some(0), "an end in order");
    }

    /// Not to wait for anything: the moment is to be a random one.
    fn moment(&mut self, longest_ms: u64) {
        thread::sleep(Duration::from_micros(self.rng.u64(0..longest_ms * 1000)));
    }

    fn other_configuration(&mut self) {
        self.variant += 1;
        self.daemon.configure(&self.sinks.config(self.variant));
    }

    fn break_configuration(&mut self) {
        let good = self.sinks.config(self.variant);
        let broken = match self.rng.u32(0..3) {
            0 => good.replace("path =", "pfad ="),
            1 => good[..good.len() / 2].to_owned() + "\n[[",
            _ => good.replace("to = [\"one\"", "to = [\"nobody\""),
        };
        self.daemon.configure(&broken);
    }

    fn mend_configuration(&mut self) {
        self.daemon.configure(&self.sinks.config(self.variant));
    }

    /// Does it, at a random moment.
    pub(super) fn undergo(&mut self, trial: Trial) {
        self.moment(150);
        match trial {
            Kill => {
                self.kill();
                self.start();
            }
            KillAnswered => {
                let mut own = self.own.take().expect("given back each time");
                own.tell_and(&format!("k{}", self.done.starts), || {
                    self.kill();
                    self.start();
                });
                self.own = Some(own);
            }
            KillStopped => {
                self.daemon.signal("STOP");
                self.moment(300);
                self.kill();
                self.start();
            }
            KillReloading => {
                self.other_configuration();
                self.daemon.signal("HUP");
                self.moment(5);
                self.kill();
                self.start();
            }
            KillStarting => {
                self.kill();
                self.daemon.spawn();
                self.moment(60);
                self.kill();
                self.start();
            }
            KillEnding => {
                self.daemon.signal("TERM");
                self.moment(40);
                self.kill();
                self.start();
            }
            Terminate => {
                self.terminate();
                self.start();
            }
            Stop => {
                self.daemon.signal("STOP");
                self.moment(2500);
                self.daemon.signal("CONT");
            }
            StopLong => {
                self.daemon.signal("STOP");
                thread::sleep(PAST_LEASES);
                self.daemon.signal("CONT");
            }
            Reload => {
                self.other_configuration();
                let said = self.daemon.hup();
                assert_eq!(said["level"], "INFO", "{said}");
            }
            ReloadBroken => {
                self.break_configuration();
                let said = self.daemon.hup();
                assert_eq!(said["level"], "ERROR", "{said}");
                self.mend_configuration();
            }
            Reconfigure => {
                self.kill_or_terminate();
                self.other_configuration();
                self.start();
            }
            StartBroken => {
                self.kill_or_terminate();
                self.break_configuration();
                self.daemon.spawn();
                assert_eq!(self.daemon.ended().code(), Some(78), "it does not start");
                self.mend_configuration();
                self.start();
            }
            Upgrade => {
                self.kill_or_terminate();
                older::take_back(&self.daemon.path(STORE));
                self.start();
            }
            UpgradeKilled => self.kill_upgrading(),
            Pause => {
                let sinks = self.sinks.fronts();
                let name = sinks[self.rng.usize(0..sinks.len())].0;
                self.operate(&["sinks", "pause", name]);
                self.moment(300);
                self.operate(&["sinks", "resume", name]);
            }
            Away => {
                let fronts = self.sinks.fronts();
                let front = fronts[self.rng.usize(0..fronts.len())].1;
                front.leave();
                self.moment(1000);
                front.come_back();
            }
            Mend => {
                self.mend();
            }
        }
        *self.done.trials.entry(trial).or_default() += 1;
    }

    fn kill_or_terminate(&mut self) {
        if self.rng.bool() { self.kill() } else { self.terminate() }
    }

    /// Killed as soon as something of the migration stands in the log, or a little later.
    fn kill_upgrading(&mut self) {
        self.kill();
        let store = self.daemon.path(STORE);
        older::take_back(&store);
        let log = store.with_extension("db-wal");
        self.daemon.spawn();
        let deadline = Instant::now() + PATIENCE;
        while !std::fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
            assert!(Instant::now() < deadline, "it does not begin");
            thread::yield_now();
        }
        if self.rng.bool() {
            thread::sleep(Duration::from_micros(self.rng.u64(0..2000)));
        }
        self.kill();
        match older::version(&store) {
            1 => self.done.migrations_killed.0 += 1,
            _ => self.done.migrations_killed.1 += 1,
        }
        self.start();
    }

    /// An operator's command, which is heard however many callbacks come.
    fn operate(&self, command: &[&str]) {
        let done = self.daemon.cli(command);
        assert_eq!(done.code, Some(0), "{command:?}: {done:?}");
    }

    /// What an operator does about sinks that are paused and about what was given up; says whether there was any.
    pub(super) fn mend(&mut self) -> bool {
        let names = |rows: &[Value], key: &str| -> Vec<String> {
            rows.iter().map(|row| row[key].as_str().expect("a text").to_owned()).collect()
        };
        let paused = names(&self.daemon.list(&["sinks", "list", "--status", "paused"]), "name");
        paused.iter().for_each(|name| self.operate(&["sinks", "resume", name]));
        let dead = names(&self.daemon.list(&["deliveries", "list", "--status", "dead"]), "id");
        if !dead.is_empty() {
            self.operate(&["deliveries", "retry", "--all"]);
        }
        let is_any = !(paused.is_empty() && dead.is_empty());
        self.done.dead.extend(dead);
        is_any
    }
}
