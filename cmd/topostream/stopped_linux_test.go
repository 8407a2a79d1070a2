package main

import (
	"strings"
	"syscall"
	"testing"

	"topostream/pgbus/pgtest"
)

// Over TCP PostgreSQL notices that nobody takes what it sends; on a socket of the same machine nothing does but us.
func TestAServerThatIsStoppedOnAUnixSocketHoldsNothingForLong(t *testing.T) {
	t.Parallel()
	long(t)
	owner, superuser := onASocket(t, "UTF8")
	if code, _, errOut := program(t, "migrate", "up", "--database-url", owner.URL); code != exitOK {
		t.Fatal(errOut)
	}
	binary := buildProgram(t)
	stopped, stoppedURL := serveBinary(t, binary, owner.URL)
	live, _ := serveBinary(t, binary, owner.URL)
	conn := superuser.Conn(t)
	id := topology(t, conn, "stopped")
	c := newClient(t, stoppedURL, id, "").watch()
	c.awaitSeq(emit(t, conn, id))
	const listens = `SELECT count(*) FROM pg_stat_activity WHERE application_name = 'topostream listen'`
	pgtest.Eventually(t, "two that listen", func() bool { return pgtest.Scan[int](t, conn, listens) == 2 })

	stopped.signal(syscall.SIGSTOP)
	pgtest.Eventually(t, "its backend to be ended", func() bool { return pgtest.Scan[int](t, conn, listens) == 1 })
	pgtest.Eventually(t, "a word of it", func() bool {
		return strings.Contains(live.err.String(), "a server or worker has stopped") &&
			strings.Contains(live.err.String(), "backend_ended=true")
	})
	last := emit(t, conn, id)
	stopped.signal(syscall.SIGCONT)
	c.awaitSeq(last)
	c.stayedConnected()
}
