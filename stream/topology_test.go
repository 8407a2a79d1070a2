package stream_test

import (
	"strings"
	"testing"

	"topostream/stream"
)

func TestATopologysIDIsTheLongFormOfAUUIDInAnyCase(t *testing.T) {
	t.Parallel()
	const id = "0190e7b2-0af9-7000-8000-09afAF000001"
	for _, s := range []string{id, strings.ToUpper(id), strings.ToLower(id)} {
		if got, ok := stream.ParseTopologyID(s); !ok || string(got) != strings.ToLower(id) {
			t.Errorf("%s: %q, %v", s, got, ok)
		}
	}
	wrong := []string{"", id[:35], id + "0", "{" + id[1:35] + "}", "urn:uuid:" + id[9:],
		strings.ReplaceAll(id, "-", "") + "0000"}
	for i := range id { // each place with each character that stands beside those which are right there
		for _, c := range "/:@G`g -" {
			if s := id[:i] + string(c) + id[i+1:]; s != id {
				wrong = append(wrong, s)
			}
		}
		wrong = append(wrong, id[:i]+"é"+id[i+1:])
	}
	for _, i := range []int{8, 13, 18, 23} {
		wrong = append(wrong, id[:i]+"0"+id[i+1:])
	}
	for _, s := range wrong {
		if got, ok := stream.ParseTopologyID(s); ok || got != "" {
			t.Errorf("%q: %q, %v", s, got, ok)
		}
	}
}
