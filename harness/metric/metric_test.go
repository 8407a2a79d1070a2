package metric_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"topostream/harness/metric"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func serve(t *testing.T, status int, text string) (url string) {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			t.Error(r.URL)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text) // the client has gone
	}))
	t.Cleanup(s.Close)
	return s.URL
}

const exposition = `# HELP cuts_total Cuts.
# TYPE cuts_total counter
cuts_total{cause="a \"b\"",bus="wal"} 1.5e+06
cuts_total{cause="c",bus="wal"} 2
# TYPE streams gauge
streams -3
# HELP took_seconds Times.
# TYPE took_seconds histogram
took_seconds_bucket{op="a",le="+Inf"} 3
took_seconds_sum{op="a"} 1.5
took_seconds_count{op="a"} 3
took_seconds_bucket{op="b",le="+Inf"} 1
took_seconds_sum{op="b"} 0.5
took_seconds_count{op="b"} 1
`

func TestASeriesIsFoundByItsNameAndAllItsLabels(t *testing.T) {
	t.Parallel()
	url := serve(t, http.StatusOK, exposition)
	for series, want := range map[string]float64{
		"streams": -3, "cuts_total": 1.5e6 + 2, "took_seconds_sum": 2, `took_seconds_count{op="a"}`: 3,
		`cuts_total{cause="a \"b\"",bus="wal"}`: 1.5e6, `cuts_total{bus="wal",cause="c"}`: 2,
	} {
		if got, err := metric.Read(t.Context(), url, series); err != nil || got != want {
			t.Errorf("%s: %v, %v", series, got, err)
		}
	}
	for series, want := range map[string]string{
		"stream":                "there is no stream among cuts_total, streams, took_seconds",
		`cuts_total{cause="c"}`: "there is no cuts_total", `streams{`: "is no series",
	} {
		if _, err := metric.Read(t.Context(), url, series); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", series, err)
		}
	}
}

func TestAnAnswerThatIsNoExpositionIsAnError(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		serve(t, http.StatusNotFound, exposition): "404", serve(t, http.StatusOK, "<html>\n"): "text format parsing error",
		"http://127.0.0.1:1": "connection refused",
	} {
		if v, err := metric.Read(t.Context(), url, "streams"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, %v, want %s", v, err, want)
		}
	}
}
