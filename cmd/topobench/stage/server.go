package stage

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"syscall"
	"time"

	"topostream/cmd/topobench/proxy"
)

// A Server is a `topostream serve` behind the balancer, with a path to its database of its own. Its methods are safe
// for concurrent use.
type Server struct {
	Name     string
	Backend  *proxy.Backend
	Database *proxy.Link

	listens bool // on a connection by LISTEN
	process *process
	client  *http.Client
}

const startPause = 200 * time.Millisecond

// Start runs it and returns when it serves. As a service manager does, it starts it again while the database takes
// nobody.
func (s *Server) Start(ctx context.Context) error {
	for {
		err := s.process.start()
		if err != nil {
			return err
		}
		addr, err := s.process.awaitLine(ctx, servingLine)
		switch {
		case err == nil:
			s.Backend.Moved(addr)
			return nil
		case ctx.Err() != nil:
			return err
		}
		s.process.forgive()
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
	_ = s.process.stop(syscall.SIGKILL) // no exit code is expected
}

// stopPatience is how long a process may take to end.
const stopPatience = 30 * time.Second

// Terminate ends it by SIGTERM and tells whether it ended in order. The balancer notices by itself.
func (s *Server) Terminate() error {
	defer s.Backend.Moved("")
	return s.process.stop(syscall.SIGTERM)
}

// Freeze stops it by SIGSTOP: its sockets are half-open.
func (s *Server) Freeze() { s.process.signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (s *Server) Thaw() { s.process.signal(syscall.SIGCONT) }

// Metric reads a series, or the sum of those that a metric has; a missing one is an error.
func (s *Server) Metric(ctx context.Context, name string) (float64, error) {
	body, err := s.get(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for line := range strings.Lines(body) {
		series, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if family, _, _ := strings.Cut(series, "{"); series != name && family != name {
			continue
		}
		v, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %s: %w", s.Name, series, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("%s has no metric %s", s.Name, name)
	}
	return sum, nil
}

// Ready tells what a server that works lacks; nil for nothing.
func (s *Server) Ready(ctx context.Context) error {
	if _, err := s.get(ctx, "/readyz"); err != nil {
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

func (s *Server) get(ctx context.Context, path string) (string, error) {
	addr := s.Backend.Addr()
	if addr == "" {
		return "", fmt.Errorf("%s does not run", s.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return "", err
	}
	res, err := s.client.Do(req)
	if err != nil {
		return "", fmt.Errorf("%s: %w", s.Name, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return "", fmt.Errorf("%s: %s: %w", s.Name, path, err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: %s: %s: %s", s.Name, path, res.Status, strings.TrimSpace(string(b)))
	}
	return string(b), nil
}

// A Worker is a `topostream mutator`.
type Worker struct {
	Name    string
	process *process
}

// Start runs it; a worker waits by itself for a database that is away. One that ends instead is an error of Close.
func (w *Worker) Start() error { return w.process.start() }

// Kill ends it by SIGKILL.
func (w *Worker) Kill() { _ = w.process.stop(syscall.SIGKILL) } // no exit code is expected

// Freeze stops it by SIGSTOP.
func (w *Worker) Freeze() { w.process.signal(syscall.SIGSTOP) }

// Thaw undoes Freeze.
func (w *Worker) Thaw() { w.process.signal(syscall.SIGCONT) }
