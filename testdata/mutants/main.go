// Command mutants tells whether the short tests of a package can fail. It changes one token of the package at a time,
// or removes one statement, and runs the package's own tests with -short: a mutant that they do not kill is a line of
// code that they do not look at.
//
//	testdata/mutants/run ./stream ./pgbus/journal          # exit 1 below 85 % killed
//	testdata/mutants/run -exclude 'request\.go' ./stream    # without some files
//	testdata/mutants/run -sample 60 -seed 7 ./pgbus         # so many at random, where all would take hours
//	testdata/mutants/run -only 'attach\.go' -first 'Wait|Lasts' ./pgbus  # quick tests before slow ones
//	testdata/mutants/run -list ./stream                     # what would be tried
//
// The tests that -first names run alone, and only a mutant that outlives them meets the rest: where some tests take
// milliseconds and the others a minute, that saves the minute for most. What is killed is the same either way.
//
// A survivor is printed as it would stand in testdata/mutants/equivalent.txt: there it goes, with its reason, if no
// test can see it; else it gets a test. An entry of that list is tried like the others, and the command fails where one
// is killed or matches nothing any more.
//
// No file of the working tree is touched: the go tool gets the changed file by -overlay, and rapid writes no failure
// files. github.com/go-gremlins/gremlins v0.6.0 was tried and does not serve: it takes a mutant that does not compile
// for a killed one, has no mutants of true and false, of numbers, or of statements, and no list of equivalents.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	equivalentList = "testdata/mutants/equivalent.txt"
	// patience is how long a test waits for what a mutant has made impossible (pgbus/pgtest).
	patience = "TEST_PATIENCE=30s"
	// kept are statements that stay: of logs nobody makes tests, and a lock that is missing shows at once or never.
	kept = `\b[lL]og(ger)?\.|\bslog\.|\.R?(Lock|Unlock)\(\)`
)

type options struct {
	exclude, only, keep *regexp.Regexp

	first, run string
	threshold  float64
	sample     int
	seed       uint64
	workers    int
	list       bool
}

func main() {
	var o options
	exclude := flag.String("exclude", `^$`, "regular expression on the paths of files that stay as they are")
	only := flag.String("only", "", "the same on those that are changed")
	keep := flag.String("keep", kept, "the same on statements that are not removed")
	flag.StringVar(&o.run, "run", "", "as go test -run: the tests that may kill")
	flag.StringVar(&o.first, "first", "", "as go test -run: those of them that run before the rest")
	flag.Float64Var(&o.threshold, "threshold", 85, "percentage to be killed")
	flag.IntVar(&o.sample, "sample", 0, "try so many mutants, drawn at random; 0: all")
	flag.Uint64Var(&o.seed, "seed", uint64(time.Now().UnixNano()), "of the sample")
	flag.IntVar(&o.workers, "j", runtime.GOMAXPROCS(0), "mutants at a time")
	flag.BoolVar(&o.list, "list", false, "print the mutants and try none")
	flag.Parse()
	o.exclude, o.only, o.keep = regexp.MustCompile(*exclude), regexp.MustCompile(*only), regexp.MustCompile(*keep)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	ok, err := run(ctx, o, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(2)
	}
	if !ok {
		os.Exit(1)
	}
}

func run(ctx context.Context, o options, patterns []string) (ok bool, err error) {
	packages, err := list(ctx, patterns)
	if err != nil {
		return false, err
	}
	equivalents, err := readEquivalents(equivalentList)
	if err != nil {
		return false, err
	}
	ok = true
	for _, p := range packages {
		good, err := o.try(ctx, p, equivalents)
		if err != nil {
			return false, fmt.Errorf("%s: %w", p.ImportPath, err)
		}
		ok = ok && good
	}
	return ok, nil
}

// A goPackage is what go list tells.
type goPackage struct {
	Dir, ImportPath string
	Name            string
	GoFiles         []string
	Deps            []string
	Module          struct{ Dir string }
	ForTest         string
}

// list gives the packages, each with what its tests import.
func list(ctx context.Context, patterns []string) ([]goPackage, error) {
	args := []string{"list", "-test", "-json=Dir,ImportPath,Name,GoFiles,Deps,Module,ForTest"}
	out, err := exec.CommandContext(ctx, "go", append(args, patterns...)...).Output()
	if err != nil {
		return nil, fmt.Errorf("go list: %w%s", err, stderr(err))
	}
	var packages []goPackage
	tests := map[string][]string{}
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var p goPackage
		if err := d.Decode(&p); err != nil {
			return nil, err
		}
		if path, ok := strings.CutSuffix(p.ImportPath, ".test"); ok {
			tests[path] = p.Deps
		} else if p.ForTest == "" {
			packages = append(packages, p)
		}
	}
	for i := range packages {
		packages[i].Deps = tests[packages[i].ImportPath]
	}
	return packages, nil
}

