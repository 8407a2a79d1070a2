package stream_test

import (
	"encoding/json"
	"errors"
	"iter"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"topostream/stream"
)

// A rightPayload is one with what it is read as.
type rightPayload struct {
	op, payload string
	want        any
}

// rightPayloads are some of each op.
func rightPayloads() []rightPayload {
	one, minus, name := 1.0, -2.5, "b"
	return []rightPayload{
		{"add_lan", `{"name":"a"}`, stream.AddLAN{Name: "a"}},
		{"add_lan", `{"name":"a","subnet":"10.0.0.0/30","is_dmz":true,"x":1,"y":-2.5}`,
			stream.AddLAN{"a", netip.MustParsePrefix("10.0.0.0/30"), true, &one, &minus}},
		{"remove_lan", `{"name":"` + strings.Repeat("ä", 200) + `"}`, stream.RemoveLAN{strings.Repeat("ä", 200)}},
		{"update_lan", `{"name":"a","x":1,"y":-2.5}`, stream.UpdateLAN{"a", nil, &one, &minus}},
		{"update_lan", `{"name":"a","patch":{"name":"b","y":1}}`, stream.UpdateLAN{"a", &name, nil, &one}},
		{"add_decky", `{"name":"a","lan":"b"}`, stream.AddDecky{Name: "a", LAN: "b"}},
		{"add_decky", `{"name":"a","lan":"b","services":["` + strings.Repeat("ä", 200) + `"]}`,
			stream.AddDecky{Name: "a", LAN: "b", Services: []string{strings.Repeat("ä", 200)}}},
		{"add_decky", `{"name":"a","lan":"b","services":["c"],"archetype":"d","forwards_l3":true,"ip":"10.0.0.2","x":1}`,
			stream.AddDecky{"a", "b", []string{"c"}, "d", true, netip.MustParseAddr("10.0.0.2"), &one, nil}},
		{"attach_decky", `{"decky":"a","lan":"b","ip":"::1","forwards_l3":true}`,
			stream.AttachDecky{"a", "b", netip.MustParseAddr("::1"), true}},
		{"detach_decky", `{"decky":"a","lan":"b"}`, stream.DetachDecky{"a", "b"}},
		{"remove_decky", `{"decky":"a"}`, stream.RemoveDecky{"a"}},
		{"update_decky", `{"decky":"a","patch":{"p":null,"forwards_l3":null},"services":[],"x":1,"y":-2.5,"force":true}`,
			stream.UpdateDecky{
				"a", map[string]json.RawMessage{"p": json.RawMessage("null"), "forwards_l3": json.RawMessage("null")},
				[]string{}, &one, &minus, true,
			}},
		{"update_decky", `{"decky":"a","patch":{"decky_config":{"p":1,"q":2},"q":3,"r":4}}`, stream.UpdateDecky{
			Decky: "a", Patch: map[string]json.RawMessage{
				"p": json.RawMessage("1"), "q": json.RawMessage("2"), "r": json.RawMessage("4"),
			},
		}},
		{"remove_lan", `{"name":" old\n"}`, stream.RemoveLAN{" old\n"}}, // what is there has the name that it has
		{"changeset", `{"ops":[{"op":"add_lan","payload":{"name":"a"}},{"op":"remove_decky","payload":{"decky":"b"}}]}`,
			stream.Changeset{[]any{stream.AddLAN{Name: "a"}, stream.RemoveDecky{"b"}}}},
	}
}

func TestAPayloadIsReadAsItsOp(t *testing.T) {
	t.Parallel()
	read := map[string]bool{}
	for _, c := range rightPayloads() {
		read[c.op] = true
		got, err := stream.ParseOp(c.op, json.RawMessage(c.payload))
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s %s: %#v, %v, want %#v", c.op, c.payload, got, err, c.want)
		}
	}
	if ops := slices.Sorted(maps.Keys(read)); !slices.Equal(ops, stream.Ops()) {
		t.Errorf("there are payloads of %v, the ops are %v", ops, stream.Ops())
	}
}

