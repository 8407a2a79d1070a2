package pgtest

import (
	"os"
	"syscall"
	"testing"
)

const (
	memory     = "/dev/shm"
	memoryFree = 6 << 30 // bytes; the clusters of a whole run hold 2 GiB at times
)

// clusterRoot is where clusters are made: in memory where there is much of it, because a run makes and drops hundreds
// of databases, of 300 files each, and a disk's file system takes half of the run's time for that.
func clusterRoot() string {
	if dir := os.Getenv("TEST_PG_DATA"); dir != "" {
		return dir
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(memory, &fs); err != nil || fs.Bavail*uint64(fs.Bsize) < memoryFree {
		return os.TempDir()
	}
	return memory
}

// clusterDir gives a directory for a private cluster.
func clusterDir(t testing.TB) string {
	t.Helper()
	return openDir(t, clusterRoot())
}
