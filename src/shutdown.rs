//! The one signal to stop.
//!
//! A leaf: `app` begins it, everything that waits listens to it. Beginning is final and may happen more than once.

use std::sync::Arc;

use tokio::sync::watch;

/// Whether the daemon stops. Clones are the same signal.
#[derive(Clone, Debug)]
pub struct Shutdown {
    begun: Arc<watch::Sender<bool>>,
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> Shutdown {
        Shutdown { begun: Arc::new(watch::Sender::new(false)) }
    }

    /// Begins it: wakes everyone that waits in [`Shutdown::begun`], now and later.
    pub fn begin(&self) {
        self.begun.send_replace(true);
    }

    /// Whether it has begun.
    pub fn is_begun(&self) -> bool {
        *self.begun.borrow()
    }

    /// Ends when it has begun.
    pub fn begun(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut begun = self.begun.subscribe();
        let kept = Arc::clone(&self.begun);
        async move {
            begun.wait_for(|begun| *begun).await.expect("the sender is kept until here");
            drop(kept);
        }
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn wakes_who_waits_and_who_comes_later() {
        let shutdown = Shutdown::new();
        let waits = tokio::spawn(shutdown.begun());
        assert!(!shutdown.is_begun());
        shutdown.clone().begin();
        shutdown.begin();
        waits.await.expect("woken");
        shutdown.begun().await;
        assert!(shutdown.is_begun());
    }
}
