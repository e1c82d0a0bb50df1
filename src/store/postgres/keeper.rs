//! Who says again and again that this callbackd is there, takes over from who is not, and knows whether the database answers
//! where nobody sends callbacks.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use super::connect::{Address, Session, fault, said};
use super::herald::{Woken, Word};
use super::replicas::{self, Beat, Place};
use super::server::{self, Durability};
use super::set_back;
use super::writer::{Commands, Health};
use crate::shutdown::Shutdown;
use crate::store::StoreError;

/// So often it says that it is there; who does not answer for so long does not answer.
const BEAT: Duration = Duration::from_secs(5);
/// So often, while the database does not answer.
const AGAIN: Duration = Duration::from_secs(1);

/// On a connection of its own: the others' work is not to silence it.
pub(super) struct Keeper {
    pub(super) place: Arc<Place>,
    pub(super) address: Arc<Address>,
    pub(super) durability: Durability,
    pub(super) queue: Arc<Commands>,
    pub(super) health: Arc<Health>,
    pub(super) woken: Woken,
}

impl Keeper {
    /// Until it is to end. One that was taken for gone ends: its place is another's.
    pub(super) async fn run(self, stop: Shutdown) {
        let mut known = Known::default();
        loop {
            let beat = tokio::select! {
                () = stop.begun() => return,
                beat = self.beat(&mut known) => beat,
            };
            let pause = match beat {
                Ok(Beat::Kept) => BEAT,
                Ok(Beat::TooOld) => {
                    tracing::error!("a newer callbackd has changed the database so that this one cannot go on with it");
                    return self.queue.close();
                }
                Ok(Beat::Lost) => {
                    tracing::error!(
                        "this callbackd was silent for so long that others took it for gone; only a new start helps"
                    );
                    return self.queue.close();
                }
                Err(reason) => {
                    known.session = None;
                    self.health.asked(Err(reason.to_string()));
                    AGAIN
                }
            };
            tokio::select! {
                () = stop.begun() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Says it once; waits for the answer for as long as it takes.
    async fn beat(&self, known: &mut Known) -> Result<Beat, StoreError> {
        let Known { session, home, stopped } = known;
        let client = match session.take().filter(|session| !session.is_closed()) {
            Some(held) => session.insert(held),
            None => {
                let opened = self.address.open().await?;
                match self.is_elsewhere(home, which(&opened).await?) {
                    // That was one of those that are given up.
                    true => session.insert(self.address.open().await?),
                    false => session.insert(opened),
                }
            }
        };
        let asked = async {
            if let Some(by_us) = self.place.set_back_us(client).await.map_err(fault)? {
                tokio::spawn(set_back::all(Arc::clone(&self.queue), by_us, self.place.now()));
            }
            let beat = self.place.beat(client).await.map_err(fault)?;
            let means = server::check(client, self.durability).await.map_err(StoreError::Unavailable)?;
            self.health.asked(Ok(means));
            if let Err(e) = self.place.take_over(client).await {
                tracing::debug!(error = %said(&e), "leases of who is gone are taken over later");
            }
            // Where word of it was lost.
            if let Ok(now) = replicas::stopped(client).await {
                now.symmetric_difference(stopped).for_each(|(sink, _)| (self.woken)(Word::Stopped(sink)));
                *stopped = now;
            }
            Ok(beat)
        };
        let mut asked = std::pin::pin!(asked);
        loop {
            if let Ok(beat) = tokio::time::timeout(BEAT, &mut asked).await {
                return beat;
            }
            self.health.asked(Err("the database does not answer".to_owned()));
            // Another one may have taken over from a server that is stopped, not gone: what that one owes nobody is to
            // wait for. One that waits for its standbys is the same still.
            let other = async { which(&*self.address.open().await.ok()?).await.ok() };
            if let Some(other) = other.await {
                self.is_elsewhere(home, other);
            }
        }
    }

    /// Whether another server than the one at `home` answers: then nobody is to wait for the former.
    fn is_elsewhere(&self, home: &mut String, answers: String) -> bool {
        let is_other = !home.is_empty() && *home != answers;
        if is_other {
            tracing::warn!("another server answers for the database: connections to the former are given up");
            self.address.hang_up();
        }
        *home = answers;
        is_other
    }
}

/// Which server answers.
async fn which(client: &Client) -> Result<String, StoreError> {
    let silent = |_| StoreError::Unavailable("the database does not answer".to_owned());
    tokio::time::timeout(BEAT, server::which(client)).await.map_err(silent)?.map_err(fault)
}

/// What it remembers from one time to the next.
#[derive(Default)]
struct Known {
    session: Option<Session>,
    /// Which server answered.
    home: String,
    /// Sinks that were stopped, and by what.
    stopped: BTreeSet<(String, String)>,
}
