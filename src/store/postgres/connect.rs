//! Connections: from an address, by TLS where it is to be, with what every session needs; and a pool of them.

use std::future::poll_fn;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::config::{Host, LoadBalanceHosts, SslMode};
use tokio_postgres::error::{Severity, SqlState};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, Connection, Socket};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::Boxed;
use crate::outbound;
use crate::shutdown::Shutdown;
use crate::store::StoreError;

/// Whoever is not there within this time is away.
const CONNECT: Duration = Duration::from_secs(5);
/// A server that acknowledges nothing for so long is away.
const SILENT: Duration = Duration::from_secs(10);
/// Whoever takes longer to greet is away, also where its kernel still answers.
const GREETING: Duration = Duration::from_secs(8);

/// Where the database is, and how it is reached.
#[derive(Clone)]
pub struct Address {
    config: Config,
    /// As it was written, without a password.
    url: String,
    /// One for each host.
    each: Arc<[Config]>,
    /// Of these, who answered last.
    last: Arc<AtomicUsize>,
    tls: Tls,
    /// Until when connections hold that were made until now.
    held: Arc<Mutex<Shutdown>>,
}

/// A connection, driven by a task of its own.
pub(super) struct Session {
    client: Client,
    /// What the server has warned of.
    warnings: Arc<AtomicU64>,
}

