package auth

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
)

// counted are keys that count how often they are asked for, and can be replaced.
type counted struct {
	keySource

	asked int
	now   int    // the generation
	while func() // what happens while a token is verified
}

func (c *counted) generation() any { return c.now }

func (c *counted) key(ctx context.Context, token *jwt.Token) (any, error) {
	c.asked++
	if c.while != nil {
		c.while()
	}
	return c.keySource.key(ctx, token)
}

// A keeper is a verifier on a clock of its own.
type keeper struct {
	t     *testing.T
	v     *Verifier
	keys  *counted
	clock time.Time
}

func newKeeper(t *testing.T) *keeper {
	t.Helper()
	k := &keeper{t: t, clock: time.Unix(1_800_000_000, 0)}
	v, err := New(Config{
		Secret: []byte(strings.Repeat("s", MinSecret)), Cookie: "c", Now: func() time.Time { return k.clock },
	})
	if err != nil {
		t.Fatal(err)
	}
	k.v, k.keys = v, &counted{keySource: v.keys}
	v.keys = k.keys
	return k
}

func (k *keeper) token(claims jwt.MapClaims) string {
	k.t.Helper()
	for name, value := range map[string]any{"sub": "ann", "role": "viewer", "exp": k.clock.Add(time.Hour).Unix()} {
		if _, ok := claims[name]; !ok {
			claims[name] = value
		}
	}
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(strings.Repeat("s", MinSecret)))
	if err != nil {
		k.t.Fatal(err)
	}
	return token
}

// is fails unless the token is taken, or not, after the keys were asked for so often in all.
func (k *keeper) is(token string, taken bool, asked int) stream.Principal {
	k.t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	p, err := k.v.Authenticate(r)
	if (err == nil) != taken || err != nil && !errors.Is(err, ErrUnauthenticated) || k.keys.asked != asked {
		k.t.Errorf("taken %v after %d times (%v), want %v after %d", err == nil, k.keys.asked, err, taken, asked)
	}
	return p
}

func TestATokenThatComesAgainIsNotVerifiedAgain(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	const id = "0190e7b2-0000-7000-8000-000000000001"
	token := k.token(jwt.MapClaims{"topologies": []string{id}})
	first := k.is(token, true, 1)
	again := k.is(token, true, 1)
	if first.Subject != "ann" || again.Subject != "ann" || !again.Expires.Equal(first.Expires) || again.Ambient ||
		!slices.Equal(again.Topologies, []stream.TopologyID{id}) {
		t.Errorf("%+v, then %+v", first, again)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(&http.Cookie{Name: "c", Value: token})
	if p, err := k.v.Authenticate(r); err != nil || !p.Ambient || k.keys.asked != 1 {
		t.Errorf("by the cookie: %+v, %v", p, err)
	}
	k.is(token, true, 1) // which is not the cookie's
	k.is(k.token(jwt.MapClaims{"sub": "bob"}), true, 2)
}

func TestATokenThatIsKeptEndsAsAnyOther(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	token := k.token(jwt.MapClaims{"nbf": k.clock.Unix()})
	k.is(token, true, 1)
	k.clock = k.clock.Add(time.Hour - time.Second)
	k.is(token, true, 1)
	k.clock = k.clock.Add(time.Second) // its exp, without any leeway
	k.is(token, false, 2)
	k.clock = k.clock.Add(-2 * time.Hour) // a clock that was put right
	k.is(token, false, 3)
}

func TestATokenThatWasRefusedIsVerifiedEachTime(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	for i := range 3 {
		k.is(k.token(jwt.MapClaims{"role": "nobody"}), false, i+1)
	}
	if n := k.kept(); n != 0 {
		t.Errorf("%d are kept", n)
	}
	early := k.token(jwt.MapClaims{"nbf": k.clock.Add(time.Minute).Unix()})
	k.is(early, false, 4)
	k.clock = k.clock.Add(time.Minute)
	k.is(early, true, 5)
}

func TestOtherKeysVerifyATokenAnew(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	token := k.token(jwt.MapClaims{})
	k.is(token, true, 1)
	k.keys.now++
	k.is(token, true, 2)
	k.is(token, true, 2)
	// The keys are replaced while they verify another: which did is not known.
	k.keys.while = func() { k.keys.now++ }
	other := k.token(jwt.MapClaims{"sub": "bob"})
	k.is(other, true, 3)
	k.keys.while = nil
	k.is(other, true, 4)
	k.is(other, true, 4)
}

func (k *keeper) kept() (n int) {
	for _, shard := range k.v.tokens {
		n += shard.Len()
	}
	return n
}

func TestTheTokensThatAreKeptAreBounded(t *testing.T) {
	t.Parallel()
	k := newKeeper(t)
	long := k.token(jwt.MapClaims{"iss": strings.Repeat("x", longestKept)})
	k.is(long, true, 1)
	k.is(long, true, 2)
	if n := k.kept(); n != 0 {
		t.Errorf("%d are kept", n)
	}
	var hash tokenHash
	for i := range keptShards * keptEach * 2 {
		hash[0], hash[1], hash[2] = byte(i), byte(i>>8), byte(i>>16)
		k.v.tokens.keep(hash, verifiedToken{})
	}
	if n := k.kept(); n != keptShards*keptEach {
		t.Errorf("%d are kept", n)
	}
}
