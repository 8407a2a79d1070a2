package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

func TestTailWaitsForOneEventAndPrintsItAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	server, token := startServer(t, db.URL), testToken(t)
	for _, payload := range []string{`{"n": 1, "of": "two"}`, `{"n": 2, "of": "two"}`} {
		db.Exec(t, `SELECT topology_emit($1::text::uuid, 'test', $2::text::jsonb)`, id, payload)
	}
	for until, seq := range map[string]string{
		"test": `"seq":2,`, `test="n": 2`: `"seq":3,`, `test="n":2,"of"`: `"seq":3,`, "snapshot": `"seq":3,`,
	} {
		cmd := tailCmd{Topology: id, URL: server, Token: token, JSON: true, Until: until, Since: "1"}
		if until == "snapshot" {
			cmd.Since = ""
		}
		f := startTail(t, cmd)
		code := f.code()
		if out := f.out.String(); code != exitOK || strings.Count(out, "\n") != 1 || !strings.Contains(out, seq) {
			t.Errorf("%s: %d %s", until, code, out)
		}
	}

	// What comes later.
	later := startTail(t, tailCmd{Topology: id, URL: server, Token: token, Since: "3", Until: "deleted"})
	missed := startTail(t, tailCmd{Topology: id, URL: server, Token: token, Since: "3", Until: "test"})
	db.Exec(t, `DELETE FROM topologies`)
	if code := later.code(); code != exitOK || !strings.Contains(later.out.String(), "deleted") {
		t.Errorf("%d %s", code, later.out.String())
	}
	if code := missed.code(); code != exitError || missed.out.String() != "" ||
		!strings.Contains(missed.result.Error(), "test has not come") {
		t.Errorf("%d %s%v", code, missed.out.String(), missed.result)
	}
}

func TestTailWaitsNoLongerThanItsTimeout(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	id := demo(t, db.Conn(t))
	args := []string{"tail", id, "--url", startServer(t, db.URL), "--token", testToken(t), "--until", "no.such=x"}
	code, out, errOut := program(t, append(args, "--timeout", "50ms")...)
	if code != exitTimeout || out != "" || !strings.HasSuffix(errOut, "no.such=x has not come within 50ms\n") {
		t.Errorf("%d %s%s", code, out, errOut)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var o, e lockedBuffer
	if code := run(ctx, args, &o, &e); code != exitError || !strings.Contains(e.String(), "interrupted: no.such=x") {
		t.Errorf("%d %s%s", code, o.String(), e.String())
	}
}

func TestWhatTailCannotWaitForIsSaid(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		`--until: "A b" is no type`:      {"--until", "A b"},
		"--until: error parsing regexp":  {"--until", "test=["},
		"--timeout is for --until: give": {"--timeout", time.Second.String()},
	} {
		code, out, errOut := program(t, append([]string{"tail", tailID}, args...)...)
		if code != exitError || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("%v: %d %s%s", args, code, out, errOut)
		}
	}
}
