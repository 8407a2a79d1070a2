// Package setting is the bus that a database has: what its triggers do, what that takes, and how it is changed.
package setting

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/source/wal"
)

// The names of buses, as --bus and topology_settings.bus have them.
const (
	Notify = "notify"
	WAL    = "wal"
	Poll   = "poll" // of a server alone: no database has it
)

// A Status is what a database says of its bus.
type Status struct {
	Setting     string // what the triggers do: Notify or WAL
	Publication Publication
	WALLevel    string
	Version     int // server_version_num
	Slots       Usage
	Senders     Usage
	Roles       []Role   // this connection's, and those that servers and workers are connected with
	Readers     []Reader // connections of this program that read this database's WAL
	Prepared    []string // prepared transactions of the cluster: a slot is made only when they have ended
	Servers     int      // servers and workers that are connected to this database and LISTEN
}

// A Publication is what servers read. Its name depends on the schema alone.
type Publication struct {
	Name   string
	Exists bool
	Table  bool // it holds topology_events
	Insert bool // it publishes inserts
	More   bool // it publishes more than inserts: pruning would be sent
}

// Usage is how many of something there may be.
type Usage struct{ Used, Most int }

// Role is one that may want to read the WAL.
type Role struct {
	Name       string
	Replicates bool
	Own        bool // of the connection that asks
}

// A Reader is a replication slot of a server or worker, on this server's cluster.
type Reader struct {
	Slot     string
	PID      *int64
	Name     string // application_name
	Retained int64  // bytes of WAL that are kept for it
}

const oldestWAL = 140000

// Read asks for all that `topostream bus` shows and checks.
func Read(ctx context.Context, conn *pgx.Conn) (s Status, _ error) {
	const (
		facts = `
SELECT topology_bus(), topology_publication(), current_setting('wal_level'), current_setting('server_version_num')::int,
       (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_stat_replication), current_setting('max_wal_senders')::int,
       (SELECT coalesce(array_agg(x.gid::text ORDER BY x.prepared), '{}') FROM pg_prepared_xacts x),
       (SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name IN ('topostream listen', 'topostream mutator listen'))`
		publication = `
SELECT p.pubinsert, p.pubupdate OR p.pubdelete OR p.pubtruncate,
       EXISTS (SELECT FROM pg_publication_tables t
                 WHERE t.pubname = p.pubname AND (t.schemaname, t.tablename) = (
                       SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE c.oid = 'topology_events'::regclass))
  FROM pg_publication p WHERE p.pubname = $1`
		roles = `
SELECT r.rolname, r.rolreplication OR r.rolsuper OR EXISTS (SELECT FROM pg_roles x WHERE x.rolname = 'rds_replication' AND pg_has_role(r.oid, x.oid, 'MEMBER')),
       r.rolname = current_user
  FROM pg_roles r
 WHERE r.rolname = current_user
    OR r.oid IN (SELECT a.usesysid FROM pg_stat_activity a WHERE a.datname = current_database() AND a.application_name IN ('topostream listen', 'topostream mutator listen'))
 ORDER BY 1`
		readers = `
SELECT s.slot_name, s.active_pid, coalesce(a.application_name, ''),
       coalesce(pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, s.restart_lsn), 0)::bigint
  FROM pg_replication_slots s LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
 WHERE s.database = current_database() AND starts_with(s.slot_name, $1) ORDER BY 1`
	)
	err := conn.QueryRow(ctx, facts).
		Scan(&s.Setting, &s.Publication.Name, &s.WALLevel, &s.Version, &s.Slots.Used, &s.Slots.Most, &s.Senders.Used,
			&s.Senders.Most, &s.Prepared, &s.Servers)
	if err != nil {
		return s, fmt.Errorf("read the bus: %w", err)
	}
	p := &s.Publication
	err = conn.QueryRow(ctx, publication, p.Name).Scan(&p.Insert, &p.More, &p.Table)
	if p.Exists = err == nil; err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return s, fmt.Errorf("look for the publication %s: %w", p.Name, err)
	}
	rows, err := conn.Query(ctx, roles)
	if err == nil {
		s.Roles, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Role])
	}
	if err != nil {
		return s, fmt.Errorf("read the roles: %w", err)
	}
	rows, err = conn.Query(ctx, readers, wal.SlotPrefix)
	if err == nil {
		s.Readers, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Reader])
	}
	if err != nil {
		return s, fmt.Errorf("read the replication slots: %w", err)
	}
	return s, nil
}

