//! Asking vendors: a real store, the real inquirer, and a vendor that answers what the test says when the test says it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use callbackd::Boxed;
use callbackd::clock;
use callbackd::measure::OfSource;
use callbackd::model::{
    ExecutionPart, Expectation, Receipt, ReceiptStatus, RetryPolicy, Route, Rules, Status, Task, Time, Update,
};
use callbackd::pipeline::Wake;
use callbackd::pipeline::ingest::Intake;
use callbackd::pipeline::inquire::{Inquirer, Pace};
use callbackd::shutdown::Shutdown;
use callbackd::sources::{Answer, Asked, AuthError, Inquire, ParseError, RawRequest, SenderRequest, Source};
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{Filter, Inquiry, Parsed, Queries, ReceiptRow, Recorded, Ruling, Store};
use http::{HeaderMap, Method};
use tempfile::TempDir;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::peers::hook::{Hook, Reply};
use crate::rig::{PATIENCE, receipt, until};

const SOURCE: &str = "media";

/// One question that waits for its answer.
struct Question {
    asked: Asked,
    answer: oneshot::Sender<Answer>,
}

impl Question {
    fn say(self, answer: Answer) {
        assert!(self.answer.send(answer).is_ok(), "nobody waits for this answer any more");
    }

    fn known(self, status: Status) {
        let update = says(&self.asked.key, Some(status));
        self.say(Answer::Known(Box::new(update)));
    }

    fn later(self) {
        self.say(Answer::Later { after_ms: None, reason: "the vendor is down".to_owned() });
    }
}

/// A source whose bodies are `KEY STATUS` or `KEY TASK STATUS`, several with a semicolon between, and whose vendor is on
/// strings.
struct Puppet {
    questions: Option<mpsc::UnboundedSender<Question>>,
}

impl Inquire for Puppet {
    fn ask<'a>(&'a self, asked: &'a Asked, _: Time) -> Boxed<'a, Answer> {
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let questions = self.questions.as_ref().expect("one that can be asked");
            let _ = questions.send(Question { asked: asked.clone(), answer });
            answered.await.expect("an answer")
        })
    }
}

impl Source for Puppet {
    fn methods(&self) -> &'static [Method] {
        &[Method::POST]
    }

    fn authenticate(&self, raw: RawRequest, now: Time) -> Result<Receipt, AuthError> {
        Ok(receipt(SOURCE, now, raw.body))
    }

    fn parse(&self, receipt: &Receipt) -> Result<Vec<Update>, ParseError> {
        let text = std::str::from_utf8(&receipt.body).expect("UTF-8");
        text.split("; ").map(update).collect()
    }

    fn as_sender(&self, _: Bytes, _: HeaderMap, _: Time) -> SenderRequest {
        unreachable!("nobody sends here")
    }

    fn inquire(&self) -> Option<&dyn Inquire> {
        self.questions.is_some().then_some(self)
    }
}

fn update(text: &str) -> Result<Update, ParseError> {
    let words: Vec<&str> = text.split(' ').collect();
    match words[..] {
        [key, status] => Ok(says(key, Some(status.parse().expect("a status")))),
        [key, task, status] => {
            let task = Task::new(task.to_owned(), status.parse().expect("a status"));
            Ok(Update { tasks: vec![task], ..says(key, None) })
        }
        _ => Err(ParseError("not two or three words".to_owned())),
    }
}

fn says(key: &str, status: Option<Status>) -> Update {
    let identity = status.filter(|s| s.is_finished()).map(|s| s.to_string());
    let execution = ExecutionPart { status, ..ExecutionPart::default() };
    Update { key: key.to_owned(), identity, execution, ..Update::default() }
}

/// Quick and stubborn, so that each test only says what it is about.
fn pace() -> Pace {
    let at_once = RetryPolicy { first_ms: 1, longest_ms: 1, age_max_ms: 86_400_000, attempts_max: u32::MAX };
    Pace {
        concurrency: 4,
        timeout: Duration::from_secs(60),
        patience: Duration::from_secs(60),
        unanswered: at_once,
        unconfirmed: RetryPolicy { attempts_max: 3, ..at_once },
        going_on: at_once,
        grace: 3,
        breaker_failures: 1000,
        breaker_probe: Duration::from_millis(20),
        refused_probe: Duration::from_millis(20),
    }
}

