package main

import (
	"context"
	"encoding/binary"
	"io"
	"math"
	"net"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// A relay passes connections on to a PostgreSQL, and cuts one of them after the nth message that PostgreSQL has sent
// over it and over all before it. It cuts once.
type relay struct {
	after int64
	cut   atomic.Bool

	sent    atomic.Int64
	mu      sync.Mutex
	address string
	open    map[net.Conn]struct{}
	wg      sync.WaitGroup
}

// uncut is for a relay that never cuts.
const uncut = math.MaxInt64

// relayTo gives a connection string that leads through a relay to databaseURL.
func relayTo(t *testing.T, databaseURL string, after int64) (*relay, string) {
	t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: u.Host, after: after, open: map[net.Conn]struct{}{}}
	r.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			r.wg.Go(func() { r.pass(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // nobody else closes it
		r.lead("")
		r.wg.Wait()
	})
	u.Host = l.Addr().String()
	// With TLS asked for, the first answer is a byte and no message.
	return r, pgtest.With(t, u.String(), "sslmode", "disable")
}

// lead ends all connections, and leads those to come to another server.
func (r *relay) lead(address string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.address = address
	for c := range r.open {
		_ = c.Close() // the other side may have
	}
}

func (r *relay) pass(client net.Conn) {
	r.mu.Lock()
	server, err := (&net.Dialer{Timeout: time.Second}).Dial("tcp", r.address)
	if err != nil {
		r.mu.Unlock()
		_ = client.Close() // it gets nothing
		return
	}
	both := []net.Conn{client, server}
	for _, c := range both {
		r.open[c] = struct{}{}
	}
	r.mu.Unlock()
	end := func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		for _, c := range both {
			_ = c.Close() // a second time does no harm
			delete(r.open, c)
		}
	}
	defer end()
	r.wg.Go(func() {
		defer end()
		_, _ = io.Copy(server, client) // it ends with either
	})
	for !r.cuts() {
		if err := passMessage(client, server); err != nil {
			return
		}
	}
}

// cuts counts a message that is about to be sent, and tells whether the connection is cut instead of it.
func (r *relay) cuts() bool { return r.sent.Add(1) > r.after && r.cut.CompareAndSwap(false, true) }

// passMessage passes one of PostgreSQL's messages on: a byte that says which, and the length of the rest and of itself.
func passMessage(to io.Writer, from io.Reader) error {
	header := make([]byte, 5)
	if _, err := io.ReadFull(from, header); err != nil {
		return err
	}
	if _, err := to.Write(header); err != nil {
		return err
	}
	_, err := io.CopyN(to, from, int64(binary.BigEndian.Uint32(header[1:]))-4)
	return err
}

// startups are the programs that need the database when they start, each with a word in its output that says that it
// has got through.
func startups() map[string][]string {
	return map[string][]string{
		"serving":              {"serve", "--addr", "127.0.0.1:0", "--jwt-secret", testSecret},
		"migrated and serving": {"serve", "--addr", "127.0.0.1:0", "--jwt-secret", testSecret, "--migrate"},
		"working on mutations": {"mutator"},
		"schema at version":    {"migrate", "up"},
	}
}

// begin runs a program until it has got through its start, and gives its output.
func begin(t *testing.T, through string, args []string, databaseURL string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out lockedBuffer
	done := make(chan int, 1)
	go func() { done <- run(ctx, append(args, "--database-url", databaseURL), &out, &out) }()
	through = strings.TrimPrefix(through, "migrated and ")
	look := time.NewTicker(2 * time.Millisecond)
	defer look.Stop()
	for {
		select {
		case code := <-done:
			if code != exitOK || !strings.Contains(out.String(), through) {
				t.Errorf("exit code %d: %s", code, out.String())
			}
			return out.String()
		case <-look.C:
			if strings.Contains(out.String(), through) && ctx.Err() == nil {
				cancel()
			}
		}
	}
}

// Every place where a connection can break in a start is tried in turn, until the start needs no message more.
func TestAStartThatLosesItsDatabaseAtAnyMessageGoesOnWhenItIsBack(t *testing.T) {
	t.Parallel()
	for through, args := range startups() {
		t.Run(through, func(t *testing.T) {
			t.Parallel()
			step := int64(1)
			if testing.Short() {
				step = 15
				if through != "serving" && through != "working on mutations" {
					long(t)
				}
			}
			db := pgtest.New(t)
			waited := 0
			for after := int64(0); ; after += step {
				r, databaseURL := relayTo(t, db.URL, after)
				out := begin(t, through, args, databaseURL)
				if t.Failed() {
					t.Fatalf("cut after %d messages", after)
				}
				if strings.Contains(out, "waiting for it") {
					waited++
				} else if r.cut.Load() && after == 0 {
					t.Errorf("the start lost its connection and says nothing: %s", out)
				}
				if !r.cut.Load() ||
					!strings.Contains(out, "waiting for it") && after > 0 { // what is cut now is no part of the start
					t.Logf("a start has %d places to be cut at, of %d messages", waited, after)
					break
				}
			}
			if waited < int(15/step) { // the handshake alone has as many messages
				t.Errorf("only %d messages were cut", waited)
			}
		})
	}
}

