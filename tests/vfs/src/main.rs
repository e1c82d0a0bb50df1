//! The daemon's command line, as its own `main` runs it, on the recording and failing disk.

use std::path::PathBuf;
use std::process::ExitCode;

use callbackd::cli::Cli;
use callbackd::config::Environment;
use callbackd_vfs::faults::Faults;
use callbackd_vfs::tape::Tape;
use clap::Parser;

#[expect(clippy::disallowed_methods, reason = "how the tests steer it")]
fn named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from)
}

fn main() -> ExitCode {
    let tape = named(callbackd_vfs::TAPE).map(|path| Tape::append_to(&path).expect("a tape"));
    callbackd_vfs::register(tape, named(callbackd_vfs::FAULTS).map(Faults::read_from));
    match Cli::try_parse() {
        Ok(cli) => ExitCode::from(cli.run(&Environment::of_process())),
        Err(usage) => {
            // Nobody is left to be told that the reader of the help is gone.
            let _ = usage.print();
            ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2))
        }
    }
}
