package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"topostream/pgbus"
	"topostream/pgbus/mutator"
	"topostream/sql"
	"topostream/stream"
	"topostream/stream/api"
	"topostream/stream/auth"
	"topostream/stream/console"
	"topostream/stream/metrics"
)

type serveCmd struct {
	database

	Addr               string        `default:"127.0.0.1:8080" help:"Address to serve on."`
	ListenDatabaseURL  string        `help:"Direct connection string for LISTEN, where --database-url goes through a transaction pooler." placeholder:"URL"`
	ReplicaDatabaseURL string        `help:"Direct connection string of a standby (PostgreSQL 16 or newer) that streams are read from, by its WAL: the primary then carries writers alone." placeholder:"URL"`
	Bus                string        `help:"notify, wal or poll. Default: what the database says (topostream bus), also when that changes." placeholder:"BUS"`
	Mutator            bool          `help:"Work on mutations, too, as topostream mutator does."`
	Migrate            bool          `help:"Bring the schema to the newest version first."`
	JWTSecret          string        `name:"jwt-secret" help:"Secret of HS256, HS384 and HS512 tokens, 32 bytes or more. It shows in the process list: prefer the environment or --jwt-secret-file." placeholder:"SECRET"`
	JWTSecretFile      string        `name:"jwt-secret-file" type:"path" help:"File that holds the secret." placeholder:"FILE"`
	JWTPublicKey       string        `name:"jwt-public-key" help:"Not built yet." placeholder:"FILE"`
	JWKSURL            string        `name:"jwks-url" help:"Not built yet." placeholder:"URL"`
	JWTIssuer          string        `name:"jwt-issuer" help:"Required iss of tokens." placeholder:"ISSUER"`
	JWTAudience        string        `name:"jwt-audience" help:"Required aud of tokens." placeholder:"AUDIENCE"`
	AuthCookie         string        `help:"Not built yet." placeholder:"NAME"`
	AllowOrigin        []string      `help:"Not built yet." placeholder:"ORIGIN"`
	Keepalive          time.Duration `default:"15s" help:"Silence after which a stream gets a comment."`
	WriteTimeout       time.Duration `default:"30s" help:"How long a write to a client may be blocked before its stream is ended."`
	Drain              time.Duration `default:"10s" help:"Time over which streams are sent away at shutdown."`
	MaxStreams         int           `default:"0" help:"Open streams on this server; 0 is no limit."`
	MaxStreamsPerUser  int           `default:"16" help:"Open streams of one user on this server; 0 is no limit."`
	FeedMemory         int64         `default:"268435456" help:"Bytes that the rings of all feeds may hold."`
	Retention          time.Duration `default:"24h" help:"Age at which journal rows go; 0 keeps them."`
	RetentionCount     int64         `default:"0" help:"Newest journal rows kept of each topology; 0 is no limit."`
	MutationRetention  time.Duration `default:"720h" help:"Age at which finished mutations go; 0 keeps them."`
	MetricsAddr        string        `help:"Serve /metrics here instead." placeholder:"ADDR"`
	TLSCert            string        `name:"tls-cert" help:"Certificate file, PEM." placeholder:"FILE"`
	TLSKey             string        `name:"tls-key" help:"Key file, PEM." placeholder:"FILE"`
	LogFormat          string        `default:"text" enum:"text,json" help:"text or json."`

	ready      func(addr string) // called once the address answers
	pruneEvery time.Duration     // 0: the bus's own
}

const defaultMutationRetention = 720 * time.Hour

func (c *serveCmd) check() error {
	for what, given := range map[string]bool{
		"--jwt-public-key": c.JWTPublicKey != "",
		"--jwks-url":       c.JWKSURL != "",
		"--auth-cookie":    c.AuthCookie != "",
		"--allow-origin":   len(c.AllowOrigin) > 0,
	} {
		if given {
			return errNotBuilt(what)
		}
	}
	for what, negative := range map[string]bool{
		"--keepalive": c.Keepalive < 0, "--write-timeout": c.WriteTimeout < 0, "--drain": c.Drain < 0, "--retention": c.Retention < 0, "--mutation-retention": c.MutationRetention < 0,
		"--retention-count": c.RetentionCount < 0, "--max-streams": c.MaxStreams < 0, "--max-streams-per-user": c.MaxStreamsPerUser < 0, "--feed-memory": c.FeedMemory < 0,
	} {
		if negative {
			return fmt.Errorf("%s is negative: give 0 or more", what)
		}
	}
	switch {
	case c.Bus != "" && c.Bus != pgbus.BusNotify && c.Bus != pgbus.BusWAL && c.Bus != pgbus.BusPoll:
		return fmt.Errorf("--bus: %q is no bus: use notify, wal or poll", c.Bus)
	case c.ReplicaDatabaseURL != "" && c.Bus == pgbus.BusNotify:
		return errors.New("--bus notify and --replica-database-url do not go together, because a standby cannot LISTEN: use --bus wal, or leave --bus out")
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key go together: give both or neither")
	}
	return nil
}

