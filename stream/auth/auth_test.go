package auth_test

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"topostream/stream"
	"topostream/stream/api"
	"topostream/stream/auth"
)

// algorithms are all that are taken, each with a key that fits.
func algorithms() map[string]struct {
	method jwt.SigningMethod
	key    crypto.Signer
} {
	type pair = struct {
		method jwt.SigningMethod
		key    crypto.Signer
	}
	return map[string]pair{
		"RS256": {jwt.SigningMethodRS256, rsaKey()}, "RS384": {jwt.SigningMethodRS384, rsaKey()},
		"RS512": {jwt.SigningMethodRS512, rsaKey()},
		"PS256": {jwt.SigningMethodPS256, rsaKey()}, "PS384": {jwt.SigningMethodPS384, rsaKey()},
		"PS512": {jwt.SigningMethodPS512, rsaKey()},
		"ES256": {jwt.SigningMethodES256, p256Key()}, "ES384": {jwt.SigningMethodES384, p384Key()},
		"ES512": {jwt.SigningMethodES512, p521Key()},
		"EdDSA": {jwt.SigningMethodEdDSA, ed25519Key()},
	}
}

func TestAGoodTokenOfEveryAlgorithmIsTakenAndNoneOfAnotherKindOfKey(t *testing.T) {
	t.Parallel()
	secretServer := serve(t, verifier(t, auth.Config{Secret: secret}), nil)
	for _, method := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS384, jwt.SigningMethodHS512} {
		if got := status(t, secretServer, sign(t, secret, method, good())); got != http.StatusOK {
			t.Errorf("%s: %d", method.Alg(), got)
		}
	}
	for name, a := range algorithms() {
		file := serve(t, verifier(t, auth.Config{PublicKeys: publicPEM(a.key)}), nil)
		set := serve(t, verifier(t, auth.Config{JWKSURL: publish(t, jwk("k", a.key)).url}), nil)
		pinned := serve(t, verifier(t, auth.Config{JWKSURL: publish(t,
			jwk("k", a.key, "alg", name, "use", "sig")).url}), nil)
		for other, b := range algorithms() {
			token := signAs(t, b.key, b.method, good(), named("k"))
			fits, same := http.StatusUnauthorized, http.StatusUnauthorized
			if k, ok := a.key.Public().(interface {
				Equal(key crypto.PublicKey) bool
			}); ok && k.Equal(b.key.Public()) {
				fits = http.StatusOK
			}
			if name == other {
				same = http.StatusOK
			}
			for where, want := range map[string]int{file: fits, set: fits, pinned: same} {
				if got := status(t, where, token); got != want {
					t.Errorf("key of %s, token of %s: %d, want %d (file %s, set %s, set with alg %s: %s)", name, other,
						got, want, file, set, pinned, where)
				}
			}
			if got := status(t, secretServer, token); got != http.StatusUnauthorized {
				t.Errorf("a secret takes %s: %d", other, got)
			}
		}
	}
}

