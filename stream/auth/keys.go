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
	"sync/atomic"

	"github.com/golang-jwt/jwt/v5"
)

const (
	// MinSecret is the shortest secret in bytes (RFC 7518, section 3.2: as long as the hash of HS256).
	MinSecret = 32

	minRSABits = 2048 // RFC 7518, section 3.3
	maxKeys    = 16   // each is tried for a token
)

var (
	errNoSuchKey      = errors.New("no key of this kid is known")
	errWrongAlgorithm = errors.New("no key fits the algorithm")
)

// algorithmsOf gives the algorithms that a public key may be used with. A key is used with these alone, so that the
// header of a token cannot choose how its signature is checked (RFC 8725, section 3.1).
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

// localKeys are keys that this program was given: secrets, or the public keys of a file. All that fit a token's
// algorithm are tried, whatever its kid. So keys can be replaced without a pause: for a time the new one stands beside
// the old one.
type localKeys struct{ current atomic.Pointer[keySet] }

// A keySet is keys by algorithm. It never changes.
type keySet map[string][]jwt.VerificationKey

func newLocalKeys(set keySet, err error) (*localKeys, error) {
	if err != nil {
		return nil, err
	}
	k := &localKeys{}
	k.current.Store(&set)
	return k, nil
}

// algorithms are those of the kind of keys, secret or public, also of keys that come later.
func (k *localKeys) algorithms() []string {
	if (*k.current.Load())["HS256"] != nil {
		return secretAlgorithms()
	}
	return publicAlgorithms()
}

func (k *localKeys) key(_ context.Context, token *jwt.Token) (any, error) {
	keys := (*k.current.Load())[token.Method.Alg()]
	if len(keys) == 0 {
		return nil, errWrongAlgorithm
	}
	return jwt.VerificationKeySet{Keys: keys}, nil
}

// generation is the set itself.
func (k *localKeys) generation() any          { return k.current.Load() }
func (*localKeys) load(context.Context) error { return nil }
func (*localKeys) run(context.Context)        {}

func secretAlgorithms() []string { return []string{"HS256", "HS384", "HS512"} }

func publicAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// Secrets are those of a text, one on each line; lines without anything are left out. Tokens are signed with the first
// and verified with any.
func Secrets(text []byte) (secrets [][]byte) {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if line = bytes.TrimRight(line, "\r"); len(line) > 0 {
			secrets = append(secrets, line)
		}
	}
	return secrets
}

// CheckSecrets says what is wrong with the secrets of a text.
func CheckSecrets(text []byte) error {
	secrets := Secrets(text)
	switch {
	case len(secrets) == 0:
		return errors.New("no secret: set TOPOSTREAM_JWT_SECRET or --jwt-secret-file (recommended), " +
			"for example to the output of `openssl rand -base64 48`")
	case len(secrets) > maxKeys:
		return fmt.Errorf("there are %d JWT secrets: %d at most", len(secrets), maxKeys)
	}
	for i, secret := range secrets {
		if len(secret) < MinSecret {
			which := "the JWT secret"
			if len(secrets) > 1 {
				which = fmt.Sprintf("JWT secret %d of %d, each on a line,", i+1, len(secrets))
			}
			return fmt.Errorf("%s has %d bytes: it needs %d or more, for example `openssl rand -base64 48`",
				which, len(secret), MinSecret)
		}
	}
	return nil
}

// secretKeys are the keys of HS256, HS384 and HS512.
func secretKeys(text []byte) (keySet, error) {
	if err := CheckSecrets(text); err != nil {
		return nil, err
	}
	keys := keySet{}
	for _, secret := range Secrets(bytes.Clone(text)) {
		for _, a := range secretAlgorithms() {
			keys[a] = append(keys[a], secret)
		}
	}
	return keys, nil
}

// publicKeys are the keys of a file.
func publicKeys(file []byte) (keySet, error) {
	keys, n := keySet{}, 0
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
	case n > maxKeys:
		return nil, fmt.Errorf("there are %d keys: %d at most", n, maxKeys)
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
