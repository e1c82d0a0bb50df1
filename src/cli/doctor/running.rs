//! Which daemons run on this machine by which file, as the system tells it: for when the file does not say where they are.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::admin::judgement::DEFAULT_FILE;

/// The processes that were started as `callbackd serve` with this file. Best effort: none where the system tells nothing.
pub(super) fn daemons(file: &Path) -> Vec<u32> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let meant = whole(Path::new(""), file);
    let mut found: Vec<u32> = processes
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let named = served(&fs::read(entry.path().join("cmdline")).ok()?)?;
            // Who may not see where it was started sees no more than the name.
            let base = fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            (whole(&base, &named) == meant).then_some(pid)
        })
        .collect();
    found.sort_unstable();
    found
}

fn whole(base: &Path, file: &Path) -> PathBuf {
    let path = base.join(file);
    std::path::absolute(&path).unwrap_or(path)
}

/// The file that a daemon's command line names; `None` for what is none.
fn served(line: &[u8]) -> Option<PathBuf> {
    let mut words = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let program = Path::new(words.next()?).file_name()?;
    if !program.as_bytes().starts_with(b"callbackd") {
        return None;
    }
    let (mut serves, mut file) = (false, None);
    while let Some(word) = words.next() {
        match word.as_bytes().strip_prefix(b"--config=") {
            Some(named) => file = Some(OsStr::from_bytes(named)),
            None if word == "--config" => file = words.next(),
            None => serves |= word == "serve",
        }
    }
    serves.then(|| file.unwrap_or(OsStr::new(DEFAULT_FILE)).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_is_known_by_its_command_line() {
        for (line, file) in [
            ("/usr/bin/callbackd\0serve\0", Some(DEFAULT_FILE)),
            ("callbackd\0serve\0--config\0/srv/a.toml\0", Some("/srv/a.toml")),
            ("callbackd\0--config=a.toml\0serve\0", Some("a.toml")),
            ("callbackd\0doctor\0--config\0a.toml\0", None),
            ("vi\0callbackd\0serve\0", None),
            ("", None),
        ] {
            assert_eq!(served(line.as_bytes()).as_deref(), file.map(Path::new), "{line:?}");
        }
    }
}
