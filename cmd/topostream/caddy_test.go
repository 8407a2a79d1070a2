package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
)

// startCaddy runs Caddy in front of two servers with the configuration that OPERATING.md names, and gives its address.
func startCaddy(t *testing.T, first, second string) string {
	t.Helper()
	path, err := exec.LookPath("caddy")
	if err != nil {
		t.Skip("no Caddy on this machine: install it, for example `apt-get install caddy`")
	}
	site, err := os.ReadFile(filepath.Join("..", "..", "deploy", "caddy", "Caddyfile"))
	if err != nil {
		t.Fatal(err)
	}
	address := pgtest.FreeAddress(t)
	replaced := "{\n\tadmin off\n}\n" + strings.NewReplacer(
		"http://127.0.0.1:8080", "http://"+address,
		"127.0.0.1:8081", strings.TrimPrefix(first, "http://"),
		"127.0.0.1:8082", strings.TrimPrefix(second, "http://"),
	).Replace(string(site))
	dir := t.TempDir()
	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(replaced), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "run", "--config", config, "--adapter", "caddyfile")
	cmd.Env = append(os.Environ(), "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	caddy := startProcess(t, cmd) // SIGINT ends it
	awaitAnswer(t, "Caddy", caddy, "http://"+address+"/metrics")
	return "http://" + address
}

func TestBehindCaddyEventsArriveAtOnceAndAServerThatIsKilledOrDrainedLosesNothing(t *testing.T) {
	t.Parallel()
	slow(t)
	losesNothingBehind(t, func(first, second string) []string { return []string{startCaddy(t, first, second)} })
}

func TestBehindCaddyWithoutAServerAnEventSourceIsToldToComeBack(t *testing.T) {
	t.Parallel()
	long(t)
	toldToComeBack(t, startCaddy(t, pgtest.FreeAddress(t), pgtest.FreeAddress(t)))
}
