package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	streamclient "topostream/stream/client"
)

// A beside follows a topology by the Go client beside a page, through all that happens to the server: the page must
// have the same.
type beside struct {
	t *testing.T

	mu     sync.Mutex
	events []string // "seq type" of each that is journaled
	last   stream.Seq
}

// followBeside follows until the test ends, which fails if the promise is broken.
func followBeside(t *testing.T, server, id string) *beside {
	t.Helper()
	b := &beside{t: t}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	client := streamclient.Client{URL: server, Token: streamclient.Fixed(testToken(t))}
	go func() {
		defer close(done)
		for event, err := range client.Follow(ctx, streamclient.Request{Topology: stream.TopologyID(id)}) {
			if err != nil {
				if !errors.Is(err, context.Canceled) {
					t.Errorf("beside the page: %v", err)
				}
				return
			}
			b.take(event)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	return b
}

func (b *beside) take(event streamclient.Event) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if event.Journaled {
		b.events = append(b.events, fmt.Sprintf("%d %s", event.Seq, event.Type))
	}
	b.last = max(b.last, event.Seq)
}

// until gives what came, once all up to a seq is there.
func (b *beside) until(seq uint64) []string {
	b.t.Helper()
	var events []string
	pgtest.Eventually(b.t, fmt.Sprintf("seq %d beside the page", seq), func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		events = b.events
		return b.last >= stream.Seq(seq)
	})
	return events
}
