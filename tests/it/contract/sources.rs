//! Every kind of source: its fixtures are taken for what they are, and nothing else gets in.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use callbackd::model::{Receipt, ReceiptStatus, Route, Rules, Time};
use callbackd::sources::{AuthError, KINDS, RawRequest, SenderRequest, Source};
use callbackd::store::sqlite::{Options, SqliteStore};
use callbackd::store::{Filter, Parsed, Queries, Recorded, Store};
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{NEEDLE, fixtures, source_of};

/// How the sender of one kind shows who it is.
struct Sender {
    kind: &'static str,
    /// The option that takes its credentials.
    option: &'static str,
    vouches: Vouches,
    /// Headers that are credentials: none of them is kept.
    credentials: &'static [&'static str],
}

/// What a credential covers.
#[derive(Clone, Copy, PartialEq)]
enum Vouches {
    /// It stands in the URL, and says nothing of the rest.
    ForTheUrl,
    /// It is made of the body and the time, and travels in headers.
    ForBodyAndTime,
}

const SENDERS: [Sender; 2] = [
    Sender { kind: "cos_workflow", option: "token", vouches: Vouches::ForTheUrl, credentials: &[] },
    Sender {
        kind: "port_action",
        option: "secret",
        vouches: Vouches::ForBodyAndTime,
        credentials: &["x-port-signature"],
    },
];

const NEW: &str = "hunter2-new-credential";
const OLD: &str = "hunter2-old-credential";
const OTHER: &str = "hunter2-of-somebody-else";
const NOW: Time = Time::from_seconds(1_700_000_000);

impl Sender {
    /// The source that knows these credentials; without any, it takes what anybody sends.
    fn source(&self, credentials: &[&str]) -> Box<dyn Source> {
        let who = match credentials {
            [] => "allow_unauthenticated = true".to_owned(),
            some => format!("{} = {some:?}", self.option),
        };
        source_of(&format!("[sources.it]\nkind = {:?}\npath = \"/callbacks/it\"\n{who}\n", self.kind))
    }
}

/// A body as it came, and what it is to be taken for.
struct Fixture {
    path: PathBuf,
    headers: HeaderMap,
    body: Bytes,
    outcome: ReceiptStatus,
    reason: Option<String>,
}

impl Fixture {
    fn read(path: PathBuf) -> Fixture {
        let name = path.display().to_string();
        let beside = path.with_extension("expect.json");
        let expect = fs::read(beside).unwrap_or_else(|e| panic!("{name} has no .expect.json beside it: {e}"));
        let expect: Value = serde_json::from_slice(&expect).expect(&name);
        let headers = fs::read_to_string(path.with_extension("headers")).unwrap_or_default();
        let header = |line: &str| {
            let (name, value) = line.split_once(':').expect(line);
            (name.trim().parse::<HeaderName>().expect(line), value.trim().parse::<HeaderValue>().expect(line))
        };
        Fixture {
            headers: headers.lines().map(header).collect(),
            body: fs::read(&path).expect(&name).into(),
            outcome: expect["outcome"].as_str().and_then(|word| word.parse().ok()).expect(&name),
            reason: expect["reason"].as_str().map(str::to_owned),
            path,
        }
    }

    fn sent_by(&self, sender: &dyn Source, now: Time) -> SenderRequest {
        sender.as_sender(self.body.clone(), self.headers.clone(), now)
    }
}

