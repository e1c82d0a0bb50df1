//! A bare hyper server that reads a body and answers 200, on the same runtime and the same HTTP implementation as the
//! daemon. It keeps, reads and forwards nothing, unless it is told to, and checks nothing: durable ingest is measured
//! against it, and it is the sink.
//!
//! A GET is answered with what was posted so far: how often, and how many bytes.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::sync::mpsc::Sender;

use crate::keep::{Kept, elements};
use crate::{Failure, forward};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// The address to take; by default a free port, which is then printed.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
    /// Answer when the body is on disk, in this new file.
    #[arg(long)]
    keep: Option<PathBuf>,
    /// Keep it as rows of SQLite.
    #[arg(long, requires = "keep")]
    rows: bool,
    /// Read the body's XML before.
    #[arg(long)]
    read: bool,
    /// Post the body there, too, before the next but a thousandth is answered.
    #[arg(long)]
    forward: Option<Uri>,
}

/// What is done before an answer.
#[derive(Clone)]
struct Work {
    kept: Option<Arc<Kept>>,
    read: bool,
    forward: Option<Sender<Bytes>>,
}

static POSTS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
static ELEMENTS: AtomicU64 = AtomicU64::new(0);

async fn answer(request: Request<Incoming>, work: Work) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() == Method::GET {
        let (posts, bytes) = (POSTS.load(Ordering::Relaxed), BYTES.load(Ordering::Relaxed));
        return Ok(Response::new(Full::new(format!("{{\"posts\":{posts},\"bytes\":{bytes}}}").into())));
    }
    let mut response = Response::new(Full::new(Bytes::from_static(b"{}")));
    match request.into_body().collect().await {
        Ok(body) => {
            let body = body.to_bytes();
            POSTS.fetch_add(1, Ordering::Relaxed);
            BYTES.fetch_add(body.len() as u64, Ordering::Relaxed);
            if work.read {
                ELEMENTS.fetch_add(elements(&body).expect("well-formed XML"), Ordering::Relaxed);
            }
            if let Some(kept) = work.kept {
                kept.keep(body.clone()).await;
            }
            if let Some(forward) = work.forward {
                forward.send(body).await.expect("who forwards goes on");
            }
        }
        Err(_) => *response.status_mut() = StatusCode::BAD_REQUEST,
    }
    Ok(response)
}

#[tokio::main]
pub(crate) async fn run(options: &Options) -> Result<(), Failure> {
    let listener = tokio::net::TcpListener::bind(&options.listen).await?;
    let kept = options.keep.as_deref().map(|path| Kept::begin(path, options.rows)).transpose()?;
    let work = Work { kept, read: options.read, forward: options.forward.clone().map(forward::begin) };
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let work = work.clone();
        let service = service_fn(move |request| answer(request, work.clone()));
        tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}
