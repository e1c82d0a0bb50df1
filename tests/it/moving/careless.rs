//! What goes wrong around a move: it is undone, named otherwise, run twice, pointed at what is not ours, or the daemon is
//! killed meanwhile. Whatever happens, never can two stores be used, and nothing that is not ours is touched.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;
use crate::daemon::{Connection, request};

/// The store in a daemon's folder, as anybody reaches it.
fn file(daemon: &Daemon) -> String {
    format!("sqlite:{}", daemon.path("callbackd.db").canonicalize().expect("there").display())
}

/// A daemon that begins on the store, or what it says instead.
fn begins(store: &str) -> Result<Daemon, String> {
    let mut daemon = Daemon::prepare();
    daemon.configure(&config(store, &Closed::reserve().url()));
    match daemon.try_start() {
        None => Ok(daemon),
        Some(_) => Err(daemon.log()),
    }
}

fn refuses(store: &str) -> String {
    match begins(store) {
        Ok(_) => panic!("it begins on {store}"),
        Err(said) => said,
    }
}

fn outcome(daemon: &Daemon, run: &str) -> String {
    let answer = daemon.post(MEDIA, &[], cos(Step::Start, run));
    answer.json()["outcome"].as_str().expect("an outcome").to_owned()
}

/// The commands in what was said.
fn commands(said: &str) -> Vec<&str> {
    said.split('`').filter(|part| part.starts_with("callbackd move --")).collect()
}

/// A store with three executions, and no daemon.
fn stored() -> Daemon {
    let mut daemon = Daemon::prepare();
    daemon.configure(&config(FILE, &Closed::reserve().url()));
    many(&mut daemon, 3);
    daemon
}

/// What is in a folder, byte for byte.
fn folder(path: &Path) -> BTreeMap<String, Vec<u8>> {
    let files = fs::read_dir(path).expect("read").map(|entry| entry.expect("a file"));
    let files = files.filter(|entry| entry.path().is_file());
    files.map(|f| (f.file_name().to_string_lossy().into_owned(), fs::read(f.path()).expect("read"))).collect()
}

#[test]
fn of_two_stores_one_can_be_used_also_after_an_undo() {
    let (daemon, other) = (stored(), Other::new());
    let here = file(&daemon);
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", &other.url]));
    let mut used = begins(&other.url).expect("it was moved there");
    assert_eq!(outcome(&used, "later"), "accepted");
    // Not under a daemon.
    let undone = daemon.cli(&["move", "--undo", "--from", FILE]);
    assert!(undone.code == Some(1) && undone.stderr.contains("is in use"), "{}", undone.stderr);
    assert!(refuses(&here).contains("was moved to"));
    assert_eq!(outcome(&used, "still"), "accepted");
    used.terminate();
    let undone = daemon.cli(&["move", "--undo", "--from", FILE]);
    assert!(undone.said().contains("no callbackd begins on that one any more"), "{}", undone.said());
    assert!(refuses(&other.url).contains("was left for"));
    let mut used = begins(&here).expect("it is used again");
    assert_eq!([outcome(&used, "run-0"), outcome(&used, "later")], ["duplicate", "accepted"]);
    // What it holds is not overwritten by another move.
    let moved = daemon.cli(&["move", "--from", FILE, "--to", &other.url]);
    assert!(moved.code == Some(1) && moved.stderr.contains("rows of its own"), "{}", moved.stderr);
    used.terminate();
    // And the other way round.
    went_well(&daemon.cli(&["move", "--undo", "--from", &other.url]));
    assert!(refuses(&here).contains("was left for"));
    let used = begins(&other.url).expect("it is used again");
    assert_eq!([outcome(&used, "later"), outcome(&used, "still")], ["duplicate", "duplicate"]);
}

#[test]
fn an_undo_that_was_killed_between_its_two_words_leaves_none_to_be_used_and_goes_on() {
    let (daemon, other) = (stored(), Other::new());
    let here = file(&daemon);
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", &other.url]));
    other.mark("left", &here);
    assert!(refuses(&here).contains("was moved to"));
    let said = refuses(&other.url);
    let go_on = commands(&said);
    assert!(go_on[0].contains(&here), "{go_on:?}");
    went_well(&daemon.cli_pasted(&go_on[0].replace("--config callbackd.toml", "")));
    refuses(&other.url);
    begins(&here).expect("it is used again");
}

