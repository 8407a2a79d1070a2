package auth

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	jwksTimeout      = 5 * time.Second
	maxJWKS          = 1 << 20 // bytes
	jwksRefresh      = 5 * time.Minute
	jwksRetry        = 30 * time.Second
	unknownKeyEvery  = time.Minute // between two reads because of a kid that is not known
	maxJWKSRedirects = 3
)

// jwks are the keys of a JWKS URL. A good set stays until a good one replaces it. A key that is known is found without
// waiting for anything; one that is not causes a read of the URL, at most one a minute and one at a time, whoever asks:
// those who ask meanwhile wait for the same one.
type jwks struct {
	url       string
	public    string // the URL for logs and errors
	client    *http.Client
	set       atomic.Pointer[[]publishedKey]
	mu        sync.Mutex
	said      string // which keys the log was told of last; under mu
	interval  time.Duration
	now       func() time.Time
	log       *slog.Logger
	unknown   *rate.Limiter      // of the reads because of unknown kids
	refreshes singleflight.Group // of the same reads: those who ask meanwhile share one
}

func newJWKS(cfg Config) (*jwks, error) {
	u, err := url.Parse(cfg.JWKSURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		// Nothing of it is quoted: it may hold a password.
		return nil, errors.New("the JWKS URL is none: give one that begins with https://")
	}
	if cfg.Refresh <= 0 {
		cfg.Refresh = jwksRefresh
	}
	j := &jwks{
		url: cfg.JWKSURL, public: withoutSecrets(u), client: jwksClient(), interval: cfg.Refresh, now: cfg.Now,
		log:     cfg.Logger,
		unknown: rate.NewLimiter(rate.Every(unknownKeyEvery), 1),
	}
	j.set.Store(&[]publishedKey{})
	if u.Scheme == "http" && !isLoopback(u.Hostname()) {
		j.log.Warn("whoever is on the way to the JWKS URL can replace its keys: use https", "url", j.public)
	}
	return j, nil
}

// withoutSecrets leaves out user information, query and fragment.
func withoutSecrets(u *url.URL) string {
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// jwksClient reads at most maxJWKS bytes, keeps no connection open for minutes, and does not leave https.
func jwksClient() *http.Client {
	return &http.Client{
		Transport: limitedBodies{&http.Transport{
			Proxy: http.ProxyFromEnvironment, DisableKeepAlives: true, ForceAttemptHTTP2: true,
		}},
		CheckRedirect: func(req *http.Request, via []*http.Request) error {
			switch {
			case len(via) > maxJWKSRedirects:
				return errors.New("too many redirects")
			case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
				return errors.New("a redirect leads away from https")
			}
			return nil
		},
	}
}

type limitedBodies struct{ next http.RoundTripper }

func (l limitedBodies) RoundTrip(r *http.Request) (*http.Response, error) {
	res, err := l.next.RoundTrip(r)
	if err == nil {
		res.Body = http.MaxBytesReader(nil, res.Body, maxJWKS)
	}
	return res, err
}

func (*jwks) algorithms() []string { return publicAlgorithms() }

// generation is the set itself.
func (j *jwks) generation() any { return j.set.Load() }

// key gives the keys of the token's kid that fit its algorithm: keys of several kinds may have one kid (RFC 7517,
// section 4.5).
func (j *jwks) key(ctx context.Context, token *jwt.Token) (any, error) {
	id, named := token.Header[jwkset.HeaderKID].(string) // a string if it is there: checkForm
	var found []publishedKey
	if named {
		found = j.find(ctx, id)
	} else if all := *j.set.Load(); len(all) == 1 {
		found = all // OpenID Connect Core 1.0, section 10.1: a token need not name the only key.
	}
	if len(found) == 0 {
		return nil, errNoSuchKey
	}
	var fit jwt.VerificationKeySet
	for _, k := range found {
		if slices.Contains(k.algorithms, token.Method.Alg()) {
			fit.Keys = append(fit.Keys, k.key)
		}
	}
	if len(fit.Keys) == 0 {
		return nil, errWrongAlgorithm
	}
	return fit, nil
}

// known gives the keys of a kid.
func (j *jwks) known(id string) (keys []publishedKey) {
	for _, k := range *j.set.Load() {
		if k.id == id {
			keys = append(keys, k)
		}
	}
	return keys
}

// find gives the keys of a kid, also after the set has been read again.
func (j *jwks) find(ctx context.Context, id string) []publishedKey {
	if keys := j.known(id); len(keys) > 0 {
		return keys
	}
	// Others wait for this read, too: it does not end with this request.
	_, err, _ := j.refreshes.Do("", func() (any, error) {
		if !j.unknown.AllowN(j.now(), 1) {
			return nil, errTooSoon
		}
		return nil, j.refresh(context.WithoutCancel(ctx))
	})
	if err != nil {
		j.log.Debug("a key that is unknown", "error", err)
	}
	// Also after an error: another read may have found the key meanwhile.
	return j.known(id)
}

func (j *jwks) load(ctx context.Context) error {
	if err := j.read(ctx); err != nil {
		return fmt.Errorf("--jwks-url: %s: %w: give a URL that answers with a JWK set", j.public, err)
	}
	return nil
}

func (j *jwks) run(ctx context.Context) {
	wait := j.interval
	for {
		select {
		case <-time.After(wait - rand.N(wait/5+1)): // so that servers that started together do not ask together
		case <-ctx.Done():
			return
		}
		wait = j.interval
		if j.refresh(ctx) != nil {
			wait = min(wait, jwksRetry)
		}
	}
}

// refresh reads the set again, and says in the log why that failed.
func (j *jwks) refresh(ctx context.Context) error {
	err := j.read(ctx)
	if err != nil && ctx.Err() == nil {
		j.log.Warn("the JWK set could not be read again: the last good one stays", "url", j.public, "error", err)
	}
	return err
}

// read puts the keys of the URL in the place of those that are there, or leaves them. Its error quotes no URL.
func (j *jwks) read(ctx context.Context) error {
	given, err := j.get(ctx)
	if u, ok := errors.AsType[*url.Error](err); ok { // its text has the URL, or the one of a redirect
		return u.Err
	}
	if err != nil {
		return err
	}
	var usable []publishedKey
	var kept, left []string
	for _, raw := range given {
		key, err := parseJWK(raw)
		if err != nil {
			left = append(left, fmt.Sprintf("%.80q: %.200s", key.id, err))
			continue
		}
		usable = append(usable, key)
		kept = append(kept, fmt.Sprintf("%.80q", key.id))
	}
	if len(usable) == 0 { // rather a broken answer than the end of all keys
		return fmt.Errorf("%w; left out: [%s]", errNoUsableKey, strings.Join(left, ", "))
	}
	j.say(strings.Join(kept, ", "), strings.Join(left, ", "))
	j.set.Store(&usable)
	return nil
}

// get gives the keys of the URL as they are written.
func (j *jwks) get(ctx context.Context) ([]json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, jwksTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, j.url, nil)
	if err != nil {
		return nil, err
	}
	res, err := j.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, errors.New(res.Status)
	}
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.NewDecoder(res.Body).Decode(&set); err != nil {
		return nil, fmt.Errorf("the answer is no JWK set: %w", err)
	}
	return set.Keys, nil
}

