//! Tencent Cloud CI (数据万象): callbacks of COS workflows and of jobs.
//!
//! CI posts one callback per start or end of a workflow execution (`WorkflowExecution`) and per finished job
//! (`JobsDetail`), as XML or JSON, to a URL that somebody registered. Nothing in it is signed: all that shows where it
//! comes from is a token in that URL, as `?token=…` or as the last segment of its path. See the pages "Workflow
//! Callback" and "Callback" (of each job type) of Tencent Cloud's CI documentation.
//!
//! Promises: every generation of those pages is understood, whatever the order of its elements; a repeated callback is
//! known by its event, id and state, not by its bytes; what is not understood is quarantined, never repaired, and no
//! unknown word becomes a success. A body is read by events, never expanded, and bounded in depth and elements.
//!
//! With a credential CI can be asked what is true of an execution (`ask`).

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;

use super::{AuthError, Inquire, Kind, ParseError, RawRequest, SenderRequest, Source};
use crate::model::{Receipt, Time, Update};
use crate::options::{BuildContext, Fault, Faults, Section, examine};
use crate::secret::{Secret, SecretSpec, SecretSpecs};
use crate::signature;
use crate::tencent::{self, Access, decoded};

mod ask;
mod draft;
mod json;
mod meaning;
#[cfg(test)]
mod tests;
mod time;
mod wire;
mod xml;

pub(super) const KIND: Kind = Kind {
    name: "cos_workflow",
    build,
    examine: examine::<Options>,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

/// The keys of a `cos_workflow` source beside those of every source.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// What the URL registered with Tencent ends in; two at once while workflows are moved from one to the other.
    token: SecretSpecs,
    /// Takes callbacks from anybody when there is no token.
    allow_unauthenticated: bool,
    /// A body of more elements is quarantined.
    elements_max: usize,
    /// A body of elements nested deeper is quarantined.
    depth_max: usize,
    /// With what CI is asked. Without it, it is not.
    secret_id: Option<SecretSpec>,
    /// The key that belongs to `secret_id`.
    secret_key: Option<SecretSpec>,
    /// Of temporary credentials.
    security_token: Option<SecretSpec>,
    /// Where the buckets are that may be asked about.
    region: Option<String>,
    /// The buckets that may be asked about: one, or a list.
    bucket: Buckets,
    /// Another address than `https://BUCKET.ci.REGION.myqcloud.com`, for a proxy that hands everything on.
    url: Option<String>,
    /// A PEM file of certificates that are trusted beside this machine's.
    ca_file: Option<PathBuf>,
}

/// One bucket or a list of them.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(untagged, expecting = "expected a bucket's name or a list of them")]
enum Buckets {
    One(String),
    Many(Vec<String>),
}

impl Default for Options {
    fn default() -> Options {
        Options {
            token: SecretSpecs::default(),
            allow_unauthenticated: false,
            elements_max: 200_000,
            depth_max: 64,
            secret_id: None,
            secret_key: None,
            security_token: None,
            region: None,
            bucket: Buckets::Many(Vec::new()),
            url: None,
            ca_file: None,
        }
    }
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Source>, Vec<Fault>> {
    let options: Options = section.read()?;
    let mut faults = Faults::of(section);
    if options.token.0.is_empty() && !options.allow_unauthenticated {
        faults.add(
            "token",
            "callbacks of this vendor are not signed, so a token has to be part of the URL: write \
             token = { file = \"…\" } and register …?token=<its content>, or write allow_unauthenticated = true to \
             believe whoever can reach this address",
        );
    }
    for (key, limit) in [("elements_max", options.elements_max), ("depth_max", options.depth_max)] {
        if limit == 0 {
            faults.add(key, "0 would quarantine every callback; write at least 1, or leave it out");
        }
    }
    let limits = draft::Limits { elements_max: options.elements_max, depth_max: options.depth_max };
    let tokens = faults.keep("token", context.secrets.resolve_all(&options.token));
    let asking = match (options.secret_id, options.secret_key) {
        (None, None) => None,
        (Some(secret_id), Some(secret_key)) => {
            let access = Access {
                secret_id,
                secret_key,
                security_token: options.security_token,
                region: options.region,
                url: options.url,
                ca_file: options.ca_file,
                answer_bytes_max: ask::ANSWER_BYTES_MAX,
            };
            let ci = access.build(context, &mut faults);
            let buckets = faults.keep("bucket", buckets(options.bucket));
            ci.zip(buckets).map(|(ci, buckets)| ask::Asking { ci, buckets, limits })
        }
        (given, _) => {
            let missing = if given.is_some() { "secret_key" } else { "secret_id" };
            faults.add(missing, "is missing: secret_id and secret_key belong together");
            None
        }
    };
    let built = tokens.map(|tokens| CosWorkflow { name: context.name.into(), tokens, limits, asking });
    faults.finish(built.map(|source| Box::new(source) as Box<dyn Source>))
}

fn buckets(buckets: Buckets) -> Result<Vec<String>, String> {
    let named = match buckets {
        Buckets::One(name) => vec![name],
        Buckets::Many(names) => names,
    };
    if named.is_empty() {
        return Err(
            "is needed to ask Tencent Cloud, since nothing that a callback says may choose whom to ask; write \
                    \"media-1250000000\", or a list of them"
                .to_owned(),
        );
    }
    named.into_iter().map(tencent::part_of_a_host).collect()
}

struct CosWorkflow {
    name: Arc<str>,
    /// Newest first; empty when anybody may call.
    tokens: Vec<Secret>,
    limits: draft::Limits,
    /// Where there is a credential for it.
    asking: Option<ask::Asking>,
}

/// The headers that may matter later. Whatever could hold a credential is not among them.
const KEPT_HEADERS: [&str; 5] = ["content-type", "user-agent", "traceparent", "x-ci-request-id", "x-cos-request-id"];

impl Source for CosWorkflow {
    fn methods(&self) -> &'static [Method] {
        &[Method::POST]
    }

