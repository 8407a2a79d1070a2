package pgbus

import (
	"strconv"
	"testing"
	"time"

	"topostream/stream"
)

func TestABatchThatFailedIsTriedAgainInSmallerOnes(t *testing.T) {
	t.Parallel()
	b := New(Config{})
	const topologies = 300
	for i := range topologies {
		b.enqueue(stream.AttachRequest{Topology: stream.TopologyID(strconv.Itoa(i))})
	}
	for round, want := range []int{200, 50, 12, 3, 1, 1} {
		largest, tried := 0, 0
		for {
			ids, _ := b.takePending()
			if len(ids) == 0 {
				break
			}
			largest, tried = max(largest, len(ids)), tried+len(ids)
			b.attachFailed(ids)
		}
		if largest != want || tried != topologies {
			t.Errorf("round %d: up to %d topologies in a transaction, %d in all; want %d, %d", round, largest, tried, want, topologies)
		}
		for _, p := range b.pending {
			p.notBefore = time.Time{}
		}
	}
}
