package wal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/source"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// Errors that end a stream.
var (
	errOtherDatabase = errors.New("the replication connection leads to another database than the pool")
	errOtherServer   = errors.New("the replication connection and the pool are on different servers of one cluster, " +
		"as during a failover")
	errGivenUp       = errors.New("it is made anew, because the database has a new history")
	errNoPublication = errors.New("there is no publication of inserts on topology_events")
)

// statementTimeout bounds what is asked before the stream begins.
const statementTimeout = 4 * time.Second

// Config is what New needs. Conn and Pool lead to the server whose WAL is read.
type Config struct {
	Conn     *pgx.ConnConfig // without a pooler
	Patience time.Duration   // how long Conn may take to let us in
	Name     string          // of the connection in pg_stat_activity
	Pool     *pgxpool.Pool
	Primary  *pgxpool.Pool // where Pool leads to a standby: its primary; else nil
	// Wanted tells whether the WAL shall be read now; Changed is set when that may have changed.
	Wanted  func() bool
	Changed wait.Signal
	Check   wait.Steps // the pauses between two questions of what is visible, while an event is in doubt
	// Only tells which types of events are told; nil: all are. Others are never in doubt and cost nothing.
	Only    func(kind string) bool
	Stats   *stream.Stats
	Logger  *slog.Logger
	Without string // for the log: what people have while no WAL is read
}

// A Source reads the journal from the WAL while that is wanted, and afterwards until every transaction that began
// before has ended. Make it with New, run it with Run.
type Source struct {
	cfg     Config
	doubt   doubt
	givenUp atomic.Bool // the stream, or the one that is being made, is to be replaced by another one
	// undrained: a stream was read, and transactions that began while the WAL was wanted may still be open (see draining).
	undrained atomic.Bool
	pid       atomic.Uint32 // of the stream's backend; 0: there is none
}

var _ source.Source = (*Source)(nil)

