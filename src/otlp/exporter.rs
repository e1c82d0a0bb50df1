//! Who takes spans to the collector, in batches, until the daemon stops.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde_json::Value;

use super::{Spans, wire};
use crate::clock;
use crate::model::words::reason;
use crate::outbound::{Answer, Client, Failure, Request, Settings, asked_pause_ms, base_url};
use crate::shutdown::Shutdown;

/// What waits is told this often, or as soon as it is a whole batch.
const EVERY: Duration = Duration::from_secs(2);
/// A collector that has not answered by then is asked again.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The first pause after a failure, and the longest.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_LONGEST: Duration = Duration::from_secs(30);
/// No collector is waited for longer, whatever it asks for.
const ASKED_LONGEST: Duration = Duration::from_secs(300);

/// Where spans are told.
pub struct Collector {
    url: Uri,
    headers: HeaderMap,
    client: Client,
}

impl Collector {
    /// The URL that an endpoint stands for.
    pub fn url(endpoint: &str) -> Result<Uri, String> {
        let url = format!("{}/v1/traces", base_url(endpoint, "http://127.0.0.1:4318")?);
        url.parse().map_err(|_| "is no URL; write one like \"http://127.0.0.1:4318\"".to_owned())
    }

    /// Reached at `url` with `headers`, of which each value is a secret.
    pub fn new(
        url: Uri,
        mut headers: HeaderMap,
        ca_file: Option<PathBuf>,
        with: &Settings,
    ) -> Result<Collector, String> {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let client = Client::new(&Settings { ca_file, ..with.clone() })?;
        Ok(Collector { url, headers, client })
    }

    async fn tell(&self, body: Bytes) -> Told {
        let request = Request { method: Method::POST, url: self.url.clone(), headers: self.headers.clone(), body };
        match tokio::time::timeout(TIMEOUT, self.client.send(request)).await {
            Ok(sent) => Told::of(sent),
            Err(_) => Told::Later { after: None, why: format!("no answer within {} s", TIMEOUT.as_secs()) },
        }
    }
}

/// What came of one request.
#[derive(PartialEq, Debug)]
enum Told {
    /// Taken, but for so many.
    Taken { refused: u64, why: String },
    /// To be sent again, not before this, where the collector said so.
    Later { after: Option<Duration>, why: String },
    /// Never to be sent again.
    Never { why: String },
}

impl Told {
    /// As OTLP wants it ("OTLP/HTTP Response"): only these four statuses, and no answer, are worth another try.
    fn of(sent: Result<Answer, Failure>) -> Told {
        let answer = match sent {
            Ok(answer) => answer,
            // Too long to be read, and taken all the same.
            Err(Failure::TooLarge { status: 200..=299, .. }) => return Told::Taken { refused: 0, why: String::new() },
            Err(failure @ (Failure::Url(_) | Failure::TooLarge { .. })) => {
                return Told::Never { why: failure.to_string() };
            }
            Err(failure) => return Told::Later { after: None, why: failure.to_string() },
        };
        let why = format!("answered {}", answer.status);
        match answer.status {
            200..=299 => {
                let said: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                let part = &said["partialSuccess"];
                let count = &part["rejectedSpans"];
                let refused = count.as_u64().or_else(|| count.as_str()?.parse().ok()).unwrap_or(0);
                Told::Taken { refused, why: reason(part["errorMessage"].as_str().unwrap_or_default()).into_owned() }
            }
            429 | 502 | 503 | 504 => {
                let after = asked_pause_ms(&answer.headers, clock::now()).map(Duration::from_millis);
                Told::Later { after, why }
            }
            _ => Told::Never { why },
        }
    }
}

/// Takes spans to a collector.
pub struct Exporter {
    /// Where to.
    pub collector: Collector,
    /// Which.
    pub spans: Spans,
}

/// A request that is sent until the collector has taken it.
struct Batch {
    body: Bytes,
    spans: usize,
}

impl Exporter {
    /// Runs until `stop`, then tells what waits, with one try: whoever stops it bounds that.
    pub async fn run(self, stop: Shutdown) {
        let (mut in_hand, mut failures, mut lost) = (None, 0_u32, 0_usize);
        loop {
            let is_last = stop.is_begun();
            let pause = match self.tell_all(&mut in_hand, &mut lost).await {
                Ok(()) => {
                    if failures > 0 {
                        lost += self.spans.lost();
                        tracing::info!(lost, "the collector takes spans again");
                        (failures, lost) = (0, 0);
                    }
                    EVERY
                }
                Err((asked, why)) => {
                    if failures == 0 {
                        tracing::warn!(reason = why, "the collector takes no spans; they wait, and the oldest go");
                    }
                    failures = failures.saturating_add(1);
                    asked.map_or_else(|| backoff(failures), |asked| asked.min(ASKED_LONGEST))
                }
            };
            if is_last {
                break;
            }
            tokio::select! {
                () = self.spans.0.many.notified(), if in_hand.is_none() => {}
                () = tokio::time::sleep(pause) => {}
                () = stop.begun() => {}
            }
        }
        let untold = in_hand.map_or(0, |batch| batch.spans) + self.spans.waiting() + lost + self.spans.lost();
        if untold > 0 {
            tracing::warn!(lost = untold, "the collector was not told of all spans");
        }
    }

