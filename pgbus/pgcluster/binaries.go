// Package pgcluster runs private PostgreSQL clusters: one for `topostream dev`, others for tests.
package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// MinVersion is the oldest PostgreSQL that the schema works on.
const MinVersion = 14

// ErrNoBinaries: the machine has no PostgreSQL server that is new enough.
var ErrNoBinaries = errors.New("no PostgreSQL 14 or newer found: install it, for example `apt-get install postgresql` or `brew install postgresql@17`, " +
	"or name its directory in TOPOSTREAM_PG_BIN")

// Binaries are the programs of one PostgreSQL installation.
type Binaries struct {
	Dir     string // where initdb and postgres are
	Version int    // major
}

// Bin gives the path of a program: the installation's own, else the one in PATH.
func (b Binaries) Bin(name string) string {
	path := filepath.Join(b.Dir, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return path
}

// Find looks in TOPOSTREAM_PG_BIN (alone, if it is set), PATH, what pg_config says, and Debian's and Homebrew's places, newest first.
func Find(ctx context.Context) (Binaries, error) {
	if dir := os.Getenv("TOPOSTREAM_PG_BIN"); dir != "" {
		b, err := At(ctx, dir)
		if err != nil {
			return b, fmt.Errorf("TOPOSTREAM_PG_BIN: %w", err)
		}
		return b, nil
	}
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(real))
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin", "/opt/homebrew/opt/postgresql*/bin", "/usr/local/opt/postgresql*/bin"} {
		found, _ := filepath.Glob(pattern) // the patterns are well-formed
		slices.Sort(found)
		slices.Reverse(found)
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		if b, err := At(ctx, dir); err == nil {
			return b, nil
		}
	}
	return Binaries{}, ErrNoBinaries
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// At takes the installation whose programs are in dir.
func At(ctx context.Context, dir string) (Binaries, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Binaries{}, fmt.Errorf("%s holds no initdb: %w", dir, err)
	}
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output() //nolint:gosec // the directory is the user's own choice
	if err != nil {
		return Binaries{}, fmt.Errorf("%s: postgres --version: %w", dir, err)
	}
	m := versionLine.FindSubmatch(out)
	if m == nil {
		return Binaries{}, fmt.Errorf("%s: postgres --version says %q", dir, out)
	}
	v, err := strconv.Atoi(string(m[1]))
	if err != nil || v < MinVersion {
		return Binaries{}, fmt.Errorf("%s is PostgreSQL %s: %d or newer is needed", dir, m[1], MinVersion)
	}
	return Binaries{dir, v}, nil
}
