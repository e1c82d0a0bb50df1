//! A peer on loopback that answers what it is told to, on one thread with whoever asks it.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

/// Longer than any exchange with a peer that never lets one wait.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the peer still has to say: an answer for each request, in order. Behind the last one it closes.
type Script = Arc<Mutex<VecDeque<Vec<u8>>>>;

struct Peer {
    runtime: Runtime,
    address: SocketAddr,
    script: Script,
}

thread_local! {
    static PEER: Peer = Peer::start();
}

/// Asks a peer that answers like this; `ask` is given its address.
pub(super) fn ask<T>(answers: Vec<Vec<u8>>, ask: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    PEER.with(|peer| {
        *peer.script.lock().expect("no panic") = answers.into();
        let done = peer.runtime.block_on(async { tokio::time::timeout(PATIENCE, ask(peer.address)).await });
        done.expect("a peer that answers at once is not waited for")
    })
}

impl Peer {
    fn start() -> Peer {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let script = Script::default();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let told = Arc::clone(&script);
        runtime.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // Who closes first keeps its port for a minute; after a reset, nobody does.
                let _ = stream.set_zero_linger();
                tokio::spawn(serve(stream, Arc::clone(&told)));
            }
        });
        Peer { runtime, address, script }
    }
}

async fn serve(mut stream: TcpStream, script: Script) {
    let mut unread = Vec::new();
    while read_request(&mut stream, &mut unread).await.is_some() {
        let next = script.lock().expect("no panic").pop_front();
        let Some(answer) = next else { return };
        if stream.write_all(&answer).await.is_err() {
            return;
        }
        if !answer.starts_with(b"HTTP/") {
            // The end of the connection is the end of the answer; what waits for that reads it before the reset.
            let _ = stream.shutdown().await;
            let _ = stream.read(&mut [0; 1]).await;
            return;
        }
    }
}

/// One request of HTTP, or of Zabbix's trapper protocol.
async fn read_request(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<()> {
    loop {
        if let Some(length) = length_of(unread)
            && unread.len() >= length
        {
            unread.drain(..length);
            return Some(());
        }
        if stream.read_buf(unread).await.ok()? == 0 {
            return None;
        }
    }
}

fn length_of(bytes: &[u8]) -> Option<usize> {
    if bytes.starts_with(b"ZBXD") {
        let length = bytes.get(5..9)?.try_into().ok()?;
        return Some(13 + u32::from_le_bytes(length) as usize);
    }
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let length = text.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
    Some(head + 4 + length.unwrap_or(0))
}
