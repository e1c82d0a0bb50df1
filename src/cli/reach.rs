//! How a command reaches what it works on: the configuration, the store to read, and for changes the daemon at
//! `[admin]`, or the store itself under its lock when no daemon listens.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Failure, print};
use crate::admin::judgement::DEFAULT_FILE;
use crate::admin::{SinkStanding, Status};
use crate::app;
use crate::config::{self, Config, Environment};
use crate::outbound::{self, Client, Settings};
use crate::secret::{Resolver, Secret};
use crate::store::sqlite::{self, SqliteStore};
use crate::store::{Queries, Store, StoreError};

/// What a command can do without is not waited for longer.
const SOON: Duration = Duration::from_secs(5);

/// A daemon answers an operator within this time.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer of the admin API to a changing command is a few lines.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// Said where the daemon takes another token than ours.
pub(super) const REFUSED_TOKEN: &str = "the daemon that runs does not take the admin.token of this configuration";

/// What every command has: the `--config` it was given, and the process's surroundings.
pub(super) struct Context<'a> {
    pub(super) file: Option<PathBuf>,
    pub(super) env: &'a Environment,
}

impl Context<'_> {
    /// The configuration's file: the one that was named, or the default.
    pub(super) fn file(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
    }

    pub(super) fn config(&self) -> Result<Config, Failure> {
        Ok(Config::load(Some(self.file()), self.env)?)
    }

    /// The configuration, for who needs no more of it than where daemon and store are: where the rest is wrong, that is
    /// said, and what can be read does. The daemon may run well with what it read before.
    pub(super) fn places(&self) -> Result<Config, Failure> {
        let (config, broken) = Config::salvage(Some(self.file()), self.env)?;
        if let Some(broken) = broken {
            if broken.hides_places {
                return Err(broken.faults.into());
            }
            print::complain(&format!(
                "{}\nwarning: the configuration is broken, and this goes on with what can be read of it",
                broken.faults
            ));
        } else if config.sources.is_empty()
            && config.sinks.is_empty()
            && config.store.url == config::Store::default().url
        {
            // A package's configuration has no source yet, but says where the store is.
            print::complain(&format!(
                "warning: {} names no source, sink or store: was it emptied? A daemon that runs goes on with what it read; \
                 `callbackd doctor` says more",
                self.file().display()
            ));
        }
        Ok(config)
    }

    /// The store, to read.
    pub(super) fn queries(&self) -> Result<Box<dyn Queries>, Failure> {
        queries(&self.places()?, self.env)
    }
}

/// The store of this configuration, to read.
pub(super) fn queries(config: &Config, env: &Environment) -> Result<Box<dyn Queries>, Failure> {
    Ok(app::queries(config, password(config, env)?.as_ref())?)
}

/// PostgreSQL's.
pub(super) fn password(config: &Config, env: &Environment) -> Result<Option<Secret>, Failure> {
    let get = |name: &str| env.get(name);
    let secrets = Resolver { env: &get, warnings: RefCell::default() };
    let found = config.store.password.as_ref().map(|spec| secrets.resolve(spec)).transpose();
    found.map_err(|why| Failure::Config(format!("store.password: {why}")))
}

/// Where the store is, for what only a file can be asked for.
pub(super) fn store_path(config: &Config) -> Result<&Path, Failure> {
    config.store.url.strip_prefix("sqlite:").map(Path::new).ok_or_else(|| {
        Failure::Failed("the store is no file, and only one of SQLite's can be asked for this".to_owned())
    })
}

/// The store, to change: only when no daemon has it.
pub(super) fn open_store(config: &Config) -> Result<Arc<dyn Store>, Failure> {
    if config.store.is_postgres() {
        return Err(Failure::Failed(format!(
            "no daemon listens at admin.listen = {:?}; one of those that share the database has to do this",
            config.admin.listen
        )));
    }
    let path = store_path(config)?;
    // Opening to write would make a new store where a mistyped path leads.
    sqlite::find(path)?;
    match SqliteStore::open(path, &sqlite::Options::default()) {
        Ok(store) => {
            print::complain(&format!(
                "note: no daemon listens at admin.listen = {:?}, so this is done in the store itself",
                config.admin.listen
            ));
            Ok(Arc::new(store))
        }
        Err(StoreError::Unusable(why)) => Err(Failure::Failed(format!(
            "{why}; and no daemon listens at admin.listen = {:?}: is it this daemon's configuration?",
            config.admin.listen
        ))),
        Err(e) => Err(e.into()),
    }
}

