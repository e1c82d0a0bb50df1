//! What README shows has to work, and what it names has to be there.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use callbackd::cli::Cli;
use clap::Parser;

const README: &str = include_str!("../../README.md");

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The configuration in README, and with what goes on with it, passes `check` without a warning when the credentials
/// that it names are there.
#[test]
fn the_configuration_is_valid() {
    let blocks: Vec<_> = README.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    let [first, more] = blocks[..] else { panic!("two TOML blocks") };
    passes(first);
    passes(&[first, more].concat());
}

fn passes(toml: &str) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("callbackd.toml");
    fs::write(&file, toml).expect("written");
    for name in toml.split("credential = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        let path = folder.path().join(name);
        fs::write(&path, "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz\n").expect("written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("set");
    }
    let checked = Command::new(env!("CARGO_BIN_EXE_callbackd"))
        .args(["check", "--config"])
        .arg(&file)
        .env("CREDENTIALS_DIRECTORY", folder.path())
        .output()
        .expect("callbackd runs");
    let said = [checked.stdout, checked.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(checked.status.success() && !said.contains("warning"), "{said}{toml}");
}

/// Every `callbackd …` line is a command that there is, with options that it has. (What follows two blanks explains.)
#[test]
fn the_commands_exist() {
    let lines: Vec<&str> = README.lines().filter_map(|line| line.strip_prefix("    ")).collect();
    let commands = lines.iter().filter_map(|line| {
        let at = line.find("callbackd ").filter(|&at| at == 0 || line.starts_with("systemd-run "))?;
        line[at..].split("  ").next()
    });
    let mut found = 0;
    for command in commands.map(|command| command.replace("<id>", "7")) {
        found += 1;
        if let Err(e) = Cli::try_parse_from(command.split_whitespace()) {
            panic!("{command}: {e}");
        }
    }
    assert!(found > 5, "README shows no commands");
}

/// Every test and every file that README names in `code` or as a link.
#[test]
fn what_is_named_is_there() {
    let mut tests = String::new();
    let mut folders: Vec<PathBuf> = vec![top().join("src"), top().join("tests/it")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a readable folder") {
            let path = entry.expect("a readable entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                tests.push_str(&fs::read_to_string(path).expect("readable source"));
            }
        }
    }
    let (_, promises) = README.split_once("| promise | shown by |").expect("the table of promises");
    let (promises, _) = promises.split_once("\n\n").expect("its end");
    let named = |text: &'static str| text.split('`').skip(1).step_by(2).filter(|word| !word.contains([' ', '…']));
    let shown = promises.lines().filter_map(|line| line.rsplit_once(" | ")).flat_map(|(_, shown)| named(shown));
    let mut found = 0;
    for test in shown.filter(|word| !word.contains('/')) {
        found += 1;
        assert!(tests.contains(&format!("fn {test}(")), "no test is called {test}");
    }
    assert!(found > 5, "the promises name no tests");

    let links = README.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let folders = ["config/", "fixtures/", "systemd/", "tests/"];
    let files = named(README).filter(|word| folders.iter().any(|folder| word.starts_with(folder)));
    for file in links.chain(files) {
        assert!(top().join(file).exists(), "{file} is not there");
    }
}
