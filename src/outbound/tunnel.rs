//! A connection as the client uses it: to the peer itself, to a proxy that is asked on its behalf, or through a tunnel
//! that a proxy opened.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{HeaderValue, Uri};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_service::Service;

use super::connect::BoxError;
use super::failure::root;
use super::proxy::Proxies;
use crate::Boxed;

/// A proxy's answer to `CONNECT` with a larger head is a failure.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Connects to a URL's host, through its proxy where it has one.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) tcp: HttpConnector,
    pub(super) proxies: Proxies,
}

impl Service<Uri> for Way {
    type Response = Stream;
    type Error = BoxError;
    type Future = Boxed<'static, Result<Stream, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let Some(proxy) = self.proxies.of(&to).cloned() else {
            let connecting = self.tcp.call(to);
            return Box::pin(async move { Ok(Stream { tcp: connecting.await?, asks_proxy: false }) });
        };
        let connecting = self.tcp.call(proxy.url.clone());
        Box::pin(async move {
            let tcp = connecting.await.map_err(|e| format!("the proxy cannot be reached: {}", root(&e)))?;
            let is_secure = to.scheme_str() == Some("https");
            let tcp = if is_secure { tunnel(tcp, &to, proxy.authorization.as_ref()).await? } else { tcp };
            Ok(Stream { tcp, asks_proxy: !is_secure })
        })
    }
}

/// RFC 9110, 9.3.6: after a 2xx to `CONNECT`, the connection is the peer's.
async fn tunnel(
    tcp: TokioIo<TcpStream>,
    to: &Uri,
    authorization: Option<&HeaderValue>,
) -> Result<TokioIo<TcpStream>, BoxError> {
    let mut tcp = tcp.into_inner();
    let peer = format!("{}:{}", to.host().unwrap_or_default(), to.port_u16().unwrap_or(443));
    let mut request = format!("CONNECT {peer} HTTP/1.1\r\nHost: {peer}\r\n").into_bytes();
    if let Some(value) = authorization {
        request.extend_from_slice(&[b"Proxy-Authorization: ", value.as_bytes(), b"\r\n"].concat());
    }
    request.extend_from_slice(b"\r\n");
    tcp.write_all(&request).await?;
    let mut head = Vec::with_capacity(1024);
    let end = loop {
        if let Some(end) = head.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break end + 4;
        }
        if head.len() > HEAD_BYTES_MAX {
            return Err("the proxy's answer to CONNECT is too long".into());
        }
        if tcp.read_buf(&mut head).await? == 0 {
            return Err("the proxy closed the connection instead of opening a tunnel".into());
        }
    };
    match status(&head) {
        // In TLS the server does not speak first.
        Some(200..=299) if head.len() > end => Err("the proxy sent something into the tunnel that it opened".into()),
        Some(200..=299) => Ok(TokioIo::new(tcp)),
        Some(407) => Err("the proxy wants a credential, or another one (407)".into()),
        Some(status) => Err(format!("the proxy answered {status}, and opened no tunnel").into()),
        None => Err("the proxy's answer to CONNECT is not HTTP".into()),
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.get(..12)?).ok()?;
    line.strip_prefix("HTTP/1.")?.get(2..)?.parse().ok()
}

/// Bytes to and from whoever is at the other end.
pub(super) struct Stream {
    tcp: TokioIo<TcpStream>,
    /// The other end is a proxy, which needs the whole URL.
    asks_proxy: bool,
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        self.tcp.connected().proxy(self.asks_proxy)
    }
}

impl Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs)
    }
}