// say logs which keys are used and which were left out, when that has changed.
func (j *jwks) say(kept, left string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if said := kept + "\n" + left; said != j.said {
		j.said = said
		j.log.Info("JWK set", "keys", kept, "left_out", left)
	}
}

var (
	errNoUsableKey = errors.New("the set has no key that verifies tokens")
	errPublished   = errors.New("the URL publishes it, so that anybody can sign with it")
	errTooSoon     = errors.New("the set was read for an unknown key less than a minute ago")
)

// A publishedKey is a key of the set that verifies tokens.
type publishedKey struct {
	id         string // its kid
	key        jwt.VerificationKey
	algorithms []string
}

// parseJWK refuses a key that must not verify tokens: one that is malformed (the others of the set are still good: RFC
// 7517, section 5), one for encryption, one of a kind or an algorithm that is not supported, and a symmetric or private
// one: the URL publishes it, so that anybody could sign with it.
func parseJWK(raw json.RawMessage) (key publishedKey, err error) {
	var named struct {
		ID      string          `json:"kid"`
		Private json.RawMessage `json:"d"` // the library takes no notice of one that is incomplete
	}
	if err := json.Unmarshal(raw, &named); err != nil {
		return key, errors.New("it is no object, or its kid no string")
	}
	if key.id = named.ID; named.Private != nil && string(named.Private) != "null" {
		return key, errPublished
	}
	jwk, err := jwkset.NewJWKFromRawJSON(raw, jwkset.JWKMarshalOptions{Private: true},
		jwkset.JWKValidateOptions{SkipUse: true, SkipKeyOps: true, SkipX5UScheme: true})
	if err != nil {
		return key, err
	}
	m := jwk.Marshal()
	key.key = jwk.Key()
	key.algorithms, err = algorithmsOf(jwk.Key())
	switch {
	case m.USE != "" && m.USE != jwkset.UseSig:
		return key, fmt.Errorf("its use is %.40q", m.USE)
	case len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify):
		return key, errors.New("its key_ops are without verify")
	case m.KTY == jwkset.KtyOct:
		return key, errPublished
	case err != nil:
		return key, err
	case m.ALG != "" && !slices.Contains(key.algorithms, m.ALG.String()):
		return key, fmt.Errorf("its alg is %.40q", m.ALG)
	case m.ALG != "":
		key.algorithms = []string{m.ALG.String()}
	}
	return key, nil
}
