//! The open transaction: what the batch touches is read and locked at once before its commands run; what they write is
//! gathered, and sent at once behind them. Whatever else they ask for costs a round trip each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::runtime::Runtime;
use tokio_postgres::Row;
use tokio_postgres::types::{ToSql, Type};

use super::clocks::Apart;
use super::connect::Session;
use super::replicas::Place;
use super::rows::{Delivery, Execution, Writes};
use crate::model::{Rules, Time};
use crate::signature;
use crate::store::StoreError;

/// Callbackds that can share one database: each gives out ids with a remainder of its own.
pub(super) const SLOTS: i64 = 16;
/// Deliveries of a line that are read at once: the one that is settled, and who comes after it.
const LINE: i64 = 3;

/// What is locked is not held for long by one that the server hears nothing of any more: cut off, or stopped.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = 10000";

/// Said of a commit about which the server warned.
pub(super) const NOT_AWAITED: &str = "the database did not wait for its standbys";

/// Why a command did not go through.
#[derive(Debug)]
pub(super) enum Fault {
    /// PostgreSQL's: the transaction is spoiled.
    Sql(tokio_postgres::Error),
    /// A row that cannot be read: the same.
    Unreadable(String),
    /// It was committed, and may be lost all the same: why.
    Unsure(&'static str),
    /// An answer to the caller; nothing was written.
    Answer(StoreError),
}

impl From<tokio_postgres::Error> for Fault {
    fn from(e: tokio_postgres::Error) -> Fault {
        Fault::Sql(e)
    }
}

impl From<StoreError> for Fault {
    fn from(answer: StoreError) -> Fault {
        Fault::Answer(answer)
    }
}

pub(super) type Done<T = ()> = Result<T, Fault>;

/// A statement's values, each with its type: so that no round trip is needed to learn them, and no statement has a name,
/// which a pooler between us would not know in the next transaction.
pub(super) type Values<'a> = [(&'a (dyn ToSql + Sync), Type)];

/// What commands are known to touch: read and locked before the first one runs.
#[derive(Clone, Debug, Default)]
pub(super) struct Touches {
    pub(super) identities: Vec<Vec<u8>>,
    pub(super) deliveries: Vec<i64>,
    pub(super) sinks: Vec<String>,
    /// Of these, who is told the latest alone.
    pub(super) coalescing: Vec<String>,
}

impl Touches {
    /// These executions and deliveries, and what waits for the sinks that the rules know.
    pub(super) fn of(rules: &Rules, identities: Vec<Vec<u8>>, deliveries: Vec<i64>) -> Touches {
        let names = |coalesce: bool| {
            let sinks = rules.sinks.iter().filter(move |sink| !coalesce || sink.coalesce);
            sinks.map(|sink| sink.name.clone()).collect()
        };
        Touches { identities, deliveries, sinks: names(false), coalescing: names(true) }
    }

    pub(super) fn add(&mut self, other: &Touches) {
        self.identities.extend_from_slice(&other.identities);
        self.deliveries.extend_from_slice(&other.deliveries);
        for (to, from) in [(&mut self.sinks, &other.sinks), (&mut self.coalescing, &other.coalescing)] {
            for sink in from {
                if !to.contains(sink) {
                    to.push(sink.clone());
                }
            }
        }
    }
}

/// By which an execution is found again, in bytes that nobody can make twice.
pub(super) fn identity(source: &str, key: &str) -> Vec<u8> {
    signature::sha256([source.as_bytes(), &[0], key.as_bytes()].concat().as_slice())[..16].to_vec()
}

/// The connection of one writer, with the runtime that drives it.
pub(super) struct Wire {
    pub(super) runtime: Runtime,
    pub(super) client: Session,
}

/// What is open of one execution and sink, oldest first, as far as it was read.
#[derive(Default)]
pub(super) struct Line {
    pub(super) open: BTreeSet<i64>,
    pub(super) is_all: bool,
    /// And nobody leases any of them before this transaction ends.
    pub(super) is_locked: bool,
}

