// Package apply holds the appliers that act on the outside world for a mutation: a command ([Exec]) and an HTTP service
// ([URL]).
//
// Both get the mutation as the JSON of [stream.Mutation], and its id as the idempotency key: a mutation may be applied
// more than once, because a worker that dies after the act and before the commit gives the mutation back.
package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"topostream/stream"
)

// grace is what a command has to clean up between SIGTERM and SIGKILL.
const grace = 2 * time.Second

type command struct {
	command string
	timeout time.Duration
}

var _ stream.Applier = command{}

// Exec runs a command line with `sh -c`, for timeout at most (0: as long as it takes). The mutation's JSON is on its
// stdin, which it may leave unread, and the mutation's id in TOPOSTREAM_MUTATION_ID; what it prints on stdout is not
// kept. Its environment is ours without what is the worker's alone: TOPOSTREAM_…, DATABASE_URL and libpq's PG…, which
// hold passwords. Where the worker is traced, TRACEPARENT and TRACESTATE say which span the call belongs to (the
// headers of W3C Trace Context, by the names that OpenTelemetry gives them in an environment). Exit 0 is success.
// Otherwise the reason is the end of its stderr, at most 10 lines and 2,000 bytes, or the exit status if it printed
// nothing there.
//
// The command has a process group of its own. When the time is over or ctx ends, the group gets SIGTERM, and SIGKILL
// after 2 s; the error of a ctx that ended wraps its cause. What the command leaves running in the background when it
// exits is killed, too: nothing that it started outlives Apply, save what has left the group (setsid(1)) and what a
// worker that is itself killed leaves behind.
func Exec(line string, timeout time.Duration) stream.Applier {
	return command{line, timeout}
}

func (c command) Apply(ctx context.Context, m stream.Mutation) error {
	document, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := limit(ctx, c.timeout)
	defer cancel()
	var stderr tail
	cmd := exec.CommandContext(ctx, "sh", "-c", c.command)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(document), &stderr
	cmd.Env = append(withoutSecrets(os.Environ()), "TOPOSTREAM_MUTATION_ID="+string(m.ID))
	for header, value := range traceOf(ctx) {
		cmd.Env = append(cmd.Env, strings.ToUpper(header)+"="+value)
	}
	g, err := startGroup(cmd)
	if err != nil {
		return fmt.Errorf("the command cannot be started: %w", err)
	}
	err = cmd.Wait()
	g.end()
	return commandError(ctx, err, stderr.lines())
}

// withoutSecrets is an environment without the settings of this program and of its connection to the database.
func withoutSecrets(environment []string) []string {
	return slices.DeleteFunc(environment, func(setting string) bool {
		name, _, _ := strings.Cut(setting, "=")
		return name == "DATABASE_URL" || strings.HasPrefix(name, "TOPOSTREAM_") || isLibpq(name)
	})
}

// isLibpq knows the names of libpq's variables (PostgreSQL documentation, "Environment Variables").
func isLibpq(name string) bool {
	rest, ok := strings.CutPrefix(name, "PG")
	return ok && rest != "" && strings.ToUpper(rest) == rest
}

// commandError says why a command failed; nil if it did not.
func commandError(ctx context.Context, err error, stderr string) error {
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay): // the latter only after exit 0
		return nil
	case ctx.Err() != nil && stderr == "":
		return stopped(ctx)
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %s", stopped(ctx), stderr)
	case stderr == "":
		return err // an exec.ExitError: "exit status 3", "signal: killed"
	}
	return errors.New(stderr)
}

// A group is the process group of a command, whose number is that of its first process.
type group struct {
	id int
	// alive is a pipe that nobody writes to: it ends when the last process has. Asking kill(2) would count zombies,
	// which stay where PID 1 reaps late or never.
	alive   *os.File
	stopped time.Time
}

// startGroup starts a command in a group of its own, which gets SIGTERM when the command's context ends.
func startGroup(cmd *exec.Cmd) (*group, error) {
	alive, held, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer held.Close()
	g := &group{alive: alive}
	cmd.ExtraFiles = []*os.File{held}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		g.stopped = time.Now()
		return signalGroup(cmd.Process.Pid, syscall.SIGTERM)
	}
	cmd.WaitDelay = grace // also for who holds our pipes when the shell has gone
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, alive.Close())
	}
	g.id = cmd.Process.Pid
	return g, nil
}

// end returns when nothing of the group runs. Its first process has been waited for: if others are left, its number
// cannot be taken by a stranger (the kernel keeps it while it names a group); if none is left, it is too early for the
// numbers to have come round.
func (g *group) end() {
	defer g.alive.Close()
	if !g.stopped.IsZero() {
		g.await(g.stopped.Add(grace)) // not only the shell may have something to clean up
	}
	if signalGroup(g.id, syscall.SIGKILL) == nil {
		// For those who sleep in the kernel; and one that has left the group may have the pipe.
		g.await(time.Now().Add(grace))
	}
}

func (g *group) await(until time.Time) {
	if g.alive.SetReadDeadline(until) == nil {
		_, _ = io.Copy(io.Discard, g.alive) // its end or the deadline
	}
}

// signalGroup gives os.ErrProcessDone, which os/exec knows, for a group that is empty.
func signalGroup(id int, s syscall.Signal) error {
	err := syscall.Kill(-id, s)
	if errors.Is(err, syscall.ESRCH) {
		return os.ErrProcessDone
	}
	return err
}
