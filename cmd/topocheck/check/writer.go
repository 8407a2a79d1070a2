package check

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// writeTimeout bounds one transaction. It is longer than any fault that should end by itself: a frozen database, a lock
// that somebody holds.
const writeTimeout = 90 * time.Second

// A writer commits to many topologies, one transaction after another, and keeps the ledgers.
type writer struct {
	run     *run
	n       int
	rng     *rand.Rand
	counter uint64
	conn    *pgx.Conn
	client  *http.Client
	claimed map[*topology][]string // ids of mutations that this writer has claimed, as a person does
	sent    time.Duration          // when it sent COMMIT, or the statement that is a transaction of its own
}

// errUndo asks for a rollback that is meant.
var errUndo = errors.New("rolled back on purpose")

// A transaction is one of a writer's, with the tags of what it writes.
type transaction struct {
	executor

	w      *writer
	tagged []taggedTopology
}

// An executor is a transaction, or a connection for statements that are each one of its own.
type executor interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, arguments ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

type taggedTopology struct {
	t *topology
	m tag
}

// write writes until ctx ends, and then finishes the mutations that it has claimed.
func (w *writer) write(ctx context.Context) {
	defer w.close()
	for ctx.Err() == nil {
		if w.run.pace.Wait(ctx) != nil {
			break
		}
		w.step(ctx)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 20*time.Second)
	defer cancel()
	for len(w.claimed) > 0 && end.Err() == nil {
		for t := range w.claimed {
			w.finish(end, t)
		}
	}
}

func (w *writer) close() {
	w.client.CloseIdleConnections()
	w.disconnect()
}

func (w *writer) disconnect() {
	if w.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = w.conn.Close(ctx) // it is gone either way
	w.conn = nil
}

// connected gives the writer a connection, or waits a moment and says no.
func (w *writer) connected(ctx context.Context) bool {
	if w.conn != nil && !w.conn.IsClosed() {
		return true
	}
	dial, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	conn, err := w.run.connect(dial, fmt.Sprint("writer ", w.n))
	if err != nil {
		w.run.stats.databaseErrors.Add(1)
		pause(ctx, 50*time.Millisecond+time.Duration(w.rng.Int64N(int64(200*time.Millisecond))))
		return false
	}
	w.conn = conn
	return true
}

// newTag makes a tag for the next statement that writes to each of topologies.
func (w *writer) newTag(topologies ...*topology) (tag, []taggedTopology) {
	w.counter++
	m := newTag(w.n, w.counter)
	tagged := make([]taggedTopology, len(topologies))
	for i, t := range topologies {
		tagged[i] = taggedTopology{t, m}
		t.begin(m)
	}
	return m, tagged
}

func (w *writer) decide(tagged []taggedTopology, o outcome) {
	at := w.run.since()
	for _, x := range tagged {
		x.t.decide(x.m, o, w.sent, at)
	}
	if len(tagged) == 0 {
		return
	}
	switch o {
	case committed:
		w.run.stats.commits.Add(1)
	case rolledBack:
		w.run.stats.rollbacks.Add(1)
	case unknown:
		w.run.stats.unknown.Add(1)
	case open:
	}
}

// transact runs one transaction to its end and tells whether it was committed. It does not begin when ctx has ended;
// once begun it goes on.
func (w *writer) transact(ctx context.Context, options pgx.TxOptions,
	do func(context.Context, *transaction) error) bool {
	if ctx.Err() != nil || !w.connected(ctx) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	tx, err := w.conn.BeginTx(ctx, options)
	if err != nil {
		w.failed(err, "BEGIN")
		return false
	}
	x := &transaction{executor: tx, w: w}
	if err := do(ctx, x); err != nil {
		if errors.Is(err, errUndo) {
			w.run.stats.undone.Add(1)
			err = nil
		}
		if rollback := tx.Rollback(ctx); rollback != nil || w.conn.IsClosed() {
			w.disconnect() // which rolls back, too: COMMIT was never said
		}
		w.decide(x.tagged, rolledBack)
		w.failed(err, "a transaction")
		return false
	}
	w.sent = w.run.since()
	return w.ended(x, tx.Commit(ctx), "COMMIT")
}

