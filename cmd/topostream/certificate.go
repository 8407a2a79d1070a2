package main

import (
	"crypto/tls"
	"fmt"
	"sync/atomic"
)

// A certificate is what TLS connections that begin now get.
type certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// certificate reads --tls-cert and --tls-key; nil: there is no TLS.
func (c *serveCmd) certificate() (*certificate, error) {
	if c.TLSCert == "" {
		return nil, nil //nolint:nilnil // no TLS is no error
	}
	pair, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
	if err != nil {
		return nil, fmt.Errorf("--tls-cert and --tls-key: %w", err)
	}
	served := &certificate{}
	served.current.Store(&pair)
	return served, nil
}

// set takes the PEM texts of a certificate and its key.
func (c *certificate) set(contents [][]byte) error {
	pair, err := tls.X509KeyPair(contents[0], contents[1])
	if err != nil {
		return err
	}
	c.current.Store(&pair)
	return nil
}

// get is for tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	return c.current.Load(), nil
}
