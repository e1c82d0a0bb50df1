//! The command line: what a person or a script asks for. One file per command; each parses, calls and prints.
//!
//! Reading commands open the store read-only, daemon or not. Changing ones ask the daemon at `[admin]`, and where none
//! listens, work on the store under its lock (`reach`). Lists print a table for people and one JSON object a line
//! for programs (`list`, `print`).
//!
//! Exit codes: 0 fine, 1 failed, 2 usage, 78 bad configuration. A reader that hangs up (`| head`) is no failure.

use std::io;
use std::num::NonZero;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::admin::judgement::Commands;
use crate::config::{Environment, Faults};
use crate::store::StoreError;
use crate::{app, telemetry};

mod backup;
mod check;
mod completions;
mod deliveries;
mod doctor;
mod executions;
mod explain;
mod list;
mod listen;
mod man;
mod moving;
mod print;
mod progress;
mod reach;
mod receipts;
mod rejudge;
mod replay;
mod schema;
mod serve;
mod sinks;
mod tail;
mod upkeep;
mod zabbix;

use reach::Context;

/// Keeps every callback that it acknowledged, and tells every system that must know.
#[derive(Debug, Parser)]
#[command(name = "callbackd", version, disable_help_subcommand = true)]
pub struct Cli {
    /// The configuration; default: /etc/callbackd/callbackd.toml, and none for `replay`
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon until it is asked to stop
    Serve,
    /// Validate the configuration: every fault at once
    Check(check::Check),
    /// Post fixtures as their sender would, and compare what became of them with what they expect
    Replay(replay::Replay),
    /// What the vendors ran
    #[command(subcommand)]
    Executions(executions::Executions),
    /// What was received, byte for byte
    #[command(subcommand)]
    Receipts(receipts::Receipts),
    /// Who was told what, and who has still to be told
    #[command(subcommand)]
    Deliveries(deliveries::Deliveries),
    /// The systems that must know
    #[command(subcommand)]
    Sinks(sinks::Sinks),
    /// What happens, as it happens; ends at Ctrl-C
    Tail(tail::Tail),
    /// Say what a callback would change, and who would be told what; nothing is stored or sent
    Explain(explain::Explain),
    /// What the daemon will let go of next, and what stays and why; nothing is changed
    Upkeep(upkeep::Upkeep),
    /// What the zabbix sink needs at Zabbix
    #[command(subcommand)]
    Zabbix(zabbix::Zabbix),
    /// Say whether anything is wrong with configuration, daemon, store and disk, and which command mends it
    Doctor(doctor::Doctor),
    /// Copy the store, while the daemon works
    Backup(backup::Backup),
    /// Move the store into another one, a file or a PostgreSQL, while the daemon works for as long as it can
    Move(moving::Moving),
    /// The JSON Schema of the configuration, or of what sinks are told
    #[command(subcommand)]
    Schema(schema::Schema),
    /// What a shell reads to complete this command line
    Completions(completions::Completions),
    /// The manual pages
    Man(man::Manual),
}

impl Cli {
    /// Runs the command, says on stderr what went wrong, and returns the exit code.
    pub fn run(self, env: &Environment) -> u8 {
        if !matches!(self.command, Command::Serve) {
            // What a command has to say it says itself; only what goes wrong beside it is logged. The daemon logs as
            // its configuration says.
            let _ = telemetry::init(tracing::Level::WARN, telemetry::Format::Text, None);
        }
        let context = Context { file: self.config, env };
        let ended = match self.command {
            Command::Serve => serve::run(&context),
            Command::Check(command) => command.run(&context),
            Command::Replay(command) => command.run(&context),
            Command::Executions(command) => command.run(&context),
            Command::Receipts(command) => command.run(&context),
            Command::Deliveries(command) => command.run(&context),
            Command::Sinks(command) => command.run(&context),
            Command::Tail(command) => command.run(&context),
            Command::Explain(command) => command.run(&context),
            Command::Upkeep(command) => command.run(&context),
            Command::Zabbix(command) => command.run(&context),
            Command::Doctor(command) => command.run(&context),
            Command::Backup(command) => command.run(&context),
            Command::Move(command) => command.run(&context),
            Command::Schema(command) => command.run(),
            Command::Completions(command) => command.run(),
            Command::Man(command) => command.run(),
        };
        match ended {
            Ok(()) => 0,
            Err(failure) => {
                failure.tell(&Commands::of(context.file.as_deref()));
                failure.exit_code()
            }
        }
    }
}

