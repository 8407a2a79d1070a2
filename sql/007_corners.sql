-- Names that we did not expect: of schemas, and of columns that an installation adds.

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (7, 'corners', true);

-- A name has 63 bytes, not characters; a cast to name cuts as CREATE PUBLICATION does.
CREATE OR REPLACE FUNCTION {{.schema}}.topology_publication() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
    SELECT CASE nspname WHEN 'public' THEN 'topostream' ELSE ('topostream_' || nspname)::name::text END
      FROM pg_namespace WHERE oid = '{{.literal}}'::regnamespace
$f$;

-- A column called m took the place of the row m. (Functions that were made since have m.* already.)
DO $do$
DECLARE
    _f regprocedure;
BEGIN
    FOR _f IN SELECT p.oid FROM pg_proc p
               WHERE p.pronamespace = '{{.literal}}'::regnamespace
                 AND p.proname IN ('topology_light', 'topology_document', 'topology_snapshots') LOOP
        EXECUTE replace(pg_get_functiondef(_f), 'topology_mutation_json(m)', 'topology_mutation_json(m.*)');
    END LOOP;
END
$do$;

-- A column that is called as a variable or a parameter made every write fail, or took its place. Columns are qualified
-- everywhere, so that what is not is ours.
DO $do$
DECLARE
    _f regprocedure;
BEGIN
    FOR _f IN SELECT p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
               WHERE p.pronamespace = '{{.literal}}'::regnamespace AND l.lanname = 'plpgsql'
                 AND p.proname IN ('mutation_rules', 'mutations_changed', 'mutations_enqueued', 'mutations_guard',
                     'mutations_inserted', 'mutations_updated', 'topologies_changed', 'topologies_deleted',
                     'topologies_gone', 'topologies_guard', 'topologies_inserted', 'topologies_updated',
                     'topology_born', 'topology_check_heads', 'topology_check_subnet', 'topology_document',
                     'topology_edit_changes', 'topology_emit', 'topology_end_edit', 'topology_fit',
                     'topology_graph_changed', 'topology_graph_rules', 'topology_hand_finished', 'topology_light',
                     'topology_next', 'topology_now', 'topology_prune', 'topology_raise_version', 'topology_repair',
                     'topology_rules', 'topology_tell_early', 'topology_tell_enqueued', 'topology_tell_status',
                     'topology_unpark') LOOP
        EXECUTE regexp_replace(pg_get_functiondef(_f), 'AS [$]function[$]\s*(#variable_conflict use_column\s)?',
            E'AS $function$\n#variable_conflict use_variable\n');
    END LOOP;
    FOR _f IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = '{{.literal}}'::regnamespace
                 AND p.proname IN ('topology_graph_json', 'topology_snapshots') LOOP
        EXECUTE replace(replace(replace(pg_get_functiondef(_f), '= _id)', '= $1)'), 'ANY (_ids)', 'ANY ($1)'),
            'CASE WHEN _graph', 'CASE WHEN $2');
    END LOOP;
END
$do$;

-- Records that topologies are deleted of which only the heads are left: they went while triggers were off. It gives
-- their number.
CREATE FUNCTION {{.schema}}.topology_repair_gone() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '5s'
AS $f$
DECLARE
    _c record; _locked bigint; _named bigint;
    _source CONSTANT text := $q$SELECT h.topology_id, 1 AS ord, 'deleted'::text AS type, '{}'::jsonb AS payload
        FROM {{.schema}}.topology_heads h WHERE h.in_flight >= 0
         AND NOT EXISTS (SELECT FROM {{.schema}}.topologies t WHERE t.id = h.topology_id)$q$;
BEGIN
    IF row_security_active('{{.literal}}.topologies') THEN
        RAISE EXCEPTION 'row level security hides topologies from their owner, and what is hidden is not gone'
            USING ERRCODE = 'insufficient_privilege',
                HINT = 'Give the owner BYPASSRLS, or a policy that shows it every row.';
    END IF;
    EXECUTE {{.schema}}.topology_lock_sql(_source) INTO _locked, _named;
    IF _locked = 0 THEN
        RETURN 0;
    END IF;
    _c := {{.schema}}.topology_context();
    EXECUTE {{.schema}}.topology_record_sql(_source, ', in_flight = -1, in_flight_bytes = 0, in_flight_from = NULL', '')
        USING clock_timestamp(), _c.notify, _c.inner_pad, _c.outer_pad;
    RETURN _locked;
END
$f$;
REVOKE ALL ON FUNCTION {{.schema}}.topology_repair_gone() FROM PUBLIC;

---- create above / drop below ----

-- What else is above does no harm to the version before.
DROP FUNCTION {{.schema}}.topology_repair_gone();
DELETE FROM {{.schema}}.topology_migrations WHERE version = 7;
