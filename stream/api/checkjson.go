package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"topostream/stream"
)

// maxDepth is how deep the values of a body may be nested.
const maxDepth = 64

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
