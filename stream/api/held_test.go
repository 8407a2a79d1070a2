package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"topostream/stream"
	"topostream/stream/metrics/metrictest"
)

const aTopology = basePath + "/topologies/" + someTopology

// A libraryOf is a store and a bus whose every answer has so many bytes; it is asked for nothing else.
type libraryOf struct {
	stream.Bus
	stream.Store

	size int64
	next int64                 // of mutations
	asks *[]any                // what it was asked for
	hold func(context.Context) // is called in each read
}

func (l libraryOf) read(ctx context.Context, ask any, most int64) ([]byte, error) {
	if l.asks != nil {
		*l.asks = append(*l.asks, ask)
	}
	if l.hold != nil {
		l.hold(ctx)
	}
	if l.size > most {
		return nil, &stream.TooLargeError{Bytes: l.size}
	}
	return bytes.Repeat([]byte{'1'}, int(l.size)), nil
}

func (l libraryOf) Topologies(ctx context.Context, _ []stream.TopologyID, _ int, _, most int64) ([]byte, error) {
	return l.read(ctx, most, most)
}

func (l libraryOf) Topology(ctx context.Context, _ stream.TopologyID, most int64) ([]byte, error) {
	return l.read(ctx, most, most)
}

func (l libraryOf) Mutations(
	ctx context.Context, _ stream.TopologyID, q stream.MutationQuery, most int64,
) ([]byte, int64, error) {
	page, err := l.read(ctx, q, most)
	return page, l.next, err
}

func (l libraryOf) Journal(ctx context.Context, req stream.JournalRequest) (stream.JournalPage, error) {
	event, err := l.read(ctx, req, req.Most)
	return stream.JournalPage{First: 1, Head: 1, Events: []json.RawMessage{event}}, err
}

func (l libraryOf) CreateTopology(ctx context.Context, t stream.NewTopology) (stream.Topology, error) {
	_, err := l.read(ctx, t, 0)
	return stream.Topology{}, err
}

func (l libraryOf) Exists(context.Context, stream.TopologyID) error { return nil }

// serverOf serves what a library has, to an admin, within an account.
func serverOf(l libraryOf, limit int64) (*Server, *stream.Stats) {
	stats := metrictest.Stats()
	return New(Config{
		Bus: l, Store: l, Stats: stats, Memory: stream.NewMemory(limit, stats),
		Auth: func(*http.Request) (stream.Principal, error) { return stream.Principal{Role: stream.RoleAdmin}, nil },
	}), stats
}

// heavyRoutes are the routes whose answers are in the account.
func heavyRoutes() []string {
	return []string{basePath + "/topologies", aTopology, aTopology + "/mutations", aTopology + "/journal"}
}

// stuckWriter is a client that does not read until it may.
type stuckWriter struct {
	*httptest.ResponseRecorder

	may <-chan struct{}
}

func (w stuckWriter) Write(p []byte) (int, error) {
	<-w.may
	return w.ResponseRecorder.Write(p)
}

func TestAnswersThatNobodyReadsAreBoundedTogetherAndTheRestGets503(t *testing.T) {
	t.Parallel()
	const limit, size = 64 << 20, 7 << 19 // four and what they need before their size is known fit into a quarter
	for _, path := range heavyRoutes() {
		synctest.Test(t, func(t *testing.T) {
			s, stats := serverOf(libraryOf{size: size}, limit)
			may := make(chan struct{})
			var stuck sync.WaitGroup
			answers := make([]*httptest.ResponseRecorder, 4)
			for i := range answers {
				answers[i] = httptest.NewRecorder()
				stuck.Go(func() {
					s.Handler().ServeHTTP(stuckWriter{answers[i], may}, httptest.NewRequest(http.MethodGet, path, nil))
				})
				synctest.Wait() // two that read at the same time may each need what the other has in reserve
			}
			if held := metrictest.Value(stats.HeldBytes); held != 4*size {
				t.Errorf("%s: %d bytes are held", path, held)
			}
			res := ask(s, http.MethodGet, path, "")
			if res.Code != http.StatusServiceUnavailable || res.Header().Get("Retry-After") == "" ||
				!strings.Contains(res.Body.String(), stream.ErrNoMemory.Error()) {
				t.Errorf("%s: one more gets %d %v %.200s", path, res.Code, res.Header(), res.Body)
			}
			close(may)
			stuck.Wait()
			for _, res := range slices.Concat(answers, []*httptest.ResponseRecorder{ask(s, http.MethodGet, path, "")}) {
				if res.Code != http.StatusOK || res.Body.Len() <= size || !strings.HasSuffix(res.Body.String(), "\n") {
					t.Errorf("%s: %d and %d bytes", path, res.Code, res.Body.Len())
				}
			}
			if held := metrictest.Value(stats.HeldBytes); held != 0 {
				t.Errorf("%s: %d bytes are held in the end", path, held)
			}
		})
	}
}

