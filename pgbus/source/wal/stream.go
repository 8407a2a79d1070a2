// Package wal reads the journal's new rows from PostgreSQL's write-ahead log, by logical replication: pgoutput,
// protocol version 1 without streaming, which sends committed transactions alone, in commit order.
//
// A [Stream] has a temporary slot, which is gone with its connection: nothing is left behind on the server, no slot
// and no WAL. It says nothing about what was committed before it was opened: that is in the journal.
package wal

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"topostream/pgbus/postgres"
)

// Pace of the conversation while the stream is idle. PostgreSQL is told the same patience as SenderTimeout.
const (
	statusEvery   = time.Second
	askAfter      = 4 * time.Second // silence after which PostgreSQL is asked for an answer
	brokenAfter   = 8 * time.Second // silence after which the connection is taken for dead
	SenderTimeout = "10s"           // silence of ours after which PostgreSQL ends the connection, and the slot with it
)

// ErrSilent means that PostgreSQL did not answer in time.
var ErrSilent = errors.New("no answer on the replication connection")

// A Conn is a replication connection that has no slot yet.
type Conn struct {
	conn *pgconn.PgConn
}

// Connect opens a replication connection. cfg must not lead through a pooler; its role needs the attribute REPLICATION.
func Connect(ctx context.Context, cfg *pgx.ConnConfig, name string) (*Conn, error) {
	c := postgres.Fresh(cfg)
	// What a person has named keeps its name.
	if given := c.RuntimeParams["application_name"]; given == "" || strings.HasPrefix(given, "topostream ") {
		c.RuntimeParams["application_name"] = name
	}
	maps.Copy(c.RuntimeParams, map[string]string{
		"replication": "database", "wal_sender_timeout": SenderTimeout,
		"TimeZone": "UTC", "DateStyle": "ISO", // the row's text is what [Row.JSON] builds on
	})
	conn, err := pgconn.ConnectConfig(ctx, &c.Config)
	if err != nil {
		return nil, fmt.Errorf("connect for replication: %w", err)
	}
	if err := postgres.Pin(ctx, conn); err != nil {
		(&Conn{conn}).Close()
		return nil, err
	}
	return &Conn{conn}, nil
}

// PID is the server process's, for pg_blocking_pids and pg_stat_replication.
func (c *Conn) PID() uint32 { return c.conn.PID() }

// A Database tells one database from another.
type Database struct {
	System   string // of the cluster: pg_control_system's
	Name     string
	Timeline int64 // of the server's WAL: a promotion begins another one; 0: it is not known
}

// Database says where the connection leads.
func (c *Conn) Database(ctx context.Context) (Database, error) {
	s, err := pglogrepl.IdentifySystem(ctx, c.conn)
	if err != nil {
		return Database{}, fmt.Errorf("identify the database: %w", err)
	}
	return Database{s.SystemID, s.DBName, int64(s.Timeline)}, nil
}

// Close ends the connection and gives the slot up.
func (c *Conn) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.conn.Close(ctx) // it is gone either way
}

// Open makes a temporary slot and starts it: whatever commits after Open began to return will be read. PostgreSQL
// makes a slot only once every transaction that was open in the whole cluster has ended, so Open may take as long as
// they do; the end of ctx ends it, and the connection. A standby also needs the primary to log its running
// transactions: pg_log_standby_snapshot.
func (c *Conn) Open(ctx context.Context, publication string, standby bool) (*Stream, error) {
	for _, set := range []string{
		"SET statement_timeout = 0", "SET lock_timeout = 0", "SET client_connection_check_interval = '2s'",
	} {
		_ = c.conn.Exec(ctx, set).Close() // the last does not exist on every platform
	}
	slot := slotName()
	create := c.createSlot
	if standby {
		create = c.createSlotOnStandby
	}
	if err := create(ctx, slot); err != nil {
		return nil, fmt.Errorf("make a replication slot: %w", err)
	}
	err := pglogrepl.StartReplication(ctx, c.conn, slot, 0, pglogrepl.StartReplicationOptions{
		Mode:       pglogrepl.LogicalReplication,
		PluginArgs: []string{"proto_version '1'", "publication_names " + quote(pgx.Identifier{publication}.Sanitize())},
	})
	if err != nil {
		return nil, fmt.Errorf("start replication: %w", err)
	}
	return &Stream{conn: c.conn, relations: map[uint32]columns{}}, nil
}

// createSlot uses the function and not CREATE_REPLICATION_SLOT, which does not look whether its client is still there
// while it waits for a transaction (src/backend/tcop/postgres.c arms that check for SQL statements alone): a server
// that is killed then would leave its slot until the transaction's end.
func (c *Conn) createSlot(ctx context.Context, slot string) error {
	return c.conn.Exec(ctx, "SELECT pg_create_logical_replication_slot('"+slot+"', 'pgoutput', true)").Close()
}

