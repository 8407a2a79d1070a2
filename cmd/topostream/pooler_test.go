package main

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// startPgbouncer runs a transaction pooler in front of the database and gives the way through it.
func startPgbouncer(t *testing.T, databaseURL string) string {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path = "/usr/sbin/pgbouncer"; !exists(path) {
			t.Skip("no pgbouncer on this machine: install it, for example `apt-get install pgbouncer`")
		}
	}
	direct, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := direct.User.Password()
	_, port, _ := strings.Cut(freeAddress(t), ":")
	dir := pgtest.OpenDir(t)
	ini := fmt.Sprintf(`[databases]
%[1]s = host=%[2]s port=%[3]s user=%[4]s password=%[5]s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %[6]s
auth_type = any
pool_mode = transaction
default_pool_size = 5
unix_socket_dir =
`, strings.TrimPrefix(direct.Path, "/"), direct.Hostname(), direct.Port(), direct.User.Username(), password, port)
	config := filepath.Join(dir, "pgbouncer.ini")
	if err := os.WriteFile(config, []byte(ini), 0o644); err != nil {
		t.Fatal(err)
	}
	var out lockedBuffer
	cmd := exec.Command(path, config)
	cmd.Stdout, cmd.Stderr = &out, &out
	if os.Geteuid() == 0 { // pgbouncer does not run as root
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody(t, dir)}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it was told to end
	})
	through := *direct
	through.Host = "127.0.0.1:" + port
	pgtest.Eventually(t, "pgbouncer", func() bool {
		conn, err := pgx.Connect(t.Context(), through.String())
		if err != nil {
			return false
		}
		return conn.Close(t.Context()) == nil
	})
	return through.String()
}

func exists(path string) bool { _, err := os.Stat(path); return err == nil }

func TestThroughATransactionPoolerTheServerSaysSoAndPollsAndADirectWayRestoresTheBus(t *testing.T) {
	t.Parallel()
	for bus, live := range map[string]string{"notify": "topostream_listening", "wal": "topostream_streaming_wal"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			throughAPooler(t, bus, live)
		})
	}
}

// throughAPooler runs servers behind a pooler; live is the metric of a bus that works.
func throughAPooler(t *testing.T, bus, live string) {
	t.Helper()
	db := pgtest.New(t)
	setBus(t, db.URL, bus)
	conn := db.Conn(t)
	id := demo(t, conn)
	pooled := startPgbouncer(t, db.URL)
	for _, direct := range []bool{false, true} {
		server := serve(t, pooled, func(c *serveCmd) {
			if direct {
				c.ListenDatabaseURL = db.URL
			}
		})
		c := newClient(t, server.url, id, "").watch()
		c.awaitSeq(1)
		for range 20 {
			c.awaitSeq(emit(t, conn, id))
		}
		c.stayedConnected()
		if direct {
			pgtest.Eventually(t, "the bus", func() bool { return metric(t, server.url, live) == 1 })
		} else {
			pgtest.Eventually(t, "the advice", func() bool { return strings.Contains(server.log.String(), "--listen-database-url") })
		}
		resumed := newClient(t, server.url, id, "1")
		resumed.follow(t.Context(), pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads`))
		if want := journal(t, server.url, id, 1); !slices.Equal(resumed.data, want) {
			t.Error("who resumes through the pooler has something else than the journal")
		}
		for _, bad := range []string{"prepared statement", "cannot encode"} {
			if strings.Contains(server.log.String(), bad) {
				t.Errorf("the log: %s", server.log.String())
			}
		}
		server.stop()
	}
	// Nothing of ours stays on the backends that others get.
	cfg, err := pgx.ParseConfig(pooled)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	other, err := pgx.ConnectConfig(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(t.Context())
	for range 10 {
		if timeout := pgtest.Scan[string](t, other, `SELECT current_setting('statement_timeout')`); timeout != "0" {
			t.Errorf("statement_timeout is %s for other clients of the pooler", timeout)
		}
	}
}

// freeAddress is one that nobody serves on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
