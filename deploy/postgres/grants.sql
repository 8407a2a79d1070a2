-- What each role may do, in the schema that `topostream migrate up` used (public, unless the search path says
-- otherwise). Run it as the owner, after the first `migrate up` and for each role that is new; it may be run again. An
-- upgrade needs it not: `migrate up` gives what is new to the roles that had the grants of the version before.
--
--   psql -v ON_ERROR_STOP=1 -f deploy/postgres/grants.sql
--
-- Make the five roles before, as a superuser; who leaves one out leaves out its grants, too:
--
--   CREATE ROLE topostream_reader NOLOGIN;
--   CREATE ROLE topostream_injector NOLOGIN;
--   CREATE ROLE topostream_deployer NOLOGIN;
--   CREATE ROLE topostream_server LOGIN REPLICATION PASSWORD '…'; -- REPLICATION is for the bus wal
--   CREATE ROLE topostream_worker LOGIN REPLICATION PASSWORD '…';

-- reader
GRANT SELECT ON topologies, mutations, lans, deckies, edges, topology_heads, topology_events TO topostream_reader;

-- injector
GRANT SELECT, INSERT, UPDATE, DELETE ON topologies TO topostream_injector;
GRANT SELECT, INSERT, UPDATE ON mutations TO topostream_injector;
GRANT EXECUTE ON FUNCTION topology_emit TO topostream_injector;

-- server
GRANT SELECT ON topologies, mutations, lans, deckies, edges TO topostream_server;
GRANT SELECT ON mutation_keys, topology_heads, topology_events TO topostream_server;
GRANT INSERT, UPDATE (status, reason), DELETE ON topologies TO topostream_server;
GRANT INSERT, DELETE ON mutations TO topostream_server;
GRANT INSERT, UPDATE, DELETE ON mutation_keys TO topostream_server;
GRANT SELECT, INSERT, UPDATE, DELETE ON sse_tickets TO topostream_server;
GRANT INSERT ON lans, deckies, edges TO topostream_server;
GRANT SELECT ON topology_settings, topology_migrations TO topostream_server;
GRANT EXECUTE ON FUNCTION topology_check_epoch, topology_prune, topology_sweep, topology_journal TO topostream_server;
GRANT EXECUTE ON FUNCTION topology_event_json, topology_mutation_json, topology_time TO topostream_server;
GRANT EXECUTE ON FUNCTION topology_snapshots TO topostream_server;
GRANT EXECUTE ON FUNCTION topology_graph_json, topology_lan, topology_decky, topology_edge TO topostream_server;
GRANT EXECUTE ON FUNCTION topology_identity, topology_identify TO topostream_server;
GRANT EXECUTE ON FUNCTION topology_raise_epoch, topology_raise TO topostream_server;
GRANT EXECUTE ON FUNCTION topology_light, topology_document, topology_document_json TO topostream_server;
GRANT EXECUTE ON FUNCTION topology_heads_of, topology_pages TO topostream_server;

-- worker
GRANT SELECT, UPDATE ON topologies, mutations TO topostream_worker;
GRANT SELECT, INSERT, UPDATE, DELETE ON lans, deckies, edges TO topostream_worker;
GRANT SELECT, INSERT, UPDATE ON topology_parked TO topostream_worker;
GRANT INSERT (topology_id) ON topology_edits TO topostream_worker;
GRANT SELECT ON topology_heads, topology_migrations TO topostream_worker;
GRANT EXECUTE ON FUNCTION topology_check_epoch, topology_identity, topology_identify TO topostream_worker;

-- deployer
GRANT SELECT ON topologies, lans, deckies, edges TO topostream_deployer;
GRANT UPDATE (state, ip, decky_config) ON deckies TO topostream_deployer;