// New makes a source; nothing runs before Run.
func New(cfg Config) *Source {
	if cfg.Stats == nil {
		cfg.Stats = stream.NoStats()
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Source{cfg: cfg, doubt: newDoubt()}
}

// InDoubt tells whether the WAL has told of the event n though the database may not show it yet. Ask before the
// database is asked: an event that becomes visible in between is seen by what is read afterwards.
func (s *Source) InDoubt(id stream.TopologyID, n stream.Seq) bool { return s.doubt.covers(id, n) }

// Reconnect replaces the stream by another one, within a second: it may be of a server that is not the primary any
// more.
func (s *Source) Reconnect() { s.givenUp.Store(true) }

// Run implements source.Source.
func (s *Source) Run(ctx context.Context, sink source.Sink) {
	var checks sync.WaitGroup
	defer checks.Wait()
	checks.Go(func() { s.watchDoubt(ctx, sink) })
	run := func(ctx context.Context, connected func()) error { return s.follow(ctx, sink, connected) }
	wait.Forever(ctx, run, func(err error) wait.Steps { return s.lost(err, sink) }, s.cfg.Changed)
}

// follow waits until the WAL is wanted and reads it, also where a stream was lost before it was drained. It returns
// nil when it is not wanted any more and drained.
func (s *Source) follow(ctx context.Context, sink source.Sink, connected func()) error {
	for !s.cfg.Wanted() && !s.undrained.Load() {
		select {
		case <-s.cfg.Changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return s.stream(ctx, sink, connected)
}

// lost logs why a stream ended, and gives the pauses before the next one: long ones where somebody has to do something
// first.
func (s *Source) lost(err error, sink source.Sink) wait.Steps {
	steps := wait.Steps{First: 100 * time.Millisecond, Most: 5 * time.Second}
	if err == nil {
		sink.State(source.State{Detail: "not wanted"})
		s.cfg.Logger.Info("the WAL is no longer read")
		return steps
	}
	sink.State(source.State{Detail: err.Error()})
	if advice := advice(err); advice != "" {
		steps.Most = 30 * time.Second
		s.cfg.Logger.Warn("the WAL cannot be read", "error", err, "advice", advice, "meanwhile", s.cfg.Without)
		return steps
	}
	s.cfg.Logger.Warn("the WAL's stream is lost", "error", err, "meanwhile", s.cfg.Without)
	return steps
}

// advice says what somebody has to do about an error that no retry mends; empty: a retry may.
func advice(err error) string {
	pgErr, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, errOtherDatabase):
		return "give direct connections to the same database in --database-url, --listen-database-url and " +
			"--replica-database-url"
	case errors.Is(err, errNoPublication), pgErr != nil && pgErr.Code == "42704": // undefined_object: it was dropped
		return "run `topostream bus wal`, which makes the publication"
	case pgErr == nil:
		return ""
	case pgErr.Code == "08P01": // protocol_violation: a pooler takes no replication connection
		return "give a direct connection in --listen-database-url"
	}
	switch pgErr.Code {
	// object_not_in_prerequisite_state, insufficient_privilege, invalid_authorization_specification,
	// configuration_limit_exceeded
	case "55000", "42501", "28000", "53400":
		return "run `topostream bus status`, which says what to change"
	}
	return ""
}

// stream is the life of one replication connection. It returns nil when the WAL is not wanted any more and nothing
// can be missed without it.
func (s *Source) stream(ctx context.Context, sink source.Sink, connected func()) error {
	s.givenUp.Store(false) // before it is known where the connection leads
	conn, publication, err := s.connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	sink.State(source.State{Detail: "making a replication slot"})
	slotMade := s.sayWhatTheSlotWaitsFor(ctx, conn.PID(), sink)
	rows, err := conn.Open(ctx, publication, s.cfg.Primary != nil)
	slotMade()
	if err != nil {
		return err
	}
	// What was committed in the WAL before the stream began, and is not visible yet, is told by nobody.
	v, err := s.visibleFromNow(ctx)
	if err != nil {
		return err
	}
	s.doubt.watch(v.Running)
	s.undrained.Store(true)
	s.pid.Store(conn.PID())
	defer s.pid.Store(0)
	connected()
	sink.State(source.State{Connected: true})
	sink.Subscribed(nil, stream.ReadReconnect)
	sink.Work()
	s.cfg.Logger.Info("reading the WAL", "publication", publication)
	drain := draining{source: s}
	tell := func(r Row) { s.tell(sink, r) }
	err = rows.Run(ctx, tell, func() bool { return !s.givenUp.Load() && !drain.done(ctx) })
	switch {
	case err == nil && s.givenUp.Load():
		return errGivenUp
	case err == nil:
		s.undrained.Store(false)
	}
	return err
}

// visibleFromNow reads what is visible when a stream begins. A pg_snapshot does not list running transactions that are
// newer than the newest that has ended. So a transaction of our own is begun and ended first: all that may be in the
// WAL already are older than that, and listed. (A standby gives no transaction ids; whatever its WAL has told is
// visible there.)
func (s *Source) visibleFromNow(ctx context.Context) (Visibility, error) {
	if s.cfg.Primary == nil {
		if _, err := beginAndEnd(ctx, s.cfg.Pool); err != nil && !isReadOnly(err) {
			return Visibility{}, err
		}
	}
	return ReadVisibility(ctx, s.cfg.Pool)
}

// tell tells the sink of one row. JSON is left to the sink to call: most topologies are not attached.
func (s *Source) tell(sink source.Sink, r Row) {
	if s.cfg.Only != nil && !s.cfg.Only(string(r.Type)) {
		return
	}
	e := source.Event{
		Topology: stream.TopologyID(r.Topology), Seq: stream.Seq(r.Seq), Type: string(r.Type), XID: r.XID,
	}
	s.doubt.add(e)
	// As in a notification: the end of a stream is left to the journal.
	if s.cfg.Primary == nil && stream.ValidType(e.Type) && e.Type != "deleted" {
		e.JSON = r.JSON
	}
	sink.Event(e)
	s.doubt.told(e)
}

// connect opens the replication connection and proves that it leads to the pool's database.
func (s *Source) connect(ctx context.Context) (conn *Conn, publication string, err error) {
	const identity = `
SELECT topology_publication(), s.system_identifier::text, current_database(),
       CASE WHEN pg_is_in_recovery() THEN 0 -- a standby cannot be asked
            ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint END,
       EXISTS (SELECT FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname
                WHERE p.pubname = topology_publication() AND p.pubinsert AND t.tablename = 'topology_events')
  FROM pg_control_system() s`
	qctx, done := context.WithTimeout(ctx, statementTimeout)
	defer done()
	var (
		here, there Database
		published   bool
	)
	err = s.cfg.Pool.QueryRow(qctx, identity).Scan(&publication, &here.System, &here.Name, &here.Timeline, &published)
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("find the publication: %w", err)
	case !published:
		return nil, "", fmt.Errorf("%w (%s)", errNoPublication, publication)
	}
	if s.cfg.Primary != nil {
		s.warnOfConflicts(qctx)
	}
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Patience)
	defer cancel()
	conn, err = Connect(ctx, s.cfg.Conn, s.cfg.Name)
	if err != nil {
		return nil, "", err
	}
	there, err = conn.Database(ctx)
	switch {
	case err != nil:
	case here.System != there.System || here.Name != there.Name:
		err = errOtherDatabase
	case here.Timeline != there.Timeline && here.Timeline != 0: // after a promotion they differ in nothing else
		err = errOtherServer
	}
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	return conn, publication, nil
}
