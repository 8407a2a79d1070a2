// Package journal has every read of heads, journal and documents. Each read is one statement, which also gives the
// history that it has seen (see [postgres.History]). What was read of an older history than the newest one seen, or of
// a database whose epoch must be raised first, is given to nobody: the read is tried again.
package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/semaphore"

	"topostream/pgbus/postgres"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// A Head is a topology's row in topology_heads.
type Head struct {
	Seq   stream.Seq // the newest event's
	First stream.Seq // of the oldest event kept; Seq+1 when none is
}

// A Lane is a share of the pool's connections. Each kind of read has its own, so that none of them waits for another
// kind.
type Lane int

// The lanes.
const (
	Live      Lane = iota // what attached topologies wait for: attaches, backfills, heads
	Backlog               // pages for clients that are behind their feed's ring
	Documents             // documents that are too large for a light snapshot
	Lists                 // the list of topologies
)

// laneSize is how many connections each lane may use.
var laneSize = [...]int64{Live: 4, Backlog: 2, Documents: 2, Lists: 1} //nolint:gochecknoglobals // a constant

// Config is what New needs.
type Config struct {
	Pool *pgxpool.Pool // what is read from
	// Primary is where the heads of a new epoch are raised: Pool itself unless that leads to a standby.
	Primary   *pgxpool.Pool
	Histories *postgres.Histories
	Encoder   stream.Encoder
	Memory    *stream.Memory // that documents count in
	Answered  func()         // called when the database has answered; nil tells nobody
	Logger    *slog.Logger
}

// A Reader reads. Any goroutine may use it.
type Reader struct {
	cfg   Config
	lanes [len(laneSize)]*semaphore.Weighted
}

// New makes a reader.
func New(cfg Config) *Reader {
	if cfg.Primary == nil {
		cfg.Primary = cfg.Pool
	}
	if cfg.Answered == nil {
		cfg.Answered = func() {}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	r := &Reader{cfg: cfg}
	for i, n := range laneSize {
		r.lanes[i] = semaphore.NewWeighted(n)
	}
	return r
}

// retry are the pauses before another try of a read whose history was refused.
var retry = wait.Steps{First: 20 * time.Millisecond, Most: 500 * time.Millisecond} //nolint:gochecknoglobals

// do runs read on a connection of the lane, and runs it again while Histories.Judge refuses the history that it has
// seen, until ctx ends. read returns Judge's error or its own.
func (r *Reader) do(
	ctx context.Context,
	lane Lane,
	read func(context.Context, *pgx.Conn) (postgres.History, error),
) error {
	if err := r.lanes[lane].Acquire(ctx, 1); err != nil {
		return context.Cause(ctx)
	}
	defer r.lanes[lane].Release(1)
	for try := 0; ; try++ {
		again, err := r.once(ctx, read)
		switch {
		case err == nil:
			r.cfg.Answered()
			return nil
		case !again:
			return err
		}
		r.cfg.Logger.Info("what was read is of another history; reading again", "error", err)
		if !retry.Pause(ctx, try) {
			return fmt.Errorf("%w: %w", stream.ErrUnavailable, err)
		}
	}
}

// once runs read once. Where its history was refused, it does what can be done about that (postgres.Mend), and again
// tells that read is to be run again.
func (r *Reader) once(
	ctx context.Context, read func(context.Context, *pgx.Conn) (postgres.History, error),
) (again bool, _ error) {
	conn, err := r.cfg.Pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("take a connection of the pool: %w", err)
	}
	defer conn.Release()
	h, err := read(ctx, conn.Conn())
	if !postgres.Judged(err) {
		return false, err
	}
	if mendErr := postgres.Mend(ctx, conn.Conn(), h, err); mendErr != nil {
		return false, mendErr
	}
	return true, err
}

// Accept judges the history of a connection that is not of the pool, as do does for the pool's: it mends what can be
// mended, and returns nil where the connection can be used.
func (r *Reader) Accept(ctx context.Context, conn *pgx.Conn) error {
	const query = `SELECT ` + postgres.Columns + ` FROM topology_identity()`
	for try := 0; ; try++ {
		var h postgres.History
		if err := conn.QueryRow(ctx, query).Scan(h.Targets()...); err != nil {
			return fmt.Errorf("ask for the history: %w", err)
		}
		judged := r.cfg.Histories.Judge(h)
		if judged == nil {
			return nil
		}
		if err := postgres.Mend(ctx, conn, h, judged); err != nil || conn.IsClosed() || !retry.Pause(ctx, try) {
			return errors.Join(judged, err)
		}
	}
}

// rows runs a query whose first columns are a history (postgres.Columns), and scans the others into targets. Once the
// first row's history has been judged, row is called for each row; an error of row ends the read.
func (r *Reader) rows(
	ctx context.Context, conn *pgx.Conn, targets []any, row func(postgres.History) error, query string, args ...any,
) (h postgres.History, _ error) {
	result, err := conn.Query(ctx, query, args...)
	if err != nil {
		return h, err
	}
	var of postgres.History // of the row
	first := true
	_, err = pgx.ForEachRow(result, append(of.Targets(), targets...), func() error {
		if first {
			first, h = false, of
			if err := r.cfg.Histories.Judge(h); err != nil {
				return err
			}
		}
		return row(h)
	})
	return h, err
}

// Heads reads the heads of some topologies. One that has none is not in the answer.
func (r *Reader) Heads(ctx context.Context, ids []stream.TopologyID) (map[stream.TopologyID]Head, error) {
	const query = `SELECT ` + postgres.Columns + `, topology_id::text, coalesce(seq, 0), coalesce(first, 0)
  FROM topology_heads_of($1::text[]::uuid[])`
	var heads map[stream.TopologyID]Head
	err := r.do(ctx, Live, func(ctx context.Context, conn *pgx.Conn) (postgres.History, error) {
		heads = make(map[stream.TopologyID]Head, len(ids))
		var (
			id *stream.TopologyID
			h  Head
		)
		return r.rows(ctx, conn, []any{&id, &h.Seq, &h.First}, func(postgres.History) error {
			if id != nil {
				heads[*id] = h
			}
			return nil
		}, query, texts(ids))
	})
	if err != nil {
		return nil, fmt.Errorf("read heads: %w", err)
	}
	return heads, nil
}

func texts(ids []stream.TopologyID) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = string(id)
	}
	return out
}
