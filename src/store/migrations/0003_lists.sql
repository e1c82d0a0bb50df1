-- Snapshots as lists whose places have a meaning: names, said again in each of millions of rows, were a third of what was
-- written. Times in them are microseconds, and what is absent is null, or left out at the end of a list. The views have names
-- and texts.
--   [[source, key, name, workflow, subject, status, vendor_status, created_at, started_at, finished_at, inputs, attributes],
--    [[key, name, type, status, vendor_status, created_at, started_at, finished_at, [template id, template name], outputs, error], …]]
DROP VIEW executions;
DROP VIEW tasks;
DROP VIEW changes;

CREATE VIEW as_lists AS
SELECT s.id, json_array(
    json_array(s.snapshot ->> '$.execution.source',
               s.snapshot ->> '$.execution.key',
               s.snapshot ->> '$.execution.name',
               s.snapshot ->> '$.execution.workflow',
               s.snapshot ->> '$.execution.subject',
               s.snapshot ->> '$.execution.status',
               s.snapshot ->> '$.execution.vendor_status',
               unixepoch(substr(s.snapshot ->> '$.execution.created_at', 1, 19)) * 1000000 + CAST(substr(replace(substr(s.snapshot ->> '$.execution.created_at', 21), 'Z', '') || '000000', 1, 6) AS INTEGER),
               unixepoch(substr(s.snapshot ->> '$.execution.started_at', 1, 19)) * 1000000 + CAST(substr(replace(substr(s.snapshot ->> '$.execution.started_at', 21), 'Z', '') || '000000', 1, 6) AS INTEGER),
               unixepoch(substr(s.snapshot ->> '$.execution.finished_at', 1, 19)) * 1000000 + CAST(substr(replace(substr(s.snapshot ->> '$.execution.finished_at', 21), 'Z', '') || '000000', 1, 6) AS INTEGER),
               s.snapshot -> '$.execution.inputs',
               json(coalesce(s.snapshot ->> '$.execution.attributes', '{}'))),
    json((SELECT json_group_array(json_array(
               t.value ->> '$.key',
               t.value ->> '$.name',
               t.value ->> '$.type',
               t.value ->> '$.status',
               t.value ->> '$.vendor_status',
               unixepoch(substr(t.value ->> '$.created_at', 1, 19)) * 1000000 + CAST(substr(replace(substr(t.value ->> '$.created_at', 21), 'Z', '') || '000000', 1, 6) AS INTEGER),
               unixepoch(substr(t.value ->> '$.started_at', 1, 19)) * 1000000 + CAST(substr(replace(substr(t.value ->> '$.started_at', 21), 'Z', '') || '000000', 1, 6) AS INTEGER),
               unixepoch(substr(t.value ->> '$.finished_at', 1, 19)) * 1000000 + CAST(substr(replace(substr(t.value ->> '$.finished_at', 21), 'Z', '') || '000000', 1, 6) AS INTEGER),
               iif(t.value ->> '$.template' IS NULL, NULL, json_array(t.value ->> '$.template.id', t.value ->> '$.template.name')),
               t.value -> '$.outputs',
               t.value -> '$.error'))
     FROM json_each(s.snapshot, '$.tasks') t))) AS snapshot
FROM (SELECT id, snapshot FROM execution_heads UNION ALL SELECT id, snapshot FROM earlier_changes) s;
UPDATE execution_heads SET snapshot = (SELECT l.snapshot FROM as_lists l WHERE l.id = execution_heads.id);
UPDATE earlier_changes SET snapshot = (SELECT l.snapshot FROM as_lists l WHERE l.id = earlier_changes.id);
DROP VIEW as_lists;

CREATE VIEW executions AS
SELECT h.id, h.source, h.key,
       h.snapshot ->> '$[0][2]' AS name,
       h.snapshot ->> '$[0][3]' AS workflow,
       h.snapshot ->> '$[0][4]' AS subject,
       h.status,
       h.snapshot ->> '$[0][6]' AS vendor_status,
       strftime('%Y-%m-%dT%H:%M:%fZ', h.snapshot ->> '$[0][7]' / 1000000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', h.snapshot ->> '$[0][8]' / 1000000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', h.snapshot ->> '$[0][9]' / 1000000.0, 'unixepoch') AS finished_at,
       nullif(h.snapshot -> '$[0][10]', 'null') AS inputs,
       coalesce(h.snapshot -> '$[0][11]', '{}') AS attributes,
       h.sequence, h.change, h.received_at AS changed_at,
       h.status NOT IN ('succeeded', 'failed', 'cancelled')
           AND EXISTS (SELECT 1 FROM inquiries i WHERE i.id = h.id AND i.overdue_at IS NOT NULL) AS overdue
FROM execution_heads h;

CREATE VIEW tasks AS
SELECT h.id AS execution, h.source, h.key AS execution_key,
       t.value ->> 0 AS key,
       t.value ->> 1 AS name,
       t.value ->> 2 AS type,
       t.value ->> 3 AS status,
       t.value ->> 4 AS vendor_status,
       strftime('%Y-%m-%dT%H:%M:%fZ', t.value ->> '$[5]' / 1000000.0, 'unixepoch') AS created_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', t.value ->> '$[6]' / 1000000.0, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%fZ', t.value ->> '$[7]' / 1000000.0, 'unixepoch') AS finished_at,
       iif(t.value ->> 8 IS NULL, NULL, json_object('id', t.value ->> '$[8][0]', 'name', t.value ->> '$[8][1]')) AS template,
       nullif(t.value -> '$[9]', 'null') AS outputs,
       nullif(t.value -> '$[10]', 'null') AS error
FROM execution_heads h, json_each(h.snapshot, '$[1]') t;

CREATE VIEW changes AS
SELECT c.id, c.execution, c.sequence, c.previous, c.type, c.previous_status,
       coalesce(c.changed_tasks, (SELECT json_group_array(t.value ->> 0) FROM json_each(c.snapshot, '$[1]') t)) AS changed_tasks,
       c.receipt, c.received_at, c.snapshot
FROM (SELECT change AS id, id AS execution, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot
      FROM execution_heads
      UNION ALL
      SELECT id, execution, sequence, previous, type, previous_status, changed_tasks, receipt, received_at, snapshot
      FROM earlier_changes) c;
