package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
)

// A model is a topology's graph as INTERFACE's rules make it, in plain maps, computed beside the worker's.
type model struct {
	lans    map[string]*modelLAN
	deckies map[string]*modelDecky
}

type modelLAN struct {
	Subnet string
	IsDMZ  bool
	X, Y   *float64
}

type modelDecky struct {
	Home     string
	Services []string
	Config   map[string]any
	X        *float64
	Edges    map[string]*modelEdge // by LAN, home among them
}

type modelEdge struct {
	IP         string
	IsBridge   bool
	ForwardsL3 bool
}

func newModel() *model {
	return &model{map[string]*modelLAN{}, map[string]*modelDecky{}}
}

// apply makes an edit and tells whether the rules allow it.
func (m *model) apply(op string, p map[string]any) bool {
	text := func(key string) string { s, _ := p[key].(string); return s }
	flag := func(key string) bool { b, _ := p[key].(bool); return b }
	number := func(key string) *float64 {
		if f, ok := p[key].(float64); ok {
			return &f
		}
		return nil
	}
	switch op {
	case "add_lan":
		return m.addLAN(text("name"), text("subnet"), flag("is_dmz"), number("x"))
	case "remove_lan":
		return m.removeLAN(text("name"))
	case "update_lan":
		return m.updateLAN(text("name"), p)
	case "add_decky":
		return m.addDecky(p)
	case "attach_decky":
		d, l := m.deckies[text("decky")], m.lans[text("lan")]
		if d == nil || l == nil || d.Edges[text("lan")] != nil {
			return false
		}
		ip, ok := m.ip(text("lan"), text("ip"))
		if ok {
			d.Edges[text("lan")] = &modelEdge{ip, true, flag("forwards_l3")}
		}
		return ok
	case "detach_decky":
		d, l := m.deckies[text("decky")], m.lans[text("lan")]
		if d == nil || l == nil || d.Edges[text("lan")] == nil || d.Home == text("lan") {
			return false
		}
		delete(d.Edges, text("lan"))
		return true
	case "remove_decky":
		_, ok := m.deckies[text("decky")]
		delete(m.deckies, text("decky"))
		return ok
	case "update_decky":
		return m.updateDecky(p)
	case "changeset":
		return m.changeset(p["ops"].([]map[string]any)) //nolint:forcetypeassert // randomEdit made it
	}
	panic(op)
}

// changeset makes all edits or none.
func (m *model) changeset(ops []map[string]any) bool {
	after := m.clone()
	for _, one := range ops {
		if !after.apply(one["op"].(string), one["payload"].(map[string]any)) { //nolint:forcetypeassert // as above
			return false
		}
	}
	*m = *after
	return true
}

func (m *model) clone() *model {
	c := newModel()
	for name, l := range m.lans {
		copied := *l
		c.lans[name] = &copied
	}
	for name, d := range m.deckies {
		copied := *d
		copied.Config, copied.Edges = maps.Clone(d.Config), map[string]*modelEdge{}
		for lan, e := range d.Edges {
			edge := *e
			copied.Edges[lan] = &edge
		}
		c.deckies[name] = &copied
	}
	return c
}

func (m *model) addLAN(name, subnet string, dmz bool, x *float64) bool {
	free := func(p netip.Prefix) bool {
		for _, l := range m.lans {
			if netip.MustParsePrefix(l.Subnet).Overlaps(p) {
				return false
			}
		}
		return true
	}
	if m.lans[name] != nil || dmz && m.hasDMZ() || subnet != "" && !free(netip.MustParsePrefix(subnet)) {
		return false
	}
	for i := 0; subnet == ""; i++ {
		if p := netip.MustParsePrefix(fmt.Sprintf("172.16.%d.0/24", i)); free(p) {
			subnet = p.String()
		}
	}
	m.lans[name] = &modelLAN{subnet, dmz, x, nil}
	return true
}

func (m *model) hasDMZ() bool {
	for _, l := range m.lans {
		if l.IsDMZ {
			return true
		}
	}
	return false
}

