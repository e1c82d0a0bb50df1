//! Tencent Cloud CI (数据万象) as it is called: one signed request, and what its answer means.
//!
//! A leaf, because a source asks with it and a sink triggers with it, and the two do not know one another. The calls are
//! those of the CI documentation ("Get Workflow Instance Details", "Get Workflow Instance List", "Trigger Workflow");
//! each is signed anew, for fifteen minutes that begin one minute ago, because clocks differ. Only `host` and the
//! token of temporary credentials are signed: a proxy may change everything else.
//!
//! Where a request goes is the configuration's to say, never a callback's. What CI answers to a bad signature repeats
//! what was signed: of an error only its code, its message and its request's id are kept, and no credential.

use std::path::PathBuf;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderMap, HeaderValue, Method, Uri};

use crate::model::Time;
use crate::options::{BuildContext, Faults};
use crate::outbound::{self, Answer, Client, Failure, Request, Settings, Verdict};
use crate::secret::{Secret, SecretSpec};
use crate::signature::cos::{self, Signed, encoded};

mod object;
mod reply;

pub use object::{decoded, key_of};
pub use reply::Element;

/// A signature holds from a minute before to so many seconds after.
const SECONDS_BEFORE: i64 = 60;
const SECONDS_AFTER: i64 = 840;
const WORDS_CHARS_MAX: usize = 300;

/// As whom CI is called, and in which region: what adapters have in common, as their configuration says it.
pub struct Access {
    /// Of an account that may do no more than it has to.
    pub secret_id: SecretSpec,
    /// Its key.
    pub secret_key: SecretSpec,
    /// Of temporary credentials.
    pub security_token: Option<SecretSpec>,
    /// `ap-chongqing`.
    pub region: Option<String>,
    /// Instead of Tencent's own address.
    pub url: Option<String>,
    /// A PEM file of certificates to be trusted beside those of this machine.
    pub ca_file: Option<PathBuf>,
    /// A larger answer is a failure, in bytes.
    pub answer_bytes_max: usize,
}

/// Calls CI. Share it.
pub struct Ci {
    client: Client,
    secret_id: Secret,
    secret_key: Secret,
    security_token: Option<Secret>,
    place: Place,
}

enum Place {
    /// This address, whichever bucket is meant.
    Url(String),
    Region(String),
}

/// One call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// The bucket that it concerns.
    pub bucket: &'a str,
    /// The method.
    pub method: Method,
    /// The path, as it is meant: it is encoded on the wire.
    pub path: String,
    /// The query's parameters.
    pub query: Vec<(&'static str, String)>,
}

/// What is kept of a call: for an attempt.
#[derive(Debug, Default)]
pub struct Seen {
    /// The HTTP status.
    pub status: Option<u16>,
    /// The start of the answer, without secrets.
    pub answer: Option<String>,
}

/// Why a call did not do what it should. The reasons are for a person, and without secrets.
#[derive(Debug, PartialEq, Eq)]
pub enum Fault {
    /// Worth another try.
    Retry {
        /// Not before this many milliseconds, where CI said so.
        after_ms: Option<u64>,
        /// Why.
        reason: String,
        /// Whether CI may have done it all the same.
        in_doubt: bool,
    },
    /// It refuses the credential, what the credential may do, or the bucket: every call would fail alike.
    Halt {
        /// Why.
        reason: String,
    },
    /// It says that what was asked for is not there. A 404 that is not CI's own does not say so.
    Missing {
        /// Why.
        reason: String,
    },
    /// It will not do this.
    Refused {
        /// Why.
        reason: String,
        /// Whether CI said so in its own words, and not somebody on the way.
        in_its_words: bool,
    },
}

impl Access {
    /// Whoever calls with it, or what is wrong: kept as faults of the section's keys, and `None`.
    pub fn build(self, context: &BuildContext<'_>, faults: &mut Faults<'_>) -> Option<Ci> {
        let secrets = context.secrets;
        let secret_id = faults.keep("secret_id", secrets.resolve(&self.secret_id).and_then(fit_for_a_header));
        let secret_key = faults.keep("secret_key", secrets.resolve(&self.secret_key));
        let token = self.security_token.map(|spec| secrets.resolve(&spec).and_then(fit_for_a_header)).transpose();
        let security_token = faults.keep("security_token", token);
        let place = match (self.url, self.region) {
            (Some(url), _) => faults.keep("url", plain_url(&url)).map(Place::Url),
            (None, Some(region)) => faults.keep("region", part_of_a_host(region)).map(Place::Region),
            (None, None) => {
                faults.add("region", "is needed to call Tencent Cloud; write the bucket's, like \"ap-chongqing\"");
                None
            }
        };
        let answer_bytes_max = self.answer_bytes_max;
        let settings = Settings { ca_file: self.ca_file, answer_bytes_max, ..context.outbound.clone() };
        let client = faults.keep("ca_file", Client::new(&settings));
        Some(Ci {
            client: client?,
            secret_id: secret_id?,
            secret_key: secret_key?,
            security_token: security_token?,
            place: place?,
        })
    }
}

