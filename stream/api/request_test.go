package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"topostream/stream"
)

// A bodyCase is a body with what is said about it.
type bodyCase struct{ body, want string }

// enqueueBodies are bodies for a mutation with what is said about them; empty: they are good.
func enqueueBodies() []bodyCase {
	return []bodyCase{
		{`{"op":"add_lan","payload":{"name":"a"}}`, ""},
		{`{"op":"add_lan","payload":{"name":"a","subnet":"10.0.0.0/24","is_dmz":true,"x":1,"y":-2.5}}`, ""},
		{` {"op":"remove_lan","payload":{"name":"\ud83d\ude00"},"expected_version":0} `, ""},
		{`{"op":"update_lan","payload":{"name":"a","patch":{"name":"b","x":1}}}`, ""},
		{`{"op":"add_decky","payload":{"name":"a","lan":"b","services":["ssh"],"ip":"10.0.0.2"}}`, ""},
		{`{"op":"attach_decky","payload":{"decky":"a","lan":"b","forwards_l3":true}}`, ""},
		{`{"op":"detach_decky","payload":{"decky":"a","lan":"b"}}`, ""},
		{`{"op":"remove_decky","payload":{"decky":"a"}}`, ""},
		{`{"op":"update_decky","payload":{"decky":"a","patch":{"a":[1e300,null,{"b":"\\u0000"}]},"force":true}}`, ""},

		{``, "body: is not one JSON value: unexpected end of JSON input (at byte 0)"},
		{`{`, "body: is not one JSON value"},
		{`nul`, "body: is not one JSON value"},
		{`null`, "body: give a JSON object"},
		{`[]`, "body: give a JSON object"},
		{`{} {}`, "body: is not one JSON value: invalid character '{' after top-level value (at byte 4)"},
		{`{"op":"remove_lan"}}`, "body: is not one JSON value: invalid character '}' after"},
		{"{\"op\":\"\xff\"}", "body: is not UTF-8"},
		{`{}`, "op: is missing: give a string"},
		{`{"op":"add_lan"}`, "payload: is missing: give a JSON object"},
		{`{"op":1,"payload":{}}`, "op: give a string"},
		{`{"op":null,"payload":{}}`, "op: give a string"},
		{`{"op":"explode","payload":1}`, `op: "explode" is no op: use one of add_decky, add_lan, attach_decky,`},
		{`{"Op":"add_lan","payload":{}}`, "op: is missing: give a string"},
		{`{"op":"add_lan","payload":[]}`, "payload: give a JSON object"},
		{`{"op":"add_lan","payload":null}`, "payload: give a JSON object"},
		{`{"op":"add_lan","payload":{}}`, "payload.name: is missing"},
		{`{"op":"add_lan","payload":{"name":""}}`, "payload.name: give 1 to 200 characters"},
		{`{"op":"add_lan","payload":{"name":7}}`, "payload.name: give a string"},
		{`{"op":"add_lan","payload":{"name":"a\u200d"}}`, "payload.name: has U+200D, which nobody sees: leave it out"},
		{`{"op":"update_lan","payload":{"name":"a","patch":{"name":"\u202e"}}}`, "payload.patch.name: has U+202E"},
		{`{"op":"changeset","payload":{"ops":[{"op":"add_lan","payload":{"name":"\u0041\u030a"}}]}}`,
			"payload.ops[0].payload.name: is not in Unicode's normal form C"},
		{`{"op":"add_lan","payload":{"name":"a","color":"red"}}`, "payload.color: is no field of this object: remove it"},
		{`{"op":"add_lan","payload":{"name":"a","subnet":"10.0.0.1/24"}}`,
			"payload.subnet: has bits set behind its mask: give 10.0.0.0/24"},
		{`{"op":"add_lan","payload":{"name":"a","x":1e999}}`, "payload.x: is no number that a double can hold"},
		{`{"op":"add_lan","payload":{"name":"a"},"extra":1}`, "extra: is no field of this object: remove it"},
		{`{"op":"add_lan","payload":{"name":"a"},"op":"remove_lan"}`, "op: is given twice: remove one"},
		{`{"op":"add_lan","payload":{"name":"a","n\u0061me":"b"}}`, "payload.name: is given twice"},
		{`{"op":"add_lan","payload":{"name":"a","":1}}`, `payload."": is no field of this object`},
		{`{"op":"add_lan","payload":{"name":"a\u0000"}}`, `payload.name: holds the character \u0000`},
		{`{"op":"add_decky","payload":{"name":"a","lan":"b","services":["c","\ud800"]}}`,
			`payload.services[1]: holds half of a surrogate pair, \ud800`},
		{`{"op":"add_decky","payload":{"name":"a","lan":"\udc00\ud800"}}`,
			`payload.lan: holds half of a surrogate pair, \udc00`},
		{`{"op":"add_decky","payload":{"name":"a","lan":"\ud800\ud800\udc00"}}`,
			`payload.lan: holds half of a surrogate pair, \ud800`},
		{`{"op":"update_decky","payload":{"decky":"a","patch":{"a":{"\u0000":1}}}}`,
			"payload.patch.a.\x00: holds the character"},
		{`{"op":"update_decky","payload":{"decky":"a","patch":{"a":1e-99999}}}`, "payload.patch.a: is no number"},
		{`{"op":"update_lan","payload":{"name":"a","subnet":"10.0.0.0/24"}}`,
			"payload.subnet: cannot be changed while the topology is live"},
		{`{"op":"add_lan","payload":{"name":"a"},"expected_version":-1}`, "expected_version: give a number from 0"},
		{`{"op":"add_lan","payload":{"name":"a"},"expected_version":1.5}`, "expected_version: give a whole number"},
		{`{"op":"add_lan","payload":{"name":"a"},"expected_version":"1"}`, "expected_version: give a whole number"},
		{`{"op":"add_lan","payload":{"name":"a"},"expected_version":null}`, "expected_version: give a whole number"},
		{`{"op":"add_lan","payload":{"name":"a"},"expected_version":99999999999999999999}`,
			"expected_version: give a whole number"},
		{`{"op":"add_lan","payload":` + strings.Repeat(`[`, 70) + strings.Repeat(`]`, 70) + `}`,
			"is nested deeper than 64 levels"},
		{`{"op":"add_lan","payload":{"name":"a","` + strings.Repeat(`y`, 1000) + `":1}}`,
			"payload." + strings.Repeat("y", 80) + "…: is no field"},
		{`{"op":"add_lan","payload":` + strings.Repeat(`[`, 1e5) + strings.Repeat(`]`, 1e5) + `}`,
			"exceeded max depth (at byte 10026)"},
	}
}

