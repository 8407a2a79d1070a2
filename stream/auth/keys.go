package auth

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// MinSecret is the shortest secret in bytes (RFC 7518, section 3.2: as long as the hash of HS256).
	MinSecret = 32

	minRSABits    = 2048 // RFC 7518, section 3.3
	maxPublicKeys = 16   // each is tried for a token
)

var (
	errNoSuchKey      = errors.New("no key of this kid is known")
	errWrongAlgorithm = errors.New("no key fits the algorithm")
)

// algorithmsOf gives the algorithms that a public key may be used with, and no others: with the key pinned to them, no
// token's header can choose what its signature is taken for (RFC 8725, section 3.1).
func algorithmsOf(key any) ([]string, error) {
	switch key := key.(type) {
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits < minRSABits {
			return nil, fmt.Errorf("an RSA key has %d bits: it needs %d or more", bits, minRSABits)
		}
		return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}, nil
	case *ecdsa.PublicKey:
		switch key.Curve {
		case elliptic.P256():
			return []string{"ES256"}, nil
		case elliptic.P384():
			return []string{"ES384"}, nil
		case elliptic.P521():
			return []string{"ES512"}, nil
		}
		return nil, fmt.Errorf("the curve %s is not supported: use P-256, P-384 or P-521", key.Curve.Params().Name)
	case ed25519.PublicKey:
		return []string{"EdDSA"}, nil
	}
	return nil, fmt.Errorf("a key of type %T verifies no signature: use RSA, ECDSA or Ed25519", key)
}

// A secretKey is the secret of HS256, HS384 and HS512.
type secretKey []byte

// CheckSecret says what is wrong with a secret.
func CheckSecret(secret []byte) error {
	switch {
	case len(secret) == 0:
		return errors.New("no secret: set TOPOSTREAM_JWT_SECRET or --jwt-secret-file (recommended), " +
			"for example to the output of `openssl rand -base64 48`")
	case len(secret) < MinSecret:
		return fmt.Errorf("the JWT secret has %d bytes: it needs %d or more, for example `openssl rand -base64 48`",
			len(secret), MinSecret)
	}
	return nil
}

func newSecretKey(secret []byte) (secretKey, error) {
	return bytes.Clone(secret), CheckSecret(secret)
}

func (secretKey) algorithms() []string                           { return []string{"HS256", "HS384", "HS512"} }
func (secretKey) generation() any                                { return nil }
func (k secretKey) key(context.Context, *jwt.Token) (any, error) { return []byte(k), nil }
func (secretKey) load(context.Context) error                     { return nil }
func (secretKey) run(context.Context)                            {}

// publicKeys are the keys of a file, by algorithm. All that fit are tried, whatever the token's kid: that is how keys
// in a file are replaced without a pause.
type publicKeys map[string][]jwt.VerificationKey

func newPublicKeys(file []byte) (publicKeys, error) {
	keys, n := publicKeys{}, 0
	for block, rest := pem.Decode(file); block != nil; block, rest = pem.Decode(rest) {
		key, err := publicKey(block)
		if err != nil {
			return nil, err
		}
		algorithms, err := algorithmsOf(key)
		if err != nil {
			return nil, err
		}
		for _, a := range algorithms {
			keys[a] = append(keys[a], key)
		}
		n++
	}
	switch begun := bytes.Count(file, []byte("-----BEGIN ")); {
	case begun == 0:
		return nil, errors.New("there is no PEM block: give a public key that begins with " +
			"-----BEGIN PUBLIC KEY-----, or a certificate")
	case begun != n:
		return nil, fmt.Errorf("%d PEM blocks begin and %d are whole: the file is cut off or damaged", begun, n)
	case n > maxPublicKeys:
		return nil, fmt.Errorf("there are %d keys: %d at most", n, maxPublicKeys)
	}
	return keys, nil
}

func publicKey(block *pem.Block) (any, error) {
	switch block.Type {
	case "PUBLIC KEY":
		return x509.ParsePKIXPublicKey(block.Bytes)
	case "CERTIFICATE":
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		return c.PublicKey, nil
	case "RSA PUBLIC KEY":
		return nil, errors.New("an RSA PUBLIC KEY is PKCS #1: convert it by " +
			"`openssl rsa -RSAPublicKey_in -in FILE -pubout`")
	}
	return nil, fmt.Errorf("a PEM block is a %.40q: give the PUBLIC KEY, "+
		"which `openssl pkey -in FILE -pubout` prints, or a CERTIFICATE", block.Type)
}

func (k publicKeys) algorithms() (all []string) {
	for a := range k {
		all = append(all, a)
	}
	slices.Sort(all)
	return all
}

func (k publicKeys) key(_ context.Context, token *jwt.Token) (any, error) {
	return jwt.VerificationKeySet{Keys: k[token.Method.Alg()]}, nil // algorithms is checked before
}

func (publicKeys) generation() any            { return nil }
func (publicKeys) load(context.Context) error { return nil }
func (publicKeys) run(context.Context)        {}
