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
		cmd := tailCmd{Topology: []string{id}, URL: server, Token: token, JSON: true, Until: until, Since: "1"}
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
	later := startTail(t, tailCmd{Topology: []string{id}, URL: server, Token: token, Since: "3", Until: "deleted"})
	missed := startTail(t, tailCmd{Topology: []string{id}, URL: server, Token: token, Since: "3", Until: "test"})
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

func TestTailFollowsSeveralTopologiesOnOneConnection(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	first, second := topology(t, conn, "first"), topology(t, conn, "second")
	server, token := startServer(t, db.URL), testToken(t)
	f := startTail(t, tailCmd{Topology: []string{first, second, tailID}, URL: server, Token: token})
	for _, id := range []string{first, second} {
		f.out.await(t, id+"           1                               snapshot  {", f.ended)
	}
	f.out.await(t, "deleted  {\"topology_id\":\""+tailID+"\"}", f.ended) // which is not there
	until := startTail(t, tailCmd{
		Topology: []string{first, second}, URL: server, Token: token, JSON: true, Until: "snapshot=" + second,
	})
	for _, id := range []string{first, second} {
		db.Exec(t, `SELECT topology_emit(id, 'test', jsonb_build_object('name', name)) FROM topologies
			WHERE id = $1::text::uuid`, id)
		f.out.await(t, id+"           2  ", f.ended)
	}
	if code, out := until.code(), until.out.String(); code != exitOK || !strings.Contains(out, second) {
		t.Errorf("%d %s", code, out)
	}
	db.Exec(t, `DELETE FROM topologies`)
	if code, out := f.code(), f.out.String(); code != exitOK || strings.Count(out, "\n") != 7 {
		t.Errorf("%d %s", code, out)
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
