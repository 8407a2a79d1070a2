// Package baseline is the least that a server of streams could be: what a measurement's figures are compared with. Each
// kind takes any GET for a subscription, answers with a document, and sends each line of its input to all clients.
package baseline

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Kinds of servers.
const (
	Write  = "write"  // one goroutine over epoll that sends each event to each socket by one write(2)
	HTTP   = "http"   // net/http with a goroutine for each client
	Hijack = "hijack" // net/http that hijacks each connection after its request
)

// Config says what to serve.
type Config struct {
	Kind     string
	Document int // bytes of the document, about
}

// Serve prints its address, then serves until the end of in.
func Serve(ctx context.Context, cfg Config, in io.Reader, out io.Writer) error {
	document := Document(cfg.Document)
	switch cfg.Kind {
	case Write:
		return serveWrite(document, in, out)
	case HTTP:
		return serveHTTP(ctx, &keeper{document: document, wake: make(chan struct{})}, in, out)
	case Hijack:
		return serveHTTP(ctx, &hijacker{document: document}, in, out)
	}
	return fmt.Errorf("%q is no kind of bare server: write, http or hijack", cfg.Kind)
}

// Document is the frame that a client gets first, of about so many bytes.
func Document(size int) []byte {
	const around = len("event: snapshot\nid: 0\ndata: {}\n\n")
	return []byte("event: snapshot\nid: 0\ndata: {" + strings.Repeat(" ", max(0, size-around)) + "}\n\n")
}

// AppendFrame appends an event's frame.
func AppendFrame(b []byte, id uint64, payload []byte) []byte {
	b = append(b, "event: bench\nid: "...)
	b = strconv.AppendUint(b, id, 10)
	b = append(b, "\ndata: "...)
	b = append(b, payload...)
	return append(b, "\n\n"...)
}

// maxLine is more than a payload has.
const maxLine = 1 << 20

// A broadcaster is a handler that sends a frame to all clients.
type broadcaster interface {
	http.Handler
	broadcast(frame []byte)
	close()
}

func serveHTTP(ctx context.Context, h broadcaster, in io.Reader, out io.Writer) error {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(out, l.Addr()); err != nil {
		return err
	}
	server := &http.Server{Handler: h} //nolint:gosec // its clients are ours
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, maxLine)
	for id := uint64(1); lines.Scan(); id++ {
		h.broadcast(AppendFrame(nil, id, lines.Bytes()))
	}
	h.close()
	err = errors.Join(lines.Err(), server.Close())
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

// A keeper is [HTTP]: all frames, of which each client sends those that it has not sent.
type keeper struct {
	document []byte

	mu     sync.Mutex
	first  int // of frames
	frames [][]byte
	wake   chan struct{} // closed by the next frame
	ended  bool
}

// keptFrames is how far a client may be behind, at least; a keeper ends the answer of one that is further.
const keptFrames = 1 << 14

func (k *keeper) broadcast(frame []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.frames = append(k.frames, frame); len(k.frames) > 2*keptFrames {
		k.first += keptFrames
		k.frames = append([][]byte{}, k.frames[keptFrames:]...)
	}
	close(k.wake)
	k.wake = make(chan struct{})
}

func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ended = true
	close(k.wake)
	k.wake = make(chan struct{})
}

// next is the number of the frame that comes next.
func (k *keeper) next() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.first + len(k.frames)
}

// after gives the frames from n on; ended is true where there will be none, or they are not kept any more.
func (k *keeper) after(n int) (frames [][]byte, wake <-chan struct{}, ended bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n < k.first {
		return nil, nil, true
	}
	return k.frames[n-k.first:], k.wake, k.ended
}

func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	at := k.next()
	w.Header().Set("Content-Type", "text/event-stream")
	_, err := w.Write(k.document)
	for flush := http.NewResponseController(w); err == nil; {
		if err = flush.Flush(); err != nil {
			return
		}
		frames, wake, ended := k.after(at)
		for _, f := range frames {
			if _, err = w.Write(f); err != nil {
				return
			}
		}
		if at += len(frames); len(frames) > 0 {
			continue
		}
		if ended {
			return
		}
		select {
		case <-wake:
		case <-r.Context().Done():
			return
		}
	}
}

// A hijacker is [Hijack].
type hijacker struct {
	document []byte

	mu    sync.Mutex
	conns []net.Conn
}

const head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n" +
	"Connection: close\r\n\r\n"

func (h *hijacker) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	h.mu.Lock()
	h.conns = append(h.conns, conn)
	h.mu.Unlock()
	_, _ = conn.Write(append([]byte(head), h.document...)) // a client may have gone
}

func (h *hijacker) broadcast(frame []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		_, _ = c.Write(frame) // a client may have gone
	}
}

func (h *hijacker) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.conns {
		_ = c.Close() // a client may have gone
	}
}
