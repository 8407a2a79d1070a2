package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// What the linker sets: -ldflags "-X main.release=0.2.0 -X main.revision=…".
//
//nolint:gochecknoglobals // the linker sets them
var (
	release  string // the version that a release is built with
	revision string // the commit, where there is no .git that Go could ask
)

type versionCmd struct{}

// Run prints the version, commit and Go.
func (versionCmd) Run(o output) error {
	_, err := fmt.Fprintln(o.out, versionLine())
	return err
}

// versionLine is for example "topostream 0.2.0, commit 0123456789ab, go1.26.0 linux/amd64".
func versionLine() string {
	version, commit, goVersion := build()
	return fmt.Sprintf("topostream %s, commit %s, %s %s/%s", version, commit, goVersion, runtime.GOOS, runtime.GOARCH)
}

// build says which program this is.
func build() (version, commit, goVersion string) {
	version, commit = release, short(cmp.Or(revision, "unknown"))
	if info, ok := debug.ReadBuildInfo(); ok {
		version = cmp.Or(version, info.Main.Version)
		for _, setting := range info.Settings {
			switch {
			case setting.Key == "vcs.revision":
				commit = short(setting.Value)
			case setting.Key == "vcs.modified" && setting.Value == "true":
				commit += " and changes"
			}
		}
	}
	return cmp.Or(version, "(devel)"), commit, runtime.Version()
}

func short(commit string) string { return commit[:min(12, len(commit))] }