/// Every kind of source, with how its sender is known and its fixtures in the order of their names.
fn kinds() -> Vec<(&'static Sender, Vec<Fixture>)> {
    let known = |kind| SENDERS.iter().find(|sender| sender.kind == kind);
    let described = |kind: &callbackd::sources::Kind| {
        let sender = known(kind.name).unwrap_or_else(|| panic!("say here how the sender of {} is known", kind.name));
        let folder = fixtures().join(kind.name);
        let files = fs::read_dir(&folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
        paths.retain(|path| {
            let name = path.to_string_lossy();
            name.ends_with(".xml") || name.ends_with(".json") && !name.ends_with(".expect.json")
        });
        paths.sort_by_key(|path| path.file_stem().map(ToOwned::to_owned));
        (sender, paths.into_iter().map(Fixture::read).collect())
    };
    KINDS.iter().map(described).collect()
}

fn raw(sent: SenderRequest) -> RawRequest {
    let SenderRequest { method, suffix, headers, body } = sent;
    let (rest, query) = match suffix.split_once('?') {
        Some((rest, query)) => (rest, Some(query.to_owned())),
        None => (suffix.as_str(), None),
    };
    let rest = rest.trim_start_matches('/').to_owned();
    RawRequest { method, rest, query, headers, body, peer: [192, 0, 2, 1].into() }
}

fn authenticate(source: &dyn Source, sent: SenderRequest, now: Time) -> Result<Receipt, AuthError> {
    let done = source.authenticate(raw(sent), now);
    let said = format!("{done:?}");
    assert!(!said.contains(NEEDLE), "a credential is kept or said: {said}");
    done
}

#[test]
fn every_kind_has_fixtures_of_both_sorts() {
    let named: BTreeSet<_> = KINDS.iter().map(|kind| kind.name).collect();
    let described: BTreeSet<_> = SENDERS.iter().map(|sender| sender.kind).collect();
    assert_eq!(named, described, "kinds, and what is said of them here");
    for (sender, fixtures) in kinds() {
        for outcome in [ReceiptStatus::Accepted, ReceiptStatus::Quarantined] {
            assert!(fixtures.iter().any(|f| f.outcome == outcome), "{} has nothing to be {outcome}", sender.kind);
        }
    }
    let folders = fs::read_dir(fixtures()).expect("fixtures").map(|entry| entry.expect("an entry").path());
    for folder in folders.filter(|path| path.is_dir()) {
        let name = folder.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(named.contains(name), "no source takes the fixtures in {}", folder.display());
    }
}

/// Everything that a store can show, counted.
async fn counted(store: &SqliteStore, recorded: &Recorded) -> (usize, Vec<usize>) {
    let deliveries = store.deliveries(Filter::default()).await.expect("deliveries").len();
    let mut changes = Vec::new();
    for id in &recorded.executions {
        let shown = store.execution(id.to_string()).await.expect("an execution");
        changes.push(shown["changes"].as_array().expect("changes").len());
    }
    (deliveries, changes)
}

#[tokio::test]
async fn a_fixture_is_taken_for_what_it_is_and_its_repeat_changes_nothing() {
    for (sender, fixtures) in kinds() {
        let folder = tempfile::tempdir().expect("a folder");
        let store = SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("a store");
        let route = Route { from: vec!["it".to_owned()], when: None, to: vec!["sink".to_owned()] };
        let rules = Arc::new(Rules { routes: vec![route], ..Rules::default() });
        let source = sender.source(&[NEW, OLD]);
        let take = async |fixture: &Fixture, now: Time| {
            let receipt = authenticate(&*source, fixture.sent_by(&*source, now), now).expect("authentic");
            for name in sender.credentials {
                assert_eq!(receipt.header(name), None, "{name} is a credential, and is kept");
            }
            assert_eq!((&receipt.body, receipt.received_at), (&fixture.body, now), "kept byte for byte");
            let parsed = source.parse(&receipt).map_or_else(|e| Parsed::Quarantined(e.0), Parsed::Updates);
            let recorded = store.record(receipt, parsed, Arc::clone(&rules)).await.expect("recorded");
            let (row, _) = store.receipt(recorded.receipt).await.expect("kept");
            (recorded, row.reason.unwrap_or_default())
        };
        for (place, fixture) in fixtures.iter().enumerate() {
            let name = fixture.path.display();
            let now = NOW.plus_ms(place as u64 * 600_000);
            let (first, reason) = take(fixture, now).await;
            assert_eq!(first.outcome, fixture.outcome, "{name}: {reason}");
            let expected = fixture.reason.as_deref().unwrap_or_default();
            assert!(reason.contains(expected), "{name}: {reason}");
            let news = fixture.outcome == ReceiptStatus::Accepted;
            assert_eq!(first.wake.is_empty(), !news, "{name}");
            let before = counted(&store, &first).await;

            // Hours later, signed anew.
            let (second, _) = take(fixture, now.plus_ms(7_200_000)).await;
            let repeat = if news { ReceiptStatus::Duplicate } else { fixture.outcome };
            assert_eq!((second.outcome, second.wake.len()), (repeat, 0), "{name}, again");
            assert_eq!(second.executions, first.executions, "{name}, again");
            assert_eq!(counted(&store, &second).await, before, "{name}, again");
        }
        store.close().await;
    }
}

#[test]
fn only_who_is_known_gets_in() {
    for (sender, fixtures) in kinds() {
        let source = sender.source(&[NEW, OLD]);
        let [new, old, other, nobody] =
            [&[NEW][..], &[OLD], &[OTHER], &[]].map(|credentials| sender.source(credentials));
        for fixture in &fixtures {
            let name = fixture.path.display();
            let by = |who: &dyn Source, at| authenticate(&*source, fixture.sent_by(who, at), NOW);
            // Two at once, while they are rotated.
            by(&*new, NOW).expect("the new credential");
            by(&*old, NOW).expect("the old credential");
            let wrong = by(&*other, NOW);
            assert!(matches!(wrong, Err(AuthError::Wrong(_))), "{name}: {wrong:?}");
            let missing = by(&*nobody, NOW);
            assert!(matches!(missing, Err(AuthError::Missing(_))), "{name}: {missing:?}");
            if sender.vouches == Vouches::ForBodyAndTime {
                for (signed_at, fresh) in [(-301, false), (-300, true), (300, true), (301, false)] {
                    let done = by(&*new, Time::from_seconds(NOW.seconds() + signed_at));
                    let held = if fresh { done.is_ok() } else { matches!(done, Err(AuthError::Stale(_))) };
                    assert!(held, "{name}, signed {signed_at} s from now: {done:?}");
                }
            }
        }
        // What nobody has to sign is still what it is.
        authenticate(&*nobody, fixtures[0].sent_by(&*nobody, NOW), NOW).expect("anybody's");
    }
}

#[test]
fn a_flipped_bit_in_what_is_vouched_for_does_not_get_in() {
    for (sender, fixtures) in kinds() {
        let source = sender.source(&[NEW, OLD]);
        let refused = |sent: SenderRequest, what: &str| {
            assert!(authenticate(&*source, sent, NOW).is_err(), "{}: {what} was flipped, and it got in", sender.kind);
        };
        let flipped = |bytes: &[u8], at: usize, bit: usize| {
            let mut bytes = bytes.to_vec();
            bytes[at] ^= 1 << bit;
            bytes
        };
        // The URL and the headers are alike for all of a kind; one fixture shows them.
        let first = || fixtures[0].sent_by(&*source, NOW);
        let sent = first();
        if sender.vouches == Vouches::ForTheUrl {
            assert!(sent.suffix.starts_with('?'), "{}", sent.suffix);
            for (at, bit) in (1..sent.suffix.len()).flat_map(|at| (0..7).map(move |bit| (at, bit))) {
                let suffix = String::from_utf8(flipped(sent.suffix.as_bytes(), at, bit)).expect("ASCII");
                refused(SenderRequest { suffix, ..first() }, &format!("bit {bit} of byte {at} of the URL"));
            }
            continue;
        }
        for (name, value) in sent.headers.iter().filter(|(name, _)| name.as_str().starts_with("x-")) {
            for (at, bit) in (0..value.len()).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                let Ok(value) = HeaderValue::from_bytes(&flipped(value.as_bytes(), at, bit)) else { continue };
                let mut sent = first();
                sent.headers.insert(name, value);
                refused(sent, &format!("bit {bit} of byte {at} of {name}"));
            }
        }
        for fixture in &fixtures {
            for at in 0..fixture.body.len() {
                let mut sent = fixture.sent_by(&*source, NOW);
                sent.body = flipped(&sent.body, at, at % 8).into();
                refused(sent, &format!("byte {at} of {}", fixture.path.display()));
            }
        }
    }
}

