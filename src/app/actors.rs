//! Actors that run as long as their configuration holds: forwarders, inquirers, upkeep.

use std::time::Duration;

use crate::shutdown::Shutdown;

/// Who failed begins again after this.
const PAUSE: Duration = Duration::from_secs(1);

/// Runs the actor that `begin` begins until it ends. A panic is a fault of ours, which is said; then it begins again, because
/// all that it works on is in the store, and nobody else would do its work. What it had claimed comes back with its lease.
pub(super) async fn keep_going<A>(actor: String, stop: Shutdown, begin: impl Fn() -> A)
where
    A: Future<Output = ()> + Send + 'static,
{
    while let Err(e) = tokio::spawn(begin()).await {
        if stop.is_begun() || !e.is_panic() {
            return;
        }
        tracing::error!(actor, error = %e, "callbackd's own fault: it panicked, and begins again");
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[tokio::test]
    async fn who_panics_begins_again_unless_it_is_to_end() {
        let (begun, stop) = (Arc::new(AtomicU32::new(0)), Shutdown::new());
        let begin = || {
            let (nth, stop) = (begun.fetch_add(1, Ordering::Relaxed), stop.clone());
            async move {
                match nth {
                    0 => panic!("on purpose"),
                    1 => {}
                    _ => {
                        stop.begin();
                        panic!("on purpose, at the end");
                    }
                }
            }
        };
        keep_going("one that fails".to_owned(), stop.clone(), begin).await;
        assert_eq!(begun.load(Ordering::Relaxed), 2, "again after the panic, and not after its end");
        keep_going("one that fails".to_owned(), stop.clone(), begin).await;
        assert_eq!(begun.load(Ordering::Relaxed), 3);
    }
}
