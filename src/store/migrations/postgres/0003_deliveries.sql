-- What is open of an execution, in its order. Not by `finished_at`, as `deliveries_open` has it: in that one is all that waits
-- for a sink, and a planner that believes that next to nothing is open takes either of two. Whoever asks by `finished_at` for
-- what an execution has open, as older ones do, finds it by `deliveries_of_execution`.
CREATE INDEX deliveries_in_line ON deliveries (execution, id) WHERE status IN ('waiting', 'leased');
DROP INDEX deliveries_line;

-- Each delivery leaves a dead version or two behind, in the indexes that claims read, too: they are cleaned away when they are
-- a hundredth of the table, not a fifth, which with months kept is days' worth. Who speaks the protocol and does not know
-- such a parameter (CockroachDB, whose storage has nothing to vacuum) goes on without it.
DO $$ BEGIN
    ALTER TABLE deliveries SET (autovacuum_vacuum_scale_factor = 0.01);
EXCEPTION WHEN OTHERS THEN
    RAISE NOTICE 'deliveries are vacuumed as every table is: %', SQLERRM;
END $$;
