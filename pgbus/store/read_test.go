package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

const plenty = 64 << 20 // more than any answer here takes

// mutation is a row of what Mutations gives.
type mutation struct {
	ID          string          `json:"id"`
	Position    int64           `json:"position"`
	State       string          `json:"state"`
	Payload     json.RawMessage `json:"payload"`
	RequestedBy *string         `json:"requested_by"`
}

func positions(t *testing.T, page []byte) (list []int64) {
	t.Helper()
	var rows []mutation
	must(t, json.Unmarshal(page, &rows))
	for _, row := range rows {
		list = append(list, row.Position)
	}
	return list
}

// someMutations makes an active topology with as many, of so many bytes each; of three, the second is applied.
func someMutations(t *testing.T, s *Store, db *pgtest.DB, n, size int) stream.TopologyID {
	t.Helper()
	const (
		insert = `
INSERT INTO mutations (topology_id, op, payload, requested_by)
SELECT $1::text::uuid, 'update_decky', jsonb_build_object('decky', i, 'x', repeat('x', $3)), 'ada'
  FROM generate_series(1, $2) i`
		finish = `UPDATE mutations SET state = $1 WHERE position % 3 = 2`
	)
	id, conn := active(t, s), db.Conn(t)
	pgtest.Exec(t, conn, insert, string(id), n, size)
	for _, state := range []string{"applying", "applied"} {
		pgtest.Exec(t, conn, finish, state)
	}
	return id
}

func TestMutationsArePagedNewestFirstAndEachComesOnce(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id := someMutations(t, s, db, 12, 10)
	for _, c := range []struct {
		q    stream.MutationQuery
		want string // pages
	}{
		{stream.MutationQuery{Limit: 200}, "[12 11 10 9 8 7 6 5 4 3 2 1]"},
		{stream.MutationQuery{Limit: 5}, "[12 11 10 9 8] [7 6 5 4 3] [2 1]"},
		{stream.MutationQuery{Limit: 6}, "[12 11 10 9 8 7] [6 5 4 3 2 1]"},
		{stream.MutationQuery{Limit: 2, States: []string{"applied"}}, "[11 8] [5 2]"},
		{stream.MutationQuery{Limit: 200, States: []string{"failed"}}, "[]"},
		{stream.MutationQuery{Limit: 7, States: []string{"applied", "pending"}, Before: 8}, "[7 6 5 4 3 2 1]"},
		{stream.MutationQuery{Limit: 200, Before: 1}, "[]"},
	} {
		q, pages := c.q, []string{}
		for q.Bytes = 1 << 20; ; {
			page, next, err := s.Mutations(t.Context(), id, q, plenty)
			must(t, err)
			pages = append(pages, fmt.Sprint(positions(t, page)))
			if q.Before = next; next == 0 {
				break
			}
		}
		if got := strings.Join(pages, " "); got != c.want {
			t.Errorf("%+v: %s, want %s", c.q, got, c.want)
		}
	}
}

func TestAPageOfMutationsHasABoundInBytesButForItsFirstRow(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id := someMutations(t, s, db, 5, 1000)
	page := func(bytes int64) (rows []json.RawMessage) {
		t.Helper()
		all, next, err := s.Mutations(t.Context(), id, stream.MutationQuery{Limit: 200, Bytes: bytes}, plenty)
		must(t, err)
		must(t, json.Unmarshal(all, &rows))
		if (next == 0) != (len(rows) == 5) {
			t.Errorf("%d bytes: %d rows, next %d", bytes, len(rows), next)
		}
		return rows
	}
	all, sum := page(1<<20), int64(-1) // a comma less than rows
	for n, row := range all {
		sum += 1 + int64(len(row))
		if fits, less := len(page(sum)), len(page(sum-1)); fits != n+1 || less != max(n, 1) {
			t.Errorf("%d rows in %d bytes, and %d in one less, want %d and %d", fits, sum, less, n+1, max(n, 1))
		}
	}
	if sum < 5000 {
		t.Errorf("%d bytes", sum)
	}
	var tooLarge *stream.TooLargeError
	_, _, err := s.Mutations(t.Context(), id, stream.MutationQuery{Limit: 200, Bytes: 1}, 100)
	if want := int64(len(all[0])) + 2; !errors.As(err, &tooLarge) || tooLarge.Bytes != want {
		t.Errorf("without room for the first row: %v, want %d", err, want)
	}
}