    /// Tells all that waits, one batch after the other; a batch that is worth another try stays in hand.
    async fn tell_all(&self, in_hand: &mut Option<Batch>, lost: &mut usize) -> Result<(), (Option<Duration>, String)> {
        while let Some(batch) = in_hand.take().or_else(|| self.batch()) {
            match self.collector.tell(batch.body.clone()).await {
                Told::Taken { refused: 0, .. } => {}
                Told::Taken { refused, why } => {
                    self.spans.refused(refused.min(batch.spans as u64));
                    tracing::warn!(
                        lost = refused,
                        reason = why,
                        "the collector has taken some spans, and refused others"
                    );
                }
                Told::Later { after, why } => {
                    *in_hand = Some(batch);
                    return Err((after, why));
                }
                Told::Never { why } => {
                    *lost += batch.spans;
                    self.spans.refused(batch.spans as u64);
                    tracing::warn!(lost = batch.spans, reason = why, "the collector refuses spans");
                }
            }
        }
        Ok(())
    }

    fn batch(&self) -> Option<Batch> {
        let spans = self.spans.take();
        let request = (!spans.is_empty()).then(|| wire::request(&self.spans.0.instance, &spans))?;
        Some(Batch { body: request.to_string().into(), spans: spans.len() })
    }
}

/// Twice as long each time, up to a bound, and up to half of it sooner.
fn backoff(failures: u32) -> Duration {
    let pause = PAUSE_FIRST.saturating_mul(1 << (failures - 1).min(10)).min(PAUSE_LONGEST);
    pause.mul_f64(0.5 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(status: u16, headers: &[(&'static str, &'static str)], body: &'static str) -> Told {
        let headers = headers.iter().map(|&(n, v)| (n.parse().expect(n), HeaderValue::from_static(v))).collect();
        Told::of(Ok(Answer { status, headers, body: Bytes::from_static(body.as_bytes()) }))
    }

    #[test]
    fn only_what_otlp_says_is_sent_again() {
        for status in [429, 502, 503, 504] {
            let asked = told(status, &[("retry-after", "7")], "");
            assert_eq!(asked, Told::Later { after: Some(Duration::from_secs(7)), why: format!("answered {status}") });
        }
        for status in [301, 400, 401, 404, 408, 413, 500, 501, 505] {
            assert!(matches!(told(status, &[("retry-after", "7")], ""), Told::Never { .. }), "{status}");
        }
        assert!(matches!(Told::of(Err(Failure::Reset(String::new()))), Told::Later { after: None, .. }));
    }

    #[test]
    fn what_a_collector_refuses_of_a_batch_is_heard() {
        let taken = |refused, why: &str| Told::Taken { refused, why: why.to_owned() };
        for body in ["", "{}", "{\"partialSuccess\":{}}", "ok"] {
            assert_eq!(told(200, &[], body), taken(0, ""), "{body}");
        }
        for count in ["\"3\"", "3"] {
            let body = format!("{{\"partialSuccess\":{{\"rejectedSpans\":{count},\"errorMessage\":\"too old\"}}}}");
            assert_eq!(told(200, &[], body.leak()), taken(3, "too old"));
        }
    }

    #[test]
    fn pauses_grow_up_to_a_bound() {
        for (failures, longest) in [(1, 1), (2, 2), (4, 8), (6, 30), (u32::MAX, 30)] {
            let (pause, longest) = (backoff(failures), Duration::from_secs(longest));
            assert!(pause <= longest && pause >= longest / 2, "{failures}: {pause:?}");
        }
    }

    #[test]
    fn an_endpoint_is_a_base() {
        for endpoint in ["http://127.0.0.1:4318", "http://127.0.0.1:4318/"] {
            assert_eq!(Collector::url(endpoint).expect(endpoint), "http://127.0.0.1:4318/v1/traces");
        }
        for bad in ["127.0.0.1:4318", "grpc://127.0.0.1:4317", "http://user:word@example.com", "http://example.com?x=1"]
        {
            assert!(Collector::url(bad).expect_err(bad).contains("http://127.0.0.1:4318"), "{bad}");
        }
    }
}
