package postgres

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/puddle/v2"
)

// Away tells whether err says that the database is away, has no room or is held up, which time mends. Whatever else
// PostgreSQL or pgx says is somebody's to mend: a right that is missing, a trigger that fails, a fault of ours.
func Away(err error) bool {
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); ok {
		if len(pgErr.Code) != 5 {
			return false
		}
		switch pgErr.Code {
		case "25006", // read_only_sql_transaction: a standby, or one that is being failed over
			"25P03", "25P04", // a timeout of a session's transaction: this program stood still, or the database did
			"28P01", "28000": // the password is being changed: the database has the new one, and the passfile not yet
			return true
		}
		switch pgErr.Code[:2] {
		// connection_exception, transaction_rollback, insufficient_resources, object_not_in_prerequisite_state (a lock
		// that was waited for), operator_intervention, system_error
		case "08", "40", "53", "55", "57", "58":
			return true
		}
		return false
	}
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok { // with the end of a context's time
		return true
	}
	if _, ok := errors.AsType[*LockTimeoutError](err); ok {
		return true
	}
	for _, gone := range []error{
		io.EOF, io.ErrUnexpectedEOF, net.ErrClosed, context.Canceled, puddle.ErrClosedPool, ErrStandby,
	} {
		if errors.Is(err, gone) {
			return true
		}
	}
	return pgconn.SafeToRetry(err) // nothing was sent
}
