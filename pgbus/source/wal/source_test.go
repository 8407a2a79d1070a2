package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/source"
	"topostream/pgbus/wait"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

// A sink writes down what it is told.
type sink struct {
	source.Ignore

	told    chan string
	events  chan source.Event
	visible chan source.Event
}

func newSink() *sink {
	return &sink{
		told: make(chan string, 1000), events: make(chan source.Event, 1000), visible: make(chan source.Event, 1000),
	}
}

func (s *sink) Event(e source.Event)   { s.events <- e }
func (s *sink) Visible(e source.Event) { s.visible <- e }
func (s *sink) Work()                  { s.told <- "work" }
func (s *sink) Subscribed(topologies []stream.TopologyID, why stream.Cause) {
	s.told <- fmt.Sprint("subscribed ", topologies, why)
}

func (s *sink) State(st source.State) {
	if st.Connected {
		s.told <- "connected"
		return
	}
	s.told <- st.Detail
}

// subscribedToAll is what a sink writes down when a stream begins, and when what ran then has ended.
var subscribedToAll = fmt.Sprint("subscribed ", []stream.TopologyID(nil), stream.ReadReconnect)

// awaits waits until the sink is told something that has all the parts.
func (s *sink) awaits(t *testing.T, parts ...string) {
	t.Helper()
	var told []string
	late := time.After(20 * time.Second)
	for {
		select {
		case got := <-s.told:
			told = append(told, got)
			if !strings.Contains(got, parts[0]) || !strings.Contains(got, parts[len(parts)-1]) {
				continue
			}
			return
		case <-late:
			t.Fatalf("waited for %q in vain: %q", parts, told)
		}
	}
}

func next(t *testing.T, events <-chan source.Event) source.Event {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(20 * time.Second):
		t.Fatal("waited for an event in vain")
	}
	return source.Event{}
}

// A switched is a source that runs until its test ends, and whether the WAL is wanted.
type switched struct {
	*Source

	sink   *sink
	wanted atomic.Bool
	end    func() // ends it, and returns when it has ended
}

func (w *switched) want(wanted bool) {
	w.wanted.Store(wanted)
	w.cfg.Changed.Set()
}

func newConfig(t *testing.T, db *pgtest.DB) Config {
	t.Helper()
	conn, err := pgx.ParseConfig(db.URL)
	must(t, err)
	return Config{
		Stats: metrictest.Stats(),
		Conn:  conn, Patience: 10 * time.Second, Name: "topostream test", Pool: db.Pool(t), Changed: wait.NewSignal(),
		Check: wait.Steps{First: time.Millisecond, Most: 10 * time.Millisecond},
	}
}

func newSwitched(t *testing.T, cfg Config) *switched {
	t.Helper()
	w := &switched{sink: newSink()}
	cfg.Wanted = w.wanted.Load
	w.Source = New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.Run(ctx, w.sink)
	}()
	w.end = func() {
		cancel()
		<-done
	}
	t.Cleanup(w.end)
	return w
}

const emit = `SELECT topology_emit(id, $1, '{}') FROM topologies`

