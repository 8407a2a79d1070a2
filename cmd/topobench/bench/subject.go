package bench

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"topostream/cmd/topobench/baseline"
	"topostream/pgbus/pgcluster"
)

// A subject is a server that is measured, each round anew.
type subject struct {
	name  string
	start func(ctx context.Context, as shape) (*running, error)

	failed func(err error) // nil: its failure is the run's
}

// A shape is what a bare server imitates: the sizes of another one's document and event.
type shape struct{ document, event int }

// running is a subject while it runs. The caller stops it.
type running struct {
	target     Target
	topologies []string
	publish    func(ctx context.Context) (publisher, error)
	stop       func() error
	bare       bool // one of package baseline
}

// runsOn is the stop of a server that the run has not started.
func runsOn() error { return nil }

// hasProcess tells whether the server's process is known, so that its CPU time and memory can be read.
func (r *running) hasProcess() bool { return r.target.PID != 0 }

// subjects are the server that was asked for, and those that the run adds.
func (plan *Plan) subjects(p *place, others ...subject) []subject {
	first := plan.ours("topostream", p, plan.ServeFlags)
	if plan.Target.URL != "" {
		first = plan.given(p)
	}
	return append([]subject{first}, others...)
}

// given is the server at --url.
func (plan *Plan) given(p *place) subject {
	return subject{name: "the server", start: func(context.Context, shape) (*running, error) {
		return &running{
			target: plan.Target, topologies: p.topologies, publish: plan.Target.publishIn(p), stop: runsOn,
		}, nil
	}}
}

func (t Target) publishIn(p *place) func(ctx context.Context) (publisher, error) {
	return func(ctx context.Context) (publisher, error) { return t.Publish.connect(ctx, p.url) }
}

// ours is a server of this module, which is started.
func (plan *Plan) ours(name string, p *place, flags []string) subject {
	return subject{name: name, start: func(ctx context.Context, _ shape) (*running, error) {
		args := append([]string{"--rate-limit", "0"}, flags...)
		if plan.Target.GC == "" {
			args = append(args, "--metrics-addr", "127.0.0.1:0", "--pprof")
		}
		s, err := startServer(ctx, plan.Topostream, p, plan.Bus, args...)
		if err != nil {
			return nil, err
		}
		t := topostreamTarget(s.url, s.token)
		t.PID, t.GC = s.PID(), plan.Target.GC
		if t.GC == "" {
			t.GC = s.metrics + "/debug/free"
		}
		return &running{target: t, topologies: p.topologies, publish: t.publishIn(p), stop: s.stop}, nil
	}}
}

// bare is one of the least servers, in a process of its own.
func (plan *Plan) bare(kind, name string, p *place) subject {
	return subject{name: name, start: func(ctx context.Context, as shape) (*running, error) {
		cmd := plan.Bare(ctx, kind, strconv.Itoa(as.document))
		in, err := cmd.StdinPipe()
		if err != nil {
			return nil, err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("start a bare server: %w", err)
		}
		stop := func() error {
			_ = in.Close() // it may have ended
			return cmd.Wait()
		}
		addr, err := bufio.NewReader(out).ReadString('\n')
		if err != nil {
			return nil, errors.Join(fmt.Errorf("a bare server: %w", err), stop())
		}
		t := Target{URL: "http://" + strings.TrimSpace(addr) + "/{topology}", Snapshot: "snapshot", Numbered: true,
			PID: cmd.Process.Pid}
		publish := func(context.Context) (publisher, error) { return linePublisher{in}, nil }
		// One topology: all clients get all events.
		return &running{target: t, topologies: p.topologies[:1], publish: publish, stop: stop, bare: true}, nil
	}}
}

const (
	bareWrite  = "bare write(2)"
	bareHTTP   = "bare net/http"
	bareHijack = "bare hijack"
)

func (plan *Plan) bareWrite(p *place) subject  { return plan.bare(baseline.Write, bareWrite, p) }
func (plan *Plan) bareHTTP(p *place) subject   { return plan.bare(baseline.HTTP, bareHTTP, p) }
func (plan *Plan) bareHijack(p *place) subject { return plan.bare(baseline.Hijack, bareHijack, p) }

// peer is another server's program, or ours with other flags.
func (plan *Plan) peer(peer Peer, p *place) subject {
	if len(peer.Serve) > 0 {
		return plan.ours(peer.Name, p, peer.Serve)
	}
	return subject{name: peer.Name, start: func(ctx context.Context, _ shape) (*running, error) {
		port, err := pgcluster.FreePort(ctx)
		if err != nil {
			return nil, err
		}
		values := map[string]string{"port": strconv.Itoa(port), "database": p.url}
		placeholders := strings.NewReplacer("{port}", values["port"], "{database}", values["database"])
		args := make([]string, len(peer.Command))
		for i, a := range peer.Command {
			args[i] = placeholders.Replace(a)
		}
		cmd := exec.CommandContext(ctx, args[0], args[1:]...)
		cmd.Env = os.Environ()
		for name, value := range peer.Env {
			cmd.Env = append(cmd.Env, name+"="+placeholders.Replace(value))
		}
		cmd.Stderr = os.Stderr
		if err := cmd.Start(); err != nil {
			return nil, fmt.Errorf("start %s: %w", peer.Name, err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		stop := func() error { return stopPeer(cmd, ended) }
		t := peer.expand(values)
		t.PID = cmd.Process.Pid
		if err := awaitUp(ctx, placeholders.Replace(peer.Up), port, ended); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: %w", peer.Name, err), stop())
		}
		return &running{target: t, topologies: p.topologies, publish: t.publishIn(p), stop: stop}, nil
	}}
}

// stopPeer ends a program whose exit code after a signal says nothing.
func stopPeer(cmd *exec.Cmd, ended chan error) error {
	_ = cmd.Process.Signal(os.Interrupt) // it may have ended
	patience := time.NewTimer(10 * time.Second)
	defer patience.Stop()
	select {
	case <-ended: //nolint:errcheck // see above
	case <-patience.C:
		_ = cmd.Process.Kill() // it may have ended
		<-ended                //nolint:errcheck // as above
	}
	return nil
}

// awaitUp waits until a program serves: until its URL answers, or without one until its port is open.
func awaitUp(ctx context.Context, url string, port int, ended chan error) error {
	return eventually(ctx, "it to serve", func() (bool, error) {
		select {
		case err := <-ended:
			ended <- err
			return false, fmt.Errorf("it ended: %w", errors.Join(err, io.ErrUnexpectedEOF))
		default:
		}
		if url != "" {
			return ask(ctx, url) == nil, nil
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
		if err == nil {
			_ = conn.Close() // nothing was sent
		}
		return err == nil, nil
	})
}
