package main

import (
	"cmp"
	"runtime/debug"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/metric/noop"

	"topostream/stream/tracing"
)

// The names of our services in traces, where OTEL_SERVICE_NAME gives none.
const (
	serverService = "topostream"
	workerService = "topostream-mutator"
)

// tracedQueries has a pool make a span of each statement within another span; without parameters, which are users'
// own. What belongs to no span, as the comparison of heads, makes none.
func tracedQueries(t *tracing.Traces) func(*pgxpool.Config) {
	return func(cfg *pgxpool.Config) {
		if t.On() {
			tracer := otelpgx.NewTracer(otelpgx.WithTracerProvider(t.Provider()),
				otelpgx.WithMeterProvider(noop.NewMeterProvider()), otelpgx.WithDisableConnectionDetailsInAttributes())
			cfg.ConnConfig.Tracer = queries{tracer, tracer, tracer}
		}
	}
}

// queries are what is traced of a pool. That pgx asks PostgreSQL for a statement's types the first time is not: it
// would show each statement twice.
type queries struct {
	pgx.QueryTracer
	pgx.BatchTracer
	pgxpool.AcquireTracer
}

// traceVersion is service.version of the spans; empty where it is not known.
func traceVersion() string {
	version := release
	if info, ok := debug.ReadBuildInfo(); ok {
		version = cmp.Or(version, info.Main.Version)
	}
	return version
}