func TestABodyThatIsNotAMutationIsRefusedByTheNameOfTheFieldAndTheFix(t *testing.T) {
	t.Parallel()
	for _, c := range enqueueBodies() {
		_, err := parseNewMutation([]byte(c.body))
		says(t, c.body, err, c.want)
	}
}

// says fails unless err is a FieldError whose text holds want, or nil if that is empty.
func says(t *testing.T, body string, err error, want string) {
	t.Helper()
	if want == "" {
		if err != nil {
			t.Errorf("%.200s: %v", body, err)
		}
		return
	}
	if _, ok := errors.AsType[*stream.FieldError](err); !ok || !strings.Contains(err.Error(), want) {
		t.Errorf("%.200s: %v, want %q", body, err, want)
	}
}

func TestABodyThatIsNotATopologyIsRefusedByTheNameOfTheFieldAndTheFix(t *testing.T) {
	t.Parallel()
	many := strings.Repeat(`{"name":"a"},`, 1000) + `{"name":"a"}`
	for _, c := range []bodyCase{
		{`{"name":"a"}`, ""},
		{`{"name":"a","lans":[],"deckies":[]}`, ""},
		{`{"name":"a","lans":[{"name":"x"}],"deckies":[{"name":"x","lan":"x"}]}`, ""},
		{`{}`, "name: is missing"},
		{`{"name":""}`, "name: give 1 to 200 characters"},
		{`{"name":"a\n"}`, "name: has a control character: leave it out"},
		{`{"name":"` + strings.Repeat("ä", 201) + `"}`, "name: give 1 to 200 characters"},
		{`{"name":"` + strings.Repeat("ä", 200) + `"}`, ""},
		{`{"name":["a"]}`, "name: give a string"},
		{`{"name":"a "}`, "name: begins or ends with a space: leave it out"},
		{`{"name":"a\u200bb"}`, "name: has U+200B, which nobody sees: leave it out"},
		{`{"name":"\u202Ea"}`, "name: has U+202E, which nobody sees: leave it out"},
		{`{"name":"a\u0308"}`, `name: is not in Unicode's normal form C: give "ä"`},
		{`{"name":"a","lans":[{"name":"x"},{"name":"\u200e"}]}`, "lans[1].name: has U+200E"},
		{`{"name":"a","lans":[{"name":"x"}],"deckies":[{"name":"\u2066","lan":"x"}]}`, "deckies[0].name: has U+2066"},
		{`{"name":"a","status":"active"}`, "status: is no field of this object: remove it"},
		{`{"name":"a","lans":{}}`, "lans: give an array of objects"},
		{`{"name":"a","lans":null}`, "lans: give an array of objects"},
		{`{"name":"a","lans":[1]}`, "lans[0]: give a JSON object"},
		{`{"name":"a","lans":[{"name":"x"},{"name":"y","z":1}]}`, "lans[1].z: is no field of this object"},
		{`{"name":"a","lans":[{"name":"x"},{"name":"x"}]}`, "lans[1].name: lans[0] has that name: choose another"},
		{`{"name":"a","lans":[` + many + `]}`, "lans: give at most 1000, and add the others by mutations"},
		{`{"name":"a","deckies":[{"name":"x"}]}`, "deckies[0].lan: is missing"},
		{`{"name":"a","deckies":[{"name":"x","lan":"y"}]}`, "deckies[0].lan: none of lans has that name: add one"},
		{`{"name":"a","lans":[{"name":"l"}],"deckies":[{"name":"x","lan":"l"},{"name":"x","lan":"l"}]}`,
			"deckies[1].name: deckies[0] has that name"},
	} {
		_, err := parseNewTopology([]byte(c.body))
		says(t, c.body, err, c.want)
	}
}

