//! Disks that fail: whatever call goes wrong, and however often, a sender is told 200 only for what is kept, and 503 for the
//! rest; and when the disk is well again, so is the daemon, without a hand.
//!
//! The real daemon runs on a disk that fails as a file of rules says ([`callbackd_vfs::faults`]). Callbacks come in bursts of
//! many callers at once, who share commits.

#[path = "../../../it/callbacks.rs"]
#[expect(dead_code, reason = "the black-box tests use more of it")]
mod callbacks;
#[path = "../../../it/daemon.rs"]
#[expect(dead_code, reason = "the black-box tests use more of it")]
mod daemon;
mod gate;
mod senders;
#[path = "../../../it/wire.rs"]
#[expect(dead_code, reason = "the black-box tests use more of it")]
mod wire;

/// As the daemon's harness and its peers expect it.
#[path = "../../../it/peers"]
mod peers {
    #[expect(dead_code, reason = "the black-box tests use more of it")]
    pub(crate) mod hook;
}

use daemon::soon;
use senders::Senders;

/// What a burst's commits ask of the disk.
const COMMITS: [&str; 4] = ["write wal ioerr", "write wal full", "write wal short", "sync wal ioerr"];

/// What is written when the log is copied into the file.
const CHECKPOINTS: [&str; 5] = [
    "write db ioerr from 1 for 1",
    "write db full from 2 for 1",
    "write db short from 20 for 1",
    "sync db ioerr from 1 for 1",
    "sync db ioerr from 1 for 2",
];

/// Calls that fail alone: the first of a burst, the second, and so on.
const NTH: u64 = 10;

#[test]
fn any_call_may_fail_once() {
    let mut senders = Senders::new("");
    for rule in COMMITS {
        let mut refused = 0;
        for nth in 1..=NTH {
            senders.faults(&format!("{rule} from {nth} for 1"));
            refused += senders.burst();
            senders.faults("");
            senders.again();
        }
        // It may have been a commit of the forwarder's that failed.
        soon("a refusal", || {
            senders.faults(&format!("{rule} for 1"));
            refused += senders.burst();
            senders.faults("");
            senders.again();
            (refused > 0).then_some(())
        });
        println!("{rule}, once: {refused} refused");
    }
    senders.hold();
}

#[test]
fn any_call_may_fail_while_the_log_is_copied() {
    let mut senders = Senders::new("");
    for rule in CHECKPOINTS {
        senders.faults(rule);
        let said = |senders: &Senders, what: &str| senders.daemon.log().matches(what).count();
        let both = ["checkpoints fail", "checkpoints go through again"].map(|what| (what, said(&senders, what)));
        for (what, before) in both {
            // So much that the log is copied.
            soon(what, || {
                senders.large_burst();
                (said(&senders, what) > before).then_some(())
            });
        }
        senders.faults("");
        senders.again();
    }
    senders.hold();
}

#[test]
fn what_fails_for_a_while_is_said_for_as_long() {
    let mut senders = Senders::new("");
    for rule in
        ["write wal ioerr", "write wal full", "write wal short", "sync wal ioerr", "write any ioerr", "any any ioerr"]
    {
        senders.faults(rule);
        soon("a refusal", || (senders.burst() > 0).then_some(()));
        let unready = soon("not ready", || Some(senders.daemon.look("/readyz")).filter(|a| a.status == 503));
        assert!(unready.body.starts_with("the store"), "{unready:?}");
        assert_eq!(senders.daemon.look("/livez").status, 200, "a restart would not help");
        let refused = senders.burst();
        assert_eq!(refused, senders::CALLERS, "all callers of the commits that fail");
        senders.faults("");
        soon("ready without a callback's help", || {
            Some(senders.daemon.look("/readyz")).filter(|answer| answer.status == 200)
        });
        senders.again();
    }
    senders.hold();
}

/// The log takes what the file does not, until both are well; or until its index cannot grow any more.
#[test]
fn callbacks_are_kept_while_the_log_cannot_be_copied() {
    let mut senders = Senders::new("");
    senders.faults("write db ioerr");
    soon("a checkpoint that fails", || {
        assert_eq!(senders.large_burst(), 0, "the log takes it");
        senders.daemon.log().contains("checkpoints fail").then_some(())
    });
    assert_eq!(senders.daemon.look("/readyz").status, 200);
    senders.faults("write db ioerr\nshm any ioerr");
    soon("an index that cannot grow", || (senders.large_burst() > 0).then_some(()));
    senders.faults("write db ioerr");
    senders.again();
    senders.faults("");
    soon("a checkpoint", || {
        assert_eq!(senders.large_burst(), 0);
        senders.daemon.log().contains("checkpoints go through again").then_some(())
    });
    senders.hold();
}

#[test]
fn a_slow_disk_is_waited_for_and_one_that_does_not_answer_is_not() {
    let mut senders = Senders::new("server.answer_timeout = \"4s\"\n");
    senders.faults("sync wal slow 1000");
    assert_eq!(senders.burst(), 0, "it is only slow");
    senders.faults("sync wal slow 8000");
    assert_eq!(senders.burst(), senders::CALLERS);
    let unready = soon("not ready", || Some(senders.daemon.look("/readyz")).filter(|answer| answer.status == 503));
    assert_eq!(unready.body, "the store's disk does not answer");
    senders.faults("");
    soon("ready", || Some(senders.daemon.look("/readyz")).filter(|answer| answer.status == 200));
    // Nobody told them so, but they are kept.
    assert!(senders.again().iter().all(|outcome| outcome == "duplicate"));
    senders.hold();
}

/// A daemon that is killed while its disk fails, and started on it before it is well.
#[test]
fn a_start_on_a_failing_disk_loses_nothing() {
    let mut senders = Senders::new("");
    for rule in ["sync wal ioerr", "write wal short", "any any ioerr", "write any full"] {
        senders.burst();
        senders.faults(rule);
        assert!(senders.burst() > 0, "{rule}: nobody noticed");
        senders.daemon.kill9();
        senders.starts_or_says_why();
        senders.faults("");
        senders.daemon.start();
        // What was told 503 may have been written whole, and only not synced.
        senders.again();
    }
    senders.hold();
}

#[test]
fn a_start_may_fail_at_any_call() {
    let mut senders = Senders::new("");
    let mut all = 0;
    for rule in [
        "open any ioerr",
        "read any ioerr",
        "size any ioerr",
        "shm any ioerr",
        "shm any full",
        "access any ioerr",
        "truncate any ioerr",
        "write any ioerr",
        "delete any ioerr",
    ] {
        senders.burst();
        senders.daemon.kill9();
        let mut failed = 0;
        for nth in [1, 2, 3, 5, 8, 13] {
            senders.faults(&format!("{rule} from {nth}"));
            failed += senders.starts_or_says_why();
        }
        println!("{rule}: {failed} starts failed");
        all += failed;
        senders.faults("");
        senders.daemon.start();
        senders.again();
    }
    assert!(all > 0, "every start went well");
    senders.hold();
}
