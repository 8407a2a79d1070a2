package fault_test

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"topostream/cmd/topocheck/fault"
	"topostream/harness/stage"
	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open puts a stage up that ends with the test, which fails when something does not end in order.
func open(t *testing.T) *stage.Stage {
	t.Helper()
	s, err := stage.Open(t.Context(), stage.Config{Logger: slog.New(slog.NewTextHandler(t.Output(), nil)),
		PostgresBin: os.Getenv("TEST_PG_BIN")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func environment(t *testing.T, s *stage.Stage) *fault.Env {
	t.Helper()
	return &fault.Env{DatabaseURL: s.DatabaseURL(), Stage: s, Version: s.Postgres.Version(),
		Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
}

// once ends a campaign when each of its kinds has come, as far as others let it.
type once struct {
	mu     sync.Mutex
	left   int
	enough context.CancelFunc
}

func (o *once) Began(string) func() {
	return sync.OnceFunc(func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.left--; o.left == 0 {
			o.enough()
		}
	})
}

func (*once) Promoted(context.Context, string, string) error { return nil }

func (*once) Read(context.Context) error { return nil }

// A follower is a client that comes back by itself and knows what it has got.
type follower struct {
	mu     sync.Mutex
	last   uint64
	broken error
}

// follow reads a topology's stream until ctx ends: a snapshot at first, and then each number once.
func (f *follower) follow(ctx context.Context, s *stage.Stage, id string) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	for ctx.Err() == nil {
		f.read(ctx, client, s, id)
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (f *follower) read(ctx context.Context, client *http.Client, s *stage.Stage, id string) {
	token, err := s.Issuer().Token("follower")
	if err != nil {
		f.fail(err)
		return
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.URL()+"/api/v1/topologies/"+id+"/events", nil)
	if err != nil {
		f.fail(err)
		return
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Accept", "text/event-stream")
	if last := f.seq(); last > 0 {
		req.Header.Set("Last-Event-ID", strconv.FormatUint(last, 10))
	}
	res, err := client.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	event := ""
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if name, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			event = name
		} else if value, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			f.got(event, value)
		}
	}
}

func (f *follower) got(event, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	seq, err := strconv.ParseUint(id, 10, 64)
	if err == nil && (seq != f.last+1 && event != "snapshot" || seq < f.last) {
		err = fmt.Errorf("%s %d after %d", event, seq, f.last)
	}
	if err != nil && f.broken == nil {
		f.broken = err
	}
	f.last = seq
}

func (f *follower) fail(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken = err
}

func (f *follower) seq() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last
}

// write commits an event of a topology over and over until ctx ends.
func write(ctx context.Context, s *stage.Stage, id string) {
	for ctx.Err() == nil {
		conn, err := pgx.Connect(ctx, s.DatabaseURL())
		for err == nil && ctx.Err() == nil {
			_, err = conn.Exec(ctx, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id)
		}
		if conn != nil {
			_ = conn.Close(context.Background()) //nolint:contextcheck // ctx has ended
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// TestEachFaultIsMendedAndAClientThatComesBackMissesNothing injects a few kinds that take moments; TOPOSTREAM_FAULTS
// names others, or all.
func TestEachFaultIsMendedAndAClientThatComesBackMissesNothing(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it kills programs: left out with -short")
	}
	list := os.Getenv("TOPOSTREAM_FAULTS")
	if list == "" {
		list = "backend,postgres.restart-fast,server.kill,database-link.cut,client-link.cut,worker.kill"
	}
	kinds, err := fault.Select(list)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t)
	conn, err := pgx.Connect(t.Context(), s.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	var id string
	if err := conn.QueryRow(t.Context(),
		`INSERT INTO topologies (name) VALUES ('topocheck-test') RETURNING id::text`).Scan(&id); err != nil {
		t.Fatal(err)
	}
	_ = conn.Close(t.Context()) // of no more use

	before, err := s.Baseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	reading, stopReading := context.WithCancel(t.Context())
	defer stopReading()
	var group sync.WaitGroup
	f := &follower{}
	group.Go(func() { write(ctx, s, id) })
	group.Go(func() { f.follow(reading, s, id) })

	campaign := fault.New(environment(t, s), kinds, 1)
	monitor := &once{left: len(kinds) - len(campaign.Report().Skipped), enough: stop}
	if err := campaign.Run(ctx, monitor); err != nil {
		t.Error(err)
	}
	for name, n := range campaign.Report().Spoiled {
		t.Logf("%s: spoiled %d times", name, n)
	}
	for name, why := range campaign.Report().Skipped {
		t.Logf("%s: skipped: %s", name, why)
	}
	conn, err = pgx.Connect(t.Context(), s.DatabaseURL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var head uint64
	if err := conn.QueryRow(t.Context(), `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`,
		id).Scan(&head); err != nil {
		t.Fatal(err)
	}
	pgtest.Eventually(t, "the head", func() bool { return f.seq() >= head })
	stopReading()
	group.Wait()
	if f.broken != nil || f.last != head {
		t.Errorf("the client is at %d, the head at %d: %v", f.last, head, f.broken)
	}
	t.Logf("%d events", head)
	// the feeds end with their topologies, and need not linger
	if _, err := conn.Exec(t.Context(), `DELETE FROM topologies`); err != nil {
		t.Fatal(err)
	}
	wait, cancel := context.WithTimeout(t.Context(), 90*time.Second)
	defer cancel()
	if err := s.AwaitCensus(wait, before); err != nil {
		t.Error(err)
	}
}
