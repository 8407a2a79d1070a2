-- Writers pay for what they write: one row goes by cached plans, and many statements of one transaction cost what each
-- of them costs. Whatever changes the graph is an event, a worker's edit by its mutation alone. A mutation that fails
-- raises the version, too. The trigger functions of the version before stay, for the way down.

-- Whoever waits for one of these tables waits behind us while we wait, so not for long: Up tries again.
SET LOCAL lock_timeout = '1s';
LOCK TABLE {{.schema}}.topologies, {{.schema}}.mutations, {{.schema}}.lans, {{.schema}}.deckies, {{.schema}}.edges
    IN ACCESS EXCLUSIVE MODE;

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (6, 'writers', true);

---------------------------------------------------------------- what has changed and is not recorded yet

-- A row of the graph that a statement changed, as it was when it was recorded last, null where it was not there.
-- Triggers write it before the change, and whichever of the statements that are under way ends first records the row as
-- it is then, and takes this away. So a trigger of somebody's own that writes again does not turn the order around: the
-- last event says what the table holds. Of a worker's edit the rows stay until its mutation is finished. No row
-- outlives its transaction for long (topology_sweep).
--
-- An INSERT of mutations has one row while it is under way (`inserting`), whose id each mutation remembers: whoever
-- changes one of them within that statement records first that it was enqueued, and notes that (`enqueued`).
CREATE UNLOGGED TABLE {{.schema}}.topology_untold (
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    topology_id uuid NOT NULL,
    kind        text NOT NULL,                         -- the table, `inserting` or `enqueued`
    id          uuid NOT NULL,
    before      jsonb,
    PRIMARY KEY (xid, topology_id, kind, id)
);

-- A worker's edit: while its row is here, what its transaction changes in the topology's graph is no event of its own
-- but the result of the mutation that it finishes. Who may INSERT here may be silent until then, and no longer: the
-- transaction cannot commit before.
CREATE UNLOGGED TABLE {{.schema}}.topology_edits (
    xid         xid8 NOT NULL DEFAULT pg_current_xact_id(),
    topology_id uuid NOT NULL,
    PRIMARY KEY (xid, topology_id)
);

CREATE FUNCTION {{.schema}}.topology_edit_unfinished() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $f$
BEGIN
    IF EXISTS (SELECT FROM {{.schema}}.topology_edits e WHERE e.xid = NEW.xid AND e.topology_id = NEW.topology_id) THEN
        RAISE EXCEPTION 'the edit of topology % finished no mutation: set a mutation of it to applied in the same '
            'transaction', NEW.topology_id
            USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    RETURN NULL;
END
$f$;
CREATE FUNCTION {{.schema}}.topology_edit_opened() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _x text := set_config('topostream.edit', 'open', true);
BEGIN
    RETURN NULL;
END
$f$;
CREATE TRIGGER opened AFTER INSERT ON {{.schema}}.topology_edits FOR EACH ROW
    EXECUTE FUNCTION {{.schema}}.topology_edit_opened();

CREATE CONSTRAINT TRIGGER unfinished AFTER INSERT ON {{.schema}}.topology_edits DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION {{.schema}}.topology_edit_unfinished();

-- What statements left that changed nothing in the end (ON CONFLICT DO NOTHING, a trigger that gave null).
CREATE FUNCTION {{.schema}}.topology_sweep() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _n bigint;
BEGIN
    DELETE FROM {{.schema}}.topology_untold u WHERE u.xid < pg_snapshot_xmin(pg_current_snapshot());
    GET DIAGNOSTICS _n = ROW_COUNT;
    RETURN _n;
END
$f$;

ALTER TABLE {{.schema}}.mutations ADD COLUMN enqueued_in uuid;

-- What of a topology's status was recorded last is kept beside its head: with a reason its hash, since that may be
-- long, and this row changes with every event.
ALTER TABLE {{.schema}}.topology_heads ADD COLUMN told bytea;

CREATE FUNCTION {{.schema}}.topology_told(_status text, _reason text) RETURNS bytea
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT CASE WHEN _reason IS NULL THEN decode(_status, 'escape') ELSE sha256(convert_to(_status || ':' || _reason,
        CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END)) END
$f$;

UPDATE {{.schema}}.topology_heads h SET told = {{.schema}}.topology_told(t.status, t.reason)
    FROM {{.schema}}.topologies t WHERE t.id = h.topology_id;

-- The head of a topology that is gone counts -1 in flight, so that whoever writes to one that is made anew with the
-- same id sees that its creation is to be recorded first.
UPDATE {{.schema}}.topology_heads h SET in_flight = -1, in_flight_bytes = 0, in_flight_from = NULL
 WHERE NOT EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = h.topology_id);

---------------------------------------------------------------- the one way to record an event

-- The tables of what is untold are as good as empty when a plan is made, and such plans stay with their connection: an
-- index scan does not read what others have left there. (jit: what is off looks dear enough to be compiled, for 0.1 s.)

-- Functions without SECURITY DEFINER in this section are called by those that have it, with their rights and
-- search_path. No literal here has a backslash: what such a literal means depends on the caller's settings.

-- What recording asks once a statement. It raises synchronous_commit from off (durable before heard), and says whether
-- to NOTIFY: not on another bus, and not while PostgreSQL's queue is more than half full (the heartbeat then costs a
-- delay, not an event).
CREATE FUNCTION {{.schema}}.topology_context(OUT notify boolean, OUT inner_pad bytea, OUT outer_pad bytea)
LANGUAGE plpgsql
AS $f$
DECLARE
    _x text;
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        _x := set_config('synchronous_commit', 'local', true);
    END IF;
    SELECT s.bus = 'notify' AND pg_notification_queue_usage() <= 0.5, s.inner_pad, s.outer_pad
      INTO STRICT notify, inner_pad, outer_pad FROM {{.schema}}.topology_settings s;
END
$f$;

-- Takes the next _n numbers of a topology's journal and gives the last of them. The head is locked from here on.
-- _flight and _bytes: by how much what is in flight changes, _flight below 0 where mutations have finished. _added: the
-- lowest position that is added. The lower bound rises only when something finished, and not each time: to look for it
-- costs more than the rest. It rises to the lowest position that the index still holds above the old bound, looked for
-- by a statement that begins when the head is locked: what committed while the lock was waited for is seen. Who
-- inserted below it has not had the lock yet, and lowers the bound then.
--
-- A row that one transaction changes n times has a chain of n versions, which an index scan walks each time: n * n.
-- So a setting of this transaction remembers where the row is. That is only a guess: it is used with the id and what is
-- visible, and the index is taken if it finds nothing. A rollback to a savepoint takes the guess back as it does the
-- row. There are 16 such settings, for the id's first digit.
CREATE FUNCTION {{.schema}}.topology_next(_id uuid, _n bigint, _flight bigint, _bytes bigint, _added bigint)
    RETURNS bigint
LANGUAGE plpgsql
AS $f$
DECLARE
    _name CONSTANT text := 'topostream.head_' || left(_id::text, 1);
    _guess CONSTANT text := current_setting(_name, true);
    _seq bigint; _place tid; _x text;
BEGIN
    IF left(_guess, 36) = _id::text THEN -- (the counters: rows that came without triggers were never counted)
        UPDATE {{.schema}}.topology_heads h
           SET seq = h.seq + _n, in_flight = greatest(h.in_flight + _flight, 0),
               in_flight_bytes = greatest(h.in_flight_bytes + _bytes, 0),
               in_flight_from = least(h.in_flight_from, _added)
         WHERE h.ctid = substr(_guess, 37)::tid AND h.topology_id = _id AND h.in_flight >= 0 RETURNING h.seq, h.ctid
             INTO _seq, _place;
    END IF;
    IF _seq IS NULL THEN
        UPDATE {{.schema}}.topology_heads h
           SET seq = h.seq + _n, in_flight = greatest(h.in_flight + _flight, 0),
               in_flight_bytes = greatest(h.in_flight_bytes + _bytes, 0),
               in_flight_from = least(h.in_flight_from, _added)
         WHERE h.topology_id = _id AND h.in_flight >= 0 RETURNING h.seq, h.ctid INTO _seq, _place;
        IF _seq IS NULL THEN
            _x := {{.schema}}.topology_born(_id)::text;
            RETURN {{.schema}}.topology_next(_id, _n, _flight, _bytes, _added);
        END IF;
    END IF;
    IF _flight < 0 AND (_flight <= -16 OR hashint8(_seq) % 16 = 0) THEN
        UPDATE {{.schema}}.topology_heads h SET in_flight_from = (SELECT m.position FROM {{.schema}}.mutations m
                 WHERE m.state IN ('pending', 'applying') AND (m.topology_id, m.position)
                   >= (_id, coalesce(h.in_flight_from, 0))
                   AND (m.topology_id, m.position) <= (_id, 9223372036854775807)
                 ORDER BY m.topology_id, m.position LIMIT 1)
         WHERE h.ctid = _place AND h.topology_id = _id RETURNING h.ctid INTO STRICT _place;
    END IF;
    _x := set_config(_name, _id || _place::text, true);
    RETURN _seq;
END
$f$;

-- Raises a topology's version by _n and gives it, or null if the topology is gone. It remembers the row's place as
-- topology_next does. The guard sees nothing of it.
CREATE FUNCTION {{.schema}}.topology_raise_version(_id uuid, _n bigint) RETURNS bigint
LANGUAGE plpgsql
AS $f$
DECLARE
    _name CONSTANT text := 'topostream.version_' || left(_id::text, 1);
    _guess CONSTANT text := current_setting(_name, true);
    _version bigint; _place tid; _x text;
BEGIN
    IF left(_guess, 36) = _id::text THEN
        UPDATE {{.schema}}.topologies t SET version = t.version + _n, updated_at = clock_timestamp()
         WHERE t.ctid = substr(_guess, 37)::tid AND t.id = _id RETURNING t.version, t.ctid INTO _version, _place;
    END IF;
    IF _version IS NULL THEN
        UPDATE {{.schema}}.topologies t SET version = t.version + _n, updated_at = clock_timestamp()
         WHERE t.id = _id RETURNING t.version, t.ctid INTO _version, _place;
    END IF;
    _x := set_config(_name, coalesce(_id || _place::text, ''), true);
    RETURN _version;
END
$f$;

-- Records an event whose number topology_next gave, and NOTIFYs.
CREATE FUNCTION {{.schema}}.topology_tell(_notify boolean, _inner_pad bytea, _outer_pad bytea, _id uuid, _seq bigint,
    _type text, _payload jsonb)
