//! How the store is used.

use std::sync::Arc;

use super::{Durability, Woken};
use crate::measure::OfStore;

/// How the store is used.
#[derive(Clone)]
pub struct Options {
    /// Commands waiting to be committed at one time.
    pub queue_max: usize,
    /// Bytes of bodies waiting to be committed at one time.
    pub queue_bytes_max: usize,
    /// Connections beside those of the writer, the listener, and who says that it is there.
    pub connections: usize,
    /// What is asked of the server.
    pub durability: Durability,
    /// What this callbackd is called among those that share the database.
    pub name: String,
    /// Where it takes callbacks.
    pub listens: String,
    /// Who is told of sinks that have something to do, or may do nothing.
    pub woken: Woken,
    /// What it does, in figures.
    pub measures: Arc<OfStore>,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            queue_max: 4096,
            queue_bytes_max: 64 << 20,
            connections: 8,
            durability: Durability::Full,
            name: String::new(),
            listens: String::new(),
            woken: Arc::new(|_| {}),
            measures: Arc::default(),
        }
    }
}
