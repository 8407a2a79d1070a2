package stage_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"topostream/harness/stage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestNothingIsMoreThanTheBaselineOfAStageThatRests(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("it builds and starts everything: left out with -short")
	}
	s, err := stage.Open(t.Context(), stage.Config{Logger: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	c, err := s.Baseline(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c["backends topostream listen"] != 2 || c["server-1 topostream_streams"] != 0 ||
		c["server-1 go_goroutines"] == 0 {
		t.Errorf("counted %v", c)
	}
	if err := s.AwaitCensus(t.Context(), c); err != nil {
		t.Error(err)
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if err := s.AwaitCensus(soon, stage.Census{}); err == nil ||
		!strings.Contains(err.Error(), "more than before: backends topostream: ") {
		t.Errorf("compared with nothing: %v", err)
	}
}
