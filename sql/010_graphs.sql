-- A LAN or decky that goes takes its edges along in one event, and a name holds no bidirectional characters, whoever
-- writes. A topology whose id was used before goes on behind the other's numbers.

INSERT INTO {{.schema}}.topology_migrations (version, name, additive) VALUES (10, 'graphs', true);

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

-- The edges that a LAN or decky takes along are told before it, and their own trigger, which comes later, finds them
-- told. By EXECUTE, because the plan must fit how many there are; IS TRUE makes it look each edge up in a hash table.
SELECT {{.schema}}.topology_rewrite('{{.literal}}.topology_graph_changed()', old, new) FROM (VALUES
    (1, $old$    _now jsonb[]; _removed$old$,
        $new$    _kind text := TG_TABLE_NAME; _edges jsonb[];
    _now jsonb[]; _removed$new$),
    (2, $old$    WHEN 'DELETE lans' THEN OPEN _rows FOR SELECT o.topology_id, o.id FROM old_rows o
        ORDER BY o.topology_id, o.name, o.id;
    WHEN 'INSERT deckies', 'UPDATE deckies' THEN
        OPEN _rows FOR SELECT n.topology_id, n.uuid AS id FROM new_rows n ORDER BY n.topology_id, n.name, n.uuid;
    WHEN 'DELETE deckies' THEN OPEN _rows FOR SELECT o.topology_id, o.uuid AS id FROM old_rows o
        ORDER BY o.topology_id, o.name, o.uuid;
$old$,
        $new$    WHEN 'INSERT deckies', 'UPDATE deckies' THEN
        OPEN _rows FOR SELECT n.topology_id, n.uuid AS id FROM new_rows n ORDER BY n.topology_id, n.name, n.uuid;
    WHEN 'DELETE lans', 'DELETE deckies' THEN OPEN _rows FOR EXECUTE format(
        'SELECT o.topology_id, false AS edge, o.name, o.%1$I AS id FROM old_rows o
         UNION ALL
         SELECT u.topology_id, true, NULL, u.id FROM {{.format}}.topology_untold u
          WHERE u.xid = pg_current_xact_id() AND u.kind = ''edges''
              AND (u.before ->> %2$L IN (SELECT o.%1$I::text FROM old_rows o)) IS TRUE
              AND NOT EXISTS (SELECT FROM {{.format}}.edges e WHERE e.id = u.id)
         ORDER BY topology_id, edge DESC, name, id',
        CASE TG_TABLE_NAME WHEN 'lans' THEN 'id' ELSE 'uuid' END,
        CASE TG_TABLE_NAME WHEN 'lans' THEN 'lan_id' ELSE 'decky_uuid' END);
$new$),
    (3, $old$            CONTINUE WHEN NOT _there OR _silent;
$old$,
        $new$            CONTINUE WHEN NOT _there OR _silent;
            IF TG_OP = 'DELETE' AND TG_TABLE_NAME <> 'edges' THEN
                _kind := CASE WHEN _r.edge THEN 'edges' ELSE TG_TABLE_NAME END;
            END IF;
$new$),
    (4, $old$AND u.kind = TG_TABLE_NAME
$old$, $new$AND u.kind = _kind
$new$),
    (5, $old$topology_now(TG_TABLE_NAME, _r.id)$old$, $new$topology_now(_kind, _r.id)$new$),
    (6, $old$CASE TG_TABLE_NAME WHEN 'edges' THEN _before END$old$,
        $new$CASE TG_TABLE_NAME WHEN 'edges' THEN _before ELSE _edges END$new$),
    (7, $old$_removed := NULL; _before := NULL;$old$, $new$_removed := NULL; _before := NULL; _edges := NULL;$new$),
    (8, $old$jsonb_build_object('table', TG_TABLE_NAME, 'id', _r.id)$old$,
        $new$jsonb_build_object('table', _kind, 'id', _r.id)$new$),
    (9, $old$        IF _was IS NOT NULL THEN
$old$,
        $new$        IF _kind <> TG_TABLE_NAME THEN
            _edges := _edges || _was;
        ELSIF _was IS NOT NULL THEN
$new$)) AS parts (nth, old, new) ORDER BY nth;

SELECT {{.schema}}.topology_rewrite('{{.literal}}.topology_check_name(text, text)', old, new) FROM (VALUES
    (1, $old$    _control text := '[:cntrl:]';
$old$,
        $new$    _control text := '[:cntrl:]';
    _bidirectional text;
$new$),
    (2, $old$        _control := _control || chr(1)$old$,
        $new$        _bidirectional := '[' || chr(1564) || chr(8206) || chr(8207) || chr(8234) || '-' || chr(8238) ||
            chr(8294) || '-' || chr(8297) || ']';
        _control := _control || chr(1)$new$),
    (3, $old$    IF _name ~ ('^[' || _space$old$,
        $new$    IF _name ~ _bidirectional THEN
        RAISE EXCEPTION '%: % holds a bidirectional character: leave it out', _field, quote_literal(left(_name, 80))
            USING ERRCODE = 'check_violation';
    END IF;
    IF _name ~ ('^[' || _space$new$)) AS parts (nth, old, new) ORDER BY nth;

DROP FUNCTION {{.schema}}.topology_rewrite(regprocedure, text, text);

-- The end of each journal that retention has removed wholly. Who comes back with a number of it must not be taken for
-- one who has events of a later topology with the same id.
CREATE TABLE {{.schema}}.topology_gone (topology_id uuid PRIMARY KEY, seq bigint NOT NULL);

CREATE FUNCTION {{.schema}}.topology_head_deleted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
    INSERT INTO {{.schema}}.topology_gone AS g VALUES (OLD.topology_id, OLD.seq)
        ON CONFLICT (topology_id) DO UPDATE SET seq = greatest(g.seq, excluded.seq);
    RETURN NULL;
END
$f$;

-- After the insert, which may have waited for the end of a prune: this sees what that has left.
CREATE FUNCTION {{.schema}}.topology_head_inserted() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
AS $f$
BEGIN
    UPDATE {{.schema}}.topology_heads h SET seq = g.seq, first = g.seq + 1 FROM {{.schema}}.topology_gone g
     WHERE h.topology_id = NEW.topology_id AND g.topology_id = NEW.topology_id AND g.seq > h.seq;
    RETURN NULL;
END
$f$;

REVOKE ALL ON FUNCTION {{.schema}}.topology_head_deleted(), {{.schema}}.topology_head_inserted() FROM PUBLIC;
CREATE TRIGGER deleted AFTER DELETE ON {{.schema}}.topology_heads
    FOR EACH ROW EXECUTE FUNCTION {{.schema}}.topology_head_deleted();
CREATE TRIGGER inserted AFTER INSERT ON {{.schema}}.topology_heads
    FOR EACH ROW EXECUTE FUNCTION {{.schema}}.topology_head_inserted();

---- create above / drop below ----

-- What else is above does no harm to the version before.
DROP TRIGGER deleted ON {{.schema}}.topology_heads;
DROP TRIGGER inserted ON {{.schema}}.topology_heads;
DROP FUNCTION {{.schema}}.topology_head_deleted(), {{.schema}}.topology_head_inserted();
DROP TABLE {{.schema}}.topology_gone;
DELETE FROM {{.schema}}.topology_migrations WHERE version = 10;
