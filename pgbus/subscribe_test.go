package pgbus

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func TestWhoWaitsForATopologyInVainLearnsWhyAndWhoGoesAwayDoesNot(t *testing.T) {
	t.Parallel()
	why, gone := errors.New("no reason"), errors.New("the client has gone")
	for name, c := range map[string]struct {
		cause error
		tried bool
		want  []error
	}{
		"a try failed":         {stream.ErrUnavailable, true, []error{stream.ErrUnavailable, why}},
		"no try failed":        {stream.ErrUnavailable, false, []error{stream.ErrUnavailable}},
		"the client went away": {gone, true, []error{gone}},
	} {
		b := loneBus(t, nil)
		ctx, cancel := context.WithCancelCause(t.Context())
		answer := make(chan error, 1)
		go func() {
			_, _, err := b.acquire(ctx, stream.AttachRequest{Topology: "a"})
			answer <- err
		}()
		<-b.attaches // it asks for an attach
		if c.tried {
			b.registry.take(time.Now())
			b.registry.failed("a", why)
		}
		cancel(c.cause)
		err := <-answer
		for _, want := range c.want {
			if !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
		if len(c.want) == 1 && err != c.want[0] || b.registry.waiting() != 0 { //nolint:errorlint // the very one
			t.Errorf("%s: %v; %d topologies wait", name, err, b.registry.waiting())
		}
	}
}

func TestAClientIsCountedFromItsAttachToItsCloseOnce(t *testing.T) {
	t.Parallel()
	b := loneBus(t, func(c *Config) { c.AttachWait = 20 * time.Millisecond })
	a := placed(t, b, 5) // with one client
	clients := func() int {
		b.registry.mu.Lock()
		defer b.registry.mu.Unlock()
		return a.clients
	}
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: "a", Resume: true, After: 5})
	must(t, err)
	if sub.Snapshot != nil || sub.Cursor.Last() != 5 || clients() != 2 || metrictest.Value(b.stats.Attaches) != 1 {
		t.Errorf("at %d; %d clients, %d attaches", sub.Cursor.Last(), clients(), metrictest.Value(b.stats.Attaches))
	}
	sub.Close()
	if sub.Close(); clients() != 1 {
		t.Errorf("%d clients after a close", clients())
	}
	_, err = b.Attach(t.Context(), stream.AttachRequest{Topology: "a"}) // for which it must read a document
	if !errors.Is(err, stream.ErrUnavailable) || clients() != 1 || metrictest.Value(b.stats.Attaches) != 1 {
		t.Errorf("%v; %d clients, %d attaches", err, clients(), metrictest.Value(b.stats.Attaches))
	}
	a.feed.SetDocument(stream.NewSnapshot(5, []byte("document"), nil))
	sub, err = b.Attach(t.Context(), stream.AttachRequest{Topology: "a", Resume: true, After: 4}) // 4 is known
	must(t, err)
	if sub.Snapshot != nil || sub.Cursor.Last() != 4 {
		t.Errorf("at %d, want no snapshot and 4", sub.Cursor.Last())
	}
	sub, err = b.Attach(t.Context(), stream.AttachRequest{Topology: "a"})
	must(t, err)
	defer sub.Snapshot.Release()
	if sub.Snapshot.Seq != 5 || sub.Cursor.Last() != 5 {
		t.Errorf("a document at %d, the cursor at %d", sub.Snapshot.Seq, sub.Cursor.Last())
	}
}