func TestAnAnswerThatIsLargerThanItsShareIsGivenAlone(t *testing.T) {
	t.Parallel()
	for _, path := range heavyRoutes() {
		s, stats := serverOf(libraryOf{size: 5 << 20}, 8<<20)
		if res := ask(s, http.MethodGet, path, ""); res.Code != http.StatusOK || res.Body.Len() < 5<<20 {
			t.Errorf("%s: %d and %d bytes", path, res.Code, res.Body.Len())
		}
		if held := metrictest.Value(stats.HeldBytes); held != 0 {
			t.Errorf("%s: %d bytes are held in the end", path, held)
		}
	}
}

func TestAPageTakesNoMoreThanItsShareWhereThatIsSmall(t *testing.T) {
	t.Parallel()
	var asks []any
	s, _ := serverOf(libraryOf{asks: &asks}, 4<<20)
	for _, path := range heavyRoutes()[2:] {
		ask(s, http.MethodGet, path, "")
	}
	query, req := asks[0].(stream.MutationQuery), asks[1].(stream.JournalRequest) //nolint:forcetypeassert // as asked
	if query.Bytes != 1<<20 || req.Most != 1<<20 {
		t.Errorf("%d bytes of mutations, %d of the journal, want 1 MiB", query.Bytes, req.Most)
	}
}

func TestNoAnswerIsReadWithoutRoomForIt(t *testing.T) {
	t.Parallel()
	for _, path := range heavyRoutes() {
		var stats *stream.Stats
		var held []int64
		l := libraryOf{size: 5 << 20, hold: func(context.Context) { held = append(held, metrictest.Value(stats.HeldBytes)) }}
		s, own := serverOf(l, 64<<20)
		stats = own
		ask(s, http.MethodGet, path, "")
		if len(held) != 2 || held[0] > 4<<20+2 || held[1] < 5<<20 || held[1] > 6<<20 {
			t.Errorf("%s: %v bytes were held while it was read", path, held)
		}
	}
}

func TestLargeBodiesAreBoundedTogetherAndSmallOnesAreNot(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit = 48 << 20 // an eighth is room for two bodies of 1 MiB, thrice
		may := make(chan struct{})
		s, stats := serverOf(libraryOf{hold: func(context.Context) { <-may }}, limit)
		large := `{"name":"a"` + strings.Repeat(" ", 1<<20-12) + `}`
		post := func(body io.Reader) *httptest.ResponseRecorder {
			r := httptest.NewRequest(http.MethodPost, basePath+"/topologies", body)
			w := httptest.NewRecorder()
			s.Handler().ServeHTTP(w, r)
			return w
		}
		var stuck sync.WaitGroup
		stuck.Go(func() { post(strings.NewReader(large)) })
		stuck.Go(func() { post(io.NopCloser(strings.NewReader(large))) }) // chunked: of any length
		synctest.Wait()
		if held := metrictest.Value(stats.HeldBytes); held != limit/bodiesPart {
			t.Errorf("%d bytes are held", held)
		}
		res := post(strings.NewReader(large))
		if res.Code != http.StatusServiceUnavailable || res.Header().Get("Retry-After") == "" {
			t.Errorf("one more gets %d %s", res.Code, res.Body)
		}
		small := make(chan int, 1)
		stuck.Go(func() { small <- post(strings.NewReader(`{"name":"a"}`)).Code })
		synctest.Wait()
		close(may)
		if code := <-small; code != http.StatusCreated {
			t.Errorf("a small one gets %d", code)
		}
		stuck.Wait()
		if res := post(strings.NewReader(large)); res.Code != http.StatusCreated || metrictest.Value(stats.HeldBytes) != 0 {
			t.Errorf("when they are gone it gets %d, and %d bytes are held", res.Code, metrictest.Value(stats.HeldBytes))
		}
	})
}

