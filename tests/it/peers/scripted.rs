//! A peer on raw TCP that does what its script says, connection after connection: slow, half-closed, reset, garbage.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the peer does next on a connection.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// Reads one whole request: a head, and a body of its `content-length`.
    Read,
    /// Sends these bytes.
    Send(Vec<u8>),
    /// Sends nothing more, and goes on reading: a half-closed connection.
    HalfClose,
    /// Closes.
    Close,
    /// Closes with a reset.
    Reset,
    /// Sends these bytes one by one, so far apart, until the other side has gone.
    Trickle(Vec<u8>, Duration),
    /// Sends these bytes over and over until the other side has gone.
    Flood(Vec<u8>),
    /// Does nothing until the other side has gone.
    Hang,
}

/// `Send` of a text.
pub(crate) fn send(text: &str) -> Act {
    Act::Send(text.as_bytes().to_vec())
}

/// The peer; gone when dropped. A connection whose script has ended is closed, and so is one beyond the last script.
pub(crate) struct Scripted {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: usize,
    requests: Vec<String>,
    ended: usize,
}

impl Scripted {
    /// Listens on a free loopback port. Each connection follows the next script.
    pub(crate) async fn start(scripts: Vec<Vec<Act>>) -> Scripted {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Seen::default()));
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut scripts = scripts.into_iter();
            while let Ok((stream, _)) = listener.accept().await {
                shared.lock().expect("no panic").connections += 1;
                let (script, shared) = (scripts.next().unwrap_or_default(), Arc::clone(&shared));
                tokio::spawn(async move {
                    follow(stream, script, &shared).await;
                    shared.lock().expect("no panic").ended += 1;
                });
            }
        });
        Scripted { address, seen, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections accepted so far.
    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().expect("no panic").connections
    }

    /// Every request that was read whole.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").requests.clone()
    }

    /// Waits until so many connections are closed on this side: their scripts have ended, or the other side has gone.
    pub(crate) async fn ended(&self, connections: usize) {
        while self.seen.lock().expect("no panic").ended < connections {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn follow(mut stream: TcpStream, script: Vec<Act>, seen: &Mutex<Seen>) {
    for act in script {
        match act {
            Act::Read => match read_request(&mut stream).await {
                Some(request) => seen.lock().expect("no panic").requests.push(request),
                None => return,
            },
            Act::Send(bytes) => {
                if stream.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            Act::HalfClose => {
                let _ = stream.shutdown().await;
            }
            Act::Close => return,
            Act::Reset => {
                let _ = stream.set_zero_linger();
                return;
            }
            Act::Trickle(bytes, apart) => {
                for byte in bytes {
                    if stream.write_all(&[byte]).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(apart).await;
                }
            }
            Act::Flood(bytes) => {
                while stream.write_all(&bytes).await.is_ok() {}
                return;
            }
            Act::Hang => {
                let mut bytes = [0; 1024];
                while matches!(stream.read(&mut bytes).await, Ok(n) if n > 0) {}
                return;
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|l| l.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
            if bytes.len() >= end + 4 + length.unwrap_or(0) {
                return Some(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
