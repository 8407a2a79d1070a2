package stage

import (
	"context"
	"net/url"
	"sync/atomic"

	"topostream/harness/proxy"
)

// An address is where somebody looks for the database. A promotion changes what is behind it.
type address struct{ to atomic.Pointer[string] }

// leadTo has new connections go to a node; nil: to nobody.
func (a *address) leadTo(n *node) {
	addr := ""
	if n != nil {
		if u, err := url.Parse(n.URL(database)); err == nil { // it was made from its parts
			addr = u.Host
		}
	}
	a.to.Store(&addr)
}

// targets gives what proxy.Listen is called with.
func (a *address) targets(link *proxy.Link) func() []proxy.Target {
	return func() []proxy.Target {
		to := a.to.Load()
		if to == nil || *to == "" {
			return nil
		}
		return []proxy.Target{{Addr: *to, Link: link}}
	}
}

// addresses are all that the stage has: the checker's own; primary, which leads servers to wherever the database is;
// and two hosts, of which servers find the one that takes writes by themselves (target_session_attrs).
type addresses struct {
	checker, primary address
	hosts            [2]address
	at               int // the host that the primary is behind
}

// A path is a way to the database over proxies that share one link.
type path struct {
	url  string
	link *proxy.Link
}

// openPath opens a proxy to each address and gives the connection string over them, with these attributes, if any.
func (s *Stage) openPath(ctx context.Context, attributes string, to ...*address) (path, error) {
	all, err := url.Parse(s.Postgres.URL(database))
	if err != nil {
		return path{}, err
	}
	all.Host = ""
	if attributes != "" {
		all.RawQuery += "&" + attributes
	}
	p := path{link: proxy.NewLink()}
	for i, a := range to {
		opened, err := proxy.Listen(ctx, a.targets(p.link))
		if err != nil {
			return path{}, err
		}
		s.proxies = append(s.proxies, opened)
		if i > 0 {
			all.Host += ","
		}
		all.Host += opened.Addr()
	}
	p.url = all.String()
	return p, nil
}

// serverPath opens the path of the nth server: every other one knows two hosts.
func (s *Stage) serverPath(ctx context.Context, n int) (path, error) {
	if n%2 == 1 {
		return s.openPath(ctx, "target_session_attrs=read-write", &s.addresses.hosts[0], &s.addresses.hosts[1])
	}
	return s.openPath(ctx, "", &s.addresses.primary)
}
