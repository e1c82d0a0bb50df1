//! The memory that operators' answers take while they are made and until they were taken.
//!
//! Callbacks need it more. So answers are made one at a time, for programs and for people each; what is made and not yet
//! taken is counted, and who takes nothing is cut off: whoever asks for much and reads slowly leaves no room for others who
//! do, and takes none from callbacks, nor from what tells how the daemon does.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::{Reply, whole};
use crate::server::Pulse;
use crate::server::respond::{Answer, Problem, unavailable};

/// So many wait with what may be large; who comes then is told so at once, and takes no connection meanwhile.
const WAITING: usize = 16;
/// So long one waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Answers up to this many bytes are not counted: what says how the daemon does is smaller. Connections bound them.
const SMALL_BYTES: usize = 64 << 10;
/// An answer is handed out in pieces of so many bytes, because the connection may copy what it is handed.
const PIECE_BYTES: usize = 32 << 10;
/// Each piece of what is counted has to be taken within this time.
const PIECE_TAKEN: Duration = Duration::from_secs(20);

/// How much an answer may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Size {
    /// Some lines; told however many wait with more, and however much others have not taken.
    Small,
    /// Not known before it is made.
    Large,
}

/// What all answers of this door share. Programs leave people their room.
pub(super) struct Room {
    pub(super) api: Lane,
    pub(super) pages: Lane,
}

impl Room {
    pub(super) fn new() -> Room {
        Room { api: Lane::new(24 << 20), pages: Lane::new(8 << 20) }
    }
}

/// Where answers are made one at a time: the store has one more connection that reads, for who listens or cleans up.
pub(super) struct Lane {
    turn: Semaphore,
    /// For whoever waits or has its turn with what may be large.
    places: Semaphore,
    patience: Duration,
    held: Arc<AtomicUsize>,
    /// Bytes that are made and not yet taken. One always fits.
    held_max: usize,
}

impl Lane {
    fn new(held_max: usize) -> Lane {
        let places = Semaphore::new(WAITING + 1);
        Lane { turn: Semaphore::new(1), places, patience: TURN, held: Arc::default(), held_max }
    }

    /// Makes an answer in its turn, and holds it until its peer has taken it.
    pub(super) async fn make(
        &self,
        pulse: &Arc<Pulse>,
        size: Size,
        making: impl Future<Output = Result<Answer, Problem>>,
    ) -> Result<Reply, Problem> {
        let busy = || unavailable("Others ask for much, and it takes long. Try again later.".to_owned());
        let place = (size == Size::Large).then(|| self.places.try_acquire()).transpose();
        let _place = place.map_err(|_| busy())?;
        let Ok(_turn) = timeout(self.patience, self.turn.acquire()).await else { return Err(busy()) };
        // What would not fit is not made: that would take more than what is held.
        if size == Size::Large && self.held.load(Ordering::Relaxed) > self.held_max / 4 * 3 {
            return Err(full());
        }
        self.hold(pulse, making.await?).await
    }

    async fn hold(&self, pulse: &Arc<Pulse>, answer: Answer) -> Result<Reply, Problem> {
        let (head, body) = answer.into_parts();
        let Ok(body) = body.collect().await;
        let bytes = body.to_bytes();
        if bytes.len() <= SMALL_BYTES {
            return Ok(whole(Answer::from_parts(head, bytes.into())));
        }
        let count = bytes.len();
        let before = self.held.fetch_add(count, Ordering::Relaxed);
        let held = Held { bytes, all: Arc::clone(&self.held), pulse: Arc::clone(pulse) };
        if before > 0 && before + count > self.held_max {
            return Err(full());
        }
        let pieces = Pieces { left: Bytes::from_owner(held), pulse: Arc::clone(pulse) };
        Ok(Reply::from_parts(head, pieces.boxed_unsync()))
    }
}

fn full() -> Problem {
    let detail = "Too much was asked for and not taken yet. Read faster, ask for less, or try again later.";
    unavailable(detail.to_owned())
}

