-- Another status: the event is status. A topology that is neither active nor deploying cannot become degraded.
-- psql -v topology=demo -f testdata/inject/status.sql
UPDATE topologies SET status = 'degraded', reason = 'by hand' WHERE name = :'topology';
