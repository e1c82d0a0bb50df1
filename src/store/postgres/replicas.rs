//! Everybody who shares the database: a row each, with a place that its ids are made with, and when it was last heard of, by
//! the server's clock. What somebody had leased who is gone is taken over by whoever notices.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::clocks::{Apart, Clocks};
use super::connect::fault;
use super::server;
use super::tx::SLOTS;
use crate::clock;
use crate::model::Time;
use crate::store::{Replica, StoreError};

/// Who was not heard of for so long is gone, in seconds.
pub(super) const GONE: i32 = 30;

/// Less than this, in seconds, is the clock's own correction.
const CORRECTED: f64 = 2.0;

/// The place of this callbackd.
pub(super) struct Place {
    slot: i16,
    token: AtomicI64,
    /// How many are there, this one among them.
    alive: AtomicUsize,
    clocks: Clocks,
}

impl Place {
    /// Takes a place that nobody has, or that somebody had who is gone.
    pub(super) async fn take(client: &Client, name: &str, listens: &str) -> Result<Place, StoreError> {
        let token = i64::from_ne_bytes(fastrand::u64(..).to_ne_bytes());
        // One at a time: two who look at the same instant would want the same.
        let sql = "WITH one AS (SELECT pg_advisory_xact_lock(hashtextextended(current_schema() || ' callbackd places', 0))),
             free AS (SELECT s.slot::smallint AS slot FROM one, generate_series(0, $4::int - 1) AS s (slot)
                      WHERE NOT EXISTS (SELECT 1 FROM replicas r
                                        WHERE r.slot = s.slot AND r.seen_at > clock_timestamp() - make_interval(secs => $5))
                      ORDER BY s.slot LIMIT 1)
             INSERT INTO replicas (slot, token, name, version, seen_at, address, since)
             SELECT slot, $1, $2, $3, clock_timestamp(), $6, clock_timestamp() FROM free
             ON CONFLICT (slot) DO UPDATE SET token = excluded.token, name = excluded.name, version = excluded.version,
                 seen_at = excluded.seen_at, address = excluded.address, since = excluded.since
             WHERE replicas.seen_at <= clock_timestamp() - make_interval(secs => $5)
             RETURNING slot";
        let (slots, version, gone) = (SLOTS as i32, env!("CARGO_PKG_VERSION"), f64::from(GONE));
        for _ in 0..10 {
            let values: &super::tx::Values<'_> = &[
                (&token, Type::INT8),
                (&name, Type::TEXT),
                (&version, Type::TEXT),
                (&slots, Type::INT4),
                (&gone, Type::FLOAT8),
                (&listens, Type::TEXT),
            ];
            let rows = client.query_typed(sql, values);
            if let Some(row) = rows.await.map_err(fault)?.first() {
                let place = Place {
                    slot: row.get(0),
                    token: AtomicI64::new(token),
                    alive: AtomicUsize::new(2),
                    clocks: Clocks::default(),
                };
                place.compare_clocks(client).await.map_err(fault)?;
                place.take_over(client).await.map_err(fault)?;
                return Ok(place);
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(20..200))).await;
        }
        Err(StoreError::Unusable(format!("{SLOTS} callbackd share this database already, and no more can")))
    }

    pub(super) fn slot(&self) -> i64 {
        self.slot.into()
    }

    pub(super) fn token(&self) -> i64 {
        self.token.load(Ordering::Relaxed)
    }

    /// Somebody else may be there whom the last beat has not counted.
    pub(super) fn meet(&self) {
        self.alive.fetch_max(2, Ordering::Relaxed);
    }

    /// Whether there may be somebody else.
    pub(super) fn has_others(&self) -> bool {
        self.alive.load(Ordering::Relaxed) > 1
    }

    /// How far the server's clock and this machine's are apart at this moment: leases end, and waits are over, by the
    /// server's for all who share it.
    pub(super) fn apart(&self) -> Apart {
        self.clocks.apart()
    }

    /// What the server's clock says now.
    pub(super) fn now(&self) -> Time {
        self.apart().of_server(clock::now())
    }

    async fn compare_clocks(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let before = clock::steady();
        let rows = client.query_typed("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint", &[]).await?;
        if let Some(row) = rows.first() {
            self.clocks.look(row.get(0), before);
        }
        // For who reads the log: the next one who asks would notice.
        self.apart();
        Ok(())
    }

    /// By how many microseconds the server's clock was set back, or that of the server is behind which took over, as far as
    /// those tell who were heard of later than now. Said once, to who asks first.
    pub(super) async fn set_back_us(&self, client: &Client) -> Result<Option<i64>, tokio_postgres::Error> {
        // One after the other: who waits for the rows finds them as they should be.
        let sql = "WITH ahead AS MATERIALIZED (
                 SELECT slot, seen_at FROM replicas WHERE seen_at > clock_timestamp() + make_interval(secs => $1)
                 ORDER BY slot FOR UPDATE)
             UPDATE replicas r SET seen_at = clock_timestamp() FROM ahead WHERE r.slot = ahead.slot
             RETURNING (extract(epoch FROM ahead.seen_at - clock_timestamp()) * 1000000)::bigint";
        let rows = client.query_typed(sql, &[(&CORRECTED, Type::FLOAT8)]).await?;
        if !rows.is_empty() {
            self.compare_clocks(client).await?;
        }
        Ok(rows.iter().map(|row| row.get(0)).max())
    }

    /// Says that this one is there; whether it may go on.
    pub(super) async fn beat(&self, client: &Client) -> Result<Beat, tokio_postgres::Error> {
        let sql = "UPDATE replicas SET seen_at = clock_timestamp() WHERE slot = $1 AND token = $2 RETURNING slot";
        let kept = client.query_typed(sql, &[(&self.slot, Type::INT2), (&self.token(), Type::INT8)]).await?;
        let alive = "SELECT count(*) FROM replicas WHERE seen_at > clock_timestamp() - make_interval(secs => $1)";
        let rows = client.query_typed(alive, &[(&f64::from(GONE), Type::FLOAT8)]).await?;
        let alive: i64 = rows.first().map_or(1, |row| row.get(0));
        self.alive.store(usize::try_from(alive).unwrap_or(1), Ordering::Relaxed);
        self.compare_clocks(client).await?;
        let schema = client.query_typed("SELECT max(oldest) FROM callbackd_schema", &[]).await?;
        let oldest: i32 = schema.first().and_then(|row| row.get(0)).unwrap_or(1);
        Ok(match kept.is_empty() {
            true => Beat::Lost,
            false if server::is_too_new(oldest) => Beat::TooOld,
            false => Beat::Kept,
        })
    }

    /// Makes due what those had leased who are gone.
    pub(super) async fn take_over(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let gone = "holder IS NOT NULL AND NOT EXISTS (SELECT 1 FROM replicas r WHERE r.token = holder
                        AND r.seen_at > clock_timestamp() - make_interval(secs => $1))";
        let values: &super::tx::Values<'_> = &[(&f64::from(GONE), Type::FLOAT8)];
        // By the sinks' names, one after the other, because leases are found by them: not among all that waits.
        let deliveries = format!(
            "WITH RECURSIVE told (sink) AS (
                 SELECT min(sink) FROM deliveries WHERE finished_at IS NULL
                 UNION ALL
                 SELECT (SELECT min(d.sink) FROM deliveries d WHERE d.finished_at IS NULL AND d.sink > told.sink)
                 FROM told WHERE told.sink IS NOT NULL)
             UPDATE deliveries SET status = 'waiting', due_at = 0, holder = NULL WHERE id IN (
                 SELECT d.id FROM told JOIN deliveries d ON d.sink = told.sink AND d.finished_at IS NULL AND d.status = 'leased'
                 WHERE {gone} FOR UPDATE OF d SKIP LOCKED)"
        );
        client.execute_typed(&deliveries, values).await?;
        let probes = format!("UPDATE sink_breakers SET probe_at = 0, holder = NULL WHERE {gone}");
        client.execute_typed(&probes, values).await?;
        // Nobody looks for it any more.
        let forgotten = "DELETE FROM replicas WHERE seen_at < clock_timestamp() - interval '1 day'";
        client.execute_typed(forgotten, &[]).await?;
        let inquiries = format!(
            "UPDATE inquiries SET leased = FALSE, due_at = 0, holder = NULL WHERE id IN (
                 SELECT id FROM inquiries WHERE leased AND {gone} FOR UPDATE SKIP LOCKED)"
        );
        client.execute_typed(&inquiries, values).await.map(drop)
    }

    /// Gives the place and everything leased back.
    pub(super) async fn leave(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let sql = "DELETE FROM replicas WHERE slot = $1 AND token = $2";
        client.execute_typed(sql, &[(&self.slot, Type::INT2), (&self.token(), Type::INT8)]).await?;
        self.take_over(client).await
    }
}

