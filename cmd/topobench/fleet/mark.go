package fleet

import (
	"bytes"
	"errors"
	"strconv"
)

// A Mark stands in the payload of each event: bench#<serial>#<when it was published, Unix time in ns>#. No encoding of
// JSON changes a byte of it.
type Mark struct {
	Serial uint64 // of the event in its topology, from 1 on
	Nanos  int64
}

const markBegin = "bench#"

var errBadMark = errors.New("a mark of an event is damaged")

// Append appends the mark's text.
func (m Mark) Append(b []byte) []byte {
	b = append(b, markBegin...)
	b = strconv.AppendUint(b, m.Serial, 10)
	b = append(b, '#')
	b = strconv.AppendInt(b, m.Nanos, 10)
	return append(b, '#')
}

// NextMark finds the first mark in b, and gives what follows it; found is false where there is none.
func NextMark(b []byte) (m Mark, rest []byte, found bool, err error) {
	_, rest, found = bytes.Cut(b, []byte(markBegin))
	if !found {
		return m, nil, false, nil
	}
	serial, rest, ok := number(rest)
	if !ok {
		return m, nil, false, errBadMark
	}
	nanos, rest, ok := number(rest)
	if !ok {
		return m, nil, false, errBadMark
	}
	return Mark{serial, int64(nanos)}, rest, true, nil
}

// number reads digits up to a #.
func number(b []byte) (n uint64, rest []byte, ok bool) {
	for i, c := range b {
		switch {
		case c == '#':
			return n, b[i+1:], i > 0
		case c < '0' || c > '9' || i > 18:
			return 0, nil, false
		}
		n = n*10 + uint64(c-'0')
	}
	return 0, nil, false
}
