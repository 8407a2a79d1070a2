package client_test

import (
	"context"
	"errors"
	"fmt"

	"topostream/pgbus/pgtest"
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
