package stream

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// An Object reads a JSON object strictly, field by field, and keeps the first error, a *FieldError. encoding/json alone
// would take "Name" for name and say nothing of where a wrong type is.
//
// A method named for a type takes the field out and gives its value, the zero value where that is missing or wrong.
type Object struct {
	path string
	left map[string]json.RawMessage
	err  error
}

// NewObject makes one of an object that is found at a path, empty for what stands by itself.
func NewObject(path string, raw json.RawMessage) *Object {
	o := &Object{path: path}
	if err := json.Unmarshal(raw, &o.left); err != nil || o.left == nil {
		o.err = &FieldError{path, "give a JSON object"}
	}
	return o
}

// Err is the first error so far.
func (o *Object) Err() error { return o.err }

// Fail says what is wrong with a field, unless something was wrong before.
func (o *Object) Fail(name, problem string) {
	o.FailWith(&FieldError{o.At(name), problem})
}

// FailWith keeps an error of something within the object, unless something was wrong before.
func (o *Object) FailWith(err error) {
	if o.err == nil {
		o.err = err
	}
}

// At is the path of a field.
func (o *Object) At(name string) string { return JoinPath(o.path, name) }

// Has tells whether a field is there and was not taken yet.
func (o *Object) Has(name string) bool { _, ok := o.left[name]; return ok }

// Take gives a field's value and takes it out: what is taken is known.
func (o *Object) Take(name string) (json.RawMessage, bool) {
	raw, ok := o.left[name]
	delete(o.left, name)
	return raw, ok
}

// Into takes a field that may be missing into what v points to, and tells whether it was there and right. Otherwise
// problem says what it must be; null is wrong.
func (o *Object) Into(name string, v any, problem string) bool {
	raw, ok := o.Take(name)
	if !ok {
		return false
	}
	if isNull(raw) || json.Unmarshal(raw, v) != nil {
		o.Fail(name, problem)
		return false
	}
	return true
}

// Close gives the first error: a wrong field, or else an unknown one.
func (o *Object) Close() error {
	if o.err == nil && len(o.left) > 0 {
		o.Fail(slices.Min(slices.Collect(maps.Keys(o.left))), "is no field of this object: remove it")
	}
	return o.err
}

// Text is a required string of any content.
func (o *Object) Text(name string) (s string) {
	const problem = "give a string"
	if !o.Has(name) {
		o.Fail(name, "is missing: "+problem)
	}
	o.Into(name, &s, problem)
	return s
}

// Name is the required name of something that is there. It may be older than the rules for new names.
func (o *Object) Name(name string) string {
	s := o.Text(name)
	if o.err == nil && (s == "" || len([]rune(s)) > maxName || strings.Contains(s, "\x00")) {
		o.Fail(name, fmt.Sprintf("give 1 to %d characters", maxName))
	}
	return s
}

// NewName is the required name of something that is made or renamed.
func (o *Object) NewName(name string) string {
	s := o.Name(name)
	switch {
	case o.err != nil:
	case strings.ContainsFunc(s, unicode.IsControl):
		o.Fail(name, "has a control character: leave it out")
	case strings.TrimSpace(s) != s:
		o.Fail(name, "begins or ends with a space: leave it out")
	}
	return s
}

func (o *Object) optionalName(name string) string {
	if o.Has(name) {
		return o.Name(name)
	}
	return ""
}

func (o *Object) flag(name string) (b bool) {
	o.Into(name, &b, "give true or false")
	return b
}

func (o *Object) number(name string) *float64 {
	var n float64
	if !o.Into(name, &n, "give a number") {
		return nil
	}
	return &n
}

// words is an array of names; nil when the field is absent.
func (o *Object) words(name string) []string {
	words := []string{}
	if !o.Into(name, &words, "give an array of strings") {
		return nil
	}
	for i, w := range words {
		if w == "" || len([]rune(w)) > maxName {
			o.Fail(fmt.Sprintf("%s[%d]", name, i), fmt.Sprintf("give 1 to %d characters", maxName))
		}
		if strings.ContainsFunc(w, unicode.IsControl) {
			o.Fail(fmt.Sprintf("%s[%d]", name, i), "has control characters: remove them")
		}
	}
	return words
}

func (o *Object) prefix(name string) (p netip.Prefix) {
	var s string
	if !o.Into(name, &s, "give a string") {
		return p
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil:
		o.Fail(name, "give a subnet, for example 10.0.0.0/24")
	case p != p.Masked():
		o.Fail(name, fmt.Sprintf("has bits set behind its mask: give %s", p.Masked()))
	case p.Addr().Is4() && (p.Bits() < 8 || p.Bits() > 30), p.Addr().Is6() && (p.Bits() < 32 || p.Bits() > 126):
		o.Fail(name, "give a network of /8 to /30 (IPv4) or /32 to /126 (IPv6)")
	default:
		for _, taken := range noHosts() {
			if p.Overlaps(netip.MustParsePrefix(taken)) {
				o.Fail(name,
					fmt.Sprintf("is in %s, which no LAN can have: give a network of hosts, for example 10.0.0.0/24", taken))
			}
		}
	}
	return p
}

// noHosts are networks whose addresses no host has (RFC 6890); IPv4-mapped IPv6 is in ::/16.
func noHosts() []string {
	return []string{"0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/16", "ff00::/8"}
}

func (o *Object) addr(name string) (a netip.Addr) {
	var s string
	if !o.Into(name, &s, "give a string") {
		return a
	}
	a, err := netip.ParseAddr(s)
	if err != nil || a.Zone() != "" {
		o.Fail(name, "give an IP address, for example 10.0.0.2")
	}
	return a
}

// object is an object of any fields.
func (o *Object) object(name string) (fields map[string]json.RawMessage) {
	o.Into(name, &fields, "give an object")
	return fields
}

// isNull tells whether raw is null, which encoding/json takes for "leave as it is".
func isNull(raw json.RawMessage) bool { return bytes.Equal(bytes.TrimSpace(raw), []byte("null")) }

// JoinPath adds a name, shortened for people, to a path.
func JoinPath(path, name string) string {
	if short := fmt.Sprintf("%.80s", name); short != name {
		name = short + "…"
	}
	if name == "" {
		name = `""`
	}
	if path == "" {
		return name
	}
	return path + "." + name
}