/// A store, and who asks for its one source.
struct Stage {
    folder: TempDir,
    store: Arc<SqliteStore>,
    intake: Arc<Intake>,
    rules: Arc<Rules>,
    wake: Wake,
    pace: Pace,
    questions: mpsc::UnboundedReceiver<Question>,
    stop: Shutdown,
    running: Option<JoinHandle<()>>,
}

impl Stage {
    fn new(pace: Pace, is_askable: bool, expectation: Option<Expectation>) -> Stage {
        let folder = tempfile::tempdir().expect("a folder");
        let store = open(&folder);
        let (sender, questions) = mpsc::unbounded_channel();
        let puppet = Puppet { questions: is_askable.then_some(sender) };
        let intake = Intake {
            name: SOURCE.into(),
            source: Box::new(puppet),
            allow: Vec::new(),
            rate: None,
            confirm: true,
            measures: Arc::new(OfSource::new(SOURCE)),
        };
        let rules = Rules {
            routes: vec![Route { from: vec![SOURCE.to_owned()], when: None, to: vec!["sink".to_owned()] }],
            expectations: expectation.into_iter().collect(),
            ..Rules::default()
        };
        let (wake, stop) = (Wake::default(), Shutdown::new());
        let (intake, rules) = (Arc::new(intake), Arc::new(rules));
        Stage { folder, store, intake, rules, wake, pace, questions, stop, running: None }
    }

    /// One whose source is to be confirmed, with an inquirer that runs.
    fn confirming(pace: Pace) -> Stage {
        let mut stage = Stage::new(pace, true, None);
        stage.inquire();
        stage
    }

    fn inquire(&mut self) {
        let inquirer = Inquirer {
            intake: Arc::clone(&self.intake),
            store: Arc::clone(&self.store) as Arc<dyn Store>,
            rules: Arc::clone(&self.rules),
            wake: self.wake.clone(),
            pace: self.pace.clone(),
        };
        self.running = Some(tokio::spawn(Arc::new(inquirer).run(self.stop.clone())));
    }

    async fn die_and_restart(&mut self) {
        let running = self.running.take().expect("one that runs");
        running.abort();
        let _ = running.await;
        self.store.close().await;
        self.store = open(&self.folder);
        while self.questions.try_recv().is_ok() {}
        self.inquire();
    }

    /// A callback comes in.
    async fn take(&self, body: &str) -> Recorded {
        let receipt = receipt(SOURCE, clock::now(), body.to_owned());
        let updates = self.intake.source.parse(&receipt).expect("understood");
        let parsed = if self.intake.confirm { Parsed::Held(updates) } else { Parsed::Updates(updates) };
        let recorded = self.store.record(receipt, parsed, Arc::clone(&self.rules)).await.expect("recorded");
        self.wake.source(SOURCE);
        recorded
    }

    /// What is believed without asking: of a source that only expects something.
    async fn believe(&self, update: Update) -> Recorded {
        let receipt = receipt(SOURCE, clock::now(), "believed");
        let parsed = Parsed::Updates(vec![update]);
        let recorded = self.store.record(receipt, parsed, Arc::clone(&self.rules)).await.expect("recorded");
        self.wake.source(SOURCE);
        recorded
    }

    async fn question(&mut self) -> Question {
        let question = tokio::time::timeout(PATIENCE, self.questions.recv()).await;
        question.expect("a question in time").expect("a vendor")
    }

    /// That nothing is asked now. This runtime has one thread, and the store answers in turn.
    async fn no_question(&mut self) {
        for _ in 0..5 {
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            self.store.pause("nobody".to_owned(), None).await.expect("answered");
        }
        if let Ok(question) = self.questions.try_recv() {
            panic!("{:?} is asked about", question.asked);
        }
    }