RETURNS void
LANGUAGE plpgsql
AS $f$
DECLARE
    _at CONSTANT timestamptz := clock_timestamp();
    _event CONSTANT text := {{.schema}}.topology_event_json(_id, _seq, _type, _payload, _at);
    _inline text; _x text;
BEGIN
    IF octet_length(_event) > 16777216 THEN
        _x := {{.schema}}.topology_refuse_size(_type, octet_length(_event));
    END IF;
    INSERT INTO {{.schema}}.topology_events (topology_id, seq, type, payload, at)
        VALUES (_id, _seq, _type, _payload, _at);
    IF _notify THEN
        _inline := CASE WHEN octet_length(_event) < 7940 THEN ' ' || _event ELSE '' END;
        _x := pg_notify('topology.' || _id,
            '~' || {{.schema}}.topology_mark(_inner_pad, _outer_pad, _id || ':' || _seq || _inline) || ':' || _seq ||
                _inline)::text;
    END IF;
END
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.topology_emit(topology_id uuid, type text, payload jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
#variable_conflict use_column
DECLARE
    _id CONSTANT uuid := $1;
    _type CONSTANT text := $2;
    _c record; _seq bigint; _x text;
BEGIN
    IF _id IS NULL THEN
        RAISE EXCEPTION 'topology_emit: topology_id is null: name a topology' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF _type IS NULL OR length(_type) > 64 OR _type !~ '^[a-z0-9_]+([.][a-z0-9_]+)*$' OR strpos(_type, chr(10)) > 0 THEN
        RAISE EXCEPTION 'topology_emit: type % is malformed: use parts of a-z, 0-9 and _ joined by dots, at most 64 '
            'characters', coalesce(quote_literal(left(_type, 80)), 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF _type IN ('error', 'open', 'message', 'snapshot', 'deleted', 'unavailable', 'token_expired', 'notify', 'list',
        'topology', 'removed') THEN
        RAISE EXCEPTION 'topology_emit: type "%" is reserved: choose another name', _type
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF _type IN ('status', 'graph', 'mutation') OR starts_with(_type, 'mutation.') THEN
        RAISE EXCEPTION 'topology_emit: type "%" is recorded by the triggers alone: change the topology, its graph '
            'or the mutation instead', _type
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Whether it is there is asked under its head's lock: who deletes it needs that for `deleted`, after which there is
    -- nothing.
    _seq := {{.schema}}.topology_next(_id, 1, 0, 0, NULL);
    SELECT s.bus = 'notify' AND pg_notification_queue_usage() <= 0.5 AS notify, s.inner_pad, s.outer_pad,
           EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = _id) AS there
      INTO STRICT _c FROM {{.schema}}.topology_settings s;
    IF NOT _c.there THEN
        RAISE EXCEPTION 'there is no topology %', _id USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF current_setting('synchronous_commit') = 'off' THEN
        _x := set_config('synchronous_commit', 'local', true);
    END IF;
    _x := {{.schema}}.topology_tell(_c.notify, _c.inner_pad, _c.outer_pad, _id, _seq, _type, $3)::text;
    RETURN _seq;
END
$f$;

---------------------------------------------------------------- topologies

-- Makes the head of a topology, at the journal's end if it has one, or brings it back to life; gives whether it was not
-- there. What is recorded first then is the creation.
CREATE FUNCTION {{.schema}}.topology_make_head(_id uuid) RETURNS boolean
LANGUAGE plpgsql
AS $f$
BEGIN
    INSERT INTO {{.schema}}.topology_heads AS h (topology_id, seq, first)
        SELECT _id, greatest(s.epoch << 32, j.last), coalesce(j.first, (s.epoch << 32) + 1)
            FROM {{.schema}}.topology_settings s,
               (SELECT max(e.seq) AS last, min(e.seq) AS first FROM {{.schema}}.topology_events e
                   WHERE e.topology_id = _id) j
            ON CONFLICT (topology_id) DO UPDATE SET in_flight = 0, told = NULL WHERE h.in_flight < 0;
    RETURN FOUND;
END
$f$;

-- Records a topology's status as it is now, if it differs from what was recorded last. A topology without a head is
-- new, or came without triggers: its creation comes first.
CREATE FUNCTION {{.schema}}.topology_tell_status(_notify boolean, _inner_pad bytea, _outer_pad bytea, _id uuid)
    RETURNS void
LANGUAGE plpgsql
AS $f$
DECLARE
    _told bytea; _t record; _made boolean := false; _x text;
BEGIN
    SELECT h.told INTO _told FROM {{.schema}}.topology_heads h WHERE h.topology_id = _id AND h.in_flight >= 0
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        _made := {{.schema}}.topology_make_head(_id);
    END IF;
    SELECT t.status, t.reason, {{.schema}}.topology_told(t.status, t.reason) AS told INTO _t
        FROM {{.schema}}.topologies t WHERE t.id = _id;
    IF NOT FOUND OR _told = _t.told THEN
        RETURN;
    END IF;
    IF _made AND _t.status <> 'pending' THEN
        _x := {{.schema}}.topology_tell(_notify, _inner_pad, _outer_pad, _id,
            {{.schema}}.topology_next(_id, 1, 0, 0, NULL), 'status',
            '{"state": "pending", "reason": null}')::text;
    END IF;
    _x := {{.schema}}.topology_tell(_notify, _inner_pad, _outer_pad, _id, {{.schema}}.topology_next(_id, 1, 0, 0, NULL),
        'status',
        jsonb_build_object('state', _t.status, 'reason', _t.reason))::text;
    UPDATE {{.schema}}.topology_heads h SET told = _t.told WHERE h.topology_id = _id;
END
$f$;

-- For who has found no head: a trigger that somebody has made writes to a topology that is being made, and the triggers
-- that record that have not run yet; or it came without triggers.
CREATE FUNCTION {{.schema}}.topology_born(_id uuid) RETURNS void
LANGUAGE plpgsql
AS $f$
DECLARE
    _c record; _x text;
BEGIN
    IF NOT EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = _id) THEN
        RAISE EXCEPTION 'there is no topology %', _id USING ERRCODE = 'foreign_key_violation';
    END IF;
    _c := {{.schema}}.topology_context();
    _x := {{.schema}}.topology_tell_status(_c.notify, _c.inner_pad, _c.outer_pad, _id)::text;
END
$f$;

-- Here and for mutations a statement that changed one row, the common case, goes by plans that are made once. For many
-- rows the plan is made anew: plpgsql keeps the plan that it made for the first transition tables that it saw, and a
-- nested loop that was right for one row takes 10,000 rows half a minute.
CREATE FUNCTION {{.schema}}.topologies_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $f$
DECLARE
    _c record; _t record; _id uuid; _made bigint; _moved uuid[]; _named bigint; _alive bigint; _x text;
        _wake boolean := false;
    _lock CONSTANT text := $q$WITH locked AS MATERIALIZED (SELECT h.in_flight FROM {{.schema}}.topology_heads h
        WHERE h.topology_id IN (SELECT n.id FROM new_rows n) ORDER BY h.topology_id FOR NO KEY UPDATE)
        SELECT count(*) FILTER (WHERE in_flight >= 0) FROM locked$q$;
    _source CONSTANT text := $q$
        SELECT t.id AS topology_id, 1 AS ord, 'status'::text AS type, jsonb_build_object('state', t.status, 'reason',
            t.reason) AS payload, t.told
          FROM (SELECT t.id, t.status, t.reason, {{.schema}}.topology_told(t.status, t.reason) AS told
                  FROM new_rows n JOIN {{.schema}}.topologies t ON t.id = n.id OFFSET 0) t
          JOIN {{.schema}}.topology_heads h ON h.topology_id = t.id WHERE h.told IS NULL OR h.told <> t.told
        UNION ALL
        SELECT t.id, 0, 'status', '{"state": "pending", "reason": null}', NULL FROM {{.schema}}.topologies t
         WHERE t.id = ANY ($5)$q$;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        SELECT n.id, n.status, n.status <> o.status AS moved,
               n.status <> o.status OR n.reason IS DISTINCT FROM o.reason AS changed,
               EXISTS (SELECT FROM new_rows OFFSET 1) AS more
          INTO _t FROM new_rows n, old_rows o LIMIT 1;
        IF NOT FOUND OR NOT _t.more AND NOT _t.changed THEN
            RETURN NULL; -- as each time that a version rises
        END IF;
    ELSE
        SELECT n.id, n.status, false AS moved, EXISTS (SELECT FROM new_rows OFFSET 1) AS more INTO _t FROM new_rows n
            LIMIT 1;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
    END IF;
    _c := {{.schema}}.topology_context();
    IF NOT _t.more THEN
        _x := {{.schema}}.topology_tell_status(_c.notify, _c.inner_pad, _c.outer_pad, _t.id)::text;
        IF _t.moved THEN
            DELETE FROM {{.schema}}.topology_parked p WHERE p.topology_id = _t.id; -- its own change wakes it
        END IF;
        _wake := _t.status IN ('active', 'degraded');
    ELSE
        _x := set_config('enable_seqscan', 'on', true); -- where all is joined
        SELECT count(*) INTO STRICT _named FROM new_rows;
        IF TG_OP = 'UPDATE' THEN
            EXECUTE _lock INTO _alive;
        END IF;
        IF _alive IS DISTINCT FROM _named THEN
            EXECUTE 'WITH made AS (
                    INSERT INTO {{.literal}}.topology_heads AS h (topology_id, seq, first)
                    SELECT n.id, greatest(s.epoch << 32, j.last), CASE WHEN j.last IS NULL THEN (s.epoch << 32) + 1
                           ELSE (SELECT min(e.seq) FROM {{.literal}}.topology_events e WHERE e.topology_id = n.id) END
                      FROM new_rows n CROSS JOIN {{.literal}}.topology_settings s
                      CROSS JOIN LATERAL (SELECT max(e.seq) AS last FROM {{.literal}}.topology_events e
                          WHERE e.topology_id = n.id) j
                     WHERE NOT EXISTS (SELECT FROM {{.literal}}.topology_heads h WHERE h.topology_id = n.id
                         AND h.in_flight >= 0)
                       AND EXISTS (SELECT FROM {{.literal}}.topologies t WHERE t.id = n.id) ORDER BY n.id
                        ON CONFLICT (topology_id) DO UPDATE SET in_flight = 0, told = NULL WHERE h.in_flight < 0
                            RETURNING h.topology_id)
                SELECT count(*), array_agg(t.id) FILTER (WHERE t.status <> ''pending'') FROM made m
                    JOIN {{.literal}}.topologies t ON t.id = m.topology_id'
                INTO _made, _moved;
            IF _made < _named THEN -- who makes a head has locked it
                EXECUTE _lock INTO _alive;
            END IF;
        END IF;
        EXECUTE {{.schema}}.topology_record_sql(_source, ', told = c.told',
            ' JOIN changed c ON c.topology_id = r.topology_id AND c.ord = 1')
            USING clock_timestamp(), _c.notify, _c.inner_pad, _c.outer_pad, _moved;
        IF TG_OP = 'UPDATE' THEN
            EXECUTE 'DELETE FROM {{.literal}}.topology_parked p USING new_rows n, old_rows o
                WHERE p.topology_id = n.id AND o.id = n.id AND o.status <> n.status';
            _wake := EXISTS (SELECT FROM new_rows n WHERE n.status IN ('active', 'degraded'));
        END IF;
    END IF;
    IF _wake AND _c.notify THEN
        _x := pg_notify('topology_mutations', '')::text;
    END IF;
    RETURN NULL;
