//! A full disk: the truth while it lasts, and no hand needed when it is over.
//!
//! Needs a small file system of its own, so it needs root; on a machine that is there for testing (`CI=true`) it has
//! to run whoever runs it.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::callbacks::{Step, cos};
use crate::daemon::{Daemon, soon};
use crate::export;
use crate::older;
use crate::peers::hook::{Hook, Reply};

const MEDIA: &str = "/callbacks/media/t0ken";

/// A small file system in memory; unmounted when dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, size: &str) -> Result<Disk, String> {
        fs::create_dir(at).map_err(|e| e.to_string())?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"]).arg(at);
        let done = mount.output().map_err(|e| e.to_string())?;
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into_owned());
        }
        Ok(Disk(at.to_owned()))
    }

    /// Leaves room for nothing.
    fn fill(&self) -> PathBuf {
        self.fill_up_to(0)
    }

    /// Leaves room for so many bytes.
    fn fill_up_to(&self, room: u64) -> PathBuf {
        let path = self.0.join("ballast");
        let mut ballast = File::create(&path).expect("created");
        let mut bytes: u64 = 0;
        while ballast.write_all(&[0; 4096]).is_ok() {
            bytes += 4096;
        }
        ballast.set_len(bytes.saturating_sub(room)).expect("cut");
        path
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: it goes when the daemon that is killed next to it lets go of it.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;

    fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0)
}

#[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
fn is_for_testing() -> bool {
    std::env::var("CI").is_ok_and(|ci| ci == "true")
}

/// A daemon's folder `disk`, unless nobody may mount one.
fn disk_of(daemon: &Daemon, size: &str) -> Option<Disk> {
    match Disk::mount(&daemon.path("disk"), size) {
        Ok(disk) => Some(disk),
        Err(why) if is_root() || is_for_testing() => panic!("no file system for the test: {why}"),
        Err(why) => {
            println!("left out: the full disk (needs root to mount one: {why})");
            None
        }
    }
}

/// Nobody is to be told; callbacks that need pages of their own.
fn config(more: &str) -> String {
    format!(
        "store.url = \"sqlite:disk/callbackd.db\"\n{more}\
         [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n"
    )
}

fn body(n: u32) -> String {
    let much = format!("<Extra>{}</Extra></Response>", "x".repeat(20_000));
    cos(Step::Success, format_args!("run-{n}")).replace("</Response>", &much)
}

/// Posts until one is refused, and returns which.
fn post_until_refused(daemon: &Daemon, n: &mut u32) -> u32 {
    soon("a refusal", || {
        *n += 1;
        let answer = daemon.post(MEDIA, &[], body(*n));
        assert!([200, 503].contains(&answer.status), "{answer:?}");
        (answer.status == 503).then_some(*n)
    })
}

/// That all of the callbacks up to this one are there, whole.
fn holds(daemon: &Daemon, last: u32) {
    let conn = rusqlite::Connection::open(daemon.path("disk/callbackd.db")).expect("opens");
    let check: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("checked");
    assert_eq!(check, "ok");
    let mut one = conn
        .prepare("SELECT r.body FROM executions e JOIN changes c ON c.id = e.change JOIN receipts r ON r.id = c.receipt WHERE e.key = ?1")
        .expect("prepared");
    for n in 1..=last {
        let kept: Vec<u8> =
            one.query_row([format!("run-{n}")], |row| row.get(0)).unwrap_or_else(|e| panic!("run-{n}: {e}"));
        assert_eq!(kept, body(n).into_bytes());
    }
}

/// Which is another disk than the store's.
#[test]
fn of_the_export_lets_nothing_go_and_callbacks_are_kept() {
    let mut daemon = Daemon::prepare();
    let Some(disk) = disk_of(&daemon, "8m") else { return };
    let config = |more: &str| config(more).replace("sqlite:disk/", "sqlite:");
    daemon.configure(&config(""));
    daemon.start();
    for n in 0..60 {
        // Nothing that could be compressed to nothing.
        let noise: String = (0..20_000).map(|_| fastrand::alphanumeric()).collect();
        let body = body(n).replace(&"x".repeat(20_000), &noise);
        assert_eq!(daemon.post(MEDIA, &[], body).status, 200);
    }
    assert!(daemon.terminate().success());
    let ballast = disk.fill_up_to(300_000);
    daemon.configure(&config("store.keep = \"1ms\"\nstore.export = \"disk/export\"\n"));
    daemon.start();
    let said = daemon.logged(|line| line["message"] == "what is old stays for now");
    assert!(said["error"].as_str().is_some_and(|e| e.contains("No space left")), "{said}");
    assert_eq!(daemon.post(MEDIA, &[], body(60)).status, 200);
    assert_eq!(daemon.list(&["executions", "list"]).len(), 61);
    assert!(daemon.terminate().success());
    fs::remove_file(ballast).expect("removed");
    daemon.start();
    soon("gone", || daemon.list(&["executions", "list"]).is_empty().then_some(()));
    assert_eq!(export::lines(&daemon.path("disk/export")).len(), 61);
}

