package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os/exec"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"topostream/pgbus"
	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"
	"topostream/stream"
	"topostream/stream/sse"
)

// FeedsConfig is what a process of feeds is told.
type FeedsConfig struct {
	DatabaseURL string
	Bus         string
	Topologies  int
	Logger      *slog.Logger
}

// FeedsDatabase is the environment variable that tells a process of feeds its database.
const FeedsDatabase = "TOPOBENCH_DATABASE_URL"

// feedsName is the application_name of its connections.
const feedsName = "topobench-feeds"

// usage is what a process of feeds has done since it began.
type usage struct {
	Events uint64        `json:"events"` // that reached a client
	CPU    time.Duration `json:"cpu"`
}

// Feeds is a server without sockets: a bus, a feed for each of the first topologies by name, and a client in each that
// takes the frames as an answer's writer does. It leaves out what the number of browsers costs, which is the same on
// every bus. It writes its usage once all are attached and events come by themselves, and again for each line that it
// reads; it ends at the end of in. A client that misses an event ends it with an error.
func Feeds(ctx context.Context, cfg FeedsConfig, in io.Reader, out io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	pool, err := postgres.NewPool(ctx, cfg.DatabaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	listen, err := postgres.Parse(cfg.DatabaseURL)
	if err != nil {
		return err
	}
	bus := pgbus.New(pgbus.Config{Pool: pool, Listen: listen, Encoder: sse.Encoder{}, Bus: cfg.Bus,
		Logger: cfg.Logger, AttachWait: time.Minute})
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bus.Run(ctx) })
	g.Go(func() error {
		defer cancel()
		rows, err := pool.Query(ctx, `SELECT id::text FROM topologies ORDER BY name LIMIT $1`, cfg.Topologies)
		if err != nil {
			return err
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[stream.TopologyID])
		if err != nil {
			return err
		}
		f := feeds{bus: bus}
		if err := f.attach(ctx, g, ids); err != nil {
			return err
		}
		if err := awaitEvents(ctx, cfg.Bus, bus); err != nil {
			return err
		}
		return f.answer(ctx, in, out)
	})
	if err := g.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

type feeds struct {
	bus    *pgbus.Bus
	events atomic.Uint64
}

// attach gives each topology a client, which runs in g.
func (f *feeds) attach(ctx context.Context, g *errgroup.Group, ids []stream.TopologyID) error {
	attaching, actx := errgroup.WithContext(ctx)
	attaching.SetLimit(1000)
	for _, id := range ids {
		attaching.Go(func() error {
			sub, err := f.bus.Attach(actx, stream.AttachRequest{Topology: id})
			if err != nil {
				return fmt.Errorf("attach %s: %w", id, err)
			}
			sub.Snapshot.Release() // nobody reads it
			g.Go(func() error {
				defer sub.Close()
				return f.follow(ctx, id, sub.Cursor)
			})
			return nil
		})
	}
	return attaching.Wait()
}

// follow takes frames until ctx ends.
func (f *feeds) follow(ctx context.Context, id stream.TopologyID, c *stream.Cursor) error {
	buf := make([]stream.Frame, 0, 8)
	for {
		last := c.Last()
		frames, changed, err := c.Next(ctx, buf)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			return fmt.Errorf("follow %s: %w", id, err)
		}
		for i, fr := range frames {
			if fr.Seq != last+1+stream.Seq(i) {
				return fmt.Errorf("%s: event %d came after %d", id, fr.Seq, last+stream.Seq(i))
			}
		}
		f.events.Add(uint64(len(frames)))
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// awaitEvents waits until events come by themselves.
func awaitEvents(ctx context.Context, name string, bus *pgbus.Bus) error {
	if name == setting.Poll {
		return nil
	}
	return eventually(ctx, "the bus "+name, func() (bool, error) { return bus.Mode() == name, nil })
}

func (f *feeds) answer(ctx context.Context, in io.Reader, out io.Writer) error {
	answers := json.NewEncoder(out)
	for lines := bufio.NewScanner(in); ; {
		cpu, err := ownCPU()
		if err != nil {
			return err
		}
		if err := answers.Encode(usage{f.events.Load(), cpu}); err != nil {
			return err
		}
		if !lines.Scan() {
			return lines.Err()
		}
		if ctx.Err() != nil { // a client missed an event
			return ctx.Err()
		}
	}
}

// A feedsProcess is a process of feeds that runs.
type feedsProcess struct {
	command *exec.Cmd
	in      io.WriteCloser
	out     *json.Decoder
	began   usage // when it was ready
}

// startFeeds returns when all of its topologies are attached and events come by themselves. The caller stops it.
func (c Config) startFeeds(ctx context.Context, p *place, bus string, topologies int) (_ *feedsProcess, err error) {
	u, err := url.Parse(p.url)
	if err != nil {
		return nil, err
	}
	query := u.Query()
	query.Set("application_name", feedsName)
	u.RawQuery = query.Encode()
	f := &feedsProcess{command: c.Feeds(ctx, bus, strconv.Itoa(topologies))}
	f.command.Env = append(f.command.Environ(), FeedsDatabase+"="+u.String())
	if f.in, err = f.command.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := f.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	f.out = json.NewDecoder(out)
	if err := f.command.Start(); err != nil {
		return nil, fmt.Errorf("start the feeds: %w", err)
	}
	if err := f.out.Decode(&f.began); err != nil {
		return nil, errors.Join(fmt.Errorf("the feeds ended: %w", err), f.stop())
	}
	return f, nil
}

func (f *feedsProcess) stop() error {
	_ = f.in.Close() // it may have ended
	if err := f.command.Wait(); err != nil {
		return fmt.Errorf("the feeds: %w", err)
	}
	return nil
}

func (f *feedsProcess) usage() (u usage, err error) {
	if _, err = io.WriteString(f.in, "\n"); err == nil {
		err = f.out.Decode(&u)
	}
	if err != nil {
		return u, fmt.Errorf("ask the feeds: %w", err)
	}
	return u, nil
}

// await waits until n events have reached their clients since it was ready, and tells what was used by then.
func (f *feedsProcess) await(ctx context.Context, n uint64) (u usage, err error) {
	err = eventually(ctx, fmt.Sprint(n, " events"), func() (bool, error) {
		u, err = f.usage()
		return u.Events-f.began.Events >= n, err
	})
	switch {
	case err != nil:
		return u, fmt.Errorf("%d events came: %w", u.Events-f.began.Events, err)
	case u.Events-f.began.Events > n:
		return u, fmt.Errorf("%d events were committed and %d came", n, u.Events-f.began.Events)
	}
	return u, nil
}
