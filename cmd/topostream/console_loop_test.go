package main

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgcluster"
	"topostream/pgbus/pgtest"
	"topostream/stream"
	"topostream/stream/auth"
)

// What the loop may take at most.
const (
	loopLength = 15 * time.Second
	loopSize   = 2 << 20 // bytes
)

// stagePage is what each frame is a picture of: a line that says what happens, a terminal, the console beside it.
const stagePage = `<!doctype html><meta charset="utf-8"><title>loop</title><style>
@font-face { font-family: Mono; src: url(data:font/woff2;base64,%s) }
@font-face { font-family: Sans; src: url(data:font/woff2;base64,%s) }
* { box-sizing: border-box; margin: 0 }
body { display: grid; grid-template: 40px 760px / 440px 760px; background: #0e1214; color: #dbe3e6 }
p { grid-column: 1 / -1; padding: 0 16px; border-bottom: 1px solid #263036; font: 15px/40px Sans; color: #3fc6b5 }
pre { padding: 12px 16px; overflow: hidden; border-right: 1px solid #263036; background: #0a0d0f;
	font: 12px/18px Mono; white-space: pre-wrap; overflow-wrap: anywhere }
pre::after { content: ''; display: inline-block; width: 7px; height: 14px; margin-bottom: -2px; background: #93a3aa }
img { display: block; width: 760px; height: 760px }
</style><body><p></p><pre></pre><img alt="">`

const (
	terminalLines   = 40
	terminalColumns = 56
)

// A loop is a film: a psql session beside the console.
type loop struct {
	t       *testing.T
	console *page
	stage   *page
	psql    *process
	keys    io.Writer
	caption string

	dir    string
	args   []string // of img2webp: each frame with its time
	length time.Duration
	shot   []byte // of the console
}

// look takes in what the console shows; whatever happens, it says that nothing is missing.
func (l *loop) look() {
	l.t.Helper()
	const counter = `(() => { const count = document.querySelector('[data-count]');
		return (count?.dataset.holds ?? 'no counter') + ': ' + count?.textContent; })()`
	said := chromeEval[string](l.t, l.console.ctx, counter)
	if !strings.HasPrefix(said, "true: ") || !strings.HasSuffix(said, ", none missing") {
		l.t.Errorf("while it is said %q, the counter says %q", l.caption, said)
	}
	shot, err := chromedp.Run(l.console.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		l.t.Fatal(err)
	}
	l.shot = shot
}

// frame adds what console and terminal show, for so long.
func (l *loop) frame(lasts time.Duration) {
	l.t.Helper()
	terminal, err := json.Marshal(lastLines(l.psql.out.String()))
	if err != nil {
		l.t.Fatal(err)
	}
	chromeEval[bool](l.t, l.stage.ctx, fmt.Sprintf(`window.drawn = false;
		document.querySelector('p').textContent = %q;
		document.querySelector('pre').textContent = %s;
		document.querySelector('img').src = 'data:image/png;base64,%s';
		document.querySelector('img').decode().then(() => requestAnimationFrame(() => { window.drawn = true; })); true`,
		l.caption, terminal, base64.StdEncoding.EncodeToString(l.shot)))
	l.stage.until(`window.drawn && document.fonts.status === 'loaded'`)
	shot, err := chromedp.Run(l.stage.ctx, chromedp.CaptureScreenshot())
	if err != nil {
		l.t.Fatal(err)
	}
	file := filepath.Join(l.dir, fmt.Sprintf("%03d.png", len(l.args)/3))
	if err := os.WriteFile(file, shot, 0o600); err != nil {
		l.t.Fatal(err)
	}
	l.args = append(l.args, "-d", strconv.FormatInt(lasts.Milliseconds(), 10), file)
	l.length += lasts
}

// says changes the line above, and shows it with what the console shows now.
func (l *loop) says(caption string, lasts time.Duration) {
	l.t.Helper()
	l.caption = caption
	l.look()
	l.frame(lasts)
}

// types writes a statement into psql by and by, and waits until psql has answered.
func (l *loop) types(statement, answer string) {
	l.t.Helper()
	const each = 14
	before := len(l.psql.out.String())
	typed := strings.NewReplacer("\n", "\r\n"+loopContinue)
	for rest := statement; rest != ""; {
		n := min(each, len(rest))
		if line := strings.IndexByte(rest, '\n') + 1; line > 0 { // what follows it comes after psql's next prompt
			n = min(n, line)
		}
		if _, err := io.WriteString(l.keys, rest[:n]); err != nil {
			l.t.Fatal(err)
		}
		rest = rest[n:]
		want := typed.Replace(statement[:len(statement)-len(rest)])
		pgtest.Eventually(l.t, "the echo of what is typed", func() bool {
			return l.psql.out.String()[before:] == want
		})
		l.frame(60 * time.Millisecond)
	}
	before = len(l.psql.out.String())
	if _, err := io.WriteString(l.keys, "\n"); err != nil {
		l.t.Fatal(err)
	}
	pgtest.Eventually(l.t, "psql's answer "+answer, func() bool {
		out := l.psql.out.String()[before:]
		return strings.Contains(out, answer) && strings.HasSuffix(out, loopPrompt)
	})
}

