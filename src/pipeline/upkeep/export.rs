//! What is let go of, kept as files: lines of JSON in zstd, in a folder that somebody else looks after.
//!
//! A file is written under a name that ends in `.part`, and gets its own when it is large or old enough: who moves files
//! away takes those. It is whole zstd frames, each synced before anything that it holds is let go of. What a crash left
//! under such a name is cut behind its last whole line and gets its own name at the next start: so lines may stand there
//! twice, and none is missing. In front of each frame stands its seal, in a frame that readers skip (RFC 8878, 3.1.2): how
//! long it is, its digest, and whether a line ends with it.

use std::fs::{self, DirBuilder, File, TryLockError};
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ruzstd::decoding::StreamingDecoder;
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use crate::model::Time;
use crate::signature;
use crate::store::Export;

/// What is still written to.
const PART: &str = "part";
/// A file gets its own name when it has so many bytes, or so many milliseconds after it was begun.
const BYTES: u64 = 64 << 20;
const AGE_MS: u64 = 60 * 60 * 1000;
/// So much goes into one frame, before it is compressed.
const FRAME: usize = 1 << 20;
/// What a seal begins with: that it is to be skipped, and how many bytes follow.
const SEAL: [u8; 8] = [0x50, 0x2a, 0x4d, 0x18, 37, 0, 0, 0];

/// The one who writes them, shared by all that let go of something.
#[derive(Clone, Default)]
pub struct Exporter(Arc<Mutex<Files>>);

#[derive(Default)]
struct Files {
    /// Where they are to be; nowhere when nothing is to be exported.
    folder: Option<PathBuf>,
    /// What an earlier process left in that folder has its own name.
    is_tidy: bool,
    now: Time,
    open: Option<Part>,
}

/// The file that is written to.
struct Part {
    file: File,
    path: PathBuf,
    begun: Time,
    /// Written and synced.
    bytes: u64,
}

impl Exporter {
    /// To be called before each round: where files are from now on, and what time it is. A file that is old enough, or
    /// stands elsewhere, gets its own name. Whether anything is to be exported.
    pub(super) fn begin(&self, folder: Option<&Path>, now: Time) -> io::Result<bool> {
        let mut files = self.lock();
        files.now = now;
        if files.folder.as_deref() != folder {
            files.finish()?;
            files.folder = folder.map(Path::to_owned);
            files.is_tidy = false;
        }
        // Whichever way the clock has gone since.
        if files.open.as_ref().is_some_and(|part| now.ms_since(part.begun).max(part.begun.ms_since(now)) >= AGE_MS) {
            files.finish()?;
        }
        files.tidy()?;
        Ok(folder.is_some())
    }

    fn lock(&self) -> MutexGuard<'_, Files> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Export for Exporter {
    fn take(&self, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut files = self.lock();
        let Some(folder) = files.folder.clone() else {
            return Err(io::Error::other("it is not to be exported any more"));
        };
        let mut part = match files.open.take() {
            Some(part) => part,
            None => Part::begin(&folder, files.now)?,
        };
        match part.write(fill) {
            Ok(()) => files.open = Some(part),
            Err(e) => {
                // What cannot even be cut is cut when the next one begins.
                match part.cut() {
                    Ok(()) => files.open = Some(part),
                    Err(_) => files.is_tidy = false,
                }
                return Err(e);
            }
        }
        if files.open.as_ref().is_some_and(|part| part.bytes >= BYTES) {
            files.finish()?;
        }
        Ok(())
    }
}

impl Files {
    /// Gives the file that is written to its own name.
    fn finish(&mut self) -> io::Result<()> {
        let Some(part) = self.open.take() else { return Ok(()) };
        let named = name(&part.path, part.bytes);
        self.is_tidy &= named.is_ok();
        named
    }

    /// Gives what others left their own names: nobody writes there any more.
    fn tidy(&mut self) -> io::Result<()> {
        let Files { folder: Some(folder), is_tidy: false, .. } = self else { return Ok(()) };
        let folder = folder.clone();
        let at = |e: io::Error| io::Error::other(format!("{}: {e}", folder.display()));
        if !folder.exists() {
            DirBuilder::new().mode(0o700).create(&folder).map_err(at)?;
        }
        for entry in fs::read_dir(&folder).map_err(at)? {
            let path = entry.map_err(at)?.path();
            let is_ours = path.file_name().and_then(|name| name.to_str()).is_some_and(|n| n.starts_with(PREFIX));
            if is_ours && path.extension().is_some_and(|end| end == PART) {
                recover(&path).map_err(|e| io::Error::other(format!("{}: {e}", path.display())))?;
            }
        }
        self.is_tidy = true;
        Ok(())
    }
}

