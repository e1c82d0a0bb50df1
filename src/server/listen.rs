//! Where senders reach us: a TCP address, a Unix socket, or a socket that systemd hands over.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::{Caller, Certificate};

/// A connection's bytes, whatever carries them.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Why an address cannot be listened on, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {reason}")]
pub struct BindError {
    listen: String,
    reason: String,
}

/// A bound address. Connections queue from here on, and are accepted by [`super::serve`].
pub struct Bound {
    socket: Socket,
    address: String,
    tls: Option<Arc<Certificate>>,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "removes the file when it is dropped")] Option<SocketFile>),
}

/// A socket file that we made, removed when the listener goes.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Gone already, or the folder is: nothing is left to do either way.
        let _ = std::fs::remove_file(&self.0);
    }
}

/// The sockets that systemd handed over (sd_listen_fds(3)), each of which is taken once.
pub struct Inherited(Vec<Socket>);

impl Inherited {
    /// Takes them over: the TCP and Unix stream sockets of `LISTEN_FDS`. A second call finds none. Has to be called
    /// within the runtime.
    pub fn take() -> io::Result<Inherited> {
        let mut fds = listenfd::ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..fds.len() {
            if let Ok(Some(listener)) = fds.take_tcp_listener(index) {
                listener.set_nonblocking(true)?;
                sockets.push(Socket::Tcp(TcpListener::from_std(listener)?));
            } else if let Ok(Some(listener)) = fds.take_unix_listener(index) {
                listener.set_nonblocking(true)?;
                sockets.push(Socket::Unix(UnixListener::from_std(listener)?, None));
            }
        }
        Ok(Inherited(sockets))
    }

    /// Binds `listen`: `address:port` (port 0 for a free one), `unix:/path`, or `systemd` for the first socket handed
    /// over. An address that a socket handed over has already is that socket.
    pub async fn bind(&mut self, listen: &str, tls: Option<Arc<Certificate>>) -> Result<Bound, BindError> {
        let bound = match self.having(listen) {
            Some(socket) => Ok(socket),
            None if listen == "systemd" => Err("systemd handed over no TCP or Unix stream socket; start it with \
                 callbackd.socket (`systemctl start callbackd.socket callbackd.service`), or write an address like \
                 \"127.0.0.1:8480\""
                .to_owned()),
            None => open(listen).await.map_err(|reason| match self.in_the_way_of(listen) {
                Some(held) => format!("systemd has {held} (callbackd.socket); write listen = \"systemd\" to use it"),
                None => reason,
            }),
        };
        let named = bound.and_then(|socket| Ok((socket.address().map_err(|e| e.to_string())?, socket)));
        let (address, socket) = named.map_err(|reason| BindError { listen: listen.to_owned(), reason })?;
        Ok(Bound { socket, address, tls })
    }

    /// Where the sockets are that nobody took. Who calls there waits in vain.
    pub fn left(&self) -> Vec<String> {
        self.0.iter().filter_map(|socket| socket.address().ok()).collect()
    }

    /// Takes out the socket that `listen` means.
    fn having(&mut self, listen: &str) -> Option<Socket> {
        let wanted = listen.parse::<SocketAddr>().map_or_else(|_| listen.to_owned(), |address| address.to_string());
        let means = |socket: &Socket| listen == "systemd" || socket.address().is_ok_and(|address| address == wanted);
        let index = self.0.iter().position(means)?;
        Some(self.0.remove(index))
    }

    /// The socket because of which `listen` cannot be bound: another address, the same port.
    fn in_the_way_of(&self, listen: &str) -> Option<String> {
        let port = listen.parse::<SocketAddr>().ok()?.port();
        self.left().into_iter().find(|held| held.parse::<SocketAddr>().is_ok_and(|held| held.port() == port))
    }
}

/// Binds `listen` without regard to systemd; see [`Inherited::bind`].
pub async fn bind(listen: &str, tls: Option<Arc<Certificate>>) -> Result<Bound, BindError> {
    Inherited(Vec::new()).bind(listen, tls).await
}

async fn open(listen: &str) -> Result<Socket, String> {
    if let Some(path) = listen.strip_prefix("unix:") {
        return unix(Path::new(path)).map(|(listener, file)| Socket::Unix(listener, Some(file)));
    }
    TcpListener::bind(listen).await.map(Socket::Tcp).map_err(|e| match e.kind() {
        io::ErrorKind::AddrInUse => format!("{e}; another program, or another callbackd, has it"),
        io::ErrorKind::AddrNotAvailable => format!("{e}; write an address that this machine has"),
        io::ErrorKind::PermissionDenied => format!("{e}; write a port above 1023, or let systemd open the socket"),
        _ => format!("{e}; write an address and a port like \"127.0.0.1:8480\", \"unix:/path\" or \"systemd\""),
    })
}