func TestASourceTellsOfWhatCommitsWhileTheWALIsWanted(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, publication)
	id := pgtest.Scan[string](t, conn, `INSERT INTO topologies (name) VALUES ('t') RETURNING id::text`)
	w := newSwitched(t, newConfig(t, db))
	w.want(false) // still
	w.want(true)
	for _, what := range []string{"making a replication slot", "connected", subscribedToAll, "work"} {
		w.sink.awaits(t, what)
	}
	pgtest.Exec(t, conn, emit, "x")
	const last = `
SELECT xmin::text || ' ' || seq || ' ' || topology_event_json(topology_id, seq, type, payload, at)
  FROM topology_events ORDER BY seq DESC LIMIT 1`
	e := next(t, w.sink.events)
	text, ok := e.JSON()
	got := fmt.Sprint(e.XID, " ", e.Seq, " ", text)
	if want := pgtest.Scan[string](t, conn, last); !ok || got != want || e.Type != "x" || string(e.Topology) != id {
		t.Errorf("%+v %s, want %s", e, got, want)
	}
	if v := next(t, w.sink.visible); v.Topology != e.Topology || v.Seq != e.Seq || w.InDoubt(e.Topology, e.Seq) {
		t.Errorf("visible is %+v, in doubt: %v", v, w.InDoubt(e.Topology, e.Seq))
	}
	w.Reconnect()
	w.sink.awaits(t, errGivenUp.Error())
	w.sink.awaits(t, "connected")
	pgtest.Exec(t, conn, emit, "y")
	if e := next(t, w.sink.events); e.Type != "y" {
		t.Errorf("%+v", e)
	}
	w.want(false)
	w.sink.awaits(t, "not wanted")
	pgtest.Eventually(t, "the slot to be gone", func() bool { return slots(t, conn) == 0 })
	if w.undrained.Load() {
		t.Error("it would be read again")
	}
	w.want(true)
	w.sink.awaits(t, "connected")
}

// slots counts those of conn's database.
func slots(t *testing.T, conn *pgx.Conn) int {
	t.Helper()
	return pgtest.Scan[int](t, conn,
		`SELECT count(*) FROM pg_replication_slots WHERE database = current_database() AND temporary`)
}

func TestAStreamThatIsLostBeforeItIsDrainedIsReadAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, conn, publication)
	w := newSwitched(t, newConfig(t, db))
	w.want(true)
	w.sink.awaits(t, "connected")
	pgtest.Exec(t, old, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
	pgtest.Exec(t, old, `SELECT FROM topology_settings`) // a snapshot from before the switch
	w.want(false)
	const kill = `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = current_database()`
	pgtest.Exec(t, conn, kill)
	w.sink.awaits(t, "read the WAL")
	w.sink.awaits(t, "connected")
	pgtest.Exec(t, old, `COMMIT`)
	w.sink.awaits(t, "not wanted")
}

func TestASourceOfAStandbysWALMakesNoJSONAndNoTransactions(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, publication)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) VALUES ('t')`)
	cfg := newConfig(t, db)
	cfg.Primary = db.Pool(t)
	// What a standby refuses.
	cfg.Pool = faked(t, db, `
