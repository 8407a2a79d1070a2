package api

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"
)

// A slowReader takes a megabyte, then a rest.
type slowReader struct {
	r    io.Reader
	read int
}

func (s *slowReader) Read(b []byte) (int, error) {
	n, err := s.r.Read(b)
	if s.read += n; s.read > 1<<20 {
		s.read = 0
		<-time.After(50 * time.Millisecond) // a slow line
	}
	return n, err
}

func TestALargeAnswerEndsWhereNobodyReadsItAndIsWholeWhereSomebodyDoesSlowly(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it takes as long as a slow line: the short form is TestAnAnswerThatNobodyReadsGivesItsMemoryBack…")
	}
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			const size = 64 << 20 // far more than the sockets' buffers hold
			ended := make(chan error, 1)
			s := New(Config{WriteTimeout: time.Second})
			server := httptest.NewUnstartedServer(s.paced(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				n, err := w.Write(bytes.Repeat([]byte{'x'}, size))
				if (n == size) != (err == nil) {
					t.Errorf("%d bytes written, and %v", n, err)
				}
				ended <- err
			})))
			server.EnableHTTP2 = protocol == "HTTP/2.0"
			server.StartTLS()
			defer server.Close()
			get := func() *http.Response {
				res, err := server.Client().Get(server.URL)
				if err != nil {
					t.Fatal(err)
				}
				if res.Proto != protocol {
					t.Errorf("it speaks %s", res.Proto)
				}
				return res
			}
			stuck := get()
			if err := <-ended; !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("nobody read, and the handler ended with %v", err)
			}
			_ = stuck.Body.Close() // nobody has read it
			res := get()
			defer func() { _ = res.Body.Close() }() // it is read
			begun := time.Now()
			if n, err := io.Copy(io.Discard, &slowReader{r: res.Body}); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			if took := time.Since(begun); took < s.cfg.WriteTimeout {
				t.Errorf("%s is less than a write timeout: the test shows nothing", took)
			}
			if err := <-ended; err != nil {
				t.Error(err)
			}
		})
	}
}
