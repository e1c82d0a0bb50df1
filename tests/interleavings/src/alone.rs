//! The commit queue by itself: who puts, who takes and who closes.

use std::sync::Arc;
use std::time::Duration;

use crate::queue::{Queue, Taken};

/// What happens with two who put, and one who closes in between.
pub(crate) fn scenario() {
    one(2, true);
    one(2, false);
}

/// Room for one item only.
fn one(putters: usize, closes: bool) {
    let queue = Arc::new(Queue::new(1, 100));
    let putters = (0..putters).map(|item| {
        let queue = Arc::clone(&queue);
        shuttle::thread::spawn(move || match queue.put(item, 1) {
            Ok(()) => Some(item),
            Err((back, _)) => {
                assert_eq!(back, item, "handed back");
                None
            }
        })
    });
    let putters: Vec<_> = putters.collect();
    let (out, taken) = shuttle::sync::mpsc::channel();
    let taker = shuttle::thread::spawn({
        let queue = Arc::clone(&queue);
        move || {
            let mut some = Vec::new();
            loop {
                match queue.take(&mut some, Duration::from_secs(1)) {
                    Taken::Items => some.drain(..).for_each(|item| out.send(item).expect("sent")),
                    Taken::Nothing => panic!("time passed"),
                    Taken::Closed => return,
                }
            }
        }
    });
    let closer = closes.then(|| {
        let queue = Arc::clone(&queue);
        shuttle::thread::spawn(move || queue.close())
    });
    let mut put: Vec<_> = putters.into_iter().filter_map(|putter| putter.join().expect("put")).collect();
    // Before it closes: what is put in is taken out without that.
    let mut all: Vec<_> = put.iter().map(|_| taken.recv().expect("taken")).collect();
    match closer {
        Some(closer) => closer.join().expect("closed"),
        None => {
            assert!(!put.is_empty(), "an empty queue takes one");
            queue.close();
        }
    }
    taker.join().expect("ended");
    all.extend(taken.try_iter());
    (put.sort_unstable(), all.sort_unstable());
    assert_eq!(all, put, "what was taken in is taken out, once, and nothing else is");
    assert!(queue.put(9, 1).is_err());
}
