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
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

// A bouncer is a pgbouncer that pools transactions, and that can be led to another server beneath its clients'
// connections.
type bouncer struct {
	t      *testing.T
	config string
	port   string
	url    string // of the database, through it
}

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
default_pool_size = 5
unix_socket_dir =
`, strings.TrimPrefix(u.Path, "/"), u.Hostname(), u.Port(), u.User.Username(), password,
		b.port, users, u.User.Username())
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

// epochAt is the epoch of a history that begins at that time, if none before it was as high: ten-minute intervals since
// the year 2026, so that two copies of one database that are raised apart seldom get the same.
func epochAt(at time.Time) uint64 {
	return uint64(at.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) / (10 * time.Minute))
}

// emitText commits one event with a text that tells it from others of the same number.
func emitText(t *testing.T, conn *pgx.Conn, id, text string) uint64 {
	t.Helper()
	return pgtest.Scan[uint64](t, conn, `SELECT topology_emit($1::text::uuid, 'test', to_jsonb($2::text))`, id, text)
}

// keptHistoriesApart fails unless a client's events of the first history are those of its journal, and what came after
// is a snapshot of the new history and then its journal, up to its head.
func (c *client) keptHistoriesApart(before, after map[uint64]string, head uint64) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	epoch := head >> 32
	snapshot := uint64(0)
	for _, s := range c.snapshots {
		if s>>32 == epoch {
			snapshot = s
		}
	}
	if snapshot == 0 {
		c.t.Errorf("snapshots at %v: none is of the new history, epoch %d", c.snapshots, epoch)
	}
	next := snapshot + 1
	for i, seq := range c.seqs {
		switch {
		case seq>>32 != epoch && c.data[i] != before[seq]:
			c.t.Errorf("snapshots at %v; event %d is %s, in the lost history %q", c.snapshots, seq, c.data[i], before[seq])
			return // the rest would say the same
		case seq>>32 == epoch && seq > snapshot && (seq != next || c.data[i] != after[seq]):
			c.t.Errorf("snapshots at %v; event %d is %s, want %d %q", c.snapshots, seq, c.data[i], next, after[next])
			return
		}
		if seq>>32 == epoch {
			next = seq + 1
		}
	}
	if last, _ := strconv.ParseUint(c.last, 10, 64); last < head {
		c.t.Errorf("the client ends at %d, the journal at %d", last, head)
	}
}

// A transaction pooler swaps the server beneath connections that stay open, so that what was checked when they were
// opened says nothing about what is read on them.
func TestOverAPromotionBehindAPoolerNobodyGetsTwoHistoriesInOne(t *testing.T) {
	t.Parallel()
	long(t)
	for _, c := range []struct {
		bus         string
		directFirst bool // what LISTENs or reads the WAL is led to the promoted server before the pooler is
	}{
		{setting.Poll, false},
		{setting.Notify, false}, {setting.Notify, true},
		{setting.WAL, false}, {setting.WAL, true},
	} {
		t.Run(fmt.Sprint(c.bus, ", direct first ", c.directFirst), func(t *testing.T) {
			t.Parallel()
			promoteBehindAPooler(t, c.bus, c.directFirst)
		})
	}
}

func promoteBehindAPooler(t *testing.T, bus string, directFirst bool) {
	t.Helper()
	p := newPair(t)
	conn := p.db.Conn(t)
	id := demo(t, conn)
	setBus(t, p.db.URL, bus)
	pooler := newBouncer(t, p.primary.URL("streams"))
	direct, directURL := relayTo(t, p.primary.URL("streams"), uncut)
	server := serve(t, pooler.url, func(c *serveCmd) {
		c.MaxStreamsPerUser = 0
		if c.Bus = bus; bus != setting.Poll {
			c.Bus, c.ListenDatabaseURL = "", directURL
		}
	})
	awaitBus(t, server.url, bus)
	kept := uint64(0)
	for range 9 {
		kept = emitText(t, conn, id, "kept")
	}
	steady := newClient(t, server.url, id, "").watch()
	clients := []*client{steady, newClient(t, server.url, id, "3").watch()}
	for _, c := range clients {
		c.awaitSeq(kept)
	}
	p.caughtUp()
	promoted := p.connStandby() // on the standby while it is one, and through the promotion
	p.cut()
	lost := kept
	for range 2 {
		lost = emitText(t, conn, id, "lost")
	}
	for _, c := range clients {
		c.awaitSeq(lost)
	}
	before := history(t, conn, id)

	began := time.Now()
	pooler.command("PAUSE")
	if err := p.primary.Stop(t.Context(), pgcluster.Immediate); err != nil {
		t.Fatal(err)
	}
	p.promote()
	for range 3 {
		emitText(t, promoted, id, "new") // with numbers of the lost ones
	}
	resume := func(after uint64) {
		clients = append(clients, newClient(t, server.url, id, strconv.FormatUint(after, 10)).watch())
	}
	resume(lost)
	pooler.configure(p.standby.URL("streams"))
	pooler.command("RELOAD")
	to, err := url.Parse(p.standby.URL("streams"))
	if err != nil {
		t.Fatal(err)
	}
	if directFirst {
		direct.lead(to.Host)
		resume(lost - 1)
	}
	pooler.command("RESUME")
	for after := kept; after <= lost+1; after++ {
		resume(after)
	}
	direct.lead(to.Host)
	var head uint64
	pgtest.Eventually(t, "the new epoch", func() bool {
		if len(clients) < 40 { // with all numbers, while the server finds out
			resume(kept + uint64(len(clients))%4)
		}
		head = emitText(t, promoted, id, "newer")
		return head>>32 > 0
	})
	if least := max(1, epochAt(began)); head>>32 < least {
		t.Errorf("the new epoch is %d, want %d or more", head>>32, least)
	}
	for range 3 {
		resume(lost)
		head = emitText(t, promoted, id, "newest")
	}
	for _, c := range clients {
		c.awaitSeq(head)
	}
	after := history(t, promoted, id)
	for _, c := range clients {
		c.keptHistoriesApart(before, after, head)
	}
	if got := journal(t, server.url, id, head-3); len(got) != 3 || got[2] != after[head] {
		t.Errorf("the journal ends %q", got)
	}
}
