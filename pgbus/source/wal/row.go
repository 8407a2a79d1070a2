package wal

import (
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/jackc/pglogrepl"
)

// A Row is a row of the journal in PostgreSQL's text form. Whoever gets it may keep its slices.
type Row struct {
	XID      uint32 // of the transaction, its lower half (an xid8 has an epoch above it)
	Topology []byte // the uuid's text
	Seq      uint64
	Type     []byte

	payload []byte // jsonb's text; nil: NULL
	at      []byte // timestamptz's text, in UTC
}

// JSON is what the SQL function topology_event_json makes of the row, byte for byte; false for a time that this does
// not know how to write (infinity, or a year that is not four digits).
func (r Row) JSON() (string, bool) {
	const room = 512 // for all but the payload
	b := make([]byte, 0, room+len(r.payload))
	b = append(b, `{"topic":"topology.`...)
	b = append(b, r.Topology...)
	b = append(b, '.')
	b = append(b, r.Type...)
	b = append(b, `","type":"`...)
	b = append(b, r.Type...)
	b = append(b, `","ts":"`...)
	b, ok := appendTime(b, r.at)
	if !ok {
		return "", false
	}
	b = append(b, `","seq":`...)
	b = strconv.AppendUint(b, r.Seq, 10)
	b = append(b, `,"journaled":true,"payload":`...)
	if r.payload == nil {
		b = append(b, "null"...)
	} else {
		b = append(b, r.payload...)
	}
	return string(append(b, '}')), true
}

// appendTime turns 2026-01-02 03:04:05.67+00 into 2026-01-02T03:04:05.670000Z.
func appendTime(b, at []byte) ([]byte, bool) {
	t, err := time.Parse("2006-01-02 15:04:05-07", string(at)) // which takes a fraction, too
	return t.UTC().AppendFormat(b, "2006-01-02T15:04:05.000000Z"), err == nil
}

// columns are the indexes of the journal's columns in the tuples of a relation.
type columns struct {
	journal                          bool // the relation is topology_events; else there are none
	topology, seq, kind, payload, at int
}

func columnsOf(m *pglogrepl.RelationMessage) (columns, error) {
	if m.RelationName != "topology_events" {
		return columns{}, nil // somebody has added a table to the publication
	}
	c := columns{journal: true}
	for name, place := range map[string]*int{
		"topology_id": &c.topology, "seq": &c.seq, "type": &c.kind, "payload": &c.payload, "at": &c.at,
	} {
		*place = slices.IndexFunc(m.Columns, func(column *pglogrepl.RelationMessageColumn) bool {
			return column.Name == name
		})
		if *place < 0 {
			return c, fmt.Errorf(
				"the publication does not hold the column %s of topology_events: publish the whole table", name)
		}
	}
	return c, nil
}

// row reads a tuple of topology_events.
func (c columns) row(tuple []*pglogrepl.TupleDataColumn) (Row, error) {
	if most := max(c.topology, c.seq, c.kind, c.payload, c.at); len(tuple) <= most {
		return Row{}, fmt.Errorf("a row of topology_events has %d columns, want %d", len(tuple), most+1)
	}
	seq, err := strconv.ParseUint(string(tuple[c.seq].Data), 10, 64)
	if err != nil {
		return Row{}, fmt.Errorf("topology_events.seq: %w", err)
	}
	r := Row{Topology: tuple[c.topology].Data, Seq: seq, Type: tuple[c.kind].Data, at: tuple[c.at].Data}
	if p := tuple[c.payload]; p.DataType != pglogrepl.TupleDataTypeNull {
		r.payload = p.Data
	}
	return r, nil
}
