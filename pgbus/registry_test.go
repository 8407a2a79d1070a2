package pgbus

import (
	"errors"
	"slices"
	"strconv"
	"testing"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/postgres"
	"topostream/stream"
)

// A rig is a registry that needs no database.
type rig struct {
	*registry

	forgotten []stream.TopologyID
}

func newRig() *rig {
	r := &rig{}
	r.registry = newRegistry(func(id stream.TopologyID) { r.forgotten = append(r.forgotten, id) })
	return r
}

// waits is a request that waits for topology a.
func (r *rig) waits(t *testing.T) *attachRequest {
	t.Helper()
	_, q, err := r.acquire(stream.AttachRequest{Topology: "a"})
	must(t, err)
	if q == nil {
		t.Fatal("it is attached")
	}
	return q
}

// takes fails unless topology a is to be attached now, or not.
func (r *rig) takes(t *testing.T, want bool) {
	t.Helper()
	ids, _ := r.take(time.Now())
	if (len(ids) == 1) != want {
		t.Fatalf("to attach now: %v, want it there: %v", ids, want)
	}
}

// attaches does what a transaction of history h is followed by.
func (r *rig) attaches(h postgres.History) *attachment {
	return r.add("a", h, func([]*attachRequest) *attachment {
		feed := stream.NewFeed(stream.FeedConfig{Topology: "a", Base: 1, Alive: 1})
		return &attachment{id: "a", history: h, feed: feed, idle: time.Now()}
	})
}

// told gives what a request was told; false if it still waits.
func toldOf(q *attachRequest) (attachResult, bool) {
	select {
	case r := <-q.done:
		return r, true
	default:
		return attachResult{}, false
	}
}

func TestWhoComesWhileATransactionIsUnderWayWaitsForTheNextIfThereIsNoSuchTopology(t *testing.T) {
	t.Parallel()
	r := newRig()
	early := r.waits(t)
	r.takes(t, true)
	late := r.waits(t)
	r.takes(t, false) // it is under way
	r.absent("a", attachResult{err: stream.ErrNotFound})
	if got, ok := toldOf(early); !ok || got.err != stream.ErrNotFound { //nolint:errorlint // the sentinel itself
		t.Errorf("%+v, %v", got, ok)
	}
	if got, ok := toldOf(late); ok {
		t.Errorf("who came late was told %+v", got)
	}
	if n := r.waiting(); n != 1 {
		t.Errorf("%d topologies wait", n)
	}
	r.takes(t, true)
	r.absent("a", attachResult{err: stream.ErrNotFound})
	if _, ok := toldOf(late); !ok || r.waiting() != 0 || len(r.forgotten) != 2 {
		t.Errorf("told: %v; %d topologies wait; forgotten: %v", ok, r.waiting(), r.forgotten)
	}
	r.absent("a", attachResult{}) // of nobody's
}

func TestAllWhoWaitGetTheAttachmentAndAreCounted(t *testing.T) {
	t.Parallel()
	r := newRig()
	early, gone := r.waits(t), r.waits(t)
	r.takes(t, true)
	late := r.waits(t)
	if why := r.abandon(gone); why != nil {
		t.Errorf("abandoned because of %v", why)
	}
	a := r.attaches(postgres.History{})
	for _, q := range []*attachRequest{early, late} {
		if got, ok := toldOf(q); !ok || got.attachment != a {
			t.Errorf("%+v, %v", got, ok)
		}
	}
	if _, ok := toldOf(gone); ok {
		t.Error("who has gone was told")
	}
	again, q, err := r.acquire(stream.AttachRequest{Topology: "a"})
	if again != a || q != nil || err != nil || a.clients != 3 || r.waiting() != 0 || r.find("a") != a {
		t.Errorf("%v, %v, %v; %d clients, %d wait", again, q, err, a.clients, r.waiting())
	}
	if other := r.attaches(postgres.History{}); other != nil { // nobody waits any more
		t.Error("a second attachment")
	}
}

