package pgbus

import (
	"testing"

	"topostream/pgbus/pgtest"
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