CREATE FUNCTION fake.pg_current_xact_id() RETURNS xid8 LANGUAGE plpgsql AS
    $f$ BEGIN RAISE 'this is a standby' USING ERRCODE = 'feature_not_supported'; END $f$`)
	held := db.Conn(t)
	pgtest.Exec(t, held, `BEGIN`)
	pgtest.Exec(t, held, number)
	w := newSwitched(t, cfg)
	w.want(true)
	pgtest.Eventually(t, "the slot to be made by the command, which needs no snapshot", func() bool {
		return pgtest.Scan[bool](t, conn, `SELECT EXISTS (SELECT FROM pg_stat_activity
			WHERE datname = current_database() AND query LIKE 'CREATE_REPLICATION_SLOT%')`)
	})
	pgtest.Exec(t, held, `COMMIT`)
	w.sink.awaits(t, "connected")
	if n := slots(t, conn); n != 1 {
		t.Errorf("%d temporary slots", n)
	}
	pgtest.Exec(t, conn, emit, "x")
	if e := next(t, w.sink.events); e.JSON != nil || e.Type != "x" {
		t.Errorf("%+v", e) // the standby may not have it yet, which the primary's WAL does
	}
	next(t, w.sink.visible)
}

// faked gives a pool to a database where functions of PostgreSQL's own are replaced: those of the schema fake, which
// create makes.
func faked(t *testing.T, db *pgtest.DB, create string) *pgxpool.Pool {
	t.Helper()
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `CREATE SCHEMA fake`)
	pgtest.Exec(t, conn, create)
	cfg, err := pgxpool.ParseConfig(db.URL)
	must(t, err)
	cfg.ConnConfig.RuntimeParams["search_path"] = "fake, pg_catalog, public"
	pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
	must(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func TestWhatIsWrittenIsToldOnlyIfItIsAskedFor(t *testing.T) {
	t.Parallel()
	row := func(kind string) Row {
		return Row{XID: 7, Topology: []byte("a"), Seq: 5, Type: []byte(kind), at: []byte("2026-01-02 03:04:05+00")}
	}
	s, told := New(Config{}), newSink()
	for kind, hasJSON := range map[string]bool{"x": true, "deleted": false, "NOT VALID": false} {
		s.tell(told, row(kind))
		e := <-told.events
		if (e.JSON != nil) != hasJSON || e.Topology != "a" || e.Seq != 5 || e.Type != kind || e.XID != 7 {
			t.Errorf("%s: %+v", kind, e)
		}
		if !s.InDoubt("a", 5) || !s.doubt.newest["a"].told {
			t.Errorf("%s is not in doubt", kind)
		}
	}
	s = New(Config{Only: func(kind string) bool { return kind == "x" }})
	s.tell(told, row("y"))
	if s.InDoubt("a", 5) || len(told.events) > 0 {
		t.Error("it was told of a type that nobody asked for")
	}
	if s.tell(told, row("x")); !s.InDoubt("a", 5) || len(told.events) != 1 {
		t.Error("it was not told of a type that somebody asked for")
	}
}

// A counted connection is open until Close, and not until it is collected as garbage.
type counted struct {
	net.Conn

	closed func()
}

func (c counted) Close() error {
	c.closed()
	return c.Conn.Close()
}

// countOpen counts what is dialed from now on and not closed yet.
func countOpen(cfg *pgx.ConnConfig) *atomic.Int32 {
	var open atomic.Int32
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		open.Add(1)
		return counted{conn, sync.OnceFunc(func() { open.Add(-1) })}, nil
	}
	return &open
}

func TestAReplicationConnectionIsMadeOnlyToThePoolsDatabaseWithAPublication(t *testing.T) {
	t.Parallel()
	db, other := pgtest.New(t), pgtest.New(t)
	conn := db.Conn(t)
	connect := func(cfg Config) error {
		c, _, err := New(cfg).connect(t.Context())
		if err == nil {
			c.Close()
		}
		return err
	}
	cfg := newConfig(t, db)
	if err := connect(cfg); !errors.Is(err, errNoPublication) {
		t.Error(err)
	}
	pgtest.Exec(t, conn, publication)
	must(t, connect(cfg))
	c, name, err := New(cfg).connect(t.Context())
	must(t, err)
	if name != "topostream" || c.PID() == 0 {
		t.Errorf("the publication is %s", name)
	}
	c.Close()
	elsewhere := cfg
	elsewhere.Conn = newConfig(t, other).Conn
	open := countOpen(elsewhere.Conn)
	if err := connect(elsewhere); !errors.Is(err, errOtherDatabase) || open.Load() != 0 {
		t.Errorf("%v, %d connections are open", err, open.Load())
	}
	nowhere := cfg
	nowhere.Conn = cfg.Conn.Copy()
	nowhere.Conn.Password, nowhere.Conn.User = "wrong", "nobody"
	if err := connect(nowhere); err == nil {
		t.Error("nobody was let in")
	}
	cfg.Pool.Close()
	if err := connect(cfg); err == nil {
		t.Error("the pool was not asked")
	}
}

// An old primary that lives on after a failover has nothing new to tell.
func TestAReplicationConnectionToAnOldPrimaryIsNotUsed(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	old := pgtest.Cluster(t)
	db := pgtest.NewOn(t, old.URL("postgres"))
	db.Exec(t, publication)
	standby := pgtest.Standby(t, old)
	must(t, standby.Promote(t.Context()))
	own := newConfig(t, db)
	promoted := newConfig(t, &pgtest.DB{URL: standby.URL(own.Conn.Database)})
	for name, c := range map[string]struct {
		pool, conn Config
		want       error
	}{
		"both on the old one":            {own, own, nil},
		"both on the promoted one":       {promoted, promoted, nil},
		"the connection on the old one":  {promoted, own, errOtherServer},
		"the connection on the promoted": {own, promoted, errOtherServer},
	} {
		cfg := c.pool
		cfg.Conn = c.conn.Conn
		got, _, err := New(cfg).connect(t.Context())
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil {
			got.Close()
		}
	}
}

func TestWhatIsNeitherWantedNorUndrainedIsNotRead(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	s := New(Config{Wanted: func() bool { return false }}) // it has nothing to connect by
	if err := s.follow(ctx, newSink(), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// A hook is called with each statement of a pool. It is a pgx.QueryTracer.
type hook func(statement string)

func (h hook) TraceQueryStart(ctx context.Context, _ *pgx.Conn, q pgx.TraceQueryStartData) context.Context {
	h(q.SQL)
	return ctx
}

func (hook) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

func TestWhatRanWhenAStreamBeganIsReadWhenItHasEnded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, publication)
	cfg := newConfig(t, db)
	traced, err := pgxpool.ParseConfig(db.URL)
	must(t, err)
	var once sync.Once
	traced.ConnConfig.Tracer = hook(func(statement string) {
		if strings.Contains(statement, "pg_current_xact_id") { // the slot has been made
			once.Do(func() {
				pgtest.Exec(t, conn, `BEGIN`)
				pgtest.Exec(t, conn, number)
			})
		}
	})
	cfg.Pool, err = pgxpool.NewWithConfig(t.Context(), traced)
	must(t, err)
	t.Cleanup(cfg.Pool.Close)
	cfg.Wanted = func() bool { return true }
	s, told := New(cfg), newSink()
	ctx, cancel := context.WithCancel(t.Context())
	connected, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- s.follow(ctx, told, func() { close(connected) }) }()
	told.awaits(t, "work")
	<-connected
	s.doubt.mu.Lock()
	if len(s.doubt.before) == 0 {
		t.Error("nothing ran")
	}
	s.doubt.mu.Unlock()
	go s.watchDoubt(ctx, told)
	pgtest.Exec(t, conn, `COMMIT`)
	told.awaits(t, subscribedToAll)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

// What is found out while a connection is being made may be about the server that it leads to.
func TestAConnectionThatIsMadeWhileAnotherIsAskedForIsReplacedToo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	pgtest.Exec(t, db.Conn(t), publication)
	cfg := newConfig(t, db)
	traced, err := pgxpool.ParseConfig(db.URL)
	must(t, err)
	var (
		s    *Source
		once sync.Once
	)
	traced.ConnConfig.Tracer = hook(func(statement string) {
		if strings.Contains(statement, "topology_publication()") { // it connects
			once.Do(s.Reconnect)
		}
	})
	cfg.Pool, err = pgxpool.NewWithConfig(t.Context(), traced)
	must(t, err)
	t.Cleanup(cfg.Pool.Close)
	w := newSwitched(t, cfg)
	s = w.Source
	w.want(true)
	w.sink.awaits(t, "connected")
	w.sink.awaits(t, errGivenUp.Error())
	w.sink.awaits(t, "connected")
}

func TestAPersonsNameForAConnectionIsKept(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	for given, want := range map[string]string{
		"": "topostream wal", "topostream listen": "topostream wal", "by hand": "by hand",
	} {
		cfg := newConfig(t, db).Conn
		cfg.RuntimeParams["application_name"] = given
		c, err := Connect(t.Context(), cfg, "topostream wal")
		must(t, err)
		const name = `SELECT application_name FROM pg_stat_activity WHERE pid = $1`
		if got := pgtest.Scan[string](t, conn, name, int32(c.PID())); got != want {
			t.Errorf("%s: %s, want %s", given, got, want)
		}
		c.Close()
		pgtest.Eventually(t, "the connection to be closed", func() bool {
			return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_stat_activity WHERE pid = $1`, int32(c.PID())) == 0
		})
		if _, err := c.Database(t.Context()); err == nil {
			t.Error("a connection that is closed leads to a database")
		}
		if _, err := c.Open(t.Context(), "topostream", false); err == nil {
			t.Error("a connection that is closed has a stream")
		}
	}
}

