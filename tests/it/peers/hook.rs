//! A webhook endpoint on threads of its own, which answers as a test tells it and remembers what came, in order.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpSocket;

/// What the peer does with a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    /// Answers with this status.
    Status(u16),
    /// Takes its time, and answers 200.
    Slow(Duration),
}

/// One step of a delivery, as the peer saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// `webhook-id`.
    pub(crate) id: String,
    head: Arc<str>,
    body: Arc<[u8]>,
    /// False when it came, true when it is about to be answered 2xx.
    pub(crate) taken: bool,
}

impl Seen {
    /// A header's value; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The CloudEvent.
    pub(crate) fn change(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// The execution's key.
    pub(crate) fn key(&self) -> String {
        self.change()["subject"].as_str().expect("a text").to_owned()
    }

    /// The execution's status.
    pub(crate) fn status(&self) -> String {
        self.change()["data"]["execution"]["status"].as_str().expect("a text").to_owned()
    }
}

type Replies = dyn Fn() -> Reply + Send + Sync;

/// The peer; takes no more connections when dropped.
pub(crate) struct Hook {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    stopped: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

/// A port at which nobody listens, and which nobody else gets.
pub(crate) struct Closed(TcpSocket);

impl Closed {
    /// Takes a free loopback port.
    pub(crate) fn reserve() -> Closed {
        Closed::at(Ipv4Addr::LOCALHOST)
    }

    /// Takes a free port at an address of this machine.
    pub(crate) fn at(address: Ipv4Addr) -> Closed {
        let socket = TcpSocket::new_v4().expect("a socket");
        socket.bind((address, 0).into()).expect("a free port");
        Closed(socket)
    }

    /// Where nobody listens yet.
    pub(crate) fn address(&self) -> SocketAddr {
        self.0.local_addr().expect("an address")
    }

    /// The same for a hook.
    pub(crate) fn url(&self) -> String {
        url(self.address())
    }

    /// Listens.
    pub(crate) fn open(self, reply: impl Fn() -> Reply + Send + Sync + 'static) -> Hook {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().expect("a runtime");
        let listener = runtime.block_on(async { self.0.listen(1024)?.into_std() }).expect("listens");
        listener.set_nonblocking(false).expect("blocking");
        Hook::on(listener, Arc::new(reply))
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/hooks")
}

impl Hook {
    /// Listens on a free loopback port; `reply` is asked once for each request.
    pub(crate) fn start(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Hook {
        Closed::reserve().open(reply)
    }

    fn on(listener: TcpListener, reply: Arc<Replies>) -> Hook {
        let address = listener.local_addr().expect("an address");
        let (seen, stopped) = (Arc::default(), Arc::new(AtomicBool::new(false)));
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let accepting = thread::spawn({
            let (seen, stopped, connections) = (Arc::clone(&seen), Arc::clone(&stopped), Arc::clone(&connections));
            move || {
                for stream in listener.incoming().map_while(Result::ok) {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    let (seen, reply) = (Arc::clone(&seen), Arc::clone(&reply));
                    connections.lock().expect("sound").extend(stream.try_clone());
                    // How a connection ends is the daemon's to bear, or a kill's doing.
                    thread::spawn(move || serve(stream, &seen, &*reply).ok());
                }
            }
        });
        Hook { address, seen, stopped, accepting: Some(accepting), connections }
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> String {
        url(self.address)
    }

    /// The port at which it listens.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets go of every connection there was; returns how many.
    pub(crate) fn hang_up(&self) -> usize {
        let connections = std::mem::take(&mut *self.connections.lock().expect("sound"));
        // One that the other side has closed is gone already.
        connections.iter().for_each(|stream| drop(stream.shutdown(std::net::Shutdown::Both)));
        connections.len()
    }

    /// All that happened so far, in order.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("sound").clone()
    }

    /// What it answered 2xx to, in order: key and status.
    pub(crate) fn taken(&self) -> Vec<(String, String)> {
        self.seen().into_iter().filter(|s| s.taken).map(|s| (s.key(), s.status())).collect()
    }
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        // Wakes the one who accepts.
        let woken = TcpStream::connect(self.address).is_ok();
        if let Some(accepting) = self.accepting.take().filter(|_| woken) {
            let _ = accepting.join();
        }
        if thread::panicking() {
            let seen = self.seen.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            eprintln!("--- seen at {} ({}, the last of them)", self.address, seen.len());
            for s in seen.iter().rev().take(50).rev() {
                let word = if s.taken { "taken" } else { "came" };
                eprintln!("{} {word}: {}", s.id, String::from_utf8_lossy(&s.body[..s.body.len().min(200)]));
            }
        }
    }
}

fn serve(mut stream: TcpStream, seen: &Mutex<Vec<Seen>>, reply: &Replies) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut unread = Vec::new();
    loop {
        if stream.peek(&mut [0])? == 0 {
            return Ok(());
        }
        let reply = reply();
        let end = loop {
            if let Some(end) = unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            more(&mut stream, &mut unread)?;
        };
        let head = String::from_utf8_lossy(&unread[..end]).into_owned();
        let header = |name: &str| {
            let mut fields = head.lines().filter_map(|line| line.split_once(": "));
            fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
        };
        let length: usize = header("content-length").expect("a length").parse().expect("a number");
        unread.drain(..end);
        while unread.len() < length {
            more(&mut stream, &mut unread)?;
        }
        let body = unread.drain(..length).collect();
        let id = header("webhook-id").expect("an id");
        let mut step = Seen { id, head: head.as_str().into(), body, taken: false };
        seen.lock().expect("sound").push(step.clone());
        let status = match reply {
            Reply::Status(status) => status,
            Reply::Slow(pause) => {
                thread::sleep(pause);
                200
            }
        };
        if status / 100 == 2 {
            step.taken = true;
            seen.lock().expect("sound").push(step);
        }
        stream.write_all(format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n").as_bytes())?;
    }
}

fn more(stream: &mut TcpStream, unread: &mut Vec<u8>) -> io::Result<()> {
    let mut bytes = [0; 8192];
    match stream.read(&mut bytes)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        read => {
            unread.extend_from_slice(&bytes[..read]);
            Ok(())
        }
    }
}