func (c *serveCmd) secret() ([]byte, error) {
	switch {
	case c.JWTSecret != "" && c.JWTSecretFile != "":
		return nil, errors.New("--jwt-secret and --jwt-secret-file are both given: give one")
	case c.JWTSecretFile != "":
		b, err := os.ReadFile(c.JWTSecretFile)
		if err != nil {
			return nil, fmt.Errorf("--jwt-secret-file: %w", err)
		}
		return []byte(strings.TrimRight(string(b), "\r\n")), nil
	}
	return []byte(c.JWTSecret), nil
}

// Run serves until ctx ends, then drains.
func (c *serveCmd) Run(ctx context.Context, o output) error {
	if err := c.check(); err != nil {
		return err
	}
	secret, err := c.secret()
	if err != nil {
		return err
	}
	verifier, err := auth.New(auth.Config{Secret: secret, Issuer: c.JWTIssuer, Audience: c.JWTAudience})
	if err != nil {
		return err
	}
	log := newLogger(o.err, c.LogFormat)
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.Addr)
	if err != nil {
		return err
	}
	defer listener.Close()
	err = c.with(ctx, func(conn *pgx.Conn) error {
		if c.Migrate {
			if err := sql.Up(ctx, conn); err != nil {
				return err
			}
		}
		warn, err := sql.Check(ctx, conn)
		if warn != "" {
			log.Warn(warn)
		}
		return err
	})
	if err != nil {
		return err
	}

	pool, err := pgbus.NewPool(ctx, c.DatabaseURL)
	if err != nil {
		return err
	}
	defer pool.Close()
	replica, err := c.replica(ctx)
	if err != nil {
		return err
	}
	if replica != nil {
		defer replica.Close()
	}
	listenURL := c.ListenDatabaseURL
	if listenURL == "" {
		listenURL = c.DatabaseURL
	}
	listenConfig, err := pgx.ParseConfig(listenURL)
	if err != nil {
		return fmt.Errorf("--listen-database-url: %w", err)
	}
	stats := &stream.Stats{}
	bus := pgbus.New(pgbus.Config{
		Pool: pool, Replica: replica, Listen: listenConfig, Memory: stream.NewMemory(c.FeedMemory, stats), Stats: stats, Logger: log,
		Bus: c.Bus, Retention: c.Retention, RetentionCount: c.RetentionCount, MutationRetention: c.MutationRetention, PruneEvery: c.pruneEvery,
	})
	cfg := api.Config{
		Bus: bus, Store: pgbus.NewStore(pool, log), Auth: verifier.Authenticate, Stats: stats, Logger: log,
		Keepalive: c.Keepalive, WriteTimeout: c.WriteTimeout, MaxStreams: c.MaxStreams, MaxStreamsPerUser: c.MaxStreamsPerUser,
		ConsoleHandler: console.Handler(), Ready: bus.Ready, Notice: bus.Notice,
	}
	if c.MetricsAddr == "" {
		cfg.MetricsHandler = metrics.Handler(stats)
	}
	worker := func(context.Context) error { return nil }
	if c.Mutator {
		worker = func(ctx context.Context) error {
			return runMutator(ctx, c.DatabaseURL, listenConfig, mutator.Config{Logger: log})
		}
	}
	return c.serve(ctx, listener, api.New(cfg), bus, worker, stats, log)
}

// serve runs the bus, the worker and the HTTP servers, drains when ctx ends, and returns when all goroutines are gone.
func (c *serveCmd) serve(ctx context.Context, listener net.Listener, server *api.Server, bus *pgbus.Bus, worker func(context.Context) error, stats *stream.Stats, log logger) error {
	// The bus outlives ctx: while streams are drained they still get their events.
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bus.Run(busCtx) })
	g.Go(func() error { return worker(gctx) })
	servers := []*http.Server{c.httpServer(server.Handler())}
	g.Go(func() error {
		if c.TLSCert != "" {
			return servers[0].ServeTLS(listener, c.TLSCert, c.TLSKey)
		}
		return servers[0].Serve(listener)
	})
	if c.MetricsAddr != "" {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", c.MetricsAddr)
		if err != nil {
			stopBus()
			_ = servers[0].Close()
			_ = g.Wait()
			return err
		}
		mux := http.NewServeMux()
		mux.Handle("/metrics", metrics.Handler(stats))
		servers = append(servers, c.httpServer(mux))
		g.Go(func() error { return servers[1].Serve(l) })
	}
	log.Info("serving", "addr", listener.Addr().String())
	if c.ready != nil {
		c.ready(listener.Addr().String())
	}
	g.Go(func() error {
		<-gctx.Done()
		dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Drain+time.Second)
		defer cancel()
		if err := server.Drain(dctx); err != nil {
			log.Warn("drain cut some streams", "error", err)
		}
		for _, s := range servers {
			if err := s.Shutdown(dctx); err != nil {
				_ = s.Close()
			}
		}
		stopBus()
		return nil
	})
	err := g.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

func (c *serveCmd) httpServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 32 << 10}
}

type logger interface {
	Info(msg string, args ...any)
	Warn(msg string, args ...any)
}
