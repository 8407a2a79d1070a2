-- Who follows the list of topologies is woken: the channel `topologies` gets the id of each topology whose row in the
-- list may have changed. PostgreSQL folds what one transaction says more than once.

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (8, 'list', true);

CREATE OR REPLACE FUNCTION {{.schema}}.topology_tell(_notify boolean, _inner_pad bytea, _outer_pad bytea, _id uuid,
    _seq bigint, _type text, _payload jsonb)
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
        IF _type = 'status' OR _type LIKE 'mutation.%' THEN -- an emit or a graph event is no change of the row
            _x := pg_notify('topologies', _id::text)::text;
        END IF;
    END IF;
END
$f$;

-- Replaces a part of a function's source, which must be there, unless this migration has run before.
CREATE FUNCTION {{.schema}}.topology_rewrite(_function regprocedure, _old text, _new text) RETURNS void
LANGUAGE plpgsql
AS $f$
DECLARE
    _source CONSTANT text := pg_get_functiondef(_function);
BEGIN
    IF strpos(_source, _new) > 0 THEN
        RETURN;
    END IF;
    IF strpos(_source, _old) = 0 THEN
        RAISE EXCEPTION 'the function % is not the one that this migration knows', _function;
    END IF;
    EXECUTE replace(_source, _old, _new);
END
$f$;

-- Statements of many rows: what records status, mutations and deletions says so, once for each topology.
SELECT {{.schema}}.topology_rewrite('{{.literal}}.topology_record_sql(text, text, text)',
    $old$WHERE h.topology_id = r.topology_id),$old$,
    $new$WHERE h.topology_id = r.topology_id RETURNING h.topology_id),$new$);
SELECT {{.schema}}.topology_rewrite('{{.literal}}.topology_record_sql(text, text, text)',
    $old$inline)::text ELSE inline END)
$old$,
    $new$inline)::text ELSE inline END),
               (SELECT count(pg_notify(''topologies'', topology_id::text)::text) FROM moved WHERE $2)
$new$);

-- A new name is no event.
SELECT {{.schema}}.topology_rewrite('{{.literal}}.topologies_changed()',
    $old$n.reason IS DISTINCT FROM o.reason AS changed,$old$,
    $new$n.reason IS DISTINCT FROM o.reason AS changed, n.name <> o.name AS renamed,$new$);
SELECT {{.schema}}.topology_rewrite('{{.literal}}.topologies_changed()',
    $old$NOT _t.more AND NOT _t.changed THEN$old$,
    $new$NOT _t.more AND NOT _t.changed AND NOT _t.renamed THEN$new$);
SELECT {{.schema}}.topology_rewrite('{{.literal}}.topologies_changed()',
    $old$    _c := {{.schema}}.topology_context();
$old$,
    $new$    _c := {{.schema}}.topology_context();
    IF TG_OP = 'UPDATE' THEN
        IF _t.more THEN
            EXECUTE 'SELECT count(pg_notify(''topologies'', n.id::text)::text) FROM new_rows n
                JOIN old_rows o ON o.id = n.id WHERE n.name <> o.name AND $1' USING _c.notify;
        ELSE
            IF _t.renamed AND _c.notify THEN
                _x := pg_notify('topologies', _t.id::text)::text;
            END IF;
            IF NOT _t.changed THEN
                RETURN NULL;
            END IF;
        END IF;
    END IF;
$new$);

DROP FUNCTION {{.schema}}.topology_rewrite(regprocedure, text, text);

---- create above / drop below ----

-- What is above does no harm to the version before.
DELETE FROM {{.schema}}.topology_migrations WHERE version = 8;
