package fleet

import (
	"bytes"
	"errors"
	"net/http/httputil"
	"slices"
	"strings"
	"testing"

	"github.com/gobwas/ws"
	"pgregory.net/rapid"
)

// parts cuts b anywhere.
func parts(t *rapid.T, b []byte) (cut [][]byte) {
	for len(b) > 0 {
		n := rapid.IntRange(1, len(b)).Draw(t, "part")
		cut, b = append(cut, bytes.Clone(b[:n])), b[n:]
	}
	return cut
}

func TestFramesAreTheSameInWhateverPartsTheyCome(t *testing.T) {
	t.Parallel()
	frames := rapid.SampledFrom([]string{
		": keepalive\n\n", "event: snapshot\nid: 41\ndata: {}\n\n", "data: a\r\ndata: b\r\nid: 7\r\n\r\n", "\n", "\r\n",
		"id: 5\ndata: " + strings.Repeat("x", 3000) + "\n\n", "retry: 2000\n\n",
	})
	rapid.Check(t, func(t *rapid.T) {
		want := rapid.SliceOf(frames).Draw(t, "frames")
		var s sseSplitter
		var got []string
		for _, p := range parts(t, []byte(strings.Join(want, ""))) {
			for len(p) > 0 {
				var frame []byte
				if frame, p = s.next(p); frame != nil {
					got = append(got, string(frame))
				}
			}
		}
		// A blank line behind a frame ends nothing: it is a frame of its own wherever it is seen.
		if !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

func TestAFramesFieldsAreRead(t *testing.T) {
	t.Parallel()
	f := parseFrame([]byte("event: status\r\nid:42\r\ndata: {}\r\n\r\n"))
	if string(f.event) != "status" || string(f.id) != "42" || !f.data {
		t.Errorf("%q %q %v", f.event, f.id, f.data)
	}
	if f := parseFrame([]byte(": keepalive\n\n")); f.data || f.event != nil {
		t.Errorf("%+v", f)
	}
}

func TestAChunkedBodyIsTheSameInWhateverPartsItComes(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var coded, want bytes.Buffer
		w := httputil.NewChunkedWriter(&coded)
		for _, chunk := range rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 1, 300)).Draw(t, "chunks") {
			want.Write(chunk)
			if _, err := w.Write(chunk); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		coded.WriteString("\r\n")
		var c chunks
		var got bytes.Buffer
		var end error
		for _, p := range parts(t, coded.Bytes()) {
			for end == nil {
				var data []byte
				if data, p, end = c.next(p); len(data) == 0 {
					break
				}
				got.Write(data)
			}
		}
		if !errors.Is(end, errLast) || !bytes.Equal(got.Bytes(), want.Bytes()) {
			t.Fatalf("%v: %q, want %q", end, got.Bytes(), want.Bytes())
		}
	})
}

func TestADamagedChunkIsAnError(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"\r\n", "x\r\n", "123456789\r\n", "-1\r\n"} {
		var c chunks
		if _, _, err := c.next([]byte(body)); !errors.Is(err, errBadChunk) {
			t.Errorf("%q: %v", body, err)
		}
	}
}

func TestMessagesAreTheSameInWhateverPartsTheyCome(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var stream bytes.Buffer
		var want []string
		for _, text := range rapid.SliceOf(rapid.StringN(0, 70, 70000)).Draw(t, "messages") {
			want = append(want, text)
			last := min(len(text), rapid.IntRange(0, 100).Draw(t, "fragment"))
			whole := rapid.Bool().Draw(t, "whole")
			if whole {
				write(t, &stream, ws.NewTextFrame([]byte(text)))
				continue
			}
			write(t, &stream, ws.NewFrame(ws.OpText, false, []byte(text[:last])))
			write(t, &stream, ws.NewPingFrame([]byte("between")))
			write(t, &stream, ws.NewFrame(ws.OpContinuation, true, []byte(text[last:])))
		}
		var s wsSplitter
		var got []string
		for _, p := range parts(t, stream.Bytes()) {
			for {
				op, payload, after, more, err := s.next(p)
				if err != nil {
					t.Fatal(err)
				}
				if more {
					break
				}
				if p = after; op != ws.OpPing {
					got = append(got, string(payload))
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%q, want %q", got, want)
		}
	})
}

func write(t *rapid.T, b *bytes.Buffer, f ws.Frame) {
	if err := ws.WriteFrame(b, f); err != nil {
		t.Fatal(err)
	}
}

func TestAMarkIsFoundInAnyText(t *testing.T) {
	t.Parallel()
	text := append([]byte(`{"a":"`), Mark{7, 1764384000123456789}.Append(nil)...)
	text = Mark{8, 1}.Append(append(text, `"} and `...))
	m, rest, found, err := NextMark(text)
	if m != (Mark{7, 1764384000123456789}) || !found || err != nil {
		t.Error(m, found, err)
	}
	if m, rest, found, err = NextMark(rest); m != (Mark{8, 1}) || !found || err != nil {
		t.Error(m, found, err)
	}
	if _, _, found, err := NextMark(rest); found || err != nil {
		t.Error(found, err)
	}
	for _, bad := range []string{"bench#", "bench##1#", "bench#1#x#", "bench#1#2"} {
		if _, _, _, err := NextMark([]byte(bad)); err == nil {
			t.Errorf("%q is no error", bad)
		}
	}
}

func TestAnEventIsTimedFromItsCommitWhereThatIsKnown(t *testing.T) {
	t.Parallel()
	s := NewStamps(2)
	if n := s.Next(1); n != 1 || s.Last(1) != 1 || s.Last(0) != 0 {
		t.Error(n, s.Last(1), s.Last(0))
	}
	if at := s.When(1, Mark{1, 5}); at != 5 {
		t.Error(at)
	}
	s.Sent(1, 1, 9)
	if at := s.When(1, Mark{1, 5}); at != 9 {
		t.Error(at)
	}
	s.Sent(1, 1+stampsInAll, 11) // takes its place
	if at := s.When(1, Mark{1, 5}); at != 5 {
		t.Error(at)
	}
}
