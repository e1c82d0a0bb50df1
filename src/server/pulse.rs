//! By when a connection has to show a sign of life.
//!
//! hyper's own `header_read_timeout` also ends idle waits, with the same span, and makes a timer for every head. This
//! is one number per connection: the request path moves it, one timer per connection looks at it now and then.
//!
//! The same look tells when a connection rests: then `connection` takes hyper's buffers from it.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::listen::Io;

/// How long nothing has to come until a connection rests. Who sends one request behind the other never does, and of many
/// who connect, few are awake at one time.
const REST_AFTER_MS: u64 = 200;

/// What a look at the pulse found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing came in time.
    Late,
    /// Every answer was taken, and nothing comes.
    Resting,
}

/// A connection's signs of life. While no request is in hand, either a head is being received or the connection is idle;
/// each may last so long.
#[derive(Debug)]
pub struct Pulse {
    origin: Instant,
    head_ms: u64,
    idle_ms: u64,
    /// Milliseconds after `origin`; `u64::MAX` while a request is in hand, which has deadlines of its own.
    due_ms: AtomicU64,
    idle: AtomicBool,
    /// An answer was made and is not yet sent.
    owes: AtomicBool,
    /// Its end is not known.
    streams: AtomicBool,
    /// What hyper closes is only put to rest.
    rests: AtomicBool,
    /// Its sender has shown once that it belongs here.
    known: AtomicBool,
    /// It has done so for the request in hand.
    vouched: AtomicBool,
    /// Milliseconds after `origin` of the last sign of life of who is known; else of the connection.
    since_ms: AtomicU64,
    /// A request is here, whole: its answer is our turn.
    ours: AtomicBool,
    /// Milliseconds after `origin` by which more of the answer has to be taken; `u64::MAX` where nobody waits for that.
    taken_ms: AtomicU64,
}

impl Pulse {
    /// Of a new connection, whose first head has to come within `head`.
    pub(crate) fn new(head: Duration, idle: Duration) -> Pulse {
        let ms = |span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 4).clamp(1, u64::MAX / 4);
        let (head_ms, idle_ms) = (ms(head), ms(idle));
        Pulse {
            origin: Instant::now(),
            head_ms,
            idle_ms,
            due_ms: AtomicU64::new(head_ms),
            idle: AtomicBool::new(false),
            owes: AtomicBool::new(false),
            streams: AtomicBool::new(false),
            rests: AtomicBool::new(false),
            known: AtomicBool::new(false),
            vouched: AtomicBool::new(false),
            since_ms: AtomicU64::new(0),
            ours: AtomicBool::new(false),
            taken_ms: AtomicU64::new(u64::MAX),
        }
    }

    /// A request is in hand.
    pub(super) fn begins(&self) {
        self.ours.store(true, Ordering::Relaxed);
        self.idle.store(false, Ordering::Relaxed);
        self.due_ms.store(u64::MAX, Ordering::Relaxed);
    }

    /// The sender of the request in hand has shown that it belongs here: it keeps its place until its answer is made,
    /// however full the door is, and later loses it after all strangers.
    pub fn vouch(&self) {
        self.known.store(true, Ordering::Relaxed);
        self.vouched.store(true, Ordering::Relaxed);
    }

    /// The request is answered: by something whole, or by what goes on for a while.
    pub(super) fn ends(&self, whole: bool) {
        let now_ms = self.elapsed_ms();
        self.lives(now_ms);
        self.vouched.store(false, Ordering::Relaxed);
        self.ours.store(false, Ordering::Relaxed);
        self.owes.store(true, Ordering::Relaxed);
        self.streams.store(!whole, Ordering::Relaxed);
        self.idle.store(true, Ordering::Relaxed);
        self.due_ms.store(now_ms + self.idle_ms, Ordering::Relaxed);
    }

    /// Bytes came: the first ones after an idle time begin a head.
    pub(super) fn reads(&self) {
        if self.idle.swap(false, Ordering::Relaxed) {
            let now_ms = self.elapsed_ms();
            self.due_ms.store(now_ms + self.head_ms, Ordering::Relaxed);
            self.lives(now_ms);
        }
    }

    /// What strangers do keeps no place for them.
    fn lives(&self, now_ms: u64) {
        if self.is_known() {
            self.since_ms.store(now_ms, Ordering::Relaxed);
        }
    }

    /// Bytes were looked for. While a request is in hand, hyper looks only for what is missing of it.
    fn looked(&self, found: bool) {
        let in_hand = self.due_ms.load(Ordering::Relaxed) == u64::MAX;
        self.ours.store(found && in_hand, Ordering::Relaxed);
    }

    /// Bytes went: the peer takes its answer, or a long one as it is made.
    fn writes(&self) {
        if self.idle.load(Ordering::Relaxed) {
            let now_ms = self.elapsed_ms();
            self.due_ms.store(now_ms + self.idle_ms, Ordering::Relaxed);
            self.lives(now_ms);
        }
    }

    /// More of the answer has to be taken within this time; `None` once all of it was. Whoever does not is closed: what an
    /// answer takes, others wait for.
    pub fn expects(&self, within: Option<Duration>) {
        let by = |span: Duration| self.elapsed_ms() + u64::try_from(span.as_millis()).unwrap_or(u64::MAX / 4);
        self.taken_ms.store(within.map_or(u64::MAX, by), Ordering::Relaxed);
    }

    /// Whether its sender has ever shown that it belongs here.
    pub(super) fn is_known(&self) -> bool {
        self.known.load(Ordering::Relaxed)
    }

    /// For how long the peer has not said what it came for; `None` while it waits for us, or is vouched for.
    pub(super) fn silent_ms(&self) -> Option<u64> {
        let since_ms = self.since_ms.load(Ordering::Relaxed);
        let is_left_alone = self.ours.load(Ordering::Relaxed) || self.vouched.load(Ordering::Relaxed);
        (!is_left_alone).then(|| self.elapsed_ms().saturating_sub(since_ms))
    }

    /// Whether closing means no more than to be put to rest, from now on.
    pub(super) fn rest(&self, rests: bool) {
        self.rests.store(rests, Ordering::Relaxed);
    }

    /// Ends when nothing came in time, or the connection rests. Between two looks no new deadline can both begin and pass.
    pub(super) async fn found(&self) -> Found {
        let step_ms = self.head_ms.min(self.idle_ms).min(REST_AFTER_MS);
        loop {
            let (due_ms, now_ms) = (self.due_ms.load(Ordering::Relaxed), self.elapsed_ms());
            if due_ms.min(self.taken_ms.load(Ordering::Relaxed)) <= now_ms {
                return Found::Late;
            }
            let is_idle = self.idle.load(Ordering::Relaxed) && !self.owes.load(Ordering::Relaxed);
            if is_idle && due_ms - now_ms + REST_AFTER_MS <= self.idle_ms {
                return Found::Resting;
            }
            tokio::time::sleep_until(self.at(due_ms.min(now_ms + step_ms))).await;
        }
    }

    /// Ends when nothing came in time to a connection that rests.
    pub(super) async fn late(&self) {
        tokio::time::sleep_until(self.at(self.due_ms.load(Ordering::Relaxed))).await;
    }

    fn at(&self, ms: u64) -> Instant {
        self.origin + Duration::from_millis(ms)
    }

    fn elapsed_ms(&self) -> u64 {
        self.origin.elapsed().as_millis() as u64
    }
}

