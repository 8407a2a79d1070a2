package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

const (
	// attackLine is more than a line of the log takes, whatever a stranger sends.
	attackLine = 1200
	// attackLines are those of strangers in a second: of the access log, and of bad credentials.
	attackLines = 2 * 20
)

// An attacker sends requests as fast as they are answered. Each has an address of its own, as one machine has.
type attacker struct {
	client   *http.Client
	answered atomic.Int64
	limited  atomic.Int64 // 429 of them
	served   atomic.Int64 // 200 of them
}

func newAttacker(t *testing.T, last byte) *attacker {
	t.Helper()
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, last)}}
	transport := &http.Transport{DialContext: dialer.DialContext, MaxIdleConnsPerHost: 100}
	t.Cleanup(transport.CloseIdleConnections)
	return &attacker{client: &http.Client{Transport: transport}}
}

// send sends one request and reads its answer.
func (a *attacker) send(ctx context.Context, url string, header ...string) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return // ctx has ended
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := a.client.Do(req)
	if err != nil {
		return // as above
	}
	_, _ = io.Copy(io.Discard, res.Body) // as above
	_ = res.Body.Close()                 // it is read
	a.answered.Add(1)
	switch res.StatusCode {
	case http.StatusOK:
		a.served.Add(1)
	case http.StatusTooManyRequests:
		a.limited.Add(1)
	}
}

// attack has so many goroutines send what one gives, until ctx ends.
func (a *attacker) attack(ctx context.Context, wg *sync.WaitGroup, n int, one func(ctx context.Context, i int64)) {
	var i atomic.Int64
	for range n {
		wg.Go(func() {
			for ctx.Err() == nil {
				one(ctx, i.Add(1))
			}
		})
	}
}

// scansAndTransactions are what the database has counted.
func scansAndTransactions(t *testing.T, conn *pgx.Conn) (scans, transactions int64) {
	t.Helper()
	if err := conn.QueryRow(t.Context(), `SELECT coalesce(sum(seq_scan + coalesce(idx_scan, 0)), 0)::bigint
		FROM pg_stat_user_tables WHERE relname = 'sse_tickets'`).Scan(&scans); err != nil {
		t.Fatal(err)
	}
	if err := conn.QueryRow(t.Context(), `SELECT xact_commit + xact_rollback FROM pg_stat_database
		WHERE datname = current_database()`).Scan(&transactions); err != nil {
		t.Fatal(err)
	}
	return scans, transactions
}

// honest reads a topology ten times a second, and gives how long each answer took.
func honest(ctx context.Context, t *testing.T, url, token string) (took []time.Duration) {
	t.Helper()
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return took
		case <-ticker.C:
		}
		begun := time.Now()
		if status, _, body := get(t, url, "Authorization", "Bearer "+token); status != http.StatusOK {
			t.Errorf("an honest client: %d %s", status, body)
			return took
		}
		took = append(took, time.Since(begun))
	}
}

