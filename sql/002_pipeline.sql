-- The mutation pipeline: leases, topologies that wait after a failure, idempotency keys.

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (2, 'pipeline', true);

ALTER TABLE {{.schema}}.mutations
    ADD COLUMN lease        uuid,          -- of the worker that applies it; null when a person does by hand
    ADD COLUMN leased_until timestamptz;   -- when another worker may take it
CREATE INDEX mutations_leased ON {{.schema}}.mutations (leased_until) WHERE state = 'applying';
CREATE INDEX mutations_finished ON {{.schema}}.mutations (finished_at) WHERE finished_at IS NOT NULL;

-- A topology whose mutation has failed is left alone until something wakes it, so that an operator can look before a cascade.
CREATE TABLE {{.schema}}.topology_parked (
    topology_id uuid PRIMARY KEY REFERENCES {{.schema}}.topologies (id) ON DELETE CASCADE,
    until       timestamptz NOT NULL
);

-- Per subject and topology: the same key and body give the same mutation.
CREATE TABLE {{.schema}}.mutation_keys (
    topology_id uuid NOT NULL REFERENCES {{.schema}}.topologies (id) ON DELETE CASCADE,
    subject     text NOT NULL,
    key         text NOT NULL,
    body        bytea NOT NULL,            -- SHA-256 of the request's body
    mutation_id uuid NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topology_id, subject, key)
);
CREATE INDEX mutation_keys_age ON {{.schema}}.mutation_keys (created_at);

-- A topology's own enqueue or status change wakes it.
CREATE FUNCTION {{.schema}}.topology_unpark() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
    IF NOT EXISTS (SELECT FROM {{.schema}}.topology_parked) THEN RETURN NULL; END IF;
    IF TG_TABLE_NAME = 'mutations' THEN
        EXECUTE 'DELETE FROM {{.literal}}.topology_parked p USING new_rows n WHERE p.topology_id = n.topology_id';
    ELSE
        EXECUTE 'DELETE FROM {{.literal}}.topology_parked p USING new_rows n, old_rows o
                  WHERE p.topology_id = n.id AND o.id = n.id AND o.status <> n.status';
    END IF;
    RETURN NULL;
END
$f$;
REVOKE ALL ON FUNCTION {{.schema}}.topology_unpark() FROM PUBLIC;
CREATE TRIGGER unpark AFTER INSERT ON {{.schema}}.mutations REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_unpark();
CREATE TRIGGER unpark AFTER UPDATE ON {{.schema}}.topologies REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_unpark();

-- Who works on a mutation by hand, without a lease, tells nobody when it is done: the next one of the topology shall not wait for a poll.
CREATE FUNCTION {{.schema}}.topology_hand_finished() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
DECLARE
    _finished bigint;
BEGIN
    EXECUTE 'SELECT count(*) FROM new_rows n JOIN old_rows o ON o.id = n.id
              WHERE o.state = ''applying'' AND n.state <> ''applying'' AND o.lease IS NULL' INTO _finished;
    IF _finished > 0 AND EXISTS (SELECT FROM {{.schema}}.topology_settings WHERE bus = 'notify') AND pg_notification_queue_usage() <= 0.5 THEN
        PERFORM pg_notify('topology_mutations', '');
    END IF;
    RETURN NULL;
END
$f$;
REVOKE ALL ON FUNCTION {{.schema}}.topology_hand_finished() FROM PUBLIC;
CREATE TRIGGER hand_finished AFTER UPDATE ON {{.schema}}.mutations REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION {{.schema}}.topology_hand_finished();

---- create above / drop below ----

DROP TRIGGER hand_finished ON {{.schema}}.mutations;
DROP FUNCTION {{.schema}}.topology_hand_finished();
DROP TRIGGER unpark ON {{.schema}}.topologies;
DROP TRIGGER unpark ON {{.schema}}.mutations;
DROP FUNCTION {{.schema}}.topology_unpark();
DROP TABLE {{.schema}}.mutation_keys, {{.schema}}.topology_parked;
DROP INDEX {{.schema}}.mutations_finished, {{.schema}}.mutations_leased;
ALTER TABLE {{.schema}}.mutations DROP COLUMN lease, DROP COLUMN leased_until;
DELETE FROM {{.schema}}.topology_migrations WHERE version = 2;
