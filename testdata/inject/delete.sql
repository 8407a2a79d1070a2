-- The end of a topology: the event deleted is the last, and its streams close.
-- psql -v topology=demo -f testdata/inject/delete.sql
DELETE FROM topologies WHERE name = :'topology';
