//! Who says again and again that this callbackd is there, takes over from who is not, and knows whether the database answers
//! where nobody sends callbacks.

use std::sync::Arc;
use std::time::Duration;

use super::connect::{Address, Session, fault, said};
use super::replicas::Place;
use super::server::{self, Durability};
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
}

impl Keeper {
    /// Until it is to end. One that was taken for gone ends: its place is another's.
    pub(super) async fn run(self, stop: Shutdown) {
        let mut held = None;
        // Which server answers.
        let mut home = String::new();
        loop {
            let is_ours = tokio::select! {
                () = stop.begun() => return,
                is_ours = self.beat(&mut held, &mut home) => is_ours,
            };
            let pause = match is_ours {
                Ok(true) => BEAT,
                Ok(false) => {
                    tracing::error!(
                        "this callbackd was silent for so long that others took it for gone; only a new start helps"
                    );
                    return self.queue.close();
                }
                Err(reason) => {
                    held = None;
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
    async fn beat(&self, held: &mut Option<Session>, home: &mut String) -> Result<bool, StoreError> {
        let client = match held.take().filter(|session| !session.is_closed()) {
            Some(session) => held.insert(session),
            None => held.insert(self.address.open().await?),
        };
        let asked = async {
            let is_ours = self.place.beat(client).await.map_err(fault)?;
            let means = server::check(client, self.durability).await.map_err(StoreError::Unavailable)?;
            let of = server::which(client).await.map_err(fault)?;
            if let Err(e) = self.place.take_over(client).await {
                tracing::debug!(error = %said(&e), "leases of who is gone are taken over later");
            }
            Ok((is_ours, means, of))
        };
        let mut asked = std::pin::pin!(asked);
        loop {
            match tokio::time::timeout(BEAT, &mut asked).await {
                Ok(ended) => {
                    let (is_ours, means, of) = ended?;
                    (*home, ()) = (of, self.health.asked(Ok(means)));
                    return Ok(is_ours);
                }
                Err(_) => {
                    self.health.asked(Err("the database does not answer".to_owned()));
                    // Another one may have taken over from a server that is stopped, not gone: what that one owes
                    // nobody is to wait for. One that waits for its standbys is the same still.
                    let other = async { server::which(&*self.address.open().await.ok()?).await.ok() }.await;
                    if other.is_some_and(|other| !home.is_empty() && other != *home) {
                        tracing::warn!(
                            "another server answers for the database: connections to the former are given up"
                        );
                        self.address.hang_up();
                    }
                }
            }
        }
    }
}
