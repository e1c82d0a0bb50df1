//! A bare hyper client that posts one body again and again, as many at a time as a sink does by default. It keeps
//! nothing: forwarding is measured against it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::sync::mpsc::{self, Sender};

use crate::Failure;

/// A sink's default.
const CONCURRENCY: usize = 32;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to POST.
    #[arg(long)]
    to: Uri,
    #[arg(long, default_value_t = CONCURRENCY)]
    concurrency: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The size of the body.
    #[arg(long)]
    bytes: usize,
}

/// Posts what comes, as many at a time as a sink does by default; a thousand may wait.
pub(crate) fn begin(to: Uri) -> Sender<Bytes> {
    let (sender, bodies) = mpsc::channel(1000);
    let bodies = Arc::new(Mutex::new(bodies));
    let client = client();
    for _ in 0..CONCURRENCY {
        let (client, bodies, to) = (client.clone(), Arc::clone(&bodies), to.clone());
        tokio::spawn(async move {
            loop {
                let Some(body) = bodies.lock().await.recv().await else { return };
                post(&client, &to, body).await.expect("the sink takes it");
            }
        });
    }
    sender
}

type Bare = Client<HttpConnector, Full<Bytes>>;

fn client() -> Bare {
    Client::builder(TokioExecutor::new()).build_http()
}

async fn post(client: &Bare, to: &Uri, body: Bytes) -> Result<(), Failure> {
    let request =
        Request::post(to.clone()).header("content-type", "application/cloudevents+json").body(Full::new(body))?;
    let answer = client.request(request).await?;
    if !answer.status().is_success() {
        return Err(format!("answered {}", answer.status()).into());
    }
    answer.into_body().collect().await?;
    Ok(())
}

#[tokio::main]
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let client = client();
    let body = Bytes::from(vec![b' '; options.bytes]);
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(options.seconds);
    let posting: Vec<_> = (0..options.concurrency)
        .map(|_| {
            let (client, body, to) = (client.clone(), body.clone(), options.to.clone());
            tokio::spawn(async move {
                let mut answers = 0_u64;
                while Instant::now() < until {
                    post(&client, &to, body.clone()).await?;
                    answers += 1;
                }
                Ok::<u64, Failure>(answers)
            })
        })
        .collect();
    let mut answers = 0;
    for each in posting {
        answers += each.await??;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("{}", json!({ "answers": answers, "seconds": seconds, "rate": answers as f64 / seconds }));
    Ok(())
}
