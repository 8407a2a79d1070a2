// Package process runs programs as who runs them in production does: it starts them again, freezes, kills and stops
// them, and tells which ended by themselves and what their logs hold.
package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"
	"time"
)

// A Process is one run of a program after the other, with one log file for all of them. At most one runs at a time.
// What is exported is set before the first Start. Safe for concurrent use.
type Process struct {
	Name    string // in errors
	Binary  string
	Args    []string
	Env     []string // beside this program's own
	LogPath string   // where its output goes, behind what is there

	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has ended; nil before the first start
	logFrom int64         // size of the log when cmd was started
	told    bool          // cmd was sent a signal that ends it
	unasked error         // the first run that ended though nobody told it to
}

// Start starts it, in a process group of its own: Ctrl-C in the terminal reaches us, and we stop it in order.
func (p *Process) Start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judgeEnd()
	log, err := os.OpenFile(p.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log of %s: %w", p.Name, err)
	}
	defer log.Close()
	if at, err := log.Stat(); err == nil {
		p.logFrom = at.Size()
	}
	cmd := exec.Command(p.Binary, p.Args...) //nolint:noctx // Stop ends it
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), p.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	go func() {
		defer close(exited)
		_ = cmd.Wait() // its state tells
	}()
	p.cmd, p.exited, p.told = cmd, exited, false
	return nil
}

// judgeEnd notes that the last run ended by itself: whoever starts it again must not hide that. The caller holds mu.
func (p *Process) judgeEnd() {
	if p.cmd != nil && p.ended() && !p.told && p.unasked == nil {
		p.unasked = fmt.Errorf("%s ended by itself (%s): see %s", p.Name, p.cmd.ProcessState, p.LogPath)
	}
}

// EndedByItself tells of the first run that ended though nobody told it to, also where another one was started since.
func (p *Process) EndedByItself() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judgeEnd()
	return p.unasked
}

// Forgive forgets that the last run has ended by itself: it is started again by who expected that.
func (p *Process) Forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = true
}

// Signal gives its process group a signal; it may have ended.
func (p *Process) Signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && !p.ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, sig) // see above
	}
}

// ended tells whether no run is under way. The caller holds mu.
func (p *Process) ended() bool {
	if p.exited == nil {
		return true
	}
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// Running tells whether a run is under way.
func (p *Process) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.ended()
}

// stopPatience is how long a process may take to end.
const stopPatience = 30 * time.Second

var errKilled = errors.New("it did not end in time and was killed")

// Stop ends it by a signal, waits, and tells how it ended: an exit code other than 0 after SIGTERM is an error. Of a
// run that had ended before, EndedByItself tells.
func (p *Process) Stop(sig syscall.Signal) error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.judgeEnd()
	over := p.ended()
	p.told = true
	p.mu.Unlock()
	if cmd == nil || over {
		return nil
	}
	p.Signal(sig)
	p.Signal(syscall.SIGCONT) // one that is frozen takes no signal
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-exited:
	case <-timer.C:
		p.Signal(syscall.SIGKILL)
		<-exited
		return fmt.Errorf("%s: SIGTERM: %w", p.Name, errKilled)
	}
	if code := cmd.ProcessState.ExitCode(); sig == syscall.SIGTERM && code != 0 {
		return fmt.Errorf("%s: exit code %d (%s) after SIGTERM: see %s", p.Name, code, cmd.ProcessState, p.LogPath)
	}
	return nil
}

// PID is the number of the newest run; 0 before the first.
func (p *Process) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

var serving = regexp.MustCompile(`msg=serving addr=(\S+)`)

// Serving waits until this run, of a `topostream serve` that logs text, says where it serves: host:port.
func (p *Process) Serving(ctx context.Context) (addr string, err error) { return p.Await(ctx, serving) }

// Await waits until the log of this run has a line that matches, and gives its first group.
func (p *Process) Await(ctx context.Context, line *regexp.Regexp) (string, error) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		ended := !p.Running()
		b, err := p.Log()
		if err != nil {
			return "", err
		}
		if m := line.FindSubmatch(b); m != nil {
			return string(m[1]), nil
		}
		if ended {
			return "", fmt.Errorf("%s ended: %s", p.Name, b[max(0, len(b)-1000):])
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%s does not say %s: %w", p.Name, line, context.Cause(ctx))
		}
	}
}

// Log is what this run has written.
func (p *Process) Log() ([]byte, error) {
	p.mu.Lock()
	from := p.logFrom
	p.mu.Unlock()
	b, err := os.ReadFile(p.LogPath)
	if err != nil {
		return nil, err
	}
	return b[min(from, int64(len(b))):], nil
}

// alarm is what no log may hold: Go's words for a bug.
var alarm = regexp.MustCompile(`^(panic: |fatal error: |WARNING: DATA RACE)|http: panic serving|msg="?panic`)

// Alarms gives the lines of all runs that tell of a bug.
func (p *Process) Alarms() ([]string, error) {
	f, err := os.Open(p.LogPath)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var found []string
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if alarm.Match(lines.Bytes()) {
			found = append(found, p.Name+": "+lines.Text())
		}
	}
	return found, lines.Err()
}
