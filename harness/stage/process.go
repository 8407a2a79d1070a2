package stage

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

// A process is one run of the program after the other, with one log file for all of them. At most one runs at a time.
// Safe for concurrent use.
type process struct {
	name    string
	binary  string
	args    []string
	env     []string
	logPath string

	mu      sync.Mutex
	cmd     *exec.Cmd
	exited  chan struct{} // closed when cmd has ended; nil before the first start
	begun   int64         // size of the log when cmd was started
	told    bool          // cmd was sent a signal that ends it
	unasked error         // the first run that ended though nobody told it to
}

// start starts it, in a process group of its own: Ctrl-C in the terminal reaches us, and we stop it in order.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judgeEnd()
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("log of %s: %w", p.name, err)
	}
	defer log.Close()
	if at, err := log.Stat(); err == nil {
		p.begun = at.Size()
	}
	cmd := exec.Command(p.binary, p.args...) //nolint:noctx // stop ends it
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Env = append(os.Environ(), p.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
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
func (p *process) judgeEnd() {
	if p.cmd != nil && p.ended() && !p.told && p.unasked == nil {
		p.unasked = fmt.Errorf("%s ended by itself (%s): see %s", p.name, p.cmd.ProcessState, p.logPath)
	}
}

// endedByItself tells of the first run that ended though nobody told it to, also where another one was started since.
func (p *process) endedByItself() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.judgeEnd()
	return p.unasked
}

// forgive forgets that the last run has ended by itself: it is started again by who expected that.
func (p *process) forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.told = true
}

// signal gives its process group a signal; it may have ended.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd != nil && !p.ended() {
		_ = syscall.Kill(-p.cmd.Process.Pid, sig) // see above
	}
}

// ended tells whether it does not run. The caller holds mu.
func (p *process) ended() bool {
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

func (p *process) running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return !p.ended()
}

var errKilled = errors.New("it did not end in time and was killed")

// stop ends it by a signal, waits, and tells how it ended: an exit code other than 0 after SIGTERM is an error. Of a
// run that had ended before, endedByItself tells.
func (p *process) stop(sig syscall.Signal) error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.judgeEnd()
	over := p.ended()
	p.told = true
	p.mu.Unlock()
	if cmd == nil || over {
		return nil
	}
	p.signal(sig)
	p.signal(syscall.SIGCONT) // one that is frozen takes no signal
	timer := time.NewTimer(stopPatience)
	defer timer.Stop()
	select {
	case <-exited:
	case <-timer.C:
		p.signal(syscall.SIGKILL)
		<-exited
		return fmt.Errorf("%s: SIGTERM: %w", p.name, errKilled)
	}
	if code := cmd.ProcessState.ExitCode(); sig == syscall.SIGTERM && code != 0 {
		return fmt.Errorf("%s: exit code %d (%s) after SIGTERM: see %s", p.name, code, cmd.ProcessState, p.logPath)
	}
	return nil
}

var servingLine = regexp.MustCompile(`msg=serving addr=(\S+)`)

// awaitLine waits until the log of this run has a line that matches, and gives its first group.
func (p *process) awaitLine(ctx context.Context, line *regexp.Regexp) (string, error) {
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	for {
		ended := !p.running()
		b, err := p.log()
		if err != nil {
			return "", err
		}
		if m := line.FindSubmatch(b); m != nil {
			return string(m[1]), nil
		}
		if ended {
			return "", fmt.Errorf("%s ended: %s", p.name, b[max(0, len(b)-1000):])
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return "", fmt.Errorf("%s does not say %s: %w", p.name, line, context.Cause(ctx))
		}
	}
}

// log is what this run has written.
func (p *process) log() ([]byte, error) {
	p.mu.Lock()
	begun := p.begun
	p.mu.Unlock()
	b, err := os.ReadFile(p.logPath)
	if err != nil {
		return nil, err
	}
	return b[min(begun, int64(len(b))):], nil
}

// alarm is what no log may hold: Go's words for a bug.
var alarm = regexp.MustCompile(`^(panic: |fatal error: |WARNING: DATA RACE)|http: panic serving|msg="?panic`)

// alarms gives the lines of all runs that tell of a bug.
func (p *process) alarms() ([]string, error) {
	f, err := os.Open(p.logPath)
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
			found = append(found, p.name+": "+lines.Text())
		}
	}
	return found, lines.Err()
}
