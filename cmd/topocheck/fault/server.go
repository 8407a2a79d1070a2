package fault

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/harness/stage"
)

func serverKinds() []Kind {
	return []Kind{
		{Name: "server.kill", Doc: "SIGKILL of one of the servers, started again a moment later.", part: ofServers,
			inject: killServer},
		{Name: "server.terminate",
			Doc:  "SIGTERM of one of the servers: it drains, ends with exit code 0 and is started again.",
			part: ofServers, inject: terminateServer},
		{Name: "server.rolling-restart", Doc: "SIGTERM and start of all servers, one after the other.",
			part: ofServers, inject: rollingRestart},
		{Name: "server.freeze", Doc: "SIGSTOP of one of the servers for 1 to 5 s: its sockets are half-open.",
			part: ofServers, inject: freezeServer},
		{Name: "server.freeze-dropped",
			Doc:  "SIGSTOP of one of the servers until PostgreSQL has dropped its LISTEN backend, by tcp_user_timeout.",
			part: ofServers, impossible: noListen, inject: freezeUntilDropped},
	}
}

func noListen(e *Env) string {
	if e.Stage.Polls() {
		return "on the bus poll nobody LISTENs"
	}
	return ""
}

func workerKinds() []Kind {
	return []Kind{
		{Name: "worker.kill", Doc: "SIGKILL of the worker, started again a moment later.", part: ofWorker,
			inject: killWorker},
		{Name: "worker.freeze", Doc: "SIGSTOP of the worker for longer than its lease (5 s).", part: ofWorker,
			beside: true, inject: freezeWorker},
	}
}

func (e *Env) oneOf(r *rand.Rand) *stage.Server { return e.Stage.Servers[r.IntN(len(e.Stage.Servers))] }

func startAgain(ctx context.Context, s *stage.Server) error {
	mend, cancel := mending(ctx)
	defer cancel()
	return s.Start(mend)
}

func killServer(ctx context.Context, e *Env, r *rand.Rand) error {
	s := e.oneOf(r)
	s.Kill()
	hold(ctx, between(r, 0, 2*time.Second))
	return startAgain(ctx, s)
}

func terminateServer(ctx context.Context, e *Env, r *rand.Rand) error {
	s := e.oneOf(r)
	ended := s.Terminate()
	hold(ctx, between(r, 0, time.Second))
	return errors.Join(ended, startAgain(ctx, s))
}

func rollingRestart(ctx context.Context, e *Env, _ *rand.Rand) error {
	for _, s := range e.Stage.Servers {
		ended := s.Terminate()
		if err := errors.Join(ended, startAgain(ctx, s)); err != nil {
			return err
		}
		// Whoever rolls a restart waits until the balancer takes the new one.
		wait, cancel := context.WithTimeout(ctx, 10*time.Second)
		_ = e.Stage.AwaitReady(wait) // another fault may keep it, or the end has come; the run waits for it in the end
		cancel()
	}
	return nil
}

func freezeServer(ctx context.Context, e *Env, r *rand.Rand) error {
	s := e.oneOf(r)
	s.Freeze()
	defer s.Thaw()
	hold(ctx, between(r, time.Second, 5*time.Second))
	return nil
}

const (
	dropTimeout = 40 * time.Second // tcp_user_timeout is 10 s; it begins when the buffers on the way are full
	dropUsage   = 0.3              // of the NOTIFY queue: from 0.5 on triggers do not NOTIFY
)

