package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"topostream/stream"
	"topostream/stream/auth"
)

// verifier makes what checks tokens, from the flags. It has read the JWK set once.
func (c *serveCmd) verifier(ctx context.Context, log *slog.Logger) (*auth.Verifier, error) {
	cfg, err := c.credentials()
	if err != nil {
		return nil, err
	}
	cfg.Logger = log
	v, err := auth.New(cfg)
	switch {
	case err != nil && c.JWTPublicKey != "":
		return nil, fmt.Errorf("--jwt-public-key %s: %w", c.JWTPublicKey, err)
	case err != nil:
		return nil, err
	}
	return v, v.Load(ctx)
}

// credentials reads the flags.
func (c *serveCmd) credentials() (auth.Config, error) {
	var given []string
	for _, flag := range []struct{ name, value string }{
		{"--jwt-secret", c.JWTSecret}, {"--jwt-secret-file", c.JWTSecretFile},
		{"--jwt-public-key", c.JWTPublicKey}, {"--jwks-url", c.JWKSURL},
	} {
		if flag.value != "" {
			given = append(given, flag.name)
		}
	}
	if len(given) > 1 {
		return auth.Config{}, errBothGiven(given[0], given[1])
	}
	cfg := auth.Config{
		JWKSURL: c.JWKSURL, Issuer: c.JWTIssuer, Audience: c.JWTAudience, Cookie: c.AuthCookie,
		SubjectClaim: c.JWTSubjectClaim, RoleClaim: c.JWTRoleClaim, DefaultRole: stream.Role(c.JWTDefaultRole),
	}
	var err error
	if cfg.Secret, err = c.secret(); err != nil {
		return auth.Config{}, err
	}
	if c.JWTPublicKey != "" {
		if cfg.PublicKeys, err = readNonEmpty("--jwt-public-key", c.JWTPublicKey); err != nil {
			return auth.Config{}, err
		}
	}
	return cfg, nil
}

func errBothGiven(a, b string) error {
	return fmt.Errorf(
		"%s and %s are both given: give one (an environment variable such as TOPOSTREAM_JWT_SECRET counts as its flag)",
		a,
		b,
	)
}

// secret gives the secret, empty if there is none.
func (c *serveCmd) secret() ([]byte, error) {
	switch {
	case c.JWTSecret != "" && c.JWTSecretFile != "":
		return nil, errBothGiven("--jwt-secret", "--jwt-secret-file")
	case c.JWTSecretFile != "":
		b, err := readNonEmpty("--jwt-secret-file", c.JWTSecretFile)
		return []byte(strings.TrimRight(string(b), "\r\n")), err
	}
	return []byte(c.JWTSecret), nil
}

// readNonEmpty refuses an empty file, too: what it holds would count as not given.
func readNonEmpty(flag, path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	case strings.Trim(string(b), "\r\n") == "":
		return nil, fmt.Errorf("%s: %s is empty", flag, path)
	}
	return b, nil
}
