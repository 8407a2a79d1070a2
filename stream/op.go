package stream

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// The ops of mutations. Each has a payload type of the same name.
const (
	OpAddLAN      = "add_lan"
	OpRemoveLAN   = "remove_lan"
	OpUpdateLAN   = "update_lan"
	OpAddDecky    = "add_decky"
	OpAttachDecky = "attach_decky"
	OpDetachDecky = "detach_decky"
	OpRemoveDecky = "remove_decky"
	OpUpdateDecky = "update_decky"
)

// AddLAN adds a LAN.
type AddLAN struct {
	Name   string
	Subnet netip.Prefix // zero: the next free /24 of 172.16.0.0/12
	IsDMZ  bool
	X, Y   *float64
}

// RemoveLAN removes a LAN that is no decky's home.
type RemoveLAN struct{ Name string }

// UpdateLAN renames or moves a LAN. Nil: left as it is.
type UpdateLAN struct {
	Name    string
	NewName *string
	X, Y    *float64
}

// AddDecky adds a decky in its home LAN.
type AddDecky struct {
	Name       string
	LAN        string
	Services   []string // nil: none
	Archetype  string   // empty: none
	ForwardsL3 bool
	IP         netip.Addr // zero: the next free one of the LAN
	X, Y       *float64
}

// AttachDecky attaches a decky to a LAN that is not its home.
type AttachDecky struct {
	Decky, LAN string
	IP         netip.Addr // zero: the next free one of the LAN
	ForwardsL3 bool
}

// DetachDecky detaches a decky from a LAN that is not its home.
type DetachDecky struct{ Decky, LAN string }

// RemoveDecky removes a decky.
type RemoveDecky struct{ Decky string }

// UpdateDecky changes a decky. Patch is merged into decky_config key by key (null removes one). Nil: left as it is.
type UpdateDecky struct {
	Decky    string
	Patch    map[string]json.RawMessage
	Services []string
	X, Y     *float64
	Force    bool // forwards_l3 may flip
}

