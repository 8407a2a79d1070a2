package store

import (
	"bytes"
	"context"
	"fmt"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"

	"topostream/stream"
)

// parts ends a query that makes one row doc (body bytea, next bigint). It gives the body's size first, and then, if
// that is at most $1, the body in parts of 256 KiB. So only one part is ever in memory twice, and a body that is too
// large is not sent at all. (It is bytea, in which substr finds its place at once; in text it would count from the
// beginning.)
const parts = `
SELECT 0, octet_length(body), next, NULL::bytea FROM doc
 UNION ALL
SELECT n, NULL, next, substr(body, (n - 1) * 262144 + 1, 262144)
  FROM doc, generate_series(1, (octet_length(body) + 262143) / 262144) n WHERE octet_length(body) <= $1::bigint`

// readBody runs a query that ends with parts. Without a row it is ErrNotFound.
func readBody(
	ctx context.Context, tx pgx.Tx, query string, most int64, args ...any,
) (body []byte, next int64, _ error) {
	rows, err := tx.Query(ctx, query, append([]any{most}, args...)...)
	if err != nil {
		return nil, 0, err
	}
	var (
		n, count   int
		size, more *int64
		part       []byte
	)
	tag, err := pgx.ForEachRow(rows, []any{&n, &size, &more, &part}, func() error {
		switch {
		case n != count:
			return fmt.Errorf("part %d came as number %d", n, count)
		case n > 0:
			body = append(body, part...)
		case *size > most:
			return &stream.TooLargeError{Bytes: *size}
		default:
			body = make([]byte, 0, *size)
		}
		if n == 0 && more != nil {
			next = *more
		}
		count++
		return nil
	})
	switch {
	case err != nil:
		return nil, 0, err
	case tag.RowsAffected() == 0:
		return nil, 0, stream.ErrNotFound
	case !utf8.Valid(body): // of a database in SQL_ASCII
		body = bytes.ToValidUTF8(body, []byte("\uFFFD"))
	}
	return body, next, nil
}
