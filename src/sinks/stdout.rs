//! `stdout`: one line on standard output for each delivery, for a pipe, a journal or a person at a terminal.
//!
//! `format = "json"` writes the change as a CloudEvent, one object a line; `format = "text"` writes what a person
//! wants to see first. A line is written whole or, when standard output breaks in the middle, again.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::Arc;

use serde::Deserialize;
use tokio::sync::Mutex;

use super::cloudevent::Envelope;
use super::{Kind, Preview, Sink, Tried, starts_nothing};
use crate::Boxed;
use crate::model::words::{self, plain};
use crate::model::{Change, Delivery, Outcome, Status, Time};
use crate::options::{self, BuildContext, Fault, Section};

pub(super) const KIND: Kind = Kind {
    name: "stdout",
    aliases: &[],
    build,
    examine: options::examine::<Options>,
    starts: starts_nothing,
    #[cfg(test)]
    schema: crate::options::schema::<Options>,
};

#[derive(Deserialize, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// `json` or `text`.
    format: Format,
}

#[derive(Clone, Copy, Deserialize, Default)]
#[cfg_attr(test, derive(schemars::JsonSchema, serde::Serialize))]
#[serde(rename_all = "lowercase")]
enum Format {
    #[default]
    Json,
    Text,
}

fn build(section: &Section, context: &BuildContext<'_>) -> Result<Box<dyn Sink>, Vec<Fault>> {
    let options: Options = section.read()?;
    Ok(Box::new(Stdout::new(options.format, context.instance, Box::new(io::stdout()))))
}

type Out = Box<dyn Write + Send>;

struct Stdout {
    format: Format,
    instance: String,
    /// Waited for without a thread: when the reader of a pipe stops reading, no more than one thread hangs on it.
    out: Arc<Mutex<Out>>,
}

impl Stdout {
    fn new(format: Format, instance: &str, out: Out) -> Stdout {
        Stdout { format, instance: instance.to_owned(), out: Arc::new(Mutex::new(out)) }
    }

    fn line(&self, change: &Change) -> String {
        let line = match self.format {
            Format::Json => {
                let event = Envelope::new(change, &self.instance).structured();
                words::json(&String::from_utf8_lossy(&event)).into_owned()
            }
            Format::Text => text(change),
        };
        line + "\n"
    }
}

impl Sink for Stdout {
    fn preview(&self, delivery: &Delivery, _now: Time) -> Vec<Preview> {
        let body = self.line(&delivery.change).trim_end().to_owned();
        vec![Preview { action: "write a line to standard output".to_owned(), body }]
    }

    fn harmless(&self) -> Option<Status> {
        Some(Status::Succeeded)
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, _now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let line = self.line(&delivery.change);
            let mut out = Arc::clone(&self.out).lock_owned().await;
            // A line in one call: standard output locks itself for as long as that takes.
            let write = move || out.write_all(line.as_bytes()).and_then(|()| out.flush());
            let written = tokio::task::spawn_blocking(write).await.unwrap_or_else(|e| Err(io::Error::other(e)));
            let outcome = match written {
                Ok(()) => Outcome::Delivered { note: None, learned: Vec::new() },
                Err(e) => Outcome::Retry { after_ms: None, reason: format!("standard output: {e}"), resume: None },
            };
            outcome.into()
        })
    }
}

/// When, what, of which source, the key, what it is about, where it stands, and the tasks that changed.
fn text(change: &Change) -> String {
    let execution = &change.state.execution;
    let subject = execution.subject.as_deref().unwrap_or("-");
    let mut line = format!(
        "{} {} {} {} {} {}",
        change.meta.received_at,
        change.meta.kind,
        execution.source,
        plain(&execution.key),
        plain(subject),
        execution.status
    );
    for task in change.meta.changed_tasks.iter().filter_map(|key| change.task(key)) {
        let name = task.name.as_deref().unwrap_or(&task.key);
        write!(line, " {}={}", plain(name), task.status).expect("a String takes all");
    }
    line
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as StdMutex;

    use serde_json::Value;

    use super::super::cloudevent::delivery;
    use super::*;

    /// Keeps what each call writes.
    #[derive(Clone, Default)]
    struct Pipe {
        writes: Arc<StdMutex<Vec<Vec<u8>>>>,
        broken: bool,
    }

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.broken {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            self.writes.lock().expect("a lock").push(bytes.to_vec());
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn a_delivery_is_one_line_in_one_write() {
        let pipe = Pipe::default();
        let sink = Stdout::new(Format::Json, "edge", Box::new(pipe.clone()));
        for key in ["r_1", "r_2"] {
            let tried = sink.deliver(&delivery(key), Time::default()).await;
            assert!(matches!(tried.outcome, Outcome::Delivered { .. }));
        }
        let writes = pipe.writes.lock().expect("a lock");
        assert_eq!(writes.len(), 2);
        for (line, key) in writes.iter().zip(["r_1", "r_2"]) {
            assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
            assert_eq!(line.last(), Some(&b'\n'));
            let written: Value = serde_json::from_slice(line).expect("JSON");
            assert_eq!(written["subject"], key);
        }
    }

    #[tokio::test]
    async fn a_broken_pipe_is_tried_again() {
        let sink = Stdout::new(Format::Json, "edge", Box::new(Pipe { broken: true, ..Pipe::default() }));
        let tried = sink.deliver(&delivery("r_1"), Time::default()).await;
        assert!(matches!(tried.outcome, Outcome::Retry { reason, .. } if reason.starts_with("standard output: ")));
    }

    #[test]
    fn text_is_short_and_cannot_command_a_terminal() {
        let sink = Stdout::new(Format::Text, "edge", Box::new(io::sink()));
        let preview = sink.preview(&delivery("r_1"), Time::default());
        assert_eq!(
            preview[0].body,
            "2023-11-14T22:13:20Z callbackd.execution.failed media r_1 wk-test/游戏 1.mp4 failed j1=succeeded j2=failed"
        );
        let odd = delivery("r\n\u{1b}[2J\u{9b}\u{202e}1");
        let line = sink.line(&odd.change);
        assert!(line.contains("r\\n\\u{1b}[2J\\u{9b}\\u{202e}1") && line.lines().count() == 1, "{line}");
        let line = Stdout::new(Format::Json, "edge", Box::new(io::sink())).line(&odd.change);
        assert!(line.contains(r"r\n\u001b[2J\u009b\u202e1") && line.lines().count() == 1, "{line}");
    }
}
