//! Sinks: who must know, and how each is told.
//!
//! A sink does one thing with one delivery and says how it went. It never retries, sleeps or touches storage: the
//! forwarder does, alike for all. What it sends is made from the change anew at each try.
//!
//! Adding a sink: one file, its `mod` line and its row in [`KINDS`], a fake peer for the tests, a section in
//! `config/callbackd.toml`.

use crate::Boxed;
use crate::model::{Delivery, Outcome, Status, Time};
use crate::options::{Build, Examine, Section};

mod cloudevent;
mod cos_trigger;
mod klyuch_astrom;
mod port_run;
mod secmaster;
mod stdout;
mod webhook;
pub mod zabbix;

/// How one try went, with what is kept of it.
#[derive(Clone, Debug)]
pub struct Tried {
    /// What follows from it.
    pub outcome: Outcome,
    /// The HTTP status of the peer's last answer.
    pub status: Option<u16>,
    /// The start of the peer's last answer, without secrets.
    pub answer: Option<String>,
}

impl From<Outcome> for Tried {
    fn from(outcome: Outcome) -> Tried {
        Tried { outcome, status: None, answer: None }
    }
}

/// One thing that a sink would do, for `explain`: nothing is sent.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Preview {
    /// For example `POST https://api.port.io/v1/actions/runs/r_1/logs`; without secrets.
    pub action: String,
    /// The body, as it would be sent.
    pub body: String,
}

/// What [`Sink::probe`] says where nothing can be tried: that is no good word for the credentials.
pub const NOT_TRIED: &str = "nothing can be tried without telling it something; `callbackd sinks test` does";

/// One system that must know.
pub trait Sink: Send + Sync {
    /// What would be sent for this delivery; pure.
    fn preview(&self, delivery: &Delivery, now: Time) -> Vec<Preview>;

    /// Tells the peer. Idempotent as far as the peer allows: it may be called again for a delivery that arrived.
    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried>;

    /// The status of a change that tells the peer something and sets nothing off there, for `sinks test`; `None` where
    /// every change would start, report or open something.
    fn harmless(&self) -> Option<Status> {
        None
    }

    /// Tries the credentials without changing anything at the peer: what was found, or what is wrong.
    fn probe(&self) -> Boxed<'_, Result<String, String>> {
        Box::pin(async { Ok(NOT_TRIED.to_owned()) })
    }
}

/// The first `chars_max` characters, the last of them a mark where something is missing.
fn cut(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        None => text.to_owned(),
        Some(_) => text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect(),
    }
}

/// One kind of sink.
pub struct Kind {
    /// What `kind = "…"` says.
    pub name: &'static str,
    /// Other names for it.
    pub aliases: &'static [&'static str],
    /// Builds one from its options, or says everything that is wrong with them.
    pub build: Build<dyn Sink>,
    /// Deserializes the options from a TOML table only to find what is wrong with its keys and types.
    pub examine: Examine,
    /// The JSON Schema of the options.
    #[cfg(test)]
    pub schema: crate::options::SchemaOf,
    /// Whether one with these options starts executions whose source is the sink itself, so that routes and links can
    /// name it as one.
    pub starts: fn(&Section) -> bool,
}

/// What [`Kind::starts`] is for a kind that only tells.
fn starts_nothing(_: &Section) -> bool {
    false
}

/// Every kind of sink.
pub static KINDS: &[Kind] = &[
    cos_trigger::KIND,
    klyuch_astrom::KIND,
    port_run::KIND,
    secmaster::KIND,
    stdout::KIND,
    webhook::KIND,
    zabbix::KIND,
];
