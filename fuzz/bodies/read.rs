//! Callbacks' bodies, from somebody who is known.

use std::sync::LazyLock;

use bytes::Bytes;
use callbackd::model::{Receipt, State, Update, Verdict};
use callbackd::sources::{RawRequest, SenderRequest, Source};
use http::HeaderMap;

use super::{NOW, holds_the_needle, must_be_fit_to_say, source_of, text, twins};

static COS: LazyLock<Box<dyn Source>> = LazyLock::new(|| {
    source_of("[sources.it]\nkind = \"cos_workflow\"\npath = \"/it\"\ntoken = \"hunter2-token\"\nelements_max = 2000\n")
});

static PORT: LazyLock<Box<dyn Source>> = LazyLock::new(|| {
    source_of(
        "[sources.it]\nkind = \"port_action\"\npath = \"/it\"\nsecret = \"hunter2-secret\"\nelements_max = 2000\n",
    )
});

pub(super) fn cos_xml(body: &[u8]) {
    let Some(updates) = understood(&**COS, body) else { return };
    if let Some(twin) = twins::commented(text(body)) {
        assert_eq!(understood(&**COS, twin.as_bytes()).as_ref(), Some(&updates), "with comments: {twin}");
    }
}

pub(super) fn cos_json(body: &[u8]) {
    as_json(&**COS, body);
}

pub(super) fn port_action(body: &[u8]) {
    as_json(&**PORT, body);
}

fn as_json(source: &dyn Source, body: &[u8]) {
    let Some(updates) = understood(source, body) else { return };
    if let Some(twin) = twins::airy(text(body)) {
        assert_eq!(understood(source, twin.as_bytes()).as_ref(), Some(&updates), "with blanks: {twin}");
    }
    if let Some(twin) = twins::reordered(text(body)) {
        let again = understood(source, twin.as_bytes()).map(sorted);
        assert_eq!(again, Some(sorted(updates)), "reordered: {twin}");
    }
}

/// Without the order in which things were first heard of.
fn sorted(mut updates: Vec<Update>) -> Vec<Update> {
    updates.iter_mut().for_each(|update| update.tasks.sort_by(|a, b| a.key.cmp(&b.key)));
    updates.sort_by(|a, b| a.key.cmp(&b.key));
    updates
}

/// A request as its sender would make it.
pub(super) fn sent(source: &dyn Source, body: &[u8]) -> RawRequest {
    let SenderRequest { method, suffix, headers, body } =
        source.as_sender(Bytes::copy_from_slice(body), HeaderMap::new(), NOW);
    let (rest, query) = match suffix.split_once('?') {
        Some((rest, query)) => (rest, Some(query.to_owned())),
        None => (suffix.as_str(), None),
    };
    RawRequest { method, rest: rest.to_owned(), query, headers, body, peer: [192, 0, 2, 1].into() }
}

/// What the body says, if it is understood; and what holds of any that is, or is not.
pub(super) fn understood(source: &dyn Source, body: &[u8]) -> Option<Vec<Update>> {
    let receipt = source.authenticate(sent(source, body), NOW).expect("who is known is let in");
    assert_eq!(receipt.body, body, "kept byte for byte");
    read(source, &receipt)
}

pub(super) fn read(source: &dyn Source, receipt: &Receipt) -> Option<Vec<Update>> {
    let once = source.parse(receipt);
    assert_eq!(once, source.parse(receipt), "a stored receipt is read again as it was read");
    match once {
        Err(e) => {
            if !holds_the_needle(&receipt.body) {
                must_be_fit_to_say(&e.0);
            }
            None
        }
        Ok(updates) => {
            assert!(!updates.is_empty(), "what says nothing is not understood");
            let kept: usize = updates.iter().map(holds).sum();
            // A task takes some 300 bytes with its names, and the smallest is said in a dozen.
            let room = 4096 + 64 * receipt.body.len();
            assert!(kept <= room, "{} bytes make {kept}", receipt.body.len());
            Some(updates)
        }
    }
}

/// What holds of anything that a vendor says: it is kept as it is held to be true, and said again it is no news. Returns
/// how many bytes are kept.
pub(super) fn holds(update: &Update) -> usize {
    assert!(!update.key.is_empty(), "an execution has a key");
    assert!(update.tasks.iter().all(|task| !task.key.is_empty()), "a task has a key");
    let state = State::begin("it", update.clone()).state;
    let snapshot = state.snapshot();
    assert_eq!(State::of_snapshot(&snapshot).expect(&snapshot), state, "as it is stored");
    let again = state.judge(update.identity.as_deref().into_iter(), update);
    assert!(!matches!(again, Verdict::Accepted(_)), "a repeat is news: {again:?}");
    let anonymous = state.judge(std::iter::empty(), update);
    assert!(!matches!(anonymous, Verdict::Accepted(_)), "a repeat says more than it said: {anonymous:?}");
    snapshot.len()
}
