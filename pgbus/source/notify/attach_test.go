package notify

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func TestAnAttachReadsOneMomentAndWaitsForNobodyLong(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	id := l.topology(t)
	const head = `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`
	must(t, l.Attach(t.Context(), []stream.TopologyID{id}, func(ctx context.Context, conn *pgx.Conn) error {
		before := pgtest.Scan[stream.Seq](t, conn, head, id)
		l.emit(t, id)
		if after := pgtest.Scan[stream.Seq](t, conn, head, id); after != before {
			t.Errorf("the head was %d, and is %d", before, after)
		}
		for setting, want := range map[string]string{
			"lock_timeout": "500ms", "statement_timeout": "2s",
			// A program that is frozen lets go of its transaction and of the NOTIFY queue.
			"idle_in_transaction_session_timeout": "10s", "tcp_user_timeout": "10000",
		} {
			if got := pgtest.Scan[string](t, conn, `SELECT current_setting($1)`, setting); got != want {
				t.Errorf("%s is %s, want %s", setting, got, want)
			}
		}
		if _, ok := ctx.Deadline(); !ok {
			t.Error("the read may take any time")
		}
		return nil
	}))
	l.sink.untilTold(t, l.emit(t, id)) // the event before may be told, too
	l.expectListening(t, id)
	l.nothing(t)
}

func TestAnAttachThatFailsListensToNothingAndCostsNoConnection(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	id := l.topology(t)
	ids := []stream.TopologyID{id}
	broken := errors.New("broken")
	for _, read := range []func(context.Context, *pgx.Conn) error{
		func(context.Context, *pgx.Conn) error { return broken },
		func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `SELECT 1 / 0`)
			return errors.Join(broken, err)
		},
	} {
		if err := l.Attach(t.Context(), ids, read); !errors.Is(err, broken) {
			t.Errorf("%v, want what the read said", err)
		}
		l.expectListening(t)
		l.emit(t, id)
		l.nothing(t)
	}
	must(t, l.Attach(t.Context(), ids, none))
	l.sink.expect(t, l.emit(t, id))
}

func TestAnAttachThatLosesTheConnectionSaysWhyAndTheNextOneIsMade(t *testing.T) {
	t.Parallel()
	for name, read := range map[string]func(context.Context, *pgx.Conn) error{
		"broken": func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Exec(ctx, `SELECT pg_terminate_backend(pg_backend_pid())`)
			return err
		},
		"too long": func(ctx context.Context, _ *pgx.Conn) error {
			<-ctx.Done()
			return ctx.Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, func(cfg *Config) { cfg.Patience = time.Second })
			l.start(t)
			l.sink.untilTold(t, "work")
			waits := &attachTask{read: none, done: make(chan error, 1)}
			err := l.Attach(t.Context(), nil, func(ctx context.Context, conn *pgx.Conn) error {
				if !l.channels.submit(l.tasks, waits) {
					t.Error("no other attach can wait")
				}
				return read(ctx, conn)
			})
			if err == nil || errors.Is(err, ErrDisconnected) {
				t.Errorf("the attach: %v, want why", err)
			}
			l.sink.expect(t, away+errAttach.Error()+"…")
			if err := <-waits.done; !errors.Is(err, ErrDisconnected) {
				t.Errorf("one that waited: %v", err)
			}
			if got := l.sink.untilBack(t); got != "connected" {
				t.Fatal(got)
			}
			l.sink.expect(t, "setting changed", "work")
			l.expectListening(t)
			if metrictest.Value(l.stats.Reconnects[stream.ReconnectAttach]) != 1 &&
				metrictest.Value(l.stats.Reconnects[stream.ReconnectBroken]) != 1 {
				t.Error("the reconnect is not counted")
			}
		})
	}
}

