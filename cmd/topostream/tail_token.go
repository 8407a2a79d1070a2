package main

import (
	"errors"
	"fmt"
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
