package sse

import (
	"encoding/json"

	"topostream/stream"
)

// pageRows are the most rows of one frame of the list.
const pageRows = 500

// AppendList implements stream.Encoder: {"data":[row, …],"more":bool}, of at most 500 rows each, one frame at least.
func (Encoder) AppendList(dst []byte, rows [][]byte) []byte {
	for {
		page := rows[:min(len(rows), pageRows)]
		rows = rows[len(page):]
		dst = append(dst, "event: list\ndata: {\"data\":["...)
		for i, row := range page {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, row...)
		}
		if len(rows) == 0 {
			return append(dst, "],\"more\":false}\n\n"...)
		}
		dst = append(dst, "],\"more\":true}\n\n"...)
	}
}

// Row implements stream.Encoder.
func (Encoder) Row(row []byte) []byte { return AppendFrame(nil, "topology", 0, row) }

// Removed implements stream.Encoder.
func (Encoder) Removed(id stream.TopologyID) []byte {
	body, err := json.Marshal(struct {
		ID stream.TopologyID `json:"id"`
	}{id})
	if err != nil {
		panic(err) // a string always marshals
	}
	return AppendFrame(nil, "removed", 0, body)
}
