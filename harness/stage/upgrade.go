package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"
)

// An Upgrade brings the stage from the version that it began with (Config.Before) to the next one while it is used. Its
// steps are called in the order in which they stand here.
type Upgrade struct {
	stage *Stage
	old   []*Server
}

// Upgrade begins one.
func (s *Stage) Upgrade() (*Upgrade, error) {
	if s.upgrade == "" {
		return nil, errors.New("the stage did not begin with a version before")
	}
	s.binary, s.upgrade = s.upgrade, ""
	return &Upgrade{s, slices.Clone(s.Servers)}, nil
}

// Refuse has a server and a worker of the new version start on the schema of the one before: they must end at once, and
// say what it needs. Where both versions have one schema, there is nothing to refuse.
func (u *Upgrade) Refuse(ctx context.Context) error {
	status, err := u.stage.program(ctx, "migrate", "status").CombinedOutput()
	if err != nil {
		return fmt.Errorf("topostream migrate status: %w: %s", err, status)
	}
	var found, known int
	if _, err := fmt.Sscanf(string(status), "schema at version %d; this program knows %d", &found, &known); err != nil {
		return fmt.Errorf("topostream migrate status says %q: %w", status, err)
	}
	if found == known {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, refusal)
	defer cancel()
	for _, args := range [][]string{
		{"serve", "--addr=127.0.0.1:0", "--jwt-secret-file=" + u.stage.secretFile()}, {"mutator"},
	} {
		out, err := u.stage.program(ctx, args...).CombinedOutput()
		if err == nil || ctx.Err() != nil || !strings.Contains(string(out), "run `topostream migrate up`") {
			how := fmt.Sprint(err, ctx.Err()) // no error of ours: the end of this time is not the end of the campaign
			return fmt.Errorf("topostream %s on the schema of the version before: %s, and it says %s", args[0], how, out)
		}
	}
	return nil
}

// refusal is how long two programs may take to end by themselves.
const refusal = 20 * time.Second

// Migrate has the new version migrate the schema. Servers and workers of the one before go on.
func (u *Upgrade) Migrate(ctx context.Context) error { return u.stage.command(ctx, "migrate", "up") }

// AddServers starts as many servers of the new version beside those of the one before.
func (u *Upgrade) AddServers(ctx context.Context) error {
	for i := range u.old {
		if err := u.stage.startServer(ctx, i); err != nil {
			return err
		}
	}
	return u.stage.AwaitReady(ctx)
}

// ReplaceWorker ends the worker and starts one of the new version.
func (u *Upgrade) ReplaceWorker(ctx context.Context) error {
	return errors.Join(u.stage.Worker.process.Stop(syscall.SIGTERM), u.stage.startWorker(ctx))
}

// EndOldServers ends the servers of the version before, in order.
func (u *Upgrade) EndOldServers(ctx context.Context) error {
	var errs []error
	for _, server := range u.old {
		errs = append(errs, server.Terminate())
		u.stage.Balancer.Remove(server.Backend)
		u.stage.Servers = slices.DeleteFunc(u.stage.Servers, func(s *Server) bool { return s == server })
	}
	return errors.Join(append(errs, u.stage.AwaitReady(ctx))...)
}
