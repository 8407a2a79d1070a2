package pgbus

import "testing"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

const emitOne = `SELECT topology_emit($1::text::uuid, 'x', '{}')`
