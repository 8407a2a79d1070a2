package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/pgbus/pgtest"
)

// An issuer signs with keys that it publishes as a JWK set until it is away.
type issuer struct {
	t   *testing.T
	url string

	mu     sync.Mutex
	keys   map[string]*ecdsa.PrivateKey // by kid
	closed bool
}

func newIssuer(t *testing.T, kids ...string) *issuer {
	t.Helper()
	i := &issuer{t: t}
	i.rotate(kids...)
	server := httptest.NewServer(i)
	t.Cleanup(server.Close)
	i.url = server.URL
	return i
}

// rotate replaces all keys.
func (i *issuer) rotate(kids ...string) {
	keys := map[string]*ecdsa.PrivateKey{}
	for _, kid := range kids {
		keys[kid] = ecKey(i.t)
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = keys
}

func (i *issuer) goAway() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.closed = true
}

func (i *issuer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.closed {
		panic(http.ErrAbortHandler)
	}
	keys := make([]any, 0, len(i.keys))
	for kid, key := range i.keys {
		point, err := key.PublicKey.Bytes()
		if err != nil {
			i.t.Error(err)
		}
		b64 := base64.RawURLEncoding.EncodeToString
		keys = append(
			keys,
			map[string]string{
				"kid": kid,
				"use": "sig",
				"alg": "ES256",
				"kty": "EC",
				"crv": "P-256",
				"x":   b64(point[1:33]),
				"y":   b64(point[33:]),
			},
		)
	}
	if err := json.NewEncoder(w).Encode(map[string]any{"keys": keys}); err != nil {
		i.t.Log(err) // the reader may be gone
	}
}

func (i *issuer) token(kid string, ttl time.Duration) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return ecToken(i.t, i.keys[kid], kid, "viewer", ttl)
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func ecToken(t *testing.T, key *ecdsa.PrivateKey, kid, role string, ttl time.Duration) string {
	t.Helper()
	token := jwt.NewWithClaims(jwt.SigningMethodES256,
		jwt.MapClaims{"sub": "ann", "role": role, "exp": time.Now().Add(ttl).Unix()})
	token.Header["kid"] = kid
	text, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// listed is what the list of topologies answers to a request with these headers, given as pairs.
func listed(t *testing.T, server string, header ...string) int {
	t.Helper()
	return asked(t, http.MethodGet, server+"/api/v1/topologies", header...)
}

func asked(t *testing.T, method, url string, header ...string) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(`{"name":"by a form"}`))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := (&http.Client{Transport: contracted(&http.Transport{DisableKeepAlives: true})}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	return res.StatusCode
}

func TestStreamsOutliveTheRotationOfTheKeyOfTheirTokenUntilItsExp(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := demo(t, conn)
	issuer := newIssuer(t, "a")
	server := serve(t, db.URL, func(c *serveCmd) { c.JWTSecret, c.JWKSURL = "", issuer.url })
	long := newClient(t, server.url, id, "")
	long.token = issuer.token("a", time.Hour)
	long.watch().awaitSeq(1)
	short := issuer.token("a", 10*time.Second)
	ending := open(t, server.url+"/api/v1/topologies/"+id+"/events", "Authorization", "Bearer "+short)

	old := long.token
	issuer.rotate("b")
	if got := listed(t, server.url, "Authorization", "Bearer "+issuer.token("b", time.Hour)); got != http.StatusOK {
		t.Errorf("a token of the new key gets %d", got)
	}
	if got := listed(t, server.url, "Authorization", "Bearer "+old); got != http.StatusUnauthorized {
		t.Errorf("a token of the key that went gets %d", got)
	}
	issuer.goAway()
	long.awaitSeq(emit(t, conn, id))
	long.stayedConnected()
	if got := listed(t, server.url, "Authorization", "Bearer "+issuer.token("b", time.Hour)); got != http.StatusOK {
		t.Errorf("while the URL is away a token of the last good set gets %d", got)
	}
	// On a slow machine the exp may come before the event.
	if got := events(t, ending.Body, ""); !slices.Equal(got, []string{"snapshot 1", "test 2", "token_expired 2"}) &&
		!slices.Equal(got, []string{"snapshot 1", "token_expired 1"}) {
		t.Errorf("a stream over the rotation and its token's exp: %v", got)
	}
	if log := server.log.String(); strings.Contains(log, old) || strings.Contains(log, short) {
		t.Error("the log holds a token")
	}
}

func TestAJWKSThatIsAwayAtTheStartEndsTheServerWithTheReason(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	for want, url := range map[string]string{
		"--jwks-url: http://127.0.0.1:1/jwks: ": "http://user:hunter2@127.0.0.1:1/jwks?key=hunter2",
		"give one that begins with https://":    "ftp://user:hunter2@x.example/",
	} {
		var out, errOut bytes.Buffer
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		code := run(ctx, []string{"serve", "--addr", "127.0.0.1:0", "--database-url", db.URL, "--jwks-url", url}, &out,
			&errOut)
		cancel()
		if code != exitError || !strings.Contains(errOut.String(), want) || strings.Contains(errOut.String(), "hunter2") {
			t.Errorf("%d %s", code, errOut.String())
		}
	}
}

