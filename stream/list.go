package stream

import "slices"

// A ListFilter says which rows of the list of topologies a client follows. Nobody may change it.
type ListFilter struct {
	Topologies []TopologyID // sorted; nil: all
	Statuses   []string     // nil: all
}

// Shows tells whether a topology that is in this status is one of them.
func (f *ListFilter) Shows(id TopologyID, status string) bool {
	if f.Topologies != nil {
		if _, ok := slices.BinarySearch(f.Topologies, id); !ok {
			return false
		}
	}
	return f.Statuses == nil || slices.Contains(f.Statuses, status)
}

// All tells whether the filter leaves nothing out.
func (f *ListFilter) All() bool { return f.Topologies == nil && f.Statuses == nil }

// A RowChange says which row a frame of the list's feed is about, and between which statuses it went: by these a filter
// decides which clients get the row, which get Removed, and which nothing.
type RowChange struct {
	Topology TopologyID
	Was, Is  string // its status before and now; empty: there was, is no row
	Removed  []byte // the frame for a client to which the row is gone
}

// shown is what a client with this filter gets of a frame; nil: nothing.
func (f *ListFilter) shown(fr Frame) []byte {
	c := fr.Row
	switch {
	case c.Is != "" && f.Shows(c.Topology, c.Is):
		return fr.Bytes
	case c.Was != "" && f.Shows(c.Topology, c.Was):
		return c.Removed
	}
	return nil
}
