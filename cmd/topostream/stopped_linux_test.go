package main

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

// Over TCP PostgreSQL notices that nobody takes what it sends; on a socket of the same machine nothing does but us.
func TestAServerThatIsStoppedOnAUnixSocketHoldsNothingForLong(t *testing.T) {
	t.Parallel()
	slow(t)
	owner, superuser := onASocket(t, "UTF8")
	if code, _, errOut := program(t, "migrate", "up", "--database-url", owner.URL); code != exitOK {
		t.Fatal(errOut)
	}
	binary := buildProgram(t)
	stopped, stoppedURL := serveBinary(t, binary, owner.URL)
	live, _ := serveBinary(t, binary, owner.URL)
	conn := superuser.Conn(t)
	u, err := url.Parse(owner.URL)
	if err != nil {
		t.Fatal(err)
	}
	role := pgx.Identifier{u.User.Username()}.Sanitize()
	pgtest.Exec(t, conn, `GRANT pg_read_all_stats, pg_signal_backend TO `+role)
	id := topology(t, conn, "stopped")
	c := newClient(t, stoppedURL, id, "").watch()
	c.awaitSeq(emit(t, conn, id))
	const listens = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'topostream listen'`
	pgtest.Eventually(t, "two that listen", func() bool { return pgtest.Scan[int](t, conn, listens) == 2 })

	// A superuser's, which nobody else may end: who tries gets an error, and ends none of the others either.
	theirs := superuser.Conn(t)
	pgtest.Exec(t, theirs, `SET application_name = 'topostream listen'`)
	stopped.signal(syscall.SIGSTOP)
	pgtest.Eventually(t, "its backend to be ended", func() bool { return pgtest.Scan[int](t, conn, listens) == 2 })
	pgtest.Eventually(t, "a word of it", func() bool {
		return strings.Contains(live.err.String(), "a server or worker has stopped") &&
			strings.Contains(live.err.String(), "backend_ended=true")
	})
	named := regexp.MustCompile(fmt.Sprintf(`has stopped.* pid=%d .*backend_ended=false`, theirs.PgConn().PID()))
	pgtest.Eventually(t, "a word of the superuser's", func() bool { return named.MatchString(live.err.String()) })
	if n := pgtest.Scan[int](t, conn, listens); n != 2 { // the superuser's, and that of the one that lives
		t.Errorf("%d listen", n)
	}
	last := emit(t, conn, id)
	stopped.signal(syscall.SIGCONT)
	c.awaitSeq(last)
	c.stayedConnected()
}