impl Session {
    /// How often the server has warned until now: what was answered since is not as it was asked for.
    pub(super) fn warnings(&self) -> u64 {
        self.warnings.load(Ordering::Acquire)
    }
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Address {
    /// Reads `postgres://…`. Over a network there is TLS unless the address says otherwise.
    pub fn parse(url: &str, password: Option<&str>, ca_file: Option<&std::path::Path>) -> Result<Address, String> {
        let mut config = Address::read(url)?;
        if config.get_hosts().is_empty() {
            return Err("names no host; write one like \"postgres://callbackd@db.example.org/callbackd\"".to_owned());
        }
        if config.get_load_balance_hosts() == LoadBalanceHosts::Random {
            return Err(
                "asks for load_balance_hosts=random, and all connections are to meet in one server: leave that out, \
                        and the host is asked first that answered last"
                    .to_owned(),
            );
        }
        let is_near = |host: &Host| match host {
            Host::Tcp(name) => name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback()),
            Host::Unix(_) => true,
        };
        let stays_here = config.get_hosts().iter().all(is_near) && ca_file.is_none();
        let complete = |config: &mut Config| {
            if let Some(password) = password.filter(|_| config.get_password().is_none()) {
                config.password(password);
            }
            if !url.contains("sslmode=") {
                config.ssl_mode(if stays_here { SslMode::Disable } else { SslMode::Require });
            }
            if config.get_application_name().is_none() {
                config.application_name("callbackd");
            }
            config.connect_timeout(CONNECT).tcp_user_timeout(SILENT);
            config.keepalives_idle(SILENT).keepalives_interval(Duration::from_secs(2)).keepalives_retries(3);
        };
        complete(&mut config);
        let mut each = Vec::new();
        for url in hosts(url) {
            let mut one = Address::read(&url)?;
            complete(&mut one);
            each.push(one);
        }
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => Tls(None),
            _ => Tls(Some(outbound::tls_client(ca_file)?)),
        };
        let url = without_password(url);
        Ok(Address { config, url, each: each.into(), last: Arc::default(), tls, held: Arc::default() })
    }

    fn read(url: &str) -> Result<Config, String> {
        // What the parser says could quote the password.
        let config = Config::from_str(url).map_err(|_| {
            "is no address of a PostgreSQL; write one like \"postgres://callbackd@db.example.org/callbackd\"".to_owned()
        })?;
        let has_at = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if config.get_hosts().iter().any(has_at) {
            // The end of a password would be taken for a host, and said.
            return Err("holds a password with an `@` in it; write that as `%40`, or use store.password".to_owned());
        }
        Ok(config)
    }

    /// One connection, which lives as long as its client, to the first host that will do, from who answered last on. Each
    /// has its own time: one that is stopped is not to keep anybody from the next.
    pub(super) async fn connect(&self) -> Result<(Client, Driven), StoreError> {
        let (count, first) = (self.each.len(), self.last.load(Ordering::Relaxed));
        let mut why = StoreError::Unavailable("the database cannot be reached".to_owned());
        for at in (first..first + count).map(|at| at % count) {
            match tokio::time::timeout(GREETING, self.each[at].connect(self.tls.clone())).await {
                Ok(Ok(both)) => {
                    self.last.store(at, Ordering::Relaxed);
                    return Ok(both);
                }
                Ok(Err(e)) => why = fault(e),
                Err(_) => why = StoreError::Unavailable("the database does not answer".to_owned()),
            }
        }
        Err(why)
    }

    /// The same, driven by a task of its own.
    pub(super) async fn open(&self) -> Result<Session, StoreError> {
        let held = self.held.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (client, mut connection) = self.connect().await?;
        let warnings = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&warnings);
        let driven = async move {
            loop {
                match poll_fn(|cx| connection.poll_message(cx)).await {
                    Some(Ok(AsyncMessage::Notice(said))) if said.parsed_severity() == Some(Severity::Warning) => {
                        tracing::warn!(said = said.message(), "PostgreSQL warns");
                        // Before the answer that follows it is handed on.
                        counted.fetch_add(1, Ordering::Release);
                    }
                    Some(Ok(_)) => {}
                    Some(Err(e)) => return tracing::debug!(error = %said(&e), "a connection to PostgreSQL ended"),
                    None => return,
                }
            }
        };
        tokio::spawn(async move {
            tokio::select! {
                () = driven => {}
                () = held.begun() => {}
            }
        });
        Ok(Session { client, warnings })
    }

    /// Hangs up, whatever is still waited for: who waits hears that the connection is gone.
    pub(super) fn hang_up(&self) {
        std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner)).begin();
    }

    /// Whether who listens on the way can read what is said, for a person.
    pub(super) fn secrecy(&self) -> &'static str {
        match self.config.get_ssl_mode() {
            SslMode::Disable => "without TLS",
            SslMode::Require => "by TLS",
            _ => "by TLS where the server has it",
        }
    }

    /// As it was written, without a password.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The server's name, for a person.
    pub fn place(&self) -> String {
        let host = match self.config.get_hosts().first() {
            Some(Host::Tcp(name)) => name.clone(),
            Some(Host::Unix(path)) => path.display().to_string(),
            None => String::new(),
        };
        let port = self.config.get_ports().first().filter(|port| **port != 5432);
        let port = port.map(|port| format!(":{port}")).unwrap_or_default();
        format!("{host}{port}/{}", self.config.get_dbname().unwrap_or("postgres"))
    }
}

/// The address without what is nobody's business, as the parser has it: whatever stands before the first `@` is who asks.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return String::new() };
    let (user, rest) = match rest.split_once('@') {
        Some((who, rest)) => (format!("{}@", who.split(':').next().unwrap_or_default()), rest),
        None => (String::new(), rest),
    };
    let (place, asked) = rest.split_once('?').unwrap_or((rest, ""));
    let is_told = |pair: &&str| {
        urlencoding::decode(pair.split('=').next().unwrap_or_default()).is_ok_and(|key| key != "password")
    };
    let asked: Vec<_> = asked.split('&').filter(|pair| !pair.is_empty()).filter(is_told).collect();
    let asked = if asked.is_empty() { String::new() } else { format!("?{}", asked.join("&")) };
    format!("{scheme}://{user}{place}{asked}")
}

/// The same address for each of the hosts that it names.
fn hosts(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else { return vec![url.to_owned()] };
    let (authority, after) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = authority.rfind('@').map_or(("", authority), |at| authority.split_at(at + 1));
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{after}")).collect()
}

