package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"
)

// A reader reads a stream from a socket, as fast as it can and with little memory of its own.
type reader struct {
	net.Conn

	lines *bufio.Reader
	last  uint64
}

const window = 64 << 10

// dial asks for a stream and reads nothing yet. HTTP/1.0, so that the answer is not in chunks.
func dial(address, path, token string, last uint64) (*reader, error) {
	// A small window, set before the connection is made: what lies in the kernel's buffers is no part of what is
	// measured.
	dialer := net.Dialer{Control: func(_, _ string, c syscall.RawConn) error {
		return c.Control(
			// a larger one does no harm
			func(fd uintptr) { _ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, window) })
	}}
	conn, err := dialer.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	header := ""
	if last > 0 {
		header = fmt.Sprintf("Last-Event-ID: %d\r\n", last)
	}
	_, err = fmt.Fprintf(conn,
		"GET %s HTTP/1.0\r\nHost: x\r\nAuthorization: Bearer %s\r\nAccept: text/event-stream\r\n%s\r\n", path, token, header)
	return &reader{conn, bufio.NewReaderSize(conn, 32<<10), last}, err
}

// until reads up to the event n and fails on any that is not last+1.
func (r *reader) until(n uint64) error {
	snapshot := false
	for r.last < n {
		line, err := r.lines.ReadSlice('\n')
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue // of a long data line
		case err != nil:
			return fmt.Errorf("after %d: %w", r.last, err)
		}
		if bytes.Equal(line, []byte("event: snapshot\n")) {
			snapshot = true
		}
		if id, ok := bytes.CutPrefix(line, []byte("id: ")); ok {
			seq, err := strconv.ParseUint(string(bytes.TrimSpace(id)), 10, 64)
			if err != nil || seq != r.last+1 && !snapshot {
				return fmt.Errorf("%d came after %d, %w", seq, r.last, err)
			}
			r.last, snapshot = seq, false
		}
	}
	return nil
}
