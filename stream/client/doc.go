// Package client follows topologies of a topostream server from Go, as a browser's EventSource does and then some.
//
// Client.Follow gives one snapshot at N, then the events N+1, N+2, …, each once and in order, for as long as the
// caller wants them. It reconnects by itself and goes on where it was, with a new token where there is one. It checks
// that promise while it reads: what breaks it is a *BrokenError and never silent.
//
//	c := client.Client{URL: "https://topostream.example", Token: client.Fixed(token)}
//	for event, err := range c.Follow(ctx, client.Request{Topology: id}) {
//		if err != nil {
//			return err // the last: see Follow
//		}
//		fmt.Println(event.Seq, event.Type, string(event.Payload))
//	}
//
// Client.FollowAll does so for several topologies on one connection. Each has its own snapshot and its own numbers.
// Client.FollowList follows the list of topologies, with or without some of them.
//
// Whoever wants to go on after a restart of its own keeps the Seq of the last event that is journaled or a snapshot,
// and gives it in Request.After.
//
// The wire format is that of the HTML standard, section 9.2; which frames there are, PROTOCOL.md says.
package client
