package notify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/postgres"
	"topostream/pgbus/source"
	"topostream/stream"
)

// A connection is the LISTEN connection while it lives. All its methods run in the goroutine of [Listener.Run].
type connection struct {
	*Listener

	conn *pgx.Conn
	sink source.Sink
	key  []byte // of the triggers' MACs
}

// prepare makes a new connection ready. Its settings come after the probe: through a pooler they would stay on a
// backend that others get.
func (c *connection) prepare(ctx context.Context) error {
	// A frozen program must not pin the NOTIFY queue: keepalives find a dead host, tcp_user_timeout a peer that takes
	// nothing.
	const settings = `SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3;
		SET tcp_user_timeout = 10000; SET statement_timeout = '4s'; SET idle_in_transaction_session_timeout = '10s';`
	const readKey = `SELECT key FROM topology_settings`
	pctx, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	if err := postgres.Prepare(pctx, c.conn); err != nil {
		return fmt.Errorf("prepare the LISTEN connection: %w", err)
	}
	if err := c.sameDatabase(pctx); err != nil { // before another database's history is judged
		return err
	}
	if c.cfg.Accept != nil {
		if err := c.cfg.Accept(pctx, c.conn); err != nil {
			return fmt.Errorf("prepare the LISTEN connection: %w", err)
		}
	}
	c.channels.accept()
	if c.cfg.Keyed {
		if err := c.conn.QueryRow(pctx, readKey).Scan(&c.key); err != nil {
			return fmt.Errorf("read the key of the triggers' notifications: %w", err)
		}
	}
	if err := c.probe(ctx); err != nil {
		return err
	}
	var listen strings.Builder
	listen.WriteString(settings + `LISTEN "` + settingsChannel + `";`)
	for _, name := range c.cfg.Channels {
		listen.WriteString("LISTEN " + pgx.Identifier{name}.Sanitize() + ";")
	}
	if err := c.exec(ctx, listen.String()); err != nil {
		return fmt.Errorf("prepare the LISTEN connection: %w", err)
	}
	return nil
}

// subscribe LISTENs to the wanted channels that the connection does not LISTEN to: all of them at first, then those
// of topologies that were attached without it. What came before is in the journal, for a read that begins after
// LISTEN took effect.
func (c *connection) subscribe(ctx context.Context, why stream.Cause) error {
	for {
		ids := c.channels.missing(batch)
		if len(ids) == 0 {
			return nil
		}
		var sql strings.Builder
		for _, id := range ids {
			sql.WriteString("LISTEN " + quoted(id) + ";")
		}
		if err := c.exec(ctx, sql.String()); err != nil {
			return fmt.Errorf("LISTEN again: %w", err)
		}
		if ids = c.channels.confirm(ids); len(ids) > 0 {
			c.sink.Subscribed(ids, why)
		}
		c.cfg.Stats.Channels.Set(float64(c.channels.subscribed()))
	}
}

func (c *connection) exec(ctx context.Context, sql string) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	_, err := c.conn.Exec(ctx, sql)
	return err
}

// step LISTENs to what is wanted, runs a task or UNLISTENs what is not wanted, and then waits for notifications.
func (c *connection) step(ctx context.Context) error {
	if c.channels.isGivenUp() {
		return errGivenUp
	}
	if err := c.subscribe(ctx, stream.ReadCatchUp); err != nil {
		return err
	}
	var err error
	select {
	case t := <-c.tasks:
		err = c.attach(ctx, t)
	default:
		err = c.unlisten(ctx)
	}
	if err != nil {
		return err
	}
	return c.receive(ctx)
}

// attach runs a task. It returns an error only when that has cost the connection.
func (c *connection) attach(ctx context.Context, t *attachTask) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	unlisten := c.channels.takeUnwanted(t.ids)
	err := c.transaction(ctx, t, unlisten)
	if err == nil {
		if t.over.CompareAndSwap(false, true) {
			c.channels.listened(t.ids)
		} else {
			c.channels.confirm(t.ids) // what nobody wants by now is given up
		}
		c.cfg.Stats.Channels.Set(float64(c.channels.subscribed()))
	} else {
		c.channels.giveBack(unlisten)
	}
	t.done <- err
	if c.conn.IsClosed() {
		return fmt.Errorf("%w: %w", errAttach, err)
	}
	return nil
}

func (c *connection) transaction(ctx context.Context, t *attachTask, unlisten []stream.TopologyID) error {
	var sql strings.Builder
	sql.WriteString(postgres.BeginLight)
	for _, id := range unlisten {
		sql.WriteString("UNLISTEN " + quoted(id) + ";")
	}
	for _, id := range t.ids {
		sql.WriteString("LISTEN " + quoted(id) + ";")
	}
	_, err := c.conn.Exec(ctx, sql.String())
	if err == nil {
		err = t.read(ctx, c.conn)
	}
	if err == nil {
		_, err = c.conn.Exec(ctx, "COMMIT")
	}
	if err != nil && !c.conn.IsClosed() {
		if _, rerr := c.conn.Exec(ctx, "ROLLBACK"); rerr != nil {
			postgres.Close(c.conn)
		}
	}
	return err
}

