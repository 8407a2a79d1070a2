package mutator

import (
	"errors"
	"strings"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
)

func TestAFailureDegradesTheTopologyAndLeavesItsQueueUntilThatTopologysNextWakeUp(t *testing.T) {
	t.Parallel()
	const (
		refusal = `LAN "nowhere" does not exist`
		insert  = `
INSERT INTO mutations (topology_id, op, payload) VALUES ($1::text::uuid, 'add_lan', '{"name":"woken"}')`
		change = `UPDATE topologies SET status = 'active', reason = NULL WHERE id = $1::text::uuid`
	)
	for name, c := range map[string]struct {
		poll time.Duration
		wake string
	}{
		"its own enqueue":       {time.Hour, insert},
		"its own status change": {time.Hour, change},
		"the poll":              {time.Second, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			db := pgtest.New(t)
			conn := db.Conn(t)
			ids := active(t, conn, 2)
			startWorker(t, db, func(c2 *Config) { c2.Poll = c.poll })
			pgtest.Exec(t, conn, `BEGIN`)
			bad := enqueue(t, conn, ids[0], "remove_lan", `{"name":"nowhere"}`)
			good := enqueue(t, conn, ids[0], "add_lan", `{"name":"a"}`)
			pgtest.Exec(t, conn, `COMMIT`)
			if got := awaitState(t, conn, bad, "failed"); got != refusal {
				t.Error(got)
			}
			if got := statusOf(t, conn, ids[0]); got != "degraded: "+refusal {
				t.Error(got)
			}
			// Another topology's wake-up is none of this one's.
			awaitState(t, conn, enqueue(t, conn, ids[1], "add_lan", `{"name":"a"}`), "applied")
			if c.wake != "" {
				if s := stateOf(t, conn, good); s != "pending" {
					t.Errorf("the queue went on: %s", s)
				}
				pgtest.Exec(t, conn, c.wake, ids[0])
			}
			awaitState(t, conn, good, "applied")
			events := journal(t, conn, ids[0])
			oneAtATime(t, events)
			for i, e := range events {
				if e.Type == "mutation.failed" {
					next := events[i+1]
					if e.Payload.Reason != refusal || next.Payload.Reason != refusal ||
						next.Type != "status" || next.Payload.State != "degraded" {
						t.Errorf("%+v, then %+v", e, next)
					}
				}
			}
			// A second failure gives the reason anew.
			second := enqueue(t, conn, ids[0], "remove_decky", `{"decky":"nobody"}`)
			awaitState(t, conn, second, "failed")
			if got := statusOf(t, conn, ids[0]); got != `degraded: decky "nobody" does not exist` {
				t.Error(got)
			}
		})
	}
}

func TestAPayloadThatNobodyCheckedFailsWithTheFieldThatIsWrong(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	startWorker(t, db, nil)
	for payload, want := range map[string]string{
		`{"nme":"a"}`:                         "payload.name: is missing: give a string",
		`[]`:                                  "payload: give a JSON object",
		`{"name":"a","subnet":"10.0.0.1/24"}`: "payload.subnet: has bits set behind its mask: give 10.0.0.0/24",
	} {
		if got := awaitState(t, conn, enqueue(t, conn, id, "add_lan", payload), "failed"); got != want {
			t.Errorf("%s: %s", payload, got)
		}
	}
}

func TestTheApplierActsOnlyOnWhatTheRulesAllowAndItsErrorIsTheReason(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	a := newApplier()
	startWorker(t, db, func(c *Config) { c.Applier = a })
	refused := enqueue(t, conn, id, "remove_lan", `{"name":"nowhere"}`)
	awaitState(t, conn, refused, "failed") // the applier would block

	long := strings.Repeat("é", 3000)
	for answer, want := range map[string]string{
		"the hypervisor is full": "the hypervisor is full",
		"":                       "the applier failed and did not say why",
		"a\x00b\xff":             "a\uFFFDb\uFFFD",
		long:                     long[:maxReason] + " …",
	} {
		m := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
		receive(t, a.called, "the applier")
		if n := pgtest.Scan[int](t, conn, `SELECT count(*) FROM lans`); n != 0 {
			t.Error("the rehearsal stayed")
		}
		a.answer <- errors.New(answer)
		if got := awaitState(t, conn, m, "failed"); got != want {
			t.Errorf("%.80q, want %.80q", got, want)
		}
	}

	late := enqueue(t, conn, id, "add_lan", `{"name":"a"}`)
	receive(t, a.called, "the applier")
	// By hand, meanwhile.
	pgtest.Exec(t, conn, `INSERT INTO lans (topology_id, name, subnet) SELECT id, 'a', '10.0.0.0/24' FROM topologies`)
	a.answer <- nil
	const want = `the applier has acted, but then the edit was refused: LAN "a" exists already`
	if got := awaitState(t, conn, late, "failed"); got != want {
		t.Error(got)
	}
}

