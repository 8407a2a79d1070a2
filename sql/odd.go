package sql

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A querier is a connection or a pool.
type querier interface {
	QueryRow(ctx context.Context, query string, args ...any) pgx.Row
}

// The tables that people and programs fill, and those that the triggers fill, where the search path finds them.
const (
	filled = `to_regclass('topologies'), to_regclass('mutations'), to_regclass('lans'), to_regclass('deckies'), ` +
		`to_regclass('edges')`
	recorded = `to_regclass('topology_heads'), to_regclass('topology_events')`
)

// usable gives an error where nothing could work: tables of somebody else in front of ours, or a role for which no
// trigger fires.
func usable(ctx context.Context, conn querier) error {
	const query = `
SELECT current_setting('session_replication_role') = 'replica', quote_ident(current_user),
       (SELECT coalesce(string_agg(c.oid::regclass::text, ', ' ORDER BY c.relname), '')
          FROM unnest('{topologies,mutations,lans,deckies,edges,topology_heads,topology_events,topology_settings,
                        sse_tickets,topology_parked}'::text[]) n
          JOIN pg_class c ON c.oid = to_regclass(n)
         WHERE c.relnamespace <> (
               SELECT m.relnamespace FROM pg_class m WHERE m.oid = to_regclass('topology_migrations')))`
	var (
		silent      bool
		role, mixed string
	)
	if err := conn.QueryRow(ctx, query).Scan(&silent, &role, &mixed); err != nil {
		return fmt.Errorf("look at the search path and at session_replication_role: %w", err)
	}
	switch {
	case mixed != "":
		return fmt.Errorf("%w (%s): name the installation's schema first in search_path", ErrMixed, mixed)
	case silent:
		return fmt.Errorf("%w: its session_replication_role is replica, so that no trigger fires: "+
			"ALTER ROLE %s RESET session_replication_role (IN DATABASE …, where it was set so)", ErrSilent, role)
	}
	return nil
}

