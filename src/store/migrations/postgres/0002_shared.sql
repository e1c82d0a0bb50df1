-- The oldest schema whose callbackd may go on beside this step.
ALTER TABLE callbackd_schema ADD COLUMN oldest INTEGER NOT NULL DEFAULT 1;

-- Sinks that fail, for all who share the database: one of them at a time may probe from `probe_at` on, by the server's clock.
CREATE TABLE sink_breakers (
    sink      TEXT PRIMARY KEY,
    opened_at BIGINT NOT NULL,
    probe_at  BIGINT NOT NULL,
    holder    BIGINT            -- who probes, until `probe_at` at the latest
);

ALTER TABLE replicas ADD COLUMN address TEXT NOT NULL DEFAULT '';
ALTER TABLE replicas ADD COLUMN since TIMESTAMPTZ;

-- Leases of who is gone are looked for every few seconds.
CREATE INDEX inquiries_leased ON inquiries (holder) WHERE leased;

-- What people read, under the names and with the columns that it has in SQLite. Snapshots are lists (`src/model/execution.rs`).
CREATE FUNCTION callbackd_time(us TEXT) RETURNS TEXT LANGUAGE sql IMMUTABLE AS $$
    SELECT to_char(to_timestamp(us::bigint / 1000000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')
$$;

CREATE VIEW executions AS
SELECT h.id, h.source, h.key,
       e.of ->> 2 AS name, e.of ->> 3 AS workflow, e.of ->> 4 AS subject,
       h.status, e.of ->> 6 AS vendor_status,
       callbackd_time(e.of ->> 7) AS created_at, callbackd_time(e.of ->> 8) AS started_at, callbackd_time(e.of ->> 9) AS finished_at,
       nullif((e.of -> 10)::text, 'null') AS inputs, coalesce((e.of -> 11)::text, '{}') AS attributes,
       h.sequence, h.change, h.received_at AS changed_at,
       h.status NOT IN ('succeeded', 'failed', 'cancelled')
           AND EXISTS (SELECT 1 FROM inquiries i WHERE i.id = h.id AND i.overdue_at IS NOT NULL) AS overdue
FROM execution_heads h CROSS JOIN LATERAL (SELECT h.snapshot::json -> 0 AS of) e;

CREATE VIEW tasks AS
SELECT h.id AS execution, h.source, h.key AS execution_key,
       t.value ->> 0 AS key, t.value ->> 1 AS name, t.value ->> 2 AS type, t.value ->> 3 AS status, t.value ->> 4 AS vendor_status,
       callbackd_time(t.value ->> 5) AS created_at, callbackd_time(t.value ->> 6) AS started_at, callbackd_time(t.value ->> 7) AS finished_at,
       CASE WHEN t.value ->> 8 IS NOT NULL THEN json_build_object('id', t.value -> 8 -> 0, 'name', t.value -> 8 -> 1)::text END AS template,
       nullif((t.value -> 9)::text, 'null') AS outputs, nullif((t.value -> 10)::text, 'null') AS error
FROM execution_heads h CROSS JOIN LATERAL json_array_elements(h.snapshot::json -> 1) t;

CREATE VIEW changes AS
SELECT c.id, c.execution, c.sequence, c.previous, c.type, c.previous_status,
       coalesce(c.changed_tasks, (SELECT coalesce(json_agg(t.value -> 0), '[]')::text FROM json_array_elements(c.snapshot::json -> 1) t)) AS changed_tasks,
       c.receipt, c.received_at, c.snapshot
FROM (SELECT change AS id, id AS execution, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot
      FROM execution_heads
      UNION ALL
      SELECT id, execution, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot
      FROM earlier_changes) c;
