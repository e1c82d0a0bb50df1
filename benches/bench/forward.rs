//! A bare hyper client that posts one body again and again, as many at a time as a sink does by default. It keeps
//! nothing: forwarding is measured against it.

use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::json;

use crate::Failure;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to POST.
    #[arg(long)]
    to: Uri,
    #[arg(long, default_value_t = 32)]
    concurrency: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// The size of the body.
    #[arg(long)]
    bytes: usize,
}

#[tokio::main]
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let body = Bytes::from(vec![b' '; options.bytes]);
    let begun = Instant::now();
    let until = begun + Duration::from_secs_f64(options.seconds);
    let posting: Vec<_> = (0..options.concurrency)
        .map(|_| {
            let (client, body, to) = (client.clone(), body.clone(), options.to.clone());
            tokio::spawn(async move {
                let mut answers = 0_u64;
                while Instant::now() < until {
                    let request = Request::post(to.clone())
                        .header("content-type", "application/cloudevents+json")
                        .body(Full::new(body.clone()))?;
                    let answer = client.request(request).await?;
                    if !answer.status().is_success() {
                        return Err::<u64, Failure>(format!("answered {}", answer.status()).into());
                    }
                    answer.into_body().collect().await?;
                    answers += 1;
                }
                Ok(answers)
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
