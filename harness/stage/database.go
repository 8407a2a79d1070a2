package stage

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/harness/proxy"
	"topostream/pgbus/pgcluster"
)

// A node is one server of PostgreSQL, with file systems of its own for the journal and its log where that is possible.
type node struct {
	*pgcluster.Cluster

	dir          string
	journal, wal *Disk // nil where there is none
}

func (n *node) journalDir() string { return filepath.Join(n.dir, "journal") }
func (n *node) walDir() string     { return filepath.Join(n.dir, "wal", "pg_wal") }

// newNode makes the directory of a node, with its disks.
func (s *Stage) newNode() (*node, error) {
	s.made++
	n := &node{dir: filepath.Join(s.dir, fmt.Sprintf("postgres-%d", s.made))}
	s.nodes = append(s.nodes, n)
	if err := os.Mkdir(n.dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's user gets through it to its own
		return nil, err
	}
	var err error
	if n.journal, s.NoDisk = mountDisk(n.journalDir()); s.NoDisk == nil {
		n.wal, err = mountDisk(filepath.Dir(n.walDir()))
	}
	return n, err
}

// lead makes a node the one that faults break and everybody is led to.
func (s *Stage) lead(n *node) { s.Postgres, s.JournalDisk, s.WALDisk = n.Cluster, n.journal, n.wal }

// close ends a node and removes what it holds, but for its log.
func (n *node) close(ctx context.Context) error {
	var errs []error
	if n.Cluster != nil {
		n.Thaw()
		stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
		defer cancel()
		errs = append(errs, n.Stop(stop, pgcluster.Immediate))
	}
	for _, d := range []*Disk{n.journal, n.wal} {
		if d != nil {
			errs = append(errs, d.unmount())
		}
	}
	return errors.Join(append(errs, os.RemoveAll(filepath.Join(n.dir, "data", "data")))...)
}

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

// targets is for a proxy.
func (a *address) targets(link *proxy.Link) func() []proxy.Target {
	return func() []proxy.Target {
		to := a.to.Load()
		if to == nil || *to == "" {
			return nil
		}
		return []proxy.Target{{Addr: *to, Link: link}}
	}
}

// addresses are all that the stage has: the checker's own, one that servers follow wherever the database is, and two
// hosts, of which servers find the one that takes writes by themselves (target_session_attrs).
type addresses struct {
	checker, primary address
	hosts            [2]address
	at               int // the host that the primary is behind
}

// A path is a way to the database over proxies with one link.
type path struct {
	url  string
	link *proxy.Link
}

// open opens proxies to addresses and gives the connection string over them.
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

// serverPath is that of a server: every other one knows two hosts.
func (s *Stage) serverPath(ctx context.Context, n int) (path, error) {
	if n%2 == 1 {
		return s.openPath(ctx, "target_session_attrs=read-write", &s.addresses.hosts[0], &s.addresses.hosts[1])
	}
	return s.openPath(ctx, "", &s.addresses.primary)
}

// A Standby is a copy of the stage's PostgreSQL that follows it, until it takes its place. Its methods are called in
// the order in which they stand here; Discard may take the place of the rest.
type Standby struct {
	stage *Stage
	node  *node
	old   *node
}

// CanStandBy says why there can be no standby; nil where there can be one.
func (s *Stage) CanStandBy() error {
	if _, err := os.Stat(s.Postgres.Bin("pg_basebackup")); err != nil {
		return errors.New("this PostgreSQL comes without pg_basebackup")
	}
	return nil
}

const standbyEvery = 20 * time.Millisecond

// NewStandby makes a standby and returns when it has what the primary had a moment ago.
func (s *Stage) NewStandby(ctx context.Context) (*Standby, error) {
	n, err := s.newNode()
	if err != nil {
		return nil, err
	}
	b := &Standby{stage: s, node: n, old: s.nodes[0]}
	var options []string
	if n.journal != nil {
		options = []string{"--waldir=" + n.walDir(), "--tablespace-mapping=" + b.old.journalDir() + "=" + n.journalDir()}
	}
	if n.Cluster, err = s.Postgres.Standby(ctx, filepath.Join(n.dir, "data"), options...); err != nil {
		return nil, errors.Join(err, b.Discard(ctx))
	}
	if err := b.catchUp(ctx); err != nil {
		return nil, errors.Join(err, b.Discard(ctx))
	}
	return b, nil
}

