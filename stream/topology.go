package stream

import "strings"

// TopologyID is the 36-character form of a UUID in lower case, as PostgreSQL prints it.
type TopologyID string

// Statuses are those that a topology can have.
func Statuses() []string {
	return []string{"pending", "deploying", "active", "degraded", "failed", "tearing_down", "torn_down"}
}

// ParseTopologyID accepts the 36-character form of a UUID in any case (RFC 9562, section 4) and nothing else:
// no braces, no URN, no form without hyphens.
func ParseTopologyID(s string) (TopologyID, bool) {
	if len(s) != 36 {
		return "", false
	}
	for i, c := range []byte(s) {
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return "", false
			}
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f', c >= 'A' && c <= 'F':
		default:
			return "", false
		}
	}
	return TopologyID(strings.ToLower(s)), true
}
