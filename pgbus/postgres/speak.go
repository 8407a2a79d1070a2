package postgres

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"topostream/stream"
)

// speak makes a new connection say and understand the same things whatever the settings of its role and database are,
// and in whatever mode queries go.
func speak(ctx context.Context, conn *pgx.Conn) error {
	if conn.Config().DefaultQueryExecMode == pgx.QueryExecModeSimpleProtocol &&
		conn.PgConn().ParameterStatus("server_encoding") == "SQL_ASCII" {
		return errSimpleASCII
	}
	types := conn.TypeMap()
	types.RegisterType(&pgtype.Type{Name: "bytea", OID: pgtype.ByteaOID, Codec: byteaCodec{}})
	// Where PostgreSQL is not asked for the types of parameters, only these say what ours are.
	types.RegisterDefaultPgType(stream.TopologyID(""), "text")
	types.RegisterDefaultPgType([]stream.TopologyID(nil), "_text")
	types.RegisterDefaultPgType(map[string]any(nil), "jsonb")
	types.RegisterDefaultPgType(map[string]json.RawMessage(nil), "jsonb")
	types.RegisterDefaultPgType(json.RawMessage(nil), "jsonb")
	return Pin(ctx, conn.PgConn())
}

// errSimpleASCII comes before anything is written: pgx insists on UTF-8 there, which such a database refuses to send
// where somebody has written something else.
var errSimpleASCII = errors.New("the database's encoding is SQL_ASCII, for which " +
	"default_query_exec_mode=simple_protocol cannot be used: use exec")

// Pin has PostgreSQL speak UTF-8, whatever the database's encoding is, read strings as the standard has them and write
// times as ISO 8601 does: by default it does all three. From a database in SQL_ASCII it can only take what is there,
// and would refuse to send what is no UTF-8.
func Pin(ctx context.Context, conn *pgconn.PgConn) error {
	var set []string
	if conn.ParameterStatus("client_encoding") != "UTF8" && conn.ParameterStatus("server_encoding") != "SQL_ASCII" {
		set = append(set, "SET client_encoding = 'UTF8'")
	}
	if conn.ParameterStatus("standard_conforming_strings") == "off" {
		set = append(set, "SET standard_conforming_strings = on")
	}
	if style := conn.ParameterStatus("DateStyle"); style != "" && !strings.HasPrefix(style, "ISO") {
		set = append(set, "SET DateStyle = 'ISO'")
	}
	if len(set) == 0 {
		return nil
	}
	if err := conn.Exec(ctx, strings.Join(set, "; ")).Close(); err != nil {
		return fmt.Errorf("ask for UTF-8, standard strings and ISO times: %w", err)
	}
	return nil
}

// byteaCodec reads bytes that come as text in either form that bytea_output chooses. (pgx's own reads the form hex.)
type byteaCodec struct{ pgtype.ByteaCodec }

// PlanScan implements pgtype.Codec.
func (c byteaCodec) PlanScan(m *pgtype.Map, oid uint32, format int16, target any) pgtype.ScanPlan {
	if format != pgtype.TextFormatCode {
		return c.ByteaCodec.PlanScan(m, oid, format, target)
	}
	plan := c.ByteaCodec.PlanScan(m, oid, pgtype.BinaryFormatCode, target)
	if plan == nil {
		return nil
	}
	return textBytes{plan}
}

// textBytes hands on what a text stands for.
type textBytes struct{ next pgtype.ScanPlan }

// Scan implements pgtype.ScanPlan.
func (p textBytes) Scan(src []byte, target any) error {
	if src == nil {
		return p.next.Scan(nil, target)
	}
	decoded, err := decodeBytea(src)
	if err != nil {
		return err
	}
	return p.next.Scan(decoded, target)
}

// decodeBytea reads the output of bytea: \x and hex, or characters of which \ is \\ and what cannot be printed is \
// and three octal digits.
func decodeBytea(text []byte) ([]byte, error) {
	if len(text) >= 2 && text[0] == '\\' && text[1] == 'x' {
		out := make([]byte, hex.DecodedLen(len(text)-2))
		if _, err := hex.Decode(out, text[2:]); err != nil {
			return nil, fmt.Errorf("a bytea: %w", err)
		}
		return out, nil
	}
	out := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] != '\\':
			out = append(out, text[i])
		case i+1 < len(text) && text[i+1] == '\\':
			out = append(out, '\\')
			i++
		case i+3 < len(text) && octal(text[i+1:i+4]):
			out = append(out, (text[i+1]-'0')<<6|(text[i+2]-'0')<<3|(text[i+3]-'0'))
			i += 3
		default:
			return nil, fmt.Errorf("a bytea has a \\ that escapes nothing, at %d of %d", i, len(text))
		}
	}
	return out, nil
}

func octal(digits []byte) bool {
	for _, d := range digits {
		if d < '0' || d > '7' {
			return false
		}
	}
	return digits[0] <= '3'
}
