//! Why there is no answer.

use std::error::Error;
use std::io;

use hyper_util::client::legacy;
use tokio_rustls::rustls;

/// Why a request has no usable answer. Never names the URL, which may hold a credential.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The URL cannot be called at all.
    #[error("the URL cannot be called: {0}")]
    Url(String),
    /// No connection: nothing was sent.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The peer's certificate or TLS is not acceptable: nothing was sent.
    #[error("no trusted TLS connection: {0}")]
    Tls(String),
    /// The connection broke: whether the peer took the request is unknown.
    #[error("the connection broke before the answer was complete: {0}")]
    Reset(String),
    /// What came is not HTTP: whether the peer took the request is unknown.
    #[error("the answer is not HTTP: {0}")]
    Protocol(String),
    /// The answer's body is larger than allowed; its status is known.
    #[error("answered {status} with more than {bytes_max} bytes")]
    TooLarge {
        /// The status.
        status: u16,
        /// What was allowed.
        bytes_max: usize,
    },
}

impl Failure {
    /// The HTTP status, where the peer got as far as that.
    pub fn status(&self) -> Option<u16> {
        match self {
            Failure::TooLarge { status, .. } => Some(*status),
            _ => None,
        }
    }

    pub(super) fn of_request(e: legacy::Error) -> Failure {
        if !e.is_connect() {
            return Failure::of_body(&e);
        }
        match find::<rustls::Error>(&e) {
            Some(tls) => Failure::Tls(tls.to_string()),
            None => Failure::Connect(root(&e)),
        }
    }

    pub(super) fn of_body(e: &(dyn Error + 'static)) -> Failure {
        match find::<hyper::Error>(e) {
            Some(h) if h.is_parse() && !h.is_incomplete_message() => Failure::Protocol(root(h)),
            _ => Failure::Reset(root(e)),
        }
    }
}

/// The first error of that type in the chain. An I/O error hides what it wraps from `source`.
pub(super) fn find<'e, E: Error + 'static>(mut at: &'e (dyn Error + 'static)) -> Option<&'e E> {
    loop {
        if let Some(found) = at.downcast_ref() {
            return Some(found);
        }
        at = match at.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
            Some(inner) => inner,
            None => at.source()?,
        };
    }
}

/// The innermost error's text: the outer ones only say `client error`.
pub(super) fn root(e: &(dyn Error + 'static)) -> String {
    let mut at = e;
    while let Some(inner) = at.source() {
        at = inner;
    }
    at.to_string()
}
