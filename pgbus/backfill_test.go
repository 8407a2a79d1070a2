package pgbus

import (
	"context"
	"log/slog"
	"slices"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"
	"topostream/stream"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

// nobody is a database at an address where nobody answers.
const nobody = "postgres://127.0.0.1:1/nobody"

// loneBus is a bus that polls, that reaches no database, and of which nothing runs.
func loneBus(t *testing.T, change func(*Config)) *Bus {
	t.Helper()
	pool, err := postgres.NewPool(t.Context(), nobody)
	must(t, err)
	cfg := Config{Bus: setting.Poll, Pool: pool, Encoder: sse.Encoder{}}
	if change != nil {
		change(&cfg)
	}
	if cfg.Stats == nil {
		cfg.Stats = metrictest.Stats()
	}
	b := New(cfg)
	t.Cleanup(func() { b.close(); pool.Close() })
	return b
}

// place does what an attach transaction that saw topologies so is followed by, in the history of their first one's
// epoch, and gives what those who asked for them were told.
func place(t *testing.T, b *Bus, lights ...journal.Light) []attachResult {
	t.Helper()
	requests := make([]*attachRequest, len(lights))
	ids := make([]stream.TopologyID, len(lights))
	for i, l := range lights {
		_, q, err := b.registry.acquire(stream.AttachRequest{Topology: l.Topology})
		must(t, err)
		requests[i], ids[i] = q, l.Topology
	}
	b.registry.take(time.Now())
	h := postgres.History{Epoch: int64(lights[0].Head.Seq.Epoch())}
	b.attached(ids, lights, h, false)
	results := make([]attachResult, len(lights))
	for i, q := range requests {
		results[i] = <-q.done
	}
	return results
}

// placed gives the attachment of topology a, whose head was at seq.
func placed(t *testing.T, b *Bus, seq stream.Seq) *attachment {
	t.Helper()
	head := journal.Head{Seq: seq, First: 1}
	a := place(t, b, journal.Light{Topology: "a", Head: head, Alive: true})[0].attachment
	if a == nil {
		t.Fatal("it is not attached")
	}
	return a
}

func event(b *Bus, n stream.Seq) *stream.Frame {
	fr := b.cfg.Encoder.Event(stream.Event{Seq: n, Type: "x", JSON: "{}"})
	return &fr
}

// isSet tells whether a signal is set, and takes it.
func isSet(signal <-chan struct{}) bool {
	select {
	case <-signal:
		return true
	default:
		return false
	}
}

func queueOf(n int) (f backfiller, attachments []*attachment) {
	for i := range n {
		feed := stream.NewFeed(stream.FeedConfig{})
		attachments = append(attachments, &attachment{id: stream.TopologyID(strconv.Itoa(i)), feed: feed})
	}
	return newBackfiller(), attachments
}

func TestWhatIsToldWhileAFeedIsReadHasItReadOnceMore(t *testing.T) {
	t.Parallel()
	f, all := queueOf(2)
	if f.add(nil, stream.ReadPoll); isSet(f.ready) {
		t.Error("nothing was queued and somebody is woken")
	}
	f.add(all[:1], stream.ReadHole)
	f.add(all, stream.ReadPoll) // before the read of the first one begins, which will see it
	if !isSet(f.ready) {
		t.Error("nobody is woken")
	}
	if got := f.take(); !slices.Equal(got, all) || all[0].backfill.cause != stream.ReadHole || isSet(f.ready) {
		t.Fatalf("%d are read, because of %v", len(got), all[0].backfill.cause)
	}
	f.add(all[:1], stream.ReadPoll) // while it is read
	if got := f.take(); len(got) != 0 {
		t.Fatal("two read one feed at a time")
	}
	isSet(f.ready)
	if f.done(all, nil); !isSet(f.ready) {
		t.Error("nobody is woken for what was told meanwhile")
	}
	if got := f.take(); !slices.Equal(got, all[:1]) || isSet(f.ready) {
		t.Fatalf("%d are read once more", len(got))
	}
	if f.done(all[:1], nil); isSet(f.ready) || len(f.take()) != 0 {
		t.Error("it is read for ever")
	}
	f.add(all[:1], stream.ReadPoll)
	if got := f.take(); len(got) != 1 || got[0].backfill.cause != stream.ReadPoll {
		t.Error("it is not read when it is told of the next time")
	}
}

func TestAFeedWithMoreToReadWaitsBehindTheOthersUnlessItHasEnded(t *testing.T) {
	t.Parallel()
	f, all := queueOf(backfillBatch + 1)
	f.add(all, stream.ReadPoll)
	isSet(f.ready)
	batch := f.take()
	if !slices.Equal(batch, all[:backfillBatch]) || !isSet(f.ready) {
		t.Fatalf("a batch of %d, and nobody is woken for the rest", len(batch))
	}
	all[1].feed.Close(stream.ErrClosed)
	f.done(batch, map[*attachment]bool{all[0]: true, all[1]: true, all[2]: false})
	if got := f.take(); !slices.Equal(got, []*attachment{all[backfillBatch], all[0]}) {
		t.Errorf("%d are read", len(got))
	}
	for i, a := range all {
		if want := i == 0 || i >= backfillBatch; a.backfill.queued != want {
			t.Errorf("%d is queued: %t", i, a.backfill.queued)
		}
	}
}

func TestARowThatDoesNotContinueAFeedEndsItAndNothingMoreIsRead(t *testing.T) {
	t.Parallel()
	const epoch = stream.Seq(1) << 32
	h := postgres.History{Epoch: 1}
	type read struct {
		row journal.Row
		seq stream.Seq // of the row's event, in its epoch; 0: none
	}
	at := func(head, first, seq stream.Seq) read {
		return read{journal.Row{History: h, Head: journal.Head{Seq: epoch + head, First: epoch + first}}, seq}
	}
	other := at(6, 1, 6)
	other.row.History.Epoch = 2
	for name, c := range map[string]struct {
		rows  []read
		doubt bool
		last  stream.Seq // of the feed
		cause error
		some  bool
		ended bool
	}{
		"what follows":                     {[]read{at(8, 1, 6), at(8, 1, 7)}, false, 7, nil, true, false},
		"nothing new":                      {[]read{at(5, 1, 0)}, false, 5, nil, false, false},
		"another history":                  {[]read{other, at(6, 1, 6)}, false, 5, stream.ErrReset, false, true},
		"a head behind the feed":           {[]read{at(4, 1, 0)}, false, 5, stream.ErrReset, false, true},
		"a journal that begins above":      {[]read{at(9, 8, 8), at(9, 1, 6)}, false, 5, stream.ErrBehind, false, true},
		"a journal with a hole":            {[]read{at(9, 1, 6), at(9, 1, 8)}, false, 6, stream.ErrBehind, true, true},
		"what the WAL told of, unseen":     {[]read{at(4, 1, 0)}, true, 5, nil, false, true},
		"what the WAL told of, just seen":  {[]read{at(5, 1, 0)}, true, 5, nil, false, true},
		"what follows that, seen":          {[]read{at(7, 1, 6), at(7, 1, 7)}, true, 7, nil, true, false},
		"what is in doubt and contradicts": {[]read{at(9, 8, 8)}, true, 5, stream.ErrBehind, false, true},
	} {
		b := loneBus(t, nil)
		a := placed(t, b, epoch+5)
		r := feedRead{attachment: a, last: epoch + 5, inDoubt: c.doubt}
		for _, got := range c.rows {
			if got.seq > 0 {
				got.row.Frame = event(b, epoch+got.seq)
			}
			b.take(&r, got.row)
		}
		cause := a.feed.Cause()
		if a.feed.Last() != epoch+c.last || r.last != epoch+c.last || cause != c.cause { //nolint:errorlint // sentinels
			t.Errorf("%s: the feed is at %d, read to %d, ended by %v", name, a.feed.Last()-epoch, r.last-epoch, cause)
		}
		if !r.found || r.some != c.some || r.ended != c.ended {
			t.Errorf("%s: found %t, some %t, ended %t", name, r.found, r.some, r.ended)
		}
		if c.some && !c.ended && r.head != c.rows[0].row.Head.Seq {
			t.Errorf("%s: the head is %d", name, r.head)
		}
	}
}

func TestAnEventIsAppendedOnceAndAHoleIsRead(t *testing.T) {
	t.Parallel()
	b := loneBus(t, nil)
	a := placed(t, b, 5)
	b.backfill.done(b.backfill.take(), nil) // the catch-up
	for _, n := range []stream.Seq{6, 6, 7} {
		b.append(a, *event(b, n))
	}
	if a.feed.Last() != 7 || queued(b, a) {
		t.Errorf("the feed is at %d, to be read: %t", a.feed.Last(), queued(b, a))
	}
	b.append(a, *event(b, 9))
	if a.feed.Last() != 7 || !queued(b, a) || a.backfill.cause != stream.ReadHole {
		t.Errorf("the feed is at %d, to be read: %t, because of %v", a.feed.Last(), queued(b, a), a.backfill.cause)
	}
}

func TestTheEndOfAnEarlierLifeDoesNotEndTheAttachment(t *testing.T) {
	t.Parallel()
	b := loneBus(t, nil)
	_, q, err := b.registry.acquire(stream.AttachRequest{Topology: "a", Resume: true, After: 3})
	must(t, err)
	b.registry.take(time.Now())
	alive := journal.Light{Topology: "a", Head: journal.Head{Seq: 5, First: 1}, Alive: true}
	b.attached([]stream.TopologyID{"a"}, []journal.Light{alive}, postgres.History{}, false)
	a := (<-q.done).attachment
	for n := stream.Seq(4); n <= 6; n++ { // the first life ends at 4, or at 5, the head at which it was alive
		fr := event(b, n)
		fr.Final = true
		b.append(a, *fr)
		if ended := a.feed.Cause() != nil; ended != (n == 6) || (b.registry.find("a") == nil) != ended {
			t.Errorf("after %d: ended %t; attached: %t", n, ended, b.registry.find("a") != nil)
		}
	}
	if a.feed.Cause() != stream.ErrDeleted { //nolint:errorlint // the sentinel itself
		t.Errorf("it ended by %v", a.feed.Cause())
	}
}

func TestAForgedEventThrowsTheFeedAwayAndTheLogSaysSoOnce(t *testing.T) {
	t.Parallel()
	var log sharedLog
	b := loneBus(t, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	a := placed(t, b, 5)
	b.append(a, *event(b, 6))
	forged := event(b, 6)
	forged.Bytes = append(slices.Clone(forged.Bytes), "forged"...)
	b.append(a, *forged)
	if a.feed.Cause() != stream.ErrReset || b.registry.find("a") != nil { //nolint:errorlint // the sentinel itself
		t.Errorf("it ended by %v", a.feed.Cause())
	}
	const says = "feed thrown away"
	before := log.count(says)
	b.append(a, *forged)
	b.reset(a, stream.ErrReset, "once more")
	if after := log.count(says); before != 1 || after != 1 {
		t.Errorf("the log says so %d times, and then %d", before, after)
	}
}

func TestAJournalThatCannotBeReadIsReadAgainLessAndLessOften(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		tries := &attachTries{Handler: slog.DiscardHandler}
		b := loneBus(t, func(c *Config) { c.Logger = slog.New(tries) })
		a := placed(t, b, 5)
		more, err := b.readBatch(t.Context(), []*attachment{a})
		if err == nil || !more[a] || metrictest.Value(b.stats.JournalReads[stream.ReadCatchUp]) != 1 {
			t.Errorf("%v, more: %t", err, more[a])
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); b.backfillLoop(ctx) }()
		time.Sleep(time.Second)
		if n := len(tries.take()); n < 3 || n > 7 { // after pauses of 100 ms, 200, 400 and so on, or the half
			t.Errorf("%d tries in the first second", n)
		}
		time.Sleep(time.Minute)
		if n := len(tries.take()); n < 33 || n > 50 { // after pauses of 1 s to 2
			t.Errorf("%d tries in a minute", n)
		}
		cancel()
		<-done
		if a.feed.Cause() != nil || !queued(b, a) {
			t.Errorf("ended by %v; to be read: %t", a.feed.Cause(), queued(b, a))
		}
	})
}

