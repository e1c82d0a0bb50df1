//! The load that is recorded: senders, sinks, and a life of the store with all that happens in one.

use std::fmt::Display;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use callbackd::clock;
use callbackd_vfs::tape::{Tape, What};
use fastrand::Rng;
use serde_json::Value;
use tempfile::TempDir;

use crate::callbacks::{Step, cos};
use crate::daemon::{Asker, Daemon, PATIENCE, STORE, field, receive};
use crate::older;

pub(crate) const SINKS: [&str; 2] = ["one", "two"];
/// What no source understands, and is kept all the same.
pub(crate) const GARBLED: &str = "garbled";

const MEDIA: &str = "/callbacks/media/t0ken";
const SENDERS: u64 = 4;

/// What is done wrong on purpose, so that the test can be seen to fail.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Wrong {
    Nothing,
    /// It believes that it syncs these files, and does not.
    Unsynced(&'static str),
    /// The sender is told as soon as its callback is in, not when it is committed.
    ToldEarly,
}

/// The smallest log that a disk is given: so that the recorded life has many that are copied.
const LOG_BYTES: u64 = 16 << 20;

/// A life of a store, recorded.
pub(crate) struct Life {
    home: TempDir,
    tape: Arc<Tape>,
    urls: Vec<String>,
    wrong: Wrong,
    rng: Mutex<Rng>,
    runs: AtomicU64,
}

/// A folder in memory, where there is room: that bytes reach a disk is for the recording to say.
pub(crate) fn folder() -> TempDir {
    static MEMORY: LazyLock<Option<&str>> = LazyLock::new(|| {
        let memory = "/dev/shm";
        let said = Command::new("df").args(["-Pk", memory]).output().ok()?.stdout;
        let free = String::from_utf8(said).ok()?.lines().nth(1)?.split_whitespace().nth(3)?.parse::<u64>().ok()?;
        (free > 1 << 20).then_some(memory)
    });
    MEMORY.map_or_else(tempfile::tempdir, tempfile::tempdir_in).expect("a folder")
}

/// How a daemon ends.
enum End {
    Term,
    Kill,
}

/// How long a daemon works.
#[derive(Clone, Copy)]
pub(crate) enum Enough {
    /// Until it acknowledged so many.
    Told(u64),
    /// The same, after the log was copied into the file and has begun anew.
    ToldAfterCheckpoint(u64),
}

/// What a daemon may let go of, and says when it did.
#[derive(Clone, Copy)]
enum Keep {
    Everything,
    /// What is not older than so many microseconds.
    Age(i64),
    /// What fits into this: however young it is.
    Room(&'static str),
}

impl Keep {
    fn micros(self) -> i64 {
        match self {
            Keep::Everything => i64::MAX / 2,
            Keep::Age(micros) => micros / 1000 * 1000,
            Keep::Room(_) => 0,
        }
    }

    fn config(self) -> String {
        match self {
            Keep::Everything => String::new(),
            Keep::Age(micros) => format!("store.keep = \"{}ms\"\n", micros / 1000),
            Keep::Room(size) => format!("store.disk_max = {size:?}\n"),
        }
    }

    fn says(self) -> &'static [&'static str] {
        match self {
            Keep::Everything => &[],
            Keep::Age(_) => &["let go of what was older than store.keep"],
            Keep::Room(_) => &["to stay below store.disk_max", "gave room back to the disk"],
        }
    }
}

impl Life {
    pub(crate) fn begin(wrong: Wrong, seed: u64) -> Life {
        let home = folder();
        let tape = Arc::new(Tape::append_to(&home.path().join("tape")).expect("a tape"));
        // A sync that takes no time would leave nothing unsynced while something else goes on.
        let skips = if let Wrong::Unsynced(files) = wrong { format!("sync {files} skip\n") } else { String::new() };
        let faults = skips + "sync any slow 1\n";
        fs::write(home.path().join("faults"), faults).expect("written");
        let mut rng = Rng::with_seed(seed);
        let urls = SINKS.map(|sink| take_deliveries(sink, Arc::clone(&tape), rng.fork())).to_vec();
        fs::create_dir(home.path().join("store")).expect("made");
        Life { home, tape, urls, wrong, rng: Mutex::new(rng), runs: AtomicU64::new(0) }
    }

    fn tape(&self) -> PathBuf {
        self.home.path().join("tape")
    }

