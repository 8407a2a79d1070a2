package mutator

import (
	"testing"

	"topostream/pgbus/pgtest"
)

// A stopped process cannot be had within a test of one; PostgreSQL's answer to it can.
func TestAWorkerThatStoodStillInATransactionWarnsAndGoesOn(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	pgtest.Exec(t, conn, `CREATE SEQUENCE claims`)
	pgtest.Exec(t, conn, `
CREATE FUNCTION stand_still() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
    IF NEW.state = 'applying' AND nextval('claims') = 1 THEN RAISE EXCEPTION 'terminating connection due to idle-in-transaction timeout' USING ERRCODE = '25P03'; END IF; RETURN NEW; END $f$;
CREATE TRIGGER stand_still BEFORE UPDATE ON mutations FOR EACH ROW EXECUTE FUNCTION stand_still()`)
	w := startWorker(t, db, nil)
	m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	w.log.says(t, "level=WARN", "stood still")
	awaitState(t, conn, m, "applied")
}
