package stage

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"topostream/pgbus/pgtest"
)

func script(t *testing.T, text string) *process {
	t.Helper()
	return &process{name: "worker", binary: "/bin/sh", args: []string{"-c", text},
		logPath: filepath.Join(t.TempDir(), "log")}
}

func mustStart(t *testing.T, p *process) {
	t.Helper()
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
}

func TestAProgramThatEndsByItselfIsReportedAlsoWhenAFaultStartsItAgain(t *testing.T) {
	t.Parallel()
	p := script(t, `[ -e "$0.second" ] && exec sleep 60; : >"$0.second"; exit 1`)
	p.args = append(p.args, p.logPath)
	mustStart(t, p)
	pgtest.Eventually(t, "the end", func() bool { return !p.running() })
	if err := p.stop(syscall.SIGKILL); err != nil { // as the fault worker.kill does
		t.Error(err)
	}
	mustStart(t, p)
	if err := p.endedByItself(); err == nil || !strings.Contains(err.Error(), "worker ended by itself (exit status 1)") {
		t.Errorf("told: %v", err)
	}
	if err := p.stop(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestAProgramThatIsToldToEndHasNotEndedByItself(t *testing.T) {
	t.Parallel()
	p := script(t, `exec sleep 60`)
	mustStart(t, p)
	if err := p.stop(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	mustStart(t, p)
	if err := p.stop(syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := p.endedByItself(); err != nil {
		t.Error(err)
	}
}

func TestAProgramThatExitsWithAnErrorAfterSIGTERMIsReported(t *testing.T) {
	t.Parallel()
	p := script(t, `trap 'exit 3' TERM; : >"$0.ready"; while :; do sleep 0.01; done`)
	p.args = append(p.args, p.logPath)
	mustStart(t, p)
	pgtest.Eventually(t, "the trap", func() bool { found, _ := filepath.Glob(p.logPath + ".ready"); return found != nil })
	if err := p.stop(syscall.SIGTERM); err == nil || !strings.Contains(err.Error(), "exit code 3") {
		t.Errorf("told: %v", err)
	}
}
