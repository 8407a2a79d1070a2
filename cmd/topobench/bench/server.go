package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"

	"topostream/harness/metric"
	"topostream/harness/process"
	"topostream/harness/token"
	"topostream/pgbus/setting"
)

// A server is a `topostream serve` for one round.
type server struct {
	*process.Process

	url     string
	metrics string // where its metrics are
	token   string
}

// buildTopostream makes the program from this module's source, in dir.
func buildTopostream(ctx context.Context, dir string) (string, error) {
	path, err := process.Build(ctx, "", dir, "topostream")
	if err != nil {
		return "", fmt.Errorf("name a built topostream with --topostream: %w", err)
	}
	return path, nil
}

// startServer returns when the server's bus is up. The caller stops it.
func startServer(ctx context.Context, program string, p *place, bus string, args ...string) (_ *server, err error) {
	const secret = "of a server that lives for one round"
	log, err := os.CreateTemp(p.dir, "server-*.log")
	if err != nil {
		return nil, err
	}
	_ = log.Close() // nothing is in it yet
	s := &server{Process: &process.Process{
		Name: "the server", Binary: program, LogPath: log.Name(),
		Args: append([]string{"serve", "--addr", "127.0.0.1:0", "--max-streams-per-user", "0", "--drain", "0s"}, args...),
		Env:  []string{"TOPOSTREAM_JWT_SECRET=" + secret, "TOPOSTREAM_DATABASE_URL=" + p.url},
	}}
	if bus == setting.Poll { // the others follow the database
		s.Args = append(s.Args, "--bus", bus)
	}
	if s.token, err = token.Issuer(secret).Token("topobench"); err != nil {
		return nil, err
	}
	if err := s.Start(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.stop())
		}
	}()
	addr, err := s.Serving(ctx)
	if err != nil {
		return nil, err
	}
	s.url, s.metrics = "http://"+addr, "http://"+addr
	text, err := s.Log()
	if err != nil {
		return nil, err
	}
	if m := metricsAddr.FindSubmatch(text); m != nil {
		s.metrics = "http://" + string(m[1])
	}
	return s, s.awaitBus(ctx, p, bus)
}

var metricsAddr = regexp.MustCompile(`msg=serving .*\bmetrics=(\S+)`)

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

// stop ends it, and hands warnings of its log on: they may explain a figure.
func (s *server) stop() error {
	err := s.Stop(syscall.SIGTERM)
	log, logErr := s.Log()
	for line := range strings.Lines(string(log)) {
		if !strings.Contains(line, " level=INFO ") {
			fmt.Fprint(os.Stderr, line)
		}
	}
	return errors.Join(err, logErr)
}

// startOwn starts our server without a limit of requests, with an address of its own for /metrics and for /debug/free,
// which collects its garbage when it is asked to.
func (plan *Plan) startOwn(ctx context.Context, p *place) (*server, error) {
	args := append([]string{"--rate-limit", "0", "--metrics-addr", "127.0.0.1:0", "--pprof"}, plan.ServeFlags...)
	return startServer(ctx, plan.Topostream, p, plan.Bus, args...)
}