// wrongPayloads are payloads of an op with what is said about each.
func wrongPayloads() map[string]map[string]string {
	long := strings.Repeat("ä", 201)
	return map[string]map[string]string{
		"explode": {`{}`: `op: "explode" is no op: use one of add_decky, add_lan, attach_decky, changeset, `},
		"add_lan": {
			``: "payload: give a JSON object", `null`: "payload: give a JSON object", `[]`: "payload: give a JSON object",
			`{} {}`: "payload: give a JSON object", `{}`: "payload.name: is missing: give a string",
			`{"Name":"a"}`:  "payload.name: is missing",
			`{"name":null}`: "payload.name: give a string", `{"name":""}`: "payload.name: give 1 to 200 characters",
			`{"name":"` + long + `"}`:                     "payload.name: give 1 to 200 characters",
			`{"name":"a\n"}`:                              "payload.name: has a control character: leave it out",
			`{"name":"a","x":"1"}`:                        "payload.x: give a number",
			`{"name":"a","x":null}`:                       "payload.x: give a number",
			`{"name":"a","is_dmz":1}`:                     "payload.is_dmz: give true or false",
			`{"name":"a","subnet":1}`:                     "payload.subnet: give a string",
			`{"name":"a","subnet":"a"}`:                   "payload.subnet: give a subnet, for example 10.0.0.0/24",
			`{"name":"a","subnet":"10.0.0.1/24"}`:         "payload.subnet: has bits set behind its mask: give 10.0.0.0/24",
			`{"name":" a"}`:                               "payload.name: begins or ends with a space: leave it out",
			`{"name":"a "}`:                               "payload.name: begins or ends with a space: leave it out",
			`{"name":"a","subnet":"10.0.0.0/31"}`:         "payload.subnet: give a network of /8 to /30",
			`{"name":"a","subnet":"10.0.0.0/7"}`:          "payload.subnet: give a network of /8 to /30",
			`{"name":"a","subnet":"2001:db8::/31"}`:       "payload.subnet: give a network of /8 to /30",
			`{"name":"a","subnet":"2001:db8::/127"}`:      "payload.subnet: give a network of /8 to /30",
			`{"name":"a","subnet":"0.1.0.0/16"}`:          "payload.subnet: is in 0.0.0.0/8, which no LAN can have",
			`{"name":"a","subnet":"127.0.0.0/8"}`:         "payload.subnet: is in 127.0.0.0/8",
			`{"name":"a","subnet":"169.254.1.0/24"}`:      "payload.subnet: is in 169.254.0.0/16",
			`{"name":"a","subnet":"224.0.0.0/8"}`:         "payload.subnet: is in 224.0.0.0/4",
			`{"name":"a","subnet":"255.255.255.0/24"}`:    "payload.subnet: is in 240.0.0.0/4",
			`{"name":"a","subnet":"::ffff:10.0.0.0/120"}`: "payload.subnet: is in ::/16",
			`{"name":"a","subnet":"ff02::/32"}`:           "payload.subnet: is in ff00::/8",
			`{"name":"a","b":1,"a":1}`:                    "payload.a: is no field of this object: remove it",
			`{"name":"a","` + long + `":1}`:               "payload." + strings.Repeat("ä", 80) + "…: is no field",
			`{"name":"a","` + long[:160] + `":1}`:         "payload." + strings.Repeat("ä", 80) + ": is no field",
			`{"name":"a","":1}`:                           `payload."": is no field`,
			`{"name":"","subnet":"a","what":"first"}`:     "payload.name: give 1 to 200 characters",
		},
		"update_lan": {
			`{"name":"a","patch":1}`:             "payload.patch: give a JSON object",
			`{"name":"a","patch":{"name":""}}`:   "payload.patch.name: give 1 to 200 characters",
			`{"name":"a","patch":{"z":1}}`:       "payload.patch.z: is no field",
			`{"name":"a","x":1,"patch":{}}`:      "payload.patch: give x and y in it or beside it, not both",
			`{"name":"a","y":1,"patch":{}}`:      "payload.patch: give x and y in it or beside it, not both",
			`{"name":"a","subnet":1}`:            "payload.subnet: cannot be changed while the topology is live",
			`{"name":"a","patch":{"is_dmz":1}}`:  "payload.patch.is_dmz: cannot be changed while the topology is live",
			`{"name":1,"patch":{"is_dmz":true}}`: "payload.name: give a string",
		},
		"add_decky": {
			`{"name":"a"}`:                                          "payload.lan: is missing: give a string",
			`{"name":"a","lan":"b","archetype":""}`:                 "payload.archetype: give 1 to 200 characters",
			`{"name":"a","lan":"b","services":1}`:                   "payload.services: give an array of strings",
			`{"name":"a","lan":"b","services":["c",""]}`:            "payload.services[1]: give 1 to 200 characters",
			`{"name":"a","lan":"b","services":["` + long + `"]}`:    "payload.services[0]: give 1 to 200 characters",
			`{"name":"a","lan":"b","ip":7}`:                         "payload.ip: give a string",
			`{"name":"a","lan":"b","ip":"fe80::1%eth0"}`:            "payload.ip: give an IP address",
			`{"name":"a","lan":"b","ip":"10.0.0.256"}`:              "payload.ip: give an IP address, for example 10.0.0.2",
			`{"name":"a","lan":"b","forwards_l3":"yes","is_dmz":1}`: "payload.forwards_l3: give true or false",
		},
		"update_decky": {
			`{"decky":"a","patch":null}`:                               "payload.patch: give an object",
			`{"decky":"a","patch":[]}`:                                 "payload.patch: give an object",
			`{"decky":"a","patch":{"forwards_l3":1}}`:                  "payload.patch.forwards_l3: give true or false",
			`{"decky":"a","patch":{"decky_config":1}}`:                 "payload.patch.decky_config: give an object",
			`{"decky":"a","patch":{"decky_config":{"forwards_l3":1}}}`: "payload.patch.forwards_l3: give true or false",
		},
		"changeset": {
			`{}`:         "payload.ops: is missing: give an array of 1 to 100 objects",
			`{"ops":{}}`: "payload.ops: give an array of 1 to 100 objects of op and payload",
			`{"ops":[]}`: "payload.ops: holds 0: give an array of 1 to 100",
			`{"ops":[` + strings.Repeat("1,", 100) + `1]}`: "payload.ops: holds 101: give an array of 1 to 100",
			`{"ops":[1]}`: "payload.ops[0]: give a JSON object",
			`{"ops":[{"op":"remove_decky","payload":{"decky":"a"}},{}]}`: "payload.ops[1].op: is missing: give a string",
			`{"ops":[{"op":"add_lan"}]}`:                                 "payload.ops[0].payload: is missing",
			`{"ops":[{"op":"add_lan","payload":{}}]}`:                    "payload.ops[0].payload.name: is missing",
			`{"ops":[{"op":"add_lan","payload":{"name":"a"},"x":1}]}`:    "payload.ops[0].x: is no field",
			`{"ops":[{"op":"changeset","payload":{"ops":[]}}]}`:          `payload.ops[0].op: "changeset" is no op: use one of`,
		},
	}
}

