package notify

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func TestAListenerSaysThatItIsConnectedAndLooksForWhatItMissed(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(cfg *Config) { cfg.Stats = nil }) // nor is there a logger
	if l.Connected() {
		t.Error("it is connected before it runs")
	}
	if err := l.Attach(t.Context(), nil, none); !errors.Is(err, ErrDisconnected) {
		t.Errorf("an attach before it runs: %v", err)
	}
	id := l.topology(t)
	l.Follow(id)
	l.start(t)
	l.sink.expect(t, subscribedTo(stream.ReadReconnect, id), "connected", "setting changed", "work")
	if !l.Connected() {
		t.Error("it says that it is connected, and that it is not")
	}
}

func TestAListenerHasWhatItIsNotGiven(t *testing.T) {
	t.Parallel()
	cfg := New(Config{}).cfg
	if cfg.Stats == nil || cfg.Logger == nil || cfg.Ping < time.Second || cfg.Patience < time.Second {
		t.Errorf("%+v", cfg)
	}
	given := Config{Stats: metrictest.Stats(), Logger: slog.Default(), Ping: 1, Patience: 2}
	cfg = New(given).cfg
	if cfg.Stats != given.Stats || cfg.Logger != given.Logger || cfg.Ping != given.Ping || cfg.Patience != given.Patience {
		t.Errorf("%+v", cfg)
	}
}

