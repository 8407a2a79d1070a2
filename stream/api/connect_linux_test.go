package api

import (
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"topostream/stream"
	"topostream/stream/engine"
	"topostream/stream/metrics/metrictest"
)

// What a connect costs from accept(2) to the first event. The client is bare system calls, which cost no memory.
func BenchmarkConnect(b *testing.B) {
	feed, _ := aFeed()
	ended := make(chan struct{})
	defer close(ended)
	bus := &promptBus{aBus: feed, taking: func() {
		go func() {
			for {
				select {
				case <-feed.closed:
				case <-ended:
					return
				}
			}
		}()
	}}
	stats, expires := metrictest.Stats(), time.Now().Add(time.Hour)
	e, err := engine.New(engine.Config{Attach: bus.Attach, Stats: stats})
	if err != nil {
		b.Fatal(err)
	}
	s := New(Config{
		Bus: bus, Stats: stats, Engine: e, Keepalive: time.Hour,
		Auth: func(*http.Request) (stream.Principal, error) {
			return stream.Principal{Subject: "u", Role: stream.RoleViewer, Expires: expires}, nil
		},
	})
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	listener, ok := server.Listener.Addr().(*net.TCPAddr)
	if !ok {
		b.Fatalf("%T", server.Listener.Addr())
	}
	at := unix.SockaddrInet4{Port: listener.Port, Addr: [4]byte{127, 0, 0, 1}}
	request := []byte("GET " + anEvents + " HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n" +
		"Authorization: Bearer x\r\n\r\n")
	answer := make([]byte, 64<<10)
	connect := func() int {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			b.Fatal(err)
		}
		if err := unix.Connect(fd, &at); err != nil {
			b.Fatal(err)
		}
		if _, err := unix.Write(fd, request); err != nil {
			b.Fatal(err)
		}
		if _, err := unix.Read(fd, answer); err != nil {
			b.Fatal(err)
		}
		return fd
	}
	for range runtime.GOMAXPROCS(0) { // so that no shard ends and begins anew
		defer func(fd int) { _ = unix.Close(fd) }(connect())
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := unix.Close(connect()); err != nil {
			b.Fatal(err)
		}
	}
}
