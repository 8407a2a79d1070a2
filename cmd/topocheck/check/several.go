package check

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"slices"
	"strings"
)

// mostSeveral is how many topologies a client of several has at most.
const mostSeveral = 12

// several has the client read some topologies from now on, on one stream.
func (c *client) several(topologies []*topology) {
	for _, t := range topologies {
		c.all = append(c.all, &judge{client: c, topology: t})
	}
	c.judge = c.all[0]
}

// someOf gives some of all, first among them.
func someOf(rng *rand.Rand, all []*topology, first *topology) []*topology {
	some := []*topology{first}
	for _, i := range rng.Perm(len(all))[:min(1+rng.IntN(mostSeveral), len(all))] {
		if !slices.Contains(some, all[i]) {
			some = append(some, all[i])
		}
	}
	return some
}

// want chooses what the next connection is for, and gives the request's body. Before the writers' end it is any of the
// client's topologies, so that each is left and come back to while the others go on.
func (c *client) want(server string, graph bool) ([]byte, error) {
	vector := map[string]*uint64{}
	c.partial = false
	for _, j := range c.all {
		if !c.run.calmed.Load() && len(vector) > 0 && c.rng.IntN(4) == 0 {
			c.partial, j.ended = true, true // until it is asked for again
			continue
		}
		j.connect(server, graph)
		vector[j.topology.id] = nil
		if j.has {
			vector[j.topology.id] = &j.last
		}
	}
	return json.Marshal(map[string]any{"topologies": vector, "graph": graph})
}

// judgeOf gives the judge of a frame's topology; an error is the stream's.
func (c *client) judgeOf(f *frame) (*judge, error) {
	if c.all == nil {
		return c.judge, nil
	}
	var whose struct {
		Topic    string `json:"topic"`
		Topology string `json:"topology_id"`
	}
	if err := json.Unmarshal(f.data, &whose); err != nil {
		return nil, torn("the data of event %q is no JSON: %s: %q", f.event, err, short(f.data))
	}
	id := whose.Topology
	if rest, ok := strings.CutPrefix(whose.Topic, "topology."); ok {
		id, _, _ = strings.Cut(rest, ".")
	}
	for _, j := range c.all {
		if j.topology.id == id {
			return j, nil
		}
	}
	if id == "" && (bytes.Equal(f.event, []byte("unavailable")) || bytes.Equal(f.event, []byte("token_expired"))) {
		return nil, nil //nolint:nilnil // it is of the whole stream
	}
	return nil, torn("an event %q of a topology that nobody asked for: %s", f.event, short(f.data))
}

// end says that the whole stream ends.
func (c *client) end() {
	c.kindStats().unjournaled.Add(1)
	for _, j := range c.all {
		j.ended = true
	}
}

// judges are those of all topologies that the client reads to their ends.
func (c *client) judges() []*judge {
	if c.all != nil {
		return c.all
	}
	return []*judge{c.shown.Load()}
}
