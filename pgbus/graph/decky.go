package graph

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	"topostream/stream"
)

// A decky is a row of deckies, as far as edits need it.
type decky struct {
	UUID   string
	Name   string
	Config json.RawMessage
}

// decky finds a decky by its name.
func (e *edit) decky(ctx context.Context, name string) (decky, error) {
	const query = `SELECT uuid::text, name, decky_config FROM deckies WHERE topology_id = $1::text::uuid AND name = $2`
	deckies, err := rows[decky](ctx, e, query, e.topology, name)
	switch {
	case err != nil:
		return decky{}, fmt.Errorf("read decky %q: %w", name, err)
	case len(deckies) == 0:
		return decky{}, refuse("decky %q does not exist", name)
	}
	return deckies[0], nil
}

// An edge attaches a decky to a LAN. The zero value is none.
type edge struct {
	ID         string
	IsBridge   bool
	ForwardsL3 bool
}

// edge finds a decky's edge to a LAN; none when it is not attached.
func (e *edit) edge(ctx context.Context, d decky, l lan) (edge, error) {
	const query = `
SELECT id::text, is_bridge, forwards_l3 FROM edges WHERE decky_uuid = $1::text::uuid AND lan_id = $2::text::uuid`
	return e.oneEdge(ctx, query, d.UUID, l.ID)
}

// home finds a decky's home edge; none when somebody removed it by hand.
func (e *edit) home(ctx context.Context, d decky) (edge, error) {
	const query = `
SELECT id::text, is_bridge, forwards_l3 FROM edges
 WHERE decky_uuid = $1::text::uuid AND NOT is_bridge ORDER BY id LIMIT 1`
	return e.oneEdge(ctx, query, d.UUID)
}

func (e *edit) oneEdge(ctx context.Context, query string, args ...any) (edge, error) {
	edges, err := rows[edge](ctx, e, query, args...)
	if err != nil {
		return edge{}, fmt.Errorf("read an edge: %w", err)
	}
	if len(edges) == 0 {
		return edge{}, nil
	}
	return edges[0], nil
}

// address gives the address that a decky gets in a LAN: wanted, if it can have that, or the next free one.
func (e *edit) address(ctx context.Context, l lan, wanted netip.Addr) (netip.Addr, error) {
	const query = `
SELECT coalesce(g.ip, d.ip), d.name FROM edges g JOIN deckies d ON d.uuid = g.decky_uuid
 WHERE g.lan_id = $1::text::uuid AND (g.ip IS NOT NULL OR NOT g.is_bridge AND d.ip IS NOT NULL)`
	used, err := rows[struct {
		IP   netip.Prefix
		Name string
	}](ctx, e, query, l.ID)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("read the addresses of LAN %q: %w", l.Name, err)
	}
	taken := map[netip.Addr]string{}
	for _, u := range used {
		taken[u.IP.Addr()] = u.Name
	}
	if !wanted.IsValid() {
		a, ok := nextAddress(l.Subnet, taken)
		if !ok {
			return a, refuse("LAN %q has no free address in %s", l.Name, l.Subnet)
		}
		return a, nil
	}
	a := wanted.Unmap()
	switch owner, ok := taken[a]; {
	case !isHost(l.Subnet, a):
		return a, refuse("ip %s is no host's address in %s of LAN %q", a, l.Subnet, l.Name)
	case a == gateway(l.Subnet):
		return a, refuse("ip %s is kept for the gateway of LAN %q", a, l.Name)
	case ok:
		return a, refuse("ip %s is taken by decky %q in LAN %q", a, owner, l.Name)
	}
	return a, nil
}

const insertEdge = `INSERT INTO edges (topology_id, decky_uuid, lan_id, ip, is_bridge, forwards_l3)
VALUES ($1::text::uuid, $2::text::uuid, $3::text::uuid, $4, $5, $6)`

func (e *edit) connect(ctx context.Context, d decky, l lan, ip netip.Addr, bridge, forwardsL3 bool) error {
	if err := e.exec(ctx, insertEdge, e.topology, d.UUID, l.ID, ip, bridge, forwardsL3); err != nil {
		return fmt.Errorf("attach decky %q to LAN %q: %w", d.Name, l.Name, err)
	}
	return nil
}

// jsonArray makes a parameter for a column of jsonb. In the modes in which pgx does not ask PostgreSQL for the types of
// parameters, it would send a slice as an array of PostgreSQL's.
func jsonArray(values []string) json.RawMessage {
	text, err := json.Marshal(append([]string{}, values...))
	if err != nil {
		panic(err) // strings
	}
	return text
}

func (e *edit) addDecky(ctx context.Context, op stream.AddDecky) error {
	const insert = `
INSERT INTO deckies (topology_id, name, services, decky_config, ip, x, y)
VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7) RETURNING uuid::text`
	switch _, err := e.decky(ctx, op.Name); {
	case err == nil:
		return refuse("decky %q exists already", op.Name)
	case !isRefusal(err):
		return err
	}
	l, err := e.lan(ctx, op.LAN)
	if err != nil {
		return err
	}
	ip, err := e.address(ctx, l, op.IP)
	if err != nil {
		return err
	}
	config := map[string]any{"forwards_l3": op.ForwardsL3}
	if op.Archetype != "" {
		config["archetype"] = op.Archetype
	}
	d := decky{Name: op.Name}
	row := e.tx.QueryRow(ctx, insert, e.topology, op.Name, jsonArray(op.Services), config, ip, op.X, op.Y)
	if err := row.Scan(&d.UUID); err != nil {
		return fmt.Errorf("insert decky %q: %w", op.Name, err)
	}
	return e.connect(ctx, d, l, ip, false, op.ForwardsL3)
}

