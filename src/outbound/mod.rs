//! The one HTTP client: what sinks speak to their peers with; and [`Dial`], for peers that do not speak HTTP.
//!
//! A [`Client`] sends one request and reads one answer, both small. It follows no redirect, verifies TLS always, and
//! bounds everything that it reads: a peer can be slow, broken or hostile, and costs no more than one try. It knows no
//! deadline beside the ten seconds that a connection may take to stand: whoever tries wraps the try in one, and drops
//! it; nothing of a dropped request lives on. A peer may be reached through a proxy ([`Proxies`]).
//!
//! [`judge()`] says what follows from an answer, alike for every sink.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HeaderValue, PROXY_AUTHORIZATION, USER_AGENT};
use http::{HeaderMap, Method, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Body as _, Incoming};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::client::legacy::{self, Builder};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::sync::OnceCell;
use tokio_rustls::rustls::pki_types::CertificateDer;

mod connect;
mod failure;
mod judge;
mod proxy;
mod tcp;
mod tunnel;

pub use failure::Failure;
pub use judge::{Verdict, answer_text, asked_pause_ms, judge};
pub use proxy::{Except, Proxies, Proxy};
pub use tcp::{Dial, Duplex, TlsFiles};

use connect::Bounded;
use tunnel::Way;

use crate::secret::Secret;

/// A connection that stands unused for longer is closed.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Connections kept for the next request, for each host: as many as a sink has under way, and more.
const IDLE_PER_HOST_MAX: usize = 64;
/// An answer whose head is larger is a failure.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// TLS for a peer that neither speaks HTTP nor is dialled: trusts what this machine trusts, and `ca_file`. Reads files.
#[cfg(feature = "postgres")]
pub fn tls_client(
    ca_file: Option<&std::path::Path>,
) -> Result<std::sync::Arc<tokio_rustls::rustls::ClientConfig>, String> {
    let extra = ca_file.map_or(Ok(Vec::new()), connect::read_roots)?;
    connect::tls_config(extra).map(std::sync::Arc::new)
}

/// How a client is to behave.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A PEM file of certificates to be trusted beside those of this machine.
    pub ca_file: Option<PathBuf>,
    /// A larger answer is a failure, in bytes.
    pub answer_bytes_max: usize,
    /// Through which proxy which peer is reached.
    pub proxies: Proxies,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { ca_file: None, answer_bytes_max: 1 << 20, proxies: Proxies::default() }
    }
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// Absolute, `http` or `https`.
    pub url: Uri,
    /// Beside `host`, `content-length` and `user-agent`, which the client adds where they are missing.
    pub headers: HeaderMap,
    /// The body; may be empty.
    pub body: Bytes,
}

/// What the peer answered, whole.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// The part of a URL that a peer's paths are appended to: http or https, without a slash at its end. `example` is shown
/// where the URL is none.
pub fn base_url(url: &str, example: &str) -> Result<String, String> {
    let base = url.trim_end_matches('/');
    let hint = || format!("has to be an http or https URL without user, password or query; write it like {example:?}");
    let read: Uri = base.parse().map_err(|_| hint())?;
    let is_plain = matches!(read.scheme_str(), Some("http" | "https"))
        && read.host().is_some_and(|host| !host.is_empty())
        && read.authority().is_some_and(|authority| !authority.as_str().contains('@'))
        && read.query().is_none()
        && !base.contains('#');
    is_plain.then(|| base.to_owned()).ok_or_else(hint)
}

