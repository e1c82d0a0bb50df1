//! What a run of rounds came to.

use std::collections::BTreeMap;
use std::fmt;

use super::front::Whim;
use super::trials::Trial;

/// Counted by those who sent and those who took, not by the daemon. That nothing was lost, stored twice or told out of
/// order is asserted before there is a report.
#[derive(Default)]
pub(super) struct Report {
    pub(super) rounds: u64,
    pub(super) seconds: u64,
    pub(super) tries: u64,
    pub(super) acknowledged: u64,
    pub(super) stored: u64,
    pub(super) executions: u64,
    pub(super) delivered: u64,
    pub(super) repeated: u64,
    pub(super) dead_letters: u64,
    pub(super) kills: u64,
    pub(super) starts: u64,
    pub(super) migrations_killed: (u64, u64),
    pub(super) trials: BTreeMap<Trial, u64>,
    pub(super) whims: BTreeMap<Whim, u64>,
}

impl Report {
    pub(super) fn add(&mut self, one: Report) {
        self.rounds += one.rounds;
        self.seconds += one.seconds;
        self.tries += one.tries;
        self.acknowledged += one.acknowledged;
        self.stored += one.stored;
        self.executions += one.executions;
        self.delivered += one.delivered;
        self.repeated += one.repeated;
        self.dead_letters += one.dead_letters;
        self.kills += one.kills;
        self.starts += one.starts;
        self.migrations_killed.0 += one.migrations_killed.0;
        self.migrations_killed.1 += one.migrations_killed.1;
        one.trials.into_iter().for_each(|(trial, times)| *self.trials.entry(trial).or_default() += times);
        one.whims.into_iter().for_each(|(whim, times)| *self.whims.entry(whim).or_default() += times);
    }

    /// In short.
    pub(super) fn line(&self) -> String {
        let Report { seconds, kills, tries, acknowledged, stored, delivered, repeated, dead_letters, .. } = self;
        format!(
            "{seconds} s, {kills} kills, {tries} tries: acknowledged {acknowledged}, stored {stored}, delivered \
             {delivered}, repeated {repeated}, dead letters {dead_letters}, lost 0"
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |counts: &mut dyn Iterator<Item = (String, u64)>| {
            counts.map(|(what, times)| format!("{what} {times}")).collect::<Vec<_>>().join(", ")
        };
        let trials = counted(&mut self.trials.iter().map(|(trial, times)| (format!("{trial:?}"), *times)));
        let whims = counted(&mut self.whims.iter().map(|(whim, times)| (format!("{whim:?}"), *times)));
        writeln!(f, "duration      {} s in {} rounds", self.seconds, self.rounds)?;
        writeln!(f, "acknowledged  {} answers to {} tries", self.acknowledged, self.tries)?;
        writeln!(f, "stored        {} different callbacks, in {} executions", self.stored, self.executions)?;
        writeln!(f, "delivered     {}", self.delivered)?;
        writeln!(f, "repeated      {}", self.repeated)?;
        writeln!(f, "dead letters  {}, each delivered when it was tried again", self.dead_letters)?;
        writeln!(f, "lost          0; stored twice 0; out of order 0")?;
        writeln!(f, "kills         {}, and {} starts", self.kills, self.starts)?;
        writeln!(f, "by kind       {trials}")?;
        let (before, after) = self.migrations_killed;
        writeln!(f, "migrations    killed {before} before they were kept, {after} after")?;
        write!(f, "peers         {whims}")
    }
}
