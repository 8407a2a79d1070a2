package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/cmd/topobench/fleet"
	"topostream/pgbus/postgres"
)

// A rawListener is a bare connection that LISTENs to all topologies: the shortest way that a NOTIFY has.
type rawListener struct {
	conn     *pgx.Conn
	stamps   *fleet.Stamps
	channels map[string]int // the topology of each
	stop     context.CancelFunc
	ended    chan struct{}

	mu     sync.Mutex
	got    uint64
	last   []uint64 // serial, by topology
	tally  *fleet.Tally
	failed error
}

// newRawListener listens already when it returns. The caller closes it.
func newRawListener(ctx context.Context, r *running, stamps *fleet.Stamps) (*rawListener, error) {
	cfg, err := postgres.Parse(r.target.URL)
	if err != nil {
		return nil, err
	}
	cfg.RuntimeParams["application_name"] = ownName + " LISTEN"
	conn, err := pgx.ConnectConfig(ctx, cfg)
	if err != nil {
		return nil, err
	}
	l := &rawListener{conn: conn, stamps: stamps, channels: map[string]int{}, last: make([]uint64, len(r.topologies)),
		ended: make(chan struct{})}
	l.tally = fleet.NewTally()
	template := "topology.{topology}"
	if r.target.Publish.Notify != "" {
		template = r.target.Publish.Notify
	}
	channels := each(r.topologies, func(id string) string { return strings.ReplaceAll(template, "{topology}", id) })
	for i, channel := range channels {
		l.channels[channel] = i
	}
	if _, err := conn.Exec(ctx, listenTo(channels)); err != nil {
		return nil, errors.Join(err, conn.Close(ctx))
	}
	ctx, l.stop = context.WithCancel(ctx)
	go l.run(ctx)
	return l, nil
}

// listenTo is the statement that LISTENs to channels.
func listenTo(channels []string) string {
	var sql strings.Builder
	for _, channel := range channels {
		sql.WriteString("LISTEN " + pgx.Identifier{channel}.Sanitize() + ";")
	}
	return sql.String()
}

func (l *rawListener) run(ctx context.Context) {
	defer close(l.ended)
	for {
		n, err := l.conn.WaitForNotification(ctx)
		if err != nil {
			l.fail(ctx, err)
			return
		}
		l.take(n.Channel, n.Payload, time.Now().UnixNano())
	}
}

func (l *rawListener) fail(ctx context.Context, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if ctx.Err() == nil {
		l.failed = fmt.Errorf("LISTEN: %w", err)
	}
}

func (l *rawListener) take(channel, payload string, now int64) {
	topology, ours := l.channels[channel]
	m, _, found, err := fleet.NextMark([]byte(payload))
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !ours || !found && err == nil: // the topology's own events
		return
	case err != nil:
		l.tally.BrokenAll++
		l.tally.Broken = append(l.tally.Broken, err.Error())
		return
	case m.Serial != l.last[topology]+1:
		l.tally.BrokenAll++
		l.tally.Broken = append(l.tally.Broken, fmt.Sprintf("event %d came after %d", m.Serial, l.last[topology]))
	}
	l.last[topology] = m.Serial
	l.got++
	l.tally.Deliveries++
	l.tally.Bytes += uint64(len(payload))
	fleet.Record(l.tally.Latency, now-l.stamps.When(topology, m))
}

// Delivered is how many events came so far.
func (l *rawListener) Delivered() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.got
}

// Await waits until n events have come.
func (l *rawListener) Await(ctx context.Context, n uint64) error {
	return eventually(ctx, fmt.Sprint(n, " notifications"), func() (bool, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.got >= n, l.failed
	})
}

// Take gives what was seen since it was called last.
func (l *rawListener) Take() *fleet.Tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := l.tally
	l.tally = fleet.NewTally()
	return t
}

func (l *rawListener) close() error {
	l.stop()
	<-l.ended
	return l.conn.Close(context.Background()) // nothing is under way
}
