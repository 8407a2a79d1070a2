package main

import (
	"net/http"
	"sync"
	"testing"

	"topostream/stream/api/contract"
)

// described is openapi.yaml. What the servers of these tests answer is held against it, whatever a test asks for.
var described = sync.OnceValues(func() (*contract.Contract, error) {
	return contract.Read("../../stream/api/openapi.yaml")
})

// contracted is next, but that what comes of a server of these tests must be as openapi.yaml says.
func contracted(next http.RoundTripper) http.RoundTripper {
	c, err := described()
	if err != nil {
		panic(err) // no test can say anything
	}
	return c.Transport(next)
}

// holdToContract fails the test by whatever the server at an address answers that is not described.
func holdToContract(t testing.TB, address string) {
	t.Helper()
	c, err := described()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Hold(t, address))
}
