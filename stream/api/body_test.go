package api

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"topostream/stream"
)

// send writes a request's bytes, ends its own side of the connection if it shall, and gives the answer.
func send(t *testing.T, server *httptest.Server, request string, end bool) (status int, body string) {
	t.Helper()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }() // the answer is read
	if _, err := io.WriteString(conn, request); err != nil {
		t.Fatal(err)
	}
	if end {
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil { //nolint:forcetypeassert // it was dialed so
			t.Fatal(err)
		}
	}
	if err := conn.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }() // it is read
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestABodyThatDoesNotArriveIsNotWaitedForForEver(t *testing.T) {
	t.Parallel()
	admin := func(*http.Request) (stream.Principal, error) { return stream.Principal{Role: stream.RoleAdmin}, nil }
	server := httptest.NewServer(New(Config{Auth: admin, BodyTimeout: 100 * time.Millisecond}).Handler())
	defer server.Close() // it waits for connections that are in use
	const half = "POST /api/v1/topologies HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n" +
		"Content-Length: 100\r\n\r\n{"
	for want, end := range map[string]bool{
		`408,"detail":"body: did not arrive within 100ms"`: false, `400,"detail":"body: ended too early: send all`: true,
	} {
		status, body := send(t, server, half, end)
		if !strings.Contains(body, want) || !strings.HasPrefix(want, strconv.Itoa(status)) {
			t.Errorf("%d %s, want %s", status, body, want)
		}
	}
}
