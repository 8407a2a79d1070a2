package check

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Kind is what a violation is.
type Kind string

// The kinds of violations.
const (
	// Lost is an event that a client did not get, or that was committed and is not in the journal.
	Lost Kind = "lost"
	// Doubled is an event that a client got again.
	Doubled Kind = "doubled"
	// Reordered is an event that came after a later one, or before a snapshot.
	Reordered Kind = "reordered"
	// Torn are bytes that are no whole frame, or data that is no JSON.
	Torn Kind = "torn"
	// WrongSnapshot is one that is not the state at its seq, or that came where none may come.
	WrongSnapshot Kind = "wrong snapshot"
	// Altered is an event whose bytes are not the journal's.
	Altered Kind = "altered"
	// Refused is an answer after which a browser would have given up, or which no writer should get.
	Refused Kind = "refused"
	// Spliced is an event or snapshot under a number that also stands for an event of lost history.
	Spliced Kind = "spliced"
	// Stale is a row of the list that is not the table's when everything is calm.
	Stale Kind = "stale"
	// Back is a row of the list that is older than one that came before on the same connection.
	Back Kind = "back"
	// Journal is a fault of the journal itself: a gap, an event twice, one that was rolled back.
	Journal Kind = "journal"
)

// A Violation is one break of the promise.
type Violation struct {
	Kind       Kind          `json:"kind"`
	Count      uint64        `json:"count"` // events
	Client     string        `json:"client,omitempty"`
	ClientKind string        `json:"client_kind,omitempty"`
	Server     string        `json:"server,omitempty"`
	Topology   string        `json:"topology,omitempty"`
	Seq        uint64        `json:"seq,omitempty"`
	Previous   uint64        `json:"previous,omitempty"`
	At         time.Duration `json:"at"`              // since the run began, in nanoseconds
	Fault      string        `json:"fault,omitempty"` // under way, or just over
	Detail     string        `json:"detail"`
}

// String is a line of the report.
func (v Violation) String() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%-14s %8.3fs", v.Kind, v.At.Seconds())
	for _, part := range []struct{ name, value string }{
		{"", v.Client}, {"kind", v.ClientKind}, {"server", v.Server}, {"topology", v.Topology},
		{"seq", number(v.Seq)}, {"previous", number(v.Previous)}, {"fault", v.Fault},
	} {
		if part.value != "" {
			s.WriteString("  " + strings.TrimSpace(part.name+" "+part.value))
		}
	}
	if v.Count > 1 {
		fmt.Fprintf(&s, "  (%d events)", v.Count)
	}
	return s.String() + "\n    " + v.Detail
}

func number(n uint64) string {
	if n == 0 {
		return ""
	}
	if n>>32 > 0 {
		return fmt.Sprintf("%d (%d of epoch %d)", n, n&0xffffffff, n>>32)
	}
	return strconv.FormatUint(n, 10)
}

// keepViolations is how many are told one by one.
const keepViolations = 20

// violations counts all and keeps the first.
type violations struct {
	mu    sync.Mutex
	count map[Kind]uint64
	first []Violation
}

func (v *violations) add(x Violation) {
	x.Count = max(x.Count, 1)
	v.mu.Lock()
	defer v.mu.Unlock()
	v.count[x.Kind] += x.Count
	if len(v.first) < keepViolations {
		v.first = append(v.first, x)
	}
}

func (v *violations) total() (n uint64) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, c := range v.count {
		n += c
	}
	return n
}
