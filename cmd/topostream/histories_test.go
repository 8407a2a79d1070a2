package main

import (
	"fmt"
	"net/url"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
)

// epochAt is the epoch of a history that begins at that time, if none before it was as high: ten-minute intervals since
// the year 2026, so that two copies of one database that are raised apart seldom get the same.
func epochAt(at time.Time) uint64 {
	return uint64(at.Sub(time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)) / (10 * time.Minute))
}

// emitText commits one event with a text that tells it from others of the same number.
func emitText(t *testing.T, conn *pgx.Conn, id, text string) uint64 {
	t.Helper()
	return pgtest.Scan[uint64](t, conn, `SELECT topology_emit($1::text::uuid, 'test', to_jsonb($2::text))`, id, text)
}

// keptHistoriesApart fails unless a client's events of the first history are those of its journal, and what came after
// is a snapshot of the new history and then its journal, up to its head.
func (c *client) keptHistoriesApart(before, after map[uint64]string, head uint64) {
	c.t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	epoch := head >> 32
	snapshot := uint64(0)
	for _, s := range c.snapshots {
		if s>>32 == epoch {
			snapshot = s
		}
	}
	if snapshot == 0 {
		c.t.Errorf("snapshots at %v: none is of the new history, epoch %d", c.snapshots, epoch)
	}
	next := snapshot + 1
	for i, seq := range c.seqs {
		switch {
		case seq>>32 != epoch && c.data[i] != before[seq]:
			c.t.Errorf("snapshots at %v; event %d is %s, in the lost history %q", c.snapshots, seq, c.data[i], before[seq])
			return // the rest would say the same
		case seq>>32 == epoch && seq > snapshot && (seq != next || c.data[i] != after[seq]):
			c.t.Errorf("snapshots at %v; event %d is %s, want %d %q", c.snapshots, seq, c.data[i], next, after[next])
			return
		}
		if seq>>32 == epoch {
			next = seq + 1
		}
	}
	if last, _ := strconv.ParseUint(c.last, 10, 64); last < head {
		c.t.Errorf("the client ends at %d, the journal at %d", last, head)
	}
}

// A transaction pooler swaps the server beneath connections that stay open, so that what was checked when they were
// opened says nothing about what is read on them.
func TestOverAPromotionBehindAPoolerNobodyGetsTwoHistoriesInOne(t *testing.T) {
	t.Parallel()
	long(t)
	for _, c := range []struct {
		bus         string
		directFirst bool // what LISTENs or reads the WAL is led to the promoted server before the pooler is
	}{
		{setting.Poll, false},
		{setting.Notify, false}, {setting.Notify, true},
		{setting.WAL, false}, {setting.WAL, true},
	} {
		t.Run(fmt.Sprint(c.bus, ", direct first ", c.directFirst), func(t *testing.T) {
			t.Parallel()
			promoteBehindAPooler(t, c.bus, c.directFirst)
		})
	}
}

func promoteBehindAPooler(t *testing.T, bus string, directFirst bool) {
	t.Helper()
	p := newPair(t)
	conn := p.db.Conn(t)
	id := demo(t, conn)
	setBus(t, p.db.URL, bus)
	pooler := newBouncer(t, p.primary.URL("streams"))
	direct, directURL := relayTo(t, p.primary.URL("streams"), uncut)
	server := serve(t, pooler.url, func(c *serveCmd) {
		c.MaxStreamsPerUser = 0
		if c.Bus = bus; bus != setting.Poll {
			c.Bus, c.ListenDatabaseURL = "", directURL
		}
	})
	awaitBus(t, server.url, bus)
	kept := uint64(0)
	for range 9 {
		kept = emitText(t, conn, id, "kept")
	}
	steady := newClient(t, server.url, id, "").watch()
	clients := []*client{steady, newClient(t, server.url, id, "3").watch()}
	for _, c := range clients {
		c.awaitSeq(kept)
	}
	p.caughtUp()
	promoted := p.connStandby() // on the standby while it is one, and through the promotion
	p.cut()
	lost := kept
	for range 2 {
		lost = emitText(t, conn, id, "lost")
	}
	for _, c := range clients {
		c.awaitSeq(lost)
	}
	before := history(t, conn, id)

	began := time.Now()
	pooler.command("PAUSE")
	if err := p.primary.Stop(t.Context(), pgcluster.Immediate); err != nil {
		t.Fatal(err)
	}
	p.promote()
	for range 3 {
		emitText(t, promoted, id, "new") // with numbers of the lost ones
	}
	resume := func(after uint64) {
		clients = append(clients, newClient(t, server.url, id, strconv.FormatUint(after, 10)).watch())
	}
	resume(lost)
	pooler.configure(p.standby.URL("streams"))
	pooler.command("RELOAD")
	to, err := url.Parse(p.standby.URL("streams"))
	if err != nil {
		t.Fatal(err)
	}
	if directFirst {
		direct.lead(to.Host)
		resume(lost - 1)
	}
	pooler.command("RESUME")
	for after := kept; after <= lost+1; after++ {
		resume(after)
	}
	direct.lead(to.Host)
	var head uint64
	pgtest.Eventually(t, "the new epoch", func() bool {
		if len(clients) < 40 { // with all numbers, while the server finds out
			resume(kept + uint64(len(clients))%4)
		}
		head = emitText(t, promoted, id, "newer")
		return head>>32 > 0
	})
	if least := max(1, epochAt(began)); head>>32 < least {
		t.Errorf("the new epoch is %d, want %d or more", head>>32, least)
	}
	for range 3 {
		resume(lost)
		head = emitText(t, promoted, id, "newest")
	}
	for _, c := range clients {
		c.awaitSeq(head)
	}
	after := history(t, promoted, id)
	for _, c := range clients {
		c.keptHistoriesApart(before, after, head)
	}
	if got := journal(t, server.url, id, head-3); len(got) != 3 || got[2] != after[head] {
		t.Errorf("the journal ends %q", got)
	}
}
