//! A sink as operators are shown it: what the store knows of it, and what its forwarder does.

use serde::{Deserialize, Serialize};

use crate::measure::Open;
use crate::model::Time;
use crate::store::SinkRow;

/// A sink's standing: in the store, and with its forwarder.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct SinkStanding {
    /// In the store.
    #[serde(flatten)]
    pub row: SinkRow,
    /// Its breaker, while it is open: it failed time and again. `null` when it is closed.
    pub breaker: Option<Breaker>,
}

/// An open breaker: all that the sink is told is a probe.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Breaker {
    /// Since when.
    pub open_since: Time,
    /// When the next probe may be made; `null` while nothing waits that it could be made with: whether the sink works again
    /// is not known then, and the next delivery tells.
    pub probe_at: Option<Time>,
}

impl SinkStanding {
    /// What the store and the forwarder say of it.
    pub fn of(row: SinkRow, open: Option<Open>) -> SinkStanding {
        let probe_at = |open: &Open| row.may_be_tried().then_some(open.probe_at);
        let breaker = open.map(|open| Breaker { open_since: open.since, probe_at: probe_at(&open) });
        SinkStanding { row, breaker }
    }

    /// It fails, as far as anybody knows: with nothing to probe it with, nobody does.
    pub fn is_failing(&self) -> bool {
        self.breaker.is_some_and(|breaker| breaker.probe_at.is_some())
    }

    /// One word for it.
    pub fn word(&self) -> &'static str {
        match () {
            () if self.row.paused.is_some() => "paused",
            () if self.is_failing() => "failing",
            () => "active",
        }
    }
}
