package apply

import (
	"context"

	"go.opentelemetry.io/otel/propagation"
)

// traceOf are the headers that say which span ctx belongs to (W3C Trace Context); none: it belongs to none.
func traceOf(ctx context.Context) map[string]string {
	headers := propagation.MapCarrier{}
	propagation.TraceContext{}.Inject(ctx, headers)
	return headers
}