// unlisten UNLISTENs the channels that are not wanted any more.
func (c *connection) unlisten(ctx context.Context) error {
	ids := c.channels.takeUnwanted(nil)
	if len(ids) == 0 {
		return nil
	}
	var sql strings.Builder
	for _, id := range ids {
		sql.WriteString("UNLISTEN " + quoted(id) + ";")
	}
	if err := c.exec(ctx, sql.String()); err != nil {
		return fmt.Errorf("UNLISTEN: %w", err)
	}
	c.cfg.Stats.Channels.Set(float64(c.channels.subscribed()))
	return nil
}

// receive passes notifications on until it is interrupted or a ping is due.
func (c *connection) receive(ctx context.Context) error {
	wctx, done := c.wait.context(ctx, c.cfg.Ping)
	defer done()
	for {
		n, err := c.conn.WaitForNotification(wctx)
		switch {
		case err == nil:
			c.tell(n)
			continue
		case ctx.Err() != nil:
			return ctx.Err()
		case c.conn.IsClosed() || wctx.Err() == nil:
			return fmt.Errorf("wait for notifications: %w", err)
		case errors.Is(wctx.Err(), context.DeadlineExceeded):
			return c.ping(ctx)
		}
		return nil
	}
}

func (c *connection) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	if err := c.conn.Ping(ctx); err != nil {
		return fmt.Errorf("%w: %w", errPing, err)
	}
	return nil
}

// tell passes a notification on to the sink.
func (c *connection) tell(n *pgconn.Notification) {
	if n.Channel == settingsChannel {
		c.sink.SettingChanged()
		return
	}
	if n.Channel == probeChannel { // another server's
		return
	}
	if n.Channel == ListChannel {
		if id, ok := stream.ParseTopologyID(n.Payload); ok { // anybody may NOTIFY anything
			c.sink.Listed(id)
		}
		return
	}
	name, ok := strings.CutPrefix(n.Channel, "topology.")
	if !ok {
		c.sink.Work()
		return
	}
	id := stream.TopologyID(name)
	if e, ok := parse(c.key, id, n.Payload); ok {
		c.sink.Event(e)
	} else {
		c.sink.Raw(id, n.Payload)
	}
}

// probe proves that a NOTIFY through the pool arrives on the connection, and that the connection has a place in
// PostgreSQL's queue from which it misses nothing. Its channel is kept: where nobody else in the cluster LISTENs,
// pg_notification_queue_usage(), which the triggers call, moves the queue's tail past notifications of transactions
// that have not committed yet, and whoever LISTENs then begins behind them (asyncQueueAdvanceTail in
// src/backend/commands/async.c). A notification of our own waits for theirs; a connection that has been told of it
// and LISTENs on has been told of them, or they are visible to the reads that follow.
func (c *connection) probe(ctx context.Context) error {
	const (
		listen = `LISTEN "` + probeChannel + `"`
		notify = `SELECT pg_catalog.pg_notify('` + probeChannel + `', $1)`
	)
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Patience)
	defer cancel()
	if _, err := c.conn.Exec(ctx, listen); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	nonce := fmt.Sprintf("%d %d", c.conn.PgConn().PID(), time.Now().UnixNano())
	if _, err := c.cfg.Pool.Exec(ctx, notify, nonce); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	for {
		n, err := c.conn.WaitForNotification(ctx)
		switch {
		case err != nil && errors.Is(ctx.Err(), context.DeadlineExceeded):
			return fmt.Errorf("%w: a NOTIFY did not arrive within %s", errProbe, c.cfg.Patience)
		case err != nil:
			return fmt.Errorf("probe: %w", err)
		case n.Payload == nonce:
			return nil
		}
	}
}

// sameDatabase compares where the connection and the pool lead.
func (c *connection) sameDatabase(ctx context.Context) error {
	const identity = `
SELECT s.system_identifier, d.oid, pg_postmaster_start_time()
  FROM pg_control_system() s, pg_database d WHERE d.datname = current_database()`
	type database struct {
		system int64
		oid    uint32
		server time.Time // after a failover the old primary and the promoted standby differ in nothing else that can be asked
	}
	var here, there database
	if err := c.conn.QueryRow(ctx, identity).Scan(&here.system, &here.oid, &here.server); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	if err := c.cfg.Pool.QueryRow(ctx, identity).Scan(&there.system, &there.oid, &there.server); err != nil {
		return fmt.Errorf("probe: %w", err)
	}
	switch {
	case here.system != there.system || here.oid != there.oid:
		return fmt.Errorf("%w: --listen-database-url leads to another database (%d of system %d) than --database-url "+
			"(%d of system %d)", errProbe, here.oid, here.system, there.oid, there.system)
	case !here.server.Equal(there.server):
		c.cfg.Pool.Reset()
		return errors.New("the LISTEN connection and the pool are on different servers of one cluster, as during a failover")
	}
	return nil
}