END
$f$;

-- Nothing is told of one that was made and deleted before anything of it was told.
CREATE FUNCTION {{.schema}}.topologies_gone() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $f$
DECLARE
    _c record; _locked bigint; _named bigint; _x text;
    _source CONSTANT text := $q$SELECT o.id AS topology_id, 1 AS ord, 'deleted'::text AS type, '{}'::jsonb AS payload
        FROM old_rows o
        JOIN {{.schema}}.topology_heads h ON h.topology_id = o.id AND h.in_flight >= 0$q$;
BEGIN
    IF NOT EXISTS (SELECT FROM old_rows) THEN
        RETURN NULL;
    END IF;
    _c := {{.schema}}.topology_context();
    EXECUTE 'DELETE FROM {{.literal}}.topology_untold u USING old_rows o WHERE u.xid = pg_current_xact_id()
        AND u.topology_id = o.id';
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    EXECUTE {{.schema}}.topology_record_sql(_source, ', in_flight = -1, in_flight_bytes = 0, in_flight_from = NULL', '')
        USING clock_timestamp(), _c.notify, _c.inner_pad, _c.outer_pad;
    RETURN NULL;
END
$f$;

---------------------------------------------------------------- mutations

-- topology_record_sql for events of mutations, whose _source also has flight, by how much each changes what is in
-- flight (1, 0 or -1), and bytes, its payload_bytes.
CREATE FUNCTION {{.schema}}.topology_counted_sql(_source text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $f$
    SELECT {{.schema}}.topology_record_sql(_source, ',
            in_flight = greatest(h.in_flight + c.flight, 0), in_flight_bytes = greatest(h.in_flight_bytes + c.bytes, 0),
            in_flight_from = CASE WHEN c.finished
                THEN (SELECT m.position FROM {{.literal}}.mutations m WHERE m.state IN (''pending'', ''applying'')
                         AND (m.topology_id, m.position) >= (h.topology_id, coalesce(least(h.in_flight_from, c.added),
                             0))
                         AND (m.topology_id, m.position) <= (h.topology_id, 9223372036854775807)
                       ORDER BY m.topology_id, m.position LIMIT 1)
                ELSE least(h.in_flight_from, c.added) END', '
              JOIN (SELECT topology_id, sum(flight) AS flight, sum(flight * bytes) AS bytes,
                           min(ord) FILTER (WHERE flight > 0) AS added, bool_or(flight < 0) AS finished
                      FROM changed GROUP BY topology_id) c USING (topology_id)')
$f$;

-- Begins an INSERT of mutations. The setting has those that are under way, the innermost first. It only saves looks:
-- what is recorded never rests on it alone.
CREATE FUNCTION {{.schema}}.mutations_inserting() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _id CONSTANT uuid := gen_random_uuid();
    _x text := set_config('topostream.inserting', _id || ' ' || coalesce(current_setting('topostream.inserting', true),
        ''), true);
BEGIN
    INSERT INTO {{.schema}}.topology_untold (topology_id, kind, id)
        VALUES ('00000000-0000-0000-0000-000000000000', 'inserting', _id);
    RETURN NULL;
END
$f$;

-- Records that a mutation was enqueued.
CREATE FUNCTION {{.schema}}.topology_tell_enqueued(_notify boolean, _inner_pad bytea, _outer_pad bytea, _id uuid)
    RETURNS void
LANGUAGE plpgsql
AS $f$
DECLARE
    _m record; _x text;
BEGIN
    SELECT m.topology_id, m.op, m.payload, m.payload_bytes, m.position INTO _m FROM {{.schema}}.mutations m
        WHERE m.id = _id;
    IF FOUND THEN
        _x := {{.schema}}.topology_tell(_notify, _inner_pad, _outer_pad, _m.topology_id,
            {{.schema}}.topology_next(_m.topology_id, 1, 1, _m.payload_bytes, _m.position), 'mutation.enqueued',
            jsonb_build_object('mutation_id', _id, 'op', _m.op, 'payload', _m.payload))::text;
    END IF;
END
$f$;

-- For who changes a mutation while an INSERT is under way: records that it was enqueued, if it came by one of these.
CREATE FUNCTION {{.schema}}.topology_tell_early(_notify boolean, _inner_pad bytea, _outer_pad bytea, _id uuid)
    RETURNS void
LANGUAGE plpgsql
AS $f$
DECLARE
    _x text;
BEGIN
    INSERT INTO {{.schema}}.topology_untold (topology_id, kind, id)
        SELECT m.topology_id, 'enqueued', m.id FROM {{.schema}}.mutations m WHERE m.id = _id AND EXISTS (
            SELECT FROM {{.schema}}.topology_untold u WHERE u.xid = pg_current_xact_id()
               AND u.topology_id = '00000000-0000-0000-0000-000000000000' AND u.kind = 'inserting'
                   AND u.id = m.enqueued_in)
        ON CONFLICT DO NOTHING;
    IF FOUND THEN
        _x := {{.schema}}.topology_tell_enqueued(_notify, _inner_pad, _outer_pad, _id)::text;
    END IF;
END
$f$;

CREATE FUNCTION {{.schema}}.mutations_enqueued() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $f$
DECLARE
    _inserting CONSTANT text := current_setting('topostream.inserting', true);
    _x text := set_config('topostream.inserting', substr(_inserting, 38), true);
    _c record; _m record; _own uuid; _early uuid[]; _told boolean; _id uuid; _locked bigint; _named bigint;
    _source CONSTANT text := $q$SELECT m.topology_id, m.position AS ord, 'mutation.enqueued'::text AS type,
        jsonb_build_object('mutation_id', m.id, 'op', m.op, 'payload', m.payload) AS payload, 1 AS flight,
            m.payload_bytes AS bytes
          FROM new_rows n JOIN {{.schema}}.mutations m ON m.id = n.id WHERE $5 IS NULL OR m.id <> ALL ($5::uuid[])$q$;
BEGIN
    DELETE FROM {{.schema}}.topology_untold u WHERE u.xid = pg_current_xact_id()
       AND u.topology_id = '00000000-0000-0000-0000-000000000000' AND u.kind = 'inserting'
           AND u.id = nullif(left(_inserting, 36), '')::uuid
    RETURNING u.id INTO _own;
    SELECT n.topology_id, n.id, n.enqueued_in, EXISTS (SELECT FROM new_rows OFFSET 1) AS more INTO _m FROM new_rows n
        LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    _c := {{.schema}}.topology_context();
    -- Notes are looked for by their whole key: the dead ones of this transaction's other statements stay in the index.
    -- A row that remembers another statement (somebody has changed the setting) is noted, so that nobody records it
    -- again.
    IF NOT _m.more THEN
        IF _m.enqueued_in = _own THEN
            DELETE FROM {{.schema}}.topology_untold u WHERE u.xid = pg_current_xact_id()
               AND u.topology_id = _m.topology_id AND u.kind = 'enqueued' AND u.id = _m.id;
            _told := FOUND;
        ELSE
            INSERT INTO {{.schema}}.topology_untold (topology_id, kind, id) VALUES (_m.topology_id, 'enqueued', _m.id)
                ON CONFLICT DO NOTHING;
            _told := NOT FOUND;
        END IF;
        IF NOT _told THEN
            _x := {{.schema}}.topology_tell_enqueued(_c.notify, _c.inner_pad, _c.outer_pad, _m.id)::text;
        END IF;
        DELETE FROM {{.schema}}.topology_parked p WHERE p.topology_id = _m.topology_id; -- its own enqueue wakes it
    ELSE
        EXECUTE {{.schema}}.topology_lock_sql('SELECT n.topology_id FROM new_rows n') INTO _locked, _named;
        IF _locked < _named OR pg_trigger_depth() > 1 THEN
            FOR _id IN EXECUTE 'SELECT DISTINCT n.topology_id FROM new_rows n LEFT JOIN {{.literal}}.topology_heads h
                    ON h.topology_id = n.topology_id AND h.in_flight >= 0 WHERE h.topology_id IS NULL ORDER BY 1' LOOP
                _x := {{.schema}}.topology_born(_id)::text;
            END LOOP;
        END IF;
        EXECUTE 'SELECT array_agg(n.id) FROM new_rows n WHERE EXISTS (SELECT FROM {{.literal}}.topology_untold u
             WHERE u.xid = pg_current_xact_id() AND u.topology_id = n.topology_id AND u.kind = ''enqueued''
                 AND u.id = n.id OFFSET 0)' INTO _early;
        INSERT INTO {{.schema}}.topology_untold (topology_id, kind, id)
            SELECT n.topology_id, 'enqueued', n.id FROM new_rows n WHERE n.enqueued_in IS DISTINCT FROM _own
                ON CONFLICT DO NOTHING;
        IF _early IS NOT NULL THEN
            EXECUTE 'DELETE FROM {{.literal}}.topology_untold u USING new_rows n WHERE u.xid = pg_current_xact_id()
                AND u.topology_id = n.topology_id AND u.kind = ''enqueued'' AND u.id = n.id
                    AND n.enqueued_in = $1' USING _own;
        END IF;
        _x := set_config('enable_seqscan', 'on', true); -- where all is joined
        EXECUTE {{.schema}}.topology_counted_sql(_source) USING clock_timestamp(), _c.notify, _c.inner_pad,
            _c.outer_pad, _early;
        EXECUTE 'DELETE FROM {{.literal}}.topology_parked p USING new_rows n WHERE p.topology_id = n.topology_id';
    END IF;
    IF _c.notify THEN
        _x := pg_notify('topology_mutations', '')::text;
    END IF;
    RETURN NULL;
END
$f$;

-- A mutation that finishes raises its topology's version, so topology rows are locked before heads, in id order. A
-- mutation whose state is another one by now has been recorded since (state and attempt together never come back), and
-- of a topology that is gone nothing is.
CREATE FUNCTION {{.schema}}.mutations_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
AS $f$
DECLARE
    _c record; _m record; _e record; _ids uuid[]; _locked bigint; _named bigint; _seq bigint; _version bigint;
        _done boolean;
    _edited boolean := false; _result jsonb; _done_ids uuid[]; _results jsonb[]; _wake boolean := false; _x text;
    _source CONSTANT text := $q$
        SELECT m.topology_id, m.position AS ord,
               CASE m.state WHEN 'pending' THEN 'mutation.requeued' ELSE 'mutation.' || m.state END AS type,
               CASE m.state
                   WHEN 'applying' THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'payload', m.payload)
                   WHEN 'applied'  THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'version', m.raised,
                       'result', coalesce(e.result, m.result))
                   WHEN 'failed'   THEN jsonb_build_object('mutation_id', m.id, 'op', m.op, 'version', m.raised,
                       'reason', m.reason)
                   ELSE jsonb_build_object('mutation_id', m.id, 'op', m.op, 'attempt', m.attempt)
               END AS payload,
               CASE WHEN m.state IN ('applied', 'failed') THEN -1 ELSE 0 END AS flight, m.payload_bytes AS bytes
          FROM (SELECT n.topology_id, n.id, n.position, n.op, n.payload, n.state, n.attempt, n.reason, n.result,
              n.payload_bytes, t.version - count(*) FILTER (WHERE n.state
              IN ('applied', 'failed')) OVER (PARTITION BY n.topology_id)
                       + count(*) FILTER (WHERE n.state IN ('applied', 'failed')) OVER (PARTITION BY n.topology_id
                           ORDER BY n.position) AS raised
                  FROM new_rows n JOIN {{.schema}}.topologies t ON t.id = n.topology_id WHERE n.id = ANY ($5)) m
          LEFT JOIN unnest($6::uuid[], $7::jsonb[]) e (id, result) ON e.id = m.id$q$;
