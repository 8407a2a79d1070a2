-- Which history a read belongs to, what of a topology is in flight, and documents of a bounded size.
-- A raise of the epoch changes topology_settings alone: a topology enters the new epoch when a server asks for it
-- (topology_raise), so that no writer ever waits for another topology's lock.

-- Servers and writers of the version before go on meanwhile. Whoever waits for one of these tables waits behind us while we wait, so
-- not for long: Up tries again. In the order in which a writer locks them.
SET LOCAL lock_timeout = '1s';
LOCK TABLE {{.schema}}.mutations, {{.schema}}.topology_heads, {{.schema}}.topology_settings IN ACCESS EXCLUSIVE MODE;

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (5, 'histories', true);

-- A new one at every raise: two copies of one database can make the same next epoch.
-- In three steps: a volatile default would rewrite the table, which is empty then for whoever has an older snapshot, and so
-- for the triggers of a writer at REPEATABLE READ.
ALTER TABLE {{.schema}}.topology_settings ADD COLUMN history uuid;
UPDATE {{.schema}}.topology_settings SET history = gen_random_uuid();
ALTER TABLE {{.schema}}.topology_settings ALTER COLUMN history SET NOT NULL, ALTER COLUMN history SET DEFAULT gen_random_uuid();

-- Whatever changes the bus, the epoch or the history tells servers and workers at once, on any bus.
DROP TRIGGER changed ON {{.schema}}.topology_settings;
CREATE TRIGGER changed AFTER UPDATE ON {{.schema}}.topology_settings FOR EACH ROW
    WHEN ((OLD.bus, OLD.epoch, OLD.history) IS DISTINCT FROM (NEW.bus, NEW.epoch, NEW.history))
    EXECUTE FUNCTION {{.schema}}.topology_settings_changed();

-- The bytes of payload and requested_by as text when the mutation was enqueued; 0 for what was finished before this migration.
ALTER TABLE {{.schema}}.mutations ADD COLUMN payload_bytes int NOT NULL DEFAULT 0;

-- What is in flight. The same UPDATE that raises the head's seq moves them.
ALTER TABLE {{.schema}}.topology_heads
    ADD COLUMN in_flight       bigint NOT NULL DEFAULT 0,   -- mutations pending or applying
    ADD COLUMN in_flight_bytes bigint NOT NULL DEFAULT 0,   -- sum of their payload_bytes
    ADD COLUMN in_flight_from  bigint;                      -- none of them has a lower position; null when there is none

ALTER TABLE {{.schema}}.mutations DISABLE TRIGGER USER;
UPDATE {{.schema}}.mutations SET payload_bytes = octet_length(payload::text) + coalesce(octet_length(requested_by), 0)
 WHERE state IN ('pending', 'applying');
ALTER TABLE {{.schema}}.mutations ENABLE TRIGGER USER;
UPDATE {{.schema}}.topology_heads h SET in_flight = m.n, in_flight_bytes = m.bytes, in_flight_from = m.from
  FROM (SELECT topology_id, count(*) AS n, sum(payload_bytes) AS bytes, min(position) AS from
          FROM {{.schema}}.mutations WHERE state IN ('pending', 'applying') GROUP BY topology_id) m
 WHERE h.topology_id = m.topology_id;

---------------------------------------------------------------- encoders

CREATE OR REPLACE FUNCTION {{.schema}}.topology_mutation_json(_m {{.schema}}.mutations) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT json_build_object('id', _m.id, 'position', _m.position, 'topology_id', _m.topology_id, 'op', _m.op, 'payload', _m.payload,
        'state', _m.state, 'requested_by', _m.requested_by, 'requested_at', {{.schema}}.topology_time(_m.requested_at),
        'applied_at', {{.schema}}.topology_time(_m.applied_at), 'reason', _m.reason)::text
$f$;

