package auth_test

import (
	"bytes"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
	"topostream/stream/auth"
)

var secret = bytes.Repeat([]byte("s"), auth.MinSecret)

func sign(t *testing.T, key any, method jwt.SigningMethod, claims jwt.MapClaims) string {
	t.Helper()
	s, err := jwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestHostileTokensAreRefusedWithoutAWord(t *testing.T) {
	t.Parallel()
	v, err := auth.New(auth.Config{Secret: secret})
	if err != nil {
		t.Fatal(err)
	}
	soon := time.Now().Add(time.Hour).Unix()
	good := sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon, "role": "viewer"})
	for name, token := range map[string]string{
		"none":        sign(t, jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone, jwt.MapClaims{"exp": soon, "role": "viewer"}),
		"other key":   sign(t, bytes.Repeat([]byte("x"), 32), jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon, "role": "viewer"}),
		"expired":     sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": time.Now().Add(-time.Second).Unix(), "role": "viewer"}),
		"no exp":      sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"role": "viewer"}),
		"exp string":  sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": "2099", "role": "viewer"}),
		"no role":     sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon}),
		"odd role":    sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon, "role": "root"}),
		"odd scope":   sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon, "role": "viewer", "topologies": []string{"demo"}}),
		"null scope":  sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon, "role": "viewer", "topologies": nil}),
		"text scope":  sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon, "role": "viewer", "topologies": "all"}),
		"not yet":     sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{"exp": soon, "role": "viewer", "nbf": soon}),
		"truncated":   good[:len(good)-3],
		"garbage":     "garbage",
		"1 MB":        strings.Repeat("a", 1<<20),
		"extra parts": good + ".x",
	} {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+token)
		_, err := v.Authenticate(r)
		if !errors.Is(err, auth.ErrUnauthenticated) {
			t.Errorf("%s: %v", name, err)
		} else if strings.Contains(err.Error(), token) {
			t.Errorf("%s: the error quotes the token", name)
		}
	}
}

func TestASignedTokenSaysWhoAndWhat(t *testing.T) {
	t.Parallel()
	v, err := auth.New(auth.Config{Secret: secret, Issuer: "me", Audience: "you"})
	if err != nil {
		t.Fatal(err)
	}
	id := stream.TopologyID("0190e7b2-0000-7000-8000-000000000001")
	token, err := auth.Sign(secret, auth.Claims{Subject: "ann", Role: stream.RoleViewer, TTL: time.Hour, Topologies: []stream.TopologyID{id}, Issuer: "me", Audience: "you"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p, err := v.Authenticate(httptest.NewRequest(http.MethodGet, "/?token="+token, nil))
	if err != nil {
		t.Fatal(err)
	}
	if p.Subject != "ann" || p.May(stream.RoleAdmin) || !p.May(stream.RoleViewer) || !p.Sees(id) || p.Sees("0190e7b2-0000-7000-8000-000000000002") {
		t.Errorf("%+v", p)
	}
}

func TestAShortSecretIsRefusedWithTheFix(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "short"} {
		if _, err := auth.New(auth.Config{Secret: []byte(s)}); err == nil || !strings.Contains(err.Error(), "openssl rand") {
			t.Errorf("%q: %v", s, err)
		}
	}
}
