package main

import (
	"errors"
	"log/slog"
	"regexp"
)

// A redactor takes out of a text what a URL may hold that is nobody's business.
type redactor struct{ values, tokens, userinfo *regexp.Regexp }

func newRedactor() redactor {
	return redactor{
		values:   regexp.MustCompile(`(?i)\b((?:access_)?token|ticket|password)=[^&;\s#"'<>]+`),
		tokens:   regexp.MustCompile(`\beyJ[\w-]+\.[\w-]+\.[\w-]*`), // a JSON Web Token, wherever it stands
		userinfo: regexp.MustCompile(`://[^\s/?#"'<>]*@`),
	}
}

// text redacts the values of token, ticket and password, and JSON Web Tokens.
func (r redactor) text(s string) string {
	return r.tokens.ReplaceAllString(r.values.ReplaceAllString(s, "$1=xxxxx"), "xxxxx")
}

// address redacts user and password, too.
func (r redactor) address(s string) string {
	return r.text(r.userinfo.ReplaceAllString(s, "://xxxxx@"))
}

// attr is slog.HandlerOptions.ReplaceAttr: whatever is logged, and whoever logs it, passes here.
func (r redactor) attr(_ []string, a slog.Attr) slog.Attr {
	switch v := a.Value.Any().(type) {
	case string:
		a.Value = slog.StringValue(r.address(v))
	case error:
		a.Value = slog.AnyValue(errors.New(r.address(v.Error())))
	}
	return a
}

func redact(text string) string { return newRedactor().text(text) }

func redactAddress(text string) string { return newRedactor().address(text) }
