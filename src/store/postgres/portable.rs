//! The database as a move sees it: all its rows, in the shape that every store knows.
//!
//! Beside those who use it, it is only read. To be filled or ended it is held by a mark (`mark`), and written only for as
//! long as that is still this one's.

use tokio_postgres::Row as SqlRow;
use tokio_postgres::types::{ToSql, Type};

use super::connect::{Address, Session, fault};
use super::mark::{self, Said, one};
use super::read::{Read, ask};
use super::rows::owned;
use super::server::{self, Durability};
use super::tx::{NOT_AWAITED, identity};
use crate::Boxed;
use crate::store::StoreError;
use crate::store::moving::{BYTES, Cell, Ground, Kind, Mark, Opened, Place, ROWS, Row, Standing, TABLES, Table};

struct Base {
    place: Place,
    client: Session,
    /// It may be made, or brought up to date.
    is_to_be_filled: bool,
    /// What it said of itself when it was last looked at, or what was said since.
    seen: Said,
    /// By which marks of this one are known.
    token: i64,
}

/// A store, to be read beside whoever uses it.
pub async fn to_read(address: Address) -> Result<Opened, StoreError> {
    let base = open(&address).await?;
    if !server::is_current(&base.client).await? {
        return Err(StoreError::Unusable(format!(
            "{} holds no store of this callbackd's schema; start the daemon once to bring it up to date, or use the callbackd \
             that it belongs to",
            base.place.url
        )));
    }
    Ok(Opened(Box::new(base)))
}

/// A store to be filled, made when it is where there is none.
pub async fn to_fill(address: Address, durability: Durability) -> Result<Opened, StoreError> {
    let base = open(&address).await?;
    let keeps = server::check(&base.client, durability).await;
    keeps.map_err(|why| StoreError::Unusable(format!("{}: {why}", base.place.url)))?;
    Ok(Opened(Box::new(Base { is_to_be_filled: true, ..base })))
}

async fn open(address: &Address) -> Result<Base, StoreError> {
    let said = |e: StoreError| StoreError::Unavailable(format!("{}: {e}", address.place()));
    let client = address.open().await.map_err(said)?;
    let place = mark::place(&client, address).await?;
    let token = i64::from_ne_bytes(fastrand::u64(..).to_ne_bytes());
    Ok(Base { place, client, is_to_be_filled: false, seen: Said::default(), token })
}

