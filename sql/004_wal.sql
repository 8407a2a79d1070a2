-- The bus `wal`: what servers and workers ask about it. The publication itself is made by `topostream bus wal`, which looks first whether it would work.

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (4, 'wal', true);

-- What the triggers do: notify, or leave the events to those who read the WAL. No secret, unlike the rest of topology_settings.
CREATE FUNCTION {{.schema}}.topology_bus() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$ SELECT bus FROM {{.schema}}.topology_settings $f$;

-- A publication belongs to the database and not to a schema: each schema has one of its own.
CREATE FUNCTION {{.schema}}.topology_publication() RETURNS text
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
    SELECT CASE nspname WHEN 'public' THEN 'topostream' ELSE left('topostream_' || nspname, 63) END
      FROM pg_namespace WHERE oid = '{{.literal}}'::regnamespace
$f$;

-- Whatever changes the bus or the epoch tells servers and workers at once, on any bus; it happens a few times a year.
CREATE FUNCTION {{.schema}}.topology_settings_changed() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
    PERFORM pg_notify('topostream.settings', '');
    RETURN NULL;
END
$f$;
REVOKE ALL ON FUNCTION {{.schema}}.topology_settings_changed() FROM PUBLIC;
CREATE TRIGGER changed AFTER UPDATE ON {{.schema}}.topology_settings FOR EACH ROW
    WHEN ((OLD.bus, OLD.epoch) IS DISTINCT FROM (NEW.bus, NEW.epoch)) EXECUTE FUNCTION {{.schema}}.topology_settings_changed();

---- create above / drop below ----

DO $do$
BEGIN
    EXECUTE format('DROP PUBLICATION IF EXISTS %I', {{.schema}}.topology_publication());
END
$do$;
UPDATE {{.schema}}.topology_settings SET bus = 'notify' WHERE bus <> 'notify';
DROP TRIGGER changed ON {{.schema}}.topology_settings;
DROP FUNCTION {{.schema}}.topology_settings_changed(), {{.schema}}.topology_publication(), {{.schema}}.topology_bus();
DELETE FROM {{.schema}}.topology_migrations WHERE version = 4;