func TestHostileTokensAreRefusedWithoutAWord(t *testing.T) {
	t.Parallel()
	const head = `{"alg":"HS256","typ":"JWT"}`
	soon := time.Now().Add(time.Hour).Unix()
	claims := func(format string, v ...any) string { return raw(t, head, fmt.Sprintf(format, v...)) }
	header := func(text string) string {
		return raw(t, text, fmt.Sprintf(`{"exp":%d,"role":"viewer","iss":"me","aud":"you"}`, soon))
	}
	hs := func(c jwt.MapClaims) string { return sign(t, secret, jwt.SigningMethodHS256, c) }
	token := hs(good())
	parts := strings.Split(token, ".")
	server := serve(t, verifier(t, auth.Config{Secret: secret, Issuer: "me", Audience: "you"}), nil)
	for _, token := range []string{
		token, hs(with("aud", []string{"others", "you"})), hs(with("nbf", time.Now().Unix()+20)),
		hs(with("iat", time.Now().Unix()+20)), hs(with("exp", 1<<38)),
		header(head), header(`{"alg":"HS256","kid":"any","jku":"https://evil.example/","x5u":"https://evil.example/",` +
			`"jwk":{"kty":"oct","k":"AAAA"}}`),
		claims(`{"exp":%d,"Exp":1,"role":"viewer","Role":"root","iss":"me","aud":"you"}`, soon),
		claims(`{"exp":%d,"role":"viewer","iss":"me","aud":"you","extra":{"a":[1,2.5e3,null]}}`, soon),
	} {
		if got := status(t, server, token); got != http.StatusOK {
			t.Errorf("a good token gets %d: %s", got, token)
		}
	}
	hostile := map[string]string{
		"none":                 sign(t, jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone, good()),
		"none, not signed":     strings.Join(parts[:2], ".") + ".",
		"NONE":                 header(`{"alg":"NONE"}`),
		"alg in small letters": header(`{"alg":"hs256"}`),
		"no alg":               header(`{"typ":"JWT"}`),
		"alg null":             header(`{"alg":null}`),
		"alg in an array":      header(`{"alg":["HS256"]}`),
		"Alg":                  header(`{"Alg":"HS256"}`),
		"two algs":             header(`{"alg":"none","alg":"HS256"}`),
		"two algs, escaped":    header(`{"alg":"HS256","\u0061lg":"HS256"}`),
		"two kids":             header(`{"alg":"HS256","kid":"a","kid":"b"}`),
		"kid a number":         header(`{"alg":"HS256","kid":1}`),
		"crit":                 header(`{"alg":"HS256","crit":["exp"],"exp":1}`),
		"crit empty":           header(`{"alg":"HS256","crit":[]}`),
		"crit null":            header(`{"alg":"HS256","crit":null}`),
		"b64 false":            header(`{"alg":"HS256","b64":false,"crit":["b64"]}`),
		"b64 alone":            header(`{"alg":"HS256","b64":false}`),
		"header in an array":   header(`[{"alg":"HS256"}]`),
		"header with more":     header(`{"alg":"HS256"} {}`),
		"header not UTF-8":     header("{\"alg\":\"HS256\",\"kid\":\"\xff\"}"),
		"huge kid":             header(`{"alg":"HS256","kid":"` + strings.Repeat("k", 9<<10) + `"}`),
		"other key":            sign(t, bytes.Repeat([]byte("x"), 32), jwt.SigningMethodHS256, good()),
		"expired":              hs(with("exp", time.Now().Unix()-1)),
		"expires now":          hs(with("exp", time.Now().Unix())),
		"not yet":              hs(with("nbf", time.Now().Unix()+40)),
		"issued later":         hs(with("iat", time.Now().Unix()+40)),
		"no exp":               hs(with("exp", nil)),
		"exp null":             claims(`{"exp":null,"role":"viewer","iss":"me","aud":"you"}`),
		"EXP":                  claims(`{"EXP":%d,"role":"viewer","iss":"me","aud":"you"}`, soon),
		"Role":                 claims(`{"exp":%d,"Role":"viewer","iss":"me","aud":"you"}`, soon),
		"exp string":           hs(with("exp", strconv.FormatInt(soon, 10))),
		"exp float":            hs(with("exp", float64(soon)+0.5)),
		"exp .0":               claims(`{"exp":%d.0,"role":"viewer","iss":"me","aud":"you"}`, soon),
		"exp with exponent":    claims(`{"exp":4e9,"role":"viewer","iss":"me","aud":"you"}`),
		"exp negative":         hs(with("exp", -soon)),
		"exp -0":               claims(`{"exp":-0,"role":"viewer","iss":"me","aud":"you"}`),
		"exp NaN":              claims(`{"exp":NaN,"role":"viewer","iss":"me","aud":"you"}`),
		"exp 1e400":            claims(`{"exp":1e400,"role":"viewer","iss":"me","aud":"you"}`),
		"exp beyond int64":     claims(`{"exp":99999999999999999999,"role":"viewer","iss":"me","aud":"you"}`),
		"exp beyond time":      claims(`{"exp":9223372036854775807,"role":"viewer","iss":"me","aud":"you"}`),
		"exp in milliseconds":  hs(with("exp", soon*1000)),
		"exp in an array":      claims(`{"exp":[%d],"role":"viewer","iss":"me","aud":"you"}`, soon),
		"nbf float":            hs(with("nbf", 1.5)),
		"nbf string":           hs(with("nbf", "1")),
		"two exps":             claims(`{"exp":1,"exp":%d,"role":"viewer","iss":"me","aud":"you"}`, soon),
		"two roles":            claims(`{"exp":%d,"role":"viewer","role":"viewer","iss":"me","aud":"you"}`, soon),
		"two roles, escaped":   claims(`{"exp":%d,"role":"viewer","\u0072ole":"admin","iss":"me","aud":"you"}`, soon),
		"two of one unknown":   claims(`{"exp":%d,"role":"viewer","iss":"me","aud":"you","x":1,"x":1}`, soon),
		"two within":           claims(`{"exp":%d,"role":"viewer","iss":"me","aud":"you","x":{"a":1,"a":2}}`, soon),
		"other iss":            hs(with("iss", "them")),
		"no iss":               hs(with("iss", nil)),
		"iss in an array":      hs(with("iss", []string{"me"})),
		"other aud":            hs(with("aud", "them")),
		"other auds":           hs(with("aud", []string{"them", "YOU"})),
		"no aud":               hs(with("aud", nil)),
		"sub a number":         hs(with("sub", 1)),
		"no role":              hs(with("role", nil)),
		"odd role":             hs(with("role", "root")),
		"role Admin":           hs(with("role", "Admin")),
		"roles":                hs(with("role", []string{"admin"})),
		"odd scope":            hs(with("topologies", []string{"demo"})),
		"null scope":           claims(`{"exp":%d,"role":"viewer","iss":"me","aud":"you","topologies":null}`, soon),
		"text scope":           hs(with("topologies", "all")),
		"null claims":          claims(`null`),
		"claims in an array":   claims(`[]`),
		"claims with more":     claims(`{"exp":%d,"role":"viewer","iss":"me","aud":"you"}{}`, soon),
		"claims are no JSON":   claims(`exp`),
		"deep claims":          claims(`{"exp":%d,"x":%s}`, soon, strings.Repeat("[", 3000)),
		"truncated":            token[:len(token)-3],
		"without signature":    parts[0] + "." + parts[1],
		"without claims":       parts[0] + ".." + parts[2],
		"extra part":           token + ".x",
		"garbage":              "garbage",
		"dots":                 strings.Repeat(".", 4000),
		"empty":                "",
		"trailing bits":        tampered(token, 0, trailing(token)),
		"padding":              token + "=",
		"padding within":       parts[0] + "=." + parts[1] + "." + parts[2],
		"a line end":           parts[0] + "." + parts[1] + "." + parts[2][:5] + "\n" + parts[2][5:],
		"a space within":       parts[0] + " ." + parts[1] + "." + parts[2],
		"standard base64": parts[0] + "." + parts[1] + "." +
			strings.NewReplacer("-", "+", "_", "/").Replace(parts[2]) + "+",
		"claims of another":     parts[0] + "." + strings.Split(hs(with("role", "admin")), ".")[1] + "." + parts[2],
		"longer than 8 KiB":     hs(with("x", strings.Repeat("a", 8<<10))),
		"8 KiB of nothing":      strings.Repeat("a", 8<<10),
		"24 KB":                 hs(with("x", strings.Repeat("a", 18<<10))),
		"not base64, not ASCII": "é" + token,
	}
	var want string
	for name, token := range hostile {
		addresses := [][]string{{server + list + "?token=" + escape(token)}}
		if !strings.ContainsAny(token, "\n\x00") {
			addresses = append(addresses, []string{server + list, "Authorization", "Bearer " + token})
		}
		for _, a := range addresses {
			got := ask(t, http.MethodGet, a[0], a[1:]...)
			if want == "" {
				want = got.body
			}
			if got.status != http.StatusUnauthorized || got.body != want {
				t.Errorf("%s: %d %s", name, got.status, got.body)
			}
		}
	}
	var problem struct{ Title, Detail string }
	if err := json.Unmarshal([]byte(want), &problem); err != nil ||
		holdsAny(problem.Detail, "expire", "signature", "kid", "claim", "malformed", "role") {
		t.Errorf("%s: %v", want, err)
	}
}