const (
	loopPrompt   = "topostream=# "
	loopContinue = "topostream-# "
)

// lastLines is what fits into the terminal of what was written to it.
func lastLines(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r", ""), "\n")
	rows, from := 0, len(lines)
	for from > 0 {
		rows += max(1, (len([]rune(lines[from-1]))+terminalColumns-1)/terminalColumns)
		if rows > terminalLines {
			break
		}
		from--
	}
	return strings.Join(lines[from:], "\n")
}

// psqlTerminal starts psql on a terminal of its own, by script, as a human does.
func psqlTerminal(t *testing.T, databaseURL string) (*process, io.Writer) {
	t.Helper()
	if _, err := exec.LookPath("script"); err != nil {
		t.Fatal("psql needs a terminal, which script gives: `apt-get install bsdutils`")
	}
	u, err := url.Parse(databaseURL)
	if err != nil {
		t.Fatal(err)
	}
	password, _ := u.User.Password()
	cmd := exec.Command("script", "--quiet", "--flush", "--return", "--command",
		fmt.Sprintf("%s -X -n -P pager=off -v PROMPT1='%s' -v PROMPT2='%s'", pgtest.Bin(t, "psql"), loopPrompt,
			loopContinue), "/dev/null")
	cmd.Env = append(os.Environ(), "PGHOST="+u.Hostname(), "PGPORT="+u.Port(), "PGUSER="+u.User.Username(),
		"PGPASSWORD="+password, "PGDATABASE="+strings.TrimPrefix(u.Path, "/"), "SHELL=/bin/sh")
	keys, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	psql := startProcess(t, cmd)
	t.Cleanup(func() { _ = keys.Close() })
	psql.out.await(t, loopPrompt, psql.ended)
	return psql, keys
}

func fontOf(t *testing.T, name string) string {
	t.Helper()
	font, err := os.ReadFile(filepath.Join("..", "..", "stream", "console", "web", "src", "fonts", name))
	if err != nil {
		t.Fatal(err)
	}
	return base64.StdEncoding.EncodeToString(font)
}

