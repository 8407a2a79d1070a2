package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"topostream/harness/metric"
	"topostream/harness/token"
	"topostream/pgbus/setting"
)

// A server is a process of `topostream serve`.
type server struct {
	url     string
	metrics string // where its metrics are
	token   string
	command *exec.Cmd
	logged  chan struct{} // closed when its log has ended
}

// buildTopostream makes the program from this module's source, in dir.
func buildTopostream(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "topostream")
	out, err := exec.CommandContext(ctx, "go", "build", "-o", path, "topostream/cmd/topostream").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("build topostream (name a built one with --topostream): %w: %s", err, out)
	}
	return path, nil
}

// startServer returns when the server's bus is up. The caller stops it.
func startServer(ctx context.Context, program string, p *place, bus string, args ...string) (_ *server, err error) {
	const secret = "of a server that lives for one round"
	env := append(os.Environ(), "TOPOSTREAM_JWT_SECRET="+secret, "TOPOSTREAM_DATABASE_URL="+p.url)
	signed, err := token.Issuer(secret).Token("topobench")
	if err != nil {
		return nil, fmt.Errorf("sign a token: %w", err)
	}
	s := &server{
		token: signed, logged: make(chan struct{}),
		command: exec.CommandContext(ctx, program, "serve", "--addr", "127.0.0.1:0", "--log-format", "json",
			"--max-streams-per-user", "0", "--drain", "0s"),
	}
	s.command.Args = append(s.command.Args, args...)
	if bus == setting.Poll { // the others follow the database
		s.command.Args = append(s.command.Args, "--bus", bus)
	}
	s.command.Env = env
	s.command.Cancel = func() error { return s.command.Process.Signal(syscall.SIGTERM) }
	log, err := s.command.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.command.Start(); err != nil {
		return nil, fmt.Errorf("start the server: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	address := make(chan addresses, 1)
	go s.readLog(log, address)
	select {
	case a, ok := <-address:
		if !ok {
			return nil, errors.New("the server ended before it served")
		}
		s.url, s.metrics = "http://"+a.Addr, "http://"+a.Metrics
		if a.Metrics == "" {
			s.metrics = s.url
		}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s, s.awaitBus(ctx, p, bus)
}

// addresses are what a server's log says that it serves on; Metrics is empty where it has none of its own.
type addresses struct{ Addr, Metrics string }

// readLog gives the addresses, and hands warnings on: they may explain a figure.
func (s *server) readLog(log io.Reader, address chan<- addresses) {
	defer close(s.logged)
	defer close(address)
	found := false
	for lines := bufio.NewScanner(log); lines.Scan(); {
		var line struct {
			addresses

			Level, Msg string
		}
		if err := json.Unmarshal(lines.Bytes(), &line); err != nil || line.Level != "INFO" {
			fmt.Fprintln(os.Stderr, lines.Text())
		}
		if line.Msg == "serving" && !found {
			address <- line.addresses
			found = true
		}
	}
}

// awaitBus waits until events come by themselves.
func (s *server) awaitBus(ctx context.Context, p *place, bus string) error {
	const streaming = `SELECT EXISTS (SELECT FROM pg_replication_slots WHERE database = current_database() AND active)`
	switch bus {
	case setting.Notify:
		return eventually(ctx, "the server to LISTEN", func() (bool, error) {
			listening, err := metric.Read(ctx, s.metrics, "topostream_listening")
			return listening == 1, err
		})
	case setting.WAL:
		return eventually(ctx, "the server's replication slot", func() (up bool, err error) {
			err = p.conn.QueryRow(ctx, streaming).Scan(&up)
			return up, err
		})
	}
	return nil
}

func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

func (s *server) stop() error {
	_ = s.command.Process.Signal(syscall.SIGTERM) // it may have ended
	<-s.logged
	kill := time.AfterFunc(10*time.Second, func() { _ = s.command.Process.Kill() })
	defer kill.Stop()
	if err := s.command.Wait(); err != nil {
		return fmt.Errorf("the server: %w", err)
	}
	return nil
}
