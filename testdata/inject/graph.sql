-- A direct edit of the graph: each statement is one event graph, with what it changed, and no mutation's.
-- psql -v topology=demo -f testdata/inject/graph.sql
INSERT INTO lans (topology_id, name, subnet)
SELECT id, 'lan-by-hand', '10.77.0.0/24' FROM topologies WHERE name = :'topology';

INSERT INTO deckies (topology_id, name, services)
SELECT id, 'decky-by-hand', '["ssh"]' FROM topologies WHERE name = :'topology';

UPDATE deckies SET state = 'running'
WHERE name = 'decky-by-hand' AND topology_id = (SELECT id FROM topologies WHERE name = :'topology');
