package stream_test

import (
	"strings"
	"testing"

	"topostream/stream"
)

func TestAnEventsTypeIsWordsJoinedByDots(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 64)
	for _, s := range []string{"a", "z", "0", "9", "_", "a.b", "mutation.applied", "a0_.z9_._", long, long[:62] +
		".a"} {
		if !stream.ValidType(s) {
			t.Errorf("%q is none", s)
		}
	}
	for _, s := range []string{
		"", ".", ".a", "a.", "a..b", "A", "a b", "a\n", "a-b", "`", "{", "/", ":", "^", "é", long + "a", long + ".",
	} {
		if stream.ValidType(s) {
			t.Errorf("%q is one", s)
		}
	}
}
