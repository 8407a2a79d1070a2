package store

import (
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

func TestWhatPostgreSQLRefusesNamesTheRequestsFieldAndNoneOfItsOwnThings(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s, conn := newStore(t, db, nil), db.Conn(t)
	id := active(t, s)
	pgtest.Exec(t, conn, `ALTER TABLE mutations ADD CONSTRAINT of_theirs CHECK (payload ->> 'name' <> 'bad')`)
	pgtest.Exec(t, conn, `ALTER TABLE lans ADD CONSTRAINT of_theirs_too CHECK (name <> 'bad')`)
	pgtest.Exec(t, conn, `CREATE UNIQUE INDEX their_index ON lans (subnet)`)
	m := removeLAN(nil)
	m.Payload = []byte(`{"name":"bad"}`)
	_, enqueued := s.Enqueue(t.Context(), id, m)
	lan := func(topology, name string) error {
		_, err := s.CreateTopology(t.Context(), stream.NewTopology{Name: topology,
			LANs: []stream.AddLAN{{Name: name, Subnet: netip.MustParsePrefix("10.0.0.0/24")}}})
		return err
	}
	must(t, lan("one", "good"))
	for field, err := range map[string]error{
		"payload": enqueued, "lans[0]": lan("two", "bad"), "lans[0] of another": lan("three", "good"),
	} {
		refused, ok := errors.AsType[*stream.FieldError](err)
		if !ok || !strings.HasPrefix(field, refused.Field) || strings.Contains(err.Error(), "their") ||
			!strings.Contains(err.Error(), "is refused by a rule of this installation's database") {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestASubjectThatTheEncodingLacksIsKeptInASCII(t *testing.T) {
	t.Parallel()
	db := pgtest.NewEncoded(t, "LATIN1")
	s, conn := newStore(t, db, nil), db.Conn(t)
	id := active(t, s)
	pgtest.Exec(t, conn, `SET client_encoding = UTF8`)
	for subject, want := range map[string]string{"ada": "ada", "é": "é", "łódź\x00": `\u0142\u00f3d\u017a\ufffd`} {
		m := removeLAN(nil)
		m.RequestedBy, m.IdempotencyKey = subject, "k"
		first, err := s.Enqueue(t.Context(), id, m)
		must(t, err)
		again, err := s.Enqueue(t.Context(), id, m)
		must(t, err)
		const by = `SELECT requested_by FROM mutations WHERE id = $1::text::uuid`
		if got := pgtest.Scan[string](t, conn, by, string(first)); got != want || again != first {
			t.Errorf("%q is %q, want %q; again: %v", subject, got, want, again == first)
		}
	}
}

// ErrUnavailable has clients try again in a moment, which is no use where somebody has to mend something first.
func TestWhatIsToBeMendedIsNotTakenForAnAbsentDatabase(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	s := newStore(t, db, slog.New(slog.DiscardHandler))
	tickets, _ := newTickets(t, db)
	id := active(t, s)
	db.Exec(t, `ALTER TABLE sse_tickets RENAME COLUMN hash TO digest`)
	db.Exec(t, `ALTER TABLE mutations RENAME COLUMN requested_by TO author`)
	_, _, minted := tickets.Mint(t.Context(), stream.Principal{Subject: "x"})
	_, _, listed := s.Mutations(t.Context(), id, stream.MutationQuery{Limit: 1, Bytes: 1 << 20}, 1<<20)
	_, enqueued := s.Enqueue(t.Context(), id, removeLAN(nil))
	for what, err := range map[string]error{"a ticket": minted, "the list": listed, "a mutation": enqueued} {
		if err == nil || errors.Is(err, stream.ErrUnavailable) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