#[test]
fn a_store_whose_successor_cannot_be_reached_is_used_again_only_on_somebodys_word() {
    let daemon = stored();
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", "sqlite:b.db"]));
    let undo = |more: &[&str]| daemon.cli(&[&["move", "--undo", "--from", FILE], more].concat());
    let refused = undo(&["--gone"]);
    assert!(refused.code == Some(1) && refused.stderr.contains("leave out --gone"), "{}", refused.stderr);
    fs::rename(daemon.path("b.db"), daemon.path("c.db")).expect("renamed");
    let refused = undo(&[]);
    assert_eq!(refused.code, Some(1));
    assert!(refused.stderr.contains("there is no store at") && refused.stderr.contains("--gone"), "{}", refused.stderr);
    refuses(&file(&daemon));
    // It is somewhere else.
    went_well(&undo(&["--to", "sqlite:c.db"]));
    assert!(refuses(&format!("sqlite:{}", daemon.path("c.db").display())).contains("was left for"));
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", "sqlite:d.db"]));
    fs::remove_file(daemon.path("d.db")).expect("removed");
    let gone = undo(&["--gone"]);
    assert!(gone.said().contains("see that none ever does"), "{}", gone.said());
    begins(&file(&daemon)).expect("it is used again");
}

#[test]
fn a_successor_that_was_lost_and_begun_anew_does_not_empty_what_is_left() {
    let daemon = stored();
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", "sqlite:b.db"]));
    fs::remove_file(daemon.path("b.db")).expect("removed");
    let anew = format!("sqlite:{}", daemon.path("b.db").display());
    begins(&anew).expect("an empty one").terminate();
    let back = daemon.cli(&["move", "--from", &anew, "--to", FILE]);
    assert!(back.code == Some(1) && back.stderr.contains("holds nothing"), "{}", back.stderr);
    went_well(&daemon.cli(&["move", "--undo", "--from", FILE]));
    assert_eq!(outcome(&begins(&file(&daemon)).expect("it is used again"), "run-2"), "duplicate");
}

#[test]
fn what_is_somebody_elses_is_refused_and_stays_as_it_is() {
    let daemon = stored();
    let theirs = TempDir::new().expect("a folder");
    let make = |name: &str, sql: &str| {
        let conn = rusqlite::Connection::open(theirs.path().join(name)).expect("opens");
        conn.execute_batch(sql).expect("made");
    };
    make("notes.db", "CREATE TABLE notes (text); INSERT INTO notes VALUES ('theirs')");
    make("wal.db", "PRAGMA journal_mode = WAL; CREATE TABLE notes (text); INSERT INTO notes VALUES ('theirs')");
    make("version.db", "CREATE TABLE notes (text); PRAGMA user_version = 5");
    make("names.db", "CREATE TABLE receipts (id); CREATE TABLE deliveries (id)");
    fs::write(theirs.path().join("text.db"), "no database at all, but a text of some length").expect("written");
    fs::create_dir(theirs.path().join("folder.db")).expect("made");
    let before = folder(theirs.path());
    for (name, why) in [
        ("notes.db", "a database of somebody else"),
        ("wal.db", "a database of somebody else"),
        ("version.db", "a database of somebody else"),
        ("names.db", "a database of somebody else"),
        ("text.db", "not a database"),
        ("folder.db", "is no file"),
    ] {
        let url = format!("sqlite:{}", theirs.path().join(name).display());
        for args in [["--from", FILE, "--to", &url], ["--from", &url, "--to", "sqlite:new.db"]] {
            let refused = daemon.cli(&[&["move"], &args[..]].concat());
            assert!(refused.code == Some(1) && refused.stderr.contains(why), "{args:?}: {}", refused.stderr);
        }
        assert_eq!(folder(theirs.path()), before, "{name}");
    }
    assert!(!daemon.path("new.db").exists() && !daemon.path("new.db.lock").exists());
    // Nor does a daemon begin on it.
    let notes = theirs.path().join("notes.db");
    assert!(refuses(&format!("sqlite:{}", notes.display())).contains("a database of somebody else"));
    assert_eq!(fs::read(&notes).expect("read"), before["notes.db"]);
}