BEGIN
    SELECT n.topology_id, n.id, n.op, n.payload, n.state, n.attempt, n.reason, n.result, n.payload_bytes,
        o.state AS state_before, o.lease IS NULL AS by_hand,
           EXISTS (SELECT FROM new_rows OFFSET 1) AS more
      INTO _m FROM new_rows n, old_rows o LIMIT 1;
    IF NOT FOUND OR NOT _m.more AND _m.state = _m.state_before THEN
        RETURN NULL; -- as each time that a lease is prolonged
    END IF;
    _c := {{.schema}}.topology_context();
    IF NOT _m.more THEN
        _done := _m.state IN ('applied', 'failed');
        SELECT m.state, m.attempt, EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = _m.topology_id) AS there
            INTO _e
          FROM {{.schema}}.mutations m WHERE m.id = _m.id;
        IF FOUND AND (NOT _e.there OR _e.state <> _m.state OR _e.attempt <> _m.attempt) OR NOT FOUND AND NOT _done THEN
            RETURN NULL;
        END IF;
        IF current_setting('topostream.inserting', true) <> '' THEN
            _x := {{.schema}}.topology_tell_early(_c.notify, _c.inner_pad, _c.outer_pad, _m.id)::text;
        END IF;
        IF _done THEN
            _version := {{.schema}}.topology_raise_version(_m.topology_id, 1);
            IF _version IS NULL THEN
                RETURN NULL;
            END IF;
        END IF;
        IF _m.state = 'applied' THEN
            _result := {{.schema}}.topology_end_edit(_m.topology_id);
            _edited := _result <> _m.result; -- their triggers have changed the graph since
            _m.result := coalesce(_result, _m.result);
        END IF;
        _seq := {{.schema}}.topology_next(_m.topology_id, 1, CASE WHEN _done THEN -1 ELSE 0 END, CASE WHEN _done
            THEN -_m.payload_bytes ELSE 0 END, NULL);
        _x := {{.schema}}.topology_tell(_c.notify, _c.inner_pad, _c.outer_pad, _m.topology_id, _seq,
            CASE _m.state WHEN 'pending' THEN 'mutation.requeued' ELSE 'mutation.' || _m.state END,
            CASE _m.state
                WHEN 'applying' THEN jsonb_build_object('mutation_id', _m.id, 'op', _m.op, 'payload', _m.payload)
                WHEN 'applied'  THEN jsonb_build_object('mutation_id', _m.id, 'op', _m.op, 'version', _version,
                    'result', _m.result)
                WHEN 'failed'   THEN jsonb_build_object('mutation_id', _m.id, 'op', _m.op, 'version', _version,
                    'reason', _m.reason)
                ELSE jsonb_build_object('mutation_id', _m.id, 'op', _m.op, 'attempt', _m.attempt)
            END)::text;
        IF _edited THEN -- not before: what their triggers make of this comes after the event
            UPDATE {{.schema}}.mutations m SET result = _m.result WHERE m.id = _m.id;
        END IF;
        _wake := _m.state = 'pending' OR _m.state_before = 'applying' AND _m.by_hand;
    ELSE
        EXECUTE 'SELECT array_agg(n.id), bool_or(n.state = ''pending'' OR o.state = ''applying'' AND o.lease IS NULL)
              FROM new_rows n JOIN old_rows o ON o.id = n.id LEFT JOIN {{.literal}}.mutations m ON m.id = n.id
             WHERE n.state <> o.state AND EXISTS (SELECT FROM {{.literal}}.topologies t WHERE t.id = n.topology_id)
               AND (m.state = n.state AND m.attempt = n.attempt OR m.id IS NULL AND n.state
                   IN (''applied'', ''failed''))' INTO _ids, _wake;
        IF _ids IS NULL THEN
            RETURN NULL;
        END IF;
        IF current_setting('topostream.inserting', true) <> '' THEN
            FOR _e IN SELECT n.id FROM new_rows n WHERE n.id = ANY (_ids) ORDER BY n.topology_id, n.position LOOP
                _x := {{.schema}}.topology_tell_early(_c.notify, _c.inner_pad, _c.outer_pad, _e.id)::text;
            END LOOP;
        END IF;
        EXECUTE $q$
            WITH raised AS MATERIALIZED (
                SELECT n.topology_id, count(*) AS by FROM new_rows n WHERE n.id = ANY ($1) AND n.state
                    IN ('applied', 'failed') GROUP BY n.topology_id),
            locked AS MATERIALIZED (
                SELECT t.id FROM {{.schema}}.topologies t WHERE t.id IN (SELECT topology_id FROM raised) ORDER BY t.id
                    FOR NO KEY UPDATE)
            UPDATE {{.schema}}.topologies t SET version = t.version + r.by, updated_at = clock_timestamp()
              FROM locked l JOIN raised r ON r.topology_id = l.id WHERE t.id = l.id$q$ USING _ids;
        FOR _e IN SELECT e.topology_id FROM {{.schema}}.topology_edits e WHERE e.xid = pg_current_xact_id()
            ORDER BY e.topology_id LOOP
            _result := NULL; -- of the first of them; the others changed nothing
            FOR _m IN SELECT n.id FROM new_rows n WHERE n.topology_id = _e.topology_id AND n.state = 'applied'
                AND n.id = ANY (_ids) ORDER BY n.position LOOP
                _done_ids := _done_ids || _m.id;
                _results := _results || CASE WHEN _result IS NULL THEN {{.schema}}.topology_end_edit(_e.topology_id)
                    ELSE {{.schema}}.topology_no_changes() END;
                _result := _results[1];
            END LOOP;
        END LOOP;
        EXECUTE {{.schema}}.topology_lock_sql('SELECT n.topology_id FROM new_rows n WHERE n.id = ANY ($1)')
            INTO _locked, _named USING _ids;
        _x := {{.schema}}.topology_check_heads(_locked, _named)::text;
        EXECUTE {{.schema}}.topology_counted_sql(_source) USING clock_timestamp(), _c.notify, _c.inner_pad,
            _c.outer_pad, _ids, _done_ids, _results;
        UPDATE {{.schema}}.mutations m SET result = e.result FROM unnest(_done_ids, _results) e (id, result)
         WHERE m.id = e.id AND m.result <> e.result;
    END IF;
    -- One that is given back may be taken. Who works by hand, without a lease, tells no worker that it is done.
    IF _wake AND _c.notify THEN
        _x := pg_notify('topology_mutations', '')::text;
    END IF;
    RETURN NULL;
END
$f$;

---------------------------------------------------------------- the graph

-- Rows as GET /topologies/{id} has them. jsonb is the one form: what differs in it differs in the document.
CREATE FUNCTION {{.schema}}.topology_lan(_l {{.schema}}.lans) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT jsonb_build_object('id', _l.id, 'topology_id', _l.topology_id, 'name', _l.name, 'subnet', _l.subnet,
        'is_dmz', _l.is_dmz, 'x', _l.x, 'y', _l.y)
$f$;

CREATE FUNCTION {{.schema}}.topology_decky(_d {{.schema}}.deckies) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT jsonb_build_object('uuid', _d.uuid, 'topology_id', _d.topology_id, 'name', _d.name, 'services', _d.services,
        'decky_config', _d.decky_config, 'ip', host(_d.ip), 'state', _d.state, 'x', _d.x, 'y', _d.y)
$f$;

CREATE FUNCTION {{.schema}}.topology_edge(_g {{.schema}}.edges) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT jsonb_build_object('id', _g.id, 'topology_id', _g.topology_id, 'decky_uuid', _g.decky_uuid, 'lan_id',
        _g.lan_id,
        'ip', host(_g.ip), 'is_bridge', _g.is_bridge, 'forwards_l3', _g.forwards_l3)
$f$;

CREATE OR REPLACE FUNCTION {{.schema}}.topology_graph_json(_id uuid) RETURNS text
LANGUAGE sql STABLE SET extra_float_digits = 1
AS $f$
    SELECT '"lans":[' || coalesce((SELECT string_agg({{.schema}}.topology_lan(l.*)::text, ',' ORDER BY l.name)
             FROM {{.schema}}.lans l WHERE l.topology_id = _id), '')
        || '],"deckies":[' || coalesce((SELECT string_agg({{.schema}}.topology_decky(d.*)::text, ',' ORDER BY d.name)
             FROM {{.schema}}.deckies d WHERE d.topology_id = _id), '')
        || '],"edges":[' || coalesce((SELECT string_agg({{.schema}}.topology_edge(g.*)::text, ','
            ORDER BY g.decky_uuid, g.lan_id)
             FROM {{.schema}}.edges g WHERE g.topology_id = _id), '') || ']'
