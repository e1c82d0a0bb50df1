-- Ids are microseconds since the epoch, made unique by counting on: they rise, tell the time, and never occur again in a
-- store made later. Times are microseconds since the epoch. Rows that follow from one callback are few and have rising keys, so that one
-- commit dirties few pages.

CREATE TABLE receipts (
    id          INTEGER PRIMARY KEY,
    source      TEXT NOT NULL,
    status      TEXT NOT NULL,
    received_at INTEGER NOT NULL,
    peer        TEXT NOT NULL,
    headers     TEXT NOT NULL,      -- JSON object: the headers that matter
    body        BLOB,               -- byte for byte; NULL for a duplicate
    body_bytes  INTEGER NOT NULL,
    digest      TEXT,               -- SHA-256, hex; for a duplicate
    reason      TEXT,
    execution   INTEGER,            -- the first execution it speaks of
    executions  TEXT                -- JSON array of all of them, when they are several
) STRICT;
CREATE INDEX receipts_noteworthy ON receipts (status, id) WHERE status <> 'accepted';
CREATE INDEX receipts_of_execution ON receipts (execution) WHERE status <> 'accepted' AND execution IS NOT NULL;

-- An execution, with its latest change in the same row: what comes in is mostly the first word of an execution, and one
-- row is cheaper to write than two.
CREATE TABLE execution_heads (
    id              INTEGER PRIMARY KEY,
    source          TEXT NOT NULL,
    key             TEXT NOT NULL,
    seen            TEXT NOT NULL,  -- identities of the updates applied, a line each
    status          TEXT NOT NULL,
    change          INTEGER NOT NULL,
    sequence        INTEGER NOT NULL,
    previous        INTEGER,        -- the change before it
    type            TEXT NOT NULL,
    previous_status TEXT,
    changed_tasks   TEXT,           -- JSON array of keys; NULL for all of them
    receipt         INTEGER,
    received_at     INTEGER NOT NULL,
    snapshot        TEXT NOT NULL   -- JSON: {"execution", "tasks"}; what is absent is left out
) STRICT;

-- By a hash of its key, an execution is found again. Run ids come in random order: an index kept up by every callback
-- would dirty a page of its own each time. So it is filled behind, in runs of rising hashes; every execution up to
-- `folded.through` is in it, later ones are few and are looked through.
CREATE TABLE identities (
    hash      INTEGER NOT NULL,
    execution INTEGER NOT NULL,
    PRIMARY KEY (hash, execution)
) STRICT, WITHOUT ROWID;
CREATE TABLE folded (through INTEGER NOT NULL) STRICT;
INSERT INTO folded VALUES (0);

-- The changes before the latest.
CREATE TABLE earlier_changes (
    id              INTEGER PRIMARY KEY,
    execution       INTEGER NOT NULL,
    sequence        INTEGER NOT NULL,
    previous        INTEGER,
    type            TEXT NOT NULL,
    previous_status TEXT,
    changed_tasks   TEXT,
    receipt         INTEGER,
    received_at     INTEGER NOT NULL,
    snapshot        TEXT NOT NULL
) STRICT;

CREATE VIEW changes AS
SELECT id, execution, sequence, previous, type, previous_status,
       coalesce(changed_tasks, (SELECT json_group_array(value ->> '$.key') FROM json_each(snapshot, '$.tasks'))) AS changed_tasks,
       receipt, received_at, snapshot
FROM (SELECT change AS id, id AS execution, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot
      FROM execution_heads
      UNION ALL
      SELECT id, execution, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot
      FROM earlier_changes);

CREATE TABLE deliveries (
    id           INTEGER PRIMARY KEY,
    execution    INTEGER NOT NULL,
    sink         TEXT NOT NULL,
    change       INTEGER NOT NULL,
    status       TEXT NOT NULL,
    due_at       INTEGER,           -- may be claimed from then on; the end of the lease while leased; NULL behind another
    attempts     INTEGER NOT NULL,
    created_at   INTEGER NOT NULL,
    finished_at  INTEGER,
    until_linked INTEGER NOT NULL,  -- 1: due at once when its execution is linked
    resume       TEXT,              -- JSON: what the sink wants back at the next try
    reason       TEXT
) STRICT;
CREATE INDEX deliveries_open ON deliveries (sink, due_at) WHERE finished_at IS NULL;
CREATE INDEX deliveries_of_execution ON deliveries (execution, sink);
CREATE INDEX deliveries_dead ON deliveries (sink) WHERE status = 'dead';

CREATE TABLE attempts (
    id          INTEGER PRIMARY KEY,
    delivery    INTEGER NOT NULL,
    started_at  INTEGER NOT NULL,
    duration_ms INTEGER NOT NULL,
    outcome     TEXT NOT NULL,
    status      INTEGER,
    reason      TEXT,
    answer      TEXT
) STRICT;
CREATE INDEX attempts_of_delivery ON attempts (delivery);

CREATE TABLE links (
    id             INTEGER PRIMARY KEY,
    rule           TEXT NOT NULL,
    execution      INTEGER NOT NULL,
    with_execution INTEGER NOT NULL,
    created_at     INTEGER NOT NULL
) STRICT;
CREATE INDEX links_of ON links (execution);
CREATE INDEX links_with ON links (with_execution);

-- What executions are known by, under the rules of [[links]].
CREATE TABLE link_keys (
    rule      TEXT NOT NULL,
    side      TEXT NOT NULL,        -- 'of' or 'with'
    key       TEXT NOT NULL,
    execution INTEGER NOT NULL,
    PRIMARY KEY (rule, side, key, execution)
) STRICT, WITHOUT ROWID;

CREATE INDEX link_keys_of_execution ON link_keys (execution);

CREATE TABLE sink_pauses (
    sink   TEXT PRIMARY KEY,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE VIEW executions AS
SELECT h.id, h.source, h.key,
       h.snapshot ->> '$.execution.name' AS name,
       h.snapshot ->> '$.execution.workflow' AS workflow,
       h.snapshot ->> '$.execution.subject' AS subject,
       h.status,
       h.snapshot ->> '$.execution.vendor_status' AS vendor_status,
       h.snapshot ->> '$.execution.created_at' AS created_at,
       h.snapshot ->> '$.execution.started_at' AS started_at,
       h.snapshot ->> '$.execution.finished_at' AS finished_at,
       h.snapshot -> '$.execution.inputs' AS inputs,
       h.snapshot -> '$.execution.attributes' AS attributes,
       h.sequence, h.change, h.received_at AS changed_at
FROM execution_heads h;

CREATE VIEW tasks AS
SELECT h.id AS execution, h.source, h.key AS execution_key,
       t.value ->> '$.key' AS key,
       t.value ->> '$.name' AS name,
       t.value ->> '$.type' AS type,
       t.value ->> '$.status' AS status,
       t.value ->> '$.vendor_status' AS vendor_status,
       t.value ->> '$.created_at' AS created_at,
       t.value ->> '$.started_at' AS started_at,
       t.value ->> '$.finished_at' AS finished_at,
       t.value -> '$.template' AS template,
       t.value -> '$.outputs' AS outputs,
       t.value -> '$.error' AS error
FROM execution_heads h, json_each(h.snapshot, '$.tasks') t;
