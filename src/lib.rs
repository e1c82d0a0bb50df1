//! callbackd keeps every callback that it acknowledged, turns it into executions and tasks, and tells every system
//! that must know, until that system has taken it.
//!
//! Data flows one way, and the modules stand in its order:
//!
//! 1. [`server`] takes HTTP bytes and makes a raw request of them.
//! 2. A [source](sources) authenticates it into a receipt, and parses the receipt into updates.
//! 3. [`pipeline::ingest`](pipeline) hands both to the [`store`], which decides and commits in one transaction:
//!    receipt, executions, tasks, the change, and the deliveries it causes. Only then is the caller told 2xx.
//!    What its vendor has to confirm is only held; [`pipeline::inquire`](pipeline) asks, here and of what is late.
//! 4. [`pipeline::forward`](pipeline) claims deliveries under a lease and hands each to its [sink](sinks).
//! 5. The sink's outcome is settled in one transaction: the attempt, and delivered, next time or dead letter.
//!
//! The nouns are defined in [`model`]. Dependencies point one way too:
//! `model ← store, sources, sinks ← pipeline ← server, admin ← app ← cli ← main`; [`signature`], [`secret`],
//! [`clock`], [`shutdown`], [`jq`], [`outbound`], [`options`], [`tencent`], [`measure`] and
//! `otlp` (a feature) are leaves that anyone above
//! `model` may use.

pub mod admin;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod jq;
pub mod measure;
pub mod model;
pub mod options;
#[cfg(feature = "otlp")]
pub mod otlp;
pub mod outbound;
pub mod pipeline;
pub mod secret;
pub mod server;
pub mod shutdown;
pub mod signature;
pub mod sinks;
pub mod sources;
pub mod store;
pub mod telemetry;
pub mod tencent;

/// A boxed future: what the seams' asynchronous methods return, so that they can be trait objects.
pub type Boxed<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
