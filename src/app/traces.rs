//! Traces of one process: what adds spans is handed them here, and who tells them is started and stopped.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::otlp::{Collector, Exporter, Spans};
use crate::pipeline::traced::Traced;
use crate::shutdown::Shutdown;
use crate::sinks::Sink;

/// What is left to tell when the daemon stops may take this long.
const FLUSH: Duration = Duration::from_secs(3);

/// Spans, and who tells them.
pub(super) struct Traces {
    pub(super) spans: Spans,
    stop: Shutdown,
    exporter: JoinHandle<()>,
}

impl Traces {
    pub(super) fn start(collector: Collector, instance: &str) -> Traces {
        let (spans, stop) = (Spans::new(instance), Shutdown::new());
        let exporter = Exporter { collector, spans: spans.clone() };
        Traces { spans, exporter: tokio::spawn(exporter.run(stop.clone())), stop }
    }

    /// The sink, with its tries told where there is a collector.
    pub(super) fn around(traces: Option<&Traces>, name: &str, sink: Arc<dyn Sink>) -> Arc<dyn Sink> {
        match traces {
            Some(traces) => Arc::new(Traced { name: name.to_owned(), sink, spans: traces.spans.clone() }),
            None => sink,
        }
    }

    /// Tells what waits, for a while.
    pub(super) async fn stop(mut self) {
        self.stop.begin();
        if tokio::time::timeout(FLUSH, &mut self.exporter).await.is_err() {
            self.exporter.abort();
            tracing::warn!("the collector does not answer: the last spans are not told");
        }
    }
}
