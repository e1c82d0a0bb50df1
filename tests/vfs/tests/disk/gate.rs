//! A sync that failed leaves pages that look clean and are on no disk, and a later sync that goes well does not write them.

use std::ops::Range;

use callbackd_vfs::tape::{Recorded, What};

use crate::senders::Senders;

/// Whatever a failed sync left in doubt is written again before a later sync is believed: on the tape, the log up to
/// where the synced commit ends has no byte that was written only before a sync that failed.
#[test]
fn nothing_is_believed_that_only_a_failed_sync_has_seen() {
    let mut senders = Senders::taped();
    for round in 0..8 {
        senders.faults(&format!("sync wal ioerr from {} for 2", 1 + round % 2));
        senders.burst();
        senders.faults("");
        senders.again();
    }
    let tape = Recorded::read(&senders.daemon.path("tape")).expect("a tape");
    let (mut fresh, mut doubtful): (Vec<Range<u64>>, Vec<Range<u64>>) = (Vec::new(), Vec::new());
    let mut failed = 0;
    for record in tape.records.iter().filter(|record| record.name.ends_with("-wal")) {
        match record.what {
            What::Wrote => {
                let wrote = record.at..record.at + record.bytes.len() as u64;
                doubtful = doubtful.iter().flat_map(|range| without(range, &wrote)).collect();
                fresh.push(wrote);
            }
            What::SyncFailed => {
                failed += 1;
                doubtful.append(&mut fresh);
            }
            What::Synced => {
                let end = fresh.drain(..).map(|range| range.end).max().unwrap_or(0);
                assert!(doubtful.iter().all(|range| range.start >= end), "{doubtful:?} within {end} bytes");
            }
            _ => {}
        }
    }
    assert!(failed >= 8, "only {failed} syncs failed");
    senders.hold();
}

/// What is left of a range.
fn without(range: &Range<u64>, gone: &Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
    let parts = [range.start..range.end.min(gone.start), range.start.max(gone.end)..range.end];
    parts.into_iter().filter(|part| part.start < part.end)
}