#[cfg(feature = "postgres")]
#[test]
fn a_schema_with_somebody_elses_tables_is_refused_and_stays_as_it_is() {
    let (daemon, other) = (stored(), Other::new());
    if crate::stores::postgres::server().is_none() {
        return;
    }
    other.ask("CREATE TABLE receipts (theirs TEXT)");
    let refused = daemon.cli(&["move", "--from", FILE, "--to", &other.url]);
    assert!(refused.code == Some(1) && refused.stderr.contains("somebody else's receipts"), "{}", refused.stderr);
    let count = "SELECT count(*) FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind = 'r'";
    assert_eq!(other.ask(count), 1);
    assert!(refuses(&other.url).contains("somebody else's receipts"));
    begins(&file(&daemon)).expect("nothing was given up");
}

#[test]
fn a_move_that_is_refused_leaves_nothing_behind() {
    let (daemon, other) = (stored(), Other::new());
    let used = stored();
    let bare = TempDir::new().expect("a folder");
    let copy = bare.path().join("bare.db").display().to_string();
    went_well(&used.cli(&["backup", &copy]));
    // The index of a log is anybody's who reads.
    let left = |path: &Path| -> BTreeMap<_, _> {
        folder(path).into_iter().filter(|(name, _)| !name.ends_with("-shm")).collect()
    };
    let is_refused = |folder: &Path, from: &str, to: &str, why: &str| {
        let before = left(folder);
        let refused = daemon.cli(&["move", "--from", from, "--to", to]);
        assert!(refused.code == Some(1) && refused.stderr.contains(why), "{}", refused.stderr);
        let after = left(folder);
        assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
        assert!(after == before, "a file is another");
    };
    is_refused(&used.path("."), FILE, &file(&used), "no move has brought");
    is_refused(bare.path(), FILE, &format!("sqlite:{copy}"), "no move has brought");
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", &other.url]));
    is_refused(&daemon.path("."), FILE, "sqlite:new.db", "was moved to");
    assert!(!daemon.path("new.db").exists());
    // The way back, out of what cannot be read.
    went_well(&daemon.cli(&["move", "--undo", "--from", FILE]));
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", "sqlite:b.db"]));
    let version = |to: usize| {
        let conn = rusqlite::Connection::open(daemon.path("b.db")).expect("opens");
        conn.execute_batch(&format!("PRAGMA user_version = {to}")).expect("set");
    };
    version(4);
    let refused = daemon.cli(&["move", "--from", "sqlite:b.db", "--to", FILE]);
    assert!(refused.code == Some(1) && refused.stderr.contains("has schema 4"), "{}", refused.stderr);
    version(5);
    went_well(&daemon.cli(&["move", "--undo", "--from", FILE]));
}

#[test]
fn commands_that_are_said_can_be_pasted_and_hold_no_password() {
    let (daemon, other) = (stored(), Other::new());
    // Trusted as it is, the server asks for none.
    let url = other.url.replacen("://callbackd@", "://callbackd:pa55word@", 1);
    let here = file(&daemon);
    let moved = daemon.cli(&["move", "--from", FILE, "--to", &url]);
    went_well(&moved);
    // As it was when it was killed.
    other.mark("filling", &here);
    let mut heard = vec![moved.stderr, String::from_utf8(moved.stdout).expect("UTF-8")];
    let mut begin = |store: &str| {
        let mut daemon = Daemon::prepare();
        daemon.configure(&config(store, &Closed::reserve().url()));
        let refused = daemon.try_start().is_some();
        let said = daemon.log();
        heard.push(said.clone());
        heard.push(String::from_utf8_lossy(&daemon.cli(&["doctor"]).stdout).into_owned());
        assert_eq!(refused, !commands(&said).is_empty(), "{said}");
        (daemon, said)
    };
    let (elsewhere, said) = begin(&url);
    assert!(commands(&said)[0].ends_with("--config callbackd.toml"), "{said}");
    assert!(commands(heard_last(&elsewhere).as_str())[0].ends_with("--config callbackd.toml"));
    went_well(&elsewhere.cli_pasted(commands(&said)[0]));
    let (elsewhere, said) = begin(&here);
    went_well(&elsewhere.cli_pasted(commands(&said)[0]));
    let (elsewhere, said) = begin(&url);
    went_well(&elsewhere.cli_pasted(commands(&said)[1]));
    let (_used, said) = begin(&url);
    assert!(commands(&said).is_empty());
    for said in &heard {
        assert!(!said.contains("pa55word"), "{said}");
    }
}

/// What `doctor` says of the store.
fn heard_last(daemon: &Daemon) -> String {
    String::from_utf8_lossy(&daemon.cli(&["doctor"]).stdout).into_owned()
}

