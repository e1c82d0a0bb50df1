//! `/api/v1/stream`: everything that happens, told as it happens, as server-sent events (the HTML standard, section 9.2).
//!
//! A listener has a cursor, and is told what the store says lies behind it; nothing but that cursor and the piece in hand is
//! kept for it. Whoever comes back with `Last-Event-ID` misses nothing. The store is looked at a few times a second while
//! somebody listens, and not at all otherwise; all who are told what is new share one look, and beside it one of those who
//! catch up looks at a time, and both rest for most of the time: so listeners cost callbacks little, and who asks for the past holds
//! up nobody who does not. Who does not take what is sent loses the connection.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::request::Parts;
use http::{HeaderValue, Method, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Body, Frame};
use serde_json::{Value, json};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::query::Wanted;
use super::{Reply, bad_request};
use crate::server::respond::{Problem, unavailable};
use crate::shutdown::Shutdown;
use crate::store::{Item, News, Store, StoreError};

/// Listeners at one time.
const LISTENERS_MAX: usize = 32;
/// So long a further one waits for a place of one who has gone.
const ROOM: Duration = Duration::from_secs(1);
/// So often all of them are said a word meanwhile.
const WORD: Duration = Duration::from_millis(200);
/// So long after a word, one who has gone is known not to have heard it.
const UNHEARD: Duration = Duration::from_millis(50);
/// So often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(200);
/// After each piece that was made, all rest for so many times as long as that took: callbacks come first, and who listens
/// to thousands a second hears of them a little later.
const RESTS: u32 = 4;
/// So often a listener hears that the connection is alive.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A listener takes what is sent within this time.
const SLOW: Duration = Duration::from_secs(5);
/// Bytes that are sent at once, but for a single thing that is larger.
const CHUNK_BYTES: usize = 32 << 10;
/// What a listener is to wait before it comes back, in milliseconds.
const OPENING: &str = ": callbackd\nretry: 1000\n";

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What all listeners share.
#[derive(Clone)]
pub(super) struct Stream {
    store: Arc<dyn Store>,
    shutdown: Shutdown,
    places: Arc<Semaphore>,
    /// Somebody waits for a place.
    crowded: Arc<Notify>,
    latest: Arc<Mutex<Latest>>,
    /// Whose turn it is of those who catch up.
    past: Arc<Mutex<Rest>>,
}

/// Until when no piece is made.
#[derive(Default)]
struct Rest(Option<Instant>);

/// What was read last.
#[derive(Default)]
struct Latest {
    piece: Option<Arc<Piece>>,
    /// Behind which cursor there was nothing, and when.
    nothing: Option<(i64, Instant)>,
    rest: Rest,
}

/// What happened after a cursor, ready to be sent.
#[derive(Default)]
struct Piece {
    after: i64,
    through: i64,
    more: bool,
    lines: Vec<Line>,
}

/// One thing that happened.
struct Line {
    cursor: i64,
    source: String,
    sink: Option<String>,
    status: &'static str,
    overdue: bool,
    text: Bytes,
}

impl Stream {
    pub(super) fn new(store: Arc<dyn Store>, shutdown: Shutdown) -> Stream {
        let places = Arc::new(Semaphore::new(LISTENERS_MAX));
        Stream { store, shutdown, places, crowded: Arc::default(), latest: Arc::default(), past: Arc::default() }
    }

    /// Begins to tell.
    pub(super) async fn answer(&self, wanted: Wanted, head: &Parts) -> Result<Reply, Problem> {
        let asked = match head.headers.get(&LAST_EVENT_ID) {
            Some(id) => Some(cursor(id)?),
            None => wanted.since.map(|since| since.micros().max(0)),
        };
        if head.method == Method::HEAD {
            return Ok(response(Empty::new()));
        }
        let place = self.place().await.ok_or_else(|| {
            unavailable(format!("{LISTENERS_MAX} listen already, as many as can. Close one, or try again later."))
        })?;
        let newest = self.store.newest().await?;
        let cursor = asked.map_or(newest, |asked| asked.min(newest));
        let (out, frames) = mpsc::channel(1);
        let is_behind = cursor < newest;
        let listener = Listener { stream: self.clone(), wanted, cursor, is_behind, told: 0, out, place: Some(place) };
        tokio::spawn(listener.listen());
        Ok(response(Frames(frames)))
    }

    /// A place among the listeners. That one has gone is noticed only when something is said to it: so it is, to all,
    /// where there is no place.
    async fn place(&self) -> Option<OwnedSemaphorePermit> {
        let places = || Arc::clone(&self.places);
        if let Ok(place) = places().try_acquire_owned() {
            return Some(place);
        }
        let mut waiting = std::pin::pin!(places().acquire_owned());
        for _ in 0..ROOM.as_millis() / WORD.as_millis() {
            self.crowded.notify_waiters();
            if let Ok(place) = timeout(WORD, &mut waiting).await {
                return place.ok();
            }
        }
        None
    }