#[test]
fn no_cut_and_no_flipped_bit_breaks_the_parser() {
    for (sender, fixtures) in kinds() {
        let source = sender.source(&[]);
        let parse = |fixture: &Fixture, body: Bytes| {
            let sent = source.as_sender(body, fixture.headers.clone(), NOW);
            source.parse(&authenticate(&*source, sent, NOW).expect("anybody's"))
        };
        for fixture in &fixtures {
            // A fixture larger than these is cut in larger steps.
            let step = fixture.body.len().div_ceil(4_000).max(1);
            for at in (0..fixture.body.len()).step_by(step) {
                // Whatever is left may be understood or not; it never panics, and what it says stays small.
                if let Err(e) = parse(fixture, fixture.body.slice(..at)) {
                    assert!(!e.0.is_empty() && e.0.len() < 500, "{}, cut at {at}: {e}", fixture.path.display());
                }
                let mut flipped = fixture.body.to_vec();
                flipped[at] ^= 1 << (at % 8);
                let _ = parse(fixture, flipped.into());
            }
        }
    }
}

#[test]
fn what_is_cut_off_never_says_that_anything_succeeded() {
    for (sender, fixtures) in kinds() {
        let source = sender.source(&[]);
        for fixture in fixtures.iter().filter(|f| f.outcome != ReceiptStatus::Quarantined) {
            let understood = |body: Bytes| {
                let sent = source.as_sender(body, fixture.headers.clone(), NOW);
                source.parse(&authenticate(&*source, sent, NOW).expect("anybody's")).ok()
            };
            let whole = understood(fixture.body.clone()).expect("understood");
            for at in 0..fixture.body.len() {
                let left = understood(fixture.body.slice(..at));
                let same = left.as_ref().is_none_or(|left| *left == whole);
                assert!(same, "{}, cut at {at}, says {left:?}", fixture.path.display());
            }
        }
    }
}
