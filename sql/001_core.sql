-- The core: topologies and their mutations, the journal, and the triggers that write it.
-- The template value schema is the schema of the migrating connection, quoted; every function names what it uses in full,
-- because it runs with the owner's rights and must not follow a caller's search_path.

CREATE TABLE {{.schema}}.topology_migrations (
    version    int PRIMARY KEY,
    name       text NOT NULL,
    additive   boolean NOT NULL,                      -- a server that does not know it can go on working
    applied_at timestamptz NOT NULL DEFAULT now()
);
INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (1, 'core', false);

-- One row. Only the owner and the server may read it: the keys sign the triggers' notifications.
CREATE TABLE {{.schema}}.topology_settings (
    one               boolean PRIMARY KEY DEFAULT true CHECK (one),
    bus               text NOT NULL DEFAULT 'notify' CHECK (bus IN ('notify', 'wal')),
    epoch             bigint NOT NULL DEFAULT 0 CHECK (epoch BETWEEN 0 AND 2097151),
    system_identifier text,
    timeline          bigint,
    database_oid      bigint,
    key               bytea NOT NULL,                 -- HMAC-SHA-256 key, 32 bytes (RFC 2104)
    inner_pad         bytea NOT NULL,                 -- key XOR ipad
    outer_pad         bytea NOT NULL                  -- key XOR opad
);
REVOKE ALL ON {{.schema}}.topology_settings FROM PUBLIC;

DO $do$
DECLARE
    _key   bytea := decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex');
    _inner bytea := _key || decode(repeat('00', 32), 'hex');
    _outer bytea := _inner;
