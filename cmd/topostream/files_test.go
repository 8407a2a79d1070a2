package main

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// secretToken is a viewer's, signed with a secret.
func secretToken(t *testing.T, secret string) string {
	t.Helper()
	signed, err := auth.Sign([]byte(secret), auth.Claims{Subject: "ann", Role: stream.RoleViewer, TTL: time.Hour},
		time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// A mounted secret (of Kubernetes, of Docker) is a link to a directory, and the link is swapped.
func TestSecretsAndCertificatesThatAreSwappedAreReadAgainAndNobodyIsLoggedOut(t *testing.T) {
	t.Parallel()
	db := pgtest.New(t)
	older, newer := strings.Repeat("o", 32), strings.Repeat("n", 32)
	token := func(secret string) string { return secretToken(t, secret) }
	dir := t.TempDir()
	mount := filepath.Join(dir, "mounted")
	revision := 0
	swap := func(files map[string]string) {
		t.Helper()
		revision++
		at := filepath.Join(dir, "data"+string(rune('0'+revision)))
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		for name, content := range files {
			if err := os.WriteFile(filepath.Join(at, name), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		making := mount + ".making"
		if err := os.Symlink(at, making); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(making, mount); err != nil {
			t.Fatal(err)
		}
	}
	read := func(path string) string {
		t.Helper()
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	pair := func() (cert, key string) {
		certPath, keyPath := selfSigned(t)
		return read(certPath), read(keyPath)
	}
	cert, key := pair()
	swap(map[string]string{"secret": older + "\n", "cert": cert, "key": key})
	server := serve(t, db.URL, func(c *serveCmd) {
		c.JWTSecret, c.JWTSecretFile = "", filepath.Join(mount, "secret")
		c.TLSCert, c.TLSKey = filepath.Join(mount, "cert"), filepath.Join(mount, "key")
		c.reread = 20 * time.Millisecond
	})
	// status is what a request with a token gets; served is the certificate that it saw.
	ask := func(token string) (status int, served string) {
		t.Helper()
		transport := &http.Transport{
			DisableKeepAlives: true,
			// The test looks at the certificate itself.
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet,
			"https"+strings.TrimPrefix(server.url, "http")+"/api/v1/topologies", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
		res, err := (&http.Client{Transport: contracted(transport)}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close() // only the status counts
		return res.StatusCode, string(res.TLS.PeerCertificates[0].Raw)
	}
	status := func(secret string) int { status, _ := ask(token(secret)); return status }
	_, first := ask(token(older))

	nextCert, nextKey := pair()
	swap(map[string]string{"secret": newer + "\n" + older + "\n", "cert": nextCert, "key": key}) // not a pair
	pgtest.Eventually(t, "the new secret", func() bool { return status(newer) == http.StatusOK })
	if status(older) != http.StatusOK {
		t.Error("who has a token of the old secret is logged out")
	}
	pgtest.Eventually(t, "a word about the pair", func() bool {
		return strings.Contains(server.log.String(), "what it held before stays")
	})
	if _, served := ask(token(newer)); served != first {
		t.Error("a certificate without its key is served")
	}

	swap(map[string]string{"secret": newer + "\n", "cert": nextCert, "key": nextKey})
	pgtest.Eventually(t, "the end of the old secret", func() bool { return status(older) == http.StatusUnauthorized })
	pgtest.Eventually(t, "the new certificate", func() bool { _, served := ask(token(newer)); return served != first })

	swap(map[string]string{"secret": "short\n", "cert": nextCert, "key": nextKey})
	pgtest.Eventually(t, "a word about the secret", func() bool {
		return strings.Contains(server.log.String(), "the JWT secret has 5 bytes")
	})
	if status(newer) != http.StatusOK {
		t.Error("a secret that cannot be used has ended the one before")
	}
	if log := server.log.String(); strings.Contains(log, newer) || strings.Contains(log, older) {
		t.Error("a secret is in the log")
	}
}

// The signal is for the whole process, and so for the servers of other tests.
func TestSIGHUPHasSecretsAndKeysReadAtOnce(t *testing.T) { //nolint:paralleltest // as above
	type swapped struct{ content, token string }
	secret := func(s string) swapped { return swapped{s, secretToken(t, s)} }
	key := func() swapped {
		private := ecKey(t)
		return swapped{publicPEM(t, private), ecToken(t, private, "", "viewer", time.Hour)}
	}
	for flag, is := range map[string]struct { //nolint:paralleltest // as above
		older, newer swapped
		set          func(c *serveCmd, file string)
	}{
		"--jwt-secret-file": {
			secret(strings.Repeat("o", 32)), secret(strings.Repeat("n", 32)),
			func(c *serveCmd, file string) { c.JWTSecretFile = file },
		},
		"--jwt-public-key": {key(), key(), func(c *serveCmd, file string) { c.JWTPublicKey = file }},
	} {
		t.Run(flag, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "file")
			write := func(content string) {
				t.Helper()
				if err := os.WriteFile(file+".new", []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(file+".new", file); err != nil {
					t.Fatal(err)
				}
			}
			write(is.older.content)
			server := serve(t, pgtest.New(t).URL, func(c *serveCmd) {
				c.JWTSecret, c.reread = "", time.Hour
				is.set(c, file)
			})
			status := func(of swapped) int { return listed(t, server.url, "Authorization", "Bearer "+of.token) }
			if older, newer := status(is.older), status(is.newer); older != http.StatusOK || newer != http.StatusUnauthorized {
				t.Fatalf("before: %d with the old one, %d with the new one", older, newer)
			}
			write(is.newer.content)
			pgtest.Eventually(t, "the new one", func() bool {
				if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
					t.Fatal(err)
				}
				return status(is.newer) == http.StatusOK
			})
			if got := status(is.older); got != http.StatusUnauthorized {
				t.Errorf("with the old one: %d", got)
			}
		})
	}
}

// A file that is swapped between the look and the reading, and one that could not be taken, are not forgotten.
func TestAFileThatCouldNotBeTakenIsTakenLater(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "secret")
	write := func(content string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old")
	var taken []string
	var fails error
	f := newWatchedFile("--secret", func(contents [][]byte) error {
		taken = append(taken, string(contents[0]))
		return fails
	}, path)
	look := func(asked bool, want ...string) {
		t.Helper()
		taken = nil
		if f.look(slog.New(slog.DiscardHandler), asked); !slices.Equal(taken, want) {
			t.Errorf("taken: %q, want %q", taken, want)
		}
	}
	look(false)
	write("new")
	fails = fmt.Errorf("--secret: %w", &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist})
	look(false, "new")
	fails = errors.New("a key that does not fit")
	look(false, "new")
	look(false)
	fails = nil
	look(true, "new") // SIGHUP
	look(false)
}

// Most servers have no passfile.
func TestAPassfileThatIsNotThereIsNothingToWarnOf(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	f := newWatchedFile("--database-url (passfile)", nil, filepath.Join(t.TempDir(), "none"))
	if f.look(slog.New(slog.NewTextHandler(&log, nil)), true); log.Len() > 0 {
		t.Error(log.String())
	}
}
