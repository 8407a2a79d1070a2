package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgcluster/pgjar"
	"topostream/pgbus/pgtest"
)

func TestDevHasTheLimitsOfServe(t *testing.T) {
	t.Parallel()
	var c cli
	parser, err := newParser(&c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := parser.Parse([]string{"serve", "--database-url", "postgres://x"}); err != nil {
		t.Fatal(err)
	}
	limits := func(c *serveCmd) map[string]any {
		return map[string]any{
			"--max-streams": c.MaxStreams, "--max-streams-per-user": c.MaxStreamsPerUser, "--rate-limit": c.RateLimit,
			"--max-in-flight": c.MaxInFlight, "--feed-memory": c.FeedMemory, "--write-timeout": c.WriteTimeout,
			"--keepalive": c.Keepalive, "--retention": c.Retention, "--retention-count": c.RetentionCount,
			"--mutation-retention": c.MutationRetention,
		}
	}
	want := limits(&c.Serve)
	for flag, got := range limits((&devCmd{}).server("", nil)) {
		if got != want[flag] {
			t.Errorf("%s: dev has %v, serve %v", flag, got, want[flag])
		}
	}
}

// dev is a running `topostream dev` and what it printed.
type dev struct {
	*process

	console, curl, psql, id, token string
}

var welcomeLines = regexp.MustCompile(
	`(?s)The topology "demo" is (\S+)\..*  Console  (\S+)\n  curl     ([^\n]+)\n  psql     ([^\n]+)\n`,
)

// startDev runs the binary until it has said how to reach it.
func startDev(t *testing.T, cmd *exec.Cmd) *dev {
	t.Helper()
	d := &dev{process: startProcess(t, cmd)}
	d.out.await(t, "the data stays.\n", d.ended)
	m := welcomeLines.FindStringSubmatch(d.out.String())
	if m == nil {
		t.Fatalf("unexpected output: %s", d.out.String())
	}
	d.id, d.console, d.curl, d.psql = m[1], m[2], m[3], m[4]
	_, fragment, _ := strings.Cut(d.console, "#token=")
	d.token, _, _ = strings.Cut(fragment, "&")
	return d
}

func (d *dev) url() string {
	base, _, _ := strings.Cut(d.console, "/#")
	return base
}

// interrupt is Ctrl-C. Nothing may be left.
func (d *dev) interrupt(t *testing.T, dataDir string) {
	t.Helper()
	<-d.signal(syscall.SIGINT)
	if code := d.cmd.ProcessState.ExitCode(); code != exitOK {
		t.Errorf("exit code %d: %s", code, d.err.String())
	}
	nothingRuns(t, dataDir)
}

// nothingRuns looks for processes of a PostgreSQL: each one's working directory is its data directory.
func nothingRuns(t *testing.T, dataDir string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Log("no /proc on this system: processes are not looked for")
		return
	}
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if cwd, err := os.Readlink(link); err == nil && strings.HasPrefix(cwd, dataDir) {
			t.Errorf("%s still runs in %s", filepath.Dir(link), cwd)
		}
	}
	if _, err := os.Stat(filepath.Join(dataDir, "data", "postmaster.pid")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("PostgreSQL did not end in order: %v", err)
	}
}

