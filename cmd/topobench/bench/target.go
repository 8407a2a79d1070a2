package bench

import (
	"errors"
	"fmt"
	"strings"

	"topostream/cmd/topobench/fleet"
)

// A Target says how clients and publishers use a server of any make. In its templates {topology} is a topology's id.
type Target struct {
	URL      string   `yaml:"url"`      // template: http:// is SSE, ws:// is WebSocket
	Header   []string `yaml:"header"`   // templates of the requests' headers
	Send     []string `yaml:"send"`     // templates of messages that a WebSocket client sends first
	Snapshot string   `yaml:"snapshot"` // name of the event that holds a topology's state; empty: there is none
	Ready    string   `yaml:"ready"`    // text in the first frame that says that the client follows
	Numbered bool     `yaml:"numbered"` // ids count up by 1 in each topology
	Resume   bool     `yaml:"resume"`   // Last-Event-ID is understood
	Publish  Publish  `yaml:"publish"`
	GC       string   `yaml:"gc"`  // URL that makes it collect its garbage, asked twice before its memory is read
	PID      int      `yaml:"pid"` // its process on this machine; 0: no figures of CPU time or memory
}

// NoGC is a Target's GC that is nobody's URL: our own server is not asked, either.
const NoGC = "none"

// Publish says how an event is published: by one of SQL, Notify and HTTP.
type Publish struct {
	SQL    string   `yaml:"sql"`    // a statement; $1 is the topology, $2 the payload, which is JSON
	Notify string   `yaml:"notify"` // template of a channel that gets the payload by pg_notify
	HTTP   string   `yaml:"http"`   // template of a URL that gets a POST
	Body   string   `yaml:"body"`   // template of its body; {payload} is the payload; empty: the payload alone
	Header []string `yaml:"header"` // its headers
}

func (p Publish) check() error {
	n := 0
	for _, way := range []string{p.SQL, p.Notify, p.HTTP} {
		if way != "" {
			n++
		}
	}
	if n != 1 {
		return errors.New("say how to publish: by one of sql, notify and http")
	}
	return nil
}

// usesDatabase tells whether events are published in a database.
func (p Publish) usesDatabase() bool { return p.HTTP == "" }

// spec is how clients connect.
func (t Target) spec() fleet.Spec {
	return fleet.Spec{URL: t.URL, Header: t.Header, Send: t.Send, Snapshot: t.Snapshot, Ready: t.Ready,
		Numbered: t.Numbered, Resume: t.Resume}
}

// expand replaces {name} by its value everywhere in t.
func (t Target) expand(values map[string]string) Target {
	pairs := make([]string, 0, 2*len(values))
	for name, value := range values {
		pairs = append(pairs, "{"+name+"}", value)
	}
	r := strings.NewReplacer(pairs...)
	each := func(in []string) (out []string) {
		for _, s := range in {
			out = append(out, r.Replace(s))
		}
		return out
	}
	t.URL, t.GC = r.Replace(t.URL), r.Replace(t.GC)
	t.Header, t.Send, t.Publish.Header = each(t.Header), each(t.Send), each(t.Publish.Header)
	t.Publish.HTTP = r.Replace(t.Publish.HTTP)
	return t
}

// EmitSQL publishes by topostream's own function.
const EmitSQL = `SELECT topology_emit($1::uuid, 'bench', $2::jsonb)`

// topostreamTarget is a topostream at this address.
func topostreamTarget(base, token string) Target {
	return Target{
		URL: base + "/api/v1/topologies/{topology}/events", Header: []string{"Authorization: Bearer " + token},
		Snapshot: "snapshot", Numbered: true, Resume: true, Publish: Publish{SQL: EmitSQL},
	}
}

// A Peer is another server's program, which is run beside ours.
type Peer struct {
	Target `yaml:",inline"`

	Name    string            `yaml:"name"`
	Command []string          `yaml:"command"` // {port} is a free port, {database} the run's database
	Env     map[string]string `yaml:"env"`     // the same
	Up      string            `yaml:"up"`      // URL that answers once it serves, whatever the status
	Serve   []string          `yaml:"serve"`   // instead of all others but the name: our own server with these flags
}

func (p Peer) check() error {
	switch {
	case p.Name == "":
		return errors.New("a peer has no name")
	case len(p.Serve) > 0 && (len(p.Command) > 0 || p.URL != ""):
		return fmt.Errorf("%s: serve is for a server of ours, without command and url", p.Name)
	case len(p.Serve) > 0:
		return nil
	case len(p.Command) == 0 || p.URL == "":
		return fmt.Errorf("%s: command and url are missing", p.Name)
	}
	if err := p.Publish.check(); err != nil {
		return fmt.Errorf("%s: %w", p.Name, err)
	}
	return nil
}
