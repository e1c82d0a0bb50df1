//! The memory that operators' answers take while they are made and until they were taken.
//!
//! Callbacks need it more. So only a few large answers are made at a time, and what is made and not yet taken is counted:
//! whoever asks for much and reads slowly leaves no room for others who do, and takes none from callbacks.

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
use crate::server::respond::{Answer, Problem, unavailable};

/// Answers that are made at one time: the store has one more connection that reads, for who listens or cleans up.
const MAKING: usize = 2;
/// So long one waits for its turn.
const TURN: Duration = Duration::from_secs(10);
/// Answers up to this many bytes are not counted: what says how the daemon does is smaller. Connections bound them.
const SMALL_BYTES: usize = 16 << 10;
/// Bytes of all others that are made and not yet taken. One always fits.
const HELD_BYTES_MAX: usize = 64 << 20;
/// An answer is handed out in pieces of so many bytes, because the connection may copy what it is handed.
const PIECE_BYTES: usize = 32 << 10;

/// What all answers of this door share.
pub(super) struct Room {
    making: Semaphore,
    held: Arc<AtomicUsize>,
    turn: Duration,
}

impl Room {
    pub(super) fn new() -> Room {
        Room { making: Semaphore::new(MAKING), held: Arc::default(), turn: TURN }
    }

    /// Makes an answer in its turn, and holds it until it was taken.
    pub(super) async fn make(&self, making: impl Future<Output = Result<Answer, Problem>>) -> Result<Reply, Problem> {
        let Ok(_turn) = timeout(self.turn, self.making.acquire()).await else {
            return Err(unavailable("Others ask for much, and it takes long. Try again later.".to_owned()));
        };
        self.hold(making.await?).await
    }

    async fn hold(&self, answer: Answer) -> Result<Reply, Problem> {
        let (head, body) = answer.into_parts();
        let Ok(body) = body.collect().await;
        let bytes = body.to_bytes();
        if bytes.len() <= SMALL_BYTES {
            return Ok(whole(Answer::from_parts(head, bytes.into())));
        }
        let count = bytes.len();
        let before = self.held.fetch_add(count, Ordering::Relaxed);
        let held = Held { bytes, all: Arc::clone(&self.held) };
        if before > 0 && before + count > HELD_BYTES_MAX {
            let detail = "Too much was asked for and not taken yet. Read faster, ask for less, or try again later.";
            return Err(unavailable(detail.to_owned()));
        }
        Ok(Reply::from_parts(head, Pieces(Bytes::from_owner(held)).boxed_unsync()))
    }
}

/// Bytes that are counted until nobody has any of them.
struct Held {
    bytes: Bytes,
    all: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.all.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// A body that is handed out piece by piece.
struct Pieces(Bytes);

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.0.is_empty() {
            return Poll::Ready(None);
        }
        let piece = self.0.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.0.split_to(piece)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.len() as u64)
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

    #[tokio::test]
    async fn what_is_not_taken_is_counted_until_its_last_piece_has_gone() {
        let room = Room::new();
        let half = HELD_BYTES_MAX / 2;
        let one = room.hold(answer(half)).await.expect("room");
        let mut two = room.hold(answer(half)).await.expect("room");
        let refused = room.hold(answer(SMALL_BYTES + 1)).await.expect_err("full");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(refused.header.is_some_and(|(name, _)| name == "retry-after"));
        room.hold(answer(SMALL_BYTES)).await.expect("small ones always go");
        let piece = two.body_mut().frame().await.expect("a piece").expect("no fault").into_data().expect("bytes");
        assert_eq!(piece.len(), PIECE_BYTES);
        drop(two);
        room.hold(answer(half)).await.expect_err("a piece is still being sent");
        drop(piece);
        room.hold(answer(half)).await.expect("room again");
        drop(one);
        assert_eq!(room.held.load(Ordering::Relaxed), 0);
        room.hold(answer(HELD_BYTES_MAX + 1)).await.expect("one always fits");
    }

    #[tokio::test]
    async fn an_answer_arrives_whole() {
        let reply = Room::new().hold(answer(3 * PIECE_BYTES + 7)).await.expect("room");
        assert_eq!(reply.body().size_hint().exact(), Some(3 * PIECE_BYTES as u64 + 7));
        let Ok(body) = reply.into_body().collect().await;
        assert_eq!(body.to_bytes().len(), 3 * PIECE_BYTES + 7);
    }

    #[tokio::test]
    async fn few_are_made_at_a_time() {
        let room = Room { turn: Duration::from_millis(10), ..Room::new() };
        let never = || room.make(std::future::pending());
        let (mut one, mut two) = (std::pin::pin!(never()), std::pin::pin!(never()));
        for busy in [&mut one, &mut two] {
            assert!(std::future::poll_fn(|cx| Poll::Ready(busy.as_mut().poll(cx))).await.is_pending());
        }
        let refused = room.make(async { Ok(answer(1)) }).await.expect_err("no turn");
        assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    }
}
