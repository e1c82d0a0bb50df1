//! The one writer: a thread that takes whatever commands are queued into one transaction (group commit), on a connection of
//! its own.
//!
//! Nobody waits for a timer: while one transaction is under way, the next one's commands gather. What another callbackd
//! decided at the same instant is found by the database (a key that is there already, a lock that would be waited for in a
//! circle), and then all of the batch is decided once more.

use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;

use super::connect::{Address, explain};
use super::replicas::Place;
use super::server::{self, Durability};
use super::tx::{Done, Fault, Ids, Touches, Tx, Wire};
use crate::measure::OfStore;
use crate::store::StoreError;
use crate::store::queue::{Queue, Taken};

/// A transaction that takes longer is a database that does not answer.
const STUCK: Duration = Duration::from_secs(5);
/// So often it is tried whether a database that was away is there again.
const AGAIN: Duration = Duration::from_secs(1);
/// Commands of one transaction.
const BATCH: usize = 512;
/// So often a batch is decided anew because somebody else was first.
const TRIES: u32 = 20;

/// One queued command, whatever it returns.
pub(super) trait Command: Send {
    /// What it is known to touch.
    fn touches(&self) -> &Touches;

    /// Carries it out; called again in another transaction when the first was rolled back.
    fn run(&mut self, tx: &mut Tx<'_>) -> Done;

    /// Tells the caller, after the commit or in its stead.
    fn reply(self: Box<Self>, committed: Result<(), StoreError>);
}

struct Call<F, T> {
    touches: Touches,
    run: F,
    result: Option<Result<T, StoreError>>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

impl<F, T: Send> Command for Call<F, T>
where
    F: FnMut(&mut Tx<'_>) -> Done<T> + Send,
{
    fn touches(&self) -> &Touches {
        &self.touches
    }

    fn run(&mut self, tx: &mut Tx<'_>) -> Done {
        self.result = Some(match (self.run)(tx) {
            Ok(value) => Ok(value),
            Err(Fault::Answer(answer)) => Err(answer),
            Err(fault) => return Err(fault),
        });
        Ok(())
    }

    fn reply(self: Box<Self>, committed: Result<(), StoreError>) {
        let never = || Err(StoreError::Unavailable("the command was not carried out".to_owned()));
        let Call { result, reply, .. } = *self;
        let result = committed.and_then(|()| result.unwrap_or_else(never));
        // The caller may have stopped waiting; what it asked for is done all the same.
        let _ = reply.send(result);
    }
}

pub(super) type Commands = Queue<Box<dyn Command>>;

/// Queues a command at once; the future only waits for its answer.
pub(super) fn put<F, T>(
    queue: &Commands,
    weight: usize,
    touches: Touches,
    run: F,
) -> impl Future<Output = Result<T, StoreError>> + use<F, T>
where
    F: FnMut(&mut Tx<'_>) -> Done<T> + Send + 'static,
    T: Send + 'static,
{
    let (reply, heard) = oneshot::channel();
    let command = Box::new(Call { touches, run, result: None, reply });
    let put = queue.put(command, weight).map_err(|(_, reason)| StoreError::Unavailable(reason.to_owned()));
    async move {
        put?;
        heard.await.unwrap_or_else(|_| Err(StoreError::Unavailable("the store's writer stopped".to_owned())))
    }
}

/// What the writer tells the rest of the process without being asked.
#[derive(Default)]
pub(super) struct Health(Mutex<Course>);

#[derive(Default)]
struct Course {
    /// Why the last transaction failed; `None` after one that went through.
    fault: Option<String>,
    /// Since when one is under way.
    since: Option<Instant>,
    /// Why it could not be said to the database that this callbackd is there.
    silence: Option<String>,
    /// What a 2xx means with it.
    means: String,
}

impl Health {
    /// Why a callback could not be kept now.
    pub(super) fn fault(&self) -> Option<String> {
        let course = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stuck = || course.since.is_some_and(|since| since.elapsed() > STUCK);
        let stuck = || is_stuck().then(|| "the database does not answer".to_owned());
        course.fault.clone().or_else(stuck).or_else(|| course.silence.clone())
    }

    /// What a 2xx means with the server as it was last seen.
    pub(super) fn means(&self) -> String {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).means.clone()
    }

    /// What came of asking the database when nobody else may have: what a 2xx means with it, or why none can be given.
    pub(super) fn asked(&self, said: Result<String, String>) {
        let mut course = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match said {
            Ok(means) => {
                if !course.means.is_empty() && course.means != means {
                    tracing::warn!(before = course.means, "what a 2xx means with this database from now on: {means}");
                }
                if course.silence.take().is_some() {
                    tracing::info!("the database answers again");
                }
                course.means = means;
            }
            Err(fault) => {
                if course.silence.is_none() {
                    tracing::error!(
                        store.fault = fault,
                        "the database does not answer as it should: senders are told 503"
                    );
                }
                course.silence = Some(fault);
            }
        }
    }

    fn began(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).since = Some(Instant::now());
    }

    fn ended(&self, fault: Option<String>) {
        let mut course = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        course.since = None;
        if course.fault != fault {
            match &fault {
                Some(fault) => tracing::error!(
                    store.fault = fault,
                    "a transaction failed: nothing of it is kept, and senders are told 503 until one goes through"
                ),
                None => tracing::info!("the database takes callbacks again"),
            }
            course.fault = fault;
        }
    }
}

/// What the writer works with.
pub(super) struct Desk {
    pub(super) address: Arc<Address>,
    pub(super) durability: Durability,
    pub(super) queue: Arc<Commands>,
    pub(super) health: Arc<Health>,
    pub(super) measures: Arc<OfStore>,
    pub(super) ids: Ids,
    pub(super) place: Arc<Place>,
}

/// However the writer's thread ends, nobody is to wait for it.
pub(super) struct CloseOnDrop(pub(super) Arc<Commands>);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.close();
        self.0.take(&mut Vec::new(), Duration::ZERO);
    }
}

