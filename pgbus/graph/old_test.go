package graph

import (
	"testing"

	"topostream/pgbus/pgtest"
)

// What was there before decky_config had a bound stays, and can be changed otherwise and be made smaller.
func TestADeckyWhoseConfigurationIsOlderThanItsBoundCanBeChanged(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	b.do("add_lan", `{"name":"a","subnet":"10.0.0.0/24"}`)
	b.do("add_decky", `{"name":"db","lan":"a"}`)
	pgtest.Exec(t, b.conn, `ALTER TABLE deckies DISABLE TRIGGER guard`)
	pgtest.Exec(t, b.conn, `UPDATE deckies SET decky_config = jsonb_build_object('x', repeat('x', 300000))`)
	pgtest.Exec(t, b.conn, `ALTER TABLE deckies ENABLE TRIGGER guard`)
	b.do("update_decky", `{"decky":"db","x":3}`)
	b.do("update_decky", `{"decky":"db","patch":{"x":"small"}}`)
}
