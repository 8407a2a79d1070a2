package mutator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
	"topostream/pgbus/wait"
)

// errDeaf: LISTEN does nothing on this connection.
var errDeaf = errors.New("LISTEN gets nothing through this connection, as through a transaction pooler")

// listenTimeout bounds whatever the LISTEN connection is asked.
const listenTimeout = 4 * time.Second

// listen owns the LISTEN connection and reconnects for ever. While it is away, the worker goes by the poll.
func (w *Worker) listen(ctx context.Context) {
	for try := 0; ; try++ {
		start := time.Now()
		err := w.session(ctx)
		if ctx.Err() != nil {
			return
		}
		w.wake.Set()
		if time.Since(start) > 30*time.Second {
			try = 0
		}
		limit := 5 * time.Second
		if errors.Is(err, errDeaf) {
			limit = 30 * time.Second
		}
		w.log.Warn("LISTEN is away; working at the poll's pace until it is back", "poll", w.cfg.Poll, "error", err)
		if !wait.Pause(ctx, wait.Backoff(try, 100*time.Millisecond, limit)) {
			return
		}
	}
}

// session is the life of one LISTEN connection.
func (w *Worker) session(ctx context.Context) error {
	// A frozen worker must not pin the NOTIFY queue: keepalives find a dead host, tcp_user_timeout a peer that takes
	// nothing. All this comes after the probe: through a pooler it would stay on a backend that others get.
	const prepare = `UNLISTEN "topostream.probe"; SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000;
		SET statement_timeout = '4s'; SET idle_in_transaction_session_timeout = '10s'; LISTEN topology_mutations; LISTEN "` + settingsChannel + `"`
	conn, err := postgres.Connect(ctx, w.cfg.Listen)
	if err != nil {
		return fmt.Errorf("connect to LISTEN: %w", err)
	}
	defer closeConn(conn)
	cctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	if err := w.probe(cctx, conn); err != nil {
		return err
	}
	if _, err := conn.Exec(cctx, prepare); err != nil {
		return fmt.Errorf("LISTEN: %w", err)
	}
	if err := w.readBus(ctx); err != nil {
		return err
	}
	w.log.Info("listening for mutations")
	w.wake.Set() // for what came before
	for {
		if err := w.hear(ctx, conn); err != nil {
			return err
		}
	}
}

// probe proves that a NOTIFY through the pool arrives. The connection listens to the probe's channel afterwards.
func (w *Worker) probe(ctx context.Context, conn *pgx.Conn) error {
	const (
		listen = `LISTEN "topostream.probe"`
		notify = `SELECT pg_notify('topostream.probe', $1)`
	)
	if _, err := conn.Exec(ctx, listen); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	nonce := fmt.Sprintf("worker %d %d", conn.PgConn().PID(), time.Now().UnixNano())
	if _, err := w.cfg.Pool.Exec(ctx, notify, nonce); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		switch {
		case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return errDeaf
		case err != nil:
			return fmt.Errorf("probe: %w", err)
		case n.Payload == nonce:
			return nil
		}
	}
}

// hear waits for one notification, and pings while there is none.
func (w *Worker) hear(ctx context.Context, conn *pgx.Conn) error {
	wctx, cancel := context.WithTimeout(ctx, w.cfg.Ping)
	defer cancel()
	n, err := conn.WaitForNotification(wctx)
	switch {
	case err == nil && n.Channel == settingsChannel:
		return w.readBus(ctx)
	case err == nil:
		w.wake.Set()
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case conn.IsClosed() || wctx.Err() == nil:
		return fmt.Errorf("wait for notifications: %w", err)
	}
	pctx, done := context.WithTimeout(ctx, listenTimeout)
	defer done()
	if err := conn.Ping(pctx); err != nil {
		return fmt.Errorf("no answer to a ping: %w", err)
	}
	return nil
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is gone either way
}
