package main

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/singleflight"

	"topostream/pgbus"
	"topostream/pgbus/mutator"
	"topostream/pgbus/postgres"
	"topostream/pgbus/retention"
	"topostream/pgbus/setting"
	"topostream/pgbus/store"
	"topostream/sql"
	"topostream/stream"
	"topostream/stream/api"
	"topostream/stream/client/js"
	"topostream/stream/console"
	"topostream/stream/metrics"
	"topostream/stream/sse"
	"topostream/stream/tracing"
)

type serveCmd struct {
	database
	logging

	Addr               string        `default:"127.0.0.1:8080" help:"Address to serve on."`
	ListenDatabaseURL  string        `help:"Direct connection string for LISTEN, where --database-url goes through a transaction pooler." placeholder:"URL"`
	ReplicaDatabaseURL string        `help:"Direct connection string of a standby (PostgreSQL 16 or newer) that streams are read from, by its WAL: the primary then carries writers alone." placeholder:"URL"`
	Bus                string        `help:"notify, wal or poll. Default: what the database says (topostream bus), also when that changes." placeholder:"BUS"`
	Mutator            bool          `help:"Work on mutations, too, as topostream mutator does."`
	Migrate            bool          `help:"Bring the schema to the newest version first."`
	JWTSecret          string        `name:"jwt-secret" help:"Secret of HS256, HS384 and HS512 tokens, 32 bytes or more. It shows in the process list: prefer --jwt-secret-file." placeholder:"SECRET"`
	JWTSecretFile      string        `name:"jwt-secret-file" type:"path" help:"File that holds the secret: recommended. Several, each on a line, are all taken: so a new one comes into use." placeholder:"FILE"`
	JWTPublicKey       string        `name:"jwt-public-key" type:"path" help:"File with the public keys of RS, PS, ES and EdDSA tokens: PEM, PUBLIC KEY or CERTIFICATE, one or more." placeholder:"FILE"`
	JWKSURL            string        `name:"jwks-url" help:"Where the public keys of RS, PS, ES and EdDSA tokens are published as a JWK set; it is read every 5 minutes." placeholder:"URL"`
	JWTIssuer          string        `name:"jwt-issuer" help:"Required iss of tokens." placeholder:"ISSUER"`
	JWTAudience        string        `name:"jwt-audience" help:"Required aud of tokens." placeholder:"AUDIENCE"`
	JWTSubjectClaim    string        `name:"jwt-subject-claim" help:"Claim that says whom a token speaks for. Default: sub." placeholder:"CLAIM"`
	JWTRoleClaim       string        `name:"jwt-role-claim" help:"Claim that holds the role, viewer or admin, or an array of roles. Default: role." placeholder:"CLAIM"`
	JWTDefaultRole     string        `name:"jwt-default-role" help:"Role of tokens that name neither viewer nor admin. Default: they are refused." placeholder:"ROLE"`
	AuthCookie         string        `help:"Cookie that may hold the token, too. Browsers send it by themselves: set it HttpOnly, Secure and SameSite." placeholder:"NAME"`
	AllowOrigin        []string      `help:"Origin whose pages may use the API with credentials, for example https://console.example.org (repeatable)." placeholder:"ORIGIN"`
	Keepalive          time.Duration `default:"15s" help:"Silence after which a stream gets a comment."`
	WriteTimeout       time.Duration `default:"30s" help:"How long a write to a client may be blocked before its stream is ended."`
	Drain              time.Duration `default:"10s" help:"Time over which streams are sent away at shutdown."`
	MaxStreams         int           `default:"0" help:"Open streams on this server; 0 is no limit."`
	MaxStreamsPerUser  int           `default:"16" help:"Open streams of one user on this server; 0 is no limit."`
	RateLimit          int           `default:"60000" help:"Requests of one subject in a minute, and requests of one address without a valid token; 0 is no limit."`
	FeedMemory         int64         `default:"268435456" help:"Bytes for the rings of all feeds, documents, answers and large bodies."`
	Retention          time.Duration `default:"24h" help:"Age at which journal rows go; 0 keeps them."`
	RetentionCount     int64         `default:"0" help:"Newest journal rows kept of each topology; 0 is no limit."`
	MutationRetention  time.Duration `default:"720h" help:"Age at which finished mutations go; 0 keeps them."`
	MaxInFlight        int64         `default:"10000" help:"Mutations that wait in one topology when more are refused; so are more than 64 MiB of them; 0 is no limit."`
	PoolSize           int           `default:"0" help:"Connections to the database that are shared, 10 to 10000; 0 is pool_max_conns of --database-url or the number of CPUs, but 10 at least. LISTEN, the WAL and --mutator have theirs beside them."`
	Engine             string        `default:"auto" placeholder:"ENGINE" help:"What writes the streams of plain HTTP/1.1: epoll (Linux), portable (net/http), or auto, which is epoll where it can be had."`
	MetricsAddr        string        `help:"Serve /metrics here instead, and /livez and /readyz, too." placeholder:"ADDR"`
	AccessLog          bool          `default:"true" negatable:"" help:"Log each request when it is answered, and each stream at its end: who, what, how long, and no secret. Of strangers 20 lines a second at most; probes at debug."`
	Pprof              bool          `help:"Serve profiles at /debug/pprof of --metrics-addr; /debug/free there gives memory back."`
	TLSCert            string        `name:"tls-cert" help:"Certificate file, PEM." placeholder:"FILE"`
	TLSKey             string        `name:"tls-key" help:"Key file, PEM." placeholder:"FILE"`
	HSTS               time.Duration `name:"hsts" default:"8760h" help:"How long browsers shall use nothing but TLS, with --tls-cert; 0 says nothing about it."`

	ready      func(addr string) // called once the address answers
	pruneEvery time.Duration     // 0: the bus's own
	deadAfter  time.Duration     // 0: deadAfter
	linger     time.Duration     // 0: the bus's own
	heartbeat  time.Duration     // 0: the bus's own
	reread     time.Duration     // 0: rereadEvery
	bodyTime   time.Duration     // in which a body must have arrived; 0: the API's own
}

