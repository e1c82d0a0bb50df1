//! The built binary, as an operator has it: its own directory, a configuration, `serve` and the commands.
//!
//! Waits are for facts that can be seen (a line of the log, an answer, an exit code), each with a deadline; nothing
//! sleeps and hopes. A test that fails is told the configuration, the log and what was asked.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::wire::Answer;

/// Longer than anything here takes; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = "callbackd.toml";

/// What Cargo built for this test: the daemon itself, or the one on a disk that fails when it is told to.
const BINARY: &str = match (option_env!("CARGO_BIN_EXE_callbackd"), option_env!("CARGO_BIN_EXE_callbackd-on-vfs")) {
    (Some(path), _) | (None, Some(path)) => path,
    (None, None) => panic!("no daemon was built"),
};

/// Looks until there is something to see.
pub(crate) fn soon<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {} s", PATIENCE.as_secs());
        thread::sleep(Duration::from_millis(5));
    }
}

/// The daemon and its directory. It is killed when dropped.
pub(crate) struct Daemon {
    home: PathBuf,
    child: Option<Child>,
    reader: Option<JoinHandle<()>>,
    log: Arc<Log>,
    /// Where senders reach it.
    pub(crate) listen: String,
    /// Where operators reach it.
    pub(crate) admin: String,
    asked: Mutex<Vec<String>>,
    /// Beside the configuration, for the daemon and the commands: names and values.
    pub(crate) environment: Vec<(String, String)>,
    /// What the daemon is started by, as `nice` would be; nothing for itself.
    pub(crate) within: Vec<String>,
    _folder: TempDir,
}

