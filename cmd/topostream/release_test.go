package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A server needs nothing that fetches and runs a PostgreSQL: what is not in the binary needs no patch.
func TestTheBinaryOfAReleaseHoldsNoDownloader(t *testing.T) {
	t.Parallel()
	list := func(arguments ...string) string {
		arguments = append([]string{"list", "-deps"}, arguments...)
		out, err := exec.CommandContext(t.Context(), "go", append(arguments, "topostream/cmd/topostream")...).Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	with, without := list(), list("-tags", "nodev")
	for _, unwanted := range []string{"embedded-postgres", "github.com/lib/pq", "github.com/xi2/xz", "pgbus/pgcluster"} {
		if !strings.Contains(with, unwanted) {
			t.Errorf("%s is not in the program with dev: this test would not find it", unwanted)
		}
		if strings.Contains(without, unwanted) {
			t.Errorf("%s is in the binary of a release (-tags nodev)", unwanted)
		}
	}
}

// The image is built without .git, so that Go itself knows nothing of what it builds.
func TestTheImageSaysWhichVersionItIs(t *testing.T) {
	t.Parallel()
	long(t)
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		t.Fatal(err)
	}
	flags := regexp.MustCompile(`-ldflags="([^"]*)"`).FindSubmatch(dockerfile)
	if flags == nil {
		t.Fatal("the Dockerfile gives the linker nothing")
	}
	set := strings.NewReplacer("${VERSION}", "1.2.3", "${COMMIT}", "0123456789abcdef").Replace(string(flags[1]))
	binary := filepath.Join(t.TempDir(), "topostream")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags", "nodev", "-buildvcs=false", "-ldflags", set, "-o",
		binary, "topostream/cmd/topostream")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), binary, "version").Output()
	if err != nil || !strings.HasPrefix(string(out), "topostream 1.2.3, commit 0123456789ab, ") {
		t.Errorf("%v %s", err, out)
	}
}
