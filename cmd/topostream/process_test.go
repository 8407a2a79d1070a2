package main

import (
	"errors"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	child "topostream/harness/process"
	"topostream/pgbus/pgtest"
)

// growing is output that can be waited for.
type growing struct{ lockedBuffer }

// await returns when text has been written; ended tells that nothing more will come.
func (g *growing) await(t *testing.T, text string, ended <-chan struct{}) {
	t.Helper()
	deadline := time.NewTimer(time.Minute)
	defer deadline.Stop()
	for {
		got, more := g.Read()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-more:
		case <-ended:
			if got := g.String(); !strings.Contains(got, text) {
				t.Fatalf("it ended without %q: %s", text, got)
			}
			return
		case <-deadline.C:
			t.Fatalf("no %q in a minute: %s", text, got)
		}
	}
}

// A process is a real one, in a process group of its own, as a shell starts it.
type process struct {
	cmd      *exec.Cmd
	out, err growing
	ended    chan struct{}
}

func startProcess(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &p.out, &p.err
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Setpgid = true
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		_ = cmd.Wait() // its state says how it ended
	}()
	t.Cleanup(func() {
		select {
		case <-p.ended:
		case <-p.signal(syscall.SIGINT):
		case <-time.After(30 * time.Second):
			<-p.signal(syscall.SIGKILL)
		}
		if t.Failed() {
			t.Logf("%s:\n%s%s", filepath.Base(cmd.Path), p.out.String(), p.err.String())
		}
	})
	return p
}

// signal goes to the whole group, as Ctrl-C in a terminal does.
func (p *process) signal(sig syscall.Signal) (ended <-chan struct{}) {
	_ = syscall.Kill(-p.cmd.Process.Pid, sig) // it may have ended
	return p.ended
}

// cleanEnv is the environment without this program's variables, and with the tests' choice of PostgreSQL.
func cleanEnv(set ...string) []string {
	var env []string
	for _, v := range os.Environ() {
		ours := func(prefix string) bool { return strings.HasPrefix(v, prefix) }
		if !slices.ContainsFunc([]string{"TOPOSTREAM_", "DATABASE_URL=", "XDG_", "OTEL_", "TRACE"}, ours) {
			env = append(env, v)
		}
	}
	if dir := os.Getenv("TEST_PG_BIN"); dir != "" {
		env = append(env, "TOPOSTREAM_PG_BIN="+dir)
	}
	return append(env, set...)
}

// buildProgram makes the binary that users have.
func buildProgram(t *testing.T) string {
	t.Helper()
	binary, err := child.Build(t.Context(), "", pgtest.OpenDir(t), "topostream")
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

// nobody is a user without rights, who gets home.
func nobody(t *testing.T, home string) *syscall.Credential {
	t.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Skip("no user nobody on this machine")
	}
	uid, errU := strconv.ParseUint(u.Uid, 10, 32)
	gid, errG := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(errU, errG, os.Chown(home, int(uid), int(gid))); err != nil {
		t.Fatal(err)
	}
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}
