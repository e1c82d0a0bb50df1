//! How a connection comes to stand: TCP, through a proxy where there is one, then TLS where the URL asks for it, all
//! within one bound.

use std::path::Path;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use tokio_rustls::rustls::client::WantsClientCert;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, ConfigBuilder, RootCertStore};
use tower_service::Service;

use super::proxy::Proxies;
use super::tcp::TlsFiles;
use super::tunnel::Way;
use crate::Boxed;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A connection has to stand within this time: name, TCP and TLS together.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connector that gives up in time. The pool may go on connecting for a request that has gone, where no deadline of
/// that request reaches.
#[derive(Clone)]
pub(super) struct Bounded<C>(pub(super) C);

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send + 'static>,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = Boxed<'static, Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let connecting = self.0.call(to);
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected.map_err(Into::into),
                Err(_) => Err(format!("no connection within {} s", CONNECT_TIMEOUT.as_secs()).into()),
            }
        })
    }
}

/// Plain TCP, to the peer or to its proxy.
pub(super) fn tcp(proxies: Proxies) -> Way {
    let mut tcp = HttpConnector::new();
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(Duration::from_secs(30)));
    tcp.enforce_http(false);
    Way { tcp, proxies }
}

/// TLS, and nothing but TLS.
pub(super) fn tls(config: ClientConfig, proxies: Proxies) -> HttpsConnector<Way> {
    HttpsConnectorBuilder::new().with_tls_config(config).https_only().enable_http1().wrap_connector(tcp(proxies))
}

/// Trusts what this machine trusts, and `extra`. Reads files: not for an asynchronous thread.
pub(super) fn tls_config(extra: Vec<CertificateDer<'static>>) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    // A certificate of the machine that cannot be read is one fewer to trust, no reason to trust none.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots.add_parsable_certificates(extra);
    if roots.is_empty() {
        return Err("this machine trusts no certificate: install ca-certificates, or set ca_file".to_owned());
    }
    Ok(trusting(roots)?.with_no_client_auth())
}

/// Trusts what `files` say and nothing else, and shows their certificate. Reads files.
pub(super) fn mutual_tls_config(files: &TlsFiles<'_>) -> Result<ClientConfig, (&'static str, String)> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read_roots(files.ca).map_err(|message| ("ca", message))?);
    let certs = read_certificates(files.cert).map_err(|message| ("cert", message))?;
    // What is wrong with a key is not quoted.
    let key = PrivateKeyDer::from_pem_file(files.key)
        .map_err(|_| ("key", format!("{}: there is no key in PEM that can be read", files.key.display())))?;
    let config = trusting(roots).map_err(|message| ("ca", message))?.with_client_auth_cert(certs, key);
    config.map_err(|e| ("cert", format!("{}: does not go with its key: {e}", files.cert.display())))
}

fn trusting(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, String> {
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    Ok(config.with_root_certificates(roots))
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |what: String| format!("{}: {what}", file.display());
    let pem = std::fs::read(file).map_err(|e| fault(e.to_string()))?;
    let found: Vec<_> =
        CertificateDer::pem_slice_iter(&pem).collect::<Result<_, _>>().map_err(|e| fault(format!("not PEM: {e}")))?;
    if found.is_empty() {
        return Err(fault("holds no certificate; it has to be PEM (-----BEGIN CERTIFICATE-----)".to_owned()));
    }
    Ok(found)
}

/// The certificates of a PEM file; every one of them has to be usable.
pub(super) fn read_roots(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let fault = |what: String| format!("{}: {what}", file.display());
    let roots = read_certificates(file)?;
    let mut store = RootCertStore::empty();
    for root in &roots {
        store.add(root.clone()).map_err(|e| fault(format!("not a usable certificate: {e}")))?;
    }
    Ok(roots)
}
