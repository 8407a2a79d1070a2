package pgtest

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"topostream/pgbus/pgcluster"
)

// Standby starts a streaming standby of a private cluster, which it restarts to copy it: not every installation has pg_basebackup.
func Standby(t testing.TB, primary *pgcluster.Cluster) *pgcluster.Cluster {
	t.Helper()
	dir := OpenDir(t)
	if err := primary.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", primary.Dir()+"/.", dir).CombinedOutput(); err != nil {
		t.Fatalf("copy the cluster: %v: %s", err, out)
	}
	if err := primary.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "data", "standby.signal"), nil, 0o644); err != nil { //nolint:gosec // PostgreSQL's user reads it
		t.Fatal(err)
	}
	u, err := url.Parse(primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	b, err := binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	set := settings()
	set["hot_standby_feedback"] = "on"
	set["primary_conninfo"] = fmt.Sprintf("host=%s port=%s user=%s password=%s", u.Hostname(), u.Port(), u.User.Username(), password)
	return start(t, pgcluster.Config{Binaries: b, DataDir: dir, Settings: set})
}