func TestARequestThatIsAbandonedAsItIsServedGivesItsPlaceBack(t *testing.T) {
	t.Parallel()
	r := newRig()
	q := r.waits(t)
	r.takes(t, true)
	a := r.attaches(postgres.History{})
	before := time.Now()
	if _ = r.abandon(q); a.clients != 0 || a.idle.Before(before) {
		t.Errorf("%d clients, idle since %v", a.clients, a.idle)
	}
}

func TestATopologyThatAllHaveLeftIsNotAttached(t *testing.T) {
	t.Parallel()
	r := newRig()
	_ = r.abandon(r.waits(t))
	if r.takes(t, false); r.waiting() != 0 {
		t.Errorf("%d topologies wait", r.waiting())
	}
}

func TestATryThatFailedIsRepeatedLaterAndSaysWhy(t *testing.T) {
	t.Parallel()
	r := newRig()
	first, why := r.waits(t), errors.New("no reason")
	r.failed("a", why) // which nobody tried
	r.takes(t, true)
	second := r.waits(t)
	r.failed("a", why)
	_, next := r.take(time.Now())
	if wait := time.Until(next); wait <= 0 || wait > 250*time.Millisecond {
		t.Errorf("it is tried again in %s", wait)
	}
	r.takes(t, false)
	ids, _ := r.take(next)
	if len(ids) != 1 {
		t.Fatal("it is not tried again")
	}
	if p := r.pending["a"]; !slices.Equal(p.underWay, []*attachRequest{first, second}) || p.tries != 1 {
		t.Errorf("%d requests in order, %d tries", len(p.underWay), p.tries)
	}
	if got := r.abandon(second); got != why { //nolint:errorlint // the very one
		t.Errorf("%v, want %v", got, why)
	}
	r.again("a")
	if ids, _ = r.take(next); len(ids) != 1 {
		t.Error("it has to wait for another try")
	}
	if _, ok := toldOf(first); ok {
		t.Error("it was told something")
	}
	r.again("b") // which nobody wants
}

func TestAttachmentsOfOlderHistoriesEndAndAreRefusedWhenTheyComeLate(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.waits(t)
	r.takes(t, true)
	old := r.attaches(postgres.History{Epoch: 1})
	if n := r.endOlder(postgres.History{Epoch: 1}); n != 0 || old.feed.Cause() != nil {
		t.Errorf("%d of the same history ended", n)
	}
	if n := r.endOlder(postgres.History{Epoch: 2}); n != 1 || !errors.Is(old.feed.Cause(), stream.ErrReset) {
		t.Errorf("%d of an older history ended, by %v", n, old.feed.Cause())
	}
	if n := r.endOlder(postgres.History{Epoch: 1}); n != 0 || r.find("a") != nil || len(r.forgotten) != 1 {
		t.Errorf("%d more; forgotten: %v", n, r.forgotten)
	}
	q := r.waits(t)
	r.takes(t, true)
	if a := r.attaches(postgres.History{Epoch: 1}); a != nil {
		t.Error("an attachment of a history that is over")
	}
	if _, ok := toldOf(q); ok {
		t.Error("who waits was told")
	}
	r.takes(t, true) // another transaction
	if a := r.attaches(postgres.History{Epoch: 2}); a == nil || r.find("a") != a {
		t.Error("no attachment of the newest history")
	}
}

func TestAnAttachmentEndsAWhileAfterItsLastClientLeft(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.waits(t)
	r.takes(t, true)
	a := r.attaches(postgres.History{})
	if r.expire(time.Now().Add(time.Hour)); a.feed.Cause() != nil {
		t.Fatal("it ended under its client")
	}
	r.release(a)
	if r.expire(a.idle.Add(-1)); a.feed.Cause() != nil {
		t.Fatal("it ended too early")
	}
	r.expire(a.idle)
	if !errors.Is(a.feed.Cause(), stream.ErrClosed) || r.find("a") != nil || len(r.all()) != 0 {
		t.Errorf("ended by %v; %d are left", a.feed.Cause(), len(r.all()))
	}
}

