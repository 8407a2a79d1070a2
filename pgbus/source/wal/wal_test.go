package wal

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"topostream/pgbus/pgtest"
)

const publication = `CREATE PUBLICATION topostream FOR TABLE topology_events WITH (publish = 'insert')`

// read opens a stream on db and hands over its events until the test ends.
func read(t *testing.T, db *pgtest.DB) <-chan Row {
	t.Helper()
	cfg, err := pgx.ParseConfig(db.URL)
	must(t, err)
	conn, err := Connect(t.Context(), cfg, "test")
	must(t, err)
	s, err := conn.Open(t.Context(), "topostream", false)
	must(t, err)
	ctx, cancel := context.WithCancelCause(context.Background())
	events, done := make(chan Row, 100), make(chan error, 1)
	ended := errors.New("the test has ended")
	go func() {
		done <- s.Run(ctx, func(e Row) {
			select {
			case events <- e:
			case <-ctx.Done():
			}
		}, func() bool { return true })
	}()
	t.Cleanup(func() {
		cancel(ended)
		if err := <-done; !errors.Is(err, ended) {
			t.Error(err)
		}
		conn.Close()
	})
	return events
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// await gives the next event.
func await(t *testing.T, events <-chan Row) Row {
	t.Helper()
	select {
	case e := <-events:
		return e
	case <-time.After(30 * time.Second):
		t.Fatal("no event came")
	}
	return Row{}
}

func TestTheJSONOfARowIsTheEncodersByteForByte(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"UTF8", "LATIN1"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			db := pgtest.NewEncoded(t, encoding)
			conn := db.Conn(t)
			pgtest.Exec(t, conn, `SET client_encoding = 'UTF8'`)
			pgtest.Exec(t, conn, publication)
			events := read(t, db)
			const insert = `
INSERT INTO topology_events
VALUES (gen_random_uuid(), $1, $2, $3::text::jsonb, timestamptz 'epoch' + $4 * interval '1 microsecond')
RETURNING topology_event_json(topology_id, seq, type, payload, at)`
			letters := rapid.StringOfN(rapid.RuneFrom([]rune(`ab"\/<>&'é{}[]:,`+"\t\n\r\x01\u007f")), 0, 40, -1)
			if encoding == "UTF8" {
				letters = rapid.StringMatching(`[^\x00]*`)
			}
			rapid.Check(t, func(t *rapid.T) {
				seq := rapid.Int64Range(1, 1<<53).Draw(t, "seq")
				kind := rapid.StringMatching(`[a-z0-9_]{1,9}(\.[a-z0-9_]{1,9}){0,3}`).Draw(t, "type")
				at := rapid.Int64Range(0, 4e15).Draw(t, "at")
				if whole := rapid.SampledFrom([]int64{1, 10, 1000, 1e5, 1e6, 36e8}).Draw(t, "whole"); true {
					at -= at % whole
				}
				payload := payloadOf(t, letters)
				var want string
				if err := conn.QueryRow(context.Background(), insert, seq, kind, payload, at).Scan(&want); err != nil {
					t.Fatalf("%v: %v", payload, err)
				}
				var e Row
				select {
				case e = <-events:
				case <-time.After(30 * time.Second):
					t.Fatal("no event came")
				}
				got, ok := e.JSON()
				if !ok || got != want || e.Seq != uint64(seq) || string(e.Type) != kind ||
					!strings.Contains(want, string(e.Topology)) ||
					e.XID == 0 {
					t.Fatalf("%v %+v\n%s, want\n%s", ok, e, got, want)
				}
			})
		})
	}
}

