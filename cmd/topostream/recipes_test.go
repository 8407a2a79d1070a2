package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
)

// recipes are what PROTOCOL.md shows to whoever writes a client.
const recipes = "../../testdata/recipes/"

// A recipeServer is a server process that is killed and started again on one address.
type recipeServer struct {
	*process

	t       *testing.T
	binary  string
	address string
	db      *pgtest.DB
}

func startRecipeServer(t *testing.T, db *pgtest.DB) *recipeServer {
	t.Helper()
	s := &recipeServer{t: t, binary: buildProgram(t), address: pgtest.FreeAddress(t), db: db}
	s.start()
	return s
}

func (s *recipeServer) url() string { return "http://" + s.address }

func (s *recipeServer) start() {
	s.t.Helper()
	cmd := exec.Command(s.binary, "serve", "--mutator", "--database-url", s.db.URL, "--addr", s.address)
	cmd.Env = cleanEnv("TOPOSTREAM_JWT_SECRET=" + testSecret)
	s.process = startProcess(s.t, cmd)
	s.err.await(s.t, "msg=serving", s.ended)
}

// TestRecipesResumeWithoutAGapThroughAServerThatIsKilled runs each client as it stands.
func TestRecipesResumeWithoutAGapThroughAServerThatIsKilled(t *testing.T) {
	t.Parallel()
	long(t)
	for name, recipe := range map[string]struct {
		command []string
		needs   string         // a command that succeeds where the recipe can run
		numbers *regexp.Regexp // the seq of the snapshot and of each event in what it prints
	}{
		"curl": {[]string{"sh", recipes + "follow.sh"}, "curl --version", regexp.MustCompile(`(?m)^id: (\d+)$`)},
		"python3-httpx": {
			[]string{"/usr/bin/python3", recipes + "follow.py"}, "/usr/bin/python3 -c 'import httpx'",
			regexp.MustCompile(`(?m)^[a-z._]+ \{.*"seq": (\d+)`),
		},
		"go-sse": {
			[]string{"go", "run", recipes + "go-sse"}, "true", regexp.MustCompile(`(?m)^[a-z._]+ (\d+) \{`),
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, err := exec.CommandContext(t.Context(), "sh", "-c", recipe.needs).CombinedOutput(); err != nil {
				t.Skipf("%s fails on this machine: %s", recipe.needs, oneLine(string(out)))
			}
			db := pgtest.New(t)
			conn := db.Conn(t)
			id := live(t, conn, 1)[0]
			server := startRecipeServer(t, db)
			cmd := exec.Command(recipe.command[0], append(recipe.command[1:], server.url(), id)...)
			cmd.Env = append(os.Environ(), "TOKEN="+testToken(t))
			client := startProcess(t, cmd)
			numbers := func() (seqs []uint64) {
				for _, match := range recipe.numbers.FindAllStringSubmatch(client.out.String(), -1) {
					seq, err := strconv.ParseUint(match[1], 10, 64)
					if err != nil {
						t.Fatal(err)
					}
					seqs = append(seqs, seq)
				}
				return seqs
			}
			has := func(seq uint64) {
				t.Helper()
				pgtest.Eventually(t, fmt.Sprint("seq ", seq), func() bool {
					seqs := numbers()
					return len(seqs) > 0 && seqs[len(seqs)-1] >= seq
				})
			}
			pgtest.Eventually(t, "the snapshot", func() bool { return len(numbers()) > 0 })
			emit(t, conn, id)
			has(emit(t, conn, id))
			<-server.signal(syscall.SIGKILL)
			emit(t, conn, id) // nobody listens
			server.start()
			has(emit(t, conn, id))
			has(emit(t, conn, id))
			seqs := numbers()
			for i := 1; i < len(seqs); i++ {
				if seqs[i] != seqs[i-1]+1 {
					t.Errorf("%d comes after %d: %v", seqs[i], seqs[i-1], seqs)
				}
			}
		})
	}
}

