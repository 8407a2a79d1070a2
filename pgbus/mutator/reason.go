package mutator

import "strings"

// maxReason is the longest reason in bytes.
const maxReason = 4000

// cleanReason makes a text of any origin one that PostgreSQL takes: UTF-8 without U+0000, not longer than maxReason.
func cleanReason(s string) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "\uFFFD")
	if len(s) > maxReason {
		s = strings.ToValidUTF8(s[:maxReason], "") + " …"
	}
	return s
}

// plainReason replaces what is not ASCII, so that a database of any encoding takes it.
func plainReason(s string) string {
	return strings.Map(func(r rune) rune {
		if r > '~' {
			return '?'
		}
		return r
	}, s)
}