    async fn row(&self, recorded: &Recorded) -> ReceiptRow {
        self.store.receipt(recorded.receipt).await.expect("kept").0
    }

    /// Waits until the receipt is what it is to be.
    async fn until(&self, recorded: &Recorded, status: ReceiptStatus) -> ReceiptRow {
        until(&format!("the receipt is {status}"), async || {
            let row = self.row(recorded).await;
            (row.status == status).then_some(row)
        })
        .await
    }

    /// The types of what the sink is told, in order, without what all have in common.
    async fn told(&self, key: &str) -> Vec<String> {
        let mut rows = self.store.deliveries(Filter::default()).await.expect("deliveries");
        rows.retain(|row| row.key == key);
        rows.iter().rev().map(|row| row.kind["callbackd.execution.".len()..].to_owned()).collect()
    }

    async fn until_told(&self, key: &str, types: &[&str]) {
        until(&format!("{key}: {types:?} are told"), async || (self.told(key).await == types).then_some(())).await;
    }
}

fn open(folder: &TempDir) -> Arc<SqliteStore> {
    Arc::new(SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("a store"))
}

fn within(within_ms: u64) -> Option<Expectation> {
    Some(Expectation { source: SOURCE.to_owned(), within_ms: Some(within_ms), of: Vec::new() })
}

#[tokio::test]
async fn a_callback_is_told_to_nobody_before_its_vendor_confirms_it() {
    let mut stage = Stage::confirming(pace());
    let kept = stage.take("i1 failed").await;
    assert_eq!((kept.outcome, kept.executions.len()), (ReceiptStatus::Held, 0));
    let question = stage.question().await;
    assert_eq!(question.asked.key, "i1");
    assert!(stage.told("i1").await.is_empty() && stage.row(&kept).await.status == ReceiptStatus::Held);
    question.known(Status::Failed);
    stage.until(&kept, ReceiptStatus::Accepted).await;
    assert_eq!(stage.told("i1").await, ["failed"]);
    // What is known to be true is not asked about again.
    assert_eq!(stage.take("i1 failed").await.outcome, ReceiptStatus::Duplicate);
    stage.no_question().await;
}

#[tokio::test]
async fn a_forged_callback_dies() {
    let mut stage = Stage::confirming(pace());
    // Of a run that ended otherwise: at once.
    let contradicted = stage.take("i1 succeeded").await;
    stage.question().await.known(Status::Failed);
    let row = stage.until(&contradicted, ReceiptStatus::Refused).await;
    let reason = "i1: the vendor says that the execution is failed, this says succeeded";
    assert_eq!(row.reason.as_deref(), Some(reason));
    // Of a run that nobody knows, or that still goes on: after the vendor had time to catch up.
    for (key, reason) in [
        ("i2", "i2: the vendor knows no execution of this id; it was asked 3 times"),
        ("i3", "i3: the vendor says that the execution is running, this says failed; it was asked 3 times"),
    ] {
        let kept = stage.take(&format!("{key} failed")).await;
        for _ in 0..3 {
            assert_eq!(stage.row(&kept).await.status, ReceiptStatus::Held);
            let question = stage.question().await;
            if key == "i2" { question.say(Answer::Unknown) } else { question.known(Status::Running) }
        }
        let row = stage.until(&kept, ReceiptStatus::Refused).await;
        assert_eq!(row.reason.as_deref(), Some(reason));
    }
    // Of what cannot be asked about.
    let kept = stage.take("job succeeded").await;
    stage.question().await.say(Answer::Unanswerable { reason: "a job of no workflow".to_owned() });
    let row = stage.until(&kept, ReceiptStatus::Refused).await;
    assert_eq!(row.reason.as_deref(), Some("job: cannot be confirmed: a job of no workflow"));
    stage.no_question().await;
    assert!(stage.store.executions(Filter::default()).await.expect("listed").is_empty());
    assert!(stage.store.deliveries(Filter::default()).await.expect("listed").is_empty());
}

