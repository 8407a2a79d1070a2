// Package js serves the built browser client, dist/topostream.js. Its source is in src; check proves that the one is
// the other's.
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

// Handler serves the client as an ES module. A browser asks each time whether what it has is still the newest, so that
// a page gets this server's client after an upgrade, and a 304 until then.
func Handler() http.Handler {
	sum := sha256.Sum256(client)
	tag := `"` + hex.EncodeToString(sum[:16]) + `"`
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Type", "text/javascript; charset=utf-8")
		h.Set("Cache-Control", "no-cache")
		h.Set("ETag", tag)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(client))
	})
}
