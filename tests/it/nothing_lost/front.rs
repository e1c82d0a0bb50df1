//! What stands before a sink's peer: hands on what comes, and now and then fails, stalls, lies, or goes away.
//!
//! Without a peer behind it, it is a webhook itself, and keeps the ledger of what came and what it took.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use fastrand::Rng;
use serde_json::Value;

use super::judge::{End, Step};

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Whim {
    /// Taken and answered, as it should be.
    Well,
    Slow,
    /// 500 or 503, many in a row now and then.
    Fails,
    /// 429 with `Retry-After`.
    Throttles,
    /// Never answered.
    Stalls,
    /// Half an answer, and then nothing, or the connection's end.
    Halves,
    /// What is no HTTP.
    Garbles,
    /// The connection ends instead of an answer.
    HangsUp,
    /// A failure, and a success after it that nobody asked for.
    Answers2,
    /// 200, and a body that says that it was not taken; or a 4xx, where the API has no such body.
    Refuses,
    /// 401, or 410 of a webhook, which pauses the sink until it is told to go on.
    Halts,
}

use Whim::{Answers2, Fails, Garbles, Halts, Halves, HangsUp, Refuses, Slow, Stalls, Throttles, Well};

/// In a thousand requests.
const MOODS: [(Whim, u32); 10] = [
    (Slow, 60),
    (Fails, 45),
    (Throttles, 5),
    (Stalls, 7),
    (Halves, 18),
    (Garbles, 20),
    (HangsUp, 45),
    (Answers2, 12),
    (Refuses, 8),
    (Halts, 3),
];

/// How many there are.
pub(super) const WHIMS: usize = MOODS.len() + 1;

/// One request.
pub(super) struct Asked {
    bytes: Vec<u8>,
    body_at: usize,
}

impl Asked {
    pub(super) fn head(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.body_at]).expect("a head in ASCII")
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes[self.body_at..]).unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head().lines().filter_map(|line| line.split_once(": "));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// What a peer's API says, with status and body, when it refuses something; nothing where it has no words for it.
pub(super) type Refusal = fn(&Asked, &mut Rng) -> Option<(u16, String)>;

/// What is behind it.
pub(super) enum Behind {
    /// Nobody: it is a webhook.
    Nobody,
    /// A peer, and how that one refuses.
    Peer(SocketAddr, Refusal),
}

