// Package pgjar packs a PostgreSQL installation as the archive that pgcluster.Download expects. For tests: they serve
// this machine's own.
package pgjar

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"topostream/pgbus/pgcluster"
)

// Pack gives a tar.xz of the server's programs and libraries. It skips the test where there is no xz.
func Pack(t testing.TB, b pgcluster.Binaries) []byte {
	t.Helper()
	var packed bytes.Buffer
	archive := tar.NewWriter(&packed)
	top := filepath.Dir(b.Dir)
	for _, name := range []string{"bin/initdb", "bin/pg_ctl", "bin/postgres", "lib", "share"} {
		err := filepath.WalkDir(filepath.Join(top, name), func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) || err == nil && d.IsDir() && (d.Name() == "bitcode" || d.Name() == "pgxs") {
				return fs.SkipDir // Debian has its share elsewhere, and postgres knows where; the rest is for JIT and for building
			}
			if err != nil || d.IsDir() {
				return err
			}
			return add(archive, top, path)
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	return Compress(t, packed.Bytes())
}

func add(archive *tar.Writer, top, path string) error {
	name, err := filepath.Rel(top, path)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	header := &tar.Header{
		Typeflag: tar.TypeReg, Name: name, Mode: int64(info.Mode().Perm()), Size: int64(len(content)),
	}
	if err := archive.WriteHeader(header); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	if _, err = archive.Write(content); err != nil {
		return fmt.Errorf("pack %s: %w", name, err)
	}
	return nil
}

// Compress is xz. It skips the test where there is none.
func Compress(t testing.TB, b []byte) []byte {
	t.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("no xz on this machine to pack an archive with: install it, for example `apt-get install xz-utils`")
	}
	xz := exec.CommandContext(context.WithoutCancel(t.Context()), "xz", "-0", "-c")
	xz.Stdin = bytes.NewReader(b)
	out, err := xz.Output()
	if err != nil {
		t.Fatalf("xz: %v", err)
	}
	return out
}

// Jar puts a tar.xz into the zip that it travels in.
func Jar(t testing.TB, txz []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "postgres.txz", Method: zip.Store})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(txz); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Answer is what a repository holds at a path: the jar, its checksum, or nothing.
func Answer(jar []byte, path string) []byte {
	switch {
	case strings.HasSuffix(path, ".jar"):
		return jar
	case strings.HasSuffix(path, ".jar.sha256"):
		sum := sha256.Sum256(jar)
		return []byte(hex.EncodeToString(sum[:]))
	}
	return nil
}
