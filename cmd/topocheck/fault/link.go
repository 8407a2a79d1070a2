package fault

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"topostream/harness/proxy"
)

func linkKinds() []Kind {
	database := func(e *Env, r *rand.Rand) []*proxy.Link { return e.links(r, databaseLink) }
	client := func(e *Env, r *rand.Rand) []*proxy.Link { return e.links(r, clientLink) }
	return []Kind{
		{Name: "database-link.cut",
			Doc:  "Every connection between a server, or all of them, and the database is reset.",
			part: ofDatabaseLinks, inject: cut(database)},
		{Name: "database-link.delay",
			Doc:  "Whatever passes between a server, or all of them, and the database comes 20 to 300 ms late.",
			part: ofDatabaseLinks, inject: delay(database)},
		{Name: "database-link.black-hole",
			Doc: "Nothing passes between a server, or all of them, and the database in one direction or both; then all " +
				"does, or the connections are reset.", part: ofDatabaseLinks, inject: blackHole(database)},
		{Name: "client-link.cut", Doc: "Every client's connection to a server, or to all of them, is reset.",
			part: ofClientLinks, inject: cut(client)},
		{Name: "client-link.delay",
			Doc:  "Whatever passes between clients and a server, or all of them, comes 20 to 300 ms late.",
			part: ofClientLinks, inject: delay(client)},
		{Name: "client-link.black-hole",
			Doc: "Nothing passes between clients and a server, or all of them, in one direction or both; then all does, or " +
				"the connections are reset.", part: ofClientLinks, inject: blackHole(client)},
	}
}

type whichLink int

const (
	databaseLink whichLink = iota
	clientLink
)

// links gives the links of one server or of all, by chance.
func (e *Env) links(r *rand.Rand, which whichLink) []*proxy.Link {
	servers := e.Stage.Servers
	if r.IntN(2) == 0 {
		i := r.IntN(len(servers))
		servers = servers[i : i+1]
	}
	links := make([]*proxy.Link, 0, len(servers))
	for _, s := range servers {
		if which == databaseLink {
			links = append(links, s.Database)
		} else {
			links = append(links, s.Backend.Link)
		}
	}
	return links
}

type chooseLinks func(*Env, *rand.Rand) []*proxy.Link

type injector = func(context.Context, *Env, *rand.Rand) error

func cut(choose chooseLinks) injector {
	return func(_ context.Context, e *Env, r *rand.Rand) error {
		n := 0
		for _, l := range choose(e, r) {
			n += l.Cut()
		}
		if n == 0 {
			return spoiled(errors.New("there was no connection to cut"))
		}
		return nil
	}
}

func delay(choose chooseLinks) injector {
	return func(ctx context.Context, e *Env, r *rand.Rand) error {
		late := between(r, 20*time.Millisecond, 300*time.Millisecond)
		for _, l := range choose(e, r) {
			for _, dir := range directions(r) {
				l.Delay(dir, late)
			}
			defer l.Heal()
		}
		hold(ctx, between(r, 2*time.Second, 5*time.Second))
		return nil
	}
}

func blackHole(choose chooseLinks) injector {
	return func(ctx context.Context, e *Env, r *rand.Rand) error {
		dirs := directions(r)
		links := choose(e, r)
		for _, l := range links {
			for _, dir := range dirs {
				l.Stall(dir)
			}
		}
		// Longer than a half-open LISTEN connection takes to be found, at times.
		hold(ctx, between(r, time.Second, 10*time.Second))
		resets := r.IntN(2) == 0
		for _, l := range links {
			if resets {
				l.Cut()
			}
			l.Heal()
		}
		return nil
	}
}

// directions gives one direction or both, by chance.
func directions(r *rand.Rand) []proxy.Direction {
	return [][]proxy.Direction{{proxy.Up}, {proxy.Down}, {proxy.Up, proxy.Down}}[r.IntN(3)]
}
