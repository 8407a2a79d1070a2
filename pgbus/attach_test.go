package pgbus

import (
	"errors"
	"strconv"
	"testing"
	"time"

	"topostream/stream"
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
		largest, tried := 0, 0
		for {
			ids, _ := r.take(time.Now())
			if len(ids) == 0 {
				break
			}
			largest, tried = max(largest, len(ids)), tried+len(ids)
			for _, id := range ids {
				r.failed(id, errors.New("no reason"))
			}
		}
		if largest != want || tried != topologies {
			t.Errorf(
				"round %d: up to %d topologies in a transaction, %d in all; want %d, %d",
				round,
				largest,
				tried,
				want,
				topologies,
			)
		}
		for _, p := range r.pending {
			p.notBefore = time.Time{}
		}
	}
}
