package pgcluster

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"

	embedded "github.com/fergusstrange/embedded-postgres"
)

// DownloadConfig says where binaries come from. Zero values: the library's own repository, the user's cache.
type DownloadConfig struct {
	URL      string
	CacheDir string
	Progress io.Writer
}

// Download gets binaries for a machine that has none, once, through fergusstrange/embedded-postgres.
func Download(ctx context.Context, cfg DownloadConfig) (Binaries, error) {
	if cfg.Progress == nil {
		cfg.Progress = io.Discard
	}
	if cfg.CacheDir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return Binaries{}, fmt.Errorf("no cache directory: %w", err)
		}
		if os.Geteuid() == 0 {
			cache = "/var/cache" // root's own is closed to the user that PostgreSQL runs as
		}
		cfg.CacheDir = filepath.Join(cache, "topostream")
	}
	dir := filepath.Join(cfg.CacheDir, "postgresql-"+string(embedded.V17))
	bin := filepath.Join(dir, "bin")
	if b, err := At(ctx, bin); err == nil {
		return b, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil { //nolint:gosec // PostgreSQL's user must reach it
		return Binaries{}, fmt.Errorf("cache directory: %w", err)
	}
	fmt.Fprintf(cfg.Progress, "no PostgreSQL here: downloading %s into %s …\n", embedded.V17, dir)
	c := embedded.DefaultConfig().Version(embedded.V17).CachePath(cfg.CacheDir).BinariesPath(dir).
		RuntimePath(filepath.Join(dir, "runtime")).Logger(io.Discard)
	if cfg.URL != "" {
		c = c.BinaryRepositoryURL(cfg.URL)
	}
	// The library can only start its own cluster; what is wanted here are the binaries that it unpacks before that. Its
	// start fails for root, and is stopped otherwise.
	server := embedded.NewDatabase(c)
	startErr := server.Start()
	if startErr == nil {
		if err := server.Stop(); err != nil {
			return Binaries{}, fmt.Errorf("stop the downloaded PostgreSQL: %w", err)
		}
	}
	b, err := At(ctx, bin)
	if err != nil {
		return Binaries{}, fmt.Errorf("%w (a download failed: %w)", ErrNoBinaries, startErr)
	}
	fmt.Fprintln(cfg.Progress, "downloaded")
	return b, nil
}
