package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
)

// A tailToken is what tail shows the server: always the same token, or what a file holds at each connection.
type tailToken struct{ fixed, file string }

// token finds out that there is something to read.
func (c *tailCmd) token() (tailToken, error) {
	if c.Token != "" && c.TokenFile != "" {
		return tailToken{}, errors.New("--token and --token-file are both given: give one")
	}
	t := tailToken{c.Token, c.TokenFile}
	_, err := t.read()
	return t, err
}

func (t tailToken) read() (string, error) {
	if t.file == "" {
		return t.fixed, nil
	}
	b, err := os.ReadFile(t.file)
	if err != nil {
		return "", fmt.Errorf("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" || strings.ContainsFunc(token, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return "", fmt.Errorf("--token-file: %s holds no token: write there what `topostream token` prints", t.file)
	}
	return token, nil
}

// refusal tells what the server said instead of a stream.
func (t tailToken) refusal(r *http.Response) error {
	err := refusal(r)
	if t.file != "" && r.StatusCode == http.StatusUnauthorized {
		return fmt.Errorf("%w; or renew the one in %s before it expires", err, t.file)
	}
	return err
}

// authorize puts the token of the moment on each request. Where the server does not take it and the file has changed
// meanwhile, it tries the new one.
func (t tailToken) authorize(base http.RoundTripper) http.RoundTripper { return authorizing{base, t} }

type authorizing struct {
	base  http.RoundTripper
	token tailToken
}

func (a authorizing) RoundTrip(r *http.Request) (*http.Response, error) {
	token, err := a.token.read()
	if err != nil {
		return nil, err // whoever renews it may be about to: it counts as a lost connection
	}
	for {
		res, err := a.with(token, r)
		if err != nil || res.StatusCode != http.StatusUnauthorized {
			return res, err
		}
		renewed, unreadable := a.token.read()
		if unreadable != nil || renewed == token {
			return res, err
		}
		token = renewed
		_ = res.Body.Close() // it said that the old one is not good
	}
}

func (a authorizing) with(token string, r *http.Request) (*http.Response, error) {
	if token != "" {
		r = r.Clone(r.Context()) // a RoundTripper leaves the request as it is
		r.Header.Set("Authorization", "Bearer "+token)
	}
	return a.base.RoundTrip(r)
}
