package stream

import (
	"errors"
	"slices"
	"testing"
)

// listFeed is a feed of the list with frames named "a=active" (a row's newest state) and "-a" (it is gone).
type listFeed struct {
	*Feed

	statuses map[TopologyID]string
}

func newListFeed(ring int) *listFeed {
	return &listFeed{NewFeed(FeedConfig{MaxEvents: ring}), map[TopologyID]string{}}
}

// set appends a row's new status; empty: it is gone.
func (f *listFeed) set(id TopologyID, status string) {
	gone := "-" + string(id)
	frame := gone
	if status != "" {
		frame = string(id) + "=" + status
	}
	f.Append(Frame{Seq: f.Last() + 1, Bytes: []byte(frame), Row: &RowChange{
		Topology: id, Was: f.statuses[id], Is: status, Removed: []byte(gone),
	}})
	f.statuses[id] = status
}

// all takes what there is, in batches of n.
func all(t *testing.T, c *Cursor, n int) (frames []string) {
	t.Helper()
	b := NewBatch(n)
	for {
		behind, err := c.Take(b)
		if err != nil || behind {
			t.Fatalf("behind: %v, %v", behind, err)
		}
		if len(b.Frames) == 0 {
			return frames
		}
		for _, fr := range b.Frames {
			frames = append(frames, string(fr.Bytes))
		}
	}
}

func TestAFilteredCursorGivesWhatTheFilterShowsAndWhatLeavesIt(t *testing.T) {
	t.Parallel()
	f := newListFeed(100)
	filters := map[string]*ListFilter{
		"all": {}, "a": {Topologies: []TopologyID{"a"}}, "active": {Statuses: []string{"active"}},
		"a while it is active": {Topologies: []TopologyID{"a"}, Statuses: []string{"active"}},
		"nothing":              {Topologies: []TopologyID{}},
	}
	cursors := map[string]*Cursor{}
	for name, filter := range filters {
		cursors[name] = f.ListCursor(0, filter)
	}
	f.set("a", "pending")
	f.set("b", "active")
	f.set("a", "active")
	f.set("b", "degraded")
	f.set("b", "torn_down")
	f.set("a", "")
	f.set("b", "")
	for name, want := range map[string][]string{
		"all":                  {"a=pending", "b=active", "a=active", "b=degraded", "b=torn_down", "-a", "-b"},
		"a":                    {"a=pending", "a=active", "-a"},
		"active":               {"b=active", "a=active", "-b", "-a"},
		"a while it is active": {"a=active", "-a"},
		"nothing":              nil,
	} {
		if got := all(t, cursors[name], 2); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestWhatAFilterHidesDoesNotPutItsCursorBehindTheRing(t *testing.T) {
	t.Parallel()
	f := newListFeed(4)
	hidden, shown := f.ListCursor(0, &ListFilter{Topologies: []TopologyID{"a"}}), f.ListCursor(0, &ListFilter{})
	b := NewBatch(10)
	for range 20 {
		f.set("b", "active")
		f.set("b", "degraded")
		if behind, err := hidden.Take(b); behind || err != nil || len(b.Frames) != 0 {
			t.Fatalf("behind: %v, %v, %d frames", behind, err, len(b.Frames))
		}
	}
	f.set("a", "active")
	if got := all(t, hidden, 10); !slices.Equal(got, []string{"a=active"}) {
		t.Errorf("%q", got)
	}
	if behind, err := shown.Take(b); !behind || err != nil { // which has taken nothing
		t.Errorf("behind: %v, %v", behind, err)
	}
}

func TestFilteredCursorsShareNoBatchAndGiveBackWhatWasNotWritten(t *testing.T) {
	t.Parallel()
	f := newListFeed(100)
	first, second := f.ListCursor(0, &ListFilter{Statuses: []string{"active"}}), f.ListCursor(0, &ListFilter{})
	f.set("a", "active")
	f.set("a", "degraded")
	b := NewBatch(10)
	if _, err := first.Take(b); err != nil || len(b.Frames) != 2 || string(b.Frames[1].Bytes) != "-a" {
		t.Fatalf("%v, %v", b.Frames, err)
	}
	first.GiveBack(b, 1)
	if _, err := second.Take(b); err != nil || string(b.Frames[1].Bytes) != "a=degraded" {
		t.Errorf("another one gets %s, %v", b.Frames[1].Bytes, err)
	}
	if _, err := first.Take(b); err != nil || len(b.Frames) != 1 || string(b.Frames[0].Bytes) != "-a" {
		t.Errorf("again %v, %v", b.Frames, err)
	}
	f.Close(ErrClosed)
	if _, err := first.Take(b); !errors.Is(err, ErrClosed) {
		t.Errorf("%v", err)
	}
}
