package main

import (
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// A bouncer is a pgbouncer that pools transactions, and that can be led to another server beneath its clients'
// connections.
type bouncer struct {
	t      *testing.T
	config string
	port   string
	url    string // of the database, through it
}

// newBouncer runs one in front of a database.
func newBouncer(t *testing.T, databaseURL string) *bouncer {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path = "/usr/sbin/pgbouncer"; !exists(path) {
			t.Skip("no pgbouncer on this machine: install it, for example `apt-get install pgbouncer`")
		}
	}
	dir := pgtest.OpenDir(t)
	_, port, _ := strings.Cut(pgtest.FreeAddress(t), ":")
	b := &bouncer{t: t, config: filepath.Join(dir, "pgbouncer.ini"), port: port}
	b.configure(databaseURL)
	cmd := exec.Command(path, b.config)
	if os.Geteuid() == 0 { // pgbouncer does not run as root
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody(t, dir)}
	}
	startProcess(t, cmd)
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	u.Host = "127.0.0.1:" + port
	b.url = u.String()
	pgtest.Eventually(t, "pgbouncer", func() bool {
		conn, err := pgx.Connect(t.Context(), b.url)
		if err != nil {
			return false
		}
		return conn.Close(t.Context()) == nil
	})
	return b
}

// configure writes what pgbouncer reads when it starts, and again at RELOAD: where databaseURL leads it.
func (b *bouncer) configure(databaseURL string) {
	b.t.Helper()
	u, err := url.Parse(databaseURL)
	if err != nil {
		b.t.Fatal(err)
	}
	password, _ := u.User.Password()
	users := filepath.Join(filepath.Dir(b.config), "users.txt")
	ini := fmt.Sprintf(`[databases]
%s = host=%s port=%s user=%s password=%s
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
auth_type = trust
auth_file = %s
admin_users = %s
pool_mode = transaction
default_pool_size = %d
unix_socket_dir =
`, strings.TrimPrefix(u.Path, "/"), u.Hostname(), u.Port(), u.User.Username(), password,
		b.port, users, u.User.Username(), poolSize)
	line := strconv.Quote(u.User.Username()) + ` ""`
	if err := os.WriteFile(users, []byte(line), 0o644); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(b.config, []byte(ini), 0o644); err != nil {
		b.t.Fatal(err)
	}
}

// command gives one to pgbouncer's console: PAUSE returns when no transaction is open.
func (b *bouncer) command(command string) {
	b.t.Helper()
	u, err := url.Parse(b.url)
	if err != nil {
		b.t.Fatal(err)
	}
	u.Path = "/pgbouncer"
	conn, err := pgx.Connect(b.t.Context(), u.String())
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close(b.t.Context())
	if _, err := conn.PgConn().Exec(b.t.Context(), command).ReadAll(); err != nil {
		b.t.Fatalf("pgbouncer: %s: %v", command, err)
	}
}

// poolSize is how many backends the pooler has for a database.
const poolSize = 5