func TestWhatPostgreSQLRefusesForGoodFailsAndWhatCanBeMendedWaits(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := active(t, conn, 2)
	pgtest.Exec(t, conn, `
CREATE FUNCTION house_rule() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
    IF NEW.state = 'applied' AND NEW.payload ->> 'name' = 'forbidden' THEN
        RAISE EXCEPTION 'the house forbids it';
    END IF;
    RETURN NEW;
END $f$;
CREATE TRIGGER house_rule BEFORE UPDATE ON mutations FOR EACH ROW EXECUTE FUNCTION house_rule()`)
	url := asWorker(t, db)
	w := newWorker(t, url, nil).run(t)
	forbidden := enqueue(t, conn, ids[0], "add_lan", `{"name":"forbidden"}`)
	if got := awaitState(t, conn, forbidden, "failed"); got != "PostgreSQL refused the edit: the house forbids it" {
		t.Error(got)
	}
	role := w.cfg.Listen.User
	pgtest.Exec(t, conn, `REVOKE INSERT ON lans FROM `+role)
	m := enqueue(t, conn, ids[1], "add_lan", `{"name":"a"}`)
	w.log.says(t, "level=ERROR", "until somebody mends this", "permission denied")
	pgtest.Exec(t, conn, `GRANT INSERT ON lans TO `+role)
	awaitState(t, conn, m, "applied")
}

func TestTheDocumentedGrantsAreEnoughForAWorker(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	w := newWorker(t, asWorker(t, db), func(c *Config) { c.Poll = 100 * time.Millisecond }).run(t)
	w.log.says(t, "msg=listening")
	for _, m := range []struct{ op, payload string }{
		{"add_lan", `{"name":"a"}`},
		{"add_lan", `{"name":"b"}`},
		{"add_decky", `{"name":"d","lan":"a"}`},
		{"update_lan", `{"name":"a","x":1}`},
		{"attach_decky", `{"decky":"d","lan":"b"}`},
		{"update_decky", `{"decky":"d","patch":{"forwards_l3":true},"force":true}`},
		{"detach_decky", `{"decky":"d","lan":"b"}`},
		{"remove_decky", `{"decky":"d"}`},
		{"remove_lan", `{"name":"b"}`},
	} {
		awaitState(t, conn, enqueue(t, conn, id, m.op, m.payload), "applied")
	}
	for range 2 { // parks, and parks again
		awaitState(t, conn, enqueue(t, conn, id, "remove_lan", `{"name":"b"}`), "failed")
	}
	m := enqueue(t, conn, id, "add_lan", `{"name":"c"}`)
	awaitState(t, conn, m, "applied")
	if strings.Contains(w.log.String(), "permission denied") {
		t.Error(w.log.String())
	}
}

func TestAMutationFailsAlsoWhereItsTopologyCannotBeDegraded(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := active(t, conn, 1)[0]
	pgtest.Exec(t, conn, `
CREATE FUNCTION own_rule() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
    IF NEW.status = 'degraded' THEN RAISE EXCEPTION 'not here'; END IF; RETURN NEW; END $f$;
CREATE TRIGGER own_rule BEFORE UPDATE ON topologies FOR EACH ROW EXECUTE FUNCTION own_rule()`)
	w := startWorker(t, db, nil)
	m := enqueue(t, conn, id, "remove_lan", `{"name":"nowhere"}`)
	awaitState(t, conn, m, "failed")
	w.log.says(t, "could not be degraded", "not here")
}
