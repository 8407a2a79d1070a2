package fleet

import "bytes"

// An sseSplitter cuts a stream into frames, whatever parts it comes in. Lines end with LF or CRLF; a CR alone, which
// the specification allows and no server sends, is not understood.
type sseSplitter struct {
	rest    []byte // of a frame whose end has not come
	scanned int    // of rest: no frame ends before
}

// next gives a frame with the blank line that ends it, and what of p follows; a nil frame asks for more. The frame is
// good until the next call.
func (s *sseSplitter) next(p []byte) (frame, after []byte) {
	if len(s.rest) == 0 {
		if end := frameEnd(p, 0); end > 0 {
			return p[:end], p[end:]
		}
		if cap(s.rest) > keepBuffer && len(p) < keepBuffer {
			s.rest = nil
		}
		s.rest, s.scanned = append(s.rest, p...), max(0, len(p)-3)
		return nil, nil
	}
	s.rest = append(s.rest, p...)
	end := frameEnd(s.rest, s.scanned)
	if end == 0 {
		s.scanned = len(s.rest) - 3
		return nil, nil
	}
	whole := s.rest
	s.rest, s.scanned = s.rest[:0], 0
	return whole[:end], whole[end:]
}

// keepBuffer is what a client keeps of its buffer while it holds nothing.
const keepBuffer = 16 << 10

// frameEnd is behind the first blank line of b that ends at from or later; 0: there is none.
func frameEnd(b []byte, from int) int {
	for at := max(0, from); ; {
		i := bytes.IndexByte(b[at:], '\n')
		if i < 0 {
			return 0
		}
		at += i + 1
		switch {
		case at == 1, at == 2 && b[0] == '\r': // it begins with a blank line
			return at
		case at < len(b) && b[at] == '\n':
			return at + 1
		case at+1 < len(b) && b[at] == '\r' && b[at+1] == '\n':
			return at + 2
		}
	}
}

// An sseFrame is what of a frame a client looks at.
type sseFrame struct {
	event, id []byte
	data      bool // false: comments and fields alone, which a browser does not dispatch
}

func parseFrame(frame []byte) (f sseFrame) {
	for len(frame) > 0 {
		line, rest, _ := bytes.Cut(frame, []byte{'\n'})
		frame = rest
		name, value, _ := bytes.Cut(bytes.TrimSuffix(line, []byte{'\r'}), []byte{':'})
		value = bytes.TrimPrefix(value, []byte{' '})
		switch string(name) {
		case "event":
			f.event = value
		case "id":
			f.id = value
		case "data":
			f.data = true
		}
	}
	return f
}