/// Lines of standard error, as they come.
#[derive(Default)]
struct Log {
    lines: Mutex<Vec<String>>,
    came: Condvar,
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Done {
    /// Its standard output, when it went well.
    pub(crate) fn said(&self) -> &str {
        assert_eq!(self.code, Some(0), "{}", self.stderr);
        std::str::from_utf8(&self.stdout).expect("UTF-8")
    }

    /// A JSON object a line, when it went well.
    pub(crate) fn rows(&self) -> Vec<Value> {
        self.said().lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

impl Daemon {
    /// A daemon that runs. The addresses are added to `config`, which may go on with dotted keys (`server.…`).
    pub(crate) fn run(config: &str) -> Daemon {
        let mut daemon = Daemon::prepare();
        daemon.configure(config);
        daemon.start();
        daemon
    }

    /// A directory, without a configuration yet.
    pub(crate) fn prepare() -> Daemon {
        let folder = tempfile::tempdir().expect("a folder");
        Daemon {
            home: folder.path().to_owned(),
            child: None,
            reader: None,
            log: Arc::default(),
            listen: String::new(),
            admin: String::new(),
            asked: Mutex::default(),
            environment: Vec::new(),
            within: Vec::new(),
            _folder: folder,
        }
    }

    /// Writes the configuration: `config` on free ports, with a log that can be read.
    pub(crate) fn configure(&self, config: &str) {
        let addresses = "server.listen = \"127.0.0.1:0\"\nadmin.listen = \"127.0.0.1:0\"\nlog.format = \"json\"\n";
        self.write(CONFIG, &[addresses, config].concat());
    }

    /// A path in its directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.home.join(name)
    }

    /// Writes a file that only its owner reads.
    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::write(&path, text).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    }

    fn command(&self, args: &[&str]) -> Command {
        self.started(Command::new(BINARY), args)
    }

    fn started(&self, mut command: Command, args: &[&str]) -> Command {
        // Nothing of ours: neither configuration nor systemd's sockets.
        command.env_clear().current_dir(&self.home).args(args).stdin(Stdio::null());
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        if !self.admin.is_empty() {
            command.env("CALLBACKD__ADMIN__LISTEN", &self.admin);
        }
        command
    }

    /// Starts it, and returns when it says that it runs.
    pub(crate) fn start(&mut self) {
        assert_eq!(self.try_start(), None, "it ended");
    }

    /// The same, unless it ends by itself: then how.
    pub(crate) fn try_start(&mut self) -> Option<ExitStatus> {
        let seen = self.spawn();
        let line = self.log.wait(seen, |line| message(line).ends_with(" runs") || message(line) == ENDED);
        if message(&line) == ENDED {
            return Some(self.ended());
        }
        let address = |key: &str| line[key].as_str().expect("the line that says where it listens").to_owned();
        (self.listen, self.admin) = (address("server.listen"), address("admin.listen"));
        None
    }

    /// Starts it without waiting for anything; says how many lines its log had.
    pub(crate) fn spawn(&mut self) -> usize {
        assert!(self.child.is_none(), "it runs already");
        self.admin.clear();
        let seen = self.log.lines.lock().expect("sound").len();
        let program = match &self.within[..] {
            [] => Command::new(BINARY),
            [first, rest @ ..] => {
                let mut command = Command::new(first);
                command.args(rest).arg(BINARY);
                command
            }
        };
        let mut command = self.started(program, &["serve", "--config", CONFIG]);
        let stdout = File::options().create(true).append(true).open(self.path("stdout")).expect("a file");
        let mut child = command.stdout(stdout).stderr(Stdio::piped()).spawn().expect("started");
        let (log, stderr) = (Arc::clone(&self.log), child.stderr.take().expect("piped"));
        self.reader = Some(thread::spawn(move || log.read(stderr)));
        self.child = Some(child);
        seen
    }

    /// Kills it as a power cut would, and starts it again.
    pub(crate) fn restart(&mut self) {
        self.kill9();
        self.start();
    }

    /// Its process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// SIGKILL.
    pub(crate) fn kill9(&mut self) {
        self.child.as_mut().expect("it runs").kill().expect("killed");
        self.ended();
    }

    /// SIGTERM, and waits for its end.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// SIGHUP, and returns the line that says what came of it.
    pub(crate) fn hup(&self) -> Value {
        let seen = self.log.lines.lock().expect("sound").len();
        self.signal("HUP");
        let is_said = |line: &Value| message(line).starts_with("the configuration was read again");
        let line = self.log.wait(seen, |line| is_said(line) || message(line) == ENDED);
        assert!(is_said(&line), "it ended instead");
        line
    }

    /// What it takes of the machine's memory, in KiB: now, and at most since its start.
    pub(crate) fn memory_kib(&self) -> (usize, usize) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("a process");
        let kib = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a line of it");
            line.trim_start_matches(':').trim_end_matches("kB").trim().parse().expect("a number")
        };
        (kib("VmRSS"), kib("VmHWM"))
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pid().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill").success());
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let child = self.child.as_mut().expect("it runs");
        let status = soon("the daemon's end", || child.try_wait().expect("waited for"));
        self.child = None;
        self.reader.take().expect("a reader").join().expect("read to the end");
        status
    }

    /// Waits for a line of its log since the start of the test.
    pub(crate) fn logged(&self, is_meant: impl Fn(&Value) -> bool) -> Value {
        self.log.wait(0, is_meant)
    }

    /// All it logged.
    pub(crate) fn log(&self) -> String {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }

    /// How many lines of its log hold this.
    pub(crate) fn said(&self, what: &str) -> usize {
        self.log.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().filter(|line| line.contains(what)).count()
    }

    /// A callback: a POST with these headers and this body.
    pub(crate) fn post(&self, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
        self.request("POST", path, headers, body.as_ref())
    }

    /// One request, on a connection of its own.
    pub(crate) fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let bytes = request(method, path, headers, body);
        let answer = self.connect().ask(&bytes).unwrap_or_else(|e| panic!("{method} {path}: {e}"));
        let asked = format!("{method} {path} ({} bytes): {} {}", body.len(), answer.status, answer.body);
        self.asked.lock().expect("sound").push(asked);
        answer
    }

    /// What the operators' door says at `path`.
    pub(crate) fn look(&self, path: &str) -> Answer {
        Connection::to(&self.admin).ask(&request("GET", path, &[], b"")).expect("an answer")
    }

    /// A connection, from the sender's side.
    pub(crate) fn connect(&self) -> Connection {
        Connection::to(&self.listen)
    }

    /// Runs a command with this configuration.
    pub(crate) fn cli(&self, args: &[&str]) -> Done {
        self.cli_alone(&[args, &["--config", CONFIG]].concat())
    }

    /// Runs a command with exactly these arguments.
    pub(crate) fn cli_alone(&self, args: &[&str]) -> Done {
        finished(self.command(args))
    }

    /// Runs a line that callbackd has printed, as a shell would.
    pub(crate) fn cli_pasted(&self, line: &str) -> Done {
        let line = line.strip_prefix("callbackd ").map(|rest| format!("{BINARY} {rest}")).expect("a command");
        finished(self.started(Command::new("/bin/sh"), &["-c", &line]))
    }

    /// Runs a command at a terminal, which both its outputs go to, as a person would.
    pub(crate) fn cli_at_a_terminal(&self, args: &[&str]) -> Done {
        let line = format!("{BINARY} {} --config {CONFIG}", args.join(" "));
        finished(self.started(Command::new("/usr/bin/script"), &["-qec", &line, "/dev/null"]))
    }

    /// A command whose reader goes away before it has read anything.
    pub(crate) fn cli_unread(&self, args: &[&str]) -> Done {
        let mut command = self.command(&[args, &["--config", CONFIG]].concat());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started");
        drop(child.stdout.take());
        let stderr = read_all(child.stderr.take().expect("piped"));
        let status = soon("a command's end", || child.try_wait().expect("waited for"));
        let stderr = String::from_utf8(stderr.join().expect("read")).expect("UTF-8");
        Done { code: status.code(), stdout: Vec::new(), stderr }
    }

    /// A command that goes on, and works in this folder where it needs one.
    pub(crate) fn cli_in(&self, scratch: &Path, args: &[&str]) -> Child {
        let mut command = self.command(args);
        command.env("TMPDIR", scratch).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
    }

    /// A command that goes on; what it says is piped.
    pub(crate) fn cli_going_on(&self, args: &[&str]) -> Child {
        let mut command = self.command(&[args, &["--config", CONFIG]].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("started")
    }

    /// The rows of a list.
    pub(crate) fn list(&self, args: &[&str]) -> Vec<Value> {
        self.cli(&[args, &["--json"]].concat()).rows()
    }

    /// One execution with all that belongs to it.
    pub(crate) fn execution(&self, key: &str) -> Value {
        let done = self.cli(&["executions", "show", key, "--json"]);
        serde_json::from_str(done.said()).expect("JSON")
    }

    /// Every file of the store, byte for byte, at this moment.
    pub(crate) fn store_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for name in ["callbackd.db", "callbackd.db-wal", "callbackd.db-shm"] {
            bytes.extend(fs::read(self.path(name)).unwrap_or_default());
        }
        assert!(!bytes.is_empty(), "no store");
        bytes
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        if thread::panicking() {
            let config = fs::read_to_string(self.path(CONFIG)).unwrap_or_default();
            let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
            let asked = asked[asked.len().saturating_sub(50)..].join("\n");
            eprintln!("--- {CONFIG}\n{config}\n--- log\n{}\n--- asked\n{asked}\n---", self.log());
        }
    }
}

