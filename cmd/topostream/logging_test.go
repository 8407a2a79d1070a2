package main

import (
	"bytes"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

func TestADurationIsOfSecondsWhereAProgramReadsTheLog(t *testing.T) {
	t.Parallel()
	for format, want := range map[string]string{"json": `"took":1.5}`, "text": "took=1.5s"} {
		var log bytes.Buffer
		newLogger(&log, format, slog.LevelInfo).Info("done", "took", 1500*time.Millisecond)
		if line := strings.TrimSpace(log.String()); !strings.HasSuffix(line, want) {
			t.Errorf("%s: %s", format, line)
		}
	}
}

// A worker says at debug that a mutation is applied.
func TestSIGUSR1ShowsWhatDebugLogsAndHidesItAgain(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	worker := mutate(t, buildProgram(t), db.URL, "--log-format", "json", "--log-level", "warn")
	const applied = `"msg":"a mutation is applied"`
	said := func() int { return strings.Count(worker.err.String(), applied) }
	apply := func(lan string) {
		t.Helper()
		awaitMutation(t, conn, enqueueLAN(t, conn, id, lan), "applied")
	}
	switched := func(to string) {
		t.Helper()
		worker.signal(syscall.SIGUSR1)
		pgtest.Eventually(t, "the level "+to, func() bool {
			log := worker.err.String()
			i := strings.LastIndex(log, "SIGUSR1: another log level")
			return i >= 0 && strings.HasPrefix(log[i:], `SIGUSR1: another log level","level":"`+to+`"`)
		})
	}
	apply("one")
	switched("DEBUG")
	if said() != 0 {
		t.Errorf("at warn it says %s", worker.err.String())
	}
	apply("two")
	pgtest.Eventually(t, "what debug says", func() bool { return said() == 1 })
	switched("WARN")
	apply("three")
	switched("DEBUG") // whatever three had to say would be before this
	if said() != 1 {
		t.Errorf("switched back it says %s", worker.err.String())
	}
}
