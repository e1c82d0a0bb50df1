//! Sources: who may call back, and what their callbacks mean.
//!
//! A source is one vendor's callbacks on one path. It has two pure, synchronous steps, and the types force their
//! order: [`Source::authenticate`] consumes the [`RawRequest`] and alone makes a [`Receipt`], so bytes that nobody
//! vouches for cannot be parsed. A source whose vendor can be asked what is true says so in [`Source::inquire`].
//!
//! Adding a source: one file, its `mod` line and its row in [`KINDS`], a folder of fixtures, a section in
//! `config/callbackd.toml`.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::{Map, Value};

use crate::Boxed;
use crate::model::words::reason;
use crate::model::{Execution, Receipt, Time, Update};
use crate::options::{Build, Examine};

mod cos_workflow;
mod port_action;

/// A request as it came, before anybody vouched for it.
#[derive(Debug)]
pub struct RawRequest {
    /// The method; one of [`Source::methods`].
    pub method: Method,
    /// What follows the source's own path, without the slash: empty, or one segment (COS: the token).
    pub rest: String,
    /// The query string as it stood in the request target, without the question mark.
    pub query: Option<String>,
    /// The headers.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The sender's address, as far as trusted proxies tell.
    pub peer: IpAddr,
}

/// Why a request is not vouched for. Says what to do, never what was expected of a signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No credential where one has to be.
    #[error("{0}")]
    Missing(String),
    /// A credential that is not ours.
    #[error("{0}")]
    Wrong(String),
    /// Signed, but too long ago or in the future.
    #[error("{0}")]
    Stale(String),
}

/// Why an authentic body is not understood. It is kept, and quarantined. What a parser says may quote the body: as text it
/// is fit for a reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", reason(.0))]
pub struct ParseError(pub String);

/// One vendor's callbacks.
pub trait Source: Send + Sync {
    /// The methods it takes; anything else is a 405.
    fn methods(&self) -> &'static [Method];

    /// Whether its path may go on by one segment, as in `…/callbacks/media/<token>`; else what is below it is not found.
    fn reaches_below(&self) -> bool {
        false
    }

    /// Refuses by the head alone what [`Source::authenticate`] would refuse whatever the body says: so that a stranger's
    /// body is not even read. `head` is still without its body. What it lets through is not vouched for.
    fn screen(&self, _head: &RawRequest) -> Result<(), AuthError> {
        Ok(())
    }

    /// Whether [`Source::screen`] lets nobody through who does not know the credential. Where it cannot tell, a body may be
    /// anybody's until it is whole, and strangers' bodies get less room.
    fn screens_strangers(&self) -> bool {
        false
    }

    /// Verifies the sender. `now` is when the last byte came, and judges the age of a signature.
    fn authenticate(&self, raw: RawRequest, now: Time) -> Result<Receipt, AuthError>;

    /// What the receipt says happened. Reads nothing but the receipt, so a stored one can be read again later.
    fn parse(&self, receipt: &Receipt) -> Result<Vec<Update>, ParseError>;

    /// The answer to an authentic request that is not understood, which is kept all the same.
    fn quarantined(&self) -> StatusCode {
        StatusCode::OK
    }

    /// A request as its real sender would make it: for `replay`, and for tests. `headers` are the fixture's own;
    /// what the sender computes (a signature, the token) is made now.
    fn as_sender(&self, body: Bytes, headers: HeaderMap, now: Time) -> SenderRequest;

    /// How its vendor is asked; `None` when it cannot be, or when the options hold no credential for it.
    fn inquire(&self) -> Option<&dyn Inquire> {
        None
    }
}

/// A source whose vendor can be asked what is true of an execution: for `confirm`, and for what is overdue.
pub trait Inquire: Send + Sync {
    /// Asks once: never retries, sleeps or touches the store. `now` is when it is asked, for a signature.
    fn ask<'a>(&'a self, asked: &'a Asked, now: Time) -> Boxed<'a, Answer>;
}

/// The execution that a vendor is asked about. What stands beside the key comes from a callback that nobody may have
/// confirmed yet: good to choose the question by, never where to send it.
#[derive(Clone, PartialEq, Debug)]
pub struct Asked {
    /// The vendor's own id.
    pub key: String,
    /// The vendor's id of what was executed; COS: `None` for a job of no workflow.
    pub workflow: Option<String>,
    /// The vendor's further words.
    pub attributes: Map<String, Value>,
}

impl From<&Update> for Asked {
    fn from(update: &Update) -> Asked {
        let part = &update.execution;
        Asked { key: update.key.clone(), workflow: part.workflow.clone(), attributes: part.attributes.clone() }
    }
}

impl From<&Execution> for Asked {
    fn from(e: &Execution) -> Asked {
        Asked { key: e.key.clone(), workflow: e.workflow.clone(), attributes: e.attributes.clone() }
    }
}

/// What a vendor that was asked says. Reasons are for a person, and hold no secret.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// What is true of the execution now, as a callback would say it, with the key that was asked for. Its identity is
    /// not used: a callback that comes after all still adds what only it knows.
    Known(Box<Update>),
    /// It knows no such execution, or not yet.
    Unknown,
    /// It cannot be asked about this one, now or ever.
    Unanswerable {
        /// Why.
        reason: String,
    },
    /// No answer, or none of substance: a broken connection, a 5xx, a 429, something that cannot be read.
    Later {
        /// Not before this many milliseconds, where the vendor said so.
        after_ms: Option<u64>,
        /// Why.
        reason: String,
    },
    /// It refuses the credential, or what the credential may do: every question would fail alike.
    Halt {
        /// Why.
        reason: String,
    },
}

impl Answer {
    /// The same with a reason that is fit to be kept and logged, whatever the vendor said.
    pub fn legible(mut self) -> Answer {
        if let Answer::Unanswerable { reason: said }
        | Answer::Later { reason: said, .. }
        | Answer::Halt { reason: said } = &mut self
        {
            *said = reason(said).into_owned();
        }
        self
    }
}

/// What a source's real sender puts on the wire.
#[derive(Debug)]
pub struct SenderRequest {
    /// The method.
    pub method: Method,
    /// Appended to the source's path: empty, `?token=…`, `/token`.
    pub suffix: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// One kind of source.
pub struct Kind {
    /// What `kind = "…"` says.
    pub name: &'static str,
    /// Builds one from its options, or says everything that is wrong with them.
    pub build: Build<dyn Source>,
    /// Deserializes the options from a TOML table only to find what is wrong with its keys and types.
    pub examine: Examine,
    /// The JSON Schema of the options.
    #[cfg(test)]
    pub schema: crate::options::SchemaOf,
}

/// Every kind of source.
pub static KINDS: &[Kind] = &[cos_workflow::KIND, port_action::KIND];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_parsers_and_vendors_say_is_bounded_and_of_one_line() {
        let said = format!("the element {}\n\u{1b}[2J", "x".repeat(1 << 20));
        let later = Answer::Later { after_ms: None, reason: said.clone() }.legible();
        let Answer::Later { reason: later, .. } = later else { panic!("{later:?}") };
        for text in [ParseError(said.clone()).to_string(), later] {
            assert!(text.starts_with("the element xxx") && text.len() < 3000, "{}", text.len());
        }
        assert_eq!(ParseError("\u{1b}[2J\n".to_owned()).to_string(), "\\u{1b}[2J\\n");
    }
}
