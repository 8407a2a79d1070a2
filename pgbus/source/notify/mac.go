package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"

	"topostream/pgbus/source"
	"topostream/stream"
)

// macLength is the number of hex digits of a MAC: the first 16 bytes of an HMAC-SHA-256 (RFC 2104).
const macLength = 32

// parse reads one of the triggers' own notifications: "~<MAC>:<seq>" or, where the event is small enough,
// "~<MAC>:<seq> <json>". The MAC is over "<id>:<seq>[ <json>]" with the key that only the triggers and the server can
// read; a text whose MAC is wrong was typed by somebody. PostgreSQL delivers notifications to whoever LISTENs, so a
// MAC proves only that somebody with the key wrote it, once. JSON that the encoder would not have made, and the event
// that ends a stream, are left to the journal.
func parse(key []byte, id stream.TopologyID, payload string) (source.Event, bool) {
	if len(payload) < macLength+3 || payload[0] != '~' || payload[macLength+1] != ':' {
		return source.Event{}, false
	}
	given, message := payload[1:macLength+1], payload[macLength+2:]
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(string(id) + ":" + message))
	if want := hex.EncodeToString(mac.Sum(nil))[:macLength]; !hmac.Equal([]byte(want), []byte(given)) {
		return source.Event{}, false
	}
	number, event, _ := strings.Cut(message, " ")
	seq, ok := stream.ParseSeq(number)
	e := source.Event{Topology: id, Seq: seq}
	if kind := typeOf(id, event); stream.ValidType(kind) && kind != "deleted" && encoded(event, kind, seq) {
		e.Type, e.JSON = kind, func() (string, bool) { return event, true }
	}
	return e, ok
}

// typeOf takes the type out of the encoder's JSON, which begins {"topic":"topology.<id>.<type>".
func typeOf(id stream.TopologyID, event string) string {
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
	return len(rest) > ts && json.Valid([]byte(event)) &&
		strings.HasPrefix(rest[ts:], `,"seq":`+seq.String()+`,"journaled":true,"payload":`)
}
