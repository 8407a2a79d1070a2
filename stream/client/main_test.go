package client_test

import (
	"context"
	"net/http/httptest"
	"testing"
	"time"

	"topostream/pgbus"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/store"
	"topostream/stream"
	"topostream/stream/api"
	"topostream/stream/auth"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

const secret = "a secret of the tests, 32 bytes or more"

// token is a viewer's.
func token(t testing.TB) string {
	t.Helper()
	claims := auth.Claims{Subject: "x", Role: stream.RoleViewer, TTL: time.Hour}
	signed, err := auth.Sign([]byte(secret), claims, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// serve runs a topostream server on a database until the test ends.
func serve(t testing.TB, databaseURL string) *httptest.Server {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	pool, err := postgres.NewPool(ctx, databaseURL)
	must(err)
	listen, err := postgres.Parse(databaseURL)
	must(err)
	verifier, err := auth.New(auth.Config{Secret: []byte(secret)})
	must(err)
	must(verifier.Load(ctx))
	stats := metrictest.Stats()
	bus := pgbus.New(pgbus.Config{Pool: pool, Listen: listen, Encoder: sse.Encoder{}, Stats: stats})
	done := make(chan error, 1)
	go func() { done <- bus.Run(ctx) }()
	server := httptest.NewServer(api.New(api.Config{
		Bus: bus, Store: store.New(pool, 0, nil), Tickets: store.NewTickets(pool), Auth: verifier.Authenticate, Stats: stats,
		Keepalive: time.Second, Ready: bus.Ready,
	}).Handler())
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
		cancel()
		must(<-done)
		pool.Close()
	})
	return server
}

// unknown is no topology's.
const unknown = stream.TopologyID("00000000-0000-4000-8000-000000000000")

// topology makes one.
func topology(t testing.TB, db *pgtest.DB) stream.TopologyID {
	t.Helper()
	const insert = `INSERT INTO topologies (name) SELECT 'demo-' || count(*) FROM topologies RETURNING id::text`
	return pgtest.Scan[stream.TopologyID](t, db.Conn(t), insert)
}

func emit(t testing.TB, db *pgtest.DB, id stream.TopologyID, event string) {
	t.Helper()
	db.Exec(t, `SELECT topology_emit($1::text::uuid, $2, '{"by": "hand"}')`, string(id), event)
}

// emitAll commits an event `round` in each topology.
func emitAll(t testing.TB, db *pgtest.DB) {
	t.Helper()
	db.Exec(t, `SELECT topology_emit(id, 'round', '{}') FROM topologies`)
}
