//go:build nodev

package main

// withDev is nothing here: what fetches and runs a private PostgreSQL has no place on a server.
type withDev struct{}

const firstStep = "Begin with `topostream migrate up` and `topostream serve`."