/// Bytes that are counted until nobody has any of them.
struct Held {
    bytes: Bytes,
    all: Arc<AtomicUsize>,
    pulse: Arc<Pulse>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
        self.pulse.expects(None);
    }
}

/// A body that is handed out piece by piece: the next one when the one before has gone.
struct Pieces {
    left: Bytes,
    pulse: Arc<Pulse>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left.is_empty() {
            return Poll::Ready(None);
        }
        self.pulse.expects(Some(PIECE_TAKEN));
        let piece = self.left.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.left.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http_body_util::Full;

    use super::*;

    fn answer(bytes: usize) -> Answer {
        Answer::new(Full::new(Bytes::from(vec![b'x'; bytes])))
    }

    fn pulse() -> Arc<Pulse> {
        Arc::new(Pulse::new(TURN, TURN))
    }

    #[tokio::test]
    async fn what_is_not_taken_is_counted_until_its_last_piece_has_gone() {
        let lane = Lane::new(24 << 20);
        let half = lane.held_max / 2;
        let hold = async |bytes| lane.hold(&pulse(), answer(bytes)).await;
        let one = hold(half).await.expect("room");
        let mut two = hold(half).await.expect("room");
        let refused = hold(SMALL_BYTES + 1).await.expect_err("full");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.header.is_some_and(|(name, _)| name == "retry-after"));
        hold(SMALL_BYTES).await.expect("small ones always go");
        let piece = two.body_mut().frame().await.expect("a piece").expect("no fault").into_data().expect("bytes");
        assert_eq!(piece.len(), PIECE_BYTES);
        drop(two);
        hold(half).await.expect_err("a piece is still being sent");
        drop(piece);
        hold(half).await.expect("room again");
        drop(one);
        assert_eq!(lane.held.load(Ordering::Relaxed), 0);
        hold(lane.held_max + 1).await.expect("one always fits");
    }

    #[tokio::test]
    async fn what_would_find_no_room_is_not_made_unless_it_is_small() {
        let lane = Lane::new(24 << 20);
        let _untaken = lane.hold(&pulse(), answer(lane.held_max / 4 * 3 + 1)).await.expect("room");
        let never = async { panic!("it is made") };
        let refused = lane.make(&pulse(), Size::Large, never).await.expect_err("full");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        lane.make(&pulse(), Size::Small, async { Ok(answer(SMALL_BYTES)) }).await.expect("it is small");
    }

    #[tokio::test]
    async fn an_answer_arrives_whole() {
        let reply = Lane::new(24 << 20).hold(&pulse(), answer(3 * PIECE_BYTES + 7)).await.expect("room");
        assert_eq!(reply.body().size_hint().exact(), Some(3 * PIECE_BYTES as u64 + 7));
        let Ok(body) = reply.into_body().collect().await;
        assert_eq!(body.to_bytes().len(), 3 * PIECE_BYTES + 7);
    }

    #[tokio::test]
    async fn one_is_made_at_a_time_and_few_wait_with_much() {
        let lane = Lane { patience: Duration::from_millis(10), places: Semaphore::new(2), ..Lane::new(1) };
        let pulse = pulse();
        let ready = || async { Ok(answer(1)) };
        let mut busy = std::pin::pin!(lane.make(&pulse, Size::Large, std::future::pending()));
        assert!(std::future::poll_fn(|cx| Poll::Ready(busy.as_mut().poll(cx))).await.is_pending());
        let refused = lane.make(&pulse, Size::Large, ready()).await.expect_err("no turn");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        let mut waits = std::pin::pin!(lane.make(&pulse, Size::Large, ready()));
        assert!(std::future::poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx))).await.is_pending());
        let mut crowded = std::pin::pin!(lane.make(&pulse, Size::Large, ready()));
        assert!(std::future::poll_fn(|cx| Poll::Ready(crowded.as_mut().poll(cx))).await.is_ready(), "no place to wait");
        let mut small = std::pin::pin!(lane.make(&pulse, Size::Small, ready()));
        assert!(
            std::future::poll_fn(|cx| Poll::Ready(small.as_mut().poll(cx))).await.is_pending(),
            "it waits all the same"
        );
    }
}
