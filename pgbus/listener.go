package pgbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/stream"
	"topostream/stream/sse"
)

// Errors that end a LISTEN session, by cause.
var (
	errPing   = errors.New("no answer to a ping")
	errAttach = errors.New("the attach transaction broke the connection")
	errProbe  = errors.New("LISTEN does not work on this connection")
)

// listenTimeout bounds whatever the owner of the LISTEN connection asks PostgreSQL.
const listenTimeout = 4 * time.Second

// listen owns the LISTEN connection: no other goroutine and no request's context ever touches it. It reconnects for
// ever; while it is away, watchHeads polls, and clients see a pause at most.
func (b *Bus) listen(ctx context.Context) {
	cause := stream.ReconnectStart
	for try := 0; ; try++ {
		start := time.Now()
		err := b.session(ctx, cause)
		if ctx.Err() != nil {
			return
		}
		cause = stream.ReconnectBroken
		switch {
		case errors.Is(err, errPing):
			cause = stream.ReconnectPing
		case errors.Is(err, errAttach):
			cause = stream.ReconnectAttach
		}
		b.setListening(false, err.Error())
		if time.Since(start) > 30*time.Second {
			try = 0
		}
		limit := 5 * time.Second
		if errors.Is(err, errProbe) {
			limit = 30 * time.Second
			b.log.Warn("streams run on poll: LISTEN gets nothing through this connection, as through a transaction pooler; "+
				"give a direct one in --listen-database-url", "error", err)
		} else {
			b.log.Warn("LISTEN connection lost; streams run on poll until it is back", "error", err)
		}
		if !pause(ctx, backoff(try, 100*time.Millisecond, limit)) {
			return
		}
	}
}

// session is the life of one LISTEN connection.
func (b *Bus) session(ctx context.Context, cause stream.Cause) error {
	conn, key, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer b.stats.Channels.Store(0)
	defer closeConn(conn)
	if err := b.probe(ctx, conn); err != nil {
		return err
	}
	b.deafen()
	if err := b.listenToPolled(ctx, conn, stream.ReadReconnect); err != nil {
		return err
	}
	b.stats.Reconnects[cause].Add(1)
	b.setListening(true, "listening")
	b.log.Info("listening", "channels", b.stats.Channels.Load())
	for {
		if err := b.serveRequests(ctx, conn); err != nil {
			return err
		}
		if err := b.hear(ctx, conn, key); err != nil {
			return err
		}
	}
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is gone either way
}

// connect opens the connection, has PostgreSQL drop it soon after this process stops reading, and reads the key.
func (b *Bus) connect(ctx context.Context) (*pgx.Conn, []byte, error) {
	const (
		// A frozen server must not pin the NOTIFY queue: keepalives find a dead host, tcp_user_timeout a peer that takes nothing.
		settings = `SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000;
			SET statement_timeout = '4s'; SET idle_in_transaction_session_timeout = '10s'`
		readKey = `SELECT key FROM topology_settings`
	)
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	conn, err := pgx.ConnectConfig(ctx, b.cfg.Listen.Copy())
	if err != nil {
		return nil, nil, fmt.Errorf("connect to LISTEN: %w", err)
	}
	var key []byte
	if _, err = conn.Exec(ctx, settings); err == nil {
		if err = checkEpoch(ctx, conn); err == nil {
			err = conn.QueryRow(ctx, readKey).Scan(&key)
		}
	}
	if err != nil {
		closeConn(conn)
		return nil, nil, fmt.Errorf("prepare the LISTEN connection: %w", err)
	}
	return conn, key, nil
}

// probe proves that a NOTIFY through the pool arrives on conn and that both are the same database.
func (b *Bus) probe(ctx context.Context, conn *pgx.Conn) error {
	const (
		listen   = `LISTEN "topostream.probe"`
		identity = `SELECT s.system_identifier || '/' || d.oid FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()`
		notify   = `SELECT pg_notify('topostream.probe', $1)`
	)
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	nonce := fmt.Sprintf("%d %d", conn.PgConn().PID(), time.Now().UnixNano())
	var here, there string
	if err := conn.QueryRow(ctx, identity).Scan(&here); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if err := b.cfg.Pool.QueryRow(ctx, identity).Scan(&there); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if here != there {
		return fmt.Errorf("%w: --listen-database-url leads to another database (%s) than --database-url (%s)", errProbe, here, there)
	}
	if _, err := conn.Exec(ctx, listen); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if _, err := b.cfg.Pool.Exec(ctx, notify, nonce); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("%w: a NOTIFY did not arrive within %s", errProbe, listenTimeout)
		case err != nil:
			return fmt.Errorf("probe: %w", err)
		case n.Payload == nonce:
			if _, err := conn.Exec(ctx, `UNLISTEN "topostream.probe"`); err != nil {
				return fmt.Errorf("probe: %w", err)
			}
			return nil
		}
	}
}

