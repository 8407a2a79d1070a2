package api

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"topostream/stream"
)

const (
	// maxGraph is how many LANs, and how many deckies, a topology may begin with: they are made in one transaction.
	maxGraph = 1000
	// maxReason is the longest reason in characters.
	maxReason = 4000
)

// parseNewMutation reads the body of a request for a mutation strictly; what is wrong with it is a *stream.FieldError.
func parseNewMutation(body []byte) (stream.NewMutation, error) {
	o, err := newBody(body)
	if err != nil {
		return stream.NewMutation{}, err
	}
	m := stream.NewMutation{Op: o.Text("op"), ExpectedVersion: count(o, "expected_version")}
	payload, ok := o.Take("payload")
	if !ok {
		o.Fail("payload", "is missing: give a JSON object")
	}
	if err := o.Close(); err != nil {
		return stream.NewMutation{}, err
	}
	m.Payload = payload
	op, err := stream.ParseOp(m.Op, payload)
	if err != nil {
		return stream.NewMutation{}, err
	}
	for path, name := range stream.NewNames("payload", op) {
		if err := checkName(path, name); err != nil {
			return stream.NewMutation{}, err
		}
	}
	return m, nil
}

// parseStatusChange reads the body of a request for another status strictly; what is wrong with it is a
// *stream.FieldError.
func parseStatusChange(body []byte) (stream.StatusChange, error) {
	o, err := newBody(body)
	if err != nil {
		return stream.StatusChange{}, err
	}
	c := stream.StatusChange{Status: o.Text("status"), Reason: reason(o, "reason")}
	statuses := stream.Statuses()
	if !slices.Contains(statuses, c.Status) {
		o.Fail("status", fmt.Sprintf("%.80q is no status: use one of %s", c.Status, strings.Join(statuses, ", ")))
	}
	return c, o.Close()
}

// parseNewTopology reads the body of a request for a topology strictly; what is wrong with it is a *stream.FieldError.
func parseNewTopology(body []byte) (stream.NewTopology, error) {
	o, err := newBody(body)
	if err != nil {
		return stream.NewTopology{}, err
	}
	t := stream.NewTopology{
		Name:    o.NewName("name"),
		LANs:    payloadsOf[stream.AddLAN](o, "lans", stream.OpAddLAN),
		Deckies: payloadsOf[stream.AddDecky](o, "deckies", stream.OpAddDecky),
	}
	checkNames(o, t)
	lans, deckies := map[string]int{}, map[string]int{}
	for i, lan := range t.LANs {
		if before, ok := lans[lan.Name]; ok {
			o.Fail(fmt.Sprintf("lans[%d].name", i), fmt.Sprintf("lans[%d] has that name: choose another", before))
		}
		lans[lan.Name] = i
	}
	for i, decky := range t.Deckies {
		if before, ok := deckies[decky.Name]; ok {
			o.Fail(fmt.Sprintf("deckies[%d].name", i), fmt.Sprintf("deckies[%d] has that name: choose another", before))
		}
		if _, ok := lans[decky.LAN]; !ok {
			o.Fail(fmt.Sprintf("deckies[%d].lan", i), "none of lans has that name: add one")
		}
		deckies[decky.Name] = i
	}
	return t, o.Close()
}

func checkNames(o *stream.Object, t stream.NewTopology) {
	check := func(path, name string) {
		if err := checkName(path, name); err != nil {
			o.FailWith(err)
		}
	}
	check("name", t.Name)
	for i, lan := range t.LANs {
		check(fmt.Sprintf("lans[%d].name", i), lan.Name)
	}
	for i, decky := range t.Deckies {
		check(fmt.Sprintf("deckies[%d].name", i), decky.Name)
	}
}

// checkName refuses names that look like another one but differ from it in the database: with invisible characters, or
// in another Unicode form than NFC. What is wrong is a *stream.FieldError.
func checkName(path, name string) error {
	for _, c := range name {
		if unicode.Is(unicode.Cf, c) || unicode.Is(unicode.Bidi_Control, c) {
			return &stream.FieldError{Field: path, Problem: fmt.Sprintf("has U+%04X, which nobody sees: leave it out", c)}
		}
	}
	if !norm.NFC.IsNormalString(name) {
		return &stream.FieldError{Field: path, Problem: fmt.Sprintf("is not in Unicode's normal form C: give %q",
			norm.NFC.String(name))}
	}
	return nil
}

// payloadsOf reads an array of payloads of one op.
func payloadsOf[T any](o *stream.Object, name, op string) []T {
	var payloads []json.RawMessage
	if !o.Into(name, &payloads, "give an array of objects") {
		return nil
	}
	if len(payloads) > maxGraph {
		o.Fail(name, fmt.Sprintf("give at most %d, and add the others by mutations", maxGraph))
		return nil
	}
	read := make([]T, 0, len(payloads))
	for i, payload := range payloads {
		v, err := stream.ParseOpAt(o.At(fmt.Sprintf("%s[%d]", name, i)), op, payload)
		if err != nil {
			o.FailWith(err)
			break
		}
		read = append(read, v.(T)) //nolint:forcetypeassert // the type of op's payload
	}
	return read
}

// reason is an optional text or null.
func reason(o *stream.Object, name string) (s *string) {
	raw, ok := o.Take(name)
	switch {
	case !ok:
	case json.Unmarshal(raw, &s) != nil:
		o.Fail(name, "give a string or null")
	case s != nil && utf8.RuneCountInString(*s) > maxReason:
		o.Fail(name, fmt.Sprintf("give at most %d characters", maxReason))
	case s != nil && strings.ContainsFunc(*s, isHostile):
		o.Fail(name, "has control characters, which terminals obey: remove them (lines may end)")
	}
	return s
}

// isHostile knows the control characters that no text needs.
func isHostile(c rune) bool { return unicode.IsControl(c) && c != '\n' && c != '\t' }

// count is an optional whole number from 0.
func count(o *stream.Object, name string) *int64 {
	var n int64
	if !o.Into(name, &n, "give a whole number") {
		return nil
	}
	if n < 0 {
		o.Fail(name, "give a number from 0")
	}
	return &n
}

// newBody reads a body that must be one JSON object.
func newBody(body []byte) (*stream.Object, error) {
	if err := checkJSON(body); err != nil {
		return nil, err
	}
	return stream.NewObject("", body), nil
}

func refused(field, problem string, args ...any) error {
	return &stream.FieldError{Field: field, Problem: fmt.Sprintf(problem, args...)}
}
