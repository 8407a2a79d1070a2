package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/jackc/pgx/v5"
)

// Standby makes a cluster in dataDir that follows c by streaming replication, with c's settings and superuser, and
// starts it on a free port. It returns when the standby takes connections. Whether a commit on c waits for it is c's
// synchronous_standby_names' to say. Options are pg_basebackup's, for example where tablespaces go.
func (c *Cluster) Standby(ctx context.Context, dataDir string, options ...string) (*Cluster, error) {
	s := &Cluster{cfg: c.cfg, account: c.account, password: c.password}
	s.cfg.DataDir, s.cfg.Port = dataDir, 0
	if err := s.follow(ctx, c, options); err != nil {
		s.releaseLock()
		return nil, fmt.Errorf("standby: %w", err)
	}
	return s, nil
}

func (c *Cluster) follow(ctx context.Context, primary *Cluster, options []string) error {
	if err := c.prepareDir(ctx); err != nil {
		return err
	}
	if _, err := os.Stat(c.data()); err == nil {
		return fmt.Errorf("%s holds a cluster already: give an empty or a new directory", c.cfg.DataDir)
	}
	passwordFile := filepath.Join(c.cfg.DataDir, passwordName)
	if err := os.WriteFile(passwordFile, []byte(c.password+"\n"), 0o600); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	if err := c.account.own(passwordFile); err != nil {
		return fmt.Errorf("keep the password: %w", err)
	}
	// -R writes standby.signal and primary_conninfo; -X stream brings the WAL that the copy needs.
	args := append([]string{"-D", c.data(), "-d", primary.URL("postgres"), "-R", "-X", "stream",
		"-c", "fast", "--no-sync"},
		options...)
	if err := c.run(ctx, "pg_basebackup", args...); err != nil {
		// PostgreSQL's message may quote the connection string.
		return errors.New(strings.ReplaceAll(err.Error(), c.password, "…"))
	}
	return c.startOnFreePort(ctx, FreePort)
}

// Promote ends a standby's recovery and returns when it takes writes, on a new timeline.
func (c *Cluster) Promote(ctx context.Context) error {
	const promote = `SELECT pg_promote(wait => true, wait_seconds => 60)`
	conn, err := pgx.Connect(ctx, c.URL("postgres"))
	if err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var done bool
	if err := conn.QueryRow(ctx, promote).Scan(&done); err != nil {
		return fmt.Errorf("promote: %w", err)
	}
	if !done {
		return errors.New("promote: the standby did not end its recovery within 60 s")
	}
	return nil
}