func TestABodyThatIsNotAStatusIsRefusedByTheNameOfTheFieldAndTheFix(t *testing.T) {
	t.Parallel()
	for _, c := range []bodyCase{
		{`{"status":"active"}`, ""},
		{`{"status":"degraded","reason":"a\nb"}`, ""},
		{`{"status":"active","reason":null}`, ""},
		{`{}`, "status: is missing"},
		{`{"reason":"x"}`, "status: is missing"},
		{`{"status":true}`, "status: give a string"},
		{`{"status":"odd"}`, `status: "odd" is no status: use one of pending, deploying, active`},
		{`{"status":"active","reason":1}`, "reason: give a string or null"},
		{`{"status":"active","reason":"` + strings.Repeat("ä", 4001) + `"}`, "reason: give at most 4000 characters"},
		{`{"status":"active","version":1}`, "version: is no field of this object"},
	} {
		_, err := parseStatusChange([]byte(c.body))
		says(t, c.body, err, c.want)
	}
}

// FuzzEnqueueBody: whatever the bytes, a body is either refused by a FieldError that says something, or its payload
// is one that ParseOp takes, again and again, also when PostgreSQL gives it back.
func FuzzEnqueueBody(f *testing.F) {
	for _, c := range enqueueBodies() {
		f.Add([]byte(c.body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		m, err := parseNewMutation(body)
		if err != nil {
			named(t, err)
			return
		}
		if !json.Valid(body) {
			t.Errorf("%q is taken for JSON", body)
		}
		first, err := stream.ParseOp(m.Op, m.Payload)
		if err != nil {
			t.Fatal(err)
		}
		var stored any
		if err := json.Unmarshal(m.Payload, &stored); err != nil {
			t.Fatal(err)
		}
		again, err := json.Marshal(stored)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.ParseOp(m.Op, again); err != nil {
			t.Errorf("%q was taken, and is refused when it is read back: %v", m.Payload, err)
		}
		if fmt.Sprintf("%T", first) == "<nil>" {
			t.Errorf("%q is no op", m.Payload)
		}
	})
}

func named(t *testing.T, err error) {
	t.Helper()
	field, ok := errors.AsType[*stream.FieldError](err)
	if !ok || field.Field == "" || field.Problem == "" {
		t.Errorf("%#v names nothing", err)
	}
}
