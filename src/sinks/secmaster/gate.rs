//! How many calls may be under way with credentials that may be wrong.
//!
//! Five refused signatures in a row lock an access key for five minutes, for every program that uses it ("API Request
//! Signing Guide", FAQ). So until a call has succeeded there is one at a time; after that a few, and never as many as
//! would lock the key if all of them were refused at once. Whoever waited while a call was refused does not call.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{self, Semaphore, SemaphorePermit};

/// Calls under way at one time with a key that works: refused all at once, and one of them again with a corrected
/// clock, they do not lock it.
pub(super) const SIGNED_MAX: usize = 3;

/// The gate that every call passes.
pub(super) struct Gate {
    state: Mutex<State>,
    one: sync::Mutex<()>,
    few: Semaphore,
}

#[derive(Default)]
struct State {
    open: bool,
    /// Refusals so far.
    refused: u64,
    reason: String,
}

/// How many refusals there were when a try began.
#[derive(Clone, Copy)]
pub(super) struct Since(u64);

/// May call, until it is dropped.
pub(super) enum Pass<'a> {
    One(#[expect(dead_code, reason = "held for its drop")] sync::MutexGuard<'a, ()>),
    Few(#[expect(dead_code, reason = "held for its drop")] SemaphorePermit<'a>),
}

impl Gate {
    /// Closed; lets `calls_max` through at a time once it is open.
    pub(super) fn new(calls_max: usize) -> Gate {
        Gate { state: Mutex::default(), one: sync::Mutex::default(), few: Semaphore::new(calls_max) }
    }

    /// A try begins.
    pub(super) fn since(&self) -> Since {
        Since(self.state().refused)
    }

    /// Waits for its turn; or says why a call was refused after the try began.
    pub(super) async fn enter(&self, since: Since) -> Result<Pass<'_>, String> {
        loop {
            let pass = if self.is_open(since)? {
                Pass::Few(self.few.acquire().await.expect("the semaphore is never closed"))
            } else {
                Pass::One(self.one.lock().await)
            };
            if self.is_open(since)? == matches!(pass, Pass::Few(_)) {
                return Ok(pass);
            }
        }
    }

    fn is_open(&self, since: Since) -> Result<bool, String> {
        let state = self.state();
        if state.refused > since.0 { Err(state.reason.clone()) } else { Ok(state.open) }
    }

    /// The credentials are good.
    pub(super) fn open(&self) {
        self.state().open = true;
    }

    /// They may not be.
    pub(super) fn close(&self) {
        self.state().open = false;
    }

    /// They are not.
    pub(super) fn refuse(&self, reason: &str) {
        let mut state = self.state();
        state.open = false;
        state.refused += 1;
        reason.clone_into(&mut state.reason);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it would have to wait now; or why it may not call at all.
    async fn waits(gate: &Gate, since: Since) -> Result<bool, String> {
        tokio::select! {
            biased;
            entered = gate.enter(since) => entered.map(|_| false),
            () = std::future::ready(()) => Ok(true),
        }
    }

    #[tokio::test]
    async fn one_at_a_time_until_one_succeeds_and_then_a_few() {
        let gate = Gate::new(SIGNED_MAX);
        let since = gate.since();
        let first = gate.enter(since).await.expect("entered");
        assert_eq!(waits(&gate, since).await, Ok(true));
        gate.open();
        let mut few = Vec::new();
        for _ in 0..SIGNED_MAX {
            assert_eq!(waits(&gate, since).await, Ok(false));
            few.push(gate.enter(since).await.expect("entered"));
        }
        assert_eq!(waits(&gate, since).await, Ok(true));
        drop((first, few));
        // Something may be wrong: one at a time again, and nobody is turned away.
        gate.close();
        let first = gate.enter(since).await.expect("entered");
        assert_eq!(waits(&gate, since).await, Ok(true));
        drop(first);
        assert_eq!(waits(&gate, since).await, Ok(false));
    }

    #[tokio::test]
    async fn whoever_waited_while_another_was_refused_does_not_call() {
        let gate = Gate::new(SIGNED_MAX);
        let since = gate.since();
        let first = gate.enter(since).await.expect("entered");
        let (second, ()) = tokio::join!(gate.enter(since), async {
            gate.refuse("no such key");
            drop(first);
        });
        assert_eq!(second.err().as_deref(), Some("no such key"));
        assert_eq!(waits(&gate, since).await, Err("no such key".to_owned()));
        // A try that begins later is a new one, and alone.
        let later = gate.since();
        let _alone = gate.enter(later).await.expect("entered");
        assert_eq!(waits(&gate, later).await, Ok(true));
    }
}
