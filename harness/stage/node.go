package stage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"topostream/pgbus/pgcluster"
)

// A node is one server of PostgreSQL, with file systems of its own for the journal and the WAL where that is possible.
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
