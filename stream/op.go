package stream

import (
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strings"
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
	OpChangeset   = "changeset"
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

// Changeset makes several edits as one: each is one of the types above.
type Changeset struct{ Ops []any }

// maxChangeset is how many edits a changeset holds at most.
const maxChangeset = 100

// A FieldError says what is wrong with one field of what somebody sent, and the fix.
type FieldError struct {
	Field   string // as a path: payload.patch.name
	Problem string
}

func (e *FieldError) Error() string { return e.Field + ": " + e.Problem }

// maxName is the longest name of a LAN or decky in characters.
const maxName = 200

// ParseOp reads the payload of a mutation strictly: unknown fields, wrong types and trailing bytes are a *FieldError
// that names the field below "payload". It gives one of the payload types above, by value.
func ParseOp(op string, payload json.RawMessage) (any, error) {
	return ParseOpAt("payload", op, payload)
}

// ParseOpAt is ParseOp for a payload that is found at another path.
func ParseOpAt(path, op string, payload json.RawMessage) (any, error) {
	read, ok := payloads()[op]
	if !ok {
		return nil, &FieldError{"op", noOp(op, Ops())}
	}
	o := NewObject(path, payload)
	v := read(o)
	return v, o.Close()
}

func noOp(op string, ops []string) string {
	return fmt.Sprintf("%.80q is no op: use one of %s", op, strings.Join(ops, ", "))
}

// Ops are all ops, sorted.
func Ops() []string { return slices.Sorted(maps.Keys(payloads())) }

func payloads() map[string]func(*Object) any {
	return map[string]func(*Object) any{
		OpAddLAN: func(o *Object) any {
			return AddLAN{o.NewName("name"), o.prefix("subnet"), o.flag("is_dmz"), o.number("x"), o.number("y")}
		},
		OpRemoveLAN: func(o *Object) any { return RemoveLAN{o.Name("name")} },
		OpUpdateLAN: readUpdateLAN,
		OpAddDecky: func(o *Object) any {
			return AddDecky{
				Name: o.NewName("name"), LAN: o.Name("lan"), Services: o.words("services"), Archetype: o.optionalName("archetype"),
				ForwardsL3: o.flag("forwards_l3"), IP: o.addr("ip"), X: o.number("x"), Y: o.number("y"),
			}
		},
		OpAttachDecky: func(o *Object) any {
			return AttachDecky{o.Name("decky"), o.Name("lan"), o.addr("ip"), o.flag("forwards_l3")}
		},
		OpDetachDecky: func(o *Object) any { return DetachDecky{o.Name("decky"), o.Name("lan")} },
		OpRemoveDecky: func(o *Object) any { return RemoveDecky{o.Name("decky")} },
		OpUpdateDecky: readUpdateDecky,
		OpChangeset:   readChangeset,
	}
}

func readUpdateLAN(o *Object) any {
	u := UpdateLAN{Name: o.Name("name"), X: o.number("x"), Y: o.number("y")}
	raw, ok := o.Take("patch")
	if !ok {
		refuseFixed(o)
		return u
	}
	if u.X != nil || u.Y != nil {
		o.Fail("patch", "give x and y in it or beside it, not both")
	}
	patch := NewObject(o.At("patch"), raw)
	if patch.Has("name") {
		name := patch.NewName("name")
		u.NewName = &name
	}
	u.X, u.Y = patch.number("x"), patch.number("y")
	refuseFixed(patch)
	if err := patch.Close(); err != nil {
		o.FailWith(err)
	}
	return u
}

// refuseFixed says of what cannot be changed why it cannot, which is more than that it is unknown.
func refuseFixed(o *Object) {
	for _, fixed := range []string{"subnet", "is_dmz"} {
		if _, ok := o.Take(fixed); ok {
			o.Fail(fixed, "cannot be changed while the topology is live: remove the LAN and add another")
		}
	}
}

func readUpdateDecky(o *Object) any {
	u := UpdateDecky{
		Decky: o.Name("decky"), Patch: o.object("patch"), Services: o.words("services"),
		X: o.number("x"), Y: o.number("y"), Force: o.flag("force"),
	}
	if raw, ok := u.Patch["decky_config"]; ok { // who patches the column means what is in it
		var nested map[string]json.RawMessage
		if json.Unmarshal(raw, &nested) != nil || nested == nil {
			o.Fail("patch.decky_config", "give an object")
		}
		delete(u.Patch, "decky_config")
		maps.Copy(u.Patch, nested)
	}
	if raw, ok := u.Patch["forwards_l3"]; ok {
		var flag *bool // null removes it
		if json.Unmarshal(raw, &flag) != nil {
			o.Fail("patch.forwards_l3", "give true or false")
		}
	}
	return u
}

func readChangeset(o *Object) any {
	var (
		set Changeset
		ops []json.RawMessage
	)
	problem := fmt.Sprintf("give an array of 1 to %d objects of op and payload", maxChangeset)
	if !o.Has("ops") {
		o.Fail("ops", "is missing: "+problem)
	}
	if o.Into("ops", &ops, problem) && (len(ops) < 1 || len(ops) > maxChangeset) {
		o.Fail("ops", fmt.Sprintf("holds %d: %s", len(ops), problem))
	}
	for i, raw := range ops {
		if o.Err() != nil {
			break
		}
		one := NewObject(o.At(fmt.Sprintf("ops[%d]", i)), raw)
		set.Ops = append(set.Ops, readOneOf(one))
		if err := one.Close(); err != nil {
			o.FailWith(err)
		}
	}
	return set
}

// readOneOf reads an edit of a changeset.
func readOneOf(o *Object) any {
	op := o.Text("op")
	payload, ok := o.Take("payload")
	if !ok {
		o.Fail("payload", "is missing: give a JSON object")
	}
	simple := payloads()
	delete(simple, OpChangeset)
	if simple[op] == nil {
		o.Fail("op", noOp(op, slices.Sorted(maps.Keys(simple))))
	}
	if o.Err() != nil {
		return nil
	}
	v, err := ParseOpAt(o.At("payload"), op, payload)
	if err != nil {
		o.FailWith(err)
	}
	return v
}

// NewNames gives the names that an op gives to what it makes or renames, each after its path below path.
func NewNames(path string, op any) iter.Seq2[string, string] {
	return func(yield func(path, name string) bool) {
		switch op := op.(type) {
		case AddLAN:
			yield(JoinPath(path, "name"), op.Name)
		case AddDecky:
			yield(JoinPath(path, "name"), op.Name)
		case UpdateLAN:
			if op.NewName != nil {
				yield(JoinPath(path, "patch.name"), *op.NewName)
			}
		case Changeset:
			for i, one := range op.Ops {
				for at, name := range NewNames(JoinPath(path, fmt.Sprintf("ops[%d].payload", i)), one) {
					if !yield(at, name) {
						return
					}
				}
			}
		}
	}
}
