package main

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/sql"
)

// A restore is a way to keep a database and to get it back.
type restore struct {
	settings []string // of the cluster that is lost
	// early is called when half of what is kept has been written, backup when all has: what comes after is lost. Both give
	// directories, if they make any.
	early   func(t *testing.T, lost *pgcluster.Cluster) string
	backup  func(t *testing.T, lost *pgcluster.Cluster, early string) string
	restore func(t *testing.T, lost *pgcluster.Cluster, backup string) *pgcluster.Cluster
	// unseen: nothing shows that the database is another one than before.
	unseen bool
}

func restores(t *testing.T) map[string]restore {
	t.Helper()
	archive := pgtest.OpenDir(t)
	if err := pgcluster.Own(archive); err != nil {
		t.Fatal(err)
	}
	nothing := func(*testing.T, *pgcluster.Cluster) string { return "" }
	return map[string]restore{
		"a dump": {
			early:  nothing,
			backup: dump,
			restore: func(t *testing.T, lost *pgcluster.Cluster, _ string) *pgcluster.Cluster {
				t.Helper()
				exchange(t, lost)
				return lost
			},
		},
		"a point in time": {
			settings: []string{"archive_mode=on", "archive_command=cp %p " + archive + "/%f"},
			early:    func(t *testing.T, lost *pgcluster.Cluster) string { t.Helper(); return pgtest.BaseBackup(t, lost) },
			backup: func(t *testing.T, lost *pgcluster.Cluster, early string) string {
				t.Helper()
				pgtest.Exec(t, admin(t, lost), `SELECT pg_create_restore_point('before the mistake')`)
				return early
			},
			restore: func(t *testing.T, lost *pgcluster.Cluster, backup string) *pgcluster.Cluster {
				t.Helper()
				conn := admin(t, lost)
				segment := pgtest.Scan[string](t, conn, `SELECT pg_walfile_name(pg_switch_wal())`)
				pgtest.Eventually(t, "the archive to have all", func() bool {
					_, err := os.Stat(filepath.Join(archive, segment))
					return err == nil && pgtest.Scan[bool](t, conn, `SELECT last_archived_wal >= $1 FROM pg_stat_archiver`, segment)
				})
				lost.Kill()
				found := pgtest.Restored(t, backup, "restore_command=cp "+archive+"/%f %p",
					"recovery_target_name=before the mistake", "recovery_target_action=promote")
				recovering := admin(t, found)
				pgtest.Eventually(t, "the end of recovery", func() bool {
					return !pgtest.Scan[bool](t, recovering, `SELECT pg_is_in_recovery()`)
				})
				return found
			},
		},
		"a snapshot of the disk": {
			early: nothing,
			backup: func(t *testing.T, lost *pgcluster.Cluster, _ string) string {
				t.Helper()
				return pgtest.Copy(t, lost)
			},
			restore: func(t *testing.T, lost *pgcluster.Cluster, backup string) *pgcluster.Cluster {
				t.Helper()
				lost.Kill()
				return pgtest.Restored(t, backup)
			},
			unseen: true,
		},
	}
}

// dump makes a second database of what pg_dump finds, under another name.
func dump(t *testing.T, of *pgcluster.Cluster, _ string) string {
	t.Helper()
	var major int
	out, err := exec.CommandContext(t.Context(), pgtest.Bin(t, "pg_dump"), "--version").Output()
	if _, scanErr := fmt.Sscanf(string(out), "pg_dump (PostgreSQL) %d", &major); err != nil || scanErr != nil ||
		major < of.Version() {
		t.Skipf("pg_dump %d does not dump a PostgreSQL %d server: put a newer pg_dump into PATH", major, of.Version())
	}
	file := filepath.Join(t.TempDir(), "dump")
	pgtest.Exec(t, admin(t, of), `CREATE DATABASE restored`)
	for _, args := range [][]string{
		{"pg_dump", "-Fc", "-f", file, "-d", of.URL("streams")},
		{"pg_restore", "--exit-on-error", "-d", of.URL("restored"), file},
	} {
		out, err := exec.CommandContext(t.Context(), pgtest.Bin(t, args[0]), args[1:]...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", args[0], err, out)
		}
	}
	return ""
}

// exchange has the restored database take the name of the lost one.
func exchange(t *testing.T, in *pgcluster.Cluster) {
	t.Helper()
	conn := admin(t, in)
	for _, statement := range []string{
		`ALTER DATABASE streams ALLOW_CONNECTIONS false`,
		`SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE datname = 'streams'`,
		`ALTER DATABASE streams RENAME TO lost`, `ALTER DATABASE restored RENAME TO streams`,
	} {
		pgtest.Exec(t, conn, statement)
	}
}

