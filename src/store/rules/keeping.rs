//! What may be let go of, and what has to stay: conditions that both stores' SQL has in it.

/// Of the head `h`, by `:before`. What is linked to something that is still to be told is needed to tell it, and what is held
/// until its vendor was asked is judged by what is known of its execution.
pub(crate) const MAY_GO: &str = "h.received_at < :before AND h.status IN ('succeeded', 'failed', 'cancelled')
    AND NOT EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = h.id AND (d.finished_at IS NULL OR d.status = 'dead'))
    AND NOT EXISTS (SELECT 1 FROM inquiries i WHERE i.source = h.source AND i.key = h.key)
    AND NOT EXISTS (
        SELECT 1 FROM (SELECT with_execution AS id FROM links WHERE execution = h.id
                       UNION ALL SELECT execution FROM links WHERE with_execution = h.id) l JOIN execution_heads p ON p.id = l.id
        WHERE p.status NOT IN ('succeeded', 'failed', 'cancelled')
           OR EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = p.id AND (d.finished_at IS NULL OR d.status = 'dead')))";

/// Why the head `h` has to stay; the same conditions as in [`MAY_GO`], each by itself.
pub(crate) const STAYS: &str = "CASE
    WHEN h.status NOT IN ('succeeded', 'failed', 'cancelled') THEN 'unfinished'
    WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = h.id AND d.finished_at IS NULL) THEN 'undelivered'
    WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.execution = h.id AND d.status = 'dead') THEN 'dead'
    WHEN EXISTS (SELECT 1 FROM inquiries i WHERE i.source = h.source AND i.key = h.key) THEN 'held'
    ELSE 'linked' END";