func stderr(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return ": " + strings.TrimSpace(string(exit.Stderr))
	}
	return ""
}

// try tries the mutants of one package and prints what became of them. It returns false below the threshold, and where
// the list of equivalents is wrong.
func (o options) try(ctx context.Context, p goPackage, equivalents map[string]string) (ok bool, err error) {
	all, err := mutantsOf(p, o)
	if err != nil {
		return false, err
	}
	stale := staleEquivalents(all, equivalents)
	chosen := all
	if o.sample > 0 && o.sample < len(all) {
		fmt.Fprintf(os.Stdout, "%s: %d of %d mutants, -seed %d\n", p.ImportPath, o.sample, len(all), o.seed)
		random := rand.New(rand.NewPCG(o.seed, 0))
		random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		chosen = slices.Clone(all[:o.sample])
		slices.SortFunc(chosen, func(a, b mutant) int { return strings.Compare(a.place(), b.place()) })
	}
	if o.list {
		for _, m := range chosen {
			fmt.Fprintln(os.Stdout, m.place(), m)
		}
		return len(stale) == 0, nil
	}
	l, err := newLaboratory(ctx, p, o)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := l.buildAll(ctx, chosen); err != nil {
		return false, err
	}
	t := l.tryAll(ctx, chosen, equivalents)
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	t.stale = append(t.stale, stale...)
	return t.report(p, o.threshold), nil
}

// staleEquivalents gives those entries of the package that match none of its mutants.
func staleEquivalents(all []mutant, equivalents map[string]string) (stale []string) {
	known, files := map[string]bool{}, map[string]bool{}
	for _, m := range all {
		known[m.String()], files[m.file] = true, true
	}
	for entry := range equivalents {
		if file, _, _ := strings.Cut(entry, " "); files[file] && !known[entry] {
			stale = append(stale, entry+"\n\tis listed as equivalent and matches nothing")
		}
	}
	slices.Sort(stale)
	return stale
}

// A tally is what became of a package's mutants.
type tally struct {
	mu                                 sync.Mutex
	killed, timedOut, broken, excepted int
	survivors, stale                   []string
}

func (t *tally) report(p goPackage, threshold float64) bool {
	slices.Sort(t.survivors)
	for _, s := range t.survivors {
		fmt.Fprintln(os.Stdout, s)
	}
	for _, s := range t.stale {
		fmt.Fprintln(os.Stdout, s)
	}
	tried := t.killed + len(t.survivors)
	percent := 100 * float64(t.killed) / float64(max(tried, 1))
	fmt.Fprintf(os.Stdout, "%s: %.1f %% killed, %.0f are asked for: %d killed (%d by the time limit), %d lived; "+
		"%d equivalent, %d do not compile\n",
		p.ImportPath, percent, threshold, t.killed, t.timedOut, len(t.survivors), t.excepted, t.broken)
	return percent >= threshold && len(t.stale) == 0
}

func (t *tally) add(m mutant, v verdict, why string, equivalent bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case v == doesNotCompile:
		t.broken++
	case equivalent && v != lived:
		t.stale = append(t.stale, m.String()+"\n\tis listed as equivalent and was killed: "+why)
	case equivalent:
		t.excepted++
	case v == lived:
		fmt.Fprintln(os.Stderr, m.place(), "lived")
		t.survivors = append(t.survivors, m.place()+" lived:\n"+m.String())
	default:
		t.killed++
		if v == timedOut {
			t.timedOut++
		}
	}
}

type verdict int

const (
	killed verdict = iota
	timedOut
	lived
	doesNotCompile
)

// A laboratory runs the tests of one package against its mutants.
type laboratory struct {
	options

	p      goPackage
	dir    string // for what is built
	stages []stage

	all     string       // the binary that has every mutant of a function
	compile map[int]bool // those that it has, by their numbers
}

// A stage is some of the tests. A mutant that outlives one meets the next.
type stage struct {
	flags []string
	limit time.Duration
	cover coverage
}

