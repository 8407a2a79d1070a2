// Package console serves the page of operators: topologies live, their graphs, and what may be done to them.
//
// Its source is in web, in TypeScript; dist is what web builds, and is committed, so that the program needs no Node.
//
// The kinds of deckies that editing offers are a file of the page, /console/archetypes.json. An installation offers its
// own by answering that path before the request comes here, with an object of the same form: {"archetypes": [{"id",
// "title", "name", "services", "forwards_l3"}]}. `id` alone is required: it becomes decky_config.archetype. `name` is
// what names of new ones begin with.
package console

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"net/http"
	"path"
	"time"

	"github.com/go-chi/chi/v5/middleware"
)

//go:embed dist
var files embed.FS

const policy = "default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; img-src 'self' blob:; " +
	"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

// Handler serves the page at / and what it loads below /console/.
func Handler() http.Handler {
	mux := http.NewServeMux()
	home := http.RedirectHandler("/", http.StatusFound) // the browser keeps the fragment
	mux.Handle("GET /console/{$}", home)
	mux.Handle("GET /console/index.html", home)
	walk := func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := fs.ReadFile(files, name)
		if err != nil {
			return err
		}
		route := "GET /console/" + path.Base(name)
		if path.Base(name) == "index.html" {
			route = "GET /{$}"
		}
		mux.Handle(route, file(path.Base(name), content))
		return nil
	}
	if err := fs.WalkDir(files, "dist", walk); err != nil {
		panic(err) // files are in the program
	}
	compressed := middleware.Compress(6)(mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", policy)
		h.Set("Cache-Control", "no-cache")
		compressed.ServeHTTP(w, r)
	})
}

// file serves content, or says that the browser has it.
func file(name string, content []byte) http.HandlerFunc {
	sum := sha256.Sum256(content)
	tag := `W/"` + hex.EncodeToString(sum[:8]) + `"` // weak: it is the same compressed and not
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("ETag", tag)
		http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(content))
	}
}