func (m *model) removeLAN(name string) bool {
	if m.lans[name] == nil {
		return false
	}
	for _, d := range m.deckies {
		if d.Home == name {
			return false
		}
	}
	for _, d := range m.deckies {
		delete(d.Edges, name)
	}
	delete(m.lans, name)
	return true
}

func (m *model) updateLAN(name string, p map[string]any) bool {
	l := m.lans[name]
	if l == nil {
		return false
	}
	patch, _ := p["patch"].(map[string]any)
	if to, ok := patch["name"].(string); ok && to != name {
		if m.lans[to] != nil {
			return false
		}
		delete(m.lans, name)
		m.lans[to] = l
		for _, d := range m.deckies {
			if e := d.Edges[name]; e != nil {
				delete(d.Edges, name)
				d.Edges[to] = e
			}
			if d.Home == name {
				d.Home = to
			}
		}
	}
	if y, ok := p["y"].(float64); ok {
		l.Y = &y
	}
	return true
}

func (m *model) addDecky(p map[string]any) bool {
	name, _ := p["name"].(string)
	home, _ := p["lan"].(string)
	wanted, _ := p["ip"].(string)
	forwards, _ := p["forwards_l3"].(bool)
	if m.deckies[name] != nil || m.lans[home] == nil {
		return false
	}
	ip, ok := m.ip(home, wanted)
	if !ok {
		return false
	}
	d := &modelDecky{
		Home:     home,
		Services: []string{},
		Config:   map[string]any{"forwards_l3": forwards},
		Edges:    map[string]*modelEdge{home: {ip, false, forwards}},
	}
	if a, ok := p["archetype"]; ok {
		d.Config["archetype"] = a
	}
	if services, ok := p["services"].([]string); ok {
		d.Services = services
	}
	m.deckies[name] = d
	return true
}

func (m *model) updateDecky(p map[string]any) bool {
	name, _ := p["decky"].(string)
	force, _ := p["force"].(bool)
	d := m.deckies[name]
	if d == nil {
		return false
	}
	patch, _ := p["patch"].(map[string]any)
	if to, ok := patch["forwards_l3"].(bool); ok {
		if to != d.Config["forwards_l3"] && !force {
			return false
		}
		d.Edges[d.Home].ForwardsL3 = to
	}
	for key, value := range patch {
		if value == nil {
			delete(d.Config, key)
			continue
		}
		d.Config[key] = value
	}
	if x, ok := p["x"].(float64); ok {
		d.X = &x
	}
	return true
}

// ip gives the address that a decky gets in a LAN. Network, gateway (.1) and broadcast are nobody's.
func (m *model) ip(lan, wanted string) (string, bool) {
	subnet := netip.MustParsePrefix(m.lans[lan].Subnet)
	taken := map[string]bool{}
	for _, d := range m.deckies {
		if e := d.Edges[lan]; e != nil {
			taken[e.IP] = true
		}
	}
	hosts := map[string]bool{}
	for a := subnet.Addr().Next().Next(); subnet.Contains(a.Next()); a = a.Next() {
		if wanted == "" && !taken[a.String()] {
			return a.String(), true
		}
		hosts[a.String()] = true
	}
	return wanted, hosts[wanted] && !taken[wanted]
}

// String is the graph by names, as a query below makes it from the tables.
func (m *model) String() string {
	lans, deckies := map[string]any{}, map[string]any{}
	for name, l := range m.lans {
		lans[name] = []any{l.Subnet, l.IsDMZ, l.X, l.Y}
	}
	for name, d := range m.deckies {
		edges := map[string]any{}
		for lan, e := range d.Edges {
			edges[lan] = []any{e.IP, e.IsBridge, e.ForwardsL3}
		}
		deckies[name] = []any{d.Edges[d.Home].IP, d.Services, d.Config, d.X, edges}
	}
	b, err := json.Marshal([]any{lans, deckies})
	if err != nil {
		panic(err) // it holds nothing that JSON lacks
	}
	return string(b)
}