/// How a column is read.
fn reading(table: &Table, (name, kind): &(&'static str, Kind)) -> String {
    match (table.read(name), kind) {
        (Some(other), Kind::Number | Kind::YesNo) => format!("({other})::int8"),
        (None, Kind::Number) => format!("{name}::int8"),
        (None, Kind::YesNo) => format!("{name}::int::int8"),
        (other, _) => other.unwrap_or(name).to_owned(),
    }
}

/// A column of what is written: its name, the type of a list of it, and how one of these becomes its value.
struct Column {
    name: &'static str,
    kind: Kind,
    cells: Vec<Cell>,
}

impl Column {
    fn list(&self) -> (&'static str, Type) {
        match self.kind {
            Kind::Number | Kind::YesNo => ("int8[]", Type::INT8_ARRAY),
            Kind::Text => ("text[]", Type::TEXT_ARRAY),
            Kind::Bytes | Kind::Key => ("bytea[]", Type::BYTEA_ARRAY),
        }
    }

    fn value(&self) -> String {
        match self.kind {
            Kind::YesNo => format!("n.{} <> 0", self.name),
            _ => format!("n.{}", self.name),
        }
    }

    fn values(self) -> Box<dyn ToSql + Sync + Send> {
        let bytes = |cell| match cell {
            Cell::Bytes(bytes) => Some(bytes),
            Cell::Text(text) => Some(text.into_bytes()),
            Cell::Null | Cell::Number(_) => None,
        };
        match self.kind {
            Kind::Number | Kind::YesNo => Box::new(self.cells.iter().map(Cell::number).collect::<Vec<_>>()),
            Kind::Text => Box::new(self.cells.iter().map(|cell| cell.text().map(owned)).collect::<Vec<_>>()),
            Kind::Bytes | Kind::Key => Box::new(self.cells.into_iter().map(bytes).collect::<Vec<_>>()),
        }
    }
}

/// The rows, column by column, with those that are this store's own.
fn columns(table: &Table, rows: Vec<Row>) -> Vec<Column> {
    let new = |name, kind| Column { name, kind, cells: Vec::with_capacity(rows.len()) };
    let mut columns: Vec<_> = table.id.map(|id| new(id, Kind::Number)).into_iter().collect();
    columns.extend(table.columns.iter().map(|(name, kind)| new(name, *kind)));
    let is_head = table.name == "execution_heads";
    if is_head {
        columns.extend([new("identity", Kind::Bytes), new("latest", Kind::Number)]);
    }
    for row in rows {
        let mut own = Vec::new();
        if is_head {
            let at = |name| table.position(name).map_or(&Cell::Null, |at| &row.cells[at]);
            let [source, key] = ["source", "key"].map(|name| at(name).text().unwrap_or_default());
            // Whoever begins on this store gives out ids above all that are in it.
            own = vec![Cell::Bytes(identity(source, key)), at("change").clone()];
        }
        let id = table.id.map(|_| Cell::Number(row.id));
        for (column, cell) in columns.iter_mut().zip(id.into_iter().chain(row.cells).chain(own)) {
            column.cells.push(cell);
        }
    }
    columns
}

impl Base {
    async fn rows(&mut self, table: &'static Table, after: i64) -> Read<Vec<Row>> {
        let id = table.id.unwrap_or("1");
        let only = table.only.map(|only| format!(" AND {only}")).unwrap_or_default();
        let names: Vec<_> = table.columns.iter().map(|column| reading(table, column)).collect();
        let select = format!("SELECT {id}::int8, {} FROM {} WHERE {id} > $1{only}", names.join(", "), table.name);
        let after: Values1<'_> = (&after, Type::INT8);
        let (rows, bytes) = (ROWS as i64, BYTES as i64);
        let snapshot = self.client.build_transaction().read_only(true).start().await.map_err(fault)?;
        let found = match (table.id, table.long) {
            (None, _) => ask(&snapshot, &select, &[after]).await?,
            (Some(id), None) => {
                let page = format!("SELECT {id} FROM {} WHERE {id} > $1{only} ORDER BY {id} LIMIT $2", table.name);
                let sql = format!("{select} AND {id} <= (SELECT max({id}) FROM ({page}) p) ORDER BY {id}");
                ask(&snapshot, &sql, &[after, (&rows, Type::INT8)]).await?
            }
            (Some(id), Some(long)) => {
                let page = format!(
                    "SELECT {id}, octet_length({long}) AS bytes FROM {} WHERE {id} > $1 ORDER BY {id} LIMIT $2",
                    table.name
                );
                let sql = format!(
                    "{select} AND {id} <= (SELECT max({id}) FROM (
                         SELECT {id}, coalesce(sum(bytes) OVER (ORDER BY {id} ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
                         FROM ({page}) p) q WHERE before < $3) ORDER BY {id}"
                );
                ask(&snapshot, &sql, &[after, (&rows, Type::INT8), (&bytes, Type::INT8)]).await?
            }
        };
        let row = |row: &SqlRow| {
            let id: i64 = row.get(0);
            let cells = table.columns.iter().enumerate().map(|(at, (_, kind))| cell(row, at + 1, *kind));
            let unreadable = || StoreError::Unusable(format!("{} {id} cannot be read", table.name));
            let cells = cells.collect::<Option<Vec<_>>>().ok_or_else(unreadable)?;
            Ok(Row { id, cells })
        };
        found.iter().map(row).collect()
    }

    async fn write(&mut self, table: &'static Table, gone: Vec<i64>, rows: Vec<Row>) -> Result<(), StoreError> {
        let tx = self.client.transaction().await.map_err(fault)?;
        mark::still(&tx, &self.place, self.token).await?;
        if !gone.is_empty() {
            let sql = format!("DELETE FROM {} WHERE {} = ANY($1)", table.name, table.id.unwrap_or("1"));
            tx.execute_typed(&sql, &[(&gone, Type::INT8_ARRAY)]).await.map_err(fault)?;
        }
        if !rows.is_empty() {
            let columns = columns(table, rows);
            let names: Vec<_> = columns.iter().map(|column| column.name).collect();
            let lists: Vec<_> =
                columns.iter().enumerate().map(|(at, column)| format!("${}::{}", at + 1, column.list().0)).collect();
            let values: Vec<_> = columns.iter().map(Column::value).collect();
            let (names, lists, values) = (names.join(", "), lists.join(", "), values.join(", "));
            let sql =
                format!("INSERT INTO {} ({names}) SELECT {values} FROM unnest({lists}) AS n ({names})", table.name);
            let cells: Vec<_> = columns.into_iter().map(|column| (column.list().1, column.values())).collect();
            if let Some((_, of_heads)) = cells.iter().rev().nth(1).filter(|_| table.name == "execution_heads") {
                // One that was let go of, and has begun anew under another id.
                let sql = "DELETE FROM execution_heads WHERE identity = ANY($1)";
                tx.execute_typed(sql, &[(&**of_heads, Type::BYTEA_ARRAY)]).await.map_err(fault)?;
            }
            let cells: Vec<_> =
                cells.iter().map(|(list, cells)| (&**cells as &(dyn ToSql + Sync), list.clone())).collect();
            tx.execute_typed(&sql, &cells).await.map_err(fault)?;
        }
        tx.commit().await.map_err(fault)
    }

    async fn look(&mut self) -> Result<Standing, StoreError> {
        self.seen = mark::read(&*self.client).await?;
        let is_empty = match server::is_there(&*self.client).await? {
            true => {
                let any = |table: &Table| format!("EXISTS (SELECT 1 FROM {})", table.name);
                let any: Vec<_> = TABLES.iter().map(any).collect();
                !one::<bool>(&*self.client, &format!("SELECT {}", any.join(" OR "))).await?
            }
            false => true,
        };
        Ok(Standing { mark: self.seen.mark.clone(), is_empty })
    }

    async fn set(&mut self, mark: Mark) -> Result<(), StoreError> {
        let warned = self.client.warnings();
        let said = Said { mark, by: self.token };
        mark::replace(&mut self.client, &self.place, &self.seen, &said).await?;
        self.seen = said;
        // With it, all that was written before is at the standbys. So one that did not wait for them is nobody's word.
        match self.client.warnings() == warned {
            true => Ok(()),
            false => Err(StoreError::Unavailable(format!("{}: {NOT_AWAITED}; run it again", self.place.url))),
        }
    }

    /// A mark says already that nobody is to use it, or this one does; who was taken for gone stores nothing without `line`.
    async fn take(&mut self, mark: Mark) -> Result<bool, StoreError> {
        if self.is_to_be_filled {
            server::migrate(&mut self.client).await?;
        }
        let before = self.seen.mark.clone();
        let may_be_used = before == Mark::Plain;
        if may_be_used && mark::is_used(&self.client).await? {
            return Ok(false);
        }
        self.set(mark).await?;
        // Who began in between has not seen the mark.
        let is_used = may_be_used && mark::is_used(&self.client).await?;
        if is_used {
            self.set(before).await?;
        }
        Ok(!is_used)
    }

    async fn counted(&self) -> Result<u64, StoreError> {
        let count = |table: &Table| format!("(SELECT count(*) FROM {})", table.name);
        let counts: Vec<_> = TABLES.iter().map(count).collect();
        Ok(one::<i64>(&*self.client, &format!("SELECT {}", counts.join(" + "))).await?.unsigned_abs())
    }
}

type Values1<'a> = (&'a (dyn ToSql + Sync), Type);