    /// A piece of what lies behind the `cursor` of one who catches up: nobody else is where it is.
    async fn look_back(&self, cursor: i64) -> Result<Option<Arc<Piece>>, StoreError> {
        let mut turn = self.past.lock().await;
        self.make(cursor, &mut turn).await
    }

    /// Makes a piece, after the rest from the one before.
    async fn make(&self, cursor: i64, rest: &mut Rest) -> Result<Option<Arc<Piece>>, StoreError> {
        if let Some(until) = rest.0 {
            tokio::time::sleep_until(until).await;
        }
        let began = Instant::now();
        let news = self.store.news(cursor).await?;
        let piece = (news.through > cursor).then(|| Arc::new(Piece::of(cursor, news)));
        rest.0 = piece.is_some().then(|| Instant::now() + RESTS * began.elapsed());
        Ok(piece)
    }

    /// A piece of what lies behind `cursor`; `None` when nothing does, or did a moment ago.
    async fn look(&self, cursor: i64) -> Result<Option<Arc<Piece>>, StoreError> {
        let mut latest = self.latest.lock().await;
        if let Some(piece) = latest.piece.as_ref().filter(|piece| piece.after <= cursor && cursor < piece.through) {
            return Ok(Some(Arc::clone(piece)));
        }
        if latest.nothing.is_some_and(|(end, at)| end == cursor && at.elapsed() < LOOK / 2) {
            return Ok(None);
        }
        let Some(piece) = self.make(cursor, &mut latest.rest).await? else {
            latest.nothing = Some((cursor, Instant::now()));
            return Ok(None);
        };
        // Who could not follow is behind the others.
        if latest.piece.as_ref().is_none_or(|held| held.through <= piece.through) {
            latest.piece = Some(Arc::clone(&piece));
        }
        Ok(Some(piece))
    }
}

impl Piece {
    fn of(after: i64, news: News) -> Piece {
        let cursors: Vec<i64> = news.items.iter().map(|(cursor, _)| *cursor).collect();
        let lines = news.items.into_iter().enumerate().map(|(place, (cursor, item))| {
            // What shares a cursor is behind it only when all of it was told.
            let is_last = cursors.get(place + 1) != Some(&cursor);
            Line::of(cursor, is_last, item)
        });
        Piece { after, through: news.through, more: news.more, lines: lines.collect() }
    }
}

impl Line {
    fn of(cursor: i64, is_last: bool, item: Item) -> Line {
        let id = if is_last { format!("id: {cursor}\n") } else { String::new() };
        let text = |name: &str, row: Value| Bytes::from(format!("event: {name}\n{id}data: {row}\n\n"));
        match item {
            Item::Change(row) => Line {
                cursor,
                text: text("change", json!(row)),
                status: row.execution.execution.status.as_str(),
                overdue: row.execution.overdue,
                source: row.execution.execution.source,
                sink: None,
            },
            Item::Delivery(row) => Line {
                cursor,
                text: text("delivery", json!(row)),
                status: row.status.as_str(),
                overdue: false,
                source: row.source,
                sink: Some(row.sink),
            },
        }
    }
}

/// Whoever is being told.
struct Listener {
    stream: Stream,
    wanted: Wanted,
    cursor: i64,
    /// It is told what has been, not yet what is new.
    is_behind: bool,
    told: u64,
    out: mpsc::Sender<Bytes>,
    place: Option<OwnedSemaphorePermit>,
}

/// It is over: everything was told that was wanted, the listener has gone, or does not listen.
struct Over;

impl Listener {
    async fn listen(mut self) {
        // How it ends makes no difference: the body does.
        let _ = self.tell_all().await;
        self.place = None;
        if self.stream.places.available_permits() == LISTENERS_MAX {
            self.stream.latest.lock().await.piece = None;
        }
    }

    async fn tell_all(&mut self) -> Result<(), Over> {
        let mut begun = std::pin::pin!(self.stream.shutdown.begun());
        // What lies beyond any clock is never.
        let ends = self.wanted.span.and_then(|span| Instant::now().checked_add(span));
        let mut heard = Instant::now();
        self.send(format!("{OPENING}id: {}\n\n", self.cursor).into()).await?;
        while !self.stream.shutdown.is_begun() {
            let found = match self.is_behind {
                true => self.stream.look_back(self.cursor).await,
                false => self.stream.look(self.cursor).await,
            };
            match found {
                Ok(Some(piece)) => {
                    self.is_behind &= piece.more;
                    self.tell(&piece).await?;
                    if piece.more || ends.is_none_or(|ends| Instant::now() < ends) {
                        continue;
                    }
                }
                Ok(None) => self.is_behind = false,
                Err(e) => {
                    tracing::debug!(error = %e, "a listener is sent away: the store cannot be read");
                    return Err(Over);
                }
            }
            if ends.is_some_and(|ends| ends <= Instant::now()) {
                return Ok(());
            }
            let look = Instant::now() + LOOK;
            let mut is_crowded = false;
            tokio::select! {
                () = &mut begun => return Ok(()),
                () = self.out.closed() => return Err(Over),
                () = self.stream.crowded.notified() => is_crowded = true,
                () = tokio::time::sleep_until(ends.map_or(look, |ends| ends.min(look))) => {}
            }
            if heard.elapsed() >= if is_crowded { WORD } else { HEARTBEAT } {
                heard = Instant::now();
                self.beat().await?;
                if is_crowded {
                    tokio::time::sleep(UNHEARD).await;
                    self.beat().await?;
                }
            }
        }
        Ok(())
    }