// graphByNames reads graphs from the tables as String makes them.
const graphByNames = `
SELECT t.id::text, jsonb_build_array(
    (SELECT coalesce(jsonb_object_agg(l.name, jsonb_build_array(l.subnet, l.is_dmz, l.x, l.y)), '{}')
       FROM lans l WHERE l.topology_id = t.id),
    (SELECT coalesce(jsonb_object_agg(d.name, jsonb_build_array(host(d.ip), d.services, d.decky_config, d.x,
            (SELECT jsonb_object_agg(l.name, jsonb_build_array(host(g.ip), g.is_bridge, g.forwards_l3))
               FROM edges g JOIN lans l ON l.id = g.lan_id WHERE g.decky_uuid = d.uuid))), '{}')
       FROM deckies d WHERE d.topology_id = t.id))::text
  FROM topologies t`

// randomEdit makes an edit that the rules often allow: it mostly adds what there is not and changes what there is, from
// small sets of names.
func (m *model) randomEdit(r *rand.Rand) (op string, payload map[string]any) {
	pick := func(kind string, n int, wanted func(name string) bool) string {
		name := ""
		for range 6 {
			if name = fmt.Sprint(kind, "-", r.IntN(n)); wanted(name) {
				break
			}
		}
		return name
	}
	lan := func(there bool) string {
		return pick("lan", 6, func(name string) bool { return (m.lans[name] != nil) == there })
	}
	decky := func(there bool) string {
		return pick("decky", 8, func(name string) bool { return (m.deckies[name] != nil) == there })
	}
	ip := func(p map[string]any) {
		if r.IntN(5) == 0 {
			p["ip"] = fmt.Sprintf("172.16.%d.%d", r.IntN(4), r.IntN(8))
		}
	}
	switch n := r.IntN(22); {
	case n >= 20:
		after, ops := m.clone(), []map[string]any{}
		for range 1 + r.IntN(4) {
			op, payload := after.randomEdit(r)
			if op != "changeset" {
				after.apply(op, payload)
				ops = append(ops, map[string]any{"op": op, "payload": payload})
			}
		}
		if len(ops) == 0 {
			return m.randomEdit(r)
		}
		return "changeset", map[string]any{"ops": ops}
	case n < 3 || len(m.lans) == 0:
		p := map[string]any{"name": lan(false), "is_dmz": r.IntN(5) == 0}
		if r.IntN(3) == 0 {
			p["subnet"] = []string{"10.0.0.0/29", "10.0.0.0/24", "172.16.1.0/24", "172.16.2.128/25", "192.168.0.0/30"}[r.IntN(5)]
		}
		if r.IntN(2) == 0 {
			p["x"] = float64(r.IntN(100))
		}
		return "add_lan", p
	case n < 4:
		return "remove_lan", map[string]any{"name": lan(true)}
	case n < 5:
		return "update_lan", map[string]any{"name": lan(true), "patch": map[string]any{"name": lan(false)}}
	case n < 6:
		return "update_lan", map[string]any{"name": lan(true), "y": float64(r.IntN(100))}
	case n < 10 || len(m.deckies) == 0:
		p := map[string]any{
			"name":        decky(false),
			"lan":         lan(true),
			"forwards_l3": r.IntN(2) == 0,
			"archetype":   "linux",
			"services":    []string{"ssh"},
		}
		ip(p)
		return "add_decky", p
	case n < 14:
		p := map[string]any{"decky": decky(true), "lan": lan(true), "forwards_l3": r.IntN(2) == 0}
		ip(p)
		return "attach_decky", p
	case n < 15:
		return "detach_decky", map[string]any{"decky": decky(true), "lan": lan(true)}
	case n < 16:
		return "remove_decky", map[string]any{"decky": decky(true)}
	default:
		p := map[string]any{
			"decky": decky(true),
			"force": r.IntN(2) == 0,
			"x":     float64(r.IntN(100)),
			"patch": map[string]any{"archetype": nil, "banner": float64(r.IntN(9))},
		}
		if r.IntN(2) == 0 {
			p["patch"] = map[string]any{"forwards_l3": r.IntN(2) == 0, "archetype": "router"}
		}
		return "update_decky", p
	}
}
