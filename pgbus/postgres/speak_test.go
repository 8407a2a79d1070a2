package postgres

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"topostream/pgbus/pgtest"
	"topostream/stream"
)

func TestBytesThatComeAsTextAreReadInEitherForm(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	cfg, err := Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol
	for _, form := range []string{"hex", "escape"} {
		cfg.RuntimeParams["bytea_output"] = form
		conn, err := Connect(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range [][]byte{all, {}, []byte(`\`), []byte(`\x41`), []byte(`a\\b`), nil} {
			var got []byte
			if err := conn.QueryRow(t.Context(), `SELECT $1::bytea`, want).Scan(&got); err != nil || !bytes.Equal(got, want) ||
				(got == nil) != (want == nil) {
				t.Errorf("%s: %q is read as %q, %v", form, want, got, err)
			}
		}
		Close(conn)
	}
}

func TestWhatIsNoByteaIsAnError(t *testing.T) {
	t.Parallel()
	for _, text := range []string{`\`, `a\b`, `\12`, `\400`, `\08x`, `\x4`, `\xg0`} {
		if got, err := decodeBytea([]byte(text)); err == nil {
			t.Errorf("%s is read as %q", text, got)
		}
	}
}

func FuzzDecodeBytea(f *testing.F) {
	f.Add([]byte(`\\a\001`))
	f.Add([]byte{0, '\\', 255})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = decodeBytea(b) // must not panic
		var escaped []byte
		for _, c := range b {
			switch {
			case c == '\\':
				escaped = append(escaped, `\\`...)
			case c < 0x20 || c > 0x7e:
				escaped = fmt.Appendf(escaped, `\%03o`, c)
			default:
				escaped = append(escaped, c)
			}
		}
		for _, text := range [][]byte{escaped, []byte(`\x` + hex.EncodeToString(b))} {
			if got, err := decodeBytea(text); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s is read as %q, %v", text, got, err)
			}
		}
	})
}

func TestAConnectionSpeaksTheSameWhateverItsRoleIsSetTo(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	cfg, err := Parse(db.URL)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(cfg.RuntimeParams, map[string]string{
		"client_encoding": "SJIS", "standard_conforming_strings": "off", "DateStyle": "German, DMY",
	})
	for _, mode := range []pgx.QueryExecMode{
		pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec, pgx.QueryExecModeCacheDescribe,
	} {
		cfg.DefaultQueryExecMode = mode
		conn, err := Connect(t.Context(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		var text, ids, set string
		const query = `SELECT $1::text || '\', array_to_string($2::text[], ' '), current_setting('DateStyle')`
		err = conn.QueryRow(t.Context(), query, "é€😀", []stream.TopologyID{"a", "b,c"}).Scan(&text, &ids, &set)
		if err != nil || text != `é€😀\` || ids != "a b,c" || set[:3] != "ISO" {
			t.Errorf("%v: %q %q %q, %v", mode, text, ids, set, err)
		}
		Close(conn)
	}
}

func TestWhatTimeMendsIsToldFromWhatSomebodyHasTo(t *testing.T) {
	t.Parallel()
	_, refused := pgx.Connect(t.Context(), "postgres://127.0.0.1:1/x?sslmode=disable")
	for err, want := range map[error]bool{
		refused:                             true,
		fmt.Errorf("x: %w", io.EOF):         true,
		context.DeadlineExceeded:            true,
		&pgconn.PgError{Code: "57P03"}:      true,
		&pgconn.PgError{Code: "53300"}:      true,
		&pgconn.PgError{Code: "55P03"}:      true,
		&pgconn.PgError{Code: "25006"}:      true,
		&pgconn.PgError{Code: "28P01"}:      true,
		&pgconn.PgError{Code: "42501"}:      false,
		nil:                                 false,
		&pgconn.PgError{Code: "42P01"}:      false,
		&pgconn.PgError{Code: "22P02"}:      false,
		&pgconn.PgError{}:                   false,
		errors.New("cannot find an encode"): false,
	} {
		if got := Away(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
