//! Leases that nobody knows of any more: of claims whose answers were lost, and those that could not be given back.

use std::sync::Arc;

use callbackd::model::{Delivery, Status};
use callbackd::store::Store as _;
use callbackd::store::postgres::PostgresStore;
use tempfile::TempDir;

use super::{replicas, server};
use crate::rig::until;
use crate::store::{at, claim, record, update};
use crate::stores::postgres::{address, ask};

const LEASED: &str = "SELECT count(*) FROM deliveries WHERE status = 'leased'";

/// From now on nothing is given back; until `mend`.
fn refuse(server: &str, folder: &TempDir) {
    ask(
        server,
        folder,
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'not now'; END $$;
         CREATE TRIGGER refuse BEFORE UPDATE ON deliveries FOR EACH ROW
             WHEN (OLD.status = 'leased' AND NEW.status = 'waiting') EXECUTE FUNCTION refuse()",
    );
}

fn mend(server: &str, folder: &TempDir) {
    ask(server, folder, "DROP TRIGGER refuse ON deliveries; DROP FUNCTION refuse");
}

async fn two_that_wait(server: &str, folder: &TempDir) -> Arc<PostgresStore> {
    let store = replicas(server, folder, 1).await.remove(0);
    for key in ["i1", "i2"] {
        record(&*store, "media", at(0), vec![update(key, Status::Failed)]).await;
    }
    store
}

fn ids(deliveries: &[Delivery]) -> Vec<i64> {
    deliveries.iter().map(|delivery| delivery.id).collect()
}

#[tokio::test]
async fn what_was_leased_by_a_claim_whose_answer_was_lost_is_given_back_also_at_the_second_time() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let store = two_that_wait(&server, &folder).await;
    // Who asks has gone before the database answers, which it does all the same.
    let (client, connection) =
        tokio_postgres::connect(&address(&server, &folder), tokio_postgres::NoTls).await.expect("connects");
    tokio::spawn(connection);
    client.batch_execute("BEGIN; LOCK TABLE deliveries IN EXCLUSIVE MODE").await.expect("locked");
    let lost = tokio::spawn({
        let store = Arc::clone(&store);
        async move { claim(&*store, "a", at(1)).await }
    });
    // Not who looks whether somebody is gone, which waits for the same.
    let waits = "SELECT count(*) FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 WHERE NOT l.granted AND a.application_name = current_schema() AND a.query LIKE 'WITH leased AS%'";
    until("it waits", async || (ask(&server, &folder, waits) > 0).then_some(())).await;
    lost.abort();
    assert!(lost.await.expect_err("aborted").is_cancelled());
    client.batch_execute("COMMIT").await.expect("committed");
    until("it is leased", async || (ask(&server, &folder, LEASED) == 2).then_some(())).await;
    refuse(&server, &folder);
    let claimed = store.claim("a".to_owned(), 10, 30_000, at(2), at(2)).await;
    assert!(claimed.expect_err("not now").to_string().contains("not now"));
    mend(&server, &folder);
    assert_eq!(claim(&*store, "a", at(3)).await.len(), 2);
}

#[tokio::test]
async fn what_could_not_be_given_back_is_given_back_later() {
    let (server, folder) = (server(), TempDir::new().expect("a folder"));
    let store = two_that_wait(&server, &folder).await;
    let claimed = store.claim("a".to_owned(), 10, 30_000, at(1), at(1)).await.expect("claimed");
    refuse(&server, &folder);
    for delivery in &claimed.deliveries {
        store.release(vec![delivery.id], claimed.until).await.expect_err("not now");
    }
    // Whichever sink is asked for next.
    store.claim("b".to_owned(), 10, 30_000, at(2), at(2)).await.expect_err("not now");
    mend(&server, &folder);
    assert_eq!(claim(&*store, "b", at(2)).await.len(), 2);
    assert_eq!(ids(&claim(&*store, "a", at(2)).await), ids(&claimed.deliveries), "before the lease's end");
}
