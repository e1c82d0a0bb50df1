//! The one signal to stop, and the count of what has still to finish.
//!
//! A leaf: `app` begins it, everything that waits listens to it. Beginning is final and may happen more than once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Whether the daemon stops, and what still runs. Clones are the same signal.
#[derive(Clone, Debug)]
pub struct Shutdown {
    begun: Arc<watch::Sender<bool>>,
    guards: Arc<watch::Sender<usize>>,
}

/// Work that a stop waits for, until it is dropped.
#[derive(Debug)]
pub struct Guard {
    guards: Arc<watch::Sender<usize>>,
}

impl Shutdown {
    /// Not begun.
    pub fn new() -> Shutdown {
        Shutdown { begun: Arc::new(watch::Sender::new(false)), guards: Arc::new(watch::Sender::new(0)) }
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

    /// Makes [`Shutdown::finished`] wait until the guard is dropped.
    pub fn guard(&self) -> Guard {
        self.guards.send_modify(|count| *count += 1);
        Guard { guards: Arc::clone(&self.guards) }
    }

    /// Waits until no guard is left, for `deadline` at the most. False when some still are.
    pub async fn finished(&self, deadline: Duration) -> bool {
        let mut guards = self.guards.subscribe();
        tokio::time::timeout(deadline, guards.wait_for(|count| *count == 0)).await.is_ok()
    }
}

impl Default for Shutdown {
    fn default() -> Shutdown {
        Shutdown::new()
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.guards.send_modify(|count| *count -= 1);
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

    #[tokio::test]
    async fn waits_for_guards_until_the_deadline() {
        let shutdown = Shutdown::new();
        assert!(shutdown.finished(Duration::ZERO).await);
        let (one, two) = (shutdown.guard(), shutdown.guard());
        drop(one);
        assert!(!shutdown.finished(Duration::from_millis(1)).await);
        let waits = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { shutdown.finished(Duration::from_secs(60)).await }
        });
        drop(two);
        assert!(waits.await.expect("ended"));
    }
}
