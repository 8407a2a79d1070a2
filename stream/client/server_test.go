package client_test

import (
	"errors"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/client"
)

func TestAStreamThatIsCutGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server, id := serve(t, db.URL), topology(t, db)
	lost := 0
	c := client.Client{
		URL: server.URL, Token: client.Fixed(token(t)),
		Disconnected: func(error, time.Duration) { lost++; emit(t, db, id, "meanwhile") },
	}
	var seqs []stream.Seq
	var types []string
	for event, err := range c.Follow(t.Context(), client.Request{Topology: id}) {
		if errors.Is(err, client.ErrDeleted) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		seqs, types = append(seqs, event.Seq), append(types, event.Type)
		switch event.Type {
		case client.TypeSnapshot:
			emit(t, db, id, "before")
		case "before":
			server.CloseClientConnections()
		case "meanwhile":
			db.Exec(t, `DELETE FROM topologies WHERE id = $1::text::uuid`, string(id))
		}
	}
	if want := []string{"snapshot", "before", "meanwhile", "deleted"}; !slices.Equal(types, want) || lost != 1 {
		t.Errorf("%v, want %v; %d connections were lost", types, want, lost)
	}
	if want := []stream.Seq{1, 2, 3, 4}; !slices.Equal(seqs, want) {
		t.Errorf("%v, want %v", seqs, want)
	}
}

func TestTheGraphIsInTheSnapshotOfWhoAsksForIt(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server, id := serve(t, db.URL), topology(t, db)
	db.Exec(t, `INSERT INTO lans (topology_id, name, subnet) VALUES ($1::text::uuid, 'lan-1', '10.0.0.0/24')`, string(id))
	for _, graph := range []bool{false, true} {
		event := first(t, server, client.Request{Topology: id, Graph: graph})
		has := strings.Contains(string(event.Payload), `"lan-1"`)
		if has != graph || event.Seq != 2 || event.Topology != id || event.Journaled {
			t.Errorf("graph %t: %+v", graph, event)
		}
	}
}

// first gives the first event of a stream.
func first(t *testing.T, server *httptest.Server, req client.Request) client.Event {
	t.Helper()
	c := client.Client{URL: server.URL, Token: client.Fixed(token(t))}
	for event, err := range c.Follow(t.Context(), req) {
		if err != nil {
			t.Fatal(err)
		}
		return event
	}
	t.Fatal("no event")
	return client.Event{}
}

func TestFinalAnswersOfAServerAreTypedErrors(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server, id := serve(t, db.URL), topology(t, db)
	for name, c := range map[string]struct {
		token string
		id    stream.TopologyID
		want  error
	}{
		"no token": {"", id, client.ErrUnauthorized},
		"unknown":  {token(t), "00000000-0000-4000-8000-000000000000", client.ErrNotFound},
	} {
		follower := client.Client{URL: server.URL, Token: client.Fixed(c.token)}
		for event, err := range follower.Follow(t.Context(), client.Request{Topology: c.id}) {
			if !errors.Is(err, c.want) {
				t.Errorf("%s: %+v, %v", name, event, err)
			}
			break
		}
	}
}