/// A Unix socket that its owner and group may write to. A file left behind by a dead process is replaced; the
/// socket of a living one is not.
fn unix(path: &Path) -> Result<(UnixListener, SocketFile), String> {
    if !path.is_absolute() {
        return Err("write the socket's whole path, like \"unix:/run/callbackd/http.sock\"".to_owned());
    }
    if let Ok(meta) = std::fs::symlink_metadata(path) {
        if !meta.file_type().is_socket() {
            return Err("the file exists and is no socket; remove it or write another path".to_owned());
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Err(e) if e.kind() == io::ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(|e| format!("cannot remove the stale socket: {e}"))?;
            }
            Err(e) => return Err(format!("the socket exists, and whether somebody listens cannot be told: {e}")),
            Ok(_) => return Err("another process listens there".to_owned()),
        }
    }
    let listener = UnixListener::bind(path).map_err(|e| e.to_string())?;
    let file = SocketFile(path.to_owned());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(|e| e.to_string())?;
    Ok((listener, file))
}

impl Socket {
    fn address(&self) -> io::Result<String> {
        Ok(match self {
            Socket::Tcp(listener) => listener.local_addr()?.to_string(),
            Socket::Unix(listener, _) => match listener.local_addr()?.as_pathname() {
                Some(path) => format!("unix:{}", path.display()),
                None => "unix:".to_owned(),
            },
        })
    }
}

impl Bound {
    /// Where it can be reached: `127.0.0.1:49152`, or `unix:/path`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What TLS is served with.
    pub(super) fn tls(&self) -> Option<&Certificate> {
        self.tls.as_deref()
    }

    /// The next connection. May be dropped while it waits.
    pub(super) async fn accept(&self) -> io::Result<(Box<dyn Io>, Caller)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // An answer is one small write: waiting to fill a segment would only delay it. Not having the
                // option is no reason to turn the sender away.
                let _ = stream.set_nodelay(true);
                Ok((Box::new(stream), Caller { address: Some(canonical(address)) }))
            }
            Socket::Unix(listener, _) => {
                let (stream, _) = listener.accept().await?;
                Ok((Box::new(stream), Caller { address: None }))
            }
        }
    }
}

/// An IPv4 sender looks like `::ffff:192.0.2.1` on a socket that takes both families; allow-lists mean 192.0.2.1.
fn canonical(address: SocketAddr) -> IpAddr {
    address.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn reports_the_port_it_got() {
        let bound = bind("127.0.0.1:0", None).await.expect("bound");
        let port = bound.address().strip_prefix("127.0.0.1:").expect("the address").parse::<u16>().expect("a port");
        assert_ne!(port, 0);
        let taken = bind(bound.address(), None).await.err().expect("taken").to_string();
        assert!(taken.contains("another program"), "{taken}");
        let bad = bind("nowhere", None).await.err().expect("no address").to_string();
        assert!(bad.contains("write an address"), "{bad}");
        let none = bind("systemd", None).await.err().expect("no socket").to_string();
        assert!(none.contains("callbackd.socket"), "{none}");
    }

    #[tokio::test]
    async fn a_socket_handed_over_is_taken_by_its_address_or_as_the_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = format!("unix:{}", folder.path().join("s").display());
        let (one, two) = (open("127.0.0.1:0").await.expect("bound"), open("127.0.0.1:0").await.expect("bound"));
        let addresses = [&one, &two].map(|socket| socket.address().expect("an address"));
        let mut handed = Inherited(vec![one, two, open(&path).await.expect("bound")]);

        for listen in [&path, &addresses[1]] {
            let taken = handed.bind(listen, None).await.expect("systemd has it open");
            assert_eq!(taken.address(), listen);
        }
        let everywhere = addresses[0].replace("127.0.0.1", "0.0.0.0");
        let held = handed.bind(&everywhere, None).await.err().expect("systemd has the port").to_string();
        assert!(held.contains(&addresses[0]) && held.contains("listen = \"systemd\""), "{held}");
        let own = handed.bind("127.0.0.1:0", None).await.expect("an address of its own");
        assert_eq!(handed.left(), [addresses[0].clone()]);
        assert_eq!(handed.bind("systemd", None).await.expect("the first that is left").address(), addresses[0]);
        let none = handed.bind("systemd", None).await.err().expect("none is left").to_string();
        assert!(none.contains("callbackd.socket"), "{none}");
        drop(own);
    }

    #[tokio::test]
    async fn a_stale_socket_file_is_replaced_and_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let listen = format!("unix:{}", path.display());
        let first = bind(&listen, None).await.expect("bound");
        assert_eq!(first.address(), listen);
        assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
        let second = bind(&listen, None).await.err().expect("in use").to_string();
        assert!(second.contains("another process"), "{second}");
        drop(first);
        assert!(!path.exists(), "a stopped listener leaves no file");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a file is left behind"));
        let again = bind(&listen, None).await.expect("a dead one is replaced");
        drop(again);
        std::fs::write(&path, "kept").expect("written");
        bind(&listen, None).await.err().expect("a file is not a socket");
        assert_eq!(std::fs::read_to_string(&path).expect("still there"), "kept");
        bind("unix:relative", None).await.err().expect("not absolute");
    }
}
