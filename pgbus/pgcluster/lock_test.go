package pgcluster

import (
	"path/filepath"
	"syscall"
	"testing"
)

func TestALockThatIsGivenBackIsFreeThoughAProgramIsBeingStarted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	first, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	fork, err := syscall.Dup(int(first.Fd())) // what a child has between fork and exec
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = syscall.Close(fork) }()
	unlock(first)
	second, err := tryLock(path)
	if err != nil {
		t.Fatal(err)
	}
	unlock(second)
}
