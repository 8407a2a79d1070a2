package wal

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// A status is what a server gets of a stream: how far it is, and whether it asks for an answer.
type status struct {
	received pglogrepl.LSN
	asks     bool
	after    time.Duration // since the stream was made
}

// piped makes a stream whose server is the test: each status is handed to answer, which gives the messages to send.
func piped(t *testing.T, answer func(status) []pgproto3.BackendMessage) *Stream {
	t.Helper()
	client, server := net.Pipe()
	cfg, err := pgconn.ParseConfig("postgres://nobody@nowhere/nothing")
	must(t, err)
	conn, err := pgconn.Construct(&pgconn.HijackedConn{Conn: client, Config: cfg})
	must(t, err)
	began := time.Now()
	done := make(chan struct{})
	go func() {
		defer close(done)
		backend := pgproto3.NewBackend(server, server)
		for {
			message, err := backend.Receive()
			if err != nil {
				return
			}
			copied, ok := message.(*pgproto3.CopyData)
			if !ok {
				t.Errorf("%T is no status", message)
				return
			}
			data := copied.Data
			got := status{
				received: pglogrepl.LSN(binary.BigEndian.Uint64(data[1:])), asks: data[len(data)-1] == 1,
				after: time.Since(began),
			}
			messages := answer(got)
			for _, message := range messages {
				backend.Send(message)
			}
			if len(messages) > 0 && backend.Flush() != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_, _ = client.Close(), server.Close() // a pipe's never fail
		<-done
	})
	return &Stream{conn: conn, relations: map[uint32]columns{}}
}

func always() bool { return true }

func TestASilentServerIsAskedOnceAndThenTakenForDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var asked []time.Duration
		s := piped(t, func(got status) []pgproto3.BackendMessage {
			if !got.asks {
				return nil
			}
			if asked = append(asked, got.after); len(asked) == 1 {
				return []pgproto3.BackendMessage{keepalive(7, false)} // it lives, and is silent from then on
			}
			return nil
		})
		began := time.Now()
		err := s.Run(t.Context(), func(Row) {}, always)
		if !errors.Is(err, ErrSilent) {
			t.Error(err)
		}
		// The clock is looked at once a second: for longer than 4 s, and than 8 s after the answer.
		want := []time.Duration{5 * time.Second, 10 * time.Second}
		if ended := time.Since(began); !reflect.DeepEqual(asked, want) || ended != 14*time.Second {
			t.Errorf("asked after %v, ended after %s", asked, ended)
		}
	})
}

// A look at what is open may wait for a slow database longer than a silent server is waited for.
func TestWhatAServerSaysDuringALongLookIsHeardBeforeItIsTakenForDead(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := piped(t, func(status) []pgproto3.BackendMessage {
			return []pgproto3.BackendMessage{keepalive(7, false)}
		})
		looks := 0
		err := s.Run(t.Context(), func(Row) {}, func() bool {
			if looks++; looks == 2 {
				time.Sleep(brokenAfter + time.Second)
			}
			return looks < 4
		})
		if err != nil {
			t.Error(err)
		}
	})
}

func TestAStreamEndsWithItsContextAtOnceAndWhenItIsNotWanted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := piped(t, func(status) []pgproto3.BackendMessage { return nil })
		ended := errors.New("ended")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(300*time.Millisecond, func() { cancel(ended) })
		began := time.Now()
		if err := s.Run(ctx, func(Row) {}, always); !errors.Is(err, ended) {
			t.Error(err)
		}
		if took := time.Since(began); took != 300*time.Millisecond {
			t.Errorf("it took %s", took)
		}
		looks := 0
		err := s.Run(t.Context(), func(Row) {}, func() bool { looks++; return looks < 3 })
		if err != nil || looks != 3 {
			t.Errorf("%v after %d looks", err, looks)
		}
	})
}

