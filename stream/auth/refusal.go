package auth

import (
	"errors"

	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
)

var errInvalid = errors.New("invalid")

// refusal is the label under which a refused request is counted.
func refusal(err error) stream.Cause {
	is := func(kinds ...error) bool {
		for _, kind := range kinds {
			if errors.Is(err, kind) {
				return true
			}
		}
		return false
	}
	switch {
	case is(errNone):
		return stream.RefusedMissing
	case is(errAmbiguous, errTooLong, errForm, errHeader, errClaims, jwt.ErrTokenMalformed):
		return stream.RefusedMalformed
	case is(jwt.ErrTokenExpired):
		return stream.RefusedExpired
	case is(errNoSuchKey, errWrongAlgorithm, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenUnverifiable):
		return stream.RefusedSignature
	}
	return stream.RefusedClaims
}
