//! What the world knows when power goes: senders what they were told, sinks what came to them and what they took.

use std::collections::{HashMap, HashSet};

use callbackd::model::Time;
use callbackd_vfs::tape::{Record, Recorded, What};
use serde_json::Value;

use crate::callbacks::Step;
use crate::load::GARBLED;

/// An acknowledged callback.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) run: String,
    /// `None` for one that no source understands.
    pub(crate) step: Option<Step>,
    /// `None` where the answer did not say it.
    pub(crate) receipt: Option<i64>,
    pub(crate) outcome: String,
}

/// What is known at one moment.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) told: Vec<Told>,
    /// Deliveries that their sink was told, and those of them that it took.
    pub(crate) came: HashSet<i64>,
    pub(crate) took: HashSet<i64>,
    /// What was finished and told before this time may have been let go of.
    horizon: i64,
    keep: i64,
    now: i64,
}

impl Known {
    pub(crate) fn hear(&mut self, record: &Record) {
        self.now = self.now.max(record.micros);
        if record.what != What::Mark {
            return;
        }
        let words: Vec<&str> = record.name.split(' ').collect();
        match words[..] {
            ["told", run, step, receipt, outcome] => self.told.push(Told {
                run: run.to_owned(),
                step: [Step::Start, Step::TaskFinish, Step::Success, Step::Failed]
                    .into_iter()
                    .find(|of| step == format!("{of:?}"))
                    .or_else(|| (step != GARBLED).then(|| panic!("{step} is no step"))),
                receipt: receipt.parse().ok(),
                outcome: outcome.to_owned(),
            }),
            ["came", _, delivery] => drop(self.came.insert(delivery.parse().expect("an id"))),
            ["took", _, delivery] => drop(self.took.insert(delivery.parse().expect("an id"))),
            ["start", _, keep] => {
                self.horizon = self.horizon();
                self.keep = keep.parse().expect("microseconds");
            }
            _ => {}
        }
    }

    pub(crate) fn horizon(&self) -> i64 {
        self.horizon.max(self.now.saturating_sub(self.keep))
    }
}

/// A change as sinks were told of it, then or later.
pub(crate) struct Change {
    pub(crate) status: String,
    pub(crate) received_at: i64,
    /// The normalized change.
    pub(crate) said: Value,
    /// Its deliveries.
    pub(crate) deliveries: HashSet<i64>,
}

/// All that was ever told.
#[derive(Default)]
pub(crate) struct Story {
    pub(crate) changes: HashMap<i64, Change>,
    pub(crate) runs: HashMap<String, Vec<i64>>,
}

impl Story {
    pub(crate) fn read(tape: &Recorded) -> Story {
        let mut story = Story::default();
        for record in &tape.records {
            let words: Vec<&str> = record.name.split(' ').collect();
            let ["came", _, delivery] = words[..] else { continue };
            let mut event: Value = serde_json::from_slice(tape.bytes(record)).expect("JSON");
            let id: i64 = event["id"].as_str().and_then(|id| id.parse().ok()).expect("a change's id");
            let said = event["data"].take();
            let change = story.changes.entry(id).or_insert_with(|| {
                let text = |value: &Value| value.as_str().expect("a text").to_owned();
                let run = text(&said["execution"]["key"]);
                story.runs.entry(run).or_default().push(id);
                let time: Time = serde_json::from_value(said["change"]["received_at"].clone()).expect("a time");
                let status = text(&said["execution"]["status"]);
                Change { status, received_at: time.micros(), said: said.clone(), deliveries: HashSet::new() }
            });
            assert_eq!(change.said, said, "change {id} is told in two ways");
            change.deliveries.insert(delivery.parse().expect("an id"));
        }
        story
    }

    /// Whether retention may have let go of this run: finished, told to everybody, and old.
    pub(crate) fn may_be_gone(&self, run: &str, known: &Known) -> bool {
        let Some(changes) = self.runs.get(run) else { return false };
        let mut changes = changes.iter().map(|id| &self.changes[id]).filter(|change| change.received_at < known.now);
        let mut finished = false;
        let told = changes.all(|change| {
            finished |= ["succeeded", "failed"].contains(&&*change.status);
            change.received_at < known.horizon() && change.deliveries.iter().all(|id| known.took.contains(id))
        });
        told && finished
    }
}