BEGIN
    FOR i IN 0..63 LOOP
        _inner := set_byte(_inner, i, get_byte(_inner, i) # 54);
        _outer := set_byte(_outer, i, get_byte(_outer, i) # 92);
    END LOOP;
    INSERT INTO {{.schema}}.topology_settings (key, inner_pad, outer_pad) VALUES (_key, _inner, _outer);
END
$do$;

CREATE TABLE {{.schema}}.topologies (
    id                uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    name              text NOT NULL UNIQUE CHECK (name <> '' AND length(name) <= 200),
    status            text NOT NULL DEFAULT 'pending',
    reason            text,
    version           bigint NOT NULL DEFAULT 0,
    created_at        timestamptz NOT NULL DEFAULT now(),
    updated_at        timestamptz NOT NULL DEFAULT now(),
    status_changed_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE {{.schema}}.mutations (
    id           uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    position     bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    topology_id  uuid NOT NULL REFERENCES {{.schema}}.topologies (id) ON DELETE CASCADE,
    op           text NOT NULL CHECK (op IN ('add_lan', 'remove_lan', 'update_lan', 'add_decky', 'attach_decky', 'detach_decky', 'remove_decky', 'update_decky')),
    payload      jsonb NOT NULL DEFAULT '{}',
    state        text NOT NULL DEFAULT 'pending',
    reason       text,
    attempt      int NOT NULL DEFAULT 0,
    requested_by text,
    requested_at timestamptz NOT NULL DEFAULT now(),
    applied_at   timestamptz,
    finished_at  timestamptz,                          -- applied or failed
    result       jsonb                                 -- the rows that the edit changed, for mutation.applied
);
CREATE INDEX mutations_in_flight ON {{.schema}}.mutations (topology_id, position) WHERE state IN ('pending', 'applying');
CREATE INDEX mutations_newest ON {{.schema}}.mutations (topology_id, position DESC);

CREATE TABLE {{.schema}}.lans (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    topology_id uuid NOT NULL REFERENCES {{.schema}}.topologies (id) ON DELETE CASCADE,
    name        text NOT NULL,
    subnet      cidr NOT NULL,
    is_dmz      bool NOT NULL DEFAULT false,
    x           double precision,
    y           double precision,
    UNIQUE (topology_id, name)
);

CREATE TABLE {{.schema}}.deckies (
    uuid         uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    topology_id  uuid NOT NULL REFERENCES {{.schema}}.topologies (id) ON DELETE CASCADE,
    name         text NOT NULL,
    services     jsonb NOT NULL DEFAULT '[]',
    decky_config jsonb NOT NULL DEFAULT '{}',
    ip           inet,
    state        text NOT NULL DEFAULT 'pending',
    x            double precision,
    y            double precision,
    UNIQUE (topology_id, name)
);

CREATE TABLE {{.schema}}.edges (
    id          uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    topology_id uuid NOT NULL REFERENCES {{.schema}}.topologies (id) ON DELETE CASCADE,
    decky_uuid  uuid NOT NULL REFERENCES {{.schema}}.deckies (uuid) ON DELETE CASCADE,
    lan_id      uuid NOT NULL REFERENCES {{.schema}}.lans (id) ON DELETE CASCADE,
    ip          inet,
    is_bridge   bool NOT NULL DEFAULT false,
    forwards_l3 bool NOT NULL DEFAULT false,
    UNIQUE (decky_uuid, lan_id)
);
CREATE INDEX edges_topology ON {{.schema}}.edges (topology_id);
CREATE INDEX edges_lan ON {{.schema}}.edges (lan_id);

-- Head and journal have no foreign key: they outlive their topology until retention removes them.
CREATE TABLE {{.schema}}.topology_heads (
    topology_id uuid PRIMARY KEY,
    seq         bigint NOT NULL,                       -- head: epoch * 2^32 + n
    first       bigint NOT NULL                        -- oldest seq kept; seq + 1 when none is
) WITH (fillfactor = 50);                              -- room for HOT updates: this row changes with every event

CREATE TABLE {{.schema}}.topology_events (
    topology_id uuid NOT NULL,
    seq         bigint NOT NULL,
    type        text NOT NULL,
    payload     jsonb,
    at          timestamptz NOT NULL,
    PRIMARY KEY (topology_id, seq)
);

---------------------------------------------------------------- encoders

CREATE FUNCTION {{.schema}}.topology_time(_at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$ SELECT to_char(_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') $f$;

-- The one encoder: trigger, catch-up, journal reads and REST all use it, so an event has the same bytes however it came.
CREATE FUNCTION {{.schema}}.topology_event_json(_topology_id uuid, _seq bigint, _type text, _payload jsonb, _at timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT '{"topic":"topology.' || _topology_id || '.' || _type || '","type":"' || _type
        || '","ts":"' || to_char(_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        || '","seq":' || _seq || ',"journaled":true,"payload":' || coalesce(_payload::text, 'null') || '}'
$f$;

CREATE FUNCTION {{.schema}}.topology_mutation_json(_m {{.schema}}.mutations) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT json_build_object('id', _m.id, 'topology_id', _m.topology_id, 'op', _m.op, 'payload', _m.payload, 'state', _m.state,
        'requested_at', {{.schema}}.topology_time(_m.requested_at), 'applied_at', {{.schema}}.topology_time(_m.applied_at),
        'reason', _m.reason)::text
$f$;

-- HMAC-SHA-256 of a notification, its first 16 bytes in hex. A listener can read a notification's mark but cannot make
-- the mark of another one.
CREATE FUNCTION {{.schema}}.topology_mark(_inner bytea, _outer bytea, _message text) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
AS $f$
    SELECT left(encode(sha256(_outer || sha256(_inner || convert_to(_message,
        CASE getdatabaseencoding() WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END))), 'hex'), 32)
$f$;

CREATE FUNCTION {{.schema}}.topology_refuse_size(_type text, _bytes int) RETURNS text
LANGUAGE plpgsql
AS $f$
BEGIN
    RAISE EXCEPTION 'the event % would be % bytes long; the limit is 16777216 bytes (16 MiB): make its payload smaller', _type, _bytes
        USING ERRCODE = 'program_limit_exceeded';
END
$f$;

---------------------------------------------------------------- recording events

-- What every recording function does first: raises synchronous_commit from off (durable before heard), and says whether to NOTIFY:
-- not on another bus, and not while PostgreSQL's queue is more than half full (the heartbeat then costs a delay, not an event).
CREATE FUNCTION {{.schema}}.topology_begin(OUT notify boolean, OUT inner_pad bytea, OUT outer_pad bytea, OUT epoch bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'local', true);
    END IF;
    SELECT s.bus = 'notify', s.inner_pad, s.outer_pad, s.epoch INTO STRICT notify, inner_pad, outer_pad, epoch
      FROM {{.schema}}.topology_settings s;
    IF notify THEN
        notify := pg_notification_queue_usage() <= 0.5;
    END IF;
END
$f$;

-- The statement that locks the heads of all topologies in _source, in id order. Gives the number locked and the number named.
-- A function that returns SQL, because only the trigger function itself can see its transition tables.
CREATE FUNCTION {{.schema}}.topology_lock_sql(_source text) RETURNS text
LANGUAGE sql IMMUTABLE
AS $f$
    SELECT 'WITH named AS MATERIALIZED (SELECT DISTINCT topology_id FROM (' || _source || ') s),
        locked AS MATERIALIZED (SELECT h.topology_id FROM {{.literal}}.topology_heads h
            WHERE h.topology_id IN (SELECT topology_id FROM named) ORDER BY h.topology_id FOR NO KEY UPDATE)
        SELECT (SELECT count(*) FROM locked), (SELECT count(*) FROM named)'
$f$;

-- The statement that numbers, records and NOTIFYs the events of _source (topology_id, ord, type, payload).
-- $1: time, $2: whether to NOTIFY, $3 and $4: the pads. The heads are locked.
CREATE FUNCTION {{.schema}}.topology_record_sql(_source text) RETURNS text
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

CREATE FUNCTION {{.schema}}.topology_check_heads(_locked bigint, _named bigint) RETURNS void
LANGUAGE plpgsql
AS $f$
BEGIN
    IF _locked <> _named THEN
        RAISE EXCEPTION '% of % topologies have no row in topology_heads: it must not be deleted by hand', _named - _locked, _named
            USING ERRCODE = 'data_corrupted';
    END IF;
END
$f$;

CREATE FUNCTION {{.schema}}.topologies_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _b record; _locked bigint; _named bigint;
    _source CONSTANT text := $q$SELECT id AS topology_id, 1 AS ord, 'status'::text AS type,
        jsonb_build_object('state', status, 'reason', reason) AS payload FROM new_rows$q$;
BEGIN
    IF NOT EXISTS (SELECT FROM new_rows) THEN RETURN NULL; END IF;
    _b := {{.schema}}.topology_begin();
    INSERT INTO {{.schema}}.topology_heads (topology_id, seq, first)
        SELECT id, _b.epoch << 32, (_b.epoch << 32) + 1 FROM new_rows ORDER BY id ON CONFLICT DO NOTHING;
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    PERFORM {{.schema}}.topology_check_heads(_locked, _named);
    EXECUTE {{.schema}}.topology_record_sql(_source) USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad;
    RETURN NULL;
END
$f$;

CREATE FUNCTION {{.schema}}.topologies_updated() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _b record; _locked bigint; _named bigint; _wake boolean;
    _source CONSTANT text := $q$SELECT n.id AS topology_id, 1 AS ord, 'status'::text AS type,
        jsonb_build_object('state', n.status, 'reason', n.reason) AS payload
        FROM new_rows n JOIN old_rows o ON o.id = n.id
        WHERE (n.status, n.reason) IS DISTINCT FROM (o.status, o.reason)$q$;
BEGIN
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    IF _named = 0 THEN RETURN NULL; END IF;
    PERFORM {{.schema}}.topology_check_heads(_locked, _named);
    _b := {{.schema}}.topology_begin();
    EXECUTE {{.schema}}.topology_record_sql(_source) USING clock_timestamp(), _b.notify, _b.inner_pad, _b.outer_pad;
    IF _b.notify AND EXISTS (SELECT FROM new_rows WHERE status IN ('active', 'degraded')) THEN
        PERFORM pg_notify('topology_mutations', '');
    END IF;
    RETURN NULL;
END
$f$;

CREATE FUNCTION {{.schema}}.topologies_deleted() RETURNS trigger
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

CREATE FUNCTION {{.schema}}.mutations_inserted() RETURNS trigger
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

-- A mutation that becomes applied raises its topology's version, so topology rows are locked before heads, in id order.
CREATE FUNCTION {{.schema}}.mutations_updated() RETURNS trigger
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

-- The one door for custom events. Gives the event's seq.
CREATE FUNCTION {{.schema}}.topology_emit(topology_id uuid, type text, payload jsonb) RETURNS bigint
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
        RAISE EXCEPTION 'topology_emit: type % is malformed: use parts of a-z, 0-9 and _ joined by dots, at most 64 characters', coalesce(quote_literal(left(_type, 80)), 'null')
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF _type IN ('error', 'open', 'message', 'snapshot', 'deleted', 'unavailable', 'token_expired', 'notify') THEN
        RAISE EXCEPTION 'topology_emit: type "%" is reserved: choose another name', _type USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF _type = 'status' OR _type = 'mutation' OR _type LIKE 'mutation.%' THEN
        RAISE EXCEPTION 'topology_emit: type "%" is recorded by the triggers alone: change the topology or the mutation instead', _type
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

---------------------------------------------------------------- rules

CREATE FUNCTION {{.schema}}.topologies_guard() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _legal text;
BEGIN
    IF NEW.status IS NULL OR NEW.status NOT IN ('pending', 'deploying', 'active', 'degraded', 'failed', 'tearing_down', 'torn_down') THEN
        RAISE EXCEPTION 'topologies.status: % is no status: legal are pending, deploying, active, degraded, failed, tearing_down, torn_down', coalesce(quote_literal(NEW.status), 'null')
            USING ERRCODE = 'check_violation';
    END IF;
    IF TG_OP = 'INSERT' THEN
        IF NEW.status <> 'pending' THEN
            RAISE EXCEPTION 'topologies.status: a topology begins as pending, not %: insert it, then change its status', NEW.status
                USING ERRCODE = 'check_violation';
        END IF;
        IF NEW.version <> 0 THEN
            RAISE EXCEPTION 'topologies.version: a topology begins with version 0, not %', NEW.version USING ERRCODE = 'check_violation';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.id <> OLD.id THEN
        RAISE EXCEPTION 'topologies.id cannot be changed: delete the topology and insert another' USING ERRCODE = 'check_violation';
    END IF;
    -- Within a trigger's own statement the depth is 2: mutations_updated raises the version, and a statement that somebody types may not.
    IF NEW.version <> OLD.version AND pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'topologies.version cannot be changed by hand: it rises by 1 with each applied mutation' USING ERRCODE = 'check_violation';
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
            RAISE EXCEPTION 'topologies.status: % cannot become %: from % it may become %', OLD.status, NEW.status, OLD.status,
                coalesce(nullif(replace(_legal, ', ', ' or '), ''), 'nothing else')
                USING ERRCODE = 'check_violation';
        END IF;
        NEW.status_changed_at := clock_timestamp();
    END IF;
    NEW.updated_at := clock_timestamp();
    RETURN NEW;
END
$f$;

CREATE FUNCTION {{.schema}}.mutations_guard() RETURNS trigger
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

CREATE FUNCTION {{.schema}}.topology_refuse_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
    RAISE EXCEPTION 'TRUNCATE % is refused: it would leave streams without events; use DELETE', TG_TABLE_NAME USING ERRCODE = 'check_violation';
END
$f$;

CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON {{.schema}}.topologies FOR EACH ROW EXECUTE FUNCTION {{.schema}}.topologies_guard();
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OR DELETE ON {{.schema}}.mutations FOR EACH ROW EXECUTE FUNCTION {{.schema}}.mutations_guard();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {{.schema}}.topologies FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {{.schema}}.mutations FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {{.schema}}.topology_heads FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_refuse_truncate();
CREATE TRIGGER refuse_truncate BEFORE TRUNCATE ON {{.schema}}.topology_events FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_refuse_truncate();

CREATE TRIGGER record_insert AFTER INSERT ON {{.schema}}.topologies REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_inserted();
CREATE TRIGGER record_update AFTER UPDATE ON {{.schema}}.topologies REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_updated();
CREATE TRIGGER record_delete AFTER DELETE ON {{.schema}}.topologies REFERENCING OLD TABLE AS old_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topologies_deleted();
CREATE TRIGGER record_insert AFTER INSERT ON {{.schema}}.mutations REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.mutations_inserted();
CREATE TRIGGER record_update AFTER UPDATE ON {{.schema}}.mutations REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.mutations_updated();

---------------------------------------------------------------- reading

-- Whoever reads runs these with its own rights, and a schema where others may create functions and operators must not lend them those: hence the
-- fixed search_path, which what they call inherits.

-- A run of the journal above _after: at most _rows events and, but for the first, _bytes bytes. Rows below the head's `first` are
-- not part of it (they wait for retention, or belong to another epoch).
CREATE FUNCTION {{.schema}}.topology_journal(_id uuid, _after bigint, _first bigint, _rows int, _bytes bigint)
RETURNS TABLE (seq bigint, type text, event text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _e record; _sum bigint := 0;
BEGIN
    FOR _e IN SELECT e.seq, e.type, e.payload, e.at FROM {{.schema}}.topology_events e
               WHERE e.topology_id = _id AND e.seq > _after AND e.seq >= _first ORDER BY e.seq LIMIT _rows
    LOOP
        seq := _e.seq;
        type := _e.type;
        event := {{.schema}}.topology_event_json(_id, _e.seq, _e.type, _e.payload, _e.at);
        _sum := _sum + octet_length(event);
        EXIT WHEN _sum > _bytes AND _sum > octet_length(event);
        RETURN NEXT;
    END LOOP;
END
$f$;

CREATE FUNCTION {{.schema}}.topology_graph_json(_id uuid) RETURNS text
LANGUAGE sql STABLE
AS $f$
    SELECT '"lans":[' || coalesce((SELECT string_agg(json_build_object('id', l.id, 'topology_id', l.topology_id, 'name', l.name,
                  'subnet', l.subnet, 'is_dmz', l.is_dmz, 'x', l.x, 'y', l.y)::text, ',' ORDER BY l.name)
             FROM {{.schema}}.lans l WHERE l.topology_id = _id), '')
        || '],"deckies":[' || coalesce((SELECT string_agg(json_build_object('uuid', d.uuid, 'topology_id', d.topology_id, 'name', d.name,
                  'services', d.services, 'decky_config', d.decky_config, 'ip', host(d.ip), 'state', d.state, 'x', d.x, 'y', d.y)::text, ',' ORDER BY d.name)
             FROM {{.schema}}.deckies d WHERE d.topology_id = _id), '')
        || '],"edges":[' || coalesce((SELECT string_agg(json_build_object('id', g.id, 'topology_id', g.topology_id, 'decky_uuid', g.decky_uuid,
                  'lan_id', g.lan_id, 'ip', host(g.ip), 'is_bridge', g.is_bridge, 'forwards_l3', g.forwards_l3)::text, ',' ORDER BY g.decky_uuid, g.lan_id)
             FROM {{.schema}}.edges g WHERE g.topology_id = _id), '') || ']'
$f$;

-- Snapshots of many topologies at once. One statement, so that status, in-flight mutations, graph and seq are of one moment.
-- A deleted topology that still has a head has a null snapshot; an unknown one has no row.
CREATE FUNCTION {{.schema}}.topology_snapshots(_ids uuid[], _graph boolean)
RETURNS TABLE (topology_id uuid, seq bigint, first bigint, snapshot text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp
AS $f$
    SELECT h.topology_id, h.seq, h.first,
           '{"topology_id":"' || t.id || '","status":"' || t.status || '","reason":' || coalesce(to_json(t.reason)::text, 'null')
           || ',"version":' || t.version || ',"seq":' || h.seq || ',"in_flight":['
           || coalesce((SELECT string_agg({{.schema}}.topology_mutation_json(m), ',' ORDER BY m.position)
                          FROM {{.schema}}.mutations m WHERE m.topology_id = t.id AND m.state IN ('pending', 'applying')), '') || ']'
           || CASE WHEN _graph THEN ',' || {{.schema}}.topology_graph_json(t.id) ELSE '' END || '}'
      FROM {{.schema}}.topology_heads h LEFT JOIN {{.schema}}.topologies t ON t.id = h.topology_id
     WHERE h.topology_id = ANY (_ids)
$f$;

---------------------------------------------------------------- epoch

-- Raises the epoch: every head starts a new history, and whoever resumes gets a snapshot.
CREATE FUNCTION {{.schema}}.topology_new_epoch() RETURNS bigint
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

-- Compares the database's identity with the one remembered and raises the epoch once if it is another:
-- a restore (system identifier or database), a promotion or a point-in-time recovery (timeline). Gives the epoch.
CREATE FUNCTION {{.schema}}.topology_check_epoch() RETURNS bigint
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

---------------------------------------------------------------- retention

-- Removes a prefix of journals: rows older than _age with nothing younger below them, and rows beyond the newest _keep
-- (each null: no such limit). About _batch rows a call; gives the number removed, or -1 when another server prunes now.
-- The head's `first` rises in the same transaction. A head that somebody holds is left for the next call.
CREATE FUNCTION {{.schema}}.topology_prune(_age interval, _keep bigint, _batch int) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _h record; _upto bigint; _n bigint; _removed bigint := 0;
    _before CONSTANT timestamptz := clock_timestamp() - _age;
BEGIN
    IF NOT pg_try_advisory_xact_lock(hashtext('topostream.prune'), ('{{.literal}}.topology_events'::regclass)::oid::int) THEN
        RETURN -1;
    END IF;
    FOR _h IN
        SELECT h.topology_id, h.seq, h.first
          FROM {{.schema}}.topology_heads h
          LEFT JOIN {{.schema}}.topology_events e ON e.topology_id = h.topology_id AND e.seq = h.first
         WHERE e.at < _before OR h.seq - h.first + 1 > _keep
            OR (h.first > h.seq AND NOT EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = h.topology_id))
            OR EXISTS (SELECT FROM {{.schema}}.topology_events o WHERE o.topology_id = h.topology_id AND o.seq < h.first)
         ORDER BY h.topology_id FOR NO KEY UPDATE OF h SKIP LOCKED
    LOOP
        -- What an older epoch left below the journal's first row.
        DELETE FROM {{.schema}}.topology_events e WHERE e.topology_id = _h.topology_id AND e.seq IN (
            SELECT o.seq FROM {{.schema}}.topology_events o WHERE o.topology_id = _h.topology_id AND o.seq < _h.first ORDER BY o.seq LIMIT _batch);
        GET DIAGNOSTICS _n = ROW_COUNT;
        _removed := _removed + _n;
        EXIT WHEN _n = _batch;
        IF _h.first > _h.seq THEN
            DELETE FROM {{.schema}}.topology_heads h WHERE h.topology_id = _h.topology_id
               AND NOT EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = _h.topology_id);
            CONTINUE;
        END IF;
        _upto := _h.first - 1;
        IF _age IS NOT NULL THEN
            -- The oldest row that is young enough to stay ends the prefix. The scan stops at _batch rows.
            SELECT coalesce(min(e.seq) FILTER (WHERE e.at >= _before) - 1, max(e.seq), _upto) INTO _upto
              FROM (SELECT e.seq, e.at FROM {{.schema}}.topology_events e
                     WHERE e.topology_id = _h.topology_id AND e.seq >= _h.first ORDER BY e.seq LIMIT _batch) e;
        END IF;
        IF _keep IS NOT NULL THEN
            _upto := greatest(_upto, least(_h.seq - _keep, _h.first + _batch - 1));
        END IF;
        IF _upto < _h.first THEN CONTINUE; END IF;
        DELETE FROM {{.schema}}.topology_events e WHERE e.topology_id = _h.topology_id AND e.seq <= _upto;
        GET DIAGNOSTICS _n = ROW_COUNT;
        UPDATE {{.schema}}.topology_heads h SET first = _upto + 1 WHERE h.topology_id = _h.topology_id;
        _removed := _removed + _n;
        EXIT WHEN _removed >= _batch;
    END LOOP;
    RETURN _removed;
END
$f$;

------------------------------------- rights: nothing for PUBLIC; deploy/postgres/grants.sql has the grants

DO $do$
DECLARE
    _f regprocedure;
BEGIN
    FOR _f IN SELECT p.oid::regprocedure FROM pg_proc p
               WHERE p.pronamespace = '{{.literal}}'::regnamespace
                 AND p.proname ~ '^(topology_|topologies_|mutations_)' LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', _f);
    END LOOP;
END
$do$;

SELECT {{.schema}}.topology_check_epoch();

---- create above / drop below ----

DROP TABLE {{.schema}}.edges, {{.schema}}.deckies, {{.schema}}.lans;
DROP FUNCTION {{.schema}}.topology_emit(uuid, text, jsonb);
DROP FUNCTION {{.schema}}.topology_snapshots(uuid[], boolean), {{.schema}}.topology_graph_json(uuid), {{.schema}}.topology_mutation_json({{.schema}}.mutations);
DROP TABLE {{.schema}}.mutations, {{.schema}}.topologies, {{.schema}}.topology_events, {{.schema}}.topology_heads, {{.schema}}.topology_settings, {{.schema}}.topology_migrations;
DROP FUNCTION {{.schema}}.topologies_inserted(), {{.schema}}.topologies_updated(), {{.schema}}.topologies_deleted(), {{.schema}}.topologies_guard(),
    {{.schema}}.mutations_inserted(), {{.schema}}.mutations_updated(), {{.schema}}.mutations_guard(), {{.schema}}.topology_refuse_truncate(),
    {{.schema}}.topology_begin(), {{.schema}}.topology_lock_sql(text), {{.schema}}.topology_record_sql(text), {{.schema}}.topology_check_heads(bigint, bigint),
    {{.schema}}.topology_refuse_size(text, int), {{.schema}}.topology_mark(bytea, bytea, text), {{.schema}}.topology_event_json(uuid, bigint, text, jsonb, timestamptz),
    {{.schema}}.topology_time(timestamptz), {{.schema}}.topology_journal(uuid, bigint, bigint, int, bigint), {{.schema}}.topology_new_epoch(),
    {{.schema}}.topology_check_epoch(), {{.schema}}.topology_prune(interval, bigint, int);