func TestAPayloadThatIsNotItsOpsIsRefusedByTheNameOfTheFieldAndTheFix(t *testing.T) {
	t.Parallel()
	for op, payloads := range wrongPayloads() {
		for payload, want := range payloads {
			_, err := stream.ParseOp(op, json.RawMessage(payload))
			if _, ok := errors.AsType[*stream.FieldError](err); !ok || !strings.Contains(err.Error(), want) {
				t.Errorf("%s %s: %v, want %q", op, payload, err, want)
			}
		}
	}
	_, err := stream.ParseOpAt("lans[3]", "add_lan", []byte(`{}`))
	if err == nil || err.Error() != "lans[3].name: is missing: give a string" {
		t.Errorf("at another path: %v", err)
	}
}

func TestAFieldThatIsMissingOrWrongIsNotTaken(t *testing.T) {
	t.Parallel()
	for object, want := range map[string]bool{`{"n":1}`: true, `{}`: false, `{"n":null}`: false, `{"n":"1"}`: false} {
		var n int
		if got := stream.NewObject("", json.RawMessage(object)).Into("n", &n, "give a number"); got != want {
			t.Errorf("%s is taken: %v", object, got)
		}
	}
}

func TestNewNamesAreThoseOfWhatIsMadeOrRenamed(t *testing.T) {
	t.Parallel()
	const payload = `{"ops":[{"op":"add_lan","payload":{"name":"a"}},{"op":"remove_lan","payload":{"name":"b"}},
		{"op":"update_lan","payload":{"name":"c","patch":{"name":"d"}}},{"op":"update_lan","payload":{"name":"c","x":1}},
		{"op":"add_decky","payload":{"name":"e","lan":"f"}}]}`
	op, err := stream.ParseOp("changeset", []byte(payload))
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"payload.ops[0].payload.name": "a", "payload.ops[2].payload.patch.name": "d", "payload.ops[4].payload.name": "e",
	}
	if got := maps.Collect(stream.NewNames("payload", op)); !maps.Equal(got, want) {
		t.Errorf("%v", got)
	}
	for range stream.NewNames("payload", op) {
		break // it stops where its reader does
	}
}

