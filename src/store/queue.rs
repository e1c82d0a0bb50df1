//! The commit queue: many callers put in, the one writer takes out all there is at once.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Bounded by count and by weight (bytes); what does not fit is handed back, so that its caller can say 503. What weighs
/// nothing is no callback: what the daemon has to settle and operators ask for has room of its own, however many callbacks come.
pub(crate) struct Queue<T> {
    inner: Mutex<Inner<T>>,
    filled: Condvar,
    count_max: usize,
    weight_max: usize,
}

struct Inner<T> {
    items: Vec<T>,
    /// So many of them weigh something.
    callbacks: usize,
    weight: usize,
    /// The writer sleeps: only then is it worth a system call to wake it.
    waiting: bool,
    closed: bool,
}

/// Room for what weighs nothing. The daemon never has so much to settle; that it cannot grow for ever is a rule.
const OWN_MAX: usize = 1 << 14;

/// What the writer got.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// At least one item.
    Items,
    /// None within the time given.
    Nothing,
    /// None, and there will be none.
    Closed,
}

impl<T> Queue<T> {
    pub(crate) fn new(count_max: usize, weight_max: usize) -> Queue<T> {
        let inner = Inner { items: Vec::new(), callbacks: 0, weight: 0, waiting: false, closed: false };
        Queue { inner: Mutex::new(inner), filled: Condvar::new(), count_max, weight_max }
    }

    /// Puts one item in, or hands it back with the reason.
    pub(crate) fn put(&self, item: T, weight: usize) -> Result<(), (T, &'static str)> {
        let mut inner = self.lock();
        if inner.closed {
            return Err((item, "callbackd is shutting down"));
        }
        let fits = match weight {
            0 => inner.items.len() - inner.callbacks < OWN_MAX,
            // One callback always fits, however heavy: otherwise it could never be kept.
            _ if inner.callbacks == 0 => true,
            _ => inner.callbacks < self.count_max && inner.weight.saturating_add(weight) <= self.weight_max,
        };
        if !fits {
            return Err((item, "the commit queue is full"));
        }
        inner.items.push(item);
        inner.callbacks += usize::from(weight > 0);
        inner.weight += weight;
        let wake = std::mem::take(&mut inner.waiting);
        drop(inner);
        if wake {
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Moves all items into `into` (which is empty), waiting for the first one up to `patience`.
    pub(crate) fn take(&self, into: &mut Vec<T>, patience: Duration) -> Taken {
        let mut inner = self.lock();
        if inner.items.is_empty() && !inner.closed {
            inner.waiting = true;
            let wait = self.filled.wait_timeout_while(inner, patience, |i| i.items.is_empty() && !i.closed);
            inner = wait.unwrap_or_else(PoisonError::into_inner).0;
            inner.waiting = false;
        }
        if inner.items.is_empty() {
            return if inner.closed { Taken::Closed } else { Taken::Nothing };
        }
        std::mem::swap(&mut inner.items, into);
        (inner.callbacks, inner.weight) = (0, 0);
        Taken::Items
    }

    /// Takes nothing more in; what is in is still taken out.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.filled.notify_all();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Inner<T>> {
        // No code that can panic runs under this lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_and_drains_after_it_closed() {
        let queue = Queue::new(2, 100);
        queue.put("a", 10).expect("fits");
        queue.put("b", 10).expect("fits");
        assert_eq!(queue.put("c", 10), Err(("c", "the commit queue is full")));
        (0..OWN_MAX).for_each(|_| queue.put("own", 0).expect("has room of its own"));
        assert!(queue.put("own", 0).is_err(), "and a limit");
        let mut taken = Vec::new();
        assert_eq!(queue.take(&mut taken, Duration::ZERO), Taken::Items);
        assert_eq!((&taken[..2], taken.len()), (&["a", "b"][..], 2 + OWN_MAX));
        taken.clear();
        queue.put("own", 0).expect("fits");
        queue.put("heavy", 1000).expect("one always fits");
        assert!(queue.put("light", 1).is_err(), "over the weight");
        queue.close();
        assert_eq!(queue.put("late", 1), Err(("late", "callbackd is shutting down")));
        taken.clear();
        assert_eq!(queue.take(&mut taken, Duration::ZERO), Taken::Items);
        assert_eq!(taken, ["own", "heavy"]);
        taken.clear();
        assert_eq!(queue.take(&mut taken, Duration::ZERO), Taken::Closed);
    }

    #[test]
    fn wakes_the_taker() {
        let queue = std::sync::Arc::new(Queue::new(10, 100));
        let putter = std::thread::spawn({
            let queue = std::sync::Arc::clone(&queue);
            move || {
                (0..1000).for_each(|i| {
                    while queue.put(i, 1).is_err() {
                        std::thread::yield_now()
                    }
                })
            }
        });
        let (mut all, mut some) = (Vec::new(), Vec::new());
        while all.len() < 1000 {
            assert_eq!(queue.take(&mut some, Duration::from_secs(60)), Taken::Items);
            all.append(&mut some);
        }
        putter.join().expect("joined");
        assert_eq!(all, (0..1000).collect::<Vec<_>>());
    }
}
