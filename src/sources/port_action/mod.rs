//! `port_action`: self-service actions, automations and workflow nodes that Port sends as a webhook, directly or
//! through its agent.
//!
//! The sender signs `{x-port-timestamp}.{body}` with the organization's client secret, HMAC-SHA256, and sends
//! `x-port-signature: v1,<base64>` (docs.port.io, "Webhook", "Signature verification"). Port signs the bytes that it
//! sends. Its agent (github.com/port-labs/port-agent) signs compact JSON and then sends the same JSON with blanks in
//! it, so what does not fit as it stands is tried once more without insignificant whitespace; nothing is ever parsed
//! and printed again for that.
//!
//! An invocation is an execution in `running`, known by its run id: it ends when its run is reported. [`body`] reads
//! it. Bodies hold personal data and secret inputs, so nothing of them stands in an error or a log.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde::Deserialize;

use self::body::{Invocation, Limits, Place};
use super::{AuthError, Kind, ParseError, RawRequest, SenderRequest, Source};
use crate::model::{Receipt, Time, Update};
use crate::options::{self, BuildContext, Fault, Section, Span};
use crate::secret::{Secret, SecretSpecs};
use crate::signature;

mod body;

pub(super) const KIND: Kind = Kind {
    name: "port_action",
    build,
    examine: options::examine::<Options>,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

const TIMESTAMP: &str = "x-port-timestamp";
const SIGNATURE: &str = "x-port-signature";

/// The headers that are kept with a receipt, beside the one that may hold the run id.
const KEPT: [&str; 4] = ["content-type", "user-agent", TIMESTAMP, "traceparent"];

/// Headers that are credentials, and so are never kept.
const CREDENTIALS: [&str; 4] = [SIGNATURE, "authorization", "proxy-authorization", "cookie"];

/// `serde_json` reads no deeper than this.
const DEPTH_LIMIT: usize = 127;

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// The organization's client secret; two while it is rotated, newest first.
    secret: SecretSpecs,
    /// Takes calls that nobody signed; where there is a `secret`, it is asked for all the same.
    allow_unauthenticated: bool,
    /// How far a signature's time may be from ours, in either direction.
    tolerance: Span,
    /// Where the run id stands; default: the places that Port's users use.
    run_id: Option<RunId>,
    /// A body that is nested deeper is quarantined.
    depth_max: usize,
    /// A body with more values is quarantined.
    elements_max: usize,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            secret: SecretSpecs::default(),
            allow_unauthenticated: false,
            tolerance: Span::seconds(300),
            run_id: None,
            depth_max: 64,
            elements_max: 200_000,
        }
    }
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a JSON pointer like \"/context/runId\", or { header = \"RUN_ID\" }")]
enum RunId {
    Pointer(String),
    Header(RunIdHeader),
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct RunIdHeader {
    /// The name of a header.
    header: String,
}

impl RunId {
    fn place(self) -> Result<Place, String> {
        match self {
            RunId::Pointer(pointer) if pointer.starts_with('/') => Ok(Place::Pointer(pointer)),
            RunId::Pointer(pointer) => Err(format!(
                "{pointer:?} is no JSON pointer; write the path from the top, like \"/context/runId\", or {{ header = \
                 \"RUN_ID\" }}"
            )),
            RunId::Header(RunIdHeader { header: name }) => match name.parse::<HeaderName>() {
                Ok(name) if CREDENTIALS.contains(&name.as_str()) => {
                    Err(format!("{name} holds a credential and is never kept; send the run id in a header of its own"))
                }
                Ok(name) => Ok(Place::Header(name)),
                Err(_) => Err(format!("{name:?} is no header name; write one like \"RUN_ID\"")),
            },
        }
    }
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Source>, Vec<Fault>> {
    let options: Options = section.read()?;
    let mut faults = Vec::new();
    let mut fault = |key: &str, message: String| faults.push(section.fault(key, message));
    let secrets = context.secrets.resolve_all(&options.secret).unwrap_or_else(|message| {
        fault("secret", message);
        Vec::new()
    });
    if options.secret.0.is_empty() && !options.allow_unauthenticated {
        let message = "without it anybody could call; write secret = { file = \"…\" } with the client secret of the \
                       Port organization, or allow_unauthenticated = true";
        fault("secret", message.to_owned());
    }
    let place = options.run_id.map_or(Ok(Place::Usual), RunId::place).unwrap_or_else(|message| {
        fault("run_id", message);
        Place::Usual
    });
    if !(1..=DEPTH_LIMIT).contains(&options.depth_max) {
        fault("depth_max", format!("{} is out of range; write 1 to {DEPTH_LIMIT}", options.depth_max));
    }
    if options.elements_max == 0 {
        fault("elements_max", "0 would take no body; write a positive number".to_owned());
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Box::new(PortAction {
        name: context.name.into(),
        secrets,
        tolerance: options.tolerance,
        place,
        limits: Limits { depth_max: options.depth_max, elements_max: options.elements_max },
    }))
}

struct PortAction {
    name: Arc<str>,
    /// Newest first; empty when calls need no signature.
    secrets: Vec<Secret>,
    tolerance: Span,
    place: Place,
    limits: Limits,
}

impl PortAction {
    fn verify(&self, raw: &RawRequest, now: Time) -> Result<(), AuthError> {
        let timestamp = single(&raw.headers, TIMESTAMP)?;
        let mac = single(&raw.headers, SIGNATURE)?
            .strip_prefix("v1,")
            .and_then(signature::from_base64)
            .filter(|mac| mac.len() == 32)
            .ok_or_else(|| AuthError::Wrong(format!("{SIGNATURE} is not written as v1,<base64 of 32 bytes>")))?;
        let signed_at = seconds(timestamp)
            .ok_or_else(|| AuthError::Wrong(format!("{TIMESTAMP} is not a number of seconds since 1970")))?;
        if !self.is_signed(timestamp.as_bytes(), &raw.body, &mac) {
            return Err(AuthError::Wrong(
                "the signature does not fit; check that this source's secret is the client secret of the sending Port \
                 organization, and that nothing on the way changes the body"
                    .to_owned(),
            ));
        }
        let off_ms = now.ms_since(signed_at).max(signed_at.ms_since(now));
        if off_ms > self.tolerance.ms() {
            let message = format!(
                "{TIMESTAMP} is {} s off this machine's clock, and {} are allowed; check both clocks, and that it is \
                 in seconds",
                off_ms / 1000,
                self.tolerance
            );
            return Err(AuthError::Stale(message));
        }
        Ok(())
    }

