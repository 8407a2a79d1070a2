package pgbus

import (
	"context"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/source"
	"topostream/pgbus/source/poll"
	"topostream/stream"
)

// compare has b's heads compared with its feeds once.
func compare(t *testing.T, b *Bus) {
	t.Helper()
	p := poll.New(poll.Config{Positions: b.positions, Reader: b.reader, Logger: b.log}, b.cfg.Heartbeat)
	done := compared{pollSink: pollSink{sink{b, stream.ReadHeartbeat}}, once: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Run(ctx, done)
	}()
	p.Soon()
	pgtest.Eventually(t, "a comparison", func() bool { return len(done.once) == 1 })
	cancel()
	<-ended
}

// compared is told when a poll has compared once.
type compared struct {
	pollSink

	once chan struct{}
}

func (c compared) State(source.State) {
	select {
	case c.once <- struct{}{}:
	default:
	}
}
