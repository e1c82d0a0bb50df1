//! systemd's journal, spoken to in its own protocol, so that what is logged can be searched by field: `journalctl
//! SINK_NAME=portal`. One datagram an entry (systemd.io, "Native Journal Protocol"): the line as people read it, and
//! each field beside it. By hand, because the journal shows people nothing but the line, which is to hold the fields
//! too.

use std::fmt::{Debug, Write};
use std::os::unix::net::UnixDatagram;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

const SOCKET: &str = "/run/systemd/journal/socket";

/// Of a longer value the start is enough: a datagram has to fit into a socket's buffer.
const VALUE_BYTES_MAX: usize = 16 << 10;

/// Sends entries to the journal.
pub(super) struct Journal(UnixDatagram);

impl Journal {
    /// The journal, when it is what standard error leads to; `stream` is JOURNAL_STREAM, which names that
    /// (systemd.exec(5)).
    pub(super) fn behind_stderr(stream: &str) -> Option<Journal> {
        let (device, inode) = stream.split_once(':')?;
        let stderr = rustix::fs::fstat(std::io::stderr()).ok()?;
        let is_meant = device.parse() == Ok(stderr.st_dev) && inode.parse() == Ok(stderr.st_ino);
        is_meant.then(|| Journal::at(SOCKET)).flatten()
    }

    fn at(path: &str) -> Option<Journal> {
        let socket = UnixDatagram::unbound().ok()?;
        socket.connect(path).ok()?;
        Some(Journal(socket))
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let bytes = entry.bytes(*event.metadata().level(), event.metadata().target());
        if self.0.send(&bytes).is_err() {
            // Standard error leads there too.
            eprintln!("{}", entry.line());
        }
    }
}

/// One entry as it is gathered.
#[derive(Default)]
struct Entry {
    said: String,
    /// As the line shows them.
    shown: String,
    fields: Vec<u8>,
}

impl Entry {
    fn line(&self) -> String {
        [self.said.as_str(), &self.shown].concat()
    }

    fn bytes(&self, level: Level, target: &str) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.fields.len());
        put(&mut bytes, "MESSAGE", &self.line());
        put(&mut bytes, "PRIORITY", priority(level));
        put(&mut bytes, "SYSLOG_IDENTIFIER", env!("CARGO_CRATE_NAME"));
        put(&mut bytes, "TARGET", target);
        bytes.extend_from_slice(&self.fields);
        bytes
    }

    fn field(&mut self, field: &Field, plain: &str, shown: &str) {
        if field.name() == "message" {
            self.said = shown.to_owned();
            return;
        }
        let _ = write!(self.shown, " {}={shown}", field.name());
        put(&mut self.fields, &name(field.name()), plain);
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value, &format!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        let plain = format!("{value:?}");
        // One entry is one line, and nothing in it steers a terminal.
        let shown = plain.replace(char::is_control, " ");
        self.field(field, &plain, &shown);
    }
}

/// The protocol's form for any value: its name, its length, itself.
fn put(entry: &mut Vec<u8>, name: &str, value: &str) {
    let value = &value[..value.floor_char_boundary(VALUE_BYTES_MAX)];
    entry.extend_from_slice(name.as_bytes());
    entry.push(b'\n');
    entry.extend_from_slice(&(value.len() as u64).to_le_bytes());
    entry.extend_from_slice(value.as_bytes());
    entry.push(b'\n');
}

/// A field's name as the journal takes it: `sink.name` is `SINK_NAME`.
fn name(field: &str) -> String {
    let taken = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    field.chars().map(taken).take(64).collect::<String>().trim_start_matches('_').to_owned()
}

/// syslog(3)'s.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    fn entry(bytes: &[u8]) -> Vec<(String, String)> {
        let (mut rest, mut fields) = (bytes, Vec::new());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(rest[..end].to_vec()).expect("a name");
            let (length, value) = rest[end + 1..].split_first_chunk::<8>().expect("a length");
            let (value, left) = value.split_at(u64::from_le_bytes(*length) as usize);
            assert_eq!(left[0], b'\n');
            fields.push((name, String::from_utf8(value.to_vec()).expect("text")));
            rest = &left[1..];
        }
        assert!(rest.is_empty());
        fields
    }

    #[test]
    fn an_entry_has_the_line_and_its_fields() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let journal = UnixDatagram::bind(&path).expect("bound");
        let layer = Journal::at(path.to_str().expect("a path")).expect("reached");
        let heard = || {
            let mut bytes = vec![0; 1 << 20];
            let length = journal.recv(&mut bytes).expect("an entry");
            entry(&bytes[..length])
        };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(sink.name = %"portal", delivery.id = 7, reason = "no\nanswer", "tried {}", "in vain");
            let fields = heard();
            let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
            assert_eq!(field("MESSAGE"), Some(r#"tried in vain sink.name=portal delivery.id=7 reason="no\nanswer""#));
            assert_eq!((field("SINK_NAME"), field("DELIVERY_ID")), (Some("portal"), Some("7")));
            assert_eq!((field("REASON"), field("PRIORITY")), (Some("no\nanswer"), Some("4")));
            assert_eq!(field("SYSLOG_IDENTIFIER"), Some("callbackd"));
            tracing::info!(body = "视".repeat(1 << 16), "long");
            let fields = heard();
            assert!(fields.iter().all(|(_, value)| value.len() <= VALUE_BYTES_MAX), "cut, on a character's boundary");
        });
    }

    #[test]
    fn only_what_standard_error_leads_to_is_the_journal() {
        let stderr = rustix::fs::fstat(std::io::stderr()).expect("there is one");
        for stream in ["", "8", "8:x", &format!("{}:{}", stderr.st_dev, stderr.st_ino + 1)] {
            assert!(Journal::behind_stderr(stream).is_none(), "{stream}");
        }
    }
}