// newLaboratory runs the tests as they are: they must pass, the time that they take sets the limit, and a line that
// they never reach needs no try.
func newLaboratory(ctx context.Context, p goPackage, o options) (*laboratory, error) {
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return nil, err
	}
	l := &laboratory{options: o, p: p, dir: dir}
	binary := filepath.Join(dir, "unchanged")
	build := exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-cover", "-o", binary, p.ImportPath)
	if out, err := build.CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("build the tests: %w: %s", err, out), l.close())
	}
	stages := [][]string{{"-test.run=" + o.run}}
	if o.first != "" {
		stages = [][]string{{"-test.run=" + o.first}, {"-test.run=" + o.run, "-test.skip=" + o.first}}
	}
	for _, which := range stages {
		s, err := l.newStage(ctx, binary, which)
		if err != nil {
			return nil, errors.Join(err, l.close())
		}
		l.stages = append(l.stages, s)
	}
	return l, nil
}

func (l *laboratory) newStage(ctx context.Context, binary string, which []string) (s stage, err error) {
	s.flags = append([]string{"-test.short", "-test.failfast", "-test.count=1"}, which...)
	s.limit = 10 * time.Minute
	if slices.Contains(l.p.Deps, "pgregory.net/rapid") {
		s.flags = append(s.flags, "-rapid.nofailfile", "-rapid.shrinktime=0s")
	}
	profile := filepath.Join(l.dir, "cover")
	began := time.Now()
	if v, out := l.test(ctx, binary, 0, s, "-test.coverprofile="+profile); v != lived {
		return s, fmt.Errorf("the tests fail as they are: %s", out)
	}
	s.limit = 10*time.Second + 5*time.Since(began)
	s.cover, err = readCoverage(profile)
	return s, err
}

func (l *laboratory) close() error { return os.RemoveAll(l.dir) }

func (l *laboratory) tryAll(ctx context.Context, mutants []mutant, equivalents map[string]string) *tally {
	t := &tally{}
	next := make(chan mutant)
	var workers sync.WaitGroup
	for i := range max(l.workers, 1) {
		workers.Go(func() {
			for m := range next {
				_, equivalent := equivalents[m.String()]
				v, why := l.try(ctx, i, m)
				if equivalent && v != lived { // a test may fail by itself on a busy machine
					v, why = l.try(ctx, i, m)
				}
				t.add(m, v, why, equivalent)
			}
		})
	}
	for n, m := range mutants {
		if ctx.Err() != nil {
			break
		}
		if n%50 == 0 {
			fmt.Fprintf(os.Stderr, "%s: %d of %d\n", l.p.ImportPath, n, len(mutants))
		}
		next <- m
	}
	close(next)
	workers.Wait()
	return t
}

// try runs the tests with one mutant, and says what killed it. One that is outside of functions is built first.
func (l *laboratory) try(ctx context.Context, worker int, m mutant) (v verdict, why string) {
	binary := l.all
	if m.decl == nil {
		dir := filepath.Join(l.dir, strconv.Itoa(worker))
		source := filepath.Join(dir, filepath.Base(m.file))
		must(os.MkdirAll(dir, 0o700))
		must(os.WriteFile(source, m.source(), 0o600))
		binary = filepath.Join(dir, "test")
		replace := map[string]string{filepath.Join(l.p.Module.Dir, m.file): source}
		if _, err := l.build(ctx, dir, replace, binary); err != nil {
			return doesNotCompile, ""
		}
	} else if !l.compile[m.number] {
		return doesNotCompile, ""
	}
	for _, s := range l.stages {
		if !s.cover.reaches(filepath.Join(l.p.ImportPath, filepath.Base(m.file)), m.line) {
			continue
		}
		if v, out := l.test(ctx, binary, m.number, s); v != lived {
			return v, string(failure.Find(out))
		}
	}
	return lived, ""
}

// failure is the line that names a test's.
var failure = regexp.MustCompile(`(?m)^(--- FAIL: .*|panic: .*|goroutines stayed: .*)$`)

// test runs the tests in a process group of their own, so that nothing that they start outlives them.
func (l *laboratory) test(
	ctx context.Context, binary string, number int, s stage, flags ...string,
) (verdict, []byte) {
	ctx, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	var out bytes.Buffer
	test := exec.CommandContext(ctx, binary, append(slices.Clone(s.flags), flags...)...)
	test.Env = append(os.Environ(), fmt.Sprintf("%s=%d", activeEnv, number), patience)
	test.Dir, test.Stdout, test.Stderr = l.p.Dir, &out, &out
	test.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	test.Cancel = func() error { return syscall.Kill(-test.Process.Pid, syscall.SIGKILL) }
	test.WaitDelay = time.Second
	err := test.Run()
	switch {
	case err == nil:
		return lived, nil
	case ctx.Err() != nil:
		return timedOut, out.Bytes()
	}
	return killed, out.Bytes()
}

func must(err error) {
	if err != nil {
		panic(err) // the temporary directory cannot be written
	}
}
