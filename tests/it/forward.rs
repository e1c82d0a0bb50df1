//! Forwarding: a real store, the real forwarder, and a sink that does what the test says when the test says it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use callbackd::Boxed;
use callbackd::clock;
use callbackd::model::{
    Delivery, ExecutionPart, Learned, LinkRule, Outcome, Program, RetryPolicy, Status, Task, Time, Update,
};
use callbackd::pipeline::forward::Service;
use callbackd::sinks::{Preview, Sink, Tried};
use callbackd::store::Store;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::rig::{PATIENCE, Rig, SINK, is_between, service, until};

/// A sink on strings: each try is handed to the test, which answers it, or lets it hang.
struct Puppet {
    calls: mpsc::UnboundedSender<Call>,
    under_way: Arc<UnderWay>,
}

/// How many tries there are at one time.
#[derive(Default)]
struct UnderWay {
    now: AtomicUsize,
    most: AtomicUsize,
}

/// One try that waits for its answer.
struct Call {
    delivery: Delivery,
    answer: oneshot::Sender<Answer>,
}

enum Answer {
    Say(Tried),
    Panic,
}

impl Sink for Puppet {
    fn preview(&self, _: &Delivery, _: Time) -> Vec<Preview> {
        Vec::new()
    }

    fn deliver<'a>(&'a self, delivery: &'a Delivery, _: Time) -> Boxed<'a, Tried> {
        Box::pin(async move {
            let _one = self.under_way.one_more();
            let (answer, answered) = oneshot::channel();
            let _ = self.calls.send(Call { delivery: delivery.clone(), answer });
            match answered.await {
                Ok(Answer::Say(tried)) => tried,
                Ok(Answer::Panic) => panic!("on purpose"),
                Err(_) => std::future::pending().await,
            }
        })
    }
}

impl UnderWay {
    fn one_more(self: &Arc<Self>) -> impl Drop + use<> {
        struct One(Arc<UnderWay>);
        impl Drop for One {
            fn drop(&mut self) {
                self.0.now.fetch_sub(1, Ordering::SeqCst);
            }
        }
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
        One(Arc::clone(self))
    }

    /// The most there were since the last time this was asked.
    fn most(&self) -> usize {
        self.most.swap(self.now.load(Ordering::SeqCst), Ordering::SeqCst)
    }
}

impl Call {
    /// The execution's key, and the status that it is told.
    fn what(&self) -> (&str, Status) {
        let execution = &self.delivery.change.state.execution;
        (&execution.key, execution.status)
    }

    fn key(&self) -> &str {
        self.what().0
    }

    fn say(self, outcome: Outcome) {
        self.answer(Answer::Say(outcome.into()));
    }

    fn answer(self, answer: Answer) {
        assert!(self.answer.send(answer).is_ok(), "nobody waits for this try any more");
    }

    fn deliver(self) {
        self.say(Outcome::Delivered { note: None, learned: Vec::new() });
    }

    fn fail(self, reason: &str) {
        self.say(Outcome::Retry { after_ms: None, reason: reason.to_owned(), resume: None });
    }
}

/// A rig whose sink is a puppet.
struct Stage {
    rig: Rig,
    calls: mpsc::UnboundedReceiver<Call>,
    under_way: Arc<UnderWay>,
}

impl Stage {
    fn new(service: Service) -> Stage {
        Stage::with(service, false)
    }

    fn with(service: Service, coalesce: bool) -> Stage {
        let (sender, calls) = mpsc::unbounded_channel();
        let under_way = Arc::<UnderWay>::default();
        let puppet = Puppet { calls: sender, under_way: Arc::clone(&under_way) };
        Stage { rig: Rig::with(Arc::new(puppet), service, coalesce), calls, under_way }
    }

    /// One whose forwarder runs.
    fn running(service: Service) -> Stage {
        let mut stage = Stage::new(service);
        stage.rig.forward();
        stage
    }

    async fn call(&mut self) -> Call {
        let call = tokio::time::timeout(PATIENCE, self.calls.recv()).await;
        call.expect("a try in time").expect("a sink")
    }

    /// So many tries, in the order of their executions' keys.
    async fn calls(&mut self, count: usize) -> Vec<Call> {
        let mut calls = Vec::new();
        for _ in 0..count {
            calls.push(self.call().await);
        }
        calls.sort_by_key(|call| call.key().to_owned());
        calls
    }

