//! `man`: the manual pages, one for each command, made from what `--help` says. Packages install them.
//!
//! They hold no date, so that one version always makes the same pages.

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};

use super::{Cli, Failure, print};

#[derive(Args, Debug)]
pub(super) struct Manual {
    /// Write every page into this folder, which has to be there, as callbackd.1, callbackd-executions-list.1 …
    #[arg(long, value_name = "DIR", conflicts_with = "command")]
    dir: Option<PathBuf>,
    /// Print the page of this command, such as `executions list`; default: the main page
    #[arg(value_name = "COMMAND")]
    command: Vec<String>,
}

impl Manual {
    pub(super) fn run(&self) -> Result<(), Failure> {
        let mut top = Cli::command();
        // Gives every command its full name, and the options that hold everywhere.
        top.build();
        if let Some(dir) = &self.dir {
            return every(&top).into_iter().try_for_each(|command| {
                let path = dir.join(format!("{}.1", name(command)));
                let failed = |e: io::Error| Failure::Failed(format!("{}: {e}", path.display()));
                let mut page = Vec::new();
                write(command, &mut page).map_err(failed)?;
                fs::write(&path, page).map_err(failed)
            });
        }
        let mut command = &top;
        for word in &self.command {
            command = command.find_subcommand(word).ok_or_else(|| {
                Failure::Usage(format!(
                    "there is no command `{} {word}`; `callbackd --help` lists them",
                    spoken(command)
                ))
            })?;
        }
        print::stdout(|out| write(command, out))
    }
}

/// A command and all below it.
fn every(command: &Command) -> Vec<&Command> {
    let below = command.get_subcommands().filter(|below| !below.is_hide_set()).flat_map(every);
    std::iter::once(command).chain(below).collect()
}

/// `callbackd-executions-list`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// `callbackd executions list`.
fn spoken(command: &Command) -> &str {
    command.get_bin_name().unwrap_or_else(|| command.get_name())
}

fn write(command: &Command, mut out: &mut dyn Write) -> io::Result<()> {
    Man::new(command.clone())
        .title(name(command).to_uppercase())
        // Not nothing, which would be left out, and what follows taken for the date.
        .date(" ")
        .source(concat!("callbackd ", env!("CARGO_PKG_VERSION")))
        .manual("callbackd")
        .render(&mut out)?;
    further(name(command)).to_writer(&mut out)
}

/// What no command's help says.
fn further(name: &str) -> Roff {
    let mut roff = Roff::default();
    let mut section = |title: &str, rows: &[(&str, &str)]| {
        roff.control("SH", [title]);
        for (term, text) in rows {
            roff.control("TP", []).text([bold(*term)]).text([roman(*text)]);
        }
    };
    section(
        "EXIT STATUS",
        &[
            ("0", "It went well."),
            ("1", "It failed; what went wrong is on standard error."),
            ("2", "The command line is wrong."),
            ("78", "The configuration is wrong; trying again does not help."),
        ],
    );
    section(
        "FILES",
        &[
            ("/etc/callbackd/callbackd.toml", "The configuration, where --config names no other."),
            ("/etc/callbackd/credentials/", "A file for each secret, for the service under systemd."),
            ("/var/lib/callbackd/", "Where the service keeps its store."),
        ],
    );
    roff.control("SH", ["SEE ALSO"]);
    match name.rsplit_once('-') {
        Some((parent, _)) => roff.text([bold(parent), roman("(1)")]),
        None => {
            roff.text([roman("Each command has a page of its own: "), bold("callbackd-serve"), roman("(1) and so on.")])
        }
    };
    roff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_that_says_what_it_is_for() {
        let mut top = Cli::command();
        top.build();
        let commands = every(&top);
        for command in ["callbackd", "callbackd-serve", "callbackd-executions-list", "callbackd-man"] {
            assert!(commands.iter().any(|c| name(c) == command), "{command}");
        }
        let page_of = |wanted: &str| {
            let command = commands.iter().find(|command| name(command) == wanted).expect("a command");
            let mut page = Vec::new();
            write(command, &mut page).expect("written");
            String::from_utf8(page).expect("UTF-8")
        };
        assert!(
            page_of("callbackd-explain").contains("0 when it was explained, whatever would become of the callback")
        );
        for command in commands {
            let mut page = Vec::new();
            write(command, &mut page).expect("written");
            let page = String::from_utf8(page).expect("UTF-8");
            let heading = format!(".TH {} 1 ", name(command).to_uppercase());
            assert!(page.contains(&heading), "{page}");
            // `NAME \- about`: without the second half, whatis(1) and apropos(1) do not know it.
            let named = page.lines().skip_while(|l| *l != ".SH NAME").nth(1).unwrap_or_default();
            assert!(named.split_once(r" \- ").is_some_and(|(_, about)| !about.is_empty()), "{named}");
        }
    }
}
