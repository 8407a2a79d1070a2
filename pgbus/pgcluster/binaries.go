// Package pgcluster runs private PostgreSQL clusters: one for `topostream dev`, others for tests.
package pgcluster

import (
	"cmp"
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

// ErrNoBinaries says that the machine has no PostgreSQL server that is new enough.
var ErrNoBinaries = errors.New("no PostgreSQL 14 or newer found: install it, " +
	"for example `apt-get install postgresql` or `brew install postgresql@17`, " +
	"or name the directory of its programs in TOPOSTREAM_PG_BIN")

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

// usualPlaces are Debian's and Homebrew's.
const usualPlaces = "/usr/lib/postgresql/*/bin:/opt/homebrew/opt/postgresql*/bin:/usr/local/opt/postgresql*/bin"

// Find looks in TOPOSTREAM_PG_BIN (alone, if it is set), PATH, what pg_config says, and the usual places, newest first.
// TOPOSTREAM_PG_PLACES, patterns of directories parted by colons, takes the place of the usual ones; empty means none.
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
		if target, err := filepath.EvalSymlinks(path); err == nil {
			dirs = append(dirs, filepath.Dir(target))
		}
	}
	if out, err := exec.CommandContext(ctx, "pg_config", "--bindir").Output(); err == nil {
		dirs = append(dirs, strings.TrimSpace(string(out)))
	}
	places, given := os.LookupEnv("TOPOSTREAM_PG_PLACES")
	if !given {
		places = usualPlaces
	}
	for _, pattern := range filepath.SplitList(places) {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return Binaries{}, fmt.Errorf("TOPOSTREAM_PG_PLACES: %q: %w", pattern, err)
		}
		slices.SortFunc(found, byVersion)
		dirs = append(dirs, found...)
	}
	for _, dir := range dirs {
		if b, err := At(ctx, dir); err == nil {
			return b, nil
		}
	}
	if err := ctx.Err(); err != nil {
		return Binaries{}, err // what was asked of a program may be there all the same
	}
	return Binaries{}, ErrNoBinaries
}

var lastNumber = regexp.MustCompile(`(\d+)\D*$`)

// byVersion sorts directories newest first, by the last number in their paths: as text, 9 would come before 17.
func byVersion(a, b string) int {
	number := func(dir string) int {
		m := lastNumber.FindStringSubmatch(dir)
		if m == nil {
			return 0
		}
		n, _ := strconv.Atoi(m[1]) // what is too long for a number is no version
		return n
	}
	return cmp.Or(number(b)-number(a), strings.Compare(b, a))
}

var versionLine = regexp.MustCompile(`\(PostgreSQL\) (\d+)`)

// At takes the installation whose programs are in dir.
func At(ctx context.Context, dir string) (Binaries, error) {
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Binaries{}, fmt.Errorf("%s holds no initdb: %w", dir, err)
	}
	//nolint:gosec // the directory is the user's own choice
	out, err := exec.CommandContext(ctx, filepath.Join(dir, "postgres"), "--version").Output()
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
