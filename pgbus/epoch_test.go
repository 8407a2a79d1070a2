package pgbus

import (
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

func TestANewEpochThatIsADeadlocksVictimTriesAgain(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	raiser, writer := db.Conn(t), db.Conn(t)
	makeTopologies(t, writer, 1)
	pgtest.Exec(t, raiser, `SET deadlock_timeout = '3s'`) // so that the writer waits, too, when PostgreSQL looks
	pgtest.Exec(t, writer, `BEGIN`)
	pgtest.Exec(t, writer, `SET LOCAL deadlock_timeout = '20s'`) // so that it is not this one that PostgreSQL ends
	pgtest.Exec(t, writer, `SELECT FROM topology_heads FOR UPDATE`)
	type answer struct {
		epoch int64
		err   error
	}
	done := make(chan answer, 1)
	go func() {
		epoch, err := NewEpoch(t.Context(), raiser)
		done <- answer{epoch, err}
	}()
	awaitLocked(t, db.Conn(t))
	pgtest.Exec(t, writer, `SELECT FROM topology_settings FOR UPDATE`) // which the other one holds
	pgtest.Exec(t, writer, `COMMIT`)
	if a := <-done; a.err != nil || a.epoch != 1 {
		t.Errorf("%+v", a)
	}
}

func TestANumberOfANewEpochIsGoodOnAServerThatHasNotHeardOfTheEpoch(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := makeTopologies(t, conn, 1)[0]
	b := startBus(t, db, func(c *Config) { c.Bus, c.Poll = BusPoll, time.Hour })
	old := attach(t, b, id)
	defer old.Close()
	_, err := NewEpoch(t.Context(), conn)
	must(t, err)
	var known stream.Seq
	must(t, conn.QueryRow(t.Context(), emitOne, string(id)).Scan(&known)) // as a client heard it from another server
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