-- A topology's document. _in_flight: its mutations' JSON with commas between; _graph: what topology_graph_json gives, or null.
CREATE FUNCTION {{.schema}}.topology_document_json(_id uuid, _status text, _reason text, _version bigint, _seq bigint,
    _in_flight text, _total bigint, _graph text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT '{"topology_id":"' || _id || '","status":"' || _status || '","reason":' || coalesce(to_json(_reason)::text, 'null')
        || ',"version":' || _version || ',"seq":' || _seq || ',"in_flight":[' || coalesce(_in_flight, '') || '],"in_flight_total":' || _total
        || coalesce(',' || _graph, '') || '}'
$f$;

---------------------------------------------------------------- recording events

-- The statement that numbers, records and NOTIFYs the events of _source (topology_id, ord, type, payload).
-- $1: time, $2: whether to NOTIFY, $3 and $4: the pads. The heads are locked. _set: what else changes in the head h,
-- with a comma before; _join: what that needs beside r (topology_id, seq), the topologies that have events.
CREATE FUNCTION {{.schema}}.topology_record_sql(_source text, _set text, _join text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $f$
    SELECT 'WITH changed AS MATERIALIZED (' || _source || '),
        recorded AS (
            INSERT INTO {{.literal}}.topology_events (topology_id, seq, type, payload, at)
            SELECT c.topology_id, h.seq + row_number() OVER (PARTITION BY c.topology_id ORDER BY c.ord), c.type, c.payload, $1
              FROM changed c JOIN {{.literal}}.topology_heads h USING (topology_id)
            RETURNING topology_id, seq, type, payload, at),
        moved AS (
            UPDATE {{.literal}}.topology_heads h SET seq = r.seq' || _set || '
              FROM (SELECT topology_id, max(seq) AS seq FROM recorded GROUP BY topology_id) r' || _join || '
             WHERE h.topology_id = r.topology_id),
        encoded AS MATERIALIZED (
            SELECT topology_id, seq, type, {{.literal}}.topology_event_json(topology_id, seq, type, payload, at) AS event FROM recorded),
        sized AS MATERIALIZED (
            SELECT topology_id, seq, topology_id || '':'' || seq AS name,
                   CASE WHEN octet_length(event) > 16777216 THEN {{.literal}}.topology_refuse_size(type, octet_length(event))
                        WHEN octet_length(event) < 7940 THEN '' '' || event
                        ELSE '''' END AS inline
              FROM encoded ORDER BY topology_id, seq)
        SELECT count(CASE WHEN $2 THEN pg_notify(''topology.'' || topology_id,
                   ''~'' || {{.literal}}.topology_mark($3, $4, name || inline) || '':'' || seq || inline)::text ELSE inline END)
          FROM sized'
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.topology_record_sql(_source text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $f$ SELECT {{.schema}}.topology_record_sql(_source, '', '') $f$;

-- The same for events of mutations, whose _source also has flight, by how much each changes what is in flight (1, 0 or -1),
-- and bytes, its payload_bytes. The lower bound rises only when something finished, to the lowest position that the index
-- still holds above the old bound. Who inserted below it has not had the head's lock yet and lowers the bound when it gets it.
CREATE FUNCTION {{.schema}}.topology_count_sql(_source text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $f$
    SELECT {{.schema}}.topology_record_sql(_source, ',
            in_flight = h.in_flight + c.flight, in_flight_bytes = h.in_flight_bytes + c.bytes,
            in_flight_from = CASE WHEN c.finished OR h.in_flight + c.flight <= 0
                THEN (SELECT m.position FROM {{.literal}}.mutations m WHERE m.state IN (''pending'', ''applying'')
                         AND (m.topology_id, m.position) >= (h.topology_id, coalesce(least(h.in_flight_from, c.added), 0))
                         AND (m.topology_id, m.position) <= (h.topology_id, 9223372036854775807)
                       ORDER BY m.topology_id, m.position LIMIT 1)
                ELSE least(h.in_flight_from, c.added) END', '
              JOIN (SELECT topology_id, sum(flight) AS flight, sum(flight * bytes) AS bytes,
                           min(ord) FILTER (WHERE flight > 0) AS added, bool_or(flight < 0) AS finished
                      FROM changed GROUP BY topology_id) c USING (topology_id)')
$f$;

-- A topology that is made anew with the same id begins with nothing in flight.
CREATE OR REPLACE FUNCTION {{.schema}}.topologies_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _b record; _locked bigint; _named bigint;
    _source CONSTANT text := $q$SELECT id AS topology_id, 1 AS ord, 'deleted'::text AS type, '{}'::jsonb AS payload FROM old_rows$q$;
BEGIN
    IF NOT EXISTS (SELECT FROM old_rows) THEN RETURN NULL; END IF;
    _b := {{.schema}}.topology_begin();
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    PERFORM {{.schema}}.topology_check_heads(_locked, _named);
    EXECUTE {{.schema}}.topology_record_sql(_source, ', in_flight = 0, in_flight_bytes = 0, in_flight_from = NULL', '')
        USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad;
    RETURN NULL;
END
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.mutations_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _b record; _locked bigint; _named bigint;
    _source CONSTANT text := $q$SELECT topology_id, position AS ord, 'mutation.enqueued'::text AS type,
        jsonb_build_object('mutation_id', id, 'op', op, 'payload', payload) AS payload, 1 AS flight, payload_bytes AS bytes FROM new_rows$q$;
BEGIN
    IF NOT EXISTS (SELECT FROM new_rows) THEN RETURN NULL; END IF;
    _b := {{.schema}}.topology_begin();
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    PERFORM {{.schema}}.topology_check_heads(_locked, _named);
    EXECUTE {{.schema}}.topology_count_sql(_source) USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad;
    IF _b.notify THEN
        PERFORM pg_notify('topology_mutations', '');
    END IF;
    RETURN NULL;
END
$f$;

-- A mutation that becomes applied raises its topology's version, so topology rows are locked before heads, in id order.
CREATE OR REPLACE FUNCTION {{.schema}}.mutations_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _b record; _locked bigint; _named bigint; _requeued bigint;
    _source CONSTANT text := $q$
        SELECT m.topology_id, m.position AS ord,
               CASE m.state WHEN 'pending' THEN 'mutation.requeued' ELSE 'mutation.' || m.state END AS type,
               CASE m.state
                   WHEN 'applying' THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'payload', m.payload)
                   WHEN 'applied'  THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'version', m.version,
                       'result', coalesce(m.result, '{"lans": [], "deckies": [], "edges": [], "removed": []}'))
                   WHEN 'failed'   THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'reason', m.reason)
                   ELSE jsonb_build_object('mutation_id', m.id, 'op', m.op, 'attempt', m.attempt)
               END AS payload,
               CASE WHEN m.state IN ('applied', 'failed') THEN -1 ELSE 0 END AS flight, m.payload_bytes AS bytes
          FROM (SELECT n.*, t.version
                       - count(*) FILTER (WHERE n.state = 'applied') OVER (PARTITION BY n.topology_id)
                       + count(*) FILTER (WHERE n.state = 'applied') OVER (PARTITION BY n.topology_id ORDER BY n.position) AS version
                  FROM new_rows n JOIN old_rows o ON o.id = n.id JOIN {{.schema}}.topologies t ON t.id = n.topology_id
                 WHERE n.state <> o.state) m$q$;
BEGIN
    EXECUTE $q$
        WITH raised AS MATERIALIZED (
            SELECT n.topology_id, count(*) AS by FROM new_rows n JOIN old_rows o ON o.id = n.id
             WHERE n.state <> o.state AND n.state = 'applied' GROUP BY n.topology_id),
        locked AS MATERIALIZED (
            SELECT t.id FROM {{.schema}}.topologies t WHERE t.id IN (SELECT topology_id FROM raised) ORDER BY t.id FOR NO KEY UPDATE)
        UPDATE {{.schema}}.topologies t SET version = t.version + r.by
          FROM locked l JOIN raised r ON r.topology_id = l.id WHERE t.id = l.id$q$;
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    IF _named = 0 THEN RETURN NULL; END IF;
    PERFORM {{.schema}}.topology_check_heads(_locked, _named);
    _b := {{.schema}}.topology_begin();
    EXECUTE {{.schema}}.topology_count_sql(_source) USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad;
    IF _b.notify THEN
        EXECUTE $q$SELECT count(*) FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE n.state = 'pending' AND o.state = 'applying'$q$ INTO _requeued;
        IF _requeued > 0 THEN
            PERFORM pg_notify('topology_mutations', '');
        END IF;
    END IF;
    RETURN NULL;
END
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.mutations_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _legal text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.state IN ('pending', 'applying') AND EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = OLD.topology_id) THEN
            RAISE EXCEPTION 'mutations: % is in flight (%) and cannot be deleted: wait until it is applied or failed', OLD.id, OLD.state
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF NEW.state IS NULL OR NEW.state NOT IN ('pending', 'applying', 'applied', 'failed') THEN
        RAISE EXCEPTION 'mutations.state: % is no state: legal are pending, applying, applied, failed', coalesce(quote_literal(NEW.state), 'null')
            USING ERRCODE = 'check_violation';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'pending' THEN
            RAISE EXCEPTION 'mutations.state: a mutation begins as pending, not %', NEW.state USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.op NOT IN ('add_lan', 'remove_lan', 'update_lan', 'add_decky', 'attach_decky', 'detach_decky', 'remove_decky', 'update_decky') THEN
            RAISE EXCEPTION 'mutations.op: % is no op: legal are add_lan, remove_lan, update_lan, add_decky, attach_decky, detach_decky, remove_decky, update_decky', quote_literal(left(NEW.op, 80))
                USING ERRCODE = 'check_violation';
        END IF;
        NEW.payload_bytes := coalesce(octet_length(NEW.payload::text), 0) + coalesce(octet_length(NEW.requested_by), 0);
        RETURN NEW;
    END IF;
    NEW.payload_bytes := OLD.payload_bytes; -- the head has counted it
    IF NEW.id <> OLD.id OR NEW.position <> OLD.position OR NEW.topology_id <> OLD.topology_id THEN
        RAISE EXCEPTION 'mutations: id, position and topology_id cannot be changed: enqueue another mutation' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.op <> OLD.op OR NEW.payload IS DISTINCT FROM OLD.payload THEN
        RAISE EXCEPTION 'mutations: op and payload of an enqueued mutation cannot be changed: enqueue another mutation' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state <> OLD.state THEN
        _legal := CASE OLD.state
            WHEN 'pending' THEN 'applying'
            WHEN 'applying' THEN 'applied, failed, pending'
            ELSE '' END;
        IF NEW.state <> ALL (string_to_array(_legal, ', ')) THEN
            RAISE EXCEPTION 'mutations.state: % cannot become %: from % it may become %', OLD.state, NEW.state, OLD.state,
                coalesce(nullif(replace(_legal, ', ', ' or '), ''), 'nothing else')
                USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.state = 'applying' AND NEW.attempt = OLD.attempt THEN
            NEW.attempt := OLD.attempt + 1;
        ELSIF NEW.state = 'applied' THEN
            NEW.applied_at := coalesce(NEW.applied_at, clock_timestamp());
            NEW.finished_at := NEW.applied_at;
        ELSIF NEW.state = 'failed' THEN
            NEW.finished_at := clock_timestamp();
        END IF;
    END IF;
    RETURN NEW;
END
$f$;

---------------------------------------------------------------- histories

-- What tells one history of a database from another: a restore has another system identifier or database, a promotion and a
-- point-in-time recovery another timeline, for which a standby cannot be asked. The database's OID is in the path of its files:
-- it costs a third of a look into pg_database.
CREATE FUNCTION {{.schema}}.topology_place(OUT system text, OUT timeline bigint, OUT database bigint)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
    system := (pg_control_system()).system_identifier;
    timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
    database := split_part(pg_relation_filepath('pg_catalog.pg_class'::regclass), '/', -2)::bigint;
END
$f$;

-- What the database at the other end of this connection says it is. `other`: it is no standby, and not the place that it
-- remembers: somebody has to call topology_identify. Every read of heads, journal and documents has it in its own statement,
-- so it must cost little: it asks for the place itself, as topology_place does.
CREATE FUNCTION {{.schema}}.topology_identity(OUT epoch bigint, OUT history uuid, OUT recovering boolean, OUT other boolean)
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _system text; _timeline bigint; _database bigint;
BEGIN
    recovering := pg_is_in_recovery();
    IF NOT recovering THEN
        _system := (pg_control_system()).system_identifier;
        _timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
        _database := split_part(pg_relation_filepath('pg_catalog.pg_class'::regclass), '/', -2)::bigint;
    END IF;
    SELECT s.epoch, s.history, NOT recovering AND (s.system_identifier, s.timeline, s.database_oid) IS DISTINCT FROM (_system, _timeline, _database)
      INTO STRICT epoch, history, other FROM {{.schema}}.topology_settings s;
END
$f$;

-- The epoch that follows _epoch: ten-minute intervals since 2026 where they are more, so that two copies of one database seldom
-- make the same one, and the later one is the higher one. A clock that is far ahead counts for nothing.
CREATE FUNCTION {{.schema}}.topology_epoch_after(_epoch bigint) RETURNS bigint
LANGUAGE sql
AS $f$
    SELECT greatest(_epoch + 1, (SELECT n FROM (SELECT
        floor(extract(epoch FROM clock_timestamp() - timestamptz '2026-01-01 00:00:00+00') / 600)::bigint AS n) c WHERE n <= 2097151))
$f$;

-- Remembers the database's place if it is another one than remembered, and then raises the epoch, once, unless it remembered
-- none. Gives the epoch.
CREATE FUNCTION {{.schema}}.topology_identify() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
AS $f$
DECLARE
    _i record; _s record; _p record; _epoch bigint;
BEGIN
    _i := {{.schema}}.topology_identity();
    IF NOT _i.other THEN
        RETURN _i.epoch;
    END IF;
    SELECT s.epoch, s.system_identifier, s.timeline, s.database_oid INTO STRICT _s FROM {{.schema}}.topology_settings s FOR NO KEY UPDATE;
    _p := {{.schema}}.topology_place();
    IF (_s.system_identifier, _s.timeline, _s.database_oid) IS NOT DISTINCT FROM (_p.system, _p.timeline, _p.database) THEN
        RETURN _s.epoch;
    END IF;
    UPDATE {{.schema}}.topology_settings s
       SET system_identifier = _p.system, timeline = _p.timeline, database_oid = _p.database,
           epoch = CASE WHEN _s.system_identifier IS NULL THEN s.epoch ELSE {{.schema}}.topology_epoch_after(s.epoch) END,
           history = CASE WHEN _s.system_identifier IS NULL THEN s.history ELSE gen_random_uuid() END
    RETURNING s.epoch INTO _epoch;
    RETURN _epoch;
END
$f$;

-- Raises the epoch if the database still is in that history: whoever found out first does it. Gives the epoch.
CREATE FUNCTION {{.schema}}.topology_raise_epoch(_history uuid) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
AS $f$
DECLARE
    _epoch bigint;
BEGIN
    UPDATE {{.schema}}.topology_settings s SET epoch = {{.schema}}.topology_epoch_after(s.epoch), history = gen_random_uuid()
     WHERE s.history = _history RETURNING s.epoch INTO _epoch;
    IF NOT FOUND THEN
        SELECT s.epoch INTO STRICT _epoch FROM {{.schema}}.topology_settings s;
    END IF;
    RETURN _epoch;
END
$f$;

-- Raises the epoch by hand.
CREATE OR REPLACE FUNCTION {{.schema}}.topology_new_epoch() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
AS $f$
DECLARE
    _epoch bigint;
BEGIN
    UPDATE {{.schema}}.topology_settings s SET epoch = {{.schema}}.topology_epoch_after(s.epoch), history = gen_random_uuid()
    RETURNING s.epoch INTO STRICT _epoch;
    RETURN _epoch;
END
$f$;

-- For the server before this migration. One that knows it calls topology_identify.
CREATE OR REPLACE FUNCTION {{.schema}}.topology_check_epoch() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
    RETURN {{.schema}}.topology_identify();
END
$f$;

-- The pid of the transaction that locks a row whose xmax this is; 0: a prepared one; null: it cannot be told, or nobody does.
CREATE FUNCTION {{.schema}}.topology_holder(_xmax xid) RETURNS int
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _pid int;
BEGIN
    SELECT coalesce(l.pid, 0) INTO _pid FROM pg_locks l
     WHERE l.locktype = 'transactionid' AND l.transactionid = _xmax AND l.granted AND l.mode = 'ExclusiveLock' LIMIT 1;
    IF NOT FOUND THEN -- several transactions, under one number, or nobody any more
        SELECT coalesce(l.pid, 0) INTO _pid FROM pg_get_multixact_members(_xmax) m JOIN pg_locks l ON l.transactionid = m.xid
         WHERE m.mode <> 'keysh' AND l.locktype = 'transactionid' AND l.granted AND l.mode = 'ExclusiveLock' LIMIT 1;
    END IF;
    RETURN _pid;
EXCEPTION WHEN OTHERS THEN
    RETURN NULL; -- there is no such multixact
END
$f$;

-- Has the named topologies enter the settings' epoch where their heads are below it. A head that somebody holds is left; its
-- topology and who holds it are the result. One that is named alone is waited for, for 100 ms at most; the caller tries again.
CREATE FUNCTION {{.schema}}.topology_raise(_ids uuid[]) RETURNS TABLE (topology_id uuid, held_by int)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '100ms'
AS $f$
#variable_conflict use_column
DECLARE
    _b record; _free uuid[]; _n bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM {{.schema}}.topology_heads h, {{.schema}}.topology_settings s
                    WHERE h.topology_id = ANY (_ids) AND h.seq < s.epoch << 32) THEN
        RETURN;
    END IF;
    _b := {{.schema}}.topology_begin();
    _free := ARRAY(SELECT h.topology_id FROM {{.schema}}.topology_heads h
                    WHERE h.topology_id = ANY (_ids) AND h.seq < (SELECT s.epoch << 32 FROM {{.schema}}.topology_settings s)
                    ORDER BY h.topology_id FOR NO KEY UPDATE SKIP LOCKED);
    -- One that is written to all the time is held for a moment by each writer: a place in the queue for its lock is what gets it.
    -- It is waited for where it is the only one named, so that no other head is locked meanwhile.
    IF cardinality(_ids) = 1 AND cardinality(_free) = 0 THEN
        BEGIN
            PERFORM FROM {{.schema}}.topology_heads h WHERE h.topology_id = _ids[1] FOR NO KEY UPDATE;
            _free := _ids;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            NULL;
        END;
    END IF;
    WITH lifted AS (
        UPDATE {{.schema}}.topology_heads h SET seq = s.epoch << 32, first = (s.epoch << 32) + 1
          FROM {{.schema}}.topology_settings s
         WHERE h.topology_id = ANY (_free) AND h.seq < s.epoch << 32
        RETURNING h.topology_id, h.seq)
    SELECT count(CASE WHEN _b.notify THEN pg_notify('topology.' || l.topology_id,
               '~' || {{.schema}}.topology_mark(_b.inner_pad, _b.outer_pad, l.topology_id || ':' || l.seq) || ':' || l.seq)::text END)
      INTO _n FROM lifted l;
    RETURN QUERY SELECT h.topology_id, {{.schema}}.topology_holder(h.xmax) FROM {{.schema}}.topology_heads h, {{.schema}}.topology_settings s
                  WHERE h.topology_id = ANY (_ids) AND h.seq < s.epoch << 32;
END
$f$;

---------------------------------------------------------------- reading

-- The light snapshot of each topology, all of one moment and at a cost that does not depend on what they hold: the document
-- where what is in flight is little, at most about 1 MiB a call, otherwise null. alive: the topology is there; one that was
-- deleted has a head until retention removes it. At least one row, for the identity.
-- What is in flight is found by mutations_in_flight alone, whatever the statistics say: no other index has the order
-- (topology_id, position), and sorting is off. No sequential scan: a plan made while a table was small stays with the connection
-- when it has grown. (plan_cache_mode: planned anew for each array it takes four times as long. jit: what is off looks dear
-- enough to be compiled, for 0.4 s.)
CREATE FUNCTION {{.schema}}.topology_light(_ids uuid[])
RETURNS TABLE (epoch bigint, history uuid, recovering boolean, other boolean,
    topology_id uuid, seq bigint, first bigint, in_flight bigint, alive boolean, document text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off SET jit = off
AS $f$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH named AS MATERIALIZED (
        SELECT r.ord, h.topology_id, h.seq, h.first, h.in_flight, h.in_flight_from, t.id, t.status, t.reason, t.version,
               t.id IS NOT NULL AND h.in_flight <= 64 AND h.in_flight_bytes <= 65536 AND coalesce(octet_length(t.reason), 0) <= 65536 AS small,
               h.in_flight_bytes + 400 * h.in_flight + 4096 + coalesce(octet_length(t.reason), 0) AS cost
          FROM unnest(_ids) WITH ORDINALITY AS r (id, ord)
          JOIN {{.schema}}.topology_heads h ON h.topology_id = r.id LEFT JOIN {{.schema}}.topologies t ON t.id = h.topology_id),
    fitting AS MATERIALIZED (
        SELECT n.*, n.small AND sum(n.cost) FILTER (WHERE n.small) OVER (ORDER BY n.ord) <= 1048576 AS fits FROM named n)
    SELECT i.epoch, i.history, i.recovering, i.other, f.topology_id, f.seq, f.first, f.in_flight, f.id IS NOT NULL,
           CASE WHEN f.fits AND m.n = f.in_flight THEN
               {{.schema}}.topology_document_json(f.id, f.status, f.reason, f.version, f.seq, m.list, f.in_flight, NULL) END
      FROM {{.schema}}.topology_identity() i LEFT JOIN fitting f ON true
      -- A row that somebody has lengthened since it was enqueued has no JSON here, and its topology no document.
      LEFT JOIN LATERAL (
          SELECT count(q.json) AS n, string_agg(q.json, ',' ORDER BY q.position) AS list FROM (
              SELECT m.position, CASE WHEN coalesce(octet_length(m.reason), 0) <= 1024 AND coalesce(octet_length(m.requested_by), 0) <= m.payload_bytes
                                      THEN {{.schema}}.topology_mutation_json(m.*) END AS json
                FROM {{.schema}}.mutations m
               WHERE m.state IN ('pending', 'applying') AND (m.topology_id, m.position) >= (f.topology_id, f.in_flight_from)
                 AND (m.topology_id, m.position) <= (f.topology_id, 9223372036854775807)
               ORDER BY m.topology_id, m.position LIMIT CASE WHEN f.fits THEN f.in_flight ELSE 0 END) q) m ON true;
END
$f$;

-- A topology's document: one row with the head and the document's size in bytes, then the document in pieces of up to
-- 256 KiB, all of one moment. What is in flight is a prefix by position: 1,000 mutations and 1 MiB of payloads at most.
CREATE FUNCTION {{.schema}}.topology_document(_id uuid, _graph boolean)
RETURNS TABLE (epoch bigint, history uuid, recovering boolean, other boolean,
    seq bigint, first bigint, alive boolean, size bigint, chunk bytea)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan SET enable_seqscan = off SET enable_sort = off SET enable_incremental_sort = off SET jit = off
AS $f$
#variable_conflict use_column
DECLARE
    _h record; _in_flight text; _bytes bytea; _n int;
BEGIN
    SELECT i.epoch, i.history, i.recovering, i.other, h.seq, h.first, h.in_flight, h.in_flight_from, t.id IS NOT NULL AS alive,
           t.status, t.reason, t.version
      INTO _h
      FROM {{.schema}}.topology_identity() i
      LEFT JOIN {{.schema}}.topology_heads h ON h.topology_id = _id LEFT JOIN {{.schema}}.topologies t ON t.id = h.topology_id;
    epoch := _h.epoch; history := _h.history; recovering := _h.recovering; other := _h.other;
    seq := _h.seq; first := _h.first; alive := _h.alive; size := 0;
    IF NOT alive THEN
        RETURN NEXT;
        RETURN;
    END IF;
    IF _h.in_flight > 0 THEN
        SELECT count(*) FILTER (WHERE s.bytes <= 1048576) INTO _n FROM (
            SELECT sum(m.bytes) OVER (ORDER BY m.position) AS bytes FROM (
                SELECT m.position, m.payload_bytes + coalesce(octet_length(m.reason), 0) + coalesce(octet_length(m.requested_by), 0) AS bytes
                  FROM {{.schema}}.mutations m
                 WHERE m.state IN ('pending', 'applying') AND (m.topology_id, m.position) >= (_id, _h.in_flight_from)
                   AND (m.topology_id, m.position) <= (_id, 9223372036854775807)
                 ORDER BY m.topology_id, m.position LIMIT least(_h.in_flight, 1000)) m) s;
        SELECT string_agg(q.json, ',' ORDER BY q.position) INTO _in_flight FROM (
            SELECT m.position, {{.schema}}.topology_mutation_json(m.*) AS json FROM {{.schema}}.mutations m
             WHERE m.state IN ('pending', 'applying') AND (m.topology_id, m.position) >= (_id, _h.in_flight_from)
               AND (m.topology_id, m.position) <= (_id, 9223372036854775807)
             ORDER BY m.topology_id, m.position LIMIT _n) q;
    END IF;
    _bytes := convert_to({{.schema}}.topology_document_json(_id, _h.status, _h.reason, _h.version, _h.seq, _in_flight, _h.in_flight,
            CASE WHEN _graph THEN {{.schema}}.topology_graph_json(_id) END),
        CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END);
    size := octet_length(_bytes);
    RETURN NEXT;
    epoch := NULL; history := NULL; recovering := NULL; other := NULL; seq := NULL; first := NULL; alive := NULL; size := NULL;
    FOR _i IN 0 .. (octet_length(_bytes) - 1) / 262144 LOOP
        chunk := substring(_bytes FROM _i * 262144 + 1 FOR 262144); -- of a text it would be sought from the beginning each time
        RETURN NEXT;
    END LOOP;
END
$f$;

-- Heads with the history that they belong to. The body is parsed now, so that it follows no caller's search_path although it
-- becomes part of the caller's statement.
CREATE FUNCTION {{.schema}}.topology_heads_of(_ids uuid[])
RETURNS TABLE (epoch bigint, history uuid, recovering boolean, other boolean, topology_id uuid, seq bigint, first bigint)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT i.epoch, i.history, i.recovering, i.other, h.topology_id, h.seq, h.first
      FROM {{.schema}}.topology_identity() i LEFT JOIN {{.schema}}.topology_heads h ON h.topology_id = ANY (_ids);
END;

-- A page of the journal for each pair of _ids and _afters, which ord counts from 0: at most _rows events and, but for the
-- first, _bytes bytes. A topology without a head has no row, one whose journal holds nothing above has one without an event.
CREATE FUNCTION {{.schema}}.topology_pages(_ids uuid[], _afters bigint[], _rows int, _bytes bigint)
RETURNS TABLE (epoch bigint, history uuid, recovering boolean, other boolean,
    ord int, head bigint, first bigint, seq bigint, type text, event text)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT i.epoch, i.history, i.recovering, i.other, p.ord, p.head, p.first, p.seq, p.type, p.event
      FROM {{.schema}}.topology_identity() i
      LEFT JOIN (SELECT r.ord::int - 1 AS ord, h.seq AS head, h.first, j.seq, j.type, j.event
                   FROM unnest(_ids, _afters) WITH ORDINALITY AS r (id, after, ord)
                   JOIN {{.schema}}.topology_heads h ON h.topology_id = r.id
                   LEFT JOIN LATERAL {{.schema}}.topology_journal(r.id, r.after, h.first, _rows, _bytes) j ON true) p ON true;
END;

---------------------------------------------------------------- rights: nothing for PUBLIC; who may read streams may do so with these

REVOKE ALL ON FUNCTION {{.schema}}.topology_document_json(uuid, text, text, bigint, bigint, text, bigint, text),
    {{.schema}}.topology_record_sql(text, text, text), {{.schema}}.topology_count_sql(text), {{.schema}}.topology_place(),
    {{.schema}}.topology_identity(), {{.schema}}.topology_epoch_after(bigint), {{.schema}}.topology_identify(),
    {{.schema}}.topology_raise_epoch(uuid), {{.schema}}.topology_holder(xid), {{.schema}}.topology_raise(uuid[]),
    {{.schema}}.topology_light(uuid[]), {{.schema}}.topology_document(uuid, boolean), {{.schema}}.topology_heads_of(uuid[]),
    {{.schema}}.topology_pages(uuid[], bigint[], int, bigint) FROM PUBLIC;

DO $do$
DECLARE
    _g record;
BEGIN
    FOR _g IN SELECT p.proname, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
                FROM pg_proc p, aclexplode(p.proacl) a
               WHERE p.pronamespace = '{{.literal}}'::regnamespace AND a.grantee <> p.proowner
                 AND p.proname IN ('topology_check_epoch', 'topology_snapshots') LOOP
        IF _g.proname = 'topology_check_epoch' THEN
            EXECUTE format('GRANT EXECUTE ON FUNCTION {{.format}}.topology_identity, {{.format}}.topology_identify TO %s', _g.grantee);
        ELSE
            EXECUTE format('GRANT EXECUTE ON FUNCTION {{.format}}.topology_identity, {{.format}}.topology_raise_epoch, {{.format}}.topology_raise,
                {{.format}}.topology_light, {{.format}}.topology_document, {{.format}}.topology_document_json, {{.format}}.topology_heads_of,
                {{.format}}.topology_pages TO %s', _g.grantee);
        END IF;
    END LOOP;
END
$do$;

---- create above / drop below ----

SET LOCAL lock_timeout = '1s';
LOCK TABLE {{.schema}}.mutations, {{.schema}}.topology_heads, {{.schema}}.topology_settings IN ACCESS EXCLUSIVE MODE;

-- The version before expects every head in the settings' epoch.
UPDATE {{.schema}}.topology_heads h SET seq = s.epoch << 32, first = (s.epoch << 32) + 1
  FROM {{.schema}}.topology_settings s WHERE h.seq < s.epoch << 32;

DROP FUNCTION {{.schema}}.topology_pages(uuid[], bigint[], int, bigint), {{.schema}}.topology_heads_of(uuid[]),
    {{.schema}}.topology_document(uuid, boolean), {{.schema}}.topology_light(uuid[]), {{.schema}}.topology_raise(uuid[]),
    {{.schema}}.topology_holder(xid), {{.schema}}.topology_raise_epoch(uuid), {{.schema}}.topology_identify(),
    {{.schema}}.topology_epoch_after(bigint), {{.schema}}.topology_identity(), {{.schema}}.topology_place(),
    {{.schema}}.topology_count_sql(text), {{.schema}}.topology_record_sql(text, text, text),
    {{.schema}}.topology_document_json(uuid, text, text, bigint, bigint, text, bigint, text);

CREATE OR REPLACE FUNCTION {{.schema}}.topology_mutation_json(_m {{.schema}}.mutations) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT json_build_object('id', _m.id, 'topology_id', _m.topology_id, 'op', _m.op, 'payload', _m.payload, 'state', _m.state,
        'requested_at', {{.schema}}.topology_time(_m.requested_at), 'applied_at', {{.schema}}.topology_time(_m.applied_at),
        'reason', _m.reason)::text
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.topology_record_sql(_source text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $f$
    SELECT 'WITH changed AS MATERIALIZED (' || _source || '),
        recorded AS (
            INSERT INTO {{.literal}}.topology_events (topology_id, seq, type, payload, at)
            SELECT c.topology_id, h.seq + row_number() OVER (PARTITION BY c.topology_id ORDER BY c.ord), c.type, c.payload, $1
              FROM changed c JOIN {{.literal}}.topology_heads h USING (topology_id)
            RETURNING topology_id, seq, type, payload, at),
        moved AS (
            UPDATE {{.literal}}.topology_heads h SET seq = r.seq
              FROM (SELECT topology_id, max(seq) AS seq FROM recorded GROUP BY topology_id) r
             WHERE h.topology_id = r.topology_id),
        encoded AS MATERIALIZED (
            SELECT topology_id, seq, type, {{.literal}}.topology_event_json(topology_id, seq, type, payload, at) AS event FROM recorded),
        sized AS MATERIALIZED (
            SELECT topology_id, seq, topology_id || '':'' || seq AS name,
                   CASE WHEN octet_length(event) > 16777216 THEN {{.literal}}.topology_refuse_size(type, octet_length(event))
                        WHEN octet_length(event) < 7940 THEN '' '' || event
                        ELSE '''' END AS inline
              FROM encoded ORDER BY topology_id, seq)
        SELECT count(CASE WHEN $2 THEN pg_notify(''topology.'' || topology_id,
                   ''~'' || {{.literal}}.topology_mark($3, $4, name || inline) || '':'' || seq || inline)::text ELSE inline END)
          FROM sized'
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.topologies_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _b record; _locked bigint; _named bigint;
    _source CONSTANT text := $q$SELECT id AS topology_id, 1 AS ord, 'deleted'::text AS type, '{}'::jsonb AS payload FROM old_rows$q$;
BEGIN
    IF NOT EXISTS (SELECT FROM old_rows) THEN RETURN NULL; END IF;
    _b := {{.schema}}.topology_begin();
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    PERFORM {{.schema}}.topology_check_heads(_locked, _named);
    EXECUTE {{.schema}}.topology_record_sql(_source) USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad;
    RETURN NULL;
END
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.mutations_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _b record; _locked bigint; _named bigint;
    _source CONSTANT text := $q$SELECT topology_id, position AS ord, 'mutation.enqueued'::text AS type,
        jsonb_build_object('mutation_id', id, 'op', op, 'payload', payload) AS payload FROM new_rows$q$;
BEGIN
    IF NOT EXISTS (SELECT FROM new_rows) THEN RETURN NULL; END IF;
    _b := {{.schema}}.topology_begin();
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    PERFORM {{.schema}}.topology_check_heads(_locked, _named);
    EXECUTE {{.schema}}.topology_record_sql(_source) USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad;
    IF _b.notify THEN
        PERFORM pg_notify('topology_mutations', '');
    END IF;
    RETURN NULL;
END
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.mutations_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _b record; _locked bigint; _named bigint; _requeued bigint;
    _source CONSTANT text := $q$
        SELECT m.topology_id, m.position AS ord,
               CASE m.state WHEN 'pending' THEN 'mutation.requeued' ELSE 'mutation.' || m.state END AS type,
               CASE m.state
                   WHEN 'applying' THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'payload', m.payload)
                   WHEN 'applied'  THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'version', m.version,
                       'result', coalesce(m.result, '{"lans": [], "deckies": [], "edges": [], "removed": []}'))
                   WHEN 'failed'   THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'reason', m.reason)
                   ELSE jsonb_build_object('mutation_id', m.id, 'op', m.op, 'attempt', m.attempt)
               END AS payload
          FROM (SELECT n.*, t.version
                       - count(*) FILTER (WHERE n.state = 'applied') OVER (PARTITION BY n.topology_id)
                       + count(*) FILTER (WHERE n.state = 'applied') OVER (PARTITION BY n.topology_id ORDER BY n.position) AS version
                  FROM new_rows n JOIN old_rows o ON o.id = n.id JOIN {{.schema}}.topologies t ON t.id = n.topology_id
                 WHERE n.state <> o.state) m$q$;
