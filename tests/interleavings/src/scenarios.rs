//! What happens on the stage, and what has to hold however its moments are ordered.

use std::sync::Arc;

use bytes::Bytes;
use callbackd::shutdown::Shutdown;
use shuttle::future::block_on;
use tokio::task::JoinHandle;

use crate::clock;
use crate::pipeline::forward::HALTED;
use crate::pipeline::ingest::Refusal;
use crate::sqlite::Options;
use crate::stage::{Stage, post, seen};
use crate::store::Store;

/// Name, usual number of schedules, scenario.
pub(crate) const ALL: &[(&str, usize, fn())] = &[
    ("queue", 10_000, crate::alone::scenario),
    ("way", 300, way),
    ("failing sink", 200, failing_sink),
    ("reload", 400, || reload(0.0)),
    ("reload, failing sink", 200, || reload(0.5)),
    ("reload, refused", 400, reload_refused),
    ("jumping clock", 600, jumping_clock),
    ("full queue", 200, full_queue),
    ("close", 300, close),
    ("refused by SQLite", 300, refused),
    ("checkpoints", 20, checkpoints),
];

/// Two senders with a callback in common; a forwarder that only a wake-up wakes.
fn way() {
    forwarded(&Options::default(), 0.0);
}

/// The same, and every second try fails: retries, and a breaker that opens.
fn failing_sink() {
    forwarded(&Options::default(), 0.5);
}

/// The same, with room for one command only.
fn full_queue() {
    forwarded(&Options { queue_max: 1, ..Options::default() }, 0.0);
}

fn forwarded(options: &Options, failures: f64) {
    block_on(async {
        let mut stage = Stage::new(options, failures);
        let stop = Shutdown::new();
        let forwarder = stage.forward(&stop);
        let senders = [stage.sender(&["a running", "a succeeded"]), stage.sender(&["a running", "b failed"])];
        let mut accepted = Vec::new();
        for sender in senders {
            accepted.append(&mut sender.await.expect("a sender"));
        }
        assert!((2..=3).contains(&accepted.len()), "{accepted:?}");
        stage.all_taken(accepted).await;
        stop.begin();
        forwarder.await.expect("a forwarder");
        stage.close().await;
    });
}

/// The same, while the clock goes on by minutes and hours: leases are over at any moment, and deliveries are repeated.
fn jumping_clock() {
    clock::jumps();
    forwarded(&Options::default(), 0.0);
}

/// A new configuration: one forwarder is told to finish, another begins, and callbacks come all the while.
fn reload(failures: f64) {
    reloaded(failures, Stage::forward);
}

/// A new configuration, because the old one's credential is refused: that pauses the sink, and not any more once there is
/// another one.
fn reload_refused() {
    reloaded(0.0, Stage::forward_refused);
}

fn reloaded(failures: f64, begin: impl Fn(&Stage, &Shutdown) -> JoinHandle<()> + Send + Sync + 'static) {
    block_on(async move {
        let mut stage = Stage::new(&Options::default(), failures);
        let (old, new) = (Shutdown::new(), Shutdown::new());
        let finishing = begin(&stage, &old);
        let senders = [stage.sender(&["a running"]), stage.sender(&["b failed"])];
        shuttle::future::yield_now().await;
        // As `app` does it.
        old.begin();
        stage.store.resume(HALTED.to_owned()).await.expect("resumed");
        let forwarders = [finishing, stage.forward(&new)];
        let mut accepted = Vec::new();
        for sender in senders {
            accepted.append(&mut sender.await.expect("a sender"));
        }
        stage.all_taken(accepted).await;
        new.begin();
        for forwarder in forwarders {
            forwarder.await.expect("a forwarder");
        }
        stage.close().await;
    });
}

/// The store closes while callbacks come: each is kept and told so, or neither.
fn close() {
    block_on(async {
        let mut stage = Stage::new(&Options::default(), 0.0);
        let senders: Vec<_> = (0..3)
            .map(|n| {
                let ingest = Arc::clone(&stage.ingest);
                tokio::spawn(async move {
                    let body = format!("run-{n} succeeded");
                    match post(&ingest, body.clone()).await {
                        Ok(_) => Some(body),
                        Err(Refusal::Unavailable(_)) => None,
                        Err(e) => panic!("{e}"),
                    }
                })
            })
            .collect();
        shuttle::future::yield_now().await;
        let store = Arc::clone(&stage.store);
        let closing = tokio::spawn(async move { store.close().await });
        let mut told = Vec::new();
        for sender in senders {
            told.extend(sender.await.expect("a sender"));
        }
        closing.await.expect("closed");
        seen("kept", told.len());
        seen("refused", 3 - told.len());
        let mut kept = stage.close().await;
        (kept.sort(), told.sort());
        assert_eq!(kept, told);
    });
}

/// A callback that SQLite refuses takes none of its batch with it, and is not told that it was kept.
fn refused() {
    block_on(async {
        let mut stage = Stage::new(&Options::default(), 0.0);
        stage
            .open()
            .execute_batch(
                "CREATE TRIGGER poison BEFORE INSERT ON receipts WHEN CAST(NEW.body AS TEXT) LIKE 'poison%'
                 BEGIN SELECT RAISE(ABORT, 'on purpose'); END",
            )
            .expect("a trigger");
        let bodies = ["a succeeded", "poison failed", "b failed"];
        let senders = bodies.map(|body| {
            let ingest = Arc::clone(&stage.ingest);
            tokio::spawn(async move { post(&ingest, body).await.is_ok().then_some(body) })
        });
        let mut told = Vec::new();
        for sender in senders {
            told.extend(sender.await.expect("a sender"));
        }
        let mut kept = stage.close().await;
        kept.sort();
        assert_eq!(told, ["a succeeded", "b failed"]);
        assert_eq!(kept, told);
    });
}

/// Bodies so large that each makes the checkpointer copy, while others are committed and the store closes.
fn checkpoints() {
    block_on(async {
        let mut stage = Stage::new(&Options { log_bytes: Some(16 << 20), ..Options::default() }, 0.0);
        let senders: Vec<_> = (0..2)
            .map(|sender| {
                let ingest = Arc::clone(&stage.ingest);
                tokio::spawn(async move {
                    for n in 0..2 {
                        let mut body = format!("run-{sender}-{n} succeeded\n").into_bytes();
                        body.resize(17 << 20, b' ');
                        post(&ingest, Bytes::from(body)).await.expect("kept");
                    }
                })
            })
            .collect();
        for sender in senders {
            sender.await.expect("a sender");
        }
        // The first fills it; each later one may find it copied, or not yet.
        seen("logs that began anew", usize::from(stage.log_bytes() < 4 * (17 << 20)));
        assert_eq!(stage.close().await.len(), 4);
    });
}
