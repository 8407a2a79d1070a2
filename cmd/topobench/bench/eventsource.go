package bench

import (
	"context"
	"errors"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"topostream/cmd/topobench/fleet"
)

// An eventSource publishes events, each with a [fleet.Mark], in topologies of a server. Each topology belongs to one
// publisher, so that its serials are published in their order.
type eventSource struct {
	topologies []string
	stamps     *fleet.Stamps
	batch      int // events of one topology that are published together
	size       int // bytes of a payload, at least
	publishers []publisher
}

// maxPublishers is how many publishers one run has at most.
const maxPublishers = 16

// newEventSource makes a source that has no publishers before connect. The caller closes it.
func newEventSource(r *running, batch, size int) *eventSource {
	return &eventSource{topologies: r.topologies, stamps: fleet.NewStamps(len(r.topologies)), batch: batch, size: size}
}

// connect makes the publishers.
func (s *eventSource) connect(ctx context.Context, r *running) error {
	for range min(maxPublishers, len(r.topologies)) {
		p, err := r.publish(ctx)
		if err != nil {
			return errors.Join(err, s.close())
		}
		s.publishers = append(s.publishers, p)
	}
	return nil
}

func (s *eventSource) close() (err error) {
	for _, p := range s.publishers {
		err = errors.Join(err, p.close())
	}
	s.publishers = nil
	return err
}

// publish publishes n events in a topology together, by p.
func (s *eventSource) publish(ctx context.Context, p publisher, topology, n int) error {
	payloads := make([]string, n)
	serials := make([]uint64, n)
	for i := range payloads {
		serials[i] = s.stamps.Next(topology)
		payloads[i] = s.payload(fleet.Mark{Serial: serials[i], Nanos: time.Now().UnixNano()})
	}
	return p.publish(ctx, s.topologies[topology], payloads, func() {
		now := time.Now().UnixNano()
		for _, serial := range serials {
			s.stamps.Sent(topology, serial, now)
		}
	})
}

func (s *eventSource) payload(m fleet.Mark) string {
	b := m.Append([]byte(`{"decky_name":"web-1","services":["ssh"],"mark":"`))
	b = append(b, `"}`...)
	if missing := s.size - len(b) - len(`,"pad":""`); missing > 0 {
		b = append(b[:len(b)-1], `,"pad":"`+strings.Repeat("x", missing)+`"}`...)
	}
	return string(b)
}

// deliveries is how many events that many clients must have got of what was published so far: client i follows topology
// i modulo the number of topologies.
func (s *eventSource) deliveries(clients int) (n uint64) {
	for t := range s.topologies {
		followers := clients / len(s.topologies)
		if t < clients%len(s.topologies) {
			followers++
		}
		n += s.stamps.Last(t) * uint64(followers)
	}
	return n
}

// publishInEach publishes n events together in each topology, as fast as it goes.
func (s *eventSource) publishInEach(ctx context.Context, n int) error {
	g, ctx := errgroup.WithContext(ctx)
	for i, p := range s.publishers {
		g.Go(func() error {
			for t := i; t < len(s.topologies); t += len(s.publishers) {
				if err := s.publish(ctx, p, t, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

// pace publishes events at a rate, as [pace] calls, in each topology in turn. It gives how many events were published,
// and how long it took.
func (s *eventSource) pace(ctx context.Context, rate float64, d time.Duration) (events int, took time.Duration,
	err error) {
	start := time.Now()
	published := make([]int, len(s.publishers))
	calls := rate / float64(s.batch)
	err = pace(ctx, len(s.publishers), calls, d, func(ctx context.Context, i, k int) error {
		own := (len(s.topologies) - i + len(s.publishers) - 1) / len(s.publishers)
		if err := s.publish(ctx, s.publishers[i], i+k%own*len(s.publishers), s.batch); err != nil {
			return err
		}
		published[i] += s.batch
		return nil
	})
	for _, n := range published {
		events += n
	}
	return events, time.Since(start), err
}
