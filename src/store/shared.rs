//! What those who share one store know of one another: who is there, and whose peers fail.

use serde::{Deserialize, Serialize};

use crate::measure::Open;
use crate::model::Time;

/// How those who share the store say that a sink's breaker stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Breaker {
    /// Nobody shares it: each goes by what it finds itself.
    #[default]
    Own,
    /// Not open, or not any more; said to who asks for a probe.
    Closed,
    /// Open for all of them, and probed by one at a time.
    Open(Open),
}

/// One of those who share the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Replica {
    /// Its place among them, from 0.
    pub place: u16,
    /// What it is called: `server.instance`, or its machine's name.
    pub name: String,
    /// Where it takes callbacks.
    pub address: String,
    /// Which callbackd it is.
    pub version: String,
    /// Since when it is there; `null` of one that does not say so.
    pub since: Option<Time>,
    /// When it was last heard of.
    pub seen_at: Time,
    /// Whether it is there; others have taken over what one had under way that is not.
    pub alive: bool,
    /// Whether it is the one that says this.
    pub here: bool,
}
