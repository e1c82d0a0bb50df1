//! Rows in memory, as the open transaction has them; and the writes that make the database's like them: each table in one
//! statement, however many rows there are.

use std::borrow::Cow;

use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

/// PostgreSQL's text holds no zeros, which strangers may send.
pub(super) fn text(text: &str) -> Cow<'_, str> {
    match text.contains('\0') {
        true => text.replace('\0', "\u{2400}").into(),
        false => text.into(),
    }
}

pub(super) fn owned(held: &str) -> String {
    text(held).into_owned()
}

/// An execution, and its latest change.
#[derive(Clone)]
pub(super) struct Execution {
    pub(super) id: i64,
    pub(super) identity: Vec<u8>,
    pub(super) source: String,
    pub(super) key: String,
    pub(super) seen: String,
    pub(super) status: String,
    pub(super) change: i64,
    pub(super) sequence: i32,
    pub(super) previous: Option<i64>,
    pub(super) kind: String,
    pub(super) previous_status: Option<String>,
    pub(super) changed_tasks: Option<String>,
    pub(super) receipt: Option<i64>,
    pub(super) received_at: i64,
    pub(super) snapshot: String,
    /// No id that goes with a change up to this one is greater.
    pub(super) latest: i64,
    pub(super) is_new: bool,
    pub(super) is_moved: bool,
}

impl Execution {
    pub(super) const COLUMNS: &'static str =
        "id, identity, source, key, seen, status, change, sequence, previous, type,
        previous_status, changed_tasks, receipt, received_at, snapshot, latest";

    pub(super) fn read(row: &Row) -> Execution {
        Execution {
            id: row.get(0),
            identity: row.get(1),
            source: row.get(2),
            key: row.get(3),
            seen: row.get(4),
            status: row.get(5),
            change: row.get(6),
            sequence: row.get(7),
            previous: row.get(8),
            kind: row.get(9),
            previous_status: row.get(10),
            changed_tasks: row.get(11),
            receipt: row.get(12),
            received_at: row.get(13),
            snapshot: row.get(14),
            latest: row.get(15),
            is_new: false,
            is_moved: false,
        }
    }
}

/// A delivery.
#[derive(Clone)]
pub(super) struct Delivery {
    pub(super) id: i64,
    pub(super) execution: i64,
    pub(super) sink: String,
    pub(super) change: i64,
    pub(super) status: String,
    pub(super) due_at: Option<i64>,
    pub(super) attempts: i32,
    pub(super) created_at: i64,
    pub(super) finished_at: Option<i64>,
    pub(super) until_linked: bool,
    pub(super) resume: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) is_new: bool,
    pub(super) is_moved: bool,
}

impl Delivery {
    pub(super) const COLUMNS: &'static str = "d.id, d.execution, d.sink, d.change, d.status, d.due_at, d.attempts,
        d.created_at, d.finished_at, d.until_linked, d.resume, d.reason";

    pub(super) fn read(row: &Row, from: usize) -> Delivery {
        Delivery {
            id: row.get(from),
            execution: row.get(from + 1),
            sink: row.get(from + 2),
            change: row.get(from + 3),
            status: row.get(from + 4),
            due_at: row.get(from + 5),
            attempts: row.get(from + 6),
            created_at: row.get(from + 7),
            finished_at: row.get(from + 8),
            until_linked: row.get(from + 9),
            resume: row.get(from + 10),
            reason: row.get(from + 11),
            is_new: false,
            is_moved: false,
        }
    }
}