fn fit_for_a_header(secret: Secret) -> Result<Secret, String> {
    match HeaderValue::try_from(secret.expose()) {
        Ok(_) => Ok(secret),
        Err(_) => Err("has a line break or another character that no header may have; copy it again".to_owned()),
    }
}

/// A bucket or a region: what is put into a host's name must not make it another's.
pub fn part_of_a_host(text: String) -> Result<String, String> {
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let ends_plain = !text.starts_with('-') && !text.ends_with('-');
    if !text.is_empty() && text.len() <= 63 && text.bytes().all(is_plain) && ends_plain {
        return Ok(text);
    }
    Err(format!(
        "{text:?} is no name of Tencent's; a bucket is written like \"media-1250000000\", a region like \"ap-chongqing\""
    ))
}

/// What is signed is the host and the path, so that a path of the URL's own would be in the way.
fn plain_url(url: &str) -> Result<String, String> {
    let base = outbound::base_url(url, "https://media-1250000000.ci.ap-chongqing.myqcloud.com")?;
    let has_path = base.parse::<Uri>().map_or(true, |uri| uri.path() != "/");
    if has_path { Err("has to be without a path: the path is signed".to_owned()) } else { Ok(base) }
}

impl Ci {
    /// Where a call goes, for a person.
    pub fn shown(&self, call: &Call<'_>) -> String {
        format!("{} {}", call.method, self.url(call))
    }

    fn base(&self, bucket: &str) -> String {
        match &self.place {
            Place::Url(url) => url.clone(),
            Place::Region(region) => format!("https://{bucket}.ci.{region}.myqcloud.com"),
        }
    }

    fn url(&self, call: &Call<'_>) -> String {
        let path: Vec<_> = call.path.split('/').map(encoded).collect();
        let query: Vec<_> = call.query.iter().map(|(name, value)| format!("{name}={}", encoded(value))).collect();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{}{mark}{}", self.base(call.bucket), path.join("/"), query.join("&"))
    }

    fn request(&self, call: &Call<'_>, now: Time) -> Result<Request, String> {
        let url: Uri = self.url(call).parse().map_err(|_| "this makes no URL".to_owned())?;
        let authority = url.authority().map_or("", |a| a.as_str()).to_owned();
        let default_port = if url.scheme_str() == Some("https") { ":443" } else { ":80" };
        let host = authority.strip_suffix(default_port).unwrap_or(&authority);
        let mut signed = vec![("host", host)];
        let mut headers = HeaderMap::new();
        let header = |text: &str| HeaderValue::try_from(text).map_err(|_| "this makes no header".to_owned());
        // Said, not left to the client: what is signed is what is sent.
        headers.insert(HOST, header(host)?);
        if let Some(token) = &self.security_token {
            let mut value = header(token.expose())?;
            value.set_sensitive(true);
            headers.insert("x-cos-security-token", value);
            signed.push(("x-cos-security-token", token.expose()));
        }
        let parameters: Vec<_> = call.query.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let what = Signed { method: call.method.as_str(), path: &call.path, parameters: &parameters, headers: &signed };
        let seconds = (now.seconds() - SECONDS_BEFORE, now.seconds() + SECONDS_AFTER);
        let authorization = cos::authorization(self.secret_id.expose(), self.secret_key.expose(), seconds, &what);
        let mut value = header(&authorization)?;
        value.set_sensitive(true);
        headers.insert(AUTHORIZATION, value);
        Ok(Request { method: call.method.clone(), url, headers, body: Bytes::new() })
    }