func TestAStreamThatBreaksSaysSo(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := piped(t, func(status) []pgproto3.BackendMessage {
			return []pgproto3.BackendMessage{&pgproto3.CopyDone{}}
		})
		if err := s.Run(t.Context(), func(Row) {}, always); err == nil || errors.Is(err, ErrSilent) {
			t.Error(err)
		}
		if err := s.conn.Conn().Close(); err != nil {
			t.Error(err)
		}
		if err := s.Run(t.Context(), func(Row) {}, always); err == nil || errors.Is(err, ErrSilent) {
			t.Error(err)
		}
	})
}

// Messages of the replication protocol, as in "Streaming Replication Protocol" and "Logical Replication Message
// Formats" of PostgreSQL's documentation.

func keepalive(end uint64, reply bool) *pgproto3.CopyData {
	b := binary.BigEndian.AppendUint64([]byte{'k'}, end)
	b = append(b, make([]byte, 8)...) // the time
	if reply {
		return &pgproto3.CopyData{Data: append(b, 1)}
	}
	return &pgproto3.CopyData{Data: append(b, 0)}
}

func xlog(change []byte) []byte { return append(append([]byte{'w'}, make([]byte, 24)...), change...) }

func begin(xid uint32) []byte {
	return binary.BigEndian.AppendUint32(append([]byte{'B'}, make([]byte, 16)...), xid)
}

func commit(end uint64) []byte {
	b := binary.BigEndian.AppendUint64(append([]byte{'C'}, make([]byte, 9)...), end)
	return append(b, make([]byte, 8)...)
}

func relation(id uint32, name string, columns ...string) []byte {
	b := binary.BigEndian.AppendUint32([]byte{'R'}, id)
	b = append(b, "public\x00"+name+"\x00d"...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(columns)))
	for _, c := range columns {
		b = append(append(b, 0), c+"\x00"...)
		b = append(b, make([]byte, 8)...) // the type
	}
	return b
}

