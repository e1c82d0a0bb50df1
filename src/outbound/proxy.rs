//! Through which proxy a peer is reached, if through any: what `[outbound]` says, or what the environment's usual
//! variables mean to other programs (`HTTPS_PROXY`, `NO_PROXY` and the like; curl's manual, "ENVIRONMENT").
//!
//! An `http` URL is asked of the proxy whole (RFC 9112, 3.2.2); to an `https` URL's host the proxy opens a tunnel (RFC
//! 9110, 9.3.6), in which TLS is the peer's own. What is on this machine is never looked for through a proxy.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::header::HeaderValue;
use http::{Uri, uri};
use ipnet::IpNet;

use crate::secret::Secret;
use crate::signature;

/// Which proxy for which URL; none, by default.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    http: Option<Arc<Proxy>>,
    https: Option<Arc<Proxy>>,
    except: Arc<[Except]>,
}

impl Proxies {
    /// Proxies for `http` and for `https` URLs, and what is reached without them.
    pub fn new(http: Option<Proxy>, https: Option<Proxy>, except: Vec<Except>) -> Proxies {
        Proxies { http: http.map(Arc::new), https: https.map(Arc::new), except: except.into() }
    }

    /// The proxy for this URL.
    pub(super) fn of(&self, url: &Uri) -> Option<&Arc<Proxy>> {
        let proxy = if url.scheme_str() == Some("https") { &self.https } else { &self.http };
        let host = url.host()?.trim_start_matches('[').trim_end_matches(']');
        let address: Option<IpAddr> = host.parse().ok();
        let is_here = host.eq_ignore_ascii_case("localhost") || address.is_some_and(|a| a.to_canonical().is_loopback());
        let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
        let is_excepted = || self.except.iter().any(|except| except.holds(host, address, port));
        proxy.as_ref().filter(|_| !is_here && !is_excepted())
    }
}

/// One HTTP proxy. `Debug` does not show its credential.
#[derive(Clone)]
pub struct Proxy {
    pub(super) url: Uri,
    /// Sent to the proxy alone.
    pub(super) authorization: Option<HeaderValue>,
    /// Every form in which the credential could come back.
    secrets: Vec<Secret>,
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.url)
    }
}

impl Proxy {
    /// Reads `http://user:password@host:port`; user and password are percent-encoded, and may be missing. The fault
    /// never quotes the text.
    pub fn parse(text: &str) -> Result<Proxy, String> {
        let hint = || "is no HTTP proxy; write one like \"http://proxy.example.com:3128\"".to_owned();
        let text = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
        let read: Uri = text.parse().map_err(|_| hint())?;
        let authority = read.authority().ok_or_else(hint)?.as_str();
        let (credential, address) = authority.rsplit_once('@').map_or((None, authority), |(c, a)| (Some(c), a));
        let is_plain = read.scheme_str() == Some("http") && matches!(read.path(), "" | "/") && read.query().is_none();
        if !is_plain || read.host().is_none_or(str::is_empty) || text.contains('#') {
            return Err(hint());
        }
        let url = uri::Builder::new().scheme("http").authority(address).path_and_query("/").build();
        let url = url.map_err(|_| hint())?;
        let Some(credential) = credential else { return Ok(Proxy { url, authorization: None, secrets: Vec::new() }) };
        // RFC 7617: the user has no colon.
        let (user, password) = credential.split_once(':').unwrap_or((credential, ""));
        let plain = [percent_decoded(user), vec![b':'], percent_decoded(password)].concat();
        let encoded = signature::base64(&plain);
        let mut authorization = HeaderValue::try_from(format!("Basic {encoded}")).map_err(|_| hint())?;
        authorization.set_sensitive(true);
        let decoded = String::from_utf8_lossy(&percent_decoded(password)).into_owned();
        let secrets = [encoded, password.to_owned(), decoded].into_iter().filter(|text| text.len() >= 4);
        Ok(Proxy { url, authorization: Some(authorization), secrets: secrets.map(Secret::new).collect() })
    }

    /// The text without the credential, should the proxy repeat it.
    pub(super) fn redacted(&self, body: bytes::Bytes) -> bytes::Bytes {
        let text = String::from_utf8_lossy(&body);
        match self.secrets.iter().any(|secret| text.contains(secret.expose())) {
            false => body,
            true => {
                let redact = |text: String, secret: &Secret| text.replace(secret.expose(), "[secret]");
                self.secrets.iter().fold(text.into_owned(), redact).into()
            }
        }
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match escaped.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                decoded.push(byte);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}

/// What is reached without a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Except {
    what: What,
    port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Everything,
    Net(IpNet),
    /// In lower case, without a dot before it: the domain, and all below it.
    Domain(String),
}