func TestOnlyANumberAboveAllThatIsKnownAsksTheDatabase(t *testing.T) {
	t.Parallel()
	const epoch = stream.Seq(2) << 32
	b := loneBus(t, nil) // where a question is an error
	a := placed(t, b, epoch+5)
	b.append(a, *event(b, epoch+6))
	behind := &attachment{id: "a", attachedAt: epoch + 9, feed: a.feed}
	for _, c := range []struct {
		a    *attachment
		n    stream.Seq
		want bool
		asks bool
	}{
		{a, 0, false, false},
		{a, epoch - 1, false, false},
		{a, epoch, true, false},
		{a, epoch + 6, true, false},
		{a, epoch + 7, false, true},
		{a, epoch<<1 + 1, false, true},
		{behind, epoch + 9, true, false}, // the feed has the catch-up still to come
		{behind, epoch + 10, false, true},
	} {
		ok, err := b.mayResume(t.Context(), c.a, c.n)
		if ok != c.want || errors.Is(err, stream.ErrUnavailable) != c.asks {
			t.Errorf("%d: %t, %v; want %t, and a question: %t", c.n, ok, err, c.want, c.asks)
		}
	}
}

// Several servers are on one database: what a client has from another one may be news to this one.
func TestANumberThatThisServerHasNotHeardOfIsGoodIfTheDatabaseHasIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := makeTopologies(t, conn, 2)
	b, _ := stillBus(t, db, nil)
	a, removed := attachAt(t, b, ids[0], 1), attachAt(t, b, ids[1], 1)
	b.backfill.done(b.backfill.take(), nil)
	const none = stream.Seq(0) // what the feed is told of
	for _, c := range []struct {
		n    stream.Seq
		want bool
		head stream.Seq
	}{{2, false, none}, {2, true, 2}, {3, false, none}, {1 << 32, false, none}} {
		if c.head != none {
			pgtest.Exec(t, conn, emitOne, ids[0])
		}
		ok, err := b.mayResume(t.Context(), a, c.n)
		if ok != c.want || err != nil {
			t.Errorf("%d: %t, %v, want %t", c.n, ok, err, c.want)
		}
		if c.head != none && (!queued(b, a) || a.backfill.cause != stream.ReadHole) || c.n == 2 && !c.want && queued(b, a) {
			t.Errorf("%d: the feed is to be read: %t", c.n, queued(b, a))
		}
	}
	pgtest.Exec(t, conn, `DELETE FROM topologies WHERE id = $1::text::uuid`, ids[1])
	pgtest.Exec(t, conn, `DELETE FROM topology_events WHERE topology_id = $1::text::uuid`, ids[1])
	pgtest.Exec(t, conn, `DELETE FROM topology_heads WHERE topology_id = $1::text::uuid`, ids[1])
	if ok, err := b.mayResume(t.Context(), removed, 9); ok || !errors.Is(err, stream.ErrNotFound) {
		t.Errorf("%t, %v, want that there is no such topology", ok, err)
	}
	_, err := NewEpoch(t.Context(), conn)
	must(t, err)
	pgtest.Exec(t, conn, `SELECT topology_raise(ARRAY[$1::text::uuid])`, ids[0])
	n := pgtest.Scan[stream.Seq](t, conn, `SELECT seq FROM topology_heads`)
	if ok, err := b.mayResume(t.Context(), a, n); ok || !errors.Is(err, errEnded) {
		t.Errorf("%t, %v for a number of a new epoch, want another attachment", ok, err)
	}
}

func TestWhoResumesBelowTheEndOfADeletedTopologyGetsTheRestAndNobodyElseDoes(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	pgtest.Exec(t, conn, emitMany, id, 8)          // 9
	pgtest.Exec(t, conn, `DELETE FROM topologies`) // 10
	pgtest.Exec(t, conn, `DELETE FROM topology_events WHERE seq < 5`)
	pgtest.Exec(t, conn, `UPDATE topology_heads SET first = 5`)
	b, start := stillBus(t, db, nil)
	start()
	const epoch = stream.Seq(1) << 32
	for _, after := range []stream.Seq{3, 10, 11, epoch + 5} {
		_, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: after})
		if err != stream.ErrNotFound { //nolint:errorlint // the sentinel itself
			t.Errorf("after %d: %v, want that there is none", after, err)
		}
	}
	_, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, After: 5})
	if err != stream.ErrNotFound { //nolint:errorlint // as above
		t.Errorf("who does not resume: %v", err)
	}
	for i, after := range []stream.Seq{4, 9} {
		sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: after})
		must(t, err)
		last := after
		var frames []stream.Frame
		for ; err == nil; frames, err = next(t.Context(), sub.Cursor) {
			for _, fr := range frames {
				if fr.Seq != last+1 || fr.Final != (fr.Seq == 10) {
					t.Fatalf("%d came after %d", fr.Seq, last)
				}
				last = fr.Seq
			}
		}
		if last != 10 || err != stream.ErrDeleted || sub.Snapshot != nil { //nolint:errorlint // the sentinel itself
			t.Errorf("after %d: %d was the last, ended by %v", after, last, err)
		}
		sub.Close()
		if n, feeds := metrictest.Value(b.stats.Attaches), metrictest.Value(b.stats.Feeds); n != int64(i+1) || feeds != 0 {
			t.Errorf("%d attaches; %d feeds are left", n, feeds)
		}
	}
}

