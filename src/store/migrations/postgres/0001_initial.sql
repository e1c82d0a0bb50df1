-- Ids are microseconds since the epoch, made unique by counting on in steps: each callbackd has a place among SLOTS, and
-- gives out the ids that leave its place as remainder. They rise in each callbackd, tell the time, and are above
-- `line.floor`. Times are microseconds since the epoch. Lists and objects are JSON, as text.

CREATE TABLE receipts (
    id          BIGINT PRIMARY KEY,
    source      TEXT NOT NULL,
    status      TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    peer        TEXT NOT NULL,
    headers     TEXT NOT NULL,
    body        BYTEA,              -- byte for byte; NULL for a duplicate
    body_bytes  BIGINT NOT NULL,
    digest      TEXT,               -- SHA-256, hex; for a duplicate
    reason      TEXT,
    execution   BIGINT,             -- the first execution it speaks of
    executions  TEXT                -- all of them, when they are several
);
CREATE INDEX receipts_noteworthy ON receipts (status, id) WHERE status <> 'accepted';
CREATE INDEX receipts_of_execution ON receipts (execution) WHERE status <> 'accepted' AND execution IS NOT NULL;
CREATE INDEX receipts_of_several ON receipts (id) WHERE executions IS NOT NULL;

-- An execution, with its latest change in the same row. Whoever changes anything that hangs on an execution has locked this
-- row; only leases are taken and given back without.
CREATE TABLE execution_heads (
    id              BIGINT PRIMARY KEY,
    identity        BYTEA NOT NULL UNIQUE,  -- the first 16 bytes of SHA-256 over source, a zero and the key
    source          TEXT NOT NULL,
    key             TEXT NOT NULL,
    seen            TEXT NOT NULL,          -- identities of the updates applied, a line each
    status          TEXT NOT NULL,
    change          BIGINT NOT NULL,
    sequence        INTEGER NOT NULL,
    previous        BIGINT,                 -- the change before it
    type            TEXT NOT NULL,
    previous_status TEXT,
    changed_tasks   TEXT,                   -- keys; NULL for all of them
    receipt         BIGINT,
    received_at     BIGINT NOT NULL,
    snapshot        TEXT NOT NULL,
    latest          BIGINT NOT NULL         -- no id that goes with a change up to this one is greater
);
CREATE INDEX execution_heads_change ON execution_heads (change);
CREATE INDEX execution_heads_key ON execution_heads USING hash (key);

-- The changes before the latest.
CREATE TABLE earlier_changes (
    id              BIGINT PRIMARY KEY,
    execution       BIGINT NOT NULL,
    sequence        INTEGER NOT NULL,
    previous        BIGINT,
    type            TEXT NOT NULL,
    previous_status TEXT,
    changed_tasks   TEXT,
    receipt         BIGINT,
    received_at     BIGINT NOT NULL,
    snapshot        TEXT NOT NULL
);

CREATE TABLE deliveries (
    id           BIGINT PRIMARY KEY,
    execution    BIGINT NOT NULL,
    sink         TEXT NOT NULL,
    change       BIGINT NOT NULL,
    status       TEXT NOT NULL,
    due_at       BIGINT,            -- may be claimed from then on; the end of the lease while leased; NULL behind another
    attempts     INTEGER NOT NULL,
    created_at   BIGINT NOT NULL,
    finished_at  BIGINT,
    until_linked BOOLEAN NOT NULL,  -- due at once when its execution is linked
    resume       TEXT,
    reason       TEXT,
    holder       BIGINT             -- who leased it last: the token of a row of `replicas`
) WITH (fillfactor = 85);
CREATE INDEX deliveries_open ON deliveries (sink, status, due_at) WHERE finished_at IS NULL;
CREATE INDEX deliveries_line ON deliveries (execution, sink, id) WHERE finished_at IS NULL;
CREATE INDEX deliveries_of_execution ON deliveries (execution);
CREATE INDEX deliveries_dead ON deliveries (sink) WHERE status = 'dead';
CREATE INDEX deliveries_tried ON deliveries (sink, until_linked, id) WHERE finished_at IS NULL AND reason IS NOT NULL;

CREATE TABLE attempts (
    id          BIGINT PRIMARY KEY,
    delivery    BIGINT NOT NULL,
    started_at  BIGINT NOT NULL,
    duration_ms BIGINT NOT NULL,
    outcome     TEXT NOT NULL,
    status      INTEGER,
    reason      TEXT,
    answer      TEXT
);
CREATE INDEX attempts_of_delivery ON attempts (delivery);

CREATE TABLE links (
    id             BIGINT PRIMARY KEY,
    rule           TEXT NOT NULL,
    execution      BIGINT NOT NULL,
    with_execution BIGINT NOT NULL,
    created_at     BIGINT NOT NULL
);
CREATE INDEX links_of ON links (execution);
CREATE INDEX links_with ON links (with_execution);

-- What executions are known by, under the rules of [[links]]; the key is a text, byte for byte.
CREATE TABLE link_keys (
    rule      TEXT NOT NULL,
    side      TEXT NOT NULL,
    key       BYTEA NOT NULL,
    execution BIGINT NOT NULL,
    PRIMARY KEY (rule, side, key, execution)
);
CREATE INDEX link_keys_of_execution ON link_keys (execution);

CREATE TABLE sink_pauses (
    sink   TEXT PRIMARY KEY,
    reason TEXT NOT NULL
);

-- What a vendor is to be asked, and by when executions are expected to be finished.
CREATE TABLE inquiries (
    id         BIGINT PRIMARY KEY,
    source     TEXT NOT NULL,
    key        TEXT,
    due_at     BIGINT,
    leased     BOOLEAN NOT NULL,
    asked      INTEGER NOT NULL,
    failures   INTEGER NOT NULL,
    overdue_at BIGINT,
    holder     BIGINT
);
CREATE INDEX inquiries_late ON inquiries (source, due_at) WHERE key IS NULL;
CREATE INDEX inquiries_held ON inquiries (source, due_at) WHERE key IS NOT NULL;
CREATE INDEX inquiries_of_key ON inquiries USING hash (key) WHERE key IS NOT NULL;
CREATE INDEX inquiries_overdue ON inquiries (id) WHERE overdue_at IS NOT NULL;

-- Deliveries that ended without a try and without a change; the id comes after what it points at.
CREATE TABLE asides (
    id       BIGINT PRIMARY KEY,
    delivery BIGINT NOT NULL
);

-- Every callbackd that shares this database: its place among those that give out ids, and when it was last heard of, by the
-- server's clock.
CREATE TABLE replicas (
    slot    SMALLINT PRIMARY KEY,
    token   BIGINT NOT NULL,
    name    TEXT NOT NULL,
    version TEXT NOT NULL,
    seen_at TIMESTAMPTZ NOT NULL
);

-- Below `floor` no id is given out any more: who tells what happened raises it. Up to `told`, all that happened is there.
CREATE TABLE line (
    one   BOOLEAN PRIMARY KEY DEFAULT TRUE CHECK (one),
    floor BIGINT NOT NULL,
    told  BIGINT NOT NULL
);
INSERT INTO line (floor, told) VALUES (0, 0);