    /// That nothing is tried now.
    async fn no_call(&mut self) {
        self.rig.quiet().await;
        if let Ok(call) = self.calls.try_recv() {
            panic!("{:?} is tried", call.what());
        }
    }
}

fn told(rows: &[(&str, Option<&str>)]) -> Vec<(String, Option<String>)> {
    rows.iter().map(|(status, reason)| ((*status).to_owned(), reason.map(str::to_owned))).collect()
}

#[tokio::test]
async fn a_fresh_commit_does_not_wait_for_a_poll() {
    let mut stage = Stage::running(service());
    let mut late = 0;
    for n in 0..6 {
        // The forwarder has looked, found nothing, and sleeps.
        stage.no_call().await;
        stage.rig.record(&format!("e{n}"), Status::Succeeded).await;
        let began = Instant::now();
        stage.call().await.deliver();
        late += u32::from(began.elapsed() > Duration::from_secs(3));
        stage.rig.until_status(&format!("e{n}"), "delivered").await;
    }
    // A poll comes every five seconds, counted from the look before the commit.
    assert!(late < 3, "{late} of 6 came by a poll");
}

#[tokio::test]
async fn what_was_committed_before_is_forwarded_too() {
    let mut stage = Stage::new(service());
    stage.rig.record("e", Status::Succeeded).await;
    stage.rig.forward();
    stage.call().await.deliver();
    stage.rig.until_status("e", "delivered").await;
}

#[tokio::test]
async fn a_reason_is_short_and_of_one_line_whatever_a_peer_says() {
    let mut stage = Stage::running(service());
    stage.rig.record("e", Status::Succeeded).await;
    stage.call().await.say(Outcome::Reject { reason: format!("\u{1b}[2J\n{}", "x".repeat(1 << 20)) });
    let reason = stage.rig.until_status("e", "dead").await.reason.expect("a reason");
    assert!(reason.starts_with("\\u{1b}[2J\\nxxx") && reason.len() < 3000, "{reason}");
}

#[tokio::test]
async fn an_execution_is_told_in_order_and_holds_nobody_else_up() {
    let mut stage = Stage::running(service());
    for status in [Status::Pending, Status::Running, Status::Succeeded] {
        stage.rig.record("slow", status).await;
    }
    let first = stage.call().await;
    assert_eq!(first.what(), ("slow", Status::Pending));
    // While it is under way, and even while it fails, others come and go.
    for round in 0..3 {
        let other = format!("other{round}");
        stage.rig.record(&other, Status::Running).await;
        stage.rig.record(&other, Status::Failed).await;
        for status in [Status::Running, Status::Failed] {
            let call = stage.call().await;
            assert_eq!(call.what(), (other.as_str(), status));
            call.deliver();
        }
        stage.rig.until_status(&other, "delivered").await;
    }
    stage.no_call().await;
    first.say(Outcome::Retry { after_ms: Some(20), reason: "later".to_owned(), resume: None });
    for status in [Status::Pending, Status::Running, Status::Succeeded] {
        let call = stage.call().await;
        assert_eq!(call.what(), ("slow", status));
        call.deliver();
    }
    stage.rig.until_status("slow", "delivered").await;
}

#[tokio::test]
async fn no_more_are_under_way_than_the_sink_is_to_have() {
    let mut stage = Stage::new(Service { concurrency: 3, ..service() });
    for n in 0..12 {
        stage.rig.record(&format!("e{n:02}"), Status::Succeeded).await;
    }
    stage.rig.forward();
    let mut held = stage.calls(3).await;
    for _ in 3..12 {
        stage.no_call().await;
        held.pop().expect("a try").deliver();
        held.push(stage.call().await);
    }
    held.into_iter().for_each(Call::deliver);
    stage.rig.until_status("e11", "delivered").await;
    assert_eq!(stage.under_way.most(), 3);
}