/// Rows of one statement, a list for each column.
macro_rules! columns {
    ($(#[$doc:meta])* $table:ident { $($name:ident: $of:ty = $type:ident),* $(,)? } $sql:literal) => {
        $(#[$doc])*
        #[derive(Default)]
        pub(super) struct $table { $(pub(super) $name: Vec<$of>,)* }

        impl $table {
            fn len(&self) -> usize {
                [$(self.$name.len()),*][0]
            }

            async fn send(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
                if self.len() == 0 {
                    return Ok(());
                }
                let values: &[(&(dyn ToSql + Sync), Type)] = &[$((&self.$name, Type::$type)),*];
                client.execute_typed($sql, values).await.map(drop)
            }
        }
    };
}

columns! {
    Receipts {
        id: i64 = INT8_ARRAY, source: String = TEXT_ARRAY, status: &'static str = TEXT_ARRAY, received_at: i64 = INT8_ARRAY,
        peer: String = TEXT_ARRAY, headers: String = TEXT_ARRAY, body: Option<Vec<u8>> = BYTEA_ARRAY, body_bytes: i64 = INT8_ARRAY,
        digest: Option<String> = TEXT_ARRAY, reason: Option<String> = TEXT_ARRAY, execution: Option<i64> = INT8_ARRAY,
        executions: Option<String> = TEXT_ARRAY,
    }
    "INSERT INTO receipts (id, source, status, received_at, peer, headers, body, body_bytes, digest, reason, execution, executions)
     SELECT * FROM unnest($1::int8[], $2::text[], $3::text[], $4::int8[], $5::text[], $6::text[], $7::bytea[], $8::int8[], $9::text[],
                          $10::text[], $11::int8[], $12::text[])"
}

columns! {
    Heads {
        id: i64 = INT8_ARRAY, identity: Vec<u8> = BYTEA_ARRAY, source: String = TEXT_ARRAY, key: String = TEXT_ARRAY, seen: String = TEXT_ARRAY,
        status: String = TEXT_ARRAY, change: i64 = INT8_ARRAY, sequence: i32 = INT4_ARRAY, previous: Option<i64> = INT8_ARRAY,
        kind: String = TEXT_ARRAY, previous_status: Option<String> = TEXT_ARRAY, changed_tasks: Option<String> = TEXT_ARRAY,
        receipt: Option<i64> = INT8_ARRAY, received_at: i64 = INT8_ARRAY, snapshot: String = TEXT_ARRAY, latest: i64 = INT8_ARRAY,
    }
    // In the order of identities: who begins the same executions elsewhere at this instant waits, and is not waited for.
    "INSERT INTO execution_heads (id, identity, source, key, seen, status, change, sequence, previous, type, previous_status,
                                  changed_tasks, receipt, received_at, snapshot, latest)
     SELECT * FROM unnest($1::int8[], $2::bytea[], $3::text[], $4::text[], $5::text[], $6::text[], $7::int8[], $8::int4[], $9::int8[],
                          $10::text[], $11::text[], $12::text[], $13::int8[], $14::int8[], $15::text[], $16::int8[]) AS n
         (id, identity, source, key, seen, status, change, sequence, previous, type, previous_status, changed_tasks, receipt,
          received_at, snapshot, latest)
     ORDER BY n.identity"
}

columns! {
    MovedHeads {
        id: i64 = INT8_ARRAY, seen: String = TEXT_ARRAY, status: String = TEXT_ARRAY, change: i64 = INT8_ARRAY, sequence: i32 = INT4_ARRAY,
        previous: Option<i64> = INT8_ARRAY, kind: String = TEXT_ARRAY, previous_status: Option<String> = TEXT_ARRAY,
        changed_tasks: Option<String> = TEXT_ARRAY, receipt: Option<i64> = INT8_ARRAY, received_at: i64 = INT8_ARRAY,
        snapshot: String = TEXT_ARRAY, latest: i64 = INT8_ARRAY,
    }
    "UPDATE execution_heads h SET seen = n.seen, status = n.status, change = n.change, sequence = n.sequence, previous = n.previous,
            type = n.type, previous_status = n.previous_status, changed_tasks = n.changed_tasks, receipt = n.receipt,
            received_at = n.received_at, snapshot = n.snapshot, latest = n.latest
     FROM unnest($1::int8[], $2::text[], $3::text[], $4::int8[], $5::int4[], $6::int8[], $7::text[], $8::text[], $9::text[],
                 $10::int8[], $11::int8[], $12::text[], $13::int8[]) AS n
         (id, seen, status, change, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot, latest)
     WHERE h.id = n.id"
}

columns! {
    /// Of what was sent already: deliveries came after it, with greater ids.
    Risen { id: i64 = INT8_ARRAY, latest: i64 = INT8_ARRAY }
    "UPDATE execution_heads h SET latest = n.latest FROM unnest($1::int8[], $2::int8[]) AS n (id, latest) WHERE h.id = n.id"
}

columns! {
    Earlier {
        id: i64 = INT8_ARRAY, execution: i64 = INT8_ARRAY, sequence: i32 = INT4_ARRAY, previous: Option<i64> = INT8_ARRAY,
        kind: String = TEXT_ARRAY, previous_status: Option<String> = TEXT_ARRAY, changed_tasks: Option<String> = TEXT_ARRAY,
        receipt: Option<i64> = INT8_ARRAY, received_at: i64 = INT8_ARRAY, snapshot: String = TEXT_ARRAY,
    }
    "INSERT INTO earlier_changes (id, execution, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot)
     SELECT * FROM unnest($1::int8[], $2::int8[], $3::int4[], $4::int8[], $5::text[], $6::text[], $7::text[], $8::int8[], $9::int8[],
                          $10::text[])"
}

columns! {
    Promised {
        id: i64 = INT8_ARRAY, execution: i64 = INT8_ARRAY, sink: String = TEXT_ARRAY, change: i64 = INT8_ARRAY, status: String = TEXT_ARRAY,
        due_at: Option<i64> = INT8_ARRAY, created_at: i64 = INT8_ARRAY, finished_at: Option<i64> = INT8_ARRAY,
        reason: Option<String> = TEXT_ARRAY,
    }
    "INSERT INTO deliveries (id, execution, sink, change, status, due_at, created_at, finished_at, reason, attempts, until_linked)
     SELECT n.*, 0, FALSE FROM unnest($1::int8[], $2::int8[], $3::text[], $4::int8[], $5::text[], $6::int8[], $7::int8[], $8::int8[],
                                      $9::text[]) AS n"
}

columns! {
    MovedDeliveries {
        id: i64 = INT8_ARRAY, status: String = TEXT_ARRAY, due_at: Option<i64> = INT8_ARRAY, attempts: i32 = INT4_ARRAY,
        finished_at: Option<i64> = INT8_ARRAY, until_linked: bool = BOOL_ARRAY, resume: Option<String> = TEXT_ARRAY,
        reason: Option<String> = TEXT_ARRAY,
    }
    "UPDATE deliveries d SET status = n.status, due_at = n.due_at, attempts = n.attempts, finished_at = n.finished_at,
            until_linked = n.until_linked, resume = n.resume, reason = n.reason
     FROM unnest($1::int8[], $2::text[], $3::int8[], $4::int4[], $5::int8[], $6::bool[], $7::text[], $8::text[]) AS n
         (id, status, due_at, attempts, finished_at, until_linked, resume, reason)
     WHERE d.id = n.id"
}

columns! {
    Attempts {
        id: i64 = INT8_ARRAY, delivery: i64 = INT8_ARRAY, started_at: i64 = INT8_ARRAY, duration_ms: i64 = INT8_ARRAY,
        outcome: String = TEXT_ARRAY, status: Option<i32> = INT4_ARRAY, reason: Option<String> = TEXT_ARRAY,
        answer: Option<String> = TEXT_ARRAY,
    }
    "INSERT INTO attempts (id, delivery, started_at, duration_ms, outcome, status, reason, answer)
     SELECT * FROM unnest($1::int8[], $2::int8[], $3::int8[], $4::int8[], $5::text[], $6::int4[], $7::text[], $8::text[])"
}

columns! {
    Asides { id: i64 = INT8_ARRAY, delivery: i64 = INT8_ARRAY }
    "INSERT INTO asides (id, delivery) SELECT * FROM unnest($1::int8[], $2::int8[])"
}

columns! {
    Expected { id: i64 = INT8_ARRAY, source: String = TEXT_ARRAY, due_at: i64 = INT8_ARRAY }
    "INSERT INTO inquiries (id, source, due_at, leased, asked, failures)
     SELECT n.*, FALSE, 0, 0 FROM unnest($1::int8[], $2::text[], $3::int8[]) AS n"
}

/// What was written and not sent.
#[derive(Default)]
pub(super) struct Writes {
    pub(super) receipts: Receipts,
    pub(super) heads: Heads,
    pub(super) moved_heads: MovedHeads,
    pub(super) risen: Risen,
    pub(super) earlier: Earlier,
    pub(super) promised: Promised,
    pub(super) moved_deliveries: MovedDeliveries,
    pub(super) attempts: Attempts,
    pub(super) asides: Asides,
    pub(super) expected: Expected,
}

impl Writes {
    pub(super) fn is_empty(&self) -> bool {
        let Writes {
            receipts,
            heads,
            moved_heads,
            risen,
            earlier,
            promised,
            moved_deliveries,
            attempts,
            asides,
            expected,
        } = self;
        let counts = [receipts.len(), heads.len(), moved_heads.len(), earlier.len(), promised.len()];
        let more = [risen.len(), moved_deliveries.len(), attempts.len(), asides.len(), expected.len()];
        counts.into_iter().chain(more).all(|count| count == 0)
    }

    /// All at once, without waiting in between.
    pub(super) async fn send(&self, client: &Client) -> Result<(), tokio_postgres::Error> {
        tokio::try_join!(
            biased;
            self.heads.send(client),
            self.receipts.send(client),
            self.earlier.send(client),
            self.moved_heads.send(client),
            self.risen.send(client),
            self.promised.send(client),
            self.moved_deliveries.send(client),
            self.attempts.send(client),
            self.asides.send(client),
            self.expected.send(client),
        )?;
        Ok(())
    }

    /// What the execution was until now stands with the earlier changes from here on.
    pub(super) fn set_aside(&mut self, e: &Execution) {
        let to = &mut self.earlier;
        to.id.push(e.change);
        to.execution.push(e.id);
        to.sequence.push(e.sequence);
        to.previous.push(e.previous);
        to.kind.push(e.kind.clone());
        to.previous_status.push(e.previous_status.clone());
        to.changed_tasks.push(e.changed_tasks.clone());
        to.receipt.push(e.receipt);
        to.received_at.push(e.received_at);
        to.snapshot.push(e.snapshot.clone());
    }

    pub(super) fn take_execution(&mut self, e: &mut Execution, latest: i64) {
        let (is_new, is_moved) = (std::mem::take(&mut e.is_new), std::mem::take(&mut e.is_moved));
        if is_new {
            let to = &mut self.heads;
            to.id.push(e.id);
            to.identity.push(e.identity.clone());
            to.source.push(e.source.clone());
            to.key.push(e.key.clone());
            to.seen.push(e.seen.clone());
            to.status.push(e.status.clone());
            to.change.push(e.change);
            to.sequence.push(e.sequence);
            to.previous.push(e.previous);
            to.kind.push(e.kind.clone());
            to.previous_status.push(e.previous_status.clone());
            to.changed_tasks.push(e.changed_tasks.clone());
            to.receipt.push(e.receipt);
            to.received_at.push(e.received_at);
            to.snapshot.push(e.snapshot.clone());
            to.latest.push(latest);
        } else if is_moved {
            let to = &mut self.moved_heads;
            to.id.push(e.id);
            to.seen.push(e.seen.clone());
            to.status.push(e.status.clone());
            to.change.push(e.change);
            to.sequence.push(e.sequence);
            to.previous.push(e.previous);
            to.kind.push(e.kind.clone());
            to.previous_status.push(e.previous_status.clone());
            to.changed_tasks.push(e.changed_tasks.clone());
            to.receipt.push(e.receipt);
            to.received_at.push(e.received_at);
            to.snapshot.push(e.snapshot.clone());
            to.latest.push(latest);
        }
    }

    pub(super) fn take_delivery(&mut self, d: &mut Delivery) {
        let (is_new, is_moved) = (std::mem::take(&mut d.is_new), std::mem::take(&mut d.is_moved));
        if is_new {
            let to = &mut self.promised;
            to.id.push(d.id);
            to.execution.push(d.execution);
            to.sink.push(d.sink.clone());
            to.change.push(d.change);
            to.status.push(d.status.clone());
            to.due_at.push(d.due_at);
            to.created_at.push(d.created_at);
            to.finished_at.push(d.finished_at);
            to.reason.push(d.reason.clone());
        } else if is_moved {
            let to = &mut self.moved_deliveries;
            to.id.push(d.id);
            to.status.push(d.status.clone());
            to.due_at.push(d.due_at);
            to.attempts.push(d.attempts);
            to.finished_at.push(d.finished_at);
            to.until_linked.push(d.until_linked);
            to.resume.push(d.resume.clone());
            to.reason.push(d.reason.clone());
        }
    }
}