/// One transaction.
pub(super) struct Tx<'w> {
    pub(super) wire: &'w Wire,
    ids: &'w mut Ids,
    pub(super) holder: i64,
    /// What waits for a time waits by the server's clock.
    pub(super) apart: Apart,
    began: Time,
    /// What is known of rows as this transaction has them.
    pub(super) known: HashMap<Vec<u8>, Option<i64>>,
    pub(super) executions: BTreeMap<i64, Execution>,
    pub(super) deliveries: BTreeMap<i64, Delivery>,
    pub(super) lines: HashMap<(i64, String), Line>,
    pub(super) writes: Writes,
}

/// Ids that rise, with the remainder of this callbackd's place.
pub(super) struct Ids {
    last: i64,
    slot: i64,
}

impl Ids {
    pub(super) fn new(last: i64, slot: i64) -> Ids {
        Ids { last, slot }
    }

    /// Above `floor`, too.
    pub(super) fn above(&mut self, floor: i64) {
        self.last = self.last.max(floor);
    }

    pub(super) fn last(&self) -> i64 {
        self.last
    }

    fn next(&mut self, now: Time) -> i64 {
        let from = now.micros().max(self.last + 1);
        self.last = from + (self.slot - from).rem_euclid(SLOTS);
        self.last
    }
}