func TestWhatIsLargerThanItsRoomIsNotReadAndSaysHowLargeItIs(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id := active(t, s)
	const deckies = `
INSERT INTO deckies (topology_id, name, decky_config)
SELECT $1::text::uuid, lpad(i::text, 4, '0'), jsonb_build_object('ä', repeat('ü€', 10000))
  FROM generate_series(1, 20) i`
	pgtest.Exec(t, db.Conn(t), deckies, string(id))
	var tooLarge *stream.TooLargeError
	if _, err := s.Topology(t.Context(), id, 1000); !errors.As(err, &tooLarge) {
		t.Fatalf("without room: %v", err)
	}
	document, err := s.Topology(t.Context(), id, tooLarge.Bytes)
	must(t, err)
	if int64(len(document)) != tooLarge.Bytes || cap(document) != len(document) {
		t.Errorf("%d bytes of %d, want %d", len(document), cap(document), tooLarge.Bytes)
	}
	if tooLarge.Bytes%262144 == 0 || tooLarge.Bytes < 20*50000 {
		t.Fatalf("%d bytes: the test does not see what is between two parts", tooLarge.Bytes)
	}
	var g wholeTopology
	must(t, json.Unmarshal(document, &g))
	if len(g.Deckies) != 20 || g.Deckies[19].Name != "0020" || strings.Count(string(document), "ü€") != 20*10000 {
		t.Errorf("%d deckies", len(g.Deckies))
	}
	list, err := s.Topologies(t.Context(), nil, 10, 0, plenty)
	must(t, err)
	if _, err := s.Topologies(t.Context(), nil, 10, 0, int64(len(list))-1); !errors.As(err, &tooLarge) ||
		tooLarge.Bytes != int64(len(list)) {
		t.Errorf("a list without room: %v", err)
	}
}

func TestAListIsInTheOrderOfNamesAndOfWhatOneMaySeeAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	ids := map[string]stream.TopologyID{}
	for _, name := range []string{"b", `a "quoted" one`, "c", "d"} {
		made, err := s.CreateTopology(t.Context(), stream.NewTopology{Name: name})
		must(t, err)
		ids[name] = made.ID
	}
	for _, c := range []struct {
		only   []stream.TopologyID
		limit  int
		offset int64
		want   string
	}{
		{nil, 10, 0, `4 10 0 a "quoted" one,b,c,d`},
		{nil, 2, 1, `4 2 1 b,c`},
		{nil, 2, 9, `4 2 9 `},
		{[]stream.TopologyID{}, 10, 0, `0 10 0 `},
		{[]stream.TopologyID{ids["d"], ids["b"], "00000000-0000-4000-8000-000000000000"}, 10, 0, `2 10 0 b,d`},
	} {
		list, err := s.Topologies(t.Context(), c.only, c.limit, c.offset, plenty)
		must(t, err)
		var page struct {
			Total, Limit, Offset int
			Data                 []stream.Topology
		}
		must(t, json.Unmarshal(list, &page))
		names := make([]string, 0, len(page.Data))
		for _, t := range page.Data {
			names = append(names, t.Name)
		}
		got := fmt.Sprintf("%d %d %d %s", page.Total, page.Limit, page.Offset, strings.Join(names, ","))
		if got != c.want || page.Data == nil {
			t.Errorf("%s, want %s", got, c.want)
		}
	}
}

func TestASummaryIsTheSameWhateverItComesWith(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, nil)
	id := active(t, s)
	reason := "no \"disk\" <left>\n"
	changed, err := s.ChangeStatus(t.Context(), id, stream.StatusChange{Status: "degraded", Reason: &reason})
	must(t, err)
	document, err := s.Topology(t.Context(), id, plenty)
	must(t, err)
	list, err := s.Topologies(t.Context(), nil, 10, 0, plenty)
	must(t, err)
	var (
		g    wholeTopology
		page struct{ Data []stream.Topology }
	)
	must(t, json.Unmarshal(document, &g))
	must(t, json.Unmarshal(list, &page))
	want, err := json.Marshal(changed)
	must(t, err)
	for _, one := range []stream.Topology{g.Topology, page.Data[0]} {
		if got, err := json.Marshal(one); err != nil || string(got) != string(want) {
			t.Errorf("%s, %v, want %s", got, err, want)
		}
	}
}

func TestOfATopologyThatIsNotThereNothingIsRead(t *testing.T) {
	t.Parallel()
	s := newStore(t, pgtest.New(t), nil)
	const nobody = "00000000-0000-4000-8000-000000000000"
	_, graphErr := s.Topology(t.Context(), nobody, plenty)
	_, _, mutationsErr := s.Mutations(t.Context(), nobody, stream.MutationQuery{Limit: 1}, plenty)
	for what, err := range map[string]error{
		"exists": s.Exists(t.Context(), nobody), "graph": graphErr, "mutations": mutationsErr,
	} {
		if !errors.Is(err, stream.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, s.Exists(t.Context(), active(t, s)))
}

func TestADatabaseWithoutAnEncodingGivesValidJSON(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEncoded(t, "SQL_ASCII")
	s := newStore(t, db, nil)
	id, conn := active(t, s), db.Conn(t)
	pgtest.Exec(t, conn, `SET client_encoding = 'SQL_ASCII'`)
	pgtest.Exec(t, conn, `UPDATE topologies SET reason = E'a\xffb', status = 'degraded'`)
	document, err := s.Topology(t.Context(), id, plenty)
	must(t, err)
	var g wholeTopology
	must(t, json.Unmarshal(document, &g))
	if g.Topology.Reason == nil || *g.Topology.Reason != "a\uFFFDb" {
		t.Errorf("%s", document)
	}
}