/// `EX_CONFIG` of sysexits.h: trying again does not help.
const EXIT_CONFIG: u8 = 78;

/// How a command ends that does not end well.
#[derive(Debug)]
enum Failure {
    /// Something did not work, and why.
    Failed(String),
    /// Something did not work, and the command has said so already.
    Told,
    /// The arguments do not fit together.
    Usage(String),
    /// The configuration is at fault; one line per fault.
    Config(String),
    /// Something `app` did not do; it knows the exit code.
    App(app::Error),
    /// The reader of our output has gone: no failure.
    Closed,
}

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Failure::Closed => 0,
            Failure::Failed(_) | Failure::Told => 1,
            Failure::Usage(_) => 2,
            Failure::Config(_) => EXIT_CONFIG,
            Failure::App(e) => e.exit_code(),
        }
    }

    /// With commands as they can be typed for this configuration.
    fn tell(&self, commands: &Commands) {
        let complain = |text: &str| print::complain(&commands.complete(text));
        match self {
            Failure::Told | Failure::Closed => {}
            // Faults of the configuration begin with their place, as compilers and editors like it.
            Failure::Config(text) => complain(text),
            Failure::App(e) if e.exit_code() == EXIT_CONFIG => complain(&e.to_string()),
            Failure::Failed(text) | Failure::Usage(text) => complain(&format!("error: {text}")),
            Failure::App(e) => complain(&format!("error: {e}")),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Failure {
        if e.kind() == io::ErrorKind::BrokenPipe { Failure::Closed } else { Failure::Failed(format!("stdout: {e}")) }
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Failure {
        Failure::Failed(e.to_string())
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Failure {
        Failure::Config(faults.to_string())
    }
}

impl From<app::Error> for Failure {
    fn from(e: app::Error) -> Failure {
        Failure::App(e)
    }
}

/// Runs a command's future. One thread is enough for anything but a daemon.
fn block_on<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    run_on(tokio::runtime::Builder::new_current_thread(), future)
}

/// Runs a future that holds a whole daemon. One core is left to the store's writer, which every callback waits for: with
/// a thread more than there are cores, the two only take turns.
fn block_on_all_cores<T>(future: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    if cores <= 2 {
        // The one thread that is left needs nobody to share its work with, and no memory for that.
        return run_on(tokio::runtime::Builder::new_current_thread(), future);
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(cores - 1);
    run_on(runtime, future)
}

fn run_on<T>(
    mut runtime: tokio::runtime::Builder,
    future: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let runtime = runtime.enable_all().build().map_err(|e| Failure::Failed(format!("cannot start: {e}")))?;
    runtime.block_on(future)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_commands_fit_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn config_may_stand_anywhere() {
        let lines: [&[&str]; 4] = [
            &["callbackd", "--config", "c.toml", "deliveries", "retry", "7"],
            &["callbackd", "deliveries", "--config", "c.toml", "retry", "7"],
            &["callbackd", "deliveries", "retry", "--config=c.toml", "7"],
            &["callbackd", "deliveries", "retry", "7", "--config", "c.toml"],
        ];
        for line in lines {
            let cli = Cli::try_parse_from(line).unwrap_or_else(|e| panic!("{line:?}: {e}"));
            assert_eq!(cli.config, Some(PathBuf::from("c.toml")), "{line:?}");
        }
    }

    #[test]
    fn what_is_no_command_is_a_usage_error() {
        let lines: [&[&str]; 6] = [
            &["callbackd"],
            &["callbackd", "deliver"],
            &["callbackd", "executions", "list", "--status", "delivered"],
            &["callbackd", "receipts", "list", "--since", "yesterday"],
            &["callbackd", "deliveries", "discard", "7", "--all"],
            &["callbackd", "replay", "fixtures", "--to", "localhost:8480"],
        ];
        for line in lines {
            let e = Cli::try_parse_from(line).expect_err("a usage error");
            assert_eq!(e.exit_code(), 2, "{line:?}");
        }
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let exit_code = |kind| Failure::from(io::Error::from(kind)).exit_code();
        assert_eq!(exit_code(io::ErrorKind::BrokenPipe), 0);
        assert_eq!(exit_code(io::ErrorKind::StorageFull), 1);
    }
}