#[tokio::test]
async fn a_body_of_many_executions_is_asked_about_no_further_than_the_first_that_is_not_confirmed() {
    let mut stage = Stage::confirming(pace());
    let kept = stage.take("i1 running; i2 running; i3 running").await;
    for _ in 0..3 {
        let question = stage.question().await;
        assert_eq!(question.asked.key, "i1");
        question.say(Answer::Unknown);
    }
    stage.until(&kept, ReceiptStatus::Refused).await;
    stage.no_question().await;
    // A vendor that is down is not asked about each of them either.
    let kept = stage.take("i4 failed; i5 failed").await;
    stage.question().await.later();
    for key in ["i4", "i5"] {
        let question = stage.question().await;
        assert_eq!(question.asked.key, key);
        question.known(Status::Failed);
    }
    stage.until(&kept, ReceiptStatus::Accepted).await;
}

#[tokio::test]
async fn a_body_of_more_executions_than_there_is_time_for_is_refused_in_the_end() {
    let patience = Duration::from_secs(1);
    let mut stage = Stage::confirming(Pace { patience, ..pace() });
    let kept = stage.take("i1 failed; i2 failed").await;
    for _ in 0..3 {
        let question = stage.question().await;
        assert_eq!(question.asked.key, "i1");
        tokio::time::sleep(patience).await;
        question.known(Status::Failed);
    }
    let row = stage.until(&kept, ReceiptStatus::Refused).await;
    let reason = "of 2 executions, only 1 could be asked about; it was asked 3 times";
    assert_eq!(row.reason.as_deref(), Some(reason));
    stage.no_question().await;
}

/// Each of a line is ruled by itself: what waits behind it is put off once, not once for each.
#[tokio::test]
async fn what_waits_behind_a_line_is_put_off_once() {
    let stage = Stage::new(pace(), true, None);
    let mut kept = Vec::new();
    for _ in 0..103 {
        kept.push(stage.take("i1 failed").await.receipt);
    }
    let claimed = stage.store.claim_inquiries(SOURCE.to_owned(), 4, 60_000, true, clock::now()).await.expect("claimed");
    let [Inquiry::Held(line)] = &claimed.due[..] else { panic!("{:?}", claimed.due) };
    let reading = rusqlite::Connection::open(stage.folder.path().join("store.db")).expect("opened");
    let due_at = || {
        let sql = "SELECT due_at FROM inquiries WHERE id = ?1";
        reading.query_row(sql, [kept[102]], |row| row.get::<_, i64>(0)).expect("it waits")
    };
    let mut seen = vec![due_at()];
    for held in &line[..3] {
        let waits = Ruling::Waits { due_at: clock::now().plus_ms(60_000), answered: true, reason: String::new() };
        stage.store.rule(held.receipt, waits, Arc::clone(&stage.rules), clock::now()).await.expect("ruled");
        seen.push(due_at());
    }
    assert!(seen[1] > seen[0], "{seen:?}");
    assert_eq!(seen[1..], [seen[1]; 3]);
}

#[tokio::test]
async fn a_vendor_that_is_behind_its_own_callback_is_given_time() {
    let mut stage = Stage::confirming(pace());
    let kept = stage.take("i1 succeeded").await;
    stage.question().await.say(Answer::Unknown);
    stage.question().await.known(Status::Running);
    stage.question().await.known(Status::Succeeded);
    stage.until(&kept, ReceiptStatus::Accepted).await;
    assert_eq!(stage.told("i1").await, ["succeeded"]);
}