func TestTheEndOfAnAttachmentIsNotTheEndOfTheNext(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.waits(t)
	r.takes(t, true)
	old := r.attaches(postgres.History{})
	r.end(old, stream.ErrReset)
	r.waits(t)
	r.takes(t, true)
	a := r.attaches(postgres.History{})
	if r.end(old, stream.ErrClosed); r.find("a") != a || a.feed.Cause() != nil || len(r.forgotten) != 1 {
		t.Errorf("ended by %v; forgotten: %v", a.feed.Cause(), r.forgotten)
	}
}

func TestAClosedRegistryTellsAllWhoWait(t *testing.T) {
	t.Parallel()
	r := newRig()
	early := r.waits(t)
	r.takes(t, true)
	late := r.waits(t)
	if r.isClosed() {
		t.Error("it is closed before it was")
	}
	r.close()
	for _, q := range []*attachRequest{early, late} {
		if got, ok := toldOf(q); !ok || got.err != stream.ErrClosed { //nolint:errorlint // the sentinel itself
			t.Errorf("%+v, %v", got, ok)
		}
	}
	_, _, err := r.acquire(stream.AttachRequest{Topology: "a"})
	if err != stream.ErrClosed || !r.isClosed() || r.attaches(postgres.History{}) != nil { //nolint:errorlint // as above
		t.Errorf("%v: a closed registry attaches", err)
	}
}

func TestAFreshFeedBeginsAtTheLowestNumberThatWaitsButNotTooFarBelow(t *testing.T) {
	t.Parallel()
	const epoch = stream.Seq(3) << 32
	for name, c := range map[string]struct {
		head   journal.Head
		resume []stream.Seq
		want   stream.Seq
	}{
		"nobody resumes":                       {journal.Head{Seq: 1000, First: 1}, nil, 1000},
		"the lowest counts":                    {journal.Head{Seq: 1000, First: 1}, []stream.Seq{990, 980, 985}, 980},
		"one at the head":                      {journal.Head{Seq: 1000, First: 1}, []stream.Seq{1000}, 1000},
		"one ahead of the head":                {journal.Head{Seq: 1000, First: 1}, []stream.Seq{1001}, 1000},
		"the furthest":                         {journal.Head{Seq: 1000, First: 1}, []stream.Seq{488}, 488},
		"one that is too far below":            {journal.Head{Seq: 1000, First: 1}, []stream.Seq{487}, 1000},
		"too far below, and another":           {journal.Head{Seq: 1000, First: 1}, []stream.Seq{5, 990}, 990},
		"at what the journal begins with":      {journal.Head{Seq: 1000, First: 900}, []stream.Seq{899}, 899},
		"below what the journal begins with":   {journal.Head{Seq: 1000, First: 900}, []stream.Seq{898}, 1000},
		"from the beginning":                   {journal.Head{Seq: 3, First: 1}, []stream.Seq{0}, 0},
		"a head that has no first":             {journal.Head{Seq: 3}, []stream.Seq{0}, 0},
		"the beginning is as far as one may":   {journal.Head{Seq: 512, First: 1}, []stream.Seq{0}, 0},
		"the beginning is too far":             {journal.Head{Seq: 513, First: 1}, []stream.Seq{0}, 513},
		"a journal that is empty":              {journal.Head{Seq: 1000, First: 1001}, []stream.Seq{999}, 1000},
		"in an epoch":                          {journal.Head{Seq: epoch + 9, First: epoch + 1}, []stream.Seq{epoch}, epoch},
		"a number of an earlier epoch":         {journal.Head{Seq: epoch + 9, First: epoch + 1}, []stream.Seq{8}, epoch + 9},
		"at most attachBefore in a long epoch": {journal.Head{Seq: epoch + 9}, []stream.Seq{epoch - 504}, epoch + 9},
	} {
		requests := make([]*attachRequest, 0, 1+len(c.resume))
		requests = append(requests, &attachRequest{AttachRequest: stream.AttachRequest{After: 995}}) // does not resume
		for _, n := range c.resume {
			requests = append(requests, &attachRequest{AttachRequest: stream.AttachRequest{Resume: true, After: n}})
		}
		if got := lowest(requests, c.head); got != c.want {
			t.Errorf("%s: it begins at %d, want %d", name, got, c.want)
		}
	}
}