func TestAPageOfMutationsSaysWhereTheNextOneIs(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		query, want string
		next        int64
		asked       stream.MutationQuery
	}{
		{"", "", 0, stream.MutationQuery{Limit: 200}},
		{"", "before=7&limit=200", 7, stream.MutationQuery{Limit: 200}},
		{
			"?limit=2&before=9&state=failed&state=pending&state=failed&token=secret",
			"before=7&limit=2&state=failed&state=pending", 7,
			stream.MutationQuery{Limit: 2, Before: 9, States: []string{"failed", "pending"}},
		},
		{"?state=&before=", "", 0, stream.MutationQuery{Limit: 200}},
	} {
		var asks []any
		s, _ := serverOf(libraryOf{size: 2, next: c.next, asks: &asks}, 64<<20)
		res := ask(s, http.MethodGet, aTopology+"/mutations"+c.query, "")
		want := ""
		if c.want != "" {
			want = "<" + aTopology + "/mutations?" + c.want + `>; rel="next"`
		}
		if res.Code != http.StatusOK || res.Header().Get("Link") != want {
			t.Errorf("%s: %d, Link: %s, want %s", c.query, res.Code, res.Header().Get("Link"), want)
		}
		c.asked.Bytes = 4 << 20
		if got, err := json.Marshal(asks); err != nil || string(got) != "["+string(mustJSON(t, c.asked))+"]" {
			t.Errorf("%s: asked for %s", c.query, got)
		}
	}
	s, _ := serverOf(libraryOf{}, 64<<20)
	for query, want := range map[string]string{
		"?before=0": "before: give a number from 1", "?before=x": "before: give a number from 1",
		"?state=pending&state=odd": `state: \"odd\" is no state`, "?limit=201": "limit: give a number from 1 to 200",
	} {
		res := ask(s, http.MethodGet, aTopology+"/mutations"+query, "")
		if res.Code != http.StatusBadRequest || !strings.Contains(res.Body.String(), want) {
			t.Errorf("%s: %d %s, want %s", query, res.Code, res.Body, want)
		}
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnAnswerThatNobodyReadsGivesItsMemoryBackAfterTheWriteTimeout(t *testing.T) {
	t.Parallel()
	const size = 64 << 20 // far more than the sockets' buffers hold
	stats := metrictest.Stats()
	library := libraryOf{size: size}
	server := httptest.NewServer(New(Config{
		Bus: library, Store: library, Stats: stats, Memory: stream.NewMemory(4*size, stats),
		WriteTimeout: 200 * time.Millisecond,
		Auth:         func(*http.Request) (stream.Principal, error) { return stream.Principal{Role: stream.RoleViewer}, nil },
	}).Handler())
	defer server.Close()
	res, err := server.Client().Get(server.URL + aTopology)
	if err == nil { // else this machine was too busy to send even the header in time
		defer func() { _ = res.Body.Close() }() // nobody reads it
	}
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	late := time.After(30 * time.Second)
	for metrictest.Value(stats.HeldBytes) > 0 {
		select {
		case <-again.C:
		case <-late:
			t.Fatalf("%d bytes are still held", metrictest.Value(stats.HeldBytes))
		}
	}
}
