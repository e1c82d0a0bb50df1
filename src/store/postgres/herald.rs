//! Word of sinks that have something to do, or were stopped or let go on, to and from those who share the database. It may
//! be lost, or be late: whoever forwards looks by itself, too.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_postgres::AsyncMessage;
use tokio_postgres::types::Type;

use super::connect::{Address, Pool, said};
use super::replicas::Place;
use crate::shutdown::Shutdown;

/// What another callbackd has done to a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Word<'s> {
    /// It has something to do.
    Due(&'s str),
    /// It was paused, it fails, or it may go on: a claim tells.
    Stopped(&'s str),
}

/// Told of what others have done.
pub type Woken = Arc<dyn Fn(Word<'_>) + Send + Sync>;

const CHANNEL: &str = "callbackd";
const TELL: &str = "SELECT pg_notify($1, $2)";
/// Before a name: not something to do, but whether anything may be done. No sink has a name that begins with it.
const STOPPED: char = '!';
/// To tell takes a lock that every teller waits for: so it is not done for each callback.
const REST: Duration = Duration::from_millis(20);
/// Between two tries to be told.
const AGAIN: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(15)];

/// What is still to be told.
#[derive(Default)]
pub(super) struct Herald {
    sinks: Mutex<BTreeSet<String>>,
    filled: Notify,
}

impl Herald {
    pub(super) fn add(&self, sinks: &[String]) {
        self.put(sinks);
    }

    /// That these sinks were paused, are failing, or may go on.
    pub(super) fn stopped(&self, sinks: &[String]) {
        self.put(&sinks.iter().map(|sink| format!("{STOPPED}{sink}")).collect::<Vec<_>>());
    }

    fn put(&self, sinks: &[String]) {
        if sinks.is_empty() {
            return;
        }
        let mut held = self.sinks.lock().unwrap_or_else(PoisonError::into_inner);
        let new = sinks.iter().filter(|sink| !held.contains(*sink)).cloned().collect::<Vec<_>>();
        if !new.is_empty() {
            held.extend(new);
            drop(held);
            self.filled.notify_one();
        }
    }

    /// Tells the others, not at each callback, until it is to end.
    pub(super) async fn tell(self: Arc<Self>, pool: Pool, place: Arc<Place>, stop: Shutdown) {
        loop {
            tokio::select! {
                () = stop.begun() => return,
                () = self.filled.notified() => {}
            }
            let sinks = std::mem::take(&mut *self.sinks.lock().unwrap_or_else(PoisonError::into_inner));
            if place.has_others()
                && let Ok(client) = pool.get().await
            {
                let names: Vec<_> = sinks.into_iter().collect();
                let said = format!("{} {}", place.token(), names.join(","));
                // Else they find it when they look.
                let _ = client.query_typed(TELL, &[(&CHANNEL, Type::TEXT), (&said, Type::TEXT)]).await;
            }
            tokio::time::sleep(REST).await;
        }
    }
}

/// Hears what others tell, until it is to end.
pub(super) async fn listen(address: Arc<Address>, place: Arc<Place>, woken: Woken, stop: Shutdown) {
    let mut pause = AGAIN[0];
    loop {
        let heard = async {
            let (client, mut connection) = address.connect().await.map_err(|e| e.to_string())?;
            let listening = async {
                client.batch_execute("LISTEN callbackd").await?;
                // So that those who were alone tell it what they do from now on.
                let names_nothing = format!("{} ", place.token());
                client.query_typed(TELL, &[(&CHANNEL, Type::TEXT), (&names_nothing, Type::TEXT)]).await.map(drop)
            };
            let mut listening = std::pin::pin!(listening);
            let mut listens = false;
            loop {
                tokio::select! {
                    begun = &mut listening, if !listens => {
                        begun.map_err(|e| said(&e))?;
                        listens = true;
                        // Who said so before that was not heard.
                        place.meet();
                    }
                    message = poll_fn(|cx| connection.poll_message(cx)) => match message {
                        Some(Ok(AsyncMessage::Notification(told))) => {
                            if hear(told.payload(), place.token(), &woken) {
                                place.meet();
                            }
                        }
                        Some(Ok(_)) => {}
                        Some(Err(e)) => return Err(said(&e)),
                        None => return Err::<(), String>("the connection ended".to_owned()),
                    },
                }
            }
        };
        let began = tokio::time::Instant::now();
        tokio::select! {
            () = stop.begun() => return,
            ended = heard => {
                if let Err(reason) = ended {
                    tracing::debug!(reason, "nothing is heard of other callbackds for now; their work is found by looking");
                }
            }
        }
        // One that held for long was no fault of the way there.
        pause = if began.elapsed() > AGAIN[1] { AGAIN[0] } else { (pause * 2).min(AGAIN[1]) };
        tokio::select! {
            () = stop.begun() => return,
            () = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
        }
    }
}

/// Whether it is somebody else's word.
fn hear(said: &str, token: i64, woken: &Woken) -> bool {
    let other = said.split_once(' ').filter(|(who, _)| who.parse() != Ok(token));
    let Some((_, sinks)) = other else { return false };
    for sink in sinks.split(',').filter(|sink| !sink.is_empty()) {
        woken(sink.strip_prefix(STOPPED).map_or(Word::Due(sink), Word::Stopped));
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_is_somebody_elses_or_ones_own() {
        let heard = Arc::new(Mutex::new(Vec::new()));
        let woken: Woken = {
            let heard = Arc::clone(&heard);
            Arc::new(move |word: Word<'_>| heard.lock().expect("sound").push(format!("{word:?}")))
        };
        assert!(!hear("3 a", 3, &woken) && !hear("a", 3, &woken));
        assert!(hear("7 ", 3, &woken), "that it listens");
        assert!(heard.lock().expect("sound").is_empty());
        assert!(hear("7 a,!b", 3, &woken));
        assert_eq!(*heard.lock().expect("sound"), ["Due(\"a\")", "Stopped(\"b\")"]);
    }
}