/// Says over `begun` whether it could begin, then runs until the queue is closed and empty.
pub(super) fn run(mut desk: Desk, begun: &SyncSender<Result<(), StoreError>>) {
    let mut wire = match wire(&desk) {
        Ok(wire) => Some(wire),
        Err(reason) => {
            let _ = begun.send(Err(StoreError::Unusable(reason)));
            return;
        }
    };
    let _ = begun.send(Ok(()));
    let (mut batch, mut tried) = (Vec::new(), Instant::now());
    loop {
        match desk.queue.take(&mut batch, AGAIN) {
            Taken::Closed => return,
            Taken::Nothing => {}
            Taken::Items => {
                let mut rest = std::mem::take(&mut batch).into_iter().peekable();
                while rest.peek().is_some() {
                    desk.carry_out(&mut wire, rest.by_ref().take(BATCH).collect(), &mut tried);
                }
            }
        }
        // So that it is ready again without a caller's help.
        if desk.health.fault().is_some() && tried.elapsed() >= AGAIN {
            tried = Instant::now();
            desk.health.began();
            let is_well = |held: &Wire| !held.client.is_closed() && server::check_wire(held, desk.durability).is_ok();
            let fault = match wire.as_ref().is_some_and(is_well) {
                true => None,
                false => {
                    let new = self::wire(&desk);
                    let reason = new.as_ref().err().cloned();
                    wire = new.ok();
                    reason
                }
            };
            desk.health.ended(fault);
        }
    }
}

fn wire(desk: &Desk) -> Result<Wire, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime: Runtime = runtime.map_err(|e| format!("no runtime for the store's writer: {e}"))?;
    let client = runtime.block_on(desk.address.open()).map_err(|e| e.to_string())?;
    let wire = Wire { runtime, client };
    server::check_wire(&wire, desk.durability)?;
    Ok(wire)
}

impl Desk {
    fn carry_out(&mut self, wire: &mut Option<Wire>, mut batch: Vec<Box<dyn Command>>, tried: &mut Instant) {
        let (began, commands) = (Instant::now(), batch.len() as u64);
        // A connection that was closed while it rested is noticed by who uses it next: that is no fault of the database.
        for _ in 0..2 {
            if wire.as_ref().is_none_or(|wire| wire.client.is_closed()) {
                *wire = None;
                if let Some(reason) = self.health.fault().filter(|_| tried.elapsed() < AGAIN) {
                    return reply(batch, &Err(StoreError::Unavailable(reason)));
                }
                self.health.began();
                *tried = Instant::now();
                match self::wire(self) {
                    Ok(new) => *wire = Some(new),
                    Err(reason) => {
                        self.measures.failed.add();
                        self.health.ended(Some(reason.clone()));
                        return reply(batch, &Err(StoreError::Unavailable(reason)));
                    }
                }
            }
            let Some(held) = wire else { return };
            match self.commit(held, batch) {
                Some(again) => batch = again,
                None => {
                    self.measures.commit.add_time(began.elapsed());
                    return self.measures.batch.add(commands);
                }
            }
        }
        self.measures.failed.add();
        let reason = "the database cannot be reached".to_owned();
        self.health.ended(Some(reason.clone()));
        reply(batch, &Err(StoreError::Unavailable(reason)));
    }

