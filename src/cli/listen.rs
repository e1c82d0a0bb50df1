//! Listening to the daemon: its stream, an item at a time, and where to go on when the connection has gone.
//!
//! In HTTP/1.0, which knows no chunks: what comes ends with the connection.

use std::io;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Failure;
use super::reach::{Address, Daemon, judge};

/// The daemon says every 15 seconds that it is there.
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// It answers within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// What it says when it refuses is a few lines.
const PROBLEM_BYTES_MAX: u64 = 64 << 10;

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A stream that is being told.
pub(super) struct Stream {
    from: BufReader<Box<dyn Duplex>>,
    /// The cursor behind what was told.
    pub(super) cursor: Option<String>,
}

/// One thing that happened.
#[derive(Debug, PartialEq)]
pub(super) struct Told {
    /// `change` or `delivery`.
    pub(super) kind: String,
    pub(super) row: Value,
}

impl Daemon {
    /// Begins to listen behind `cursor`, or where `path` says. `None` when no daemon is there, `Err` when it refuses.
    pub(super) async fn listen(&self, path: &str, cursor: Option<&str>) -> Result<Option<Stream>, Failure> {
        let opened: io::Result<Box<dyn Duplex>> = match &self.at {
            Address::Tcp(address, _) => TcpStream::connect(address).await.map(|s| Box::new(s) as _),
            Address::Unix(socket) => UnixStream::connect(socket).await.map(|s| Box::new(s) as _),
        };
        let Ok(io) = opened else { return Ok(None) };
        let mut request = format!("GET {path} HTTP/1.0\r\nhost: localhost\r\naccept: text/event-stream\r\n");
        if let Some(token) = &self.token {
            request.push_str(&format!("authorization: Bearer {}\r\n", token.expose()));
        }
        if let Some(cursor) = cursor {
            request.push_str(&format!("last-event-id: {cursor}\r\n"));
        }
        request.push_str("\r\n");
        let mut stream = Stream { from: BufReader::new(io), cursor: cursor.map(str::to_owned) };
        match timeout(ANSWER_TIMEOUT, stream.begin(request.as_bytes())).await {
            Ok(Ok(200)) => Ok(Some(stream)),
            Ok(Ok(status)) => {
                let mut body = Vec::new();
                let _ = timeout(ANSWER_TIMEOUT, stream.from.take(PROBLEM_BYTES_MAX).read_to_end(&mut body)).await;
                judge(status, &body).map(|_| None)
            }
            // It went away before it said a word.
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }
}

impl Stream {
    /// Asks, and reads the head of the answer.
    async fn begin(&mut self, request: &[u8]) -> io::Result<u16> {
        self.from.get_mut().write_all(request).await?;
        let first = self.line().await?.unwrap_or_default();
        let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
        let status = status.ok_or_else(|| io::Error::other("what it says is not HTTP"))?;
        while self.line().await?.is_some_and(|line| !line.is_empty()) {}
        Ok(status)
    }

    async fn line(&mut self) -> io::Result<Option<String>> {
        let mut line = String::new();
        let read = self.from.read_line(&mut line).await?;
        Ok((read > 0).then(|| line.trim_end_matches(['\r', '\n']).to_owned()))
    }

    /// What is told next; `None` at the end, however the stream ends.
    pub(super) async fn next(&mut self) -> Option<Told> {
        let (mut kind, mut row, mut cursor) = (String::new(), Value::Null, None);
        loop {
            let line = timeout(SILENCE_MAX, self.line()).await.ok()?.ok()??;
            match line.split_once(": ") {
                Some(("event", name)) => kind = name.to_owned(),
                Some(("id", id)) => cursor = Some(id.to_owned()),
                Some(("data", text)) => row = serde_json::from_str(text).ok()?,
                _ if line.is_empty() => {
                    if cursor.is_some() {
                        self.cursor = cursor.take();
                    }
                    if !row.is_null() {
                        return Some(Told { kind, row });
                    }
                }
                // A comment, or a word of a later version.
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn items_are_read_and_the_cursor_is_kept() {
        let (near, mut far) = tokio::io::duplex(4096);
        let mut stream = Stream { from: BufReader::new(Box::new(near)), cursor: None };
        far.write_all(
            b": callbackd\nretry: 1000\nid: 7\n\nevent: delivery\ndata: {\"id\":\"1\"}\n\n\
              : still here\nid: 8\n\nevent: change\nid: 9\ndata: {\"id\":\"2\"}\n\nevent: change\nid: 10\ndata: {\"cut",
        )
        .await
        .expect("written");
        drop(far);
        let told = |kind: &str, id: &str| Some(Told { kind: kind.to_owned(), row: json!({ "id": id }) });
        assert_eq!(stream.next().await, told("delivery", "1"));
        assert_eq!(stream.cursor.as_deref(), Some("7"));
        assert_eq!(stream.next().await, told("change", "2"));
        assert_eq!(stream.cursor.as_deref(), Some("9"));
        assert_eq!(stream.next().await, None);
        assert_eq!(stream.cursor.as_deref(), Some("9"), "what is cut off is told again");
    }
}
