package stream

import (
	"slices"
	"time"
)

// Role says what a principal may do. An admin may do what a viewer may.
type Role string

// The two roles.
const (
	RoleViewer Role = "viewer"
	RoleAdmin  Role = "admin"
)

// Principal is who a request speaks for, as its token says.
type Principal struct {
	Subject    string
	Role       Role
	Topologies []TopologyID // nil: all
	Expires    time.Time
	Ambient    bool // a browser sends the credential by itself, a cookie: whose page asks is another question
}

// May tells whether the principal may do what role may.
func (p Principal) May(role Role) bool { return p.Role == RoleAdmin || p.Role == role }

// Sees tells whether the principal's token covers the topology, existing or not.
func (p Principal) Sees(id TopologyID) bool {
	return p.Topologies == nil || slices.Contains(p.Topologies, id)
}

// A RefusedError says of which kind an error is for which a request has no principal.
type RefusedError struct {
	Why Cause // RefusedMissing …
	Err error // for the log
}

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap gives what it was.
func (e *RefusedError) Unwrap() error { return e.Err }