#[tokio::test]
async fn each_try_is_kept_and_the_last_one_allowed_is_a_dead_letter() {
    let retry = RetryPolicy { attempts_max: 3, ..service().retry };
    let mut stage = Stage::running(Service { retry, ..service() });
    let began = clock::now();
    stage.rig.record("e", Status::Running).await;
    stage.rig.record("e", Status::Succeeded).await;
    for n in 1..=3 {
        let call = stage.call().await;
        assert_eq!((call.what(), call.delivery.attempts), (("e", Status::Running), n - 1));
        let resume = (n > 1).then(|| json!({"lines": n - 1}));
        assert_eq!(call.delivery.resume, resume, "what the last try handed back");
        let reason = format!("answered 50{n}");
        let outcome = Outcome::Retry { after_ms: None, reason, resume: Some(json!({"lines": n})) };
        call.answer(Answer::Say(Tried { outcome, status: Some(500 + n as u16), answer: Some(format!("busy {n}")) }));
    }
    // It was given up, and lets the next one go.
    let call = stage.call().await;
    assert_eq!(call.what(), ("e", Status::Succeeded));
    call.deliver();
    stage.rig.until_status("e", "delivered").await;
    let dead = "gave up after 3 attempts; at last: answered 503";
    assert_eq!(stage.rig.standing("e").await, told(&[("dead", Some(dead)), ("delivered", None)]));

    let row = stage.rig.deliveries("e").await.remove(0);
    assert!(row.attempts == 3 && row.due_at.is_none() && row.finished_at.is_some(), "{row:?}");
    let attempts = stage.rig.attempts(&row).await;
    assert_eq!(attempts.len(), 3);
    let mut earlier = began;
    for (n, attempt) in (1..).zip(&attempts) {
        assert_eq!((attempt.outcome.as_str(), attempt.status), ("retry", Some(500 + n)));
        assert_eq!(attempt.answer, Some(format!("busy {n}")));
        let reason = if n == 3 { dead.to_owned() } else { format!("answered 50{n}") };
        assert_eq!(attempt.reason, Some(reason));
        let ended = attempt.started_at.plus_ms(attempt.duration_ms);
        assert!(
            is_between(attempt.started_at, earlier, ended) && is_between(ended, began, clock::now()),
            "{attempts:?}"
        );
        earlier = ended;
    }
    // A dead letter is kept until somebody does something about it.
    let revived = stage.rig.store.retry(callbackd::store::DeliveryFilter::All(Default::default()), clock::now()).await;
    assert_eq!(revived.expect("retried"), 1);
    stage.rig.wake.sinks(&[SINK]);
    let call = stage.call().await;
    assert_eq!((call.what(), call.delivery.attempts), (("e", Status::Running), 0));
    call.deliver();
    until("the dead letter is delivered", async || {
        let standing = stage.rig.standing("e").await;
        (standing == told(&[("delivered", None), ("delivered", None)])).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_too_old_is_given_up() {
    let retry = RetryPolicy { age_max_ms: 0, first_ms: 1000, ..service().retry };
    let mut stage = Stage::running(Service { retry, ..service() });
    stage.rig.record("e", Status::Running).await;
    stage.call().await.say(Outcome::Retry { after_ms: Some(1000), reason: "busy".to_owned(), resume: None });
    let row = stage.rig.until_status("e", "dead").await;
    assert!(row.reason.as_deref().is_some_and(|r| r.starts_with("gave up after 1 attempts in 0 s")), "{row:?}");
}

#[tokio::test]
async fn a_peers_wish_for_a_pause_is_kept_and_clamped() {
    let retry = RetryPolicy { longest_ms: 600_000, ..service().retry };
    let mut stage = Stage::running(Service { retry, ..service() });
    for (key, asked_ms, due_ms) in [("kept", 60_000, 60_000), ("clamped", 86_400_000, 600_000)] {
        stage.rig.record(key, Status::Running).await;
        let call = stage.call().await;
        let asked_at = clock::now();
        call.say(Outcome::Retry { after_ms: Some(asked_ms), reason: "later".to_owned(), resume: None });
        let (row, attempts) = stage.rig.until_attempts(key, 1).await;
        assert_eq!((row.status.as_str(), row.reason.as_deref(), attempts.len()), ("waiting", Some("later"), 1));
        let due = row.due_at.expect("a time");
        assert!(is_between(due, asked_at.plus_ms(due_ms), clock::now().plus_ms(due_ms)), "{row:?}");
    }
    stage.no_call().await;
}

#[tokio::test]
async fn a_sink_that_fails_again_and_again_is_only_probed_until_it_answers() {
    // A retry comes in hours: what comes at once is a probe, or was hurried.
    let hours = RetryPolicy { first_ms: 36_000_000, longest_ms: 36_000_000, ..service().retry };
    let mut stage = Stage::running(Service { breaker_failures: 4, retry: hours, ..service() });
    for n in 0..4 {
        stage.rig.record(&format!("early{n}"), Status::Succeeded).await;
    }
    for call in stage.calls(4).await {
        call.fail("down");
    }
    let mut probe = stage.call().await;
    stage.under_way.most();
    for n in 0..4 {
        stage.rig.record(&format!("late{n}"), Status::Succeeded).await;
    }
    for _ in 0..3 {
        stage.no_call().await;
        probe.fail("still down");
        probe = stage.call().await;
    }
    stage.no_call().await;
    assert_eq!(stage.under_way.most(), 1, "one probe at a time");
    probe.deliver();
    for _ in 1..8 {
        stage.call().await.deliver();
    }
    for name in ["early", "late"] {
        for n in 0..4 {
            stage.rig.until_status(&format!("{name}{n}"), "delivered").await;
        }
    }
    stage.no_call().await;
}

#[tokio::test]
async fn an_answer_of_any_kind_closes_the_breaker() {
    let hours = RetryPolicy { first_ms: 36_000_000, longest_ms: 36_000_000, ..service().retry };
    let mut stage = Stage::new(Service { breaker_failures: 2, retry: hours, ..service() });
    for key in ["a", "b"] {
        stage.rig.record(key, Status::Succeeded).await;
    }
    stage.rig.forward();
    for call in stage.calls(2).await {
        call.fail("down");
    }
    stage.call().await.say(Outcome::Reject { reason: "never".to_owned() });
    stage.call().await.deliver();
}

#[tokio::test]
async fn a_refused_credential_pauses_the_sink_until_it_is_resumed() {
    let mut stage = Stage::running(service());
    stage.rig.record("e", Status::Running).await;
    let call = stage.call().await;
    call.say(Outcome::Halt { reason: "the token is refused".to_owned(), resume: None });
    let paused = async |stage: &Stage| {
        let sinks = callbackd::store::Queries::sinks(&*stage.rig.store).await.expect("sinks");
        sinks.into_iter().find(|sink| sink.name == SINK).and_then(|sink| sink.paused)
    };
    let reason = until("the sink is paused", async || paused(&stage).await).await;
    assert_eq!(reason, "halted: the token is refused");
    stage.rig.record("e", Status::Succeeded).await;
    stage.rig.record("f", Status::Succeeded).await;
    stage.no_call().await;
    let (row, attempts) = stage.rig.until_attempts("f", 0).await;
    assert_eq!((row.status.as_str(), attempts.len()), ("waiting", 0));
    let row = stage.rig.deliveries("e").await.remove(0);
    assert_eq!((row.status.as_str(), row.attempts), ("waiting", 0), "it costs the delivery nothing");
    assert_eq!(stage.rig.attempts(&row).await[0].outcome, "halt", "and is kept");

    stage.rig.store.pause(SINK.to_owned(), None).await.expect("resumed");
    stage.rig.wake.sinks(&[SINK]);
    let calls = stage.calls(2).await;
    assert_eq!([calls[0].what(), calls[1].what()], [("e", Status::Running), ("f", Status::Succeeded)]);
    calls.into_iter().for_each(Call::deliver);
    stage.call().await.deliver();
    stage.rig.until_status("e", "delivered").await;
}

#[tokio::test]
async fn a_sink_that_panics_has_failed_once() {
    let mut stage = Stage::running(service());
    stage.rig.record("e", Status::Running).await;
    stage.call().await.answer(Answer::Panic);
    let call = stage.call().await;
    assert_eq!(call.delivery.attempts, 1);
    call.deliver();
    let row = stage.rig.until_status("e", "delivered").await;
    let first = stage.rig.attempts(&row).await.remove(0);
    assert_eq!(first.outcome, "retry");
    assert!(first.reason.as_deref().is_some_and(|reason| reason.contains("the sink panicked")), "{first:?}");
}

#[tokio::test]
async fn a_sink_that_never_answers_is_cut_off() {
    let mut stage = Stage::running(Service { timeout: Duration::from_millis(40), ..service() });
    stage.rig.record("e", Status::Running).await;
    let mut call = stage.call().await;
    // The try itself is gone, not only the wait for it.
    tokio::time::timeout(PATIENCE, call.answer.closed()).await.expect("cut off");
    let (row, attempts) = stage.rig.until_attempts("e", 1).await;
    assert_eq!(attempts[0].reason.as_deref(), Some("no answer within 0.04 s"), "{row:?}");
    assert!(attempts[0].outcome == "retry" && attempts[0].duration_ms >= 40, "{attempts:?}");
    // The next one may take its time anew; an answer at once is in time.
    let delivered = async {
        while let Some(call) = stage.calls.recv().await {
            let _ = call.answer.send(Answer::Say(Outcome::Delivered { note: None, learned: Vec::new() }.into()));
        }
    };
    tokio::select! {
        () = delivered => panic!("the sink is gone"),
        _ = stage.rig.until_status("e", "delivered") => {}
    }
}

#[tokio::test]
async fn a_sink_that_coalesces_is_told_the_newest_only() {
    let mut stage = Stage::with(service(), true);
    stage.rig.forward();
    stage.rig.record("e", Status::Pending).await;
    let first = stage.call().await;
    stage.rig.record("e", Status::Running).await;
    stage.rig.record("e", Status::Paused).await;
    stage.rig.record("e", Status::Succeeded).await;
    first.deliver();
    let call = stage.call().await;
    assert_eq!(call.what(), ("e", Status::Succeeded));
    call.deliver();
    stage.rig.until_status("e", "delivered").await;
    stage.no_call().await;
    let superseded = ("discarded", Some("superseded"));
    let expected = told(&[("delivered", None), superseded, superseded, ("delivered", None)]);
    assert_eq!(stage.rig.standing("e").await, expected);
}

#[tokio::test]
async fn what_is_not_to_be_told_is_dropped_and_says_why() {
    let mut stage = Stage::running(service());
    stage.rig.record("e", Status::Running).await;
    stage.rig.record("e", Status::Succeeded).await;
    stage.call().await.say(Outcome::Discard { reason: "no Port run".to_owned() });
    let call = stage.call().await;
    assert_eq!(call.what(), ("e", Status::Succeeded));
    call.say(Outcome::Delivered { note: Some("known already".to_owned()), learned: Vec::new() });
    stage.rig.until_status("e", "delivered").await;
    let expected = told(&[("discarded", Some("no Port run")), ("delivered", Some("known already"))]);
    assert_eq!(stage.rig.standing("e").await, expected);
}

#[tokio::test]
async fn a_stop_waits_for_what_is_under_way_and_begins_nothing() {
    let mut stage = Stage::running(service());
    stage.rig.record("e", Status::Running).await;
    stage.rig.record("e", Status::Succeeded).await;
    let call = stage.call().await;
    stage.rig.stop.begin();
    stage.rig.record("f", Status::Succeeded).await;
    stage.no_call().await;
    assert!(stage.rig.is_forwarding(), "a try is under way");
    call.deliver();
    stage.rig.ended().await;
    stage.no_call().await;
    assert_eq!(stage.rig.standing("e").await, told(&[("delivered", None), ("waiting", None)]));
    assert_eq!(stage.rig.standing("f").await, told(&[("waiting", None)]));
}

#[tokio::test]
async fn what_was_under_way_when_the_process_died_goes_on_by_itself() {
    let mut stage = Stage::running(service());
    stage.rig.record("e", Status::Running).await;
    stage.rig.record("e", Status::Succeeded).await;
    let lost = stage.call().await;
    assert_eq!(lost.what(), ("e", Status::Running));
    stage.rig.die_and_restart().await;
    for status in [Status::Running, Status::Succeeded] {
        let call = stage.call().await;
        assert_eq!(call.what(), ("e", status));
        assert_ne!(call.delivery.id, 0);
        if status == Status::Running {
            assert_eq!(call.delivery.id, lost.delivery.id, "a peer knows it again by its id");
        }
        call.deliver();
    }
    stage.rig.until_status("e", "delivered").await;
}

/// What SQLite refuses to keep: a try with this reason.
const POISON: &str = "CREATE TRIGGER poison BEFORE INSERT ON attempts WHEN NEW.reason = 'poison'
                      BEGIN SELECT RAISE(ABORT, 'on purpose'); END";

#[tokio::test]
async fn a_settlement_that_cannot_be_kept_holds_no_other_up_and_is_kept_once_it_can_be() {
    let mut stage = Stage::running(service());
    stage.rig.sql(POISON);
    stage.rig.record("bad", Status::Succeeded).await;
    stage.rig.record("good", Status::Succeeded).await;
    let [bad, good] = stage.calls(2).await.try_into().ok().expect("two");
    bad.fail("poison");
    good.deliver();
    stage.rig.until_status("good", "delivered").await;
    for n in 0..3 {
        stage.rig.record(&format!("later{n}"), Status::Succeeded).await;
        stage.call().await.deliver();
        stage.rig.until_status(&format!("later{n}"), "delivered").await;
    }
    assert_eq!(stage.rig.standing("bad").await, told(&[("leased", None)]));
    // Who is told to end has it kept before.
    stage.rig.stop.begin();
    stage.no_call().await;
    assert!(stage.rig.is_forwarding());
    stage.rig.sql("DROP TRIGGER poison");
    stage.rig.ended().await;
    assert_eq!(stage.rig.standing("bad").await, told(&[("waiting", Some("poison"))]));
}

/// A rule that panics over one execution.
struct Panics;

impl Program for Panics {
    fn test(&self, _: &Value) -> Result<bool, String> {
        Ok(false)
    }

    fn text(&self, data: &Value) -> Result<Option<String>, String> {
        assert_ne!(data["execution"]["key"], "started", "on purpose");
        Ok(None)
    }

    fn written(&self) -> &str {
        "."
    }
}

#[tokio::test]
async fn what_panics_as_it_is_recorded_is_a_dead_letter_and_what_ended_beside_it_is_kept() {
    let mut stage = Stage::new(service());
    let (of, with) = ("media".to_owned(), "portal".to_owned());
    stage.rig.link(LinkRule { of, key: Box::new(Panics), with, with_key: Box::new(Panics) });
    stage.rig.forward();
    for key in ["bad", "good"] {
        stage.rig.record(key, Status::Succeeded).await;
    }
    let [bad, good] = stage.calls(2).await.try_into().ok().expect("two");
    let update = Update { key: "started".to_owned(), ..Update::default() };
    let learned = vec![Learned { source: "media".to_owned(), update, linked: true }];
    bad.say(Outcome::Delivered { note: None, learned });
    good.deliver();
    stage.rig.until_status("good", "delivered").await;
    let bad = stage.rig.until_status("bad", "dead").await;
    assert!(bad.reason.as_deref().is_some_and(|reason| reason.starts_with("callbackd's own fault")), "{bad:?}");
    stage.rig.record("later", Status::Succeeded).await;
    stage.call().await.deliver();
    stage.rig.until_status("later", "delivered").await;
}

#[tokio::test]
async fn a_clock_that_jumps_begins_nothing_beside_itself() {
    let mut stage = Stage::running(service());
    stage.rig.record("e", Status::Running).await;
    stage.rig.record("e", Status::Succeeded).await;
    let first = stage.call().await;
    // To the store, the lease is over.
    stage.rig.sql("UPDATE deliveries SET due_at = 1 WHERE status = 'leased'");
    stage.rig.record("f", Status::Succeeded).await;
    let other = stage.call().await;
    assert_eq!(other.what(), ("f", Status::Succeeded));
    other.deliver();
    stage.rig.until_status("f", "delivered").await;
    stage.no_call().await;
    first.deliver();
    // Its word came under a lease that was over, so it is tried once more; only then comes what is newer.
    for status in [Status::Running, Status::Succeeded] {
        let call = stage.call().await;
        assert_eq!(call.what(), ("e", status));
        stage.no_call().await;
        call.deliver();
    }
    stage.rig.until_status("e", "delivered").await;
}

/// Progress of an execution: news each time.
fn progress(key: &str, task: usize) -> Update {
    let execution = ExecutionPart { status: Some(Status::Running), ..ExecutionPart::default() };
    let tasks = vec![Task::new(format!("t{task}"), Status::Succeeded)];
    Update { key: key.to_owned(), execution, tasks, ..Update::default() }
}

#[tokio::test]
async fn executions_take_turns_however_much_one_of_them_has_to_tell() {
    let mut stage = Stage::new(Service { concurrency: 2, ..service() });
    for task in 0..50 {
        stage.rig.record_update(progress("busy", task)).await;
    }
    for n in 0..50 {
        stage.rig.record(&format!("other{n}"), Status::Succeeded).await;
    }
    stage.rig.forward();
    let mut told = Vec::new();
    while told.len() < 100 {
        let call = stage.call().await;
        told.push((call.key().to_owned(), call.delivery.change.meta.sequence));
        call.deliver();
    }
    let last = told.iter().rposition(|(key, _)| key != "busy").expect("others");
    let before = told[..last].iter().filter(|(key, _)| key == "busy").count();
    assert!(before <= 1, "the others came second to its {before} changes: {told:?}");
    let busy: Vec<u32> = told.iter().filter(|(key, _)| key == "busy").map(|(_, sequence)| *sequence).collect();
    assert_eq!(busy, (1..=50).collect::<Vec<_>>(), "and it is told in order");
}