func escape(token string) string {
	return strings.NewReplacer("+", "%2B", "=", "%3D", "\n", "%0A", " ", "%20", "\"", "%22", "é",
		"%C3%A9").Replace(token)
}

// trailing is another last character for the token. It differs in a bit that base64 decoding ignores unless it is
// strict.
func trailing(token string) byte {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return alphabet[strings.IndexByte(alphabet, token[len(token)-1])^1]
}

func TestATokenOfAMegabyteEndsAtTheHeaderLimit(t *testing.T) {
	t.Parallel()
	server := serve(t, verifier(t, auth.Config{Secret: secret}), nil)
	token := sign(t, secret, jwt.SigningMethodHS256, with("x", strings.Repeat("a", 1<<20)))
	for _, a := range [][]string{{server + list, "Authorization", "Bearer " + token},
		{server + list + "?token=" + token}, {server + list, "Cookie", "c=" + token}} {
		got := ask(t, http.MethodGet, a[0], a[1:]...)
		if got.status != http.StatusRequestHeaderFieldsTooLarge || len(got.body) > 100 {
			t.Errorf("%d %s", got.status, got.body)
		}
	}
	// Also whoever calls the verifier itself gets the limit.
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Authorization", "Bearer "+token)
	if _, err := verifier(t, auth.Config{Secret: secret}).Authenticate(r); !errors.Is(err, auth.ErrUnauthenticated) ||
		len(err.Error()) > 200 {
		t.Errorf("%.300v", err)
	}
}

