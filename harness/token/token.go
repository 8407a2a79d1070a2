// Package token signs tokens as an application would that has the servers' secret. It shares no code with the servers:
// what they take for a token is part of the interface that is checked.
package token

import (
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// life is longer than any campaign: that a stream ends with its token is no fault.
const life = 24 * time.Hour

// An Issuer is a secret that signs. Its tokens have the role admin.
type Issuer []byte

// Token gives a token of a subject for all topologies.
func (i Issuer) Token(subject string) (string, error) { return i.Limited(subject, nil) }

// Limited gives a token of a subject for some topologies; nil: for all.
func (i Issuer) Limited(subject string, topologies []string) (string, error) {
	now := time.Now()
	claims := jwt.MapClaims{"sub": subject, "role": "admin", "iat": now.Unix(), "exp": now.Add(life).Unix()}
	if topologies != nil {
		claims["topologies"] = topologies
	}
	return jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(i))
}