func (e *edit) attachDecky(ctx context.Context, op stream.AttachDecky) error {
	d, l, at, err := e.ends(ctx, op.Decky, op.LAN)
	switch {
	case err != nil:
		return err
	case at.ID != "":
		return refuse("decky %q is attached to LAN %q already", op.Decky, op.LAN)
	}
	ip, err := e.address(ctx, l, op.IP)
	if err != nil {
		return err
	}
	return e.connect(ctx, d, l, ip, true, op.ForwardsL3)
}

func (e *edit) detachDecky(ctx context.Context, op stream.DetachDecky) error {
	const remove = `DELETE FROM edges WHERE id = $1::text::uuid`
	_, _, at, err := e.ends(ctx, op.Decky, op.LAN)
	switch {
	case err != nil:
		return err
	case at.ID == "":
		return refuse("decky %q is not attached to LAN %q", op.Decky, op.LAN)
	case !at.IsBridge:
		return refuse("LAN %q is the home of decky %q: it can only be removed as a whole", op.LAN, op.Decky)
	}
	if err := e.exec(ctx, remove, at.ID); err != nil {
		return fmt.Errorf("detach decky %q from LAN %q: %w", op.Decky, op.LAN, err)
	}
	return nil
}

// ends finds a decky, a LAN, and the edge between them.
func (e *edit) ends(ctx context.Context, deckyName, lanName string) (d decky, l lan, at edge, err error) {
	if d, err = e.decky(ctx, deckyName); err != nil {
		return d, l, at, err
	}
	if l, err = e.lan(ctx, lanName); err != nil {
		return d, l, at, err
	}
	at, err = e.edge(ctx, d, l)
	return d, l, at, err
}

func (e *edit) removeDecky(ctx context.Context, op stream.RemoveDecky) error {
	const (
		detach = `DELETE FROM edges WHERE decky_uuid = $1::text::uuid`
		remove = `DELETE FROM deckies WHERE uuid = $1::text::uuid`
	)
	d, err := e.decky(ctx, op.Decky)
	if err != nil {
		return err
	}
	if _, err := e.tx.Exec(ctx, detach, d.UUID); err != nil {
		return fmt.Errorf("remove the edges of decky %q: %w", op.Decky, err)
	}
	if err := e.exec(ctx, remove, d.UUID); err != nil {
		return fmt.Errorf("remove decky %q: %w", op.Decky, err)
	}
	return nil
}

func (e *edit) updateDecky(ctx context.Context, op stream.UpdateDecky) error {
	const (
		update = `
UPDATE deckies
   SET decky_config = $2, services = coalesce($3, services), x = coalesce($4, x), y = coalesce($5, y)
 WHERE uuid = $1::text::uuid`
		forward = `UPDATE edges SET forwards_l3 = $2 WHERE id = $1::text::uuid`
	)
	d, err := e.decky(ctx, op.Decky)
	if err != nil {
		return err
	}
	var config map[string]json.RawMessage
	if json.Unmarshal(d.Config, &config) != nil || config == nil {
		return refuse("decky_config of decky %q is no JSON object: correct it by hand", op.Decky)
	}
	home, err := e.home(ctx, d)
	if err != nil {
		return err
	}
	before := forwards(config, home)
	for key, value := range op.Patch {
		if string(value) == "null" {
			delete(config, key)
			continue
		}
		config[key] = value
	}
	if _, ok := op.Patch["forwards_l3"]; ok {
		after := forwards(config, edge{})
		if after != before && !op.Force {
			return refuse("forwards_l3 of decky %q would become %t, which changes what it lets through: "+
				"say \"force\": true if that is meant", op.Decky, after)
		}
		if home.ID != "" && home.ForwardsL3 != after {
			if err := e.exec(ctx, forward, home.ID, after); err != nil {
				return fmt.Errorf("update the home edge of decky %q: %w", op.Decky, err)
			}
		}
	}
	var services json.RawMessage // NULL: left as they are
	if op.Services != nil {
		services = jsonArray(op.Services)
	}
	if err := e.exec(ctx, update, d.UUID, config, services, op.X, op.Y); err != nil {
		return fmt.Errorf("update decky %q: %w", op.Decky, err)
	}
	return nil
}

// forwards tells whether a decky forwards: its config says so, or where that is silent its home edge.
func forwards(config map[string]json.RawMessage, home edge) bool {
	if raw, ok := config["forwards_l3"]; ok {
		return string(raw) == "true"
	}
	return home.ForwardsL3
}

func isRefusal(err error) bool {
	_, ok := errors.AsType[*RefusedError](err)
	return ok
}
