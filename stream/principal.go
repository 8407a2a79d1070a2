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
	Ambient    bool // the credential is a cookie, which a browser sends by itself, whichever page makes the request
}

// May tells whether the principal may do what role may.
func (p Principal) May(role Role) bool { return p.Role == RoleAdmin || p.Role == role }

// Sees tells whether the principal's token covers the topology, existing or not.
func (p Principal) Sees(id TopologyID) bool {
	return p.Topologies == nil || slices.Contains(p.Topologies, id)
}

// A RefusedError is why a request has no principal.
type RefusedError struct {
	Why Cause // RefusedMissing and the others: by this refusals are counted
	Err error // for the log
}

func (e *RefusedError) Error() string { return e.Err.Error() }

// Unwrap gives what it was.
func (e *RefusedError) Unwrap() error { return e.Err }
