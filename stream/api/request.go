package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
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
		o.Fail("payload", "is missing")
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

// checkName refuses names that look like others, which the database does not: with characters that nobody sees, and in
// another form than NFC. What is wrong is a *stream.FieldError.
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

// maxDepth is how deep the values of a body may be nested.
const maxDepth = 64

func refused(field, problem string, args ...any) error {
	return &stream.FieldError{Field: field, Problem: fmt.Sprintf(problem, args...)}
}

// checkJSON refuses a body that encoding/json would take but readers may understand differently (names given twice:
// RFC 8259, section 4), and what PostgreSQL's jsonb does not store: the character U+0000, half a surrogate pair,
// numbers that only look short.
func checkJSON(body []byte) error {
	if !utf8.Valid(body) {
		return refused("body", "is not UTF-8")
	}
	var (
		raw    json.RawMessage
		syntax *json.SyntaxError
	)
	if err := json.Unmarshal(body, &raw); errors.As(err, &syntax) {
		return refused("body", "is not one JSON value: %s (at byte %d)", syntax, syntax.Offset)
	}
	if !bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("{")) {
		return refused("body", "give a JSON object")
	}
	w := jsonWalk{body, json.NewDecoder(bytes.NewReader(body))}
	w.decoder.UseNumber()
	return w.value("", 0)
}

// A jsonWalk goes once through a text that is valid JSON.
type jsonWalk struct {
	body    []byte
	decoder *json.Decoder
}

// next gives a token and its text, with the white space and separators before it.
func (w *jsonWalk) next() (token json.Token, text []byte) {
	before := w.decoder.InputOffset()
	token, err := w.decoder.Token()
	if err != nil {
		panic(err) // the text is valid
	}
	return token, w.body[before:w.decoder.InputOffset()]
}

func (w *jsonWalk) value(path string, depth int) error {
	if depth > maxDepth {
		return refused(path, "is nested deeper than %d levels", maxDepth)
	}
	token, text := w.next()
	switch token := token.(type) {
	case json.Delim:
		if token == '{' {
			return w.object(path, depth)
		}
		return w.array(path, depth)
	case string:
		return checkString(path, text)
	case json.Number:
		return checkNumber(path, token.String())
	}
	return nil
}

func (w *jsonWalk) object(path string, depth int) error {
	seen := map[string]struct{}{}
	for w.decoder.More() {
		token, text := w.next()
		name := token.(string) //nolint:forcetypeassert // of valid JSON
		at := stream.JoinPath(path, name)
		if _, ok := seen[name]; ok {
			return refused(at, "is given twice: remove one")
		}
		seen[name] = struct{}{}
		if err := checkString(at, text); err != nil {
			return err
		}
		if err := w.value(at, depth+1); err != nil {
			return err
		}
	}
	w.next()
	return nil
}

func (w *jsonWalk) array(path string, depth int) error {
	for i := 0; w.decoder.More(); i++ {
		if err := w.value(fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return err
		}
	}
	w.next()
	return nil
}

func checkString(path string, text []byte) error {
	for i := bytes.IndexByte(text, '\\'); i >= 0 && i < len(text); i++ {
		if text[i] != '\\' {
			continue
		}
		switch code := escaped(text[i:]); {
		case code == 0:
			return refused(path, `holds the character \u0000, which PostgreSQL cannot store: remove it`)
		case code >= 0xd800 && code < 0xdc00 && isLowSurrogate(escaped(text[i+6:])):
			i += 11
		case code >= 0xd800 && code < 0xe000:
			return refused(path, `holds half of a surrogate pair, \u%04x: give the other half, too`, code)
		default:
			i++
		}
	}
	return nil
}

// escaped gives the code unit of a \uXXXX at the beginning of text, -1 if there is none.
func escaped(text []byte) int64 {
	if len(text) < 6 || text[0] != '\\' || text[1] != 'u' {
		return -1
	}
	code, err := strconv.ParseInt(string(text[2:6]), 16, 32)
	if err != nil {
		return -1
	}
	return code
}

func isLowSurrogate(code int64) bool { return code >= 0xdc00 && code < 0xe000 }

// checkNumber keeps to what a double holds, so that a few bytes do not become a hundred thousand digits in
// PostgreSQL's numeric.
func checkNumber(path, number string) error {
	v, err := strconv.ParseFloat(number, 64)
	mantissa, _, _ := strings.Cut(strings.ToLower(number), "e")
	if err != nil || v == 0 && strings.ContainsAny(mantissa, "123456789") {
		return refused(path, "is no number that a double can hold: give a smaller or a rounder one")
	}
	return nil
}