/// The front; gone when dropped.
pub(super) struct Front {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

struct Shared {
    behind: Behind,
    mood: Mutex<Mood>,
    /// All goes well from now on.
    well: AtomicBool,
    /// Nobody listens while it is `Away`.
    presence: Mutex<Presence>,
    moved: Condvar,
    steps: Mutex<Vec<Step>>,
    /// Paths of what was refused.
    refused: Mutex<Vec<String>>,
    open: Mutex<HashMap<usize, TcpStream>>,
}

struct Mood {
    rng: Rng,
    outage: u32,
    done: BTreeMap<Whim, u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Presence {
    Here,
    Away,
    Gone,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("sound")
}

impl Front {
    /// Listens on a loopback address of its own, so that nobody takes its port while it is away.
    pub(super) fn start(mut rng: Rng, behind: Behind) -> Front {
        let listener = loop {
            let own = Ipv4Addr::new(127, rng.u8(1..), rng.u8(..), rng.u8(1..255));
            match TcpListener::bind((own, 0)) {
                Ok(listener) => break listener,
                Err(e) => assert_eq!(e.kind(), io::ErrorKind::AddrInUse, "{own}: {e}"),
            }
        };
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            behind,
            mood: Mutex::new(Mood { rng, outage: 0, done: BTreeMap::new() }),
            well: AtomicBool::new(false),
            presence: Mutex::new(Presence::Here),
            moved: Condvar::new(),
            steps: Mutex::default(),
            refused: Mutex::default(),
            open: Mutex::default(),
        });
        let accepting = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(listener, address)
        });
        Front { address, shared, accepting: Some(accepting) }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    fn be(&self, presence: Presence) {
        *lock(&self.shared.presence) = presence;
        self.shared.moved.notify_all();
        // Wakes the one who accepts.
        let _ = TcpStream::connect(self.address);
    }

    /// Closes its port and every connection.
    pub(super) fn leave(&self) {
        self.be(Presence::Away);
        lock(&self.shared.open).values().for_each(|stream| drop(stream.shutdown(Shutdown::Both)));
    }

    pub(super) fn come_back(&self) {
        *lock(&self.shared.presence) = Presence::Here;
        self.shared.moved.notify_all();
    }

    /// All goes well from now on.
    pub(super) fn be_well(&self) {
        self.shared.well.store(true, Ordering::Relaxed);
        self.come_back();
    }

    /// What came and was taken, in order; of a webhook.
    pub(super) fn steps(&self) -> Vec<Step> {
        lock(&self.shared.steps).clone()
    }

    /// First lines of the requests that it refused.
    pub(super) fn refused(&self) -> Vec<String> {
        lock(&self.shared.refused).clone()
    }

    /// What became of how many requests.
    pub(super) fn done(&self) -> BTreeMap<Whim, u64> {
        lock(&self.shared.mood).done.clone()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.be(Presence::Gone);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

impl Shared {
    fn accept(self: Arc<Shared>, mut listener: TcpListener, address: SocketAddr) {
        for number in 0.. {
            let accepted = listener.accept();
            let presence = *lock(&self.presence);
            match (presence, accepted) {
                (Presence::Here, Ok((stream, _))) => {
                    let shared = Arc::clone(&self);
                    if let Ok(also) = stream.try_clone() {
                        lock(&self.open).insert(number, also);
                    }
                    thread::spawn(move || {
                        // How a connection ends is the daemon's to bear, or a kill's doing.
                        let _ = shared.serve(stream);
                        lock(&shared.open).remove(&number);
                    });
                }
                (Presence::Here, Err(e)) => panic!("{address} cannot be listened at: {e}"),
                (Presence::Gone, _) => return,
                (Presence::Away, _) => {
                    drop(listener);
                    let presence = lock(&self.presence);
                    drop(self.moved.wait_while(presence, |presence| *presence == Presence::Away).expect("sound"));
                    listener = TcpListener::bind(address).expect("its own address");
                }
            }
        }
    }

    fn whim(&self) -> (Whim, Rng) {
        let mut mood = lock(&self.mood);
        let rng = mood.rng.fork();
        let whim = if self.well.load(Ordering::Relaxed) {
            Well
        } else if mood.outage > 0 {
            mood.outage -= 1;
            Fails
        } else if mood.rng.u32(0..400) == 0 {
            // Long enough to open a breaker.
            mood.outage = mood.rng.u32(10..30);
            Fails
        } else {
            let mut drawn = mood.rng.u32(0..1000);
            let found = MOODS.iter().find(|(_, share)| {
                let is_it = drawn < *share;
                drawn = drawn.saturating_sub(*share);
                is_it
            });
            found.map_or(Well, |(whim, _)| *whim)
        };
        *mood.done.entry(whim).or_default() += 1;
        (whim, rng)
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let (mut unread, mut behind) = (Vec::new(), None);
        loop {
            // Asked when something came, before any of it is read.
            if stream.peek(&mut [0])? == 0 {
                return Ok(());
            }
            let (whim, mut rng) = self.whim();
            if whim == HangsUp && rng.bool() {
                // What came and was not read makes the kernel answer with a reset.
                return Ok(());
            }
            let Some((bytes, body_at)) = read(&mut stream, &mut unread)? else { return Ok(()) };
            let asked = Asked { bytes, body_at };
            let step = matches!(self.behind, Behind::Nobody).then(|| Step::read(&asked));
            self.note(&step, End::Came);
            // Whether it is taken before what goes wrong.
            let takes = match whim {
                Well | Slow => true,
                Fails | Throttles | Answers2 | Refuses | Halts => false,
                Stalls | Halves | Garbles | HangsUp => rng.bool(),
            };
            if whim == Slow {
                thread::sleep(Duration::from_millis(rng.u64(1..30)));
            }
            let answer = if takes { self.hand_on(&asked, &step, &mut behind)? } else { status(503, "") };
            match whim {
                Well | Slow => stream.write_all(&answer)?,
                // What was handed on was taken, whatever is said of it.
                Fails => stream.write_all(&status([500, 502, 503, 504][rng.usize(0..4)], ""))?,
                Throttles => stream.write_all(&status(429, "Retry-After: 1\r\n"))?,
                Refuses => match self.refusal(&asked, &mut rng) {
                    Some(refusal) => {
                        self.note(&step, End::Refused);
                        lock(&self.refused).push(asked.head().lines().next().unwrap_or_default().to_owned());
                        stream.write_all(&refusal)?;
                    }
                    None => stream.write_all(&status(503, ""))?,
                },
                Halts => {
                    let code = if matches!(self.behind, Behind::Nobody) { 410 } else { 401 };
                    stream.write_all(&status(code, ""))?;
                }
                Answers2 => stream.write_all(&[status(503, ""), status(200, "")].concat())?,
                Garbles => {
                    stream.write_all(GARBAGE[rng.usize(0..GARBAGE.len())])?;
                    return Ok(());
                }
                HangsUp => return Ok(()),
                Stalls => return self.stall(&stream),
                Halves => {
                    // Never so much that it could be understood.
                    let head = answer.windows(4).position(|w| w == b"\r\n\r\n").unwrap_or(0);
                    stream.write_all(&answer[..rng.usize(0..=head)])?;
                    return if rng.bool() { self.stall(&stream) } else { Ok(()) };
                }
            }
        }
    }

    fn note(&self, step: &Option<Step>, end: End) {
        if let Some(step) = step {
            lock(&self.steps).push(Step { end, ..step.clone() });
        }
    }

    fn refusal(&self, asked: &Asked, rng: &mut Rng) -> Option<Vec<u8>> {
        let (code, body) = match self.behind {
            Behind::Nobody => (422, String::new()),
            Behind::Peer(_, refusal) => refusal(asked, rng)?,
        };
        let text = format!(
            "HTTP/1.1 {code} So\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        Some(text.into_bytes())
    }

    /// What the peer answers, or the webhook that this is.
    fn hand_on(&self, asked: &Asked, step: &Option<Step>, behind: &mut Option<TcpStream>) -> io::Result<Vec<u8>> {
        let Behind::Peer(address, _) = self.behind else {
            self.note(step, End::Taken);
            return Ok(status(200, ""));
        };
        let peer = match behind {
            Some(peer) => peer,
            None => behind.insert(TcpStream::connect(address)?),
        };
        peer.set_nodelay(true)?;
        peer.write_all(&asked.bytes)?;
        let answer = read(peer, &mut Vec::new())?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(answer.0)
    }

    /// Says nothing more until the other side has gone, or all is well.
    fn stall(&self, stream: &TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_millis(50)))?;
        while !self.well.load(Ordering::Relaxed) {
            match stream.peek(&mut [0]) {
                Ok(0) => break,
                Ok(_) => thread::sleep(Duration::from_millis(50)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
        Ok(())
    }
}

/// None of these may be taken for a yes.
const GARBAGE: [&[u8]; 6] = [
    b"\x15\x03\x01\x00\x02\x02\x28",
    b"220 mail.example.com ESMTP\r\n",
    b"HTTP/1.1 2x0 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/7.5 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 0\r\n\r\n",
    b"\r\n\r\nok\r\n\r\n",
];

fn status(code: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {code} So\r\n{headers}Content-Length: 0\r\n\r\n").into_bytes()
}

/// One request, or one answer, with where its body begins; nothing when the other side has gone before it began.
fn read(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<Option<(Vec<u8>, usize)>> {
    let mut more = |unread: &mut Vec<u8>| {
        let mut bytes = [0; 8192];
        let read = stream.read(&mut bytes)?;
        unread.extend_from_slice(&bytes[..read]);
        Ok::<_, io::Error>(read)
    };
    let body_at = loop {
        if let Some(end) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if more(unread)? == 0 {
            return if unread.is_empty() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
    };
    let head = String::from_utf8_lossy(&unread[..body_at]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    let end = body_at + length.unwrap_or(0);
    while unread.len() < end {
        if more(unread)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some((unread.drain(..end).collect(), body_at)))
}

impl Step {
    /// A webhook's request.
    fn read(asked: &Asked) -> Step {
        let said = asked.json();
        Step {
            key: said["subject"].as_str().expect("a subject").to_owned(),
            place: said["data"]["change"]["sequence"].as_i64().expect("a sequence"),
            delivery: asked.header("webhook-id").expect("an id").to_owned(),
            end: End::Came,
        }
    }
}
