//go:build !linux

package stage

import "errors"

// A Disk is a small file system of PostgreSQL's own that can be full.
type Disk struct{}

var errNoDisk = errors.New("small file systems are mounted on Linux only") //nolint:gochecknoglobals // an error value

func mountDisk(string) (*Disk, error) { return nil, errNoDisk }

// Fill takes all room away.
func (*Disk) Fill() error { return errNoDisk }

// Free gives it its room back.
func (*Disk) Free() error { return errNoDisk }

func (*Disk) unmount() error { return nil }