// Odd looks for what a server can work with, and somebody should mend: rows that it cannot see, triggers that are off,
// and what came or went while they were. It gives a sentence for each, which says what to do, on a line of its own;
// empty if there is nothing. all tells what it does for [Hidden].
func Odd(ctx context.Context, conn querier) (odd string, all bool, err error) {
	const query = `
SELECT coalesce((SELECT string_agg(g.tgrelid::regclass::text || '.' || g.tgname, ', ' ORDER BY g.tgrelid, g.tgname)
                   FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid
                   JOIN pg_class c ON c.oid = g.tgrelid AND c.relnamespace = p.pronamespace
                  WHERE c.oid IN (` + filled + `) AND NOT g.tgisinternal AND g.tgenabled IN ('D', 'R')
                    AND p.proname ~ '^(topolog|mutation)'), ''),
       coalesce((SELECT t.id::text FROM topologies t WHERE NOT EXISTS (
                     SELECT FROM topology_heads h WHERE h.topology_id = t.id AND h.in_flight >= 0)
                  ORDER BY t.id LIMIT 1), ''),
       coalesce((SELECT h.topology_id::text FROM topology_heads h WHERE h.in_flight >= 0 AND NOT EXISTS (
                     SELECT FROM topologies t WHERE t.id = h.topology_id) ORDER BY h.topology_id LIMIT 1), ''),
       coalesce((SELECT h.topology_id::text
                   FROM topology_heads h LEFT JOIN (
                        SELECT m.topology_id, count(*) AS n FROM mutations m WHERE m.state IN ('pending', 'applying')
                         GROUP BY m.topology_id) w ON w.topology_id = h.topology_id
                  WHERE h.in_flight >= 0 AND h.in_flight <> coalesce(w.n, 0)
                    AND EXISTS (SELECT FROM topologies t WHERE t.id = h.topology_id)
                  ORDER BY h.topology_id LIMIT 1), ''),
       coalesce((SELECT h.topology_id::text FROM topology_heads h JOIN topologies t ON t.id = h.topology_id
                  WHERE h.in_flight >= 0 AND h.told IS DISTINCT FROM
                        CASE WHEN t.reason IS NULL THEN decode(t.status, 'escape') -- as topology_told has it
                             ELSE sha256(convert_to(t.status || ':' || t.reason, CASE getdatabaseencoding()
                                  WHEN 'SQL_ASCII' THEN 'SQL_ASCII' ELSE 'UTF8' END)) END
                  ORDER BY h.topology_id LIMIT 1), ''),
       coalesce((SELECT string_agg(c.relname, ', ' ORDER BY c.relname)
                   FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
                  WHERE c.oid IN (` + filled + `, ` + recorded + `) AND c.relrowsecurity AND c.relforcerowsecurity
                    AND NOT (r.rolsuper OR r.rolbypassrls)), ''),
       current_setting('default_transaction_read_only') = 'on'`
	var (
		off, headless, gone, miscounted, untold, forced string
		readOnly                                        bool
	)
	hidden, all, err := Hidden(ctx, conn)
	if err != nil || hidden != "" { // what is not seen is not gone
		return hidden, all, err
	}
	if err := conn.QueryRow(ctx, query).
		Scan(&off, &headless, &gone, &miscounted, &untold, &forced, &readOnly); err != nil {
		return "", all, fmt.Errorf("look for what triggers have missed: %w", err)
	}
	var sentences []string
	for _, s := range []struct {
		is       bool
		sentence string
	}{
		{off != "", "triggers are off (" + off + "), and what is written to their tables makes no events: ALTER TABLE … " +
			"ENABLE TRIGGER …, then `topostream migrate repair`"},
		{headless != "", "there are topologies without a head (such as " + headless + "): they came while triggers were " +
			"off, and their streams are not found until something writes to them: run `topostream migrate repair`"},
		{gone != "", "there are heads of topologies that are gone (such as " + gone + "): they were deleted while triggers " +
			"were off, and nobody was told: run `topostream migrate repair`"},
		{miscounted != "", "there are mutations that were not counted (such as in topology " + miscounted + "): they came " +
			"or ended while triggers were off: run `topostream migrate repair`"},
		{untold != "", "there are topologies whose status no event says (such as " + untold + "): it changed while " +
			"triggers were off: run `topostream migrate repair`"},
		{forced != "", "row level security is forced on " + forced + " for their owner, as whom the triggers run: what no " +
			"policy shows it makes no events: ALTER TABLE … NO FORCE ROW LEVEL SECURITY, or ALTER ROLE … BYPASSRLS"},
		{readOnly, "transactions are read-only here unless they say otherwise, and writes get 503: RESET " +
			"default_transaction_read_only for this role or database, where that is not what somebody wants"},
	} {
		if s.is {
			sentences = append(sentences, s.sentence)
		}
	}
	return strings.Join(sentences, "\n"), all, nil
}

// Hidden looks whether row level security hides rows from this role, and gives a sentence for the log that says which
// and what to do, empty if it does not. all tells that it hides every row of a table, for want of a policy: what cannot
// be seen would be taken for what is not there.
func Hidden(ctx context.Context, conn querier) (hidden string, all bool, err error) {
	const query = `
SELECT current_user, coalesce(string_agg(c.relname, ', ' ORDER BY c.relname), ''), coalesce(bool_or(NOT EXISTS (
         SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('*', 'r')
            AND (p.polroles = '{0}' OR EXISTS (
                 SELECT FROM unnest(p.polroles) r WHERE pg_has_role(r, 'USAGE'))))), false)
  FROM pg_class c
 WHERE c.oid IN (` + filled + `, ` + recorded + `) AND row_security_active(c.oid)`
	var role, tables string
	if err := conn.QueryRow(ctx, query).Scan(&role, &tables, &all); err != nil {
		return "", false, fmt.Errorf("look for row level security: %w", err)
	}
	if tables == "" {
		return "", false, nil
	}
	return fmt.Sprintf("row level security is active on %s for the role %s, and rows that no policy shows it are as if "+
		"they were not there: ALTER ROLE %s BYPASSRLS, or CREATE POLICY … FOR ALL TO %s USING (true) WITH CHECK (true)",
		tables, role, pgx.Identifier{role}.Sanitize(), pgx.Identifier{role}.Sanitize()), all, nil
}
