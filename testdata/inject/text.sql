-- A raw NOTIFY of any text: the event notify, with the text as its payload.
-- psql -v topology=demo -f testdata/inject/text.sql
SELECT pg_notify('topology.' || id, 'any text at all') FROM topologies WHERE name = :'topology';
