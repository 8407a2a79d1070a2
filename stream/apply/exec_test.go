package apply

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"topostream/stream"
)

// in makes a command run in a directory.
func in(dir, command string) string { return fmt.Sprintf("cd '%s' && { %s\n}", dir, command) }

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// eventually asks until the answer is yes.
func eventually(t *testing.T, what string, yes func() bool) {
	t.Helper()
	timeout := time.NewTimer(10 * time.Second)
	defer timeout.Stop()
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !yes() {
		select {
		case <-look.C:
		case <-timeout.C:
			t.Fatalf("waited for %s in vain", what)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// runs says whether a process exists and is not only a zombie that PID 1 has yet to reap.
func runs(pid string) bool {
	b, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(b), ") ") // proc(5)
	return !strings.HasPrefix(state, "Z")
}

// awaitEndOf waits for what the kernel still has to do for a process that runs no more: it closes files before it says
// that a process is gone. All processes here would run longer than this waits.
func awaitEndOf(t *testing.T, pid string) {
	t.Helper()
	eventually(t, "process "+pid+" to end", func() bool { return !runs(pid) })
}

func TestACommandGetsTheMutationOnItsStdinAndItsIDInTheEnvironment(t *testing.T) {
	t.Parallel()
	d := t.TempDir()
	err := Exec(in(d, `cat >stdin && echo "$TOPOSTREAM_MUTATION_ID" >id && echo not kept && echo nor this >&2`),
		time.Minute).Apply(t.Context(), mutation())
	if err != nil {
		t.Fatal(err)
	}
	var got stream.Mutation
	if err := json.Unmarshal([]byte(read(t, d+"/stdin")), &got); err != nil {
		t.Fatal(err)
	}
	if want := mutation(); got.ID != want.ID || got.Topology != want.Topology || got.Op != want.Op ||
		string(got.Payload) != string(want.Payload) || got.Attempt != 1 {
		t.Errorf("stdin held %+v", got)
	}
	if id := read(t, d+"/id"); id != string(got.ID) {
		t.Errorf("TOPOSTREAM_MUTATION_ID was %q", id)
	}
}

//nolint:paralleltest // it sets the environment
func TestACommandLearnsNothingOfTheWorkersSettings(t *testing.T) {
	for name, value := range map[string]string{
		"DATABASE_URL": "postgres://worker:geheim@db/x", "TOPOSTREAM_DATABASE_URL": "postgres://worker:geheim@db/x",
		"PGPASSWORD": "geheim", "PGPASSFILE": "/geheim", "PGHOST": "db", "SITE": "lab",
	} {
		t.Setenv(name, value)
	}
	d := t.TempDir()
	if err := Exec(in(d, `env >environment`), time.Minute).Apply(t.Context(), mutation()); err != nil {
		t.Fatal(err)
	}
	environment := read(t, d+"/environment")
	for _, not := range []string{"DATABASE_URL", "geheim", "PGHOST"} {
		if strings.Contains(environment, not) {
			t.Errorf("it has %s: %s", not, environment)
		}
	}
	for _, needed := range []string{"SITE=lab", "PATH=", "TOPOSTREAM_MUTATION_ID="} {
		if !strings.Contains(environment, needed) {
			t.Errorf("it lacks %s: %s", needed, environment)
		}
	}
}

func TestAFailedCommandsReasonIsTheEndOfItsStderr(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ command, reason string }{
		"nothing":           {`echo on stdout; exit 3`, "exit status 3"},
		"a signal":          {`kill -KILL $$`, "signal: killed"},
		"one line":          {`echo "no route to lan-9" >&2; exit 1`, "no route to lan-9"},
		"no command":        {`exec /no/such/command 2>/dev/null`, "exit status 127"},
		"ten lines":         {`seq 20 >&2; exit 1`, "11\n12\n13\n14\n15\n16\n17\n18\n19\n20"},
		"empty lines":       {`printf '\n\none\r\n \n\ttwo\n\n' >&2; exit 1`, "one\ntwo"},
		"control":           {`printf 'a\001b\000c\033[31md\nx\ty\n' >&2; exit 1`, "abc[31md\nx y"},
		"invalid UTF-8":     {`printf 'caf\351 \303\251\n' >&2; exit 1`, "caf\uFFFD é"},
		"no text at all":    {`head -c 100000 /dev/zero | tr '\0' '\377' >&2; exit 1`, "\uFFFD"},
		"only what is none": {`printf '\n\001\n' >&2; exit 4`, "exit status 4"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wantReason(t, Exec(c.command, time.Minute).Apply(t.Context(), mutation()), c.reason)
		})
	}
}

