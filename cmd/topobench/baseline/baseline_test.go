//go:build linux

package baseline

import (
	"bufio"
	"fmt"
	"io"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"topostream/cmd/topobench/fleet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start serves until the test ends, and gives the address and a way to send events.
func start(t *testing.T, kind string) (url string, send io.Writer) {
	t.Helper()
	in, send, out, told := pipe(t)
	ended := make(chan error, 1)
	go func() { ended <- Serve(t.Context(), Config{kind, 500}, in, out) }()
	t.Cleanup(func() {
		closer, _ := send.(io.Closer)
		if err := closer.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	addr, err := told.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return "http://" + strings.TrimSpace(addr), send
}

func pipe(t *testing.T) (in io.Reader, send io.WriteCloser, out io.Writer, told *bufio.Reader) {
	t.Helper()
	in, send = io.Pipe()
	r, out := io.Pipe()
	return in, send, out, bufio.NewReader(r)
}

func TestEachKindSendsEachEventToEachClientOnce(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{Write, HTTP, Hijack} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			url, send := start(t, kind)
			stamps := fleet.NewStamps(1)
			f, err := fleet.New(fleet.Config{Spec: fleet.Spec{URL: url, Snapshot: "snapshot", Numbered: true},
				Topologies: []string{"x"}, Stamps: stamps})
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.Connect(t.Context(), 50); err != nil {
				t.Fatal(err)
			}
			for range 100 {
				m := fleet.Mark{Serial: stamps.Next(0), Nanos: 1}
				if _, err := fmt.Fprintf(send, "{%q}\n", m.Append(nil)); err != nil {
					t.Fatal(err)
				}
			}
			if err := f.Await(t.Context(), 50*100); err != nil {
				t.Fatal(err)
			}
			if err := f.Broken(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestADocumentHasItsSize(t *testing.T) {
	t.Parallel()
	if n := len(Document(500)); n != 500 {
		t.Error(n)
	}
	if err := Serve(t.Context(), Config{Kind: "x"}, nil, nil); err == nil {
		t.Error("no kind is no error")
	}
}
