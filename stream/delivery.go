package stream

import (
	"slices"
	"sort"
	"sync/atomic"
	"time"
)

// maxDeliveries bounds the events of a feed that are counted at once.
const maxDeliveries = 64

// A Delivery counts the clients that one event is written to. Make it with its Seq, Wanted and Done set, give it to
// [Feed.Count] before the event is appended, and to [Feed.Uncount] when nobody wants to know any more.
type Delivery struct {
	Seq    Seq
	Wanted int64            // how many clients there are: when so many have the event, the Delivery is sent to Done
	Done   chan<- *Delivery // buffered: where there is no room in it, nothing is sent

	clients atomic.Int64
	last    atomic.Int64 // when the last one got it, in nanoseconds since 1970
}

// Clients is how many clients the event was written to so far, and when the last one got it.
func (d *Delivery) Clients() (n int64, last time.Time) {
	return d.clients.Load(), time.Unix(0, d.last.Load())
}

// Count counts the clients that an event is written to from now on. It returns false, and counts nothing, where an
// event of the same or a higher seq is counted already, or too many are.
func (f *Feed) Count(d *Delivery) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	var others []*Delivery
	if counted := f.counted.Load(); counted != nil {
		others = *counted
	}
	if len(others) >= maxDeliveries || len(others) > 0 && others[len(others)-1].Seq >= d.Seq {
		return false
	}
	counted := append(slices.Clone(others), d)
	f.counted.Store(&counted)
	return true
}

// Uncount ends a Count.
func (f *Feed) Uncount(d *Delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	counted := f.counted.Load()
	if counted == nil {
		return
	}
	left := slices.DeleteFunc(slices.Clone(*counted), func(other *Delivery) bool { return other == d })
	if len(left) == 0 {
		f.counted.Store(nil)
		return
	}
	f.counted.Store(&left)
}

// Wrote says that all frames that the cursor gave, and that were not given back, are written to its client. Where no
// event is counted it costs a look at the feed.
func (c *Cursor) Wrote() {
	if counted := c.feed.counted.Load(); counted != nil {
		c.count(*counted)
	}
}

func (c *Cursor) count(counted []*Delivery) {
	now := time.Now().UnixNano()
	for _, d := range counted[sort.Search(len(counted), func(i int) bool { return counted[i].Seq > c.told }):] {
		if d.Seq > c.last {
			break
		}
		d.last.Store(max(now, d.last.Load()))
		if d.clients.Add(1) == d.Wanted {
			select {
			case d.Done <- d:
			default:
			}
		}
	}
	c.told = c.last
}