func TestDevIsAllThatAStrangerNeeds(t *testing.T) {
	t.Parallel()
	long(t)
	binary := buildProgram(t)
	command := func(env []string, args ...string) *exec.Cmd {
		cmd := exec.Command(binary, append([]string{"dev", "--addr", "127.0.0.1:0"}, args...)...)
		cmd.Env = env
		return cmd
	}
	t.Run("the printed lines work as printed, and the next start goes on where this one was", func(t *testing.T) {
		t.Parallel()
		testPrintedLines(t, command)
	})
	t.Run("a second one on the same directory leaves the first alone", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(pgtest.OpenDir(t), "dev")
		first := startDev(t, command(cleanEnv(), "--data-dir", dir))
		second := startProcess(t, command(cleanEnv(), "--data-dir", dir))
		<-second.ended
		want := fmt.Sprintf("another topostream (pid %d) uses %s", first.cmd.Process.Pid, dir)
		if code := second.cmd.ProcessState.ExitCode(); code != exitError || !strings.Contains(second.err.String(), want) {
			t.Errorf("exit code %d: %s", code, second.err.String())
		}
		sh(t, first.psql)
		first.interrupt(t, dir)
	})
	t.Run("what a killed one left running is stopped", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(pgtest.OpenDir(t), "dev")
		first := startDev(t, command(cleanEnv(), "--data-dir", dir))
		<-first.signal(syscall.SIGKILL)
		second := startDev(t, command(cleanEnv(), "--data-dir", dir))
		if second.id != first.id {
			t.Errorf("the topology was %s, now it is %s", first.id, second.id)
		}
		second.interrupt(t, dir)
	})
	t.Run("PostgreSQL that dies is started again", func(t *testing.T) {
		t.Parallel()
		dir := filepath.Join(pgtest.OpenDir(t), "dev")
		d := startDev(t, command(cleanEnv(), "--data-dir", dir))
		file, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
		if err != nil {
			t.Fatal(err)
		}
		first, _, _ := strings.Cut(string(file), "\n")
		pid, err := strconv.Atoi(first)
		if err != nil {
			t.Fatal(err)
		}
		c := newClient(t, d.url(), d.id, "")
		c.token = d.token
		c.watch()
		c.await("a snapshot", func() bool { return c.last != "" })
		// A backend that computes notices the postmaster's end when it has done, and keeps the next one from starting.
		psql, _, _ := strings.Cut(d.psql, " -c ")
		busy := startProcess(t, exec.Command("sh", "-c", psql+` -c "DO 'DECLARE ends timestamptz := clock_timestamp() +
			interval ''2 s''; BEGIN RAISE NOTICE ''busy''; WHILE clock_timestamp() < ends LOOP END LOOP; END'"`))
		busy.err.await(t, "busy", busy.ended)
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		d.err.await(t, "is started again", d.ended)
		pgtest.Eventually(t, "the printed psql line", func() bool {
			return exec.Command("sh", "-c", d.psql).Run() == nil
		})
		c.await("what psql wrote", func() bool {
			return slices.ContainsFunc(c.data, func(event string) bool { return strings.Contains(event, `"type":"hello"`) })
		})
		d.interrupt(t, dir)
	})
	t.Run("a taken address is said at once, and nothing is started", func(t *testing.T) {
		t.Parallel()
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		dir := filepath.Join(pgtest.OpenDir(t), "dev")
		p := startProcess(t, command(cleanEnv(), "--data-dir", dir, "--addr", l.Addr().String()))
		<-p.ended
		if code := p.cmd.ProcessState.ExitCode(); code != exitError ||
			p.err.String() != "topostream: "+l.Addr().
				String()+
				" is taken by another program: stop it or choose another --addr\n" {
			t.Errorf("exit code %d: %s", code, p.err.String())
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the data directory was made: %v", err)
		}
	})
	t.Run("an unprivileged user needs no flag", func(t *testing.T) {
		t.Parallel()
		home := pgtest.OpenDir(t)
		cmd := command(cleanEnv("HOME=" + home))
		cmd.Dir = home
		if os.Geteuid() == 0 {
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobody(t, home)}
		}
		d := startDev(t, cmd)
		sh(t, d.psql)
		d.interrupt(t, filepath.Join(home, ".local", "share", "topostream", "dev"))
	})
	t.Run("a machine without PostgreSQL gets one", func(t *testing.T) {
		t.Parallel()
		testWithoutPostgreSQL(t, command)
	})
}

// sh runs a line as somebody who pastes it into a shell.
func sh(t *testing.T, line string) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line).CombinedOutput()
	if err != nil {
		t.Errorf("%s: %v: %s", line, err, out)
	}
}