#[test]
fn is_survived_wherever_it_begins() {
    let mut daemon = Daemon::prepare();
    let Some(disk) = disk_of(&daemon, "64m") else { return };
    daemon.configure(&config(""));
    daemon.start();
    let mut n = 0;
    for room in [0, 4096, 12_288, 40_960, 100_000, 300_000, 1_000_000] {
        let ballast = disk.fill_up_to(room);
        let refused = post_until_refused(&daemon, &mut n);
        if room == 40_960 {
            // What was begun when the disk was full is taken up by the next one.
            daemon.kill9();
            let ended = daemon.try_start();
            fs::remove_file(ballast).expect("removed");
            if ended.is_some() {
                daemon.start();
            }
        } else {
            fs::remove_file(ballast).expect("removed");
        }
        soon("kept in the end", || (daemon.post(MEDIA, &[], body(refused)).status == 200).then_some(()));
    }
    assert!(daemon.terminate().success());
    holds(&daemon, n);
}

#[test]
fn no_start_on_it_harms_what_is_there() {
    let mut daemon = Daemon::prepare();
    let Some(disk) = disk_of(&daemon, "8m") else { return };
    daemon.configure(&config(""));
    let refuses = |daemon: &mut Daemon, room: u64| {
        let ballast = disk.fill_up_to(room);
        if let Some(status) = daemon.try_start() {
            assert_eq!(status.code(), Some(1));
            assert!(daemon.log().contains("disk/callbackd.db"), "it says what it cannot use");
        } else {
            daemon.kill9();
        }
        fs::remove_file(ballast).expect("removed");
    };
    // Where there is no store yet; then one of the first version, which has to be brought up to date.
    for room in [0, 4096, 8192, 20_000, 100_000] {
        refuses(&mut daemon, room);
    }
    daemon.start();
    (1..=5).for_each(|n| assert_eq!(daemon.post(MEDIA, &[], body(n)).status, 200));
    assert!(daemon.terminate().success());
    older::take_back(&daemon.path("disk/callbackd.db"));
    for room in [0, 4096, 8192, 20_000, 60_000] {
        refuses(&mut daemon, room);
    }
    daemon.start();
    assert_eq!(daemon.post(MEDIA, &[], body(6)).status, 200);
    assert!(daemon.terminate().success());
    holds(&daemon, 6);
}

/// What would not fit goes in all the same, because upkeep lets go of what was told.
#[test]
fn does_not_come_about_where_upkeep_may_make_room() {
    let mut daemon = Daemon::prepare();
    let Some(_disk) = disk_of(&daemon, "48m") else { return };
    daemon.configure(&config("store.disk_max = \"25%\"\n"));
    daemon.start();
    let rounds = 6;
    for round in 0..rounds {
        for n in 1..=300 {
            assert_eq!(daemon.post(MEDIA, &[], body(round * 300 + n)).status, 200);
        }
        // Upkeep looks again when the configuration is read again.
        daemon.hup();
        let relieved = round.saturating_sub(1) as usize;
        soon("room", || (daemon.log().matches("let go of the oldest").count() >= relieved).then_some(()));
    }
    let left = daemon.list(&["executions", "list"]);
    let newest = format!("run-{}", rounds * 300);
    assert_eq!((left[0]["key"].as_str(), left.len() < 1500), (Some(&*newest), true));
    assert!(daemon.terminate().success());
}

/// As much as there is, and more: the oldest goes for what comes, though there is nobody else whose room could be taken.
#[test]
fn that_the_store_has_filled_by_itself_is_cleared_by_upkeep() {
    let mut daemon = Daemon::prepare();
    let Some(_disk) = disk_of(&daemon, "48m") else { return };
    daemon.configure(&config("store.disk_max = \"100%\"\n"));
    daemon.start();
    let large = |n: u32| body(n).replace("<Extra>", &format!("<Extra>{}", "y".repeat(200_000)));
    let (all, mut refused) = (400, 0);
    for n in 1..=all {
        soon("kept in the end", || {
            let answer = daemon.post(MEDIA, &[], large(n));
            assert!([200, 503].contains(&answer.status), "{answer:?}");
            refused += u32::from(answer.status == 503);
            (answer.status == 200).then_some(())
        });
    }
    let left = daemon.list(&["executions", "list"]);
    let newest: Vec<_> = (0..left.len() as u32).map(|n| format!("run-{}", all - n)).collect();
    let keys: Vec<_> = left.iter().map(|row| row["key"].as_str().expect("a key")).collect();
    assert_eq!(keys, newest, "the oldest went");
    println!("{refused} refusals, {} left of {all}", left.len());
    assert!((20..200).contains(&left.len()), "{} are left", left.len());
    assert!(daemon.terminate().success());
}

