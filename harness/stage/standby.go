package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/harness/proxy"
	"topostream/pgbus/pgcluster"
)

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
	if !silent {
		return
	}
	for _, server := range b.stage.Servers {
		server.Database.Stall(proxy.Up)
		server.Database.Stall(proxy.Down)
	}
}

// Promote ends the old primary by end, promotes the standby, and has read look at both before anybody else does: the
// old one as it was at its end, the promoted one as it begins.
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
