//! Parses the command line, runs the command, and turns its result into an exit code.

use std::process::ExitCode;

use callbackd::cli::Cli;
use callbackd::config::Environment;
use clap::Parser;

/// A callback takes some hundred small pieces of memory on one thread and gives them back on it or another; the system's
/// allocator spends a sixth of all instructions on that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match Cli::try_parse() {
        Ok(cli) => ExitCode::from(cli.run(&Environment::of_process())),
        Err(usage) => {
            // Nobody is left to be told that the reader of the help is gone.
            let _ = usage.print();
            ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
        }
    }
}