#[tokio::test]
async fn one_answer_decides_all_that_is_held_of_an_execution_in_its_order() {
    let mut stage = Stage::new(pace(), true, None);
    let mut kept = Vec::new();
    for body in ["i1 running", "i1 t1 failed", "i1 t1 failed", "i1 failed", "i1 failed"] {
        kept.push(stage.take(body).await);
    }
    stage.inquire();
    let question = stage.question().await;
    let mut truth = says("i1", Some(Status::Failed));
    truth.tasks.push(Task { vendor_status: Some("Failed".to_owned()), ..Task::new("t1".to_owned(), Status::Failed) });
    question.say(Answer::Known(Box::new(truth)));
    use ReceiptStatus::{Accepted, Duplicate};
    for (kept, status) in kept.iter().zip([Accepted, Accepted, Duplicate, Accepted, Duplicate]) {
        stage.until(kept, status).await;
    }
    assert_eq!(stage.told("i1").await, ["running", "updated", "failed"]);
    let shown = stage.store.execution("i1".to_owned()).await.expect("shown");
    assert_eq!(shown["tasks"][0]["vendor_status"], "Failed", "the vendor's own words are recorded");
    stage.no_question().await;
}

#[tokio::test]
async fn a_vendor_that_is_down_is_asked_until_it_is_up_over_a_restart() {
    let mut stage = Stage::confirming(pace());
    let (first, second) = (stage.take("i1 failed").await, stage.take("i2 failed").await);
    for _ in 0..20 {
        stage.question().await.later();
    }
    for (kept, reason) in [(&first, "i1: the vendor is down"), (&second, "i2: the vendor is down")] {
        let said = async || stage.row(kept).await.reason.filter(|said| said == reason);
        until("why it is held", said).await;
        assert_eq!(stage.row(kept).await.status, ReceiptStatus::Held);
    }
    stage.die_and_restart().await;
    assert!(stage.store.deliveries(Filter::default()).await.expect("listed").is_empty());
    for _ in 0..2 {
        stage.question().await.known(Status::Failed);
    }
    for kept in [&first, &second] {
        let row = stage.until(kept, ReceiptStatus::Accepted).await;
        assert_eq!(row.reason, None);
    }
}

#[tokio::test]
async fn a_vendor_that_fails_again_and_again_is_only_probed_until_it_answers() {
    // A question is put again in an hour: what is asked at once is a probe, or was hurried.
    let hour = RetryPolicy { first_ms: 3_600_000, longest_ms: 3_600_000, ..pace().unanswered };
    let mut stage = Stage::confirming(Pace { breaker_failures: 2, unanswered: hour, ..pace() });
    for n in 0..2 {
        stage.take(&format!("early{n} failed")).await;
    }
    for _ in 0..2 {
        stage.question().await.later();
    }
    stage.no_question().await;
    let late = [stage.take("late0 failed").await, stage.take("late1 failed").await];
    let probe = stage.question().await;
    stage.no_question().await;
    probe.known(Status::Failed);
    for _ in 0..3 {
        stage.question().await.known(Status::Failed);
    }
    for kept in &late {
        stage.until(kept, ReceiptStatus::Accepted).await;
    }
    stage.until_told("early0", &["failed"]).await;
    stage.until_told("early1", &["failed"]).await;
}

#[tokio::test]
async fn a_refused_credential_is_asked_with_now_and_then_and_loses_nothing() {
    let mut stage = Stage::confirming(Pace { refused_probe: Duration::from_secs(4), ..pace() });
    let refused = || Answer::Halt { reason: "SignatureDoesNotMatch".to_owned() };
    let first = stage.take("i1 failed").await;
    stage.question().await.say(refused());
    let why = async || stage.row(&first).await.reason.filter(|reason| reason == "i1: SignatureDoesNotMatch");
    until("why it is held", why).await;
    let second = stage.take("i2 failed").await;
    stage.no_question().await;
    // Somebody mends it at the vendor's.
    let began = clock::now();
    stage.question().await.say(refused());
    stage.question().await.known(Status::Failed);
    stage.question().await.known(Status::Failed);
    assert!(clock::now().ms_since(began) > 3000, "at a distance");
    stage.until(&first, ReceiptStatus::Accepted).await;
    stage.until(&second, ReceiptStatus::Accepted).await;
}

