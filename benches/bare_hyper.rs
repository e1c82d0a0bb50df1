//! A bare hyper server that reads a body and answers 200: what durable ingest is measured against.
//!
//! It keeps nothing and checks nothing, on the same runtime and the same HTTP implementation as the daemon.
//! Prints the address that it took: `bare_hyper [ADDRESS]`, by default a free port on loopback.

use std::convert::Infallible;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
    if request.into_body().collect().await.is_err() {
        *response.status_mut() = hyper::StatusCode::BAD_REQUEST;
    }
    Ok(response)
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    // `cargo bench` adds arguments of its own, which begin with dashes.
    let address = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let listener = tokio::net::TcpListener::bind(address).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)),
        );
    }
}
