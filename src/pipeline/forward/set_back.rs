//! The clock was set: what a forwarder does about it.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Forwarder;
use crate::clock;
use crate::pipeline::course::Course;

impl Forwarder {
    /// What waits for a time is not to wait longer because the clock was set back: by so much, or before this began.
    pub(super) async fn set_back(&self, by_ms: Option<u64>) {
        match self.store.set_back(self.name.clone(), by_ms, clock::now()).await {
            Ok(0) => {}
            Ok(deliveries) => tracing::warn!(
                sink.name = %self.name, deliveries,
                "the clock was set back: what waits for a retry is tried as much sooner"
            ),
            Err(e) => {
                tracing::warn!(sink.name = %self.name, error = %e, "should the clock have been set back, retries wait longer")
            }
        }
    }
}

/// The clock's course, up to now.
pub(super) fn look(course: &Mutex<Course>) -> MutexGuard<'_, Course> {
    let mut course = course.lock().unwrap_or_else(PoisonError::into_inner);
    course.look(clock::now(), clock::steady());
    course
}