/// A header's value that is a secret: nothing prints it.
pub fn secret_value(secret: &Secret) -> Result<HeaderValue, String> {
    let mut value = HeaderValue::try_from(secret.expose())
        .map_err(|_| "its value has a line break or another character that no header may have".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

type Hyper<C> = legacy::Client<Bounded<C>, Full<Bytes>>;

/// Sends requests and reads answers; keeps connections for the next ones. Share it.
pub struct Client {
    plain: Hyper<Way>,
    /// Made at the first use: the machine's certificates are worth their memory only to those who need them.
    tls: OnceCell<Hyper<HttpsConnector<Way>>>,
    extra_roots: Vec<CertificateDer<'static>>,
    answer_bytes_max: usize,
    proxies: Proxies,
}

impl Client {
    /// Reads `ca_file`, and nothing else yet.
    pub fn new(settings: &Settings) -> Result<Client, String> {
        let extra_roots = settings.ca_file.as_deref().map_or(Ok(Vec::new()), connect::read_roots)?;
        let (proxies, answer_bytes_max) = (settings.proxies.clone(), settings.answer_bytes_max);
        let plain = hyper_client(connect::tcp(proxies.clone()));
        Ok(Client { plain, tls: OnceCell::new(), extra_roots, answer_bytes_max, proxies })
    }

    /// Sends one request and reads the answer, whatever its status. Dropped on the way, it closes the connection.
    pub async fn send(&self, request: Request) -> Result<Answer, Failure> {
        let Request { method, url, headers, body } = request;
        let secure = match (url.scheme_str(), url.host()) {
            (_, None | Some("")) => return Err(Failure::Url("it names no host".to_owned())),
            (Some("http"), _) => false,
            (Some("https"), _) => true,
            _ => return Err(Failure::Url("it is neither http nor https".to_owned())),
        };
        // In a tunnel, the proxy sees nothing of the request.
        let asked = self.proxies.of(&url).filter(|_| !secure).cloned();
        let mut wire = http::Request::new(Full::new(body));
        *wire.method_mut() = method;
        *wire.uri_mut() = url;
        *wire.headers_mut() = headers;
        wire.headers_mut()
            .entry(USER_AGENT)
            .or_insert(HeaderValue::from_static(concat!("callbackd/", env!("CARGO_PKG_VERSION"))));
        if let Some(value) = asked.as_ref().and_then(|proxy| proxy.authorization.clone()) {
            wire.headers_mut().insert(PROXY_AUTHORIZATION, value);
        }
        let answered = if secure { self.tls().await?.request(wire).await } else { self.plain.request(wire).await };
        let answer = self.read(answered.map_err(Failure::of_request)?).await?;
        match asked {
            None => Ok(answer),
            // Of the proxy alone; the peer has not seen it.
            Some(_) if answer.status == 407 => {
                Err(Failure::Connect("the proxy wants a credential, or another one (407)".to_owned()))
            }
            Some(proxy) => Ok(Answer { body: proxy.redacted(answer.body), ..answer }),
        }
    }

    async fn tls(&self) -> Result<&Hyper<HttpsConnector<Way>>, Failure> {
        let make = async || {
            let (extra, proxies) = (self.extra_roots.clone(), self.proxies.clone());
            let config = tokio::task::spawn_blocking(|| connect::tls_config(extra)).await;
            let config = config.map_err(|_| Failure::Tls("the certificates could not be loaded".to_owned()))?;
            config.map(|config| hyper_client(connect::tls(config, proxies))).map_err(Failure::Tls)
        };
        self.tls.get_or_try_init(make).await
    }

    async fn read(&self, answer: http::Response<Incoming>) -> Result<Answer, Failure> {
        let (head, body) = answer.into_parts();
        let too_large = Failure::TooLarge { status: head.status.as_u16(), bytes_max: self.answer_bytes_max };
        if body.size_hint().lower() > self.answer_bytes_max as u64 {
            return Err(too_large);
        }
        match Limited::new(body, self.answer_bytes_max).collect().await {
            Ok(body) => Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() }),
            Err(e) if e.is::<LengthLimitError>() => Err(too_large),
            Err(e) => Err(Failure::of_body(&*e)),
        }
    }
}

fn hyper_client<C>(connector: C) -> Hyper<C>
where
    C: Clone,
    Bounded<C>: Connect,
{
    let mut builder: Builder = legacy::Client::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE_TIMEOUT).pool_max_idle_per_host(IDLE_PER_HOST_MAX);
    builder.http1_max_buf_size(HEAD_BYTES_MAX).build(Bounded(connector))
}
