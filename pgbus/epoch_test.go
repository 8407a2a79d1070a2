package pgbus

import (
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/pgbus/setting"
	"topostream/stream"
)

func TestANumberOfANewEpochIsGoodOnAServerThatHasNotHeardOfTheEpoch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, func(c *Config) { c.Bus, c.Poll = setting.Poll, time.Hour })
	old := attach(t, b, id)
	defer old.Close()
	_, err := NewEpoch(t.Context(), conn)
	must(t, err)
	pgtest.Exec(t, conn, `SELECT topology_raise(ARRAY[$1::text::uuid])`, id) // as another server did
	var known stream.Seq
	must(t, conn.QueryRow(t.Context(), emitOne, string(id)).Scan(&known)) // as a client has it from that server
	pgtest.Exec(t, conn, `SELECT topology_emit(id, 'x', '{}') FROM topologies`)
	sub, err := b.Attach(t.Context(), stream.AttachRequest{Topology: id, Resume: true, After: known})
	must(t, err)
	defer sub.Close()
	if sub.Snapshot != nil {
		t.Fatalf("a snapshot at %d took the place of %d", sub.Snapshot.Seq, known+1)
	}
	frames, err := next(t.Context(), sub.Cursor)
	must(t, err)
	if frames[0].Seq != known+1 {
		t.Errorf("%d came after %d", frames[0].Seq, known)
	}
}
