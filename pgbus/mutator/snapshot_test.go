package mutator

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

// A folded graph is what the events up to some seq say: rows by table and id.
type folded map[string]any

func (f folded) put(t *testing.T, table, id string, rows []map[string]any) {
	t.Helper()
	for _, row := range rows {
		f[fmt.Sprint(table, " ", row[id])] = row
	}
}

type rows struct{ Lans, Deckies, Edges []map[string]any }

func (f folded) putAll(t *testing.T, r rows) {
	t.Helper()
	f.put(t, "lans", "id", r.Lans)
	f.put(t, "deckies", "uuid", r.Deckies)
	f.put(t, "edges", "id", r.Edges)
}

func (f folded) String() string {
	var s strings.Builder
	for _, key := range slices.Sorted(maps.Keys(f)) {
		fmt.Fprintln(&s, key, f[key])
	}
	return s.String()
}

// TestAnAppliedEditIsInTheGraphOfItsSeqAndInNoneBefore reads snapshots with the graph all the time. Each must be what
// the events up to its seq say, no more and no less.
func TestAnAppliedEditIsInTheGraphOfItsSeqAndInNoneBefore(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	startWorker(t, db, nil)
	ctx, cancel := context.WithCancel(t.Context())
	snapshots := map[int64]string{}
	reading := make(chan error, 1)
	const read = `SELECT seq, snapshot FROM topology_snapshots(ARRAY[$1::text::uuid], true)`
	reader := db.Conn(t)
	go func() {
		for ctx.Err() == nil {
			var (
				seq      int64
				snapshot string
			)
			if err := reader.QueryRow(context.Background(), read, id).Scan(&seq, &snapshot); err != nil {
				reading <- err
				return
			}
			snapshots[seq] = snapshot
		}
		reading <- nil
	}()
	var last stream.MutationID
	for i := range shorter(40, 3) {
		for _, m := range []struct{ op, payload string }{
			{"add_lan", fmt.Sprintf(`{"name":"a%d"}`, i)},
			{"add_lan", fmt.Sprintf(`{"name":"b%d","x":%d}`, i, i)},
			{"add_decky", fmt.Sprintf(`{"name":"d%d","lan":"a%d"}`, i, i)},
			{"attach_decky", fmt.Sprintf(`{"decky":"d%d","lan":"b%d"}`, i, i)},
			{"update_decky", fmt.Sprintf(`{"decky":"d%d","patch":{"forwards_l3":true},"force":true}`, i)},
			{"remove_lan", fmt.Sprintf(`{"name":"b%d"}`, i)},
		} {
			last = enqueue(t, conn, id, m.op, m.payload)
		}
		if i%4 == 0 {
			enqueue(t, conn, id, "remove_decky", fmt.Sprintf(`{"decky":"d%d"}`, i))
			last = enqueue(t, conn, id, "remove_lan", fmt.Sprintf(`{"name":"a%d"}`, i))
		}
	}
	awaitState(t, conn, last, "applied")
	cancel()
	must(t, receive(t, reading, "the reader"))
	compare(t, conn, id, snapshots)
}

func compare(t *testing.T, conn *pgx.Conn, id stream.TopologyID, snapshots map[int64]string) {
	t.Helper()
	graph, compared, edits := folded{}, 0, 0
	for _, e := range journal(t, conn, id) {
		if e.Type == "mutation.applied" {
			var result struct {
				rows

				Removed []struct{ Table, ID string }
			}
			must(t, json.Unmarshal(e.Payload.Result, &result))
			graph.putAll(t, result.rows)
			for _, r := range result.Removed {
				delete(graph, r.Table+" "+r.ID)
			}
			edits++
		}
		snapshot, ok := snapshots[e.Seq]
		if !ok {
			continue
		}
		var seen rows
		must(t, json.Unmarshal([]byte(snapshot), &seen))
		got := folded{}
		got.putAll(t, seen)
		if got.String() != graph.String() {
			t.Fatalf("seq %d: a reader got\n%s\nthe events say\n%s", e.Seq, got, graph)
		}
		compared++
	}
	t.Logf("%d snapshots compared, %d edits", compared, edits)
	if compared < shorter(50, 12) {
		t.Errorf("only %d snapshots were compared", compared)
	}
}