    async fn tell(&mut self, piece: &Piece) -> Result<(), Over> {
        let mut chunk = BytesMut::new();
        for line in piece.lines.iter().filter(|line| line.cursor > self.cursor && self.wanted.includes(line)) {
            if !chunk.is_empty() && chunk.len() + line.text.len() > CHUNK_BYTES {
                self.send(chunk.split().freeze()).await?;
            }
            match line.text.len() > CHUNK_BYTES {
                true => self.send(line.text.clone()).await?,
                false => chunk.extend_from_slice(&line.text),
            }
            self.told += 1;
            if self.wanted.limit == Some(self.told) {
                self.send(chunk.freeze()).await?;
                return Err(Over);
            }
        }
        self.cursor = piece.through;
        if chunk.is_empty() { Ok(()) } else { self.send(chunk.freeze()).await }
    }

    /// With the cursor, so that who comes back need not be told again what it did not want.
    async fn beat(&self) -> Result<(), Over> {
        self.send(format!(": still here\nid: {}\n\n", self.cursor).into()).await
    }

    async fn send(&self, chunk: Bytes) -> Result<(), Over> {
        match timeout(SLOW, self.out.send(chunk)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Over),
            Err(_) => {
                tracing::debug!("a listener is sent away: it does not take what it is told");
                Err(Over)
            }
        }
    }
}

impl Wanted {
    fn includes(&self, line: &Line) -> bool {
        let is = |word: &str| self.status.iter().any(|wanted| wanted == word);
        self.source.as_ref().is_none_or(|source| *source == line.source)
            && self.sink.as_ref().is_none_or(|sink| line.sink.as_ref() == Some(sink))
            && (self.status.is_empty() || is(line.status) || line.overdue && is("overdue"))
    }
}

/// Where a listener goes on.
fn cursor(id: &HeaderValue) -> Result<i64, Problem> {
    let read = id.to_str().ok().and_then(|id| id.trim().parse().ok()).filter(|cursor: &i64| *cursor >= 0);
    read.ok_or_else(|| bad_request("Last-Event-ID is none that was given out here. Leave it out to begin from now."))
}

fn response<B>(body: B) -> Reply
where
    B: Body<Data = Bytes, Error = Infallible> + Send + 'static,
{
    let mut response = Response::new(body.boxed_unsync());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A body of what a listener is told; when it is dropped, the listener has gone.
struct Frames(mpsc::Receiver<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Receipt, Rules, Time, Update};
    use crate::store::Parsed;
    use crate::store::sqlite::{Options, SqliteStore};

    /// With a store of its own, that holds one execution.
    async fn stream(folder: &tempfile::TempDir) -> Stream {
        let store = SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("opens");
        let receipt = Receipt {
            source: "media".into(),
            received_at: Time::from_seconds(1_700_000_000),
            peer: "::1".to_owned(),
            headers: Vec::new(),
            body: "x".into(),
        };
        let update = Update { key: "one".to_owned(), ..Update::default() };
        let kept = store.record(receipt, Parsed::Updates(vec![update]), Arc::new(Rules::default()));
        kept.await.expect("recorded");
        Stream::new(Arc::new(store), Shutdown::new())
    }

    #[tokio::test]
    async fn after_each_piece_all_rest_for_longer_than_it_took() {
        let folder = tempfile::tempdir().expect("a folder");
        let stream = stream(&folder).await;
        for _ in 0..3 {
            let began = Instant::now();
            let mut rest = Rest::default();
            stream.make(0, &mut rest).await.expect("asked").expect("a piece");
            let (made, until) = (Instant::now(), rest.0.expect("a rest"));
            assert!(until > began, "a rest");
            // Never sooner, however busy the machine is.
            stream.make(0, &mut rest).await.expect("asked").expect("a piece");
            assert!(Instant::now() >= until.max(made), "it rested");
            assert!(stream.make(i64::MAX - 1, &mut rest).await.expect("asked").is_none());
            assert!(rest.0.is_none(), "nothing was made");
        }
    }

    #[tokio::test]
    async fn who_asks_for_the_past_holds_up_nobody_who_does_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let stream = stream(&folder).await;
        let slow = stream.past.lock().await;
        let followed = timeout(Duration::from_secs(60), stream.look(0)).await.expect("not held up");
        assert!(followed.expect("asked").is_some());
        let mut waits = std::pin::pin!(stream.look_back(0));
        assert!(std::future::poll_fn(|cx| Poll::Ready(waits.as_mut().poll(cx))).await.is_pending());
        drop(slow);
        assert!(waits.await.expect("asked").is_some());
    }
}