// catchUp waits until the standby has replayed what the primary has written by now.
func (b *Standby) catchUp(ctx context.Context) error {
	const (
		written  = `SELECT pg_current_wal_flush_lsn()::text`
		replayed = `SELECT coalesce(pg_last_wal_replay_lsn() >= $1::text::pg_lsn, false)`
	)
	var lsn string
	if err := query(ctx, b.old, func(c *pgx.Conn) error { return c.QueryRow(ctx, written).Scan(&lsn) }); err != nil {
		return fmt.Errorf("the standby: %w", err)
	}
	return b.await(ctx, "has not caught up", replayed, lsn)
}

// await asks the standby a question until the answer is yes.
func (b *Standby) await(ctx context.Context, otherwise, question string, args ...any) error {
	return query(ctx, b.node, func(c *pgx.Conn) error {
		for {
			var yes bool
			if err := c.QueryRow(ctx, question, args...).Scan(&yes); err != nil {
				return fmt.Errorf("the standby %s: %w", otherwise, err)
			}
			if yes {
				return nil
			}
			select {
			case <-time.After(standbyEvery):
			case <-ctx.Done():
				return fmt.Errorf("the standby %s: %w", otherwise, context.Cause(ctx))
			}
		}
	})
}

// Part ends the replication. What is committed from here on is lost with the primary.
func (b *Standby) Part(ctx context.Context) error {
	const gone = `SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)`
	err := query(ctx, b.node, func(c *pgx.Conn) error {
		for _, statement := range []string{`ALTER SYSTEM SET primary_conninfo = ''`, `SELECT pg_reload_conf()`} {
			if _, err := c.Exec(ctx, statement); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("end the replication: %w", err)
	}
	return b.await(ctx, "still receives", gone)
}

// Fence leads nobody to the old primary any more. With silent its network is gone, too: servers are not told that their
// connections have ended.
func (b *Standby) Fence(silent bool) {
	a := &b.stage.addresses
	for _, to := range []*address{&a.checker, &a.primary, &a.hosts[0], &a.hosts[1]} {
		to.leadTo(nil)
	}
	for _, server := range b.stage.Servers {
		if silent {
			server.Database.Stall(proxy.Up)
			server.Database.Stall(proxy.Down)
		}
	}
}

// Promote ends the old primary by f, promotes the standby, and has read look at both, each alone in its history.
func (b *Standby) Promote(ctx context.Context, end func(*pgcluster.Cluster) error,
	read func(oldURL, promotedURL string) error) error {
	if err := end(b.old.Cluster); err != nil {
		return err
	}
	if err := b.node.Promote(ctx); err != nil {
		return err
	}
	// What it had committed and nobody had been told of is part of its history, too: it starts again, and nobody is led
	// there.
	for {
		err := b.old.Restart(ctx, pgcluster.Immediate)
		if err == nil {
			break
		}
		select {
		case <-time.After(standbyEvery): // children of a killed postmaster are still there
		case <-ctx.Done():
			return fmt.Errorf("the old primary does not start again to be read: %w", err)
		}
	}
	if err := read(b.old.URL(database), b.node.URL(database)); err != nil {
		return err
	}
	return b.retire(ctx)
}

// retire removes the old primary.
func (b *Standby) retire(ctx context.Context) error {
	s := b.stage
	s.nodes = []*node{b.node}
	s.lead(b.node)
	return b.old.close(ctx)
}

// LeadChecker leads the checker's own connections to the promoted primary.
func (b *Standby) LeadChecker() { b.stage.addresses.checker.leadTo(b.node) }

// LeadServers leads servers and workers to the promoted primary. Who knows two hosts finds it behind the other one.
func (b *Standby) LeadServers() {
	a := &b.stage.addresses
	a.at = 1 - a.at
	a.primary.leadTo(b.node)
	a.hosts[a.at].leadTo(b.node)
	for _, server := range b.stage.Servers {
		server.Database.Heal()
	}
}

// Discard ends a standby that nobody needs.
func (b *Standby) Discard(ctx context.Context) error {
	b.stage.nodes = []*node{b.old}
	return b.node.close(ctx)
}

// query runs f on a connection to a node's database.
func query(ctx context.Context, n *node, f func(*pgx.Conn) error) error {
	conn, err := pgx.Connect(ctx, n.URL(database))
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	return f(conn)
}
