package pgbus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/wait"
	"topostream/stream"
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
			b.cfg.Pool.Reset() // what made this connection silent did so to those of the pool
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
			b.log.Warn(b.withoutListen()+": LISTEN gets nothing through this connection, as through a transaction pooler; "+
				"give a direct one in --listen-database-url", "error", err)
		} else {
			b.log.Warn("LISTEN connection lost; "+b.withoutListen()+" until it is back", "error", err)
		}
		if !wait.Pause(ctx, wait.Backoff(try, 100*time.Millisecond, limit)) {
			return
		}
	}
}

// withoutListen is what people get while nothing LISTENs.
func (b *Bus) withoutListen() string {
	if b.walWanted() {
		return "what people NOTIFY does not reach streams"
	}
	return "streams run on poll"
}

// A session is the life of one LISTEN connection. All its methods run in the goroutine of [Bus.listen].
type session struct {
	*Bus

	conn     *pgx.Conn
	key      []byte                         // of the triggers' marks
	channels map[stream.TopologyID]struct{} // that conn listens to
	attached time.Time                      // when the last attach transaction began
}

func (b *Bus) session(ctx context.Context, cause stream.Cause) error {
	conn, key, err := b.connect(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	s := &session{Bus: b, conn: conn, key: key, channels: map[stream.TopologyID]struct{}{}}
	defer b.stats.Channels.Store(0)
	if err := s.probe(ctx); err != nil {
		return err
	}
	if err := s.settle(ctx); err != nil {
		return err
	}
	b.deafen()
	if err := s.listenToDeaf(ctx, stream.ReadReconnect); err != nil {
		return err
	}
	b.stats.Reconnects[cause].Add(1)
	b.setListening(true, "listening")
	b.log.Info("listening", "channels", len(s.channels))
	for {
		again, err := s.serveRequests(ctx)
		if err != nil {
			return err
		}
		if err := s.hear(ctx, again); err != nil {
			return err
		}
	}
}

// listened records what a committed transaction LISTENed and UNLISTENed to.
func (s *session) listened(listen, unlisten []stream.TopologyID) {
	for _, id := range unlisten {
		delete(s.channels, id)
	}
	for _, id := range listen {
		s.channels[id] = struct{}{}
	}
	s.stats.Channels.Store(int64(len(s.channels)))
}

func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = conn.Close(ctx) // it is gone either way
}

// settle has PostgreSQL drop the connection soon after this process stops reading. It comes after the probe: through a pooler the settings would
// stay on a backend that others get.
func (s *session) settle(ctx context.Context) error {
	// A frozen server must not pin the NOTIFY queue: keepalives find a dead host, tcp_user_timeout a peer that takes nothing.
	const settings = `SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000;
		SET statement_timeout = '4s'; SET idle_in_transaction_session_timeout = '10s'; LISTEN "` + settingsChannel + `"`
	if err := s.exec(ctx, settings); err != nil {
		return fmt.Errorf("prepare the LISTEN connection: %w", err)
	}
	return nil
}

// connect opens the connection and reads the key.
func (b *Bus) connect(ctx context.Context) (*pgx.Conn, []byte, error) {
	const readKey = `SELECT key, bus FROM topology_settings`
	cfg := b.cfg.Listen.Copy()
	nameConn(cfg, "topostream listen")
	conn, err := Connect(ctx, cfg)
	if err != nil {
		return nil, nil, fmt.Errorf("connect to LISTEN: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	var (
		key []byte
		bus string
	)
	if err = prepareConn(ctx, conn); err == nil {
		err = conn.QueryRow(ctx, readKey).Scan(&key, &bus)
	}
	if err != nil {
		closeConn(conn)
		return nil, nil, fmt.Errorf("prepare the LISTEN connection: %w", err)
	}
	if b.cfg.Replica == nil { // else what is read may be behind
		b.setSetting(bus)
	}
	return conn, key, nil
}

// probe proves that a NOTIFY through the pool arrives on the LISTEN connection and that both are the same database.
func (s *session) probe(ctx context.Context) error {
	const (
		listen   = `LISTEN "topostream.probe"`
		identity = `SELECT s.system_identifier, d.oid, pg_postmaster_start_time() FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()`
		notify   = `SELECT pg_notify('topostream.probe', $1)`
	)
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	nonce := fmt.Sprintf("%d %d", s.conn.PgConn().PID(), time.Now().UnixNano())
	type database struct {
		system int64
		oid    uint32
		server time.Time // when it was started: after a failover the old primary and the promoted standby differ in nothing else that can be asked
	}
	var here, there database
	if err := s.conn.QueryRow(ctx, identity).Scan(&here.system, &here.oid, &here.server); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if err := s.cfg.Pool.QueryRow(ctx, identity).Scan(&there.system, &there.oid, &there.server); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if here.system == there.system && here.oid == there.oid && !here.server.Equal(there.server) {
		s.cfg.Pool.Reset()
		return errors.New("the LISTEN connection and the pool are on different servers of one cluster, as during a failover; trying again")
	}
	if here.system != there.system || here.oid != there.oid {
		return fmt.Errorf("%w: --listen-database-url leads to another database (%d of system %d) than --database-url (%d of system %d)",
			errProbe, here.oid, here.system, there.oid, there.system)
	}
	if _, err := s.conn.Exec(ctx, listen); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if _, err := s.cfg.Pool.Exec(ctx, notify, nonce); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	for {
		n, err := s.conn.WaitForNotification(ctx)
		switch {
		case err != nil && ctx.Err() != nil:
			return fmt.Errorf("%w: a NOTIFY did not arrive within %s", errProbe, listenTimeout)
		case err != nil:
			return fmt.Errorf("probe: %w", err)
		case n.Payload == nonce:
			if _, err := s.conn.Exec(ctx, `UNLISTEN "topostream.probe"`); err != nil {
				return fmt.Errorf("probe: %w", err)
			}
			return nil
		}
	}
}

// listenToDeaf LISTENs to the channels of topologies that are attached but not yet heard of on this connection: all of them
// after a reconnect, and those that were attached by polling. What came before is read from the journal, by reads that
// begin after LISTEN took effect.
func (s *session) listenToDeaf(ctx context.Context, cause stream.Cause) error {
	for {
		topics := s.deaf(attachBatch)
		if len(topics) == 0 {
			return nil
		}
		var sql strings.Builder
		ids := make([]stream.TopologyID, len(topics))
		for i, t := range topics {
			ids[i] = t.id
			sql.WriteString("LISTEN " + channel(t.id) + ";")
		}
		if err := s.exec(ctx, sql.String()); err != nil {
			return fmt.Errorf("LISTEN again: %w", err)
		}
		s.mu.Lock()
		for _, t := range topics {
			t.listening = true
		}
		s.mu.Unlock()
		s.listened(ids, nil)
		s.fillAll(topics, cause)
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
}

func (s *session) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, listenTimeout)
	defer cancel()
	_, err := s.conn.Exec(ctx, sql)
	return err
}

