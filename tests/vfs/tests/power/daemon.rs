//! The real daemon on the recording disk.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longer than anything here takes; who waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const STORE: &str = "callbackd.db";

/// It is killed when dropped.
pub(crate) struct Daemon {
    child: Child,
    lines: Receiver<Value>,
    /// Those that were read already.
    said: Vec<Value>,
    /// Where senders reach it.
    pub(crate) listen: String,
    /// Where operators reach it.
    pub(crate) admin: String,
}

impl Daemon {
    /// Starts it in `home`, and returns when it runs.
    pub(crate) fn start(home: &Path, config: &str, tape: &Path, faults: &Path) -> Daemon {
        let file = home.join("callbackd.toml");
        let addresses = "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nlog.format = \"json\"\n";
        fs::write(&file, [addresses, config].concat()).expect("written");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("set");
        let mut command = Command::new(env!("CARGO_BIN_EXE_callbackd-on-vfs"));
        command.env_clear().env(callbackd_vfs::TAPE, tape).env(callbackd_vfs::FAULTS, faults).current_dir(home);
        command.args(["serve", "--config"]).arg(file).stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let lines = follow(child.stderr.take().expect("piped"));
        let mut daemon = Daemon { child, lines, said: Vec::new(), listen: String::new(), admin: String::new() };
        let line = daemon.says(" runs");
        let address = |key: &str| line[key].as_str().expect("where it listens").to_owned();
        (daemon.listen, daemon.admin) = (address("server.listen"), address("admin.listen"));
        daemon
    }

    /// Waits for a line of its log that holds these words, unless it was said already.
    pub(crate) fn says(&mut self, words: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let holds = |line: &Value| line["message"].as_str().is_some_and(|said| said.contains(words));
        loop {
            if let Some(line) = self.said.iter().find(|line| holds(line)) {
                return line.clone();
            }
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(e) => panic!("it does not say {words:?}: {e}\n{:#?}", self.said),
            }
        }
    }

    pub(crate) fn kill9(mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited for");
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn terminate(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", "TERM", &pid]).status().expect("kill").success());
        assert!(self.child.wait().expect("waited for").success());
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(stderr: ChildStderr) -> Receiver<Value> {
    let (say, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // What is no JSON is a panic, or comes before the configuration is read.
            let line = serde_json::from_str(&line).unwrap_or_else(|_| serde_json::json!({ "message": line }));
            if say.send(line).is_err() {
                return;
            }
        }
    });
    lines
}

/// Reads one request or answer from a connection: its first line with the headers, and its body. `None` at the end.
pub(crate) fn receive(stream: &mut TcpStream, unread: &mut Vec<u8>) -> Option<(String, Vec<u8>)> {
    let mut more = |unread: &mut Vec<u8>| {
        let mut bytes = [0; 8192];
        match stream.read(&mut bytes) {
            Ok(0) | Err(_) => None,
            Ok(read) => {
                unread.extend_from_slice(&bytes[..read]);
                Some(())
            }
        }
    };
    let end = loop {
        match unread.windows(4).position(|w| w == b"\r\n\r\n") {
            Some(end) => break end + 4,
            None => more(unread)?,
        }
    };
    let head = String::from_utf8(unread.drain(..end).collect()).expect("UTF-8");
    let length = field(&head, "content-length").map_or(0, |length| length.parse().expect("a length"));
    while unread.len() < length {
        more(unread)?;
    }
    Some((head, unread.drain(..length).collect()))
}

/// A header's value.
pub(crate) fn field<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(": "));
    fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// One who asks on one connection.
pub(crate) struct Asker {
    stream: TcpStream,
    unread: Vec<u8>,
}

impl Asker {
    pub(crate) fn connect(address: &str) -> Option<Asker> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        Some(Asker { stream, unread: Vec::new() })
    }

    /// The status and the body of the answer; `None` where the connection broke.
    pub(crate) fn ask(&mut self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Vec<u8>)> {
        let length = body.len();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n");
        self.stream.write_all(&[head.as_bytes(), body].concat()).ok()?;
        let (head, body) = receive(&mut self.stream, &mut self.unread)?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body))
    }
}
