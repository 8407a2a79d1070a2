package sql_test

import (
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"topostream/pgbus/pgtest"
)

// A form writes the same changes in one statement of many rows, or in a statement for each row.
type form struct {
	conn *pgx.Conn
	many bool
	ids  []string // of its topologies

	mutations []string // in the order of their positions
}

// each runs a statement whose parameter $1 is an array.
func (f *form) each(t *rapid.T, statement string, values []string, more ...any) {
	if f.many {
		f.exec(t, statement, append([]any{values}, more...)...)
		return
	}
	for _, v := range values {
		f.exec(t, statement, append([]any{[]string{v}}, more...)...)
	}
}

func (f *form) exec(t *rapid.T, statement string, args ...any) {
	if _, err := f.conn.Exec(background, statement, args...); err != nil {
		t.Fatal(err)
	}
}

// journal is what a topology's journal says, with numbers in place of ids.
func (f *form) journal(t *rapid.T, topology int) string {
	const query = `
SELECT string_agg(concat_ws(' ', seq, type, payload::text), E'\n' ORDER BY seq) FROM topology_events
 WHERE topology_id = $1`
	var text string
	if err := f.conn.QueryRow(background, query, f.ids[topology]).Scan(&text); err != nil {
		t.Fatal(err)
	}
	for i, id := range f.mutations {
		text = strings.ReplaceAll(text, id, fmt.Sprint("mutation ", i))
	}
	return text
}

// TestOneStatementOfManyRowsAndManyOfOneGiveTheSameJournals holds the two ways to record against each other: cached
// plans for one row, and a plan made anew for many.
func TestOneStatementOfManyRowsAndManyOfOneGiveTheSameJournals(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		must(t, flag.Set("rapid.checks", "10"))
	}
	conn := pgtest.New(t).Conn(t)
	const topologies = 3
	round := 0
	rapid.Check(t, func(t *rapid.T) {
		round++
		forms := []*form{{conn: conn, many: true}, {conn: conn}}
		for n, f := range forms {
			prefix, names := fmt.Sprintf("%d-%d-", round, n), make([]string, topologies)
			for i := range names {
				names[i] = fmt.Sprint(prefix, i)
			}
			f.each(t, `INSERT INTO topologies (name) SELECT unnest($1::text[])`, names)
			const read = `SELECT array_agg(id::text ORDER BY id) FROM topologies WHERE starts_with(name, $1)`
			// In the order in which a statement of many rows takes them.
			if err := conn.QueryRow(background, read, prefix).Scan(&f.ids); err != nil {
				t.Fatal(err)
			}
		}
		var states []string // of the mutations
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch what := rapid.IntRange(0, 4).Draw(t, "what"); what {
			case 0:
				states = enqueueBoth(t, forms, states)
			case 4: // each may be deploying already: then nothing is told
				for _, f := range forms {
					f.each(t, `UPDATE topologies SET status = 'deploying' WHERE id = ANY ($1::text[]::uuid[])`, f.ids)
				}
			case 1:
				chosen := rapid.SliceOfNDistinct(rapid.IntRange(0, topologies-1), 1, topologies, rapid.ID).Draw(t, "topologies")
				slices.Sort(chosen)
				reason := rapid.StringMatching(`[a-c]`).Draw(t, "reason")
				for _, f := range forms {
					values := make([]string, len(chosen))
					for i, n := range chosen {
						values[i] = f.ids[n]
					}
					f.each(t, `UPDATE topologies SET reason = $2 WHERE id = ANY ($1::text[]::uuid[])`, values, reason)
				}
			default:
				changeBoth(t, forms, states)
			}
		}
		for i := range topologies {
			if many, one := forms[0].journal(t, i), forms[1].journal(t, i); many != one {
				t.Fatalf("many rows:\n%s\none row:\n%s", many, one)
			}
		}
	})
	counted(t, conn)
}

// enqueueBoth has both forms insert some mutations, and gives the states with theirs.
func enqueueBoth(t *rapid.T, forms []*form, states []string) []string {
	chosen := rapid.SliceOfN(rapid.IntRange(0, len(forms[0].ids)-1), 1, 6).Draw(t, "of")
	for _, f := range forms {
		values := make([]string, len(chosen))
		for i, n := range chosen {
			values[i] = f.ids[n]
		}
		before := len(f.mutations)
		f.each(t, `INSERT INTO mutations (topology_id, op, payload)
			SELECT u::uuid, 'add_lan', '{"name":"a"}' FROM unnest($1::text[]) WITH ORDINALITY AS v(u, n) ORDER BY n`, values)
		const read = `
SELECT array_agg(id::text ORDER BY position) FROM mutations WHERE topology_id = ANY ($1::text[]::uuid[])`
		if err := f.conn.QueryRow(background, read, f.ids).Scan(&f.mutations); err != nil {
			t.Fatal(err)
		}
		if len(f.mutations) != before+len(chosen) {
			t.Fatalf("%d mutations", len(f.mutations))
		}
	}
	for range chosen {
		states = append(states, "pending")
	}
	return states
}

// changeBoth brings some mutations that are in one state to another.
func changeBoth(t *rapid.T, forms []*form, states []string) {
	from := rapid.SampledFrom([]string{"pending", "applying"}).Draw(t, "from")
	to := rapid.SampledFrom(stateChanges[from]).Draw(t, "to")
	var chosen []int
	for i, s := range states {
		if s == from && rapid.Bool().Draw(t, "this one") {
			chosen = append(chosen, i)
			states[i] = to
		}
	}
	for _, f := range forms {
		values := make([]string, len(chosen))
		for i, n := range chosen {
			values[i] = f.mutations[n]
		}
		f.each(t, `UPDATE mutations SET state = $2, reason = 'why' WHERE id = ANY ($1::text[]::uuid[])`, values, to)
	}
}
