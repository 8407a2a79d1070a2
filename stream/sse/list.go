package sse

import (
	"encoding/json"

	"topostream/stream"
)

// pageRows are the most rows of one frame of the list.
const pageRows = 500

// AppendList appends the frames of a list: {"data":[row, …],"more":bool}, of at most 500 rows each, one at least.
func AppendList(dst []byte, rows [][]byte) []byte {
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

// ListSize is how many bytes AppendList makes of so many rows that have so many bytes together, at most.
func ListSize(rows int, bytes int64) int64 {
	const frame = len("event: list\ndata: {\"data\":[],\"more\":false}\n\n")
	return bytes + int64(rows) + int64(frame*(1+rows/pageRows))
}

// Row makes the frame of a row of the list that is new, or has changed. row is its JSON, on one line.
func Row(row []byte) []byte { return AppendFrame(nil, "topology", 0, row) }

// Removed makes the frame of a row that is gone.
func Removed(id stream.TopologyID) []byte {
	body, err := json.Marshal(struct {
		ID stream.TopologyID `json:"id"`
	}{id})
	if err != nil {
		panic(err) // a string always marshals
	}
	return AppendFrame(nil, "removed", 0, body)
}
