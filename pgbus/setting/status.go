// Package setting is the bus that a database has: what its triggers do, what that takes, and how it is changed.
package setting

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

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

// A Role is one that may have to read the WAL.
type Role struct {
	Name       string
	Replicates bool
	Own        bool // of the connection that asks
}

// A Reader is a replication slot of a server or worker, on this server's cluster.
type Reader struct {
	Slot     string
	PID      *int64 // of the connection that reads it; nil: none does
	Name     string // application_name
	Retained int64  // bytes of WAL that are kept for it
}

// oldestWAL is the oldest server_version_num that the bus wal works on.
const oldestWAL = 140000

// listening are the LISTEN connections of servers and workers to this database, by the names that package postgres
// gives them.
const listening = `FROM pg_stat_activity a WHERE a.datname = current_database()
               AND a.application_name IN ('topostream listen', 'topostream mutator listen')`

// Read asks for all that `topostream bus` shows and checks.
func Read(ctx context.Context, conn *pgx.Conn) (s Status, _ error) {
	const (
		facts = `
SELECT topology_bus(), topology_publication(), current_setting('wal_level'), current_setting('server_version_num')::int,
       (SELECT count(*) FROM pg_replication_slots), current_setting('max_replication_slots')::int,
       (SELECT count(*) FROM pg_stat_replication), current_setting('max_wal_senders')::int,
       (SELECT coalesce(array_agg(x.gid::text ORDER BY x.prepared), '{}') FROM pg_prepared_xacts x),
       (SELECT count(*) ` + listening + `)`
		publication = `
SELECT p.pubinsert, p.pubupdate OR p.pubdelete OR p.pubtruncate,
       EXISTS (SELECT FROM pg_publication_tables t
                 WHERE t.pubname = p.pubname AND (t.schemaname, t.tablename) = (
                       SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                        WHERE c.oid = 'topology_events'::regclass))
  FROM pg_publication p WHERE p.pubname = $1`
		roles = `
SELECT r.rolname,
       r.rolreplication OR r.rolsuper OR EXISTS (
           SELECT FROM pg_roles x WHERE x.rolname = 'rds_replication' AND pg_has_role(r.oid, x.oid, 'MEMBER')),
       r.rolname = current_user
  FROM pg_roles r
 WHERE r.rolname = current_user
    OR r.oid IN (SELECT a.usesysid ` + listening + `)
 ORDER BY 1`
		readers = `
SELECT s.slot_name, s.active_pid, coalesce(a.application_name, ''),
       coalesce(pg_wal_lsn_diff(
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END,
           s.restart_lsn), 0)::bigint
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
	// Each server and worker that is connected will want a slot and a sender, but for those that have them already.
	want := max(s.Servers-len(s.Readers), 1)
	if len(s.Readers) > 0 && s.Servers <= len(s.Readers) {
		want = 0
	}
	if free := s.Slots.Most - s.Slots.Used; free < want {
		add("max_replication_slots is %d with %d free: servers and workers here want %d: ALTER SYSTEM SET "+
			"max_replication_slots = %d, and restart PostgreSQL", s.Slots.Most, free, want, s.Slots.Used+want+2)
	}
	if free := s.Senders.Most - s.Senders.Used; free < want {
		add("max_wal_senders is %d with %d free: servers and workers here want %d: ALTER SYSTEM SET max_wal_senders = %d, "+
			"and restart PostgreSQL", s.Senders.Most, free, want, s.Senders.Used+want+2)
	}
	for _, r := range s.Roles {
		if r.Replicates || r.Own && len(s.Roles) > 1 { // our own role only runs the command where there are others
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