func TestTheEventsOfATopologyAreToldInTheirOrderEachOnce(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	ids := l.follow(t, 2)
	const writers, each = 3, 20
	last := map[stream.TopologyID]stream.Seq{}
	for _, id := range ids {
		last[id] = l.head(t, id)
	}
	var running sync.WaitGroup
	defer running.Wait()
	for range writers {
		conn := l.db.Conn(t)
		running.Go(func() {
			for range each {
				for _, id := range ids {
					if _, err := conn.Exec(t.Context(), `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	for range writers * each * len(ids) {
		told := l.sink.next(t)
		i := slices.IndexFunc(ids, func(id stream.TopologyID) bool { return told == event(id, last[id]+1, "x") })
		if i < 0 {
			t.Fatalf("told %q after %v", told, last)
		}
		last[ids[i]]++
	}
	l.nothing(t)
}

func TestAnEventBringsTheJournalsJSONIfItIsSmall(t *testing.T) {
	t.Parallel()
	conn := pgtest.Shared(t).Conn(t)
	const insert = `INSERT INTO topologies (name) VALUES ('small and large') RETURNING id::text`
	id := pgtest.Scan[stream.TopologyID](t, conn, insert)
	pgtest.Exec(t, conn, `LISTEN `+quoted(id))
	key := pgtest.Scan[[]byte](t, conn, `SELECT key FROM topology_settings`)
	for _, bytes := range []int{1, 100_000} {
		const emit = `SELECT topology_emit($1::text::uuid, 'x', jsonb_build_object('text', repeat('ä', $2)))`
		seq := pgtest.Scan[stream.Seq](t, conn, emit, id, bytes)
		n, err := conn.WaitForNotification(t.Context())
		must(t, err)
		e, ok := parse(key, id, n.Payload)
		if !ok || e.Topology != id || e.Seq != seq {
			t.Fatalf("%.80q: %+v", n.Payload, e)
		}
		const journal = `SELECT topology_event_json(topology_id, seq, type, payload, at)::text
			FROM topology_events WHERE topology_id = $1::text::uuid AND seq = $2`
		if want := pgtest.Scan[string](t, conn, journal, id, int64(seq)); bytes == 1 && jsonOf(e) != want {
			t.Errorf("%q, want %q", jsonOf(e), want)
		}
		if bytes > 1 && e.JSON != nil {
			t.Errorf("an event of %d bytes", bytes)
		}
	}
}

func TestWhatPeopleNotifyIsToldAsItIs(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	ids := l.follow(t, 2)
	key := pgtest.Scan[[]byte](t, l.admin, `SELECT key FROM topology_settings`)
	for _, text := range []string{
		"", "hello", "~", "~" + strings.Repeat("0", macLength) + ":7", signed(key, "7"), // that one is of another topology
	} {
		l.notify(t, "topology."+string(ids[0]), text)
		l.sink.expect(t, fmt.Sprintf("raw %s %s", ids[0], text))
	}
	l.sink.expect(t, l.emit(t, ids[0]), l.emit(t, ids[1]))
}

func TestChannelsBesideThoseOfTopologiesTellOfWorkAndOfTheSetting(t *testing.T) {
	t.Parallel()
	const odd = `odd "name"; --`
	l := newLabOn(t, pgtest.New(t), func(cfg *Config) {
		cfg.Channels = append(cfg.Channels, "topology_mutations", odd)
	})
	l.connect(t)
	for _, channel := range []string{"topology_mutations", odd} {
		l.notify(t, channel, "")
		l.sink.expect(t, "work")
	}
	pgtest.Exec(t, l.admin, `UPDATE topology_settings SET bus = 'wal'`)
	l.sink.expect(t, "setting changed")
	l.notify(t, probeChannel, "of another server")
	l.notify(t, "topology."+string(l.topology(t)), "that nobody follows")
	l.nothing(t)
}

func TestATopologyIsFollowedAndForgottenAtOnce(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	ids := l.follow(t, 3)
	pgtest.Eventually(t, "the channels to be counted", func() bool { return metrictest.Value(l.stats.Channels) == 3 })
	l.expectListening(t, ids...)
	l.sink.expect(t, l.emit(t, ids[0]), l.emit(t, ids[1]), l.emit(t, ids[2]))

	l.Forget(ids[0])
	pgtest.Eventually(t, "the channel to be given up", func() bool { return metrictest.Value(l.stats.Channels) == 2 })
	l.expectListening(t, ids[1:]...)
	l.emit(t, ids[0])
	l.nothing(t)

	l.Forget(ids[1:]...)
	l.expectListening(t)
	l.Follow(ids[0])
	l.sink.expect(t, subscribedTo(stream.ReadCatchUp, ids[0]))
	l.sink.expect(t, l.emit(t, ids[0]))
}

func TestTopologiesThatAreFollowedAlreadyAreNotToldAgainAndCostNothing(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	ids := l.follow(t, 1)
	writes := l.net.writes.Load()
	for range 20 {
		l.Follow(ids...)
		l.nothing(t)
	}
	if n := l.net.writes.Load() - writes; n != 0 {
		t.Errorf("the connection was asked for something %d times", n)
	}
}

func TestAnyNumberOfTopologiesIsFollowedEachToldOnce(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	const query = `SELECT array_agg(gen_random_uuid()::text) FROM generate_series(1, $1)`
	ids := pgtest.Scan[[]stream.TopologyID](t, l.admin, query, 2*batch+1)
	l.Follow(ids...)
	l.start(t)
	told := make([]string, 0, len(ids))
	for range 3 {
		list, ok := strings.CutPrefix(l.sink.next(t), "subscribed: "+stream.ReadCauses[stream.ReadReconnect]+" [")
		if !ok {
			t.Fatalf("not subscribed: %s", list)
		}
		told = append(told, strings.Fields(strings.TrimSuffix(list, "]"))...)
	}
	l.sink.expect(t, "connected", "setting changed", "work")
	slices.Sort(told)
	slices.Sort(ids)
	if fmt.Sprint(told) != fmt.Sprint(ids) {
		t.Errorf("%d topologies were told of %d", len(told), len(ids))
	}
	l.expectListening(t, ids...)
}

func TestWhatIsForgottenWhileItIsListenedToIsNotTold(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	id := l.topology(t)
	l.net.once(`LISTEN `+quoted(id), func() { l.Forget(id) })
	l.Follow(id)
	pgtest.Eventually(t, "LISTEN", func() bool { return l.channels.subscribed() > 0 || len(l.channels.missing(1)) == 0 })
	l.expectListening(t)
	l.nothing(t)
}

func TestALostConnectionIsSaidAndWhatIsWantedIsSubscribedToWhenItIsBack(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	ids := l.follow(t, 2)
	pool := l.server(t)

	l.net.gone.Store(true)
	l.terminate(t)
	l.sink.expect(t, away+"wait for notifications: …")
	if l.Connected() {
		t.Error("it says that it is connected")
	}
	if n := metrictest.Value(l.stats.Channels); n != 0 {
		t.Errorf("%d channels without a connection", n)
	}
	if err := l.Attach(t.Context(), ids, none); !errors.Is(err, ErrDisconnected) {
		t.Errorf("an attach: %v", err)
	}
	l.sink.expect(t, away+"connect to LISTEN: …")
	l.emit(t, ids[0]) // is missed
	l.Forget(ids[1])
	added := l.topology(t)
	l.Follow(added)

	l.net.gone.Store(false)
	if got, want := l.sink.untilBack(t), subscribedTo(stream.ReadReconnect, ids[0], added); got != want {
		t.Fatalf("told %q, want %q", got, want)
	}
	l.sink.expect(t, "connected", "setting changed", "work", l.emit(t, ids[0]), l.emit(t, added))
	l.expectListening(t, ids[0], added)
	if n := metrictest.Value(l.stats.Reconnects[stream.ReconnectStart]); n != 1 {
		t.Errorf("%d starts", n)
	}
	if n := metrictest.Value(l.stats.Reconnects[stream.ReconnectBroken]); n != 1 {
		t.Errorf("%d reconnects", n)
	}
	if l.server(t) != pool {
		t.Error("the pool's connections were closed, too")
	}
}

// TestAnEventIsToldOrVisibleToAReadThatFollowsSubscribed is the contract of a source, with a client that trusts it:
// it reads the head when it is told that it is subscribed, and the rest must be told.
func TestAnEventIsToldOrVisibleToAReadThatFollowsSubscribed(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	id := l.topology(t)
	l.Follow(id)
	l.start(t)
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	for range 2 {
		conn := l.db.Conn(t)
		running.Go(func() {
			for ctx.Err() == nil {
				_, _ = conn.Exec(ctx, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id) // the last one is cancelled
			}
		})
	}
	for range 5 {
		l.sink.untilTold(t, subscribedTo(stream.ReadReconnect, id))
		next := l.head(t, id) + 1
		for enough := next + 5; next < enough; {
			var seq stream.Seq
			if _, err := fmt.Sscanf(l.sink.next(t), "event "+string(id)+" %d x", &seq); err != nil || seq < next {
				continue // a state, or an event that the read has seen
			}
			if seq != next {
				t.Fatalf("told of %d, and %d was lost", seq, next)
			}
			next++
		}
		l.terminate(t)
	}
}

func TestAConnectionIsMadeAnewWhereThatIsAskedFor(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	ids := l.follow(t, 1)
	l.Reconnect()
	l.sink.expect(t, away+errGivenUp.Error(), subscribedTo(stream.ReadReconnect, ids...), "connected", "setting changed",
		"work")
	l.nothing(t)
}

// What is found out while a connection is being made may be about the server that it leads to.
func TestAConnectionThatIsMadeWhileAnotherIsAskedForIsReplacedToo(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.net.once(`LISTEN "`+settingsChannel+`"`, l.Reconnect)
	l.start(t)
	back := []string{"connected", "setting changed", "work"}
	l.sink.expect(t, append(append(back, away+errGivenUp.Error()), back...)...)
	l.nothing(t)
}

// A connection that is the first to see a new history is of that history.
func TestAConnectionThatAsksForAnotherWhenItIsAcceptedIsKept(t *testing.T) {
	t.Parallel()
	var l *lab
	l = newLab(t, func(cfg *Config) {
		cfg.Accept = func(context.Context, *pgx.Conn) error {
			l.Reconnect()
			return nil
		}
	})
	l.connect(t)
	l.nothing(t)
}

func TestAnIdleConnectionIsPingedAndOneThatDoesNotAnswerIsLostAndThePoolWithIt(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(cfg *Config) { cfg.Ping, cfg.Patience = 10*time.Millisecond, time.Second })
	l.start(t)
	if got := l.sink.untilBack(t); got != "connected" {
		t.Fatal(got)
	}
	l.sink.expect(t, "setting changed", "work")
	writes := l.net.writes.Load()
	pgtest.Eventually(t, "pings", func() bool { return l.net.writes.Load() > writes+3 })
	l.nothing(t)

	pool := l.server(t)
	l.net.each(func(w *wire) { w.silent.Store(true) })
	l.sink.expect(t, away+errPing.Error()+"…")
	l.net.each(func(w *wire) {
		if w.silent.Load() {
			_ = w.Close() // pgx would wait 15 s for a last word
		}
	})
	if got := l.sink.untilBack(t); got != "connected" {
		t.Fatal(got)
	}
	if l.server(t) == pool {
		t.Error("the pool has kept its connections")
	}
	n := metrictest.Value(l.stats.Reconnects[stream.ReconnectPing]) +
		metrictest.Value(l.stats.Reconnects[stream.ReconnectBroken])
	if n != 1 {
		t.Errorf("%d reconnects", n)
	}
}

func TestASuccessfulConnectionBeginsThePausesAnew(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	id := l.topology(t)
	l.Follow(id)
	ended := make(chan error)
	go func() {
		ended <- l.serve(t.Context(), l.sink, stream.ReconnectAttach, func() { l.sink.tellf("success") })
	}()
	l.sink.expect(t, subscribedTo(stream.ReadReconnect, id), "success", "connected", "setting changed", "work")
	if n := metrictest.Value(l.stats.Reconnects[stream.ReconnectAttach]); n != 1 {
		t.Errorf("%d reconnects", n)
	}
	l.terminate(t)
	if err := <-ended; err == nil || l.Connected() {
		t.Errorf("%v, connected: %v", err, l.Connected())
	}
}

func TestAPoolerIsTriedLessOftenThanADatabaseThatIsAway(t *testing.T) {
	t.Parallel()
	lost, pooler := pauses(errPing), pauses(fmt.Errorf("%w: no", errProbe))
	if lost.First <= 0 || pooler.First <= 0 || lost.First > lost.Most || lost.Most >= pooler.Most {
		t.Errorf("lost: %+v, pooler: %+v", lost, pooler)
	}
}

// instead has a function stand before PostgreSQL's own, for connections that look into the schema first. It returns
// what removes it.
func (l *lab) instead(t *testing.T, function string) (remove func()) {
	t.Helper()
	l.db.Exec(t, `CREATE SCHEMA `+l.name)
	l.db.Exec(t, `CREATE FUNCTION `+l.name+`.`+function)
	return func() { l.db.Exec(t, `DROP SCHEMA `+l.name+` CASCADE`) }
}

// notifyIs gives pg_notify another body in the lab's database. It returns what gives it its own.
func (l *lab) notifyIs(t *testing.T, body string) (remove func()) {
	t.Helper()
	l.db.Exec(t, `ALTER FUNCTION pg_catalog.pg_notify(text, text) RENAME TO pg_notify_true`)
	l.db.Exec(t, `CREATE FUNCTION pg_catalog.pg_notify(text, text) RETURNS void LANGUAGE sql AS $$`+body+`$$`)
	return func() {
		l.db.Exec(t, `DROP FUNCTION pg_catalog.pg_notify(text, text)`)
		l.db.Exec(t, `ALTER FUNCTION pg_catalog.pg_notify_true(text, text) RENAME TO pg_notify`)
	}
}

// lookInto has a connection look into the lab's schema first.
func lookInto(cfg *pgx.ConnConfig, lab string) {
	cfg.RuntimeParams["search_path"] = lab + ", pg_catalog, public"
}

func TestAConnectionThatDoesNotLeadWhereThePoolLeadsIsNotUsed(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, function, want string
		resets               bool
	}{
		{
			"a standby", `pg_is_in_recovery() RETURNS boolean RETURN true`,
			"prepare the LISTEN connection: this server is a standby…", false,
		},
		{
			"another server of the cluster", `pg_postmaster_start_time() RETURNS timestamptz RETURN now()`,
			"the LISTEN connection and the pool are on different servers of one cluster…", true,
		},
		{
			"another system", `pg_control_system(OUT system_identifier bigint) RETURN 1`,
			errProbe.Error() + ": --listen-database-url leads to another database…", false,
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(cfg *Config) { lookInto(cfg.Conn, cfg.Channels[0]) })
			remove := l.instead(t, c.function)
			pool := l.server(t)
			l.start(t)
			l.sink.expect(t, away+c.want)
			if l.Connected() {
				t.Error("it is connected")
			}
			remove()
			if got := l.sink.untilBack(t); got != "connected" {
				t.Errorf("it leads there now, and told is %q", got)
			}
			if reset := l.server(t) != pool; reset != c.resets {
				t.Errorf("the pool's connections were closed: %v", reset)
			}
		})
	}
}

func TestAConnectionToAnotherDatabaseOfTheServerIsNotUsed(t *testing.T) {
	t.Parallel()
	l := newLab(t, func(cfg *Config) {
		cfg.Conn.Database = "postgres"
		cfg.Accept = func(context.Context, *pgx.Conn) error {
			t.Error("the history of another database is judged")
			return nil
		}
	})
	l.start(t)
	l.sink.expect(t, away+errProbe.Error()+": --listen-database-url leads to another database…")
}

func TestAConnectionThroughWhichNoNotificationComesIsNotUsed(t *testing.T) {
	t.Parallel()
	l := newLabOn(t, pgtest.New(t), func(cfg *Config) { cfg.Patience = time.Second })
	remove := l.notifyIs(t, ``)
	l.start(t)
	l.sink.expect(t, away+errProbe.Error()+": a NOTIFY did not arrive within 1s")
	remove()
	if got := l.sink.untilBack(t); got != "connected" {
		t.Errorf("notifications come now, and told is %q", got)
	}
}

func TestAConnectionThatIsLostWhileItIsTriedIsNotTakenForAPooler(t *testing.T) {
	t.Parallel()
	l := newLabOn(t, pgtest.New(t))
	defer l.notifyIs(t, `SELECT pg_terminate_backend(split_part($2, ' ', 1)::int)`)()
	l.start(t)
	l.sink.expect(t, away+"probe: …")
}

func TestAConnectionThatIsNotAcceptedIsClosed(t *testing.T) {
	t.Parallel()
	refused := errors.New("of an old history")
	left := 2
	l := newLab(t, func(cfg *Config) {
		cfg.Accept = func(context.Context, *pgx.Conn) error {
			if left > 0 {
				left--
				return refused
			}
			return nil
		}
	})
	l.start(t)
	why := away + "prepare the LISTEN connection: " + refused.Error()
	l.sink.expect(t, why, why, "connected", "setting changed", "work")
	pgtest.Eventually(t, "the others to be closed", func() bool { return l.servers(t) == 1 })
}
