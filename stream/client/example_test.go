package client_test

import (
	"context"
	"errors"
	"fmt"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/client"
)

// A loop over the events of a topology, from its snapshot to its end.
func ExampleClient_Follow() {
	t, end := pgtest.Example()
	defer end()
	db := pgtest.New(t) // a real PostgreSQL
	server, id := serve(t, db.URL), topology(t, db)

	c := client.Client{URL: server.URL, Token: client.Fixed(token(t))}
	for event, err := range c.Follow(context.Background(), client.Request{Topology: id}) {
		switch {
		case errors.Is(err, client.ErrDeleted):
			fmt.Println("the end")
		case err != nil:
			fmt.Println("cannot follow:", err)
		default:
			fmt.Println(event.Seq, event.Type)
		}
		if event.Type == client.TypeSnapshot { // from here on nothing is missed
			emit(t, db, id, "decky.service_added")
			db.Exec(t, `DELETE FROM topologies WHERE id = $1::text::uuid`, string(id))
		}
	}
	// Output:
	// 1 snapshot
	// 2 decky.service_added
	// 3 deleted
	// the end
}

// Several topologies on one connection: each has its own snapshot, its own numbers and its own end.
func ExampleClient_FollowAll() {
	t, end := pgtest.Example()
	defer end()
	db := pgtest.New(t)
	server, blue, red := serve(t, db.URL), topology(t, db), topology(t, db)
	names := map[stream.TopologyID]string{blue: "blue", red: "red"}

	c := client.Client{URL: server.URL, Token: client.Fixed(token(t))}
	requests := []client.Request{{Topology: blue, Resume: true, After: 0}, {Topology: red, Resume: true, After: 0}}
	last := map[stream.TopologyID]stream.Seq{} // what to resume with
	for event, err := range c.FollowAll(context.Background(), requests) {
		if err != nil {
			fmt.Println(err)
			break
		}
		if event.Journaled || event.Type == client.TypeSnapshot {
			last[event.Topology] = event.Seq
		}
		if event.Type == "status" { // a topology's first event
			db.Exec(t, `DELETE FROM topologies WHERE id = $1::text::uuid`, string(event.Topology))
		}
	}
	for _, id := range []stream.TopologyID{blue, red} {
		fmt.Println(names[id], "ended at", last[id])
	}
	// Output:
	// the topology is deleted
	// blue ended at 2
	// red ended at 2
}

// The list of topologies, kept as a whole: what it shows is there when all of it has come.
func ExampleClient_FollowList() {
	t, end := pgtest.Example()
	defer end()
	db := pgtest.New(t)
	server, id := serve(t, db.URL), topology(t, db)

	var list client.List
	c := client.Client{URL: server.URL, Token: client.Fixed(token(t))}
	for event, err := range c.FollowList(context.Background(), client.ListRequest{}) {
		if err != nil {
			fmt.Println("cannot follow:", err)
			return
		}
		list.Take(event.List)
		switch event.Type {
		case client.TypeList:
			fmt.Println(len(list.Rows()), "topology:", list.Rows()[id].Name)
			db.Exec(t, `UPDATE topologies SET status = 'deploying' WHERE id = $1::text::uuid`, string(id))
		case client.TypeTopology:
			fmt.Println("it is", list.Rows()[id].Status)
			db.Exec(t, `DELETE FROM topologies WHERE id = $1::text::uuid`, string(id))
		case client.TypeRemoved:
			fmt.Println(len(list.Rows()), "topologies")
			return
		}
	}
	// Output:
	// 1 topology: demo-0
	// it is deploying
	// 0 topologies
}

// Whoever kept the number of the last event goes on behind it, in another process, too.
func ExampleRequest_resume() {
	t, end := pgtest.Example()
	defer end()
	db := pgtest.New(t)
	server, id := serve(t, db.URL), topology(t, db)
	emit(t, db, id, "first")
	emit(t, db, id, "second")

	c := client.Client{URL: server.URL, Token: client.Fixed(token(t))}
	for event, err := range c.Follow(context.Background(), client.Request{Topology: id, Resume: true, After: 1}) {
		if err != nil {
			fmt.Println("cannot follow:", err)
			return
		}
		fmt.Println(event.Seq, event.Type, string(event.Payload))
		if event.Type == "second" {
			return // the connection is closed
		}
	}
	// Output:
	// 2 first {"by": "hand"}
	// 3 second {"by": "hand"}
}
