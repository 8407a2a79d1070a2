-- An event of any type and payload. It is journaled, and what is given back is its seq.
-- psql -v topology=demo -f testdata/inject/emit.sql
SELECT topology_emit(id, 'decky.service_added', '{"decky_name": "web-1", "services": ["ssh"]}')
FROM topologies WHERE name = :'topology';