/// The log keeps the size that it once needed. Where that is half of the disk, it is neither others' nor upkeep's to clear.
#[test]
fn that_is_full_of_the_log_is_cleared_when_the_log_is_copied() {
    let mut daemon = Daemon::prepare();
    let Some(_disk) = disk_of(&daemon, "48m") else { return };
    daemon.configure(&config("store.disk_max = \"100%\"\n"));
    daemon.start();
    assert_eq!(daemon.post(MEDIA, &[], body(0)).status, 200);
    // As long as somebody reads what was, all that comes stays in the log.
    let reader = rusqlite::Connection::open(daemon.path("disk/callbackd.db")).expect("opens");
    reader.execute_batch("BEGIN; SELECT count(*) FROM receipts").expect("reads");
    let mut n = 0;
    let refused = post_until_refused(&daemon, &mut n);
    let log = || fs::metadata(daemon.path("disk/callbackd.db-wal")).expect("a log").len();
    assert!(log() > 16 << 20, "{} bytes", log());
    drop(reader);
    soon("kept in the end", || (daemon.post(MEDIA, &[], body(refused)).status == 200).then_some(()));
    assert!(daemon.terminate().success());
    holds(&daemon, refused);
}

/// A file system that takes nothing: said at a start, and forgotten when it is over.
#[test]
fn a_read_only_disk_is_named() {
    let mut daemon = Daemon::prepare();
    let Some(disk) = disk_of(&daemon, "8m") else { return };
    daemon.configure(&config(""));
    daemon.start();
    assert_eq!(daemon.post(MEDIA, &[], body(1)).status, 200);
    daemon.kill9();
    let remount = |how: &str| {
        let done = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&disk.0).status();
        assert!(done.expect("mount").success(), "{how}");
    };
    remount("ro");
    let status = daemon.try_start().expect("no store to write to");
    assert_eq!(status.code(), Some(1));
    assert!(daemon.log().contains("Read-only file system"), "why it does not run");
    remount("rw");
    daemon.start();
    assert_eq!(daemon.post(MEDIA, &[], body(2)).status, 200);
    assert!(daemon.terminate().success());
    holds(&daemon, 2);
}

#[test]
fn is_said_while_it_lasts_and_forgotten_when_it_is_over() {
    let mut daemon = Daemon::prepare();
    let Some(disk) = disk_of(&daemon, "6m") else { return };
    let hook = Hook::start(|| Reply::Status(200));
    daemon.configure(&format!(
        "store.url = \"sqlite:disk/callbackd.db\"\n\
         [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n",
        hook.url()
    ));
    daemon.start();
    let mut kept = Vec::new();
    let mut n = 0;
    let mut post = |n: u32| {
        let answer = daemon.post(MEDIA, &[], body(n));
        if answer.status == 200 {
            assert_eq!(answer.json()["outcome"], "accepted");
            kept.push((answer.json()["receipt"].clone(), n));
        }
        answer
    };
    (0..5).for_each(|_| {
        n += 1;
        assert_eq!(post(n).status, 200);
    });
    let ready = || Some(daemon.look("/readyz"));
    assert_eq!(soon("ready", ready).status, 200);

    for _ in 0..2 {
        let ballast = disk.fill();
        // The log may still have pages that it can use again.
        let answer = soon("a refusal", || {
            n += 1;
            Some(post(n)).filter(|answer| answer.status != 200)
        });
        assert_eq!((answer.status, answer.header("content-type")), (503, Some("application/problem+json")));
        assert!(answer.header("retry-after").is_some_and(|s| s.parse::<u32>().is_ok_and(|s| s > 0)), "{answer:?}");
        assert!(!answer.body.contains("disk"), "why is not the sender's: {answer:?}");
        let unready = soon("not ready", || ready().filter(|answer| answer.status == 503));
        assert_eq!(unready.body, "the store's disk is full");
        assert_eq!(daemon.look("/livez").status, 200, "a restart would not help");
        let refused = n;
        assert_eq!(post(refused).status, 503, "it stays so");

        fs::remove_file(ballast).expect("removed");
        soon("ready again, without a callback's help", || ready().filter(|answer| answer.status == 200));
        assert_eq!(post(refused).status, 200, "what was refused was not kept by half");
    }

    let listed = daemon.list(&["receipts", "list"]);
    let ids: Vec<_> = listed.iter().rev().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, kept.iter().map(|(id, _)| id.clone()).collect::<Vec<_>>(), "what was acknowledged, and no more");
    assert!(listed.iter().all(|row| row["status"] == "accepted"));
    for (id, n) in &kept {
        let id = id.as_str().expect("an id");
        assert_eq!(daemon.cli(&["receipts", "body", id]).stdout, body(*n).into_bytes());
    }
    soon("all delivered", || {
        let delivered = daemon.list(&["deliveries", "list", "--status", "delivered"]);
        (delivered.len() == kept.len()).then_some(())
    });
    for (_, n) in &kept {
        let told = (format!("run-{n}"), "succeeded".to_owned());
        assert!(hook.taken().contains(&told), "{told:?} was not");
    }
    assert!(daemon.terminate().success());
    drop(disk);
}
