package main

import (
	"bufio"
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// A mutant is one change of one file.
type mutant struct {
	file     string // from the module's root
	text     []byte // the whole file
	function string
	line     int
	from, to int // what of text is replaced
	by       string

	positions *token.File
	decl      *ast.FuncDecl // whose body it is in; nil: it is in none
	number    int           // among those that are built into one binary
}

func (m mutant) offset(p token.Pos) int { return m.positions.Offset(p) }

// place is for people, and to sort by.
func (m mutant) place() string { return fmt.Sprintf("%s:%d", m.file, m.line) }

// String names the mutant without a line number, so that the name holds while the file changes elsewhere:
// "stream/feed.go push: if [x > y → x >= y] {".
func (m mutant) String() string {
	begin := bytes.LastIndexByte(m.text[:m.from], '\n') + 1
	end := len(m.text)
	if i := bytes.IndexByte(m.text[m.from:], '\n'); i >= 0 {
		end = m.from + i
	}
	to := min(m.to, end)
	line := string(m.text[begin:m.from]) + "[" + string(m.text[m.from:to]) + " → " + m.by + "]" + string(m.text[to:end])
	return m.file + " " + m.function + ": " + strings.TrimSpace(line)
}

func (m mutant) source() []byte {
	return append(append(append([]byte(nil), m.text[:m.from]...), m.by...), m.text[m.to:]...)
}

// swaps are what becomes of a token.
var swaps = map[token.Token][]token.Token{ //nolint:gochecknoglobals // a constant
	token.EQL: {token.NEQ}, token.NEQ: {token.EQL},
	token.LSS: {token.LEQ, token.GEQ}, token.GEQ: {token.GTR, token.LSS},
	token.GTR: {token.GEQ, token.LEQ}, token.LEQ: {token.LSS, token.GTR},
	token.LAND: {token.LOR}, token.LOR: {token.LAND},
	token.ADD: {token.SUB}, token.SUB: {token.ADD},
	token.MUL: {token.QUO}, token.QUO: {token.MUL}, token.REM: {token.MUL},
	token.AND: {token.OR}, token.OR: {token.AND}, token.XOR: {token.AND},
	token.SHL: {token.SHR}, token.SHR: {token.SHL},
	token.ADD_ASSIGN: {token.SUB_ASSIGN}, token.SUB_ASSIGN: {token.ADD_ASSIGN}, token.OR_ASSIGN: {token.AND_ASSIGN},
	token.AND_ASSIGN: {token.OR_ASSIGN}, token.INC: {token.DEC}, token.DEC: {token.INC},
	token.BREAK: {token.CONTINUE}, token.CONTINUE: {token.BREAK},
}

// mutantsOf gives every mutant of a package.
func mutantsOf(p goPackage, o options) (all []mutant, err error) {
	for _, name := range p.GoFiles {
		file, err := filepath.Rel(p.Module.Dir, filepath.Join(p.Dir, name))
		if err != nil {
			return nil, err
		}
		if o.exclude.MatchString(file) || !o.only.MatchString(file) {
			continue
		}
		text, err := os.ReadFile(filepath.Join(p.Dir, name))
		if err != nil {
			return nil, err
		}
		files := token.NewFileSet()
		tree, err := parser.ParseFile(files, name, text, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		positions := files.File(tree.Pos())
		f := &finder{options: o, mutant: mutant{file: file, text: text, positions: positions}}
		for _, d := range tree.Decls {
			f.declaration(d)
		}
		all = append(all, f.found...)
	}
	return all, nil
}

// A finder collects the mutants of one file.
type finder struct {
	options

	mutant mutant // what all that are found now have in common
	found  []mutant
}

func (f *finder) declaration(d ast.Decl) {
	f.mutant.function, f.mutant.decl = "-", nil
	switch d := d.(type) {
	case *ast.FuncDecl:
		f.mutant.function, f.mutant.decl = d.Name.Name, d
	case *ast.GenDecl:
		if d.Tok == token.IMPORT {
			return
		}
	}
	ast.Inspect(d, func(n ast.Node) bool { f.node(n); return true })
}

func (f *finder) node(n ast.Node) {
	switch n := n.(type) {
	case *ast.BinaryExpr:
		f.swap(n.OpPos, n.Op)
	case *ast.AssignStmt:
		f.swap(n.TokPos, n.Tok)
	case *ast.IncDecStmt:
		f.swap(n.TokPos, n.Tok)
	case *ast.BranchStmt:
		f.swap(n.TokPos, n.Tok)
	case *ast.UnaryExpr:
		if n.Op == token.NOT || n.Op == token.SUB {
			f.add(n.OpPos, n.OpPos+1, "")
		}
	case *ast.Ident:
		switch n.Name {
		case "true":
			f.add(n.Pos(), n.End(), "false")
		case "false":
			f.add(n.Pos(), n.End(), "true")
		}
	case *ast.BasicLit:
		f.number(n)
	case *ast.BlockStmt:
		f.removals(n.List)
	case *ast.CaseClause:
		f.removals(n.Body)
	case *ast.CommClause:
		f.removals(n.Body)
	}
}

func (f *finder) swap(at token.Pos, from token.Token) {
	for _, to := range swaps[from] {
		f.add(at, at+token.Pos(len(from.String())), to.String())
	}
}

// number moves a number by one either way. Those from 100 on are sizes, not bounds: nobody counts on each of their
// units.
func (f *finder) number(n *ast.BasicLit) {
	v, err := strconv.ParseInt(n.Value, 0, 64)
	if n.Kind != token.INT || err != nil || v >= 100 {
		return
	}
	f.add(n.Pos(), n.End(), strconv.FormatInt(v+1, 10))
	f.add(n.Pos(), n.End(), strconv.FormatInt(v-1, 10))
}

// removals removes what is done for its effect alone.
func (f *finder) removals(statements []ast.Stmt) {
	for _, s := range statements {
		switch s := s.(type) {
		case *ast.AssignStmt:
			if s.Tok == token.DEFINE {
				continue
			}
		case *ast.ExprStmt, *ast.IncDecStmt, *ast.SendStmt:
		default:
			continue
		}
		if from, to := f.mutant.offset(s.Pos()), f.mutant.offset(s.End()); !f.keep.Match(f.mutant.text[from:to]) {
			f.add(s.Pos(), s.End(), "")
		}
	}
}

func (f *finder) add(from, to token.Pos, by string) {
	m := f.mutant
	m.line, m.from, m.to, m.by = m.positions.Line(from), m.offset(from), m.offset(to), by
	if m.decl != nil && (m.decl.Body == nil || from < m.decl.Body.Pos()) {
		m.decl = nil
	}
	f.found = append(f.found, m)
}

// readEquivalents reads the list: an entry at the beginning of a line, as mutant.String gives it, and its reason in the
// indented lines below.
func readEquivalents(path string) (map[string]string, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	list, entry := map[string]string{}, ""
	lines := bufio.NewScanner(file)
	for n := 1; lines.Scan(); n++ {
		switch line := lines.Text(); {
		case strings.TrimSpace(line) == "", line[0] == '#':
		case line[0] != ' ' && line[0] != '\t':
			if entry != "" && list[entry] == "" {
				return nil, fmt.Errorf("%s:%d: the entry above has no reason", path, n)
			}
			entry = line
			list[entry] = ""
		default:
			list[entry] += strings.TrimSpace(line) + " "
		}
	}
	if entry != "" && list[entry] == "" {
		return nil, fmt.Errorf("%s: the last entry has no reason", path)
	}
	return list, lines.Err()
}

// coverage tells which lines of which files the tests reach.
type coverage map[string][]block

type block struct{ from, to int }

func readCoverage(path string) (coverage, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	c := coverage{}
	for line := range strings.Lines(string(text)) {
		var b block
		var statements, count, column int
		name, rest, ok := strings.Cut(line, ".go:")
		if !ok {
			continue
		}
		_, err := fmt.Sscanf(rest, "%d.%d,%d.%d %d %d", &b.from, &column, &b.to, &column, &statements, &count)
		if err != nil {
			return nil, fmt.Errorf("%s: %q: %w", path, line, err)
		}
		if count == 0 {
			c[name+".go"] = append(c[name+".go"], b)
		}
	}
	return c, nil
}

// reaches tells whether the tests may reach a line: it is not inside a block that they never entered. (The line that a
// block begins on may belong to the condition before it, and declarations are in no block.)
func (c coverage) reaches(file string, line int) bool {
	for _, b := range c[file] {
		if line > b.from && line < b.to {
			return false
		}
	}
	return true
}
