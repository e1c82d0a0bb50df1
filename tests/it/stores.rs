//! The store that the suite runs on: SQLite's file in a folder; or, where `CALLBACKD_TEST_POSTGRES` names a server, a schema
//! of its own there for each folder.

use std::sync::Arc;

use callbackd::store::Store;
use callbackd::store::moving::Move;
use callbackd::store::sqlite::portable as file;
use callbackd::store::sqlite::{Options, SqliteStore};
use tempfile::TempDir;

/// The store that belongs to the folder, opened again or made.
pub(crate) fn open(folder: &TempDir) -> Arc<dyn Store> {
    #[cfg(feature = "postgres")]
    if let Some(server) = postgres::server().filter(|_| !is_file(folder)) {
        return postgres::open(&server, folder);
    }
    Arc::new(SqliteStore::open(&folder.path().join("store.db"), &Options::default()).expect("opens"))
}

#[cfg(feature = "postgres")]
fn is_file(folder: &TempDir) -> bool {
    folder.path().join("store.db").exists()
}

/// The folder of another store, to which the one was moved that belongs to this folder: where there is a server, from it into
/// a file, and back.
pub(crate) async fn moved(folder: &TempDir) -> TempDir {
    let other = TempDir::new_in(folder.path().parent().expect("a folder")).expect("a folder");
    let path = |folder: &TempDir| folder.path().join("store.db");
    #[cfg(feature = "postgres")]
    let (from, to) = match postgres::server() {
        Some(server) if is_file(folder) => (file::to_read(&path(folder)), postgres::to_fill(&server, &other).await),
        Some(server) => (postgres::to_read(&server, folder).await, file::to_fill(&path(&other))),
        None => (file::to_read(&path(folder)), file::to_fill(&path(&other))),
    };
    #[cfg(not(feature = "postgres"))]
    let (from, to) = (file::to_read(&path(folder)), file::to_fill(&path(&other)));
    let mut stores = Move::of(from.expect("opens"), to.expect("opens"));
    stores.begin().await.expect("begins");
    stores.fill(&mut |_, _| {}).await.expect("filled");
    assert!(stores.hold().await.expect("held"), "it is in use");
    stores.end(&mut |_, _| {}).await.expect("moved");
    let found = stores.verify(&mut |_, _| {}).await.expect("compared");
    assert_eq!(found.first, None);
    other
}

/// Changes rows as nobody should.
pub(crate) fn spoil(folder: &TempDir, sql: &str) {
    #[cfg(feature = "postgres")]
    if let Some(server) = postgres::server() {
        postgres::ask(&server, folder, sql);
        return;
    }
    let conn = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    conn.execute_batch(sql).expect("spoiled");
}

/// The number that the statement answers.
pub(crate) fn count(folder: &TempDir, sql: &str) -> usize {
    #[cfg(feature = "postgres")]
    if let Some(server) = postgres::server() {
        return postgres::ask(&server, folder, sql);
    }
    let conn = rusqlite::Connection::open(folder.path().join("store.db")).expect("opens");
    conn.query_row(sql, [], |row| row.get::<_, i64>(0)).expect("counted") as usize
}

/// PostgreSQL, which `make postgres` starts.
#[cfg(feature = "postgres")]
pub(crate) mod postgres {
    use std::sync::{Arc, LazyLock};

    use callbackd::store::StoreError;
    use callbackd::store::moving::Opened;
    use callbackd::store::postgres::{Address, Durability, Options, PostgresStore, portable};
    use tempfile::TempDir;
    use tokio::runtime::Runtime;
    use tokio_postgres::{NoTls, SimpleQueryMessage};

    /// What the stores' own tasks live on, beyond the test that opened them.
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Runtime::new().expect("a runtime"));

    /// The address of a server with a database in which schemas may be made.
    #[expect(clippy::disallowed_methods, reason = "how the tests are run is said in the environment")]
    pub(crate) fn server() -> Option<String> {
        std::env::var("CALLBACKD_TEST_POSTGRES").ok()
    }

    /// The folder's own schema.
    pub(crate) fn address(server: &str, folder: &TempDir) -> String {
        let between = if server.contains('?') { '&' } else { '?' };
        let schema = schema(folder);
        format!("{server}{between}application_name={schema}&options=-csearch_path%3D{schema}")
    }

    fn schema(folder: &TempDir) -> String {
        let name = folder.path().file_name().and_then(|name| name.to_str()).expect("a name");
        name.bytes().fold("t".to_owned(), |hex, byte| format!("{hex}{byte:02x}"))
    }

    /// Waits for it on another thread: the caller's may be one that must not block.
    pub(crate) fn wait<T: Send>(future: impl Future<Output = T> + Send) -> T {
        std::thread::scope(|scope| scope.spawn(|| RUNTIME.block_on(future)).join()).expect("no panic")
    }

    pub(crate) async fn try_open(server: &str, folder: &TempDir, options: Options) -> Arc<PostgresStore> {
        let address = Address::parse(&address(server, folder), None, None).expect("an address");
        Arc::new(PostgresStore::open(address, options).await.expect("opens"))
    }

    pub(crate) async fn to_read(server: &str, folder: &TempDir) -> Result<Opened, StoreError> {
        portable::to_read(Address::parse(&address(server, folder), None, None).expect("an address")).await
    }

    pub(crate) async fn to_fill(server: &str, folder: &TempDir) -> Result<Opened, StoreError> {
        make(server, folder);
        let address = Address::parse(&address(server, folder), None, None).expect("an address");
        portable::to_fill(address, Durability::Full).await
    }

    pub(crate) fn open(server: &str, folder: &TempDir) -> Arc<PostgresStore> {
        make(server, folder);
        wait(try_open(server, folder, Options::default()))
    }

    /// Makes the folder's schema.
    pub(crate) fn make(server: &str, folder: &TempDir) {
        wait(simple(server.to_owned(), format!("CREATE SCHEMA IF NOT EXISTS {}", schema(folder))));
    }

    /// Runs a statement in the folder's schema; the number that it answers, if it answers one.
    pub(crate) fn ask(server: &str, folder: &TempDir, sql: &str) -> usize {
        wait(simple(address(server, folder), sql.to_owned()))
    }

    /// As if who has the first place had been silent for an hour; and what it says of itself from now on is not heard.
    pub(crate) fn silence(server: &str, folder: &TempDir) {
        let hour =
            "UPDATE replicas SET seen_at = clock_timestamp() - interval '1 hour', token = token - 1 WHERE slot = 0";
        ask(server, folder, hour);
    }

    async fn simple(address: String, sql: String) -> usize {
        let (client, connection) = tokio_postgres::connect(&address, NoTls).await.expect("connects");
        let driven = tokio::spawn(connection);
        let said = client.simple_query(&sql).await.expect("answers");
        driven.abort();
        let row = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        row.and_then(|number| number.parse().ok()).unwrap_or(0)
    }
}