const (
	defaultMutationRetention = 720 * time.Hour
	defaultMaxInFlight       = 10_000
	defaultMaxStreamsPerUser = 16
	defaultRateLimit         = 60_000
)

func (c *serveCmd) check() error {
	for what, negative := range map[string]bool{
		"--keepalive": c.Keepalive < 0, "--write-timeout": c.WriteTimeout < 0, "--drain": c.Drain < 0,
		"--retention": c.Retention < 0, "--mutation-retention": c.MutationRetention < 0,
		"--retention-count": c.RetentionCount < 0, "--max-in-flight": c.MaxInFlight < 0, "--max-streams": c.MaxStreams < 0,
		"--max-streams-per-user": c.MaxStreamsPerUser < 0, "--rate-limit": c.RateLimit < 0, "--feed-memory": c.FeedMemory < 0,
		"--hsts": c.HSTS < 0,
	} {
		if negative {
			return fmt.Errorf("%s is negative: give 0 or more", what)
		}
	}
	switch {
	case !slices.Contains([]string{"", string(stream.RoleViewer), string(stream.RoleAdmin)}, c.JWTDefaultRole):
		return fmt.Errorf("--jwt-default-role: %q is no role: use viewer or admin", c.JWTDefaultRole)
	case c.PoolSize > mostConns:
		return fmt.Errorf("--pool-size: %d is more than %d", c.PoolSize, mostConns)
	case c.PoolSize != 0 && c.PoolSize < postgres.LeastConns:
		return fmt.Errorf("--pool-size: %d is less than %d: heads, documents and REST would wait for each other", c.PoolSize,
			postgres.LeastConns)
	case !slices.Contains([]string{"", engineAuto, engineEpoll, enginePortable}, c.Engine):
		return fmt.Errorf("--engine: %q is no engine: use auto, epoll or portable", c.Engine)
	case c.Bus != "" && c.Bus != setting.Notify && c.Bus != setting.WAL && c.Bus != setting.Poll:
		return fmt.Errorf("--bus: %q is no bus: use notify, wal or poll", c.Bus)
	case c.ReplicaDatabaseURL != "" && c.Bus == setting.Notify:
		return errors.New(
			"--bus notify and --replica-database-url do not go together, because a standby cannot LISTEN: use --bus wal, or " +
				"leave --bus out",
		)
	case (c.TLSCert == "") != (c.TLSKey == ""):
		return errors.New("--tls-cert and --tls-key go together: give both or neither")
	}
	if err := checkPprof(c.Pprof, c.MetricsAddr); err != nil {
		return err
	}
	return checkOrigins(c.AllowOrigin)
}