// payloadOf draws JSON; nil is SQL's NULL.
func payloadOf(t *rapid.T, letters *rapid.Generator[string]) *string {
	var v any
	switch rapid.IntRange(0, 5).Draw(t, "kind of payload") {
	case 0:
		return nil
	case 1:
		v = letters.Draw(t, "text")
	case 2:
		v = rapid.Float64Range(-1e300, 1e300).Draw(t, "number")
	case 3:
		v = rapid.SliceOfN(rapid.Bool(), 0, 3).Draw(t, "list")
	case 4:
		v = nil
	default:
		v = rapid.MapOfN(letters, letters, 0, 4).Draw(t, "object")
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	s := string(b)
	if strings.Contains(s, `\u0000`) ||
		strings.Contains(s, `\ufffd`) { // jsonb refuses the first; the second is rapid's invalid UTF-8
		s = `"replaced"`
	}
	return &s
}

func TestATimeThatTheEncoderWritesOtherwiseIsLeftToTheJournal(t *testing.T) {
	t.Parallel()
	for at, want := range map[string]string{
		"2026-01-02 03:04:05+00":        "2026-01-02T03:04:05.000000Z",
		"2026-01-02 03:04:05.6+00":      "2026-01-02T03:04:05.600000Z",
		"2026-01-02 03:04:05.678901+00": "2026-01-02T03:04:05.678901Z",
		"infinity":                      "",
		"-infinity":                     "",
		"":                              "",
		"2026-01-02 03:04:05+01":        "2026-01-02T02:04:05.000000Z",
		"2026-01-02 03:04:05":           "",
		"2026-01-02 03:04:05.+00":       "",
		"2026-01-02 03:04:05.x+00":      "",
		"2026-01-02 03:04:05+00 BC":     "",
		"12026-01-02 03:04:05+00":       "",
		"2026-01-02T03:04:05+00":        "",
	} {
		payload := `"` + strings.Repeat("x", 10_000) + `"`
		row := Row{Type: []byte("x"), Topology: []byte("a"), Seq: 5, at: []byte(at), payload: []byte(payload)}
		got, ok := row.JSON()
		whole := `{"topic":"topology.a.x","type":"x","ts":"` + want +
			`","seq":5,"journaled":true,"payload":` + payload + "}"
		if ok != (want != "") || ok && got != whole {
			t.Errorf("%q: %.100s, %v, want %.100s", at, got, ok, whole)
		}
	}
}

func TestOnlyWhatIsCommittedComesAndInCommitOrder(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn, other, third := db.Conn(t), db.Conn(t), db.Conn(t)
	pgtest.Exec(t, conn, publication)
	pgtest.Exec(t, conn, `INSERT INTO topologies (name) SELECT 't' || i FROM generate_series(1, 3) i`)
	events := read(t, db)
	const emit = `SELECT topology_emit(id, $1, '{}') FROM topologies WHERE name = $2`
	pgtest.Exec(t, other, `BEGIN`)
	pgtest.Exec(t, other, emit, "late", "t1")
	pgtest.Exec(t, third, `BEGIN`)
	pgtest.Exec(t, third, emit, "taken_back", "t2")
	pgtest.Exec(t, conn, emit, "early", "t3")
	pgtest.Exec(t, third, `ROLLBACK`)
	pgtest.Exec(t, other, `COMMIT`)
	pgtest.Exec(t, conn, `DELETE FROM topology_events WHERE type = 'early'`) // retention is nobody's news
	pgtest.Exec(t, conn, emit, "last", "t1")
	for _, want := range []string{"early", "late", "last"} {
		if got := string(await(t, events).Type); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestNoWALIsKeptForAStreamThatReads(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	pgtest.Exec(t, conn, publication)
	read(t, db)
	// A table that is not published.
	pgtest.Exec(t, conn, `CREATE TABLE elsewhere AS SELECT repeat('x', 1000) FROM generate_series(1, 20000)`)
	at := pgtest.Scan[string](t, conn, `SELECT pg_current_wal_lsn()::text`)
	const confirmed = `
SELECT confirmed_flush_lsn >= $1::text::pg_lsn FROM pg_replication_slots WHERE database = current_database()`
	pgtest.Eventually(t, "the slot to be confirmed beyond what others wrote", func() bool {
		return pgtest.Scan[bool](t, conn, confirmed, at)
	})
}

func TestASlotThatIsWaitedForEndsWithItsClient(t *testing.T) {
	if testing.Short() {
		t.Skip("long: a cluster of its own")
	}
	t.Parallel()
	cluster := pgtest.Cluster(t) // an open transaction would hold up the slots of other tests
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	conn, holder := db.Conn(t), db.Conn(t)
	pgtest.Exec(t, conn, publication)
	pgtest.Exec(t, holder, `BEGIN; CREATE TABLE held (n int)`)
	cfg, err := pgx.ParseConfig(db.URL)
	must(t, err)
	var dead atomic.Bool
	cfg.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		if dead.Load() {
			return nil, errors.New("the process is dead, and asks for no cancel")
		}
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	c, err := Connect(t.Context(), cfg, "test")
	must(t, err)
	done := make(chan error, 1)
	go func() {
		_, err := c.Open(context.Background(), "topostream", false)
		done <- err
	}()
	pgtest.Eventually(t, "the slot to wait", func() bool {
		return pgtest.Scan[bool](t, conn, `SELECT cardinality(pg_blocking_pids($1)) > 0`, int32(c.PID()))
	})
	dead.Store(true)
	must(t, c.conn.Conn().Close()) // as a kill of the process does
	if <-done == nil {
		t.Error("the slot was made")
	}
	pgtest.Eventually(t, "the slot to be gone", func() bool {
		return pgtest.Scan[int](t, conn, `SELECT count(*) FROM pg_replication_slots`) == 0
	})
}

func TestASnapshotSeesWhatHadEndedAndNothingElse(t *testing.T) {
	t.Parallel()
	const wrapped = uint64(3)<<32 - 2 // the next number's lower half begins again soon
	for text, cases := range map[string]map[uint32]bool{
		"10:20:10,15": {9: true, 10: false, 14: true, 15: false, 19: true, 20: false, 4000000000: true},
		"10:10:":      {9: true, 10: false},
		"9:18446744073709551615:18446744073709551614": {4294967293: true, 4294967294: false, 4294967295: false},
		fmt.Sprintf("%d:%d:%d", wrapped, wrapped+5, wrapped+3): {
			4294967293: true, 4294967294: true, 1: false, 2: true, 3: false, 100: false,
		},
	} {
		v, err := parseSnapshot(text)
		must(t, err)
		for xid, want := range cases {
			if got := v.Sees(xid); got != want {
				t.Errorf("%s sees %d: %v", text, xid, got)
			}
		}
	}
	for _, text := range []string{"", "1:2", "x:2:", "1:x:", "1:2:x"} {
		if v, err := parseSnapshot(text); err == nil && text != "x:2:" {
			t.Errorf("%q: %+v", text, v)
		}
	}
}
