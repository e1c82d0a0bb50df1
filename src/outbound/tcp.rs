//! Plain connections, for peers that do not speak HTTP: TCP, and TLS with a certificate of our own where it is asked for.
//!
//! The same bounds as for HTTP: a connection stands within ten seconds, TLS is always verified, and whoever exchanges
//! something on it wraps that in a deadline.

use std::io;
use std::path::Path;
use std::sync::Arc;

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::connect::{self, CONNECT_TIMEOUT};
use super::failure::{Failure, find};

/// What can be read from and written to.
pub trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Duplex for T {}

/// PEM files for TLS in which both sides show a certificate.
#[derive(Clone, Copy, Debug)]
pub struct TlsFiles<'a> {
    /// The only certificates that may have signed the peer's.
    pub ca: &'a Path,
    /// Our certificate, with those between it and its root.
    pub cert: &'a Path,
    /// Its key.
    pub key: &'a Path,
    /// What the peer's certificate has to name, where that is not the host that is called.
    pub name: Option<&'a str>,
}

/// Where to connect, and how.
pub struct Dial {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Dial {
    /// Reads `host:port`, `[::1]:port`, or a host alone, whose port is `port` then.
    pub fn new(address: &str, port: u16) -> Result<Dial, String> {
        let read: Option<Authority> = address.parse().ok().filter(|_| !address.contains('@'));
        let read = read.filter(|read| !read.host().is_empty());
        // A port that is none is skipped by `port_u16`.
        let read = read.filter(|read| read.as_str().len() == read.host().len() || read.port_u16().is_some());
        let read = read.ok_or_else(|| format!("has to be a host and a port; write it like \"host:{port}\""))?;
        let host = read.host().trim_matches(['[', ']']).to_owned();
        Ok(Dial { host, port: read.port_u16().unwrap_or(port), tls: None })
    }

    /// The same with TLS. Reads the files; a fault is said of one of the fields of `files`.
    pub fn with_tls(self, files: &TlsFiles<'_>) -> Result<Dial, (&'static str, String)> {
        let name = files.name.unwrap_or(&self.host).to_owned();
        let name =
            ServerName::try_from(name).map_err(|_| ("name", "this is no host's name and no address".to_owned()))?;
        let config = connect::mutual_tls_config(files)?;
        Ok(Dial { tls: Some((TlsConnector::from(Arc::new(config)), name)), ..self })
    }

    /// Connects.
    pub async fn connect(&self) -> Result<Box<dyn Duplex>, Failure> {
        match tokio::time::timeout(CONNECT_TIMEOUT, self.dial()).await {
            Ok(connected) => connected,
            Err(_) => Err(Failure::Connect(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()))),
        }
    }

    async fn dial(&self) -> Result<Box<dyn Duplex>, Failure> {
        let refused = |e: io::Error| match find::<tokio_rustls::rustls::Error>(&e) {
            Some(tls) => Failure::Tls(tls.to_string()),
            None => Failure::Connect(e.to_string()),
        };
        let stream = TcpStream::connect((&*self.host, self.port)).await.map_err(refused)?;
        stream.set_nodelay(true).map_err(refused)?;
        match &self.tls {
            None => Ok(Box::new(stream)),
            Some((connector, name)) => Ok(Box::new(connector.connect(name.clone(), stream).await.map_err(refused)?)),
        }
    }
}

impl std::fmt::Display for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let brackets = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        write!(f, "{}{}{}:{}", brackets.0, self.host, brackets.1, self.port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_a_host_and_a_port() {
        for (address, expected) in [
            ("zabbix.example.com:10052", "zabbix.example.com:10052"),
            ("zabbix.example.com", "zabbix.example.com:10051"),
            ("192.0.2.7", "192.0.2.7:10051"),
            ("[::1]:7", "[::1]:7"),
            ("[::1]", "[::1]:10051"),
        ] {
            assert_eq!(Dial::new(address, 10_051).expect(address).to_string(), expected);
        }
        for bad in ["", ":10051", "::1", "host:", "host:port", "host:99999", "me@host:1", "tcp://host:1", "a b"] {
            let said = Dial::new(bad, 10_051).map(drop).expect_err(bad);
            assert!(said.contains("\"host:10051\""), "{said}");
        }
    }
}