const PREFIX: &str = "executions-";

impl Part {
    fn begin(folder: &Path, now: Time) -> io::Result<Part> {
        let time = now.to_string();
        let time = time.get(..19).unwrap_or(&time).replace(':', "-");
        // Two that begin in the same second, or once more after the clock was set back.
        for again in 1..1000 {
            let which = if again == 1 { String::new() } else { format!("-{again}") };
            let own = folder.join(format!("{PREFIX}{time}{which}.ndjson.zst"));
            let path = own.with_added_extension(PART);
            if own.exists() {
                continue;
            }
            match File::options().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    // Another callbackd may have taken it for one that was left, and empty: those go.
                    if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) || !is_at(&file, &path)? {
                        continue;
                    }
                    sync_folder(&path)?;
                    return Ok(Part { file, path, begun: now, bytes: 0 });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io::Error::other(format!("{}: {e}", path.display()))),
            }
        }
        Err(io::Error::other(format!("{}: too many files of one time", folder.display())))
    }

    fn write(&mut self, fill: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
        let mut frames = Frames { file: &self.file, lines: Vec::with_capacity(FRAME), bytes: 0 };
        fill(&mut frames)?;
        frames.end()?;
        let bytes = frames.bytes;
        self.file.sync_all()?;
        self.bytes += bytes;
        Ok(())
    }

    /// Back to what was synced.
    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.bytes)?;
        self.file.seek(SeekFrom::Start(self.bytes)).map(drop)
    }
}

/// Lines on their way into frames.
struct Frames<'f> {
    file: &'f File,
    lines: Vec<u8>,
    bytes: u64,
}

impl Frames<'_> {
    fn end(&mut self) -> io::Result<()> {
        if self.lines.is_empty() {
            return Ok(());
        }
        let frame = compressed(&self.lines);
        let seal = seal(&frame, self.lines.last() == Some(&b'\n'));
        self.lines.clear();
        self.file.write_all(&seal)?;
        self.file.write_all(&frame)?;
        self.bytes += (seal.len() + frame.len()) as u64;
        Ok(())
    }
}

impl Write for Frames<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = FRAME - self.lines.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.lines.extend_from_slice(taken);
        if self.lines.len() == FRAME {
            self.end()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One frame. It is soon the only copy there is, so it is read once before anybody relies on it.
fn compressed(lines: &[u8]) -> Vec<u8> {
    let frame = compress_to_vec(lines, CompressionLevel::Fastest);
    let mut read = Vec::with_capacity(lines.len());
    let is_right = StreamingDecoder::new(&frame[..]).is_ok_and(|mut decoder| decoder.read_to_end(&mut read).is_ok());
    match is_right && read == lines {
        true => frame,
        false => compress_to_vec(lines, CompressionLevel::Uncompressed),
    }
}

/// Cuts a file that nobody writes to any more behind its last whole line, and gives it its own name.
fn recover(path: &Path) -> io::Result<()> {
    let file = File::options().read(true).write(true).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        // Another callbackd's.
        Err(TryLockError::WouldBlock) => return Ok(()),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    // Whoever had it has given it its own name meanwhile; and what is no file of this folder is not to be cut.
    if !is_at(&file, path)? {
        return Ok(());
    }
    let bytes = whole(&file)?;
    file.set_len(bytes)?;
    file.sync_all()?;
    name(path, bytes)
}

/// Whether this is a file that stands under this very name: not gone, not another's, and not where a link leads.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let own = file.metadata()?;
    let is_own = |there: fs::Metadata| (there.dev(), there.ino()) == (own.dev(), own.ino());
    Ok(own.is_file() && fs::symlink_metadata(path).is_ok_and(is_own))
}