/// What has to be polled for a client to hear anything.
pub(super) type Driven = Connection<Socket, Secured>;

/// What went wrong, without the values that a server quotes in its details.
pub(super) fn said(e: &tokio_postgres::Error) -> String {
    match e.as_db_error() {
        Some(said) => said.message().to_owned(),
        None => match std::error::Error::source(e) {
            Some(cause) => format!("{e}: {cause}"),
            None => e.to_string(),
        },
    }
}

/// What could not be done for now.
pub(super) fn fault(e: tokio_postgres::Error) -> StoreError {
    StoreError::Unavailable(explain(&e))
}

/// The same, for who sends callbacks and for `/readyz`.
pub(super) fn explain(e: &tokio_postgres::Error) -> String {
    match e.code() {
        Some(&SqlState::READ_ONLY_SQL_TRANSACTION) => "the database is read-only".to_owned(),
        Some(&SqlState::DISK_FULL) => "the database's disk is full".to_owned(),
        Some(&SqlState::TOO_MANY_CONNECTIONS) => "the database takes no more connections".to_owned(),
        Some(&SqlState::UNDEFINED_TABLE) => {
            "the database holds no store yet: the daemon makes it at its first start; or mend store.url".to_owned()
        }
        Some(_) => format!("the database refuses: {}", said(e)),
        // What it says holds neither address nor password.
        None => format!("the database cannot be reached: {}", said(e)),
    }
}

#[derive(Clone)]
struct Tls(Option<Arc<ClientConfig>>);