// Tickets are guessed, the log is filled, and the heaviest lists are asked for, all at once, for a minute where nothing
// else runs and for seconds otherwise.
func TestAnAttackOfAMinuteCostsWhatIsBounded(t *testing.T) {
	t.Parallel()
	long(t)
	takes, rate := 5*time.Second, int64(60)
	if isAlone() {
		takes, rate = time.Minute, 1200
	}
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 300)[0]
	pgtest.Exec(t, conn, `INSERT INTO mutations (topology_id, op, payload)
		SELECT $1, 'add_lan', jsonb_build_object('name', 'lan-' || i) FROM generate_series(1, 300) i`, id)
	server := serve(t, db.URL, func(c *serveCmd) { c.RateLimit, c.AccessLog, c.LogFormat = int(rate), true, "json" })
	api := server.url + "/api/v1/topologies"
	token := func(subject string) string { return newOperator(t, server.url, subject, stream.RoleViewer).token }

	calm, stop := context.WithTimeout(t.Context(), takes/4)
	defer stop()
	before := honest(calm, t, api+"/"+id, token("calm"))

	scansBefore, transactionsBefore := scansAndTransactions(t, conn)
	logBefore, begun := len(server.log.String()), time.Now()
	under, stop := context.WithTimeout(t.Context(), takes)
	defer stop()
	var wg sync.WaitGroup
	guesser, flooder, lister := newAttacker(t, 2), newAttacker(t, 3), newAttacker(t, 4)
	guesser.attack(under, &wg, 4, func(ctx context.Context, i int64) {
		guesser.send(ctx, fmt.Sprintf("%s/%s/events?ticket=%043d", api, id, i))
	})
	flooder.attack(under, &wg, 4, func(ctx context.Context, i int64) {
		switch i % 4 {
		case 0:
			flooder.send(ctx, api+"/"+strings.Repeat("a", 30_000), "Authorization", "Bearer x")
		case 1:
			flooder.send(ctx, api+"?limit="+strings.Repeat("1", 30_000), "Authorization", "Bearer x")
		case 2:
			flooder.send(ctx, server.url+"/"+strings.Repeat("%0a", 10_000))
		case 3:
			flooder.send(ctx, server.url+"/openapi.yaml", "X-Request-Id", strings.Repeat("i", 20_000))
		}
	})
	const listers = 4
	tokens := make([]string, listers)
	for i := range tokens {
		tokens[i] = token(fmt.Sprint("lister-", i))
	}
	lister.attack(under, &wg, listers, func(ctx context.Context, i int64) {
		path := []string{"?limit=200", "/" + id + "/mutations?limit=200", "/" + id + "/journal?limit=1000"}[i%3]
		lister.send(ctx, api+path, "Authorization", "Bearer "+tokens[i%listers])
	})
	highest := make(chan uint64)
	go func() {
		var m runtime.MemStats
		var most uint64
		ticker := time.NewTicker(200 * time.Millisecond)
		defer ticker.Stop()
		for {
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
			select {
			case <-under.Done():
				highest <- most
				return
			case <-ticker.C:
			}
		}
	}()
	during := honest(under, t, api+"/"+id, token("honest"))
	wg.Wait()
	heap := <-highest
	took := time.Since(begun)
	server.stop() // so that all is logged and counted
	scansAfter, transactionsAfter := scansAndTransactions(t, conn)
	scans, transactions := scansAfter-scansBefore, transactionsAfter-transactionsBefore
	logged := len(server.log.String()) - logBefore

	// A minute of the clock may begin within it.
	windows := int64(took/time.Minute) + 2
	served := lister.served.Load() + int64(len(during))
	mostLogged := (int(took/time.Second)+2)*attackLines*attackLine + int(windows*(listers+1)*rate)*attackLine
	t.Logf("%.0f s: %d guesses (%d refused), %d floods (%d refused), %d lists (%d refused)", took.Seconds(),
		guesser.answered.Load(), guesser.limited.Load(), flooder.answered.Load(), flooder.limited.Load(),
		lister.answered.Load(), lister.limited.Load())
	t.Logf("%d scans of sse_tickets; %d transactions, %.2f for each request that was served, %.3f for each of all",
		scans, transactions, float64(transactions)/float64(served), float64(transactions)/float64(served+
			guesser.answered.Load()+flooder.answered.Load()+lister.limited.Load()))
	t.Logf("%.0f kB of log a minute; %d MB of heap at most, the attackers' in it", float64(logged)/1e3/took.Minutes(),
		heap>>20)
	calm99, under99 := percentile(before, 99), percentile(during, 99)
	t.Logf("an honest client: p50 %v, p99 %v; without the attack %v, %v: %.1f times", percentile(during, 50), under99,
		percentile(before, 50), calm99, float64(under99)/float64(max(calm99, 1)))
	if scans > windows*rate+10 {
		t.Errorf("%d scans of sse_tickets, %d a minute are allowed", scans, rate)
	}
	if most := served*4 + windows*rate + int64(took.Seconds()+5)*20; transactions > most {
		t.Errorf("%d transactions, want %d at most", transactions, most)
	}
	if logged > mostLogged {
		t.Errorf("%d bytes of log, want %d at most", logged, mostLogged)
	}
	if n := guesser.limited.Load(); n == 0 || len(during) == 0 {
		t.Errorf("%d guesses were refused for their rate, %d honest requests answered", n, len(during))
	}
}
