package pgbus

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"

	"topostream/stream"
)

// markLength is the number of hex digits of a mark: the first 16 bytes of an HMAC-SHA-256.
const markLength = 32

// A hint is what one of the triggers' own notifications says: the topology has an event seq, and, if it was small enough,
// its JSON. PostgreSQL delivers it to whoever LISTENs, so its mark proves only that a trigger wrote it, once.
type hint struct {
	seq   stream.Seq
	event string // the encoder's JSON; empty: read it from the journal
}

// parseHint reads "~<mark>:<seq>" or "~<mark>:<seq> <json>". The mark is an HMAC over "<id>:<seq>[ <json>]" with the key
// that only the triggers and the server can read; a text whose mark is wrong was typed by somebody and is no hint.
func parseHint(key []byte, id stream.TopologyID, payload string) (hint, bool) {
	if len(payload) < markLength+3 || payload[0] != '~' || payload[markLength+1] != ':' {
		return hint{}, false
	}
	mark, message := payload[1:markLength+1], payload[markLength+2:]
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(string(id) + ":" + message))
	want := hex.EncodeToString(mac.Sum(nil))[:markLength]
	if !hmac.Equal([]byte(want), []byte(mark)) {
		return hint{}, false
	}
	number, event, _ := strings.Cut(message, " ")
	seq, ok := stream.ParseSeq(number)
	return hint{seq: seq, event: event}, ok
}

// eventType takes the type out of the encoder's JSON, which begins {"topic":"topology.<id>.<type>".
func eventType(event string) string {
	const before = len(`{"topic":"topology.`) + 36 + 1
	if len(event) <= before {
		return ""
	}
	name, _, _ := strings.Cut(event[before:], `"`)
	return name
}