    fn screen(&self, head: &RawRequest) -> Result<(), AuthError> {
        if self.tokens.is_empty() { Ok(()) } else { self.verify(head) }
    }

    fn screens_strangers(&self) -> bool {
        !self.tokens.is_empty()
    }

    fn reaches_below(&self) -> bool {
        true
    }

    fn authenticate(&self, raw: RawRequest, now: Time) -> Result<Receipt, AuthError> {
        self.screen(&raw)?;
        Ok(Receipt {
            source: Arc::clone(&self.name),
            received_at: now,
            peer: written(raw.peer),
            headers: kept(&raw.headers),
            body: raw.body,
        })
    }

    fn parse(&self, receipt: &Receipt) -> Result<Vec<Update>, ParseError> {
        let text = std::str::from_utf8(&receipt.body)
            .map_err(|e| ParseError(format!("not UTF-8 from byte {} on", e.valid_up_to())))?;
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        // Neither the header nor the configuration is to be believed about the format: queues and workflows differ.
        let body = match first(text.as_bytes()) {
            Some(b'<') => xml::read(text, self.limits)?,
            Some(b'{' | b'[') => json::read(text, self.limits)?,
            Some(_) => return Err(ParseError("neither XML nor JSON".to_owned())),
            None => return Err(ParseError("the body is empty".to_owned())),
        };
        meaning::bounded(meaning::updates(body)?, text.len())
    }

    fn as_sender(&self, body: Bytes, mut headers: HeaderMap, _: Time) -> SenderRequest {
        let json = matches!(first(&body), Some(b'{' | b'['));
        let format = HeaderValue::from_static(if json { "application/json" } else { "application/xml" });
        headers.entry(header::CONTENT_TYPE).or_insert(format);
        let suffix = self.tokens.first().map(|token| ["?token=", &signature::cos::encoded(token.expose())].concat());
        SenderRequest { method: Method::POST, suffix: suffix.unwrap_or_default(), headers, body }
    }

    fn inquire(&self) -> Option<&dyn Inquire> {
        self.asking.as_ref().map(|asking| asking as &dyn Inquire)
    }
}

impl CosWorkflow {
    /// Compares what the request brings, in either place, with every token: it takes as long whichever matches.
    fn verify(&self, raw: &RawRequest) -> Result<(), AuthError> {
        let parameters = raw.query.as_deref().unwrap_or("").split('&');
        let parameter = parameters.filter_map(|p| p.strip_prefix("token=")).next().unwrap_or("");
        let brought = [decoded(parameter), decoded(&raw.rest)];
        if brought.iter().all(|bytes| bytes.is_empty()) {
            return Err(AuthError::Missing(
                "this address takes callbacks with a token only; register it as …?token=<token> or …/<token>"
                    .to_owned(),
            ));
        }
        let mut matched = false;
        for token in &self.tokens {
            for bytes in &brought {
                matched |= signature::is_equal(token.expose().as_bytes(), bytes);
            }
        }
        matched.then_some(()).ok_or_else(|| {
            AuthError::Wrong("the token is none of this address's; register the URL with the current one".to_owned())
        })
    }
}

/// The headers that are kept, each once. Going through what is there costs less than looking up each that might be.
fn kept(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut kept: Vec<(String, String)> = Vec::new();
    for (name, value) in headers {
        let name = name.as_str();
        if KEPT_HEADERS.contains(&name)
            && kept.iter().all(|(held, _)| held != name)
            && let Ok(value) = value.to_str()
        {
            kept.push((name.to_owned(), value.to_owned()));
        }
    }
    kept
}

/// The address as text. One of IPv4 is written by hand: nearly every receipt has one, and the formatter takes long.
fn written(address: IpAddr) -> String {
    let IpAddr::V4(address) = address else {
        return address.to_string();
    };
    let mut text = String::with_capacity("255.255.255.255".len());
    for (at, octet) in address.octets().into_iter().enumerate() {
        if at > 0 {
            text.push('.');
        }
        for power in [100, 10, 1] {
            if octet >= power || power == 1 {
                text.push(char::from(b'0' + octet / power % 10));
            }
        }
    }
    text
}

/// The first byte that is no blank and no byte order mark.
fn first(body: &[u8]) -> Option<u8> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    body.iter().copied().find(|b| !b.is_ascii_whitespace())
}
