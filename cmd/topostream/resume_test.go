package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	gosse "github.com/tmaxmax/go-sse"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/retention"
	"topostream/pgbus/setting"
)

// open gives the answer to a request for a stream. Whoever gets it closes its body.
func open(t *testing.T, url string, header ...string) *http.Response {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testToken(t))
	req.Header.Set("Accept", "text/event-stream")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{Transport: contracted(&http.Transport{DisableKeepAlives: true})}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// events reads a stream up to the event with the id until, or to its end, as "type id".
func events(t *testing.T, body io.ReadCloser, until string) (got []string) {
	t.Helper()
	defer func() { _ = body.Close() }() // it is read as far as wanted
	for e, err := range gosse.Read(body, nil) {
		if err != nil {
			t.Fatalf("after %v: %v", got, err)
		}
		if got = append(got, e.Type+" "+e.LastEventID); e.LastEventID == until {
			break
		}
	}
	return got
}

func TestEveryLineOfTheResumeParagraph(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	for range 9 {
		emit(t, conn, id)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT topology_prune(NULL, 7, 1000)`); n != 3 { // the journal begins at 4
		t.Fatalf("pruned %d", n)
	}
	const snapshot = -1
	shared := startServer(t, db.URL)
	newClient(t, shared, id, "").watch().awaitSeq(10)
	for _, line := range []struct {
		what          string
		header, query string // with HEAD for the head's number
		after         int    // resumed after it, or snapshot
	}{
		{"no number", "", "", snapshot},
		{"the journal holds n+1 up to the head", "5", "", 5},
		{"n+1 is the oldest kept", "3", "", 3},
		{"n is the head", "HEAD", "", 0},
		{"older than the journal", "2", "", snapshot},
		{"zero, of a journal that does not begin at 1", "0", "", snapshot},
		{"ahead of the head", "1HEAD", "", snapshot},
		{"far ahead", "9999999999999999", "", snapshot},
		{"another epoch", strconv.Itoa(1<<32 + 5), "", snapshot},
		{"by the query", "", "?last_event_id=8", 8},
		{"the last of two, which a polyfill appended", "", "?last_event_id=5&last_event_id=8", 8},
		{"as a polyfill spells it", "", "?lastEventId=8", 8},
		{"as the header is spelled", "", "?Last-Event-ID=8", 8},
		{"the last of three spellings", "", "?lastEventId=5&Last-Event-ID=7&graph=0&last_event_id=8", 8},
		{"the last is no number", "", "?last_event_id=8&lastEventId=", snapshot},
		{"the header wins over the query", "9", "?last_event_id=5", 9},
		{"a header that is no number wins, too", "x", "?last_event_id=5", snapshot},
		{"plus", "+5", "", snapshot},
		{"minus", "-5", "", snapshot},
		{"a space", "5 5", "", snapshot},
		{"hexadecimal", "0x5", "", snapshot},
		{"a fraction", "5.0", "", snapshot},
		{"other digits", "٥", "", snapshot},
		{"17 digits", "00000000000000005", "", snapshot},
		{"16 digits", "0000000000000005", "", 5},
	} {
		for how, server := range map[string]string{"fresh": startServer(t, db.URL), "attached": shared} {
			var head int
			var got []string
			// Where the database is too busy for an attach, the stream says so and ends, and one comes back.
			for again := true; again; again = slices.Contains(got, "unavailable ") {
				head = pgtest.Scan[int](t, conn, `SELECT seq FROM topology_heads`)
				url := server + "/api/v1/topologies/" + id + "/events" + line.query
				var header []string
				if line.header != "" {
					header = []string{"Last-Event-ID", strings.ReplaceAll(line.header, "HEAD", strconv.Itoa(head))}
				}
				if line.header == "HEAD" {
					line.after = head
				}
				res := open(t, url, header...)
				if res.StatusCode != http.StatusOK {
					t.Fatalf("%s: %s", line.what, res.Status)
				}
				got = events(t, res.Body,
					strconv.FormatUint(emit(t, conn, id), 10)) // attached by now, so the new event ends what came before
			}
			var want []string
			after := line.after
			if after == snapshot {
				// A topology that is attached already gives its last snapshot and what came since.
				_, s, _ := strings.Cut(got[0], " ")
				after, _ = strconv.Atoi(s)
				want = append(want, "snapshot "+s)
				if how == "fresh" {
					after = head
					want[0] = fmt.Sprint("snapshot ", head)
				}
			}
			for n := after + 1; n <= head+1; n++ {
				want = append(want, fmt.Sprint("test ", n))
			}
			if !slices.Equal(got, want) {
				t.Errorf("%s, %s: %v, want %v", line.what, how, got, want)
			}
		}
	}
}

func TestADeletedTopologyGivesTheRestAndTheEndOr404(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	url := server + "/api/v1/topologies/" + id + "/events"
	live := open(t, url)
	emit(t, conn, id)
	pgtest.Exec(t, conn, `DELETE FROM topologies`)
	if got := events(t, live.Body, ""); !slices.Equal(got, []string{"snapshot 1", "test 2", "deleted 3"}) {
		t.Errorf("an open stream got %v", got)
	}
	for after, want := range map[string][]string{
		"0": {"status 1", "test 2", "deleted 3"}, "1": {"test 2", "deleted 3"}, "2": {"deleted 3"},
	} {
		if got := events(t, open(t, url, "Last-Event-ID", after).Body, ""); !slices.Equal(got, want) {
			t.Errorf("after %s: %v, want %v and the end", after, got, want)
		}
	}
	for _, after := range []string{"", "3", "4", "x", strconv.Itoa(1<<32 + 1)} {
		if status, _, body := get(t, url, "Accept", "text/event-stream", "Last-Event-ID",
			after); status != http.StatusNotFound {
			t.Errorf("after %q: %d %s, want 404", after, status, body)
		}
	}
}

func TestAClientWhoseSocketIsKilledAThousandTimesEndsWithTheJournal(t *testing.T) {
	t.Parallel()
	long(t)
	for _, bus := range []string{"notify", "wal", "poll"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			const kills = 1000
			seed := rand.Uint64()
			t.Logf("seed %d", seed)
			random := rand.New(rand.NewPCG(seed, 0))
			db := pgtest.New(t)
			id := demo(t, db.Conn(t))
			setBus(t, db.URL, bus)
			server := startServer(t, db.URL, bus)
			c := newClient(t, server, id, "0")
			ctx, stop := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() { // events flow until the last kill
				conn, err := pgx.Connect(t.Context(), db.URL)
				if err != nil {
					t.Error(err)
					return
				}
				defer conn.Close(t.Context())
				for ctx.Err() == nil {
					if _, err := conn.Exec(t.Context(),
						`SELECT topology_emit($1::text::uuid, 'test', jsonb_build_object('x', repeat('x', (random() * 300)::int)))`,
						id); err != nil {
						t.Error(err)
						return
					}
				}
			})
			for range kills {
				c.readUntilKilled(strings.TrimPrefix(server, "http://"), random.IntN(4000))
			}
			stop()
			wg.Wait()
			head := pgtest.Scan[uint64](t, db.Conn(t), `SELECT seq FROM topology_heads`)
			c.follow(t.Context(), head)
			if !slices.Equal(c.data, journal(t, server, id, 0)) {
				t.Errorf("the client has %d events, and they are not the journal's %d", len(c.data), head)
			}
			if len(c.snapshots) != 0 {
				t.Errorf("%d snapshots for a client that resumes", len(c.snapshots))
			}
			t.Logf("%d events through %d kills", len(c.seqs), kills)
		})
	}
}

// readUntilKilled connects, takes n bytes of the answer and kills the socket with a reset, wherever in a frame that is.
func (c *client) readUntilKilled(address string, n int) {
	c.t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		c.t.Fatal(err)
	}
	_, path, _ := strings.Cut(c.url, address)
	_, err = fmt.Fprintf(conn,
		"GET %s HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\nLast-Event-ID: %s\r\n\r\n",
		path, c.token, c.last)
	if err != nil {
		c.t.Fatal(err)
	}
	var got bytes.Buffer
	if _, err := io.CopyN(&got, conn, int64(n)); err != nil {
		c.t.Fatal(err)
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		err = tcp.SetLinger(0) // a reset instead of a goodbye
	}
	if err != nil {
		c.t.Fatal(err)
	}
	_ = conn.Close()
	_, body, _ := strings.Cut(got.String(), "\r\n\r\n")
	whole := strings.LastIndex(body,
		"\n\n") + 1 // what follows is cut off, and a client must not use it (HTML standard, section 9.2.6)
	for e, err := range gosse.Read(strings.NewReader(body[:whole]+"\n"), nil) {
		if err != nil {
			c.t.Error(err)
			return
		}
		c.event(e)
	}
}

func TestPruningUnderClientsThatResumeLeavesNoHole(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	pool := db.Pool(t)
	pgtest.Exec(t, conn, `SELECT topology_emit($1::text::uuid, 'test', '{}') FROM generate_series(1, 3000)`, id)
	if _, err := retention.Events(t.Context(), pool, time.Hour, 300); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { // the clock jumps back and forth by hours, and old events go as soon as they may
		for n := 0; ctx.Err() == nil; n++ {
			const emits = `SELECT topology_emit($1::text::uuid, 'test', jsonb_build_object('x', repeat('x', 500)))
				FROM generate_series(1, 5)`
			if _, err := pool.Exec(t.Context(), emits, id); err != nil {
				t.Error(err)
				return
			}
			if n%10 == 0 {
				const jump = `UPDATE topology_events SET at = now() + (random() - 0.6) * interval '4 hours'
					WHERE seq > (SELECT max(seq) - 10 FROM topology_events)`
				if _, err := pool.Exec(t.Context(), jump); err != nil {
					t.Error(err)
				}
				if _, err := retention.Events(t.Context(), pool, time.Hour, 300); err != nil {
					t.Error(err)
				}
			}
		}
	})
	var (
		clients            sync.WaitGroup
		resumed, snapshots atomic.Int64 // connects
	)
	for i := range 8 {
		c := newClient(t, server, id, "1")
		random := rand.New(rand.NewPCG(uint64(i), 1))
		clients.Go(func() {
			for range 40 {
				if last, _ := strconv.Atoi(c.last); random.IntN(3) == 0 { // it was away for some time
					c.last = strconv.Itoa(max(last-random.IntN(3000), 1))
				}
				before, left := len(c.snapshots), 1+random.IntN(100)
				c.connect(t.Context(), 1<<60, func() bool { left--; return left <= 0 })
				if len(c.snapshots) > before {
					snapshots.Add(1)
				} else {
					resumed.Add(1)
				}
			}
		})
	}
	clients.Wait()
	stop()
	wg.Wait()
	t.Logf("%d connects resumed, %d got a snapshot; the journal begins at %d", resumed.Load(), snapshots.Load(),
		pgtest.Scan[int](t, conn, `SELECT first FROM topology_heads`))
	if resumed.Load() == 0 || snapshots.Load() == 0 {
		t.Error("the test has not seen both")
	}
}

func TestMigrateNewEpochSendsASnapshotToAllWhoResume(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	server := startServer(t, db.URL)
	watching := newClient(t, server, id, "").watch()
	watching.awaitSeq(emit(t, conn, id))
	var out, errOut bytes.Buffer
	var epoch uint64
	code := run(t.Context(), []string{"migrate", "new-epoch", "--database-url", db.URL}, &out, &errOut)
	if _, err := fmt.Sscanf(out.String(), "epoch %d\n", &epoch); code != exitOK || err != nil || epoch == 0 {
		t.Fatalf("%d %s %s", code, out.String(), errOut.String())
	}
	watching.await("a snapshot of the new epoch", func() bool { return slices.Contains(watching.snapshots, epoch<<32) })
	for after := range 4 {
		c := newClient(t, server, id, strconv.Itoa(after))
		c.follow(t.Context(), epoch<<32)
		if !slices.Equal(c.snapshots, []uint64{epoch << 32}) || len(c.seqs) != 0 {
			t.Errorf("after %d: snapshots %v, events %v", after, c.snapshots, c.seqs)
		}
	}
	watching.awaitSeq(emit(t, conn, id))
	if watching.connects != 1 {
		t.Errorf("%d connects of the open stream", watching.connects)
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