/// A connection's bytes, with their pulse taken.
pub(super) struct Pulsed {
    pub(super) io: Box<dyn Io>,
    pub(super) pulse: std::sync::Arc<Pulse>,
    /// What was read of it before.
    pub(super) early: Bytes,
}

impl AsyncRead for Pulsed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let early = self.early.len().min(buf.remaining());
        if early > 0 {
            buf.put_slice(&self.early[..early]);
            self.early.advance(early);
        }
        let before = buf.filled().len();
        let mut read = Pin::new(&mut self.io).poll_read(cx, buf);
        if early > 0 {
            // An end or an error will be there at the next look, too.
            read = Poll::Ready(Ok(()));
        }
        self.pulse.looked(read.is_ready());
        if buf.filled().len() > before {
            self.pulse.reads();
        }
        read
    }
}

impl AsyncWrite for Pulsed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(cx, buf);
        if matches!(written, Poll::Ready(Ok(1..))) {
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
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.pulse.writes();
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(cx);
        if flushed.is_ready() && !self.pulse.streams.load(Ordering::Relaxed) {
            self.pulse.owes.store(false, Ordering::Relaxed);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        if self.pulse.rests.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(()));
        }
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
        assert_eq!(Pulse::new(short, long).found().await, Found::Late);

        let idle = Pulse::new(long, short);
        idle.begins();
        idle.ends(true);
        assert_eq!(idle.found().await, Found::Late);
        idle.late().await;

        let head = Pulse::new(short, long);
        head.begins();
        head.ends(true);
        head.reads();
        assert_eq!(head.found().await, Found::Late);

        let rests = Pulse::new(long, long);
        rests.begins();
        rests.ends(true);
        let waited = tokio::time::timeout(Duration::from_millis(REST_AFTER_MS + 30), rests.found()).await;
        assert!(waited.is_err(), "its answer is not sent");
        rests.owes.store(false, Ordering::Relaxed);
        assert_eq!(rests.found().await, Found::Resting);

        let untaken = Pulse::new(long, long);
        untaken.begins();
        untaken.ends(true);
        untaken.expects(Some(short));
        assert_eq!(untaken.found().await, Found::Late);
        untaken.expects(None);
        untaken.owes.store(false, Ordering::Relaxed);
        assert_eq!(untaken.found().await, Found::Resting);

        for in_hand in [Pulse::new(short, long), Pulse::new(long, short)] {
            in_hand.begins();
            in_hand.reads();
            in_hand.writes();
            let waited = tokio::time::timeout(Duration::from_millis(30), in_hand.found()).await;
            assert!(waited.is_err(), "a request in hand has deadlines of its own");
        }
    }
}