BEGIN
    EXECUTE $q$
        WITH raised AS MATERIALIZED (
            SELECT n.topology_id, count(*) AS by FROM new_rows n JOIN old_rows o ON o.id = n.id
             WHERE n.state <> o.state AND n.state = 'applied' GROUP BY n.topology_id),
        locked AS MATERIALIZED (
            SELECT t.id FROM {{.schema}}.topologies t WHERE t.id IN (SELECT topology_id FROM raised) ORDER BY t.id FOR NO KEY UPDATE)
        UPDATE {{.schema}}.topologies t SET version = t.version + r.by
          FROM locked l JOIN raised r ON r.topology_id = l.id WHERE t.id = l.id$q$;
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    IF _named = 0 THEN RETURN NULL; END IF;
    PERFORM {{.schema}}.topology_check_heads(_locked, _named);
    _b := {{.schema}}.topology_begin();
    EXECUTE {{.schema}}.topology_record_sql(_source) USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad;
    IF _b.notify THEN
        EXECUTE $q$SELECT count(*) FROM new_rows n JOIN old_rows o ON o.id = n.id WHERE n.state = 'pending' AND o.state = 'applying'$q$ INTO _requeued;
        IF _requeued > 0 THEN
            PERFORM pg_notify('topology_mutations', '');
        END IF;
    END IF;
    RETURN NULL;