// A FieldError says what is wrong with one field of what somebody sent, and the fix.
type FieldError struct {
	Field   string // as a path: payload.patch.name
	Problem string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// maxName is the longest name of a LAN or decky in characters.
const maxName = 200

// ParseOp reads the payload of a mutation strictly: unknown fields, wrong types and trailing bytes are a *FieldError that names the field below
// "payload". It gives one of the payload types above, by value.
func ParseOp(op string, payload json.RawMessage) (any, error) { return parseOp("payload", op, payload) }

func parseOp(path, op string, payload json.RawMessage) (any, error) {
	read, ok := payloads()[op]
	if !ok {
		return nil, &FieldError{"op", fmt.Sprintf("%.80q is no op: use one of %s", op, strings.Join(Ops(), ", "))}
	}
	f := newFields(path, payload)
	v := read(f)
	return v, f.close()
}

// Ops are all ops, sorted.
func Ops() []string { return slices.Sorted(maps.Keys(payloads())) }

func payloads() map[string]func(*fields) any {
	return map[string]func(*fields) any{
		OpAddLAN: func(f *fields) any {
			return AddLAN{f.name("name"), f.prefix("subnet"), f.flag("is_dmz"), f.number("x"), f.number("y")}
		},
		OpRemoveLAN: func(f *fields) any { return RemoveLAN{f.name("name")} },
		OpUpdateLAN: updateLAN,
		OpAddDecky: func(f *fields) any {
			return AddDecky{f.name("name"), f.name("lan"), f.words("services"), f.optionalText("archetype"), f.flag("forwards_l3"), f.addr("ip"), f.number("x"), f.number("y")}
		},
		OpAttachDecky: func(f *fields) any {
			return AttachDecky{f.name("decky"), f.name("lan"), f.addr("ip"), f.flag("forwards_l3")}
		},
		OpDetachDecky: func(f *fields) any { return DetachDecky{f.name("decky"), f.name("lan")} },
		OpRemoveDecky: func(f *fields) any { return RemoveDecky{f.name("decky")} },
		OpUpdateDecky: func(f *fields) any {
			u := UpdateDecky{Decky: f.name("decky"), Services: f.words("services"), X: f.number("x"), Y: f.number("y"), Force: f.flag("force")}
			if raw, ok := f.take("patch"); ok && f.check("patch", json.Unmarshal(raw, &u.Patch), "give an object") && u.Patch == nil {
				f.fail("patch", "give an object")
			}
			if raw, ok := u.Patch["forwards_l3"]; ok {
				var flag *bool
				if json.Unmarshal(raw, &flag) != nil {
					f.fail("patch.forwards_l3", "give true or false")
				}
			}
			return u
		},
	}
}

func updateLAN(f *fields) any {
	u := UpdateLAN{Name: f.name("name"), X: f.number("x"), Y: f.number("y")}
	patch := f
	if raw, ok := f.take("patch"); ok {
		if u.X != nil || u.Y != nil {
			f.fail("patch", "give x and y in it or beside it, not both")
		}
		patch = newFields(f.path+".patch", raw)
		if patch.has("name") {
			name := patch.name("name")
			u.NewName = &name
		}
		u.X, u.Y = patch.number("x"), patch.number("y")
	}
	for _, fixed := range []string{"subnet", "is_dmz"} {
		if _, ok := patch.take(fixed); ok {
			patch.fail(fixed, "cannot be changed while the topology is live: remove the LAN and add another")
		}
	}
	if err := patch.close(); patch != f && err != nil && f.err == nil {
		f.err = err
	}
	return u
}

// fields reads an object field by field and keeps the first error. encoding/json alone would take "Name" for name and say nothing of where
// a wrong type is.
type fields struct {
	path string
	m    map[string]json.RawMessage
	err  error
}

func newFields(path string, raw json.RawMessage) *fields {
	f := &fields{path: path}
	if err := json.Unmarshal(raw, &f.m); err != nil || f.m == nil {
		f.err = &FieldError{path, "give a JSON object"}
	}
	return f
}

func (f *fields) fail(name, problem string) {
	if f.err == nil {
		f.err = &FieldError{f.at(name), problem}
	}
}

func (f *fields) at(name string) string { return join(f.path, name) }

func (f *fields) check(name string, err error, problem string) bool {
	if err != nil {
		f.fail(name, problem)
	}
	return err == nil
}

func (f *fields) has(name string) bool { _, ok := f.m[name]; return ok }

// take gives a field's value; what is taken is known.
func (f *fields) take(name string) (json.RawMessage, bool) {
	raw, ok := f.m[name]
	delete(f.m, name)
	return raw, ok
}

// close gives the first error: a wrong field, or else an unknown one.
func (f *fields) close() error {
	if f.err == nil && len(f.m) > 0 {
		f.fail(slices.Min(slices.Collect(maps.Keys(f.m))), "is no field of this object: remove it")
	}
	return f.err
}

// name is a required name.
func (f *fields) name(name string) (s string) {
	raw, ok := f.take(name)
	switch {
	case !ok:
		f.fail(name, "is missing")
	case !f.check(name, unmarshal(raw, &s), "give a string"):
	case s == "" || len([]rune(s)) > maxName || strings.ContainsFunc(s, unicode.IsControl):
		f.fail(name, fmt.Sprintf("give 1 to %d characters without control characters", maxName))
	}
	return s
}

func (f *fields) optionalText(name string) (s string) {
	if f.has(name) {
		return f.name(name)
	}
	return ""
}

func (f *fields) flag(name string) (b bool) {
	if raw, ok := f.take(name); ok {
		f.check(name, unmarshal(raw, &b), "give true or false")
	}
	return b
}

func (f *fields) number(name string) *float64 {
	raw, ok := f.take(name)
	if !ok {
		return nil
	}
	var n float64
	f.check(name, unmarshal(raw, &n), "give a number")
	return &n
}

// words is an array of names; nil when the field is absent.
func (f *fields) words(name string) []string {
	raw, ok := f.take(name)
	if !ok {
		return nil
	}
	words := []string{}
	f.check(name, unmarshal(raw, &words), "give an array of strings")
	for i, w := range words {
		if w == "" || len([]rune(w)) > maxName {
			f.fail(fmt.Sprintf("%s[%d]", name, i), fmt.Sprintf("give 1 to %d characters", maxName))
		}
	}
	return words
}

func (f *fields) prefix(name string) (p netip.Prefix) {
	raw, ok := f.take(name)
	if !ok {
		return p
	}
	var s string
	if !f.check(name, unmarshal(raw, &s), "give a string") {
		return p
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		f.fail(name, "give a subnet, for example 10.0.0.0/24")
	case p != p.Masked():
		f.fail(name, fmt.Sprintf("has bits set behind its mask: give %s", p.Masked()))
	case p.Addr().BitLen()-p.Bits() < 2:
		f.fail(name, "holds no addresses for deckies: give a larger one")
	}
	return p
}

func (f *fields) addr(name string) (a netip.Addr) {
	raw, ok := f.take(name)
	if !ok {
		return a
	}
	var s string
	if !f.check(name, unmarshal(raw, &s), "give a string") {
		return a
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		f.fail(name, "give an IP address, for example 10.0.0.2")
	}
	return a
}

// unmarshal refuses null, which encoding/json takes for "leave as it is".
func unmarshal(raw json.RawMessage, into any) error {
	if bytes.Equal(bytes.TrimSpace(raw), []byte("null")) {
		return errors.New("null")
	}
	return json.Unmarshal(raw, into)
}
