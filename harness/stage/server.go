package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"time"

	"topostream/harness/metric"
	"topostream/harness/process"
	"topostream/harness/proxy"
)

// A Server is a `topostream serve` behind the balancer, with a path to its database of its own. Its methods are safe
// for concurrent use.
type Server struct {
	Name     string
	Backend  *proxy.Backend
	Database *proxy.Link

	listens bool // it must have a LISTEN connection when it works
	process *process.Process
	client  *http.Client
}

const startPause = 200 * time.Millisecond

// Start runs it and returns when it serves. As a service manager does, it starts it again while the database takes
// nobody.
func (s *Server) Start(ctx context.Context) error {
	for {
		err := s.process.Start()
		if err != nil {
			return err
		}
		addr, err := s.process.Serving(ctx)
		switch {
		case err == nil:
			s.Backend.Moved(addr)
			return nil
		case ctx.Err() != nil:
			return err
		}
		s.process.Forgive()
		select {
		case <-time.After(startPause):
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		}
	}
}

// Kill ends it by SIGKILL.
func (s *Server) Kill() {
	s.Backend.Moved("")
	_ = s.process.Stop(syscall.SIGKILL) // no exit code is expected
}

// Terminate ends it by SIGTERM and tells whether it ended in order. The balancer notices by itself.
func (s *Server) Terminate() error {
	defer s.Backend.Moved("")
	return s.process.Stop(syscall.SIGTERM)
}

// Freeze stops it by SIGSTOP: its sockets are half-open.
func (s *Server) Freeze() { s.process.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (s *Server) Thaw() { s.process.Signal(syscall.SIGCONT) }

// Metric reads a metric; a missing one is an error.
func (s *Server) Metric(ctx context.Context, series string) (float64, error) {
	base, err := s.base()
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	v, err := metric.Read(ctx, base, series)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", s.Name, err)
	}
	return v, nil
}

// answerPatience is how long a server that works may take to answer about itself.
const answerPatience = 5 * time.Second

// base is the URL that it serves at.
func (s *Server) base() (string, error) {
	if addr := s.Backend.Addr(); addr != "" {
		return "http://" + addr, nil
	}
	return "", fmt.Errorf("%s does not run", s.Name)
}

// Ready says what keeps the server from working; nil: it works.
func (s *Server) Ready(ctx context.Context) error {
	if err := s.readyz(ctx); err != nil {
		return err
	}
	if !s.listens {
		return nil
	}
	listening, err := s.Metric(ctx, "topostream_listening")
	switch {
	case err != nil:
		return err
	case listening != 1:
		return fmt.Errorf("%s does not LISTEN", s.Name)
	}
	return nil
}

// readyz asks the server itself: an error unless it answers 200.
func (s *Server) readyz(ctx context.Context) error {
	base, err := s.base()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/readyz", nil)
	if err != nil {
		return err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return fmt.Errorf("%s: %w", s.Name, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return fmt.Errorf("%s: /readyz: %w", s.Name, err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: /readyz: %s: %s", s.Name, res.Status, strings.TrimSpace(string(b)))
	}
	return nil
}

// A Worker is a `topostream mutator`.
type Worker struct {
	Name    string
	process *process.Process
}

// Start runs it; a worker waits by itself for a database that is away. One that ends instead is an error of Close.
func (w *Worker) Start() error { return w.process.Start() }

// Kill ends it by SIGKILL.
func (w *Worker) Kill() { _ = w.process.Stop(syscall.SIGKILL) } // no exit code is expected

// Freeze stops it by SIGSTOP.
func (w *Worker) Freeze() { w.process.Signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (w *Worker) Thaw() { w.process.Signal(syscall.SIGCONT) }
