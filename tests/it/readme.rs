//! What README shows has to work.

use std::fs;
use std::process::Command;

/// The configuration in README, with the credentials that it names, passes `check`.
#[test]
fn the_configuration_in_readme_is_valid() {
    let readme = include_str!("../../README.md");
    let toml = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a TOML block");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("callbackd.toml");
    fs::write(&file, toml).expect("written");
    for name in toml.split("credential = \"").skip(1).filter_map(|rest| rest.split('"').next()) {
        fs::write(folder.path().join(name), "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz\n").expect("written");
    }
    let checked = Command::new(env!("CARGO_BIN_EXE_callbackd"))
        .args(["check", "--config"])
        .arg(&file)
        .env("CREDENTIALS_DIRECTORY", folder.path())
        .output()
        .expect("callbackd runs");
    assert!(
        checked.status.success(),
        "{}{}{toml}",
        String::from_utf8_lossy(&checked.stdout),
        String::from_utf8_lossy(&checked.stderr)
    );
}
