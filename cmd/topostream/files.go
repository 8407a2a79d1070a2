package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"
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

	tried [sha256.Size]byte // what renew was called with, or what the files held at the start
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

// look takes what the files hold, if it is another than last time, and if it was asked to.
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

// A served certificate is what TLS connections that begin now get.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// certificate reads --tls-cert and --tls-key; nil: there is no TLS.
func (c *serveCmd) certificate() (*certificate, error) {
	if c.TLSCert == "" {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert and --tls-key: %w", err)
	}
	served := &certificate{}
	served.current.Store(&pair)
	return served, nil
}

func (c *certificate) set(contents [][]byte) error {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return err
	}
	c.current.Store(&pair)
	return nil
}

func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}

// passfileOf is where the password of an address is, if it is in a file (PostgreSQL documentation, "The Password
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
