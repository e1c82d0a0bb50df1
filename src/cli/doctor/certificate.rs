//! When a certificate ends: as much of X.509 (RFC 5280, section 4.1) as that takes.

use std::path::Path;

use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

use crate::model::Time;

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The end of the first certificate in a PEM file: the server's own.
pub(super) fn ends(file: &Path) -> Result<Time, String> {
    let said = |text: &str| format!("{}: {text}", file.display());
    let mut all = CertificateDer::pem_file_iter(file).map_err(|e| said(&e.to_string()))?;
    let first = all.next().ok_or_else(|| said("holds no certificate"))?.map_err(|e| said(&e.to_string()))?;
    not_after(&first).ok_or_else(|| said("its certificate cannot be read"))
}

/// One element of DER: its tag, what is in it, and what follows.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&[tag, length], rest) = der.split_first_chunk::<2>()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (bytes.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (inner, after) = rest.split_at_checked(length)?;
    Some((tag, inner, after))
}

fn expect(der: &[u8], expected: u8) -> Option<(&[u8], &[u8])> {
    element(der).filter(|(tag, ..)| *tag == expected).map(|(_, inner, after)| (inner, after))
}

fn not_after(der: &[u8]) -> Option<Time> {
    let (certificate, _) = expect(der, SEQUENCE)?;
    let (mut signed, _) = expect(certificate, SEQUENCE)?;
    if let Some((_, after)) = expect(signed, VERSION) {
        signed = after;
    }
    // Serial number, signature algorithm, issuer.
    for _ in 0..3 {
        (_, _, signed) = element(signed)?;
    }
    let (validity, _) = expect(signed, SEQUENCE)?;
    let (_, _, end) = element(validity)?;
    let (tag, text, _) = element(end)?;
    let text = std::str::from_utf8(text).ok().filter(|text| text.is_ascii())?;
    let (year, rest) = match tag {
        // Two digits, from 1950 on.
        UTC_TIME => {
            let (year, rest) = text.split_at_checked(2)?;
            (format!("{}{year}", if year < "50" { "20" } else { "19" }), rest)
        }
        GENERALIZED_TIME => text.split_at_checked(4).map(|(year, rest)| (year.to_owned(), rest))?,
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2);
    let (month, day, hour, minute, second) = (part(0)?, part(2)?, part(4)?, part(6)?, part(8)?);
    Time::parse(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}{}", rest.get(10..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_is_read_whatever_century_it_is_in() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cert.pem");
        let key = rcgen::KeyPair::generate().expect("a key");
        for (year, expected) in [(2031, "2031-02-03T00:00:00Z"), (2075, "2075-02-03T00:00:00Z")] {
            let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
            params.not_after = rcgen::date_time_ymd(year, 2, 3);
            std::fs::write(&file, params.self_signed(&key).expect("signed").pem()).expect("written");
            assert_eq!(ends(&file).expect("read").to_string(), expected);
        }
        let der = params_der();
        for cut in 0..der.len().min(200) {
            let _ = not_after(&der[..cut]);
        }
        std::fs::write(&file, "nothing").expect("written");
        assert!(ends(&file).expect_err("no certificate").contains("cert.pem"));
    }

    fn params_der() -> Vec<u8> {
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        params.self_signed(&key).expect("signed").der().to_vec()
    }
}
