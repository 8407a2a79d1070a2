package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"topostream/stream"
)

// maxAnswer is what is read of an answer, in bytes.
const maxAnswer = 64 << 10

// shortestSecret: a shorter user or value of a query is more likely a name than a secret, and might be a part of any
// word.
const shortestSecret = 8

type service struct {
	address string
	redact  *strings.Replacer // takes the address's credentials out of what a server says
	timeout time.Duration
	client  *http.Client
}

var _ stream.Applier = (*service)(nil)

// URL posts the mutation's JSON to a service, with the mutation's id as Idempotency-Key, and gives it timeout to answer
// (0: as long as it takes). 2xx is success. Otherwise the reason is the status with the detail of a problem+json (RFC
// 9457), else with the first line of the body. Redirects are not followed: a POST that becomes a GET elsewhere has
// applied nothing.
//
// The address is http or https and may hold credentials: user and password are sent as Basic authentication (RFC 7617).
// They appear in no reason and no error, also when the service repeats them, nor do the values of its query; users and
// values of less than 8 bytes are not taken for secrets.
func URL(address string, timeout time.Duration) (stream.Applier, error) {
	u, err := url.Parse(address)
	if err != nil { // whose text holds the address
		return nil, errors.New("the URL cannot be read: write http://host/path or https://host/path")
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" {
		return nil, errors.New("the URL is not http://host/path or https://host/path")
	}
	transport := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // net/http says so
	// A connection for each call: calls are few, and net/http would send again what carries an Idempotency-Key when a
	// kept connection turns out to be dead.
	transport.DisableKeepAlives = true
	return &service{address, redacter(u), timeout, &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// redacter replaces a URL's credentials, as they are and as they are written in it.
func redacter(u *url.URL) *strings.Replacer {
	var pairs []string
	hide := func(secret, written string, shortest int) {
		if len(secret) >= shortest {
			pairs = append(pairs, secret, "xxxxx", written, "xxxxx")
		}
	}
	user, password, _ := strings.Cut(u.User.String(), ":")
	hide(u.User.Username(), user, shortestSecret)
	secret, _ := u.User.Password()
	hide(secret, password, 1)
	for _, values := range u.Query() {
		for _, v := range values {
			hide(v, url.QueryEscape(v), shortestSecret)
		}
	}
	return strings.NewReplacer(pairs...)
}

func (s *service) Apply(ctx context.Context, m stream.Mutation) error {
	document, err := json.Marshal(m)
	if err != nil {
		return err
	}
	ctx, cancel := limit(ctx, s.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.address, bytes.NewReader(document))
	if err != nil {
		return errors.New("the request cannot be made") // URL has read the address: this is for the linter
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Idempotency-Key", string(m.ID))
	for header, value := range traceOf(ctx) {
		req.Header.Set(header, value)
	}
	res, err := s.client.Do(req)
	if err != nil {
		return s.failed(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode >= 200 && res.StatusCode < 300 {
		return nil
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if ctx.Err() != nil {
		return s.failed(ctx, err)
	}
	reason := s.line(res.Status)
	if detail := s.detail(res.Header, body); detail != "" { // of a body that was cut, too
		reason += ": " + detail
	}
	return errors.New(reason)
}

// failed says why there is no answer.
func (s *service) failed(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return stopped(ctx)
	}
	if urlErr, ok := errors.AsType[*url.Error](err); ok {
		err = urlErr.Err // without the address
	}
	return errors.New(s.line(err.Error()))
}

// detail finds what a service says about its refusal.
func (s *service) detail(header http.Header, body []byte) string {
	var problem struct{ Title, Detail string }
	kind, _, _ := mime.ParseMediaType(header.Get("Content-Type")) // no type is another type
	if kind == "application/problem+json" && json.Unmarshal(body, &problem) == nil {
		for _, text := range []string{problem.Detail, problem.Title} {
			if line := s.line(text); line != "" {
				return line
			}
		}
	}
	return s.line(string(body))
}

// line is the first line of what a service says, fit to be shown.
func (s *service) line(text string) string { return firstLine(s.redact.Replace(text)) }
