package main

import (
	"bufio"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

const (
	root            = "../.."
	mostColumns     = 120
	mostOfTheReadme = 100 // lines
)

// documents are the Markdown pages of the repository.
func documents(t *testing.T) []string {
	t.Helper()
	return files(t, func(path string) bool { return strings.HasSuffix(path, ".md") })
}

// interpreted are the files that begin with the name of their interpreter.
func interpreted(t *testing.T) []string {
	t.Helper()
	return files(t, func(path string) bool {
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		beginning, _ := bufio.NewReader(f).Peek(2) // an empty file has none
		return string(beginning) == "#!"
	})
}

// files are those of the repository that are wanted.
func files(t *testing.T, wanted func(path string) bool) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == "node_modules" || d.Name() == ".git"):
			return fs.SkipDir
		case d.Type().IsRegular() && wanted(path):
			paths = append(paths, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

func readLines(t *testing.T, path string) (lines []string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	scanner := bufio.NewScanner(f)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(path, err)
	}
	return lines
}

func TestDocumentsHaveLinesThatFitAndLinksThatLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for _, path := range documents(t) {
		lines := readLines(t, path)
		if path == filepath.Join(root, "README.md") && len(lines) > mostOfTheReadme {
			t.Errorf("%s has %d lines: %d at most, the rest belongs to the other pages", path, len(lines), mostOfTheReadme)
		}
		checkColumns(t, path, lines)
		for _, m := range link.FindAllStringSubmatch(strings.Join(lines, "\n"), -1) {
			checkLink(t, path, m[1])
		}
	}
}

func TestScriptsHaveLinesThatFit(t *testing.T) {
	t.Parallel()
	all := interpreted(t)
	if len(all) < 10 {
		t.Errorf("only %d scripts were found", len(all))
	}
	for _, path := range all {
		checkColumns(t, path, readLines(t, path))
	}
}

func checkColumns(t *testing.T, path string, lines []string) {
	t.Helper()
	for i, line := range lines {
		if columns := utf8.RuneCountInString(line); columns > mostColumns {
			t.Errorf("%s:%d has %d columns", path, i+1, columns)
		}
	}
}

func checkLink(t *testing.T, from, to string) {
	t.Helper()
	if strings.Contains(to, "://") || strings.HasPrefix(to, "mailto:") {
		return // another's page: it is not asked
	}
	file, anchor, _ := strings.Cut(to, "#")
	target := from
	if file != "" {
		target = filepath.Join(filepath.Dir(from), file)
	}
	if _, err := os.Stat(target); errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s links to %s, which is not there", from, to)
		return
	}
	if anchor != "" && !slices.Contains(anchors(t, target), anchor) {
		t.Errorf("%s links to %s, which has no such heading", from, to)
	}
}

// anchors are those of a page's headings, as GitHub makes them.
func anchors(t *testing.T, path string) (all []string) {
	t.Helper()
	no := regexp.MustCompile(`[^\p{L}\p{N} _-]`)
	for _, line := range readLines(t, path) {
		if title := strings.TrimLeft(line, "#"); title != line && strings.HasPrefix(title, " ") {
			title = no.ReplaceAllString(strings.ToLower(strings.TrimSpace(title)), "")
			all = append(all, strings.ReplaceAll(title, " ", "-"))
		}
	}
	return all
}

// chapter is what stands under a heading of a page.
func chapter(t *testing.T, page, title string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, page))
	if err != nil {
		t.Fatal(err)
	}
	_, chapter, found := strings.Cut(string(text), "\n## "+title+"\n")
	if !found {
		t.Fatalf("%s has no chapter %s", page, title)
	}
	chapter, _, _ = strings.Cut(chapter, "\n## ")
	return chapter
}

// Who is woken by an alert looks there.
func TestOperatingSaysWhatToDoAboutEachAlert(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile(filepath.Join(root, "deploy", "prometheus", "alerts.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rows := chapter(t, "OPERATING.md", "Metrics and alerts")
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(string(rules), -1)
	for _, alert := range alerts {
		if n := strings.Count(rows, "\n| `"+alert[1]+"` |"); n != 1 {
			t.Errorf("%s has %d rows", alert[1], n)
		}
	}
	if rows := strings.Count(rows, "\n| `"); rows != len(alerts) || rows == 0 {
		t.Errorf("%d rows for %d alerts", rows, len(alerts))
	}
}

func TestOperatingNamesEachCommandAndEachFlagOfWhatRunsOn(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "OPERATING.md"))
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	parser, err := newParser(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	for _, command := range parser.Model.Leaves(true) {
		path := command.Path()
		if !regexp.MustCompile("(topostream |`)" + path + `\b`).MatchString(page) { // the word alone may be prose
			t.Errorf("OPERATING.md does not name topostream %s", path)
		}
		if path != "serve" && path != "mutator" {
			continue
		}
		for _, flag := range command.Flags {
			if flag.Hidden || flag.Name == "help" {
				continue
			}
			if !regexp.MustCompile(`--` + flag.Name + `([^a-z-]|$)`).MatchString(page) {
				t.Errorf("OPERATING.md does not name --%s of %s", flag.Name, path)
			}
		}
	}
}

// Each guarantee of PROOF.md stands there with the tests that show it: whoever renames one, or takes it away, has to
// say what shows the guarantee now.
func TestTheTestsThatTheProofNamesExist(t *testing.T) {
	t.Parallel()
	guarantees := chapter(t, "PROOF.md", "Guarantees")
	name := regexp.MustCompile(`^(Test|Fuzz|Benchmark)\w+…?$`)
	quoted := regexp.MustCompile("`([^`]+)`")
	checked := 0
	for guarantee := range strings.SplitSeq(guarantees, "\n- ") {
		var packages []string // those that were named before the test
		afterTest := false
		for _, m := range quoted.FindAllStringSubmatch(guarantee, -1) {
			switch word := m[1]; {
			case name.MatchString(word):
				afterTest = true
				checked++
				if !slices.ContainsFunc(packages, func(dir string) bool { return hasTest(t, dir, word) }) {
					t.Errorf("%s: no test of %v is called %s", strings.Join(strings.Fields(guarantee), " "), packages, word)
				}
			case isPackage(word):
				if afterTest {
					packages, afterTest = nil, false
				}
				packages = append(packages, word)
			}
		}
	}
	if checked < 100 {
		t.Errorf("only %d names of tests were found", checked)
	}
}

func isPackage(word string) bool {
	files, err := filepath.Glob(filepath.Join(root, word, "*_test.go"))
	return err == nil && len(files) > 0 && !strings.HasPrefix(word, ".")
}

// hasTest tells whether a package has the test, or one that begins so where the name ends with ….
func hasTest(t *testing.T, dir, name string) bool {
	t.Helper()
	beginning, some := strings.CutSuffix(name, "…")
	return slices.ContainsFunc(testsOf(t, dir), func(test string) bool {
		return test == name || some && strings.HasPrefix(test, beginning)
	})
}

// testsOf are the names of a package's tests, fuzz tests and benchmarks.
func testsOf(t *testing.T, dir string) (names []string) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		for _, line := range readLines(t, file) {
			if declared, ok := strings.CutPrefix(line, "func "); ok {
				name, _, _ := strings.Cut(declared, "(")
				names = append(names, name)
			}
		}
	}
	return names
}
