//! `tokio`, as far as the product's store and pipeline use it, on shuttle's tasks. Its channels are tokio's own: they need
//! no runtime, and what they promise is not in question here.
//!
//! Time never heals anything: a poll never comes, and nothing takes too long.

pub use shuttle::future::spawn;

/// A moment at which another task or thread may go on.
fn step() {
    shuttle::sync::atomic::AtomicBool::new(false).load(std::sync::atomic::Ordering::SeqCst);
}

/// In the order written, so that a schedule decides everything; who comes later gets its chance by the first being late.
#[macro_export]
macro_rules! select {
    ($($branches:tt)*) => { $crate::real_select! { biased; $($branches)* } };
}
#[doc(hidden)]
pub use real::select as real_select;

pub mod sync {
    //! Tokio's own, with steps between.
    use std::pin::Pin;
    use std::task::{Context, Poll};

    pub use real::sync::*;

    /// See tokio's.
    #[derive(Debug, Default)]
    pub struct Notify(real::sync::Notify);

    /// See tokio's.
    pub struct Notified<'n>(Pin<Box<real::sync::futures::Notified<'n>>>);

    impl Notify {
        pub fn notify_one(&self) {
            crate::step();
            self.0.notify_one();
        }

        pub fn notify_waiters(&self) {
            crate::step();
            self.0.notify_waiters();
        }

        pub fn notified(&self) -> Notified<'_> {
            crate::step();
            Notified(Box::pin(self.0.notified()))
        }
    }

    impl Notified<'_> {
        pub fn enable(mut self: Pin<&mut Self>) -> bool {
            crate::step();
            self.0.as_mut().enable()
        }
    }

    impl Future for Notified<'_> {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            use shuttle::rand::Rng;

            if shuttle::rand::thread_rng().gen_bool(0.2) {
                // Not now: what else one waits for may be seen first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.0.as_mut().poll(cx)
        }
    }
}

pub mod runtime {
    //! The one there is.

    /// See tokio's.
    pub struct Handle(());

    impl Handle {
        pub fn try_current() -> Result<Handle, ()> {
            Ok(Handle(()))
        }

        pub fn spawn<F>(&self, future: F) -> crate::task::JoinHandle<F::Output>
        where
            F: Future + Send + 'static,
            F::Output: Send + 'static,
        {
            crate::spawn(future)
        }
    }
}

pub mod task {
    //! Tasks on shuttle's scheduler.
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    pub use shuttle::future::{JoinError, JoinHandle, spawn};

    use real::sync::{Notify, oneshot};

    /// See tokio's.
    pub async fn spawn_blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
        let (done, ended) = oneshot::channel();
        shuttle::thread::spawn(move || done.send(work()));
        Ok(ended.await.expect("a panic ends the whole schedule"))
    }

    /// See tokio's.
    pub struct JoinSet<T> {
        under_way: usize,
        ended: Arc<(Mutex<VecDeque<T>>, Notify)>,
    }

    impl<T: Send + 'static> JoinSet<T> {
        #[expect(clippy::new_without_default, reason = "as tokio has it")]
        pub fn new() -> JoinSet<T> {
            JoinSet { under_way: 0, ended: Arc::new((Mutex::new(VecDeque::new()), Notify::new())) }
        }

        pub fn spawn(&mut self, task: impl Future<Output = T> + Send + 'static) {
            self.under_way += 1;
            let ended = Arc::clone(&self.ended);
            spawn(async move {
                let value = task.await;
                ended.0.lock().expect("sound").push_back(value);
                ended.1.notify_one();
            });
        }

        pub fn len(&self) -> usize {
            self.under_way
        }

        pub fn is_empty(&self) -> bool {
            self.under_way == 0
        }

        pub fn try_join_next(&mut self) -> Option<Result<T, JoinError>> {
            let value = self.ended.0.lock().expect("sound").pop_front()?;
            self.under_way -= 1;
            Some(Ok(value))
        }

        pub async fn join_next(&mut self) -> Option<Result<T, JoinError>> {
            while self.under_way > 0 {
                if let Some(ended) = self.try_join_next() {
                    return Some(ended);
                }
                self.ended.1.notified().await;
            }
            None
        }
    }
}

pub mod time {
    //! No clock: a short pause is over at some moment, a poll never comes.
    use std::time::Duration;

    /// The shortest pause that is one for want of a wake-up: a poll, of whose five seconds some may be over.
    const POLL: Duration = Duration::from_secs(3);

    pub async fn sleep(pause: Duration) {
        if pause >= POLL {
            std::future::pending::<()>().await;
        }
        shuttle::future::yield_now().await;
    }

    pub async fn timeout<T>(_: Duration, work: impl Future<Output = T>) -> Result<T, Elapsed> {
        Ok(work.await)
    }

    /// Never made.
    #[derive(Debug)]
    pub struct Elapsed;
}
