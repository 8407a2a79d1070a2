-- A mutation remembers the trace that it was asked for in: the worker, the applier and the frames go on with it. It is
-- in no event, document or answer.

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (9, 'traces', true);

-- What the table is locked for is over at once; who holds it keeps nobody waiting behind us.
SET LOCAL lock_timeout = '1s';
ALTER TABLE {{.schema}}.mutations ADD COLUMN IF NOT EXISTS traceparent text; -- W3C Trace Context, level 1; null: none

---- create above / drop below ----

-- What is above does no harm to the version before, and a column that goes would take the traces of what waits.
DELETE FROM {{.schema}}.topology_migrations WHERE version = 9;
