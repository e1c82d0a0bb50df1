//! One connection: the handshake, its requests one after the other, and a close that loses no answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use hyper::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

use super::listen::Io;
use super::pulse::{Found, Pulse, Pulsed};
use super::{Caller, Endpoint, Limits};
use crate::shutdown::Shutdown;

/// How long a closed connection is still read, so that its peer finds our answer.
const LINGER: Duration = Duration::from_secs(1);

/// What part of the drain time a sender that has just come is given to send something. Its connection was accepted, so
/// it does not wait for the next daemon; closed without an answer, it may never come again.
const WELCOME: u32 = 20;

/// hyper asks for a buffer of at least this size.
const BUFFER_MIN: usize = 8192;

/// Serves one connection to its end.
///
/// While it rests, it holds its socket and little more: hyper's buffers are only there between the first byte of a request
/// and a moment after its answer. What a task holds at its largest it holds always, so that what is large has a box.
pub(super) async fn serve<E: Endpoint>(
    io: Box<dyn Io>,
    tls: Option<Arc<ServerConfig>>,
    caller: Caller,
    limits: &Limits,
    pulse: Arc<Pulse>,
    endpoint: Arc<E>,
    shutdown: Shutdown,
) {
    let mut begun = std::pin::pin!(shutdown.begun());
    let mut io = match tls {
        None => io,
        Some(config) => {
            let mut shaking = Box::pin(shake(io, config, caller, limits));
            let shaken = tokio::select! {
                shaken = &mut shaking => shaken,
                () = &mut begun => {
                    begun.set(shutdown.begun());
                    let shaken = Box::pin(tokio::time::timeout(limits.drain_timeout / WELCOME, shaking)).await;
                    shaken.unwrap_or(None)
                }
            };
            let Some(io) = shaken else { return };
            io
        }
    };
    let mut early = Bytes::new();
    let mut is_new = true;
    loop {
        if early.is_empty() {
            let mut first = [0];
            early = tokio::select! {
                // What came before the end began is still answered.
                biased;
                read = io.read(&mut first) => match read {
                    Ok(1..) => Bytes::copy_from_slice(&first),
                    _ => return part(io).await,
                },
                () = &mut begun => {
                    begun.set(shutdown.begun());
                    let welcome = if is_new { limits.drain_timeout / WELCOME } else { Duration::ZERO };
                    // A box: few are new at the end, and the others need no room for it.
                    let read = Box::pin(tokio::time::timeout(welcome, io.read(&mut first))).await;
                    match read {
                        Ok(Ok(1..)) => Bytes::copy_from_slice(&first),
                        _ => return part(io).await,
                    }
                }
                () = pulse.late() => return tracing::debug!(peer = ?caller.address, "closed a connection: nothing came in time"),
            };
        }
        is_new = false;
        pulse.reads();
        let pulsed = Pulsed { io, pulse: Arc::clone(&pulse), early };
        match Box::pin(talk(pulsed, caller, limits, Arc::clone(&endpoint), begun.as_mut())).await {
            Some(rests) => (io, early) = rests,
            None => return,
        }
    }
}

/// The TLS handshake, which has to be over in time.
async fn shake(io: Box<dyn Io>, config: Arc<ServerConfig>, caller: Caller, limits: &Limits) -> Option<Box<dyn Io>> {
    match tokio::time::timeout(limits.head_timeout, TlsAcceptor::from(config).accept(io)).await {
        Ok(Ok(stream)) => return Some(Box::new(stream)),
        Ok(Err(e)) => tracing::debug!(peer = ?caller.address, error = %e, "no TLS handshake"),
        Err(_) => tracing::debug!(peer = ?caller.address, "the TLS handshake took too long"),
    }
    None
}

/// Answers requests until the connection rests, and gives back what there is of it; `None` when it has ended.
async fn talk<E: Endpoint>(
    pulsed: Pulsed,
    caller: Caller,
    limits: &Limits,
    endpoint: Arc<E>,
    mut begun: Pin<&mut impl Future<Output = ()>>,
) -> Option<(Box<dyn Io>, Bytes)> {
    let pulse = Arc::clone(&pulsed.pulse);
    let answering = service_fn({
        let pulse = Arc::clone(&pulse);
        move |request| {
            let (endpoint, pulse) = (Arc::clone(&endpoint), Arc::clone(&pulse));
            async move {
                pulse.begins();
                let answer = endpoint.answer(request, caller, &pulse).await;
                pulse.ends(answer.body().size_hint().exact().is_some());
                Ok::<_, std::convert::Infallible>(answer)
            }
        }
    });
    let mut connection = protocol(limits).serve_connection(TokioIo::new(pulsed), answering);
    let mut found = std::pin::pin!(pulse.found());
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
                Pin::new(&mut connection).graceful_shutdown();
            }
            found_now = &mut found => match found_now {
                Found::Late => {
                    tracing::debug!(peer = ?caller.address, "closed a connection: nothing came in time");
                    return None;
                }
                Found::Resting => {
                    // Between two requests hyper ends at once, and has sent all there was to send.
                    pulse.rest(true);
                    Pin::new(&mut connection).graceful_shutdown();
                    let ended = std::future::poll_fn(|cx| Poll::Ready(Pin::new(&mut connection).poll(cx))).await;
                    pulse.rest(false);
                    match ended {
                        Poll::Ready(Ok(())) if !draining => {
                            tracing::trace!(peer = ?caller.address, "a connection rests");
                            let parts = connection.into_parts();
                            let Pulsed { io, early, .. } = parts.io.into_inner();
                            let left = match (parts.read_buf, early) {
                                (read, early) if read.is_empty() => early,
                                (read, early) if early.is_empty() => read,
                                (read, early) => [read, early].concat().into(),
                            };
                            return Some((io, left));
                        }
                        Poll::Ready(_) => return None,
                        // It was none: what is in hand is the last.
                        Poll::Pending => {
                            pulse.ends(false);
                            found.set(pulse.found());
                        }
                    }
                }
            },
        }
    }
    if !draining {
        linger(connection.into_parts().io.into_inner().io).await;
    }
    None
}

/// Says that nothing more comes, as TLS wants it said.
async fn part(mut io: Box<dyn Io>) {
    let _ = tokio::time::timeout(LINGER, io.shutdown()).await;
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
