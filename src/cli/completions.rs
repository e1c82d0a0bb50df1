//! `completions`: what a shell reads so that it completes this command line. Packages install it; see README.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Cli, Failure, print};

#[derive(Args, Debug)]
pub(super) struct Completions {
    /// The shell that reads it
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

impl Completions {
    pub(super) fn run(&self) -> Result<(), Failure> {
        // The generator panics when it cannot write, as it cannot to a reader that has hung up; memory takes everything.
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "callbackd", &mut script);
        print::stdout(|out| out.write_all(&script))
    }
}
