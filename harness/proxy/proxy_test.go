package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"topostream/harness/proxy"
	"topostream/pgbus/pgtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// echo is a server that says everything back, line by line.
func echo(t *testing.T) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }() // it has ended
				_, _ = io.Copy(conn, conn)          // its end is the client's
			}()
		}
	}()
	return l.Addr().String()
}

// through opens a proxy before an echo, over a path.
func through(t *testing.T) (*proxy.Proxy, *proxy.Link) {
	t.Helper()
	target := proxy.Target{Addr: echo(t), Link: proxy.NewLink()}
	p, err := proxy.Listen(t.Context(), func() []proxy.Target { return []proxy.Target{target} })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, target.Link
}

type line struct {
	net.Conn

	t     *testing.T
	lines *bufio.Reader
}

func dial(t *testing.T, addr string) *line {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return &line{conn, t, bufio.NewReader(conn)}
}

func (s *line) say(line string) {
	s.t.Helper()
	if _, err := io.WriteString(s, line+"\n"); err != nil {
		s.t.Fatal(err)
	}
}

func (s *line) expect(want string) {
	s.t.Helper()
	got, err := s.lines.ReadString('\n')
	if err != nil || got != want+"\n" {
		s.t.Fatalf("got %q, %v, want %q", got, err, want)
	}
}

// silent fails when something comes within a moment.
func (s *line) silent() {
	s.t.Helper()
	_ = s.SetReadDeadline(time.Now().Add(100 * time.Millisecond)) // it is open
	b, err := s.lines.Peek(1)
	if !errors.Is(err, context.DeadlineExceeded) && !strings.Contains(err.Error(), "timeout") {
		s.t.Fatalf("got %q, %v, want nothing", b, err)
	}
	_ = s.SetReadDeadline(time.Time{}) // it is open
}

func TestWhatABlackHoleSwallowedComesWhenThePathIsHealed(t *testing.T) {
	t.Parallel()
	for _, dir := range []proxy.Direction{proxy.Up, proxy.Down} {
		p, link := through(t)
		s := dial(t, p.Addr())
		s.say("before")
		s.expect("before")
		link.Stall(dir)
		s.say("swallowed")
		s.silent()
		link.Heal()
		s.expect("swallowed")
	}
}

func TestABlackHoleTellsNobodyThatTheOtherSideHasGone(t *testing.T) {
	t.Parallel()
	p, link := through(t)
	s := dial(t, p.Addr())
	s.say("before")
	s.expect("before")
	link.Stall(proxy.Up)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if n := link.Open(); n != 1 {
		t.Errorf("%d connections are open, want the half-open one", n)
	}
	link.Heal()
	pgtest.Eventually(t, "the half-open connection's end", func() bool { return link.Open() == 0 })
}

func TestACutIsAResetAndNewConnectionsPass(t *testing.T) {
	t.Parallel()
	p, link := through(t)
	s := dial(t, p.Addr())
	s.say("before")
	s.expect("before")
	if n := link.Cut(); n != 1 {
		t.Errorf("%d connections cut", n)
	}
	if _, err := s.lines.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a cut connection says %v", err)
	}
	again := dial(t, p.Addr())
	again.say("after")
	again.expect("after")
}

func TestADelayHoldsBackAndLosesNothing(t *testing.T) {
	t.Parallel()
	p, link := through(t)
	s := dial(t, p.Addr())
	s.say("before")
	s.expect("before")
	link.Delay(proxy.Down, 50*time.Millisecond)
	begun := time.Now()
	s.say("late")
	s.expect("late")
	if took := time.Since(begun); took < 50*time.Millisecond {
		t.Errorf("it took %s", took)
	}
}

func TestCloseEndsAlsoWhatIsInABlackHole(t *testing.T) {
	t.Parallel()
	p, link := through(t)
	s := dial(t, p.Addr())
	s.say("before")
	s.expect("before")
	link.Stall(proxy.Up)
	link.Stall(proxy.Down)
	p.Close() // hangs unless it does
	if _, err := s.lines.ReadByte(); err == nil {
		t.Error("the connection is still there")
	}
}

// backend is a server behind a balancer that says its name.
func backend(t *testing.T, name string, status int) *proxy.Backend {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/readyz" {
			w.WriteHeader(status)
			return
		}
		_, _ = io.WriteString(w, name) // the client has gone
	}))
	t.Cleanup(s.Close)
	b := proxy.NewBackend()
	b.Moved(s.Listener.Addr().String())
	return b
}

func ask(t *testing.T, addr string) string {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Get("http://" + addr)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func TestABalancerSpreadsConnectionsAndLeavesOutWhoIsNotReadyUnlessNobodyIs(t *testing.T) {
	t.Parallel()
	one, two, unready := backend(t, "one", 200), backend(t, "two", 200), backend(t, "unready", 503)
	b, err := proxy.Balance(t.Context(), one, two, unready)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Close)
	up := func(want int) {
		t.Helper()
		pgtest.Eventually(t, fmt.Sprint(want, " servers up"), func() bool { return b.Up() == want })
	}
	up(2)
	got := map[string]int{}
	for range 30 {
		got[ask(t, b.Addr())]++
	}
	if len(got) != 2 || got["one"] < 5 || got["two"] < 5 {
		t.Errorf("answers: %v", got)
	}
	one.Link.Stall(proxy.Down)
	up(1)
	if a := ask(t, b.Addr()); a != "two" {
		t.Errorf("with one behind a black hole: %s", a)
	}
	one.Link.Heal()
	one.Moved("")
	two.Moved("")
	up(0)
	if a := ask(t, b.Addr()); a != "unready" {
		t.Errorf("with nobody ready: %s", a)
	}
}
