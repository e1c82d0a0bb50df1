-- Whatever waits, and however much: nothing that a start, a callback or a delivery asks for reads more than its answer.
-- What is leased stands together, and what waits for each sink in the order in which it is due.
DROP INDEX deliveries_open;
CREATE INDEX deliveries_open ON deliveries (status, sink, due_at) WHERE finished_at IS NULL;
-- What is open comes first, oldest first: of an execution with thousands of changes, the next in line.
DROP INDEX deliveries_of_execution;
CREATE INDEX deliveries_of_execution ON deliveries (execution, sink, finished_at);
CREATE INDEX inquiries_leased ON inquiries (leased) WHERE leased = 1;
-- What speaks of several executions, accepted or not: it goes when the last of them does.
DROP INDEX receipts_of_several;
CREATE INDEX receipts_of_several ON receipts (id) WHERE executions IS NOT NULL;
-- Why a sink's deliveries wait. What goes well at once is never in it.
CREATE INDEX deliveries_tried ON deliveries (sink, until_linked) WHERE finished_at IS NULL AND reason IS NOT NULL;
