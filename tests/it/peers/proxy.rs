//! A little HTTP proxy on loopback: opens tunnels and asks on its clients' behalf, always at one and the same peer,
//! whatever name is asked for. It hands nothing on that is meant for itself.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What the proxy does with whom it is asked for.
#[derive(Clone, Debug)]
pub(crate) enum Policy {
    /// Asks the peer here, for those with this credential; for all, where it is empty.
    Serve(SocketAddr, &'static str),
    /// Answers this instead, and closes.
    Say(String),
}

/// The proxy; gone when dropped.
pub(crate) struct FakeProxy {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl FakeProxy {
    pub(crate) async fn start(policy: Policy) -> FakeProxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (policy, shared) = (policy.clone(), Arc::clone(&shared));
                // How a connection ends is its clients' to bear.
                tokio::spawn(async move { serve(stream, policy, &shared).await });
            }
        });
        FakeProxy { address, seen, task }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The heads of all that came.
    pub(crate) fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic").clone()
    }

    /// The request lines of all that came.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.seen().iter().filter_map(|head| Some(head.lines().next()?.to_owned())).collect()
    }
}

impl Drop for FakeProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Every request of a connection: the next one may be for somebody else, so each is asked for on its own.
async fn serve(mut client: TcpStream, policy: Policy, seen: &Mutex<Vec<String>>) -> Option<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break end + 4;
        }
        if client.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    seen.lock().expect("no panic").push(head.clone());
    let (peer, credential) = match policy {
        Policy::Serve(peer, credential) => (peer, credential),
        Policy::Say(answer) => {
            client.write_all(answer.as_bytes()).await.ok()?;
            return client.shutdown().await.ok();
        }
    };
    let (mut own, handed): (Vec<&str>, Vec<&str>) =
        head.trim_end().lines().partition(|line| line.to_ascii_lowercase().starts_with("proxy-"));
    let given = own.pop().and_then(|line| line.split_once(": ")).map_or("", |(_, value)| value);
    if given != credential {
        let page = format!("<html>not with {given}</html>");
        let answer = format!(
            "HTTP/1.1 407 Who\r\nproxy-authenticate: Basic realm=\"it\"\r\ncontent-length: {}\r\n\r\n{page}",
            page.len()
        );
        client.write_all(answer.as_bytes()).await.ok()?;
        return client.shutdown().await.ok();
    }
    let (method, rest) = handed[0].split_once(' ')?;
    let mut upstream = TcpStream::connect(peer).await.ok()?;
    if method == "CONNECT" {
        client.write_all(b"HTTP/1.1 200 Connection established\r\nvia: 1.1 it\r\n\r\n").await.ok()?;
    } else {
        let path = rest.strip_prefix("http://").and_then(|rest| rest.find('/').map(|at| &rest[at..]));
        let Some(path) = path else {
            return client.write_all(b"HTTP/1.1 400 Bad\r\ncontent-length: 0\r\n\r\n").await.ok();
        };
        let first = format!("{method} {path}");
        let lines = [&[first.as_str()], &handed[1..], &["connection: close\r\n\r\n"]].concat();
        upstream.write_all(lines.join("\r\n").as_bytes()).await.ok()?;
    }
    upstream.write_all(&bytes[end..]).await.ok()?;
    copy_bidirectional(&mut client, &mut upstream).await.ok()?;
    Some(())
}