// insert is a row of text; "NULL" is none.
func insert(id uint32, values ...string) []byte {
	b := append(binary.BigEndian.AppendUint32([]byte{'I'}, id), 'N')
	b = binary.BigEndian.AppendUint16(b, uint16(len(values)))
	for _, v := range values {
		if v == "NULL" {
			b = append(b, 'n')
			continue
		}
		b = binary.BigEndian.AppendUint32(append(b, 't'), uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

// names are the journal's columns in an order of their own.
var names = []string{"at", "payload", "type", "seq", "more", "topology_id"}

func TestTheRowsOfTheJournalAloneAreHandedOverWithTheirTransaction(t *testing.T) {
	t.Parallel()
	s := &Stream{relations: map[uint32]columns{}}
	var got []Row
	for _, change := range [][]byte{
		relation(1, "topology_events", names...), relation(2, "elsewhere", "topology_id"),
		begin(77), insert(1, "a", "p", "t", "5", "m", "id"), insert(2, "no journal"), insert(3, "unknown"), commit(9),
		begin(78), insert(1, "b", "NULL", "u", "6", "m", "id"), commit(9),
	} {
		must(t, s.takeCopyData(xlog(change), func(r Row) { got = append(got, r) }))
	}
	want := []Row{
		{XID: 77, Topology: []byte("id"), Seq: 5, Type: []byte("t"), payload: []byte("p"), at: []byte("a")},
		{XID: 78, Topology: []byte("id"), Seq: 6, Type: []byte("u"), at: []byte("b")},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, want %+v", got, want)
	}
}

func TestWhatIsNotUnderstoodIsAnError(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"an empty message":       {},
		"a keepalive cut short":  {'k', 0},
		"data cut short":         {'w', 0},
		"a change of no kind":    xlog([]byte{'?'}),
		"a change cut short":     xlog([]byte{'B', 0}),
		"no column payload":      xlog(relation(1, "topology_events", "topology_id", "seq", "type", "at")),
		"too few columns":        xlog(insert(9, "id", "5", "t", "p")),
		"a seq that is none":     xlog(insert(9, "id", "x", "t", "p", "a")),
		"a seq that is negative": xlog(insert(9, "id", "-1", "t", "p", "a")),
	} {
		s := &Stream{relations: map[uint32]columns{}}
		must(t, s.takeCopyData(xlog(relation(9, "topology_events", "topology_id", "seq", "type", "payload", "at")), nil))
		if err := s.takeCopyData(data, func(Row) { t.Errorf("%s: a row", name) }); err == nil {
			t.Errorf("%s is no error", name)
		}
	}
	s := &Stream{relations: map[uint32]columns{}}
	must(t, s.takeCopyData([]byte{'?'}, nil)) // of a later version of the protocol
	must(t, s.takeCopyData(xlog(relation(9, "topology_events", names...)), nil))
	err := s.takeCopyData(xlog(insert(9, "a", "p", "t")), nil)
	if err == nil || !strings.Contains(err.Error(), "has 3 columns, want 6") {
		t.Error(err)
	}
}

func TestWhatIsReceivedIsConfirmedOnlyBetweenTransactions(t *testing.T) {
	t.Parallel()
	s := &Stream{relations: map[uint32]columns{}}
	take := func(m *pgproto3.CopyData, want pglogrepl.LSN) {
		t.Helper()
		must(t, s.take(m, nil))
		if s.received != want {
			t.Errorf("received up to %d, want %d", s.received, want)
		}
	}
	take(keepalive(10, false), 10)
	take(keepalive(8, false), 10)
	take(&pgproto3.CopyData{Data: xlog(begin(1))}, 10)
	take(keepalive(30, false), 10) // the transaction's rows may be below it, and are not handed over yet
	take(&pgproto3.CopyData{Data: xlog(commit(20))}, 20)
	take(keepalive(30, false), 30)
	take(&pgproto3.CopyData{Data: xlog(begin(2))}, 30)
	take(&pgproto3.CopyData{Data: xlog(commit(25))}, 30)
}

func TestAServerThatAsksIsAnsweredAtOnceWithoutAQuestion(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var got []status
		s := piped(t, func(st status) []pgproto3.BackendMessage {
			st.after = 0
			if got = append(got, st); len(got) == 1 {
				return []pgproto3.BackendMessage{keepalive(7, true)}
			}
			return []pgproto3.BackendMessage{keepalive(8, false), &pgproto3.CopyDone{}}
		})
		began := time.Now()
		if err := s.Run(t.Context(), func(Row) {}, always); err == nil {
			t.Error("it did not end")
		}
		if want := []status{{}, {received: 7}}; !reflect.DeepEqual(got, want) || time.Since(began) != 0 {
			t.Errorf("%+v after %s, want %+v", got, time.Since(began), want)
		}
	})
}

func TestTheEndOfAStreamIsAnErrorAndANoticeIsNone(t *testing.T) {
	t.Parallel()
	s := &Stream{}
	err := s.take(&pgproto3.ErrorResponse{Code: "55000", Message: "no"}, nil)
	if pgErr, ok := errors.AsType[*pgconn.PgError](err); !ok || pgErr.Code != "55000" {
		t.Error(err)
	}
	for _, m := range []pgproto3.BackendMessage{
		&pgproto3.CopyDone{}, &pgproto3.CommandComplete{}, &pgproto3.ReadyForQuery{},
	} {
		if s.take(m, nil) == nil {
			t.Errorf("%T is no error", m)
		}
	}
	must(t, s.take(&pgproto3.NoticeResponse{}, nil))
	must(t, s.take(&pgproto3.ParameterStatus{}, nil))
}

func TestANameIsQuotedForTheReplicationCommand(t *testing.T) {
	t.Parallel()
	if got := quote(`a'b`); got != `'a''b'` {
		t.Error(got)
	}
	a, b := slotName(), slotName()
	if a == b || !strings.HasPrefix(a, SlotPrefix) || len(a) > 63 || a != strings.ToLower(a) {
		t.Errorf("%s, %s", a, b)
	}
}
