//! HTTP/1.1 byte by byte, so that a test can send what no client library would.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longer than anything here takes; a test that waits this long has failed.
const PATIENCE: Duration = crate::daemon::PATIENCE;

/// One connection, from the sender's side.
pub(crate) struct Wire<S> {
    io: S,
    unread: Vec<u8>,
}

/// An answer as it came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// The value of a header; `name` in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {self:?}"))
    }
}

/// Connects over TCP.
pub(crate) async fn connect(address: &str) -> Wire<TcpStream> {
    Wire::new(TcpStream::connect(address).await.expect("connected"))
}

/// A POST with a body of declared length.
pub(crate) fn post(path: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    pub(crate) fn new(io: S) -> Wire<S> {
        Wire { io, unread: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.io.write_all(bytes.as_ref()).await.expect("sent");
        self.io.flush().await.expect("flushed");
    }

    /// Sends the same again and again, as one who does not listen; the other side has to bear it.
    pub(crate) async fn flood(&mut self, bytes: &[u8], times: usize) {
        for time in 0..times {
            self.io.write_all(bytes).await.unwrap_or_else(|e| panic!("cut off at the {time}th time: {e}"));
        }
    }

    /// Says that nothing more comes, and still reads.
    pub(crate) async fn finish(&mut self) {
        self.io.shutdown().await.expect("shut down");
    }

    /// One request, one answer.
    pub(crate) async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.answer().await
    }

    pub(crate) async fn answer(&mut self) -> Answer {
        tokio::time::timeout(PATIENCE, self.read_answer()).await.expect("an answer in time").expect("an answer")
    }

    /// That the other side closes, without another byte.
    pub(crate) async fn closes(&mut self) {
        let end = tokio::time::timeout(PATIENCE, self.read_answer()).await.expect("an end in time");
        assert!(end.is_none(), "an answer instead of an end: {end:?}");
    }

    /// That the other side says its end, as TLS wants it said, without another byte.
    pub(crate) async fn says_goodbye(&mut self) {
        let end = tokio::time::timeout(PATIENCE, self.io.read_buf(&mut self.unread)).await.expect("an end in time");
        assert!(matches!(end, Ok(0)) && self.unread.is_empty(), "{end:?} {:?}", String::from_utf8_lossy(&self.unread));
    }

    async fn read_answer(&mut self) -> Option<Answer> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).expect("UTF-8");
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |l| l.parse().expect("a length"));
        while self.unread.len() < length {
            self.more().await?;
        }
        answer.body = String::from_utf8(self.unread.drain(..length).collect()).expect("UTF-8");
        Some(answer)
    }

    async fn more(&mut self) -> Option<()> {
        // A reset is an end too, as far as a sender can tell.
        let read = self.io.read_buf(&mut self.unread).await.unwrap_or(0);
        if read == 0 && !self.unread.is_empty() {
            panic!("cut off after {:?}", String::from_utf8_lossy(&self.unread));
        }
        (read > 0).then_some(())
    }
}
