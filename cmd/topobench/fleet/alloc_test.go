//go:build linux

package fleet

import (
	"strconv"
	"testing"
)

// The load must not take from the server what it measures.
//
//nolint:paralleltest // it counts the allocations of the whole program
func TestADeliveryCostsNoAllocation(t *testing.T) {
	stamps := NewStamps(1)
	cfg := Config{Spec: Spec{Snapshot: "snapshot", Numbered: true}, Topologies: []string{"x"}, Stamps: stamps}
	l := &loop{fleet: &Fleet{cfg: cfg}, tally: NewTally()}
	c := &client{state: clientBody, ready: true, known: true, chunked: true}
	var frame, chunk []byte
	allocations := testing.AllocsPerRun(1000, func() {
		serial := stamps.Next(0)
		frame = append(frame[:0], "event: bench\nid: "...)
		frame = strconv.AppendUint(frame, serial, 10)
		frame = append(frame, "\ndata: "...)
		frame = append(Mark{serial, 1}.Append(frame), "\n\n"...)
		chunk = strconv.AppendInt(chunk[:0], int64(len(frame)), 16)
		chunk = append(chunk, "\r\n"...)
		chunk = append(append(chunk, frame...), "\r\n"...)
		if err := l.read(c, chunk, 2); err != nil {
			t.Fatal(err)
		}
	})
	if err := l.tally.Err(); allocations != 0 || err != nil || l.tally.Deliveries != 1001 {
		t.Error(allocations, err, l.tally.Deliveries)
	}
}