    /// Carries out the batch in one transaction and tells every caller; gives it back if the connection was gone before
    /// anything could be committed.
    fn commit(&mut self, wire: &Wire, mut batch: Vec<Box<dyn Command>>) -> Option<Vec<Box<dyn Command>>> {
        self.health.began();
        let mut tries = 0;
        let fault = loop {
            tries += 1;
            match self.attempt(wire, &mut batch) {
                Ok(()) => {
                    self.health.ended(None);
                    reply(batch, &Ok(()));
                    return None;
                }
                Err((fault, is_undone)) => {
                    if is_undone && wire.client.is_closed() {
                        return Some(batch);
                    }
                    // Where the connection is gone, the server does so itself.
                    let _ = wire.runtime.block_on(wire.client.batch_execute("ROLLBACK"));
                    if !was_not_first(&fault) || tries == TRIES {
                        break fault;
                    }
                    self.health.began();
                    std::thread::sleep(Duration::from_millis(fastrand::u64(0..=u64::from(tries) * 2)));
                }
            }
        };
        // One command that PostgreSQL refuses must not take the others with it.
        if batch.len() > 1 && !is_environment(&fault) {
            for command in batch {
                if let Some(left) = self.commit(wire, vec![command]) {
                    reply(left, &Err(StoreError::Unavailable("the database cannot be reached".to_owned())));
                }
            }
            return None;
        }
        self.measures.failed.add();
        let reason = match &fault {
            Fault::Sql(e) => explain(e),
            Fault::Unreadable(what) => format!("the store cannot be read: {what}"),
            Fault::Answer(answer) => answer.to_string(),
            Fault::Unsure(why) => (*why).to_owned(),
        };
        match is_environment(&fault) {
            true => self.health.ended(Some(reason.clone())),
            false => {
                self.health.ended(None);
                tracing::error!(store.fault = reason, "PostgreSQL refused a command, of which nothing is kept");
            }
        }
        reply(batch, &Err(StoreError::Unavailable(reason)));
        None
    }

    /// What failed, and whether for certain nothing was kept.
    fn attempt(&mut self, wire: &Wire, batch: &mut [Box<dyn Command>]) -> Result<(), (Fault, bool)> {
        let mut touches = Touches::default();
        for command in batch.iter() {
            touches.add(command.touches());
        }
        let begun = Tx::begin(wire, &mut self.ids, &self.place, &touches);
        let mut tx = begun.map_err(|fault| (fault, true))?;
        for command in batch.iter_mut() {
            command.run(&mut tx).map_err(|fault| (fault, true))?;
        }
        tx.commit().map_err(|fault| (fault, false))
    }
}

fn reply(batch: Vec<Box<dyn Command>>, committed: &Result<(), StoreError>) {
    for command in batch {
        command.reply(committed.clone());
    }
}

/// Somebody else was first with the same, or two waited for one another: decided anew, it is decided well.
fn was_not_first(fault: &Fault) -> bool {
    let Fault::Sql(e) = fault else { return false };
    let again = [
        SqlState::UNIQUE_VIOLATION,
        SqlState::T_R_SERIALIZATION_FAILURE,
        SqlState::T_R_DEADLOCK_DETECTED,
        SqlState::LOCK_NOT_AVAILABLE,
    ];
    e.code().is_some_and(|code| again.contains(code))
}

/// A fault of the server or the way there, which every command would meet.
fn is_environment(fault: &Fault) -> bool {
    let e = match fault {
        Fault::Sql(e) => e,
        Fault::Unsure(_) => return true,
        Fault::Unreadable(_) | Fault::Answer(_) => return false,
    };
    match e.code() {
        // Classes of SQLSTATE: connection, resources, an operator, the system; and a server that only reads.
        Some(code) => {
            let class = &code.code()[..2];
            matches!(class, "08" | "53" | "57" | "58" | "XX") || *code == SqlState::READ_ONLY_SQL_TRANSACTION
        }
        None => true,
    }
}
