//! States of executions that began a moment ago and are about to be told: who claims their first change need not read it
//! out of its snapshot again. What is missing here is in the store.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use crate::model::State;

/// So many bytes are kept, about; and so many states.
const BYTES_MAX: usize = 1 << 20;
const STATES_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Fresh(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    states: HashMap<i64, (State, usize)>,
    /// In the order in which they came; those that were taken, too.
    order: VecDeque<i64>,
    bytes: usize,
}

impl Fresh {
    /// Keeps how an execution began, whose snapshot is so long; the oldest make room.
    pub(super) fn keep(&self, execution: i64, state: State, bytes: usize) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.bytes += bytes;
        kept.order.push_back(execution);
        kept.states.insert(execution, (state, bytes));
        while kept.bytes > BYTES_MAX || kept.order.len() > STATES_MAX {
            let Some(oldest) = kept.order.pop_front() else { return };
            kept.remove(oldest);
        }
    }

    /// How an execution began, once.
    pub(super) fn take(&self, execution: i64) -> Option<State> {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let state = kept.remove(execution)?;
        if kept.states.is_empty() {
            kept.order.clear();
        }
        Some(state)
    }
}

impl Kept {
    fn remove(&mut self, execution: i64) -> Option<State> {
        let (state, bytes) = self.states.remove(&execution)?;
        self.bytes -= bytes;
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Update;

    #[test]
    fn the_newest_are_kept_within_bounds() {
        let (fresh, state) = (Fresh::default(), State::begin("media", Update::default()).state);
        for execution in 0..STATES_MAX as i64 + 10 {
            fresh.keep(execution, state.clone(), 100);
        }
        assert_eq!(fresh.take(9), None);
        assert_eq!(fresh.take(10), Some(state.clone()));
        assert_eq!(fresh.take(10), None, "once");
        for execution in 10_000..10_010 {
            fresh.keep(execution, state.clone(), BYTES_MAX / 4);
        }
        let kept: Vec<_> = (0..10_010).filter(|execution| fresh.take(*execution).is_some()).collect();
        assert_eq!(kept, [10_006, 10_007, 10_008, 10_009]);
        let kept = fresh.0.into_inner().expect("nobody panicked");
        assert_eq!((kept.bytes, kept.order.len()), (0, 0));
    }
}
