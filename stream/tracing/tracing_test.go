package tracing

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

//nolint:paralleltest // t.Setenv
func TestWithoutTheEnvironmentNothingIsStarted(t *testing.T) {
	for _, name := range []string{"OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT",
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"} {
		t.Setenv(name, "")
	}
	traces, err := Start(t.Context(), "x", "1", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if traces.On() || traces.Tracer() != nil {
		t.Error("something is traced")
	}
	if err := goleak.Find(goleak.IgnoreCurrent()); err != nil {
		t.Error(err)
	}
	_, span := traces.Provider().Tracer("x").Start(t.Context(), "x")
	if span.IsRecording() || span.SpanContext().IsValid() {
		t.Error("its spans do something")
	}
	traces.Stop()
}

func TestWhatTheEnvironmentAsksFor(t *testing.T) {
	t.Parallel()
	const endpoint, exporter = "OTEL_EXPORTER_OTLP_ENDPOINT=http://x:4318", "OTEL_TRACES_EXPORTER="
	for environment, want := range map[string]struct {
		on  bool
		odd string
	}{
		"":                            {},
		endpoint:                      {on: true},
		exporter + "otlp":             {on: true},
		exporter + "none," + endpoint: {},
		"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT=http://x/v1/traces":                                         {on: true},
		endpoint + ",OTEL_SDK_DISABLED=TRUE":                                                            {},
		exporter + "zipkin":                                                                             {odd: "zipkin"},
		endpoint + ",OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf":                                         {on: true},
		endpoint + ",OTEL_EXPORTER_OTLP_PROTOCOL=grpc":                                                  {odd: "grpc"},
		endpoint + ",OTEL_EXPORTER_OTLP_PROTOCOL=grpc,OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf": {on: true},
	} {
		set := map[string]string{}
		for pair := range strings.SplitSeq(environment, ",") {
			name, value, _ := strings.Cut(pair, "=")
			set[name] = value
		}
		on, odd := wanted(func(name string) string { return set[name] })
		if on != want.on || (odd == "") != (want.odd == "") || !strings.Contains(odd, want.odd) {
			t.Errorf("%s: %t, %q", environment, on, odd)
		}
	}
}

func TestTheLogHearsOnceAMinuteOfACollectorThatIsAway(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	now := time.Date(2026, 11, 29, 12, 0, 0, 0, time.UTC)
	f := failures{log: slog.New(slog.NewTextHandler(&log, nil)), now: func() time.Time { return now }}
	for range 180 {
		f.tell(errors.New("connection refused"), 10)
		now = now.Add(time.Second)
	}
	if n := strings.Count(log.String(), "connection refused"); n != 3 {
		t.Errorf("%d lines: %s", n, log.String())
	}
	for _, lost := range []string{"spans_lost=10 ", "spans_lost=600 "} {
		if !strings.Contains(log.String(), lost) {
			t.Errorf("no %s in %s", lost, log.String())
		}
	}
}
