package embedding_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"

	"topostream/pgbus"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/postgres"
	"topostream/pgbus/store"
	"topostream/stream"
	"topostream/stream/api"
	"topostream/stream/metrics/metrictest"
	"topostream/stream/sse"
)

// mount puts the streams into somebody's own server, with its own authentication. A chi router takes the same handler
// by r.Mount("/api/v1", …). The caller ends ctx, and then waits for ended.
func mount(
	ctx context.Context, mux *http.ServeMux, databaseURL string, auth func(*http.Request) (stream.Principal, error),
) (server *api.Server, ended <-chan error, _ error) {
	pool, err := postgres.NewPool(ctx, databaseURL)
	if err != nil {
		return nil, nil, err
	}
	listen, err := postgres.Parse(databaseURL)
	if err != nil {
		return nil, nil, err
	}
	stats := metrictest.Stats() // metrics.Handler(stats) shows them
	bus := pgbus.New(pgbus.Config{Pool: pool, Listen: listen, Encoder: sse.Encoder{}, Stats: stats})
	done := make(chan error, 1)
	go func() {
		defer pool.Close()
		done <- bus.Run(ctx)
	}()
	server = api.New(api.Config{
		Bus: bus, Store: store.New(pool, 0, nil), Tickets: store.NewTickets(pool), Stats: stats, Auth: auth,
	})
	mux.Handle("/api/v1/", server.Handler())
	return server, done, nil
}

// The streams within one's own server: whoever has a session there may look on.
func Example() {
	t, end := pgtest.Example()
	defer end()
	db := pgtest.New(t) // a database after `topostream migrate up`

	mux := http.NewServeMux()
	mux.HandleFunc("/login", func(w http.ResponseWriter, _ *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "session", Value: "alice"})
	})
	ctx, stop := context.WithCancel(context.Background())
	streams, ended, err := mount(ctx, mux, db.URL, func(r *http.Request) (stream.Principal, error) {
		session, err := r.Cookie("session")
		if err != nil {
			return stream.Principal{}, err
		}
		return stream.Principal{Subject: session.Value, Role: stream.RoleViewer, Ambient: true}, nil
	})
	if err != nil {
		fmt.Println(err)
		stop()
		return
	}
	server := httptest.NewServer(mux)

	db.Exec(t, `INSERT INTO topologies (id, name) VALUES ('00000000-0000-4000-8000-000000000001', 'demo')`)
	const events = "/api/v1/topologies/00000000-0000-4000-8000-000000000001/events"
	for _, cookie := range []string{"", "session=alice"} {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+events, nil)
		if err != nil {
			fmt.Println(err)
			break
		}
		req.Header.Set("Cookie", cookie)
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			fmt.Println(err)
			break
		}
		fmt.Println(res.Status)
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			if strings.HasPrefix(lines.Text(), "event: ") {
				fmt.Println(lines.Text())
				break
			}
		}
		_ = res.Body.Close() // the client goes
	}

	over, cancel := context.WithCancel(context.Background())
	cancel()                                                                         // no time to say goodbye
	if err := streams.Drain(over); err != nil && !errors.Is(err, context.Canceled) { // before the server's own Shutdown
		fmt.Println(err)
	}
	server.Close()
	stop()
	fmt.Println(<-ended)
	// Output:
	// 401 Unauthorized
	// 200 OK
	// event: snapshot
	// <nil>
}
