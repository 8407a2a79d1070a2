package api

import (
	"net/http"
	"slices"
	"strings"

	"topostream/stream"
)

// list is GET /topologies/events: the list of topologies as a state stream.
func (s *Server) list(w http.ResponseWriter, r request) {
	query, err := queryOf(r.Request)
	if err != nil {
		s.fail(w, r.Request, err)
		return
	}
	var wanted []string
	for _, status := range query["status"] {
		if statuses := stream.Statuses(); status != "" && !slices.Contains(statuses, status) {
			s.fail(w, r.Request, refused("status", "%.80q is no status: use one of %s", status, strings.Join(statuses, ", ")))
			return
		}
		if status != "" {
			wanted = append(wanted, status)
		}
	}
	req := stream.AttachRequest{List: listFor(r.principal, wanted)}
	s.serveStream(w, r, about{stream: true}, setOfList, false, &oneAttacher{s, req})
}

// listFor is the list as a token may see it, and in these statuses; nil: in any.
func listFor(p stream.Principal, statuses []string) *stream.ListFilter {
	f := &stream.ListFilter{Statuses: statuses}
	if p.Topologies != nil {
		f.Topologies = slices.Clone(p.Topologies)
		slices.Sort(f.Topologies)
		f.Topologies = slices.Compact(f.Topologies)
	}
	return f
}
