package pgbus

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

func TestABatchThatFailedIsTriedAgainInSmallerOnes(t *testing.T) {
	t.Parallel()
	r := newRegistry(func(stream.TopologyID) {})
	const topologies = 300
	for i := range topologies {
		_, _, err := r.acquire(stream.AttachRequest{Topology: stream.TopologyID(strconv.Itoa(i))})
		must(t, err)
	}
	for round, want := range []int{200, 50, 12, 3, 1, 1} {
		largest, tried, now := 0, 0, time.Now() // however long the round takes: what failed in it is not due yet
		for {
			ids, _ := r.take(now)
			if len(ids) == 0 {
				break
			}
			largest, tried = max(largest, len(ids)), tried+len(ids)
			for _, id := range ids {
				r.failed(id, errors.New("no reason"))
			}
		}
		if largest != want || tried != topologies {
			t.Errorf("round %d: up to %d topologies in a transaction, %d in all; want %d, %d", round, largest, tried, want,
				topologies)
		}
		for _, p := range r.pending {
			p.notBefore = time.Time{}
		}
	}
}

func TestEachTopologyOfATransactionIsToldWhatWasSeenOfIt(t *testing.T) {
	t.Parallel()
	const epoch = stream.Seq(2) << 32
	b := loneBus(t, nil)
	got := place(t, b,
		journal.Light{Topology: "large", Head: journal.Head{Seq: epoch + 5, First: 1}, Alive: true},
		journal.Light{Topology: "small", Head: journal.Head{Seq: epoch + 6, First: 1}, Alive: true, Document: []byte("{}")},
		journal.Light{Topology: "dead", Head: journal.Head{Seq: epoch + 7, First: epoch + 3}},
	)
	large, small, dead := got[0].attachment, got[1].attachment, got[2].deleted
	if large == nil || large.id != "large" || large.attachedAt != epoch+5 || large.feed.Last() != epoch+5 ||
		large.history.Epoch != 2 || large.clients != 1 {
		t.Errorf("large: %+v, %v", large, got[0].err)
	}
	if s := large.feed.Document(1, 1<<20); s != nil {
		t.Error("a large topology has a document before it is read")
	}
	s := small.feed.Document(0, 0)
	if s == nil || s.Seq != epoch+6 {
		t.Fatalf("the document of a small one: %+v", s)
	}
	s.Release()
	if dead == nil || dead.head.Seq != epoch+7 || dead.head.First != epoch+3 || dead.history.Epoch != 2 ||
		got[2].attachment != nil || b.registry.find("dead") != nil {
		t.Errorf("dead: %+v", got[2])
	}
	if all := b.backfill.take(); !slices.Equal(all, []*attachment{large, small}) ||
		large.backfill.cause != stream.ReadCatchUp {
		t.Errorf("%d catch-ups", len(all))
	}
}

func TestATopologyThatIsNotThereOrNotInTheEpochIsNotHandedOut(t *testing.T) {
	t.Parallel()
	b := loneBus(t, nil)
	_, none, err := b.registry.acquire(stream.AttachRequest{Topology: "none"})
	must(t, err)
	_, old, err := b.registry.acquire(stream.AttachRequest{Topology: "old"})
	must(t, err)
	h := postgres.History{Epoch: 2}
	ids, _ := b.registry.take(time.Now())
	lights := []journal.Light{
		{Topology: "old", Head: journal.Head{Seq: 1<<32 + 5, First: 1}, Alive: true},
		{Topology: "new", Head: journal.Head{Seq: 2<<32 + 5, First: 1}, Alive: true},
	}
	if low := unraised(lights, h); !slices.Equal(low, []stream.TopologyID{"old"}) {
		t.Errorf("%v are below the epoch", low)
	}
	b.attached(ids, lights[:1], h, false)
	if got, ok := toldOf(none); !ok || !errors.Is(got.err, stream.ErrNotFound) {
		t.Errorf("told %t: %+v", ok, got)
	}
	if got, ok := toldOf(old); ok || b.registry.waiting() != 1 || b.registry.find("old") != nil {
		t.Errorf("who waits for what has not entered the epoch was told %+v", got)
	}
	b.raise(t.Context(), h, []stream.TopologyID{"old"}) // in a database that does not answer
	p := b.registry.pending["old"]
	if p.tries != 1 || p.failure == nil || len(p.waiting) != 1 || !isSet(b.attaches) {
		t.Errorf("%d tries, failed by %v, %d wait", p.tries, p.failure, len(p.waiting))
	}
}

