//! Fixtures: a real body in a folder named after its kind of source, with the headers that it came with and what it
//! must become.
//!
//! `<kind>/NAME.xml` or `.json` is the body; `NAME.headers` (lines `Name: value`) and `NAME.expect.json` may stand
//! beside it.

use std::fs;
use std::path::{Path, PathBuf};

use http::{HeaderMap, HeaderName, HeaderValue};

use super::expect::Expect;
use crate::sources::KINDS;

/// One body to be posted.
#[derive(Debug)]
pub(super) struct Fixture {
    /// The file that holds the body.
    pub(super) path: PathBuf,
    /// The kind of source it is meant for.
    pub(super) kind: &'static str,
    /// The headers that its sender does not compute.
    pub(super) headers: HeaderMap,
    /// What it must become, where somebody wrote it down.
    pub(super) expect: Option<Expect>,
}

/// Folders are not nested deeper than this: a symbolic link may lead in a circle.
const DEPTH_MAX: usize = 16;

/// All fixtures under `paths`, sorted by kind and name, or what is wrong with one of them.
pub(super) fn find(paths: &[PathBuf]) -> Result<Vec<Fixture>, String> {
    let mut files = Vec::new();
    for path in paths {
        let meta = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
        if meta.is_dir() { walk(path, DEPTH_MAX, &mut files)? } else { files.push(path.clone()) }
    }
    let mut fixtures = files.into_iter().map(load).collect::<Result<Vec<_>, _>>()?;
    if fixtures.is_empty() {
        let kinds: Vec<_> = KINDS.iter().map(|k| format!("{}/NAME.xml or .json", k.name)).collect();
        return Err(format!("no fixture found; a fixture is {}", kinds.join(", ")));
    }
    fixtures.sort_by(|a, b| {
        let order = |f: &Fixture| (f.kind, f.path.file_stem().map(ToOwned::to_owned), f.path.clone());
        order(a).cmp(&order(b))
    });
    Ok(fixtures)
}

fn walk(folder: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), String> {
    let fault = |e: std::io::Error| format!("{}: {e}", folder.display());
    for entry in fs::read_dir(folder).map_err(fault)? {
        let path = entry.map_err(fault)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with('.') {
            continue;
        }
        if path.is_dir() {
            if depth == 0 {
                return Err(format!("{}: nested too deep", path.display()));
            }
            walk(&path, depth - 1, files)?;
        } else if (name.ends_with(".xml") || name.ends_with(".json")) && !name.ends_with(".expect.json") {
            files.push(path);
        }
    }
    Ok(())
}

fn load(path: PathBuf) -> Result<Fixture, String> {
    let kind = kind_of(&path).ok_or_else(|| {
        let kinds: Vec<_> = KINDS.iter().map(|k| k.name).collect();
        let path = path.display();
        format!("{path}: whose callback is it? put it into a folder named after its kind: {}", kinds.join(", "))
    })?;
    let beside = path.with_extension("headers");
    let headers = if beside.exists() { read_headers(&beside)? } else { HeaderMap::new() };
    let beside = path.with_extension("expect.json");
    let expect = if beside.exists() { Some(Expect::read(&beside)?) } else { None };
    Ok(Fixture { path, kind, headers, expect })
}

/// The kind of source that the nearest folder is named after.
fn kind_of(path: &Path) -> Option<&'static str> {
    let path = path.canonicalize().ok()?;
    path.ancestors().skip(1).find_map(|folder| {
        let name = folder.file_name()?.to_str()?;
        KINDS.iter().map(|k| k.name).find(|kind| *kind == name)
    })
}

/// Reads lines of `Name: value`; empty ones and those that begin with `#` are skipped.
pub(in crate::cli) fn read_headers(path: &Path) -> Result<HeaderMap, String> {
    let text = fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut headers = HeaderMap::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        let header = line.split_once(':').and_then(|(name, value)| {
            let name = HeaderName::from_bytes(name.trim().as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(value.trim().as_bytes()).ok()?))
        });
        let Some((name, value)) = header else {
            return Err(format!("{}:{}: no header; write \"Name: value\"", path.display(), i + 1));
        };
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn are_found_in_order_and_by_the_folder_of_their_kind() {
        let root = tempfile::tempdir().expect("a folder");
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            fs::write(path, text).expect("written");
        };
        write("port_action/b.json", "{}");
        write("port_action/a.json", "{}");
        write("port_action/a.headers", "# as captured\nX-One: 1\n\nx-two:  a: b \r\n");
        write("cos_workflow/z.xml", "<a/>");
        write("cos_workflow/z.expect.json", r#"{"outcome": "accepted"}"#);
        write("cos_workflow/2022/deep.json", "{}");
        write("cos_workflow/.hidden.xml", "<a/>");
        write("cos_workflow/notes.md", "");
        write("README.md", "");
        let found = find(&[root.path().to_owned()]).expect("found");
        let names: Vec<_> =
            found.iter().map(|f| (f.kind, f.path.file_name().and_then(|n| n.to_str()).expect("a name"))).collect();
        assert_eq!(
            names,
            [
                ("cos_workflow", "deep.json"),
                ("cos_workflow", "z.xml"),
                ("port_action", "a.json"),
                ("port_action", "b.json")
            ]
        );
        assert!(found[1].expect.is_some() && found[0].expect.is_none());
        assert_eq!(
            (&found[2].headers["x-one"], &found[2].headers["X-Two"]),
            (&"1".parse().unwrap(), &"a: b".parse().unwrap())
        );
        let one = find(&[root.path().join("port_action/b.json")]).expect("a single file");
        assert_eq!((one.len(), one[0].kind), (1, "port_action"));
    }

    #[test]
    fn what_is_wrong_is_said_with_its_file() {
        let root = tempfile::tempdir().expect("a folder");
        let kind = root.path().join("cos_workflow");
        fs::create_dir_all(&kind).expect("made");
        let fault = |path: &Path| find(&[path.to_owned()]).expect_err("a fault");
        assert!(fault(&kind).contains("no fixture found"));
        assert!(fault(&kind.join("none.xml")).contains("none.xml"));
        let stray = root.path().join("stray.json");
        fs::write(&stray, "{}").expect("written");
        assert!(fault(&stray).contains("stray.json: whose callback"));
        fs::write(kind.join("a.xml"), "<a/>").expect("written");
        fs::write(kind.join("a.headers"), "x: 1\nno colon\n").expect("written");
        assert!(fault(&kind).contains("a.headers:2: no header"));
        fs::remove_file(kind.join("a.headers")).expect("removed");
        fs::write(kind.join("a.expect.json"), r#"{"outcome": "acepted"}"#).expect("written");
        assert!(fault(&kind).contains("a.expect.json"));
    }
}