// alone runs one statement that is a transaction of its own.
func (w *writer) alone(ctx context.Context, do func(context.Context, *transaction) error) bool {
	if ctx.Err() != nil || !w.connected(ctx) {
		return false
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	x := &transaction{executor: w.conn, w: w}
	w.sent = w.run.since()
	return w.ended(x, do(ctx, x), "a statement")
}

// ended takes in what the last statement of a transaction ended with, and tells whether it is committed.
func (w *writer) ended(x *transaction, err error, what string) bool {
	var refused *pgconn.PgError
	switch {
	case err == nil:
		w.decide(x.tagged, committed)
		return true
	case errors.As(err, &refused) && refused.Severity == "ERROR", errors.Is(err, pgx.ErrTxCommitRollback):
		w.decide(x.tagged, rolledBack)
	default:
		w.disconnect()
		w.decide(x.tagged, unknown)
	}
	w.failed(err, what)
	return false
}

// failed looks at why a statement failed. What a fault or another writer can cause is expected; anything else no writer
// should ever get.
func (w *writer) failed(err error, what string) {
	var refused *pgconn.PgError
	switch {
	case err == nil:
		return
	case !errors.As(err, &refused):
		w.run.stats.databaseErrors.Add(1)
		w.disconnect()
		return
	case expected(refused.Code):
		w.run.stats.retries.Add(1)
		return
	}
	w.run.violations.add(Violation{
		Kind: Refused, Client: fmt.Sprint("writer ", w.n), At: w.run.since(), Fault: w.run.faults.now(),
		Detail: fmt.Sprintf("%s failed: %s (%s)", what, refused.Message, refused.Code),
	})
}

// expected tells whether a SQLSTATE is one that deadlocks, locks, and a database in trouble give.
func expected(code string) bool {
	switch code {
	case "40001", "40P01", "55P03", "57014", "25006", "25P03", "25P04":
		return true
	}
	for _, class := range []string{"08", "53", "57P", "58"} {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}

// emit writes one custom event.
func (x *transaction) emit(ctx context.Context, t *topology, payload string) error {
	const call = `SELECT topology_emit($1::text::uuid, $2, $3::text::jsonb)`
	m, tagged := x.w.newTag(t)
	x.tagged = append(x.tagged, tagged...)
	_, err := x.Exec(ctx, call, t.id, emitPrefix+payloadKinds[x.w.rng.IntN(len(payloadKinds))], withTag(m, payload))
	return err
}

// withTag puts a tag into an object.
func withTag(m tag, object string) string {
	return strings.Replace(object, "{", fmt.Sprintf(`{"m":%d,`, m), 1)
}

//nolint:gochecknoglobals // a table
var payloadKinds = []string{"tick", "decky.service_added", "decky.state_1", "traffic"}

// change changes the status or the reason of topologies in one statement.
func (x *transaction) change(ctx context.Context, flip bool, topologies ...*topology) error {
	const (
		status = `
UPDATE topologies SET status = CASE status WHEN 'active' THEN 'degraded' ELSE 'active' END, reason = $2
 WHERE id = ANY ($1::text[]::uuid[])`
		reason = `UPDATE topologies SET reason = $2 WHERE id = ANY ($1::text[]::uuid[])`
	)
	m, tagged := x.w.newTag(topologies...)
	x.tagged = append(x.tagged, tagged...)
	statement := reason
	if flip {
		statement = status
	}
	_, err := x.Exec(ctx, statement, idsOf(topologies), fmt.Sprint(reasonPrefix, uint64(m)))
	return err
}

// lock locks topology rows in id order.
func (x *transaction) lock(ctx context.Context, topologies ...*topology) error {
	const query = `SELECT FROM topologies WHERE id = ANY ($1::text[]::uuid[]) ORDER BY id FOR NO KEY UPDATE`
	_, err := x.Exec(ctx, query, idsOf(topologies))
	return err
}

func idsOf(topologies []*topology) []string {
	ids := make([]string, len(topologies))
	for i, t := range topologies {
		ids[i] = t.id
	}
	return ids
}