$f$;

-- A row as it is now, null if it is gone.
CREATE FUNCTION {{.schema}}.topology_now(_kind text, _id uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $f$
BEGIN
    CASE _kind
    WHEN 'lans' THEN
        RETURN (SELECT {{.schema}}.topology_lan(l.*) FROM {{.schema}}.lans l WHERE l.id = _id);
    WHEN 'deckies' THEN
        RETURN (SELECT {{.schema}}.topology_decky(d.*) FROM {{.schema}}.deckies d WHERE d.uuid = _id);
    ELSE
        RETURN (SELECT {{.schema}}.topology_edge(g.*) FROM {{.schema}}.edges g WHERE g.id = _id);
    END CASE;
END
$f$;

-- What a changed row had before: its key and the old values of the columns that changed; of one that is gone,
-- everything. (In plpgsql, as what else cannot be inlined here: plans of SQL functions are made anew for each call.)
CREATE FUNCTION {{.schema}}.topology_before(_before jsonb, _now jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
AS $f$
BEGIN
    IF _before IS NULL OR _now IS NULL THEN
        RETURN _before;
    END IF;
    RETURN (SELECT jsonb_object_agg(b.key, b.value) FROM jsonb_each(_before) b
             WHERE b.key IN ('id', 'uuid') OR b.value::text <> (_now -> b.key)::text);
END
$f$;

CREATE FUNCTION {{.schema}}.topology_no_changes() RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $f$ SELECT '{"lans": [], "deckies": [], "edges": [], "removed": [], "before": {"lans": [], "deckies": [], '
    '"edges": []}}'::jsonb $f$;

-- The payload of a `graph` event and the result of a mutation, of the rows that changed.
CREATE FUNCTION {{.schema}}.topology_changes(_lans jsonb[], _deckies jsonb[], _edges jsonb[], _removed jsonb[],
    _lans_before jsonb[], _deckies_before jsonb[], _edges_before jsonb[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $f$
    SELECT jsonb_build_object('lans', coalesce(to_jsonb(_lans), '[]'), 'deckies', coalesce(to_jsonb(_deckies), '[]'),
        'edges', coalesce(to_jsonb(_edges), '[]'), 'removed', coalesce(to_jsonb(_removed), '[]'),
        'before', jsonb_build_object('lans', coalesce(to_jsonb(_lans_before), '[]'), 'deckies',
            coalesce(to_jsonb(_deckies_before), '[]'),
            'edges', coalesce(to_jsonb(_edges_before), '[]')))
$f$;

-- Makes what no event can hold small enough: without the configurations of deckies, first those before. Only rows from
-- before configurations were bounded, or a hundred large ones in one edit, are so large. "truncated" says that the
-- document has more.
CREATE FUNCTION {{.schema}}.topology_fit(_changes jsonb) RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
AS $f$
DECLARE
    _path text[];
BEGIN
    FOREACH _path SLICE 1 IN ARRAY ARRAY[ARRAY['before', 'deckies'], ARRAY['deckies', NULL]] LOOP
        EXIT WHEN octet_length(_changes::text) <= 15728640;
        _path := array_remove(_path, NULL);
        _changes := jsonb_set(_changes, _path, coalesce((SELECT jsonb_agg(d.value - 'decky_config' - 'services'
            ORDER BY d.ordinality)
            FROM jsonb_array_elements(_changes #> _path) WITH ORDINALITY d), '[]')) || '{"truncated": true}';
    END LOOP;
    RETURN _changes;
END
$f$;

-- What the edit of a topology has changed so far.
CREATE FUNCTION {{.schema}}.topology_edit_changes(_id uuid) RETURNS jsonb
LANGUAGE plpgsql SET extra_float_digits = 1 SET enable_seqscan = off SET jit = off
AS $f$
BEGIN
    RETURN (
        WITH changed AS (
            SELECT u.kind, u.id, u.before, {{.schema}}.topology_now(u.kind, u.id) AS now
                FROM {{.schema}}.topology_untold u
             WHERE u.xid = pg_current_xact_id_if_assigned() AND u.topology_id = _id AND u.kind
                 IN ('lans', 'deckies', 'edges'))
        SELECT {{.schema}}.topology_fit({{.schema}}.topology_changes(
            array_agg(e.now ORDER BY e.now ->> 'name', e.id) FILTER (WHERE e.kind = 'lans' AND e.now IS NOT NULL),
            array_agg(e.now ORDER BY e.now ->> 'name', e.id) FILTER (WHERE e.kind = 'deckies' AND e.now IS NOT NULL),
            array_agg(e.now ORDER BY e.id) FILTER (WHERE e.kind = 'edges' AND e.now IS NOT NULL),
            array_agg(jsonb_build_object('table', e.kind, 'id', e.id) ORDER BY e.kind = 'edges', e.kind = 'lans', e.id)
                FILTER (WHERE e.now IS NULL),
            array_agg({{.schema}}.topology_before(e.before, e.now) ORDER BY e.id) FILTER (WHERE e.kind = 'lans'
                AND e.before IS NOT NULL),
            array_agg({{.schema}}.topology_before(e.before, e.now) ORDER BY e.id) FILTER (WHERE e.kind = 'deckies'
                AND e.before IS NOT NULL),
            array_agg({{.schema}}.topology_before(e.before, e.now) ORDER BY e.id) FILTER (WHERE e.kind = 'edges'
                AND e.before IS NOT NULL)))
          FROM changed e WHERE e.before::text IS DISTINCT FROM e.now::text);
END
$f$;

-- Ends the edit of a topology that this transaction makes and gives what it changed, null if there is none: what
-- follows tells itself.
CREATE FUNCTION {{.schema}}.topology_end_edit(_id uuid) RETURNS jsonb
LANGUAGE plpgsql
AS $f$
DECLARE
    _result jsonb;
BEGIN
    DELETE FROM {{.schema}}.topology_edits e WHERE e.xid = pg_current_xact_id() AND e.topology_id = _id;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    _result := {{.schema}}.topology_edit_changes(_id);
    DELETE FROM {{.schema}}.topology_untold u
     WHERE u.xid = pg_current_xact_id() AND u.topology_id = _id AND u.kind IN ('lans', 'deckies', 'edges');
    RETURN _result;
END
$f$;

-- Changes of lans, deckies and edges. Nothing of a topology whose row is gone: `deleted` has told it. A statement of
-- many rows is split into events of at most 500 rows and 256 KiB; the graph is defined only after the last of them. The
-- statements for each kind join nothing, so a plan made for one row is right for many.
CREATE FUNCTION {{.schema}}.topology_graph_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET enable_seqscan = off SET jit = off
    SET extra_float_digits = 1
AS $f$
DECLARE
    _rows refcursor; _r record; _found boolean; _c record; _seq bigint; _x text; _there boolean; _silent boolean;
        _topology uuid;
    _id uuid; _was jsonb; _is jsonb; _n int := 0; _bytes bigint := 0; _size bigint;
    _now jsonb[]; _removed jsonb[]; _before jsonb[]; _payload jsonb;
BEGIN
    CASE TG_OP || ' ' || TG_TABLE_NAME
    WHEN 'INSERT lans', 'UPDATE lans' THEN OPEN _rows FOR SELECT n.topology_id, n.id FROM new_rows n
        ORDER BY n.topology_id, n.name, n.id;
    WHEN 'DELETE lans' THEN OPEN _rows FOR SELECT o.topology_id, o.id FROM old_rows o
        ORDER BY o.topology_id, o.name, o.id;
    WHEN 'INSERT deckies', 'UPDATE deckies' THEN
        OPEN _rows FOR SELECT n.topology_id, n.uuid AS id FROM new_rows n ORDER BY n.topology_id, n.name, n.uuid;
    WHEN 'DELETE deckies' THEN OPEN _rows FOR SELECT o.topology_id, o.uuid AS id FROM old_rows o
        ORDER BY o.topology_id, o.name, o.uuid;
    WHEN 'INSERT edges', 'UPDATE edges' THEN OPEN _rows FOR SELECT n.topology_id, n.id FROM new_rows n
        ORDER BY n.topology_id, n.id;
    ELSE OPEN _rows FOR SELECT o.topology_id, o.id FROM old_rows o ORDER BY o.topology_id, o.id;
    END CASE;
    LOOP
        FETCH _rows INTO _r;
        _found := FOUND;
        IF _found AND _topology IS DISTINCT FROM _r.topology_id THEN
            _topology := _r.topology_id;
            SELECT EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = _topology),
                   EXISTS (SELECT FROM {{.schema}}.topology_edits e WHERE e.xid = pg_current_xact_id()
                       AND e.topology_id = _topology)
              INTO _there, _silent;
            IF NOT _there THEN
                DELETE FROM {{.schema}}.topology_untold u WHERE u.xid = pg_current_xact_id()
                    AND u.topology_id = _topology;
            END IF;
        END IF;
        IF _found THEN
            CONTINUE WHEN NOT _there OR _silent;
            DELETE FROM {{.schema}}.topology_untold u
             WHERE u.xid = pg_current_xact_id() AND u.topology_id = _topology AND u.kind = TG_TABLE_NAME
                 AND u.id = _r.id
            RETURNING u.before INTO _was;
            CONTINUE WHEN NOT FOUND;
            _is := {{.schema}}.topology_now(TG_TABLE_NAME, _r.id);
            CONTINUE WHEN _is::text IS NOT DISTINCT FROM _was::text;
            _was := {{.schema}}.topology_before(_was, _is);
            _size := coalesce(octet_length(_is::text), 0) + coalesce(octet_length(_was::text), 0);
        END IF;
        IF _n > 0 AND (NOT _found OR _topology <> _id OR _n = 500 OR _bytes + _size > 262144) THEN
            _payload := {{.schema}}.topology_fit({{.schema}}.topology_changes(
                CASE TG_TABLE_NAME WHEN 'lans' THEN _now END, CASE TG_TABLE_NAME WHEN 'deckies' THEN _now END,
                CASE TG_TABLE_NAME WHEN 'edges' THEN _now END, _removed,
                CASE TG_TABLE_NAME WHEN 'lans' THEN _before END, CASE TG_TABLE_NAME WHEN 'deckies' THEN _before END,
                CASE TG_TABLE_NAME WHEN 'edges' THEN _before END));
            IF _found AND _topology = _id THEN
                _payload := _payload || '{"more": true}';
            END IF;
            _c := {{.schema}}.topology_context();
            _seq := {{.schema}}.topology_next(_id, 1, 0, 0, NULL);
            _x := {{.schema}}.topology_tell(_c.notify, _c.inner_pad, _c.outer_pad, _id, _seq, 'graph', _payload)::text;
            _n := 0; _bytes := 0; _now := NULL; _removed := NULL; _before := NULL;
        END IF;
        EXIT WHEN NOT _found;
        _id := _topology;
        _n := _n + 1;
        _bytes := _bytes + _size;
        IF _is IS NULL THEN
            _removed := _removed || jsonb_build_object('table', TG_TABLE_NAME, 'id', _r.id);
        ELSE
            _now := _now || _is;
        END IF;
        IF _was IS NOT NULL THEN
            _before := _before || _was;
        END IF;
    END LOOP;
    CLOSE _rows;
    RETURN NULL;
END
$f$;

---------------------------------------------------------------- rules

-- What most names are.
CREATE FUNCTION {{.schema}}.topology_plain_name(_name text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $f$ SELECT length(_name) <= 200 AND (_name COLLATE "C") ~ '^[!-~]+$' $f$;

-- A name as INTERFACE.md has it, as far as this database's encoding lets it tell: 1 to 200 characters, no control
-- characters, no space at either end. (Format characters and the normal form are the API's.)
CREATE FUNCTION {{.schema}}.topology_check_name(_field text, _name text) RETURNS void
LANGUAGE plpgsql
AS $f$
DECLARE
    _space text := '[:space:]';
    _control text := '[:cntrl:]';
BEGIN
    IF getdatabaseencoding() = 'UTF8' THEN -- a locale of ASCII alone knows no others
        _space := _space || chr(133) || chr(160) || chr(5760) || chr(8192) || '-' || chr(8202) || chr(8232) ||
            chr(8233) || chr(8239) || chr(8287) || chr(12288);
        _control := _control || chr(1) || '-' || chr(31) || chr(127) || '-' || chr(159);
    END IF;
    IF _name IS NULL OR length(_name) NOT BETWEEN 1 AND 200 THEN
        RAISE EXCEPTION '%: a name has 1 to 200 characters, not %', _field, coalesce(length(_name), 0)
            USING ERRCODE = 'check_violation';
    END IF;
    IF _name ~ ('[' || _control || ']') THEN
        RAISE EXCEPTION '%: % holds a control character: leave it out', _field, quote_literal(left(_name, 80))
            USING ERRCODE = 'check_violation';
    END IF;
    IF _name ~ ('^[' || _space || ']|[' || _space || ']$') THEN
        RAISE EXCEPTION '%: % begins or ends with a space: leave it out', _field, quote_literal(left(_name, 80))
            USING ERRCODE = 'check_violation';
    END IF;
END
$f$;

CREATE FUNCTION {{.schema}}.topology_check_subnet(_subnet cidr) RETURNS void
LANGUAGE plpgsql
AS $f$
DECLARE
    _taken cidr;
BEGIN
    IF family(_subnet) = 4 AND masklen(_subnet) NOT BETWEEN 8 AND 30 OR family(_subnet) = 6
        AND masklen(_subnet) NOT BETWEEN 32 AND 126 THEN
        RAISE EXCEPTION 'lans.subnet: % is no network of /8 to /30 (IPv4) or /32 to /126 (IPv6)', _subnet
            USING ERRCODE = 'check_violation';
    END IF;
    FOREACH _taken IN ARRAY '{0.0.0.0/8,127.0.0.0/8,169.254.0.0/16,224.0.0.0/4,240.0.0.0/4,::/16,ff00::/8}'::cidr[] LOOP
        IF _subnet && _taken THEN
            RAISE EXCEPTION 'lans.subnet: % is in %, which no LAN can have: choose a network of hosts, for example '
                '10.0.0.0/24', _subnet, _taken
                USING ERRCODE = 'check_violation';
        END IF;
    END LOOP;
END
$f$;

-- Rows that were there before these rules stay, and can be changed otherwise, renamed and removed.
CREATE FUNCTION {{.schema}}.topology_graph_rules() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET extra_float_digits = 1
AS $f$
DECLARE
    _id uuid; _before jsonb; _x text; _l {{.schema}}.lans; _d {{.schema}}.deckies; _g {{.schema}}.edges;
BEGIN
    IF TG_OP = 'UPDATE' AND NEW.topology_id <> OLD.topology_id THEN
        RAISE EXCEPTION '%.topology_id cannot be changed: remove the row and make another', TG_TABLE_NAME
            USING ERRCODE = 'check_violation';
    END IF;
    CASE TG_TABLE_NAME
    WHEN 'lans' THEN
        IF TG_OP <> 'INSERT' THEN
            _l := OLD;
            _before := {{.schema}}.topology_lan(_l);
        END IF;
        _id := coalesce(OLD.id, NEW.id);
        IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
            RAISE EXCEPTION 'lans.id cannot be changed: remove the LAN and make another'
                USING ERRCODE = 'check_violation';
        END IF;
        IF (TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NEW.name <> OLD.name) AND {{.schema}}.topology_plain_name(NEW.name)
            IS NOT TRUE THEN
            _x := {{.schema}}.topology_check_name('lans.name', NEW.name)::text;
        END IF;
        IF TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NEW.subnet <> OLD.subnet THEN
            _x := {{.schema}}.topology_check_subnet(NEW.subnet)::text;
        END IF;
    WHEN 'deckies' THEN
        IF TG_OP <> 'INSERT' THEN
            _d := OLD;
            _before := {{.schema}}.topology_decky(_d);
        END IF;
        _id := coalesce(OLD.uuid, NEW.uuid);
        IF TG_OP = 'UPDATE' AND NEW.uuid <> OLD.uuid THEN
            RAISE EXCEPTION 'deckies.uuid cannot be changed: remove the decky and make another'
                USING ERRCODE = 'check_violation';
        END IF;
        IF (TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NEW.name <> OLD.name) AND {{.schema}}.topology_plain_name(NEW.name)
            IS NOT TRUE THEN
            _x := {{.schema}}.topology_check_name('deckies.name', NEW.name)::text;
        END IF;
        IF (TG_OP = 'INSERT' OR TG_OP = 'UPDATE' AND NEW.decky_config <> OLD.decky_config)
            AND octet_length(NEW.decky_config::text) > 262144 THEN
            RAISE EXCEPTION 'deckies.decky_config: % bytes are more than 262144 (256 KiB): make it smaller',
                octet_length(NEW.decky_config::text)
                USING ERRCODE = 'check_violation';
        END IF;
    ELSE
        IF TG_OP <> 'INSERT' THEN
            _g := OLD;
            _before := {{.schema}}.topology_edge(_g);
        END IF;
        _id := coalesce(OLD.id, NEW.id);
        IF TG_OP = 'UPDATE' AND NEW.id <> OLD.id THEN
            RAISE EXCEPTION 'edges.id cannot be changed: remove the edge and make another'
                USING ERRCODE = 'check_violation';
        END IF;
    END CASE;
    IF TG_OP = 'INSERT' THEN -- which may find the row there, and leave it or change it
        _before := {{.schema}}.topology_now(TG_TABLE_NAME, _id);
    END IF;
    INSERT INTO {{.schema}}.topology_untold (topology_id, kind, id, before)
        VALUES (coalesce(OLD.topology_id, NEW.topology_id), TG_TABLE_NAME, _id, _before) ON CONFLICT DO NOTHING;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END
$f$;

CREATE FUNCTION {{.schema}}.topology_rules() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _legal text; _x text;
BEGIN
    IF NEW.status IS NULL OR NEW.status NOT IN ('pending', 'deploying', 'active', 'degraded', 'failed', 'tearing_down',
        'torn_down') THEN
        RAISE EXCEPTION 'topologies.status: % is no status: legal are pending, deploying, active, degraded, failed, '
            'tearing_down, torn_down', coalesce(quote_literal(NEW.status), 'null')
            USING ERRCODE = 'check_violation';
    END IF;
    IF (TG_OP = 'INSERT' OR NEW.name <> OLD.name) AND {{.schema}}.topology_plain_name(NEW.name) IS NOT TRUE THEN
        _x := {{.schema}}.topology_check_name('topologies.name', NEW.name)::text;
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'pending' THEN
            RAISE EXCEPTION 'topologies.status: a topology begins as pending, not %: insert it, then change its status',
                NEW.status
                USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.version <> 0 THEN
            RAISE EXCEPTION 'topologies.version: a topology begins with version 0, not %', NEW.version
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'topologies.id cannot be changed: delete the topology and insert another'
            USING ERRCODE = 'check_violation';
    END IF;
    -- Within a trigger's own statement the depth is 2: mutations_changed raises the version, and a statement that
    -- somebody types may not.
    IF NEW.version <> OLD.version AND pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'topologies.version cannot be changed by hand: it rises by 1 with each mutation that finishes'
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.status <> OLD.status THEN
        _legal := CASE OLD.status
            WHEN 'pending' THEN 'deploying, torn_down'
            WHEN 'deploying' THEN 'active, failed, degraded, tearing_down'
            WHEN 'active' THEN 'degraded, tearing_down'
            WHEN 'degraded' THEN 'active, tearing_down'
            WHEN 'failed' THEN 'tearing_down'
            WHEN 'tearing_down' THEN 'torn_down, degraded'
            ELSE '' END;
        IF NEW.status <> ALL (string_to_array(_legal, ', ')) THEN
            RAISE EXCEPTION 'topologies.status: % cannot become %: from % it may become %', OLD.status, NEW.status,
                OLD.status,
                coalesce(nullif(replace(_legal, ', ', ' or '), ''), 'nothing else')
                USING ERRCODE = 'check_violation';
        END IF;
        NEW.status_changed_at := clock_timestamp();
    END IF;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$f$;

CREATE FUNCTION {{.schema}}.mutation_rules() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _legal text;
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.state IN ('pending', 'applying') AND EXISTS (SELECT FROM {{.schema}}.topologies t
            WHERE t.id = OLD.topology_id) THEN
            RAISE EXCEPTION 'mutations: % is in flight (%) and cannot be deleted: wait until it is applied or failed',
                OLD.id, OLD.state
                USING ERRCODE = 'check_violation';
        END IF;
        RETURN OLD;
    END IF;
    IF NEW.state IS NULL OR NEW.state NOT IN ('pending', 'applying', 'applied', 'failed') THEN
        RAISE EXCEPTION 'mutations.state: % is no state: legal are pending, applying, applied, failed',
            coalesce(quote_literal(NEW.state), 'null')
            USING ERRCODE = 'check_violation';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'pending' THEN
            RAISE EXCEPTION 'mutations.state: a mutation begins as pending, not %', NEW.state
                USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.op NOT IN ('add_lan', 'remove_lan', 'update_lan', 'add_decky', 'attach_decky', 'detach_decky',
            'remove_decky', 'update_decky', 'changeset') THEN
            RAISE EXCEPTION 'mutations.op: % is no op: legal are add_lan, remove_lan, update_lan, add_decky, '
                'attach_decky, detach_decky, remove_decky, update_decky, changeset', quote_literal(left(NEW.op, 80))
                USING ERRCODE = 'check_violation';
        END IF;
        NEW.payload_bytes := coalesce(octet_length(NEW.payload::text), 0) + coalesce(octet_length(NEW.requested_by), 0);
        NEW.enqueued_in := nullif(left(current_setting('topostream.inserting', true), 36), '')::uuid;
        RETURN NEW;
    END IF;
    NEW.enqueued_in := OLD.enqueued_in;
    NEW.payload_bytes := OLD.payload_bytes; -- the head has counted it
    -- it came without triggers
    IF OLD.payload_bytes = 0 AND NEW.state = OLD.state AND NEW.state IN ('pending', 'applying') THEN
        NEW.payload_bytes := coalesce(octet_length(NEW.payload::text), 0) + coalesce(octet_length(NEW.requested_by), 0);
    END IF;
    IF NEW.id <> OLD.id OR NEW.position <> OLD.position OR NEW.topology_id <> OLD.topology_id THEN
        RAISE EXCEPTION 'mutations: id, position and topology_id cannot be changed: enqueue another mutation'
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.op <> OLD.op OR NEW.payload IS DISTINCT FROM OLD.payload THEN
        RAISE EXCEPTION 'mutations: op and payload of an enqueued mutation cannot be changed: enqueue another mutation'
            USING ERRCODE = 'check_violation';
    END IF;
    IF NEW.state <> OLD.state THEN
        _legal := CASE OLD.state
            WHEN 'pending' THEN 'applying'
            WHEN 'applying' THEN 'applied, failed, pending'
            ELSE '' END;
        IF NEW.state <> ALL (string_to_array(_legal, ', ')) THEN
            RAISE EXCEPTION 'mutations.state: % cannot become %: from % it may become %', OLD.state, NEW.state,
                OLD.state,
                coalesce(nullif(replace(_legal, ', ', ' or '), ''), 'nothing else')
                USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.state = 'applying' AND NEW.attempt = OLD.attempt THEN
            NEW.attempt := OLD.attempt + 1;
        ELSIF NEW.state = 'applied' THEN
            NEW.applied_at := coalesce(NEW.applied_at, clock_timestamp());
            NEW.finished_at := NEW.applied_at;
            -- What was changed otherwise has told itself. (The setting only saves the look: whatever it says, the
            -- edit's end puts the result right.)
            NEW.result := {{.schema}}.topology_no_changes();
            IF current_setting('topostream.edit', true) = 'open' AND EXISTS (
                SELECT FROM {{.schema}}.topology_edits e WHERE e.xid = pg_current_xact_id()
                    AND e.topology_id = NEW.topology_id) THEN
                NEW.result := {{.schema}}.topology_edit_changes(NEW.topology_id);
            END IF;
        ELSIF NEW.state = 'failed' THEN
            NEW.finished_at := clock_timestamp();
        END IF;
    END IF;
    RETURN NEW;
END
$f$;

---------------------------------------------------------------- triggers

ALTER TABLE {{.schema}}.mutations DROP CONSTRAINT mutations_op_check, ADD CONSTRAINT mutations_op_check CHECK (op
    IN ('add_lan', 'remove_lan', 'update_lan', 'add_decky', 'attach_decky', 'detach_decky', 'remove_decky',
    'update_decky', 'changeset')) NOT VALID;

DROP TRIGGER guard ON {{.schema}}.topologies;
DROP TRIGGER record_insert ON {{.schema}}.topologies;
DROP TRIGGER record_update ON {{.schema}}.topologies;
DROP TRIGGER record_delete ON {{.schema}}.topologies;
DROP TRIGGER unpark ON {{.schema}}.topologies;
DROP TRIGGER guard ON {{.schema}}.mutations;
DROP TRIGGER record_insert ON {{.schema}}.mutations;
DROP TRIGGER record_update ON {{.schema}}.mutations;
DROP TRIGGER unpark ON {{.schema}}.mutations;
DROP TRIGGER hand_finished ON {{.schema}}.mutations;

CREATE TRIGGER guard BEFORE INSERT ON {{.schema}}.topologies FOR EACH ROW EXECUTE FUNCTION {{.schema}}.topology_rules();
CREATE TRIGGER guard_update BEFORE UPDATE ON {{.schema}}.topologies FOR EACH ROW
    WHEN (pg_trigger_depth() = 0 OR NEW.version = OLD.version OR NEW.id <> OLD.id OR NEW.name <> OLD.name
        OR NEW.status <> OLD.status
          OR NEW.reason IS DISTINCT FROM OLD.reason)
    EXECUTE FUNCTION {{.schema}}.topology_rules();
CREATE TRIGGER record_insert AFTER INSERT ON {{.schema}}.topologies REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_changed();
CREATE TRIGGER record_update AFTER UPDATE ON {{.schema}}.topologies
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_changed();
CREATE TRIGGER record_delete AFTER DELETE ON {{.schema}}.topologies REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_gone();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON {{.schema}}.mutations FOR EACH ROW
    EXECUTE FUNCTION {{.schema}}.mutation_rules();
CREATE TRIGGER inserting BEFORE INSERT ON {{.schema}}.mutations FOR EACH STATEMENT
    EXECUTE FUNCTION {{.schema}}.mutations_inserting();
CREATE TRIGGER record_insert AFTER INSERT ON {{.schema}}.mutations REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.mutations_enqueued();
CREATE TRIGGER record_update AFTER UPDATE ON {{.schema}}.mutations
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.mutations_changed();

DO $do$
DECLARE
    _t text;
BEGIN
    FOREACH _t IN ARRAY '{lans,deckies,edges}'::text[] LOOP
        EXECUTE format('CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON {{.format}}.%I FOR EACH ROW
            EXECUTE FUNCTION {{.format}}.topology_graph_rules()', _t);
        EXECUTE format('CREATE TRIGGER record_insert AFTER INSERT ON {{.format}}.%I REFERENCING NEW TABLE AS new_rows
            FOR EACH STATEMENT EXECUTE FUNCTION {{.format}}.topology_graph_changed()', _t);
        EXECUTE format('CREATE TRIGGER record_update AFTER UPDATE ON {{.format}}.%I
            REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
            FOR EACH STATEMENT EXECUTE FUNCTION {{.format}}.topology_graph_changed()', _t);
        EXECUTE format('CREATE TRIGGER record_delete AFTER DELETE ON {{.format}}.%I REFERENCING OLD TABLE AS old_rows
            FOR EACH STATEMENT EXECUTE FUNCTION {{.format}}.topology_graph_changed()', _t);
        EXECUTE format('CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {{.format}}.%I
            FOR EACH STATEMENT EXECUTE FUNCTION {{.format}}.topology_refuse_truncate()', _t);
    END LOOP;
END
$do$;

---------------------------------------------------------------- repair

-- For rows that came or changed while triggers were off: makes a topology's head where it is missing, records a status
-- that nobody has recorded, counts what is in flight anew, and gives whether something was wrong. The caller does it
-- for one topology a transaction: no other waits.
CREATE FUNCTION {{.schema}}.topology_repair(_id uuid) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
AS $f$
DECLARE
    _c record; _before bigint; _wrong boolean; _x text;
BEGIN
    PERFORM FROM {{.schema}}.topologies t WHERE t.id = _id FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    -- the guard counts
    UPDATE {{.schema}}.mutations SET payload_bytes = 0 WHERE topology_id = _id AND state IN ('pending', 'applying')
        AND payload_bytes = 0;
    SELECT h.seq INTO _before FROM {{.schema}}.topology_heads h WHERE h.topology_id = _id AND h.in_flight >= 0
        FOR NO KEY UPDATE;
    _c := {{.schema}}.topology_context();
    _x := {{.schema}}.topology_tell_status(_c.notify, _c.inner_pad, _c.outer_pad, _id)::text;
    SELECT h.seq IS DISTINCT FROM _before INTO STRICT _wrong FROM {{.schema}}.topology_heads h
        WHERE h.topology_id = _id;
    UPDATE {{.schema}}.topology_heads h SET in_flight = m.n, in_flight_bytes = m.bytes, in_flight_from = m.from
      FROM (SELECT count(*) AS n, coalesce(sum(payload_bytes), 0) AS bytes, min(position) AS from
          FROM {{.schema}}.mutations
             WHERE topology_id = _id AND state IN ('pending', 'applying')) m
     WHERE h.topology_id = _id AND ((h.in_flight, h.in_flight_bytes) <> (m.n, m.bytes)
            OR coalesce(h.in_flight_from, 9223372036854775807) > coalesce(m.from, 9223372036854775807));
    RETURN FOUND OR _wrong;
END
$f$;

---------------------------------------------------------------- rights

-- Nothing for PUBLIC; who works on mutations may open edits.

DO $do$
DECLARE
    _f regprocedure; _g record;
BEGIN
    FOR _f IN SELECT p.oid::regprocedure FROM pg_proc p
               WHERE p.pronamespace = '{{.literal}}'::regnamespace AND p.proname
                   IN ('topology_edit_unfinished', 'topology_sweep', 'topology_context', 'topology_next',
                   'topology_make_head', 'topology_born', 'topology_told', 'topology_edit_opened',
                 'topology_raise_version', 'topology_tell', 'topology_tell_status', 'topologies_gone',
                 'topologies_changed', 'topology_counted_sql', 'topology_tell_enqueued', 'topology_tell_early',
                     'mutations_inserting', 'mutations_enqueued',
                 'mutations_changed', 'topology_no_changes', 'topology_lan', 'topology_decky', 'topology_edge',
                 'topology_before', 'topology_now', 'topology_changes', 'topology_fit', 'topology_edit_changes',
                     'topology_end_edit',
                 'topology_graph_changed', 'topology_plain_name', 'topology_check_name', 'topology_check_subnet',
                     'topology_graph_rules',
                 'topology_rules', 'mutation_rules', 'topology_repair') LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', _f);
    END LOOP;
    -- Default privileges may have given somebody rights on the new tables: whoever may write there could silence
    -- others.
    FOR _g IN SELECT DISTINCT c.relname, CASE a.grantee WHEN 0 THEN 'PUBLIC'
        ELSE a.grantee::regrole::text END AS grantee
                FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.oid IN ('{{.literal}}.topology_edits'::regclass, '{{.literal}}.topology_untold'::regclass)
                   AND a.grantee <> c.relowner LOOP
        EXECUTE format('REVOKE ALL ON {{.format}}.%I FROM %s', _g.relname, _g.grantee);
    END LOOP;
    FOR _g IN SELECT DISTINCT p.proname, CASE a.grantee WHEN 0 THEN 'PUBLIC'
        ELSE a.grantee::regrole::text END AS grantee
                FROM pg_proc p, aclexplode(p.proacl) a
               WHERE p.pronamespace = '{{.literal}}'::regnamespace AND p.proname
                   IN ('topology_prune', 'topology_graph_json') AND a.grantee <> p.proowner LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %s', CASE _g.proname WHEN 'topology_prune'
            THEN '{{.literal}}.topology_sweep'
            ELSE '{{.literal}}.topology_lan, {{.literal}}.topology_decky, {{.literal}}.topology_edge' END, _g.grantee);
    END LOOP;
    FOR _g IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE a.grantee::regrole::text END AS grantee
                FROM pg_class c, aclexplode(c.relacl) a
               WHERE c.oid = '{{.literal}}.topology_parked'::regclass AND a.privilege_type = 'INSERT'
                   AND a.grantee <> c.relowner LOOP
        EXECUTE format('GRANT INSERT (topology_id) ON {{.format}}.topology_edits TO %s', _g.grantee);
    END LOOP;
END
$do$;

---- create above / drop below ----

SET LOCAL lock_timeout = '1s';
LOCK TABLE {{.schema}}.topologies, {{.schema}}.mutations, {{.schema}}.lans, {{.schema}}.deckies, {{.schema}}.edges
    IN ACCESS EXCLUSIVE MODE;

DO $do$
DECLARE
    _t text;
BEGIN
    IF EXISTS (SELECT FROM {{.schema}}.mutations WHERE op = 'changeset') THEN
        RAISE EXCEPTION 'mutations hold the op changeset, which the version before does not know: delete those that '
            'are applied or failed, and wait for the others';
    END IF;
    FOREACH _t IN ARRAY '{lans,deckies,edges}'::text[] LOOP
        EXECUTE format('DROP TRIGGER guard ON {{.format}}.%1$I;
            DROP TRIGGER record_insert ON {{.format}}.%1$I; DROP TRIGGER record_update ON {{.format}}.%1$I;
            DROP TRIGGER record_delete ON {{.format}}.%1$I; DROP TRIGGER refuse_truncate ON {{.format}}.%1$I', _t);
    END LOOP;
END
$do$;

DROP TRIGGER guard ON {{.schema}}.topologies;
DROP TRIGGER guard_update ON {{.schema}}.topologies;
DROP TRIGGER record_insert ON {{.schema}}.topologies;
DROP TRIGGER record_update ON {{.schema}}.topologies;
DROP TRIGGER record_delete ON {{.schema}}.topologies;
DROP TRIGGER guard ON {{.schema}}.mutations;
DROP TRIGGER record_insert ON {{.schema}}.mutations;
DROP TRIGGER record_update ON {{.schema}}.mutations;
DROP TRIGGER inserting ON {{.schema}}.mutations;

ALTER TABLE {{.schema}}.mutations DROP COLUMN enqueued_in;
ALTER TABLE {{.schema}}.mutations DROP CONSTRAINT mutations_op_check, ADD CONSTRAINT mutations_op_check CHECK (op
    IN ('add_lan', 'remove_lan', 'update_lan', 'add_decky', 'attach_decky', 'detach_decky', 'remove_decky',
    'update_decky'));

CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON {{.schema}}.topologies FOR EACH ROW
    EXECUTE FUNCTION {{.schema}}.topologies_guard();
CREATE TRIGGER record_insert AFTER INSERT ON {{.schema}}.topologies REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_inserted();
CREATE TRIGGER record_update AFTER UPDATE ON {{.schema}}.topologies
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_updated();
CREATE TRIGGER record_delete AFTER DELETE ON {{.schema}}.topologies REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_deleted();
CREATE TRIGGER unpark AFTER UPDATE ON {{.schema}}.topologies REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_unpark();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON {{.schema}}.mutations FOR EACH ROW
    EXECUTE FUNCTION {{.schema}}.mutations_guard();
CREATE TRIGGER record_insert AFTER INSERT ON {{.schema}}.mutations REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.mutations_inserted();
CREATE TRIGGER record_update AFTER UPDATE ON {{.schema}}.mutations
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.mutations_updated();
CREATE TRIGGER unpark AFTER INSERT ON {{.schema}}.mutations REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_unpark();
CREATE TRIGGER hand_finished AFTER UPDATE ON {{.schema}}.mutations
    REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_hand_finished();

CREATE OR REPLACE FUNCTION {{.schema}}.topology_emit(topology_id uuid, type text, payload jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
#variable_conflict use_column
DECLARE
    _id CONSTANT uuid := $1;
    _type CONSTANT text := $2;
    _payload CONSTANT jsonb := $3;
    _b record; _seq bigint;
BEGIN
    IF _id IS NULL THEN
        RAISE EXCEPTION 'topology_emit: topology_id is null: name a topology' USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF _type IS NULL OR length(_type) > 64 OR _type !~ '^[a-z0-9_]+(\.[a-z0-9_]+)*$' OR _type ~ '\n' THEN
        RAISE EXCEPTION 'topology_emit: type % is malformed: use parts of a-z, 0-9 and _ joined by dots, at most 64 '
            'characters', coalesce(quote_literal(left(_type, 80)), 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF _type IN ('error', 'open', 'message', 'snapshot', 'deleted', 'unavailable', 'token_expired', 'notify') THEN
        RAISE EXCEPTION 'topology_emit: type "%" is reserved: choose another name', _type
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF _type = 'status' OR _type = 'mutation' OR _type LIKE 'mutation.%' THEN
        RAISE EXCEPTION 'topology_emit: type "%" is recorded by the triggers alone: change the topology or the '
            'mutation instead', _type
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM FROM {{.schema}}.topologies t WHERE t.id = _id FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'topology_emit: there is no topology %', _id USING ERRCODE = 'foreign_key_violation';
    END IF;
    _b := {{.schema}}.topology_begin();
    SELECT h.seq + 1 INTO STRICT _seq FROM {{.schema}}.topology_heads h WHERE h.topology_id = _id FOR NO KEY UPDATE;
    EXECUTE {{.schema}}.topology_record_sql('SELECT $5 AS topology_id, 1 AS ord, $6 AS type, $7 AS payload')
        USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad, _id, _type, _payload;
    RETURN _seq;
END
$f$;

UPDATE {{.schema}}.topology_heads SET in_flight = 0 WHERE in_flight < 0;
ALTER TABLE {{.schema}}.topology_heads DROP COLUMN told;

CREATE OR REPLACE FUNCTION {{.schema}}.topology_graph_json(_id uuid) RETURNS text
LANGUAGE sql STABLE
AS $f$
    SELECT '"lans":[' || coalesce((SELECT string_agg(json_build_object('id', l.id, 'topology_id', l.topology_id, 'name',
        l.name,
                  'subnet', l.subnet, 'is_dmz', l.is_dmz, 'x', l.x, 'y', l.y)::text, ',' ORDER BY l.name)
             FROM {{.schema}}.lans l WHERE l.topology_id = $1), '')
        || '],"deckies":[' || coalesce((SELECT string_agg(json_build_object('uuid', d.uuid, 'topology_id',
            d.topology_id, 'name', d.name,
                  'services', d.services, 'decky_config', d.decky_config, 'ip', host(d.ip), 'state', d.state, 'x', d.x,
                      'y', d.y)::text, ',' ORDER BY d.name)
             FROM {{.schema}}.deckies d WHERE d.topology_id = $1), '')
        || '],"edges":[' || coalesce((SELECT string_agg(json_build_object('id', g.id, 'topology_id', g.topology_id,
            'decky_uuid', g.decky_uuid,
                  'lan_id', g.lan_id, 'ip', host(g.ip), 'is_bridge', g.is_bridge, 'forwards_l3', g.forwards_l3)::text,
                      ',' ORDER BY g.decky_uuid, g.lan_id)
             FROM {{.schema}}.edges g WHERE g.topology_id = $1), '') || ']'
$f$;

DROP TABLE {{.schema}}.topology_edits, {{.schema}}.topology_untold;
DROP FUNCTION {{.schema}}.topology_edit_unfinished,
    {{.schema}}.topology_sweep,
    {{.schema}}.topology_context,
    {{.schema}}.topology_next,
    {{.schema}}.topology_make_head,
    {{.schema}}.topology_born,
    {{.schema}}.topology_told,
    {{.schema}}.topology_edit_opened,
    {{.schema}}.topology_raise_version,
    {{.schema}}.topology_tell,
    {{.schema}}.topology_tell_status,
    {{.schema}}.topologies_gone,
    {{.schema}}.topologies_changed,
    {{.schema}}.topology_counted_sql,
    {{.schema}}.topology_tell_enqueued,
    {{.schema}}.topology_tell_early,
    {{.schema}}.mutations_inserting,
    {{.schema}}.mutations_enqueued,
    {{.schema}}.mutations_changed,
    {{.schema}}.topology_no_changes,
    {{.schema}}.topology_lan,
    {{.schema}}.topology_decky,
    {{.schema}}.topology_edge,
    {{.schema}}.topology_before,
    {{.schema}}.topology_now,
    {{.schema}}.topology_changes,
    {{.schema}}.topology_fit,
    {{.schema}}.topology_edit_changes,
    {{.schema}}.topology_end_edit,
    {{.schema}}.topology_graph_changed,
    {{.schema}}.topology_plain_name,
    {{.schema}}.topology_check_name,
    {{.schema}}.topology_check_subnet,
    {{.schema}}.topology_graph_rules,
    {{.schema}}.topology_rules,
    {{.schema}}.mutation_rules,
    {{.schema}}.topology_repair;

DELETE FROM {{.schema}}.topology_migrations WHERE version = 6;
