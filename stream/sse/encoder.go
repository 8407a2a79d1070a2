package sse

import (
	"bytes"
	"strings"
	"time"

	"topostream/stream"
)

// Encoder makes frames. Its zero value is ready.
type Encoder struct{}

var _ stream.Encoder = Encoder{}

// replacement stands for what is no UTF-8.
const replacement = "\uFFFD"

// framing is the most bytes that a frame of one data line has beside its type and its data.
const framing = len("event: \nid: 18446744073709551615\ndata: \n\n")

// Event implements stream.Encoder.
func (Encoder) Event(e stream.Event) stream.Frame {
	data := []byte(strings.ToValidUTF8(e.JSON, replacement))
	return stream.Frame{
		Seq: e.Seq, Final: e.Type == stream.TypeDeleted, At: e.RecordedAt(),
		Bytes: AppendFrame(make([]byte, 0, framing+len(e.Type)+len(data)), e.Type, e.Seq, data),
	}
}

// Raw implements stream.Encoder. A JSON object with a string "type" is an event of that type with its "payload"; any
// other text, a malformed and a reserved type become event notify with the text as payload.
func (Encoder) Raw(id stream.TopologyID, text string, at time.Time) stream.Frame {
	return RawNotify(id, text, at)
}

// Snapshot implements stream.Encoder.
func (Encoder) Snapshot(seq stream.Seq, document []byte) []byte {
	const event = "snapshot"
	document = bytes.ToValidUTF8(document, []byte(replacement))
	return AppendFrame(make([]byte, 0, framing+len(event)+len(document)), event, seq, document)
}