func testPrintedLines(t *testing.T, command func([]string, ...string) *exec.Cmd) {
	dir := filepath.Join(pgtest.OpenDir(t), "it's a directory")
	first := startDev(t, command(cleanEnv(), "--data-dir", dir))
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the data directory: %v, %v", info.Mode(), err)
	}
	if res, err := http.Get(first.console); err != nil || res.StatusCode != http.StatusOK {
		t.Errorf("the console: %v, %v", res, err)
	} else {
		_ = res.Body.Close()
	}
	var seq uint64
	if _, err := exec.LookPath("curl"); err != nil {
		t.Log("no curl on this machine: its line is not tried")
		sh(t, first.psql)
	} else {
		curl := startProcess(t, exec.Command("sh", "-c", first.curl))
		curl.out.await(t, "event: snapshot\n", curl.ended)
		sh(t, first.psql)
		curl.out.await(t, "event: hello\n", curl.ended)
		curl.out.await(t, `{"from": "psql"}`, curl.ended)
		psql, _, _ := strings.Cut(first.psql, " -c ")
		sh(t, psql+` -c "INSERT INTO mutations (topology_id, op, payload)
			SELECT id, 'add_lan', jsonb_build_object('name', 'lan-9') FROM topologies WHERE name = 'demo'"`)
		curl.out.await(t, "event: mutation.applied\n", curl.ended)
		<-curl.signal(syscall.SIGINT)
	}
	before := &client{t: t, url: first.url() + "/api/v1/topologies/" + first.id + "/events", token: first.token}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	before.follow(ctx, 1)
	if len(before.snapshots) != 1 {
		t.Fatalf("snapshots: %v", before.snapshots)
	}
	seq = before.snapshots[0]
	first.interrupt(t, dir)

	second := startDev(t, command(cleanEnv(), "--data-dir", dir))
	if second.id != first.id {
		t.Errorf("the topology was %s, now it is %s", first.id, second.id)
	}
	// The token of the first start and the number from before it: the page that stayed open.
	after := &client{
		t:     t,
		url:   second.url() + "/api/v1/topologies/" + second.id + "/events",
		token: first.token,
		last:  strconv.FormatUint(seq-1, 10),
	}
	sh(t, second.psql)
	after.follow(ctx, seq+1)
	if fmt.Sprint(after.seqs, after.snapshots) != fmt.Sprintf("[%d %d] []", seq, seq+1) {
		t.Errorf("after the restart: events %v, snapshots %v", after.seqs, after.snapshots)
	}
	second.interrupt(t, dir)
	http.DefaultClient.CloseIdleConnections()
}

func testWithoutPostgreSQL(t *testing.T, command func([]string, ...string) *exec.Cmd) {
	ctx := t.Context()
	find := func() (pgcluster.Binaries, error) {
		if dir := os.Getenv("TEST_PG_BIN"); dir != "" {
			return pgcluster.At(ctx, dir)
		}
		return pgcluster.Find(ctx)
	}
	b, err := find()
	if err != nil {
		t.Fatal(err)
	}
	jar := pgjar.Jar(t, pgjar.Pack(t, b))
	repository := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = w.Write(pgjar.Answer(jar, r.URL.Path)) // the client may have gone
	}))
	defer repository.Close()
	top := pgtest.OpenDir(t)
	dir := filepath.Join(top, "dev")
	// This machine has one, but nothing says where: not PATH, not pg_config, and the usual places are not looked at.
	env := []string{
		"PATH=" + top,
		"HOME=" + top,
		"TOPOSTREAM_PG_PLACES=",
		"TOPOSTREAM_DOWNLOAD_DIR=" + filepath.Join(top, "cache"),
		"TOPOSTREAM_DATA_DIR=" + dir,
	}

	repositoryAway := startProcess(t, command(env, "--download-url", "http://127.0.0.1:1"))
	<-repositoryAway.ended
	last := strings.TrimSpace(repositoryAway.err.String())
	last = last[strings.LastIndexByte(last, '\n')+1:]
	if code := repositoryAway.cmd.ProcessState.ExitCode(); code != exitError ||
		!strings.HasPrefix(last, "topostream: no PostgreSQL 14 or newer found: install it") {
		t.Errorf("exit code %d: %s", code, repositoryAway.err.String())
	}

	d := startDev(t, command(env, "--download-url", repository.URL))
	if !strings.HasPrefix(d.psql, "psql 'postgres://") ||
		!strings.Contains(d.out.String(), "There is no psql on this machine yet: install it") {
		t.Errorf("an archive of servers holds no psql: %s", d.out.String())
	}
	// The stranger installs it.
	cmd := exec.CommandContext(ctx, "sh", "-c", d.psql)
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(pgtest.Bin(t, "psql"))+":"+os.Getenv("PATH"))
	if out, err := cmd.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("1 row")) {
		t.Errorf("psql: %v: %s", err, out)
	}
	d.interrupt(t, dir)
}
