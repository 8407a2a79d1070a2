package auth_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/pgbus/pgtest"
	"topostream/stream/auth"
)

// A clock stands until it is moved.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func newClock() *clock { return &clock{now: time.Now()} }

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// authenticates tells whether the token is taken.
func authenticates(t testing.TB, v *auth.Verifier, token string) bool {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	_, err := v.Authenticate(r)
	return err == nil
}

// background runs the verifier until the test ends, and waits until it has ended.
func background(t testing.TB, v *auth.Verifier) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func down(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }

func TestAKeyThatIsNewIsFoundAtOnceAndAtMostOneReadAMinuteIsMadeForUnknownOnes(t *testing.T) {
	t.Parallel()
	now := newClock()
	set := publish(t, jwk("old", rsaKey()))
	v := verifier(t, auth.Config{JWKSURL: set.url, Now: now.Now})
	claims := with("exp", now.Now().Add(24*time.Hour).Unix())
	oldToken := signAs(t, rsaKey(), jwt.SigningMethodRS256, claims, named("old"))
	newToken := signAs(t, p256Key(), jwt.SigningMethodES256, claims, named("new"))
	third := signAs(t, p384Key(), jwt.SigningMethodES384, claims, named("third"))
	step := func(what string, token string, taken bool, reads int) {
		t.Helper()
		if got := authenticates(t, v, token); got != taken || set.count() != reads {
			t.Errorf("%s: taken: %v after %d reads", what, got, set.count())
		}
	}
	step("the key of the start", oldToken, true, 1)
	set.change(nil, jwk("old", rsaKey()), jwk("new", p256Key()))
	step("a key that came", newToken, true, 2)
	step("the one before", oldToken, true, 2)
	set.change(nil, jwk("third", p384Key()))
	step("a key that came within the minute", third, false, 2)
	for i := range 100 {
		step("junk", signAs(t, otherRSA(), jwt.SigningMethodRS256, claims, named(fmt.Sprint("junk", i))), false, 2)
	}
	step("a key that is known meanwhile", oldToken, true, 2)
	now.advance(time.Minute)
	step("a key that came, a minute later", third, true, 3)
	step("a key that went", oldToken, false, 3)
	now.advance(time.Minute)
	step("a key that went, which is read for again", oldToken, false, 4)
}

func TestAThousandTokensOfANewKeyShareOneRead(t *testing.T) {
	t.Parallel()
	set := publish(t, jwk("old", rsaKey()))
	v := verifier(t, auth.Config{JWKSURL: set.url})
	token := signAs(t, p256Key(), jwt.SigningMethodES256, good(), named("new"))
	arrived, release := make(chan struct{}), make(chan struct{})
	set.change(func(w http.ResponseWriter, _ *http.Request) {
		close(arrived)
		<-release
		_, _ = w.Write(keySet(jwk("new", p256Key())))
	})
	var all sync.WaitGroup
	ask := func() {
		all.Go(func() {
			if !authenticates(t, v, token) {
				t.Error("a token of a new key is refused while the key is on its way")
			}
		})
	}
	ask()
	<-arrived
	for range 1000 {
		ask()
	}
	// Who has a key that is known waits for none of this.
	if !authenticates(t, v, signAs(t, rsaKey(), jwt.SigningMethodRS256, good(), named("old"))) {
		t.Error("a token of a known key is refused")
	}
	close(release)
	all.Wait()
	if n := set.count(); n != 2 {
		t.Errorf("%d reads, that of the start included", n)
	}
}

