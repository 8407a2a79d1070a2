// Package auth verifies and signs JSON Web Tokens (RFC 7519).
package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
)

// MinSecret is the shortest secret in bytes (RFC 7518, section 3.2: as long as the hash of HS256).
const MinSecret = 32

// clockSkew is how far nbf and iat may lie ahead of this clock.
const clockSkew = 30 * time.Second

// ErrUnauthenticated is all that a client learns. What is wrapped beside it is for the log and never holds the token.
var ErrUnauthenticated = errors.New("the request has no valid token")

// Config says which tokens are good.
type Config struct {
	Secret   []byte // HS256, HS384, HS512
	Issuer   string // required iss; empty: any
	Audience string // required aud; empty: any
	Now      func() time.Time
}

// A Verifier authenticates requests. Any goroutine may use it.
type Verifier struct {
	secret []byte
	now    func() time.Time
	parser *jwt.Parser
}

type claims struct {
	jwt.RegisteredClaims

	Role       stream.Role `json:"role"`
	Topologies scope       `json:"topologies,omitzero"`
}

// scope is the claim topologies: absent is all, and whatever else is no array of ids is refused, null included: an issuer that writes it may have
// meant none.
type scope struct {
	limited bool
	ids     []stream.TopologyID
}

func (s *scope) UnmarshalJSON(raw []byte) error {
	var texts []string
	if err := json.Unmarshal(raw, &texts); err != nil || texts == nil {
		return errScope
	}
	s.limited, s.ids = true, []stream.TopologyID{}
	for _, text := range texts {
		id, ok := stream.ParseTopologyID(text)
		if !ok {
			return errScope
		}
		s.ids = append(s.ids, id)
	}
	return nil
}

func (s scope) MarshalJSON() ([]byte, error) { return json.Marshal(s.ids) }

// IsZero lets the claim be left out.
func (s scope) IsZero() bool { return !s.limited }

var errScope = errors.New("topologies is no array of ids")

// New makes a verifier, or says what is wrong with the secret.
func New(cfg Config) (*Verifier, error) {
	if len(cfg.Secret) == 0 {
		return nil, errors.New("no secret: set TOPOSTREAM_JWT_SECRET or --jwt-secret-file, for example to the output of `openssl rand -base64 48`")
	}
	if len(cfg.Secret) < MinSecret {
		return nil, fmt.Errorf("the JWT secret has %d bytes: it needs %d or more, for example `openssl rand -base64 48`", len(cfg.Secret), MinSecret)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	// The library has one leeway for exp, nbf and iat. Authenticate checks exp again, without.
	return &Verifier{cfg.Secret, cfg.Now, jwt.NewParser(
		jwt.WithLeeway(clockSkew), jwt.WithIssuedAt(),
		jwt.WithValidMethods([]string{"HS256", "HS384", "HS512"}),
		jwt.WithExpirationRequired(), jwt.WithTimeFunc(cfg.Now), jwt.WithStrictDecoding(),
		optional(cfg.Issuer, jwt.WithIssuer), optional(cfg.Audience, func(a string) jwt.ParserOption { return jwt.WithAudience(a) }),
	)}, nil
}

func optional(s string, option func(string) jwt.ParserOption) jwt.ParserOption {
	if s == "" {
		return func(*jwt.Parser) {}
	}
	return option(s)
}

// Authenticate reads the token of Authorization: Bearer, or of ?token=.
func (v *Verifier) Authenticate(r *http.Request) (stream.Principal, error) {
	token := r.URL.Query().Get("token")
	if scheme, rest, _ := strings.Cut(r.Header.Get("Authorization"), " "); strings.EqualFold(scheme, "Bearer") {
		token = strings.TrimSpace(rest) // another scheme is a proxy's own
	}
	if token == "" {
		return stream.Principal{}, fmt.Errorf("%w: none given", ErrUnauthenticated)
	}
	var c claims
	if _, err := v.parser.ParseWithClaims(token, &c, func(*jwt.Token) (any, error) { return v.secret, nil }); err != nil {
		return stream.Principal{}, fmt.Errorf("%w: %s", ErrUnauthenticated, reason(err))
	}
	if !v.now().Before(c.ExpiresAt.Time) {
		return stream.Principal{}, fmt.Errorf("%w: %w", ErrUnauthenticated, jwt.ErrTokenExpired)
	}
	p := stream.Principal{Subject: c.Subject, Role: c.Role, Expires: c.ExpiresAt.Time}
	if p.Role != stream.RoleViewer && p.Role != stream.RoleAdmin {
		return stream.Principal{}, fmt.Errorf("%w: the role is neither viewer nor admin", ErrUnauthenticated)
	}
	if c.Topologies.limited {
		p.Topologies = c.Topologies.ids
	}
	return p, nil
}

// reason names the kind of failure; the library's own texts may quote the token.
func reason(err error) string {
	for _, kind := range []error{
		jwt.ErrTokenExpired, jwt.ErrTokenNotValidYet, jwt.ErrTokenUsedBeforeIssued, jwt.ErrTokenSignatureInvalid, jwt.ErrTokenInvalidIssuer,
		jwt.ErrTokenInvalidAudience, jwt.ErrTokenRequiredClaimMissing, jwt.ErrTokenMalformed,
	} {
		if errors.Is(err, kind) {
			return kind.Error()
		}
	}
	return "invalid"
}

// Claims are what a signed token says.
type Claims struct {
	Subject    string
	Role       stream.Role
	TTL        time.Duration
	Topologies []stream.TopologyID // nil: all
	Issuer     string
	Audience   string
}

// Sign makes an HS256 token.
func Sign(secret []byte, c Claims, now time.Time) (string, error) {
	t := claims{Role: c.Role, RegisteredClaims: jwt.RegisteredClaims{
		Subject: c.Subject, Issuer: c.Issuer, IssuedAt: jwt.NewNumericDate(now), ExpiresAt: jwt.NewNumericDate(now.Add(c.TTL)),
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
