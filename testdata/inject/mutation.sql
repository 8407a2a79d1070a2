-- One edit, as a row: mutation.enqueued at once, then what the worker makes of it. It waits until the topology is
-- active.
-- psql -v topology=demo -f testdata/inject/mutation.sql
INSERT INTO mutations (topology_id, op, payload)
SELECT id, 'add_lan', '{"name": "lan-9"}' FROM topologies WHERE name = :'topology';
