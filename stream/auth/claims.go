package auth

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	jsonv2 "github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
)

// maxToken is the longest token in bytes. It is checked before anything is parsed.
const maxToken = 8 << 10

var (
	errTooLong   = fmt.Errorf("longer than %d bytes", maxToken)
	errForm      = errors.New("it does not have the form of a signed token")
	errHeader    = errors.New("its header is malformed, names something twice, or asks for an extension")
	errScope     = errors.New("it is no array of ids")
	errNoSeconds = errors.New("it is no whole number of seconds since 1970, without fraction or exponent")
	errMalformed = errors.New("it is of another type or given twice")
	errClaims    = errors.New("the claims are malformed or name something twice")
)

// checkForm refuses what the library would let pass. Its base64 ignores line ends, which would give one token many
// spellings, and it takes the last of two members of one name, and no notice of crit (RFC 7515, section 4.1.11) and b64
// (RFC 7797). The whole header is read here, and keys and URLs that it may hold (jwk, jku, x5c, x5u) by nobody.
func checkForm(token string) error {
	if len(token) > maxToken {
		return errTooLong
	}
	if strings.IndexFunc(token, func(c rune) bool { return !isTokenCharacter(c) }) >= 0 {
		return errForm
	}
	encoded, _, _ := strings.Cut(token, ".")
	raw, err := base64.RawURLEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return errForm
	}
	var header struct {
		Algorithm string         `json:"alg"`
		KeyID     *string        `json:"kid"`
		Critical  jsontext.Value `json:"crit"`
		Base64    jsontext.Value `json:"b64"`
	}
	if err := jsonv2.Unmarshal(raw, &header); err != nil || header.Critical != nil || header.Base64 != nil {
		return errHeader
	}
	return nil
}

func isTokenCharacter(c rune) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.'
}

type claims struct {
	jwt.RegisteredClaims

	Role       stream.Role `json:"role"`
	Topologies scope       `json:"topologies,omitzero"`

	names claimNames
}

// claimNames say where the tokens of an application have what ours have in sub and role. Empty is ours.
type claimNames struct {
	subject, role string
	otherwise     stream.Role // of a token that names no role that there is; empty: it is refused
}

// UnmarshalJSON reads the claims by the rules of json/v2: names differ by case, and a name that comes twice, on any
// level, is an error. Package encoding/json takes "Role" for role, and the last of two.
func (c *claims) UnmarshalJSON(raw []byte) error {
	var wire struct {
		Issuer    string           `json:"iss"`
		Subject   jsontext.Value   `json:"sub"`
		Audience  jwt.ClaimStrings `json:"aud"`
		Expires   seconds          `json:"exp"`
		NotBefore seconds          `json:"nbf"`
		IssuedAt  seconds          `json:"iat"`

		Role       jsontext.Value `json:"role"`
		Topologies scope          `json:"topologies"`
	}
	if err := jsonv2.Unmarshal(raw, &wire); err != nil {
		return claimsError(err)
	}
	var all map[string]jsontext.Value
	if c.names.subject != "" || c.names.role != "" {
		if err := jsonv2.Unmarshal(raw, &all); err != nil {
			return errClaims
		}
	}
	subject, err := c.names.subjectOf(wire.Subject, all)
	if err != nil {
		return err
	}
	role, err := c.names.roleOf(wire.Role, all)
	if err != nil {
		return err
	}
	*c = claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: wire.Issuer, Subject: subject, Audience: wire.Audience,
			ExpiresAt: wire.Expires.date, NotBefore: wire.NotBefore.date, IssuedAt: wire.IssuedAt.date,
		},
		Role: role, Topologies: wire.Topologies, names: c.names,
	}
	return nil
}

// subjectOf is whom a token speaks for: a text, in a claim of an application's own also a whole number.
func (n claimNames) subjectOf(sub jsontext.Value, all map[string]jsontext.Value) (subject string, _ error) {
	if n.subject == "" {
		return subject, unmarshalClaim("sub", sub, &subject)
	}
	value := all[n.subject]
	var number uint64
	if jsonv2.Unmarshal(value, &number) == nil {
		return strconv.FormatUint(number, 10), nil
	}
	return subject, unmarshalClaim("of --jwt-subject-claim", value, &subject)
}

// roleOf is the highest role that a token names. A claim of an application's own may hold several, and others that mean
// nothing here.
func (n claimNames) roleOf(role jsontext.Value, all map[string]jsontext.Value) (stream.Role, error) {
	var given []stream.Role
	switch value := all[n.role]; {
	case n.role == "":
		var one stream.Role
		if err := unmarshalClaim("role", role, &one); err != nil {
			return "", err
		}
		given = append(given, one)
	case value.Kind() == '[':
		if err := unmarshalClaim("of --jwt-role-claim", value, &given); err != nil {
			return "", err
		}
	default:
		var one stream.Role
		if err := unmarshalClaim("of --jwt-role-claim", value, &one); err != nil {
			return "", err
		}
		given = append(given, one)
	}
	for _, known := range []stream.Role{stream.RoleAdmin, stream.RoleViewer} {
		if slices.Contains(given, known) {
			return known, nil
		}
	}
	return n.otherwise, nil
}

// unmarshalClaim reads a claim, if it is there.
func unmarshalClaim(name string, value jsontext.Value, into any) error {
	if value == nil {
		return nil
	}
	if value.Kind() == 'n' || jsonv2.Unmarshal(value, into) != nil {
		return claimError{name, errMalformed}
	}
	return nil
}

// claimsError names the claim that is wrong, and quotes nothing of the token: the names are ours.
func claimsError(err error) error {
	var at jsontext.Pointer
	if e, ok := errors.AsType[*jsonv2.SemanticError](err); ok {
		at = e.JSONPointer
	} else if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		at = e.JSONPointer
	}
	for token := range at.Tokens() {
		if !slices.Contains([]string{"iss", "sub", "aud", "exp", "nbf", "iat", "role", "topologies"}, token) {
			break
		}
		for _, why := range []error{errNoSeconds, errScope} {
			if errors.Is(err, why) {
				return claimError{token, why}
			}
		}
		return claimError{token, errMalformed}
	}
	return errClaims
}

// A claimError is what is wrong with a claim.
type claimError struct {
	claim string
	why   error
}

func (e claimError) Error() string { return "the claim " + e.claim + ": " + e.why.Error() }

// seconds is a NumericDate (RFC 7519, section 2) without a fraction: 1 to 12 digits, which end long after year 9999.
// The RFC allows fractions, exponents and signs, too. They are refused: a stream ends when its token does, and when
// that is must be beyond doubt.
type seconds struct{ date *jwt.NumericDate }

func (s *seconds) UnmarshalJSON(raw []byte) error {
	const maxDigits = 12
	n, err := strconv.ParseUint(string(raw), 10, 63)
	if err != nil || len(raw) > maxDigits {
		return errNoSeconds
	}
	s.date = jwt.NewNumericDate(time.Unix(int64(n), 0))
	return nil
}

// scope is the claim topologies. Absent, it covers all. Whatever is no array of ids is refused, null included: whoever
// writes that may have meant none.
type scope struct {
	limited bool // the claim is there
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
