package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"

	"topostream/stream"
)

// speak prepares a new connection, so that values mean the same whatever the settings of its role and database are, and
// in whichever mode pgx sends queries.
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