/// How many of the file's bytes are whole frames that end with a line.
fn whole(file: &File) -> io::Result<u64> {
    let (mut source, mut read, mut whole) = (BufReader::new(file), 0, 0);
    let (mut found, mut frame) = ([0; SEAL.len() + 37], Vec::new());
    loop {
        match source.read_exact(&mut found) {
            Ok(()) if found.starts_with(&SEAL) => {}
            Err(e) if e.kind() != io::ErrorKind::UnexpectedEof => return Err(e),
            _ => return Ok(whole),
        }
        let length = u32::from_le_bytes([found[8], found[9], found[10], found[11]]);
        // No frame is longer, and one that cannot be compressed only by little.
        if length as usize > 2 * FRAME {
            return Ok(whole);
        }
        frame.clear();
        (&mut source).take(u64::from(length)).read_to_end(&mut frame)?;
        let ends_line = found[12] == 1;
        if seal(&frame, ends_line) != found {
            return Ok(whole);
        }
        read += (found.len() + frame.len()) as u64;
        if ends_line {
            whole = read;
        }
    }
}

/// What stands in front of a frame: its length, whether a line ends with it, and its digest.
fn seal(frame: &[u8], ends_line: bool) -> [u8; SEAL.len() + 37] {
    let mut seal = [0; SEAL.len() + 37];
    seal[..8].copy_from_slice(&SEAL);
    seal[8..12].copy_from_slice(&(frame.len() as u32).to_le_bytes());
    seal[12] = u8::from(ends_line);
    seal[13..].copy_from_slice(&signature::sha256(frame));
    seal
}

/// Gives a `.part` of so many bytes its own name; one without any goes.
fn name(path: &Path, bytes: u64) -> io::Result<()> {
    match bytes {
        0 => fs::remove_file(path)?,
        _ => fs::rename(path, path.with_extension(""))?,
    }
    sync_folder(path)
}

