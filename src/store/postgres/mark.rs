//! Whose the database is: the mark that everybody looks for who begins on it.
//!
//! With it goes the name of the table `line`, without which nobody stores anything: neither one who was taken for gone, nor an
//! older callbackd. A mark is known by who set it, and is only replaced by somebody who has seen it: of two who move the same
//! store, the one who came first finds that out before it does anything more.

use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, GenericClient, Transaction};

use super::connect::{Address, fault};
use super::replicas::GONE;
use super::tx::Values;
use crate::store::StoreError;
use crate::store::moving::{Mark, Name, Place, meanwhile};

/// A mark, and who set it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) mark: Mark,
    /// Nobody's is 0.
    pub(super) by: i64,
}

/// Whoever changes the mark holds this lock.
const LOCK: &str = "SET LOCAL idle_in_transaction_session_timeout = 10000;
                    SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' callbackd move', 0))";

/// The one value that a statement answers.
pub(super) async fn one<T>(client: &impl GenericClient, sql: &str) -> Result<T, StoreError>
where
    T: for<'a> FromSql<'a>,
{
    let rows = client.query_typed(sql, &[]).await.map_err(fault)?;
    let row = rows.first().ok_or_else(|| StoreError::Unusable("the database says nothing".to_owned()))?;
    row.try_get(0).map_err(fault)
}

/// The server's own identifier stays with all that follow it. Where there is none, its address has to do.
pub(super) async fn place(client: &Client, address: &Address) -> Result<Place, StoreError> {
    let schema: Option<String> = one(client, "SELECT current_schema()::text").await?;
    let Some(schema) = schema else {
        return Err(StoreError::Unusable(format!(
            "{}: there is no schema of that name that this user may look into; `CREATE SCHEMA` makes one, and `GRANT` lets the \
             user in",
            address.url()
        )));
    };
    let base: String = one(client, "SELECT current_database()::text").await?;
    let server = one::<String>(client, "SELECT system_identifier::text FROM pg_control_system()").await;
    let other = if schema == "public" { String::new() } else { format!("?options=-csearch_path%3D{schema}") };
    let formerly = format!("postgres://{}{other}", address.place());
    let store = match server {
        Ok(server) => format!("postgres:{server}/{base}/{schema}"),
        Err(_) => formerly.clone(),
    };
    Ok(Place { url: address.url().to_owned(), store, formerly })
}

/// Why nobody begins on it, where it was moved, or is being filled. Who begins asks with a place taken: so either who moves
/// it sees that, or this sees the mark.
pub(super) async fn is_to_be_used(client: &Client, address: &Address) -> Result<(), StoreError> {
    match read(client).await?.mark {
        Mark::Plain => Ok(()),
        mark => mark.refusal(&place(client, address).await?),
    }
}

pub(super) async fn read(client: &impl GenericClient) -> Result<Said, StoreError> {
    if !one::<bool>(client, "SELECT to_regclass('callbackd_move') IS NOT NULL").await? {
        return Ok(Said::default());
    }
    let rows = client.query_typed("SELECT * FROM callbackd_move", &[]).await.map_err(fault)?;
    let Some(row) = rows.first() else { return Ok(Said::default()) };
    // An older mark holds no more than state and place.
    let (store, by) = if row.len() > 2 { (row.get(2), row.get(3)) } else { (None, 0) };
    Ok(Said { mark: Mark::of(row.get(0), Name { url: row.get(1), store }), by })
}

/// Says it, unless somebody has said something else since.
pub(super) async fn replace(client: &mut Client, at: &Place, seen: &Said, said: &Said) -> Result<(), StoreError> {
    let tx = client.transaction().await.map_err(fault)?;
    tx.batch_execute(LOCK).await.map_err(fault)?;
    // Without a mark there is nobody's name.
    let now = read(&tx).await?;
    if now != *seen && (now.mark != Mark::Plain || seen.mark != Mark::Plain) {
        return Err(meanwhile(at));
    }
    tx.batch_execute("DROP TABLE IF EXISTS callbackd_move").await.map_err(fault)?;
    let rename = match said.mark.parts() {
        Some((state, name)) => {
            let table = "CREATE TABLE callbackd_move (state TEXT NOT NULL, place TEXT NOT NULL, store TEXT, by_whom BIGINT NOT NULL)";
            tx.batch_execute(table).await.map_err(fault)?;
            let values: &Values<'_> =
                &[(&state, Type::TEXT), (&name.url, Type::TEXT), (&name.store, Type::TEXT), (&said.by, Type::INT8)];
            tx.execute_typed("INSERT INTO callbackd_move VALUES ($1, $2, $3, $4)", values).await.map_err(fault)?;
            "ALTER TABLE IF EXISTS line RENAME TO line_of_another"
        }
        None => "ALTER TABLE IF EXISTS line_of_another RENAME TO line",
    };
    tx.batch_execute(rename).await.map_err(fault)?;
    tx.commit().await.map_err(fault)
}

/// That the mark is still the one of `by`, and stays so until this transaction ends.
pub(super) async fn still(tx: &Transaction<'_>, at: &Place, by: i64) -> Result<(), StoreError> {
    let rows = tx.query_typed("SELECT by_whom FROM callbackd_move FOR SHARE", &[]).await;
    match rows.as_deref() {
        Ok([row]) if row.get::<_, i64>(0) == by => Ok(()),
        Ok(_) => Err(meanwhile(at)),
        Err(e) if e.as_db_error().is_some() => Err(meanwhile(at)),
        Err(_) => rows.map(drop).map_err(fault),
    }
}

/// Whether somebody says that it is there.
pub(super) async fn is_used(client: &Client) -> Result<bool, StoreError> {
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM replicas WHERE seen_at > clock_timestamp() - make_interval(secs => {GONE}))"
    );
    one(client, &sql).await
}
