package auth_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
	"topostream/stream/auth"
)

// principal is whom a token speaks for.
func principal(t *testing.T, v *auth.Verifier, token string) (stream.Principal, error) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	return v.Authenticate(r)
}

func TestASecretThatIsReplacedLogsNobodyOut(t *testing.T) {
	t.Parallel()
	older, newer := bytes.Repeat([]byte("o"), auth.MinSecret), bytes.Repeat([]byte("n"), auth.MinSecret)
	both := append(append(append([]byte{}, newer...), "\r\n\n"...), older...)
	v := verifier(t, auth.Config{Secret: older})
	old, fresh := sign(t, older, jwt.SigningMethodHS256, good()), sign(t, newer, jwt.SigningMethodHS256, good())
	for _, step := range []struct {
		secrets    []byte
		old, fresh bool
	}{{older, true, false}, {both, true, true}, {newer, false, true}} {
		if err := v.Replace(auth.Config{Secret: step.secrets}); err != nil {
			t.Fatal(err)
		}
		_, oldErr := principal(t, v, old)
		_, freshErr := principal(t, v, fresh)
		if (oldErr == nil) != step.old || (freshErr == nil) != step.fresh {
			t.Errorf("with %d secrets: the old token %v, the new one %v", len(auth.Secrets(step.secrets)), oldErr, freshErr)
		}
	}
	for _, wrong := range []auth.Config{
		{Secret: []byte("short")}, {Secret: append(both, "\nshort"...)}, {}, {PublicKeys: publicPEM(p256Key())},
	} {
		if err := v.Replace(wrong); err == nil || strings.Contains(err.Error(), string(older)) {
			t.Errorf("%+v: %v", wrong, err)
		}
	}
	if _, err := principal(t, v, fresh); err != nil {
		t.Errorf("after keys that cannot be used: %v", err)
	}
}

func TestPublicKeysThatAreReplacedMayBeOfAnotherKind(t *testing.T) {
	t.Parallel()
	v := verifier(t, auth.Config{PublicKeys: publicPEM(p256Key())})
	token := sign(t, ed25519Key(), jwt.SigningMethodEdDSA, good())
	if _, err := principal(t, v, token); err == nil {
		t.Error("a token of no key is taken")
	}
	if err := v.Replace(auth.Config{PublicKeys: publicPEM(p256Key(), ed25519Key())}); err != nil {
		t.Fatal(err)
	}
	if _, err := principal(t, v, token); err != nil {
		t.Error(err)
	}
}

func TestAnApplicationsOwnTokensNameSubjectAndRoleTheirWay(t *testing.T) {
	t.Parallel()
	theirs := auth.Config{Secret: secret, SubjectClaim: "user_id", RoleClaim: "https://example.org/roles"}
	withDefault := theirs
	withDefault.DefaultRole = stream.RoleViewer
	roles := func(role any) jwt.MapClaims {
		return jwt.MapClaims{
			"exp": time.Now().Add(time.Hour).Unix(), "sub": 7, "role": []int{1}, "user_id": 42,
			"https://example.org/roles": role,
		}
	}
	without := roles(nil)
	delete(without, "https://example.org/roles")
	for name, c := range map[string]struct {
		cfg    auth.Config
		claims jwt.MapClaims
		want   stream.Role
	}{
		"one":                   {theirs, roles("admin"), stream.RoleAdmin},
		"the highest of some":   {theirs, roles([]string{"billing", "viewer", "admin"}), stream.RoleAdmin},
		"another":               {theirs, roles("billing"), ""},
		"others":                {theirs, roles([]string{"billing"}), ""},
		"null":                  {withDefault, roles(nil), ""},
		"a number":              {withDefault, roles(1), ""},
		"none":                  {theirs, without, ""},
		"none, with a default":  {withDefault, without, stream.RoleViewer},
		"other, with a default": {withDefault, roles("billing"), stream.RoleViewer},
		"more than the default": {withDefault, roles("admin"), stream.RoleAdmin},
	} {
		p, err := principal(t, verifier(t, c.cfg), sign(t, secret, jwt.SigningMethodHS256, c.claims))
		if (err == nil) != (c.want != "") || p.Role != c.want || err == nil && p.Subject != "42" {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
	if _, err := principal(t, verifier(t, auth.Config{Secret: secret}), sign(t, secret, jwt.SigningMethodHS256,
		roles("admin"))); err == nil {
		t.Error("without the settings it is taken")
	}
}