func addressOf(t *testing.T, c *pgcluster.Cluster) string {
	t.Helper()
	u, err := url.Parse(c.URL("streams"))
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// A client has numbers that the restored database gives to something else. Whatever it knows, and whether its server
// lived through the restore or came after it, it gets a snapshot of a new epoch and goes on from there.
func TestWhoKnowsMoreThanARestoredDatabaseGetsASnapshot(t *testing.T) {
	t.Parallel()
	long(t)
	for name, way := range restores(t) {
		for _, byHand := range []bool{true, false} {
			if way.unseen && !byHand {
				continue // as OPERATING.md says
			}
			t.Run(name+map[bool]string{true: ", then migrate new-epoch", false: ", and nothing else"}[byHand],
				func(t *testing.T) {
					t.Parallel()
					restores(t)[name].try(t, byHand)
				})
		}
	}
}

func (way restore) try(t *testing.T, byHand bool) {
	t.Helper()
	lost := pgtest.Cluster(t, way.settings...)
	pgtest.Exec(t, admin(t, lost), `CREATE DATABASE streams`)
	old := (&pgtest.DB{URL: lost.URL("streams")}).Conn(t)
	if err := sql.Up(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	pgtest.Exec(t, old, `SELECT topology_identify()`)
	ids := live(t, old, 2) // the second one is left alone after the restore
	emitAll := func(conn *pgx.Conn) (seqs []uint64) {
		for _, id := range ids {
			for range 10 {
				emit(t, conn, id)
			}
			seqs = append(seqs, emit(t, conn, id))
		}
		return seqs
	}
	emitAll(old)
	backup := way.early(t, lost)
	kept := emitAll(old)
	backup = way.backup(t, lost, backup)
	old = (&pgtest.DB{URL: lost.URL("streams")}).Conn(t) // it may have been restarted

	path, through := relayTo(t, lost.URL("streams"), uncut)
	lived := serve(t, through, nil)
	known := emitAll(old)
	watching := make([]*client, 0, len(ids))
	was := make([]map[uint64]string, 0, len(ids)) // the history that is lost
	for i, id := range ids {
		c := newClient(t, lived.url, id, strconv.FormatUint(kept[i]-1, 10)).watch()
		c.awaitSeq(known[i])
		watching, was = append(watching, c), append(was, history(t, old, id))
	}

	path.lead("127.0.0.1:1") // where nobody is
	_ = old.Close(t.Context())
	found := way.restore(t, lost, backup)
	conn := (&pgtest.DB{URL: found.URL("streams")}).Conn(t)
	for i, id := range ids {
		const head = `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`
		if n := pgtest.Scan[uint64](t, conn, head, id); n != kept[i] {
			t.Fatalf("the restored database has %d, want %d of %d", n, kept[i], known[i])
		}
	}
	if byHand {
		code, out, said := program(t, "migrate", "new-epoch", "--database-url", found.URL("streams"))
		if code != exitOK || !strings.HasPrefix(out, "epoch ") {
			t.Fatalf("%d %s %s", code, out, said)
		}
	}
	for range known[0] - kept[0] + 5 { // the numbers of what is lost, and more, before any server comes
		emit(t, conn, ids[0])
	}
	path.lead(addressOf(t, found))

	for i, c := range watching {
		c.await("a snapshot of a new epoch", func() bool {
			return slices.ContainsFunc(c.snapshots, func(n uint64) bool { return n>>32 > 0 })
		})
		c.awaitSeq(emit(t, conn, ids[i]))
		c.tookTheNewHistory(conn, ids[i])
		c.mu.Lock()
		for j, seq := range c.seqs {
			if seq>>32 == 0 && was[i][seq] != c.data[j] {
				t.Errorf("event %d of the epoch before is %s, and was %s", seq, c.data[j], was[i][seq])
			}
		}
		c.mu.Unlock()
	}
	came := serve(t, found.URL("streams"), nil)
	for _, server := range []string{lived.url, came.url} {
		for i, id := range ids {
			for _, after := range []uint64{1, kept[i], kept[i] + 1, known[i], known[i] + 1, known[i] + 5} {
				head := pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads WHERE topology_id = $1::text::uuid`, id)
				c := newClient(t, server, id, strconv.FormatUint(after, 10))
				c.follow(context.WithoutCancel(t.Context()), head)
				if len(c.snapshots) != 1 || c.snapshots[0]>>32 == 0 || len(c.seqs) > 0 && c.seqs[0] < c.snapshots[0] {
					t.Errorf("who knows %d gets the snapshots %v and the events %v", after, c.snapshots, c.seqs)
				}
				c.tookTheNewHistory(conn, id)
			}
		}
	}
}
