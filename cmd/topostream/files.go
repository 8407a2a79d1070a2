package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"topostream/stream/auth"
)

// rereadEvery is how often files of secrets are looked at. A mounted secret is a link that is swapped, of which no
// watch of the file tells: what counts is what is read.
const rereadEvery = 5 * time.Second

// A watchedFile is a setting in one or more files that changes while the program runs.
type watchedFile struct {
	flag  string
	paths []string
	// renew takes what the files hold now. Where it fails, what was taken last stays.
	renew func(contents [][]byte) error

	tried [sha256.Size]byte // hash of what renew was called with last, or of what the files held at the start
}

// watchFiles reads files again when what they hold has changed, and on SIGHUP, until ctx ends.
func watchFiles(ctx context.Context, log *slog.Logger, every time.Duration, files []*watchedFile) error {
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			asked = true
		case <-ticker.C:
		}
		for _, f := range files {
			f.look(log, asked)
		}
	}
}

// newWatchedFile takes what the files hold now for known.
func newWatchedFile(flag string, renew func([][]byte) error, paths ...string) *watchedFile {
	f := &watchedFile{flag: flag, paths: paths, renew: renew}
	if _, sum, err := f.read(); err == nil {
		f.tried = sum
	}
	return f
}

// look reads the files, and takes what they hold if that has changed, or if it was asked to (SIGHUP).
func (f *watchedFile) look(log *slog.Logger, asked bool) {
	contents, sum, err := f.read()
	switch {
	case err != nil && (!asked || f.tried == [sha256.Size]byte{}):
		return // it is being replaced, or will be missed at the next SIGHUP; a passfile need not be there
	case err == nil && sum == f.tried && !asked:
		return
	case err == nil:
		err = f.renew(contents)
		if _, gone := errors.AsType[*fs.PathError](err); !gone { // else it is swapped just now: the next look finds it
			f.tried = sum
		}
	}
	if err != nil {
		log.Warn("what a file holds now cannot be used: what it held before stays", "flag", f.flag, "error", err)
		return
	}
	log.Info("a file was read again", "flag", f.flag)
}

func (f *watchedFile) read() (contents [][]byte, sum [sha256.Size]byte, _ error) {
	hash := sha256.New()
	for _, path := range f.paths {
		content, err := os.ReadFile(path)
		if err != nil {
			return nil, sum, err
		}
		fmt.Fprintf(hash, "%d ", len(content)) // a hash takes everything
		hash.Write(content)
		contents = append(contents, content)
	}
	return contents, [sha256.Size]byte(hash.Sum(nil)), nil
}

// passfileOf is where a connection string's password is, if it is in a file (PostgreSQL documentation, "The Password
// File").
func passfileOf(databaseURL string) string {
	if u, err := url.Parse(databaseURL); err == nil && u.Query().Get("passfile") != "" {
		return u.Query().Get("passfile")
	}
	if path := os.Getenv("PGPASSFILE"); path != "" {
		return path
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return ""
	}
	return filepath.Join(home, ".pgpass")
}

// watched are the files that the flags name: of keys and secrets, of the TLS certificate (served is nil without TLS),
// and of the database's password.
func (c *serveCmd) watched(
	verifier *auth.Verifier, served *certificate, pools []*pgxpool.Pool,
) (files []*watchedFile) {
	renewKeys := func([][]byte) error {
		cfg, err := c.credentials()
		if err != nil {
			return err
		}
		return verifier.Replace(cfg)
	}
	if c.JWTSecretFile != "" {
		files = append(files, newWatchedFile("--jwt-secret-file", renewKeys, c.JWTSecretFile))
	}
	if c.JWTPublicKey != "" {
		files = append(files, newWatchedFile("--jwt-public-key", renewKeys, c.JWTPublicKey))
	}
	if served != nil {
		files = append(files, newWatchedFile("--tls-cert", served.set, c.TLSCert, c.TLSKey))
	}
	if c.JWTSecretFile != "" || c.JWTPublicKey != "" {
		_ = renewKeys(nil) // what came between the first read and this one; what is wrong then is wrong later, too
	}
	return append(files, watchedPassfile(c.DatabaseURL, pools...))
}

// watchedPassfile is the passfile of a connection string; the pools' connections are opened anew when it changes.
func watchedPassfile(databaseURL string, pools ...*pgxpool.Pool) *watchedFile {
	return newWatchedFile("--database-url (passfile)", func([][]byte) error {
		for _, pool := range pools {
			pool.Reset()
		}
		return nil
	}, passfileOf(databaseURL))
}