#[test]
fn a_store_is_known_however_it_is_spelled() {
    let (daemon, other) = (stored(), Other::new());
    let elsewhere = TempDir::new().expect("a folder");
    symlink(other.folder.path(), elsewhere.path().join("there")).expect("linked");
    let alias = match other.url.strip_prefix("sqlite:") {
        Some(_) => format!("sqlite:{}", elsewhere.path().join("there/other.db").display()),
        None => other.url.replace("@127.0.0.1:", "@localhost:"),
    };
    assert_ne!(alias, other.url);
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", &other.url]));
    let again = daemon.cli(&["move", "--from", FILE, "--to", &alias]);
    assert!(again.stderr.contains("nothing is left to do"), "{}", again.stderr);
    let same = daemon.cli(&["move", "--from", &alias, "--to", &other.url]);
    assert!(same.stderr.contains("both where from and where to"), "{}", same.stderr);
    went_well(&daemon.cli(&["move", "--from", &alias, "--to", FILE]));
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", &other.url]));
    went_well(&daemon.cli(&["move", "--undo", "--from", FILE, "--to", &alias]));
    refuses(&other.url);
    // A mark that holds no more than a URL.
    went_well(&daemon.cli(&["move", "--undo", "--from", &alias]));
    other.mark("filling", &file(&daemon));
    let from = daemon.path("callbackd.db");
    let conn = rusqlite::Connection::open(from).expect("opens");
    let place = other.url.replace("//callbackd@", "//").replacen("application_name=", "", 1);
    let place = match place.split_once('?') {
        Some((base, asked)) => format!("{base}?{}", asked.split('&').next_back().expect("a schema")),
        None => place,
    };
    conn.execute_batch("DROP TABLE moves; CREATE TABLE moves (state TEXT NOT NULL, place TEXT NOT NULL) STRICT")
        .expect("made");
    conn.execute("INSERT INTO moves VALUES ('moved', ?1)", [&place]).expect("marked");
    drop(conn);
    went_well(&daemon.cli(&["move", "--from", FILE, "--to", &other.url]));
    begins(&other.url).expect("it is whole");
}

#[test]
fn a_file_of_two_names_is_refused_and_says_what_to_do() {
    let daemon = stored();
    let link = daemon.path("link.db");
    fs::hard_link(daemon.path("callbackd.db"), &link).expect("linked");
    let url = format!("sqlite:{}", link.display());
    for args in [["--from", FILE, "--to", &url], ["--from", &url, "--to", "sqlite:new.db"]] {
        let refused = daemon.cli(&[&["move"], &args[..]].concat());
        assert!(refused.code == Some(1) && refused.stderr.contains("hard links"), "{}", refused.stderr);
    }
    let said = refuses(&url);
    assert!(said.contains("hard links") && said.contains("find -samefile"), "{said}");
    fs::remove_file(link).expect("removed");
    begins(&file(&daemon)).expect("it has one name");
}

/// A move that waits until nobody uses its store.
fn waiting(daemon: &Daemon, args: &[&str]) -> (Child, thread::JoinHandle<String>) {
    let mut child = daemon.cli_going_on(&[&["move"], args].concat());
    let mut said = BufReader::new(child.stderr.take().expect("piped")).lines().map_while(Result::ok);
    let line = said.next().expect("a line");
    assert!(line.contains("stop every callbackd"), "{line}");
    (child, thread::spawn(move || said.collect::<Vec<_>>().join("\n")))
}

fn end((mut child, said): (Child, thread::JoinHandle<String>)) -> (Option<i32>, String) {
    let (code, _) = ended({
        child.stderr = None;
        child
    });
    (code, said.join().expect("read"))
}

#[test]
fn of_two_moves_of_one_store_one_is_done() {
    let other = Other::new();
    let mut daemon = Daemon::prepare();
    daemon.configure(&config(&other.url, &Closed::reserve().url()));
    many(&mut daemon, 3);
    daemon.start();
    let to = |name: &str| format!("sqlite:{}", daemon.path(name).display());
    let targets = [to("a.db"), to("b.db")];
    let moves = targets.each_ref().map(|to| waiting(&daemon, &["--from", &other.url, "--to", to]));
    daemon.terminate();
    let ends = moves.map(end);
    let done: Vec<_> = targets.iter().zip(&ends).filter(|(_, (code, _))| *code == Some(0)).collect();
    assert_eq!(done.len(), 1, "{ends:?}");
    let usable: Vec<_> = targets.iter().chain([&other.url]).filter(|store| begins(store).is_ok()).collect();
    assert_eq!(usable, [done[0].0]);
}