    /// Everything that can happen in one: the first start, stops, kills, an older schema, letting go by age and for room.
    /// Returns the tape.
    pub(crate) fn live(&self, callbacks: u64) -> PathBuf {
        let callbacks = Enough::Told(callbacks);
        self.day("new", Keep::Everything, callbacks, End::Term);
        let middle = clock::now().micros();
        self.day("again", Keep::Everything, callbacks, End::Kill);
        // What came on the first day goes, what came on the second stays.
        self.day("retention", Keep::Age(clock::now().micros() - middle), callbacks, End::Kill);
        self.make_older();
        self.day("upgrade", Keep::Everything, callbacks, End::Term);
        self.day("retention", Keep::Room("512KiB"), callbacks, End::Kill);
        self.drain();
        self.tape()
    }

    /// Only what the tests of the test need.
    pub(crate) fn live_briefly(&self, enough: Enough) -> PathBuf {
        self.day("new", Keep::Everything, enough, End::Kill);
        self.drain();
        self.tape()
    }

    fn config(&self, keep: Keep) -> String {
        let sink = |(name, url): (&&str, &String)| {
            format!(
                "[sinks.{name}]\nkind = \"webhook\"\nurl = {url:?}\nretry_first = \"20ms\"\nretry_longest = \"100ms\"\n\
                 breaker_probe = \"50ms\"\n"
            )
        };
        let sinks: String = SINKS.iter().zip(&self.urls).map(sink).collect();
        format!(
            "{}store.log_bytes = {LOG_BYTES}\n[sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
             {sinks}[[routes]]\nfrom = [\"media\"]\nto = {SINKS:?}\n",
            keep.config()
        )
    }

    fn start(&self, kind: &str, keep: Keep) -> Daemon {
        self.tape.mark(&format!("start {kind} {}", keep.micros()));
        let (tape, faults) = (self.tape(), self.home.path().join("faults"));
        let daemon = Daemon::start(&self.home.path().join("store"), &self.config(keep), &tape, &faults);
        self.tape.mark("runs");
        daemon
    }

    /// A start, work, and an end in the middle of it.
    fn day(&self, kind: &str, keep: Keep, enough: Enough, end: End) {
        let mut daemon = self.start(kind, keep);
        let address = match self.wrong {
            Wrong::ToldEarly => answer_early(daemon.listen.clone()),
            _ => daemon.listen.clone(),
        };
        let told = AtomicU64::new(0);
        // A repeat of what was let go of would be news.
        let repeats = matches!(keep, Keep::Everything);
        thread::scope(|scope| {
            for _ in 0..SENDERS {
                let (rng, address, told) = (self.rng.lock().expect("sound").fork(), &address, &told);
                let (tape, runs) = (&*self.tape, &self.runs);
                scope.spawn(move || send(rng, address, tape, runs, told, repeats));
            }
            for words in keep.says() {
                daemon.says(words);
            }
            self.tape.mark("let go");
            let (mut first, mut since) = (None, None);
            wait(|| {
                let told = told.load(Ordering::Relaxed);
                match enough {
                    Enough::Told(count) => told >= count,
                    Enough::ToldAfterCheckpoint(count) => {
                        // Each log has another head.
                        let mut head = [0; 32];
                        let log = self.home.path().join("store").join([STORE, "-wal"].concat());
                        fs::File::open(log).and_then(|mut log| log.read_exact(&mut head)).expect("a log");
                        if *first.get_or_insert(head) != head {
                            since.get_or_insert(told);
                        }
                        since.is_some_and(|since| told >= since + count)
                    }
                }
            });
            match end {
                End::Term => daemon.terminate(),
                End::Kill => daemon.kill9(),
            }
        });
    }

    /// Waits until everybody was told everything.
    fn drain(&self) {
        let daemon = self.start("again", Keep::Everything);
        wait(|| {
            let mut asker = Asker::connect(&daemon.admin).expect("connected");
            let (status, body) = asker.ask("GET", "/api/v1/sinks", b"").expect("an answer");
            assert_eq!(status, 200);
            let said: Value = serde_json::from_slice(&body).expect("JSON");
            said["items"].as_array().expect("sinks").iter().all(|sink| sink["backlog"] == 0)
        });
        daemon.terminate();
    }

    /// The same store as a program of the first schema would have left it.
    fn make_older(&self) {
        let folder = self.home.path().join("store");
        let (store, older) = (folder.join(STORE), self.home.path().join("older.db"));
        fs::copy(&store, &older).expect("copied");
        let log = folder.join([STORE, "-wal"].concat());
        if log.exists() {
            fs::copy(log, self.home.path().join("older.db-wal")).expect("copied");
        }
        older::take_back(&older);
        assert_eq!(older::version(&older), 1);
        self.tape.mark("by hand");
        // Whoever took them away: this, or SQLite when it was done reading.
        for suffix in ["-wal", "-shm", "-journal"] {
            let name = [STORE, suffix].concat();
            let _ = fs::remove_file(folder.join(&name));
            self.tape.put(What::Deleted, &name, 0, &[]);
        }
        fs::copy(&older, &store).expect("copied");
        self.tape.put(What::Stands, STORE, 0, &fs::read(&older).expect("read"));
    }
}

fn wait(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(5));
    }
}

