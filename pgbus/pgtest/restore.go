package pgtest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"topostream/pgbus/pgcluster"
)

// BaseBackup copies a private cluster while it runs, by pg_basebackup, and gives the directory for Restored. It skips
// the test where the installation has no pg_basebackup of the cluster's version.
func BaseBackup(t testing.TB, of *pgcluster.Cluster) (dir string) {
	t.Helper()
	if major := baseBackupVersion(t, of); major < of.Version() {
		t.Skipf("pg_basebackup %d does not copy a PostgreSQL %d server: put a newer one into PATH", major, of.Version())
	}
	dir = clusterDir(t)
	args := []string{"-D", filepath.Join(dir, "data"), "-d", of.URL("postgres"), "-X", "none", "-c", "fast", "--no-sync"}
	if out, err := exec.CommandContext(t.Context(), of.Bin("pg_basebackup"), args...).CombinedOutput(); err != nil {
		t.Fatalf("pg_basebackup: %v: %s", err, out)
	}
	password, err := os.ReadFile(filepath.Join(of.Dir(), "password"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "password"), password, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// baseBackupVersion is the major version of the pg_basebackup that a cluster would be copied with; 0: there is none.
func baseBackupVersion(t testing.TB, of *pgcluster.Cluster) (major int) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), of.Bin("pg_basebackup"), "--version").Output()
	if err != nil {
		return 0
	}
	_, _ = fmt.Sscanf(string(out), "pg_basebackup (PostgreSQL) %d", &major) // what is none of these has no version
	return major
}

// Copy copies a private cluster, with its write-ahead log, while it is stopped for that: what a snapshot of a disk
// holds. It gives the directory for Restored.
func Copy(t testing.TB, of *pgcluster.Cluster) (dir string) {
	t.Helper()
	dir = clusterDir(t)
	if err := of.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", of.Dir()+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the cluster: %v: %s", err, out)
	}
	if err := of.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Restored starts what BaseBackup or Copy made, until the test ends. With settings, each "name=value", it is recovered
// as they say.
func Restored(t testing.TB, dir string, recovery ...string) *pgcluster.Cluster {
	t.Helper()
	data := filepath.Join(dir, "data")
	if len(recovery) > 0 {
		if err := os.WriteFile(filepath.Join(data, "recovery.signal"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Whoever runs the tests as root has made the files as root.
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return pgcluster.Own(path)
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return start(t, pgcluster.Config{Binaries: b, DataDir: dir, Settings: with(settings(), recovery)})
}
