package api

import (
	"context"
	"net/http"
	"sync/atomic"
	"time"

	"topostream/stream"
	"topostream/stream/delivery"
)

// A frameWriter writes to one client through http.ResponseController, which serves HTTP/1.0, HTTP/1.1, HTTP/2 and TLS
// alike. It belongs to the handler's goroutine, but for cut.
type frameWriter struct {
	w       http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration
	stats   *stream.Stats
	latest  atomic.Pointer[time.Time] // nil: none yet
}

func newFrameWriter(w http.ResponseWriter, timeout time.Duration, stats *stream.Stats) *frameWriter {
	return &frameWriter{w: w, control: http.NewResponseController(w), timeout: timeout, stats: stats}
}

// headers says that a stream begins; the first write sends them.
func (f *frameWriter) headers() {
	for name, value := range streamHeaders(time.Now()) {
		f.w.Header().Set(name, value)
	}
	tellRole(f.w)
	f.w.WriteHeader(http.StatusOK)
}

// step writes what a machine says.
func (f *frameWriter) step(step delivery.Step, batch *stream.Batch) error {
	if step.Bytes != nil {
		return f.write(step.Bytes)
	}
	return f.frames(batch.Frames)
}

// frames writes a batch with one deadline and one flush.
func (f *frameWriter) frames(frames []stream.Frame) error {
	if err := f.begin(); err != nil {
		return err
	}
	size := 0
	for _, fr := range frames {
		size += len(fr.Bytes)
		if _, err := f.w.Write(fr.Bytes); err != nil {
			return err
		}
	}
	if err := f.flush(); err != nil {
		return err
	}
	f.stats.Frames.Add(float64(len(frames)))
	f.stats.FrameBytes.Add(float64(size))
	return nil
}

func (f *frameWriter) write(b []byte) error {
	if err := f.begin(); err != nil {
		return err
	}
	if _, err := f.w.Write(b); err != nil {
		return err
	}
	return f.flush()
}

// begin gives a write its deadline.
func (f *frameWriter) begin() error { return f.deadline(time.Now().Add(f.timeout)) }

// flush ends a write and its deadline: HTTP/2 resets a stream whose deadline passes, also when nothing is written then.
func (f *frameWriter) flush() error {
	if err := f.control.Flush(); err != nil {
		return err
	}
	return f.deadline(time.Time{})
}

// deadline sets the write deadline (zero: none), but never one behind the time that endBy has set.
func (f *frameWriter) deadline(next time.Time) error {
	err := f.control.SetWriteDeadline(next)
	latest := f.latest.Load() // after the call above: endBy may come between
	if latest != nil && (next.IsZero() || latest.Before(next)) {
		err = f.control.SetWriteDeadline(*latest)
	}
	return err
}

// endBy ends a write that is blocked, and all that follow, at a time. Any goroutine may call it while the handler has
// not returned.
func (f *frameWriter) endBy(at time.Time) {
	f.latest.Store(&at)
	_ = f.control.SetWriteDeadline(at)
}

// A handler carries its stream by itself.
type handler struct {
	cancel context.CancelCauseFunc
	writer *frameWriter
}

// End implements carrier.
func (h *handler) End(why error, by time.Time) {
	if !by.IsZero() {
		h.writer.endBy(by)
	}
	h.cancel(why)
}
