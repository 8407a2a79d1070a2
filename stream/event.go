package stream

import (
	"strings"
	"time"
)

// An Event is one change of a topology as the journal holds it.
type Event struct {
	Seq  Seq
	Type string
	JSON string // as the database's one encoder made it
}

// RecordedAt is when the event was recorded, in microseconds since 1970, as its JSON says; 0: it does not.
func (e Event) RecordedAt() int64 {
	const ts, layout = `","ts":"`, "2006-01-02T15:04:05.000000Z"
	i := strings.Index(e.JSON, ts) // of which the topic and the type before it hold no part
	if i < 0 || len(e.JSON) < i+len(ts)+len(layout) {
		return 0
	}
	at, err := time.Parse(layout, e.JSON[i+len(ts):i+len(ts)+len(layout)])
	if err != nil {
		return 0
	}
	return at.UnixMicro()
}

// TypeDeleted is the type of a topology's last event.
const TypeDeleted = "deleted"

const maxType = 64

// ValidType tells whether s is a type that a journaled event can have: parts of a-z, 0-9 and _ joined by dots, at most
// 64 characters.
func ValidType(s string) bool {
	if len(s) > maxType {
		return false
	}
	dot := true // the last character was a dot, or there is none yet
	for _, c := range []byte(s) {
		switch {
		case c == '.' && !dot:
			dot = true
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9', c == '_':
			dot = false
		default:
			return false
		}
	}
	return !dot
}

// An Encoder makes the bytes that clients get: the one place where an event becomes a frame. It has no state, and any
// goroutine may call it.
type Encoder interface {
	// Event makes the frame of a journaled event; Final where its type is TypeDeleted. The same event has the same
	// bytes whoever encodes it and however it came: a feed compares them to find what is forged. What is no UTF-8 (a
	// database in SQL_ASCII may hold it) is replaced by U+FFFD.
	Event(e Event) Frame
	// Raw makes the frame of a NOTIFY that somebody typed at that time, on the topology's channel. It has no seq, is
	// never Final, and is one event whatever the text is.
	Raw(id TopologyID, text string, at time.Time) Frame
	// Snapshot makes the bytes of a snapshot's frame: document is its JSON, and it was true at seq.
	Snapshot(seq Seq, document []byte) []byte
	// AppendList appends the frames of a list of topologies, whose rows are JSON on one line each.
	AppendList(dst []byte, rows [][]byte) []byte
	// Row makes the frame of a row of that list that is new, or has changed.
	Row(row []byte) []byte
	// Removed makes the frame of a row that is gone.
	Removed(id TopologyID) []byte
}
