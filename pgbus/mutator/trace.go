package mutator

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// traced gives the context in which a mutation is worked on that was claimed from began to now. Its spans go on with
// the trace of the request that asked for the mutation: a claim, which knows whose it is only when it is over, and
// beneath it the apply, to which statements and the applier belong. What somebody made by SQL begins a trace.
func (w *Worker) traced(ctx context.Context, j *job, began time.Time) context.Context {
	ctx = propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": j.traceparent})
	attributes := trace.WithAttributes(
		attribute.String("topostream.topology", string(j.mutation.Topology)),
		attribute.String("topostream.mutation", string(j.mutation.ID)),
		attribute.String("topostream.op", j.mutation.Op),
		attribute.Int("topostream.attempt", j.mutation.Attempt),
	)
	ctx, claim := w.cfg.Tracer.Start(ctx, "claim", trace.WithTimestamp(began), trace.WithSpanKind(trace.SpanKindConsumer),
		attributes)
	claim.End()
	ctx, j.span = w.cfg.Tracer.Start(ctx, "apply", attributes) //nolint:spancheck // the job's end is its end
	return ctx
}
