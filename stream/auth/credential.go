package auth

import (
	"errors"
	"net/http"
	"strings"
)

var (
	errNone      = errors.New("none given")
	errAmbiguous = errors.New("several are given in one place")
)

type credential struct {
	token   string
	ambient bool // the browser sent it by itself
}

// credentialOf gives the token of Authorization: Bearer, else of ?token=, else of the cookie. The first of these that
// is there decides, also when what it holds is empty or bad: which of two credentials counts must not depend on whether
// one is valid. Two in one place are refused, since proxies differ in which one they look at, and since a neighbouring
// subdomain can add a second cookie.
func credentialOf(r *http.Request, cookie string) (credential, error) {
	if tokens := bearers(r.Header); len(tokens) > 0 {
		return single(tokens, false)
	}
	if tokens := r.URL.Query()["token"]; len(tokens) > 0 {
		return single(tokens, false)
	}
	if cookie == "" {
		return credential{}, errNone
	}
	var tokens []string
	for _, c := range r.CookiesNamed(cookie) {
		tokens = append(tokens, c.Value)
	}
	return single(tokens, true)
}

func single(tokens []string, ambient bool) (credential, error) {
	switch {
	case len(tokens) > 1:
		return credential{}, errAmbiguous
	case len(tokens) == 0, tokens[0] == "":
		return credential{}, errNone
	}
	return credential{tokens[0], ambient}, nil
}

// bearers are the tokens of the header Authorization. Another scheme is a proxy's own.
func bearers(h http.Header) (tokens []string) {
	for _, v := range h.Values("Authorization") {
		if scheme, rest, _ := strings.Cut(v, " "); strings.EqualFold(scheme, "Bearer") {
			tokens = append(tokens, strings.Trim(rest, " "))
		}
	}
	return tokens
}

// isCookieName tells whether a cookie can have the name (RFC 6265, section 4.1.1).
func isCookieName(name string) bool {
	cookies, err := http.ParseCookie(name + "=")
	return err == nil && len(cookies) == 1 && cookies[0].Name == name
}
