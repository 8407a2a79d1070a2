package check

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// A frame is one block of a stream up to its blank line. Its byte slices are good until the next read.
type frame struct {
	event []byte // empty: the block has none, as comments and `retry:` alone do
	id    uint64
	hasID bool
	data  []byte
	retry int // milliseconds; 0: none
}

// A tornError is a block that no server of ours could have meant: the bytes are not what was sent, or not all of it.
type tornError struct{ what string }

func (e *tornError) Error() string { return e.what }

func torn(format string, args ...any) error { return &tornError{fmt.Sprintf(format, args...)} }

// maxLine bounds a line: 16 MiB of event and some.
const maxLine = 17 << 20

// A frameReader reads frames more strictly than the HTML standard asks of a browser (section 9.2.6): a browser ignores
// fields that it does not know and takes the last of two, which is just what hides a torn frame.
type frameReader struct {
	r    *bufio.Reader
	line []byte
	f    frame
	data []byte
}

func newFrameReader(r io.Reader) *frameReader { return &frameReader{r: bufio.NewReaderSize(r, 32<<10)} }

// next reads a frame. io.EOF comes only between two frames; an orderly end within one is a *tornError. Other errors are
// the connection's.
func (r *frameReader) next() (*frame, error) {
	r.f = frame{}
	r.data = r.data[:0]
	var lines, datas, events int
	for {
		line, err := r.readLine()
		switch {
		case errors.Is(err, io.EOF) && (lines > 0 || len(line) > 0):
			return nil, torn("the stream ended within a frame, after %q", short(line))
		case err != nil:
			return nil, err
		case len(line) == 0 && lines == 0:
			return nil, torn("a blank line with nothing before it")
		case len(line) == 0:
			return r.whole(datas, events)
		}
		lines++
		if line[0] == ':' {
			continue
		}
		name, value, ok := bytes.Cut(line, []byte(": "))
		if !ok {
			return nil, torn("%q is no line of a stream", short(line))
		}
		switch string(name) {
		case "event":
			events++
			r.f.event = append(r.f.event, value...)
		case "id":
			n, err := strconv.ParseUint(string(value), 10, 53)
			if err != nil || r.f.hasID {
				return nil, torn("id %q is no number, or the second of its frame", short(value))
			}
			r.f.id, r.f.hasID = n, true
		case "data":
			if datas > 0 {
				r.data = append(r.data, '\n')
			}
			datas++
			r.data = append(r.data, value...)
		case "retry":
			n, err := strconv.Atoi(string(value))
			if err != nil || n < 0 || r.f.retry != 0 {
				return nil, torn("retry %q is no time, or the second of its frame", short(value))
			}
			r.f.retry = n
		default:
			return nil, torn("%q is no line of a stream", short(line))
		}
	}
}

func (r *frameReader) whole(datas, events int) (*frame, error) {
	switch {
	case events > 1:
		return nil, torn("two events in one frame: %q", short(r.f.event))
	case events == 0 && (datas > 0 || r.f.hasID):
		return nil, torn("a frame without the name of its event: id %d, data %q", r.f.id, short(r.data))
	case events == 1 && datas == 0:
		return nil, torn("event %q has no data", short(r.f.event))
	}
	r.f.data = r.data
	return &r.f, nil
}

// readLine gives a line without its end.
func (r *frameReader) readLine() ([]byte, error) {
	r.line = r.line[:0]
	for {
		part, err := r.r.ReadSlice('\n')
		r.line = append(r.line, part...)
		switch {
		case errors.Is(err, bufio.ErrBufferFull) && len(r.line) <= maxLine:
			continue
		case errors.Is(err, bufio.ErrBufferFull):
			return nil, torn("a line of more than %d bytes", maxLine)
		case err != nil:
			return r.line, err
		}
		return bytes.TrimSuffix(r.line[:len(r.line)-1], []byte("\r")), nil
	}
}

func short(b []byte) []byte { return b[:min(len(b), 100)] }
