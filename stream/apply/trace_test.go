package apply

import (
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"go.opentelemetry.io/otel/trace"
)

func TestAnApplierIsToldOfTheTraceWhereThereIsOne(t *testing.T) {
	t.Parallel()
	state, err := trace.ParseTraceState("vendor=1")
	if err != nil {
		t.Fatal(err)
	}
	span := trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID{0xab}, SpanID: trace.SpanID{0xcd}, TraceFlags: trace.FlagsSampled, TraceState: state,
	})
	traced := trace.ContextWithSpanContext(t.Context(), span)
	const parent = "00-ab000000000000000000000000000000-cd00000000000000-01"

	var got http.Header
	service := serve(t, time.Minute, func(_ http.ResponseWriter, r *http.Request) { got = r.Header })
	if err := service.Apply(traced, mutation()); err != nil {
		t.Fatal(err)
	}
	if got.Get("Traceparent") != parent || got.Get("Tracestate") != "vendor=1" {
		t.Errorf("the service got %v", got)
	}
	if err := service.Apply(t.Context(), mutation()); err != nil {
		t.Fatal(err)
	}
	if got.Get("Traceparent") != "" {
		t.Errorf("the service got %v without a trace", got)
	}

	d := t.TempDir()
	if err := Exec(in(d, `echo "$TRACEPARENT $TRACESTATE" >told`), time.Minute).Apply(traced, mutation()); err != nil {
		t.Fatal(err)
	}
	if told, err := os.ReadFile(filepath.Join(d, "told")); err != nil || string(told) != parent+" vendor=1\n" {
		t.Errorf("the command was told %q, %v", told, err)
	}
}
