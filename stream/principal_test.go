package stream_test

import (
	"testing"

	"topostream/stream"
)

func TestAnAdminMayWhatAViewerMayAndNotTheOtherWayRound(t *testing.T) {
	t.Parallel()
	viewer, admin, nobody := stream.Principal{Role: stream.RoleViewer}, stream.Principal{Role: stream.RoleAdmin},
		stream.Principal{}
	for _, c := range []struct {
		who  stream.Principal
		what stream.Role
		may  bool
	}{
		{viewer, stream.RoleViewer, true},
		{viewer, stream.RoleAdmin, false},
		{admin, stream.RoleViewer, true},
		{admin, stream.RoleAdmin, true},
		{nobody, stream.RoleViewer, false},
		{nobody, stream.RoleAdmin, false},
	} {
		if got := c.who.May(c.what); got != c.may {
			t.Errorf("%q may %q: %v", c.who.Role, c.what, got)
		}
	}
}

func TestATokenThatListsTopologiesCoversThoseAlone(t *testing.T) {
	t.Parallel()
	all := stream.Principal{}
	none := stream.Principal{Topologies: []stream.TopologyID{}}
	one := stream.Principal{Topologies: []stream.TopologyID{"b"}}
	for id, want := range map[stream.TopologyID][3]bool{"a": {true, false, false}, "b": {true, false, true}} {
		if got := [3]bool{all.Sees(id), none.Sees(id), one.Sees(id)}; got != want {
			t.Errorf("%s: %v, want %v", id, got, want)
		}
	}
}
