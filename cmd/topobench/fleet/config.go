package fleet

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Config says what a fleet's clients do.
type Config struct {
	Spec       Spec
	Topologies []string
	Stamps     *Stamps      // of these topologies
	Window     int          // connections that are made at once; 0: 128
	Fresh      float64      // share of the clients that come again without Last-Event-ID
	Sources    []netip.Addr // to connect from, in turn; none: 16 of 127.0.1.0/24 for a server there, else the kernel's
}

func (c *Config) fill() {
	if c.Window == 0 {
		c.Window = 128
	}
}

// Err is what the clients must not have seen; nil if there was nothing.
func (t *Tally) Err() error {
	if t.BrokenAll == 0 {
		return nil
	}
	return fmt.Errorf("%w %d times: %s", ErrBroken, t.BrokenAll, strings.Join(t.Broken, "; "))
}

// ErrBroken is an event that was lost, doubled or out of order, or a connection that ended.
var ErrBroken = errors.New("what was sent to the clients is wrong")