func TestAFeedFarBehindIsReadPageByPageAndNotOnceMore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := makeTopologies(t, conn, 2)
	b, _ := stillBus(t, db, nil)
	a, small := attachAt(t, b, ids[0], 1), attachAt(t, b, ids[1], 1)
	pgtest.Exec(t, conn, emitMany, ids[0], 2*backfillRows)
	for i, at := range []stream.Seq{backfillRows + 1, 2*backfillRows + 1} {
		more, err := b.readBatch(t.Context(), []*attachment{small, a})
		must(t, err)
		if more[a] != (i == 0) || more[small] || a.feed.Last() != at || small.feed.Last() != 1 {
			t.Errorf("read to %d and %d, more: %t and %t", a.feed.Last(), small.feed.Last(), more[a], more[small])
		}
	}
	if n := metrictest.Value(b.stats.JournalReads[stream.ReadCatchUp]); n != 2 {
		t.Errorf("%d reads", n)
	}
	const emitLarge = `SELECT topology_emit($1::text::uuid, 'x', to_jsonb(repeat('x', $2))) FROM generate_series(1, 3)`
	pgtest.Exec(t, conn, emitLarge, ids[1], backfillBytes/4)
	more, err := b.readBatch(t.Context(), []*attachment{small, a}) // which share the bytes
	must(t, err)
	if !more[small] || small.feed.Last() >= 4 {
		t.Errorf("large events are read to %d, more: %t", small.feed.Last(), more[small])
	}
	pgtest.Exec(t, conn, `DELETE FROM topology_events; DELETE FROM topology_heads`)
	more, err = b.readBatch(t.Context(), []*attachment{small})
	must(t, err)
	if more[small] || small.feed.Cause() != stream.ErrReset { //nolint:errorlint // the sentinel itself
		t.Errorf("without a head: more %t, ended by %v", more[small], small.feed.Cause())
	}
}

func TestAJournalIsReadAgainAfterEachOfSeveralFailures(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	var log sharedLog
	b, start := stillBus(t, db, func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	a := attachAt(t, b, id, 1)
	start()
	const failed = "journal read failed"
	for n := stream.Seq(2); n < 4; n++ {
		pgtest.Eventually(t, "the read before", func() bool { return !queued(b, a) })
		pgtest.Exec(t, conn, emitOne, id)
		pgtest.Exec(t, conn, `ALTER TABLE topology_events RENAME TO away`)
		before := log.count(failed)
		b.backfillOne(a, stream.ReadHole)
		pgtest.Eventually(t, "two failures", func() bool { return log.count(failed) >= before+2 })
		pgtest.Exec(t, conn, `ALTER TABLE away RENAME TO topology_events`)
		comes(t, a, n)
	}
}
