package fleet

import (
	"bytes"
	"errors"
	"strings"
)

// chunks takes the chunked transfer coding (RFC 9112, section 7.1) off a body that comes in any parts.
type chunks struct {
	state chunkState
	left  int // bytes of the chunk that have not come
	line  int // bytes of the line with the size that have come
}

type chunkState uint8

const (
	chunkSize      chunkState = iota // the hexadecimal digits
	chunkExtension                   // the rest of that line
	chunkData
	chunkEnd // the line's end behind the data
	chunkLast
)

var (
	errBadChunk = errors.New("the body's chunked coding is damaged")
	errLast     = errors.New("the server ended the stream")
)

// next gives what of the body p begins with, and what of p follows. errLast says that the body has ended.
func (c *chunks) next(p []byte) (data, after []byte, err error) {
	for len(p) > 0 {
		switch c.state {
		case chunkSize:
			if p, err = c.size(p); err != nil {
				return nil, nil, err
			}
		case chunkExtension, chunkEnd:
			end := bytes.IndexByte(p, '\n')
			if end < 0 {
				return nil, nil, nil
			}
			p = p[end+1:]
			c.lineEnded()
		case chunkData:
			data, p = p[:min(len(p), c.left)], p[min(len(p), c.left):]
			if c.left -= len(data); c.left == 0 {
				c.state = chunkEnd
			}
			return data, p, nil
		case chunkLast:
			return nil, nil, errLast
		}
	}
	if c.state == chunkLast {
		return nil, nil, errLast
	}
	return nil, nil, nil
}

func (c *chunks) lineEnded() {
	switch {
	case c.state == chunkEnd:
		c.state, c.line = chunkSize, 0
	case c.left == 0:
		c.state = chunkLast
	default:
		c.state = chunkData
	}
}

// size reads digits.
func (c *chunks) size(p []byte) (after []byte, err error) {
	for i, b := range p {
		digit := strings.IndexByte("0123456789abcdef", b|0x20)
		switch {
		case b >= '0' && b <= '9', digit >= 10:
			if c.line++; c.line > 8 {
				return nil, errBadChunk
			}
			c.left = c.left<<4 | digit
		case c.line == 0:
			return nil, errBadChunk
		default:
			c.state = chunkExtension
			return p[i:], nil
		}
	}
	return nil, nil
}
