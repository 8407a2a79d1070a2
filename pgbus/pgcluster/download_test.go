package pgcluster_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgcluster/pgjar"
	"topostream/pgbus/pgtest"
)

// serverArchive is this machine's own PostgreSQL, packed once.
var serverArchive struct {
	once sync.Once
	txz  []byte
}

func packServer(t *testing.T) []byte {
	t.Helper()
	if testing.Short() {
		t.Skip("it packs an installation: left out with -short")
	}
	serverArchive.once.Do(func() { serverArchive.txz = pgjar.Pack(t, mustBinaries(t)) })
	if serverArchive.txz == nil {
		t.Skip("there is no archive: the first test that needed one says why")
	}
	return serverArchive.txz
}

// goodJar is an archive that holds a whole server.
func goodJar(t *testing.T) []byte {
	t.Helper()
	return pgjar.Jar(t, packServer(t))
}

// A repository serves one archive, as Maven's do. Its fields say what is wrong with it.
type repository struct {
	jar      []byte
	checksum string        // empty: the right one
	cut      bool          // the connection, halfway
	asked    chan struct{} // with stall: closed when the first request is there
	stall    chan struct{} // answer when it is closed, or the client has gone
	requests atomic.Int32
}

func stalled() *repository {
	return &repository{asked: make(chan struct{}), stall: make(chan struct{})}
}

func (r *repository) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	n := r.requests.Add(1)
	if r.stall != nil {
		if n == 1 {
			close(r.asked)
		}
		select {
		case <-r.stall:
		case <-req.Context().Done():
		}
	}
	switch {
	case r.jar == nil:
		http.NotFound(w, req)
	case strings.HasSuffix(req.URL.Path, ".jar") && r.cut:
		w.Header().Set("Content-Length", "1000000000")
		_, _ = w.Write(r.jar[:len(r.jar)/2]) // net/http cuts what is shorter than it says
	case strings.HasSuffix(req.URL.Path, ".sha256") && r.checksum != "":
		_, _ = io.WriteString(w, r.checksum)
	default:
		_, _ = w.Write(pgjar.Answer(r.jar, req.URL.Path)) // the client may have gone
	}
}

func (r *repository) serve(t *testing.T) (url string) {
	t.Helper()
	s := httptest.NewServer(r)
	t.Cleanup(s.Close)
	return s.URL
}

// A watcher is a writer that tells when a text has been written.
type watcher struct {
	mu      sync.Mutex
	written string
	text    string
	seen    chan struct{}
}

func watch(text string) *watcher { return &watcher{text: text, seen: make(chan struct{})} }

func (w *watcher) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := strings.Contains(w.written, w.text)
	w.written += string(p)
	if !before && strings.Contains(w.written, w.text) {
		close(w.seen)
	}
	return len(p), nil
}

// await waits for what comes while a download lasts.
func await(t *testing.T, comes <-chan struct{}, ended <-chan error) {
	t.Helper()
	select {
	case <-comes:
	case err := <-ended:
		t.Fatalf("the download ended: %v", err)
	}
}

func TestADownloadGivesAClusterThatStartsAndTheSecondCallDownloadsNothing(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	repo := &repository{jar: goodJar(t)}
	// PostgreSQL's usual port is taken, by us or by somebody else: it does not matter.
	if l, err := net.Listen("tcp", "localhost:5432"); err == nil {
		t.Cleanup(func() { _ = l.Close() })
	}
	cfg := pgcluster.DownloadConfig{URL: repo.serve(t) + "/", CacheDir: filepath.Join(pgtest.OpenDir(t), "made", "cache")}
	b, err := pgcluster.Download(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(b.Dir, cfg.CacheDir) {
		t.Errorf("the programs are in %s", b.Dir)
	}
	c := start(t, pgcluster.Config{Binaries: b, DataDir: filepath.Join(pgtest.OpenDir(t), "data")})
	if got := query(t, c.URL("postgres"), `SELECT 'works'`); got != "works" {
		t.Error(got)
	}
	n := repo.requests.Load()
	again, err := pgcluster.Download(t.Context(), cfg)
	if err != nil || again != b || repo.requests.Load() != n || n != 2 {
		t.Errorf("again: %v, %v after %d requests, then %d", again, err, n, repo.requests.Load())
	}
	if left := kept(t, cfg.CacheDir); left != "postgresql-17.5.0 postgresql-17.5.0.lock" {
		t.Errorf("the cache holds %s", left)
	}
}

// kept lists what is in the cache.
func kept(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

func TestABadDownloadIsOneLineAndNothingOfItIsKept(t *testing.T) {
	t.Parallel()
	good := goodJar(t)
	txz := packServer(t)
	corrupt := bytes.Clone(good)
	corrupt[len(corrupt)/2] ^= 0xff
	var other bytes.Buffer
	archive := tar.NewWriter(&other)
	if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "bin/initdb", Mode: 0o755}); err != nil {
		t.Fatal(err)
	}
	if err := archive.Close(); err != nil {
		t.Fatal(err)
	}
	noServer := pgjar.Compress(t, other.Bytes())
	for name, c := range map[string]struct {
		repo *repository
		want string
	}{
		"wrong checksum":                         {&repository{jar: good, checksum: strings.Repeat("0", 64)}, "checksum"},
		"connection cut":                         {&repository{jar: good, cut: true}, "unexpected EOF"},
		"one byte wrong, but the checksum right": {&repository{jar: corrupt}, "checksum"},
		"archive that ends early":                {&repository{jar: pgjar.Jar(t, txz[:len(txz)/4])}, "extract"},
		"archive without a server":               {&repository{jar: pgjar.Jar(t, noServer)}, "does not run"},
		"no archive at all":                      {&repository{jar: []byte("<html>Log in to the network</html>")}, "zip"},
		"nothing there":                          {&repository{}, "no version found"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cfg := pgcluster.DownloadConfig{URL: c.repo.serve(t), CacheDir: pgtest.OpenDir(t)}
			_, err := pgcluster.Download(t.Context(), cfg)
			if !errors.Is(err, pgcluster.ErrNoBinaries) || !strings.Contains(err.Error(), c.want) ||
				strings.Contains(err.Error(), "\n") {
				t.Errorf("the error is: %v", err)
			}
			if left := kept(t, cfg.CacheDir); left != "postgresql-17.5.0.lock" {
				t.Errorf("the cache holds %s", left)
			}
		})
	}
}