END
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.mutations_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _legal text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.state IN ('pending', 'applying') AND EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = OLD.topology_id) THEN
            RAISE EXCEPTION 'mutations: % is in flight (%) and cannot be deleted: wait until it is applied or failed', OLD.id, OLD.state
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF NEW.state IS NULL OR NEW.state NOT IN ('pending', 'applying', 'applied', 'failed') THEN
        RAISE EXCEPTION 'mutations.state: % is no state: legal are pending, applying, applied, failed', coalesce(quote_literal(NEW.state), 'null')
            USING ERRCODE = 'check_violation';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'pending' THEN
            RAISE EXCEPTION 'mutations.state: a mutation begins as pending, not %', NEW.state USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.op NOT IN ('add_lan', 'remove_lan', 'update_lan', 'add_decky', 'attach_decky', 'detach_decky', 'remove_decky', 'update_decky') THEN
            RAISE EXCEPTION 'mutations.op: % is no op: legal are add_lan, remove_lan, update_lan, add_decky, attach_decky, detach_decky, remove_decky, update_decky', quote_literal(left(NEW.op, 80))
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.id <> OLD.id OR NEW.position <> OLD.position OR NEW.topology_id <> OLD.topology_id THEN
        RAISE EXCEPTION 'mutations: id, position and topology_id cannot be changed: enqueue another mutation' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.op <> OLD.op OR NEW.payload IS DISTINCT FROM OLD.payload THEN
        RAISE EXCEPTION 'mutations: op and payload of an enqueued mutation cannot be changed: enqueue another mutation' USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state <> OLD.state THEN
        _legal := CASE OLD.state
            WHEN 'pending' THEN 'applying'
            WHEN 'applying' THEN 'applied, failed, pending'
            ELSE '' END;
        IF NEW.state <> ALL (string_to_array(_legal, ', ')) THEN
            RAISE EXCEPTION 'mutations.state: % cannot become %: from % it may become %', OLD.state, NEW.state, OLD.state,
                coalesce(nullif(replace(_legal, ', ', ' or '), ''), 'nothing else')
                USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.state = 'applying' AND NEW.attempt = OLD.attempt THEN
            NEW.attempt := OLD.attempt + 1;
        ELSIF NEW.state = 'applied' THEN
            NEW.applied_at := coalesce(NEW.applied_at, clock_timestamp());
            NEW.finished_at := NEW.applied_at;
        ELSIF NEW.state = 'failed' THEN
            NEW.finished_at := clock_timestamp();
        END IF;
    END IF;
    RETURN NEW;