// mostConns is more than any PostgreSQL is set up for.
const mostConns = 10_000

// Run serves until ctx ends, then drains.
func (c *serveCmd) Run(ctx context.Context, o output) error {
	if err := c.check(); err != nil {
		return err
	}
	defer surviveHangups()()
	log, switching, stop := c.open(o.err)
	defer stop()
	listeners, err := c.listen(ctx)
	if err != nil {
		return err
	}
	defer listeners.close()
	verifier, err := c.verifier(ctx, log)
	if err != nil {
		return err
	}
	served, err := c.certificate()
	if err != nil {
		return err
	}
	err = startup{connect: c.connect, log: log, again: always}.do(ctx, func(conn *pgx.Conn) error {
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

	traces, err := tracing.Start(ctx, serverService, traceVersion(), log)
	if err != nil {
		return err
	}
	defer traces.Stop()
	pool, err := postgres.NewPool(ctx, c.DatabaseURL, tracedQueries(traces), func(cfg *pgxpool.Config) {
		if c.PoolSize > 0 {
			cfg.MaxConns = int32(c.PoolSize)
		}
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	replica, err := c.replica(ctx, log, tracedQueries(traces))
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
	listenConfig, err := postgres.Parse(listenURL)
	if err != nil {
		return fmt.Errorf("--listen-database-url: %w", err)
	}
	registry := newRegistry()
	stats := registry.Server()
	var (
		blind  atomic.Bool        // row level security hides all rows
		asking singleflight.Group // whether it does: all who ask at once take one connection
	)
	seesNothing := func(ctx context.Context) error {
		_, err, _ := asking.Do("", func() (any, error) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), blindTimeout)
			defer cancel()
			hidden, all, err := sql.Hidden(ctx, pool)
			if err == nil && all {
				err = fmt.Errorf("%w: %s", sql.ErrHidden, hidden)
			}
			return nil, err
		})
		return err
	}
	memory := stream.NewMemory(c.FeedMemory, stats)
	bus := pgbus.New(pgbus.Config{
		Pool: pool, Replica: replica, Listen: listenConfig, Memory: memory,
		Encoder: sse.Encoder{}, Stats: stats, Logger: log, Bus: c.Bus, Linger: c.linger,
		Heartbeat: c.heartbeat,
		Tracer:    traces.Tracer(),
		Blind:     seesNothing,
		Odd: func(ctx context.Context) (odd string, err error) {
			var all bool
			if odd, all, err = sql.Odd(ctx, pool); err == nil {
				blind.Store(all)
			}
			return odd, err
		},
	})
	pruner := retention.New(retention.Config{
		Pool: pool, Events: c.Retention, EventCount: c.RetentionCount, Mutations: c.MutationRetention,
		Every: c.pruneEvery, Logger: log, Stats: stats,
	})
	carrier, err := c.newEngine(api.Seeing(bus, seesNothing), stats, log)
	if err != nil {
		return err
	}
	var workerTrouble atomic.Pointer[string] // what keeps the worker from its work; empty: nothing
	workerTrouble.Store(new(string))
	cfg := api.Config{
		Bus:               bus,
		Store:             store.New(pool, c.MaxInFlight, log),
		Tickets:           store.NewTickets(pool),
		Auth:              verifier.Authenticate,
		Memory:            memory,
		Stats:             stats,
		Logger:            log,
		Keepalive:         c.Keepalive,
		WriteTimeout:      c.WriteTimeout,
		BodyTimeout:       c.bodyTime,
		MaxStreams:        c.MaxStreams,
		MaxStreamsPerUser: c.MaxStreamsPerUser,
		RateLimit:         c.RateLimit,
		AllowOrigin:       c.AllowOrigin,
		AccessLog:         c.AccessLog,
		HSTS:              c.HSTS,
		ConsoleHandler:    console.Handler(),
		ClientHandler:     js.Handler(),
		TabsHandler:       js.TabsHandler(),
		Engine:            carrier,
		Ready: func() error {
			if blind.Load() {
				return sql.ErrHidden
			}
			return bus.Ready()
		},
		Blind:  seesNothing,
		Notice: func() string { return lines(bus.Notice(), *workerTrouble.Load()) },
	}
	took := registry.Requests()
	cfg.Observe = func(o *api.Observation) {
		if o.Stream == nil {
			took(o.Method, o.Route, o.Status, o.Duration)
		}
	}
	if traces.On() {
		cfg.Trace = traces.Request
	}
	if listeners.metrics == nil {
		cfg.MetricsHandler = registry.Handler()
	}
	worker := func(context.Context) error { return nil }
	if c.Mutator {
		worker = func(ctx context.Context) error {
			return runMutator(ctx, c.DatabaseURL, listenConfig, mutator.Config{
				Logger: log, Stats: registry.Worker(), Tracer: traces.Tracer(),
				Notice: func(why string, _ bool) { workerTrouble.Store(&why) },
			}, registry, tracedQueries(traces))
		}
	}
	pools := []*pgxpool.Pool{pool}
	registry.Add(poolCollector{"main", pool})
	if replica != nil {
		registry.Add(poolCollector{"replica", replica})
		pools = append(pools, replica)
	}
	renew := func(ctx context.Context) error { return onHangup(ctx, log, pools...) }
	files := c.watched(verifier, served, pools)
	watching := func(ctx context.Context) error {
		return watchFiles(ctx, log, cmp.Or(c.reread, rereadEvery), files)
	}
	counting := func(ctx context.Context) error { return store.WatchQueue(ctx, pool, stats, log) }
	server := api.New(cfg)
	registry.Ready(server.Ready)
	registry.StreamsLimit(c.MaxStreams)
	return c.serve(ctx, listeners, server, bus, served,
		alongside(worker, verifier.Run, pruner.Run, renew, switching, watching, counting), registry, log)
}

// blindTimeout is how long it may take to ask whether rows are hidden.
const blindTimeout = 2 * time.Second

// lines joins what there is to say.
func lines(sentences ...string) string {
	return strings.Join(slices.DeleteFunc(sentences, func(s string) bool { return s == "" }), "\n")
}

// serve runs the bus, the worker and the HTTP servers, drains when ctx ends, and returns when all goroutines are gone.
func (c *serveCmd) serve(
	ctx context.Context,
	listeners listeners,
	server *api.Server,
	bus *pgbus.Bus,
	served *certificate,
	worker func(context.Context) error,
	registry *metrics.Registry,
	log *slog.Logger,
) error {
	// The bus outlives ctx: while streams are drained they still get their events.
	busCtx, stopBus := context.WithCancel(context.WithoutCancel(ctx))
	defer stopBus()
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return bus.Run(busCtx) })
	g.Go(func() error { return worker(gctx) })
	main := c.httpServer(server.Handler(), log)
	if served != nil {
		main.TLSConfig = &tls.Config{GetCertificate: served.get, MinVersion: tls.VersionTLS12}
	}
	servers := []*http.Server{main}
	g.Go(func() error {
		if c.TLSCert != "" {
			return main.ServeTLS(listeners.main, "", "")
		}
		return main.Serve(listeners.main)
	})
	if listeners.metrics != nil {
		measured := c.httpServer(measured(registry, main.Handler, c.Pprof), log)
		servers = append(servers, measured)
		g.Go(func() error { return measured.Serve(listeners.metrics) })
	}
	addresses := []any{"addr", listeners.main.Addr().String()}
	if listeners.metrics != nil {
		addresses = append(addresses, "metrics", listeners.metrics.Addr().String())
	}
	log.Info("serving", addresses...)
	if c.ready != nil {
		c.ready(listeners.main.Addr().String())
	}
	g.Go(func() error {
		<-gctx.Done()
		drainCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.Drain+time.Second)
		defer cancel()
		if err := server.Drain(drainCtx); err != nil {
			log.Warn("drain cut some streams", "error", err)
		}
		for _, s := range servers {
			if err := s.Shutdown(drainCtx); err != nil {
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