func TestNoEncodingOfAPublicKeyIsASecret(t *testing.T) {
	t.Parallel()
	for name, key := range map[string]crypto.Signer{"RSA": rsaKey(), "EC": p256Key(), "Ed25519": ed25519Key()} {
		pkix := must(x509.MarshalPKIXPublicKey(key.Public()))
		text := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pkix})
		set := publish(t, jwk("k", key))
		published := must(json.Marshal(jwk("k", key)))
		secrets := map[string][]byte{
			"PEM": text, "PEM without its line end": bytes.TrimSpace(text),
			"PEM with CRLF":   bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n")),
			"PEM in one line": bytes.ReplaceAll(text, []byte("\n"), nil), "DER": pkix,
			"base64":    []byte(base64.StdEncoding.EncodeToString(pkix)),
			"base64url": []byte(base64.RawURLEncoding.EncodeToString(pkix)),
			"hex":       []byte(hex.EncodeToString(pkix)),
			"JWK":       published, "the JWK's number": []byte(fmt.Sprint(jwk("k", key)["n"], jwk("k", key)["x"])),
			"certificate": certificate(t, rsaKey()), "nothing": {}, "kid": []byte("k"),
		}
		if k, ok := key.Public().(*rsa.PublicKey); ok {
			pkcs1 := x509.MarshalPKCS1PublicKey(k)
			secrets["PKCS #1 PEM"] = pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY", Bytes: pkcs1})
			secrets["PKCS #1 DER"], secrets["modulus"] = pkcs1, k.N.Bytes()
		}
		for where, v := range map[string]*auth.Verifier{"file": verifier(t, auth.Config{PublicKeys: text}),
			"JWKS": verifier(t, auth.Config{JWKSURL: set.url})} {
			server := serve(t, v, nil)
			for encoding, secret := range secrets {
				for _, method := range []jwt.SigningMethod{jwt.SigningMethodHS256, jwt.SigningMethodHS384,
					jwt.SigningMethodHS512} {
					if got := status(t, server,
						signAs(t, secret, method, good(), named("k"))); got != http.StatusUnauthorized {
						t.Errorf("%s %s: %s signed with its %s gets %d", name, where, method.Alg(), encoding, got)
					}
				}
			}
			none := signAs(t, jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone, good(), named("k"))
			if got := status(t, server, none); got != http.StatusUnauthorized {
				t.Errorf("%s %s: none gets %d", name, where, got)
			}
		}
	}
}

func TestAnUnauthenticatedCallerCannotTellIDsApart(t *testing.T) {
	t.Parallel()
	const existing, missing = "0190e7b2-0000-7000-8000-000000000001", "0190e7b2-0000-7000-8000-000000000002"
	server := serve(t, verifier(t, auth.Config{Secret: secret, Cookie: "session"}), nil)
	expired := sign(t, secret, jwt.SigningMethodHS256, with("exp", time.Now().Unix()-1))
	limited := sign(t, secret, jwt.SigningMethodHS256, with("topologies", []string{existing}))
	for _, credential := range [][]string{{}, {"Authorization", "Bearer x"}, {"Authorization", "Bearer " + expired},
		{"Authorization", "Basic eDp5"}, {"Cookie", "session=" + limited + "x"}} {
		for _, at := range []struct{ method, path string }{
			{http.MethodGet, ""}, {http.MethodGet, "/events"}, {http.MethodGet, "/journal?after=x"},
			{http.MethodGet, "/mutations?state=x"}, {http.MethodPost, "/mutations"},
			{http.MethodPatch, ""}, {http.MethodDelete, ""},
		} {
			var want string
			for _, id := range []string{existing, missing, "malformed", "..%2f", strings.Repeat("x", 300)} {
				got := ask(t, at.method, server+list+"/"+id+at.path,
					append(credential, "Accept", "text/event-stream")...)
				got.header.Del("Date")
				all := fmt.Sprint(got)
				if want == "" {
					want = all
				}
				if got.status != http.StatusUnauthorized || all != want {
					t.Errorf("%s %s%s %v: %s, want %s", at.method, id, at.path, credential, all, want)
				}
			}
		}
	}
}