impl Except {
    /// Reads `*`, `example.com` (with all below it; `.example.com` and `*.example.com` are the same), `10.1.2.3`,
    /// `10.0.0.0/8` or `fd00::/8`, the first ones also with a port.
    pub fn parse(text: &str) -> Result<Except, String> {
        let text = text.trim();
        let net = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        if let Some(net) = net(text.trim_start_matches('[').trim_end_matches(']')) {
            return Ok(Except { what: What::Net(net), port: None });
        }
        let with_port = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
        let (host, port) = with_port.map_or((text, None), |(host, port)| (host, Some(port)));
        if host == "*" {
            return Ok(Except { what: What::Everything, port });
        }
        if let Some(net) = net(host.trim_start_matches('[').trim_end_matches(']')) {
            return Ok(Except { what: What::Net(net), port });
        }
        let domain = host.strip_prefix("*.").or(host.strip_prefix('.')).unwrap_or(host).trim_end_matches('.');
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if domain.is_empty() || !domain.chars().all(is_name) {
            return Err(format!("{text:?} is no host, domain or network; write \"example.com\" or \"10.0.0.0/8\""));
        }
        Ok(Except { what: What::Domain(domain.to_ascii_lowercase()), port })
    }

    fn holds(&self, host: &str, address: Option<IpAddr>, port: u16) -> bool {
        if self.port.is_some_and(|only| only != port) {
            return false;
        }
        match &self.what {
            What::Everything => true,
            What::Net(net) => address.is_some_and(|address| net.contains(&address.to_canonical())),
            What::Domain(domain) => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                host.strip_suffix(domain.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_read_and_its_credential_never_shown() {
        for (text, url, authorization) in [
            ("http://proxy.example.com:3128", "http://proxy.example.com:3128/", None),
            ("proxy.example.com:3128", "http://proxy.example.com:3128/", None),
            ("http://[fd00::1]:3128/", "http://[fd00::1]:3128/", None),
            // RFC 7617, 2.
            ("http://Aladdin:open%20sesame@proxy:1", "http://proxy:1/", Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==")),
            ("http://me@proxy:1", "http://proxy:1/", Some("Basic bWU6")),
            ("http://me:100%@proxy:1", "http://proxy:1/", Some("Basic bWU6MTAwJQ==")),
        ] {
            let proxy = Proxy::parse(text).expect(text);
            assert_eq!(format!("{proxy:?}"), url);
            assert_eq!(proxy.authorization.as_ref().map(|value| value.to_str().expect("ASCII")), authorization);
            assert!(proxy.authorization.is_none_or(|value| value.is_sensitive()));
        }
        for bad in ["", "https://proxy:1", "socks5://proxy:1", "http://", "http://p/a", "http://p?a=hunter2", "a b"] {
            let said = Proxy::parse(bad).expect_err(bad);
            assert!(said.contains("is no HTTP proxy") && !said.contains("hunter2"), "{said}");
        }
        let proxy = Proxy::parse("http://me:open%20sesame@proxy:1").expect("a proxy");
        let said = "no open sesame, no open%20sesame, no bWU6b3BlbiBzZXNhbWU=";
        assert_eq!(proxy.redacted(said.into()), "no [secret], no [secret], no [secret]");
    }

    #[test]
    fn what_is_excepted_is_reached_directly() {
        let proxy = |text| Some(Proxy::parse(text).expect(text));
        let except =
            ["example.com", ".corp", "*.lab", "10.0.0.0/8", "fd00::/8", "192.0.2.7", "one.test:8080", "[::2]:9"];
        let except = except.map(|text| Except::parse(text).expect(text)).to_vec();
        let proxies = Proxies::new(proxy("plain:1"), proxy("secure:1"), except);
        for (url, through) in [
            ("http://other.test/", Some("http://plain:1/")),
            ("https://other.test/", Some("http://secure:1/")),
            ("https://notexample.com/", Some("http://secure:1/")),
            ("https://example.com.test/", Some("http://secure:1/")),
            ("https://EXAMPLE.com/", None),
            ("https://example.com./", None),
            ("https://a.b.example.com:444/", None),
            ("https://a.corp/", None),
            ("https://lab/", None),
            ("http://10.1.2.3/", None),
            ("http://11.1.2.3/", Some("http://plain:1/")),
            ("http://[fd00::5]/", None),
            ("http://[fe00::5]/", Some("http://plain:1/")),
            ("http://192.0.2.7:99/", None),
            ("http://one.test:8080/", None),
            ("http://one.test/", Some("http://plain:1/")),
            ("http://[::2]:9/", None),
            ("https://[::2]:443/", Some("http://secure:1/")),
            // On this machine.
            ("http://localhost:8080/", None),
            ("http://127.0.0.9/", None),
            ("https://[::1]/", None),
            ("https://[::ffff:127.0.0.1]/", None),
        ] {
            let found = proxies.of(&url.parse().expect(url)).map(|proxy| format!("{proxy:?}"));
            assert_eq!(found.as_deref(), through, "{url}");
        }
        let nowhere = Proxies::new(proxy("plain:1"), None, vec![Except::parse("*").expect("all")]);
        assert!(nowhere.of(&"http://other.test/".parse().expect("a URL")).is_none());
        for bad in ["", " ", "a b", "http://x", "10.0.0.0/99"] {
            Except::parse(bad).expect_err(bad);
        }
    }
}