func TestOneAttachMayWaitForAnother(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	waits := &attachTask{read: none, done: make(chan error, 1)}
	tooMany := &attachTask{read: none, done: make(chan error, 1)}
	must(t, l.Attach(t.Context(), nil, func(context.Context, *pgx.Conn) error {
		if !l.channels.submit(l.tasks, waits) {
			t.Error("it may not")
		}
		if l.channels.submit(l.tasks, tooMany) { // nobody would answer it if the connection were lost
			t.Error("two may")
		}
		return nil
	}))
	l.Follow() // as Attach does, the owner is told
	must(t, <-waits.done)
	if !waits.over.Load() {
		t.Error("who asked may still leave")
	}
}

func TestWhoLeavesAnAttachIsNotWaitedForAndGetsNoChannel(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	nobodys, somebodys := l.topology(t), l.topology(t)
	reading, ended := make(chan struct{}), make(chan struct{})
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	left := make(chan error)
	go func() {
		left <- l.Attach(ctx, []stream.TopologyID{nobodys, somebodys}, func(context.Context, *pgx.Conn) error {
			close(reading)
			<-ended
			return nil
		})
	}()
	<-reading
	cancel(gone)
	if err := <-left; !errors.Is(err, gone) {
		t.Errorf("%v, want why it has left", err)
	}
	l.Follow(somebodys)
	close(ended)
	l.expectListening(t, somebodys)
	l.sink.untilTold(t, l.emit(t, somebodys))
	l.emit(t, nobodys)
	l.nothing(t)
}

func TestWhoLeavesAfterTheConnectionHasListenedForItGetsItsChannels(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		l := New(Config{})
		l.channels.setConnected(true)
		ctx, cancel := context.WithCancel(t.Context())
		answer := make(chan error, 1)
		go func() { answer <- l.Attach(ctx, nil, none) }()
		task := <-l.tasks
		if !task.over.CompareAndSwap(false, true) { // as the owner does after COMMIT
			t.Error("it has left")
		}
		cancel()
		synctest.Wait()
		if len(answer) != 0 {
			t.Errorf("%v, although the channels are LISTENed to", <-answer)
		}
		task.done <- nil
		must(t, <-answer)
	})
}

// forgetAndAttach has the connection forget a topology and attach another one in one transaction, whose read is given.
func forgetAndAttach(
	t *testing.T, l *lab, forget, attach stream.TopologyID, read func(context.Context, *pgx.Conn) error,
) error {
	t.Helper()
	task := &attachTask{ids: []stream.TopologyID{attach}, read: read, done: make(chan error, 1)}
	must(t, l.Attach(t.Context(), nil, func(context.Context, *pgx.Conn) error {
		l.Forget(forget)
		if !l.channels.submit(l.tasks, task) {
			t.Error("it is busy")
		}
		return nil
	}))
	return <-task.done
}

func TestAnAttachUnlistensWhatNobodyWants(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	ids, added := l.follow(t, 2), l.topology(t)
	must(t, forgetAndAttach(t, l, ids[0], added, none))
	l.expectListening(t, ids[1], added)
	l.sink.expect(t, l.emit(t, ids[1]), l.emit(t, added))
	l.emit(t, ids[0])
	l.nothing(t)
}

func TestWhatAFailedAttachDidNotUnlistenIsUnlistenedLaterOrKept(t *testing.T) {
	t.Parallel()
	l := newConnected(t)
	ids, added := l.follow(t, 2), l.topology(t)
	broken := errors.New("broken")
	fails := func(context.Context, *pgx.Conn) error { return broken }
	if err := forgetAndAttach(t, l, ids[0], added, fails); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	l.expectListening(t, ids[1])

	wantsAgain := func(context.Context, *pgx.Conn) error {
		l.Follow(ids[1])
		return broken
	}
	if err := forgetAndAttach(t, l, ids[1], added, wantsAgain); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	l.expectListening(t, ids[1])
	l.sink.expect(t, l.emit(t, ids[1])) // it was LISTENed to all the while
}