/// One handshake to come.
pub(super) struct Handshake(Option<(TlsConnector, ServerName<'static>)>);

impl MakeTlsConnect<Socket> for Tls {
    type Stream = Secured;
    type TlsConnect = Handshake;
    type Error = String;

    fn make_tls_connect(&mut self, domain: &str) -> Result<Handshake, String> {
        let Some(config) = &self.0 else { return Ok(Handshake(None)) };
        let name = ServerName::try_from(domain.to_owned()).map_err(|e| e.to_string())?;
        Ok(Handshake(Some((TlsConnector::from(Arc::clone(config)), name))))
    }
}

impl TlsConnect<Socket> for Handshake {
    type Stream = Secured;
    type Error = std::io::Error;
    type Future = Boxed<'static, Result<Secured, std::io::Error>>;

    fn connect(self, stream: Socket) -> Self::Future {
        Box::pin(async move {
            let Some((connector, name)) = self.0 else {
                return Err(std::io::Error::other("the server wants TLS, and its address says sslmode=disable"));
            };
            Ok(Secured(connector.connect(name, stream).await?))
        })
    }
}

/// A stream by TLS.
pub(super) struct Secured(tokio_rustls::client::TlsStream<Socket>);

impl TlsStream for Secured {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Secured {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// So many connections at one time, opened when they are needed.
#[derive(Clone)]
pub(super) struct Pool {
    address: Arc<Address>,
    idle: Arc<Mutex<Vec<Session>>>,
    permits: Arc<Semaphore>,
}

/// A connection of the pool.
pub(super) struct Lent {
    client: Option<Session>,
    idle: Arc<Mutex<Vec<Session>>>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Pool {
    pub(super) fn new(address: Arc<Address>, most: usize) -> Pool {
        Pool { address, idle: Arc::default(), permits: Arc::new(Semaphore::new(most.max(1))) }
    }

    pub(super) async fn get(&self) -> Result<Lent, StoreError> {
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
        let held = {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|client| !client.is_closed());
            idle.pop()
        };
        let client = match held {
            Some(client) => client,
            None => self.address.open().await?,
        };
        Ok(Lent { client: Some(client), idle: Arc::clone(&self.idle), _permit: permit })
    }
}

impl std::ops::Deref for Lent {
    type Target = Client;

    fn deref(&self) -> &Client {
        self.client.as_ref().expect("it is there until it is dropped")
    }
}

impl std::ops::DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Client {
        self.client.as_mut().expect("it is there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.client.take().filter(|client| !client.is_closed()) {
            self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn over_a_network_there_is_tls_unless_the_address_says_otherwise() {
        let mode = |url: &str| Address::parse(url, None, None).expect("an address").config.get_ssl_mode();
        assert_eq!(mode("postgres://u@db.example.org/d"), SslMode::Require);
        assert_eq!(mode("postgres://u@localhost,db.example.org/d"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example.org/d?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgres://u@127.0.0.1/d"), SslMode::Disable);
        assert_eq!(mode("postgres://u@%2Frun%2Fpostgresql/d"), SslMode::Disable);
        assert_eq!(mode("postgres://u@localhost/d?sslmode=require"), SslMode::Require);
    }

    #[test]
    fn hosts_among_which_it_is_to_be_drawn_are_refused() {
        let said = |of: &str| Address::parse(&format!("postgres://a,b/d?load_balance_hosts={of}"), None, None);
        assert!(said("disable").is_ok());
        assert!(said("random").is_err_and(|why| why.contains("load_balance_hosts=random")));
    }

    #[test]
    fn each_host_is_asked_by_itself() {
        let each = hosts("postgres://u:p@a:1,b:2,c/d?target_session_attrs=read-write");
        let one = |host: &str| format!("postgres://u:p@{host}/d?target_session_attrs=read-write");
        assert_eq!(each, [one("a:1"), one("b:2"), one("c")]);
        assert_eq!(hosts("postgres://a,b?x=1"), ["postgres://a?x=1", "postgres://b?x=1"]);
        assert_eq!(hosts("host=a,b user=u"), ["host=a,b user=u"]);
        let address = Address::parse("postgres://u@10.0.0.1,10.0.0.2/d", Some("s3cret"), None).expect("an address");
        assert!(address.each.iter().all(|one| one.get_ssl_mode() == SslMode::Require && one.get_hosts().len() == 1));
        assert!(address.each.iter().all(|one| one.get_password() == Some(b"s3cret")));
    }

    #[test]
    fn what_is_said_of_an_address_holds_no_password() {
        for url in [
            "postgres://u:1@s3cret@db/d",
            "postgres://u:s3cret@db:port/d",
            "postgres://u:s3cret@/d?host",
            "postgres:///d?password=s3cret",
        ] {
            let why = Address::parse(url, None, None).err().expect("a fault");
            assert!(!why.contains("s3cret") && (why.contains("postgres://") || why.contains("`%40`")), "{why}");
        }
        let address = Address::parse("postgres://u:s3cret@db/d", None, None).expect("an address");
        assert_eq!((address.place().as_str(), address.url()), ("db/d", "postgres://u@db/d"));
        let address = Address::parse("postgres://u:s3cret@db:6432/d", None, None).expect("an address");
        assert_eq!(address.place(), "db:6432/d");
        for (url, told) in [
            ("postgres://u:s3/c?r:et@a:1,b/d?sslmode=disable", "postgres://u@a:1,b/d?sslmode=disable"),
            (
                "postgres://db/d?user=u&pass%77ord=s3cret&options=-csearch_path%3Ds",
                "postgres://db/d?user=u&options=-csearch_path%3Ds",
            ),
            ("postgresql://u@%2Frun%2Fpg/d?password=s3cret", "postgresql://u@%2Frun%2Fpg/d"),
        ] {
            assert_eq!(Address::parse(url, Some("s3cret"), None).expect("an address").url(), told);
        }
        let both = Address::parse("postgres://u:own@db/d", Some("s3cret"), None).expect("an address");
        assert_eq!(both.config.get_password(), Some(b"own".as_slice()), "the nearer one");
    }
}