/// The daemon's admin API.
pub(super) struct Daemon {
    pub(super) at: Address,
    pub(super) token: Option<Secret>,
}

/// Where it listens.
pub(super) enum Address {
    Tcp(String, Box<Client>),
    Unix(PathBuf),
}

impl Daemon {
    /// The daemon of this configuration, whether it runs or not.
    pub(super) fn of(config: &Config, env: &Environment) -> Result<Daemon, Failure> {
        let at = match config.admin.listen.strip_prefix("unix:") {
            Some(path) => Address::Unix(path.into()),
            None => {
                let client = Client::new(&Settings::default()).map_err(Failure::Failed)?;
                Address::Tcp(reachable(&config.admin.listen), Box::new(client))
            }
        };
        let get = |name: &str| env.get(name);
        let secrets = Resolver { env: &get, warnings: RefCell::default() };
        let token = config.admin.token.as_ref().map(|spec| secrets.resolve(spec)).transpose();
        let token = token.map_err(|why| Failure::Config(format!("admin.token: {why}")))?;
        Ok(Daemon { at, token })
    }

    /// Asks the daemon to do something. `None` when none listens, `Err` when it does and refuses.
    pub(super) async fn post(&self, path: &str, body: Option<&Value>) -> Result<Option<Value>, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let answered = self.ask(Method::POST, path, body).await?;
        answered.map(|(status, body)| judge(status, &body)).transpose()
    }

    /// What it says at `path` of its health: status and text. `None` when none listens.
    pub(super) async fn probe(&self, path: &str) -> Result<Option<(u16, String)>, Failure> {
        let answered = self.ask(Method::GET, path, String::new()).await?;
        Ok(answered.map(|(status, body)| (status, String::from_utf8_lossy(&body).into_owned())))
    }

    /// What it says at `path`, where it answers soon and lets us in.
    async fn read<T: DeserializeOwned>(&self, path: &str) -> Option<T> {
        let asked = self.ask(Method::GET, path, String::new());
        let answered = tokio::time::timeout(SOON, asked).await.ok()?.ok()??;
        (answered.0 == 200).then(|| serde_json::from_slice(&answered.1).ok())?
    }

    /// How it stands; `None` where it does not say.
    pub(super) async fn status(&self) -> Option<Status> {
        self.read("/api/v1/status").await
    }

    /// Whether it answers, and does not take our token.
    pub(super) async fn refuses_us(&self) -> bool {
        let probed = tokio::time::timeout(SOON, self.probe("/api/v1/status")).await;
        matches!(probed, Ok(Ok(Some((401, _)))))
    }

    /// Its sinks, with what it alone knows of them; `None` where it does not say.
    pub(super) async fn sinks(&self) -> Option<Vec<SinkStanding>> {
        #[derive(Deserialize)]
        struct Listed {
            items: Vec<SinkStanding>,
        }
        self.read::<Listed>("/api/v1/sinks").await.map(|listed| listed.items)
    }

    async fn ask(&self, method: Method, path: &str, body: String) -> Result<Option<(u16, Bytes)>, Failure> {
        match &self.at {
            Address::Tcp(address, client) => self.ask_tcp(method, client, address, path, body).await,
            Address::Unix(socket) => self
                .ask_unix(&method, socket, path, &body)
                .map_err(|e| Failure::Failed(format!("the daemon at {} does not answer: {e}", socket.display()))),
        }
    }

    async fn ask_tcp(
        &self,
        method: Method,
        client: &Client,
        address: &str,
        path: &str,
        body: String,
    ) -> Result<Option<(u16, Bytes)>, Failure> {
        let url: Uri = format!("http://{address}{path}")
            .parse()
            .map_err(|e| Failure::Config(format!("admin.listen: {address:?} is no address: {e}")))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(token) = &self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .map_err(|_| Failure::Config("admin.token: cannot stand in an HTTP header".to_owned()))?;
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        let request = outbound::Request { method, url, headers, body: body.into() };
        match tokio::time::timeout(ANSWER_TIMEOUT, client.send(request)).await {
            Ok(Ok(answer)) => Ok(Some((answer.status, answer.body))),
            // Nothing was sent; if a daemon runs after all, it has the store's lock.
            Ok(Err(outbound::Failure::Connect(_))) => Ok(None),
            Ok(Err(e)) => Err(Failure::Failed(format!("the daemon at {address} does not answer: {e}"))),
            Err(_) => Err(Failure::Failed(format!("the daemon at {address} does not answer in time"))),
        }
    }

    /// In HTTP/1.0, which knows no chunks: the answer ends with the connection.
    fn ask_unix(&self, method: &Method, socket: &Path, path: &str, body: &str) -> io::Result<Option<(u16, Bytes)>> {
        let mut stream = match UnixStream::connect(socket) {
            Ok(stream) => stream,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.set_write_timeout(Some(ANSWER_TIMEOUT))?;
        let mut request = format!("{method} {path} HTTP/1.0\r\nhost: localhost\r\ncontent-type: application/json\r\n");
        if let Some(token) = &self.token {
            request.push_str(&format!("authorization: Bearer {}\r\n", token.expose()));
        }
        request.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
        stream.write_all(request.as_bytes())?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer)?;
        split_answer(answer).map(Some).ok_or_else(|| io::Error::other("what it says is not HTTP"))
    }
}

