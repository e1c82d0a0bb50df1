//! A store in a PostgreSQL whose answers get lost on the way, and the configuration that is shipped for several. `make postgres`
//! starts the server; without it nothing here runs.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use callbackd::config::{Config, Environment};
use callbackd::model::Status;
use callbackd::store::Store as _;
use callbackd::store::postgres::{Address, Options, PostgresStore};
use tempfile::TempDir;

use crate::rig::until;
use crate::store::{at, record, update};
use crate::stores::postgres::{address, ask, make, server};

#[test]
fn the_configuration_beside_the_compose_file_is_one() {
    let text = include_str!("../../config/compose/callbackd.toml");
    assert!(Config::from_toml(text, &Environment::default()).is_ok());
}

/// What lies between a store and its server, and can lose answers.
struct Relay {
    port: u16,
    is_losing: Arc<AtomicBool>,
}

impl Relay {
    fn before(server: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let relay = Relay { port: listener.local_addr().expect("an address").port(), is_losing: Arc::default() };
        let (to, is_losing) = (Relay::place(server).to_owned(), Arc::clone(&relay.is_losing));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(&to).expect("the server");
                let [up, down] = [(&near, &far), (&far, &near)]
                    .map(|(from, to)| (from.try_clone().expect("a stream"), to.try_clone().expect("a stream")));
                let is_losing = Arc::clone(&is_losing);
                std::thread::spawn(move || carry(up, || false));
                std::thread::spawn(move || carry(down, || is_losing.load(Ordering::Acquire)));
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
fn carry((mut from, mut to): (TcpStream, TcpStream), loses: impl Fn() -> bool) {
    let mut bytes = [0; 4096];
    while let Ok(read) = from.read(&mut bytes) {
        if read == 0 || loses() || to.write_all(&bytes[..read]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
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
