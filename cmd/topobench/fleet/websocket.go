package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/gobwas/ws"
)

// A wsSplitter cuts a WebSocket's stream into messages, whatever parts it comes in. No extension is asked for.
type wsSplitter struct {
	rest    []byte // of a frame whose end has not come
	message []byte // the fragments of a message whose last one has not come

	reader bytes.Reader // of the header that is read now
	header [ws.MaxHeaderSize]byte
}

// maxMessage is more than any server sends.
const maxMessage = 64 << 20

// next gives a message or a control frame, and what of p follows; more is true where neither is complete. The payload
// is good until the next call.
func (s *wsSplitter) next(p []byte) (op ws.OpCode, payload, after []byte, more bool, err error) {
	for {
		if len(s.rest) > 0 {
			p = append(s.rest, p...)
			s.rest = p[:0]
		}
		h, size, err := s.readHeader(p)
		if err != nil {
			return 0, nil, nil, false, err
		}
		if size == 0 || len(p) < size+int(h.Length) {
			s.rest = append(s.rest[:0], p...)
			return 0, nil, nil, true, nil
		}
		payload, after = p[size:size+int(h.Length)], p[size+int(h.Length):]
		s.rest = s.rest[:0]
		switch {
		case h.OpCode.IsControl():
			return h.OpCode, payload, after, false, nil
		case h.Fin && h.OpCode != ws.OpContinuation:
			return h.OpCode, payload, after, false, nil
		}
		if h.OpCode != ws.OpContinuation {
			s.message = s.message[:0]
		}
		if s.message = append(s.message, payload...); h.Fin {
			return ws.OpText, s.message, after, false, nil
		}
		p = after
	}
}

// readHeader reads a frame's header; its size is 0 where it has not come whole.
func (s *wsSplitter) readHeader(p []byte) (h ws.Header, size int, err error) {
	s.reader.Reset(p)
	h, err = ws.ReadHeaderBuffer(&s.reader, s.header[:])
	s.reader.Reset(nil)
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return h, 0, nil
	case err != nil:
		return h, 0, fmt.Errorf("a frame's header: %w", err)
	case h.Masked:
		return h, 0, errors.New("the server masks its frames")
	case h.Length > maxMessage:
		return h, 0, fmt.Errorf("a frame of %d bytes", h.Length)
	}
	return h, ws.HeaderSize(h), nil
}

// clientFrame is a frame as a client sends it: masked.
func clientFrame(op ws.OpCode, payload []byte) ([]byte, error) {
	return ws.CompileFrame(ws.MaskFrameInPlace(ws.NewFrame(op, true, bytes.Clone(payload))))
}
