// Package auth finds the credential of a request and verifies it: JSON Web Tokens (RFC 7519) that are signed with a
// secret, or that a public key of a file or of a JWK set proves (RFC 7517).
package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"time"
	"unicode/utf8"

	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
)

// clockSkew is how far nbf and iat may lie ahead of this clock.
const clockSkew = 30 * time.Second

// ErrUnauthenticated is all that a client learns. What is wrapped beside it is for the log and never holds the token.
var ErrUnauthenticated = errors.New("the request has no valid token")

// Config says which tokens are good. Exactly one of Secret, PublicKeys and JWKSURL says whose: two kinds of keys beside
// each other are how one gets taken for the other.
type Config struct {
	Secret     []byte // HS256, HS384, HS512: MinSecret bytes or more; several, each on a line
	PublicKeys []byte // one or more PEM blocks, each a PKIX public key or a certificate
	JWKSURL    string
	Issuer     string // required iss; empty: any
	Audience   string // required aud; empty: any
	Cookie     string // the cookie that may hold the token; empty: none

	SubjectClaim string      // the claim that says who it is; empty: sub
	RoleClaim    string      // the claim that holds the role, or an array of roles; empty: role, which holds one
	DefaultRole  stream.Role // of tokens without a role that there is; empty: they are refused

	Now     func() time.Time // nil: time.Now
	Logger  *slog.Logger     // nil: no log
	Refresh time.Duration    // between two reads of JWKSURL: 5 minutes
}

// A Verifier authenticates requests. Any goroutine may use it, once Load has returned.
type Verifier struct {
	keys   keySource
	names  claimNames
	cookie string
	now    func() time.Time
	parser *jwt.Parser
	tokens verified
}

// A keySource has the keys that verify tokens.
type keySource interface {
	// algorithms are those that a token may be signed with, whatever keys there are now.
	algorithms() []string
	// generation compares, by ==, as another one whenever the keys may have changed.
	generation() any
	// key gives the keys for a token's kid and algorithm, as jwt.Keyfunc does; errNoSuchKey or errWrongAlgorithm.
	key(ctx context.Context, token *jwt.Token) (any, error)
	// load reads the keys for the first time.
	load(ctx context.Context) error
	// run keeps them fresh until ctx ends; where there is nothing to keep fresh it returns at once.
	run(ctx context.Context)
}

// New makes a verifier, or says what is wrong with the configuration. It reads no URL: Load does.
func New(cfg Config) (*Verifier, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Cookie != "" && !isCookieName(cfg.Cookie) {
		return nil, fmt.Errorf("the name of the cookie, %.80q, is none: use letters, digits and - or _, "+
			"for example __Host-topostream", cfg.Cookie)
	}
	keys, err := newKeySource(cfg)
	if err != nil {
		return nil, err
	}
	// The library has one leeway for exp, nbf and iat. Authenticate checks exp again, without.
	parser := jwt.NewParser(jwt.WithLeeway(clockSkew), jwt.WithIssuedAt(),
		jwt.WithValidMethods(keys.algorithms()), jwt.WithExpirationRequired(), jwt.WithTimeFunc(cfg.Now),
		jwt.WithStrictDecoding(), optional(cfg.Issuer, jwt.WithIssuer),
		optional(cfg.Audience, func(a string) jwt.ParserOption { return jwt.WithAudience(a) }))
	names := claimNames{cfg.SubjectClaim, cfg.RoleClaim, cfg.DefaultRole}
	return &Verifier{keys, names, cfg.Cookie, cfg.Now, parser, newVerified()}, nil
}

func newKeySource(cfg Config) (keySource, error) {
	given := 0
	for _, is := range []bool{len(cfg.Secret) > 0, len(cfg.PublicKeys) > 0, cfg.JWKSURL != ""} {
		if is {
			given++
		}
	}
	switch {
	case given == 0:
		return nil, errors.New("no secret: set TOPOSTREAM_JWT_SECRET or --jwt-secret-file (recommended), " +
			"for example to the output of `openssl rand -base64 48`; " +
			"or, for tokens that another program signs, --jwt-public-key or --jwks-url")
	case given > 1:
		return nil, errors.New("a secret, public keys and a JWKS URL exclude each other: give one")
	case len(cfg.Secret) > 0:
		return newLocalKeys(secretKeys(cfg.Secret))
	case len(cfg.PublicKeys) > 0:
		return newLocalKeys(publicKeys(cfg.PublicKeys))
	}
	return newJWKS(cfg)
}

