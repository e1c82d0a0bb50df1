//! How a sink fares: its breaker, which follows how tries end, and what others find who share the store. Whose peer fails
//! for one is not tried by the others.

use super::{Forwarder, Report};
use crate::clock;
use crate::measure::Open;
use crate::model::Time;
use crate::pipeline::breaker::Breaker;
use crate::store;

impl Forwarder {
    /// What follows from a try that ended.
    pub(super) async fn note(&self, breaker: &mut Breaker, report: Report) {
        let now = clock::now();
        match report {
            Report::Failed { after_ms, reason } => {
                if breaker.failed(now, after_ms, fastrand::f64()) {
                    tracing::warn!(sink.name = %self.name, reason, "the sink fails again and again: only probes from now on");
                }
            }
            Report::Answered => {
                if breaker.answered() {
                    tracing::info!(sink.name = %self.name, "the sink answers again");
                    self.share(None).await;
                    let by = now.plus_ms(self.service.retry.longest_ms);
                    if let Err(e) = self.store.hurry(self.name.clone(), by, now).await {
                        tracing::warn!(sink.name = %self.name, error = %e, "retries keep their times");
                    }
                    self.wake.sinks(&[&self.name]);
                }
            }
            Report::Unclear => {}
        }
        if breaker.is_open() {
            self.share(breaker.open()).await;
        }
        self.breaker.keep(breaker);
        self.measures.set_breaker(breaker.open());
    }

    /// Goes by what a claim has told of the others.
    pub(super) fn hear(&self, breaker: &mut Breaker, said: store::Breaker, now: Time) {
        if said == store::Breaker::Own {
            return;
        }
        match breaker.heard(said, now) {
            Some(true) => {
                tracing::warn!(sink.name = %self.name, "the sink fails at another callbackd: only probes from now on");
            }
            Some(false) => tracing::info!(sink.name = %self.name, "the sink answers another callbackd again"),
            None => {}
        }
        self.breaker.keep(breaker);
        self.measures.set_breaker(breaker.open());
    }

    /// Tells the others how the sink fares here.
    async fn share(&self, open: Option<Open>) {
        if let Err(e) = self.store.share_breaker(self.name.clone(), open).await {
            tracing::warn!(sink.name = %self.name, error = %e, "others are not told how the sink fares, and find it themselves");
        }
    }
}
