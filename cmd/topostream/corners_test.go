package main

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
	"topostream/stream"
)

// While the NOTIFY queue is over half full the triggers do not NOTIFY, and the heartbeat carries all events. It does so
// also when PostgreSQL lets nobody in, so that the backend that pins the queue cannot be looked for.
func TestTheHeartbeatDeliversWhileTheQueueIsHalfFullAndNobodyIsLetIn(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn, listener := db.Conn(t), db.Conn(t)
	id := demo(t, conn)
	queueIsHalfFull(t, db)
	server := serve(t, pgtest.With(t, db.URL, "search_path", "public,pg_catalog"), nil)
	awaitBus(t, server.url, setting.Notify)
	c := newClient(t, server.url, id, "").watch()
	c.awaitSeq(1)
	pgtest.Exec(t, listener, `LISTEN "topology.`+id+`"`)
	seq := emit(t, conn, id)
	soon, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if n, err := listener.WaitForNotification(soon); err == nil {
		t.Fatalf("the triggers NOTIFY all the same: %v; the test sees nothing", n)
	}
	c.awaitSeq(seq) // also with connections that are free, by the heartbeat

	lock := func(allowed bool) {
		pgtest.Exec(t, conn, `UPDATE pg_database SET datallowconn = $1 WHERE datname = current_database()`, allowed)
	}
	lock(false)
	defer lock(true)
	begun := time.Now()
	c.awaitSeq(emit(t, conn, id)) // the heartbeat is 10 s
	inTime(t, "the delivery by the heartbeat of 10 s", time.Since(begun), 25*time.Second)
}

// queueIsHalfFull has triggers and servers of a database believe that the NOTIFY queue is over half full.
func queueIsHalfFull(t *testing.T, db *pgtest.DB) {
	t.Helper()
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `CREATE FUNCTION public.pg_notification_queue_usage() RETURNS double precision
		LANGUAGE sql AS 'SELECT 0.6::float8'`)
	functions := pgtest.Scan[[]string](t, conn, `SELECT array_agg(oid::regprocedure::text) FROM pg_proc
		WHERE pronamespace = 'public'::regnamespace AND prosrc LIKE '%pg_notification_queue_usage%'`)
	if len(functions) == 0 {
		t.Fatal("no function asks how full the queue is")
	}
	for _, f := range functions {
		pgtest.Exec(t, conn, `ALTER FUNCTION `+f+` SET search_path = public, pg_catalog`)
	}
}

// A feed that fell behind what retention has left does not cost those their place who are further on than it: the
// journal holds what follows for them.
func TestAClientThatIsFurtherOnThanAServersFeedKeepsItsPlaceWhenTheFeedFellBehindRetention(t *testing.T) {
	t.Parallel()
	long(t)
	const kept = 20
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	frozen, server := serveBinary(t, buildProgram(t), db.URL)
	awaitBus(t, server, setting.Notify)
	attached := newClient(t, server, id, "").watch() // so that its feed stays
	attached.awaitSeq(1)
	for round := range 5 {
		if err := frozen.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		head := uint64(0)
		for range 5 * kept {
			head = emit(t, conn, id)
		}
		pgtest.Exec(t, conn, `SELECT topology_prune(NULL, $1::bigint, 100000)`, kept)
		first := pgtest.Scan[uint64](t, conn, `SELECT first FROM topology_heads WHERE topology_id = $1::text::uuid`, id)
		if head-first >= 2*kept {
			t.Fatalf("the journal begins at %d, and its head is %d", first, head)
		}
		// They ask while the server is frozen, with what another server has given them.
		resumed := make([]*client, 0, 4)
		for _, after := range []uint64{first - 1, first + kept/2, head - 1, head} {
			resumed = append(resumed, newClient(t, server, id, strconv.FormatUint(after, 10)).watch())
		}
		if err := frozen.cmd.Process.Signal(syscall.SIGCONT); err != nil {
			t.Fatal(err)
		}
		head = emit(t, conn, id)
		for _, c := range resumed {
			c.awaitSeq(head)
			c.mu.Lock()
			if len(c.snapshots) > 0 || uint64(len(c.seqs)) == 0 {
				t.Errorf("round %d: a client that resumed a journal that begins at %d got the snapshots %v and the events %v",
					round, first, c.snapshots, c.seqs)
			}
			c.mu.Unlock()
		}
		attached.awaitSeq(head)
	}
}

