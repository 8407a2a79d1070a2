// Package js serves the built browser client: dist/topostream.js, and dist/topostream-tabs.js, whose tabs share one
// stream. Their source is in src; check proves that they are its.
package js

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"net/http"
	"time"
)

//go:embed dist/topostream.js
var client []byte

//go:embed dist/topostream-tabs.js
var tabs []byte

// Handler serves the client as an ES module. A browser asks each time whether what it has is still the newest, so that
// a page gets this server's client after an upgrade, and a 304 until then.
func Handler() http.Handler { return module(client) }

// TabsHandler serves the client whose tabs share one stream, as Handler does the other.
func TabsHandler() http.Handler { return module(tabs) }

func module(text []byte) http.Handler {
	sum := sha256.Sum256(text)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(text))
	})
}
