//! A store in a PostgreSQL whose answers get lost on the way, and the configuration that is shipped for several. `make postgres`
//! starts the server; without it nothing here runs.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use callbackd::config::{Config, Environment};
use callbackd::model::{ReceiptStatus, Status};
use callbackd::store::moving::{Begun, Move};
use callbackd::store::postgres::{Address, Durability, Options, PostgresStore, portable};
use callbackd::store::sqlite::{self, SqliteStore};
use callbackd::store::{Parsed, Store as _, StoreError};
use tempfile::TempDir;

use crate::rig::until;
use crate::store::{at, record, try_record, update};
use crate::stores::postgres::{address, ask, make, server};

#[test]
fn the_configuration_beside_the_compose_file_is_one() {
    let text = include_str!("../../config/compose/callbackd.toml");
    assert!(Config::from_toml(text, &Environment::default()).is_ok());
}

/// What lies between a store and its server, and can lose answers, or have the server warn at each commit as it does when
/// somebody ends its wait for the standbys.
struct Relay {
    port: u16,
    is_losing: Arc<AtomicBool>,
    is_warning: Arc<AtomicBool>,
}

impl Relay {
    fn before(server: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let relay = Relay { port, is_losing: Arc::default(), is_warning: Arc::default() };
        let (is_losing, is_warning) = (Arc::clone(&relay.is_losing), Arc::clone(&relay.is_warning));
        let to = Relay::place(server).to_owned();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(&to).expect("the server");
                let [up, down] = [(&near, &far), (&far, &near)]
                    .map(|(from, to)| (from.try_clone().expect("a stream"), to.try_clone().expect("a stream")));
                let (is_losing, is_warning) = (Arc::clone(&is_losing), Arc::clone(&is_warning));
                std::thread::spawn(move || carry(up, |asked| Some(asked.to_vec())));
                std::thread::spawn(move || {
                    carry(down, |said| match is_losing.load(Ordering::Acquire) {
                        true => None,
                        false if is_warning.load(Ordering::Acquire) => Some(warned(said)),
                        false => Some(said.to_vec()),
                    });
                });
            }
        });
        relay
    }

    fn place(server: &str) -> &str {
        server.split_once('@').and_then(|(_, rest)| rest.split_once('/')).expect("an address").0
    }

    /// The same address, by way of it.
    fn address(&self, address: &str) -> Address {
        let there = address.replace(Relay::place(address), &format!("127.0.0.1:{}", self.port));
        Address::parse(&there, None, None).expect("an address")
    }
}

/// Hands on what comes, until an answer is lost, and with it the connection.
fn carry((mut from, mut to): (TcpStream, TcpStream), as_heard: impl Fn(&[u8]) -> Option<Vec<u8>>) {
    let mut bytes = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut bytes) {
        if as_heard(&bytes[..read]).is_none_or(|heard| to.write_all(&heard).is_err()) {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}

/// The same answer, with a warning before the word that it was committed.
fn warned(said: &[u8]) -> Vec<u8> {
    let committed = b"C\0\0\0\x0bCOMMIT\0";
    let Some(at) = said.windows(committed.len()).position(|some| some == committed) else { return said.to_vec() };
    let fields = b"SWARNING\0VWARNING\0C01000\0Mcanceling wait for synchronous replication due to user request\0\0";
    let length = u32::try_from(fields.len() + 4).expect("short").to_be_bytes();
    [&said[..at], b"N", &length, fields, &said[at..]].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_did_not_wait_for_its_standbys_does_not_count() {
    let (server, folder) = (server().expect("`make postgres` starts it"), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let relay = Relay::before(&server);
    let by_relay = || relay.address(&address(&server, &folder));
    let warns = |warns| relay.is_warning.store(warns, Ordering::Release);
    let path = folder.path().join("store.db");
    let file = SqliteStore::open(&path, &sqlite::Options::default()).expect("opens");
    record(&file, "media", at(0), vec![update("i1", Status::Failed)]).await;
    file.close().await;

    // The words of a move, with which all that was written before counts.
    let opened = async || {
        let from = sqlite::portable::to_read(&path).expect("opens");
        Move::of(from, portable::to_fill(by_relay(), Durability::Full).await.expect("opens"))
    };
    let is_unsure = |why: StoreError| {
        let why = why.to_string();
        assert!(why.contains("did not wait for its standbys; run it again"), "{why}");
    };
    let mut stores = opened().await;
    warns(true);
    is_unsure(stores.begin().await.expect_err("unsure"));
    warns(false);
    let mut stores = opened().await;
    stores.begin().await.expect("begins");
    assert!(stores.hold().await.expect("held"));
    warns(true);
    is_unsure(stores.end(&mut |_, _| {}).await.expect_err("unsure"));
    warns(false);
    // Before the rows are at the standbys, the other store is not given up.
    drop(stores);
    SqliteStore::open(&path, &sqlite::Options::default()).expect("it was not moved").close().await;
    let mut stores = opened().await;
    assert_eq!(stores.begin().await.expect("begins"), Begun::Again);
    assert!(stores.hold().await.expect("held"));
    stores.end(&mut |_, _| {}).await.expect("moved");
    let done = opened().await.begin().await.expect_err("it is at its end").to_string();
    assert!(done.contains("nothing is left to do"), "{done}");

    let store = PostgresStore::open(by_relay(), Options::default()).await.expect("opens");
    warns(true);
    let ended = || Parsed::Updates(vec![update("i2", Status::Failed)]);
    let unsure = try_record(&store, "media", at(1), ended()).await;
    assert!(matches!(unsure, Err(StoreError::Unavailable(_))), "{unsure:?}");
    warns(false);
    let again =
        until("it takes callbacks again", async || try_record(&store, "media", at(2), ended()).await.ok()).await;
    assert_eq!(again.outcome, ReceiptStatus::Duplicate, "it was kept here");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_leased_by_a_claim_whose_answer_is_lost_is_claimed_again_at_once() {
    let (server, folder) =
        (server().expect("CALLBACKD_TEST_POSTGRES, which `make postgres` sets"), TempDir::new().expect("a folder"));
    make(&server, &folder);
    let relay = Relay::before(&server);
    let store = PostgresStore::open(relay.address(&address(&server, &folder)), Options::default()).await;
    let store = store.expect("opens");
    record(&store, "media", at(0), vec![update("i1", Status::Failed)]).await;
    let claim = async || store.claim("a".to_owned(), 10, 60_000, at(1), at(1)).await;
    relay.is_losing.store(true, Ordering::Release);
    assert!(claim().await.is_err(), "its answer was to be lost");
    relay.is_losing.store(false, Ordering::Release);
    assert_eq!(ask(&server, &folder, "SELECT count(*) FROM deliveries WHERE sink = 'a' AND status = 'leased'"), 1);
    let claimed = until("the database answers again", async || claim().await.ok()).await;
    assert_eq!(claimed.deliveries.len(), 1);
    store.close().await;
}
