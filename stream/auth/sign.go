package auth

import (
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
)

// Claims are what a signed token says.
type Claims struct {
	Subject    string
	Role       stream.Role
	TTL        time.Duration       // of the token, from now on
	Topologies []stream.TopologyID // nil: all
	Issuer     string              // empty: no iss
	Audience   string              // empty: no aud
}

// Sign makes a token, signed with HS256, that is good from now on.
func Sign(secret []byte, c Claims, now time.Time) (string, error) {
	t := claims{Role: c.Role, RegisteredClaims: jwt.RegisteredClaims{
		Subject: c.Subject, Issuer: c.Issuer, IssuedAt: jwt.NewNumericDate(now),
		ExpiresAt: jwt.NewNumericDate(now.Add(c.TTL)),
	}}
	if c.Audience != "" {
		t.Audience = jwt.ClaimStrings{c.Audience}
	}
	if c.Topologies != nil {
		t.Topologies = scope{true, c.Topologies}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, t).SignedString(secret)
	if err != nil {
		return "", fmt.Errorf("sign the token: %w", err)
	}
	return token, nil
}
