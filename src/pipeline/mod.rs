//! The flow: callbacks in, deliveries out, and questions to vendors between. They meet only in the store, and in
//! [`Wake`].

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::Notify;

pub use breaker::Kept;

mod breaker;
mod course;
pub mod forward;
pub mod ingest;
pub mod inquire;
#[cfg(feature = "otlp")]
pub mod traced;
pub mod upkeep;

/// Tells forwarders that their sink has something to do, and inquirers that there is something to ask, so that a fresh commit does not wait for a poll. A wake-up
/// that nobody waits for is kept for the next who does.
#[derive(Clone, Default)]
pub struct Wake {
    sinks: Arc<RwLock<HashMap<String, Arc<Notify>>>>,
}

impl Wake {
    /// What the forwarder of this sink waits on.
    pub fn of(&self, sink: &str) -> Arc<Notify> {
        if let Some(notify) = self.sinks.read().unwrap_or_else(PoisonError::into_inner).get(sink) {
            return Arc::clone(notify);
        }
        let mut sinks = self.sinks.write().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sinks.entry(sink.to_owned()).or_default())
    }

    /// What the forwarder of this sink hears of pauses by. No sink has a name with a colon.
    pub fn of_pauses(&self, sink: &str) -> Arc<Notify> {
        self.of(&format!("pauses:{sink}"))
    }

    /// Tells the forwarder of this sink that the sink was paused, or may go on.
    pub fn pauses(&self, sink: &str) {
        self.sinks(&[format!("pauses:{sink}")]);
    }

    /// What the inquirer of this source waits on. No sink has a name with a colon.
    pub fn of_source(&self, source: &str) -> Arc<Notify> {
        self.of(&format!("source:{source}"))
    }

    /// Wakes the inquirer of this source.
    pub fn source(&self, source: &str) {
        self.sinks(&[format!("source:{source}")]);
    }

    /// Wakes the forwarders of these sinks.
    pub fn sinks<S: AsRef<str>>(&self, names: &[S]) {
        if names.is_empty() {
            return;
        }
        let sinks = self.sinks.read().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            if let Some(notify) = sinks.get(name.as_ref()) {
                notify.notify_one();
            }
        }
    }
}
