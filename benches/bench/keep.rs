//! The least that a 2xx which means "on disk" can cost: bytes appended to a file, which one thread syncs for all that
//! came meanwhile at once. Nothing is understood, found again or let go of; the file has its size from the beginning.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use hyper::body::Bytes;
use tokio::sync::oneshot;

use crate::Failure;

/// Bytes of the file. Behind its end it begins again.
const SIZE: usize = 64 << 20;

type Waiting = Vec<(Bytes, oneshot::Sender<()>)>;

/// What waits for the disk.
#[derive(Default)]
pub(crate) struct Kept {
    waiting: Mutex<Waiting>,
    filled: Condvar,
}

impl Kept {
    /// Keeps in this file, which must not be there yet.
    pub(crate) fn begin(path: &Path) -> Result<Arc<Kept>, Failure> {
        let file = OpenOptions::new().write(true).create_new(true).open(path)?;
        file.write_all_at(&vec![0; SIZE], 0)?;
        file.sync_all()?;
        let kept = Arc::new(Kept::default());
        std::thread::spawn({
            let kept = Arc::clone(&kept);
            move || kept.sync(&file)
        });
        Ok(kept)
    }

    /// Returns when the bytes are on disk.
    pub(crate) async fn keep(&self, bytes: Bytes) {
        let (done, is_done) = oneshot::channel();
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push((bytes, done));
        self.filled.notify_one();
        is_done.await.expect("who syncs goes on");
    }

    fn sync(&self, file: &File) {
        let (mut batch, mut bytes, mut at) = (Waiting::new(), Vec::new(), 0);
        loop {
            let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            let mut waiting = self.filled.wait_while(waiting, |w| w.is_empty()).unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *waiting, &mut batch);
            drop(waiting);
            bytes.clear();
            batch.iter().for_each(|(more, _)| bytes.extend_from_slice(more));
            if at + bytes.len() > SIZE {
                at = 0;
            }
            file.write_all_at(&bytes, at as u64).and_then(|()| file.sync_data()).expect("the disk takes it");
            at += bytes.len();
            for (_, done) in batch.drain(..) {
                // Whoever has gone meanwhile does not ask any more.
                let _ = done.send(());
            }
        }
    }
}
