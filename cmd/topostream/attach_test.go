package main

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
	"topostream/stream"
)

// A 404 is final for a browser's EventSource. Whoever asks for a topology that has been committed does not get one,
// whatever attach is under way that began before.
func TestATopologyThatIsMadeWhileAnAttachIsUnderWayIsNo404(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{setting.Notify, setting.Poll} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn, holder := db.Conn(t), db.Conn(t)
			server := serveOn(t, db.URL, bus)
			for i := range fewer(8) {
				id := pgtest.Scan[string](t, conn, `SELECT gen_random_uuid()::text`)
				// The attach of the first client waits here, with a snapshot of the time before the topology.
				pgtest.Exec(t, holder, `BEGIN; LOCK TABLE mutations IN ACCESS EXCLUSIVE MODE`)
				first := ask(t, server, id)
				waits := eventually(time.Second, func() bool {
					const waiting = `SELECT count(*) > 0 FROM pg_stat_activity
						WHERE datname = current_database() AND wait_event_type = 'Lock'`
					return pgtest.Scan[bool](t, conn, waiting)
				})
				pgtest.Exec(t, conn, `INSERT INTO topologies (id, name) VALUES ($1::text::uuid, 'new-' || $1::text)`, id)
				streams := []*reader{first, ask(t, server, id), ask(t, server, id)} // they join what is under way
				pgtest.Exec(t, holder, `COMMIT`)
				got := make([]string, 0, len(streams))
				for _, r := range streams {
					line, err := r.lines.ReadString('\n')
					if err != nil {
						t.Error(err)
					}
					got = append(got, strings.TrimSpace(line))
					_ = r.Close() // it has told enough
				}
				t.Logf("round %d: %q (%v)", i, got, waits)
				if slices.ContainsFunc(got, func(line string) bool { return strings.Contains(line, " 404 ") }) {
					t.Errorf("a topology that was committed while they were attached got %q", got)
				}
			}
		})
	}
}

// ask asks for a stream, and returns when the server has most probably begun with it.
func ask(t *testing.T, server, id string) *reader {
	t.Helper()
	r, err := dial(strings.TrimPrefix(server, "http://"), "/api/v1/topologies/"+id+"/events", testToken(t), 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 { // requests that come later and have been answered
		metric(t, server, "topostream_streams")
	}
	return r
}

// opens asks for a stream and leaves it at once.
func opens(url, token string) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Authorization", "Bearer "+token)
	transport := &http.Transport{DisableKeepAlives: true}
	res, err := (&http.Client{Transport: contracted(transport)}).Do(req)
	if err != nil {
		return 0, err
	}
	return res.StatusCode, res.Body.Close()
}

func TestATopologyThatWasMadeByRESTIsOpenedAtOnceAndNever404(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server := serve(t, db.URL, func(c *serveCmd) { c.MaxStreamsPerUser, c.linger = 0, time.Millisecond })
	token := testToken(t)
	var (
		missing atomic.Int64
		wg      sync.WaitGroup
	)
	for creator := range 8 { // so that attaches are under way all the time
		o := newOperator(t, server.url, fmt.Sprint("creator-", creator), stream.RoleAdmin)
		wg.Go(func() {
			for i := range fewer(16) {
				var made stream.Topology
				o.do(
					http.MethodPost,
					"/topologies",
					fmt.Sprintf(`{"name":"t-%d-%d"}`, creator, i),
				).into(t, http.StatusCreated, &made)
				status, err := opens(server.url+"/api/v1/topologies/"+string(made.ID)+"/events", token)
				if err != nil {
					t.Error(err)
				}
				if status == http.StatusNotFound {
					missing.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := missing.Load(); n > 0 {
		t.Errorf("%d topologies that had been made got a 404", n)
	}
}
