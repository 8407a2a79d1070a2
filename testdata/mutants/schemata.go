package main

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// To link the tests takes longer than to run most of them. So the mutants of a package's functions are all in one
// binary (mutant schemata): each is a copy of its whole function, and the function begins with
//
//	switch mutants_active { case 17: return mutants_17(ctx, id) }
//
// A method's copies are methods of the same receiver. An initializer that calls a function waits for mutants_active
// like for any variable.
const (
	activeEnv  = "MUTANTS_ACTIVE"
	activeFile = `package %s

import (
	"os"
	"strconv"
)

var mutants_active = func() int { n, _ := strconv.Atoi(os.Getenv("` + activeEnv + `")); return n }()
`
)

// brokenCopy finds the copies that the compiler complains of: each has a //line of its own.
var brokenCopy = regexp.MustCompile(`\bmutants_(\d+)\.go:\d`)

// buildAll numbers the mutants that are copies of functions and builds the tests with those of them that compile.
func (l *laboratory) buildAll(ctx context.Context, mutants []mutant) error {
	files, compile := map[string][]mutant{}, map[int]bool{}
	for i := range mutants {
		if m := &mutants[i]; m.decl != nil {
			m.number = i + 1
			compile[m.number] = m.parses()
			files[m.file] = append(files[m.file], *m)
		}
	}
	active := filepath.Join(l.dir, "active.go")
	must(os.WriteFile(active, fmt.Appendf(nil, activeFile, l.p.Name), 0o600))
	replace := map[string]string{filepath.Join(l.p.Dir, "mutants_active.go"): active}
	l.all, l.compile = filepath.Join(l.dir, "all"), compile
	for {
		for file, those := range files {
			changed := filepath.Join(l.dir, filepath.Base(file))
			those = slices.DeleteFunc(slices.Clone(those), func(m mutant) bool { return !compile[m.number] })
			must(os.WriteFile(changed, schema(files[file][0], those), 0o600))
			replace[filepath.Join(l.p.Module.Dir, file)] = changed
		}
		out, err := l.build(ctx, l.dir, replace, l.all)
		if err == nil {
			return nil
		}
		broken := brokenCopy.FindAllStringSubmatch(string(out), -1)
		if len(broken) == 0 {
			return fmt.Errorf("build all mutants: %w: %s", err, out)
		}
		for _, b := range broken {
			n, err := strconv.Atoi(b[1])
			must(err)
			compile[n] = false
		}
	}
}

// build builds the tests with some files replaced.
func (l *laboratory) build(ctx context.Context, dir string, replace map[string]string, binary string) ([]byte, error) {
	overlay := filepath.Join(dir, "overlay.json")
	list, err := json.Marshal(map[string]map[string]string{"Replace": replace})
	must(err)
	must(os.WriteFile(overlay, list, 0o600))
	return exec.CommandContext(ctx, "go", "test", "-c", "-vet=off", "-ldflags=-s -w", // which links in half the time
		"-gcflags=-e", // every error
		"-overlay", overlay, "-o", binary, l.p.ImportPath).CombinedOutput()
}

// schema is the file of one mutant with the copies for all of them.
func schema(file mutant, mutants []mutant) []byte {
	var copies strings.Builder
	cases, parameters := map[*ast.FuncDecl]string{}, map[*ast.FuncDecl][]edit{}
	for _, m := range mutants {
		copies.WriteString("\n" + m.copy())
		var call string
		call, parameters[m.decl] = m.call()
		cases[m.decl] += fmt.Sprintf(" case %d: %s;", m.number, call)
	}
	var edits []edit
	for decl, those := range cases {
		edits = append(append(edits, parameters[decl]...),
			edit{at: file.offset(decl.Body.Lbrace) + 1, by: " switch mutants_active {" + those + " };"})
	}
	slices.SortFunc(edits, func(a, b edit) int { return a.at - b.at })
	var source strings.Builder
	at := 0
	for _, e := range edits {
		source.Write(file.text[at:e.at])
		source.WriteString(e.by)
		at = e.at + e.instead
	}
	source.Write(file.text[at:])
	return []byte(source.String() + copies.String())
}

// An edit puts something in the place of so many bytes.
type edit struct {
	at, instead int
	by          string
}

func (m mutant) name() string { return fmt.Sprint("mutants_", m.number) }

// copy is the mutant's function under the mutant's name.
func (m mutant) copy() string {
	name := m.decl.Name
	return fmt.Sprintf("//line %s.go:1\n%s%s%s%s%s\n", m.name(),
		m.text[m.offset(m.decl.Pos()):m.offset(name.Pos())], m.name(), m.text[m.offset(name.End()):m.from],
		m.by, m.text[m.to:m.offset(m.decl.End())])
}

// parses tells whether the copy is Go at all: what is not would hide the errors of others.
func (m mutant) parses() bool {
	_, err := parser.ParseFile(token.NewFileSet(), "", "package p\n"+m.copy(), parser.SkipObjectResolution)
	return err == nil
}

// call is the call of the copy from within the function, and what gives a name to parameters that have none.
func (m mutant) call() (string, []edit) {
	d := m.decl
	arguments, edits := m.arguments(d.Type.Params)
	call := m.name()
	if d.Type.TypeParams != nil {
		types, _ := m.arguments(d.Type.TypeParams)
		call += "[" + strings.Join(types, ", ") + "]"
	}
	if d.Recv != nil {
		receiver, more := m.arguments(d.Recv)
		call, edits = receiver[0]+"."+call, append(more, edits...)
	}
	call += "(" + strings.Join(arguments, ", ") + ")"
	if d.Type.Results.NumFields() == 0 {
		return call + "; return", edits
	}
	return "return " + call, edits
}

func (m mutant) arguments(list *ast.FieldList) (names []string, edits []edit) {
	name := func() string { return fmt.Sprint("mutants_at", m.offset(list.Pos()), "_", len(names)) }
	for _, f := range list.List {
		if len(f.Names) == 0 {
			edits = append(edits, edit{at: m.offset(f.Type.Pos()), by: name() + " "})
			names = append(names, name())
		}
		for _, n := range f.Names {
			if n.Name == "_" {
				edits = append(edits, edit{at: m.offset(n.Pos()), instead: 1, by: name()})
				names = append(names, name())
			} else {
				names = append(names, n.Name)
			}
		}
		if _, variadic := f.Type.(*ast.Ellipsis); variadic {
			names[len(names)-1] += "..."
		}
	}
	return names, edits
}