func TestWhenTheRepositoryIsAwayOneLineSaysWhatToInstall(t *testing.T) {
	t.Parallel()
	pgtest.Slow(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	url := "http://" + l.Addr().String()
	_ = l.Close()
	_, err = pgcluster.Download(t.Context(), pgcluster.DownloadConfig{URL: url, CacheDir: pgtest.OpenDir(t)})
	if !errors.Is(err, pgcluster.ErrNoBinaries) || strings.Contains(err.Error(), "\n") ||
		!strings.Contains(err.Error(), "apt-get install postgresql") ||
		!strings.Contains(err.Error(), "unable to connect to "+url) {
		t.Errorf("the error is: %v", err)
	}
}

func TestADownloadThatLastsSaysSoAndCanBeGivenUp(t *testing.T) {
	t.Parallel()
	repo := stalled()
	ctx, cancel := context.WithCancel(t.Context())
	progress := watch("… still downloading, ")
	done := make(chan error, 1)
	cfg := pgcluster.DownloadConfig{
		URL: repo.serve(t), CacheDir: pgtest.OpenDir(t), Progress: progress, ProgressEvery: 50 * time.Millisecond,
	}
	go func() {
		_, err := pgcluster.Download(ctx, cfg)
		done <- err
	}()
	await(t, repo.asked, done)
	await(t, progress.seen, done)
	// Another one waits, and does not download the same.
	other := watch("another topostream (pid ")
	otherDone := make(chan error, 1)
	otherCfg := cfg
	otherCfg.Progress = other
	go func() {
		_, err := pgcluster.Download(ctx, otherCfg)
		otherDone <- err
	}()
	await(t, other.seen, otherDone)
	if n := repo.requests.Load(); n != 1 {
		t.Errorf("%d requests", n)
	}
	cancel()
	for _, d := range []chan error{done, otherDone} {
		if err := <-d; !errors.Is(err, context.Canceled) {
			t.Errorf("given up: %v", err)
		}
	}
	close(repo.stall) // the library's request ends, and what it has made is removed
}

func TestWhatAKilledDownloadOrAnOldFaultLeftIsNotTakenForGood(t *testing.T) {
	pgtest.Slow(t)
	t.Parallel()
	slow := stalled()
	cache := pgtest.OpenDir(t)
	// It looks whole to whoever only asks for names.
	half := filepath.Join(cache, "postgresql-17.5.0", "bin")
	if err := os.MkdirAll(half, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "pg_ctl", "postgres"} {
		if err := os.WriteFile(filepath.Join(half, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), downloadDir+"="+cache, downloadURL+"="+slow.serve(t))
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	await(t, slow.asked, ended)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Fatal("it was not killed: the test tests nothing")
	}
	if left := kept(t, cache); !strings.Contains(left, ".partial") {
		t.Fatalf("the cache holds %s: the test tests nothing", left)
	}
	repo := &repository{jar: goodJar(t)}
	b, err := pgcluster.Download(t.Context(), pgcluster.DownloadConfig{URL: repo.serve(t), CacheDir: cache})
	if err != nil || !strings.HasPrefix(b.Dir, cache) {
		t.Errorf("the next one: %v, %v", b, err)
	}
	if left := kept(t, cache); left != "postgresql-17.5.0 postgresql-17.5.0.lock" {
		t.Errorf("the cache holds %s", left)
	}
}