/// How this one stands among the others.
pub(super) enum Beat {
    /// It has its place.
    Kept,
    /// Its place is another's.
    Lost,
    /// Others have gone on to a schema that it does not know how to write.
    TooOld,
}

/// Sinks that are stopped, and by what.
pub(super) async fn stopped(client: &Client) -> Result<BTreeSet<(String, String)>, tokio_postgres::Error> {
    let sql = "SELECT sink, reason FROM sink_pauses UNION ALL SELECT sink, '' FROM sink_breakers";
    Ok(client.query_typed(sql, &[]).await?.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Everybody.
pub(super) async fn all(client: &Client, here: Option<i64>) -> Result<Vec<Replica>, StoreError> {
    let us = |of: &str| format!("(extract(epoch FROM {of}) * 1000000)::bigint");
    let sql = format!(
        "SELECT slot, name, address, version, {}, {}, seen_at > clock_timestamp() - make_interval(secs => $1), token = $2
         FROM replicas ORDER BY slot",
        us("since"),
        us("seen_at")
    );
    let (gone, here) = (f64::from(GONE), here.unwrap_or_default());
    let rows = client.query_typed(&sql, &[(&gone, Type::FLOAT8), (&here, Type::INT8)]).await.map_err(fault)?;
    let replica = |row: &tokio_postgres::Row| Replica {
        place: row.get::<_, i16>(0).unsigned_abs(),
        name: row.get(1),
        address: row.get(2),
        version: row.get(3),
        since: row.get::<_, Option<i64>>(4).map(Time::from_micros),
        seen_at: Time::from_micros(row.get(5)),
        alive: row.get(6),
        here: row.get(7),
    };
    Ok(rows.iter().map(replica).collect())
}

/// Above every id that was given out. A change's id has no index to ask for the last one; each comes after the id of a
/// receipt or an attempt of the same command, and no command takes a million ids.
pub(super) async fn last_id(client: &Client) -> Result<i64, StoreError> {
    let tables = ["receipts", "execution_heads", "deliveries", "attempts", "links", "asides"];
    let greatest: Vec<_> = tables.iter().map(|table| format!("(SELECT max(id) FROM {table})")).collect();
    // Whatever is null is left out.
    let sql = format!("SELECT 1000000 + greatest(0, {})", greatest.join(", "));
    let rows = client.query_typed(&sql, &[]).await.map_err(fault)?;
    Ok(rows.first().map_or(0, |row| row.get(0)))
}
