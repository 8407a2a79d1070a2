package notify

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
)

// The experiment of ARCHITECTURE.md ("Attach"): four ways to attach against a concurrent writer. The losing ones must
// lose here, or the test could not see the bug that the fourth does not have.

// A raceAttach takes a snapshot's seq and LISTENs, and gives the seqs that a catch-up read afterwards, if the
// protocol has one.
type raceAttach func(ctx context.Context, conn *pgx.Conn,
	id stream.TopologyID) (s stream.Seq, caughtUp []stream.Seq, err error)

func attachSeparately(
	ctx context.Context,
	conn *pgx.Conn,
	id stream.TopologyID,
) (s stream.Seq, _ []stream.Seq, err error) {
	if err := conn.QueryRow(ctx, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id).
		Scan(&s); err != nil {
		return 0, nil, err
	}
	_, err = conn.Exec(ctx, "LISTEN "+quoted(id))
	return s, nil, err
}

func attachInOneTransaction(
	ctx context.Context,
	conn *pgx.Conn,
	id stream.TopologyID,
) (stream.Seq, []stream.Seq, error) {
	const light = `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`
	if _, err := conn.Exec(ctx, postgres.BeginLight+"LISTEN "+quoted(id)); err != nil {
		return 0, nil, err
	}
	var s stream.Seq
	if err := conn.QueryRow(ctx, light, id).Scan(&s); err != nil {
		return 0, nil, err
	}
	_, err := conn.Exec(ctx, "COMMIT")
	return s, nil, err
}

func attachWithCatchUp(ctx context.Context, conn *pgx.Conn, id stream.TopologyID) (stream.Seq, []stream.Seq, error) {
	s, _, err := attachInOneTransaction(ctx, conn, id)
	if err != nil {
		return 0, nil, err
	}
	const catchUp = `SELECT seq FROM topology_events WHERE topology_id = $1::text::uuid AND seq > $2 ORDER BY seq`
	rows, err := conn.Query(ctx, catchUp, id, int64(s))
	if err != nil {
		return 0, nil, err
	}
	seqs, err := pgx.CollectRows(rows, pgx.RowTo[stream.Seq])
	return s, seqs, err
}

// raceResult is what a client of the protocol would have seen: after the snapshot, the catch-up, then notifications,
// each seq at or below the last dropped.
type raceResult struct{ attaches, lost, doubled, reordered int }

func (r *raceResult) deliver(s stream.Seq, seqs []stream.Seq, until stream.Seq) {
	r.attaches++
	last, seen := s, map[stream.Seq]bool{}
	for _, n := range seqs {
		if n <= last {
			if !seen[n] && n > s {
				r.reordered++
			}
			continue
		}
		if seen[n] {
			r.doubled++
		}
		seen[n], last = true, n
	}
	for n := s + 1; n <= until; n++ {
		if !seen[n] {
			r.lost++
			return
		}
	}
}

// race attaches once and compares what arrives with the journal.
func race(
	ctx context.Context,
	conn *pgx.Conn,
	db *pgx.Conn,
	key []byte,
	id stream.TopologyID,
	attach raceAttach,
	r *raceResult,
) error {
	s, seqs, err := attach(ctx, conn, id)
	if err != nil {
		return err
	}
	// Whatever was committed by now must be seen; notifications of one topology come in seq order, so one above proves
	// that no other is under way.
	var until stream.Seq
	if err := db.QueryRow(ctx, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id).
		Scan(&until); err != nil {
		return err
	}
	for {
		n, err := conn.WaitForNotification(ctx)
		if err != nil {
			return fmt.Errorf("wait for %d: %w", until, err)
		}
		if n.Channel != "topology."+string(id) {
			continue
		}
		e, ok := parse(key, id, n.Payload)
		if !ok {
			return fmt.Errorf("the trigger's own notification has a wrong MAC: %q", n.Payload)
		}
		seqs = append(seqs, e.Seq)
		if e.Seq > until {
			break
		}
	}
	r.deliver(s, seqs, until)
	return nil
}

func TestOnlyTheCatchUpAttachLosesNothing(t *testing.T) {
	if testing.Short() {
		t.Skip("long: thousands of attaches")
	}
	t.Parallel()
	db := pgtest.New(t)
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	admin := db.Conn(t)
	var (
		id  stream.TopologyID
		key []byte
	)
	must(t, admin.QueryRow(ctx, `INSERT INTO topologies (name) VALUES ('race') RETURNING id::text`).Scan(&id))
	must(t, admin.QueryRow(ctx, `SELECT key FROM topology_settings`).Scan(&key))

	for range 2 {
		writer := db.Conn(t)
		done := make(chan struct{})
		wctx, stop := context.WithCancel(ctx)
		go func() {
			defer close(done)
			for wctx.Err() == nil {
				_, _ = writer.Exec(wctx, `SELECT topology_emit($1::text::uuid, 'race', '{}')`, id) // the last one is cancelled
			}
		}()
		t.Cleanup(func() { stop(); <-done })
	}

	fresh := func(ctx context.Context, attach raceAttach, r *raceResult) error {
		conn, err := pgx.Connect(ctx, db.URL)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		return race(ctx, conn, admin, key, id, attach, r)
	}
	listening := db.Conn(t)
	_, err := listening.Exec(ctx, `LISTEN something_else`)
	must(t, err)
	old := func(ctx context.Context, attach raceAttach, r *raceResult) error {
		if err := race(ctx, listening, admin, key, id, attach, r); err != nil {
			return err
		}
		_, err := listening.Exec(ctx, `UNLISTEN `+quoted(id))
		return err
	}
	for _, p := range []struct {
		name   string
		run    func(context.Context, raceAttach, *raceResult) error
		attach raceAttach
		loses  bool // must lose
		safe   bool // must not
		trials int
	}{
		{"snapshot, then LISTEN", fresh, attachSeparately, true, false, 2000},
		{"one transaction on a fresh connection", fresh, attachInOneTransaction, true, false, 2000},
		{"one transaction on a connection that listens", old, attachInOneTransaction, false, false, 300},
		{"one transaction, then a catch-up, on a fresh connection", fresh, attachWithCatchUp, false, true, 1000},
		{"one transaction, then a catch-up, on a connection that listens", old, attachWithCatchUp, false, true, 1000},
	} {
		if !pgtest.All() && !p.loses {
			p.trials /= 5
		}
		var r raceResult
		for range p.trials {
			must(t, p.run(ctx, p.attach, &r))
			if p.loses && r.lost > 0 && r.attaches >= 50 {
				break
			}
		}
		t.Logf("%-64s lost %d of %d attaches, %d doubled, %d reordered", p.name, r.lost, r.attaches, r.doubled, r.reordered)
		switch {
		case p.loses && r.lost == 0:
			t.Errorf("%s: lost nothing in %d attaches: the test cannot see the bug", p.name, r.attaches)
		case p.safe && r != (raceResult{attaches: p.trials}):
			t.Errorf("%s: %+v", p.name, r)
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