// A migration that is cut off anywhere is finished by the next try, also where the connection breaks at its COMMIT.
func TestAMigrationOfAnEmptyDatabaseThatIsCutOffAnywhereIsFinished(t *testing.T) {
	t.Parallel()
	slow(t)
	step := int64(31)
	if isAlone() {
		step = 7
	}
	for after := int64(19); ; after += step { // after the handshake
		db := pgtest.NewEmpty(t)
		r, databaseURL := relayTo(t, db.URL, after)
		begin(t, "schema at version", []string{"migrate", "up"}, databaseURL)
		conn := db.Conn(t)
		if _, err := sql.Check(t.Context(), conn); err != nil {
			t.Fatalf("cut after %d messages: %v", after, err)
		}
		emit(t, conn, demo(t, conn))
		if !r.cut.Load() {
			t.Logf("a migration has %d messages", r.sent.Load())
			break
		}
	}
}

func TestAStartWhoseBackendIsTerminatedOrWhoseServerRestartsGoesOn(t *testing.T) {
	t.Parallel()
	long(t)
	for through, args := range startups() {
		t.Run(through, func(t *testing.T) {
			t.Parallel()
			cluster := pgtest.Cluster(t)
			db := pgtest.NewOn(t, cluster.URL("postgres"))
			faults := map[string]func(){
				"terminated": func() {
					const waiting = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
						WHERE datname = current_database() AND wait_event_type = 'Lock'`
					conn := db.Conn(t)
					pgtest.Eventually(t, "the start to ask", func() bool { return pgtest.Scan[int](t, conn, waiting) == 1 })
				},
				"restarted": func() {
					if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
						t.Error(err)
					}
				},
			}
			for what, fault := range faults {
				holder := db.Conn(t)
				pgtest.Exec(t, holder, `BEGIN`)
				pgtest.Exec(t, holder, `LOCK TABLE topology_migrations, topology_schema_version`)
				var wg sync.WaitGroup
				wg.Go(func() {
					conn := db.Conn(t)
					pgtest.Eventually(t, "the start to ask", func() bool {
						const waiting = `SELECT count(*) FROM pg_stat_activity
							WHERE datname = current_database() AND wait_event_type = 'Lock'`
						return pgtest.Scan[int](t, conn, waiting) == 1
					})
					fault()
					_ = holder.Close(context.Background()) // a restart has closed it
				})
				if out := begin(t, through, args, db.URL); !strings.Contains(out, "the database is away; waiting for it") {
					t.Errorf("%s: %s", what, out)
				}
				wg.Wait()
			}
		})
	}
}

// What no retry mends ends a start at once also when the database was there a moment ago.
func TestAStartEndsForWhatNoRetryMends(t *testing.T) {
	t.Parallel()
	db, empty := pgtest.New(t), pgtest.NewEmpty(t)
	wrong := func(change func(*url.URL)) string {
		u, err := url.Parse(db.URL)
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		return u.String()
	}
	for want, databaseURL := range map[string]string{
		"user or the password": wrong(func(u *url.URL) { u.User = url.UserPassword(u.User.Username(), "wrong") }),
		"does not exist":       wrong(func(u *url.URL) { u.Path = "/nowhere" }),
		"migrate up":           empty.URL,
	} {
		for _, args := range startups() {
			if want == "migrate up" && (args[0] == "migrate" || args[len(args)-1] == "--migrate") {
				continue // which is what it asks for
			}
			if testing.Short() && args[0] != "serve" {
				continue
			}
			// The first connection is cut, as by a proxy that is started at the same time.
			_, through := relayTo(t, databaseURL, 0)
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			var out lockedBuffer
			code := run(ctx, append(args, "--database-url", through), &out, &out)
			if code != exitError || !strings.Contains(out.String(), want) || ctx.Err() != nil {
				t.Errorf("%v: exit code %d, %s", args[0], code, out.String())
			}
			cancel()
		}
	}
}