/// What was made, renamed or removed in a folder is on disk when the folder is.
fn sync_folder(of: &Path) -> io::Result<()> {
    let folder = of.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const NOW: Time = Time::from_seconds(1_795_257_067);

    fn write(exporter: &Exporter, lines: &[u8]) -> io::Result<()> {
        exporter.take(&mut |out| out.write_all(lines))
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().into_string().expect("UTF-8")).collect();
        names.sort();
        names
    }

    /// As somebody else reads it, where there is a zstd; else with our own.
    fn read(path: &Path) -> Vec<u8> {
        let mut zstd = Command::new("zstd");
        match zstd.arg("-dc").stdin(File::open(path).expect("a file")).stderr(Stdio::inherit()).output() {
            Ok(done) => {
                assert!(done.status.success(), "{}", path.display());
                done.stdout
            }
            Err(e) => {
                assert!(e.kind() == io::ErrorKind::NotFound, "{e}");
                let (file, mut all) = (File::open(path).expect("a file"), Vec::new());
                let mut source = BufReader::new(&file);
                while source.read_exact(&mut [0; SEAL.len() + 37]).is_ok() {
                    let mut frame = StreamingDecoder::new(&mut source).expect("a frame");
                    frame.read_to_end(&mut all).expect("a frame");
                }
                all
            }
        }
    }

    /// More than one frame, in part such as cannot be compressed.
    fn lines(seed: u64) -> Vec<u8> {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut all = Vec::new();
        while all.len() < 2 * FRAME + 1000 {
            match random.bool() {
                true => all.extend((0..random.usize(..5000)).map(|_| random.u8(b' '..=b'~'))),
                false => all.extend("{\"execution\":{\"id\":\"1\",\"status\":\"succeeded\"}}".repeat(30).bytes()),
            }
            all.push(b'\n');
        }
        all
    }

    #[test]
    fn a_file_is_whole_while_it_is_written_and_gets_its_name_when_it_is_old() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("export");
        let exporter = Exporter::default();
        assert!(exporter.begin(Some(&folder), NOW).expect("begun"));
        write(&exporter, b"one\n").expect("written");
        write(&exporter, &lines(1)).expect("written");
        let part = folder.join("executions-2026-11-21T10-31-07.ndjson.zst.part");
        assert!(read(&part) == [b"one\n", &lines(1)[..]].concat());
        exporter.begin(Some(&folder), NOW.plus_ms(AGE_MS - 1)).expect("begun");
        assert!(part.exists());
        exporter.begin(Some(&folder), NOW.plus_ms(AGE_MS)).expect("begun");
        assert_eq!(names(&folder), ["executions-2026-11-21T10-31-07.ndjson.zst"]);
        // The clock was set back.
        exporter.begin(Some(&folder), NOW).expect("begun");
        write(&exporter, b"two\n").expect("written");
        assert!(!exporter.begin(None, NOW).expect("ended"));
        assert!(write(&exporter, b"three\n").is_err());
        assert_eq!(names(&folder)[0], "executions-2026-11-21T10-31-07-2.ndjson.zst");
        assert_eq!(read(&folder.join(&names(&folder)[0])), b"two\n");
    }

    #[test]
    fn what_a_crash_left_is_cut_behind_its_last_whole_line() {
        let folder = tempfile::tempdir().expect("a folder");
        let exporter = Exporter::default();
        exporter.begin(Some(folder.path()), NOW).expect("begun");
        write(&exporter, b"first\n").expect("written");
        let part = folder.path().join("executions-2026-11-21T10-31-07.ndjson.zst.part");
        let first = fs::metadata(&part).expect("there").len() as usize;
        write(&exporter, &lines(2)).expect("written");
        drop(exporter);
        let all = fs::read(&part).expect("there");
        let torn = [
            (all.len(), lines(2)),
            (all.len() - 100, Vec::new()),
            (first + 1, Vec::new()),
            (first + 30, Vec::new()),
            (first + 100, Vec::new()),
            (all.len() * 3 / 4, Vec::new()),
        ];
        for (length, rest) in torn {
            // With zeros behind it, as after a power cut, and without.
            for zeros in [0, 5000] {
                fs::write(&part, [&all[..length], &vec![0; zeros]].concat()).expect("torn");
                Exporter::default().begin(Some(folder.path()), NOW).expect("tidied");
                assert_eq!(names(folder.path()), ["executions-2026-11-21T10-31-07.ndjson.zst"]);
                let own = part.with_extension("");
                let (found, wanted) = (read(&own), [b"first\n", &rest[..]].concat());
                assert!(found == wanted, "{length} {zeros}: {} {}", found.len(), wanted.len());
                fs::rename(own, &part).expect("renamed");
            }
        }
        fs::write(&part, &all[..first - 1]).expect("torn");
        Exporter::default().begin(Some(folder.path()), NOW).expect("tidied");
        assert!(names(folder.path()).is_empty(), "nothing of it was synced");
    }

    #[test]
    fn what_another_one_writes_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let exporter = Exporter::default();
        exporter.begin(Some(folder.path()), NOW).expect("begun");
        write(&exporter, b"one\n").expect("written");
        let other = Exporter::default();
        other.begin(Some(folder.path()), NOW).expect("begun");
        write(&other, b"two\n").expect("written");
        assert_eq!(names(folder.path()).len(), 2);
        assert!(names(folder.path()).iter().all(|name| name.ends_with(".part")));
    }

    #[test]
    fn where_a_link_leads_nothing_is_cut() {
        let (folder, elsewhere) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let file = elsewhere.path().join("of somebody else");
        fs::write(&file, "hers").expect("written");
        let link = folder.path().join("executions-2026-11-21T10-31-07.ndjson.zst.part");
        std::os::unix::fs::symlink(&file, &link).expect("linked");
        let exporter = Exporter::default();
        exporter.begin(Some(folder.path()), NOW).expect("begun");
        write(&exporter, b"one\n").expect("written");
        assert_eq!(fs::read(&file).expect("there"), b"hers");
        let own = folder.path().join("executions-2026-11-21T10-31-07-2.ndjson.zst.part");
        assert_eq!(read(&own), b"one\n");
    }

    #[test]
    fn what_was_taken_away_is_not_written_to() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a.part");
        let file = File::create(&path).expect("made");
        assert!(is_at(&file, &path).expect("looked"));
        fs::remove_file(&path).expect("removed");
        assert!(!is_at(&file, &path).expect("looked"), "gone");
        File::create(&path).expect("made");
        assert!(!is_at(&file, &path).expect("looked"), "another's");
    }

    #[test]
    fn what_fails_on_the_way_is_taken_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let exporter = Exporter::default();
        exporter.begin(Some(folder.path()), NOW).expect("begun");
        write(&exporter, b"one\n").expect("written");
        let failed = exporter.take(&mut |out| {
            out.write_all(&lines(3))?;
            Err(io::Error::other("on purpose"))
        });
        assert_eq!(failed.expect_err("failed").to_string(), "on purpose");
        write(&exporter, b"two\n").expect("written");
        assert_eq!(read(&folder.path().join(&names(folder.path())[0])), b"one\ntwo\n");
    }
}
