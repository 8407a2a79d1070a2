package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/pprof"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"topostream/pgbus/pgtest"
)

// limited has a command run with at most limit bytes of memory, in a control group where we may make one (as root), and
// says how. The Go runtime is told to stay below soft bytes.
func limited(t *testing.T, cmd *exec.Cmd, soft, limit int64) (how string) {
	t.Helper()
	cmd.Env = append(cmd.Env, "GOMEMLIMIT="+strconv.FormatInt(soft, 10))
	how = fmt.Sprintf("GOMEMLIMIT=%d", soft)
	for root, file := range map[string]string{
		"/sys/fs/cgroup": "memory.max", "/sys/fs/cgroup/memory": "memory.limit_in_bytes",
	} { // version 2, version 1
		limit := limit
		if file == "memory.max" {
			limit += boundSockets // version 2 counts the kernel's socket buffers, too
		}
		if !exists(filepath.Join(root, "cgroup.procs")) {
			continue
		}
		dir, err := os.MkdirTemp(root, "topostream-test-") //nolint:usetesting // a control group is no file
		if err != nil {
			continue // we are not root
		}
		t.Cleanup(func() { pgtest.Eventually(t, "the control group to go", func() bool { return os.Remove(dir) == nil }) })
		value := strconv.FormatInt(limit, 10)
		if !exists(filepath.Join(dir, file)) || os.WriteFile(filepath.Join(dir, file), []byte(value), 0o600) != nil {
			continue // the memory controller is not given to us
		}
		args := append([]string{"-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, dir, cmd.Path}, cmd.Args[1:]...)
		cmd.Path, cmd.Args = "/bin/sh", append([]string{"sh"}, args...)
		return how + " and " + file + "=" + value
	}
	return how
}

// peak is the largest resident set that a process has had, in bytes.
func peak(t *testing.T, pid int) int64 {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Skipf("no /proc on this machine: %v", err)
	}
	_, after, found := strings.Cut(string(b), "VmHWM:")
	if !found {
		t.Fatalf("the server is gone: %s", b)
	}
	kb, err := strconv.ParseInt(strings.Fields(after)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

const mib = 1 << 20

// What a server holds at most, beside the kernel's socket buffers, is
//
//	--feed-memory, and one event
//	+ 16 pages that were read last, of 512 KiB
//	+ 4 reads under way, of 256 KiB or one event, five times: the wire (a power of two), the text, the bytes, the frame
//	+ for each stream that is behind its ring and does not read: one page, of 256 KiB or
//	  one event; those in the same place share it
//	+ for each stream 60 KiB, and 48 MiB of program
//
// where "one event" is the largest that there is, and what Go's garbage collector lets lie, which GOMEMLIMIT bounds.
const (
	boundFeeds   = 8 * mib
	boundRecent  = 16 * mib / 2
	boundReads   = 4 * 5 * mib / 4
	boundPage    = mib / 4
	boundStream  = 60 << 10
	boundProgram = 48 * mib
	boundSockets = 64 * mib
)

func bound(streams, behind int64) int64 {
	return boundFeeds + boundRecent + boundReads + behind*boundPage + streams*boundStream + boundProgram
}

// A boundedServer is a process whose memory is limited.
type boundedServer struct {
	*process

	t       *testing.T
	address string
	how     string // its memory is limited
	idle    int64  // bytes of its resident set when it began to serve
	limit   int64  // bytes
}

func startBounded(t *testing.T, databaseURL string, limit int64) *boundedServer {
	t.Helper()
	return startBoundedWith(t, databaseURL, limit, boundFeeds)
}

// startBoundedWith is for tests that need more --feed-memory.
func startBoundedWith(t *testing.T, databaseURL string, limit, feeds int64) *boundedServer {
	t.Helper()
	s := &boundedServer{t: t, address: pgtest.FreeAddress(t), limit: limit}
	cmd := exec.Command(buildProgram(t), "serve", "--database-url", databaseURL, "--addr", s.address, "--feed-memory",
		strconv.FormatInt(feeds, 10), "--max-streams-per-user", "0", "--write-timeout", "5m", "--drain", "1s")
	cmd.Env = cleanEnv("TOPOSTREAM_JWT_SECRET=" + testSecret)
	s.how = limited(t, cmd, limit*2/3, limit)
	s.process = startProcess(t, cmd)
	s.err.await(t, "msg=serving", s.ended)
	s.idle = s.peak()
	return s
}

// peak is the largest resident set so far.
func (s *boundedServer) peak() int64 {
	s.t.Helper()
	select {
	case <-s.ended:
		s.t.Fatalf("the server ended: %v, with a limit of %d MiB (%s)", s.cmd.ProcessState, s.limit/mib, s.how)
	default:
	}
	return peak(s.t, s.cmd.Process.Pid)
}

// stayedBelow fails unless the server lives and has never held more than its limit.
func (s *boundedServer) stayedBelow(what string) {
	s.t.Helper()
	most := s.peak()
	s.t.Logf("%s: peak RSS %d MiB of %d MiB, idle %d MiB, %.0f journal reads for clients (%s)", what, most/mib,
		s.limit/mib, s.idle/mib, metric(s.t, "http://"+s.address, `topostream_journal_reads_total{cause="cursor"}`), s.how)
	if most > s.limit {
		s.t.Errorf("peak RSS %d MiB is over %d MiB", most/mib, s.limit/mib)
	}
}

// bigJournal writes events of size bytes and gives the head.
func bigJournal(t *testing.T, db *pgtest.DB, events, size int) (id string, head uint64) {
	t.Helper()
	conn := db.Conn(t)
	id = demo(t, conn)
	const emits = `
SELECT count(topology_emit($1::text::uuid, 'test', to_jsonb(repeat('x', $2::int)))) FROM generate_series(1, $3::int)`
	pgtest.Exec(t, conn, emits, id, size, events)
	return id, pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads`)
}

func TestAJournalLargerThanTheMemoryLimitIsResumedByTwoHundredAtOnceAndByManyWhoDoNotRead(t *testing.T) {
	t.Parallel()
	alone(t) // 24 GB leave nothing to whatever runs beside it
	const clients, stuck, events, size = 200, 100, 7500, 16000
	db := pgtest.New(t)
	id, head := bigJournal(t, db, events, size)
	path, token := "/api/v1/topologies/"+id+"/events", testToken(t)
	server := startBounded(t, db.URL, bound(clients+stuck, stuck))
	if total := int64(events * size); total < server.limit {
		t.Fatalf("the journal, %d bytes, is smaller than the limit, %d", total, server.limit)
	}
	// Those who do not read are each in another place, so that they share nothing.
	idle := make([]*reader, 0, stuck)
	for i := range stuck {
		r, err := dial(server.address, path, token, 1+uint64(i)*uint64(events/stuck))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }() // it is read as far as wanted
		idle = append(idle, r)
	}
	pgtest.Eventually(t, "all streams",
		func() bool { return metric(t, "http://"+server.address, "topostream_streams") == stuck })
	pgtest.Eventually(t, "a page for each that is not in the ring", func() bool {
		return metric(t, "http://"+server.address, `topostream_journal_reads_total{cause="cursor"}`) >= stuck-5
	})
	server.stayedBelow(fmt.Sprintf("%d clients that do not read", stuck))

	begun := time.Now()
	var g errgroup.Group
	for range clients {
		g.Go(func() error {
			r, err := dial(server.address, path, token, 1)
			if err != nil {
				return err
			}
			defer func() { _ = r.Close() }() // it is read as far as wanted
			return r.until(head)
		})
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	server.stayedBelow(
		fmt.Sprintf("%d clients resumed a journal of %d MB in %s", clients, events*size/1000000,
			time.Since(begun).Round(time.Millisecond)),
	)
	if err := errors.Join(idle[0].until(head), idle[stuck/2].until(head)); err != nil { // who wakes up has missed nothing
		t.Error(err)
	}
}

func TestLargeEventsOfManyTopologiesAtTheRingsFullLengthStayWithinFeedMemory(t *testing.T) {
	t.Parallel()
	alone(t) // it encodes and moves 600 MB
	const topologies, read, rounds, size = 100, 10, 5, 1000000
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, topologies)
	server := startBounded(t, db.URL,
		boundFeeds+boundRecent+(1+4*5+read)*(size+size/8)+topologies*boundStream+boundProgram)
	token := testToken(t)
	readers := make([]*reader, 0, read)
	for i, id := range ids { // all are attached; most clients have gone again, and their feeds linger
		r, err := dial(server.address, "/api/v1/topologies/"+id+"/events", token, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = r.Close() }() // it is read as far as wanted
		if err := r.until(3); err != nil {
			t.Fatal(err)
		}
		if i < read {
			readers = append(readers, r)
		} else {
			_ = r.Close() // it has what it came for
		}
	}
	for n := range rounds {
		pgtest.Exec(t, conn, `SELECT count(topology_emit(id, 'test', to_jsonb(repeat('x', $1::int)))) FROM topologies`,
			size) // one commit: all at once
		for _, r := range readers {
			if err := r.until(uint64(4 + n)); err != nil {
				t.Fatal(err)
			}
		}
		pgtest.Eventually(t, "all feeds", func() bool {
			return metric(t, "http://"+server.address, "topostream_events_total") == float64((n+1)*topologies)
		})
		if held := metric(t, "http://"+server.address, "topostream_feed_bytes"); held > boundFeeds+size+size/8 {
			t.Errorf("the rings hold %.0f bytes", held)
		}
	}
	server.stayedBelow(fmt.Sprintf("%d events of 1 MB to %d topologies", topologies*rounds, topologies))
}

func TestTenThousandTopologiesAttachedInTurnLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	slow(t)
	const topologies, atOnce = 10000, 50
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 'turn-' || i FROM generate_series(1, $1) i`, topologies)
	ids := pgtest.Scan[[]string](t, conn, `SELECT array_agg(id::text) FROM topologies`)
	var server *testServer
	pprof.Do(t.Context(), pprof.Labels("test", t.Name()), func(context.Context) { // what it starts inherits the label
		server = serve(t, db.URL, func(c *serveCmd) { c.linger, c.MaxStreamsPerUser = 100*time.Millisecond, 0 })
	})
	address, token := strings.TrimPrefix(server.url, "http://"), testToken(t)
	awaitListen(t, server.url, 0)
	round := func(ids []string) {
		t.Helper()
		var g errgroup.Group
		g.SetLimit(atOnce)
		for _, id := range ids {
			g.Go(func() (err error) {
				for range 20 { // a machine under load may answer `unavailable`: come back
					if err = visit(address, "/api/v1/topologies/"+id+"/events", token); err == nil {
						break
					}
				}
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
	}
	gauges := func() string {
		return fmt.Sprintf("streams %.0f, feeds %.0f of %.0f bytes, channels %.0f",
			metric(t, server.url, "topostream_streams"), metric(t, server.url, "topostream_feeds"),
			metric(t, server.url, "topostream_feed_bytes"), metric(t, server.url, "topostream_channels"))
	}
	const nothing = "streams 0, feeds 0 of 0 bytes, channels 0"
	round(ids[:atOnce]) // the pool's connections are open after it
	pgtest.Eventually(t, "the first feeds to go", func() bool { return gauges() == nothing })
	before := goroutines(t)
	begun := time.Now()
	round(ids)
	took, most := time.Since(begun), gauges()
	pgtest.Eventually(t, "all feeds to go", func() bool { return gauges() == nothing })
	pgtest.Eventually(t, "all goroutines to go", func() bool { return goroutines(t) <= before })
	t.Logf("%d topologies attached and left in %s; at the end of it %s, goroutines %d before", topologies,
		took.Round(time.Millisecond), most, before)
}

// visit reads a stream up to its snapshot, at 1, and leaves.
func visit(address, path, token string) error {
	r, err := dial(address, path, token, 0)
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }() // it has what it came for
	return r.until(1)
}

// goroutines counts those that carry the test's label.
func goroutines(t *testing.T) (n int) {
	t.Helper()
	var profile bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&profile, 1); err != nil {
		t.Fatal(err)
	}
	_, groups, _ := strings.Cut(profile.String(), "\n")   // after "goroutine profile: total N"
	for group := range strings.SplitSeq(groups, "\n\n") { // "N @ addresses", labels, frames
		if !strings.Contains(group, `"test":"`+t.Name()+`"`) {
			continue
		}
		var count int
		if _, err := fmt.Sscanf(group, "%d @", &count); err != nil {
			t.Fatalf("%s: %v", group, err)
		}
		n += count
	}
	if n == 0 {
		t.Fatal("no goroutine carries the test's label")
	}
	return n
}
