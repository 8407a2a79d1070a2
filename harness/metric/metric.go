// Package metric reads single values from what a server exposes to Prometheus.
package metric

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// ErrNone says that a server does not have a series.
var ErrNone = errors.New("there is no")

// Read asks /metrics of the server at a base URL for a counter or gauge, or for name_count or name_sum of a histogram.
// series is as in the text format: name{label="value"} is one series, with all its labels; name alone is the sum of all
// series of the family. Where there is none the error is ErrNone.
func Read(ctx context.Context, server, series string) (float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, server+"/metrics", nil)
	if err != nil {
		return 0, err
	}
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("%s/metrics: %s", server, res.Status)
	}
	v, err := find(res.Body, series)
	if err != nil {
		return 0, fmt.Errorf("%s/metrics: %w", server, err)
	}
	return v, nil
}

// find gives the value of a series in an exposition.
func find(exposition io.Reader, series string) (float64, error) {
	parser := expfmt.NewTextParser(model.UTF8Validation)
	wanted, err := parser.TextToMetricFamilies(strings.NewReader(series + " 0\n"))
	if err != nil {
		return 0, fmt.Errorf("%q is no series: %w", series, err)
	}
	families, err := parser.TextToMetricFamilies(exposition)
	if err != nil {
		return 0, err
	}
	sum, found := 0.0, false
	for name, one := range wanted {
		labels := labelsOf(one.GetMetric()[0])
		family, of := familyOf(families, name)
		for _, m := range family.GetMetric() {
			if len(labels) == 0 || maps.Equal(labelsOf(m), labels) {
				sum, found = sum+of(m), true
			}
		}
	}
	if found {
		return sum, nil
	}
	return 0, fmt.Errorf("%w %s among %s", ErrNone, series, strings.Join(slices.Sorted(maps.Keys(families)), ", "))
}

// familyOf finds the family that a series is of, and what of it the series is.
func familyOf(all map[string]*dto.MetricFamily, name string) (*dto.MetricFamily, func(*dto.Metric) float64) {
	if count, ok := strings.CutSuffix(name, "_count"); ok && all[count].GetType() == dto.MetricType_HISTOGRAM {
		return all[count], func(m *dto.Metric) float64 { return float64(m.GetHistogram().GetSampleCount()) }
	}
	if sum, ok := strings.CutSuffix(name, "_sum"); ok && all[sum].GetType() == dto.MetricType_HISTOGRAM {
		return all[sum], func(m *dto.Metric) float64 { return m.GetHistogram().GetSampleSum() }
	}
	return all[name], func(m *dto.Metric) float64 { // it is of one kind; a getter of another gives 0
		return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
	}
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, pair := range m.GetLabel() {
		labels[pair.GetName()] = pair.GetValue()
	}
	return labels
}