// A number of a topology that is gone, its journal, too, stands for nothing in a later one with the same id.
func TestWhoComesBackToAnIdThatIsUsedAgainGetsASnapshot(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	pgtest.Exec(t, conn, emitMany, id, 8)          // 9
	pgtest.Exec(t, conn, `DELETE FROM topologies`) // 10
	for range 2 {                                  // the journal, then the head
		pgtest.Exec(t, conn, `SELECT topology_prune(interval '0', NULL, 100)`)
	}
	if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM topology_heads`); n != 0 {
		t.Fatalf("%d heads are left: the test tests nothing", n)
	}
	pgtest.Exec(t, conn, `INSERT INTO topologies (id, name) VALUES ($1::text::uuid, 'again')`, id) // 11
	pgtest.Exec(t, conn, emitMany, id, 8)
	b := startBus(t, db, nil)
	for after, want := range map[stream.Seq]error{3: stream.ErrReset, 9: stream.ErrReset, 10: nil, 12: nil} {
		sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: after})
		must(t, err)
		if sub.Snapshot != nil {
			t.Fatalf("after %d: %s, want that it is resumed", after, sub.Snapshot.Bytes)
		}
		frames, err := next(t.Context(), sub.Cursor)
		if !errors.Is(err, want) || err == nil && frames[0].Seq != after+1 {
			t.Errorf("after %d: %v, %v, want %v", after, frames, err, want)
		}
		sub.Close()
	}
}

func TestADocumentMayTakeALittleLessThanItsFirstClientWaits(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := &Bus{cfg: Config{AttachWait: 20 * time.Second}}
		for _, c := range []struct{ left, want time.Duration }{
			{0, 18 * time.Second}, // no deadline
			{time.Hour, 18 * time.Second},
			{15 * time.Second, 13500 * time.Millisecond},
			{time.Second, 10 * time.Second},
		} {
			ctx, cancel := t.Context(), context.CancelFunc(func() {})
			if c.left > 0 {
				ctx, cancel = context.WithTimeout(ctx, c.left)
			}
			if got := b.documentPatience(ctx); got != c.want {
				t.Errorf("of %s left it may take %s, want %s", c.left, got, c.want)
			}
			cancel()
		}
	})
}

// heldDocument is a document of a topology, in the account until its last handle is released.
func heldDocument(t *testing.T, b *Bus, seq stream.Seq) *stream.Snapshot {
	t.Helper()
	hold, ok := b.cfg.Memory.TryReserve(100)
	if !ok {
		t.Fatal("no memory")
	}
	return stream.NewSnapshot(seq, []byte("document"), hold)
}

func TestEachWhoWaitsForADocumentGetsAHandleOfItsOwn(t *testing.T) {
	t.Parallel()
	b := loneBus(t, nil)
	a := placed(t, b, 5)
	d := newDocumentReads()
	key := documentKey{a, false}
	one, first := d.join(key)
	two, second := d.join(key)
	leaves, _ := d.join(key)
	graph, other := d.join(documentKey{a, true})
	if !first || second || !other {
		t.Errorf("who comes first reads: %t, %t; with the graph %t", first, second, other)
	}
	d.leave(key, leaves)
	s := heldDocument(t, b, 5)
	if d.finish(key, s, nil); len(leaves) != 0 || len(graph) != 0 {
		t.Error("somebody was told of what is not his")
	}
	r := <-one
	if r.err != nil || r.snapshot == s || string(r.snapshot.Bytes) != "document" {
		t.Errorf("%v, %v", r.snapshot, r.err)
	}
	r.snapshot.Release()
	if metrictest.Value(b.stats.HeldBytes) == 0 {
		t.Error("one has released what the other has still to read")
	}
	d.leave(key, two) // as it comes
	if n := metrictest.Value(b.stats.HeldBytes); n != 0 {
		t.Errorf("%d bytes are held by nobody", n)
	}
	later, first := d.join(key)
	if !first {
		t.Error("who comes later has nobody to read it")
	}
	if d.leave(key, later); len(d.waiting[key]) != 0 {
		t.Errorf("%d wait, and all have left", len(d.waiting[key]))
	}
	failed := errors.New("no reason")
	d.finish(documentKey{a, true}, nil, failed)
	if r := <-graph; r.err != failed || r.snapshot != nil { //nolint:errorlint // the very one
		t.Errorf("%v, %v", r.snapshot, r.err)
	}
}

func TestAKeptDocumentIsGivenWhileItIsFreshButNotInThePlaceOfOneWithTheGraph(t *testing.T) {
	t.Parallel()
	b := loneBus(t, nil)
	a := placed(t, b, 5)
	a.feed.SetDocument(stream.NewSnapshot(5, []byte("document"), nil))
	b.append(a, *event(b, 6))
	s, err := b.document(t.Context(), a, false)
	must(t, err)
	if string(s.Bytes) != "document" {
		t.Errorf("%s", s.Bytes)
	}
	s.Release()
	key := documentKey{a, true}
	_, _ = b.reads.join(key) // somebody reads it
	answer := make(chan error, 1)
	go func() {
		s, err := b.document(t.Context(), a, true)
		if err == nil && string(s.Bytes) != "graph" {
			err = errors.New(string(s.Bytes))
		}
		answer <- err
	}()
	pgtest.Eventually(t, "two to wait", func() bool {
		b.reads.mu.Lock()
		defer b.reads.mu.Unlock()
		return len(b.reads.waiting[key]) == 2
	})
	b.reads.finish(key, stream.NewSnapshot(5, []byte("graph"), nil), nil)
	must(t, <-answer)
}

func TestADocumentWaitsForItsFeedWhichMayEndBefore(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := loneBus(t, nil)
		a := placed(t, b, 5)
		b.backfill.done(b.backfill.take(), nil)
		must(t, b.reach(t.Context(), a, 5))
		if queued(b, a) {
			t.Error("a feed that is there is read")
		}
		gone := errors.New("the client has gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		answer := make(chan error, 1)
		go func() { answer <- b.reach(ctx, a, 7) }()
		synctest.Wait()
		if !queued(b, a) || a.backfill.cause != stream.ReadCatchUp {
			t.Errorf("read: %t, because of %v", queued(b, a), a.backfill.cause)
		}
		cancel(gone)
		if err := <-answer; !errors.Is(err, gone) {
			t.Errorf("%v, want that the client has gone", err)
		}
		for n := stream.Seq(6); n <= 7; n++ {
			go func() { answer <- b.reach(t.Context(), a, 7) }()
			synctest.Wait()
			b.append(a, *event(b, n))
			synctest.Wait()
		}
		must(t, <-answer)
		must(t, <-answer)
		go func() { answer <- b.reach(t.Context(), a, 9) }()
		synctest.Wait()
		b.append(a, *event(b, 8))
		synctest.Wait()
		b.registry.end(a, stream.ErrReset)
		for range 2 { // and of one that has ended before
			if err := <-answer; !errors.Is(err, errEnded) {
				t.Errorf("%v, want the end", err)
			}
			answer <- b.reach(t.Context(), a, 6)
		}
	})
}

// reading takes the place of the read of a document, for all who ask before finish is called.
func reading(b *Bus, a *attachment) (finish func(*stream.Snapshot, error)) {
	key := documentKey{a, false}
	_, _ = b.reads.join(key)
	return func(s *stream.Snapshot, err error) { b.reads.finish(key, s, err) }
}

func TestWhoseAttachmentEndsUnderItTriesAgainAndAnyOtherErrorIsFinal(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := loneBus(t, nil)
		a := placed(t, b, 5)
		answer := make(chan error, 1)
		attach := func() {
			sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: "a"})
			if err == nil {
				sub.Close()
			}
			answer <- err
		}
		failed := errors.New("no reason")
		for _, last := range []error{nil, failed} {
			finish := reading(b, a)
			go attach()
			for range 4 {
				synctest.Wait()
				again := finish
				again(nil, errEnded)
				finish = reading(b, a)
				time.Sleep(time.Second) // more than a pause
			}
			synctest.Wait()
			began := time.Now()
			finish(stream.NewSnapshot(5, []byte("document"), nil), last)
			if err := <-answer; err != last || time.Since(began) != 0 || a.clients != 1 { //nolint:errorlint // the very one
				t.Errorf("%v after %s; %d clients", err, time.Since(began), a.clients)
			}
		}
	})
}

func TestAClientWaitsForItsDocumentAsLongAsForAllElseUnlessAStandbyReadsIt(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, err := postgres.NewPool(t.Context(), nobody)
		must(t, err)
		defer pool.Close()
		for _, replica := range []bool{false, true} {
			b := loneBus(t, func(c *Config) {
				if replica {
					c.Replica = pool
				}
			})
			a := placed(t, b, 5)
			finish := reading(b, a)
			answer := make(chan error, 1)
			began := time.Now()
			go func() {
				_, err := b.Attach(t.Context(), stream.AttachRequest{Topology: "a"})
				answer <- err
			}()
			if replica {
				time.Sleep(2 * b.cfg.AttachWait)
				finish(stream.NewSnapshot(5, []byte("document"), nil), nil)
				must(t, <-answer)
				continue
			}
			if err := <-answer; !errors.Is(err, stream.ErrUnavailable) || time.Since(began) != b.cfg.AttachWait {
				t.Errorf("%v after %s", err, time.Since(began))
			}
		}
	})
}

func TestADocumentThatCannotBeReadIsTriedForAsLongAsItMay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := loneBus(t, nil)
		a := placed(t, b, 5)
		began := time.Now()
		_, err := b.document(t.Context(), a, false)
		if took := time.Since(began); !errors.Is(err, stream.ErrUnavailable) || took != b.documentPatience(t.Context()) {
			t.Errorf("%v after %s", err, took)
		}
		if a.feed.Cause() != nil {
			t.Errorf("ended by %v", a.feed.Cause())
		}
	})
}

func TestAnAnswerThatSomebodyAskedForEarlierDoesNotRefuseANumber(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := loneBus(t, nil) // where a question is an error
		a := placed(t, b, 5)
		release := make(chan struct{})
		go func() {
			_, _, _ = b.heads.do(t.Context(), &b.tasks, "a", func(context.Context) (journal.Head, error) {
				<-release
				return journal.Head{Seq: 7, First: 1}, nil
			})
		}()
		synctest.Wait()
		type answer struct {
			ok  bool
			err error
		}
		answers := map[stream.Seq]chan answer{7: make(chan answer, 1), 8: make(chan answer, 1)}
		for n, told := range answers {
			go func() {
				ok, err := b.mayResume(t.Context(), a, n)
				told <- answer{ok, err}
			}()
		}
		synctest.Wait()
		close(release)
		if got := <-answers[7]; !got.ok || got.err != nil {
			t.Errorf("7, which that answer shows: %t, %v", got.ok, got.err)
		}
		if got := <-answers[8]; got.ok || !errors.Is(got.err, stream.ErrUnavailable) {
			t.Errorf("8, for which it must ask once more: %t, %v", got.ok, got.err)
		}
	})
}

func TestANumberThatTwoAnswersDoNotShowIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := loneBus(t, nil) // where a question is an error
		a := placed(t, b, 5)
		ask := func() (answer chan struct{}) {
			answer = make(chan struct{})
			go func() {
				_, _, _ = b.heads.do(t.Context(), &b.tasks, "a", func(context.Context) (journal.Head, error) {
					<-answer
					return journal.Head{Seq: 7, First: 1}, nil
				})
			}()
			synctest.Wait()
			return answer
		}
		first := ask()
		done := make(chan struct{})
		go func() {
			defer close(done)
			if ok, err := b.mayResume(t.Context(), a, 8); ok || err != nil {
				t.Errorf("%t, %v", ok, err)
			}
		}()
		synctest.Wait()
		b.heads.group.Forget("a")
		second := ask() // of somebody who came before the first answer did
		close(first)
		synctest.Wait()
		close(second)
		<-done
	})
}

func TestWhereAStandbyIsReadANumberAheadWaitsForItInItsEpochAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		pool, err := postgres.NewPool(t.Context(), nobody)
		must(t, err)
		defer pool.Close()
		b := loneBus(t, func(c *Config) { c.Replica = pool })
		a := placed(t, b, 5)
		for n, waits := range map[stream.Seq]time.Duration{6: b.cfg.LagWait, 1<<32 + 6: 0} {
			began := time.Now()
			ok, err := b.mayResume(t.Context(), a, n)
			if ok || !errors.Is(err, stream.ErrUnavailable) || time.Since(began) != waits {
				t.Errorf("%d: %t, %v after %s, want %s", n, ok, err, time.Since(began), waits)
			}
		}
	})
}

func TestADeletedTopologyServesNumbersOfItsHeadsEpochAlone(t *testing.T) {
	t.Parallel()
	const epoch = stream.Seq(1) << 32
	b := loneBus(t, nil)
	for after, want := range map[stream.Seq]bool{5: false, epoch: true, epoch + 9: true, epoch + 10: false} {
		gone := deletedTopology{head: journal.Head{Seq: epoch + 10, First: 1}}
		sub, err := b.subscribeDeleted(stream.AttachRequest{Topology: "a", Resume: true, After: after}, gone)
		if (err == nil) != want || want && sub.Cursor.Last() != after {
			t.Errorf("%d: %v", after, err)
		}
	}
}

func TestOnlyADocumentWithoutTheGraphIsKeptForThoseWhoComeNext(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := makeTopologies(t, db.Conn(t), 1)[0]
	b, _ := stillBus(t, db, nil)
	attachAt(t, b, id, 1)
	for i, c := range []struct {
		graph bool
		reads int64
	}{{true, 1}, {false, 2}, {false, 2}, {true, 3}} {
		sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Graph: c.graph})
		must(t, err)
		sub.Snapshot.Release()
		sub.Close()
		if n := metrictest.Value(b.stats.SnapshotReads); n != c.reads {
			t.Errorf("%d: %d reads, want %d", i, n, c.reads)
		}
	}
}

func TestWhoSharesAReadAndGoesAwayDoesNotWaitForIt(t *testing.T) {
	t.Parallel()
	b := loneBus(t, nil)
	var s shared[journal.Head]
	gone := errors.New("the client has gone")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	release := make(chan struct{})
	defer close(release)
	_, _, err := s.do(ctx, &b.tasks, "a", func(context.Context) (journal.Head, error) {
		<-release
		return journal.Head{}, nil
	})
	if !errors.Is(err, gone) {
		t.Errorf("%v, want that the client has gone", err)
	}
}