// publicPEM is what --jwt-public-key reads.
func publicPEM(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func TestTokensAreVerifiedByAFileOfKeysAndFoundInACookie(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	key := ecKey(t)
	file := filepath.Join(t.TempDir(), "keys.pem")
	if err := os.WriteFile(file, []byte(publicPEM(t, key)), 0o600); err != nil {
		t.Fatal(err)
	}
	server := serve(t, db.URL,
		func(c *serveCmd) { c.JWTSecret, c.JWTPublicKey, c.AuthCookie = "", file, "__Host-topostream" })
	admin := ecToken(t, key, "", "admin", time.Hour)
	for _, header := range [][]string{{"Authorization", "Bearer " + admin}, {"Cookie", "__Host-topostream=" + admin}} {
		if got := listed(t, server.url, header...); got != http.StatusOK {
			t.Errorf("%s: %d", header[0], got)
		}
	}
	if got := listed(t, server.url, "Authorization", "Bearer "+testToken(t)); got != http.StatusUnauthorized {
		t.Errorf("a token that a secret signed: %d", got)
	}
	topologies, cookie := server.url+"/api/v1/topologies", "__Host-topostream="+admin
	if got := asked(t, http.MethodPost, topologies, "Cookie", cookie, "Content-Type", "application/x-www-form-urlencoded",
		"Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site"); got != http.StatusForbidden {
		t.Errorf("a form of another site: %d", got)
	}
	if n := pgtest.Scan[int](t, db.Conn(t), `SELECT count(*)::int FROM topologies`); n != 0 {
		t.Errorf("%d topologies were made", n)
	}
	if got := asked(t, http.MethodPost, topologies, "Cookie", cookie, "Content-Type", "application/json", "Origin",
		server.url, "Sec-Fetch-Site", "same-origin"); got != http.StatusCreated {
		t.Errorf("our own page: %d", got)
	}
}

func TestFlagsOfCredentialsSayTheFix(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret, empty, text := write("secret", testSecret+"\r\n"), write("empty", "\n"), write("text", "no key")
	for name, c := range map[string]struct {
		flags serveCmd
		want  []string
	}{
		"nothing": {
			serveCmd{}, []string{"--jwt-secret-file", "recommended", "--jwt-public-key", "--jwks-url", "TOPOSTREAM_JWT_SECRET"},
		},
		"secret twice": {
			serveCmd{JWTSecret: testSecret, JWTSecretFile: secret},
			[]string{"--jwt-secret and --jwt-secret-file are both given", "TOPOSTREAM_JWT_SECRET"},
		},
		"secret and key": {
			serveCmd{JWTSecret: testSecret, JWTPublicKey: text},
			[]string{"TOPOSTREAM_JWT_SECRET", "--jwt-public-key", "give one"},
		},
		"key and URL": {
			serveCmd{JWTPublicKey: text, JWKSURL: "https://x.example"}, []string{"--jwt-public-key", "--jwks-url", "give one"},
		},
		"no such secret file": {
			serveCmd{JWTSecretFile: filepath.Join(dir, "x")}, []string{"--jwt-secret-file", "no such file"},
		},
		"empty secret file": {serveCmd{JWTSecretFile: empty}, []string{"--jwt-secret-file", "is empty"}},
		"no such key file": {
			serveCmd{JWTPublicKey: filepath.Join(dir, "x")}, []string{"--jwt-public-key", "no such file"},
		},
		"no key in the file": {serveCmd{JWTPublicKey: text}, []string{"--jwt-public-key", text, "BEGIN PUBLIC KEY"}},
		"bad cookie": {
			serveCmd{JWTSecret: testSecret, AuthCookie: "a b"}, []string{"cookie", `"a b"`, "for example"},
		},
	} {
		_, err := c.flags.verifier(t.Context(), newLogger(os.Stderr, "text", slog.LevelInfo))
		if err == nil {
			t.Errorf("%s is taken", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), testSecret) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	verifier, err := (&serveCmd{JWTSecretFile: secret}).verifier(t.Context(), newLogger(os.Stderr, "text", slog.LevelInfo))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := verifier.Authenticate(
		httptest.NewRequest(http.MethodGet, fmt.Sprint("/?token=", testToken(t)), nil)); err != nil {
		t.Errorf("the line end of the secret's file counts: %v", err)
	}
}

func TestTheLogSaysWhichClaimOfATokenWasRefused(t *testing.T) {
	t.Parallel()
	server := serve(t, pgtest.New(t).URL, nil)
	for _, claim := range []string{"exp", "iat"} {
		claims := jwt.MapClaims{
			"sub": "ann", "role": "viewer", "iat": time.Now().Add(-time.Minute).Unix(), "exp": time.Now().Add(time.Hour).Unix(),
		}
		claims[claim] = json.Number(fmt.Sprint(claims[claim], ".5"))
		token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(testSecret))
		if err != nil {
			t.Fatal(err)
		}
		before := len(server.log.String())
		if got := listed(t, server.url, "Authorization", "Bearer "+token); got != http.StatusUnauthorized {
			t.Errorf("a fraction in %s gets %d", claim, got)
		}
		if said := server.log.String()[before:]; !strings.Contains(said, claim) || strings.Contains(said, token) {
			t.Errorf("a fraction in %s: %s", claim, said)
		}
	}
}