/// Stands in the log where the process ended.
const ENDED: &str = "(the log ended)";

fn message(line: &Value) -> &str {
    line["message"].as_str().unwrap_or_default()
}

impl Log {
    fn read(&self, stderr: ChildStderr) {
        let ended = serde_json::json!({ "message": ENDED }).to_string();
        for line in BufReader::new(stderr).lines().map_while(Result::ok).chain([ended]) {
            self.lines.lock().expect("sound").push(line);
            self.came.notify_all();
        }
    }

    /// Waits for a line from the `seen`th on.
    fn wait(&self, mut seen: usize, is_meant: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().expect("sound");
        loop {
            while let Some(line) = lines.get(seen) {
                // What stands there before the configuration is read is no JSON.
                let line = serde_json::from_str(line).unwrap_or_else(|_| serde_json::json!({ "message": line }));
                if is_meant(&line) {
                    return line;
                }
                seen += 1;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                // Not while it is locked: the log is to be read once more.
                drop(lines);
                panic!("no such line in the log");
            }
            lines = self.came.wait_timeout(lines, left).expect("sound").0;
        }
    }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).expect("read");
        bytes
    })
}

/// A request's bytes.
pub(crate) fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let fields: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

trait Stream: Read + Write + Send {}

impl<T: Read + Write + Send> Stream for T {}