    /// Calls once. What is told of success is the body's text.
    pub async fn call(&self, call: &Call<'_>, now: Time, seen: &mut Seen) -> Result<String, Fault> {
        let request = self.request(call, now).map_err(|reason| Fault::Refused { reason, in_its_words: false })?;
        let authorization = request.headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or("").to_owned();
        let sent = self.client.send(request).await;
        let redacted = sent.as_ref().ok().map(|answer| self.redacted(answer, &authorization));
        *seen = Seen { status: sent.as_ref().map_or_else(Failure::status, |answer| Some(answer.status)), answer: None };
        let error = redacted.as_ref().and_then(Error::of);
        seen.answer = redacted.as_ref().map(|answer| match &error {
            Some(error) => error.to_string(),
            None => outbound::answer_text(answer),
        });
        let with = |reason: String| match &error {
            Some(error) => format!("{reason}: {error}"),
            None => reason,
        };
        match outbound::judge(&sent, now) {
            Verdict::Taken => {
                let body = sent.map_err(|failure| unread(&failure.to_string()))?.body;
                String::from_utf8(body.into()).map_err(|_| unread("answered with something that is not UTF-8"))
            }
            Verdict::Retry { after_ms, reason } => {
                let untaken = matches!(&sent, Err(Failure::Connect(_) | Failure::Tls(_)))
                    || sent.is_ok_and(|answer| answer.status == 429);
                Err(Fault::Retry { after_ms, reason: with(reason), in_doubt: !untaken })
            }
            Verdict::Unauthorized { reason } | Verdict::Reject { reason } => {
                Err(refused(seen.status.unwrap_or(0), with(reason), error.as_ref()))
            }
        }
    }

    /// The answer without what must not be kept. Redacted before it is cut: half a secret is one.
    fn redacted(&self, answer: &Answer, authorization: &str) -> Answer {
        let mut text = String::from_utf8_lossy(&answer.body).into_owned();
        let signature = authorization.rsplit("q-signature=").next().unwrap_or_default();
        let token = self.security_token.as_ref().map(Secret::expose);
        let secrets = [Some(self.secret_key.expose()), token, Some(self.secret_id.expose()), Some(signature)];
        for secret in secrets.into_iter().flatten().filter(|secret| !secret.is_empty()) {
            if text.contains(secret) {
                text = text.replace(secret, "[secret]");
            }
        }
        Answer { body: Bytes::from(text), ..answer.clone() }
    }
}

fn unread(reason: &str) -> Fault {
    Fault::Retry { after_ms: None, reason: reason.to_owned(), in_doubt: true }
}

/// What follows from a refusal. A 404 or 403 without CI's own words comes from somewhere on the way.
fn refused(status: u16, reason: String, error: Option<&Error>) -> Fault {
    let Some(error) = error else {
        return match status {
            401 => Fault::Halt { reason },
            _ => Fault::Refused { reason, in_its_words: false },
        };
    };
    match (status, error.code.as_str()) {
        // The clock is mended without anybody's telling us.
        (_, "RequestTimeTooSkewed" | "RequestIsExpired" | "RequestExpired") => Fault::Retry {
            after_ms: None,
            reason: format!("{reason}; the clock of this machine is wrong"),
            in_doubt: false,
        },
        (_, "SignatureDoesNotMatch") => Fault::Halt { reason: format!("{reason}; check secret_key") },
        (_, "InvalidAccessKeyId") => Fault::Halt { reason: format!("{reason}; check secret_id") },
        // A bucket that is not there is a wrong configuration: it says nothing of what was asked for.
        (404, "NoSuchBucket") => Fault::Halt { reason: format!("{reason}; check bucket and region") },
        (404, _) => Fault::Missing { reason },
        (401 | 403, _) => {
            Fault::Halt { reason: format!("{reason}; the account of secret_id has to be allowed to do this") }
        }
        _ => Fault::Refused { reason, in_its_words: true },
    }
}

/// CI's own words for an error.
struct Error {
    code: String,
    message: String,
    request: Option<String>,
}

impl Error {
    fn of(answer: &Answer) -> Option<Error> {
        // What was signed is repeated behind the words, and may hold signs that should have been escaped.
        let (root, _) = Element::read_start(std::str::from_utf8(&answer.body).ok()?);
        let text = |name: &str| root.text(&["Error", name]);
        let short = |text: &str| -> String {
            text.chars().take(WORDS_CHARS_MAX).map(|c| if c.is_control() { ' ' } else { c }).collect()
        };
        Some(Error {
            code: short(text("Code")?),
            message: short(text("Message").unwrap_or_default()),
            request: text("RequestId").map(short),
        })
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.code)?;
        if !self.message.is_empty() {
            write!(f, ": {}", self.message)?;
        }
        match &self.request {
            Some(id) => write!(f, " (request {id})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
