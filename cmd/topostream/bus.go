package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"topostream/pgbus/postgres"
	"topostream/pgbus/setting"
	"topostream/pgbus/source/wal"
)

type busCmd struct {
	Notify busNotify `cmd:"" help:"The triggers NOTIFY each event: works everywhere."`
	WAL    busWAL    `cmd:"" name:"wal" help:"Servers read the journal from the write-ahead log, and the triggers leave writers alone: for many writers. Looks first whether it can work and says what to change."`
	Status busStatus `cmd:"" help:"Say which bus the database has, who reads the WAL, and what the bus wal would take."`
}

type busNotify struct{ database }

func (c *busNotify) Run(ctx context.Context, o output) error {
	return c.withSchema(ctx, o, false, func(conn *pgx.Conn) error {
		if err := setting.Set(ctx, conn, setting.Notify); err != nil {
			return err
		}
		fmt.Fprintln(o.out, "bus: notify (servers follow by themselves, unless --bus forces them)")
		return nil
	})
}

type busWAL struct{ database }

func (c *busWAL) Run(ctx context.Context, o output) error {
	return c.withSchema(ctx, o, false, func(conn *pgx.Conn) error {
		if err := c.tryReplication(ctx, conn); err != nil {
			return err
		}
		if err := setting.Set(ctx, conn, setting.WAL); err != nil {
			return err
		}
		fmt.Fprintln(o.out, "bus: wal (servers follow by themselves, unless --bus forces them)")
		return nil
	})
}

// tryReplication connects as a server will, where this role may: pg_hba.conf and poolers cannot be asked otherwise.
func (c *busWAL) tryReplication(ctx context.Context, conn *pgx.Conn) error {
	s, err := setting.Read(ctx, conn)
	if err != nil {
		return err
	}
	for _, r := range s.Roles {
		if r.Own && !r.Replicates {
			return nil
		}
	}
	if len(s.Missing()) > 0 { // which says more
		return nil
	}
	cfg, err := postgres.Parse(c.DatabaseURL)
	if err != nil {
		return fmt.Errorf("--database-url: %w", err)
	}
	r, err := wal.Connect(ctx, cfg, "topostream bus")
	if err != nil {
		return fmt.Errorf("--database-url does not take a replication connection (a pooler, or pg_hba.conf?): %w", err)
	}
	r.Close()
	return nil
}

type busStatus struct{ database }

func (c *busStatus) Run(ctx context.Context, o output) error {
	return c.withSchema(ctx, o, false, func(conn *pgx.Conn) error {
		s, err := setting.Read(ctx, conn)
		if err != nil {
			return err
		}
		printBusStatus(o, s)
		return nil
	})
}

func printBusStatus(o output, s setting.Status) {
	fmt.Fprintf(o.out, "bus:                   %s\n", s.Setting)
	fmt.Fprintf(o.out, "publication:           %s\n", describePublication(s.Publication))
	fmt.Fprintf(o.out, "wal_level:             %s\n", s.WALLevel)
	fmt.Fprintf(o.out, "max_replication_slots: %d, %d in use\n", s.Slots.Most, s.Slots.Used)
	fmt.Fprintf(o.out, "max_wal_senders:       %d, %d in use\n", s.Senders.Most, s.Senders.Used)
	for _, r := range s.Roles {
		may := "may not replicate"
		if r.Replicates {
			may = "may replicate"
		}
		fmt.Fprintf(o.out, "role:                  %s %s\n", r.Name, may)
	}
	fmt.Fprintf(o.out, "servers and workers:   %d LISTEN, %d have a slot\n", s.Servers, len(s.Readers))
	for _, r := range s.Readers {
		pid := "nobody"
		if r.PID != nil {
			pid = fmt.Sprint("pid ", *r.PID)
		}
		fmt.Fprintf(o.out, "slot:                  %s of %s (%s), %d bytes of WAL kept\n", r.Slot, r.Name, pid, r.Retained)
	}
	problems := s.Missing()
	for _, gid := range s.Prepared {
		problems = append(problems, fmt.Sprintf("a replication slot is made only when the prepared transaction %q has "+
			"ended: COMMIT PREPARED or ROLLBACK PREPARED it in its database, if nobody does", gid))
	}
	if len(problems) > 0 {
		fmt.Fprintf(o.out, "for the bus wal:\n  %s\n", strings.Join(problems, "\n  "))
		return
	}
	fmt.Fprintln(o.out, "for the bus wal:       nothing is missing")
}

func describePublication(p setting.Publication) string {
	switch {
	case !p.Exists:
		return p.Name + ", not made yet (topostream bus wal makes it)"
	case !p.Table:
		return p.Name + ", without topology_events"
	case !p.Insert:
		return p.Name + ", without inserts (topostream bus wal corrects it)"
	case p.More:
		return p.Name + ", of more than inserts: pruning is sent, too (topostream bus wal corrects it)"
	}
	return p.Name + ", inserts on topology_events"
}