// freezeUntilDropped fills the buffers between PostgreSQL and a frozen server by raw notifications to a topology that
// nobody but the fault itself follows.
func freezeUntilDropped(ctx context.Context, e *Env, r *rand.Rand) error {
	const (
		topology = `INSERT INTO topologies (name) VALUES ('topocheck fault ' || gen_random_uuid()) RETURNING id::text`
		listens  = `SELECT array_agg(pid) FROM pg_stat_activity WHERE application_name = 'topostream listen'`
		noise    = `SELECT count(pg_notify($1, repeat('x', 7000) || i)) FROM generate_series(1, 50) i`
	)
	s := e.oneOf(r)
	return e.with(ctx, func(conn *pgx.Conn) error {
		var id string
		if err := conn.QueryRow(ctx, topology).Scan(&id); err != nil {
			return err
		}
		defer e.forget(ctx, id)
		stop, err := e.follow(ctx, s, id)
		if err != nil {
			return err
		}
		defer stop()
		// A server whose LISTEN connection was just ended, and that has not noticed yet, has nothing to be dropped.
		var before []int32
		for until := time.Now().Add(dropTimeout); len(before) < len(e.Stage.Servers); hold(ctx, 50*time.Millisecond) {
			if err := conn.QueryRow(ctx, listens).Scan(&before); err != nil {
				return err
			}
			if time.Now().After(until) {
				return finding(fmt.Sprintf("%d of %d servers LISTEN after %s", len(before), len(e.Stage.Servers),
					dropTimeout))
			}
		}
		s.Freeze()
		defer s.Thaw()
		for until := time.Now().Add(dropTimeout); ctx.Err() == nil; {
			var used float64
			if err := conn.QueryRow(ctx, queueUsage).Scan(&used); err != nil {
				return err
			}
			if used < dropUsage {
				if _, err := conn.Exec(ctx, noise, "topology."+id); err != nil {
					return err
				}
			}
			var now []int32
			if err := conn.QueryRow(ctx, listens).Scan(&now); err != nil {
				return err
			}
			if slices.ContainsFunc(before, func(pid int32) bool { return !slices.Contains(now, pid) }) {
				return nil
			}
			if time.Now().After(until) {
				return finding(fmt.Sprintf("PostgreSQL has not dropped the backend of %s, frozen for %s: it pins the NOTIFY queue",
					s.Name, dropTimeout))
			}
			hold(ctx, 50*time.Millisecond)
		}
		return nil
	})
}

// forget removes a fault's topology, so that its feeds do not linger.
func (e *Env) forget(ctx context.Context, id string) {
	mend, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	err := e.with(mend, func(conn *pgx.Conn) error {
		_, err := conn.Exec(mend, `DELETE FROM topologies WHERE id = $1::text::uuid`, id)
		return err
	})
	if err != nil {
		e.Logger.Info("a fault's topology stays", "id", id, "error", err) // it is in nobody's way
	}
}

// follow opens a stream straight on a server and returns when the server LISTENs to the topology's channel. The stream
// ends by stop.
func (e *Env) follow(ctx context.Context, s *stage.Server, id string) (stop func(), err error) {
	token, err := e.Stage.Issuer().Token(applicationName)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet,
		"http://"+s.Backend.Addr()+"/api/v1/topologies/"+id+"/events", nil)
	if err != nil {
		cancel()
		return nil, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req) //nolint:bodyclose // stop closes it
	if err == nil && res.StatusCode != http.StatusOK {
		_ = res.Body.Close() // its status is the error
		err = fmt.Errorf("stream: %s", res.Status)
	}
	if err != nil {
		cancel()
		return nil, err
	}
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if lines.Text() == "event: snapshot" {
			return func() { cancel(); _ = res.Body.Close() }, nil // of no more interest
		}
	}
	cancel()
	_ = res.Body.Close() // it has ended
	return nil, fmt.Errorf("%s gave no snapshot", s.Name)
}

func killWorker(ctx context.Context, e *Env, r *rand.Rand) error {
	e.Stage.Worker.Kill()
	hold(ctx, between(r, 0, 2*time.Second))
	return e.Stage.Worker.Start()
}

func freezeWorker(ctx context.Context, e *Env, r *rand.Rand) error {
	e.Stage.Worker.Freeze()
	defer e.Stage.Worker.Thaw()
	hold(ctx, between(r, 6*time.Second, 10*time.Second))
	return nil
}
