package bench

import (
	"strings"
	"unicode/utf8"
)

// A table is printed as Markdown; its first row is the header.
type table [][]string

func newTable(rows int, header ...string) table {
	t := make(table, 0, 1+rows)
	return append(t, header)
}

// String pads the columns, so that it reads well in a terminal, too.
func (t table) String() string {
	widths := make([]int, len(t[0]))
	for _, row := range t {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for n, row := range t {
		for i, cell := range row {
			b.WriteString("| " + cell + strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)+1))
		}
		b.WriteString("|\n")
		if n == 0 {
			for _, w := range widths {
				b.WriteString("|" + strings.Repeat("-", w+2))
			}
			b.WriteString("|\n")
		}
	}
	return b.String()
}