func TestTheLastGoodSetStaysWhileTheURLIsAwayOrBroken(t *testing.T) {
	t.Parallel()
	now := newClock()
	var log bytes.Buffer
	set := publish(t, jwk("k", rsaKey()))
	v := verifier(t, auth.Config{JWKSURL: set.url + "/keys?api_key=hunter2", Now: now.Now,
		Logger: slog.New(slog.NewTextHandler(&log, nil))})
	claims := with("exp", now.Now().Add(24*time.Hour).Unix())
	token := signAs(t, rsaKey(), jwt.SigningMethodRS256, claims, named("k"))
	unknown := signAs(t, p256Key(), jwt.SigningMethodES256, claims, named("unknown"))
	for name, broken := range map[string]http.HandlerFunc{
		"502":          down,
		"no JSON":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		"another JSON": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"error":"later"}`)) },
		"no keys":      func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[]}`)) },
		"a key that is broken": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write([]byte(`{"keys":[{"kty":"RSA","n":"!"}]}`))
		},
		"cut off": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"keys":[{`)) },
		"closed":  func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"2 MB": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(append(bytes.Repeat([]byte(" "), 2<<20), keySet(jwk("unknown", p256Key()))...))
		},
		"a redirect in a circle": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/?api_key=hunter2", http.StatusFound)
		},
	} {
		set.change(broken)
		now.advance(time.Minute)
		before := set.count()
		if authenticates(t, v, unknown) || set.count() == before {
			t.Errorf("%s: an unknown key is taken, or was not looked for", name)
		}
		if !authenticates(t, v, token) {
			t.Errorf("%s: a key of the last good set is refused", name)
		}
	}
	if text := log.String(); strings.Count(text, "the last good one stays") != 9 ||
		holdsAny(text, "hunter2", "api_key") || !strings.Contains(text, set.url+"/keys") {
		t.Error(text)
	}
}

func TestAJWKSThatIsAwayAtTheStartIsAnErrorWithoutItsSecrets(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(http.NotFoundHandler())
	gone.Close()
	weak := must(rsa.GenerateKey(rand.Reader, 1024))
	oct := map[string]any{"kid": "s", "kty": "oct", "k": base64.RawURLEncoding.EncodeToString(secret)}
	set := publish(t, oct, jwk("e", rsaKey(), "use", "enc"), jwk("w", weak))
	missing := publish(t)
	missing.change(http.NotFound)
	for address, want := range map[string]string{
		strings.Replace(gone.URL, "//", "//user:hunter2@", 1) + "/jwks?key=hunter2#hunter2": "connection refused",
		missing.url + "?key=hunter2": "404",
		set.url + "?key=hunter2": `no key that verifies tokens; left out: ["s": the URL publishes it, ` +
			`so that anybody can sign with it, "e": its use is "enc", "w": an RSA key has 1024 bits`,
	} {
		v, err := auth.New(auth.Config{JWKSURL: address})
		if err != nil {
			t.Fatal(err)
		}
		err = v.Load(t.Context())
		if err == nil || !strings.Contains(err.Error(), want) ||
			!strings.Contains(err.Error(), "--jwks-url: http://127.0.0.1") || holdsAny(err.Error(), "hunter2", "user") {
			t.Errorf("%s: %v", address, err)
		}
		if authenticates(t, v, signAs(t, rsaKey(), jwt.SigningMethodRS256, good(), named("e"))) {
			t.Error("a token is taken without a key")
		}
	}
}

func TestKeysOfASetThatVerifyNoTokensAreLeftOut(t *testing.T) {
	t.Parallel()
	private := jwk("published", p256Key())
	private["d"] = base64.RawURLEncoding.EncodeToString(must(p256Key().Bytes()))
	public := jwk("public", p384Key())
	public["d"] = nil
	set := publish(
		t, public, map[string]any{"kid": "oct", "kty": "oct", "k": base64.RawURLEncoding.EncodeToString(secret)}, private,
		jwk("enc", otherRSA(), "use", "enc"), jwk("oaep", otherRSA(), "alg", "RSA-OAEP"),
		jwk("confused", otherRSA(), "alg", "HS256"), jwk("other curve", p384Key(), "alg", "ES256"),
		map[string]any{"kid": "wrap", "kty": "RSA", "n": jwk("", otherRSA())["n"], "e": "AQAB",
			"key_ops": []string{"wrapKey"}},
		map[string]any{"kid": "x25519", "kty": "OKP", "crv": "X25519", "x": jwk("", ed25519Key())["x"]},
		map[string]any{"kid": "secp256k1", "kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
		map[string]any{"kid": "new", "kty": "AKP", "pub": "AA"},
		jwk("far", rsaKey(), "x5u", "http://127.0.0.1:1/"), jwk("good", ed25519Key()),
	)
	var log bytes.Buffer
	v := verifier(t, auth.Config{JWKSURL: set.url, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	for name, c := range map[string]struct {
		token string
		taken bool
	}{
		"null": {signAs(t, p384Key(), jwt.SigningMethodES384, good(), named("public")), true},
		"good": {signAs(t, ed25519Key(), jwt.SigningMethodEdDSA, good(), named("good")), true},
		"x5u":  {signAs(t, rsaKey(), jwt.SigningMethodRS256, good(), named("far")), true},
		"oct":  {signAs(t, secret, jwt.SigningMethodHS256, good(), named("oct")), false},
		"published": {signAs(t, p256Key(), jwt.SigningMethodES256, good(), named("published")),
			false},
		"enc":  {signAs(t, otherRSA(), jwt.SigningMethodRS256, good(), named("enc")), false},
		"oaep": {signAs(t, otherRSA(), jwt.SigningMethodRS256, good(), named("oaep")), false},
		"confused": {signAs(t, otherRSA(), jwt.SigningMethodRS256, good(), named("confused")),
			false},
		"wrap":                          {signAs(t, otherRSA(), jwt.SigningMethodRS256, good(), named("wrap")), false},
		"wrong kid":                     {signAs(t, ed25519Key(), jwt.SigningMethodEdDSA, good(), named("far")), false},
		"no kid":                        {sign(t, ed25519Key(), jwt.SigningMethodEdDSA, good()), false},
		"no kid, signed with the first": {sign(t, rsaKey(), jwt.SigningMethodRS256, good()), false},
		"empty kid":                     {signAs(t, ed25519Key(), jwt.SigningMethodEdDSA, good(), named("")), false},
	} {
		if got := authenticates(t, v, c.token); got != c.taken {
			t.Errorf("%s: %v", name, got)
		}
	}
	// Both the symmetric key and the private one are named, and all three that say an algorithm that does not fit.
	if text := log.String(); strings.Count(text, "anybody can sign with it") != 2 ||
		strings.Count(text, "its alg is") != 3 {
		t.Error(text)
	}
}

// RFC 7517, section 5: who reads a set ignores the keys that it cannot use.
func TestAKeyThatIsBrokenMakesTheOthersNoWorse(t *testing.T) {
	t.Parallel()
	but := func(key map[string]any, name string, value any) map[string]any {
		key["kid"] = "broken"
		if key[name] = value; value == nil {
			delete(key, name)
		}
		return key
	}
	for what, broken := range map[string]any{
		"RSA without n":        but(jwk("", rsaKey()), "n", nil),
		"RSA without e":        but(jwk("", rsaKey()), "e", nil),
		"RSA, n is no base64":  but(jwk("", rsaKey()), "n", "!"),
		"RSA, e is a number":   but(jwk("", rsaKey()), "e", 65537),
		"RSA, e is 0":          but(jwk("", rsaKey()), "e", "AA"),
		"RSA, a short d":       but(jwk("", rsaKey()), "d", "AA"),
		"EC off its curve":     but(jwk("", p256Key()), "x", jwk("", p256Key())["y"]),
		"EC without y":         but(jwk("", p256Key()), "y", nil),
		"EC of another curve":  but(jwk("", p256Key()), "crv", "P-384"),
		"EC, no such curve":    but(jwk("", p256Key()), "crv", "P-1"),
		"Ed25519, short":       but(jwk("", ed25519Key()), "x", "AAAA"),
		"Ed25519 without x":    but(jwk("", ed25519Key()), "x", nil),
		"x5c is no base64":     but(jwk("", rsaKey()), "x5c", []string{"!"}),
		"x5c is another's":     but(jwk("", rsaKey()), "x5c", []string{"MIIB"}),
		"x5c is a text":        but(jwk("", rsaKey()), "x5c", "MIIB"),
		"no kty":               but(jwk("", rsaKey()), "kty", nil),
		"a kty of the future":  but(jwk("", rsaKey()), "kty", "PQC"),
		"key_ops is a text":    but(jwk("", rsaKey()), "key_ops", "verify"),
		"kid is a number":      map[string]any{"kid": 7, "kty": "RSA"},
		"nothing":              nil,
		"a text":               "RSA",
		"an object of nothing": map[string]any{},
	} {
		set := publish(t)
		body := must(json.Marshal(map[string]any{"keys": []any{broken, jwk("good", p256Key())}}))
		set.change(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) })
		var log bytes.Buffer
		v := must(auth.New(auth.Config{JWKSURL: set.url, Logger: slog.New(slog.NewTextHandler(&log, nil))}))
		if err := v.Load(t.Context()); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if !authenticates(t, v, signAs(t, p256Key(), jwt.SigningMethodES256, good(), named("good"))) {
			t.Errorf("%s: the good key is not found", what)
		}
		if authenticates(t, v, signAs(t, rsaKey(), jwt.SigningMethodRS256, good(), named("broken"))) {
			t.Errorf("%s: the broken key is taken", what)
		}
		if _, left, _ := strings.Cut(log.String(), "left_out="); len(left) < 10 {
			t.Errorf("%s: the log does not say why it is left out: %s", what, log.String())
		}
	}
}

func TestKeysOfOneKidAreToldApartByKindAndAlgorithm(t *testing.T) {
	t.Parallel()
	set := publish(t, jwk("k", p256Key()), jwk("k", rsaKey(), "alg", "RS256"), jwk("k", otherRSA()))
	v := verifier(t, auth.Config{JWKSURL: set.url})
	for name, c := range map[string]struct {
		token string
		taken bool
	}{
		"EC":                      {signAs(t, p256Key(), jwt.SigningMethodES256, good(), named("k")), true},
		"RSA":                     {signAs(t, rsaKey(), jwt.SigningMethodRS256, good(), named("k")), true},
		"the other RSA":           {signAs(t, otherRSA(), jwt.SigningMethodRS256, good(), named("k")), true},
		"not the alg of its key":  {signAs(t, rsaKey(), jwt.SigningMethodPS256, good(), named("k")), false},
		"any alg where none is":   {signAs(t, otherRSA(), jwt.SigningMethodPS256, good(), named("k")), true},
		"no key of the algorithm": {signAs(t, ed25519Key(), jwt.SigningMethodEdDSA, good(), named("k")), false},
		"none is named, of three": {sign(t, rsaKey(), jwt.SigningMethodRS256, good()), false},
	} {
		if got := authenticates(t, v, c.token); got != c.taken {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestATokenNeedNotNameTheOnlyKeyOfASet(t *testing.T) {
	t.Parallel()
	for _, key := range []map[string]any{jwk("k", rsaKey(), "alg", "RS256"), jwk("", rsaKey(), "alg", "RS256")} {
		if key["kid"] == "" {
			delete(key, "kid")
		}
		v := verifier(t, auth.Config{JWKSURL: publish(t, key).url})
		if !authenticates(t, v, sign(t, rsaKey(), jwt.SigningMethodRS256, good())) {
			t.Errorf("%v: a token without kid is refused", key["kid"])
		}
		if authenticates(t, v, sign(t, rsaKey(), jwt.SigningMethodRS512, good())) ||
			authenticates(t, v, sign(t, otherRSA(), jwt.SigningMethodRS256, good())) {
			t.Errorf("%v: a token without kid is taken with another algorithm or key", key["kid"])
		}
	}
}

func TestASetIsReadAgainInTheBackgroundAlsoAfterItWasAway(t *testing.T) {
	t.Parallel()
	set := publish(t, jwk("old", rsaKey()))
	now := newClock()
	v := verifier(t, auth.Config{JWKSURL: set.url, Refresh: time.Millisecond, Now: now.Now})
	token := signAs(t, rsaKey(), jwt.SigningMethodRS256, good(), named("old"))
	unknown := signAs(t, p256Key(), jwt.SigningMethodES256, good(), named("new"))
	if authenticates(t, v, unknown) { // and with this, the minute's read for unknown keys is used
		t.Fatal("an unknown key is taken")
	}
	set.change(down)
	background(t, v)
	n := set.count()
	pgtest.Eventually(t, "reads of what is away", func() bool { return set.count() > n+3 })
	if !authenticates(t, v, token) {
		t.Error("the last good set has gone")
	}
	set.change(nil, jwk("new", p256Key()))
	pgtest.Eventually(t, "the end of the old key", func() bool { return !authenticates(t, v, token) })
	if !authenticates(t, v, unknown) {
		t.Error("the new key is refused")
	}
}

func TestARefreshThatHangsEndsWithItsOwner(t *testing.T) {
	t.Parallel()
	set := publish(t, jwk("k", rsaKey()))
	v := verifier(t, auth.Config{JWKSURL: set.url, Refresh: time.Millisecond})
	hangs := make(chan struct{})
	var once sync.Once
	set.change(func(_ http.ResponseWriter, r *http.Request) {
		once.Do(func() { close(hangs) })
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- v.Run(ctx) }()
	<-hangs
	if !authenticates(t, v, signAs(t, rsaKey(), jwt.SigningMethodRS256, good(), named("k"))) {
		t.Error("a known key waits for a read")
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestARedirectDoesNotLeaveHTTPS(t *testing.T) {
	t.Parallel()
	plain := publish(t, jwk("k", rsaKey()))
	secure := httptest.NewTLSServer(http.RedirectHandler(plain.url, http.StatusFound))
	t.Cleanup(secure.Close)
	if err := auth.LoadWith(t.Context(), secure.URL, secure.Certificate()); err == nil ||
		!strings.Contains(err.Error(), "leads away from https") || plain.count() != 0 {
		t.Errorf("%v after %d reads", err, plain.count())
	}
}

func BenchmarkAuthenticate(b *testing.B) {
	set := publish(b, jwk("k", p256Key()), jwk("r", rsaKey()), jwk("e", ed25519Key()))
	for _, c := range []struct {
		name  string
		cfg   auth.Config
		token string
	}{
		{"HS256", auth.Config{Secret: secret}, sign(b, secret, jwt.SigningMethodHS256, good())},
		{"ES256_JWKS", auth.Config{JWKSURL: set.url}, signAs(b, p256Key(), jwt.SigningMethodES256, good(), named("k"))},
		{"RS256_JWKS", auth.Config{JWKSURL: set.url}, signAs(b, rsaKey(), jwt.SigningMethodRS256, good(), named("r"))},
		{"EdDSA_JWKS", auth.Config{JWKSURL: set.url},
			signAs(b, ed25519Key(), jwt.SigningMethodEdDSA, good(), named("e"))},
	} {
		v := verifier(b, c.cfg)
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Authorization", "Bearer "+c.token)
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := v.Authenticate(r); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
