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
        let path = self.0.join("ballast");
        let mut ballast = File::create(&path).expect("created");
        while ballast.write_all(&[0; 4096]).is_ok() {}
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

#[test]
fn is_said_while_it_lasts_and_forgotten_when_it_is_over() {
    let mut daemon = Daemon::prepare();
    let disk = match Disk::mount(&daemon.path("disk"), "6m") {
        Ok(disk) => disk,
        Err(why) if is_root() || is_for_testing() => panic!("no file system for the test: {why}"),
        Err(why) => {
            println!("left out: the full disk (needs root to mount one: {why})");
            return;
        }
    };
    let hook = Hook::start(|| Reply::Status(200));
    daemon.configure(&format!(
        "store.url = \"sqlite:disk/callbackd.db\"\n\
         [sources.media]\nkind = \"cos_workflow\"\npath = \"/callbacks/media\"\ntoken = \"t0ken\"\n\
         [sinks.any]\nkind = \"webhook\"\nurl = \"{}\"\n[[routes]]\nfrom = [\"media\"]\nto = [\"any\"]\n",
        hook.url()
    ));
    daemon.start();
    // Enough to a callback that it needs pages of its own.
    let body = |n: u32| {
        let much = format!("<Extra>{}</Extra></Response>", "x".repeat(20_000));
        cos(Step::Success, format_args!("run-{n}")).replace("</Response>", &much)
    };
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
