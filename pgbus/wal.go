package pgbus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/wait"
	"topostream/pgbus/wal"
	"topostream/stream"
)

// Errors that no retry mends.
var (
	errOtherDatabase = errors.New("the replication connection leads to another database than the pool")
	errNoPublication = errors.New("there is no publication of inserts on topology_events")
)

// followWAL reads the journal from the WAL while that is this server's bus. It reconnects for ever; while no stream is there, watchHeads polls.
func (b *Bus) followWAL(ctx context.Context) {
	for try := 0; ; try++ {
		for !b.walWanted() {
			select {
			case <-b.rewired:
			case <-ctx.Done():
				return
			}
		}
		start := time.Now()
		err := b.streamWAL(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			b.setStreaming(false, "not wanted")
			b.compareSoon() // what the stream had still to send
			b.log.Info("the WAL is no longer read")
			try = -1
			continue
		case time.Since(start) > 30*time.Second:
			try = 0
		}
		b.setStreaming(false, err.Error())
		limit := 5 * time.Second
		if advice := walAdvice(err); advice != "" {
			limit = 30 * time.Second
			b.log.Warn("streams run on poll: the WAL cannot be read", "error", err, "advice", advice)
		} else {
			b.log.Warn("the WAL's stream is lost; streams run on poll until it is back", "error", err)
		}
		select {
		case <-b.rewired: // the bus may have changed
		case <-time.After(wait.Backoff(try, 100*time.Millisecond, limit)):
		case <-ctx.Done():
			return
		}
	}
}

// walAdvice says what to do about an error that no retry mends; empty for others.
func walAdvice(err error) string {
	pgErr, _ := errors.AsType[*pgconn.PgError](err)
	switch {
	case errors.Is(err, errOtherDatabase):
		return "give direct connections to the same database in --database-url, --listen-database-url and --replica-database-url"
	case errors.Is(err, errNoPublication), pgErr != nil && pgErr.Code == "42704": // undefined_object: it was dropped
		return "run `topostream bus wal`, which makes the publication"
	case pgErr == nil:
		return ""
	case pgErr.Code == "08P01": // protocol_violation: a pooler takes no replication connection
		return "give a direct connection in --listen-database-url"
	case pgErr.Code == "55000", pgErr.Code == "42501", pgErr.Code == "28000", pgErr.Code == "53400": // object_not_in_prerequisite_state, insufficient_privilege, invalid_authorization_specification, configuration_limit_exceeded
		return "run `topostream bus status`, which says what to change"
	}
	return ""
}

// streamWAL is the life of one replication connection. It returns nil when the WAL is not wanted any more and nothing can be missed without it.
func (b *Bus) streamWAL(ctx context.Context) error {
	conn, publication, err := b.connectWAL(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	b.setStreaming(false, "making a replication slot")
	open := b.sayWhatTheSlotWaitsFor(ctx, conn.PID())
	s, err := conn.Open(ctx, publication, b.cfg.Replica != nil)
	open()
	if err != nil {
		return err
	}
	v, err := wal.ReadVisibility(ctx, b.read())
	if err != nil {
		return err
	}
	b.unsettled.watch(v.Running)
	b.fillAll(b.attached(), stream.ReadReconnect)
	b.setStreaming(true, "streaming")
	b.log.Info("reading the WAL", "publication", publication)
	d := draining{bus: b}
	return s.Run(ctx, b.streamed, func() bool { return d.goOn(ctx) })
}

// connectWAL opens the replication connection and proves that it leads to the pool's database.
func (b *Bus) connectWAL(ctx context.Context) (conn *wal.Conn, publication string, err error) {
	const identity = `
SELECT topology_publication(), s.system_identifier::text, current_database(),
       EXISTS (SELECT FROM pg_publication p JOIN pg_publication_tables t ON t.pubname = p.pubname WHERE p.pubname = topology_publication() AND p.pubinsert AND t.tablename = 'topology_events')
  FROM pg_control_system() s`
	qctx, done := context.WithTimeout(ctx, listenTimeout)
	defer done()
	var (
		here, there wal.Database
		published   bool
	)
	err = b.read().QueryRow(qctx, identity).Scan(&publication, &here.System, &here.Name, &published)
	switch {
	case err != nil:
		return nil, "", fmt.Errorf("find the publication: %w", err)
	case !published:
		return nil, "", fmt.Errorf("%w (%s)", errNoPublication, publication)
	}
	cfg, patience := Primary(b.cfg.Listen)
	if b.cfg.Replica != nil {
		cfg, patience = b.cfg.Replica.Config().ConnConfig, listenTimeout
		b.warnOfConflicts(qctx)
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err = wal.Connect(ctx, cfg, "topostream wal")
	if err != nil {
		return nil, "", err
	}
	if there, err = conn.Database(ctx); err == nil && here != there {
		err = errOtherDatabase
	}
	if err != nil {
		conn.Close()
		return nil, "", err
	}
	return conn, publication, nil
}

// sayWhatTheSlotWaitsFor tells people why events go by poll for so long. The caller calls done when it waits no more.
func (b *Bus) sayWhatTheSlotWaitsFor(ctx context.Context, pid uint32) (done func()) {
	const blocking = `SELECT pg_blocking_pids($1)`
	ctx, cancel := context.WithCancel(ctx)
	said := make(chan struct{})
	go func() {
		defer close(said)
		if b.cfg.Replica != nil {
			b.logStandbySnapshots(ctx)
			return
		}
		for pause := time.Second; wait.Pause(ctx, pause); pause = 10 * time.Second {
			var pids []int32
			if err := b.cfg.Pool.QueryRow(ctx, blocking, pid).Scan(&pids); err != nil {
				b.log.Debug("cannot ask what the replication slot waits for", "error", err)
				continue
			}
			b.stats.SlotWaiting.Store(true)
			b.setStreaming(false, fmt.Sprintf("the replication slot waits for transactions that are open (pids %v)", pids))
			b.log.Warn("streams run on poll: a replication slot is made only when every transaction that is open in the cluster has ended", "pids", pids)
		}
	}()
	return func() {
		cancel()
		<-said
		b.stats.SlotWaiting.Store(false)
	}
}

// streamed takes one event from the WAL. Most topologies are not attached: their rows are never encoded.
func (b *Bus) streamed(e wal.Event) {
	seq := stream.Seq(e.Seq)
	b.unsettled.add(e.Topology, seq, e.XID) // also from a standby, which may have been promoted
	b.mu.Lock()
	t := b.topics[stream.TopologyID(e.Topology)]
	b.mu.Unlock()
	if t == nil {
		return
	}
	if kind := string(e.Type); stream.ValidType(kind) && kind != "deleted" { // as in a notification: the end is left to the journal
		if event, ok := e.JSON(); ok {
			b.append(t, b.cfg.Encoder.Event(stream.Event{Seq: seq, Type: kind, JSON: event}))
			return
		}
	}
	if seq > t.feed.Last() {
		b.fill(t)
	}
}

// draining ends a stream that is not wanted any more: transactions that began under the old setting do not NOTIFY, so it goes on until they have ended.
type draining struct {
	bus   *Bus
	since wal.Visibility
	begun bool
}

func (d *draining) goOn(ctx context.Context) bool {
	if d.bus.walWanted() {
		d.begun = false
		return true
	}
	v, err := wal.ReadVisibility(ctx, d.bus.cfg.Pool)
	if err != nil {
		return true
	}
	if !d.begun {
		d.since, d.begun = v, true
	}
	for _, xid := range d.since.Running {
		if !v.Sees(xid) {
			return true
		}
	}
	return false
}
