package api

import (
	"time"

	"topostream/stream/delivery"
)

// setOfList is session.set for streams of the list.
const setOfList = "the list"

// A session is one open stream.
type session struct {
	server  *Server
	user    string
	set     string // which topologies it is of: a topology's id, setOfList, or a hash of several topologies (setOf)
	opening opening

	// What follows is under the lock of the user's registryShard.
	carrier    carrier // nil: none yet
	why        error   // why it was ended; nil: it was not
	listed     bool    // it is among its user's streams
	prev, next *session
}

// A carrier carries one stream to its end.
//
// End ends it in order: behind what is being written, with the reason. Any goroutine may call it, again and again. What
// is blocked is cut at by, unless that is zero. It is called under the lock of the registry's shard, for a session that
// is in it.
type carrier interface {
	End(why error, by time.Time)
}

// began counts a stream that is open.
func (s *session) began() {
	s.server.cfg.Stats.Streams.Inc()
	s.server.cfg.Stats.StreamsOpened.Inc()
}

// Ended implements engine.Owner.
func (s *session) Ended(a delivery.Account) {
	s.server.cfg.Stats.Streams.Dec()
	s.server.cfg.Stats.StreamsClosed[delivery.EndCause(a.Why)].Inc()
	s.observeEnd(a)
	s.server.registry.remove(s)
}

// end ends a stream, also one that has no carrier yet. The shard's lock is held, without which the handler does not
// return.
func (s *session) end(why error, by time.Time) {
	if s.why == nil {
		s.why = why
	}
	if s.carrier != nil {
		s.carrier.End(why, by)
	}
}

// lastWords is when a stream that must end now is cut. A client that reads slowly would else keep it for as long as a
// write may take.
func lastWords() time.Time { return time.Now().Add(delivery.LastWords) }
