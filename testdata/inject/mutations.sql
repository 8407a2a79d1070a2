-- Several edits by one statement: each is enqueued, and applied, in the order of n.
-- psql -v topology=demo -f testdata/inject/mutations.sql
INSERT INTO mutations (topology_id, op, payload)
SELECT id, op, payload::jsonb
FROM topologies, (VALUES
    (1, 'add_lan', '{"name": "lan-10"}'),
    (2, 'add_decky', '{"name": "web-10", "lan": "lan-10", "services": ["ssh"]}'),
    (3, 'update_lan', '{"name": "lan-10", "x": 100, "y": 50}')
) AS edits (n, op, payload)
WHERE name = :'topology'
ORDER BY n;
