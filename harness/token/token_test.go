package token_test

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"topostream/harness/token"
	"topostream/stream"
	"topostream/stream/auth"
)

func TestTheServersTakeWhatAnIssuerSigns(t *testing.T) {
	t.Parallel()
	secret := []byte("a secret of the tests, 32 bytes or more")
	verifier, err := auth.New(auth.Config{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	const topology = "00000000-0000-4000-8000-000000000000"
	for _, topologies := range [][]string{nil, {}, {topology}} {
		signed, err := token.Issuer(secret).Limited("ann", topologies)
		if err != nil {
			t.Fatal(err)
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+signed)
		p, err := verifier.Authenticate(r)
		got := make([]string, 0, len(p.Topologies))
		for _, id := range p.Topologies {
			got = append(got, string(id))
		}
		if err != nil || p.Subject != "ann" || p.Role != stream.RoleAdmin || (p.Topologies == nil) != (topologies == nil) ||
			!slices.Equal(got, topologies) {
			t.Errorf("for %v: %+v, %v", topologies, p, err)
		}
	}
}
