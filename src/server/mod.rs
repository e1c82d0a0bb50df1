//! The door: HTTP/1.1 over TCP, Unix sockets and sockets handed over by systemd, with TLS where wanted.
//!
//! First in the flow. [`bind`] takes the address early (or [`Inherited`] does), so that a fault is known at the start;
//! [`serve`] accepts until the [`Shutdown`] begins, then lets every request that was begun finish within the drain
//! time, and hears who has just come. What is served is an [`Endpoint`]: [`Reception`] for callbacks, and the admin API behind its own door.
//!
//! Promises: everything has a limit (connections, head, body, time); a refused or slow sender costs no more than its
//! connection, and loses that to who comes next when all are taken; nothing that a sender does ends the accept loop; a
//! reload drops no connection.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use ipnet::IpNet;
use tokio::task::JoinSet;

use crate::clock;
use crate::shutdown::Shutdown;

mod bodies;
mod connection;
mod crowd;
mod listen;
mod live;
mod peer;
mod pulse;
mod receive;
pub(crate) mod respond;
mod throttle;
mod tls;

use crowd::Crowd;
pub use listen::{BindError, Bound, Inherited, bind};
pub use live::Live;
pub use pulse::Pulse;
pub use receive::Reception;
pub(crate) use throttle::Throttle;
pub use tls::{Certificate, Pair, TlsError};

/// How much a door lets in. A reload changes it for the next connection or request.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// A larger body is refused with 413, in bytes.
    pub body_bytes_max: usize,
    /// A larger head is refused with 431, in bytes.
    pub head_bytes_max: usize,
    /// All bodies being received at one time beside small ones, in bytes; beyond that, 503.
    pub bodies_bytes_max: usize,
    /// Connections at one time; for further ones, those that are silent make room.
    pub connections_max: usize,
    /// Connections of one address, or one IPv6 network of 64 bits, at one time, trusted proxies apart; 0 for no limit.
    pub connections_per_address_max: usize,
    /// A TLS handshake, and a head, have to be complete within this time.
    pub head_timeout: Duration,
    /// A body has to be complete within this time.
    pub body_timeout: Duration,
    /// What is not on disk within this time is answered 503.
    pub answer_timeout: Duration,
    /// An idle connection is closed after this time.
    pub idle_timeout: Duration,
    /// On shutdown, what was begun may take this long.
    pub drain_timeout: Duration,
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The socket's address; `None` on a Unix socket.
    pub address: Option<IpAddr>,
}

/// What a door leads to.
pub trait Endpoint: Send + Sync + 'static {
    /// The body of its answers.
    type Body: Body<Data = Bytes, Error = Infallible> + Send + 'static;

    /// The limits that hold now.
    fn limits(&self) -> Arc<Limits>;

    /// Answers one request, and says to `pulse` once its sender has shown that it belongs here.
    fn answer(
        &self,
        request: Request<Incoming>,
        caller: Caller,
        pulse: &Arc<Pulse>,
    ) -> impl Future<Output = Response<Self::Body>> + Send;
}

/// How often a full door looks for places that are only taken up.
const FULL_LOOK: Duration = Duration::from_millis(20);