#[test]
fn of_two_moves_into_one_store_one_is_done() {
    let other = Other::new();
    let mut daemon = stored();
    daemon.start();
    let args = ["--from", FILE, "--to", &other.url];
    let first = waiting(&daemon, &args);
    // In a file it is refused; in a database, it takes the first one's place.
    let mut second = daemon.cli_going_on(&[&["move"], &args[..]].concat());
    let is_file = other.url.starts_with("sqlite:");
    let second = if is_file {
        let (code, said) = ended(second);
        assert!(code == Some(1) && said.contains("is in use"), "{said}");
        None
    } else {
        let mut said = BufReader::new(second.stderr.take().expect("piped")).lines().map_while(Result::ok);
        said.find(|line| line.contains("stop every callbackd")).expect("it waits");
        Some((second, thread::spawn(move || said.collect::<Vec<_>>().join("\n"))))
    };
    daemon.terminate();
    let ends: Vec<_> = [Some(first), second].into_iter().flatten().map(end).collect();
    let done = ends.iter().filter(|(code, _)| *code == Some(0)).count();
    if done == 0 {
        // Both saw each other: none gave anything up.
        went_well(&daemon.cli(&[&["move"], &args[..]].concat()));
    }
    assert!(done <= 1, "{ends:?}");
    assert!(ends.iter().all(|(code, said)| *code == Some(0) || said.contains("meanwhile")), "{ends:?}");
    refuses(&file(&daemon));
    let used = begins(&other.url).expect("it is whole");
    assert_eq!(outcome(&used, "run-2"), "duplicate");
}

/// Posts runs of a name until nobody answers; those that were acknowledged.
fn acknowledged(listen: &str, from: &str, count: &AtomicUsize) -> Vec<String> {
    let mut kept = Vec::new();
    for n in 0.. {
        let run = format!("{from}-{n}");
        let body = cos(Step::Start, &run);
        let asked = Connection::try_to(listen).and_then(|mut c| c.ask(&request("POST", MEDIA, &[], body.as_bytes())));
        match asked {
            Ok(answer) if answer.status == 200 => kept.push(run),
            _ => return kept,
        }
        count.fetch_add(1, Ordering::AcqRel);
    }
    kept
}

#[test]
fn a_daemon_that_is_killed_while_a_move_waits_for_it_and_starts_again_loses_nothing() {
    let (closed, other) = (Closed::reserve(), Other::new());
    let mut daemon = Daemon::prepare();
    daemon.configure(&config(&other.url, &closed.url()));
    many(&mut daemon, 3);
    let to = format!("sqlite:{}", daemon.path("to.db").display());
    daemon.start();
    let mut moving = waiting(&daemon, &["--from", &other.url, "--to", &to]);
    let mut kept: Vec<String> = (0..3).map(|n| format!("run-{n}")).collect();
    // Whoever supervises it starts it again at once, until it is told that the store is not its own any more.
    for round in 0.. {
        let count = AtomicUsize::new(0);
        let listen = daemon.listen.clone();
        kept.extend(thread::scope(|scope| {
            let sender = scope.spawn(|| acknowledged(&listen, &format!("round-{round}"), &count));
            soon("some are taken", || (count.load(Ordering::Acquire) >= 20).then_some(()));
            daemon.kill9();
            sender.join().expect("no panic")
        }));
        if round >= 3 {
            other.forget();
            soon("the move goes on", || moving.0.try_wait().expect("waited for").map(drop));
        }
        if daemon.try_start().is_some() {
            let said = daemon.log();
            let is_clear = ["in use by another callbackd", "is being moved to", "was moved to"];
            assert!(is_clear.iter().any(|why| said.contains(why)), "{said}");
            break;
        }
        assert!(round < 3, "it begins on a store that was moved");
    }
    let (code, said) = end(moving);
    assert_eq!(code, Some(0), "{said}");
    assert!(refuses(&other.url).contains("was moved to"));
    let hook = closed.open(|| Reply::Status(200));
    daemon.configure(&config(&to, &hook.url()));
    daemon.start();
    for run in &kept {
        assert_eq!(outcome(&daemon, run), "duplicate", "{run}");
    }
    soon("all is told", || {
        let told: BTreeSet<_> = hook.taken().into_iter().map(|(run, _)| run).collect();
        kept.iter().all(|run| told.contains(run)).then_some(())
    });
    assert!(is_once(&ids(&hook)), "told twice");
}
