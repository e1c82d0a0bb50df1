//! Upkeep: lets go of what is older than the configuration wants to keep.

use std::sync::Arc;
use std::time::Duration;

use crate::clock;
use crate::model::Time;
use crate::shutdown::Shutdown;
use crate::store::Store;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(60);

/// Runs until `stop`. `keep` is asked for anew each time, because a reload may change it.
pub async fn run(store: Arc<dyn Store>, keep: impl Fn() -> Duration + Send, stop: Shutdown) {
    loop {
        let before = clock::now().micros().saturating_sub(i64::try_from(keep().as_micros()).unwrap_or(i64::MAX));
        match store.prune(Time::from_micros(before)).await {
            Ok(0) => {}
            Ok(executions) => tracing::info!(executions, "let go of what was older than store.keep"),
            Err(e) => tracing::warn!(error = %e, "old executions stay for now"),
        }
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            () = stop.begun() => return,
        }
    }
}
