package graph

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"topostream/stream"
)

// A lan is a row of lans, as far as edits need it.
type lan struct {
	ID     string
	Name   string
	Subnet netip.Prefix
	IsDMZ  bool
}

// allLANs reads the topology's LANs.
func (e *edit) allLANs(ctx context.Context) ([]lan, error) {
	const query = `SELECT id::text, name, subnet, is_dmz FROM lans WHERE topology_id = $1::text::uuid ORDER BY name`
	lans, err := rows[lan](ctx, e, query, e.topology)
	if err != nil {
		return nil, fmt.Errorf("read the LANs: %w", err)
	}
	return lans, nil
}

// lan finds a LAN by its name.
func (e *edit) lan(ctx context.Context, name string) (lan, error) {
	const query = `SELECT id::text, name, subnet, is_dmz FROM lans WHERE topology_id = $1::text::uuid AND name = $2`
	lans, err := rows[lan](ctx, e, query, e.topology, name)
	switch {
	case err != nil:
		return lan{}, fmt.Errorf("read LAN %q: %w", name, err)
	case len(lans) == 0:
		return lan{}, refuse("LAN %q does not exist", name)
	}
	return lans[0], nil
}

func (e *edit) addLAN(ctx context.Context, op stream.AddLAN) error {
	const insert = `
INSERT INTO lans (topology_id, name, subnet, is_dmz, x, y)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6)`
	lans, err := e.allLANs(ctx)
	if err != nil {
		return err
	}
	subnets := make([]netip.Prefix, len(lans))
	for i, l := range lans {
		switch {
		case l.Name == op.Name:
			return refuse("LAN %q exists already", op.Name)
		case op.IsDMZ && l.IsDMZ:
			return refuse("LAN %q is the DMZ already: a topology has one", l.Name)
		case op.Subnet.IsValid() && l.Subnet.Overlaps(op.Subnet):
			return refuse("subnet %s overlaps %s of LAN %q", op.Subnet, l.Subnet, l.Name)
		}
		subnets[i] = l.Subnet
	}
	subnet := op.Subnet
	if !subnet.IsValid() {
		var ok bool
		if subnet, ok = nextSubnet(subnets); !ok {
			return refuse("no /24 of %s is free: give a subnet", pool())
		}
	}
	if err := e.exec(ctx, insert, e.topology, op.Name, subnet, op.IsDMZ, op.X, op.Y); err != nil {
		return fmt.Errorf("insert LAN %q: %w", op.Name, err)
	}
	return nil
}

func (e *edit) removeLAN(ctx context.Context, op stream.RemoveLAN) error {
	const (
		homes = `
SELECT d.name FROM edges g JOIN deckies d ON d.uuid = g.decky_uuid
 WHERE g.lan_id = $1::text::uuid AND NOT g.is_bridge ORDER BY d.name LIMIT 4`
		detach = `DELETE FROM edges WHERE lan_id = $1::text::uuid`
		remove = `DELETE FROM lans WHERE id = $1::text::uuid`
	)
	l, err := e.lan(ctx, op.Name)
	if err != nil {
		return err
	}
	living, err := rows[struct{ Name string }](ctx, e, homes, l.ID)
	if err != nil {
		return fmt.Errorf("read whose home LAN %q is: %w", op.Name, err)
	}
	if len(living) > 0 {
		var names []string
		for _, d := range living {
			names = append(names, fmt.Sprintf("%q", d.Name))
		}
		if len(names) == 4 {
			names[3] = "others"
		}
		return refuse("LAN %q is the home of decky %s: remove that first", op.Name, strings.Join(names, ", "))
	}
	if _, err := e.tx.Exec(ctx, detach, l.ID); err != nil {
		return fmt.Errorf("remove the edges of LAN %q: %w", op.Name, err)
	}
	if err := e.exec(ctx, remove, l.ID); err != nil {
		return fmt.Errorf("remove LAN %q: %w", op.Name, err)
	}
	return nil
}

func (e *edit) updateLAN(ctx context.Context, op stream.UpdateLAN) error {
	const update = `
UPDATE lans SET name = coalesce($2, name), x = coalesce($3, x), y = coalesce($4, y) WHERE id = $1::text::uuid`
	l, err := e.lan(ctx, op.Name)
	if err != nil {
		return err
	}
	if op.NewName != nil && *op.NewName != op.Name {
		switch _, err := e.lan(ctx, *op.NewName); {
		case err == nil:
			return refuse("LAN %q exists already", *op.NewName)
		case !isRefusal(err):
			return err
		}
	}
	if err := e.exec(ctx, update, l.ID, op.NewName, op.X, op.Y); err != nil {
		return fmt.Errorf("update LAN %q: %w", op.Name, err)
	}
	return nil
}