func TestTheRecipeOfEventSourceWithTicketsResumesWithoutAGap(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	id := live(t, conn, 1)[0]
	server := startRecipeServer(t, db)
	page := openPage(t, server.url()+"/")
	source, err := os.ReadFile(recipes + "eventsource.js")
	if err != nil {
		t.Fatal(err)
	}
	script := strings.Replace(string(source), "export function follow", "function follow", 1) + fmt.Sprintf(`
		window.seqs = [];
		window.stop = follow(%q, () => %q, ['snapshot', 'test'], (type, event) => window.seqs.push(event.seq));
		true`, id, testToken(t))
	if _, err := chromedp.Run(page.ctx, chromedp.Evaluate[bool](script)); err != nil {
		t.Fatal(err)
	}
	has := func(seq uint64) { t.Helper(); page.until(fmt.Sprintf(`window.seqs.at(-1) === %d`, seq)) }
	page.until(`window.seqs.length === 1`)
	has(emit(t, conn, id))
	<-server.signal(syscall.SIGKILL)
	emit(t, conn, id)
	server.start()
	has(emit(t, conn, id))
	seqs := chromeEval[[]uint64](t, page.ctx, `window.seqs`)
	for i := 1; i < len(seqs); i++ {
		if seqs[i] != seqs[i-1]+1 {
			t.Errorf("%d comes after %d: %v", seqs[i], seqs[i-1], seqs)
		}
	}
}

// Another try gets the same.
func TestTheRecipeByCurlEndsWhereItIsRefused(t *testing.T) {
	t.Parallel()
	if out, err := exec.CommandContext(t.Context(), "curl", "--version").CombinedOutput(); err != nil {
		t.Skipf("%s: %s", err, out)
	}
	server := startServer(t, pgtest.New(t).URL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "../../testdata/recipes/follow.sh", server,
		"00000000-0000-4000-8000-000000000000")
	cmd.Env = append(os.Environ(), "TOKEN=none")
	if out, err := cmd.CombinedOutput(); err == nil || ctx.Err() != nil || !strings.Contains(string(out), "valid token") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestTheRecipeThatInjectsByPsqlWaitsForTheEvent(t *testing.T) {
	t.Parallel()
	long(t)
	db := pgtest.New(t)
	demo(t, db.Conn(t))
	server := startRecipeServer(t, db)
	script := func(topology string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "sh", "testdata/recipes/wait-for.sh", server.url(), topology)
		cmd.Dir = "../.."
		cmd.Env = append(cleanEnv("TOKEN="+testToken(t), "DATABASE_URL="+db.URL),
			"PATH="+filepath.Dir(server.binary)+":"+os.Getenv("PATH"))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	if out, err := script("demo"); err != nil || !strings.Contains(out, `"type":"decky.service_added"`) {
		t.Errorf("%v: %s", err, out)
	}
	if out, err := script("nowhere"); err == nil {
		t.Errorf("a topology that is none: %s", out)
	}
}

// What PROTOCOL.md shows is what the tests here run.
func TestTheProtocolShowsTheRecipesAsTheyAre(t *testing.T) {
	t.Parallel()
	document, err := os.ReadFile("../../PROTOCOL.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	for _, block := range regexp.MustCompile("(?s)```[a-z]+\n(.*?)\n```").FindAllStringSubmatch(string(document), -1) {
		shown[block[1]] = true
	}
	for _, file := range []string{
		"follow.sh", "follow.py", "go-sse/main.go", "eventsource.js", "wait-for.sh", "compose/test.sh",
	} {
		recipe, err := os.ReadFile(recipes + file)
		if err != nil {
			t.Fatal(err)
		}
		if !shown[strings.TrimRight(string(recipe), "\n")] {
			t.Errorf("PROTOCOL.md does not show %s as it is", file)
		}
	}
	if len(shown) != 6 {
		t.Errorf("PROTOCOL.md shows %d recipes", len(shown))
	}
}