// serveRequests attaches what waits and gives up the channels that nobody wants any more. It tells after what time it wants to be
// called again, 0 for when somebody asks.
func (s *session) serveRequests(ctx context.Context) (again time.Duration, err error) {
	for {
		if err := s.listenToDeaf(ctx, stream.ReadCatchUp); err != nil {
			return 0, err
		}
		if wait := s.gather(); wait > 0 && s.cfg.Replica == nil {
			return wait, nil
		}
		var ids []stream.TopologyID // what is read from a standby is attached there
		if s.cfg.Replica == nil {
			ids, again = s.takePending()
		}
		unlisten := s.takeUnlisten(ids)
		if len(ids) == 0 && len(unlisten) == 0 {
			return again, nil
		}
		s.attached = time.Now()
		tctx, cancel := context.WithTimeout(ctx, listenTimeout)
		rows, err := listenAndSnapshot(tctx, s.conn, ids, unlisten)
		cancel()
		if err != nil {
			s.attachFailed(ids)
			s.log.Warn("attach failed; trying again", "topologies", len(ids), "error", err)
			if s.conn.IsClosed() {
				return 0, fmt.Errorf("%w: %w", errAttach, err)
			}
			s.mu.Lock()
			for _, id := range unlisten {
				s.unlisten[id] = struct{}{}
			}
			s.mu.Unlock()
			continue
		}
		s.listened(ids, unlisten)
		s.attachDone(ids, rows, true)
	}
}

// gather tells how long those who ask should wait for more to come, so that a storm of requests costs few transactions; the
// first to ask after a while does not wait.
func (s *session) gather() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := len(s.pending); n == 0 && len(s.unlisten) == 0 || n >= attachBatch {
		return 0
	}
	return attachGap - time.Since(s.attached)
}

// hear forwards notifications until somebody asks for something, or a ping or the next call of serveRequests is due.
func (s *session) hear(ctx context.Context, again time.Duration) error {
	wait := s.cfg.Ping
	if again > 0 {
		wait = min(wait, again)
	}
	wctx, done := s.wait.context(ctx, wait)
	defer done()
	for {
		n, err := s.conn.WaitForNotification(wctx)
		switch {
		case err == nil:
			s.dispatch(n)
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case s.conn.IsClosed() || wctx.Err() == nil:
			return fmt.Errorf("wait for notifications: %w", err)
		case again == 0 && errors.Is(wctx.Err(), context.DeadlineExceeded):
			pctx, cancel := context.WithTimeout(ctx, listenTimeout)
			defer cancel()
			if err := s.conn.Ping(pctx); err != nil {
				return fmt.Errorf("%w: %w", errPing, err)
			}
		}
		return nil
	}
}

func (s *session) dispatch(n *pgconn.Notification) {
	if n.Channel == settingsChannel {
		s.compareSoon() // which reads the setting first
		return
	}
	name, ok := strings.CutPrefix(n.Channel, "topology.")
	if !ok {
		return
	}
	id := stream.TopologyID(name)
	t := s.topic(id)
	if t == nil {
		return
	}
	h, ok := parseHint(s.key, id, n.Payload)
	switch {
	case !ok:
		t.feed.AppendRaw(s.cfg.Encoder.Raw(id, n.Payload, time.Now()))
	case s.cfg.Replica != nil: // it may not have it yet
	case h.event != "":
		s.append(t, s.cfg.Encoder.Event(stream.Event{Seq: h.seq, Type: h.kind, JSON: h.event}))
	case h.seq > t.feed.Last():
		s.fill(t)
	}
}
