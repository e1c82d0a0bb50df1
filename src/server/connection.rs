//! One connection: the handshake, its requests one after the other, and a close that loses no answer.

use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncReadExt;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::listen::Io;
use super::pulse::{Pulse, Pulsed};
use super::{Caller, Endpoint, Limits};
use crate::shutdown::Shutdown;

/// How long a closed connection is still read, so that its peer finds our answer.
const LINGER: Duration = Duration::from_secs(1);

/// hyper asks for a buffer of at least this size.
const BUFFER_MIN: usize = 8192;

/// Serves one connection to its end.
pub(super) async fn serve<E: Endpoint>(
    io: Box<dyn Io>,
    tls: Option<Arc<ServerConfig>>,
    caller: Caller,
    limits: &Limits,
    endpoint: Arc<E>,
    shutdown: Shutdown,
) {
    let io: Box<dyn Io> = match tls {
        None => io,
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(io);
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(limits.head_timeout, handshake) => shaken,
                () = shutdown.begun() => return,
            };
            match shaken {
                Ok(Ok(stream)) => Box::new(stream),
                Ok(Err(e)) => return tracing::debug!(peer = ?caller.address, error = %e, "no TLS handshake"),
                Err(_) => return tracing::debug!(peer = ?caller.address, "the TLS handshake took too long"),
            }
        }
    };

    let pulse = Arc::new(Pulse::new(limits.head_timeout, limits.idle_timeout));
    let pulsed = Pulsed { io, pulse: Arc::clone(&pulse) };
    let answering = service_fn({
        let pulse = Arc::clone(&pulse);
        move |request| {
            let (endpoint, pulse) = (Arc::clone(&endpoint), Arc::clone(&pulse));
            async move {
                pulse.begins();
                let answer = endpoint.answer(request, caller).await;
                pulse.ends();
                Ok::<_, std::convert::Infallible>(answer)
            }
        }
    });
    let mut connection = protocol(limits).serve_connection(TokioIo::new(pulsed), answering);

    let mut begun = std::pin::pin!(shutdown.begun());
    let mut stops = std::pin::pin!(pulse.stops());
    let mut draining = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => {
                if let Err(e) = ended {
                    tracing::debug!(peer = ?caller.address, error = %e, "connection closed");
                }
                break;
            }
            () = &mut begun, if !draining => {
                draining = true;
                std::pin::Pin::new(&mut connection).graceful_shutdown();
            }
            () = &mut stops => return tracing::debug!(peer = ?caller.address, "closed a connection: nothing came in time"),
        }
    }
    if !draining {
        linger(connection.into_parts().io.into_inner().io).await;
    }
}

/// HTTP/1.1 as this door speaks it.
fn protocol(limits: &Limits) -> http1::Builder {
    let mut protocol = http1::Builder::new();
    protocol
        // Without it, hyper reads on while a request is being answered, takes the end of what a sender sends for a
        // broken connection, and drops the answering (`Conn::mid_message_detect_eof`). A sender that shuts down its
        // side after the last byte, or hangs up, would cancel what it sent, or at least miss its answer. With it,
        // hyper does not look for an end before the answer is written, and reading an end there closes as usual.
        .half_close(true)
        // `Pulse` watches heads and idle times; hyper's own timeout needs a timer and gets none.
        .header_read_timeout(None)
        .max_header_size(limits.head_bytes_max)
        .max_buf_size(limits.head_bytes_max.max(BUFFER_MIN));
    protocol
}

/// Reads and drops what still comes, until the peer has closed too. Closing a socket with unread bytes resets the
/// connection, and a reset may reach the peer before the answer that says why (RFC 9112, section 9.6).
async fn linger(mut io: Box<dyn Io>) {
    let mut dropped = vec![0; 4096];
    let reading = async { while matches!(io.read(&mut dropped).await, Ok(n) if n > 0) {} };
    // Whoever still sends after that has to bear the reset.
    let _ = tokio::time::timeout(LINGER, reading).await;
}