/// `None` of what is none.
fn cell(row: &SqlRow, at: usize, kind: Kind) -> Option<Cell> {
    Some(match kind {
        Kind::Number | Kind::YesNo => row.try_get::<_, Option<i64>>(at).ok()?.map_or(Cell::Null, Cell::Number),
        Kind::Text => row.try_get::<_, Option<String>>(at).ok()?.map_or(Cell::Null, Cell::Text),
        Kind::Bytes => row.try_get::<_, Option<Vec<u8>>>(at).ok()?.map_or(Cell::Null, Cell::Bytes),
        Kind::Key => Cell::Text(String::from_utf8(row.try_get(at).ok()?).ok()?),
    })
}

impl Ground for Base {
    fn place(&self) -> &Place {
        &self.place
    }

    fn stand(&mut self) -> Boxed<'_, Result<Standing, StoreError>> {
        Box::pin(self.look())
    }

    fn set_mark(&mut self, mark: Mark) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(self.set(mark))
    }

    fn hold(&mut self, mark: Mark) -> Boxed<'_, Result<bool, StoreError>> {
        Box::pin(self.take(mark))
    }

    fn count(&mut self) -> Boxed<'_, Result<u64, StoreError>> {
        Box::pin(self.counted())
    }

    fn last(&mut self, table: &'static Table) -> Boxed<'_, Result<i64, StoreError>> {
        Box::pin(async move {
            let sql = format!("SELECT coalesce(max({}), 0)::int8 FROM {}", table.id.unwrap_or("1"), table.name);
            one(&*self.client, &sql).await
        })
    }

    fn page(&mut self, table: &'static Table, after: i64) -> Boxed<'_, Result<Vec<Row>, StoreError>> {
        Box::pin(self.rows(table, after))
    }

    fn put(&mut self, table: &'static Table, gone: Vec<i64>, rows: Vec<Row>) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(self.write(table, gone, rows))
    }

    /// What was filled at once is not known to the server's planner yet.
    fn settle(&mut self) -> Boxed<'_, Result<(), StoreError>> {
        Box::pin(async move {
            for table in TABLES {
                self.client.batch_execute(&format!("ANALYZE {}", table.name)).await.map_err(fault)?;
            }
            Ok(())
        })
    }
}