/// The body of a callback.
pub(crate) fn body(step: Option<Step>, run: impl Display) -> String {
    match step {
        Some(step) => cos(step, run),
        None => format!("<Response>{run}"),
    }
}

/// Sends callbacks, one after another, and notes on the tape which were acknowledged, until the connection breaks. What was not
/// answered is not sent again: it may be there or not.
fn send(mut rng: Rng, address: &str, tape: &Tape, runs: &AtomicU64, told: &AtomicU64, repeats: bool) {
    let Some(mut asker) = Asker::connect(address) else { return };
    loop {
        let run = format!("run-{}", runs.fetch_add(1, Ordering::Relaxed));
        let end = if rng.u8(0..4) == 0 { Step::Failed } else { Step::Success };
        let mut steps = match rng.u8(0..20) {
            0 => vec![None],
            1..9 => vec![Some(Step::Start), Some(end)],
            9..14 => vec![Some(Step::TaskFinish), Some(Step::Success)],
            // Never finished.
            14 => vec![Some(Step::Start)],
            _ => vec![Some(end)],
        };
        if repeats && steps[0].is_some() && rng.u8(0..5) == 0 {
            steps.push(steps[rng.usize(0..steps.len())]);
        }
        for step in steps {
            let Some((status, answer)) = asker.ask("POST", MEDIA, body(step, &run).as_bytes()) else { return };
            if status == 503 {
                // It stops, and says so.
                return;
            }
            assert_eq!(status, 200);
            let answer: Value = serde_json::from_slice(&answer).expect("JSON");
            let word = |key: &str| answer[key].as_str().unwrap_or("-").to_owned();
            let step = step.map_or(GARBLED.to_owned(), |step| format!("{step:?}"));
            tape.mark(&format!("told {run} {step} {} {}", word("receipt"), word("outcome")));
            told.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A sink's peer, in a mood now and then. What comes and what it took stands on the tape. Returns its URL.
fn take_deliveries(sink: &'static str, tape: Arc<Tape>, mut rng: Rng) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (tape, rng) = (Arc::clone(&tape), rng.fork());
            thread::spawn(move || take(sink, stream, &tape, rng));
        }
    });
    url
}

fn take(sink: &str, mut stream: TcpStream, tape: &Tape, mut rng: Rng) {
    let mut unread = Vec::new();
    while let Some((head, body)) = receive(&mut stream, &mut unread) {
        let delivery = field(&head, "webhook-id").expect("an id");
        tape.put(What::Mark, &format!("came {sink} {delivery}"), 0, &body);
        let status = match rng.u8(0..100) {
            0..4 => 503,
            4..6 => return,
            _ => 200,
        };
        if status == 200 {
            tape.mark(&format!("took {sink} {delivery}"));
        }
        if stream.write_all(format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// Stands before the daemon, and tells each sender that its callback is kept when it is only handed on: together they are
/// a daemon that acknowledges before the commit. Returns where it listens.
fn answer_early(daemon: String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    thread::spawn(move || {
        for mut sender in listener.incoming().map_while(Result::ok) {
            let daemon = daemon.clone();
            thread::spawn(move || {
                let mut behind = TcpStream::connect(daemon).ok()?;
                behind.set_nodelay(true).ok()?;
                let (mut unread, mut unheard) = (Vec::new(), Vec::new());
                loop {
                    let (head, body) = receive(&mut sender, &mut unread)?;
                    behind.write_all(&[head.as_bytes(), &body].concat()).ok()?;
                    sender.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}").ok()?;
                    receive(&mut behind, &mut unheard)?;
                }
                #[expect(unreachable_code, reason = "says what the block is of")]
                Some(())
            });
        }
    });
    address
}
