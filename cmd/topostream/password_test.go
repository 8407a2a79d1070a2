package main

import (
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// Who rotates a password writes the new one to the passfile and ends the connections that the old one opened.
func TestAPasswordThatIsRotatedInItsPassfileIsReadAgain(t *testing.T) {
	t.Parallel()
	slow(t)
	owner, superuser := pgtest.NewOwned(t, "rotated", "UTF8")
	u, err := url.Parse(owner.URL)
	if err != nil {
		t.Fatal(err)
	}
	role := u.User.Username()
	old, _ := u.User.Password()
	passfile := filepath.Join(t.TempDir(), "passfile")
	keep := func(password string) {
		t.Helper()
		if err := os.WriteFile(passfile, []byte("*:*:*:"+role+":"+password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	keep(old)
	u.User = url.User(role)
	u.RawQuery += "&passfile=" + url.QueryEscape(passfile)
	if code, _, errOut := program(t, "migrate", "up", "--database-url", u.String()); code != exitOK {
		t.Fatal(errOut)
	}
	process, server := serveBinary(t, buildProgram(t), u.String(), "--mutator")
	admin := newOperator(t, server, "admin", stream.RoleAdmin)
	id := admin.create(`{"name":"rotated"}`)
	c := newClient(t, server, id, "").watch()
	c.awaitSeq(3)

	conn := superuser.Conn(t)
	for _, password := range []string{"the second", "the third"} {
		pgtest.Exec(t, conn, `ALTER ROLE `+pgx.Identifier{role}.Sanitize()+` PASSWORD '`+password+`'`)
		keep(password)
		if password == "the third" { // all of the pool's connections are new after this
			process.signal(syscall.SIGHUP)
			pgtest.Eventually(t, "SIGHUP to be heard", func() bool { return strings.Contains(process.err.String(), "SIGHUP") })
		}
		pgtest.Exec(t, conn, `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = $1`, role)
		before := pgtest.Scan[uint64](t, conn, `SELECT seq FROM topology_heads`)
		pgtest.Eventually(t, "an edit that is taken", func() bool {
			return admin.do("POST", "/topologies/"+id+"/mutations", `{"op":"add_lan","payload":{"name":"x"}}`).status ==
				http.StatusAccepted
		})
		c.awaitSeq(before + 3) // enqueued, applying, applied or failed
	}
	if strings.Contains(process.err.String(), "the second") || strings.Contains(process.err.String(), "the third") {
		t.Error("the log holds a password")
	}
	select {
	case <-process.ended:
		t.Error("SIGHUP has ended the server")
	default:
	}
}

// A terminal that is closed, or a supervisor that renews passwords while a server stops, cuts nothing off.
func TestSIGHUPDoesNotCutADrainShort(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	process, server := serveBinary(t, buildProgram(t), db.URL)
	admin := newOperator(t, server, "admin", stream.RoleAdmin)
	id := admin.create(`{"name":"drained"}`)
	const mutation = `{"op":"add_lan","payload":{"name":"x"}}`
	pgtest.Exec(t, db.Conn(t), `UPDATE topologies SET status = 'active'`)
	body, rest := io.Pipe()
	under := make(chan struct{})
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{Got100Continue: func() { close(under) }})
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, admin.base+"/topologies/"+id+"/mutations", body)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+admin.token)
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Expect", "100-continue")
	req.ContentLength = int64(len(mutation))
	answered := make(chan int, 1)
	go func() {
		res, err := (&http.Client{Transport: &http.Transport{
			ExpectContinueTimeout: time.Hour, DisableKeepAlives: true,
		}}).Do(req)
		if err != nil {
			t.Error(err)
			answered <- 0
			return
		}
		_ = res.Body.Close() // its status says it
		answered <- res.StatusCode
	}()
	<-under // the handler reads the body
	ended := process.signal(syscall.SIGTERM)
	pgtest.Eventually(t, "the drain", func() bool {
		res, err := http.Get(server + "/readyz")
		if err != nil {
			return true // nobody is let in any more
		}
		_ = res.Body.Close() // its status says it
		return res.StatusCode != http.StatusOK
	})
	process.signal(syscall.SIGHUP)
	if _, err := io.WriteString(rest, mutation); err != nil {
		t.Error(err)
	}
	_ = rest.Close() // its error is always nil
	if status := <-answered; status != http.StatusAccepted {
		t.Errorf("the request that was under way: %d", status)
	}
	<-ended
	if code := process.cmd.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d: %s", code, process.err.String())
	}
}
