-- What a vendor is to be asked, and by when executions are expected to be finished: one row for each receipt that is held,
-- with the key of the first execution it speaks of, so that one question answers all that is held of it; and one row,
-- without a key, for each execution that is expected to end. Receipts and executions never share an id.
CREATE TABLE inquiries (
    id         INTEGER PRIMARY KEY,
    source     TEXT NOT NULL,
    key        TEXT,
    due_at     INTEGER,             -- may be claimed from then on; the end of the lease while leased; NULL: only a mark is left
    leased     INTEGER NOT NULL,
    asked      INTEGER NOT NULL,    -- answers that decided nothing
    failures   INTEGER NOT NULL,    -- questions in a row that got no answer
    overdue_at INTEGER              -- since when the execution is marked as overdue
) STRICT;
CREATE INDEX inquiries_late ON inquiries (source, due_at) WHERE key IS NULL;
CREATE INDEX inquiries_held ON inquiries (source, due_at) WHERE key IS NOT NULL;
CREATE INDEX inquiries_of_key ON inquiries (source, key, due_at) WHERE key IS NOT NULL;
CREATE INDEX inquiries_overdue ON inquiries (id) WHERE overdue_at IS NOT NULL;

DROP VIEW executions;
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
       h.sequence, h.change, h.received_at AS changed_at,
       h.status NOT IN ('succeeded', 'failed', 'cancelled')
           AND EXISTS (SELECT 1 FROM inquiries i WHERE i.id = h.id AND i.overdue_at IS NOT NULL) AS overdue
FROM execution_heads h;
