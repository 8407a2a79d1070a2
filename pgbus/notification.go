package pgbus

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"topostream/stream"
)

// markLength is the number of hex digits of a mark: the first 16 bytes of an HMAC-SHA-256.
const markLength = 32

// A hint is what one of the triggers' own notifications says: the topology has an event seq, and, if it was small enough,
// its JSON. PostgreSQL delivers it to whoever LISTENs, so its mark proves only that somebody with the key wrote it, once.
type hint struct {
	seq   stream.Seq
	kind  string // the event's type
	event string // the encoder's JSON; empty: read it from the journal
}

// parseHint reads "~<mark>:<seq>" or "~<mark>:<seq> <json>". The mark is an HMAC over "<id>:<seq>[ <json>]" with the key
// that only the triggers and the server can read; a text whose mark is wrong was typed by somebody and is no hint.
// JSON that the encoder would not have made, and the event that ends a stream, are left to the journal.
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
	h := hint{seq: seq}
	if kind := eventType(id, event); stream.ValidType(kind) && kind != "deleted" && encoded(event, kind, seq) {
		h.kind, h.event = kind, event
	}
	return h, ok
}

// eventType takes the type out of the encoder's JSON, which begins {"topic":"topology.<id>.<type>".
func eventType(id stream.TopologyID, event string) string {
	rest, ok := strings.CutPrefix(event, `{"topic":"topology.`+string(id)+".")
	if !ok {
		return ""
	}
	kind, _, _ := strings.Cut(rest, `"`)
	return kind
}

// encoded tells whether event reads as the encoder's JSON of that type and seq.
func encoded(event, kind string, seq stream.Seq) bool {
	const ts = len(`"2006-01-02T15:04:05.000000Z"`)
	_, rest, _ := strings.Cut(event, `","type":"`+kind+`","ts":`)
	return len(rest) > ts && strings.HasPrefix(rest[ts:], `,"seq":`+seq.String()+`,"journaled":true,"payload":`) && json.Valid([]byte(event))
}
