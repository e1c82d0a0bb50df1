-- What is told as it happens is found by the ids of receipts and attempts, which rise. What these do not lead to stands here:
-- an execution with a change that no receipt brought, or one that came long before; a delivery that ended without a try. The
-- id comes after what it points at.
CREATE TABLE asides (
    id        INTEGER PRIMARY KEY,
    execution INTEGER,
    delivery  INTEGER
) STRICT;
