package fleet

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/gobwas/ws"
)

// A Spec says how a client follows a topology. In the templates {topology} is its id.
type Spec struct {
	URL    string   // template: http is SSE, ws is WebSocket
	Header []string // templates, "Name: value"
	Send   []string // templates of text messages that a WebSocket client sends first

	// A client is ready with the event of this name, an SSE `event:`, which holds the topology's state; where Snapshot
	// is empty, with the first frame that contains Ready; where that is empty, too, with the answer's head.
	Snapshot string
	Ready    string

	Numbered bool // the server's ids count up by 1 in each topology
	Resume   bool // a client that comes again sends Last-Event-ID, and gets what it missed
}

// A request is what a client sends for one topology.
type request struct {
	head []byte // without the blank line that ends it
	send []byte // what follows a WebSocket's upgrade
}

const webSocketKey = "dG9wb2JlbmNoLCAxNiBieQ==" // any 16 bytes

// IsWebSocket tells what the URL asks for.
func (s Spec) IsWebSocket() bool { return strings.HasPrefix(s.URL, "ws:") }

// request makes a topology's. It goes over plain HTTP/1.1.
func (s Spec) request(topology string) (r request, err error) {
	placeholder := strings.NewReplacer("{topology}", topology)
	u := placeholder.Replace(s.URL)
	if s.IsWebSocket() {
		u = "http" + strings.TrimPrefix(u, "ws")
	}
	req, err := http.NewRequest(http.MethodGet, u, nil) //nolint:noctx // only its text is used
	if err != nil {
		return r, err
	}
	req.Header.Set("User-Agent", "topobench")
	req.Header.Set("Accept", "text/event-stream")
	if s.IsWebSocket() {
		req.Header = http.Header{"User-Agent": {"topobench"}, "Connection": {"Upgrade"}, "Upgrade": {"websocket"},
			"Sec-WebSocket-Version": {"13"}, "Sec-WebSocket-Key": {webSocketKey}}
	}
	for _, h := range s.Header {
		name, value, ok := strings.Cut(placeholder.Replace(h), ":")
		if !ok {
			return r, fmt.Errorf("%q is no header: write Name: value", h)
		}
		req.Header.Set(name, strings.TrimSpace(value))
	}
	var head bytes.Buffer
	if err := req.Write(&head); err != nil {
		return r, err
	}
	r.head = bytes.TrimSuffix(head.Bytes(), []byte("\r\n"))
	for _, text := range s.Send {
		frame, err := clientFrame(ws.OpText, []byte(placeholder.Replace(text)))
		if err != nil {
			return r, err
		}
		r.send = append(r.send, frame...)
	}
	return r, nil
}

// address is the server's. A name is looked up once.
func (s Spec) address() (netip.AddrPort, error) {
	u, err := url.Parse(strings.ReplaceAll(s.URL, "{topology}", "x"))
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch u.Scheme {
	case "http", "ws":
	case "https", "wss":
		return netip.AddrPort{}, errors.New("TLS is not spoken: give the address of the server behind it")
	default:
		return netip.AddrPort{}, fmt.Errorf("%q is no address of a server: it begins with http:// or ws://", s.URL)
	}
	host := u.Host
	if u.Port() == "" {
		host = net.JoinHostPort(u.Hostname(), "80")
	}
	a, err := net.ResolveTCPAddr("tcp", host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := a.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), nil
}

// answerError is an answer that is no stream.
type answerError struct {
	status string
	final  bool // asking again would not help
}

func (e answerError) Error() string { return "the server answered " + e.status }

// maxHead is more than any server's.
const maxHead = 64 << 10

// answerHead reads the head of an answer; its size is 0 where it has not come whole.
func answerHead(b []byte, wantStatus string) (size int, chunked bool, err error) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > maxHead {
			return 0, false, errors.New("the answer's head has no end")
		}
		return 0, false, nil
	}
	status, fields, _ := bytes.Cut(b[:end], []byte("\r\n"))
	_, code, _ := bytes.Cut(status, []byte{' '})
	if !bytes.HasPrefix(code, []byte(wantStatus)) {
		body := strings.TrimSpace(string(b[end:min(len(b), end+300)]))
		return 0, false, answerError{strings.TrimSpace(string(code) + " " + body), bytes.HasPrefix(code, []byte("4"))}
	}
	for len(fields) > 0 {
		var line []byte
		line, fields, _ = bytes.Cut(fields, []byte("\r\n"))
		name, value, _ := bytes.Cut(line, []byte{':'})
		if bytes.EqualFold(name, []byte("transfer-encoding")) {
			chunked = bytes.EqualFold(bytes.TrimSpace(value), []byte("chunked"))
		}
	}
	return end + 4, chunked, nil
}
