// Package sse is the wire format: Server-Sent Events as the WHATWG HTML standard, section 9.2, defines them.
package sse

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"topostream/stream"
)

// Keepalive is a comment: clients ignore it, proxies see a live connection.
const Keepalive = ": keepalive\n\n"

// AppendFrame appends one event. id 0 leaves the id out. data may be anything: each of its lines becomes a data line.
func AppendFrame(dst []byte, event string, id stream.Seq, data []byte) []byte {
	dst = append(dst, "event: "...)
	dst = append(dst, event...)
	if id != 0 {
		dst = append(dst, "\nid: "...)
		dst = strconv.AppendUint(dst, uint64(id), 10)
	}
	for {
		dst = append(dst, "\ndata: "...)
		i := bytes.IndexAny(data, "\r\n")
		if i < 0 {
			return append(append(dst, data...), "\n\n"...)
		}
		dst = append(dst, data[:i]...)
		if data[i] == '\r' && i+1 < len(data) && data[i+1] == '\n' {
			i++
		}
		data = data[i+1:]
	}
}

// OpeningSize is room enough for what AppendOpening appends.
const OpeningSize = 48

// AppendOpening appends what a stream begins with: a comment, so that something is there at once, and the reconnection
// time in milliseconds.
func AppendOpening(dst []byte, ms int) []byte {
	dst = append(dst, ": keepalive\nretry: "...)
	return append(strconv.AppendInt(dst, int64(ms), 10), "\n\n"...)
}

// Unjournaled makes the frame of an event that is in no journal, of a topology or, without one, of the whole stream.
// payload is JSON.
func Unjournaled(id stream.TopologyID, event string, payload json.RawMessage, now time.Time) stream.Frame {
	topic := event
	if id != "" {
		topic = "topology." + string(id) + "." + event
	}
	var data bytes.Buffer
	data.WriteString(`{"topic":"` + topic + `","type":"` + event + `","ts":"` +
		now.UTC().Format("2006-01-02T15:04:05.000000Z") + `","journaled":false,"payload":`)
	data.Write(payload)
	data.WriteByte('}')
	return stream.Frame{Bytes: AppendFrame(nil, event, 0, data.Bytes())}
}

// Reason makes the frame of an event whose payload is {"reason"}: unavailable, token_expired.
func Reason(id stream.TopologyID, event, reason string, now time.Time) stream.Frame {
	return unjournaled(id, event, ending{Reason: reason}, now)
}

// Unavailable makes the frame that ends a topology's part of a stream: {"topology_id","reason"}.
func Unavailable(id stream.TopologyID, reason string, now time.Time) stream.Frame {
	return unjournaled(id, "unavailable", ending{id, reason}, now)
}

// Gone makes the frame that ends the part of a topology that is not there: deleted, with {"topology_id"}.
func Gone(id stream.TopologyID, now time.Time) stream.Frame {
	return unjournaled(id, stream.TypeDeleted, ending{Topology: id}, now)
}

// ending is the payload of what ends a stream, or a part of it.
type ending struct {
	Topology stream.TopologyID `json:"topology_id,omitempty"`
	Reason   string            `json:"reason,omitempty"`
}

func unjournaled(id stream.TopologyID, event string, payload ending, now time.Time) stream.Frame {
	text, err := json.Marshal(payload)
	if err != nil {
		panic(err) // strings always marshal
	}
	return Unjournaled(id, event, text, now)
}

// reserved names mean something to EventSource or to this program.
func reserved(event string) bool {
	switch event {
	case "error", "open", "message", "snapshot", stream.TypeDeleted, "unavailable", "token_expired", "notify",
		"list", "topology", "removed":
		return true
	}
	return false
}

// RawNotify makes the frame of a NOTIFY that somebody typed. A JSON object with a string "type" is an event of that
// type with its "payload"; any other text, a malformed and a reserved type become event notify with the text as
// payload.
func RawNotify(id stream.TopologyID, text string, now time.Time) stream.Frame {
	text = strings.ToValidUTF8(text, "\uFFFD")
	var (
		object map[string]json.RawMessage
		event  *string
	)
	if json.Unmarshal([]byte(text), &object) == nil && json.Unmarshal(object["type"], &event) == nil &&
		event != nil && stream.ValidType(*event) && !reserved(*event) {
		payload := json.RawMessage("null")
		if p, ok := object["payload"]; ok {
			var compact bytes.Buffer
			if json.Compact(&compact, p) == nil {
				payload = compact.Bytes()
			}
		}
		return Unjournaled(id, *event, payload, now)
	}
	payload, err := json.Marshal(text)
	if err != nil {
		panic(err) // a string always marshals
	}
	return Unjournaled(id, "notify", payload, now)
}
