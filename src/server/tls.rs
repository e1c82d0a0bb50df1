//! The certificate that TLS is served with, read again when its files change.
//!
//! Files are looked at when a connection comes, at most every few seconds: no watcher, no signal, and whatever renews
//! certificates only has to write them. A pair that does not fit together, as between the writing of one file and the
//! other, leaves the old one in use. A reload reads its [`Pair`] first, and is none when that cannot be used.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::time::Instant;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

/// How long the files are believed not to have changed.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// What is wrong with a certificate or its key.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as what it should be.
    #[error("{0}: {1}")]
    File(PathBuf, String),
    /// The two do not make a pair.
    #[error("{cert} and {key}: {reason}", cert = .0.display(), key = .1.display(), reason = .2)]
    Pair(PathBuf, PathBuf, rustls::Error),
}

/// A certificate chain and its key, as PEM files that were read and go together.
pub struct Pair {
    cert: PathBuf,
    key: PathBuf,
    stamp: Stamp,
    config: Arc<ServerConfig>,
}

/// What TLS is served with.
pub struct Certificate(Mutex<Current>);

struct Current {
    pair: Pair,
    looked: Instant,
}

/// What tells one version of the files from another.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Pair {
    /// Reads both files.
    pub fn read(cert: PathBuf, key: PathBuf) -> Result<Pair, TlsError> {
        let stamp = stamp(&cert, &key);
        let config = Arc::new(server_config(&cert, &key)?);
        Ok(Pair { cert, key, stamp, config })
    }
}

impl Certificate {
    /// Serves this pair.
    pub fn new(pair: Pair) -> Certificate {
        Certificate(Mutex::new(Current { pair, looked: Instant::now() }))
    }

    /// Serves this pair from now on.
    pub fn take(&self, pair: Pair) {
        self.lock().take(pair);
    }

    /// What the next handshake is served with.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.lock();
        if current.looked.elapsed() >= LOOK_AGAIN {
            current.looked = Instant::now();
            let Pair { cert, key, stamp: known, .. } = &current.pair;
            let found = stamp(cert, key);
            if found != *known {
                match Pair::read(cert.clone(), key.clone()) {
                    Ok(pair) => current.take(pair),
                    Err(e) => {
                        // Complained of once, until the files change again.
                        current.pair.stamp = found;
                        tracing::warn!(error = %e, "the new certificate cannot be used; keeping the old one");
                    }
                }
            }
        }
        Arc::clone(&current.pair.config)
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Current {
    fn take(&mut self, pair: Pair) {
        tracing::info!(tls.cert = %pair.cert.display(), "took a new certificate");
        self.pair = pair;
    }
}

fn stamp(cert: &Path, key: &Path) -> Stamp {
    [cert, key].map(|path| std::fs::metadata(path).and_then(|m| Ok((m.modified()?, m.len()))).ok())
}

fn server_config(cert: &Path, key: &Path) -> Result<ServerConfig, TlsError> {
    let unread = |path: &Path, e: rustls::pki_types::pem::Error| TlsError::File(path.to_owned(), e.to_string());
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>())
        .map_err(|e| unread(cert, e))?;
    if chain.is_empty() {
        return Err(TlsError::File(cert.to_owned(), "holds no certificate in PEM".to_owned()));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(|e| unread(key, e))?;
    let pair = |e| TlsError::Pair(cert.to_owned(), key.to_owned(), e);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes a fresh self-signed pair.
    fn write_pair(cert: &Path, key: &Path) {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a pair");
        std::fs::write(cert, made.cert.pem()).expect("written");
        std::fs::write(key, made.signing_key.serialize_pem()).expect("written");
    }

    fn is_served(certificate: &Certificate, config: &Arc<ServerConfig>) -> bool {
        Arc::ptr_eq(config, &certificate.current())
    }

    /// As if it had been looked at long ago, and the key written long after.
    fn time_passes(certificate: &Certificate, key: &Path) {
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        std::fs::File::options().write(true).open(key).and_then(|f| f.set_modified(later)).expect("touched");
        certificate.lock().looked = Instant::now().checked_sub(LOOK_AGAIN).expect("a time");
    }

    #[test]
    fn a_bad_new_pair_keeps_the_old_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        write_pair(&cert, &key);
        let certificate = Certificate::new(Pair::read(cert.clone(), key.clone()).expect("read"));
        let first = certificate.current();

        write_pair(&folder.path().join("other.pem"), &key);
        time_passes(&certificate, &key);
        assert!(is_served(&certificate, &first), "half of a new pair is not taken");

        std::fs::remove_file(&cert).expect("removed");
        time_passes(&certificate, &key);
        assert!(is_served(&certificate, &first), "a missing file is not the end");

        write_pair(&cert, &key);
        time_passes(&certificate, &key);
        assert!(!is_served(&certificate, &first), "a whole new pair is taken");
    }

    #[test]
    fn changed_files_are_found_when_it_is_time_to_look() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        write_pair(&cert, &key);
        let certificate = Certificate::new(Pair::read(cert.clone(), key.clone()).expect("read"));
        let first = certificate.current();
        certificate.lock().looked = Instant::now().checked_sub(LOOK_AGAIN).expect("a time");
        assert!(is_served(&certificate, &first), "unchanged files are not read again");

        write_pair(&cert, &key);
        assert!(is_served(&certificate, &first), "not looked at with every connection");
        time_passes(&certificate, &key);
        assert!(!is_served(&certificate, &first), "a new pair is taken");
    }

    #[test]
    fn a_pair_may_lie_elsewhere_from_now_on() {
        let folder = tempfile::tempdir().expect("a folder");
        let [old, new] = ["old", "new"].map(|name| {
            let (cert, key) = (folder.path().join(name), folder.path().join(format!("{name}.key")));
            write_pair(&cert, &key);
            (cert, key)
        });
        let certificate = Certificate::new(Pair::read(old.0.clone(), old.1.clone()).expect("read"));
        let pair = Pair::read(new.0.clone(), new.1.clone()).expect("read");
        let taken = Arc::clone(&pair.config);
        certificate.take(pair);
        assert!(is_served(&certificate, &taken));
        write_pair(&old.0, &old.1);
        time_passes(&certificate, &old.1);
        assert!(is_served(&certificate, &taken), "the old files are not looked at any more");
        write_pair(&new.0, &new.1);
        time_passes(&certificate, &new.1);
        assert!(!is_served(&certificate, &taken));
    }

    #[test]
    fn what_is_wrong_is_said_of_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let fault = || Pair::read(cert.clone(), key.clone()).err().expect("refused").to_string();
        assert!(fault().contains("cert.pem"), "{}", fault());
        write_pair(&cert, &key);
        std::fs::write(&key, "nothing").expect("written");
        assert!(fault().contains("key.pem"), "{}", fault());
        std::fs::write(&cert, "nothing").expect("written");
        assert!(fault().contains("no certificate"), "{}", fault());
    }
}
