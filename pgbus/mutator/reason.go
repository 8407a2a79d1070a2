package mutator

import "strings"

// maxReason is the longest reason in bytes.
const maxReason = 4000

// cleanReason makes a text of anybody's one that PostgreSQL takes.
func cleanReason(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + " …"
	}
	return s
}

// plainReason is what every database encoding has.
func plainReason(s string) string {
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, s)
}
