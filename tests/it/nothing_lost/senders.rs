//! The senders: each tells one story after the other, callback by callback, until it is told that it was taken.
//!
//! They repeat what they have no answer to, and now and then what they have one to; hang up in the middle or before the
//! answer; and say the same over two connections at a time.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use super::judge::Told;
use super::story::{Callback, Story};
use crate::callbacks::signed;
use crate::daemon::{Connection, request};
use crate::wire::Answer;

pub(super) const MEDIA: &str = "/callbacks/media/t0ken";
pub(super) const PORTAL: &str = "/callbacks/port";
pub(super) const PORT_SECRET: &str = "hunter2-port";

/// Where the daemon is, as long as it lives.
#[derive(Default)]
pub(super) struct Whereabouts {
    address: Mutex<Option<String>>,
    moved: Condvar,
    over: AtomicBool,
    given_up: AtomicBool,
}

impl Whereabouts {
    /// Nobody begins another story.
    pub(super) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    /// The test has failed: nobody waits any more.
    pub(super) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.set(None);
    }

    pub(super) fn set(&self, address: Option<String>) {
        *self.address.lock().expect("sound") = address;
        self.moved.notify_all();
    }

    fn get(&self) -> String {
        let mut address = self.address.lock().expect("sound");
        loop {
            assert!(!self.given_up.load(Ordering::Relaxed), "the daemon does not come back");
            match &*address {
                Some(found) => return found.clone(),
                None => address = self.moved.wait(address).expect("sound"),
            }
        }
    }
}

/// What a sender meant, and what it was told.
#[derive(Default)]
pub(super) struct Ledger {
    pub(super) stories: Vec<Story>,
    pub(super) told: Vec<Told>,
    pub(super) tries: u64,
    /// Answers that are no 200 and no 503.
    pub(super) strange: Vec<String>,
}

/// One sender.
pub(super) struct Sender<'a> {
    pub(super) name: String,
    pub(super) rng: Rng,
    pub(super) whereabouts: &'a Whereabouts,
    /// Told of each story before it begins.
    pub(super) begins: &'a (dyn Fn(&Story) + Sync),
    connection: Option<Connection>,
    ledger: Ledger,
}

impl<'a> Sender<'a> {
    pub(super) fn new(
        name: String,
        rng: Rng,
        whereabouts: &'a Whereabouts,
        begins: &'a (dyn Fn(&Story) + Sync),
    ) -> Sender<'a> {
        Sender { name, rng, whereabouts, begins, connection: None, ledger: Ledger::default() }
    }

    /// Tells whole stories until it is over.
    pub(super) fn run(mut self) -> Ledger {
        for number in 0.. {
            if self.whereabouts.over.load(Ordering::Relaxed) {
                break;
            }
            let story = Story::any(&format!("{}x{number}", self.name), &mut self.rng);
            (self.begins)(&story);
            for (at, callback) in story.callbacks.iter().enumerate() {
                self.tell(callback);
                if self.rng.u32(0..10) == 0 {
                    let again = &story.callbacks[self.rng.usize(0..=at)];
                    self.tell(again);
                }
            }
            self.ledger.stories.push(story);
            // Not to wait for anything: what comes is to be more than the sinks take at once, and not much more.
            thread::sleep(Duration::from_millis(self.rng.u64(0..30)));
        }
        self.ledger
    }

    /// Tells one thing, and does `then` at the very moment of the answer; tells it on if that was no yes.
    pub(super) fn tell_and(&mut self, name: &str, then: impl FnOnce()) {
        let story = Story::short(name);
        let callback = &story.callbacks[0];
        self.ledger.tries += 1;
        let answer = self.ask(&wire(callback));
        then();
        self.connection = None;
        match answer {
            Ok(answer) if answer.status == 200 => self.note(callback, &answer),
            _ => self.tell(callback),
        }
        self.ledger.stories.push(story);
    }

    /// What it meant, and what it was told.
    pub(super) fn into_ledger(self) -> Ledger {
        self.ledger
    }

    /// Says it until it is acknowledged.
    fn tell(&mut self, callback: &Callback) {
        loop {
            self.ledger.tries += 1;
            let bytes = wire(callback);
            let answers = match self.rng.u32(0..100) {
                0..3 => {
                    let some = self.rng.usize(1..bytes.len());
                    self.hang_up(&bytes[..some])
                }
                3..6 => self.hang_up(&bytes),
                6..8 => self.twice(&bytes),
                _ => vec![self.ask(&bytes)],
            };
            let mut is_told = false;
            for answer in answers {
                match answer {
                    Ok(answer) if answer.status == 200 => {
                        is_told = true;
                        self.note(callback, &answer);
                    }
                    // It says when it cannot; anything else would be a fault.
                    Ok(answer) if answer.status == 503 => {}
                    Ok(answer) => self.ledger.strange.push(format!("{callback:?}: {answer:?}")),
                    Err(_) => self.connection = None,
                }
            }
            if is_told {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn note(&mut self, callback: &Callback, answer: &Answer) {
        let said = answer.json();
        let text = |key: &str| said[key].as_str().unwrap_or_else(|| panic!("{key} in {said}")).to_owned();
        self.ledger.told.push(Told {
            key: callback.key.clone(),
            callback: callback.name.clone(),
            receipt: text("receipt"),
            outcome: text("outcome"),
        });
    }

    fn ask(&mut self, bytes: &[u8]) -> io::Result<Answer> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => self.connection.insert(Connection::try_to(&self.whereabouts.get())?),
        };
        connection.ask(bytes)
    }

    /// Sends these and goes away.
    fn hang_up(&mut self, bytes: &[u8]) -> Vec<io::Result<Answer>> {
        let sent = Connection::try_to(&self.whereabouts.get()).and_then(|mut connection| connection.send(bytes));
        sent.err().map(Err).into_iter().collect()
    }

    /// Says the same over two connections at a time.
    fn twice(&mut self, bytes: &[u8]) -> Vec<io::Result<Answer>> {
        let address = self.whereabouts.get();
        let begun = [(); 2].map(|()| {
            Connection::try_to(&address).and_then(|mut connection| connection.send(bytes).map(|()| connection))
        });
        begun.into_iter().map(|begun| begun?.answer()).collect()
    }
}

/// A callback as it goes over the wire, signed now.
fn wire(callback: &Callback) -> Vec<u8> {
    let body = callback.body.as_bytes();
    if !callback.signed {
        return request("POST", MEDIA, &[], body);
    }
    let headers = signed(PORT_SECRET, body, 0);
    let headers: Vec<(&str, &str)> = headers.iter().map(|(name, value)| (*name, &**value)).collect();
    request("POST", PORTAL, &headers, body)
}
