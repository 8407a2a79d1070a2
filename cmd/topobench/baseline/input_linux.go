package baseline

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// An input is lines that come through a descriptor that epoll can watch.
type input struct {
	fd     int
	rest   []byte
	buffer []byte
	pipe   *os.File // through which what is no file comes; nil: none
}

func newInput(in io.Reader) (*input, error) {
	i := &input{buffer: make([]byte, 64<<10)}
	f, ok := in.(*os.File)
	if !ok {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, err
		}
		go func() {
			_, _ = io.Copy(w, in) // its end is the input's
			_ = w.Close()         // nothing is buffered
		}()
		i.pipe, f = r, r
	}
	i.fd = int(f.Fd())
	if err := unix.SetNonblock(i.fd, true); err != nil {
		return nil, fmt.Errorf("the input: %w", err)
	}
	return i, nil
}

func (i *input) close() {
	if i.pipe != nil {
		_ = i.pipe.Close() // nobody reads it any more
	}
}

// lines gives each line that has come. io.EOF is the end.
func (i *input) lines(each func(line []byte)) error {
	for {
		n, err := unix.Read(i.fd, i.buffer)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return fmt.Errorf("the input: %w", err)
		case n == 0:
			return io.EOF
		}
		i.rest = append(i.rest, i.buffer[:n]...)
		for {
			line, after, found := bytes.Cut(i.rest, []byte{'\n'})
			if !found {
				break
			}
			each(line)
			i.rest = after
		}
	}
}