impl<'w> Tx<'w> {
    pub(super) fn begin(wire: &'w Wire, ids: &'w mut Ids, place: &Place, touches: &Touches) -> Done<Tx<'w>> {
        let client: &tokio_postgres::Client = &wire.client;
        let Touches { identities, deliveries, sinks, coalescing } = touches;
        let executions = "SELECT id FROM execution_heads WHERE identity = ANY($1)
                          UNION SELECT execution FROM deliveries WHERE id = ANY($2)";
        // In the order of ids, as everybody does it, so that nobody waits for one who waits for him.
        let heads = format!(
            "SELECT {} FROM execution_heads WHERE id IN ({executions}) ORDER BY id FOR UPDATE",
            Execution::COLUMNS
        );
        let theirs =
            format!("SELECT {} FROM deliveries d WHERE d.id = ANY($1) ORDER BY d.id FOR UPDATE", Delivery::COLUMNS);
        // What a newer change may overtake: whether it is leased is not to change any more.
        let overtaken = format!(
            "SELECT {} FROM execution_heads h JOIN deliveries d ON d.execution = h.id
             WHERE h.identity = ANY($1) AND d.sink = ANY($2) AND d.finished_at IS NULL ORDER BY d.id FOR UPDATE OF d",
            Delivery::COLUMNS
        );
        // Those of what was there before, to every sink there is; and those of what is settled.
        let lines = format!(
            "SELECT q.execution, q.sink, {} FROM (
                 SELECT h.id AS execution, s.sink FROM execution_heads h, unnest($3::text[]) AS s (sink) WHERE h.identity = ANY($1)
                 UNION SELECT execution, sink FROM deliveries WHERE id = ANY($2)) q
             LEFT JOIN LATERAL (SELECT * FROM deliveries n WHERE n.execution = q.execution AND n.sink = q.sink AND n.finished_at IS NULL
                                ORDER BY n.id LIMIT {LINE}) d ON TRUE",
            Delivery::COLUMNS
        );
        let (bytes, numbers, texts) = (Type::BYTEA_ARRAY, Type::INT8_ARRAY, Type::TEXT_ARRAY);
        let both: &Values<'_> = &[(identities, bytes.clone()), (deliveries, numbers.clone())];
        let latest: &Values<'_> = &[(identities, bytes.clone()), (coalescing, texts.clone())];
        let three: &Values<'_> = &[(identities, bytes), (deliveries, numbers.clone()), (sinks, texts)];
        let (has_some, settles) = (!identities.is_empty() || !deliveries.is_empty(), !deliveries.is_empty());
        let overtakes = !identities.is_empty() && !coalescing.is_empty();
        let none = async || Ok(Vec::new());
        let read = wire.runtime.block_on(async {
            // Sent at once, and carried out one after the other: each sees what the one before has locked.
            tokio::try_join!(
                biased;
                client.batch_execute(BEGIN),
                // After the number of this transaction is taken: see `news`.
                client.query_typed("SELECT pg_current_xact_id()::text", &[]),
                client.query_typed("SELECT floor FROM line", &[]),
                async { if has_some { client.query_typed(&heads, both).await } else { none().await } },
                async { if settles { client.query_typed(&theirs, &[(deliveries, numbers)]).await } else { none().await } },
                async { if overtakes { client.query_typed(&overtaken, latest).await } else { none().await } },
                async { if has_some { client.query_typed(&lines, three).await } else { none().await } },
            )
        });
        let (_, _, floor, heads, theirs, overtaken, lines) = read?;
        ids.above(floor.first().map_or(0, |row| row.get(0)));
        let mut tx = Tx {
            wire,
            ids,
            holder: place.token(),
            apart: place.apart(),
            began: place.now(),
            known: identities.iter().map(|identity| (identity.clone(), None)).collect(),
            executions: BTreeMap::new(),
            deliveries: BTreeMap::new(),
            lines: HashMap::new(),
            writes: Writes::default(),
        };
        for row in &heads {
            tx.keep_execution(row);
        }
        for row in theirs.iter().chain(&overtaken) {
            let delivery = Delivery::read(row, 0);
            tx.deliveries.insert(delivery.id, delivery);
        }
        tx.keep_lines(&lines);
        tx.keep_locked(identities, coalescing, &overtaken);
        Ok(tx)
    }

    pub(super) fn keep_execution(&mut self, row: &Row) -> i64 {
        let execution = Execution::read(row);
        let id = execution.id;
        // What follows from here on has greater ids than all that has happened to it, whoever did that.
        self.ids.above(execution.latest);
        self.known.insert(execution.identity.clone(), Some(id));
        self.executions.insert(id, execution);
        id
    }

    /// What was read of lines; an empty one stands there as well.
    fn keep_lines(&mut self, rows: &[Row]) {
        let mut count = HashMap::new();
        for row in rows {
            let place: (i64, String) = (row.get(0), row.get(1));
            let line = self.lines.entry(place.clone()).or_default();
            if row.get::<_, Option<i64>>(2).is_some() {
                let delivery = Delivery::read(row, 2);
                *count.entry(place).or_insert(0) += 1;
                line.open.insert(delivery.id);
                self.deliveries.entry(delivery.id).or_insert(delivery);
            } else {
                count.entry(place).or_insert(0);
            }
        }
        for (place, count) in count {
            if let Some(line) = self.lines.get_mut(&place) {
                line.is_all = count < LINE;
            }
        }
    }

    /// The lines of these executions and sinks, which are these rows and no others.
    fn keep_locked(&mut self, identities: &[Vec<u8>], sinks: &[String], rows: &[Row]) {
        let executions = identities.iter().filter_map(|identity| *self.known.get(identity)?);
        for place in executions.flat_map(|id| sinks.iter().map(move |sink| (id, sink.clone()))) {
            self.lines.insert(place, Line { is_all: true, is_locked: true, ..Line::default() });
        }
        for delivery in rows.iter().map(|row| Delivery::read(row, 0)) {
            self.lines.entry((delivery.execution, delivery.sink)).or_default().open.insert(delivery.id);
        }
    }

    /// The line of this execution and sink, with somebody in it or whole.
    pub(super) fn line(&mut self, execution: i64, sink: &str) -> Done<&mut Line> {
        let place = (execution, sink.to_owned());
        if self.lines.get(&place).is_none_or(|line| line.open.is_empty() && !line.is_all) {
            self.flush()?;
            let sql = format!(
                "SELECT q.execution, q.sink, {} FROM (SELECT $1::int8 AS execution, $2::text AS sink) q
                 LEFT JOIN LATERAL (SELECT * FROM deliveries n WHERE n.execution = $1 AND n.sink = $2 AND n.finished_at IS NULL
                                    ORDER BY n.id LIMIT {LINE}) d ON TRUE",
                Delivery::COLUMNS
            );
            let rows = self.ask(&sql, &[(&execution, Type::INT8), (&sink, Type::TEXT)])?;
            self.keep_lines(&rows);
        }
        Ok(self.lines.entry(place).or_default())
    }

    /// From when on that is due which is due at once: this machine's clock may have been set since it said `now`.
    pub(super) fn at_once(&self, now: Time) -> i64 {
        self.apart.of_server(now).min(self.began).micros()
    }

    pub(super) fn new_id(&mut self, now: Time) -> i64 {
        self.ids.next(now)
    }

    pub(super) fn last_id(&self) -> i64 {
        self.ids.last()
    }

    /// One statement as it is: rows that it changes and that are known here are to be forgotten by who calls.
    pub(super) fn ask(&self, sql: &str, values: &Values<'_>) -> Done<Vec<Row>> {
        Ok(self.wire.runtime.block_on(self.wire.client.query_typed(sql, values))?)
    }

    /// A statement on the rows as they are by now.
    pub(super) fn rows(&mut self, sql: &str, values: &Values<'_>) -> Done<Vec<Row>> {
        self.flush()?;
        self.ask(sql, values)
    }

    /// The same, which changes deliveries, or what leads to them.
    pub(super) fn change(&mut self, sql: &str, values: &Values<'_>) -> Done<Vec<Row>> {
        let rows = self.rows(sql, values)?;
        self.deliveries.clear();
        self.lines.clear();
        Ok(rows)
    }

    /// Sends what was gathered.
    pub(super) fn flush(&mut self) -> Done {
        let writes = self.gather();
        if writes.is_empty() {
            return Ok(());
        }
        Ok(self.wire.runtime.block_on(writes.send(&self.wire.client))?)
    }

    /// Sends what was gathered, and ends: in one round trip.
    pub(super) fn commit(mut self) -> Done {
        let (writes, session) = (self.gather(), &self.wire.client);
        let (client, warned): (&tokio_postgres::Client, _) = (session, session.warnings());
        self.wire.runtime.block_on(async {
            // What fails before it makes a ROLLBACK of this.
            tokio::try_join!(
                biased;writes.send(client), client.batch_execute("COMMIT"))
        })?;
        // Somebody ended its wait for the standbys: it is on this server alone, which may be the one that is given up.
        match session.warnings() == warned {
            true => Ok(()),
            false => Err(Fault::Unsure(NOT_AWAITED)),
        }
    }

    fn gather(&mut self) -> Writes {
        let mut writes = std::mem::take(&mut self.writes);
        let latest = self.ids.last();
        for delivery in self.deliveries.values_mut() {
            // Where the head was sent before: whoever goes on with the execution is to know of this id, too.
            let of =
                self.executions.get(&delivery.execution).filter(|of| delivery.is_new && !of.is_new && !of.is_moved);
            if let Some(of) = of {
                writes.risen.id.push(of.id);
                writes.risen.latest.push(latest);
            }
            writes.take_delivery(delivery);
        }
        for execution in self.executions.values_mut() {
            writes.take_execution(execution, latest);
        }
        writes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_rise_tell_the_time_and_are_nobody_elses() {
        let mut all = BTreeSet::new();
        for slot in 0..SLOTS {
            let mut ids = Ids::new(5, slot);
            let mut last = 0;
            for now in [1_000, 1_000, 1_001, 999, 5_000] {
                let id = ids.next(Time::from_micros(now));
                assert!(id > last && id >= now && id < now.max(last) + 2 * SLOTS, "{id} at {now}");
                assert!(all.insert(id), "{id} was given out twice");
                last = id;
            }
            ids.above(1_000_000);
            assert!(ids.next(Time::from_micros(0)) > 1_000_000);
        }
    }

    #[test]
    fn an_identity_is_of_both_source_and_key() {
        assert_eq!(identity("media", "k").len(), 16);
        assert_ne!(identity("media", "k"), identity("medi", "ak"));
    }
}
