package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
)

// A History says which history of the database a read has seen. A failover or a restore replaces a history: the same
// seq may then name another event. Functions that read heads, the journal or documents give it in the same statement,
// because a transaction pooler may swap the server beneath a connection between two statements.
type History struct {
	Epoch      int64  // the upper part of every seq
	ID         string // topology_settings.history, new at each raise: two copies of a database can make the same epoch
	Recovering bool   // it is a standby's
	// Other: the database's identity (system identifier, timeline, OID) is not the one that its settings remember: it was
	// promoted or restored, and the epoch has not been raised since.
	Other bool
}

// Columns name the columns of topology_identity in a query, in the order of Targets.
const Columns = `epoch, history::text, recovering, other`

// Targets are where the columns go: for Scan.
func (h *History) Targets() []any { return []any{&h.Epoch, &h.ID, &h.Recovering, &h.Other} }

// Same tells whether both are of one history: what was read under one continues what was read under the other.
func (h *History) Same(o History) bool {
	return h.Epoch == o.Epoch && h.ID == o.ID && !h.Other && !o.Other
}

// Errors of Histories.Judge, of which Mend takes those that a statement mends.
var (
	// ErrOldHistory: a newer history has been seen. An old primary still lives, or a standby is behind.
	ErrOldHistory = errors.New("this server has an older history than one that was seen before")
	// ErrUnraised: the database was promoted or restored, and its epoch must be raised before anything of it is used.
	ErrUnraised = errors.New("the database was promoted or restored, and its epoch is not raised yet")
	// ErrRival: the database has the epoch that is known, but another history: a copy that made the same epoch.
	ErrRival = errors.New("the database has another history of the same epoch")
)

// Histories knows the newest history that any read has shown, and judges each read by it. Any goroutine may use it.
type Histories struct {
	standbys bool
	changed  func(History)

	mu     sync.Mutex
	newest History
	known  bool
}

// NewHistories makes one that takes standbys, or refuses them with ErrStandby. changed is called when a history is
// newer than the newest one before, but not for the first: by the goroutine that calls Judge, before that returns. nil:
// nobody is told.
func NewHistories(standbys bool, changed func(History)) *Histories {
	return &Histories{standbys: standbys, changed: changed}
}

// Newest is the newest history seen; false before the first.
func (hs *Histories) Newest() (History, bool) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return hs.newest, hs.known
}

// Judge returns nil when what was read under h may be used: h is the newest history, or newer than that.
func (hs *Histories) Judge(h History) error {
	switch {
	case h.Other:
		return ErrUnraised
	case h.Recovering && !hs.standbys:
		return ErrStandby
	}
	newer, err := hs.adopt(h)
	if newer && hs.changed != nil {
		hs.changed(h)
	}
	return err
}

func (hs *Histories) adopt(h History) (newer bool, err error) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	switch {
	case !hs.known:
		hs.newest, hs.known = h, true
		return false, nil
	case h.Epoch < hs.newest.Epoch:
		return false, ErrOldHistory
	case h.Epoch > hs.newest.Epoch:
		hs.newest = h
		return true, nil
	case h.ID != hs.newest.ID:
		return false, ErrRival
	}
	return false, nil
}

// Mend does what can be done about an error of Judge, so that the read may be tried again: for ErrUnraised and ErrRival
// it raises the epoch, by a statement on the connection; for ErrStandby, and for ErrOldHistory of a primary, it closes
// the connection, whose server must not be read. It returns nil unless the statement failed.
func Mend(ctx context.Context, conn *pgx.Conn, h History, judged error) error {
	const (
		identify = `SELECT topology_identify()`
		raise    = `SELECT topology_raise_epoch($1::text::uuid)`
	)
	var err error
	switch {
	case errors.Is(judged, ErrUnraised):
		_, err = conn.Exec(ctx, identify)
	case errors.Is(judged, ErrRival) && !h.Recovering:
		_, err = conn.Exec(ctx, raise, h.ID)
	case errors.Is(judged, ErrStandby), errors.Is(judged, ErrOldHistory) && !h.Recovering:
		Close(conn)
	}
	if err != nil {
		return fmt.Errorf("raise the epoch: %w", err)
	}
	return nil
}

// Judged tells whether err is one of Judge's, after which a read may be tried again.
func Judged(err error) bool {
	return errors.Is(err, ErrOldHistory) || errors.Is(err, ErrUnraised) || errors.Is(err, ErrRival) ||
		errors.Is(err, ErrStandby)
}