func TestADatabaseThatCannotSpeakUTF8IsRefused(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	name := "mule_" + pgtest.Scan[string](t, conn, `SELECT current_database()`)[30:]
	pgtest.Exec(t, conn, `CREATE DATABASE `+name+
		` TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C' ENCODING 'MULE_INTERNAL'`)
	t.Cleanup(func() { pgtest.Exec(t, db.Conn(t), `DROP DATABASE `+name+` WITH (FORCE)`) })
	cfg := newConfig(t, db).Conn
	cfg.Database = name
	open := countOpen(cfg)
	if _, err := Connect(t.Context(), cfg, "test"); err == nil || open.Load() != 0 {
		t.Errorf("%v, %d connections are open", err, open.Load())
	}
}

func TestAnErrorThatNoRetryMendsComesWithAdviceAndIsTriedLessOften(t *testing.T) {
	t.Parallel()
	code := func(code string) error { return fmt.Errorf("of PostgreSQL: %w", &pgconn.PgError{Code: code}) }
	for _, c := range []struct {
		err    error
		advice string // a part; empty: none
	}{
		{io.EOF, ""},
		{code("57P01"), ""},
		{errOtherDatabase, "the same database"},
		{errNoPublication, "makes the publication"},
		{code("42704"), "makes the publication"},
		{code("08P01"), "a direct connection in --listen-database-url"},
		{code("55000"), "bus status"},
		{code("42501"), "bus status"},
		{code("28000"), "bus status"},
		{code("53400"), "bus status"},
	} {
		got := advice(c.err)
		if !strings.Contains(got, c.advice) || (got == "") != (c.advice == "") {
			t.Errorf("%v: %q, want %q", c.err, got, c.advice)
		}
		told := newSink()
		pauses := New(Config{}).lost(c.err, told)
		if pauses.First <= 0 {
			t.Errorf("%v is tried again without a pause", c.err)
		}
		seldom := pauses.Most > New(Config{}).lost(io.EOF, newSink()).Most
		if seldom != (c.advice != "") || <-told.told != c.err.Error() {
			t.Errorf("%v is tried seldom: %v", c.err, seldom)
		}
	}
	told := newSink()
	if New(Config{}).lost(nil, told); <-told.told != "not wanted" {
		t.Error("a stream that was not wanted any more was lost")
	}
}

