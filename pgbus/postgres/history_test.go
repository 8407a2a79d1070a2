package postgres

import (
	"errors"
	"slices"
	"testing"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/pgtest"
)

func TestAReadIsJudgedByTheNewestHistoryThatWasSeen(t *testing.T) {
	t.Parallel()
	known := History{Epoch: 5, ID: "a"}
	for name, c := range map[string]struct {
		standbys bool
		read     History
		want     error
		changed  bool
		newest   History
	}{
		"the same":                      {false, known, nil, false, known},
		"a newer one":                   {false, History{Epoch: 6, ID: "b"}, nil, true, History{Epoch: 6, ID: "b"}},
		"an older one":                  {false, History{Epoch: 4, ID: "z"}, ErrOldHistory, false, known},
		"another of the same epoch":     {false, History{Epoch: 5, ID: "b"}, ErrRival, false, known},
		"one that is not raised yet":    {false, History{Epoch: 5, ID: "a", Other: true}, ErrUnraised, false, known},
		"a higher one, not raised yet":  {false, History{Epoch: 9, ID: "b", Other: true}, ErrUnraised, false, known},
		"a standby's":                   {false, History{Epoch: 5, ID: "a", Recovering: true}, ErrStandby, false, known},
		"a standby's that may be read":  {true, History{Epoch: 5, ID: "a", Recovering: true}, nil, false, known},
		"a standby's that is behind":    {true, History{Epoch: 4, ID: "z", Recovering: true}, ErrOldHistory, false, known},
		"a standby's of another copy":   {true, History{Epoch: 5, ID: "b", Recovering: true}, ErrRival, false, known},
		"a newer one of a standby":      {false, History{Epoch: 6, ID: "b", Recovering: true}, ErrStandby, false, known},
		"a newer one, standbys allowed": {true, History{Epoch: 6, ID: "b"}, nil, true, History{Epoch: 6, ID: "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told []History
			hs := NewHistories(c.standbys, func(h History) { told = append(told, h) })
			if _, ok := hs.Newest(); ok {
				t.Error("a history is known before any read")
			}
			must(t, hs.Judge(known))
			if err := hs.Judge(c.read); !errors.Is(err, c.want) {
				t.Errorf("judged %v, want %v", err, c.want)
			} else if err != nil && !Judged(err) {
				t.Errorf("%v is no judgement", err)
			}
			if want := map[bool][]History{true: {c.read}}[c.changed]; !slices.Equal(told, want) {
				t.Errorf("told of %v, want %v", told, want)
			}
			if h, ok := hs.Newest(); !ok || h != c.newest {
				t.Errorf("the newest is %v, want %v", h, c.newest)
			}
			if same, want := known.Same(c.read), c.read.Epoch == 5 && c.read.ID == "a" && !c.read.Other; same != want {
				t.Errorf("the same: %v", same)
			}
		})
	}
}

func TestWhatIsNoJudgementIsTold(t *testing.T) {
	t.Parallel()
	if Judged(nil) || Judged(errors.New("the network is down")) {
		t.Error("anything is a judgement")
	}
}

// read gives the history that a connection shows.
func read(t *testing.T, conn *pgx.Conn) (h History) {
	t.Helper()
	must(t, conn.QueryRow(t.Context(), `SELECT `+Columns+` FROM topology_identity()`).Scan(h.Targets()...))
	return h
}

func TestAPromotedDatabasesEpochIsRaisedOnceHoweverManyFindOut(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	first, second := db.Conn(t), db.Conn(t)
	before := read(t, first)
	if before.Other || before.Recovering {
		t.Fatalf("%+v", before)
	}
	pgtest.Exec(t, first, `UPDATE topology_settings SET timeline = timeline + 1`) // as after a failover
	found, alsoFound := read(t, first), read(t, second)
	if !found.Other || found != alsoFound {
		t.Fatalf("%+v, %+v", found, alsoFound)
	}
	hs := NewHistories(false, nil)
	must(t, hs.Judge(before))
	must(t, Mend(t.Context(), first, found, hs.Judge(found)))
	raised := read(t, first)
	if raised.Other || raised.Epoch <= before.Epoch || raised.ID == before.ID {
		t.Errorf("%+v, then %+v", before, raised)
	}
	must(t, Mend(t.Context(), second, alsoFound, ErrUnraised))
	if again := read(t, second); again != raised {
		t.Errorf("raised twice: %+v, then %+v", raised, again)
	}
	must(t, hs.Judge(raised))
}

func TestACopyThatMadeTheSameEpochIsRaisedOnceHoweverManyFindOut(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	first, second := db.Conn(t), db.Conn(t)
	here := read(t, first)
	hs := NewHistories(false, nil)
	must(t, hs.Judge(History{Epoch: here.Epoch, ID: "of the other copy"}))
	judged := hs.Judge(here)
	if !errors.Is(judged, ErrRival) {
		t.Fatal(judged)
	}
	must(t, Mend(t.Context(), first, here, judged))
	raised := read(t, first)
	if raised.Epoch <= here.Epoch || raised.ID == here.ID {
		t.Errorf("%+v, then %+v", here, raised)
	}
	must(t, Mend(t.Context(), second, here, judged))
	if again := read(t, second); again != raised {
		t.Errorf("raised twice: %+v, then %+v", raised, again)
	}
	must(t, hs.Judge(raised))
}

func TestWhatMustNotBeReadIsClosedAndTheRestIsLeftAlone(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for name, c := range map[string]struct {
		read   History
		judged error
		closed bool
	}{
		"an old primary":                 {History{}, ErrOldHistory, true},
		"a standby that is behind":       {History{Recovering: true}, ErrOldHistory, false},
		"a standby, for a primary":       {History{Recovering: true}, ErrStandby, true},
		"a standby of another copy":      {History{Recovering: true}, ErrRival, false},
		"an error that is no judgement":  {History{}, errors.New("the network is down"), false},
		"nothing that there is to judge": {History{}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			conn := db.Conn(t)
			before := read(t, conn)
			must(t, Mend(t.Context(), conn, c.read, c.judged))
			if conn.IsClosed() != c.closed {
				t.Fatalf("closed: %v", conn.IsClosed())
			}
			if after := read(t, db.Conn(t)); after != before {
				t.Errorf("%+v, then %+v", before, after)
			}
		})
	}
}
