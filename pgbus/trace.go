package pgbus

import (
	"context"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"topostream/stream"
)

// startSpan begins a span about a topology. Where nothing is traced it does nothing.
func (b *Bus) startSpan(
	ctx context.Context, name string, id stream.TopologyID, more ...attribute.KeyValue,
) (context.Context, trace.Span) {
	if b.deliveries == nil {
		return ctx, noop.Span{}
	}
	about := trace.WithAttributes(attribute.String("topostream.topology", string(id)))
	ctx, span := b.tracer.Start(ctx, name, about) //nolint:spancheck // who began it ends it
	span.SetAttributes(more...)
	return ctx, span //nolint:spancheck // as above
}

// endSpan ends a span, with what went wrong within it.
func endSpan(span trace.Span, err error) {
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	span.End()
}

// endBackfill ends the span of a read that brings feeds up to their heads. It belongs to no request, and so is a trace
// of its own.
func endBackfill(span trace.Span, cause stream.Cause, topologies int, err error) {
	if span.IsRecording() {
		span.SetAttributes(attribute.String("topostream.cause", stream.ReadCauses[cause]),
			attribute.Int("topostream.topologies", topologies))
	}
	endSpan(span, err)
}

// inTraceOf gives the context of a read that several requests share the trace of the one who asked first.
func inTraceOf(asker, ctx context.Context) context.Context {
	if span := trace.SpanContextFromContext(asker); span.IsValid() {
		return trace.ContextWithSpanContext(ctx, span)
	}
	return ctx
}
