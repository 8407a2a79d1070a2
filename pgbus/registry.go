package pgbus

import (
	"sync"
	"time"

	"topostream/pgbus/journal"
	"topostream/pgbus/postgres"
	"topostream/pgbus/wait"
	"topostream/stream"
)

// An attachment is a topology that this server is attached to.
type attachment struct {
	id         stream.TopologyID
	history    postgres.History // of the events in its feed
	feed       *stream.Feed
	attachedAt stream.Seq // the head when it was attached

	clients int       // under registry.mu
	idle    time.Time // since when clients is 0; under registry.mu

	backfill backfillState // under backfiller.mu
}

// An attachRequest is a client's request that waits for its topology to be attached.
type attachRequest struct {
	stream.AttachRequest

	done      chan attachResult // one place: the attaching goroutine never waits for it
	abandoned bool              // under registry.mu
}

// An attachResult is one of three: an attachment, in which the request is counted as a client; what is left of a
// deleted topology; or an error.
type attachResult struct {
	attachment *attachment
	deleted    *deletedTopology
	err        error
}

// A deletedTopology has a head and a journal until retention removes them.
type deletedTopology struct {
	head    journal.Head
	history postgres.History
}

// A pendingAttach is a topology that some requests wait for. A request that comes while its transaction is under way
// waits for the next one: the snapshot of the first may be older than the request, and so must not tell it that there
// is no such topology.
type pendingAttach struct {
	waiting   []*attachRequest // for the next transaction
	underWay  []*attachRequest // of the transaction that is under way; nil: none is
	tries     int              // transactions that failed in a row
	notBefore time.Time        // when the next one may begin
	failure   error            // why the last one failed
}

// A registry knows which topologies are attached and which are to be. Nothing in it waits.
type registry struct {
	forget func(stream.TopologyID) // called under mu when a topology is attached no more, or is not going to be

	mu       sync.Mutex
	closed   bool
	newest   postgres.History // attachments of older ones have ended
	attached map[stream.TopologyID]*attachment
	pending  map[stream.TopologyID]*pendingAttach // none of which is attached
}

func newRegistry(forget func(stream.TopologyID)) *registry {
	return &registry{
		forget:   forget,
		attached: map[stream.TopologyID]*attachment{},
		pending:  map[stream.TopologyID]*pendingAttach{},
	}
}

// acquire gives the topology's attachment with one more client, or a request that waits for one.
func (r *registry) acquire(req stream.AttachRequest) (*attachment, *attachRequest, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil, nil, stream.ErrClosed
	}
	if a := r.attached[req.Topology]; a != nil {
		a.clients++
		return a, nil, nil
	}
	q := &attachRequest{AttachRequest: req, done: make(chan attachResult, 1)}
	p := r.pending[req.Topology]
	if p == nil {
		p = &pendingAttach{}
		r.pending[req.Topology] = p
	}
	p.waiting = append(p.waiting, q)
	return nil, q, nil
}

// join gives the topology's attachment with one more client; nil if it is not attached.
func (r *registry) join(id stream.TopologyID) *attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.attached[id]
	if a != nil {
		a.clients++
	}
	return a
}

// abandon takes back a request whose client has gone or waits no more. It gives why the last try failed, nil if none
// did.
func (r *registry) abandon(q *attachRequest) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	q.abandoned = true
	select {
	case got := <-q.done: // it came at the same moment
		if got.attachment != nil {
			r.releaseLocked(got.attachment)
		}
	default:
	}
	p := r.pending[q.Topology]
	if p == nil {
		return nil
	}
	r.dropUnwantedLocked(q.Topology, p)
	return p.failure
}

// dropUnwantedLocked forgets a topology that nobody waits for any more. It may be subscribed already.
func (r *registry) dropUnwantedLocked(id stream.TopologyID, p *pendingAttach) {
	p.waiting = withoutAbandoned(p.waiting)
	if p.underWay != nil || len(p.waiting) > 0 {
		return
	}
	delete(r.pending, id)
	r.forget(id)
}

// waitAgainLocked has the requests of a transaction wait for another one.
func (r *registry) waitAgainLocked(id stream.TopologyID, p *pendingAttach) {
	p.waiting, p.underWay = append(p.underWay, p.waiting...), nil
	r.dropUnwantedLocked(id, p)
}

// take gives the topologies to attach now, at most a batch, and when the next one is due; zero: when somebody asks
// again.
func (r *registry) take(now time.Time) (ids []stream.TopologyID, next time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	room := attachBatch
	for id, p := range r.pending {
		due := p.notBefore
		switch {
		case p.underWay != nil:
			continue
		case !due.After(now) && len(ids) < min(room, p.batch()):
			room = min(room, p.batch())
			p.underWay, p.waiting = p.waiting, nil
			ids = append(ids, id)
			continue
		}
		if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	return ids, next
}

// clients tells how many clients an attachment has.
func (r *registry) clients(a *attachment) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return a.clients
}

