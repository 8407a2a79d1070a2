package api

import (
	_ "embed" // openapi.yaml
	"net/http"
)

// description is the OpenAPI 3.1 description of every route.
//
//go:embed openapi.yaml
var description []byte

func serveDescription(w http.ResponseWriter, _ *http.Request) {
	writeBody(w, http.StatusOK, "application/yaml", description) // RFC 9512
}