func TestTheFirstPlaceThatHoldsACredentialDecides(t *testing.T) {
	t.Parallel()
	v := verifier(t, auth.Config{Secret: secret, Cookie: "session"})
	token := func(sub string) string { return sign(t, secret, jwt.SigningMethodHS256, with("sub", sub)) }
	header, query, cookie := token("header"), token("query"), token("cookie")
	for name, c := range map[string]struct {
		query   string
		header  []string
		cookie  string
		subject string // empty: refused
	}{
		"header":                          {header: []string{"Bearer " + header}, subject: "header"},
		"header, scheme in small letters": {header: []string{"bearer  " + header}, subject: "header"},
		"query":                           {query: "token=" + query, subject: "query"},
		"cookie":                          {cookie: "session=" + cookie, subject: "cookie"},
		"cookie among others":             {cookie: "a=b; session=" + cookie + "; c=d", subject: "cookie"},
		"all": {query: "token=" + query, header: []string{"Bearer " + header},
			cookie: "session=" + cookie, subject: "header"},
		"query and cookie":              {query: "token=" + query, cookie: "session=" + cookie, subject: "query"},
		"a proxy's own scheme":          {query: "token=" + query, header: []string{"Basic eDp5"}, subject: "query"},
		"a proxy's and ours":            {header: []string{"Basic eDp5", "Bearer " + header}, subject: "header"},
		"a bad header, a good query":    {query: "token=" + query, header: []string{"Bearer x"}},
		"an empty header, a good query": {query: "token=" + query, header: []string{"Bearer "}},
		"a bad query, a good cookie":    {query: "token=x", cookie: "session=" + cookie},
		"an empty query, a good cookie": {query: "token=", cookie: "session=" + cookie},
		"two headers":                   {header: []string{"Bearer " + header, "Bearer " + header}},
		"two in a header":               {header: []string{"Bearer " + header + ", Bearer " + header}},
		"two queries":                   {query: "token=" + query + "&token=" + query},
		"two cookies":                   {cookie: "session=" + cookie + "; session=" + cookie},
		"two queries beside a good header": {query: "token=x&token=y", header: []string{"Bearer " + header},
			subject: "header"},
		"another cookie":    {cookie: "Session=" + cookie},
		"another parameter": {query: "Token=" + query},
		"nothing":           {},
	} {
		r := httptest.NewRequest(http.MethodGet, "/?"+c.query, nil)
		for _, v := range c.header {
			r.Header.Add("Authorization", v)
		}
		if c.cookie != "" {
			r.Header.Set("Cookie", c.cookie)
		}
		p, err := v.Authenticate(r)
		if p.Subject != c.subject || (err == nil) != (c.subject != "") || p.Ambient != (c.subject == "cookie") {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
		if err != nil && (!errors.Is(err, auth.ErrUnauthenticated) || holdsAny(err.Error(), header, query, cookie)) {
			t.Errorf("%s: %v", name, err)
		}
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Header.Set("Cookie", "session="+cookie)
	if _, err := verifier(t, auth.Config{Secret: secret}).Authenticate(r); err == nil {
		t.Error("a cookie is taken though none is configured")
	}
	for _, name := range []string{"a b", "a=b", "a;b", "é", "a\n"} {
		if _, err := auth.New(auth.Config{Secret: secret, Cookie: name}); err == nil ||
			!strings.Contains(err.Error(), "for example") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestAPageOfAnotherSiteChangesNothingByACookie(t *testing.T) {
	t.Parallel()
	const trusted = "https://editor.example"
	server := serve(t, verifier(t, auth.Config{Secret: secret, Cookie: "session"}),
		func(c *api.Config) { c.AllowOrigin = []string{trusted} })
	viewer := sign(t, secret, jwt.SigningMethodHS256, good())
	admin := sign(t, secret, jwt.SigningMethodHS256, with("role", "admin"))
	const refused = "cross-origin request refused"
	form := []string{"Content-Type", "text/plain", "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site",
		"Sec-Fetch-Mode", "navigate"}
	for name, c := range map[string]struct {
		method string
		header []string
		want   int
		detail string
	}{
		"a form of another site": {http.MethodPost, append([]string{"Cookie", "session=" + admin}, form...),
			403, refused},
		"the same by a viewer": {http.MethodPost, append([]string{"Cookie", "session=" + viewer}, form...),
			403, refused},
		"the same without a good token": {http.MethodPost, append([]string{"Cookie", "session=x"}, form...), 401,
			""},
		"the same with a token of its own": {http.MethodPost,
			append([]string{"Authorization", "Bearer " + admin}, form...), 415, ""},
		"a subdomain": {http.MethodPost,
			[]string{"Cookie", "session=" + admin, "Sec-Fetch-Site", "same-site", "Origin", "https://x.example"}, 403,
			refused},
		"an old browser": {http.MethodPost,
			[]string{"Cookie", "session=" + admin, "Origin", "https://evil.example"}, 403, refused},
		"an opaque origin": {http.MethodPost, []string{"Cookie", "session=" + admin, "Origin", "null"},
			403, refused},
		"PATCH": {http.MethodPatch, append([]string{"Cookie", "session=" + admin}, form...),
			403, refused},
		"DELETE": {http.MethodDelete,
			append([]string{"Cookie", "session=" + admin}, form...), 403, refused},
		"our own page": {http.MethodPost,
			[]string{"Cookie", "session=" + admin, "Sec-Fetch-Site", "same-origin", "Origin", server}, 400, ""},
		"our own page by a viewer": {http.MethodPost,
			[]string{"Cookie", "session=" + viewer, "Sec-Fetch-Site", "same-origin", "Origin", server}, 403,
			"this takes a token of the role admin"},
		"our own page in an old browser": {http.MethodPost, []string{"Cookie", "session=" + admin, "Origin", server},
			400, ""},
		"a trusted origin": {http.MethodPost,
			[]string{"Cookie", "session=" + admin, "Sec-Fetch-Site", "cross-site", "Origin", trusted}, 400, ""},
		"no browser": {http.MethodPost, []string{"Cookie", "session=" + admin}, 400, ""},
		"reading from another site": {http.MethodGet, append([]string{"Cookie", "session=" + viewer}, form...),
			200, ""},
		"a cookie beside a token of theirs": {http.MethodPost,
			append([]string{"Cookie", "session=" + admin, "Authorization", "Bearer " + viewer}, form...), 403,
			"this takes a token of the role admin"},
	} {
		path := list
		if c.method == http.MethodPatch || c.method == http.MethodDelete {
			path += "/0190e7b2-0000-7000-8000-000000000001"
		}
		got := ask(t, c.method, server+path, c.header...)
		if got.status != c.want || !strings.Contains(got.body, c.detail) || got.status >= 400 &&
			got.header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", name, got.status, got.body)
		}
	}
}

func TestASignedTokenSaysWhoAndWhat(t *testing.T) {
	t.Parallel()
	v := verifier(t, auth.Config{Secret: secret, Issuer: "me", Audience: "you"})
	id := stream.TopologyID("0190e7b2-0000-7000-8000-000000000001")
	token, err := auth.Sign(secret, auth.Claims{Subject: "ann", Role: stream.RoleViewer, TTL: time.Hour,
		Topologies: []stream.TopologyID{id}, Issuer: "me", Audience: "you"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	p, err := v.Authenticate(httptest.NewRequest(http.MethodGet, "/?token="+token, nil))
	if err != nil {
		t.Fatal(err)
	}
	if p.Subject != "ann" || p.May(stream.RoleAdmin) || !p.May(stream.RoleViewer) || !p.Sees(id) ||
		p.Sees("0190e7b2-0000-7000-8000-000000000002") || p.Ambient {
		t.Errorf("%+v", p)
	}
}

func TestASubjectHas255CharactersAtMost(t *testing.T) {
	t.Parallel()
	server := serve(t, verifier(t, auth.Config{Secret: secret}), nil)
	for n, want := range map[int]int{255: http.StatusOK, 256: http.StatusUnauthorized} {
		claims := good()
		claims["sub"] = strings.Repeat("ä", n)
		if got := status(t, server, sign(t, secret, jwt.SigningMethodHS256, claims)); got != want {
			t.Errorf("%d characters: %d", n, got)
		}
	}
}

func TestATokenOfNobodyIsTaken(t *testing.T) {
	t.Parallel()
	v := verifier(t, auth.Config{Secret: secret})
	for _, sub := range []any{nil, ""} {
		p, err := v.Authenticate(httptest.NewRequest(http.MethodGet,
			"/?token="+sign(t, secret, jwt.SigningMethodHS256, with("sub", sub)), nil))
		if err != nil || p.Subject != "" {
			t.Errorf("%+v %v", p, err)
		}
	}
}

func TestATokenIsGoodToTheSecondOfItsExp(t *testing.T) {
	t.Parallel()
	now := time.Unix(2_000_000_000, 0)
	v := verifier(t, auth.Config{Secret: secret, Now: func() time.Time { return now }})
	claims := func(exp, nbf, iat time.Duration) string {
		return sign(t, secret, jwt.SigningMethodHS256, jwt.MapClaims{
			"role": "viewer", "exp": now.Add(exp).Unix(), "nbf": now.Add(nbf).Unix(), "iat": now.Add(iat).Unix(),
		})
	}
	for _, c := range []struct {
		exp, nbf, iat time.Duration
		good          bool
	}{
		{time.Second, 0, 0, true}, {0, 0, 0, false}, {-time.Second, 0, 0, false},
		{time.Hour, 30 * time.Second, 0, true}, {time.Hour, 31 * time.Second, 0, false},
		{time.Hour, 0, 30 * time.Second, true}, {time.Hour, 0, 31 * time.Second, false},
	} {
		_, err := v.Authenticate(httptest.NewRequest(http.MethodGet, "/?token="+claims(c.exp, c.nbf, c.iat), nil))
		if (err == nil) != c.good {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// What is wrong is for the log; of the token it quotes nothing.
func TestAClaimThatIsRefusedIsNamedWithTheReason(t *testing.T) {
	t.Parallel()
	v := verifier(t, auth.Config{Secret: secret})
	soon := time.Now().Add(time.Hour).Unix()
	for format, want := range map[string]string{
		`{"exp":%d.5,"role":"viewer"}`:                          "the claim exp: it is no whole number of seconds",
		`{"exp":%d,"iat":1700000000.25,"role":"viewer"}`:        "the claim iat: it is no whole number of seconds",
		`{"exp":%d,"nbf":"soon","role":"viewer"}`:               "the claim nbf: it is no whole number of seconds",
		`{"exp":%d,"role":7}`:                                   "the claim role: it is of another type",
		`{"exp":%d,"role":"viewer","role":"admin"}`:             "the claim role: it is of another type or given twice",
		`{"exp":%d,"role":"viewer","topologies":["hush"]}`:      "the claim topologies: it is no array of ids",
		`{"exp":%d,"role":"viewer","hush":{"hush":1,"hush":2}}`: "the claims are malformed",
	} {
		claims := fmt.Sprintf(format, soon)
		token := raw(t, `{"alg":"HS256","typ":"JWT"}`, claims)
		_, err := v.Authenticate(httptest.NewRequest(http.MethodGet, "/?token="+token, nil))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hush") {
			t.Errorf("%s: %v, want %s", claims, err, want)
		}
	}
}

func TestAWrongConfigurationIsRefusedWithTheFix(t *testing.T) {
	t.Parallel()
	small := must(rsa.GenerateKey(rand.Reader, 1024))
	private := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: must(x509.MarshalPKCS8PrivateKey(p256Key()))})
	pkcs1 := pem.EncodeToMemory(&pem.Block{Type: "RSA PUBLIC KEY",
		Bytes: x509.MarshalPKCS1PublicKey(&rsaKey().PublicKey)})
	many := make([]crypto.Signer, 17)
	for i := range many {
		many[i] = p256Key()
	}
	for name, c := range map[string]struct {
		cfg  auth.Config
		want []string
	}{
		"nothing": {auth.Config{},
			[]string{"--jwt-secret-file", "--jwt-public-key", "--jwks-url", "TOPOSTREAM_JWT_SECRET", "openssl rand"}},
		"short secret":    {auth.Config{Secret: []byte("short")}, []string{"5 bytes", "32", "openssl rand"}},
		"secret and keys": {auth.Config{Secret: secret, PublicKeys: publicPEM(p256Key())}, []string{"give one"}},
		"keys and URL": {auth.Config{PublicKeys: publicPEM(p256Key()), JWKSURL: "https://x.example/"},
			[]string{"give one"}},
		"secret and URL": {auth.Config{Secret: secret, JWKSURL: "https://x.example/"}, []string{"give one"}},
		"small RSA":      {auth.Config{PublicKeys: publicPEM(small)}, []string{"1024 bits", "2048"}},
		"no PEM":         {auth.Config{PublicKeys: []byte("ssh-ed25519 AAAA")}, []string{"BEGIN PUBLIC KEY"}},
		"a private key":  {auth.Config{PublicKeys: private}, []string{"PRIVATE KEY", "openssl pkey"}},
		"PKCS #1":        {auth.Config{PublicKeys: pkcs1}, []string{"openssl rsa"}},
		"no key in it": {auth.Config{PublicKeys: pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY",
			Bytes: []byte("x")})}, []string{"asn1"}},
		"the second is cut": {auth.Config{PublicKeys: publicPEM(p256Key(), p384Key())[:300]},
			[]string{"2 PEM blocks begin and 1 are whole"}},
		"many keys":       {auth.Config{PublicKeys: publicPEM(many...)}, []string{"16 at most"}},
		"a URL of a file": {auth.Config{JWKSURL: "file:///etc/passwd"}, []string{"https://"}},
		"no URL":          {auth.Config{JWKSURL: "https://user:hunter2@ho st/"}, []string{"https://"}},
	} {
		_, err := auth.New(c.cfg)
		if err == nil {
			t.Errorf("%s is taken", name)
			continue
		}
		for _, want := range c.want {
			if !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestAFileHoldsKeysOfSeveralKindsAndCertificates(t *testing.T) {
	t.Parallel()
	file := append([]byte("the keys of our issuer\n"), publicPEM(otherRSA(), p256Key())...)
	server := serve(t, verifier(t, auth.Config{PublicKeys: append(file, certificate(t, rsaKey())...)}), nil)
	for name, c := range map[string]struct {
		token string
		want  int
	}{
		"first":                    {sign(t, otherRSA(), jwt.SigningMethodRS256, good()), 200},
		"second":                   {sign(t, p256Key(), jwt.SigningMethodES256, good()), 200},
		"certificate":              {sign(t, rsaKey(), jwt.SigningMethodPS512, good()), 200},
		"a kid that says nothing":  {signAs(t, p256Key(), jwt.SigningMethodES256, good(), named("x")), 200},
		"a kind that is not there": {sign(t, p384Key(), jwt.SigningMethodES384, good()), 401},
		"a key that is not there": {sign(t, must(rsa.GenerateKey(rand.Reader, 2048)), jwt.SigningMethodRS256,
			good()), 401},
		"signed with another's kind": {sign(t, ed25519Key(), jwt.SigningMethodEdDSA, good()), 401},
	} {
		if got := status(t, server, c.token); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}

func certificate(t *testing.T, key crypto.Signer) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "issuer"},
		NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func FuzzAuthenticate(f *testing.F) {
	v, err := auth.New(auth.Config{Secret: secret})
	if err != nil {
		f.Fatal(err)
	}
	token := sign(f, secret, jwt.SigningMethodHS256, jwt.MapClaims{"role": "viewer", "exp": 1 << 37})
	for _, seed := range []string{
		"", ".", "..", token, token + "=", token + "\n", token[:len(token)-1],
		sign(f, jwt.UnsafeAllowNoneSignatureType, jwt.SigningMethodNone, good()),
		raw(f, `{"alg":"HS256","crit":["b64"],"b64":false}`, `{}`), raw(f, `{"alg":"HS256"}`, `{"exp":1,"exp":2}`),
		raw(f, `null`, `null`), strings.Repeat("a", 9<<10),
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header["Authorization"] = []string{"Bearer " + text}
		_, err := v.Authenticate(r)
		if taken := err == nil; taken != (strings.Trim(text, " ") == token) {
			t.Errorf("%q: %v", text, err)
		}
		if err != nil && !errors.Is(err, auth.ErrUnauthenticated) {
			t.Error(err)
		}
	})
}

// FuzzSignedToken proves that whatever somebody gets signed is taken only if it is what RFC 7515 and RFC 7519 call
// valid, by the strictest reading.
func FuzzSignedToken(f *testing.F) {
	v, err := auth.New(auth.Config{Secret: secret})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(`{"alg":"HS256"}`, `{"exp":4102444800,"role":"viewer"}`)
	f.Add(`{"alg":"HS256","kid":"x"}`,
		`{"exp":4102444800,"role":"admin","topologies":["0190e7b2-0000-7000-8000-000000000001"]}`)
	f.Add(`{"alg":"HS256","crit":[]}`, `{"Exp":4102444800,"role":"viewer"}`)
	f.Add(`{"alg":"HS256","alg":"none"}`, `{"exp":4102444800.5,"role":"viewer","x":{"a":1,"a":1}}`)
	f.Fuzz(func(t *testing.T, header, payload string) {
		token := raw(t, header, payload)
		p, err := v.Authenticate(httptest.NewRequest(http.MethodGet, "/?token="+token, nil))
		if err != nil {
			return
		}
		var h, c map[string]any
		if json.Unmarshal([]byte(header), &h) != nil || json.Unmarshal([]byte(payload), &c) != nil {
			t.Fatalf("%q %q is taken", header, payload)
		}
		exp, _ := c["exp"].(float64)
		if h["alg"] != "HS256" || h["crit"] != nil || c["role"] != string(p.Role) ||
			!p.Expires.Equal(time.Unix(int64(exp), 0)) || !p.Expires.After(time.Now()) {
			t.Errorf("%q %q is taken: %+v", header, payload, p)
		}
	})
}
