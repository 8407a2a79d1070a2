package tracing

import (
	"context"
	"log/slog"
	"sync"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// failureEvery is how often the log hears of a collector that cannot be reached.
const failureEvery = time.Minute

// failures tells the log what went wrong with spans, once a minute at most.
type failures struct {
	log *slog.Logger
	now func() time.Time

	mu    sync.Mutex
	told  time.Time
	spans int // that were lost since
}

func (f *failures) tell(err error, spans int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.spans += spans
	if now := f.now(); f.told.IsZero() || now.Sub(f.told) >= failureEvery {
		f.log.Warn("traces cannot be sent; the log says so once a minute", "spans_lost", f.spans, "error", err)
		f.told, f.spans = now, 0
	}
}

// watched tells when an exporter fails: the processor would tell the whole process.
type watched struct {
	sdk.SpanExporter

	failures *failures
}

// ExportSpans implements sdk.SpanExporter.
func (w *watched) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	if err := w.SpanExporter.ExportSpans(ctx, spans); err != nil {
		w.failures.tell(err, len(spans))
	}
	return nil
}
