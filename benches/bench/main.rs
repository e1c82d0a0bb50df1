//! What the measurements need beside the daemon, as one program: who sends, who answers, and what it is compared with.
//!
//!     bench answer [--listen ADDRESS]         a bare hyper server: what ingest is compared with, and the sink;
//!                  [--keep FILE] [--rows]     the same, where each body is on disk before it is answered,
//!                  [--read] [--forward URL]   is read, or is posted to somebody else, too
//!     bench send --to URL …                   sends callbacks, as fast as they are answered or at a given rate
//!     bench forward --to URL …                a bare hyper client: what forwarding is compared with
//!     bench commit --file FILE …              SQLite alone: what a durable callback is compared with
//!
//! Each prints one line of JSON on standard output when it is done.

use clap::Parser;

mod answer;
mod callback;
mod commit;
mod forward;
mod keep;
mod latency;
mod send;

#[derive(Parser)]
enum Command {
    Answer(answer::Options),
    Send(send::Options),
    Forward(forward::Options),
    Commit(commit::Options),
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Failure> {
    // `cargo bench` adds an argument of its own.
    match Command::parse_from(std::env::args().filter(|argument| argument != "--bench")) {
        Command::Answer(options) => answer::run(&options),
        Command::Send(options) => send::run(options),
        Command::Forward(options) => forward::run(options),
        Command::Commit(options) => commit::run(&options),
    }
}