#[tokio::test]
async fn an_answer_that_never_comes_or_is_about_another_execution_is_none() {
    let mut stage = Stage::confirming(Pace { timeout: Duration::from_millis(40), ..pace() });
    let kept = stage.take("i1 failed").await;
    let hangs = stage.question().await;
    let other = stage.question().await;
    assert!(hangs.answer.is_closed(), "cut off");
    let about_another = |question: Question| {
        let _ = question.answer.send(Answer::Known(Box::new(says("i2", Some(Status::Failed)))));
    };
    about_another(other);
    // Whatever is asked meanwhile is answered at once: none of these is cut off, too.
    until("why it is held", async || {
        while let Ok(question) = stage.questions.try_recv() {
            about_another(question);
        }
        let reason = stage.row(&kept).await.reason;
        (reason.as_deref() == Some("i1: the vendor answers about another execution")).then_some(())
    })
    .await;
    until("the receipt is accepted", async || {
        while let Ok(question) = stage.questions.try_recv() {
            let update = says("i1", Some(Status::Failed));
            let _ = question.answer.send(Answer::Known(Box::new(update)));
        }
        (stage.row(&kept).await.status == ReceiptStatus::Accepted).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_stop_waits_for_the_question_under_way_and_puts_no_other() {
    let mut stage = Stage::confirming(Pace { concurrency: 1, ..pace() });
    let first = stage.take("i1 failed").await;
    let question = stage.question().await;
    let second = stage.take("i2 failed").await;
    stage.stop.begin();
    stage.no_question().await;
    question.known(Status::Failed);
    let running = stage.running.take().expect("one that runs");
    tokio::time::timeout(PATIENCE, running).await.expect("an end in time").expect("no panic");
    assert_eq!(stage.row(&first).await.status, ReceiptStatus::Accepted);
    assert_eq!(stage.row(&second).await.status, ReceiptStatus::Held);
}

/// A body of several executions is no reason to go on asking.
#[tokio::test]
async fn a_stop_leaves_the_rest_of_a_body_to_the_next_start() {
    let mut stage = Stage::confirming(pace());
    let kept = stage.take("i1 failed; i2 failed").await;
    let question = stage.question().await;
    stage.stop.begin();
    question.known(Status::Failed);
    let running = stage.running.take().expect("one that runs");
    tokio::time::timeout(PATIENCE, running).await.expect("an end in time").expect("no panic");
    let row = stage.row(&kept).await;
    assert_eq!((row.status, row.reason.as_deref()), (ReceiptStatus::Held, Some("i2: the vendor is to be asked")));
    stage.stop = Shutdown::new();
    stage.inquire();
    for key in ["i1", "i2"] {
        let question = stage.question().await;
        assert_eq!(question.asked.key, key);
        question.known(Status::Failed);
    }
    stage.until(&kept, ReceiptStatus::Accepted).await;
}

#[tokio::test]
async fn what_is_late_is_overdue_when_nobody_can_be_asked() {
    let mut stage = Stage::new(pace(), false, within(50));
    stage.believe(says("i1", Some(Status::Running))).await;
    stage.believe(says("i2", Some(Status::Running))).await;
    stage.believe(says("i2", Some(Status::Succeeded))).await;
    stage.inquire();
    stage.until_told("i1", &["running", "overdue"]).await;
    stage.believe(says("i1", Some(Status::Failed))).await;
    stage.until_told("i1", &["running", "overdue", "failed"]).await;
    assert_eq!(stage.told("i2").await, ["running", "succeeded"]);
}

#[tokio::test]
async fn a_vendor_that_can_be_asked_is_asked_before_an_execution_is_overdue() {
    let mut stage = Stage::new(pace(), true, within(50));
    stage.believe(says("i1", Some(Status::Running))).await;
    stage.inquire();
    let question = stage.question().await;
    assert_eq!(question.asked.key, "i1");
    question.known(Status::Succeeded);
    stage.until_told("i1", &["running", "succeeded"]).await;

    // One that goes on is overdue, once, and asked about until it ends.
    stage.believe(says("i2", Some(Status::Running))).await;
    for _ in 0..3 {
        stage.question().await.known(Status::Running);
    }
    stage.until_told("i2", &["running", "overdue"]).await;
    stage.question().await.known(Status::Cancelled);
    stage.until_told("i2", &["running", "overdue", "cancelled"]).await;
    stage.no_question().await;
    // The callback that comes after all says what is known.
    assert_eq!(stage.believe(says("i2", Some(Status::Cancelled))).await.outcome, ReceiptStatus::Duplicate);
}

#[tokio::test]
async fn a_vendor_that_does_not_answer_does_not_hide_what_is_overdue() {
    let mut stage = Stage::new(pace(), true, within(50));
    stage.believe(says("i1", Some(Status::Running))).await;
    stage.inquire();
    for _ in 0..2 {
        assert_eq!(stage.told("i1").await, ["running"]);
        stage.question().await.later();
    }
    stage.question().await.later();
    stage.until_told("i1", &["running", "overdue"]).await;
    stage.question().await.known(Status::Failed);
    stage.until_told("i1", &["running", "overdue", "failed"]).await;
}

#[tokio::test]
async fn a_workflow_has_a_time_of_its_own() {
    let of = vec![("quick".to_owned(), 20)];
    let expectation = Expectation { source: SOURCE.to_owned(), within_ms: Some(3_600_000), of };
    let mut stage = Stage::new(pace(), false, Some(expectation));
    for (key, workflow) in [("i1", "quick"), ("i2", "slow")] {
        let mut update = says(key, Some(Status::Running));
        update.execution.workflow = Some(workflow.to_owned());
        stage.believe(update).await;
    }
    stage.inquire();
    stage.until_told("i1", &["running", "overdue"]).await;
    assert_eq!(stage.told("i2").await, ["running"]);
}

/// On the built binary: what never called back is told, listed and shown, and no more so when it is finished.
#[test]
fn what_never_called_back_is_told_and_listed() {
    let hook = Hook::start(|| Reply::Status(200));
    let config = format!(
        "[sources.media]\nkind = \"cos_workflow\"\npath = \"/in\"\ntoken = \"t0ken\"\nexpect_within = \"365d\"\n\
         expect = {{ test = \"1h\" }}\n[sinks.any]\nkind = \"webhook\"\nurl = {:?}\n\
         [[routes]]\nfrom = [\"media\"]\nwhen = '.change.overdue'\nto = [\"any\"]\n",
        hook.url()
    );
    let mut daemon = Daemon::run(&config);
    // It began years ago.
    assert_eq!(daemon.post("/in/t0ken", &[], cos(Step::Start, "run-1")).status, 200);
    assert_eq!(daemon.post("/in/t0ken", &[], cos(Step::Success, "run-2")).status, 200);
    soon("a delivery", || daemon.list(&["deliveries", "list", "--status", "delivered"]).pop());
    let seen = hook.seen().pop().expect("a change");
    let change = seen.change();
    assert_eq!(change["type"], "callbackd.execution.overdue");
    let said = &change["data"]["change"];
    assert_eq!(
        (&said["overdue"], &said["previous_status"], &said["sequence"]),
        (&true.into(), &"running".into(), &2.into())
    );
    daemon.restart();
    let overdue = daemon.list(&["executions", "list", "--status", "overdue"]);
    assert_eq!(
        overdue.iter().map(|e| (&e["key"], &e["overdue"])).collect::<Vec<_>>(),
        [(&"run-1".into(), &true.into())]
    );
    let table = daemon.cli(&["executions", "list"]);
    assert!(table.said().contains("running, overdue"), "{}", table.said());
    assert_eq!(daemon.post("/in/t0ken", &[], cos(Step::Success, "run-1")).status, 200);
    assert!(daemon.list(&["executions", "list", "--status", "overdue"]).is_empty());
    assert_eq!(daemon.execution("run-1")["execution"]["overdue"], false);
    assert_eq!(hook.taken().len(), 1, "once");
    assert!(daemon.list(&["receipts", "list", "--status", "held,refused"]).is_empty());
}
