//! What kind of server it is: whether what it calls committed is on stable storage, whether it can be written, and its
//! schema, brought up to date.

use tokio_postgres::types::Type;
use tokio_postgres::{Client, GenericClient};

use super::connect::{Address, fault, said};
use super::tx::Wire;
use super::{mark, replicas};
use crate::store::{Replica, StoreError};

/// The steps of the schema, in order; each with the oldest schema whose callbackd may go on beside it.
///
/// While one callbackd after the other is replaced, old ones and new ones share the database: so a step adds (a table, a
/// column with a default, an index, a view), and what it takes away nobody reads or writes by then. A step that cannot do
/// without raises that number: older ones then end as soon as they notice, and are refused.
const STEPS: &[(&str, i32)] = &[
    (include_str!("../migrations/postgres/0001_initial.sql"), 1),
    (include_str!("../migrations/postgres/0002_shared.sql"), 1),
    (include_str!("../migrations/postgres/0003_deliveries.sql"), 1),
];

/// Whether who needs at least the schema `oldest` has left this callbackd behind.
pub(super) fn is_too_new(oldest: i32) -> bool {
    usize::try_from(oldest).is_ok_and(|oldest| oldest > STEPS.len())
}

/// Whoever changes the schema holds this lock.
const LOCK: &str = "SET LOCAL idle_in_transaction_session_timeout = 10000;
                    SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' callbackd schema', 0))";

/// What is asked of the server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Only one that keeps what it calls committed.
    #[default]
    Full,
    /// The operator says that it may lose what was acknowledged.
    MayLose,
}

impl From<bool> for Durability {
    fn from(may_lose: bool) -> Durability {
        if may_lose { Durability::MayLose } else { Durability::Full }
    }
}

/// What a look at a database finds.
pub struct Seen {
    /// What a 2xx means with it.
    pub means: String,
    /// Who shares it.
    pub replicas: Vec<Replica>,
}

/// Looks at the database, and changes nothing.
pub async fn look(address: Address, durability: Durability) -> Result<Seen, StoreError> {
    let client = address.open().await?;
    mark::is_to_be_used(&client, &address).await?;
    let means = check(&client, durability).await.map_err(StoreError::Unusable)?;
    let replicas = replicas::all(&client, None).await?;
    Ok(Seen { means, replicas })
}

const SETTINGS: &str = "SELECT coalesce(current_setting('synchronous_commit', true), 'on'), coalesce(current_setting('fsync', true), 'on'),
    coalesce(current_setting('full_page_writes', true), 'on'), current_setting('transaction_read_only'),
    coalesce(current_setting('synchronous_standby_names', true), '')";

/// Why this server is not to be trusted with callbacks; else what a 2xx means with it.
pub(super) async fn check(client: &Client, durability: Durability) -> Result<String, String> {
    let rows = client.query_typed(SETTINGS, &[]).await.map_err(|e| format!("the database refuses: {}", said(&e)))?;
    let row = rows.first().ok_or("the database says nothing of its settings")?;
    let [commit, fsync, pages, read_only, standbys]: [String; 5] = std::array::from_fn(|at| row.get(at));
    if read_only == "on" {
        return Err("the database is read-only".to_owned());
    }
    let settings = [("synchronous_commit", &commit), ("fsync", &fsync), ("full_page_writes", &pages)];
    if let Some((name, _)) = settings.iter().find(|(_, value)| *value == "off")
        && durability == Durability::Full
    {
        return Err(format!(
            "the database runs with {name} = off, and may lose what it said was kept; turn it on, or write \
             [store] may_lose = true"
        ));
    }
    // Who follows is told to everybody; where there is no such view, nobody is named.
    let followers = client.query_typed(FOLLOWERS, &[]).await.ok();
    let followers = followers.as_ref().and_then(|rows| rows.first()).map_or(0, |row| row.get::<_, i64>(0));
    Ok(promise(&commit, &standbys, followers))
}

const FOLLOWERS: &str = "SELECT count(*) FROM pg_stat_replication WHERE coalesce(state, 'streaming') = 'streaming'";

/// What a 2xx means with these settings, while so many follow.
fn promise(commit: &str, standbys: &str, followers: i64) -> String {
    let waits = match commit {
        "off" => return "nothing; the server was told not to wait for its disk".to_owned(),
        "remote_write" => "received, not flushed, by",
        "remote_apply" => "applied by",
        _ => "on the disk of",
    };
    match (commit, standbys, followers) {
        ("local", _, 0) | (_, "", 0) => "on the server's disk; nobody follows it".to_owned(),
        ("local", ..) | (_, "", _) => format!(
            "on the primary's disk alone; {followers} standby(s) follow behind it, and may lack the last of it when they \
             take over"
        ),
        _ => format!("on the primary's disk, and {waits} the synchronous standby ({standbys})"),
    }
}

/// Tells a server from the one that was there before, or that takes over from it.
pub(super) async fn which(client: &Client) -> Result<String, tokio_postgres::Error> {
    let rows = client.query_typed("SELECT pg_postmaster_start_time()::text", &[]).await?;
    Ok(rows.first().map(|row| row.get(0)).unwrap_or_default())
}

