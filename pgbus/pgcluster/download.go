package pgcluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// DownloadConfig says where binaries come from. Zero values: the library's own repository, the user's cache, no
// progress, 2 s.
type DownloadConfig struct {
	URL           string
	CacheDir      string
	Progress      io.Writer
	ProgressEvery time.Duration
}

// Download gets binaries for a machine that has none, once, through fergusstrange/embedded-postgres. They are
// verified and unpacked beside their place and then renamed into it: what is there is whole. One process downloads at
// a time, others wait for it. The error when it does not work is one line, and is ErrNoBinaries.
//
// The archive holds the server alone: no psql.
func Download(ctx context.Context, cfg DownloadConfig) (Binaries, error) {
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	if cfg.ProgressEvery <= 0 {
		cfg.ProgressEvery = 2 * time.Second
	}
	if cfg.CacheDir == "" {
		dir, err := cacheDir()
		if err != nil {
			return Binaries{}, err
		}
		cfg.CacheDir = dir
	}
	dir, err := filepath.Abs(filepath.Join(cfg.CacheDir, "postgresql-"+string(embedded.V17)))
	if err != nil {
		return Binaries{}, fmt.Errorf("cache directory: %w", err)
	}
	if b, err := At(ctx, filepath.Join(dir, "bin")); err == nil {
		return b, nil
	}
	b, err := fetchInto(ctx, dir, cfg)
	if err != nil && ctx.Err() == nil {
		cause, _, _ := strings.Cut(err.Error(), "\n")
		return Binaries{}, fmt.Errorf("%w (fetching one did not work: %s)", ErrNoBinaries, cause)
	}
	return b, err
}

func cacheDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/topostream", nil // root's own is closed to the user that PostgreSQL runs as
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache directory: %w", err)
	}
	return filepath.Join(cache, "topostream"), nil
}

// fetchInto makes dir, whole or not at all.
func fetchInto(ctx context.Context, dir string, cfg DownloadConfig) (Binaries, error) {
	if err := makeOpen(filepath.Dir(dir)); err != nil {
		return Binaries{}, fmt.Errorf("cache directory: %w", err)
	}
	lock, err := awaitLock(ctx, dir+".lock", cfg.Progress)
	if err != nil {
		return Binaries{}, err
	}
	partial, bin := dir+".partial", filepath.Join(dir, "bin")
	// the library, which takes no context: it may still run when ctx has ended, and must find its files then
	var idle sync.WaitGroup
	defer func() {
		cleanUp := func() {
			idle.Wait()
			_ = os.RemoveAll(partial) // or the next one does
			unlock(lock)
		}
		if ctx.Err() != nil {
			go cleanUp()
			return
		}
		cleanUp()
	}()
	if b, err := At(ctx, bin); err == nil {
		return b, nil // another process was faster
	}
	for _, remains := range []string{partial, dir} { // of a process that was killed, and of what does not run
		if err := os.RemoveAll(remains); err != nil {
			return Binaries{}, fmt.Errorf("cache directory: %w", err)
		}
	}
	if err := os.Mkdir(partial, 0o755); err != nil { //nolint:gosec // the user that PostgreSQL runs as must reach it
		return Binaries{}, fmt.Errorf("cache directory: %w", err)
	}
	fmt.Fprintf(cfg.Progress, "no PostgreSQL here: downloading %s into %s …\n", embedded.V17, dir)
	unpacked := filepath.Join(partial, "unpacked")
	if err := fetch(ctx, &idle, partial, unpacked, cfg); err != nil {
		return Binaries{}, err
	}
	if err := openTree(unpacked); err != nil {
		return Binaries{}, fmt.Errorf("cache directory: %w", err)
	}
	if _, err := At(ctx, filepath.Join(unpacked, "bin")); err != nil {
		return Binaries{}, fmt.Errorf("what was downloaded does not run: %w", err)
	}
	if err := os.Rename(unpacked, dir); err != nil {
		return Binaries{}, fmt.Errorf("cache directory: %w", err)
	}
	fmt.Fprintln(cfg.Progress, "downloaded")
	return At(ctx, bin)
}

func awaitLock(ctx context.Context, path string, progress io.Writer) (lock *os.File, err error) {
	told := false
	waitErr := every(ctx, 200*time.Millisecond, func() bool {
		lock, err = tryLock(path)
		if !errors.Is(err, errLocked) {
			return true
		}
		if !told {
			told = true
			fmt.Fprintf(progress, "another topostream %sdownloads PostgreSQL: waiting for it …\n", lockHolder(path))
		}
		return false
	})
	if waitErr != nil {
		return nil, waitErr
	}
	return lock, err
}

// fetch downloads, verifies and unpacks, and tells every while that it does.
func fetch(ctx context.Context, idle *sync.WaitGroup, cache, unpacked string, cfg DownloadConfig) error {
	// The library wants its port to be free before anything else, and its own default is PostgreSQL's; 0 is any, which
	// nobody takes first. It can only start a cluster of its own; what is wanted are the binaries that it unpacks before
	// that. An encoding that does not exist makes it stop there, for every user alike.
	c := embedded.DefaultConfig().Version(embedded.V17).Port(0).CachePath(cache).BinariesPath(unpacked).
		RuntimePath(filepath.Join(cache, "runtime")).Encoding("unpack-only").Logger(io.Discard)
	if cfg.URL != "" {
		c = c.BinaryRepositoryURL(strings.TrimRight(cfg.URL, "/"))
	}
	done := make(chan error, 1)
	idle.Go(func() { done <- embedded.NewDatabase(c).Start() })
	ticker := time.NewTicker(cfg.ProgressEvery)
	defer ticker.Stop()
	for begun := time.Now(); ; {
		select {
		case err := <-done:
			// Only this one comes after everything has been unpacked. If a later version of the library words it otherwise, no
			// download is taken for a good one, and the test says so.
			if err != nil && strings.HasPrefix(err.Error(), "unable to init database") {
				return nil
			}
			if err == nil {
				return errors.New("the library started a cluster, though it was given an encoding that does not exist")
			}
			return err
		case <-ticker.C:
			fmt.Fprintf(cfg.Progress, "… still downloading, %s\n", time.Since(begun).Round(time.Second))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// openTree lets everybody read what was unpacked, whatever the umask: PostgreSQL may run as another user.
func openTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Type()&fs.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		mode := info.Mode().Perm() | 0o044
		if mode&0o100 != 0 {
			mode |= 0o011
		}
		return os.Chmod(path, mode) //nolint:gosec // see above
	})
}
