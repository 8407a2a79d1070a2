// Package tracing sends spans to a collector, by OTLP over HTTP, where OpenTelemetry's own environment variables ask
// for it; else there is nothing: no goroutine, no connection, no span.
package tracing

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.opentelemetry.io/otel/trace/noop"
)

const (
	// scope is the name of the instrumentation.
	scope = "topostream"
	// longestValue is how many characters of what a stranger sends go into a span, unless
	// OTEL_SPAN_ATTRIBUTE_VALUE_LENGTH_LIMIT or OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT says another number.
	longestValue = 2000
	// stopTimeout is how long Stop waits for a collector.
	stopTimeout = 2 * time.Second
)

// Traces is where the spans of a program go. Any goroutine may use it.
type Traces struct {
	provider *sdk.TracerProvider // nil: nothing is traced
	failures *failures

	believed, strange func(http.Handler) http.Handler
}

// Start begins to send spans where the environment asks for it: by OTEL_TRACES_EXPORTER=otlp, or by an endpoint alone
// (OTEL_EXPORTER_OTLP_ENDPOINT, OTEL_EXPORTER_OTLP_TRACES_ENDPOINT). OTEL_SDK_DISABLED=true wins over both. What
// OpenTelemetry's SDK for Go reads of the environment holds (OTEL_TRACES_SAMPLER, OTEL_RESOURCE_ATTRIBUTES, OTEL_BSP_…,
// OTEL_EXPORTER_OTLP_HEADERS, …); service is the name where OTEL_SERVICE_NAME gives none. A value that this program
// does not know is told to the log, and nothing is traced.
//
// A collector that does not answer keeps nobody: spans that find no room are dropped, and the log says so once a minute
// at most. Stop it.
func Start(ctx context.Context, service, version string, log *slog.Logger) (*Traces, error) {
	on, odd := wanted(os.Getenv)
	if odd != "" {
		log.Warn("nothing is traced: " + odd)
	}
	if !on {
		return &Traces{}, nil
	}
	failures := &failures{log: log, now: time.Now}
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { failures.tell(err, 0) })) // what the SDK cannot read
	exporter, err := otlptracehttp.New(ctx)
	if err != nil {
		return nil, fmt.Errorf("traces: %w", err)
	}
	// Nothing of the process: its command line may hold secrets.
	res, err := resource.New(ctx, resource.WithTelemetrySDK(), resource.WithAttributes(
		attribute.String("service.name", service), attribute.String("service.version", version)), resource.WithFromEnv())
	if err != nil {
		log.Warn("traces: OTEL_RESOURCE_ATTRIBUTES cannot be read", "error", err)
	}
	limits := sdk.NewSpanLimits() // as the environment says
	if limits.AttributeValueLengthLimit < 0 {
		limits.AttributeValueLengthLimit = longestValue
	}
	t := &Traces{failures: failures, provider: sdk.NewTracerProvider(
		sdk.WithResource(res), sdk.WithRawSpanLimits(limits), sdk.WithBatcher(&watched{exporter, failures}),
	)}
	t.believed, t.strange = requests(t.provider)
	return t, nil
}

// wanted tells whether spans are asked for, and what of the request is not understood.
func wanted(env func(string) string) (on bool, odd string) {
	first := func(names ...string) (name, value string) {
		for _, name := range names {
			if value := strings.TrimSpace(env(name)); value != "" {
				return name, value
			}
		}
		return "", ""
	}
	if strings.EqualFold(strings.TrimSpace(env("OTEL_SDK_DISABLED")), "true") {
		return false, ""
	}
	_, endpoint := first("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
	switch exporter := strings.TrimSpace(env("OTEL_TRACES_EXPORTER")); {
	case exporter == "none", exporter == "" && endpoint == "":
		return false, ""
	case exporter != "" && exporter != "otlp":
		return false, fmt.Sprintf("OTEL_TRACES_EXPORTER is %.80q: this program knows otlp and none", exporter)
	}
	name, protocol := first("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
	if protocol != "" && protocol != "http/protobuf" {
		return false, fmt.Sprintf("%s is %.80q: this program speaks http/protobuf", name, protocol)
	}
	return true, ""
}

// On tells whether anything is traced.
func (t *Traces) On() bool { return t.provider != nil }

// Provider makes tracers; where nothing is traced, those that do nothing.
func (t *Traces) Provider() trace.TracerProvider {
	if t.provider == nil {
		return noop.NewTracerProvider()
	}
	return t.provider
}

// Tracer makes spans; nil where nothing is traced.
func (t *Traces) Tracer() trace.Tracer {
	if t.provider == nil {
		return nil
	}
	return t.provider.Tracer(scope)
}

// Stop sends what there is, for two seconds at most, and ends the goroutines.
func (t *Traces) Stop() {
	if t.provider == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.failures.tell(err, 0) // what is left is lost with the process
	}
}