// Missing says what must be changed before servers can read the WAL, a sentence each; nothing if they can.
func (s Status) Missing() (problems []string) {
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	if s.Version < oldestWAL {
		add("server_version is %d: the bus wal takes PostgreSQL 14 or later", s.Version/10000)
	}
	if s.WALLevel != "logical" {
		add("wal_level is %s: ALTER SYSTEM SET wal_level = 'logical', and restart PostgreSQL", s.WALLevel)
	}
	// Each server and each worker that is connected will want one, but for those that have one.
	want := max(s.Servers-len(s.Readers), 1)
	if len(s.Readers) > 0 && s.Servers <= len(s.Readers) {
		want = 0
	}
	if free := s.Slots.Most - s.Slots.Used; free < want {
		add(
			"max_replication_slots is %d with %d free: servers and workers here want %d: ALTER SYSTEM SET "+
				"max_replication_slots = %d, and restart PostgreSQL",
			s.Slots.Most,
			free,
			want,
			s.Slots.Used+want+2,
		)
	}
	if free := s.Senders.Most - s.Senders.Used; free < want {
		add(
			"max_wal_senders is %d with %d free: servers and workers here want %d: ALTER SYSTEM SET max_wal_senders = %d, and "+
				"restart PostgreSQL",
			s.Senders.Most,
			free,
			want,
			s.Senders.Used+want+2,
		)
	}
	for _, r := range s.Roles {
		if r.Replicates || r.Own && len(s.Roles) > 1 { // it only runs the command
			continue
		}
		add("role %s may not replicate: ALTER ROLE %s REPLICATION", r.Name, pgx.Identifier{r.Name}.Sanitize())
	}
	if p := s.Publication; p.Exists && !p.Table {
		add("publication %s does not hold topology_events: ALTER PUBLICATION %s ADD TABLE topology_events", p.Name,
			pgx.Identifier{p.Name}.Sanitize())
	}
	return problems
}

// A WALError says what keeps a database from the bus wal.
type WALError struct{ Problems []string }

func (e *WALError) Error() string {
	return "the bus wal cannot work yet:\n  " + strings.Join(e.Problems, "\n  ")
}

// Set changes what the triggers do, and tells servers and workers. For WAL it looks first whether they can read the
// WAL (a *WALError says what is missing; nothing is changed then) and makes the publication. The connection's role
// must own the tables.
func Set(ctx context.Context, conn *pgx.Conn, bus string) error {
	const set = `UPDATE topology_settings SET bus = $1`
	s, err := Read(ctx, conn)
	if err != nil {
		return err
	}
	if bus == WAL {
		if problems := s.Missing(); len(problems) > 0 {
			return &WALError{problems}
		}
	}
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if bus == WAL {
			if err := publish(ctx, tx, s.Publication); err != nil {
				return err
			}
		}
		if _, err := tx.Exec(ctx, set, bus); err != nil {
			return advise(
				fmt.Errorf("set the bus: %w", err),
				"run this as the role that owns the schema, as `topostream migrate up` was",
			)
		}
		return nil
	})
}

// publish makes the publication, or makes it one of inserts alone: pruning is nobody's news.
func publish(ctx context.Context, tx pgx.Tx, p Publication) error {
	name := pgx.Identifier{p.Name}.Sanitize()
	var statement string
	switch {
	case !p.Exists:
		statement = "CREATE PUBLICATION " + name + " FOR TABLE topology_events WITH (publish = 'insert')"
	case !p.Insert || p.More:
		statement = "ALTER PUBLICATION " + name + " SET (publish = 'insert')"
	default:
		return nil
	}
	if _, err := tx.Exec(ctx, statement); err != nil {
		return advise(
			fmt.Errorf("make the publication %s: %w", p.Name, err),
			"run this as the role that owns topology_events, with the right CREATE on the database (GRANT CREATE ON DATABASE … TO …)",
		)
	}
	return nil
}

// A RightError says which right the connection's role lacks. It is all that there is to say: it wraps nothing.
type RightError struct{ What, Advice string }

func (e *RightError) Error() string { return e.What + ": " + e.Advice }

// advise adds what to do about a right that is missing.
func advise(err error, advice string) error {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok && pgErr.Code == "42501" { // insufficient_privilege
		return &RightError{err.Error(), advice}
	}
	return err
}
