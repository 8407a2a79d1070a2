package pgtest

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"topostream/pgbus/pgcluster"
)

// Standby gives a private cluster a standby that ends with the test. pg_basebackup copies only from servers of its
// own version and older: where the installation has none that is new enough, the primary is restarted to be copied.
func Standby(t testing.TB, primary *pgcluster.Cluster) *pgcluster.Cluster {
	t.Helper()
	if baseBackupVersion(t, primary) < primary.Version() {
		return copied(t, primary)
	}
	c, err := primary.Standby(t.Context(), clusterDir(t))
	if err != nil {
		t.Fatal(err)
	}
	stopLater(t, c)
	return c
}

// copied starts a streaming standby of a private cluster, which it restarts to copy its files.
func copied(t testing.TB, primary *pgcluster.Cluster) *pgcluster.Cluster {
	t.Helper()
	dir := Copy(t, primary)
	u, err := url.Parse(primary.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	b, err := binaries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// As pg_basebackup does, where ALTER SYSTEM can change it.
	conf := fmt.Sprintf("primary_conninfo = 'host=%s port=%s user=%s password=%s'\n",
		u.Hostname(), u.Port(), u.User.Username(), password)
	for name, text := range map[string]string{"standby.signal": "", "postgresql.auto.conf": conf} {
		file := filepath.Join(dir, "data", name)
		err := os.WriteFile(file, []byte(text), 0o644) //nolint:gosec // PostgreSQL's user reads it
		if err != nil {
			t.Fatal(err)
		}
	}
	set := settings()
	set["hot_standby_feedback"] = "on"
	return start(t, pgcluster.Config{Binaries: b, DataDir: dir, Settings: set})
}
