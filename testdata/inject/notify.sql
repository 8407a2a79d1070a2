-- A raw NOTIFY, which is in no journal: whoever is connected gets it, without an id, and whoever comes later does not.
-- psql -v topology=demo -f testdata/inject/notify.sql
SELECT pg_notify('topology.' || id, '{"type": "decky.seen", "payload": {"by": "hand"}}')
FROM topologies WHERE name = :'topology';