// listenToPolled LISTENs to the channels of topologies that are attached but not yet heard of on this connection: all of them
// after a reconnect, and those that were attached by polling. What came before is read from the journal, by reads that
// begin after LISTEN took effect.
func (b *Bus) listenToPolled(ctx context.Context, conn *pgx.Conn, cause stream.Cause) error {
	for {
		topics := b.deaf(attachBatch)
		if len(topics) == 0 {
			return nil
		}
		var sql strings.Builder
		for _, t := range topics {
			sql.WriteString("LISTEN " + channel(t.id) + ";")
		}
		if err := b.exec(ctx, conn, sql.String()); err != nil {
			return fmt.Errorf("LISTEN again: %w", err)
		}
		b.mu.Lock()
		for _, t := range topics {
			t.listening = true
		}
		b.mu.Unlock()
		b.stats.Channels.Add(int64(len(topics)))
		b.fill2(topics, cause)
	}
}

// deaf gives up to n attached topics whose channels are not listened to.
func (b *Bus) deaf(n int) []*topic {
	b.mu.Lock()
	defer b.mu.Unlock()
	var topics []*topic
	for _, t := range b.topics {
		if !t.listening && len(topics) < n {
			topics = append(topics, t)
		}
	}
	return topics
}

// deafen forgets what the last connection listened to.
func (b *Bus) deafen() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.unlisten)
	for _, t := range b.topics {
		t.listening = false
	}
	b.stats.Channels.Store(0)
}

func (b *Bus) exec(ctx context.Context, conn *pgx.Conn, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	_, err := conn.Exec(ctx, sql)
	return err
}

// serveRequests attaches what waits and gives up the channels that nobody wants any more.
func (b *Bus) serveRequests(ctx context.Context, conn *pgx.Conn) error {
	for {
		if err := b.listenToPolled(ctx, conn, stream.ReadCatchUp); err != nil {
			return err
		}
		ids, again := b.takePending()
		if again > 0 {
			time.AfterFunc(again, b.wait.interrupt)
		}
		unlisten := b.takeUnlisten(ids)
		if len(ids) == 0 && len(unlisten) == 0 {
			return nil
		}
		tctx, cancel := context.WithTimeout(ctx, listenTimeout)
		rows, err := listenAndSnapshot(tctx, conn, ids, unlisten)
		cancel()
		if err != nil {
			b.attachFailed(ids)
			b.log.Warn("attach failed; trying again", "topologies", len(ids), "error", err)
			if conn.IsClosed() {
				return fmt.Errorf("%w: %w", errAttach, err)
			}
			b.mu.Lock()
			for _, id := range unlisten {
				b.unlisten[id] = struct{}{}
			}
			b.mu.Unlock()
			return nil
		}
		b.stats.Channels.Add(int64(len(ids) - len(unlisten)))
		b.attachDone(ids, rows, true)
	}
}

// hear forwards notifications until somebody asks for something or the connection has been idle for a ping's time.
func (b *Bus) hear(ctx context.Context, conn *pgx.Conn, key []byte) error {
	wctx, done := b.wait.context(ctx, b.cfg.Ping)
	defer done()
	for {
		n, err := conn.WaitForNotification(wctx)
		switch {
		case err == nil:
			b.dispatch(n, key)
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case conn.IsClosed() || wctx.Err() == nil:
			return fmt.Errorf("wait for notifications: %w", err)
		case errors.Is(wctx.Err(), context.DeadlineExceeded):
			pctx, cancel := context.WithTimeout(ctx, listenTimeout)
			defer cancel()
			if err := conn.Ping(pctx); err != nil {
				return fmt.Errorf("%w: %w", errPing, err)
			}
		}
		return nil
	}
}

func (b *Bus) dispatch(n *pgconn.Notification, key []byte) {
	name, ok := strings.CutPrefix(n.Channel, "topology.")
	if !ok {
		return
	}
	id := stream.TopologyID(name)
	t := b.topic(id)
	if t == nil {
		return
	}
	h, ok := parseHint(key, id, n.Payload)
	switch {
	case !ok:
		t.feed.AppendRaw(sse.RawNotify(id, n.Payload, time.Now()))
	case h.event != "":
		b.append(t, journalFrame(h.seq, eventType(h.event), h.event))
	case h.seq > t.feed.Last():
		b.fill(t, stream.ReadHole)
	}
}
