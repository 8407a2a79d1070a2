package main

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"topostream/pgbus/pgtest"
)

// A cable leads to a server. Pulled out, it carries nothing, and tells nobody.
type cable struct {
	server string
	out    sync.RWMutex // locked while it is out
	isOut  bool
	wg     sync.WaitGroup
}

// newCable gives the URL of the cable's near end.
func newCable(t *testing.T, server string) (*cable, string) {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &cable{server: strings.TrimPrefix(server, "http://")}
	var mu sync.Mutex
	var open []net.Conn
	c.wg.Go(func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", c.server)
			if err != nil {
				_ = near.Close() // it gets nothing
				continue
			}
			mu.Lock()
			open = append(open, near, far)
			mu.Unlock()
			c.wg.Go(func() { c.carry(near, far) })
			c.wg.Go(func() { c.carry(far, near) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close() // nobody else closes it
		mu.Lock()
		for _, end := range open {
			_ = end.Close() // a second time does no harm
		}
		mu.Unlock()
		if c.isOut { // the test has failed
			c.plug()
		}
		c.wg.Wait()
	})
	return c, "http://" + l.Addr().String()
}

func (c *cable) carry(from, to net.Conn) {
	defer func() { _, _ = from.Close(), to.Close() }() // both end with either
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		c.out.RLock()
		_, failed := to.Write(buffer[:n])
		c.out.RUnlock()
		if err != nil || failed != nil {
			return
		}
	}
}

func (c *cable) pull() {
	c.out.Lock()
	c.isOut = true
}

func (c *cable) plug() {
	c.isOut = false
	c.out.Unlock()
}

func TestThePackagedClientInARealBrowserEndsEqualToTheJournalThoughTheNetworkIsOffForAMinute(t *testing.T) {
	t.Parallel()
	slow(t)
	db := pgtest.New(t)
	conn := db.Conn(t)
	ids := live(t, conn, 3)
	cable, address := newCable(t, startServer(t, db.URL))
	page := openPage(t, address+"/")
	page.topologyStream(ids, fmt.Sprintf(`() => %q`, testToken(t)))
	began := page.began(ids)
	cable.pull()
	page.online(false)
	minute := time.After(time.Minute)
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for off := true; off; {
		select {
		case <-again.C:
			for _, id := range ids {
				emit(t, conn, id)
			}
		case <-minute:
			off = false
		}
	}
	page.until(`window.stream.getSnapshot().connection.state !== 'open'`) // after three keepalives without a byte
	for _, id := range ids {
		if seq := chromeEval[uint64](t, page.ctx, seqOf(id)); seq != began[id] {
			t.Errorf("the network was off, and the page got from %d to %d", began[id], seq)
		}
	}
	cable.plug()
	page.online(true)
	page.endsEqual(t, conn, began)
	if n := chromeEval[int](t, page.ctx, `window.opens`); n != 2 {
		t.Errorf("%d connections, with a network that was off once", n)
	}
}

// online says to the browser whether it has a network: without, its requests fail at once. What is open stays so.
func (p *page) online(on bool) {
	p.t.Helper()
	conditions := network.EmulateNetworkConditionsByRuleParams{MatchedNetworkConditions: []*network.Conditions{
		{Offline: !on, DownloadThroughput: -1, UploadThroughput: -1},
	}}
	if _, err := chromedp.Run(p.ctx, chromedp.Func(func(ctx chromeContext, target *chromedp.Target) error {
		if _, err := cdp.Call(ctx, target, network.EmulateNetworkConditionsByRule, conditions); err != nil {
			return err
		}
		_, err := cdp.Call(ctx, target, network.OverrideNetworkState,
			network.OverrideNetworkStateParams{Offline: !on, DownloadThroughput: -1, UploadThroughput: -1})
		return err
	})); err != nil {
		p.t.Fatal(err)
	}
}