func TestTakeTellsWhenTheNextTryIsDue(t *testing.T) {
	t.Parallel()
	r := newRig()
	now := time.Now()
	if ids, next := r.take(now); len(ids) != 0 || !next.IsZero() {
		t.Errorf("%v, next %s of nothing", ids, next)
	}
	for id, wait := range map[stream.TopologyID]time.Duration{"late": 2 * time.Second, "soon": time.Second, "now": 0} {
		_, _, err := r.acquire(stream.AttachRequest{Topology: id})
		must(t, err)
		r.pending[id].notBefore = now.Add(wait)
	}
	for range 2 { // what is under way is not due
		ids, next := r.take(now)
		if len(ids) > 1 || len(ids) == 1 && ids[0] != "now" || !next.Equal(now.Add(time.Second)) {
			t.Errorf("%v, next in %s", ids, next.Sub(now))
		}
	}
	if r.pending["now"].underWay == nil || r.pending["soon"].underWay != nil || r.waiting() != 3 {
		t.Error("what is due is not under way")
	}
}

func TestMoreThanABatchIsDueAtOnce(t *testing.T) {
	t.Parallel()
	r := newRig()
	for i := range attachBatch + 1 {
		_, _, err := r.acquire(stream.AttachRequest{Topology: stream.TopologyID(strconv.Itoa(i))})
		must(t, err)
	}
	now := time.Now()
	ids, _ := r.take(now)
	rest, next := r.take(now)
	if len(ids) != attachBatch || len(rest) != 1 || !next.IsZero() {
		t.Errorf("%d and %d topologies, next %s", len(ids), len(rest), next)
	}
}

func TestAllWhoHaveGoneAreForgottenWhateverBecomesOfTheirTransaction(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		ends      func(r *rig)
		forgotten int
		attached  bool
	}{
		"it fails":         {func(r *rig) { r.failed("a", errors.New("no reason")) }, 1, false},
		"it is to be anew": {func(r *rig) { r.again("a") }, 1, false},
		"there is none":    {func(r *rig) { r.absent("a", attachResult{err: stream.ErrNotFound}) }, 1, false},
		"it is attached":   {func(r *rig) { r.attaches(postgres.History{}) }, 0, true},
		"its history is over": {func(r *rig) {
			r.endOlder(postgres.History{Epoch: 1})
			r.attaches(postgres.History{})
		}, 1, false},
		"the bus is closed": {func(r *rig) { r.close() }, 0, false},
	} {
		r := newRig()
		q := r.waits(t)
		r.takes(t, true)
		if _ = r.abandon(q); r.waiting() != 1 || len(r.forgotten) != 0 {
			t.Errorf("%s: forgotten while its transaction is under way", name)
		}
		c.ends(r)
		if _, ok := toldOf(q); ok || r.waiting() != 0 || len(r.forgotten) != c.forgotten {
			t.Errorf("%s: told %t; %d topologies wait; forgotten: %v", name, ok, r.waiting(), r.forgotten)
		}
		a := r.find("a")
		if (a != nil) != c.attached || c.attached && a.clients != 0 {
			t.Errorf("%s: attached: %+v", name, a)
		}
	}
}

func TestAnAnswerThatComesTooLateChangesNothing(t *testing.T) {
	t.Parallel()
	r := newRig()
	q := r.waits(t)
	r.again("a") // nothing is under way
	r.failed("a", errors.New("no reason"))
	if p := r.pending["a"]; p.tries != 0 || p.failure != nil || len(p.waiting) != 1 || !p.notBefore.IsZero() {
		t.Errorf("%d tries, failed by %v, %d wait", p.tries, p.failure, len(p.waiting))
	}
	r.failed("b", errors.New("no reason")) // of nobody's
	r.takes(t, true)
	a := r.attaches(postgres.History{})
	r.failed("a", errors.New("no reason"))
	r.again("a")
	r.absent("b", attachResult{})
	if got, ok := toldOf(q); !ok || got.attachment != a || r.waiting() != 0 || len(r.forgotten) != 0 {
		t.Errorf("told %t; %d topologies wait; forgotten: %v", ok, r.waiting(), r.forgotten)
	}
}

