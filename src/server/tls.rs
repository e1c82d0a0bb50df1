//! The certificate that TLS is served with, read again when its files change.
//!
//! Files are looked at when a connection comes, at most every few seconds: no watcher, no signal, and whatever renews
//! certificates only has to write them. A pair that does not fit together, as between the writing of one file and the
//! other, leaves the old one in use.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
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

/// A certificate chain and its key, as PEM files.
pub struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    current: Mutex<Current>,
}

struct Current {
    config: Arc<ServerConfig>,
    stamp: Stamp,
    looked: Instant,
}

/// What tells one version of the files from another.
type Stamp = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    /// Reads both files.
    pub fn read(cert: PathBuf, key: PathBuf) -> Result<Certificate, TlsError> {
        let stamp = stamp(&cert, &key);
        let config = Arc::new(server_config(&cert, &key)?);
        let current = Mutex::new(Current { config, stamp, looked: Instant::now() });
        Ok(Certificate { cert, key, current })
    }

    /// What the next handshake is served with.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.looked.elapsed() >= LOOK_AGAIN {
            current.looked = Instant::now();
            // Remembered even when the pair is bad, so that it is complained of once, until the files change again.
            let found = stamp(&self.cert, &self.key);
            if std::mem::replace(&mut current.stamp, found) != found {
                self.take(&mut current);
            }
        }
        Arc::clone(&current.config)
    }

    /// Reads the files now, changed or not: for a reload, which should not wait.
    pub fn refresh(&self) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.stamp = stamp(&self.cert, &self.key);
        self.take(&mut current);
    }

    fn take(&self, current: &mut Current) {
        match server_config(&self.cert, &self.key) {
            Ok(config) => {
                current.config = Arc::new(config);
                tracing::info!(tls.cert = %self.cert.display(), "took a new certificate");
            }
            Err(e) => tracing::warn!(error = %e, "the new certificate cannot be used; keeping the old one"),
        }
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

    #[test]
    fn a_bad_new_pair_keeps_the_old_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        write_pair(&cert, &key);
        let certificate = Certificate::read(cert.clone(), key.clone()).expect("read");
        let first = certificate.current();

        write_pair(&folder.path().join("other.pem"), &key);
        certificate.refresh();
        assert!(Arc::ptr_eq(&first, &certificate.current()), "half of a new pair is not taken");

        std::fs::remove_file(&cert).expect("removed");
        certificate.refresh();
        assert!(Arc::ptr_eq(&first, &certificate.current()), "a missing file is not the end");

        write_pair(&cert, &key);
        certificate.refresh();
        assert!(!Arc::ptr_eq(&first, &certificate.current()), "a whole new pair is taken");
    }

    #[test]
    fn changed_files_are_found_when_it_is_time_to_look() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        write_pair(&cert, &key);
        let certificate = Certificate::read(cert.clone(), key.clone()).expect("read");
        let first = certificate.current();
        let long_ago = |certificate: &Certificate| {
            certificate.current.lock().expect("sound").looked = Instant::now().checked_sub(LOOK_AGAIN).expect("a time");
        };
        long_ago(&certificate);
        assert!(Arc::ptr_eq(&first, &certificate.current()), "unchanged files are not read again");

        write_pair(&cert, &key);
        let later = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        std::fs::File::options().write(true).open(&key).and_then(|f| f.set_modified(later)).expect("touched");
        assert!(Arc::ptr_eq(&first, &certificate.current()), "not looked at with every connection");
        long_ago(&certificate);
        assert!(!Arc::ptr_eq(&first, &certificate.current()), "a new pair is taken");
    }

    #[test]
    fn what_is_wrong_is_said_of_its_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let fault = || Certificate::read(cert.clone(), key.clone()).err().expect("refused").to_string();
        assert!(fault().contains("cert.pem"), "{}", fault());
        write_pair(&cert, &key);
        std::fs::write(&key, "nothing").expect("written");
        assert!(fault().contains("key.pem"), "{}", fault());
        std::fs::write(&cert, "nothing").expect("written");
        assert!(fault().contains("no certificate"), "{}", fault());
    }
}
