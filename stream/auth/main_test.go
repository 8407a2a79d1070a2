package auth_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"go.uber.org/goleak"

	"topostream/stream"
	"topostream/stream/api"
	"topostream/stream/auth"
	"topostream/stream/metrics/metrictest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var secret = bytes.Repeat([]byte("s"), auth.MinSecret)

// Keys of every kind. RSA keys take long to make: these serve all tests.
var (
	rsaKey   = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	otherRSA = sync.OnceValue(func() *rsa.PrivateKey { return must(rsa.GenerateKey(rand.Reader, 2048)) })
	p256Key  = sync.OnceValue(func() *ecdsa.PrivateKey {
		return must(ecdsa.GenerateKey(elliptic.P256(),
			rand.Reader))
	})
	p384Key = sync.OnceValue(func() *ecdsa.PrivateKey {
		return must(ecdsa.GenerateKey(elliptic.P384(),
			rand.Reader))
	})
	p521Key = sync.OnceValue(func() *ecdsa.PrivateKey {
		return must(ecdsa.GenerateKey(elliptic.P521(),
			rand.Reader))
	})
	ed25519Key = sync.OnceValue(func() ed25519.PrivateKey {
		_, k,
			err := ed25519.GenerateKey(rand.Reader)
		return must(k, err)
	})
)

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func publicPEM(keys ...crypto.Signer) (file []byte) {
	for _, k := range keys {
		file = append(file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY",
			Bytes: must(x509.MarshalPKIXPublicKey(k.Public()))})...)
	}
	return file
}

// good are the claims of a good token.
func good() jwt.MapClaims {
	return jwt.MapClaims{"sub": "ann", "exp": time.Now().Add(time.Hour).Unix(), "role": "viewer", "iss": "me",
		"aud": "you"}
}

// with are the claims of a good token but for one; nil leaves it out.
func with(name string, value any) jwt.MapClaims {
	c := good()
	c[name] = value
	if value == nil {
		delete(c, name)
	}
	return c
}

func sign(t testing.TB, key any, method jwt.SigningMethod, claims jwt.MapClaims) string {
	t.Helper()
	return signAs(t, key, method, claims, nil)
}

// signAs signs with further members of the header.
func signAs(t testing.TB, key any, method jwt.SigningMethod, claims jwt.MapClaims, header map[string]any) string {
	t.Helper()
	token := jwt.NewWithClaims(method, claims)
	maps.Copy(token.Header, header)
	s, err := token.SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// raw signs texts as they are, with the secret.
func raw(t testing.TB, header, payload string) string {
	t.Helper()
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." +
		base64.RawURLEncoding.EncodeToString([]byte(payload))
	signature, err := jwt.SigningMethodHS256.Sign(text, secret)
	if err != nil {
		t.Fatal(err)
	}
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

func verifier(t testing.TB, cfg auth.Config) *auth.Verifier {
	t.Helper()
	v, err := auth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// lists is a store that answers the list of topologies and fails whatever else is asked of it.
type lists struct{ stream.Store }

func (lists) Topologies(context.Context, []stream.TopologyID, int, int64, int64) ([]byte, error) {
	return []byte(`{"total":0,"limit":50,"offset":0,"data":[]}`), nil
}

// serve serves the real routes over a real socket.
func serve(t testing.TB, v *auth.Verifier, change func(*api.Config)) string {
	t.Helper()
	cfg := api.Config{Store: lists{}, Auth: v.Authenticate, Stats: metrictest.Stats()}
	if change != nil {
		change(&cfg)
	}
	server := httptest.NewUnstartedServer(api.New(cfg).Handler())
	server.Config.MaxHeaderBytes = 32 << 10 // as cmd/topostream
	server.Start()
	t.Cleanup(server.Close)
	return server.URL
}

type answer struct {
	status int
	header http.Header
	body   string
}

// ask makes one request, with further headers as pairs.
func ask(t testing.TB, method, address string, header ...string) answer {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Request-ID", "the-same") // the one thing in which answers may differ
	for i := 0; i < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it is read
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{res.StatusCode, res.Header, string(body)}
}

const list = "/api/v1/topologies"

// status is what a token gets, as a header and as a parameter: the same, or the test fails.
func status(t testing.TB, server, token string) int {
	t.Helper()
	header := ask(t, http.MethodGet, server+list, "Authorization", "Bearer "+token)
	query := ask(t, http.MethodGet, server+list+"?token="+url.QueryEscape(token))
	if header.status != query.status || header.body != query.body {
		t.Errorf("a header gets %d %s, a parameter %d %s", header.status, header.body, query.status, query.body)
	}
	return header.status
}

// A published set is a JWKS URL whose keys a test changes.
type published struct {
	url string

	mu    sync.Mutex
	keys  []map[string]any
	fail  http.HandlerFunc
	reads int
}

func publish(t testing.TB, keys ...map[string]any) *published {
	t.Helper()
	p := &published{keys: keys}
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	p.url = server.URL
	return p
}

func (p *published) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reads++
	if p.fail != nil {
		p.fail(w, r)
		return
	}
	_, _ = w.Write(keySet(p.keys...)) // the reader may be gone
}

func keySet(keys ...map[string]any) []byte { return must(json.Marshal(map[string]any{"keys": keys})) }

// change replaces the keys, or makes the URL fail.
func (p *published) change(fail http.HandlerFunc, keys ...map[string]any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keys, p.fail = keys, fail
}

func (p *published) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reads
}

// jwk is a public key as RFC 7517 writes it, with further members as pairs.
func jwk(kid string, key crypto.Signer, members ...string) map[string]any {
	b64 := base64.RawURLEncoding.EncodeToString
	m := map[string]any{"kid": kid}
	switch key := key.Public().(type) {
	case *rsa.PublicKey:
		m["kty"], m["n"], m["e"] = "RSA", b64(key.N.Bytes()), "AQAB"
	case *ecdsa.PublicKey:
		size := (key.Curve.Params().BitSize + 7) / 8
		point := must(key.Bytes())[1:]
		m["kty"], m["crv"], m["x"], m["y"] = "EC", key.Curve.Params().Name, b64(point[:size]), b64(point[size:])
	case ed25519.PublicKey:
		m["kty"], m["crv"], m["x"] = "OKP", "Ed25519", b64(key)
	default:
		panic(fmt.Sprintf("%T", key))
	}
	for i := 0; i < len(members); i += 2 {
		m[members[i]] = members[i+1]
	}
	return m
}

// named puts a kid into a token's header.
func named(kid string) map[string]any { return map[string]any{"kid": kid} }

// tampered is the token with its last part changed at position i from the end.
func tampered(token string, i int, to byte) string {
	b := []byte(token)
	b[len(b)-1-i] = to
	return string(b)
}

func holdsAny(text string, parts ...string) bool {
	for _, p := range parts {
		if p != "" && strings.Contains(text, p) {
			return true
		}
	}
	return false
}
