package poll

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/pgbus/journal"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/source"
	"topostream/stream"
)

// All of these tests run in a bubble of testing/synctest: its time stands still while the database is asked, and goes
// on at once when everybody waits. So the times in them are exact.

// pace is that of the tests' pollers.
const pace = time.Minute

// A recorder is a sink that keeps what it is told, each with the time since it was made.
type recorder struct {
	source.Ignore

	begun time.Time

	mu   sync.Mutex
	told []string
	at   []time.Duration
}

func (r *recorder) tellf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.told = append(r.told, fmt.Sprintf(format, args...))
	r.at = append(r.at, time.Since(r.begun))
}

func (r *recorder) Event(e source.Event) { r.tellf("event %s %d %q", e.Topology, e.Seq, e.Type) }

func (r *recorder) Contradicted(id stream.TopologyID, last stream.Seq, why string) {
	r.tellf("contradicted %s %d: %s", id, last, why)
}

func (r *recorder) State(s source.State) {
	if s.Connected {
		r.tellf("connected %s", s.Detail)
	} else {
		r.tellf("away: %s", s.Detail)
	}
}

// take gives what was told, and forgets it, when everybody waits.
func (r *recorder) take() (told []string, at []time.Duration) {
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	told, at = r.told, r.at
	r.told, r.at = nil, nil
	return told, at
}

// expect fails unless just this was told.
func (r *recorder) expect(t *testing.T, when string, want ...string) {
	t.Helper()
	if got, _ := r.take(); !slices.Equal(got, want) {
		t.Errorf("%s: told\n\t%s\nwant\n\t%s", when, strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

const connected = "connected "

// start runs a poller until the bubble ends.
func start(t *testing.T, pool *pgxpool.Pool, positions func() []Position) (*Poller, *recorder) {
	t.Helper()
	reader := journal.New(journal.Config{Pool: pool, Histories: postgres.NewHistories(false, nil)})
	p := New(Config{Positions: positions, Reader: reader}, pace)
	r := &recorder{begun: time.Now()}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Run(ctx, r)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	return p, r
}

func nothing() []Position { return nil }

func TestAComparisonTellsOfEachFeedThatDiffersFromItsHeadAndOfNoOther(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t)
	admin := db.Conn(t)
	topology := func() stream.TopologyID {
		const insert = `INSERT INTO topologies (name) VALUES (gen_random_uuid()::text) RETURNING id::text`
		id := pgtest.Scan[stream.TopologyID](t, admin, insert)
		for range 3 {
			pgtest.Exec(t, admin, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id)
		}
		return id
	}
	head := func(id stream.TopologyID) stream.Seq {
		return pgtest.Scan[stream.Seq](t, admin, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id)
	}
	behind, equal, ahead, inDoubt := topology(), topology(), topology(), topology()
	const unknown = stream.TopologyID("0190e7b2-0000-7000-8000-000000000001")
	positions := []Position{
		{Topology: behind, Last: head(behind) - 2},
		{Topology: equal, Last: head(equal)},
		{Topology: ahead, Last: head(ahead) + 1},
		{Topology: inDoubt, Last: head(inDoubt) + 1, InDoubt: true},
		{Topology: unknown, Last: 7, InDoubt: true},
	}
	heads := []stream.Seq{head(behind), head(ahead)}
	synctest.Test(t, func(t *testing.T) {
		_, r := start(t, db.Pool(t), func() []Position { return positions })
		time.Sleep(pace)
		r.expect(
			t, "one comparison",
			fmt.Sprintf("event %s %d %q", behind, heads[0], ""), // the newest alone
			fmt.Sprintf("contradicted %s %d: the head is %d, behind the feed", ahead, heads[1]+1, heads[1]),
			fmt.Sprintf("contradicted %s 7: the topology has no head", unknown),
			connected,
		)
	})
}

func TestFeedsAreLookedAtBeforeTheirHeads(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t)
	admin := db.Conn(t)
	id := pgtest.Scan[stream.TopologyID](t, admin, `INSERT INTO topologies (name) VALUES ('moves') RETURNING id::text`)
	var last stream.Seq
	emit := func() []Position {
		at := []Position{{Topology: id, Last: last}}
		last = pgtest.Scan[stream.Seq](t, admin, `SELECT topology_emit($1::text::uuid, 'x', '{}')`, id)
		return at
	}
	emit()
	synctest.Test(t, func(t *testing.T) {
		_, r := start(t, db.Pool(t), emit)
		for range 3 { // an event of the very moment is one that the feed does not have; never one that the head has not
			time.Sleep(pace)
			synctest.Wait() // emit moves last
			r.expect(t, "a comparison", fmt.Sprintf("event %s %d %q", id, last, ""), connected)
		}
	})
}

func TestHeadsAreComparedOnceAPace(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t)
	synctest.Test(t, func(t *testing.T) {
		p, r := start(t, db.Pool(t), nothing)
		time.Sleep(pace - time.Nanosecond)
		r.expect(t, "before the first is due")
		time.Sleep(time.Nanosecond)
		r.expect(t, "at the pace", connected)
		time.Sleep(3 * pace)
		r.expect(t, "three later", connected, connected, connected)

		p.SetPace(pace / 4)
		r.expect(t, "a shorter pace does not compare at once")
		time.Sleep(pace / 4)
		r.expect(t, "it counts from now", connected)
		time.Sleep(pace / 4)
		r.expect(t, "and stays", connected)

		p.SetPace(pace)
		time.Sleep(pace / 4)
		r.expect(t, "what was due sooner stays due", connected)
		time.Sleep(pace - time.Nanosecond)
		r.expect(t, "then the longer pace counts")
		time.Sleep(time.Nanosecond)
		r.expect(t, "and is over", connected)
	})
}

