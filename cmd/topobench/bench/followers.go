package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// followers are clients of our server that count what they get, and keep nothing of it.
type followers struct {
	ctx     context.Context //nolint:containedctx // of their connections
	cancel  context.CancelCauseFunc
	all     errgroup.Group
	client  *http.Client
	made    int           // clients
	ready   atomic.Int64  // clients that have what their stream begins with
	rows    atomic.Uint64 // rows of the list and events of writers, of all clients
	closing atomic.Bool
}

func newFollowers(ctx context.Context) *followers {
	f := &followers{client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}}
	f.ctx, f.cancel = context.WithCancelCause(ctx)
	return f
}

// close ends all streams and waits for them.
func (f *followers) close() {
	f.closing.Store(true)
	f.cancel(os.ErrClosed)
	_ = f.all.Wait() // what ended one was seen, or is the close
}

// failure is why one ended.
func (f *followers) failure() error {
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	return nil
}

// follow follows a stream, which has begun when a line that holds text has come; with wait it returns then.
func (f *followers) follow(s *server, path, body, text string, wait bool) error {
	if err := f.followAll(s, path, body, text, 1); err != nil || !wait {
		return err
	}
	return f.begun(f.ctx, time.Minute)
}

// followAll follows a stream, which has begun when n lines that hold text have come. A body makes it a POST.
func (f *followers) followAll(s *server, path, body, text string, n int) error {
	method := http.MethodGet
	if body != "" {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(f.ctx, method, s.url+"/api/v1"+path, bytes.NewBufferString(body))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.token)
	f.made++
	f.all.Go(func() error {
		err := f.read(req, []byte(text), n)
		if !f.closing.Load() {
			f.cancel(fmt.Errorf("a client's stream ended: %w", err))
		}
		return err
	})
	return nil
}

func (f *followers) read(req *http.Request, text []byte, n int) error {
	res, err := f.client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return errors.New(res.Status)
	}
	var before []byte // the end of a line that is longer than the buffer
	for lines := bufio.NewReaderSize(res.Body, 8<<10); ; {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			before = append(before[:0], line[len(line)-len(text):]...)
			continue
		}
		if err != nil {
			return err
		}
		if len(before) > 0 {
			line, before = append(before, line...), nil
		}
		if bytes.Equal(line, []byte("event: topology\n")) || bytes.Equal(line, []byte("event: bench\n")) {
			f.rows.Add(1)
		}
		if n > 0 && bytes.Contains(line, text) {
			if n--; n == 0 {
				f.ready.Add(1)
			}
		}
	}
}

// begun waits until all streams have begun.
func (f *followers) begun(ctx context.Context, patience time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return eventually(ctx, "all streams to begin", func() (bool, error) {
		return f.ready.Load() == int64(f.made), f.failure()
	})
}