/// Status and body of a whole answer in HTTP/1.
fn split_answer(answer: Vec<u8>) -> Option<(u16, Bytes)> {
    let body = answer.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&answer[..body]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, Bytes::from(answer).slice(body..)))
}

/// What the daemon said: its JSON, or why it refuses (RFC 9457).
pub(super) fn judge(status: u16, body: &[u8]) -> Result<Value, Failure> {
    let json = serde_json::from_slice::<Value>(body).unwrap_or(Value::Null);
    if (200..300).contains(&status) {
        return Ok(json);
    }
    if status == 401 {
        return Err(Failure::Failed(format!("{REFUSED_TOKEN}; put back the one that it began with, or restart it")));
    }
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    Err(Failure::Failed(match (text("detail").or_else(|| text("title")), status) {
        (Some(detail), _) => detail.to_owned(),
        (None, 404) => "something listens at admin.listen that does not know this command".to_owned(),
        (None, _) => format!("the daemon answers {status}"),
    }))
}

/// `0.0.0.0` and `[::]` are where one listens, not where one connects to.
fn reachable(listen: &str) -> String {
    match listen.rsplit_once(':') {
        Some(("0.0.0.0", port)) => format!("127.0.0.1:{port}"),
        Some(("[::]", port)) => format!("[::1]:{port}"),
        _ => listen.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use serde_json::json;

    use super::super::block_on;
    use super::*;

    #[test]
    fn a_refusal_is_said_in_the_daemons_words() {
        assert_eq!(judge(200, br#"{"count":3}"#).expect("fine")["count"], 3);
        for (status, body, said) in [
            (401, r#"{"title":"Unauthorized","detail":"send the admin token"}"#, "does not take the admin.token"),
            (409, r#"{"title":"Conflict"}"#, "Conflict"),
            (404, "<html>", "does not know"),
            (502, "", "502"),
        ] {
            let Err(Failure::Failed(text)) = judge(status, body.as_bytes()) else { panic!("{status} is no success") };
            assert!(text.contains(said), "{text}");
        }
    }

    #[test]
    fn wildcards_are_not_connected_to() {
        for (listen, address) in
            [("0.0.0.0:8481", "127.0.0.1:8481"), ("[::]:1", "[::1]:1"), ("10.0.0.1:8481", "10.0.0.1:8481")]
        {
            assert_eq!(reachable(listen), address);
        }
    }

    #[test]
    fn a_daemon_on_a_unix_socket_is_asked_with_the_token() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("admin.sock");
        let daemon = Daemon { at: Address::Unix(socket.clone()), token: Some(Secret::new("s3cret")) };
        let ask = || block_on(daemon.post("/api/v1/deliveries/7/retry", Some(&json!({"a": 1}))));
        assert!(matches!(ask(), Ok(None)), "nobody listens");

        let listener = UnixListener::bind(&socket).expect("bound");
        let peer = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut lines = BufReader::new(stream.try_clone().expect("cloned")).lines().map_while(Result::ok);
            let head: Vec<String> = lines.by_ref().take_while(|l| !l.is_empty()).collect();
            stream.write_all(b"HTTP/1.1 200 OK\r\nx: y\r\n\r\n{\"count\":1}").expect("written");
            head
        });
        assert_eq!(ask().expect("an answer"), Some(json!({"count": 1})));
        let head = peer.join().expect("no panic");
        assert_eq!(head[0], "POST /api/v1/deliveries/7/retry HTTP/1.0");
        assert!(head.contains(&"authorization: Bearer s3cret".to_owned()), "{head:?}");
        assert!(head.contains(&"content-length: 7".to_owned()), "{head:?}");
    }
}