// waiting tells how many topologies wait to be attached.
func (r *registry) waiting() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.pending)
}

// batch is how many topologies may share a transaction with this one. A batch that failed is tried again in smaller
// ones, so that one topology whose light snapshot takes too long does not keep the others out.
func (p *pendingAttach) batch() int { return max(attachBatch>>(2*min(p.tries, 4)), 1) }

func withoutAbandoned(requests []*attachRequest) []*attachRequest {
	live := requests[:0]
	for _, q := range requests {
		if !q.abandoned {
			live = append(live, q)
		}
	}
	return live
}

// failed has the requests of a transaction that failed wait for another one, which begins after a pause.
func (r *registry) failed(id stream.TopologyID, why error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending[id]
	if p == nil || p.underWay == nil {
		return
	}
	p.failure = why
	p.notBefore = time.Now().Add(wait.Backoff(p.tries, 250*time.Millisecond, time.Second))
	p.tries++
	r.waitAgainLocked(id, p)
}

// again has the requests of a transaction wait for another one, which may begin at once.
func (r *registry) again(id stream.TopologyID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if p := r.pending[id]; p != nil && p.underWay != nil {
		r.waitAgainLocked(id, p)
	}
}

// absent gives the requests of a transaction their answer for a topology that does not exist (any more).
func (r *registry) absent(id stream.TopologyID, result attachResult) {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending[id]
	if p == nil {
		return
	}
	r.finishLocked(p.underWay, result)
	p.underWay, p.tries, p.failure = nil, 0, nil
	if len(p.waiting) == 0 {
		delete(r.pending, id)
	}
	r.forget(id)
}

// add makes an attachment and gives it to all requests that wait for it; newAttachment is called with these. It makes
// none, and returns nil, when the bus is closed, or when a newer history has been seen: then they wait for another
// transaction.
func (r *registry) add(
	id stream.TopologyID, h postgres.History, newAttachment func([]*attachRequest) *attachment,
) *attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	p := r.pending[id]
	switch {
	case p == nil: // the bus is closed
		return nil
	case r.newest.Epoch > h.Epoch:
		r.waitAgainLocked(id, p)
		return nil
	}
	all := withoutAbandoned(append(p.underWay, p.waiting...)) // in place: neither slice is used any more
	a := newAttachment(all)
	r.attached[id] = a
	delete(r.pending, id)
	r.finishLocked(all, attachResult{attachment: a})
	return a
}

func (r *registry) finishLocked(requests []*attachRequest, result attachResult) {
	for _, q := range requests {
		if q.abandoned {
			continue
		}
		if result.attachment != nil {
			result.attachment.clients++
		}
		q.done <- result
	}
}

// find gives the attachment of a topology; nil if it is not attached.
func (r *registry) find(id stream.TopologyID) *attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.attached[id]
}

// all gives every attachment.
func (r *registry) all() []*attachment {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*attachment, 0, len(r.attached))
	for _, a := range r.attached {
		out = append(out, a)
	}
	return out
}

func (r *registry) release(a *attachment) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.releaseLocked(a)
}

func (r *registry) releaseLocked(a *attachment) {
	if a.clients--; a.clients == 0 {
		a.idle = time.Now()
	}
}

// end takes an attachment out of service: its feed ends with cause, and the next request attaches anew.
func (r *registry) end(a *attachment, cause error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endLocked(a, cause)
}

func (r *registry) endLocked(a *attachment, cause error) {
	a.feed.Close(cause)
	if r.attached[a.id] == a {
		delete(r.attached, a.id)
		r.forget(a.id)
	}
}

// endOlder ends the attachments of histories before h, and has add refuse others of them from now on.
func (r *registry) endOlder(h postgres.History) (ended int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if h.Epoch > r.newest.Epoch {
		r.newest = h
	}
	for _, a := range r.attached {
		if a.history.Epoch < h.Epoch {
			r.endLocked(a, stream.ErrReset)
			ended++
		}
	}
	return ended
}

// expire ends the attachments whose last client left before a time.
func (r *registry) expire(before time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.attached {
		if a.clients == 0 && !a.idle.After(before) {
			r.endLocked(a, stream.ErrClosed)
		}
	}
}

func (r *registry) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

func (r *registry) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	for id, a := range r.attached {
		a.feed.Close(stream.ErrClosed)
		delete(r.attached, id)
	}
	for id, p := range r.pending {
		r.finishLocked(append(p.underWay, p.waiting...), attachResult{err: stream.ErrClosed})
		delete(r.pending, id)
	}
}
