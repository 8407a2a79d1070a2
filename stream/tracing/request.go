package tracing

import (
	"context"
	"net"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"
	"go.opentelemetry.io/contrib/instrumentation/net/http/otelhttp"
	"go.opentelemetry.io/otel/attribute"
	metrics "go.opentelemetry.io/otel/metric/noop"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

// requests are what makes the spans of requests: of those whose traceparent is believed, and of all others, which begin
// a trace of their own. (otelhttp's "public endpoint" would link to what a stranger says.)
func requests(provider trace.TracerProvider) (believed, strange func(http.Handler) http.Handler) {
	with := func(propagator propagation.TextMapPropagator) func(http.Handler) http.Handler {
		return otelhttp.NewMiddleware("", otelhttp.WithTracerProvider(provider),
			otelhttp.WithMeterProvider(metrics.NewMeterProvider()), otelhttp.WithPropagators(propagator))
	}
	return with(propagation.TraceContext{}), with(propagation.NewCompositeTextMapPropagator())
}

// Request serves a request within a span that has its route's name and began at a time. The span goes on with the
// request's own trace (traceparent, tracestate) where the request is believed. It holds no query, where a token may be.
func (t *Traces) Request(
	w http.ResponseWriter, r *http.Request, began time.Time, believed bool, next http.HandlerFunc,
) {
	r = r.WithContext(otelhttp.ContextWithStartTime(r.Context(), began))
	r.Pattern = chi.RouteContext(r.Context()).RoutePattern() // which otelhttp names the span by
	within := func(w http.ResponseWriter, r *http.Request) {
		if host, _, err := net.SplitHostPort(r.RemoteAddr); err == nil { // X-Forwarded-For is anybody's to write
			trace.SpanFromContext(r.Context()).SetAttributes(attribute.String("client.address", host))
		}
		next(w, r)
	}
	span := t.strange
	if believed {
		span = t.believed
	}
	span(http.HandlerFunc(within)).ServeHTTP(w, r)
}

// HeadersSent ends the span of a request that is answered by a stream, which may go on for days. What the stream does
// with the context that it gives has no part in the request's trace.
func HeadersSent(ctx context.Context) context.Context {
	span := trace.SpanFromContext(ctx)
	if !span.SpanContext().IsValid() {
		return ctx
	}
	span.SetAttributes(attribute.Int("http.response.status_code", http.StatusOK))
	span.End()
	return trace.ContextWithSpan(ctx, noop.Span{})
}
