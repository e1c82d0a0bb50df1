//! What is logged, and how: text or JSON on standard error, or text with its fields in systemd's journal.
//!
//! Set up once, before anything that may log. Takes plain arguments, so that it needs neither the configuration nor
//! the environment. Fields are dotted (`source.name`, `delivery.id`), and never hold a secret: who logs sees to that.

use std::str::FromStr;

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Registry;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{self, MakeWriter};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload::{self, Handle};
use tracing_subscriber::util::SubscriberInitExt;

use self::journal::Journal;

mod journal;

/// How a line is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// For people.
    Text,
    /// One object a line, for programs.
    Json,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(word: &str) -> Result<Format, String> {
        match word {
            "text" => Ok(Format::Text),
            "json" => Ok(Format::Json),
            _ => Err(format!("no log format is called {word:?}; write \"text\" or \"json\"")),
        }
    }
}

/// Reads a level: `error`, `warn`, `info`, `debug` or `trace`.
pub fn level(word: &str) -> Result<Level, String> {
    match word {
        "error" => Ok(Level::ERROR),
        "warn" => Ok(Level::WARN),
        "info" => Ok(Level::INFO),
        "debug" => Ok(Level::DEBUG),
        "trace" => Ok(Level::TRACE),
        _ => Err(format!("no log level is called {word:?}; write error, warn, info, debug or trace")),
    }
}

/// The running log, for a reload.
#[derive(Clone, Debug)]
pub struct Telemetry {
    filter: Handle<Targets, Registry>,
}

impl Telemetry {
    /// Logs from `level` on, from now on.
    pub fn set_level(&self, level: Level) {
        // Fails only when the subscriber is gone, and then nobody logs.
        let _ = self.filter.reload(targets(level));
    }
}

/// Starts logging to standard error. `journal` is JOURNAL_STREAM: where standard error is systemd's journal, it stamps
/// every line itself, and text goes there with its fields. An error means that it was started before.
pub fn init(level: Level, format: Format, journal: Option<&str>) -> Result<Telemetry, String> {
    let reached = journal.filter(|_| format == Format::Text).and_then(Journal::behind_stderr);
    let (subscriber, filter): (Box<dyn tracing::Subscriber + Send + Sync>, _) = match reached {
        Some(reached) => {
            let (filter, handle) = reload::Layer::new(targets(level));
            (Box::new(tracing_subscriber::registry().with(filter).with(reached)), handle)
        }
        None => subscriber(level, format, journal.is_some(), std::io::stderr),
    };
    subscriber.try_init().map_err(|e| e.to_string())?;
    Ok(Telemetry { filter })
}

fn subscriber<W>(
    level: Level,
    format: Format,
    journal: bool,
    to: W,
) -> (Box<dyn tracing::Subscriber + Send + Sync>, Handle<Targets, Registry>)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (filter, handle) = reload::Layer::new(targets(level));
    let registry = tracing_subscriber::registry().with(filter);
    // The library was built without colours, and complains where it is asked for them.
    let lines = fmt::layer().with_ansi(false).with_writer(to);
    let subscriber: Box<dyn tracing::Subscriber + Send + Sync> = match (format, journal) {
        (Format::Text, true) => Box::new(registry.with(lines.without_time())),
        (Format::Text, false) => Box::new(registry.with(lines)),
        (Format::Json, true) => Box::new(registry.with(lines.json().flatten_event(true).without_time())),
        (Format::Json, false) => Box::new(registry.with(lines.json().flatten_event(true))),
    };
    (subscriber, handle)
}

/// `level` for what is ours; of the libraries' own words, warnings at the most.
fn targets(level: Level) -> Targets {
    let level = LevelFilter::from_level(level);
    Targets::new().with_target(env!("CARGO_CRATE_NAME"), level).with_default(level.min(LevelFilter::WARN))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().expect("sound").extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl Lines {
        fn take(&self) -> String {
            String::from_utf8(std::mem::take(&mut *self.0.lock().expect("sound"))).expect("UTF-8")
        }
    }

    fn logging(format: Format, journal: bool) -> (Lines, tracing::subscriber::DefaultGuard, Handle<Targets, Registry>) {
        let lines = Lines::default();
        let to = lines.clone();
        let (subscriber, handle) = subscriber(Level::INFO, format, journal, move || to.clone());
        (lines, tracing::subscriber::set_default(subscriber), handle)
    }

    #[test]
    fn ours_from_the_level_on_and_others_from_warn() {
        let (lines, _logging, handle) = logging(Format::Text, true);
        tracing::debug!("ours, small");
        tracing::info!(source.name = "media", "ours");
        tracing::info!(target: "hyper", "theirs, small");
        tracing::warn!(target: "hyper", "theirs");
        let text = lines.take();
        assert!(text.contains(r#"ours source.name="media""#) && text.contains("theirs"), "{text}");
        assert!(!text.contains("small") && text.starts_with(" INFO"), "{text}");

        handle.reload(targets(Level::ERROR)).expect("reloaded");
        tracing::warn!("ours, now small");
        tracing::warn!(target: "hyper", "theirs, now small");
        assert_eq!(lines.take(), "");
    }

    #[test]
    fn json_is_one_object_a_line_with_dotted_fields() {
        let (lines, _logging, _handle) = logging(Format::Json, false);
        tracing::info!(source.name = "media", http.status = 200, "answered");
        let line: serde_json::Value = serde_json::from_str(&lines.take()).expect("an object");
        assert_eq!((&line["source.name"], &line["http.status"]), (&"media".into(), &200.into()));
        assert_eq!(line["message"], "answered");
        assert!(line["timestamp"].is_string());
    }

    #[test]
    fn words_are_read_or_said_to_be_wrong() {
        assert_eq!(level("debug"), Ok(Level::DEBUG));
        assert!(level("verbose").expect_err("no level").contains("write error"));
        assert_eq!("json".parse(), Ok(Format::Json));
        assert!("xml".parse::<Format>().expect_err("no format").contains("write \"text\""));
    }
}
