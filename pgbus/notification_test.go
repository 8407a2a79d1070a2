package pgbus

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strings"
	"testing"

	gosse "github.com/tmaxmax/go-sse"

	"topostream/stream"
	"topostream/stream/sse"
)

const hintTopology = stream.TopologyID("0190e7b2-0000-7000-8000-000000000001")

// signed is a notification with the right mark.
func signed(key []byte, message string) string {
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(string(hintTopology) + ":" + message))
	return "~" + hex.EncodeToString(mac.Sum(nil))[:markLength] + ":" + message
}

const encodedEvent = `{"topic":"topology.0190e7b2-0000-7000-8000-000000000001.x.y","type":"x.y","ts":"2026-01-02T03:04:05.000006Z","seq":7,"journaled":true,"payload":{}}`

func TestAHintsJSONIsUsedOnlyWhereTheEncoderCouldHaveMadeIt(t *testing.T) {
	t.Parallel()
	key := []byte("key")
	if h, ok := parseHint(key, hintTopology, signed(key, "7 "+encodedEvent)); !ok || h != (hint{7, "x.y", encodedEvent}) {
		t.Errorf("%+v %v", h, ok)
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
		if h, ok := parseHint(key, hintTopology, signed(key, "7 "+event)); !ok || h != (hint{seq: 7}) {
			t.Errorf("%s: %+v %v, want the seq alone", what, h, ok)
		}
	}
	for what, text := range map[string]string{
		"wrong key": signed([]byte("another"), "7 "+encodedEvent), "no number": signed(key, "x"), "cut": signed(key, "7")[:20], "empty": "", "a tilde": "~",
		"another mark": signed(key, "7")[:33] + ":8",
	} {
		if h, ok := parseHint(key, hintTopology, text); ok {
			t.Errorf("%s: %+v is taken for a hint", what, h)
		}
	}
}

func FuzzSignedHint(f *testing.F) {
	for _, s := range []string{"7", "7 " + encodedEvent, "7 " + strings.ReplaceAll(encodedEvent, "{}", `"\r\n"`), "7 {}", "x", "7 \n\n"} {
		f.Add(s)
	}
	key := []byte("key")
	f.Fuzz(func(t *testing.T, message string) {
		h, ok := parseHint(key, hintTopology, signed(key, message))
		if !ok || h.event == "" {
			return
		}
		n := 0
		for e, err := range gosse.Read(strings.NewReader(string(sse.Encoder{}.Event(stream.Event{Seq: h.seq, Type: h.kind, JSON: h.event}).Bytes)), &gosse.ReadConfig{MaxEventSize: 1 << 20}) {
			if n++; err != nil || e.Type != h.kind || e.LastEventID != h.seq.String() {
				t.Fatalf("%q: %+v, %v", message, e, err)
			}
		}
		if n != 1 {
			t.Fatalf("%q: %d events", message, n)
		}
	})
}
