package process

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func script(t *testing.T, text string) *Process {
	t.Helper()
	return &Process{Name: "worker", Binary: "/bin/sh", Args: []string{"-c", text},
		LogPath: filepath.Join(t.TempDir(), "log")}
}

func mustStart(t *testing.T, p *Process) {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
}

func TestAProgramThatEndsByItselfIsReportedAlsoWhenAFaultStartsItAgain(t *testing.T) {
	t.Parallel()
	p := script(t, `[ -e "$0.second" ] && exec sleep 60; : >"$0.second"; exit 1`)
	p.Args = append(p.Args, p.LogPath)
	mustStart(t, p)
	pgtest.Eventually(t, "the end", func() bool { return !p.Running() })
	if err := p.Stop(syscall.SIGKILL); err != nil { // as the fault worker.kill does
		t.Error(err)
	}
	mustStart(t, p)
	if err := p.EndedByItself(); err == nil || !strings.Contains(err.Error(), "worker ended by itself (exit status 1)") {
		t.Errorf("told: %v", err)
	}
	if err := p.Stop(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestAProgramThatIsToldToEndHasNotEndedByItself(t *testing.T) {
	t.Parallel()
	p := script(t, `exec sleep 60`)
	mustStart(t, p)
	if err := p.Stop(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	mustStart(t, p)
	if err := p.Stop(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := p.EndedByItself(); err != nil {
		t.Error(err)
	}
}

func TestAProgramThatExitsWithAnErrorAfterSIGTERMIsReported(t *testing.T) {
	t.Parallel()
	p := script(t, `trap 'exit 3' TERM; : >"$0.ready"; while :; do sleep 0.01; done`)
	p.Args = append(p.Args, p.LogPath)
	mustStart(t, p)
	pgtest.Eventually(t, "the trap", func() bool { found, _ := filepath.Glob(p.LogPath + ".ready"); return found != nil })
	if err := p.Stop(syscall.SIGTERM); err == nil || !strings.Contains(err.Error(), "exit code 3") {
		t.Errorf("told: %v", err)
	}
}
