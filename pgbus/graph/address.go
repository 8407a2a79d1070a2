package graph

import "net/netip"

// pool is where LANs without a subnet of their own get one.
func pool() netip.Prefix { return netip.MustParsePrefix("172.16.0.0/12") }

// nextSubnet is the lowest /24 of the pool that overlaps none of taken.
func nextSubnet(taken []netip.Prefix) (netip.Prefix, bool) {
	all := pool()
	base := all.Addr().As4()
	for i := range 1 << (24 - all.Bits()) {
		a := base
		a[1] += byte(i >> 8)
		a[2] = byte(i)
		p := netip.PrefixFrom(netip.AddrFrom4(a), 24)
		if !overlapsAny(p, taken) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

func overlapsAny(p netip.Prefix, others []netip.Prefix) bool {
	for _, o := range others {
		if o.Overlaps(p) {
			return true
		}
	}
	return false
}

// Three addresses of a subnet are no decky's: the network's own, the gateway's, which is the first host's, and in
// IPv4 the broadcast address (RFC 919). A /24 thus has room for 253 deckies, from .2 to .254.
func gateway(subnet netip.Prefix) netip.Addr { return subnet.Masked().Addr().Next() }

// isHost tells whether a decky can have this address as far as the subnet goes; the gateway's counts as one.
func isHost(subnet netip.Prefix, a netip.Addr) bool {
	broadcast := a.Is4() && !subnet.Contains(a.Next())
	return subnet.Contains(a) && a != subnet.Masked().Addr() && !broadcast
}

// nextAddress is the lowest address of the subnet that is free for a decky.
func nextAddress(subnet netip.Prefix, taken map[netip.Addr]string) (netip.Addr, bool) {
	for a := gateway(subnet).Next(); isHost(subnet, a); a = a.Next() {
		if _, ok := taken[a]; !ok {
			return a, true
		}
	}
	return netip.Addr{}, false
}
