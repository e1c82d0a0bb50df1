//! The least that a 2xx which means "on disk" can cost: what one thread writes and syncs for all that came meanwhile at
//! once. Either bytes appended to a file, which has its size from the beginning; or two plain rows of SQLite, as long as
//! callbackd's receipt and execution are. Nothing is found again, told to anybody or let go of.
//!
//! Bodies may be read before, by the events of the XML library: what is in them is counted, and means nothing.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use hyper::body::Bytes;
use quick_xml::Reader;
use quick_xml::events::Event;
use rusqlite::Connection;
use tokio::sync::oneshot;

use crate::{Failure, commit};

/// Bytes of the file. Behind its end it begins again.
const SIZE: usize = 64 << 20;

/// Bytes of an execution's snapshot of two tasks.
const SNAPSHOT: usize = 640;

type Waiting = Vec<(Bytes, oneshot::Sender<()>)>;

/// What waits for the disk.
#[derive(Default)]
pub(crate) struct Kept {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Kept {
    /// Keeps in this file, which must not be there yet: as bytes, or as rows.
    pub(crate) fn begin(path: &Path, rows: bool) -> Result<Arc<Kept>, Failure> {
        let kept = Arc::new(Kept::default());
        let waiting = Arc::clone(&kept);
        if rows {
            let conn = commit::create(path)?;
            std::thread::spawn(move || waiting.insert(&conn).expect("the disk takes it"));
        } else {
            let file = OpenOptions::new().write(true).create_new(true).open(path)?;
            file.write_all_at(&vec![0; SIZE], 0)?;
            file.sync_all()?;
            std::thread::spawn(move || waiting.append(&file).expect("the disk takes it"));
        }
        Ok(kept)
    }

    /// Returns when the bytes are on disk.
    pub(crate) async fn keep(&self, bytes: Bytes) {
        let (done, is_done) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((bytes, done));
        self.filled.notify_one();
        is_done.await.expect("who syncs goes on");
    }

    fn append(&self, file: &File) -> Result<(), Failure> {
        let (mut batch, mut bytes, mut at) = (Waiting::new(), Vec::new(), 0);
        loop {
            self.take(&mut batch);
            bytes.clear();
            batch.iter().for_each(|(more, _)| bytes.extend_from_slice(more));
            if at + bytes.len() > SIZE {
                at = 0;
            }
            file.write_all_at(&bytes, at as u64).and_then(|()| file.sync_data())?;
            at += bytes.len();
            answer(&mut batch);
        }
    }

    fn insert(&self, conn: &Connection) -> Result<(), Failure> {
        let mut receipt = conn.prepare("INSERT INTO receipts VALUES (?, ?, ?)")?;
        let mut execution = conn.prepare("INSERT INTO executions VALUES (?, ?, ?, ?, ?)")?;
        let (mut begin, mut commit) = (conn.prepare("BEGIN IMMEDIATE")?, conn.prepare("COMMIT")?);
        let (mut batch, mut id, snapshot) = (Waiting::new(), 0_i64, "s".repeat(SNAPSHOT));
        loop {
            self.take(&mut batch);
            begin.execute([])?;
            for (body, _) in &batch {
                id += 1;
                receipt.execute((id, id, &body[..]))?;
                execution.execute((id, "i0123456789abcdef0123456789abcdef", &snapshot, "succeeded", id))?;
            }
            commit.execute([])?;
            answer(&mut batch);
        }
    }

    fn take(&self, batch: &mut Waiting) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.filled.wait_while(waiting, |w| w.is_empty()).unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *waiting, batch);
    }
}

fn answer(batch: &mut Waiting) {
    for (_, done) in batch.drain(..) {
        // Whoever has gone meanwhile does not ask any more.
        let _ = done.send(());
    }
}

/// Elements of a body, by the library's events.
pub(crate) fn elements(body: &[u8]) -> Result<u64, Failure> {
    let mut reader = Reader::from_str(std::str::from_utf8(body)?);
    let mut elements = 0;
    loop {
        match reader.read_event()? {
            Event::Start(_) | Event::Empty(_) => elements += 1,
            Event::Eof => return Ok(elements),
            _ => {}
        }
    }
}
