package mutator

import (
	"fmt"
	"io"
	"log/slog"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func TestAnOutageThatBecomesOneOfAnotherKindIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	var (
		o    outage
		said []string
	)
	notice := func(what string, away bool) { said = append(said, fmt.Sprint(away, " ", what)) }
	log := slog.New(slog.DiscardHandler)
	for _, err := range []error{io.EOF, io.EOF, &pgconn.PgError{Code: "42501"}, &pgconn.PgError{Code: "42501"}, io.EOF} {
		o.failed(log, notice, err)
	}
	o.over(log, notice)
	const away, forGood = "true mutations cannot be claimed; waiting for the database",
		"false mutations cannot be claimed until somebody mends this; trying again"
	if want := []string{away, forGood, away, "false "}; !slices.Equal(said, want) {
		t.Errorf("%q, want %q", said, want)
	}
}