/// One connection, from the sender's side, without a runtime.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    unread: Vec<u8>,
}

impl Connection {
    /// Connects to `127.0.0.1:8480` or `unix:/path`.
    pub(crate) fn to(address: &str) -> Connection {
        Connection::try_to(address).unwrap_or_else(|e| panic!("{address}: {e}"))
    }

    /// The same, to one who may not be there.
    pub(crate) fn try_to(address: &str) -> io::Result<Connection> {
        let stream: Box<dyn Stream> = match address.strip_prefix("unix:") {
            Some(path) => {
                let stream = UnixStream::connect(Path::new(path))?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Box::new(stream)
            }
            None => return Connection::try_within(address, PATIENCE),
        };
        Ok(Connection { stream, unread: Vec::new() })
    }

    /// The same over TCP, to one that has to do each thing within this time.
    pub(crate) fn try_within(address: &str, limit: Duration) -> io::Result<Connection> {
        let address = address.parse().map_err(io::Error::other)?;
        let stream = TcpStream::connect_timeout(&address, limit)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        Ok(Connection { stream: Box::new(stream), unread: Vec::new() })
    }

    /// Sends bytes.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref())
    }

    /// One request, one answer.
    pub(crate) fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.send(request)?;
        self.answer()
    }

    /// The status and the head of the next answer; of its body, no more than came with it.
    pub(crate) fn head(&mut self) -> io::Result<(u16, String)> {
        let garbled = || io::Error::new(io::ErrorKind::InvalidData, "what came is no answer");
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.more()?;
        };
        let head = String::from_utf8(self.unread.drain(..end).collect()).map_err(|_| garbled())?;
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok()).ok_or_else(garbled)?;
        Ok((status, head))
    }

    /// The next answer, whole.
    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let garbled = || io::Error::new(io::ErrorKind::InvalidData, "what came is no answer");
        let (status, head) = self.head()?;
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").map_or(Ok(0), str::parse).map_err(|_| garbled())?;
        while self.unread.len() < length {
            self.more()?;
        }
        answer.body = String::from_utf8(self.unread.drain(..length).collect()).map_err(|_| garbled())?;
        Ok(answer)
    }

    /// That the other side closes, without another byte.
    pub(crate) fn closes(&mut self) {
        match self.more() {
            Err(e) if matches!(e.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset) => {}
            end => panic!("{end:?} and {:?} instead of an end", String::from_utf8_lossy(&self.unread)),
        }
    }

    fn more(&mut self) -> io::Result<()> {
        let mut bytes = [0; 4096];
        // A read with a deadline is interrupted where the machine was stopped for a moment.
        let read = loop {
            match self.stream.read(&mut bytes) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                read => break read?,
            }
        };
        match read {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            read => {
                self.unread.extend_from_slice(&bytes[..read]);
                Ok(())
            }
        }
    }
}

/// How it ends, and what it said.
fn finished(mut command: Command) -> Done {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a command started");
    let stdout = read_all(child.stdout.take().expect("piped"));
    let stderr = read_all(child.stderr.take().expect("piped"));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait().expect("waited for") {
            Some(status) => break Some(status),
            None if Instant::now() > deadline => {
                child.kill().expect("killed");
                child.wait().expect("waited for");
                break None;
            }
            None => thread::sleep(Duration::from_millis(2)),
        }
    };
    let stderr = String::from_utf8(stderr.join().expect("read")).expect("UTF-8");
    let status = status.unwrap_or_else(|| panic!("{:?} does not end; {stderr}", command.get_args()));
    Done { code: status.code(), stdout: stdout.join().expect("read"), stderr }
}