func TestWhoComesAfterATopologyWasAbsentStartsWithoutItsFailures(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.waits(t)
	r.takes(t, true)
	r.failed("a", errors.New("no reason"))
	r.pending["a"].notBefore = time.Time{}
	r.takes(t, true)
	late := r.waits(t)
	r.absent("a", attachResult{err: stream.ErrNotFound})
	if p := r.pending["a"]; p.tries != 0 || p.failure != nil || p.underWay != nil || len(p.waiting) != 1 {
		t.Errorf("%d tries, failed by %v", p.tries, p.failure)
	}
	if why := r.abandon(late); why != nil || r.waiting() != 0 || len(r.forgotten) != 2 {
		t.Errorf("abandoned because of %v; forgotten: %v", why, r.forgotten)
	}
}

func TestWhoIsGoneWhileOthersWaitLeavesThemTheirPlace(t *testing.T) {
	t.Parallel()
	r := newRig()
	stays, goes := r.waits(t), r.waits(t)
	if _ = r.abandon(goes); r.waiting() != 1 || len(r.forgotten) != 0 {
		t.Errorf("%d topologies wait; forgotten: %v", r.waiting(), r.forgotten)
	}
	r.takes(t, true)
	a := r.attaches(postgres.History{})
	if got, ok := toldOf(stays); !ok || got.attachment != a || a.clients != 1 {
		t.Errorf("told %t; %d clients", ok, a.clients)
	}
	r.release(a)
	if idle := a.idle; a.clients != 0 || len(r.all()) != 1 || r.all()[0] != a || idle.IsZero() {
		t.Errorf("%d clients", a.clients)
	}
}

func TestAClosedRegistryEndsItsFeeds(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.waits(t)
	r.takes(t, true)
	a := r.attaches(postgres.History{})
	r.close()
	if a.feed.Cause() != stream.ErrClosed || r.find("a") != nil || len(r.all()) != 0 { //nolint:errorlint // the sentinel
		t.Errorf("ended by %v; %d are left", a.feed.Cause(), len(r.all()))
	}
}

func TestOneWhoResumesAndOneWhoDoesNotAreTwoClientsAndTheLastToLeaveStartsTheWait(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.waits(t)
	r.waits(t)
	r.takes(t, true)
	a := r.attaches(postgres.History{})
	a.idle = time.Time{}
	if r.release(a); a.clients != 1 || !a.idle.IsZero() {
		t.Errorf("%d clients, idle since %v", a.clients, a.idle)
	}
	if r.release(a); a.clients != 0 || a.idle.IsZero() {
		t.Errorf("%d clients, idle since %v", a.clients, a.idle)
	}
}

func TestABatchIsNoLargerThanEachOfItsTopologiesAllows(t *testing.T) {
	t.Parallel()
	r := newRig()
	const topologies = 300
	for i := range topologies {
		id := stream.TopologyID(strconv.Itoa(i))
		_, _, err := r.acquire(stream.AttachRequest{Topology: id})
		must(t, err)
		r.pending[id].tries = i % 3
	}
	for left := topologies; left > 0; {
		ids, _ := r.take(time.Now())
		for _, id := range ids {
			if most := r.pending[id].batch(); len(ids) > most {
				t.Fatalf("%d topologies in a transaction, one of which allows %d", len(ids), most)
			}
		}
		if left -= len(ids); len(ids) == 0 {
			t.Fatalf("%d topologies are left", left)
		}
	}
}

func TestWhoHasGoneKeepsNobodyElseFromBeingTold(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]func(r *rig){
		"there is none":     func(r *rig) { r.absent("a", attachResult{err: stream.ErrNotFound}) },
		"the bus is closed": func(r *rig) { r.close() },
		"it is attached":    func(r *rig) { r.attaches(postgres.History{}) },
	} {
		r := newRig()
		goes, stays := r.waits(t), r.waits(t)
		r.takes(t, true)
		_ = r.abandon(goes)
		ends(r)
		if _, ok := toldOf(stays); !ok {
			t.Errorf("%s, and who waits for it is not told", name)
		}
		if _, ok := toldOf(goes); ok {
			t.Errorf("%s, and who has gone is told", name)
		}
	}
}
