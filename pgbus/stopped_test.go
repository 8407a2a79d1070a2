package pgbus

import (
	"net/url"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/stream/metrics/metrictest"
)

// A process that is stopped (SIGSTOP) asks nothing on its LISTEN connection any more, and on a unix socket nothing else
// ends that.
func TestAStoppedServersListenBackendOnASocketIsEnded(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	dir := pgtest.OpenDir(t)
	must(t, os.Chmod(dir, 0o777)) // PostgreSQL, which is another user, makes its socket there
	cluster := pgtest.Cluster(t, "unix_socket_directories="+dir)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	u, err := url.Parse(db.URL)
	must(t, err)
	q := u.Query()
	q.Set("host", dir)
	q.Set("application_name", "a name of one's own")
	q.Set("port", u.Port())
	u.Host, u.RawQuery = "", q.Encode()
	listens := func(name string) *pgx.Conn {
		t.Helper()
		cfg, err := pgx.ParseConfig(u.String())
		must(t, err)
		cfg.RuntimeParams["application_name"] = name
		conn, err := pgx.ConnectConfig(t.Context(), cfg)
		must(t, err)
		t.Cleanup(func() { _ = conn.Close(t.Context()) }) // one is gone by then
		pgtest.Exec(t, conn, `LISTEN topology_test`)
		return conn
	}
	stopped, other := listens("topostream listen"), listens("psql")
	socket := &pgtest.DB{URL: u.String()}
	b := startBus(t, socket, func(c *Config) { c.Ping, c.Heartbeat = time.Second, 300*time.Millisecond })
	admin := socket.Conn(t)
	const there = `SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)`
	pgtest.Eventually(t, "the stopped server's backend to be ended", func() bool {
		return !pgtest.Scan[bool](t, admin, there, stopped.PgConn().PID())
	})
	if !pgtest.Scan[bool](t, admin, there, other.PgConn().PID()) {
		t.Error("somebody else's was ended, too")
	}
	const named = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1`
	if n := pgtest.Scan[int](t, admin, named, postgres.ServerListens); n != 1 {
		t.Errorf("%d backends are named as one that LISTENs", n)
	}
	if err := b.Ready(); err != nil || !metrictest.Is(b.stats.Listening) {
		t.Errorf("the one that lives: %v", err)
	}
}