END
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.topology_new_epoch() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _epoch bigint; _b record;
BEGIN
    UPDATE {{.schema}}.topology_settings s SET epoch = s.epoch + 1 RETURNING s.epoch INTO _epoch;
    _b := {{.schema}}.topology_begin();
    PERFORM FROM {{.schema}}.topology_heads h ORDER BY h.topology_id FOR NO KEY UPDATE;
    UPDATE {{.schema}}.topology_heads h SET seq = _epoch << 32, first = (_epoch << 32) + 1;
    IF _b.notify THEN
        PERFORM pg_notify('topology.' || h.topology_id, '~' || {{.schema}}.topology_mark(_b.inner_pad, _b.outer_pad, h.topology_id || ':' || h.seq) || ':' || h.seq)
           FROM {{.schema}}.topology_heads h;
    END IF;
    RETURN _epoch;
END
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.topology_check_epoch() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _s record; _system text; _timeline bigint; _oid bigint;
BEGIN
    SELECT * INTO STRICT _s FROM {{.schema}}.topology_settings;
    IF pg_is_in_recovery() THEN
        RETURN _s.epoch;
    END IF;
    SELECT system_identifier::text INTO _system FROM pg_control_system();
    _timeline := ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint;
    SELECT d.oid::bigint INTO _oid FROM pg_database d WHERE d.datname = current_database();
    IF (_s.system_identifier, _s.timeline, _s.database_oid) IS NOT DISTINCT FROM (_system, _timeline, _oid) THEN
        RETURN _s.epoch;
    END IF;
    SELECT * INTO STRICT _s FROM {{.schema}}.topology_settings FOR UPDATE;
    IF (_s.system_identifier, _s.timeline, _s.database_oid) IS NOT DISTINCT FROM (_system, _timeline, _oid) THEN
        RETURN _s.epoch;
    END IF;
    UPDATE {{.schema}}.topology_settings SET system_identifier = _system, timeline = _timeline, database_oid = _oid;
    IF _s.system_identifier IS NULL THEN
        RETURN _s.epoch;
    END IF;
    RETURN {{.schema}}.topology_new_epoch();
END
$f$;

ALTER TABLE {{.schema}}.topology_heads DROP COLUMN in_flight, DROP COLUMN in_flight_bytes, DROP COLUMN in_flight_from;
ALTER TABLE {{.schema}}.mutations DROP COLUMN payload_bytes;

DROP TRIGGER changed ON {{.schema}}.topology_settings;
CREATE TRIGGER changed AFTER UPDATE ON {{.schema}}.topology_settings FOR EACH ROW
    WHEN ((OLD.bus, OLD.epoch) IS DISTINCT FROM (NEW.bus, NEW.epoch)) EXECUTE FUNCTION {{.schema}}.topology_settings_changed();
ALTER TABLE {{.schema}}.topology_settings DROP COLUMN history;

DELETE FROM {{.schema}}.topology_migrations WHERE version = 5;
