package metrics_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"

	"topostream/stream"
	"topostream/stream/api"
	"topostream/stream/metrics"
)

// gathered is one family of a registry.
func gathered(t *testing.T, r *metrics.Registry, name string) []*dto.Metric {
	t.Helper()
	families, err := r.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()
		}
	}
	t.Fatalf("there is no %s", name)
	return nil
}

// An exemplar allocates, and a write to a client does not.
func TestOneDeliveryOfASecondIsAnExemplar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		registry := metrics.New(metrics.Build{})
		stats := registry.Server()
		const deliveries = 10_000
		delivered := func() {
			for i := range deliveries { // into each bucket, of which each keeps one exemplar
				age := time.Duration(i) * 5 * time.Millisecond
				stats.Delay.Delivered(age, "00000000-0000-4000-8000-000000000000", stream.Seq(i))
			}
		}
		exemplars := func() (n int) {
			for _, bucket := range gathered(t, registry, "topostream_delivery_delay_seconds")[0].GetHistogram().GetBucket() {
				if bucket.GetExemplar() != nil {
					n++
				}
			}
			return n
		}
		delivered()
		if n := exemplars(); n != 1 {
			t.Errorf("%d deliveries gave %d exemplars", deliveries, n)
		}
		time.Sleep(time.Second) // of fake time
		stats.Delay.Delivered(time.Second, "00000000-0000-4000-8000-000000000000", 1)
		if n := exemplars(); n != 2 {
			t.Errorf("a second later there are %d exemplars", n)
		}
	})
}

// What strangers make up gets no series of its own.
func TestInventedMethodsAndPathsAreOneSeries(t *testing.T) {
	t.Parallel()
	registry := metrics.New(metrics.Build{})
	took := registry.Requests()
	server := api.New(api.Config{
		Stats:   registry.Server(),
		Observe: func(o *api.Observation) { took(o.Method, o.Route, o.Status, o.Duration) },
	}).Handler()
	const inventions = 1000
	for i := range inventions {
		server.ServeHTTP(httptest.NewRecorder(),
			httptest.NewRequest(fmt.Sprintf("METHOD%d", i), fmt.Sprintf("/path/%d", i), http.NoBody))
	}
	series := gathered(t, registry, "http_server_request_duration_seconds")
	labels := map[string]string{}
	for _, label := range series[0].GetLabel() {
		labels[label.GetName()] = label.GetValue()
	}
	if len(series) != 1 || labels["http_request_method"] != "_OTHER" || labels["http_route"] != "unknown" ||
		series[0].GetHistogram().GetSampleCount() != inventions {
		t.Errorf("%d series, the first %v", len(series), series[0])
	}
}