func TestSoonHasHeadsComparedByStatementsThatBeginAfterIt(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t)
	synctest.Test(t, func(t *testing.T) {
		var p *Poller
		var during atomic.Bool
		p, r := start(t, db.Pool(t), func() []Position {
			if during.CompareAndSwap(true, false) {
				p.Soon() // a comparison has begun: it may have read before
			}
			return nil
		})
		p.Soon()
		r.expect(t, "soon", connected)
		during.Store(true)
		p.Soon()
		r.expect(t, "soon, during a comparison", connected, connected)
		time.Sleep(pace - time.Nanosecond)
		r.expect(t, "the pace counts from it")
		time.Sleep(time.Nanosecond)
		r.expect(t, "and is over", connected)
	})
}

// A network is what a pool dials through: it is there or not.
type network struct {
	gone  atomic.Bool
	hangs atomic.Bool
}

var errNetwork = errors.New("no network")

func (n *network) pool(t *testing.T, url string) *pgxpool.Pool {
	t.Helper()
	cfg, err := pgxpool.ParseConfig(url)
	if err != nil {
		t.Fatal(err)
	}
	dial := cfg.ConnConfig.DialFunc
	cfg.ConnConfig.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		switch {
		case n.hangs.Load():
			<-ctx.Done()
			return nil, ctx.Err()
		case n.gone.Load():
			return nil, errNetwork
		}
		return dial(ctx, network, address)
	}
	pool, err := pgxpool.NewWithConfig(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func TestAPollThatGetsNoAnswerSaysSoAndAsksAgainEverLaterUntilItGetsOne(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t)
	synctest.Test(t, func(t *testing.T) {
		var n network
		n.gone.Store(true)
		pool := n.pool(t, db.URL)
		p, r := start(t, pool, nothing)
		p.SetPace(time.Millisecond)
		for range 2 {
			time.Sleep(time.Minute)
			told, at := r.take()
			if len(told) < 30 {
				t.Fatalf("%d tries in a minute", len(told))
			}
			for i, s := range told {
				if !strings.HasPrefix(s, "away: ") || !strings.Contains(s, errNetwork.Error()) {
					t.Fatalf("told %q, want that and why the database is away", s)
				}
				// A pause doubles from the pace to two seconds, of which up to a half is taken away.
				const most = 2 * time.Second
				if pause := at[i] - at[max(i-1, 0)]; pause > most || i > 20 && pause < most/2 {
					t.Errorf("%d tries, then a pause of %s", i, pause)
				}
			}
			if at[5]-at[0] > time.Second {
				t.Errorf("the first five pauses are %s", at[5]-at[0])
			}
			n.gone.Store(false)
			time.Sleep(2 * time.Second)
			if told, _ := r.take(); len(told) == 0 || told[0] != connected {
				t.Fatalf("the database is back, and told was %v", told)
			}
			n.gone.Store(true)
			pool.Reset()
		}
	})
}

func TestAComparisonThatHangsIsGivenUp(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t)
	synctest.Test(t, func(t *testing.T) {
		var n network
		n.hangs.Store(true)
		_, r := start(t, n.pool(t, db.URL), nothing)
		time.Sleep(pace + 5*time.Second - time.Nanosecond)
		r.expect(t, "a comparison that gets no answer")
		time.Sleep(time.Nanosecond)
		if told, _ := r.take(); len(told) != 1 || !strings.HasPrefix(told[0], "away: ") {
			t.Errorf("it has had no answer for 5 s, and told was %q", told)
		}
	})
}

func TestAPollThatIsEndedAsksNoMoreAndSaysNothing(t *testing.T) {
	t.Parallel()
	db := pgtest.Shared(t)
	synctest.Test(t, func(t *testing.T) {
		pool := db.Pool(t)
		reader := journal.New(journal.Config{Pool: pool, Histories: postgres.NewHistories(false, nil)})
		ctx, cancel := context.WithCancel(t.Context())
		positions := func() []Position { cancel(); return nil } // it ends while the database is asked
		p, r := New(Config{Positions: positions, Reader: reader}, pace), &recorder{begun: time.Now()}
		p.Run(ctx, r)
		r.expect(t, "its end")
	})
}