// TestLoop films psql beside the console: events come as statements run; then the server is killed and started, the
// database stopped and started, and the counter says throughout that nothing is missing. It makes loop.webp.
func TestLoop(t *testing.T) {
	t.Parallel()
	dir := picturesDir(t)
	began := time.Now()
	img2webp, err := exec.LookPath("img2webp")
	if err != nil {
		t.Fatal("the loop is made of its frames by img2webp: `apt-get install webp`")
	}
	cluster := pgtest.Cluster(t)
	db := pgtest.NewOn(t, cluster.URL("postgres"))
	id := harbour(t, db)
	address, program := pgtest.FreeAddress(t), buildProgram(t)
	start := func() *process {
		t.Helper()
		cmd := exec.Command(program, "serve", "--database-url", db.URL, "--addr", address, "--keepalive", "1s")
		cmd.Env = cleanEnv("TOPOSTREAM_JWT_SECRET=" + testSecret)
		server := startProcess(t, cmd)
		server.err.await(t, "msg=serving", server.ended)
		return server
	}
	server := start()

	browser := openPage(t, "about:blank")
	viewer := signed(t, auth.Claims{Subject: "anna", Role: stream.RoleViewer, TTL: time.Hour})
	browser.editDo(chromedp.EmulateViewport(760, 760))
	browser.editDo(chromedp.Navigate("http://" + address + "/#token=" + viewer + "&topology=" + id))
	browser.until(isDrawn)
	browser.theme("dark")
	browser.keys("l", "i")
	browser.clicksIfThere(`details[open] summary`)
	browser.until(`!document.querySelector('nav[aria-label=Topologies], aside[aria-label=Inspector], details[open]')`)
	photographer{browser, t, dir}.settled()
	fits(browser)
	first := chromeEval[uint64](t, browser.ctx, `window.topostream.lastSeq`)

	stage := browser.tab("about:blank")
	stage.editDo(chromedp.EmulateViewport(1200, 800))
	page, err := json.Marshal(fmt.Sprintf(stagePage, fontOf(t, "plex-mono-400.woff2"), fontOf(t, "plex-sans-400.woff2")))
	if err != nil {
		t.Fatal(err)
	}
	chromeEval[bool](t, stage.ctx, fmt.Sprintf(`document.open(); document.write(%s); document.close(); true`, page))
	psql, keys := psqlTerminal(t, db.URL)
	l := &loop{t: t, console: browser, stage: stage, psql: psql, keys: keys, dir: t.TempDir()}

	head := first
	arrived := func(n uint64) {
		t.Helper()
		head += n
		browser.until(fmt.Sprintf(`window.topostream.lastSeq === %d &&
			document.querySelector('[role=slider]').ariaValueNow === '%[1]d'`, head))
	}
	const (
		fail   = "UPDATE deckies SET state = 'failed'\n WHERE name = 'web-1';"
		mend   = "UPDATE deckies SET state = 'running'\n WHERE name = 'web-1';"
		probes = "SELECT count(topology_emit(id, 'probe',\n  '{\"port\": 443}')) FROM topologies,\n" +
			"  generate_series(1, %d)\n WHERE name = 'harbour-north';"
	)
	short, long := 120*time.Millisecond, 900*time.Millisecond
	l.says("psql writes; the console follows", long)
	l.types(fail, "UPDATE 1")
	l.frame(short)
	arrived(1)
	for range 3 { // what has changed flashes once
		l.says(l.caption, short)
	}
	photographer{browser, t, dir}.settled()
	l.says(l.caption, long)
	l.types(fmt.Sprintf(probes, 40), "40")
	arrived(40)
	photographer{browser, t, dir}.settled()
	l.says("forty events, one statement: each has its number", long)

	<-server.signal(syscall.SIGKILL)
	browser.until(`/^(reconnecting|connecting)/.test(window.topostream.words)`)
	l.says("kill -9: the server is gone", long)
	l.types(mend, "UPDATE 1")
	l.frame(short)
	l.types(fmt.Sprintf(probes, 20), "20")
	l.says("psql goes on meanwhile: nobody listens", long)
	start()
	browser.until(fmt.Sprintf(`window.topostream.words === 'resumed at %d'`, head)) // it is said for a moment
	arrived(21)
	photographer{browser, t, dir}.settled()
	l.says("the server is started again: the page goes on where it was, nothing is missing", 1600*time.Millisecond)

	if err := cluster.Stop(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	browser.until(`window.topostream.words.startsWith('database away')`)
	l.says("PostgreSQL is stopped", long)
	if err := cluster.Restart(t.Context(), pgcluster.Fast); err != nil {
		t.Fatal(err)
	}
	l.caption = "PostgreSQL is started again: psql and server connect anew"
	l.types(fail, "Succeeded") // and was not run
	l.says(l.caption, long)
	l.types(fmt.Sprintf(probes, 10), "10")
	arrived(10)
	browser.until(`window.topostream.words === 'live' || window.topostream.words.startsWith('resumed')`)
	photographer{browser, t, dir}.settled()
	l.says("no event lost, none twice: the counter has checked each number", 2*time.Second)
	browser.holdsThePromise(int(head - first))

	file := filepath.Join(dir, "readme", "loop.webp")
	args := append([]string{"-loop", "0", "-min_size", "-lossless"}, l.args...)
	if out, err := exec.CommandContext(t.Context(), img2webp, append(args, "-o", file)...).CombinedOutput(); err != nil {
		t.Fatalf("img2webp: %v: %s", err, out)
	}
	webp, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	frames, length := webpLength(t, webp)
	t.Logf("loop.webp: %d frames of %d, %s, %d bytes, after %s", frames, len(l.args)/3, length, len(webp),
		time.Since(began).Round(time.Second))
	if length != l.length || length > loopLength || len(webp) > loopSize {
		t.Errorf("the loop is to be as long as its frames, %s, at most %s and %d bytes", l.length, loopLength, loopSize)
	}
	// The frames are kept for whoever looks at them one by one.
	if err := os.CopyFS(filepath.Join(dir, "frames"), os.DirFS(l.dir)); err != nil {
		t.Fatal(err)
	}
}

// webpLength reads how many frames an animated WebP has, and how long they last together: each is a chunk ANMF, whose
// bytes 12 to 14 are its time in milliseconds (RFC 9649, 2.7.1.1).
func webpLength(t *testing.T, file []byte) (frames int, length time.Duration) {
	t.Helper()
	if len(file) < 12 || string(file[:4]) != "RIFF" || string(file[8:12]) != "WEBP" {
		t.Fatal("this is no WebP")
	}
	for at := 12; at+8 <= len(file); {
		size := int(binary.LittleEndian.Uint32(file[at+4:]))
		if string(file[at:at+4]) == "ANMF" {
			data := file[at+8:]
			frames++
			length += time.Duration(int(data[12])|int(data[13])<<8|int(data[14])<<16) * time.Millisecond
		}
		at += 8 + size + size%2
	}
	return frames, length
}