func TestAnAttachThatFailsIsTriedAgainForAllOfItsTopologies(t *testing.T) {
	t.Parallel()
	b := loneBus(t, nil)
	for _, id := range []stream.TopologyID{"a", "b"} {
		_, _, err := b.registry.acquire(stream.AttachRequest{Topology: id})
		must(t, err)
	}
	ids, _ := b.registry.take(time.Now())
	b.attachBatch(t.Context(), ids)
	for id, p := range b.registry.pending {
		if p.underWay != nil || p.tries != 1 || p.failure == nil {
			t.Errorf("%s: %d under way, %d tries, failed by %v", id, len(p.underWay), p.tries, p.failure)
		}
	}
	if n := metrictest.Observed(b.stats.AttachBatch); n != 0 || b.registry.waiting() != 2 {
		t.Errorf("%d transactions, %d topologies wait", n, b.registry.waiting())
	}
}

func TestATopologyThatIsMadeWhileItsAttachIsUnderWayIsAttachedAndNotMissing(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	made := makeTopologies(t, db.Conn(t), 2)
	const missing = stream.TopologyID("00000000-0000-4000-8000-000000000000")
	b, _ := stillBus(t, db, nil)
	ids := []stream.TopologyID{made[0], missing, made[1]}
	for _, id := range ids {
		_, _, err := b.registry.acquire(stream.AttachRequest{Topology: id})
		must(t, err)
	}
	b.registry.take(time.Now())
	seen := []journal.Light{{Topology: made[1], Head: journal.Head{Seq: 1, First: 1}, Alive: true}}
	got := b.retryMade(t.Context(), ids, seen)
	if !slices.Equal(got, ids[1:]) {
		t.Errorf("%v are told, want those that were seen and the one that is not there: %v", got, ids[1:])
	}
	again, _ := b.registry.take(time.Now())
	if !slices.Equal(again, made[:1]) {
		t.Errorf("%v are attached anew, want %v", again, made[:1])
	}
	if !slices.Equal(ids, []stream.TopologyID{made[0], missing, made[1]}) {
		t.Error("the list that it was given is changed")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got := b.retryMade(ctx, ids[:1], nil); len(got) != 0 || b.registry.pending[made[0]].failure == nil {
		t.Errorf("%v are told, and nothing is known of them", got)
	}
	if got := b.retryMade(ctx, made[1:], seen); !slices.Equal(got, made[1:]) {
		t.Errorf("%v: a look that was not needed", got)
	}
}

func TestTopologiesEnterTheNewEpochWithTheAttachThatFindsThemBelowIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, holder := db.Conn(t), db.Conn(t)
	ids := makeTopologies(t, conn, 2)
	epoch, err := NewEpoch(t.Context(), conn)
	must(t, err)
	b, _ := stillBus(t, db, nil)
	pgtest.Exec(t, holder, `BEGIN`)
	pgtest.Exec(t, holder, `SELECT FROM topology_heads WHERE topology_id = $1::text::uuid FOR UPDATE`, ids[1])
	for _, id := range ids {
		_, _, err := b.registry.acquire(stream.AttachRequest{Topology: id})
		must(t, err)
	}
	taken, _ := b.registry.take(time.Now())
	b.attachBatch(t.Context(), taken)
	<-b.attaches // the raise has ended
	if n := metrictest.Observed(b.stats.AttachBatch); n != 1 {
		t.Errorf("%d transactions", n)
	}
	if got, _ := b.registry.take(time.Now()); !slices.Equal(got, ids[:1]) {
		t.Fatalf("%v are attached at once, want %v", got, ids[:1])
	}
	var held *journal.HeldError
	if p := b.registry.pending[ids[1]]; p.tries != 1 || !errors.As(p.failure, &held) || held.Topology != ids[1] {
		t.Errorf("%d tries, failed by %v", p.tries, p.failure)
	}
	b.attachBatch(t.Context(), ids[:1])
	if a := b.registry.find(ids[0]); a == nil || a.attachedAt.Epoch() != uint32(epoch) {
		t.Errorf("%+v, want it in epoch %d", a, epoch)
	}
	if b.tasks.running.Wait(); isSet(b.attaches) {
		t.Error("what is in the epoch is raised once more")
	}
	pgtest.Exec(t, holder, `ROLLBACK`)
	b.registry.pending[ids[1]].notBefore = time.Time{}
	for range 2 { // it is raised alone, and then attached
		if taken, _ = b.registry.take(time.Now()); !slices.Equal(taken, ids[1:]) {
			t.Fatalf("%v are attached, want %v", taken, ids[1:])
		}
		b.attachBatch(t.Context(), taken)
		b.tasks.running.Wait()
	}
	if b.registry.find(ids[1]) == nil {
		t.Error("who was held is not attached")
	}
}

