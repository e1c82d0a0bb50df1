//! Settling: how tries ended is recorded many at a time. While one lot is committed, the next one gathers.
//!
//! What was not recorded with its lot is tried again by itself, beside the lots that follow, until its lease is over: what
//! was delivered should not be delivered twice only because the disk was full for a moment, and what spoils one
//! settlement holds up no other.

use std::sync::Arc;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::{Forwarder, STORE_PAUSE};
use crate::clock;
use crate::store::{Fate, Settlement, StoreError};

/// So many in one transaction; as many again may wait for it, and as many be tried again. Then tries wait.
pub(super) const AT_ONCE: usize = 256;

/// What was not recorded and may be later, and why.
struct Left(Vec<Settlement>, String);

impl Forwarder {
    /// Settles until nobody tries any more, and nothing is left.
    pub(super) async fn settle_what_ended(self: Arc<Self>, mut ended: mpsc::Receiver<Settlement>) {
        let (mut lot, mut again) = (Vec::new(), JoinSet::new());
        loop {
            tokio::select! {
                count = ended.recv_many(&mut lot, AT_ONCE), if again.len() < AT_ONCE => {
                    if count == 0 {
                        break;
                    }
                    if let Err(Left(left, reason)) = self.settle(std::mem::take(&mut lot)).await {
                        tracing::warn!(sink.name = %self.name, tries = left.len(), reason, "tries are not recorded yet");
                        for one in left {
                            again.spawn(Arc::clone(&self).settle_again(one));
                        }
                    }
                }
                Some(_) = again.join_next(), if !again.is_empty() => {}
            }
        }
        while again.join_next().await.is_some() {}
    }

    /// Records the ends of tries in one transaction.
    async fn settle(&self, mut lot: Vec<Settlement>) -> Result<(), Left> {
        // What waits for another try is looked for when it is due.
        let waits = lot.iter().any(|one| matches!(one.fate, Fate::Waiting { .. }));
        let (store, rules, all) = (Arc::clone(&self.store), Arc::clone(&self.rules), lot.clone());
        // In a task of its own, which alone ends with a panic over what a sink learned.
        match tokio::spawn(async move { store.settle_all(all, rules, clock::now()).await }).await {
            Ok(Ok(wake)) => self.wake.sinks(&wake),
            Ok(Err(StoreError::Unavailable(reason))) => return Err(Left(lot, reason)),
            Err(e) => {
                tracing::error!(sink.name = %self.name, tries = lot.len(), error = %e, "recording how tries ended panicked");
                if let [one] = &mut lot[..] {
                    give_up(one);
                }
                return Err(Left(lot, "callbackd's own fault".to_owned()));
            }
            Ok(Err(e)) => {
                tracing::error!(sink.name = %self.name, tries = lot.len(), error = %e, "tries cannot be recorded");
            }
        }
        if waits {
            self.wake.sinks(&[&self.name]);
        }
        Ok(())
    }

    /// The same for one, until nobody can have its lease any more.
    async fn settle_again(self: Arc<Self>, one: Settlement) {
        let (delivery, ends) = (one.delivery, clock::steady() + self.lease());
        let mut lot = vec![one];
        while clock::steady() < ends && !self.store.is_closed() {
            tokio::time::sleep(STORE_PAUSE).await;
            match self.settle(lot).await {
                Ok(()) => return,
                Err(Left(left, _)) => lot = left,
            }
        }
        tracing::warn!(sink.name = %self.name, delivery.id = delivery, "a try was never recorded: it is made again");
        self.wake.sinks(&[&self.name]);
    }
}

/// What cannot be recorded as it was is a dead letter: trying it again would only repeat it.
fn give_up(settlement: &mut Settlement) {
    let reason = "callbackd's own fault: it panicked over what came of this try";
    tracing::warn!(delivery.id = settlement.delivery, reason, "a dead letter");
    settlement.attempt.reason = Some(reason.to_owned());
    (settlement.fate, settlement.learned) = (Fate::Dead, Vec::new());
}
