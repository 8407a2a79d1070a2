package auth

import (
	"context"
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
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/MicahParks/keyfunc/v3"
	"github.com/golang-jwt/jwt/v5"
	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"
)

const (
	jwksTimeout      = 5 * time.Second
	maxJWKS          = 1 << 20 // bytes
	jwksRefresh      = 5 * time.Minute
	jwksRetry        = 30 * time.Second
	unknownKeyEvery  = time.Minute
	maxJWKSRedirects = 3
)

// jwks are the keys of a JWKS URL. A good set stays until a good one replaces it. A key that is known is found without
// waiting for anything; one that is not causes a read of the URL, at most one a minute and one at a time, whoever asks:
// those who ask meanwhile wait for the same one.
type jwks struct {
	url       string
	public    string // the URL for logs and errors
	client    *http.Client
	set       *usableKeys
	keyfunc   keyfunc.Keyfunc
	interval  time.Duration
	now       func() time.Time
	log       *slog.Logger
	unknown   *rate.Limiter
	refreshes singleflight.Group
}

func newJWKS(cfg Config) (*jwks, error) {
	u, err := url.Parse(cfg.JWKSURL)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		// Nothing of it is quoted: it may hold a password.
		return nil, errors.New("the JWKS URL is none: give one that begins with https://")
	}
	set := &usableKeys{MemoryJWKSet: jwkset.NewMemoryStorage(), log: cfg.Logger}
	lookup, err := keyfunc.New(keyfunc.Options{Storage: set})
	if err != nil {
		return nil, err
	}
	if cfg.Refresh <= 0 {
		cfg.Refresh = jwksRefresh
	}
	j := &jwks{
		url: cfg.JWKSURL, public: withoutSecrets(u), client: jwksClient(), set: set, keyfunc: lookup,
		interval: cfg.Refresh, now: cfg.Now, log: cfg.Logger,
		unknown: rate.NewLimiter(rate.Every(unknownKeyEvery), 1),
	}
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

func (*jwks) algorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

func (j *jwks) key(ctx context.Context, token *jwt.Token) (any, error) {
	id, named := token.Header[jwkset.HeaderKID].(string) // a string if it is there: checkForm
	if !named {
		// OpenID Connect Core 1.0, section 10.1: a token need not name the only key.
		all, err := j.set.KeyReadAll(ctx)
		if err != nil || len(all) != 1 {
			return nil, errNoSuchKey
		}
		token.Header[jwkset.HeaderKID] = all[0].Marshal().KID
	} else if !j.knows(ctx, id) {
		return nil, errNoSuchKey
	}
	key, err := j.keyfunc.KeyfuncCtx(ctx)(token) // refuses another algorithm than the JWK's alg
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errWrongAlgorithm, err)
	}
	if algorithms, err := algorithmsOf(key); err != nil || !slices.Contains(algorithms, token.Method.Alg()) {
		return nil, errWrongAlgorithm
	}
	return key, nil
}

// knows tells whether the set has the key, also after it has been read again.
func (j *jwks) knows(ctx context.Context, id string) bool {
	if _, err := j.set.KeyRead(ctx, id); err == nil {
		return true
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
	// Whatever came of it: another read may have ended between the look above and this one.
	_, err = j.set.KeyRead(ctx, id)
	return err == nil
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
	_, err := jwkset.NewStorageFromHTTP(j.url, jwkset.HTTPClientStorageOptions{
		Client: j.client, Ctx: ctx, HTTPTimeout: jwksTimeout, Storage: j.set,
		// One key that we would not use does not make the others worse: usableKeys leaves it out.
		ValidateOptions: jwkset.JWKValidateOptions{SkipUse: true, SkipKeyOps: true, SkipX5UScheme: true},
	})
	if u, ok := errors.AsType[*url.Error](err); ok { // its text has the URL, or the one of a redirect
		return u.Err
	}
	return err
}

// usableKeys is a set without the keys that verify no token: those for encryption, of a kind or an algorithm that we do
// not take, and those that are no secret any more, since the URL publishes them: symmetric keys and private ones.
type usableKeys struct {
	*jwkset.MemoryJWKSet

	log  *slog.Logger
	mu   sync.Mutex
	said string // what was logged last
}

var _ jwkset.Storage = (*usableKeys)(nil)

var (
	errNoUsableKey = errors.New("the set has no key that verifies tokens")
	errTooSoon     = errors.New("the set was read for an unknown key less than a minute ago")
)

// KeyReplaceAll refuses a set of which no key can be used: rather a broken answer than the end of all keys.
func (s *usableKeys) KeyReplaceAll(ctx context.Context, given []jwkset.JWK) error {
	var usable []jwkset.JWK
	var kept, left []string
	for _, jwk := range given {
		m := jwk.Marshal()
		if err := checkJWK(jwk); err != nil {
			left = append(left, fmt.Sprintf("%.80q: %s", m.KID, err))
			continue
		}
		usable = append(usable, jwk)
		kept = append(kept, fmt.Sprintf("%.80q", m.KID))
	}
	if len(usable) == 0 {
		return fmt.Errorf("%w; left out: [%s]", errNoUsableKey, strings.Join(left, ", "))
	}
	s.say(strings.Join(kept, ", "), strings.Join(left, ", "))
	return s.MemoryJWKSet.KeyReplaceAll(ctx, usable)
}

// say logs what is new.
func (s *usableKeys) say(kept, left string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if said := kept + "\n" + left; said != s.said {
		s.said = said
		s.log.Info("JWK set", "keys", kept, "left_out", left)
	}
}

func checkJWK(jwk jwkset.JWK) error {
	m := jwk.Marshal()
	algorithms, err := algorithmsOf(jwk.Key())
	switch {
	case m.USE != "" && m.USE != jwkset.UseSig:
		return fmt.Errorf("its use is %.40q", m.USE)
	case len(m.KEYOPS) > 0 && !slices.Contains(m.KEYOPS, jwkset.KeyOpsVerify):
		return errors.New("its key_ops are without verify")
	case m.KTY == jwkset.KtyOct, m.D != "":
		return errors.New("the URL publishes it, so that anybody can sign with it")
	case err != nil:
		return err
	case m.ALG != "" && !slices.Contains(algorithms, m.ALG.String()):
		return fmt.Errorf("its alg is %.40q", m.ALG)
	}
	return nil
}
