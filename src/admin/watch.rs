//! Watching: what the store says of its sinks and of its own size, for the figures; and the end of each minute.
//!
//! To count what waits, SQLite reads an index of it: the more waits, the longer that takes. So it is looked at when
//! somebody asks and once a minute, one look at a time, and the next one only after a rest that is many times as long as
//! the last look took: whoever asks meanwhile gets the last one's figures.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::clock;
use crate::measure::{Measures, Standing};
use crate::shutdown::Shutdown;
use crate::store::{Store, StoreError};

/// Between two looks at least this, and so many times as long as the last one took.
const REST: Duration = Duration::from_secs(1);
const REST_FACTOR: u32 = 20;
/// Who asks waits no longer for a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Keeps those figures up to date that only the store knows.
pub struct Watch {
    /// All figures.
    pub measures: Arc<Measures>,
    store: Arc<dyn Store>,
    /// Until when the figures are good.
    good_until: Mutex<Option<Instant>>,
}

impl Watch {
    /// Of this store.
    pub fn new(store: Arc<dyn Store>, measures: Arc<Measures>) -> Watch {
        Watch { measures, store, good_until: Mutex::new(None) }
    }

    /// Looks, unless somebody just did. Where the store does not answer, the last look's figures stay.
    pub async fn look(&self) {
        let looking = async {
            let mut good_until = self.good_until.lock().await;
            let began = Instant::now();
            if good_until.is_none_or(|until| until <= began) {
                let looked = self.ask().await;
                *good_until = Some(Instant::now() + REST.max(began.elapsed() * REST_FACTOR));
                if let Err(e) = looked {
                    tracing::debug!(error = %e, "the figures of the store stay as they were");
                }
            }
        };
        if tokio::time::timeout(PATIENCE, looking).await.is_err() {
            tracing::debug!("the store does not say how much waits");
        }
    }

    async fn ask(&self) -> Result<(), StoreError> {
        let sinks = self.store.sinks().await?;
        let standing = |row: &crate::store::SinkRow| Standing {
            waiting: row.backlog,
            oldest_at: row.oldest,
            dead: row.dead,
            is_paused: row.paused.is_some(),
            may_be_tried: row.may_be_tried(),
        };
        let standings: Vec<_> = sinks.iter().map(|row| (row.name.as_str(), standing(row))).collect();
        self.measures.stand(&standings);
        let (extent, of) = (self.store.extent().await?, &self.measures.store);
        of.held_bytes.set(extent.held as i64);
        of.free_bytes.set(extent.free as i64);
        of.room_bytes.set(extent.room as i64);
        of.disk_bytes.set(extent.disk as i64);
        let replicas = self.store.replicas().await?;
        if !replicas.is_empty() {
            of.replicas.set(replicas.iter().filter(|one| one.alive).count() as i64);
        }
        Ok(())
    }

    /// Ends minutes until `stop`.
    pub async fn run(self: Arc<Self>, stop: Shutdown) {
        while !stop.is_begun() {
            // On the full minute, so that figures of several machines stand beside each other.
            let into_it = clock::now().micros().rem_euclid(60_000_000) as u64;
            tokio::select! {
                () = tokio::time::sleep(Duration::from_micros(60_000_000 - into_it)) => {
                    self.look().await;
                    self.measures.end_minute(clock::now());
                }
                () = stop.begun() => {}
            }
        }
    }
}
