//! OpenTelemetry: what a sender's trace became here, told to a collector (OTLP over HTTP, as JSON).
//!
//! A leaf, built with the feature `otlp`. Who takes a callback and who tells a sink add [`Span`]s, which costs them a short
//! lock; an [`Exporter`] takes them away in batches. They wait in memory, so many and no more: while the collector does not
//! answer, the oldest go, and are counted. Nothing waits for it, and nothing of it outlives the process.
//!
//! Only traces that their sender samples are told.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;
use tokio::sync::Notify;

use crate::measure::Counter;
use crate::model::{Time, Trace};

mod exporter;
mod wire;

pub use exporter::{Collector, Exporter};

/// Spans that wait at one time.
const WAITING_MAX: usize = 8192;
/// Spans in one request.
const BATCH_MAX: usize = 512;

/// What a span is to those at its other end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Somebody asked us.
    Server,
    /// We asked somebody.
    Client,
}

/// One piece of work that was done in a sender's trace.
#[derive(Clone, Debug)]
pub struct Span {
    /// As the sender named it.
    pub trace: Trace,
    /// Its own id.
    pub id: u64,
    /// The span of ours that caused it; without it, the sender's.
    pub parent: Option<u64>,
    /// What it is to the other end.
    pub kind: Kind,
    /// Of few values: who is told, not what.
    pub name: String,
    /// When it began.
    pub began_at: Time,
    /// When it ended.
    pub ended_at: Time,
    /// Texts and whole numbers, under OpenTelemetry's names where it has one.
    pub attributes: Vec<(&'static str, Value)>,
    /// Why it failed, if it did; without secrets.
    pub failure: Option<String>,
}

/// The spans that wait to be told. Clones are the same.
#[derive(Clone, Debug)]
pub struct Spans(Arc<Queue>);

#[derive(Debug)]
struct Queue {
    /// What this callbackd is called: two of them may be called in one trace.
    instance: String,
    waiting: Mutex<Waiting>,
    /// A whole batch waits.
    many: Notify,
    /// All that the collector was never told, since the process began.
    lost: Arc<Counter>,
}

#[derive(Debug, Default)]
struct Waiting {
    spans: VecDeque<Span>,
    /// Those that went untold since this was last asked.
    lost: usize,
}

impl Spans {
    /// None yet, of the callbackd of this name.
    pub fn new(instance: &str) -> Spans {
        let (instance, waiting) = (instance.to_owned(), Mutex::default());
        Spans(Arc::new(Queue { instance, waiting, many: Notify::new(), lost: Arc::default() }))
    }

    /// Counts those that were lost, for as long as the process lives.
    pub fn losses(&self) -> Arc<Counter> {
        Arc::clone(&self.0.lost)
    }

    /// The collector refuses so many for good.
    fn refused(&self, spans: u64) {
        (0..spans).for_each(|_| self.0.lost.add());
    }

    /// The id of the span in which this receipt came: whoever knows both can tell it, also after a restart.
    pub fn of_receipt(&self, trace: &Trace, receipt: &str) -> u64 {
        trace.span(&format!("{}/{receipt}", self.0.instance))
    }

    /// Adds one, in place of the oldest where there is no room.
    pub fn add(&self, span: Span) {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.spans.len() == WAITING_MAX {
            waiting.spans.pop_front();
            waiting.lost += 1;
            self.0.lost.add();
        }
        waiting.spans.push_back(span);
        let is_many = waiting.spans.len() == BATCH_MAX;
        drop(waiting);
        if is_many {
            self.0.many.notify_one();
        }
    }

    /// The oldest, as many as go into one request.
    fn take(&self) -> Vec<Span> {
        let mut waiting = self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let count = waiting.spans.len().min(BATCH_MAX);
        waiting.spans.drain(..count).collect()
    }

    fn waiting(&self) -> usize {
        self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).spans.len()
    }

    /// How many went untold since this was last asked.
    fn lost(&self) -> usize {
        std::mem::take(&mut self.0.waiting.lock().unwrap_or_else(PoisonError::into_inner).lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u64) -> Span {
        let trace = Trace::read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", None).expect("valid");
        let (name, at) = ("any".to_owned(), Time::default());
        Span {
            trace,
            id,
            parent: None,
            kind: Kind::Client,
            name,
            began_at: at,
            ended_at: at,
            attributes: Vec::new(),
            failure: None,
        }
    }

    #[test]
    fn the_oldest_go_when_there_is_no_room_and_are_counted() {
        let spans = Spans::new("edge");
        let all = WAITING_MAX as u64 + 3;
        (1..=all).for_each(|id| spans.add(span(id)));
        assert_eq!((spans.lost(), spans.lost()), (3, 0));
        spans.refused(2);
        assert_eq!(spans.losses().get(), 5, "of the whole life");
        let mut told = Vec::new();
        loop {
            let batch = spans.take();
            if batch.is_empty() {
                break;
            }
            assert!(batch.len() <= BATCH_MAX);
            told.extend(batch.into_iter().map(|span| span.id));
        }
        assert_eq!(told, (4..=all).collect::<Vec<_>>());
    }

    #[test]
    fn a_receipts_span_is_its_own() {
        let (one, other) = (Spans::new("one"), Spans::new("other"));
        let trace = span(1).trace;
        assert_eq!(one.of_receipt(&trace, "7"), Spans::new("one").of_receipt(&trace, "7"), "after a restart, too");
        assert_ne!(one.of_receipt(&trace, "7"), one.of_receipt(&trace, "8"));
        assert_ne!(one.of_receipt(&trace, "7"), other.of_receipt(&trace, "7"));
    }
}
