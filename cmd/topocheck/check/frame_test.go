package check

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestAWholeStreamIsReadFrameByFrameHoweverItsBytesArrive(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100_000)
	stream := ": keepalive\nretry: 2841\n\n" +
		"event: snapshot\nid: 41\ndata: {}\n\n: keepalive\n\n" +
		"event: topocheck.tick\nid: 42\ndata: {\"text\":\"" + long + "\"}\n\n" +
		"event: notify\ndata: a\ndata: b\n\n"
	for name, r := range map[string]io.Reader{"at once": strings.NewReader(stream),
		"byte by byte": iotest.OneByteReader(strings.NewReader(stream))} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			frames := newFrameReader(r)
			for i, want := range []string{` 0 false "" 2841`, `snapshot 41 true "{}" 0`, ` 0 false "" 0`,
				`topocheck.tick 42 true "{\"text\":\"` + long + `\"}" 0`, `notify 0 false "a\nb" 0`} {
				f, err := frames.next()
				if err != nil {
					t.Fatal(i, err)
				}
				if got := fmt.Sprintf("%s %d %v %q %d", f.event, f.id, f.hasID, f.data, f.retry); got != want {
					t.Errorf("frame %d is %.100s, want %.100s", i, got, want)
				}
			}
			if _, err := frames.next(); !errors.Is(err, io.EOF) {
				t.Errorf("at the end: %v", err)
			}
		})
	}
}

func TestBytesThatAreNoWholeFrameAreTorn(t *testing.T) {
	t.Parallel()
	for _, stream := range []string{
		"\n",
		"event: x\nid: 1\ndata: {}\n", // the end within a frame
		"event: x\nid: 1\nda",         // and within a line
		"event: x\nid: 1\ndata: {\"a\nevent: y\nid: 2\n\n", // a cut frame glued to the next
		"event: x\nid: 1\n\n",                              // no data
		"id: 1\ndata: {}\n\n",                              // no name
		"event: x\nid: 1\nid: 2\ndata: {}\n\n",             // two numbers
		"event: x\nid: one\ndata: {}\n\n",
		"ent: x\nid: 1\ndata: {}\n\n", // a line without its beginning
		"retry: soon\n\n",
		"event\n\n",
		"{\"seq\":1}\n\n",
	} {
		var torn *tornError
		if f, err := newFrameReader(strings.NewReader(stream)).next(); !errors.As(err, &torn) {
			t.Errorf("%q is read as %+v, %v", stream, f, err)
		}
	}
}

func TestAConnectionThatBreaksWithinAFrameIsNotTorn(t *testing.T) {
	t.Parallel()
	var torn *tornError
	_, err := newFrameReader(io.MultiReader(strings.NewReader("event: x\nid: 1\nda"),
		iotest.ErrReader(io.ErrUnexpectedEOF))).next()
	if !errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &torn) {
		t.Errorf("%v", err)
	}
}