// A 404 is final for a browser's EventSource. Whoever asks for a topology that has been committed does not get one,
// whatever attach is under way that began before.
func TestATopologyThatIsMadeWhileAnAttachIsUnderWayIsNo404(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{setting.Notify, setting.Poll} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn, holder := db.Conn(t), db.Conn(t)
			server := serveOn(t, db.URL, bus)
			for i := range fewer(8) {
				id := pgtest.Scan[string](t, conn, `SELECT gen_random_uuid()::text`)
				// The attach of the first client waits here, with a snapshot of the time before the topology.
				pgtest.Exec(t, holder, `BEGIN; LOCK TABLE mutations IN ACCESS EXCLUSIVE MODE`)
				first := ask(t, server, id)
				waits := eventually(time.Second, func() bool {
					const waiting = `SELECT count(*) > 0 FROM pg_stat_activity
						WHERE datname = current_database() AND wait_event_type = 'Lock'`
					return pgtest.Scan[bool](t, conn, waiting)
				})
				pgtest.Exec(t, conn, `INSERT INTO topologies (id, name) VALUES ($1::text::uuid, 'new-' || $1::text)`, id)
				streams := []*reader{first, ask(t, server, id), ask(t, server, id)} // they join what is under way
				pgtest.Exec(t, holder, `COMMIT`)
				got := make([]string, 0, len(streams))
				for _, r := range streams {
					line, err := r.lines.ReadString('\n')
					if err != nil {
						t.Error(err)
					}
					got = append(got, strings.TrimSpace(line))
					_ = r.Close() // it has told enough
				}
				t.Logf("round %d: %q (%v)", i, got, waits)
				if slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, " 404 ") }) {
					t.Errorf("a topology that was committed while they were attached got %q", got)
				}
			}
		})
	}
}

// ask asks for a stream, and returns when the server has most probably begun with it.
func ask(t *testing.T, server, id string) *reader {
	t.Helper()
	r, err := dial(strings.TrimPrefix(server, "http://"), "/api/v1/topologies/"+id+"/events", testToken(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // requests that come later and have been answered
		metric(t, server, "topostream_streams")
	}
	return r
}

// opens asks for a stream and leaves it at once.
func opens(url, token string) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: contracted(transport)}).Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

func TestATopologyThatWasMadeByRESTIsOpenedAtOnceAndNever404(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server := serve(t, db.URL, func(c *serveCmd) { c.MaxStreamsPerUser, c.linger = 0, time.Millisecond })
	token := testToken(t)
	var (
		missing atomic.Int64
		wg      sync.WaitGroup
	)
	for creator := range 8 { // so that attaches are under way all the time
		o := newOperator(t, server.url, fmt.Sprint("creator-", creator), stream.RoleAdmin)
		wg.Go(func() {
			for i := range fewer(16) {
				var made stream.Topology
				o.do(
					http.MethodPost,
					"/topologies",
					fmt.Sprintf(`{"name":"t-%d-%d"}`, creator, i),
				).into(t, http.StatusCreated, &made)
				status, err := opens(server.url+"/api/v1/topologies/"+string(made.ID)+"/events", token)
				if err != nil {
					t.Error(err)
				}
				if status == http.StatusNotFound {
					missing.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := missing.Load(); n > 0 {
		t.Errorf("%d topologies that had been made got a 404", n)
	}
}

// A REPEATABLE READ transaction sees the bus that there was when it began, however late it writes.
func TestAnOldSnapshotThatWritesAfterTheSwitchFromWALToNotifyIsHeardSoon(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn, old := db.Conn(t), db.Conn(t)
	const rounds = 3 // a heartbeat, every 10 s, may deliver in time by chance
	ids := live(t, conn, rounds)
	server := startServer(t, db.URL)
	clients := watchAll(t, server, ids)
	for _, id := range ids {
		setBus(t, db.URL, setting.WAL)
		streaming(t, server)
		pgtest.Exec(t, old, `BEGIN ISOLATION LEVEL REPEATABLE READ`)
		pgtest.Exec(t, old, `SELECT count(*) FROM topologies`)
		setBus(t, db.URL, setting.Notify)
		// A server that stops to read the WAL too early has stopped by then; one that waits for the old snapshot still reads.
		_ = eventually(3*time.Second, func() bool { return metric(t, server, "topostream_streaming_wal") == 0 })
		awaitBus(t, server, setting.Notify)
		seq := emit(t, old, id)
		begun := time.Now()
		pgtest.Exec(t, old, `COMMIT`)
		clients[id].awaitSeq(seq)
		inTime(t, "an event of an old snapshot", time.Since(begun), 2*time.Second)
		pgtest.Eventually(t, "the end of the WAL's stream",
			func() bool { return metric(t, server, "topostream_streaming_wal") == 0 })
	}
}

// Each time that it listens again the next fault is a first one.
func TestLISTENIsBackAsSoonAfterTheLastFaultAsAfterTheFirst(t *testing.T) {
	t.Parallel()
	long(t)
	const faults = 7
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	awaitBus(t, server, setting.Notify)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(1)
	took := make([]time.Duration, 0, faults)
	for range faults {
		pid := pgtest.Scan[int](t, conn, `SELECT pid FROM pg_stat_activity
			WHERE datname = current_database() AND application_name = 'topostream listen'`)
		reconnects := metric(t, server, `topostream_listen_reconnects_total{cause="broken"}`)
		begun := time.Now()
		pgtest.Exec(t, conn, `SELECT pg_terminate_backend($1)`, pid)
		pgtest.Eventually(t, "LISTEN", func() bool {
			return metric(t, server, "topostream_listening") == 1 &&
				metric(t, server, `topostream_listen_reconnects_total{cause="broken"}`) > reconnects
		})
		took = append(took, time.Since(begun))
		c.awaitSeq(emit(t, conn, id))
	}
	c.stayedConnected()
	inTime(t, fmt.Sprintf("LISTEN after the last fault, and %v after the first", took[0]), slices.Min(took[faults-2:]),
		max(time.Second, 5*took[0]))
}
