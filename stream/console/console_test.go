package console

import (
	"compress/gzip"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"

	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }

// get asks a new handler; headers are "Name: value".
func get(t *testing.T, path string, headers ...string) (*http.Response, string) {
	t.Helper()
	r := httptest.NewRequest(http.MethodGet, path, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	w := httptest.NewRecorder()
	Handler().ServeHTTP(w, r)
	res := w.Result()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// paths gives the path of each file of dist.
func paths(t *testing.T) map[string]string {
	t.Helper()
	names := map[string]string{}
	entries, err := fs.ReadDir(files, "dist")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IsDir() {
			t.Errorf("%s is a directory: what is in it is served without its name", e.Name())
		}
		names[e.Name()] = "/console/" + e.Name()
	}
	names["index.html"] = "/"
	return names
}

func TestEveryFileIsServedWithItsTypeAndThePolicy(t *testing.T) {
	t.Parallel()
	types := map[string]string{
		"html": "text/html", "js": "text/javascript", "css": "text/css", "woff2": "font/woff2", "txt": "text/plain",
		"json": "application/json", "svg": "image/svg+xml",
	}
	for name, path := range paths(t) {
		res, body := get(t, path)
		want, err := fs.ReadFile(files, "dist/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != http.StatusOK || body != string(want) {
			t.Errorf("%s: %s, %d bytes of %d", path, res.Status, len(body), len(want))
		}
		kind := types[name[strings.LastIndex(name, ".")+1:]]
		if kind == "" || !strings.HasPrefix(res.Header.Get("Content-Type"), kind) {
			t.Errorf("%s is %q, not %q", path, res.Header.Get("Content-Type"), kind)
		}
		got := res.Header.Get("Content-Security-Policy")
		for _, part := range []string{"default-src", "base-uri", "form-action", "frame-ancestors"} {
			if !strings.Contains(got+";", part+" 'none';") {
				t.Errorf("%s: %s is not 'none' in %s", path, part, got)
			}
		}
		if !strings.Contains(got, "script-src 'self'; style-src 'self';") || strings.Contains(got, "unsafe") {
			t.Errorf("%s: %s", path, got)
		}
		if got := res.Header.Get("Cache-Control"); got != "no-cache" {
			t.Errorf("%s: Cache-Control: %s", path, got)
		}
	}
}

func TestABrowserThatHasAFileIsToldSo(t *testing.T) {
	t.Parallel()
	for _, path := range paths(t) {
		for _, encoding := range []string{"identity", "gzip"} {
			res, _ := get(t, path, "Accept-Encoding: "+encoding)
			tag := res.Header.Get("ETag")
			again, body := get(t, path, "Accept-Encoding: "+encoding, "If-None-Match: "+tag)
			if tag == "" || again.StatusCode != http.StatusNotModified || body != "" {
				t.Errorf("%s in %s with %q: %s, %d bytes", path, encoding, tag, again.Status, len(body))
			}
			other, _ := get(t, path, "If-None-Match: \"another\"")
			if other.StatusCode != http.StatusOK {
				t.Errorf("%s with another tag: %s", path, other.Status)
			}
		}
	}
}

func TestTextIsCompressedAndFontsAreNot(t *testing.T) {
	t.Parallel()
	for name, path := range paths(t) {
		res, body := get(t, path, "Accept-Encoding: gzip")
		plain, err := fs.ReadFile(files, "dist/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, ".woff2") {
			if got := res.Header.Get("Content-Encoding"); got != "" {
				t.Errorf("%s is compressed twice: %s", name, got)
			}
			continue
		}
		if got := res.Header.Get("Content-Encoding"); got != "gzip" || res.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("%s: Content-Encoding %q, Vary %q", name, got, res.Header.Get("Vary"))
			continue
		}
		r, err := gzip.NewReader(strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if unpacked, err := io.ReadAll(r); err != nil || string(unpacked) != string(plain) {
			t.Errorf("%s: %d bytes of %d, %v", name, len(unpacked), len(plain), err)
		}
	}
}

func TestThePageHasNothingInlineAndNothingFromElsewhere(t *testing.T) {
	t.Parallel()
	_, page := get(t, "/")
	inline := regexp.MustCompile(`(?is)<script[^>]*>\s*[^<\s]|<style|\sstyle=|\son[a-z]+=|javascript:|data:`)
	if found := inline.FindString(page); found != "" {
		t.Errorf("inline: %q", found)
	}
	served := paths(t)
	references := regexp.MustCompile(`(?:src|href)="([^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(references) < 2 {
		t.Errorf("the page loads %v: a script and a style sheet are wanted", references)
	}
	for _, m := range references {
		if name, ok := strings.CutPrefix(m[1], "/console/"); !ok || served[name] == "" {
			t.Errorf("the page refers to %s, which is not served", m[1])
		}
	}
	for name := range served {
		content, err := fs.ReadFile(files, "dist/"+name)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(name, ".css") {
			continue
		}
		for _, m := range regexp.MustCompile(`url\(["']?([^"')]+)`).FindAllStringSubmatch(string(content), -1) {
			if file, ok := strings.CutPrefix(m[1], "/console/"); !ok || served[file] == "" {
				t.Errorf("%s refers to %s, which is not served", name, m[1])
			}
		}
	}
}

func TestAddressesOfThePageThatSomebodyTypesLeadToIt(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/console/", "/console/index.html"} {
		if res, _ := get(t, path); res.StatusCode != http.StatusFound || res.Header.Get("Location") != "/" {
			t.Errorf("%s: %s to %q", path, res.Status, res.Header.Get("Location"))
		}
	}
	for _, path := range []string{"/console/nothing.js", "/console/../console.go", "/console/dist/console.js"} {
		if res, _ := get(t, path); res.StatusCode == http.StatusOK {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}