func TestPeopleAreToldWhomASlotWaitsFor(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	holder, waiting := db.Conn(t), db.Conn(t)
	const lock = `SELECT pg_advisory_lock(1)`
	pgtest.Exec(t, holder, lock)
	done := make(chan error, 1)
	go func() {
		_, err := waiting.Exec(context.Background(), lock)
		done <- err
	}()
	cfg := newConfig(t, db)
	dials := dialing(t, &cfg, db)
	dials.fail.Store(1) // the first question
	s, told := New(cfg), newSink()
	stop := s.sayWhatTheSlotWaitsFor(t.Context(), waiting.PgConn().PID(), told)
	told.awaits(t, "waits for transactions", fmt.Sprintf("(pid %d)", holder.PgConn().PID()))
	if !metrictest.Is(s.cfg.Stats.SlotWaiting) {
		t.Error("no slot waits")
	}
	stop()
	if metrictest.Is(s.cfg.Stats.SlotWaiting) {
		t.Error("a slot waits")
	}
	pgtest.Exec(t, holder, `SELECT pg_advisory_unlock(1)`)
	must(t, <-done)
}

func TestThePrimaryOfAStandbyIsAskedToLogWhatRunsUntilTheSlotIsMade(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	cfg := newConfig(t, db)
	cfg.Primary = faked(t, db, `
CREATE SEQUENCE fake.asked;
CREATE FUNCTION fake.pg_log_standby_snapshot() RETURNS bigint LANGUAGE sql AS $f$ SELECT nextval('fake.asked') $f$`)
	const asked = `SELECT last_value FROM fake.asked`
	s, told := New(cfg), newSink()
	stop := s.sayWhatTheSlotWaitsFor(t.Context(), 0, told)
	told.awaits(t, "the standby's replication slot waits")
	if n := pgtest.Scan[int](t, conn, asked); n < 2 || n > 3 || !metrictest.Is(s.cfg.Stats.SlotWaiting) {
		t.Errorf("the primary was asked %d times before people are told", n) // not at once: most slots are made soon
	}
	pgtest.Eventually(t, "the primary to be asked again", func() bool { return pgtest.Scan[int](t, conn, asked) > 2 })
	stop()
	if len(told.told) > 0 || metrictest.Is(s.cfg.Stats.SlotWaiting) {
		t.Error("people are told each time")
	}
}

