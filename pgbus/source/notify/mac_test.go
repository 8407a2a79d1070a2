package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	gosse "github.com/tmaxmax/go-sse"

	"topostream/pgbus/source"
	"topostream/stream"
	"topostream/stream/sse"
)

const someTopology = stream.TopologyID("0190e7b2-0000-7000-8000-000000000001")

// signed is a notification with the right MAC.
func signed(key []byte, message string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(string(someTopology) + ":" + message))
	return "~" + hex.EncodeToString(mac.Sum(nil))[:macLength] + ":" + message
}

const encodedEvent = `{"topic":"topology.` + string(someTopology) + `.x.y","type":"x.y",` +
	`"ts":"2026-01-02T03:04:05.000006Z","seq":7,"journaled":true,"payload":{}}`

func TestANotificationsJSONIsUsedOnlyWhereTheEncoderCouldHaveMadeIt(t *testing.T) {
	t.Parallel()
	key := []byte("key")
	if e, ok := parse(key, someTopology, signed(key, "7 "+encodedEvent)); !ok || jsonOf(e) != encodedEvent ||
		e.Seq != 7 || e.Type != "x.y" || e.Topology != someTopology {
		t.Errorf("%+v %v", e, ok)
	}
	if e, ok := parse(key, someTopology, signed(key, "7")); !ok || e.Seq != 7 { // the shortest
		t.Errorf("%+v %v", e, ok)
	}
	for what, event := range map[string]string{
		"none":             "",
		"another seq":      strings.Replace(encodedEvent, `"seq":7`, `"seq":8`, 1),
		"another topology": strings.Replace(encodedEvent, "0001.x", "0002.x", 1),
		"two types":        strings.Replace(encodedEvent, `"type":"x.y"`, `"type":"z"`, 1),
		"a bad type":       strings.ReplaceAll(encodedEvent, "x.y", "x y"),
		"a line end":       strings.ReplaceAll(encodedEvent, "x.y", "x\ny"),
		"the end":          strings.ReplaceAll(encodedEvent, "x.y", "deleted"),
		"no JSON":          encodedEvent + "x",
	} {
		if e, ok := parse(key, someTopology, signed(key, "7 "+event)); !ok || e.Seq != 7 || e.Type != "" || e.JSON != nil {
			t.Errorf("%s: %+v %v, want the seq alone", what, e, ok)
		}
	}
	for what, text := range map[string]string{
		"wrong key":   signed([]byte("another"), "7 "+encodedEvent),
		"no number":   signed(key, "x"),
		"cut":         signed(key, "7")[:20],
		"empty":       "",
		"a tilde":     "~",
		"no seq":      signed(key, ""),
		"half a MAC":  signed(key, "7")[:macLength],
		"no tilde":    "x" + signed(key, "7")[1:],
		"no colon":    strings.Replace(signed(key, "7"), ":", "x", 1),
		"another MAC": signed(key, "7")[:33] + ":8",
	} {
		if e, ok := parse(key, someTopology, text); ok {
			t.Errorf("%s: %+v is taken for the triggers' own", what, e)
		}
	}
}

func FuzzSignedNotification(f *testing.F) {
	for _, s := range []string{
		"7", "7 " + encodedEvent, "7 " + strings.ReplaceAll(encodedEvent, "{}", `"\r\n"`), "7 {}", "x", "7 \n\n",
	} {
		f.Add(s)
	}
	key := []byte("key")
	f.Fuzz(func(t *testing.T, message string) {
		e, ok := parse(key, someTopology, signed(key, message))
		if !ok || e.JSON == nil {
			return
		}
		frame := sse.Encoder{}.Event(stream.Event{Seq: e.Seq, Type: e.Type, JSON: jsonOf(e)})
		n := 0
		read := gosse.Read(strings.NewReader(string(frame.Bytes)), &gosse.ReadConfig{MaxEventSize: 1 << 20})
		for got, err := range read {
			if n++; err != nil || got.Type != e.Type || got.LastEventID != e.Seq.String() {
				t.Fatalf("%q: %+v, %v", message, got, err)
			}
		}
		if n != 1 {
			t.Fatalf("%q: %d events", message, n)
		}
	})
}

func jsonOf(e source.Event) string {
	if e.JSON == nil {
		return ""
	}
	if json, ok := e.JSON(); ok {
		return json
	}
	return "none, although there is a function for it"
}
