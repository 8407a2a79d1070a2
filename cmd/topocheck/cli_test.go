package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"topostream/harness/command"
)

func TestAWrongCommandLineSaysTheFix(t *testing.T) {
	t.Parallel()
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte(testSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	good := []string{"--url", "http://127.0.0.1:1", "--database-url", "postgres://x:y@127.0.0.1:1/z",
		"--jwt-secret-file", secret}
	for want, args := range map[string][]string{
		"--database-url is missing": {"--url", "http://127.0.0.1:1", "--token", "x"},
		"one of --token and --jwt-secret": {"--url", "http://127.0.0.1:1", "--database-url",
			"postgres://127.0.0.1:1/z"},
		"is no address of a server":          append([]string{"--url", "ftp://x"}, good...),
		"--topologies, --writers, --clients": append([]string{"--clients", "0"}, good...),
		"--jwt-secret-file:": {"--url", "http://127.0.0.1:1", "--database-url",
			"postgres://127.0.0.1:1/z", "--jwt-secret-file", secret + "x"},
		"unknown flag --uri": {"--uri", "x"},
	} {
		var out, errOut bytes.Buffer
		if code := run(t.Context(), args, command.Output{Out: &out, Err: &errOut}); code != command.ExitUsage ||
			!strings.Contains(errOut.String(), want) {
			t.Errorf("%v: %d %s", args, code, errOut.String())
		}
	}
}

func TestADatabaseThatIsAwayIsAnErrorAndNoVerdict(t *testing.T) {
	t.Parallel()
	var out, errOut bytes.Buffer
	code := run(t.Context(), []string{"--url", "http://127.0.0.1:1", "--database-url",
		"postgres://x:y@127.0.0.1:1/z", "--token", "x"}, command.Output{Out: &out, Err: &errOut})
	if code != command.ExitBroken || out.Len() > 0 || !strings.Contains(errOut.String(), "connect to the database") {
		t.Errorf("%d %s %s", code, out.String(), errOut.String())
	}
}

func TestHelpNamesEveryFlag(t *testing.T) {
	t.Parallel()
	var out, errOut bytes.Buffer
	if code := run(t.Context(), []string{"--help"}, command.Output{Out: &out, Err: &errOut}); code != command.ExitOK {
		t.Fatal(errOut.String())
	}
	for flag := range strings.FieldsSeq("--url --database-url --token --jwt-secret-file --topologies --writers " +
		"--clients --duration --rate --seed --faults --json --keep") {
		if !strings.Contains(out.String(), flag) {
			t.Errorf("no %s", flag)
		}
	}
}

func TestTheFirstOfSeveralSecretsSigns(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"new", "new\n", "new\r\nold\r\n", "\nnew\n\nold\n"} {
		if got := firstSecret([]byte(text)); string(got) != "new" {
			t.Errorf("%q: %q", text, got)
		}
	}
}