func optional(s string, option func(string) jwt.ParserOption) jwt.ParserOption {
	if s == "" {
		return func(*jwt.Parser) {}
	}
	return option(s)
}

// Replace puts the Secret or the PublicKeys of cfg, of the same kind as those before, in their place. From then on
// tokens that only the former ones verify are refused. After an error all is as it was.
func (v *Verifier) Replace(cfg Config) error {
	local, ok := v.keys.(*localKeys)
	if !ok {
		return errors.New("the keys are those of a JWKS URL")
	}
	next, err := newKeySource(cfg)
	if err != nil {
		return err
	}
	given, ok := next.(*localKeys)
	if !ok || !slices.Equal(given.algorithms(), local.algorithms()) {
		return errors.New("secrets and public keys do not replace each other")
	}
	local.current.Store(given.current.Load())
	return nil
}

// Load reads the JWK set for the first time. It fails if the URL does not answer with a key that can be used.
func (v *Verifier) Load(ctx context.Context) error { return v.keys.load(ctx) }

// Run keeps the JWK set fresh until ctx ends, and logs what goes wrong. Without a JWKS URL there is nothing to do, and
// it returns.
func (v *Verifier) Run(ctx context.Context) error {
	v.keys.run(ctx)
	return nil
}

// maxSubject is the longest sub in characters, as OpenID Connect has it.
const maxSubject = 255

// Authenticate says who the request speaks for. Every error is an ErrUnauthenticated and a *stream.RefusedError. Nobody
// may change the principal's Topologies: all requests with the same token share that slice.
func (v *Verifier) Authenticate(r *http.Request) (stream.Principal, error) {
	p, err := v.authenticate(r)
	if err != nil {
		return p, &stream.RefusedError{Why: refusal(err), Err: err}
	}
	return p, nil
}

func (v *Verifier) authenticate(r *http.Request) (stream.Principal, error) {
	found, err := credentialOf(r, v.cookie)
	if err != nil {
		return stream.Principal{}, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	if len(found.token) > longestKept {
		t, err := v.verify(r.Context(), found.token)
		t.principal.Ambient = found.ambient
		return t.principal, err
	}
	hash, generation := tokenHash(sha256.Sum256([]byte(found.token))), v.keys.generation() // before it is verified
	p, kept := v.tokens.find(hash, generation, v.now())
	if !kept {
		t, err := v.verify(r.Context(), found.token)
		if err != nil {
			return stream.Principal{}, err
		}
		t.generation = generation
		v.tokens.keep(hash, t)
		p = t.principal
	}
	p.Ambient = found.ambient
	return p, nil
}

// verify says who a token speaks for.
func (v *Verifier) verify(ctx context.Context, token string) (t verifiedToken, _ error) {
	if err := checkForm(token); err != nil {
		return t, fmt.Errorf("%w: %w", ErrUnauthenticated, err)
	}
	c := claims{names: v.names}
	if _, err := v.parser.ParseWithClaims(token, &c,
		func(t *jwt.Token) (any, error) { return v.keys.key(ctx, t) }); err != nil {
		return t, fmt.Errorf("%w: %w", ErrUnauthenticated, reason(err))
	}
	if !v.now().Before(c.ExpiresAt.Time) {
		return t, fmt.Errorf("%w: %w", ErrUnauthenticated, jwt.ErrTokenExpired)
	}
	p := stream.Principal{Subject: c.Subject, Role: c.Role, Expires: c.ExpiresAt.Time}
	if n := utf8.RuneCountInString(p.Subject); n > maxSubject {
		return t, fmt.Errorf("%w: sub has %d characters, at most %d are allowed", ErrUnauthenticated, n, maxSubject)
	}
	if p.Role != stream.RoleViewer && p.Role != stream.RoleAdmin {
		return t, fmt.Errorf("%w: the role is neither viewer nor admin", ErrUnauthenticated)
	}
	if c.Topologies.limited {
		p.Topologies = c.Topologies.ids
	}
	t.principal = p
	if c.NotBefore != nil {
		t.notBefore = c.NotBefore.Time
	}
	return t, nil
}

// reason names the kind of failure; the library's own texts may quote the token.
func reason(err error) error {
	if claim, ok := errors.AsType[claimError](err); ok {
		return claim
	}
	for _, kind := range []error{
		errNoSuchKey, errWrongAlgorithm, errClaims,
		jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenSignatureInvalid,
		jwt.ErrTokenInvalidIssuer,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenMalformed, jwt.ErrTokenUnverifiable,
	} {
		if errors.Is(err, kind) {
			return kind
		}
	}
	return errInvalid
}
