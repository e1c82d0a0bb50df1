//! Who is let go when every place is taken.
//!
//! Without it, whoever holds connections open keeps everybody else waiting until their time is over. Here they lose their
//! place to who comes next: first those who never showed that they belong here, the longest silent first, then those who
//! did. Never who is waiting for us: their answer is on its way. Nor who still sends what its head vouches for: that has a
//! deadline of its own.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::task::{AbortHandle, Id};

use super::pulse::Pulse;

/// Who has been silent for so long may lose its place.
const SILENT_MS: u64 = 1000;

/// Of all, one part in so many loses its place at one time: whoever comes in a crowd finds room for a while.
const SHARE: usize = 16;

/// The connections of one door.
#[derive(Default)]
pub(super) struct Crowd(HashMap<Id, (AbortHandle, Arc<Pulse>)>);

impl Crowd {
    /// One has come.
    pub(super) fn comes(&mut self, task: AbortHandle, pulse: Arc<Pulse>) {
        self.0.insert(task.id(), (task, pulse));
    }

    /// One has ended.
    pub(super) fn ends(&mut self, task: Id) {
        self.0.remove(&task);
    }

    /// Lets go of some that only take up a place; how many.
    pub(super) fn make_room(&mut self) -> usize {
        let mut silent: Vec<_> =
            self.0.values().filter_map(|(task, pulse)| Some((pulse.is_known(), pulse.silent_ms()?, task))).collect();
        // As long as there are strangers, theirs are the places, and be it in a moment.
        let is_among_friends = silent.iter().all(|(known, ..)| *known);
        silent.retain(|(known, ms, _)| *ms >= SILENT_MS && (is_among_friends || !known));
        silent.sort_unstable_by_key(|(_, ms, _)| std::cmp::Reverse(*ms));
        silent.truncate((self.0.len() / SHARE).max(1));
        for (.., task) in &silent {
            task.abort();
        }
        silent.len()
    }
}
