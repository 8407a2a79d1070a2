package notify

import (
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"topostream/stream"
)

// channels are the channels of topologies: which are wanted, which the present connection LISTENs to, and which it is
// to UNLISTEN.
type channels struct {
	mu        sync.Mutex
	connected bool
	givenUp   bool // the connection, or the one that is being made, is to be replaced by another one
	wanted    map[stream.TopologyID]subscription
	unwanted  map[stream.TopologyID]struct{} // still LISTENed to
}

// A subscription tells whether the present connection LISTENs to a wanted channel.
type subscription bool

const (
	unsubscribed subscription = false
	subscribed   subscription = true
)

func newChannels() channels {
	return channels{wanted: map[stream.TopologyID]subscription{}, unwanted: map[stream.TopologyID]struct{}{}}
}

// quoted is the quoted name of a topology's channel.
func quoted(id stream.TopologyID) string { return pgx.Identifier{"topology." + string(id)}.Sanitize() }

// submit hands a task to the connection's owner. It returns false where there is no connection, or another task waits.
func (c *channels) submit(tasks chan<- *attachTask, t *attachTask) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.connected {
		return false
	}
	select {
	case tasks <- t:
		return true
	default: // one call at a time
		return false
	}
}

func (c *channels) isConnected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.connected
}

// setConnected begins or ends a connection's life. Each begins and ends without a subscription.
func (c *channels) setConnected(on bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.connected = on; on {
		return
	}
	clear(c.unwanted)
	for id := range c.wanted {
		c.wanted[id] = unsubscribed
	}
}

// giveUp has the present connection, or the one that is being made, replaced by another one.
func (c *channels) giveUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.givenUp = true
}

// accept keeps a new connection, which was judged a moment ago: what was given up before were others.
func (c *channels) accept() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.givenUp = false
}

func (c *channels) isGivenUp() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.givenUp
}

// want adds channels that are not LISTENed to yet.
func (c *channels) want(ids []stream.TopologyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if _, ok := c.wanted[id]; !ok {
			_, kept := c.unwanted[id]
			c.wanted[id] = subscription(kept)
			delete(c.unwanted, id)
		}
	}
}

// forget gives channels up.
func (c *channels) forget(ids []stream.TopologyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if c.wanted[id] == subscribed {
			c.unwanted[id] = struct{}{}
		}
		delete(c.wanted, id)
	}
}

// takeUnwanted gives the channels to UNLISTEN, but for those that are to be LISTENed to now.
func (c *channels) takeUnwanted(listen []stream.TopologyID) []stream.TopologyID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []stream.TopologyID
	for id := range c.unwanted {
		if !slices.Contains(listen, id) { // the others stay unwanted until listened: the transaction may fail
			ids = append(ids, id)
			delete(c.unwanted, id)
		}
	}
	return ids
}

// giveBack undoes takeUnwanted.
func (c *channels) giveBack(ids []stream.TopologyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		if _, ok := c.wanted[id]; ok { // by somebody since the transaction began; it was LISTENed to all the while
			c.wanted[id] = subscribed
		} else {
			c.unwanted[id] = struct{}{}
		}
	}
}

// listened records what a committed transaction LISTENed to: all of it is wanted.
func (c *channels) listened(ids []stream.TopologyID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range ids {
		c.wanted[id] = subscribed
		delete(c.unwanted, id)
	}
}

// confirm records what a transaction LISTENed to, as far as it is still wanted, and gives that. The rest is UNLISTENed.
func (c *channels) confirm(ids []stream.TopologyID) []stream.TopologyID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var still []stream.TopologyID
	for _, id := range ids {
		if _, ok := c.wanted[id]; !ok {
			c.unwanted[id] = struct{}{}
			continue
		}
		c.wanted[id] = subscribed
		still = append(still, id)
	}
	return still
}

// missing gives up to n wanted channels that are not LISTENed to.
func (c *channels) missing(n int) []stream.TopologyID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []stream.TopologyID
	for id, s := range c.wanted {
		if len(ids) == n {
			break
		}
		if s == unsubscribed {
			ids = append(ids, id)
		}
	}
	return ids
}

// subscribed counts the channels that are LISTENed to.
func (c *channels) subscribed() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.unwanted)
	for _, s := range c.wanted {
		if s == subscribed {
			n++
		}
	}
	return n
}
