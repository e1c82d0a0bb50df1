//! Sends callbacks over kept-alive connections, one request at a time on each.
//!
//! Without `--rate` each connection sends as soon as it was answered: that finds how many a server takes. With it, each
//! request is due at a time fixed beforehand, and its latency counts from then, also where it had to wait for a connection:
//! a server that stalls is charged for all that would have come meanwhile (no coordinated omission).
//!
//! One thread, and no HTTP library: on few cores the sender takes from the server what it uses itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::Uri;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::latency::Latencies;
use crate::{Failure, callback};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Where to POST.
    #[arg(long)]
    to: Uri,
    #[arg(long, default_value_t = 64)]
    connections: u64,
    /// For so long; or, with a rate, so many seconds' worth of requests.
    #[arg(long, default_value_t = 10.0, conflicts_with = "count")]
    seconds: f64,
    /// So many requests, however long they take.
    #[arg(long)]
    count: Option<u64>,
    /// Requests a second.
    #[arg(long)]
    rate: Option<f64>,
    /// Keeps the connections open, with nothing under way, until standard input ends.
    #[arg(long)]
    stay: bool,
}

/// No single answer may take longer.
const PATIENCE: Duration = Duration::from_secs(60);
/// Connections that are opened at one time, up to their first answer: more than a listener's queue holds would be reset by
/// the kernel, before any server has seen them.
const OPENING: usize = 512;

/// What all connections share.
struct Plan {
    host: String,
    head: Vec<u8>,
    begun: Instant,
    /// How many are sent at most; and when the last may begin.
    count: u64,
    until: Option<Instant>,
    next: AtomicU64,
    pace: Option<Pace>,
    opening: Semaphore,
}

/// What is due: one permit each, given out by a thread that sleeps more exactly than the runtime's timer.
struct Pace {
    rate: f64,
    due: Semaphore,
}

impl Plan {
    /// The next request's time; none when it is over.
    async fn next(&self) -> Option<Instant> {
        if let Some(pace) = &self.pace {
            pace.due.acquire().await.ok()?.forget();
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        if number >= self.count || self.until.is_some_and(|until| now >= until) {
            return None;
        }
        let due = self.pace.as_ref().map(|pace| self.begun + Duration::from_secs_f64(number as f64 / pace.rate));
        Some(due.unwrap_or(now))
    }

    /// Gives out what is due, until all is; then whoever waits is told that it is over.
    fn keep_pace(&self, pace: &Pace) {
        let mut given = 0;
        while given < self.count {
            let due = ((self.begun.elapsed().as_secs_f64() * pace.rate) as u64 + 1).min(self.count);
            pace.due.add_permits(usize::try_from(due - given).unwrap_or(usize::MAX));
            given = due;
            std::thread::sleep(Duration::from_micros(100).max(Duration::from_secs_f64(0.5 / pace.rate)));
        }
        pace.due.add_permits(1 << 20);
    }
}

/// One connection, until it is over: what each answer took, and what failed.
async fn connection(plan: Arc<Plan>) -> Result<(Latencies, Option<TcpStream>), Failure> {
    let mut stream = None;
    let (mut latencies, mut request, mut answer) = (Latencies::default(), Vec::new(), Vec::new());
    while let Some(due) = plan.next().await {
        request.clear();
        request.extend_from_slice(&plan.head);
        callback::write(&mut request);
        let (mut open, _opening) = match stream.take() {
            Some(open) => (open, None),
            None => {
                let opening = plan.opening.acquire().await?;
                let open = TcpStream::connect(&plan.host).await?;
                open.set_nodelay(true)?;
                (open, Some(opening))
            }
        };
        let stays = tokio::time::timeout(PATIENCE, async {
            open.write_all(&request).await?;
            read_answer(&mut open, &mut answer).await
        })
        .await??;
        latencies.add(due.elapsed());
        stream = stays.then_some(open);
    }
    Ok((latencies, stream))
}

/// Reads one answer, which has to be a 2xx; says whether the connection stays open.
async fn read_answer(stream: &mut TcpStream, answer: &mut Vec<u8>) -> Result<bool, Failure> {
    answer.clear();
    loop {
        if let Some((status, length, stays)) = read_head(answer)? {
            let has_all = match length {
                Some(length) => answer.len() >= length,
                None => answer.ends_with(b"0\r\n\r\n"),
            };
            if has_all && !(200..300).contains(&status) {
                return Err(format!("not acknowledged: {}", String::from_utf8_lossy(answer)).into());
            } else if has_all {
                return Ok(stays);
            }
        }
        if stream.read_buf(answer).await? == 0 {
            return Err("the connection was closed before the answer's end".into());
        }
    }
}

/// Status, whole length (none: in chunks), and whether the connection stays open; none while the head is not whole.
fn read_head(answer: &[u8]) -> Result<Option<(u16, Option<usize>, bool)>, Failure> {
    let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let mut lines = std::str::from_utf8(&answer[..end])?.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no status line")?.parse()?;
    let (mut length, mut is_chunked, mut stays) = (0, false, true);
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name {
            name if name.eq_ignore_ascii_case("content-length") => length = value.parse::<usize>()?,
            name if name.eq_ignore_ascii_case("transfer-encoding") => is_chunked = true,
            name if name.eq_ignore_ascii_case("connection") => stays = !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    Ok(Some((status, (!is_chunked).then_some(end + 4 + length), stays)))
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn run(options: Options) -> Result<(), Failure> {
    let authority = options.to.authority().ok_or("no host in the URL")?.as_str().to_owned();
    let path = options.to.path_and_query().map_or("/", |path| path.as_str());
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {authority}\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n",
        callback::length()
    );
    let begun = Instant::now();
    let timed = options.count.is_none().then(|| begun + Duration::from_secs_f64(options.seconds));
    let paced = options.rate.map(|rate| (rate * options.seconds) as u64);
    let plan = Arc::new(Plan {
        host: authority,
        head: head.into_bytes(),
        begun,
        count: options.count.or(paced).unwrap_or(u64::MAX),
        until: if options.rate.is_some() { None } else { timed },
        next: AtomicU64::new(0),
        pace: options.rate.map(|rate| Pace { rate, due: Semaphore::new(0) }),
        opening: Semaphore::new(OPENING),
    });
    if plan.pace.is_some() {
        let plan = Arc::clone(&plan);
        std::thread::spawn(move || plan.pace.as_ref().map(|pace| plan.keep_pace(pace)));
    }
    let connections: Vec<_> = (0..options.connections).map(|_| tokio::spawn(connection(Arc::clone(&plan)))).collect();
    let (mut latencies, mut open) = (Latencies::default(), Vec::new());
    for each in connections {
        let (of_one, stream) = each.await??;
        latencies.merge(of_one);
        open.extend(stream);
    }
    let (answers, seconds) = (latencies.len(), begun.elapsed().as_secs_f64());
    let mut line = json!({ "answers": answers, "seconds": seconds, "rate": answers as f64 / seconds });
    line.as_object_mut().expect("an object").append(latencies.summary().as_object_mut().expect("an object"));
    println!("{line}");
    if options.stay {
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink())?;
    }
    Ok(())
}
