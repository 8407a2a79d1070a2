package stage

import (
	"context"
	"errors"
	"slices"
	"syscall"
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