/// How long accepting pauses after an error that is ours (no more file descriptors, no memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until `shutdown` begins, then until every request that was begun is answered, or the drain time is over.
pub async fn serve<E: Endpoint>(bound: Bound, endpoint: Arc<E>, shutdown: Shutdown) {
    let addresses = Addresses::default();
    let mut connections = JoinSet::new();
    let mut crowd = Crowd::default();
    let crowded = Throttle::default();
    let mut failing = false;
    let mut begun = std::pin::pin!(shutdown.begun());
    loop {
        let limits = endpoint.limits();
        let full = connections.len() >= limits.connections_max;
        let (io, caller) = tokio::select! {
            () = &mut begun => break,
            Some(ended) = connections.join_next_with_id() => {
                crowd.ends(ended.as_ref().map_or_else(|e| e.id(), |(id, ())| *id));
                report_panic(ended);
                continue;
            }
            () = tokio::time::sleep(FULL_LOOK), if full => {
                let closed = crowd.make_room();
                if closed > 0 && let Some(suppressed) = crowded.passes(clock::now()) {
                    let max = limits.connections_max;
                    tracing::warn!(closed, suppressed, "all {max} connections are taken; closed silent ones for new ones");
                }
                continue;
            }
            accepted = bound.accept(), if !full => match accepted {
                Ok(accepted) => accepted,
                // The sender gave up while it waited: nothing to do with us.
                Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => {
                    continue;
                }
                Err(e) => {
                    if !std::mem::replace(&mut failing, true) {
                        tracing::warn!(error = %e, "cannot accept connections; trying on");
                    }
                    tokio::select! {
                        () = &mut begun => break,
                        () = tokio::time::sleep(ACCEPT_PAUSE) => continue,
                    }
                }
            },
        };
        if std::mem::take(&mut failing) {
            tracing::info!("accepting connections again");
        }
        let Some(place) = addresses.place(caller.address, &limits) else {
            tracing::debug!(peer = ?caller.address, "closed a connection: its address has too many");
            continue;
        };
        let tls = bound.tls().map(|certificate| certificate.current());
        let (endpoint, shutdown) = (Arc::clone(&endpoint), shutdown.clone());
        let pulse = Arc::new(Pulse::new(limits.head_timeout, limits.idle_timeout));
        let taken = Arc::clone(&pulse);
        let task = connections.spawn(async move {
            connection::serve(io, tls, caller, &limits, taken, endpoint, shutdown).await;
            drop(place);
        });
        crowd.comes(task, pulse);
    }
    drop(bound);
    let drain = endpoint.limits().drain_timeout;
    let drained = tokio::time::timeout(drain, async {
        while let Some(ended) = connections.join_next().await {
            report_panic(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "the drain time is over; cutting off what is left");
    }
}

fn report_panic<T>(ended: Result<T, tokio::task::JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!(error = %e, "a connection failed; the others go on");
    }
}

/// Connections of each address, counted only while a limit is set.
#[derive(Clone, Default)]
struct Addresses(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// One connection's place among those of its address, until it is dropped.
struct Place(Option<(Addresses, IpAddr)>);

impl Addresses {
    /// A place for one more connection of this address, if there is one.
    fn place(&self, address: Option<IpAddr>, limits: &Limits) -> Option<Place> {
        let max = limits.connections_per_address_max;
        let Some(address) = address.filter(|a| max > 0 && !limits.trusted_proxies.iter().any(|net| net.contains(a)))
        else {
            return Some(Place(None));
        };
        let address = peer::holder(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(address).or_default();
        (*count < max).then(|| {
            *count += 1;
            Place(Some((self.clone(), address)))
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((addresses, address)) = self.0.take() {
            let mut counts = addresses.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(count) = counts.get_mut(&address) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&address);
                }
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Limits of a door that nothing in a test reaches by accident.
    pub(crate) fn limits() -> Limits {
        Limits {
            trusted_proxies: Vec::new(),
            body_bytes_max: 1 << 20,
            head_bytes_max: 64 << 10,
            bodies_bytes_max: 8 << 20,
            connections_max: 64,
            connections_per_address_max: 0,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(10),
            drain_timeout: Duration::from_secs(10),
        }
    }

    #[test]
    fn one_address_gets_its_places_and_no_more() {
        let addresses = Addresses::default();
        let proxies = vec!["10.0.0.0/8".parse().expect("a network")];
        let limits = Limits { connections_per_address_max: 2, trusted_proxies: proxies, ..limits() };
        let address = |text: &str| Some(text.parse().expect("an address"));
        let one = addresses.place(address("192.0.2.1"), &limits).expect("a first place");
        let two = addresses.place(address("192.0.2.1"), &limits).expect("a second place");
        assert!(addresses.place(address("192.0.2.1"), &limits).is_none());
        let other = addresses.place(address("192.0.2.2"), &limits).expect("another address has its own");
        let six =
            ["2001:db8:0:1::1", "2001:db8:0:1:2::2"].map(|a| addresses.place(address(a), &limits).expect("a place"));
        assert!(addresses.place(address("2001:db8:0:1:ffff::3"), &limits).is_none(), "a host may have all of these");
        drop(addresses.place(address("2001:db8:0:2::1"), &limits).expect("another network"));
        drop(six);
        drop(one);
        let again = addresses.place(address("192.0.2.1"), &limits).expect("a place was left");
        drop((two, again, other));
        assert!(addresses.0.lock().expect("sound").is_empty(), "nothing is remembered of who has left");
        let unlimited: Vec<_> =
            (0..9).map(|_| addresses.place(address("10.1.1.1"), &limits).expect("a proxy speaks for many")).collect();
        drop(unlimited);
        assert!(addresses.place(None, &limits).is_some());
        let none = Limits { connections_per_address_max: 0, ..limits };
        let _all: Vec<_> = (0..9).map(|_| addresses.place(address("192.0.2.1"), &none).expect("no limit")).collect();
    }
}