    fn is_signed(&self, timestamp: &[u8], body: &[u8], mac: &[u8]) -> bool {
        let fits = |body: &[u8]| {
            let parts = [timestamp, b".", body];
            self.secrets.iter().any(|secret| signature::is_hmac_sha256(secret.expose().as_bytes(), &parts, mac))
        };
        if fits(body) {
            return true;
        }
        let compact = body::without_whitespace(body);
        // Only in JSON is that whitespace insignificant.
        compact.len() < body.len() && fits(&compact) && body::is_json(body)
    }

    /// The header that may hold the run id.
    fn run_id_header(&self) -> &str {
        match &self.place {
            Place::Header(name) => name.as_str(),
            _ => "run_id",
        }
    }

    fn kept_headers(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        let names = KEPT.into_iter().chain([self.run_id_header()]);
        names.filter_map(|name| Some((name.to_owned(), headers.get(name)?.to_str().ok()?.to_owned()))).collect()
    }
}

impl Source for PortAction {
    fn methods(&self) -> &'static [Method] {
        &[Method::POST, Method::PUT, Method::PATCH, Method::DELETE]
    }

    fn screen(&self, head: &RawRequest) -> Result<(), AuthError> {
        if !head.rest.is_empty() {
            return Err(AuthError::Wrong(
                "nothing is called below this source's path; call the path itself".to_owned(),
            ));
        }
        Ok(())
    }

    fn authenticate(&self, raw: RawRequest, now: Time) -> Result<Receipt, AuthError> {
        self.screen(&raw)?;
        if !self.secrets.is_empty() {
            self.verify(&raw, now)?;
        }
        Ok(Receipt {
            source: Arc::clone(&self.name),
            received_at: now,
            peer: raw.peer.to_string(),
            headers: self.kept_headers(&raw.headers),
            body: raw.body,
        })
    }

    fn parse(&self, receipt: &Receipt) -> Result<Vec<Update>, ParseError> {
        let invocation = Invocation::read(&receipt.body, &self.limits).map_err(ParseError)?;
        let header = receipt.header(self.run_id_header());
        let run_id = invocation.run_id(&self.place, header).map_err(ParseError)?;
        Ok(vec![invocation.update(run_id)])
    }

    /// An agent in between turns this into a failed run, which is true: nobody works on it.
    fn quarantined(&self) -> StatusCode {
        StatusCode::UNPROCESSABLE_ENTITY
    }

    fn as_sender(&self, body: Bytes, mut headers: HeaderMap, now: Time) -> SenderRequest {
        headers.entry(header::CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
        if let Some(secret) = self.secrets.first() {
            let timestamp = now.seconds().to_string();
            let mac = signature::hmac_sha256(secret.expose().as_bytes(), &[timestamp.as_bytes(), b".", &body]);
            let signature = HeaderValue::try_from(format!("v1,{}", signature::base64(&mac)));
            headers.insert(TIMESTAMP, now.seconds().into());
            headers.insert(SIGNATURE, signature.expect("base64 is ASCII"));
        }
        SenderRequest { method: Method::POST, suffix: String::new(), headers, body }
    }
}

/// The value of a header that has to be there exactly once.
fn single<'h>(headers: &'h HeaderMap, name: &str) -> Result<&'h str, AuthError> {
    let mut values = headers.get_all(name).iter();
    let value = values.next().ok_or_else(|| {
        AuthError::Missing(format!("{name} is missing; Port signs each call, so let proxies pass its headers on"))
    })?;
    match (value.to_str(), values.next()) {
        (Ok(text), None) => Ok(text),
        (Ok(_), Some(_)) => Err(AuthError::Wrong(format!("{name} is there more than once"))),
        (Err(_), _) => Err(AuthError::Wrong(format!("{name} is not ASCII"))),
    }
}

/// Whole seconds since the epoch, decimal digits and nothing else.
fn seconds(text: &str) -> Option<Time> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok()).flatten().map(Time::from_seconds)
}

#[cfg(test)]
mod tests;
