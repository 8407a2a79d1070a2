package client_test

import (
	"errors"
	"fmt"
	"net/http"
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
		"unknown":  {token(t), unknown, client.ErrNotFound},
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

func TestSeveralTopologiesOfOneStreamMissNothingWhereverItIsCut(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server := serve(t, db.URL)
	const topologies, rounds = 8, 3
	requests := make([]client.Request, 0, topologies+1)
	last := map[stream.TopologyID]stream.Seq{}
	for range topologies {
		id := topology(t, db)
		requests = append(requests, client.Request{Topology: id})
		last[id] = 0
	}
	requests = append(requests, client.Request{Topology: unknown})

	lost, round := 0, 0
	c := client.Client{
		URL: server.URL, Token: client.Fixed(token(t)), LeastWait: time.Millisecond, MostWait: time.Millisecond,
		Disconnected: func(error, time.Duration) { lost++; emitAll(t, db) },
	}
	behind := topologies // that have not got the round's event
	var gone []stream.TopologyID
	for event, err := range c.FollowAll(t.Context(), requests) {
		if errors.Is(err, client.ErrDeleted) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch event.Type {
		case client.TypeSnapshot:
			behind--
		case "round":
			if event.Seq != last[event.Topology]+1 {
				t.Errorf("%s: %d after %d", event.Topology, event.Seq, last[event.Topology])
			}
			behind--
		case stream.TypeDeleted:
			if event.Journaled == (event.Topology == unknown) {
				t.Errorf("%+v", event)
			}
			gone = append(gone, event.Topology)
			continue
		}
		last[event.Topology] = event.Seq
		switch {
		case behind > 0:
		case round < rounds:
			round, behind = round+1, topologies
			server.CloseClientConnections()
		default:
			db.Exec(t, `DELETE FROM topologies`)
		}
	}
	for id, seq := range last {
		if seq != 1+rounds {
			t.Errorf("%s ended at %d, want %d", id, seq, 1+rounds)
		}
	}
	if len(gone) != topologies+1 || lost != rounds {
		t.Errorf("%d topologies ended, of %d; %d connections were lost, of %d", len(gone), topologies+1, lost, rounds)
	}
}

func TestTheServersBoundOfTopologiesOnOneStreamIsPassedOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	server := serve(t, db.URL)
	requests := make([]client.Request, 0, 501)
	for n := range 501 {
		id := stream.TopologyID(fmt.Sprintf("00000000-0000-4000-8000-%012d", n))
		requests = append(requests, client.Request{Topology: id})
	}
	c := client.Client{URL: server.URL, Token: client.Fixed(token(t))}
	for _, err := range c.FollowAll(t.Context(), requests) {
		refused, ok := errors.AsType[*client.RefusedError](err)
		if !ok || refused.Status != http.StatusBadRequest ||
			!strings.Contains(refused.Detail, "501 topologies: give 1 to 500") {
			t.Errorf("%v", err)
		}
	}
	for _, err := range c.FollowAll(t.Context(), requests[:500]) {
		if !errors.Is(err, client.ErrNotFound) { // it knows none of them
			t.Errorf("%v", err)
		}
	}
}
