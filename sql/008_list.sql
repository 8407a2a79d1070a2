-- Who follows the list of topologies is woken: the channel `topologies` gets the id of each topology whose row in the
-- list may have changed. PostgreSQL folds what one transaction says more than once.

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (8, 'list', true);

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

-- One event. An emit or a graph event is no change of the row.
SELECT {{.schema}}.topology_rewrite(
    '{{.literal}}.topology_tell(boolean, bytea, bytea, uuid, bigint, text, jsonb)',
    $old$                _inline)::text;
$old$,
    $new$                _inline)::text;
        IF _type = 'status' OR _type LIKE 'mutation.%' THEN
            _x := pg_notify('topologies', _id::text)::text;
        END IF;
$new$);

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
