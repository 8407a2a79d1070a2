// Package metric reads single values from what a server exposes to Prometheus.
package metric

import (
	"context"
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

// Read gives the value of a counter or gauge of the server at this address, whose /metrics are asked: of the series
// that is written as in the text format, name{label="value"}. There being none is an error.
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
	for name, one := range wanted {
		labels := labelsOf(one.GetMetric()[0])
		for _, m := range families[name].GetMetric() {
			if maps.Equal(labelsOf(m), labels) {
				// it is of one kind; a getter of another gives 0
				return m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue(), nil
			}
		}
	}
	return 0, fmt.Errorf("there is no %s among %s", series, strings.Join(slices.Sorted(maps.Keys(families)), ", "))
}

func labelsOf(m *dto.Metric) map[string]string {
	labels := map[string]string{}
	for _, pair := range m.GetLabel() {
		labels[pair.GetName()] = pair.GetValue()
	}
	return labels
}