// createSlotOnStandby uses the command: there it waits for WAL and looks at its client meanwhile (WalSndWaitForWal in
// src/backend/replication/walsender.c), and unlike the function's statement it has no snapshot that replay would have
// to wait for.
func (c *Conn) createSlotOnStandby(ctx context.Context, slot string) error {
	_, err := pglogrepl.CreateReplicationSlot(ctx, c.conn, slot, "pgoutput", pglogrepl.CreateReplicationSlotOptions{
		Temporary: true, SnapshotAction: "NOEXPORT_SNAPSHOT", Mode: pglogrepl.LogicalReplication,
	})
	return err
}

func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// SlotPrefix begins the names of all slots of this program.
const SlotPrefix = "topostream_"

func slotName() string { return SlotPrefix + strings.ToLower(rand.Text()) }

// A Stream is an open slot. It belongs to one goroutine.
type Stream struct {
	conn      *pgconn.PgConn
	relations map[uint32]columns
	xid       uint32        // of the transaction that is being read; 0 between two
	received  pglogrepl.LSN // everything before it has been handed over
}

// Run reads until ctx ends, idle says false, or the connection breaks, and hands each inserted row to event in commit
// order. idle is called about once a second; an error of ctx's end is ctx's cause.
func (s *Stream) Run(ctx context.Context, event func(Row), idle func() bool) error {
	// One deadline for many messages: a context for each would cost a goroutine for each.
	socket := s.conn.Conn()
	// a closed socket says so when it is read
	defer context.AfterFunc(ctx, func() { _ = socket.SetReadDeadline(time.Now()) })()
	heard, asked := time.Now(), false
	for {
		looked := time.Now()
		if !idle() {
			return nil
		}
		now := time.Now()
		heard = heard.Add(now.Sub(looked)) // what came meanwhile is still to be read
		silence := now.Sub(heard)
		if silence > brokenAfter {
			return ErrSilent
		}
		ask := silence > askAfter && !asked
		if err := s.confirm(ask); err != nil {
			return err
		}
		asked = asked || ask
		deadline := now.Add(statusEvery)
		if err := socket.SetReadDeadline(deadline); err != nil {
			return fmt.Errorf("read the WAL: %w", err)
		}
		for time.Now().Before(deadline) {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			message, err := s.conn.Frontend().Receive()
			if isTimeout(err) {
				break
			}
			if err == nil {
				err = s.take(message, event)
			}
			if err != nil {
				return fmt.Errorf("read the WAL: %w", err)
			}
			heard, asked = time.Now(), false
		}
	}
}

func isTimeout(err error) bool {
	netErr, ok := errors.AsType[net.Error](err)
	return ok && netErr.Timeout()
}

// confirm tells PostgreSQL how far we are, so that it keeps no WAL for us.
func (s *Stream) confirm(answer bool) error {
	status := pglogrepl.StandbyStatusUpdate{WALWritePosition: s.received, ReplyRequested: answer}
	if err := pglogrepl.SendStandbyStatusUpdate(context.Background(), s.conn, status); err != nil {
		return fmt.Errorf("confirm the WAL: %w", err)
	}
	return nil
}

// take handles one message of the replication protocol.
func (s *Stream) take(message pgproto3.BackendMessage, event func(Row)) error {
	switch m := message.(type) {
	case *pgproto3.CopyData:
		return s.takeCopyData(m.Data, event)
	case *pgproto3.ErrorResponse:
		return pgconn.ErrorResponseToPgError(m)
	case *pgproto3.CopyDone, *pgproto3.CommandComplete, *pgproto3.ReadyForQuery:
		return errors.New("PostgreSQL ended the stream")
	}
	return nil // a notice or a changed parameter
}

func (s *Stream) takeCopyData(data []byte, event func(Row)) error {
	if len(data) == 0 {
		return errors.New("an empty message")
	}
	switch data[0] {
	case pglogrepl.PrimaryKeepaliveMessageByteID:
		k, err := pglogrepl.ParsePrimaryKeepaliveMessage(data[1:])
		if err != nil {
			return err
		}
		if s.xid == 0 {
			s.received = max(s.received, k.ServerWALEnd)
		}
		if k.ReplyRequested {
			return s.confirm(false)
		}
	case pglogrepl.XLogDataByteID:
		x, err := pglogrepl.ParseXLogData(data[1:])
		if err != nil {
			return err
		}
		return s.takeChange(x, event)
	}
	return nil
}

func (s *Stream) takeChange(x pglogrepl.XLogData, event func(Row)) error {
	message, err := pglogrepl.Parse(x.WALData)
	if err != nil {
		return err
	}
	switch m := message.(type) {
	case *pglogrepl.BeginMessage:
		s.xid = m.Xid
	case *pglogrepl.CommitMessage:
		s.xid = 0
		s.received = max(s.received, m.TransactionEndLSN)
	case *pglogrepl.RelationMessage:
		c, err := columnsOf(m)
		if err != nil {
			return err
		}
		s.relations[m.RelationID] = c
	case *pglogrepl.InsertMessage:
		if c, ok := s.relations[m.RelationID]; ok && c.journal {
			r, err := c.row(m.Tuple.Columns)
			if err != nil {
				return err
			}
			r.XID = s.xid
			event(r)
		}
	}
	return nil
}
