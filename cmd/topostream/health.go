package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
)

// healthTimeout is how long an answer may take: a container's health check has no more patience.
const healthTimeout = 5 * time.Second

type healthCmd struct {
	URL     string `name:"url" help:"The server. Default: the one that --addr, as serve has it, means on this machine." placeholder:"URL"`
	Addr    string `default:"127.0.0.1:8080" help:"Address that serve serves on."`
	TLSCert string `name:"tls-cert" help:"The certificate that serve has; with --addr alone." placeholder:"FILE"`
	Exclude string `help:"database: also healthy while the database is away, because streams come back by themselves." placeholder:"PART"`
}

// Run asks /readyz. Nothing is printed where all is well.
func (c *healthCmd) Run(ctx context.Context, _ output) error {
	address, transport, err := c.server()
	if err != nil {
		return err
	}
	defer transport.CloseIdleConnections()
	if c.Exclude != "" {
		address += "?exclude=" + url.QueryEscape(c.Exclude)
	}
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return fmt.Errorf("--url: %w", err)
	}
	req.Header.Set("Accept", "text/plain")
	res, err := (&http.Client{Transport: transport}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }() // it is read, or not needed
	if res.StatusCode == http.StatusOK {
		return nil
	}
	said, _ := io.ReadAll(io.LimitReader(res.Body, 1000)) // what there is
	return fmt.Errorf("%s: %s", res.Status, strings.TrimSpace(string(said)))
}

// server is where /readyz is, and how to get there.
func (c *healthCmd) server() (address string, transport *http.Transport, _ error) {
	transport = &http.Transport{Proxy: http.ProxyFromEnvironment}
	if c.URL != "" {
		return strings.TrimSuffix(c.URL, "/") + "/readyz", transport, nil
	}
	transport.Proxy = nil // it is this machine
	if c.TLSCert == "" {
		return "http://" + reachable(c.Addr) + "/readyz", transport, nil
	}
	config, err := trustAlone(c.TLSCert)
	transport.TLSClientConfig = config
	return "https://" + reachable(c.Addr) + "/readyz", transport, err
}

// trustAlone trusts the certificates of a file and no other, whatever name they are for.
func trustAlone(file string) (*tls.Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert: %w", err)
	}
	config := &tls.Config{RootCAs: x509.NewCertPool(), MinVersion: tls.VersionTLS12}
	if !config.RootCAs.AppendCertsFromPEM(text) {
		return nil, errors.New("--tls-cert: there is no certificate in it: give a PEM file")
	}
	// The first is the server's own. Its name is not this machine's address.
	if block, _ := pem.Decode(text); block != nil {
		if own, err := x509.ParseCertificate(block.Bytes); err == nil {
			config.ServerName = nameOf(own)
		}
	}
	return config, nil
}

// nameOf is one that a certificate is for; empty: it is for none.
func nameOf(c *x509.Certificate) string {
	switch {
	case len(c.DNSNames) > 0:
		return strings.Replace(c.DNSNames[0], "*", "x", 1)
	case len(c.IPAddresses) > 0:
		return c.IPAddresses[0].String()
	}
	return ""
}
