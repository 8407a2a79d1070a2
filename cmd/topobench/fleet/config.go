package fleet

import "net/netip"

// Config says what a fleet's clients do.
type Config struct {
	Spec       Spec
	Topologies []string
	Stamps     *Stamps      // of these topologies
	Window     int          // connections that are made at once; 0: 128
	Fresh      float64      // share of the clients that come again without Last-Event-ID
	Sources    []netip.Addr // to connect from, in turn; none: 16 of 127.0.1.0/24 for a server there, else the kernel's
}

// setDefaults sets what was left out.
func (c *Config) setDefaults() {
	if c.Window == 0 {
		c.Window = 128
	}
}