pub(super) fn check_wire(wire: &Wire, durability: Durability) -> Result<(), String> {
    wire.runtime.block_on(check(&wire.client, durability)).map(drop)
}

/// Whether the schema is there, as this callbackd knows it.
pub(super) async fn is_current(client: &Client) -> Result<bool, StoreError> {
    if !is_there(client).await? {
        return Ok(false);
    }
    Ok(version(client).await? == newest())
}

/// The schema that this callbackd makes.
pub(super) fn newest() -> i32 {
    i32::try_from(STEPS.len()).unwrap_or(i32::MAX)
}

/// Which one is there, by the table that tells.
pub(super) async fn version(client: &Client) -> Result<i32, StoreError> {
    let rows = client.query_typed("SELECT max(version) FROM callbackd_schema", &[]).await.map_err(fault)?;
    Ok(rows.first().and_then(|row| row.get::<_, Option<i32>>(0)).unwrap_or(0))
}

/// Whether this one may go on beside those who made the schema `version`, which it does not know.
pub(super) async fn may_go_on_beside(client: &Client, version: i32) -> Result<(), StoreError> {
    let rows = client.query_typed("SELECT max(oldest) FROM callbackd_schema", &[]).await.map_err(fault)?;
    let oldest: i32 = rows.first().and_then(|row| row.get(0)).unwrap_or(version);
    match is_too_new(oldest) {
        false => Ok(()),
        true => Err(StoreError::Unusable(format!(
            "the database's schema is {version}, and who shares it has to know {oldest}; this callbackd knows {}: replace \
             it by the newer one",
            STEPS.len()
        ))),
    }
}

/// Whether there is a store. Refused where there is something else under its names.
pub(super) async fn is_there(client: &impl GenericClient) -> Result<bool, StoreError> {
    let sql = "SELECT to_regclass('callbackd_schema') IS NOT NULL, (
                   SELECT min(c.relname::text) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = current_schema() AND c.relname = ANY($1))";
    let names =
        ["receipts", "execution_heads", "deliveries", "attempts", "links", "replicas", "line", "executions", "tasks"];
    let rows = client.query_typed(sql, &[(&names.as_slice(), Type::TEXT_ARRAY)]).await.map_err(fault)?;
    let found = rows.first().map(|row| (row.get(0), row.get::<_, Option<String>>(1)));
    match found {
        Some((false, Some(name))) => Err(StoreError::Unusable(format!(
            "the database holds somebody else's {name}, and no store of callbackd's; name another database, or a schema of its \
             own (`?options=-csearch_path%3DNAME`)"
        ))),
        found => Ok(found.is_some_and(|(is_there, _)| is_there)),
    }
}

/// Brings the schema up to date. Several may come at once: one does it, the others wait for it.
pub(super) async fn migrate(client: &mut Client) -> Result<(), StoreError> {
    let tx = client.transaction().await.map_err(fault)?;
    tx.batch_execute(LOCK).await.map_err(fault)?;
    is_there(&tx).await?;
    tx.batch_execute("CREATE TABLE IF NOT EXISTS callbackd_schema (version INTEGER NOT NULL)").await.map_err(fault)?;
    let version = version(tx.client()).await?;
    let done = usize::try_from(version).unwrap_or(0);
    if done > STEPS.len() {
        may_go_on_beside(tx.client(), version).await?;
        tracing::info!("the database belongs to a newer callbackd already, beside which this one can go on");
    }
    for (at, (step, oldest)) in STEPS.iter().enumerate().skip(done) {
        let unusable =
            |e: tokio_postgres::Error| StoreError::Unusable(format!("step {} of the schema: {}", at + 1, said(&e)));
        tx.batch_execute(step).await.map_err(unusable)?;
        let next = i32::try_from(at + 1).unwrap_or(i32::MAX);
        // The column came with the second.
        let (sql, values): (_, &super::tx::Values<'_>) = match next {
            1 => ("INSERT INTO callbackd_schema (version) VALUES ($1)", &[(&next, Type::INT4)]),
            _ => (
                "INSERT INTO callbackd_schema (version, oldest) VALUES ($1, $2)",
                &[(&next, Type::INT4), (oldest, Type::INT4)],
            ),
        };
        tx.execute_typed(sql, values).await.map_err(unusable)?;
    }
    tx.commit().await.map_err(fault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_2xx_means_is_what_the_server_waits_for() {
        for (commit, standbys, followers, means) in [
            ("on", "", 0, "on the server's disk; nobody follows it"),
            ("on", "", 2, "on the primary's disk alone; 2 standby(s)"),
            ("local", "n2", 1, "on the primary's disk alone; 1 standby(s)"),
            ("on", "n2", 2, "and on the disk of the synchronous standby (n2)"),
            ("remote_apply", "ANY 1 (n2,n3)", 2, "and applied by the synchronous standby (ANY 1 (n2,n3))"),
            ("remote_write", "n2", 2, "and received, not flushed, by the synchronous standby (n2)"),
            // It waits for one who is not there.
            ("on", "*", 0, "synchronous standby (*)"),
            ("off", "n2", 2, "nothing"),
        ] {
            let said = promise(commit, standbys, followers);
            assert!(said.contains(means), "{commit} {standbys} {followers}: {said}");
        }
    }
}
