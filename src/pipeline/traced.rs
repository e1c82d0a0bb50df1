//! Traces, for a collector: what a receipt and each try to deliver were in the trace that the sender named.

use std::sync::Arc;

use serde_json::Value;

use super::ingest::{Intake, Kept};
use crate::Boxed;
use crate::clock;
use crate::measure::{self, Words};
use crate::model::words::reason;
use crate::model::{Delivery, Outcome, Status, Time, Trace};
use crate::otlp::{Kind, Span, Spans};
use crate::sinks::{Preview, Sink, Tried};

/// The span of a receipt that was kept, from its head until its answer.
pub fn receipt(spans: &Spans, intake: &Intake, trace: Trace, began_at: Time, kept: &Kept) {
    let id = kept.recorded.receipt.to_string();
    spans.add(Span {
        id: spans.of_receipt(&trace, &id),
        trace,
        parent: None,
        kind: Kind::Server,
        name: format!("receive {}", intake.name),
        began_at,
        ended_at: clock::now(),
        attributes: vec![
            ("source.name", Value::from(&*intake.name)),
            ("receipt.id", id.into()),
            ("receipt.outcome", kept.recorded.outcome.as_str().into()),
            ("http.response.status_code", kept.status.as_u16().into()),
        ],
        failure: None,
    });
}

/// A sink, of whose tries a collector is told, too.
pub struct Traced {
    /// The sink's configured name.
    pub name: String,
    /// The sink.
    pub sink: Arc<dyn Sink>,
    /// What the collector is told.
    pub spans: Spans,
}

impl Traced {
    /// A try that begins, where its trace is sampled.
    fn begin(&self, delivery: &Delivery, now: Time) -> Option<UnderWay> {
        let trace = delivery.trace.as_ref().filter(|trace| trace.is_sampled())?;
        let receipt = delivery.change.meta.receipt.as_deref();
        let span = Span {
            trace: trace.clone(),
            id: delivery.span(now)?,
            parent: receipt.map(|receipt| self.spans.of_receipt(trace, receipt)),
            kind: Kind::Client,
            name: format!("deliver {}", self.name),
            began_at: now,
            ended_at: now,
            attributes: vec![
                ("sink.name", self.name.as_str().into()),
                ("delivery.id", delivery.id.to_string().into()),
                ("execution.key", reason(&delivery.change.state.execution.key).into()),
            ],
            failure: Some("cut off".to_owned()),
        };
        Some(UnderWay { span, outcome: measure::Tried::Retry, spans: self.spans.clone() })
    }
}

impl Sink for Traced {
    fn preview(&self, delivery: &Delivery, now: Time) -> Vec<Preview> {
        self.sink.preview(delivery, now)
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, now: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let mut under_way = self.begin(delivery, now);
            let tried = self.sink.deliver(delivery, now).await;
            if let Some(under_way) = &mut under_way {
                under_way.end(&tried);
            }
            tried
        })
    }

    fn harmless(&self) -> Option<Status> {
        self.sink.harmless()
    }

    fn probe(&self) -> Boxed<'_, Result<String, String>> {
        self.sink.probe()
    }
}

/// A try on its way: its span is told when this is dropped, also where the try was cut off.
struct UnderWay {
    span: Span,
    outcome: measure::Tried,
    spans: Spans,
}

impl UnderWay {
    fn end(&mut self, tried: &Tried) {
        let (outcome, failure) = match &tried.outcome {
            Outcome::Delivered { .. } => (measure::Tried::Delivered, None),
            Outcome::Retry { reason, .. } => (measure::Tried::Retry, Some(reason)),
            Outcome::Wait { .. } => (measure::Tried::Wait, None),
            Outcome::Halt { reason, .. } => (measure::Tried::Halt, Some(reason)),
            Outcome::Reject { reason } => (measure::Tried::Reject, Some(reason)),
            Outcome::Discard { .. } => (measure::Tried::Discard, None),
        };
        self.outcome = outcome;
        self.span.failure = failure.map(|said| reason(said).into_owned());
        self.span.attributes.extend(tried.status.map(|status| ("http.response.status_code", status.into())));
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut span = self.span.clone();
        span.ended_at = clock::now();
        span.attributes.push(("attempt.outcome", self.outcome.word().into()));
        if span.failure.is_some() {
            // OpenTelemetry's name for what kind of failure it was: the status, where there is one.
            let status = span.attributes.iter().find(|(key, _)| *key == "http.response.status_code");
            let kind = status.map_or_else(|| self.outcome.word().into(), |(_, status)| status.to_string().into());
            span.attributes.push(("error.type", kind));
        }
        self.spans.add(span);
    }
}