// What ParseOp reads by the rules for new names is a new name.
func TestNewNamesForgetsNoFieldThatIsReadAsOne(t *testing.T) {
	t.Parallel()
	for _, c := range rightPayloads() {
		op, err := stream.ParseOp(c.op, json.RawMessage(c.payload))
		if err != nil {
			t.Fatal(err)
		}
		given := maps.Collect(stream.NewNames("payload", op))
		var payload any
		if err := json.Unmarshal([]byte(c.payload), &payload); err != nil {
			t.Fatal(err)
		}
		for broken := range eachTextBroken(payload, func(v any) any { return v }) {
			raw, err := json.Marshal(broken)
			if err != nil {
				t.Fatal(err)
			}
			_, err = stream.ParseOp(c.op, raw)
			wrong, ok := errors.AsType[*stream.FieldError](err)
			if !ok || wrong.Problem != "has a control character: leave it out" {
				continue
			}
			if _, ok := given[wrong.Field]; !ok {
				t.Errorf("%s %s: %s is a new name, and NewNames gives %v", c.op, c.payload, wrong.Field, given)
			}
			delete(given, wrong.Field)
		}
		if len(given) > 0 {
			t.Errorf("%s %s: %v are not read as new names", c.op, c.payload, given)
		}
	}
}

// eachTextBroken gives JSON, as whole makes it of v, once for each text of v, which then ends with a control character.
func eachTextBroken(v any, whole func(v any) any) iter.Seq[any] {
	return func(yield func(any) bool) {
		within := func(of any, put func(v any) any) bool {
			for broken := range eachTextBroken(of, put) {
				if !yield(broken) {
					return false
				}
			}
			return true
		}
		switch v := v.(type) {
		case string:
			yield(whole(v + "\x01"))
		case []any:
			for i, of := range v {
				put := func(v2 any) any { c := slices.Clone(v); c[i] = v2; return whole(c) }
				if !within(of, put) {
					return
				}
			}
		case map[string]any:
			for key, of := range v {
				put := func(v2 any) any { c := maps.Clone(v); c[key] = v2; return whole(c) }
				if !within(of, put) {
					return
				}
			}
		}
	}
}

func TestOpsAreSorted(t *testing.T) {
	t.Parallel()
	if ops := stream.Ops(); len(ops) == 0 || !slices.IsSorted(ops) {
		t.Errorf("%v", ops)
	}
}

// FuzzParseOp: what it takes is JSON and an op's payload; what it does not take, it names.
func FuzzParseOp(f *testing.F) {
	for op, payloads := range wrongPayloads() {
		for payload := range payloads {
			f.Add(op, []byte(payload))
		}
	}
	for _, c := range rightPayloads() {
		f.Add(c.op, []byte(c.payload))
	}
	f.Fuzz(func(t *testing.T, op string, payload []byte) {
		v, err := stream.ParseOp(op, payload)
		field, isField := errors.AsType[*stream.FieldError](err)
		switch {
		case err != nil && (!isField || field.Field == "" || field.Problem == ""):
			t.Errorf("%#v names nothing", err)
		case err == nil && (v == nil || !json.Valid(payload)):
			t.Errorf("%s %q is taken for %#v", op, payload, v)
		}
	})
}
