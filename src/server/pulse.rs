//! By when a connection has to show a sign of life.
//!
//! hyper's own `header_read_timeout` also ends idle waits, with the same span, and makes a timer for every head. This
//! is one number per connection: the request path moves it, one timer per connection looks at it now and then.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::listen::Io;

/// While no request is in hand, either a head is being received or the connection is idle; each may last so long.
#[derive(Debug)]
pub(super) struct Pulse {
    origin: Instant,
    head_ms: u64,
    idle_ms: u64,
    /// Milliseconds after `origin`; `u64::MAX` while a request is in hand, which has deadlines of its own.
    due_ms: AtomicU64,
    idle: AtomicBool,
}

impl Pulse {
    /// Of a new connection, whose first head has to come within `head`.
    pub(super) fn new(head: Duration, idle: Duration) -> Pulse {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 4).clamp(1, u64::MAX / 4);
        let (head_ms, idle_ms) = (ms(head), ms(idle));
        Pulse {
            origin: Instant::now(),
            head_ms,
            idle_ms,
            due_ms: AtomicU64::new(head_ms),
            idle: AtomicBool::new(false),
        }
    }

    /// A request is in hand.
    pub(super) fn begins(&self) {
        self.idle.store(false, Ordering::Relaxed);
        self.due_ms.store(u64::MAX, Ordering::Relaxed);
    }

    /// The request is answered.
    pub(super) fn ends(&self) {
        self.idle.store(true, Ordering::Relaxed);
        self.due_ms.store(self.elapsed_ms() + self.idle_ms, Ordering::Relaxed);
    }

    /// Bytes came: the first ones after an idle time begin a head.
    fn reads(&self) {
        if self.idle.swap(false, Ordering::Relaxed) {
            self.due_ms.store(self.elapsed_ms() + self.head_ms, Ordering::Relaxed);
        }
    }

    /// Bytes went: the peer takes its answer, or a long one as it is made.
    fn writes(&self) {
        if self.idle.load(Ordering::Relaxed) {
            self.due_ms.store(self.elapsed_ms() + self.idle_ms, Ordering::Relaxed);
        }
    }

    /// Ends when nothing came in time. Between two looks no new deadline can both begin and pass.
    pub(super) async fn stops(&self) {
        let step_ms = self.head_ms.min(self.idle_ms);
        loop {
            let (due_ms, now_ms) = (self.due_ms.load(Ordering::Relaxed), self.elapsed_ms());
            if due_ms <= now_ms {
                return;
            }
            tokio::time::sleep_until(self.origin + Duration::from_millis(due_ms.min(now_ms + step_ms))).await;
        }
    }

    fn elapsed_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }
}

/// A connection's bytes, with their pulse taken.
pub(super) struct Pulsed {
    pub(super) io: Box<dyn Io>,
    pub(super) pulse: std::sync::Arc<Pulse>,
}

impl AsyncRead for Pulsed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.pulse.reads();
        }
        read
    }
}

impl AsyncWrite for Pulsed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if written.is_ready() {
            self.pulse.writes();
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        if written.is_ready() {
            self.pulse.writes();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The paused clock needs tokio's `test-util`, so the spans here are short and only their order is judged.
    #[tokio::test]
    async fn each_phase_has_its_own_deadline() {
        let (short, long) = (Duration::from_millis(5), Duration::from_secs(600));
        Pulse::new(short, long).stops().await;

        let idle = Pulse::new(long, short);
        idle.begins();
        idle.ends();
        idle.stops().await;

        let head = Pulse::new(short, long);
        head.begins();
        head.ends();
        head.reads();
        head.stops().await;

        for in_hand in [Pulse::new(short, long), Pulse::new(long, short)] {
            in_hand.begins();
            in_hand.reads();
            in_hand.writes();
            let waited = tokio::time::timeout(Duration::from_millis(30), in_hand.stops()).await;
            assert!(waited.is_err(), "a request in hand has deadlines of its own");
        }
    }
}
