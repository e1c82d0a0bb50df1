//! Settling: how tries ended is recorded many at a time. While one lot is committed, the next one gathers.

use std::sync::Arc;

use tokio::sync::mpsc;

use super::{Forwarder, STORE_PAUSE};
use crate::clock;
use crate::store::{Fate, Settlement, StoreError};

/// So many in one transaction; as many again may wait for it, then tries wait.
pub(super) const AT_ONCE: usize = 256;

impl Forwarder {
    /// Settles until nobody tries any more.
    pub(super) async fn settle_what_ended(self: Arc<Self>, mut ended: mpsc::Receiver<Settlement>) {
        let mut lot = Vec::new();
        while ended.recv_many(&mut lot, AT_ONCE).await > 0 {
            self.settle(std::mem::take(&mut lot)).await;
        }
    }

    /// Records the ends of tries. While the store cannot, it is tried again until their leases are over: what was delivered
    /// should not be delivered twice only because the disk was full for a moment.
    async fn settle(&self, lot: Vec<Settlement>) {
        // What waits for another try is looked for when it is due.
        let waits = lot.iter().any(|one| matches!(one.fate, Fate::Waiting { .. }));
        let mut lots = vec![lot];
        loop {
            let now = clock::now();
            // All of them are in the store's hands before the first is waited for.
            let settled: Vec<_> =
                lots.iter().map(|lot| self.store.settle_all(lot.clone(), Arc::clone(&self.rules), now)).collect();
            let mut left = Vec::new();
            for (lot, settled) in lots.into_iter().zip(settled) {
                match settled.await {
                    Ok(wake) => self.wake.sinks(&wake),
                    Err(StoreError::Unavailable(reason)) => {
                        tracing::warn!(sink.name = %self.name, tries = lot.len(), reason, "tries are not recorded yet");
                        left.extend(lot);
                    }
                    Err(e) => {
                        tracing::error!(sink.name = %self.name, tries = lot.len(), error = %e, "tries cannot be recorded");
                    }
                }
            }
            left.retain(|one| !self.store.is_closed() && clock::now() < one.lease);
            // Each for itself: what spoils a transaction is not to take the others with it.
            lots = left.into_iter().map(|one| vec![one]).collect();
            if lots.is_empty() {
                break;
            }
            tokio::time::sleep(STORE_PAUSE).await;
        }
        if waits {
            self.wake.sinks(&[&self.name]);
        }
    }
}