func TestAReasonIsBoundedAndCutBetweenCharacters(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"a long line":           `head -c 1000000 /dev/zero | tr '\0' x >&2; exit 1`,
		"characters of 3 bytes": `for i in $(seq 3000); do printf '\342\202\254'; done >&2; exit 1`,
		"long lines":            `for i in $(seq 100); do head -c 500 /dev/zero | tr '\0' y; echo; done >&2; exit 1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := Exec(command, time.Minute).Apply(t.Context(), mutation())
			if err == nil {
				t.Fatal("no error")
			}
			if n := len(err.Error()); n > maxBytes || n < maxBytes-3 {
				t.Errorf("the reason has %d bytes", n)
			}
			if !utf8.ValidString(err.Error()) {
				t.Error("the reason is no valid UTF-8")
			}
		})
	}
}

func TestACommandThatTakesTooLongIsKilledAndTheReasonSaysSo(t *testing.T) {
	t.Parallel()
	wantReason(t, Exec(`sleep 60`, 100*time.Millisecond).Apply(t.Context(), mutation()), "timed out after 100ms")
	wantReason(t, Exec(`echo halfway >&2; sleep 60`, time.Second).Apply(t.Context(), mutation()),
		"timed out after 1s: halfway")
}

// The grandchildren are in the group; nobody waits for them but Apply.
func TestCancellationEndsTheWholeProcessGroup(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"all end by SIGTERM": `sleep 60 & echo $! >pids; echo $$ >>pids; touch ready; wait`,
		"a grandchild ignores SIGTERM": `sh -c 'trap "" TERM; echo $$ >pids; touch ready; while :; do sleep 1; done' &
			while [ ! -e ready ]; do sleep 0.01; done; echo $$ >>pids; wait`,
		"the shell ignores SIGTERM": `trap "" TERM; echo $$ >pids; touch ready; while :; do sleep 1; done`,
		"a grandchild in the background ignores SIGTERM and holds no pipe": `
			sh -c 'trap "" TERM; echo $$ >pids; touch ready; while :; do sleep 1; done' <&- >&- 2>&- & wait`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := t.TempDir()
			cause := errors.New("the worker stops")
			ctx, cancel := context.WithCancelCause(t.Context())
			done := make(chan error, 1)
			go func() { done <- Exec(in(d, command), time.Minute).Apply(ctx, mutation()) }()
			eventually(t, "the command to be ready", func() bool { return exists(d + "/ready") })
			cancel(cause)
			if err := <-done; !errors.Is(err, cause) {
				t.Errorf("the error is %v", err)
			}
			for pid := range strings.FieldsSeq(read(t, d+"/pids")) {
				awaitEndOf(t, pid)
			}
		})
	}
}

func TestACommandMayCleanUpWhenItIsStopped(t *testing.T) {
	t.Parallel()
	d := t.TempDir()
	// The shell dies at once; what it waited for has its time all the same.
	const command = `sh -c 'trap "sleep 0.2; touch clean; exit" TERM; touch ready
		while :; do sleep 0.01; done' 2>/dev/null; :`
	err := Exec(in(d, command), time.Second).Apply(t.Context(), mutation())
	wantReason(t, err, "timed out after 1s")
	if !exists(d + "/clean") {
		t.Error("it could not clean up")
	}
}

func TestWhatACommandLeavesInTheBackgroundDoesNotOutliveIt(t *testing.T) {
	t.Parallel()
	for name, command := range map[string]string{
		"and holds stderr": `sleep 60 & echo $! >pid`,
		"and holds stdin":  `sh -c 'sleep 60' <&0 >&- 2>&- & echo $! >pid`,
		"and holds none":   `sleep 60 <&- >&- 2>&- & echo $! >pid`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := t.TempDir()
			m := mutation()
			m.Payload = fmt.Appendf(nil, "%q", strings.Repeat("x", 1<<20)) // more than a pipe holds
			began := time.Now()
			if err := Exec(in(d, command), time.Minute).Apply(t.Context(), m); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 30*time.Second {
				t.Errorf("it took %s", took)
			}
			awaitEndOf(t, read(t, d+"/pid"))
		})
	}
}

func TestACommandNeedNotReadItsStdin(t *testing.T) {
	t.Parallel()
	m := mutation()
	m.Payload = fmt.Appendf(nil, "%q", strings.Repeat("x", 1<<20)) // more than a pipe holds
	for _, command := range []string{`:`, `exec <&-; sleep 0.1`, `sleep 0.1`, `head -c 10 >/dev/null`} {
		if err := Exec(command, time.Minute).Apply(t.Context(), m); err != nil {
			t.Errorf("%s: %v", command, err)
		}
	}
}

func TestAContextThatHasEndedStartsNothing(t *testing.T) {
	t.Parallel()
	d := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Exec(in(d, `touch ran`), 0).Apply(ctx, mutation()); !errors.Is(err, context.Canceled) {
		t.Errorf("the error is %v", err)
	}
	if exists(d + "/ran") {
		t.Error("it ran")
	}
}
