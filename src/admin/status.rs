//! How the daemon stands, for programs and for `doctor`: whether it can keep callbacks, and which configuration holds.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Admin;
use crate::measure::{Answer, Minute};
use crate::model::Time;
use crate::store::Replica;

/// Who asks waits no longer for a store that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What runs, since when, and how it is configured.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "DaemonStatus"))]
pub struct Status {
    /// The version that runs.
    pub version: String,
    /// When it began.
    pub started_at: Time,
    /// Whether it can keep a callback now, as `/readyz` says.
    pub ready: bool,
    /// Why not.
    pub reason: Option<String>,
    /// The configuration that holds.
    pub configuration: Configured,
    /// Everybody who shares the store, and who is gone of them; empty where it is nobody else's, or does not answer.
    #[serde(default)]
    pub replicas: Vec<Replica>,
    /// Sources that refused somebody within the last hour.
    pub refusing: Vec<Refusing>,
}

/// A source that refused callbacks within the last hour, because of their credential or address.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Refusing {
    /// Its name.
    pub source: String,
    /// How many it refused.
    pub refused: u64,
    /// How many it kept.
    pub kept: u64,
}

/// Who refused somebody within the last hour.
pub(super) fn refusing(history: &[Minute], now: Time) -> Vec<Refusing> {
    let mut found: Vec<Refusing> = Vec::new();
    let answers = history.iter().filter(|minute| now.ms_since(minute.at) < HOUR_MS).flat_map(|minute| &minute.answers);
    for (source, counts) in answers {
        let refused = counts.of(Answer::Unauthorized) + counts.of(Answer::Forbidden);
        let kept = counts.each().filter(|(answer, _)| answer.is_kept()).map(|(_, count)| count).sum::<u64>();
        match found.iter_mut().find(|one| *one.source == **source) {
            Some(one) => (one.refused, one.kept) = (one.refused + refused, one.kept + kept),
            None => found.push(Refusing { source: source.to_string(), refused, kept }),
        }
    }
    found.retain(|one| one.refused > 0);
    found
}

const HOUR_MS: u64 = 3_600_000;

/// The configuration that holds, and what came of reading it again.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Configured {
    /// Its file.
    pub file: Option<PathBuf>,
    /// When it was read.
    pub read_at: Time,
    /// When it was read again and refused; `null` when what was read last holds.
    pub refused_at: Option<Time>,
    /// Why.
    pub reason: Option<String>,
}

/// As it stands now.
pub(super) async fn status(admin: &Admin, now: Time) -> Status {
    let measures = &admin.state.watch.measures;
    let (ready, held) = (admin.ready(), measures.configuration());
    let refused = held.refused;
    let replicas =
        async { if ready.is_ok() { admin.state.store.replicas().await.unwrap_or_default() } else { Vec::new() } };
    let replicas = tokio::time::timeout(PATIENCE, replicas).await.unwrap_or_default();
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at: measures.started_at,
        ready: ready.is_ok(),
        reason: ready.err(),
        configuration: Configured {
            file: held.file,
            read_at: held.read_at,
            refused_at: refused.as_ref().map(|refused| refused.at),
            reason: refused.map(|refused| refused.reason),
        },
        replicas,
        refusing: refusing(&measures.history(now), now),
    }
}
