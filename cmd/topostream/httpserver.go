package main

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"topostream/stream/api"
)

const (
	// deadAfter is how long a client may leave what it was sent without an acknowledgement (TCP_USER_TIMEOUT, RFC 5482)
	// before its connection is taken for dead. Without it Linux tries again for a quarter of an hour, in which a stream
	// keeps its place.
	deadAfter = 30 * time.Second
	// handlerTime is more than any handler takes, the time of a body included. What is written after it has deadlines of
	// its own.
	handlerTime = 2 * time.Minute
)

// listeners are what the program serves on.
type listeners struct {
	main    net.Listener
	metrics net.Listener // nil: /metrics is with the rest
}

// A listenError says which flag gave the address.
type listenError struct {
	flag string
	err  error
}

func (e *listenError) Error() string { return e.flag + ": " + e.err.Error() }
func (e *listenError) Unwrap() error { return e.err }

// listen opens every address, before anything else is begun.
func (c *serveCmd) listen(ctx context.Context) (l listeners, err error) {
	if l.main, err = c.listenOn(ctx, "--addr", c.Addr); err != nil {
		return listeners{}, err
	}
	if c.MetricsAddr != "" {
		if l.metrics, err = c.listenOn(ctx, "--metrics-addr", c.MetricsAddr); err != nil {
			l.close()
			return listeners{}, err
		}
	}
	return l, nil
}

func (l listeners) close() {
	_ = l.main.Close() // http.Server has closed it already, where it served
	if l.metrics != nil {
		_ = l.metrics.Close() // as above
	}
}

// listenOn opens one address. Connections that it accepts notice a dead client: one that is sent something by
// TCP_USER_TIMEOUT, an idle one by keepalives.
func (c *serveCmd) listenOn(ctx context.Context, flag, addr string) (net.Listener, error) {
	config := noticing(
		net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3},
		// a zero window counts, too: --write-timeout may allow a longer one
		max(cmp.Or(c.deadAfter, deadAfter), c.WriteTimeout),
	)
	l, err := config.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, &listenError{flag, err}
	}
	return l, nil
}

// httpServer has a time limit for everything that a client can be slow with, but for a stream that is open: the frame
// writer has its own.
func (c *serveCmd) httpServer(h http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      handlerTime,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          api.ErrorLog(log),
		// HTTP/2 finds dead connections itself, too. One connection carries at most 250 streams (net/http's own limit).
		HTTP2: &http.HTTP2Config{
			SendPingTimeout:  15 * time.Second,
			PingTimeout:      15 * time.Second,
			WriteByteTimeout: cmp.Or(c.WriteTimeout, deadAfter),
		},
	}
}

// checkOrigins takes exact origins alone, as a browser writes them (RFC 6454, section 6.2): credentials go with them.
func checkOrigins(origins []string) error {
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Scheme+"://"+u.Host != origin ||
			strings.ContainsAny(origin, "*,") || strings.HasSuffix(u.Host, ":") {
			return fmt.Errorf(
				"--allow-origin: %q is no origin: give scheme://host or scheme://host:port, without path or wildcard, for "+
					"example https://console.example.org",
				redactAddress(origin),
			)
		}
		if err := http.NewCrossOriginProtection().AddTrustedOrigin(origin); err != nil {
			return fmt.Errorf("--allow-origin: %w", err)
		}
		if origin != strings.ToLower(origin) || u.Port() == map[string]string{"http": "80", "https": "443"}[u.Scheme] {
			return fmt.Errorf("--allow-origin: browsers never send %q: write it in lower case and without the scheme's own port",
				origin)
		}
	}
	return nil
}

// reachable is the address to type: who serves on all addresses of the machine is not reached at 0.0.0.0 or [::]
// everywhere.
func reachable(addr string) string {
	host, port, err := net.SplitHostPort(addr)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return addr
}
