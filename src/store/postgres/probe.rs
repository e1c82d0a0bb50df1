//! What a database is to who asks before a daemon is started on it. Nothing is changed.

use tokio_postgres::Client;

use super::connect::{Address, fault};
use super::mark;
use super::server::{self, Durability};
use crate::store::StoreError;

/// Connects, and tells the server, how it is reached, the schema, and what a 2xx means with it; or why a daemon would not
/// start on it.
pub async fn probe(address: &Address, durability: Durability) -> Result<String, StoreError> {
    let client = address.open().await?;
    let means = server::check(&client, durability).await.map_err(StoreError::Unusable)?;
    mark::is_to_be_used(&client, address).await?;
    let version = "SELECT split_part(version(), ' ', 1) || ' ' || split_part(version(), ' ', 2)";
    let rows = client.query_typed(version, &[]).await.map_err(fault)?;
    let version: String = rows.first().map(|row| row.get(0)).unwrap_or_default();
    let (secrecy, schema) = (address.secrecy(), schema(&client).await?);
    Ok(format!("{version}, {secrecy}; {schema}; a 2xx means: {means}"))
}

async fn schema(client: &Client) -> Result<String, StoreError> {
    let sql =
        "SELECT current_schema(), current_user, coalesce(has_schema_privilege(current_schema(), 'CREATE'), FALSE),
                      to_regclass('callbackd_schema') IS NOT NULL";
    let rows = client.query_typed(sql, &[]).await.map_err(fault)?;
    let row = rows.first().ok_or_else(|| StoreError::Unavailable("the database says nothing of itself".to_owned()))?;
    let (user, may_create, is_there): (String, bool, bool) = (row.get(1), row.get(2), row.get(3));
    let Some(schema) = row.get::<_, Option<String>>(0) else {
        return Err(StoreError::Unusable("no schema of its search_path is there".to_owned()));
    };
    let (found, newest) = (if is_there { server::version(client).await? } else { 0 }, server::newest());
    let refused = || {
        let grant = format!("GRANT CREATE ON SCHEMA \"{schema}\" TO \"{user}\"");
        StoreError::Unusable(format!("{user} may make no tables there; let its owner say: {grant}"))
    };
    match found {
        0 if !may_create => Err(refused()),
        0 => Ok("no store yet, which the first start makes".to_owned()),
        found if found < newest && !may_create => Err(refused()),
        found if found < newest => Ok(format!("schema {found}, which the next start brings to {newest}")),
        found if found == newest => Ok(format!("schema {found}")),
        found => {
            server::may_go_on_beside(client, found).await?;
            Ok(format!("schema {found}, a newer callbackd's, beside which this one can go on"))
        }
    }
}