// A slow sink is told of states only when the test takes them.
type slow struct {
	source.Ignore

	states chan source.State // nobody keeps it waiting but the test
}

func (s slow) State(st source.State) { s.states <- st }

func TestPeopleAreToldOfASlotNowAndThenAndNotWhenItIsMade(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		cfg, err := pgxpool.ParseConfig("postgres://nobody@127.0.0.1/nothing?sslmode=disable")
		must(t, err)
		cfg.ConnConfig.DialFunc = func(context.Context, string, string) (net.Conn, error) {
			return nil, errors.New("the primary is away")
		}
		pool, err := pgxpool.NewWithConfig(t.Context(), cfg)
		must(t, err)
		defer pool.Close()
		s, told := New(Config{Primary: pool}), slow{states: make(chan source.State)}
		began := time.Now()
		stop := s.sayWhatTheSlotWaitsFor(t.Context(), 0, told)
		for _, want := range []time.Duration{time.Second, 11 * time.Second, 21 * time.Second} {
			<-told.states
			if got := time.Since(began); got != want {
				t.Errorf("told after %s, want %s", got, want)
			}
		}
		time.Sleep(11 * time.Second) // it is being told
		stopped := make(chan struct{})
		go func() {
			defer close(stopped)
			stop()
		}()
		synctest.Wait()
		select {
		case <-stopped:
			t.Error("what is told may come later than that the slot is made")
		default:
		}
		<-told.states
		<-stopped
	})
}

func TestAStandbyThatTellsNothingOfItsQueriesIsWarnedOf(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		function string
		warned   bool
	}{
		"a standby": {`
CREATE FUNCTION fake.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true'`, true},
		"one that tells": {`
CREATE FUNCTION fake.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION fake.current_setting(text) RETURNS text LANGUAGE sql AS $f$ SELECT 'on' $f$`, false},
		"a primary": {`CREATE TABLE fake.nothing ()`, false},
		"one that cannot be asked": {`
CREATE FUNCTION fake.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION fake.current_setting(text) RETURNS text LANGUAGE plpgsql AS $f$ BEGIN RAISE 'no'; END $f$`, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			pgtest.Exec(t, db.Conn(t), publication)
			cfg := newConfig(t, db)
			var log bytes.Buffer
			cfg.Pool, cfg.Logger = faked(t, db, c.function), slog.New(slog.NewTextHandler(&log, nil))
			cfg.Primary = cfg.Pool
			conn, _, err := New(cfg).connect(t.Context())
			must(t, err)
			conn.Close()
			if strings.Contains(log.String(), "hot_standby_feedback is off") != c.warned {
				t.Errorf("the log is %q", &log)
			}
		})
	}
}
