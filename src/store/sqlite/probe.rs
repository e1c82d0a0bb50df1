//! What a path is to who asks before a daemon is started on it. Nothing is made or changed, not even SQLite's own files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::open::{self, MIGRATIONS};
use crate::store::StoreError;

/// How the file begins, and where in its beginning the schema's version stands (SQLite's "Database File Format", 1.3).
const MAGIC: &[u8] = b"SQLite format 3\0";
const VERSION_AT: usize = 60;

/// Tells what is there, or why a daemon would not start on it.
pub fn probe(path: &Path) -> Result<String, StoreError> {
    let unusable = |path: &Path, e: io::Error| StoreError::Unusable(format!("{}: {e}", path.display()));
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    access(folder, Access::WRITE_OK | Access::EXEC_OK).map_err(|e| unusable(folder, e.into()))?;
    for suffix in ["-wal", "-shm", ".lock"] {
        let mut beside = path.as_os_str().to_owned();
        beside.push(suffix);
        let beside = PathBuf::from(beside);
        if let Err(e) = File::options().write(true).open(&beside)
            && e.kind() != io::ErrorKind::NotFound
        {
            return Err(unusable(&beside, e));
        }
    }
    let mut file = match File::options().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            return Ok(format!("{} is not there yet, and the first start makes it", path.display()));
        }
        Err(e) => return Err(unusable(path, e)),
    };
    let mut head = [0; VERSION_AT + 4];
    let version = match file.read_exact(&mut head) {
        Ok(()) if head.starts_with(MAGIC) => {
            let version: [u8; 4] = std::array::from_fn(|at| head[VERSION_AT + at]);
            usize::try_from(u32::from_be_bytes(version)).unwrap_or(usize::MAX)
        }
        // As an interrupted first start leaves it.
        Err(e) if e.kind() == io::ErrorKind::UnexpectedEof && file.metadata().is_ok_and(|of| of.len() == 0) => 0,
        Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(unusable(path, e)),
        _ => return Err(StoreError::Unusable(format!("{} is no store", path.display()))),
    };
    open::is_known(version, path)?;
    let (path, newest) = (path.display(), MIGRATIONS.len());
    Ok(match version == newest {
        true => format!("{path} can be written; schema {version}"),
        false => format!("{path} can be written; schema {version}, which the next start brings to {newest}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_looked_at_and_nothing_is_made() {
        let folder = tempfile::tempdir().expect("a folder");
        let files = || std::fs::read_dir(folder.path()).expect("listed").count();
        let path = folder.path().join("store.db");
        assert!(probe(&path).expect("may be made").ends_with("is not there yet, and the first start makes it"));
        assert_eq!(files(), 0);
        let gone = probe(&folder.path().join("gone/store.db")).expect_err("no folder").to_string();
        assert!(gone.contains("gone: No such file"), "{gone}");
        drop(open::writer(&path).expect("made"));
        let before = files();
        let newest = MIGRATIONS.len();
        assert!(probe(&path).expect("there").ends_with(&format!("can be written; schema {newest}")));
        assert_eq!(files(), before);
        let set = |version| {
            let sql = format!("PRAGMA user_version = {version}");
            rusqlite::Connection::open(&path).expect("opens").execute_batch(&sql).expect("set");
        };
        set(1);
        assert!(probe(&path).expect("older").ends_with(&format!("schema 1, which the next start brings to {newest}")));
        set(99);
        assert!(probe(&path).expect_err("newer").to_string().contains("schema 99, newer than this callbackd"));
        std::fs::write(&path, "something else").expect("written");
        assert!(probe(&path).expect_err("strange").to_string().ends_with("is no store"));
    }
}
