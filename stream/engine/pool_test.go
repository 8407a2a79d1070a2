package engine

import (
	"sync"
	"testing"
	"testing/synctest"

	"topostream/stream"
)

// Whatever one topology waits for, another one does not.
func TestThePoolHasALineForEachTopology(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := newPool(2)
		held := make(chan struct{})
		var (
			mu          sync.Mutex
			order       []int
			running     int
			most, other int
		)
		for i := range 10 {
			p.do("held", func() {
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				<-held
				mu.Lock()
				running--
				order = append(order, i)
				mu.Unlock()
			})
		}
		for range 10 {
			p.do("another", func() { mu.Lock(); other++; mu.Unlock() })
		}
		synctest.Wait()
		if other != 10 {
			t.Errorf("%d of 10 of another topology were done while one was held", other)
		}
		close(held)
		synctest.Wait()
		if len(order) != 10 || most != 2 {
			t.Errorf("%v were done, %d at a time", order, most)
		}
		if len(p.lines) != 0 {
			t.Errorf("%d lines are left", len(p.lines))
		}
		p.do(stream.TopologyID("held"), func() { order = nil })
		synctest.Wait()
		if order != nil {
			t.Error("nothing is done any more")
		}
	})
}
