package stage

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"topostream/pgbus/pgcluster"
)

// A Disk is a small file system of PostgreSQL's own, in memory, that can be full.
type Disk struct{ dir string }

const diskSize = "size=50%" // of the machine's memory; it takes what is used

// mountDisk mounts one on a new directory of that name.
func mountDisk(dir string) (*Disk, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("a tmpfs can be mounted by root only")
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, diskSize+",mode=700"); err != nil {
		return nil, fmt.Errorf("mount a tmpfs: %w", err)
	}
	d := &Disk{dir}
	if err := pgcluster.Own(dir); err != nil {
		return nil, errors.Join(err, d.unmount())
	}
	return d, nil
}

// Fill takes all room away, but for some pages.
func (d *Disk) Fill() error {
	var s syscall.Statfs_t
	if err := syscall.Statfs(d.dir, &s); err != nil {
		return fmt.Errorf("fill the disk: %w", err)
	}
	// Whoever writes at the same time may need more than was used a moment ago: PostgreSQL is not stopped for it.
	used := s.Blocks - s.Bfree
	var err error
	for more := uint64(1); more <= 1<<12; more *= 2 {
		if err = d.resize(fmt.Sprintf("size=%d", (used+more)*uint64(s.Bsize))); err == nil {
			return nil
		}
	}
	return fmt.Errorf("fill the disk: %w", err)
}

// Free gives it its room back.
func (d *Disk) Free() error {
	if err := d.resize(diskSize); err != nil {
		return fmt.Errorf("free the disk: %w", err)
	}
	return nil
}

func (d *Disk) resize(size string) error {
	return syscall.Mount("tmpfs", d.dir, "tmpfs", syscall.MS_REMOUNT, size)
}

func (d *Disk) unmount() error { return syscall.Unmount(d.dir, syscall.MNT_DETACH) }