func TestWithoutAListenConnectionTopologiesAreAttachedByThePoolAndFollowed(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := makeTopologies(t, db.Conn(t), 1)[0]
	b, _ := stillBus(t, db, nil)
	a := attachNow(t, b, id)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.sources.listener.Run(ctx, notifySink{sink{b, stream.ReadHole}}) }()
	pgtest.Eventually(t, "LISTEN", func() bool { return metrictest.Value(b.stats.Channels) == 1 })
	lights, _, subscribed, err := b.readLights(t.Context(), []stream.TopologyID{id})
	if err != nil || !subscribed || len(lights) != 1 || lights[0].Head.Seq != a.attachedAt {
		t.Errorf("%+v, subscribed %t, %v", lights, subscribed, err)
	}
	holder := db.Conn(t)
	pgtest.Exec(t, holder, `BEGIN; LOCK TABLE mutations IN ACCESS EXCLUSIVE MODE`)
	_, _, subscribed, err = b.readLights(t.Context(), []stream.TopologyID{id})
	if err == nil || subscribed { // nor does the pool try
		t.Errorf("it was read past a lock: subscribed %t, %v", subscribed, err)
	}
	cancel()
	<-done
	_ = holder.Close(t.Context())
}

// A NewEpoch that nobody has told this server of is seen by the first attach that follows.
func TestAnAttachThatSeesANewHistoryEndsWhatIsOfTheOlderOne(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := makeTopologies(t, conn, 2)
	b, start := stillBus(t, db, nil)
	start()
	old := attach(t, b, ids[0])
	a := b.registry.find(ids[0])
	_, err := NewEpoch(t.Context(), conn)
	must(t, err)
	fresh := attach(t, b, ids[1])
	if a.feed.Cause() != stream.ErrReset || fresh.Snapshot.Seq.Epoch() == 0 { //nolint:errorlint // the sentinel itself
		t.Errorf("ended by %v; the other is at %d", a.feed.Cause(), fresh.Snapshot.Seq)
	}
	fresh.Snapshot.Release()
	old.Snapshot.Release()
}

func TestADatabaseWhoseHistoryTheAttachRefusesIsMendedOrLeft(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := makeTopologies(t, conn, 1)
	b, _ := stillBus(t, db, nil)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); b.sources.listener.Run(ctx, notifySink{sink{b, stream.ReadHole}}) }()
	defer func() { cancel(); <-done }()
	var h postgres.History
	listens := func() bool { // and reads by that connection
		_, now, subscribed, err := b.readLights(ctx, ids)
		h = now
		return subscribed && err == nil
	}
	pgtest.Eventually(t, "LISTEN", listens)
	old := h
	pgtest.Exec(t, conn, `UPDATE topology_settings SET timeline = timeline + 1`) // as a copy that was restored
	lights, _, subscribed, err := b.readLights(ctx, ids)
	if !errors.Is(err, postgres.ErrUnraised) || subscribed || lights != nil {
		t.Errorf("%v, subscribed %t, %v; want that its epoch is not raised", lights, subscribed, err)
	}
	pgtest.Eventually(t, "LISTEN in the new epoch", listens)
	if h.Epoch <= old.Epoch {
		t.Errorf("epoch %d follows %d", h.Epoch, old.Epoch)
	}
	const backend = `SELECT coalesce(max(pid), 0) FROM pg_stat_activity
 WHERE application_name = 'topostream listen' AND datname = current_database()`
	pid := pgtest.Scan[int](t, conn, backend)
	pgtest.Exec(t, conn, `UPDATE topology_settings SET epoch = $1, history = $2::text::uuid`, old.Epoch, old.ID)
	reading, stop := context.WithCancel(ctx) // an old primary: the pool looks for another server for as long as it may
	read := make(chan struct{})
	go func() {
		defer close(read)
		if _, _, subscribed, err := b.readLights(reading, ids); err == nil || subscribed {
			t.Errorf("subscribed %t, %v to what is over", subscribed, err)
		}
	}()
	pgtest.Eventually(t, "another LISTEN connection", func() bool {
		return pgtest.Scan[int](t, conn, backend) != pid
	})
	stop()
	<-read
}

func TestATopologyThatIsMadeBesideAnAttachThatCannotSeeItYetIsFound(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, maker := db.Conn(t), db.Conn(t)
	b, start := stillBus(t, db, nil)
	start()
	pgtest.Exec(t, maker, `BEGIN`)
	pgtest.Exec(t, maker, `LOCK TABLE topology_heads IN ACCESS EXCLUSIVE MODE`)
	id := makeTopologies(t, maker, 1)[0]
	answer := make(chan error, 1)
	go func() {
		sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id})
		if err == nil {
			sub.Snapshot.Release()
			sub.Close()
		}
		answer <- err
	}()
	pgtest.Eventually(t, "the attach to wait, in a transaction that has begun", func() bool {
		return pgtest.Scan[bool](t, conn, `SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
 WHERE NOT l.granted AND a.datname = current_database())`)
	})
	pgtest.Exec(t, maker, `COMMIT`)
	must(t, <-answer)
}
